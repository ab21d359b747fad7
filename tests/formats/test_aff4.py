"""AFF4 containers: all ways of packing, both forms, missing parts, and hostile files."""

import functools
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats import aff4
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import HIGH_FIRST, PIECES, check, check_without, frames_of, memory
from tests.synth.aff4 import COMPRESSIONS, VOLUME, write_aff4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump.aff4"


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("own_name", [False, True])
@pytest.mark.many
def test_all_ways(path: Path, compression: str, draft: bool, own_name: bool) -> None:
    """The frames are the same in all packings and under all names."""
    write_aff4(path, HIGH_FIRST, compression=compression, draft=draft, own_name=own_name)
    for lenient in (False, True):
        dump = open_dump(path, lenient=lenient)
        assert (dump.format, dump.remarks, dump.path) == ("AFF4", (), path)
        check(dump, frames_of(HIGH_FIRST))


def test_known_by_the_comment(path: Path) -> None:
    """The comment tells AFF4 if another file comes first; another zip is refused as such."""
    write_aff4(path, PIECES)
    again = path.with_name("again")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        new.writestr("x" * 5000, bytes(5000))
        for info in old.infolist():
            new.writestr(info, old.read(info))
        new.comment = old.comment
    check(open_dump(again), frames_of(PIECES))
    with zipfile.ZipFile(again, "a") as new:
        new.comment = b"holiday"
    with pytest.raises(BadInputError, match="is packed with zip"):
        open_dump(again)


def test_symbolic_streams(path: Path) -> None:
    """Zeros are held without being read, other symbols give bytes, unread memory is left out."""
    filled = [(0x200000, bytes(40 * PAGE_SIZE)), (0x300000, b"\xff" * 5 * PAGE_SIZE)]
    filled += [(0x400000, bytes(3 * PAGE_SIZE))]
    not_read = [(0xA0000, bytes(0x10000)), (0xC8000, bytes(0x4800))]
    write_aff4(path, PIECES, filled=filled, not_read=not_read)
    dump = open_dump(path)
    left_out = [*range(0xA0, 0xB0), *range(0xC8, 0xCC)]
    check(dump, frames_of([*PIECES, *filled]), left_out)
    seen = np.concatenate(list(dump.each_block(lambda frames, _: frames)))
    assert not np.isin(seen, range(0x200, 0x228)).any()
    assert np.isin(range(0x300, 0x305), seen).all()


def test_a_stream_without_a_map(path: Path) -> None:
    """A stream without a map is memory from address 0 on."""
    write_aff4(path, [(0, memory(100, 1))])
    again = path.with_name("again")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        for info in old.infolist():
            if info.filename not in ("PhysicalMemory/map", "PhysicalMemory/idx"):
                new.writestr(info, old.read(info))
    check(open_dump(again), frames_of([(0, memory(100, 1))]))


def _without(path: Path, *names: str) -> Path:
    """The container without some of its files."""
    again = path.with_name("again.aff4")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        new.comment = old.comment
        for info in old.infolist():
            if info.filename not in names:
                new.writestr(info, old.read(info))
    return again


def test_missing_parts(path: Path) -> None:
    """A missing segment costs its own frames; without the list of the map no frame is left."""
    contents = np.random.default_rng(1).bytes(64 * PAGE_SIZE)
    write_aff4(path, [(0, contents)])
    cut = _without(path, "PhysicalMemory/data/00000001.index")
    with pytest.raises(DamagedInputError, match="4 chunks are missing"):
        open_dump(cut)
    dump = open_dump(cut, lenient=True)
    check_without(dump, frames_of([(0, contents)]), range(32, 64))
    assert "4 broken chunks" in dump.remarks[0]
    with pytest.raises(BadInputError, match="no list of its map's streams"):
        open_dump(_without(path, "PhysicalMemory/idx"))
    with pytest.raises(BadInputError, match=r"has no information\.turtle"):
        open_dump(_without(path, "information.turtle"))


