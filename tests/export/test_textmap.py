"""The text page map, against a parser that reads it line by line with regular expressions."""

import io
import re
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.export import textmap
from memory_visualizer.export.textmap import Fault, MappedFrames, parse_lines, read_mapped_frames
from tests.conftest import random_cases

PAGE = 4096
MIB = 1 << 20
NUMBER = re.compile(rb"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}")

MAP = b"""\
(Virtual)   (Physical)    (Size)    (Kernel)
----------------------------------------------
0x80400000  0x400000      0x1000    True
0x10000     0x5000        0x2000    False
"""


@dataclass
class Row:
    """One line of a map."""

    line: int
    virtual: int
    physical: int
    size: int
    kernel: bool


def naive_parse(text: bytes) -> tuple[list[Row], list[int]]:
    """Rows and the numbers of broken lines, as the specification words them."""
    rows, broken = [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        fields = [field for field in re.split(rb"[ \t\r]+", line) if field]
        if not fields or fields[0].startswith((b"(Virtual)", b"--")):
            continue
        row = naive_row(number, fields)
        if row:
            rows.append(row)
        else:
            broken.append(number)
    return rows, broken


def naive_row(line: int, fields: list[bytes]) -> Row | None:
    """The row that a line's fields give, or None."""
    if len(fields) < 4 or not all(NUMBER.fullmatch(field) for field in fields[:3]):
        return None
    numbers = [int(field, 16 if field[:2] in (b"0x", b"0X") else 10) for field in fields[:3]]
    virtual, physical, size = numbers
    if max(numbers) >= 2**64 or physical % PAGE or size % PAGE or size == 0:
        return None
    if fields[3] not in (b"True", b"False"):
        return None
    return Row(line, virtual, physical, size, fields[3] == b"True")


def parse(text: bytes, first_line: int = 1) -> tuple[list[Row], Fault | None]:
    """The result of the code under test, in the test's words."""
    rows, fault = parse_lines(text, first_line)
    columns = (rows.line, rows.virtual, rows.physical, rows.size, rows.kernel)
    return [Row(*row) for row in zip(*(column.tolist() for column in columns), strict=True)], fault


def check_against_naive(text: bytes) -> None:
    """Both parsers find the same rows and the same broken lines."""
    rows, fault = parse(text)
    expected_rows, broken = naive_parse(text)
    assert rows == expected_rows
    assert (fault.line, fault.count) == (broken[0], len(broken)) if fault else not broken


def test_the_plugins_map() -> None:
    """The map in the documentation is read."""
    rows = [Row(3, 0x80400000, 0x400000, 0x1000, True), Row(4, 0x10000, 0x5000, 0x2000, False)]
    assert parse(MAP) == (rows, None)


@pytest.mark.parametrize(
    "text",
    [
        MAP.split(b"\n", 2)[2],
        MAP.replace(b"\n", b"\r\n"),
        MAP.rstrip(b"\n"),
        b"\n \n\t\r\n" + MAP + b"\n\n",
        MAP + MAP,
        re.sub(rb" +", b"\t", MAP),
        re.sub(rb"(?<=True|alse)\n", b"  4 svchost.exe \xff\0\x1b name\n", MAP),
        re.sub(rb"0x[0-9a-f]+", lambda match: b"%d" % int(match[0], 16), MAP),
        re.sub(rb"0x[0-9a-f]+", lambda match: match[0].upper(), MAP),
        b"  " + re.sub(rb"0x", b"0x00000000", MAP),
    ],
    ids=[
        "no header",
        "CRLF",
        "no last newline",
        "blank lines",
        "two maps joined",
        "tabs",
        "more columns",
        "decimal",
        "capitals",
        "leading zeros",
    ],
)
def test_ways_to_write_the_same_map(text: bytes) -> None:
    """Spellings that the format allows give the same rows."""
    rows, fault = parse(text)
    assert fault is None
    assert [(row.virtual, row.physical, row.size, row.kernel) for row in rows[:2]] == [
        (0x80400000, 0x400000, 0x1000, True),
        (0x10000, 0x5000, 0x2000, False),
    ]


@pytest.mark.parametrize("number", ["0x0", "18446744073709551615", "0xffffffffffffffff", "9" * 19])
def test_numbers_up_to_64_bits(number: str) -> None:
    """All numbers of 64 bits are read right."""
    rows, fault = parse(f"{number} 0 4096 True".encode())
    assert fault is None
    assert rows[0].virtual == int(number, 0)


@pytest.mark.parametrize(
    "number",
    [
        *("18446744073709551616", "18446744073709551620", "9" * 20, "0x10000000000000000"),
        *("0x", "x1", "1x", "0xg", "12a", "-1", "+1", "1_000", "1.0", "0x1L", "1" * 21, "1" * 500),
    ],
)
def test_what_is_not_a_number_of_64_bits(number: str) -> None:
    """A larger number, or any other text, is a broken line and never another number."""
    rows, fault = parse(f"{number} 0 4096 True".encode())
    assert rows == []
    assert fault == Fault(1, "the virtual address is not a number below 2**64", 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0 4096", "there are fewer than four columns"),
        ("junk", "there are fewer than four columns"),
        ("zz 0 4096 True", "the virtual address is not a number below 2**64"),
        ("0 zz 4096 True", "the physical address is not a number below 2**64"),
        ("0 0 zz True", "the size is not a number below 2**64"),
        ("0 1 4096 True", "the physical address is not a multiple of 4096"),
        ("0 0 0 True", "the size is not a positive multiple of 4096"),
        ("0 0 0x1001 True", "the size is not a positive multiple of 4096"),
        ("0 0 4096 true", "the fourth column is neither True nor False"),
        ("0 0 4096 Truest", "the fourth column is neither True nor False"),
        ("0 0 4096 Tru", "the fourth column is neither True nor False"),
        ("- 0 4096 True", "the virtual address is not a number below 2**64"),
    ],
)
def test_sentence_for_each_kind_of_broken_line(line: str, reason: str) -> None:
    """The error names the map, the line and the fault; lenient readers get a Fault."""
    text = MAP + line.encode() + b"\n" + MAP + b"junk\n"
    with pytest.raises(DamagedInputError) as caught:
        read(text, 0x1000)
    assert str(caught.value) == f"test.map, line 5: {reason}"
    mapped = read(text, 0x1000, lenient=True)
    assert mapped.broken == Fault(5, reason, 2)
    assert mapped.row_count == 4


