"""What is converted: the same memory and page map in every format, as others read it too."""

import shutil
import struct
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.errors import BadInputError
from memory_visualizer.export import convert
from memory_visualizer.export.convert import FORMATS, Checksums, convert_dump, layout_of
from memory_visualizer.formats.base import Words
from memory_visualizer.formats.mapped import Extents
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.paging import Mappings
from memory_visualizer.snapshot.build import of_mappings
from memory_visualizer.snapshot.pagemap import PageClass
from tests.cli.test_memviz import run
from tests.formats.test_formats import (
    GIB,
    PIECES,
    WRITERS,
    Writer,
    _volatility_layer,
    check,
    frames_of,
)
from tests.synth import MIB, containers, forge, profiles
from tests.synth.containers import Pieces
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE

ENDINGS = [*FORMATS]
by_ending = pytest.mark.parametrize("ending", ENDINGS)


def converted(path: Path, ending: str) -> tuple[Snapshot, Path]:
    """What a dump was, and where it is now."""
    snapshot, target = memory_visualizer.open(path), path.with_name(f"out{ending}")
    convert_dump(snapshot, target, layout_of(snapshot, target))
    return snapshot, target


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return [path.name for path in folder.iterdir()]


def as_raw(frames: dict[int, bytes]) -> dict[int, bytes]:
    """The same with zeros in holes."""
    return {pfn: frames.get(pfn, bytes(PAGE_SIZE)) for pfn in range(max(frames) + 1)}


@pytest.mark.many
@pytest.mark.parametrize("name", WRITERS)
def test_the_memory_of_every_format(tmp_path: Path, name: str) -> None:
    """Nothing is lost or made up, and the source stays as it was."""
    _, pieces, write = WRITERS[name]
    path = tmp_path / "dump.vmem"
    write(path, pieces)
    before = path.read_bytes()
    for ending in (".lime", ".elf"):
        check(open_dump(unrecognised(path, ending)), frames_of(pieces))
    assert path.read_bytes() == before
    low = [piece for piece in pieces if piece[0] < GIB]  # no pass over gigabytes of holes
    if low != list(pieces):
        write(path, low)
    dump, frames = open_dump(unrecognised(path, ".raw")), as_raw(frames_of(low))
    assert dump.size == dump.path.stat().st_size == len(frames) * PAGE_SIZE
    assert dump.read_frames(np.arange(len(frames))).tobytes() == b"".join(
        frames[pfn] for pfn in range(len(frames))
    )


def unrecognised(path: Path, ending: str) -> Path:
    """Convert a dump as one of an unknown system, and return where it is now."""
    dump, target = open_dump(path), path.with_name(f"out{ending}")
    snapshot = of_mappings(dump, dump.zero_frames(), Mappings.join([]))
    convert_dump(snapshot, target, layout_of(snapshot, target))
    return target


def _crash(path: Path, pieces: Pieces) -> None:
    containers.write_crash(path, pieces, kind="bitmap")


def _kdump(path: Path, pieces: Pieces) -> None:
    containers.write_kdump(path, pieces)


SOURCES: dict[str, tuple[str, Writer]] = {
    "raw": ("windows", containers.write_raw),
    "lime": ("windows", containers.write_lime),
    "crash": ("windows", _crash),
    "avml": ("linux", containers.write_avml),
    "elf": ("linux", containers.write_elf),
    "kdump": ("linux", _kdump),
}


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pieces]:
    """A Windows and a Linux, with holes where nobody has pages."""
    folder = tmp_path_factory.mktemp("systems")
    forge(folder / "windows", profiles()["Win7SP1x64"], size=16 * MIB, processes=3)
    forge_linux(folder / "linux", size=32 * MIB, processes=3)
    found: dict[str, Pieces] = {}
    for path in folder.iterdir():
        snapshot, contents = memory_visualizer.open(path), path.read_bytes()
        unused = np.flatnonzero(snapshot.classes == PageClass.UNUSED_ZERO)
        apart = np.split(unused, np.flatnonzero(np.diff(unused) != 1) + 1)
        hole = max(apart, key=len)
        edge, end = int(hole[0] + 3) * PAGE_SIZE, int(hole[-1] - 3) * PAGE_SIZE
        found[path.name] = [(0, contents[:edge]), (end, contents[end:])]
    return found