def test_a_stream_in_another_file(path: Path) -> None:
    """The other file is named; lenient reads the streams that are here."""
    write_aff4(path, PIECES)
    again = path.with_name("again.aff4")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "PhysicalMemory/map":
                data = data[: 28 * 4] + data[28 * 4 : 28 * 5 - 4] + b"\1\0\0\0"
            if info.filename == "PhysicalMemory/idx":
                data += b"aff4://elsewhere\n"
            new.writestr(info, data)
    with pytest.raises(DamagedInputError, match="lacks a stream of its map, 'aff4://elsewhere'"):
        open_dump(again)
    check(open_dump(again, lenient=True), frames_of(PIECES[:4]))


def _with_map(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """The container with another map."""
    again = path.with_name("again.aff4")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info, change(data) if info.filename == "PhysicalMemory/map" else data)
    return again


def test_an_entry_of_a_stream_that_is_not_listed(path: Path) -> None:
    """Such an entry is an error, and lenient leaves out its frames."""
    write_aff4(path, PIECES)
    again = _with_map(path, lambda data: data[: 28 * 5 - 4] + b"\7\0\0\0")
    with pytest.raises(DamagedInputError, match="lacks a stream of its map, 'number 7'"):
        open_dump(again)
    check(open_dump(again, lenient=True), frames_of(PIECES[:4]))


def test_an_entry_that_leads_behind_its_stream(path: Path) -> None:
    """Such an entry is cut at the end of its stream, as the next stream, or no data, follows."""
    pieces = [(0, memory(8, 1)), (1 << 20, memory(8, 2))]
    write_aff4(path, pieces, filled=[(1 << 21, b"\xff" * PAGE_SIZE)])
    again = _with_map(
        path, lambda data: data[:36] + (16 * PAGE_SIZE).to_bytes(8, "little") + data[44:]
    )
    with pytest.raises(DamagedInputError, match="leads behind the end of a stream"):
        open_dump(again)
    dump = open_dump(again, lenient=True)
    check(dump, frames_of([*pieces, (1 << 21, b"\xff" * PAGE_SIZE)]))
    assert "behind the end of a stream in 1 entry; these were cut" in dump.remarks[0]


def test_a_map_with_a_part_of_an_entry(path: Path) -> None:
    write_aff4(path, PIECES)
    dump = open_dump(_with_map(path, lambda data: data + bytes(5)))
    check(dump, frames_of(PIECES))
    assert "5 bytes behind its last whole entry" in dump.remarks[0]


def test_pages_not_read_behind_the_last(path: Path) -> None:
    """Unread pages are left out, but only below the highest address of such a machine."""
    not_read = [(1 << 24, bytes(PAGE_SIZE)), (1 << 48, bytes(2 * PAGE_SIZE))]
    write_aff4(path, PIECES, not_read=not_read)
    dump = open_dump(path)
    check(dump, frames_of(PIECES), [1 << 12])
    assert "leaves out 2 pages too high" in dump.remarks[0]


@pytest.mark.parametrize("compression", ["zlib", "deflate", "snappy", "lz4"])
def test_a_broken_chunk(path: Path, compression: str) -> None:
    """Lenient leaves out the chunk, and keeps all others."""
    contents = b"".join(memory(8, number) for number in range(8))
    write_aff4(path, [(0, contents)], compression=compression)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("PhysicalMemory/data/00000000").header_offset
    at += 30 + len("PhysicalMemory/data/00000000")
    data[at : at + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"cannot be unpacked|bytes are in a chunk"):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    check_without(dump, frames_of([(0, contents)]), range(8))


