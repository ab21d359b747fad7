"""Conversion keeps the memory and the page map in every format, also for other readers."""

import hashlib
import re
import shutil
import struct
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.cli.memviz import main
from memory_visualizer.errors import BadInputError
from memory_visualizer.export import convert
from memory_visualizer.export.convert import FORMATS, Checksums, convert_dump, layout_of
from memory_visualizer.formats.base import Words
from memory_visualizer.formats.mapped import Extents
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.output import part_of, resumable_file
from memory_visualizer.paging import Mappings
from memory_visualizer.snapshot.build import of_mappings
from memory_visualizer.snapshot.pagemap import PageClass
from tests import prestarted
from tests.cli.running import run
from tests.formats.checks import (
    GIB,
    PIECES,
    WRITERS,
    Writer,
    check,
    frames_of,
)
from tests.formats.test_other_readers import volatility_layer
from tests.synth import MIB, containers, forge, profiles
from tests.synth.containers import Pieces
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE

ENDINGS = [*FORMATS]
by_ending = pytest.mark.parametrize("ending", ENDINGS)


def converted(path: Path, ending: str) -> tuple[Snapshot, Path]:
    """Convert a dump; returns the snapshot of the source, and the new file."""
    snapshot, target = memory_visualizer.open(path), path.with_name(f"out{ending}")
    convert_dump(snapshot, target, layout_of(snapshot, target))
    return snapshot, target


def names(folder: Path) -> list[str]:
    """The names of the files in a folder."""
    return [path.name for path in folder.iterdir()]


def as_raw(frames: dict[int, bytes]) -> dict[int, bytes]:
    """The same frames, with zeros in holes."""
    return {pfn: frames.get(pfn, bytes(PAGE_SIZE)) for pfn in range(max(frames) + 1)}


@pytest.mark.many
@pytest.mark.parametrize("name", WRITERS)
def test_the_memory_of_every_format(tmp_path: Path, name: str) -> None:
    """Conversion loses and invents nothing, and leaves the source as it was."""
    _, pieces, write = WRITERS[name]
    path = tmp_path / "dump.vmem"
    write(path, pieces)
    before = path.read_bytes()
    for ending in (".lime", ".elf"):
        check(open_dump(unrecognised(path, ending)), frames_of(pieces))
    assert path.read_bytes() == before
    low = [piece for piece in pieces if piece[0] < GIB]  # holes of gigabytes are not read
    if low != list(pieces):
        write(path, low)
    dump, frames = open_dump(unrecognised(path, ".raw")), as_raw(frames_of(low))
    assert dump.size == dump.path.stat().st_size == len(frames) * PAGE_SIZE
    assert dump.read_frames(np.arange(len(frames))).tobytes() == b"".join(
        frames[pfn] for pfn in range(len(frames))
    )


def unrecognised(path: Path, ending: str) -> Path:
    """Convert a dump as one of an unknown system; returns the new file."""
    dump, target = open_dump(path), path.with_name(f"out{ending}")
    snapshot = of_mappings(dump, dump.zero_frames(), Mappings.join([]))
    convert_dump(snapshot, target, layout_of(snapshot, target))
    return target


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """A small Windows with a hole; its pieces are whole mebibytes, as some formats need."""
    path, hole = tmp_path_factory.mktemp("windows") / "dump", (512, 2560)
    few: dict[str, Any] = {"processes": 2, "kernel_pages": 80, "user_pages": 12, "free_data": 0}
    forge(path, profiles()["Win7SP1x64"], size=16 * MIB, holes=[hole], **few)
    contents, end = path.read_bytes(), sum(hole) * PAGE_SIZE
    return [(0, contents[: hole[0] * PAGE_SIZE]), (end, contents[end:])]