TOKENS = st.one_of(
    st.sampled_from(["True", "False", "(Virtual)", "--", "-", "0x", "x", "4096", "0x1000", "0"]),
    st.integers(0, 2**64 + 9).map(str),
    st.integers(0, 2**64 + 9).map(hex),
    st.integers(0, 2**52).map(lambda frame: hex(frame * PAGE)),
    st.integers(2**64 - 20, 2**64 + 20).map(str),
    st.text("0123456789abcdefxX", max_size=22),
)
LINES = st.one_of(
    st.lists(TOKENS, max_size=6).map(" ".join),
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**52 - 1),
        st.sampled_from([PAGE, 2 * MIB, 4 * MIB, 1 << 30]),
        st.booleans(),
        st.sampled_from(["{:#x} {:#x} {:#x} {}", "{}\t{}  {} {}", " {:#X} {} {:#x} {} more \r"]),
    ).map(lambda row: row[4].format(row[0], row[1] * PAGE, row[2], row[3])),
)


@settings(max_examples=random_cases(500))
@given(st.lists(LINES, max_size=12).map(lambda lines: "\n".join(lines).encode()))
@example(b"\n0 0 4096\n0 0 4096 True")
@example(b"0 0 4096 True" + b"\r\n")
def test_lines_against_the_naive_parser(text: bytes) -> None:
    """Lines that are rows, or nearly rows, are read as the plain parser reads them."""
    check_against_naive(text)


@settings(max_examples=random_cases(300))
@given(st.lists(st.sampled_from(b"0123459afxXTrueFals(V)-- \t\r\n\0\xff"), max_size=80).map(bytes))
def test_any_bytes_against_the_naive_parser(text: bytes) -> None:
    """Any bytes are read as the plain parser reads them."""
    check_against_naive(text)


def read(text: bytes, frame_count: int, *, lenient: bool = False) -> MappedFrames:
    """Read a text with a name and without progress."""
    return read_mapped_frames(io.BytesIO(text), "test.map", frame_count, lenient=lenient)