def test_cut_off(path: Path) -> None:
    """Without its end, a zip has no directory."""
    write_aff4(path, PIECES)
    whole = path.read_bytes()
    for cut in (len(whole) - 100, len(whole) // 2, 300):
        path.write_bytes(whole[:cut])
        for lenient in (False, True):
            with pytest.raises(BadInputError, match="AFF4"):
                open_dump(path, lenient=lenient)


def test_a_directory_moved(path: Path) -> None:
    """With a wrong place of the directory, all members would begin before the file."""
    write_aff4(path, PIECES)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\5\6") + 16
    place = int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4] = (place + 100_000).to_bytes(4, "little")
    path.write_bytes(data)
    for lenient in (False, True):
        with pytest.raises(BadInputError, match=r"is not where the AFF4 container says|broken"):
            open_dump(path, lenient=lenient)


def test_wrong_bytes(path: Path) -> None:
    """Wrong bytes end in a dump or a sentence."""
    write_aff4(path, PIECES)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    ends = [len(whole) - 2000, whole.find(b"information.turtle"), 0]
    for attempt in range(200):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at = (ends[attempt % 3] + int(rng.integers(2000))) % len(data)
            data[at] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        for lenient in (False, True):
            try:
                open_dump(path, lenient=lenient).zero_frames()
            except BadInputError as error:
                assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        (b'"4"^^xsd:int', b'"1"^^xsd:int'),
        (b'aff4:size "', b'aff4:size "99999'),
        (b'"32768"^^xsd:int', b'"1"^^xsd:int'),
        (b'"32768"^^xsd:int', b'"99999999999"^^xsd:int'),
        (b"snappy", b"wrappy"),
        (b"Schema#memory/", b"x" * 1_900_000),
        (b"# made by", b'"' + b'\\"' * 900_000),
        (b"# made by", b"<" * 1_900_000),
        (b"# made by", b"(a;" * 600_000),
    ],
)
def test_hostile_texts(path: Path, change: tuple[bytes, bytes]) -> None:
    """Huge numbers, and texts made to take long, are bounded."""
    write_aff4(path, PIECES)
    again = path.with_name("again.aff4")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            data = old.read(info)
            stored = zipfile.ZIP_STORED if "0000" in info.filename else zipfile.ZIP_DEFLATED
            new.writestr(info.filename, data.replace(*change), stored)
    started = time.process_time()
    for lenient in (False, True):
        try:
            open_dump(again, lenient=lenient).zero_frames()
        except BadInputError as error:
            assert len(str(error)) < 1000
    assert time.process_time() - started < 20


def test_turtle() -> None:
    """Turtle as AFF4's writers write it, and other forms that the language allows."""
    facts = aff4._facts(
        "@prefix a: <http://a#> .\n@base <aff4://v> .\n# comment .\n"
        'a:b a a:T, a:U; a:p "x. \\"y\\";", """z\n""" ; a:n 5.\n</s>a:q<t>,"7"^^a:long.'
    )
    assert facts == {
        "http://a#b": {
            "type": ["http://a#T", "http://a#U"],
            "p": ['x. \\"y\\";', "z\n"],
            "n": ["5"],
        },
        "aff4://v/s": {"q": ["aff4://v/t", "7"]},
    }


def test_no_memory(path: Path) -> None:
    """Containers of files or programs have no memory."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("container.description", VOLUME)
        archive.writestr("information.turtle", f"<{VOLUME}/a.exe> <x#original_filename> 'a' .")
        archive.writestr("a.exe", b"MZ")
    with pytest.raises(BadInputError, match=r"holds no image of memory, but container\.desc"):
        open_dump(path)


def test_a_small_map_of_much(path: Path) -> None:
    """A small map of endless zeros does not make large tables."""
    write = functools.partial(write_aff4, path, PIECES)
    filled = [(1 << 40, bytes(PAGE_SIZE))]
    write(filled=filled)
    again = path.with_name("again.aff4")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("/map"):
                data = data[:-20] + (1 << 43).to_bytes(8, "little") + data[-12:]
            new.writestr(info.filename, data)
    with pytest.raises(BadInputError, match="repeats one byte"):
        open_dump(again)