@pytest.fixture(scope="module")
def used(windows: Pieces, tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """The same Windows without most of its unused pages of zeros."""
    path = tmp_path_factory.mktemp("windows") / "dump"
    containers.write_lime(path, windows)
    unused = unused_zeros(path)
    return [
        (block * 8 * PAGE_SIZE, contents)
        for address, piece in windows
        for block, contents in enumerate(_blocks(piece), address // PAGE_SIZE // 8)
        if not unused[block * 8 : block * 8 + 8].all()
    ]


def _blocks(piece: bytes) -> list[bytes]:
    return [piece[at : at + 8 * PAGE_SIZE] for at in range(0, len(piece), 8 * PAGE_SIZE)]


def unused_zeros(path: Path) -> np.ndarray:
    """Whether each frame is an unused page of zeros."""
    found: np.ndarray = memory_visualizer.open(path).classes == PageClass.UNUSED_ZERO
    return found


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """A Linux with a hole where no page is in use."""
    path = tmp_path_factory.mktemp("linux") / "dump"
    forge_linux(path, size=32 * MIB, processes=3)
    unused, contents = np.flatnonzero(unused_zeros(path)), path.read_bytes()
    hole = max(np.split(unused, np.flatnonzero(np.diff(unused) != 1) + 1), key=len)
    edge, end = int(hole[0] + 3) * PAGE_SIZE, int(hole[-1] - 3) * PAGE_SIZE
    return [(0, contents[:edge]), (end, contents[end:])]


@pytest.fixture(scope="module")
def maps() -> dict[bytes, Snapshot]:
    """Page maps of converted files by the files' digests: equal files have equal maps."""
    return {}


@pytest.mark.many
@pytest.mark.parametrize("name", WRITERS)
def test_the_page_map_stays(
    windows: Pieces, used: Pieces, tmp_path: Path, name: str, maps: dict[bytes, Snapshot]
) -> None:
    """Every format of the source keeps its page map in every format of the target."""
    if name == "crash-ranges":  # its ranges never have frame 0
        windows = [(PAGE_SIZE, windows[0][1][PAGE_SIZE:]), *windows[1:]]
    if name.startswith("hibernation"):  # its writer is slow
        windows = used
    assert_the_page_map_stays(windows, tmp_path / "dump.vmem", WRITERS[name][2], maps)


@pytest.mark.many
@pytest.mark.parametrize("name", ["avml-large-blocks", "elf", "kdump"])
def test_the_page_map_of_linux_stays(
    linux: Pieces, tmp_path: Path, name: str, maps: dict[bytes, Snapshot]
) -> None:
    """The ELF core has the kernel's note, too."""
    assert_the_page_map_stays(linux, tmp_path / "dump", WRITERS[name][2], maps)


def assert_the_page_map_stays(
    pieces: Pieces, path: Path, write: Writer, maps: dict[bytes, Snapshot]
) -> None:
    write(path, pieces)
    before = memory_visualizer.open(path)
    assert before.system and before.processes
    for ending in ENDINGS:
        target = path.with_name(f"out{ending}")
        convert_dump(before, target, layout_of(before, target))
        digest = hashlib.sha256(target.read_bytes()).digest()
        if digest not in maps:
            maps[digest] = memory_visualizer.open(target)
        assert_same_map(maps[digest], before, ending)


def assert_same_map(after: Snapshot, before: Snapshot, ending: str) -> None:
    assert after.system == before.system
    assert after.processes == before.processes
    held = before.dump.held
    told = held if ending == ".raw" else np.ones_like(held)  # a raw file has memory in holes
    assert np.array_equal(after.mapping_count[told], before.mapping_count[told])
    assert np.array_equal(after.classes[held], before.classes[held])
    others = PageClass.UNUSED_ZERO if ending == ".raw" else PageClass.ABSENT
    assert (after.classes[1:][~held[1:]] == others).all()
    first = PageClass.KERNEL if ending == ".raw" else PageClass.ABSENT  # the kernel's large page
    assert held[0] or after.classes[0] == first
    assert np.array_equal(after.owners.frame, before.owners.frame)
    assert np.array_equal(after.owners.virtual, before.owners.virtual)


def test_memory_out_of_place_is_put_in_place(tmp_path: Path) -> None:
    """A raw file with a header becomes a LiME file without it."""
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 * MIB, processes=3)
    contents = (tmp_path / "dump").read_bytes()
    (tmp_path / "dump").write_bytes(b"header".ljust(64) + contents)
    _, target = converted(tmp_path / "dump", ".lime")
    dump = open_dump(target)
    assert dump.runs.tolist() == [[0, len(contents) // PAGE_SIZE]]
    assert dump.read_frames(np.arange(dump.frame_count)).tobytes() == contents


def test_lime_ranges(tmp_path: Path) -> None:
    """Ranges are as the format's description says; none looks like an AVML block before zeros."""
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
    """The file has more segments than e_phnum can tell; all pages but the last are zeros."""
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
    """Pages that the dump leaves out are in no file, and the number of them is told."""
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


_KILLED = """
import os, sys, threading
from memory_visualizer.cli.memviz import main
from memory_visualizer.export.convert import _Pages
put, room = _Pages.put, int(sys.argv[1])
one_by_one = threading.Lock()  # threads write, and none may go on after the end
def put_and_die(pages, place, contents):
    global room
    contents = bytes(contents)
    with one_by_one:
        put(pages, place, contents[:max(room, 0)])
        room -= len(contents)
        if room < 0:
            pages._file.flush()
            os._exit(9)
_Pages.put = put_and_die
main(sys.argv[2:])
"""
"""The command, which ends at once, as if killed, after writing so many bytes."""


def killed(arguments: list[str], folder: Path, size: int) -> None:
    done = prestarted.run(["-c", _KILLED, size, *arguments], folder)
    assert done.returncode == 9, done.stderr


SCATTERED = [(n * 3 * PAGE_SIZE, bytes([n]) * PAGE_SIZE) for n in range(1, 41)]
"""Forty pages, all different, with a hole between any two."""


@by_ending
@pytest.mark.many
def test_an_interrupted_conversion_goes_on(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After being killed twice, the conversion goes on; the file is as if written at once."""
    containers.write_lime(tmp_path / "dump", SCATTERED)
    snapshot, target = converted(tmp_path / "dump", ending)
    whole = target.read_bytes()
    target.unlink()
    part = part_of(target)
    command = ["convert", "dump", "-o", target.name]
    headers = sum(len(contents) for _, contents in layout_of(snapshot, target).headers())
    for _ in range(2):
        killed(command, tmp_path, headers + 10 * PAGE_SIZE + 100)
    assert sorted(names(tmp_path)) == sorted(["dump", part.name])
    stays = part.stat().st_ino
    put, written = convert._Pages.put, 0

    def counting(pages: convert._Pages, place: int, contents: bytes) -> None:
        nonlocal written
        written += memoryview(contents).nbytes
        put(pages, place, contents)

    monkeypatch.setattr(convert._Pages, "put", counting)
    conversion = convert_dump(snapshot, target, layout_of(snapshot, target))
    assert conversion.kept == 20 and not conversion.was_there
    assert written == headers + 20 * PAGE_SIZE
    assert target.read_bytes() == whole and target.stat().st_ino == stays
    assert "20 pages kept of an earlier run" in convert.described(conversion, "out")
    assert sorted(names(tmp_path)) == sorted(["dump", target.name])


@by_ending
def test_nothing_in_a_part_is_trusted(tmp_path: Path, ending: str) -> None:
    """Altered or foreign pages, bytes in holes or beyond the end, and a cut are found."""
    containers.write_lime(tmp_path / "dump", SCATTERED)
    snapshot, target = converted(tmp_path / "dump", ending)
    whole = target.read_bytes()
    rng = np.random.default_rng(2)
    flipped = bytearray(whole)
    flipped[whole.index(bytes([7]) * 64) + 100] ^= 4
    for contents, kept in (
        (bytes(flipped), 39),
        (whole[: len(whole) - 5 * PAGE_SIZE - 100], None),
        (whole + b"more", 40),
        (rng.bytes(len(whole)), 0),
        (rng.bytes(len(whole) * 2), 0),
        (bytes(5), 0),
    ):
        target.unlink()
        part_of(target).write_bytes(contents)
        conversion = convert_dump(snapshot, target, layout_of(snapshot, target))
        assert target.read_bytes() == whole
        assert kept in (None, conversion.kept)
        assert not part_of(target).exists()


@pytest.mark.posix
def test_a_part_is_no_other_file(tmp_path: Path) -> None:
    """The part never replaces evidence behind a link, nor a file that another process writes."""
    containers.write_lime(tmp_path / "dump", PIECES[:1])
    (tmp_path / "evidence").write_bytes(evidence := b"never touched" * 1000)
    command = ["convert", "dump", "-o", "out.raw"]
    part = part_of(tmp_path / "out.raw")
    for link in (part.symlink_to, part.hardlink_to):
        link(tmp_path / "evidence")
        refused = run(command, tmp_path)
        assert refused.returncode == 1 and "is no plain file of its own" in refused.stderr
        part.unlink()
    assert (tmp_path / "evidence").read_bytes() == evidence
    with resumable_file(tmp_path / "out.raw") as file:
        file.write(b"mine")
        refused = run(command, tmp_path)
        assert refused.returncode == 1 and "another process is writing" in refused.stderr
    assert (tmp_path / "out.raw").read_bytes() == b"mine"


@pytest.mark.posix
def test_an_error_of_the_disk_keeps_the_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk error is told as an error of the new file, not of the dump; the part stays."""
    import resource

    containers.write_lime(tmp_path / "dump", SCATTERED)
    arguments = ["convert", str(tmp_path / "dump"), "-o", str(tmp_path / "out.raw")]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (37 * PAGE_SIZE, before[1]))
    try:
        assert main(arguments) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert "out.raw.memviz-part" in said and "File too large" in said and "cannot read" not in said
    assert main(arguments) == 0
    assert re.search("1[12] pages kept of an earlier run", capsys.readouterr().out)
    assert sorted(names(tmp_path)) == ["dump", "out.raw"]


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
    """Holes of a raw file need room if the file system has no sparse files."""
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

    monkeypatch.setattr(Checksums, "add", faulty)  # while the file is read back
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
    seen = volatility_layer(target, layer)
    for pfn, page in frames_of(pieces).items():
        assert seen.read(pfn * PAGE_SIZE, PAGE_SIZE) == page
    absent = [0, 0x14, 0x50, 0xFF, 0x101, 5 * GIB // PAGE_SIZE - 1]
    assert not any(seen.is_valid(pfn * PAGE_SIZE, 1) for pfn in absent)


def test_drgn_reads_it(tmp_path: Path, drgn: ModuleType) -> None:
    """A converted raw dump of Linux has its kernel's note in memory, by which drgn reads it."""
    truth = forge_linux(tmp_path / "dump", size=32 * MIB, processes=3)
    contents = (tmp_path / "dump").read_bytes()
    _, target = converted(tmp_path / "dump", ".elf")
    program = drgn.Program()
    program.set_core_dump(target)
    assert program["UTS_RELEASE"].string_().decode() == truth.era.release
    for place in range(0, len(contents), MIB):
        assert program.read(place, MIB, physical=True) == contents[place : place + MIB]