FRAME_COUNT = 600
ROWS = st.tuples(
    st.integers(0, FRAME_COUNT + 50),
    st.sampled_from([1, 1, 1, 2, 512, 1 << 18]),
    st.booleans(),
)


@given(st.lists(ROWS, max_size=20), st.integers(64, 300))
def test_frames_of_any_rows(rows: list[tuple[int, int, bool]], block_bytes: int) -> None:
    """Overlapping rows, large pages and rows beyond the dump, in blocks of any size."""
    user, kernel, beyond = [False] * FRAME_COUNT, [False] * FRAME_COUNT, []
    for line, (first, count, is_kernel) in enumerate(rows, start=1):
        for pfn in range(first, min(first + count, FRAME_COUNT)):
            (kernel if is_kernel else user)[pfn] = True
        if first + count > FRAME_COUNT:
            beyond.append(line)
    text = "".join(f"0 {first * PAGE} {count * PAGE:#x} {k}\n" for first, count, k in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textmap, "_BLOCK_BYTES", block_bytes)
        mapped = read(text.encode(), FRAME_COUNT, lenient=True)
    assert mapped.user.tolist() == user
    assert mapped.kernel.tolist() == kernel
    assert mapped.row_count == len(rows)
    if mapped.beyond:
        assert (mapped.beyond.line, mapped.beyond.count) == (beyond[0], len(beyond))
    else:
        assert not beyond


def test_line_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A very long line takes no more memory, and line numbers behind it are right."""
    monkeypatch.setattr(textmap, "_BLOCK_BYTES", 64)
    text = b"0 0 4096 True " + b"x" * 1000 + b"\n0 4096 4096 False\nbroken"
    mapped = read(text, 2, lenient=True)
    assert mapped.kernel.tolist() == [True, False]
    assert mapped.user.tolist() == [False, True]
    assert mapped.broken == Fault(3, "there are fewer than four columns", 1)


@pytest.mark.parametrize(
    ("row", "last_byte"),
    [
        ("0 0x2000 0x1000 True", "0x2fff"),
        ("0 0 0x200000 False", "0x1fffff"),
        ("0 0xfffffffffffff000 0xfffffffffffff000 True", "0x1ffffffffffffdfff"),
    ],
)
def test_sentence_for_a_frame_beyond_the_dump(row: str, last_byte: str) -> None:
    """The error names the line; a lenient reader gets the part within the dump."""
    text = f"0 0 4096 True\n\n{row}\n".encode()
    with pytest.raises(DamagedInputError) as caught:
        read(text, 2)
    reason = f"the mapping reaches to {last_byte}, beyond the dump's 2 pages"
    assert str(caught.value) == f"test.map, line 3: {reason}"
    mapped = read(text, 2, lenient=True)
    assert mapped.beyond == Fault(3, reason, 1)
    assert mapped.broken is None
    assert mapped.kernel[0]


def test_the_earlier_fault_is_told() -> None:
    """The first fault in the file is told: a broken line, or a frame beyond the dump."""
    beyond, broken = b"0 0x5000 4096 True\n", b"broken\n"
    with pytest.raises(DamagedInputError, match="line 1: the mapping"):
        read(beyond + broken, 1)
    with pytest.raises(DamagedInputError, match="line 1: there are"):
        read(broken + beyond, 1)


def test_empty_map() -> None:
    """A map may have no rows; the caller learns the number of rows."""
    assert read(b"", 3).row_count == 0
    assert read(MAP.split(b"0x8")[0], 3).row_count == 0


def test_unreadable_map() -> None:
    """An error of the operating system becomes a sentence."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(BadInputError, match=r"^cannot read test\.map: Input/output error$"):
        read_mapped_frames(Failing(), "test.map", 1)


def test_progress_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress ends at the number of bytes, and passes the total on."""
    monkeypatch.setattr(textmap, "_BLOCK_BYTES", 100)
    calls: list[tuple[int, int | None]] = []
    read_mapped_frames(
        io.BytesIO(MAP),
        "test.map",
        0x1000,
        progress=lambda done, total: calls.append((done, total)),
        total_bytes=777,
    )
    assert len(calls) > 1
    assert calls[-1] == (len(MAP), 777)