@pytest.mark.many
@pytest.mark.parametrize("source", SOURCES)
def test_the_page_map_stays(systems: dict[str, Pieces], tmp_path: Path, source: str) -> None:
    """In every format to which the dump is converted."""
    system, write = SOURCES[source]
    path = tmp_path / "dump"
    write(path, systems[system])
    before = memory_visualizer.open(path)
    assert before.system and before.processes
    for ending in ENDINGS:
        target = tmp_path / f"out{ending}"
        convert_dump(before, target, layout_of(before, target))
        assert_same_map(memory_visualizer.open(target), before, ending)


def assert_same_map(after: Snapshot, before: Snapshot, ending: str) -> None:
    assert after.system == before.system
    assert after.processes == before.processes
    assert np.array_equal(after.mapping_count, before.mapping_count)
    held = before.dump.held
    assert np.array_equal(after.classes[held], before.classes[held])
    others = PageClass.UNUSED_ZERO if ending == ".raw" else PageClass.ABSENT
    assert (after.classes[~held] == others).all()
    assert np.array_equal(after.owners.frame, before.owners.frame)
    assert np.array_equal(after.owners.virtual, before.owners.virtual)


def test_memory_out_of_place_is_put_in_place(tmp_path: Path) -> None:
    """A raw file with a header of its own, as a LiME file without it."""
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 * MIB, processes=3)
    contents = (tmp_path / "dump").read_bytes()
    (tmp_path / "dump").write_bytes(b"header".ljust(64) + contents)
    _, target = converted(tmp_path / "dump", ".lime")
    dump = open_dump(target)
    assert dump.runs.tolist() == [[0, len(contents) // PAGE_SIZE]]
    assert dump.read_frames(np.arange(dump.frame_count)).tobytes() == contents


def test_lime_ranges(tmp_path: Path) -> None:
    """By the format's description; no range looks like a block of AVML's with zeros behind."""
    block = 16 * MIB
    pieces = [(0, bytes(4096) + b"a" * (block - 4096)), (2 * block, b"b" * block)]
    containers.write_elf(tmp_path / "dump", pieces)
    _, target = converted(tmp_path / "dump", ".lime")
    contents, place, ranges = target.read_bytes(), 0, []
    while place < len(contents):
        magic, version, first, last, reserved = struct.unpack_from("<4sIQQQ", contents, place)
        assert (magic, version, reserved) == (b"EMiL", 1, 0)
        ranges.append((first, contents[place + 32 :][: last - first + 1]))
        place += 32 + last - first + 1
    assert frames_of(ranges) == frames_of(pieces)
    assert not len(open_dump(target).left_out_runs)
    assert target.read_bytes() == contents


def test_many_runs(tmp_path: Path) -> None:
    """More segments than e_phnum can say; pages of zeros but for the last one."""
    path, target, count = tmp_path / "dump", tmp_path / "out.elf", 0xFFFF
    with path.open("wb") as file:
        file.seek((count - 1) * PAGE_SIZE)
        file.write(b"x" * PAGE_SIZE)
    first = 2 * np.arange(count)
    extents = Extents(first, np.ones(count, np.int64), first // 2 * PAGE_SIZE)
    dump = RawDump(path, "bitmap", extents)
    snapshot = of_mappings(dump, dump.zero_frames(), Mappings.join([]))
    convert_dump(snapshot, target, layout_of(snapshot, target))
    found = open_dump(target)
    assert np.array_equal(found.runs, dump.runs)
    assert found.read_frames(first[-1:]).tobytes() == b"x" * PAGE_SIZE


def test_zeros_take_no_room(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    containers.write_lime(path, [(0, b"x" * PAGE_SIZE), (1 << 30, b"y" * PAGE_SIZE)])
    snapshot, target = converted(path, ".raw")
    assert target.stat().st_size == (1 << 30) + PAGE_SIZE
    if hasattr(target.stat(), "st_blocks"):
        assert target.stat().st_blocks * 512 < 1 << 20
    conversion = convert_dump(snapshot, target, layout_of(snapshot, target))
    assert conversion.was_there and conversion.holes == (1 << 18) - 1
    [remark] = conversion.remarks
    assert "262,143 pages that the dump does not have are zeros" in remark


@by_ending
def test_left_out(tmp_path: Path, ending: str) -> None:
    """Pages that the dump leaves out are in no file, and this is said with their number."""
    containers.write_avml(
        tmp_path / "dump",
        [(0, b"a" * 0x8000 + bytes(0x10000) + b"b" * 0x8000)],
        0x8000,
        without_zeros=True,
    )
    snapshot = memory_visualizer.open(tmp_path / "dump")
    lost = int(np.count_nonzero(snapshot.dump.left_out))
    target = tmp_path / f"out{ending}"
    conversion = convert_dump(snapshot, target, layout_of(snapshot, target))
    assert conversion.left_out == lost
    told = [remark for remark in conversion.remarks if "leaves out" in remark]
    assert [remark.split()[0] for remark in told] == [str(lost)] * bool(lost)


@by_ending
def test_a_finished_file_is_kept_and_another_is_not_replaced(tmp_path: Path, ending: str) -> None:
    containers.write_lime(tmp_path / "dump.lime", PIECES[:2])
    target = f"out{ending}"
    first = run(["convert", "dump.lime", "-o", target], tmp_path)
    assert (first.returncode, first.stdout.count("written, and read back")) == (0, 1)
    inode, contents = (tmp_path / target).stat().st_ino, (tmp_path / target).read_bytes()
    again = run(["convert", "dump.lime", "-o", target], tmp_path)
    assert (again.returncode, again.stdout.count("was there, and holds the same")) == (0, 1)
    for change in (contents[:-1] + bytes([contents[-1] ^ 1]), contents[:-4096], b"mine"):
        (tmp_path / target).write_bytes(change)
        refused = run(["convert", "dump.lime", "-o", target], tmp_path)
        assert refused.returncode == 1
        assert "does not hold the memory of this dump, so it stays" in refused.stderr
        assert (tmp_path / target).read_bytes() == change
    assert (tmp_path / target).stat().st_ino == inode
    assert sorted(names(tmp_path)) == ["dump.lime", target]


def test_what_is_refused(tmp_path: Path) -> None:
    containers.write_lime(tmp_path / "dump.lime", PIECES[:1])
    for output, sentence in (
        ("dump.lime", "is an input and must not be replaced"),
        ("-", "cannot go to standard output"),
        ("out.vmem", "must end in one of .raw, .lime, .elf"),
        ("nowhere/out.raw", "its folder does not exist"),
    ):
        refused = run(["convert", "dump.lime", "-o", output], tmp_path)
        assert refused.returncode in (1, 2) and sentence in refused.stderr, output
    assert names(tmp_path) == ["dump.lime"]


def test_the_size_is_said_before(tmp_path: Path) -> None:
    containers.write_lime(tmp_path / "dump.lime", [(0, b"x" * 8192), (1 << 24, b"y" * 8192)])
    told = run(["convert", "dump.lime", "-o", "out.raw"], tmp_path).stderr.splitlines()[0]
    assert told == "memviz: out.raw will have 16.01 MiB, 16 KiB of them memory and the others holes"


_Usage = namedtuple("_Usage", "total used free")


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes of a raw file need room where the file system has no sparse files."""
    containers.write_lime(tmp_path / "dump", [(0, b"x" * 8192), (1 << 32, b"y" * 4096)])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    target = tmp_path / "out.raw"
    free = 1 << 20
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(0, 0, free))
    monkeypatch.setattr(convert, "_can_have_holes", lambda _: False)
    with pytest.raises(OSError, match=r"needs 4 GiB, .* has 1 MiB free; .* no sparse files"):
        convert_dump(snapshot, target, layout_of(snapshot, target))
    assert names(tmp_path) == ["dump"]
    free = 0
    with pytest.raises(OSError, match="needs 16 KiB, and the disk has 0 bytes free"):
        convert_dump(snapshot, tmp_path / "out.elf", layout_of(snapshot, tmp_path / "out.elf"))


def test_a_disk_that_writes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is read back before it gets its name."""
    containers.write_lime(tmp_path / "dump", PIECES[:2])
    snapshot, target = memory_visualizer.open(tmp_path / "dump"), tmp_path / "out.lime"
    add, blocks = Checksums.add, 0

    def faulty(sums: Checksums, frames: np.ndarray, words: Words) -> None:
        nonlocal blocks
        blocks += 1
        words = words.copy()
        words[3, 5] ^= np.uint64(1)
        add(sums, frames, words)

    monkeypatch.setattr(Checksums, "add", faulty)  # as the file is read back
    with pytest.raises(BadInputError, match="read back, it does not hold the memory"):
        convert_dump(snapshot, target, layout_of(snapshot, target))
    assert blocks and names(tmp_path) == ["dump"]


@pytest.mark.parametrize("change", ["bit", "swapped words", "swapped pages"])
def test_checksums_tell(change: str) -> None:
    frames = np.arange(100, 110)
    words = np.random.default_rng(1).integers(1 << 63, size=(10, 512), dtype=np.uint64)
    other = words.copy()
    if change == "bit":
        other[7, 511] ^= np.uint64(1 << 63)
    elif change == "swapped words":
        other[2, :2] = words[2, 1::-1]
    else:
        other[:2] = words[1::-1]
    sums = []
    for contents in (words, words[::-1][::-1], other):
        of_these = Checksums(200)
        of_these.add(frames, contents)
        sums.append(of_these.sums)
    in_parts = Checksums(200)
    for part in (slice(5, 10), slice(0, 5)):
        in_parts.add(frames[part], words[part])
    assert np.array_equal(sums[0], sums[1]) and np.array_equal(sums[0], in_parts.sums)
    assert not np.array_equal(sums[0], sums[2])


@pytest.mark.peer
@pytest.mark.parametrize(
    ("ending", "layer"), [(".lime", "lime.LimeLayer"), (".elf", "elf.Elf64Layer")]
)
def test_volatility3_reads_it(tmp_path: Path, ending: str, layer: str) -> None:
    pieces = sorted(PIECES)
    containers.write_kdump(tmp_path / "dump", pieces)
    _, target = converted(tmp_path / "dump", ending)
    seen = _volatility_layer(target, layer)
    for pfn, page in frames_of(pieces).items():
        assert seen.read(pfn * PAGE_SIZE, PAGE_SIZE) == page
    absent = [0, 0x14, 0x50, 0xFF, 0x101, 5 * GIB // PAGE_SIZE - 1]
    assert not any(seen.is_valid(pfn * PAGE_SIZE, 1) for pfn in absent)


def test_drgn_reads_it(tmp_path: Path, drgn: ModuleType) -> None:
    """A raw dump of Linux, with the note that its kernel has in memory, which drgn needs."""
    truth = forge_linux(tmp_path / "dump", size=32 * MIB, processes=3)
    contents = (tmp_path / "dump").read_bytes()
    _, target = converted(tmp_path / "dump", ".elf")
    program = drgn.Program()
    program.set_core_dump(target)
    assert program["UTS_RELEASE"].string_().decode() == truth.era.release
    for place in range(0, len(contents), MIB):
        assert program.read(place, MIB, physical=True) == contents[place : place + MIB]
