"""Crash dumps of Windows: headers, runs, bitmaps, and what Windows leaves out."""

import struct
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump
from tests.formats.checks import LOW, PIECES, check, frames_of, memory
from tests.synth import containers


@pytest.mark.parametrize("bits", [32, 64])
def test_crash_dump_tells_of_its_machine(path: Path, bits: int) -> None:
    """The fields of the header become notes."""
    containers.write_crash(path, PIECES, bits=bits)
    notes = open_dump(path).notes
    assert notes["MinorVersion"] == 19041
    assert notes["DirectoryTableBase"] == 0x1AA000
    assert notes["PsActiveProcessHead"] == 0x30
    assert notes["MachineImageType"] == 0x8664


def test_runs_of_a_crash_dump_share_no_bytes(path: Path) -> None:
    """Segments with the same bytes at many addresses do not make a small file a large dump."""
    contents = memory(4, 1)
    containers.write_elf(path, [(0, contents)])
    data = bytearray(path.read_bytes())
    segment = bytes(data[64 + 128 + 56 :][:56])
    again = bytearray(segment)
    struct.pack_into("<Q", again, 24, 1 << 30)
    data[64 + 128 + 56 : 64 + 128 + 112] = segment + again
    struct.pack_into("<H", data, 56, 3)
    path.write_bytes(data)
    with pytest.raises(BadInputError, match="more memory than the file has bytes"):
        open_dump(path)


@pytest.mark.parametrize(
    ("dump_type", "what"), [(2, "a kernel dump"), (4, "a minidump"), (77, "77")]
)
def test_crash_dumps_without_pages(path: Path, dump_type: int, what: str) -> None:
    """Each other kind of crash dump is refused by name."""
    containers.write_crash(path, PIECES)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 0xF98, dump_type)
    path.write_bytes(data)
    with pytest.raises(BadInputError, match=what):
        open_dump(path)


def test_fields_of_a_crash_dump_that_windows_never_wrote(path: Path) -> None:
    """Such fields are full of PAGE, which is not an address."""
    containers.write_crash(path, PIECES, kind="live bitmap", machine=0xAA64)
    data = bytearray(path.read_bytes())
    data[0x18:0x20] = data[0x80:0x88] = b"PAGEPAGE"
    path.write_bytes(data)
    notes = open_dump(path).notes
    assert notes["MachineImageType"] == 0xAA64 and notes["DirectoryTableBase"] == 0x1AA000
    assert notes.keys().isdisjoint({"PfnDataBase", "KdDebuggerDataBlock", "SystemTime"})


@pytest.mark.parametrize("bits", [32, 64])
def test_what_a_crash_dump_leaves_out(path: Path, bits: int) -> None:
    """Windows' header lists all memory, so missing pages are left out, not absent."""
    gaps = [(0x14000, bytes(0xC000)), (0x101000, bytes(0x9000))]
    containers.write_crash(path, LOW, kind="bitmap", bits=bits, left_out=gaps)
    dump = open_dump(path)
    assert dump.left_out_runs.tolist() == [[0x14, 0xC], [0x101, 9]]
    assert np.array_equal(np.flatnonzero(dump.held), sorted(frames_of(LOW)))
    containers.write_crash(path, LOW, kind="bitmap", bits=bits)
    assert not len(open_dump(path).left_out_runs)


CRASH_RUNS = [(0x1000 * 40 * number, memory(3 + number, number)) for number in range(5)]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("number", "run", "lost"),
    [
        (2, (1 << 20, 1 << 31), [2]),  # too many pages
        (2, (1 << 31, 5), [2]),  # no such place
        (0, (0x45474150, 0x45474150), [0]),
        (4, (0x45474150, 0x45474150), [4]),
        (1, (40, 81), [1]),  # overlaps the next run
    ],
)
def test_a_run_of_garbage_in_a_crash_dump(
    path: Path, bits: int, number: int, run: tuple[int, int], lost: list[int]
) -> None:
    """The run is left out; the runs behind it are found from the end of the file."""
    containers.write_crash(path, CRASH_RUNS, bits=bits)
    data = bytearray(path.read_bytes())
    at, word = (0x98, "<QQ") if bits == 64 else (0x6C, "<II")
    struct.pack_into(word, data, at + struct.calcsize(word) * number, *run)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"some of them are invalid|far too high"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert len(dump.remarks) == 1
    assert "4 were used" in dump.remarks[0] or "left out" in dump.remarks[0]
    check(dump, frames_of([piece for n, piece in enumerate(CRASH_RUNS) if n not in lost]))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_crash_dump_with_more_runs_than_its_header_has_room_for(path: Path, bits: int) -> None:
    """The listed runs suffice if garbage follows them at once."""
    containers.write_crash(path, CRASH_RUNS, bits=bits)
    data = bytearray(path.read_bytes())
    at = 0x88 if bits == 64 else 0x64
    data[at : at + 4] = b"PAGE"
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="1,162,297,680 runs of pages, but its header has"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert len(dump.remarks) == 1
    check(dump, frames_of(CRASH_RUNS))
    data[at + 4 : 0x320] = b"PAGE" * ((0x320 - at - 4) // 4)
    path.write_bytes(data)
    for lenient in (False, True):
        with pytest.raises(BadInputError, match="nothing else in it gives") as caught:
            open_dump(path, lenient=lenient)
        assert not isinstance(caught.value, DamagedInputError)  # so --lenient is not offered


def test_a_bitmap_larger_than_its_room(path: Path) -> None:
    """The bitmap is read as far as it has room."""
    containers.write_crash(path, CRASH_RUNS, kind="bitmap")
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 0x2030, 1 << 40)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="there is no room"):
        open_dump(path)
    check(open_dump(path, lenient=True), frames_of(CRASH_RUNS))
