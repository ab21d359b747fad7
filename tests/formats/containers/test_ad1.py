"""AD1 images, whole, split and damaged: the dump among their files is found; dissect agrees."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.printable import binary_size
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import PIECES, check, check_without, frames_of, memory
from tests.synth import containers
from tests.synth.ad1 import CHUNK, Tree, write_ad1

CONTENTS = memory(200, 1) + bytes(64 * PAGE_SIZE) + memory(25, 2)
NOISE = np.random.default_rng(1).bytes(20 * CHUNK + 3 * PAGE_SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump.ad1"


@pytest.mark.parametrize("per_file", [0, 1 << 20, 100_000, 1024])
def test_raw(path: Path, per_file: int) -> None:
    """A raw dump in one, a few and many files; the size of a file cuts chunks and entries."""
    contents = CONTENTS if per_file != 1024 else memory(20, 1)
    files = write_ad1(path, {"memdump.mem": contents}, per_file=per_file)
    assert (len(files) > 1) == (per_file > 0 and per_file < len(contents) // 2)
    dump = open_dump(path)
    assert dump.format == "raw (AD1)"
    check(dump, frames_of([(0, contents)]))
    check(open_dump(path, lenient=True), frames_of([(0, contents)]))


@pytest.mark.parametrize("name", ["lime", "elf", "crash", "kdump", "avml"])
def test_any_format(path: Path, name: str) -> None:
    """A dump of any format is found in a folder, beside larger files of other kinds."""
    raw = path.with_suffix(".raw")
    containers.WRITERS[name](raw, PIECES)
    write_ad1(path, {"a": {"b": {"it": raw.read_bytes()}, "noise": bytes(9 << 20)}, "c": b""})
    dump = open_dump(path)
    assert dump.format == f"{open_dump(raw).format} (AD1)"
    assert dump.remarks[0] == f"a/b/it ({_size(raw)}) in {path} was read"
    check(dump, frames_of(PIECES))


def _size(path: Path) -> str:
    return binary_size(path.stat().st_size)


def test_memory_beside_its_page_file(path: Path) -> None:
    """FTK Imager's capture has both; the page file is larger, and known by its name."""
    write_ad1(path, {"memdump.mem": CONTENTS, "Pagefile.sys": bytes(17 << 20), "readme": b"x"})
    dump = open_dump(path)
    check(dump, frames_of([(0, CONTENTS)]))
    [remark] = dump.remarks
    assert remark.startswith("memdump.mem (1.129 MiB) in ")
    assert remark.endswith(" was read, not 1 other large file: Pagefile.sys (17 MiB)")


def test_programs_are_no_dumps(path: Path) -> None:
    """Programs of Linux in a disk's image begin as a core does, but are not taken for dumps."""
    program = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<H", 3) + NOISE
    write_ad1(path, {"libc.so": program[: 20 * CHUNK], "memory": NOISE})
    check(open_dump(path), frames_of([(0, NOISE)]))


def test_without_a_dump(path: Path) -> None:
    write_ad1(path, {"a.zip": b"PK\3\4" + NOISE, "b": b"small"})
    with pytest.raises(BadInputError, match=r"the largest file in it, a\.zip .* packed with zip"):
        open_dump(path)
    write_ad1(path, {"b": b"small", "c": {}})
    with pytest.raises(BadInputError, match="without a file as large as a page"):
        open_dump(path)


def test_names_cannot_steer(path: Path) -> None:
    """Names of files are text from the dump, and are escaped."""
    write_ad1(path, {"\x1b[2J../‮x": CONTENTS})
    assert open_dump(path).remarks[0].startswith("\\x1b[2J../\\u202ex (")


def _check_chunks(dump: Dump, lost: int) -> None:
    """All frames of NOISE are there, except those of so many chunks, which are left out."""
    left_out = np.flatnonzero(dump.left_out).tolist()
    assert len(left_out) == lost * CHUNK // PAGE_SIZE
    check_without(dump, frames_of([(0, NOISE)]), left_out)


def test_a_missing_file(path: Path) -> None:
    """A missing file is named; lenient leaves out the chunks in it, and keeps all others."""
    files = write_ad1(path, {"memory": NOISE}, per_file=3 * CHUNK)
    with pytest.raises(BadInputError, match=r"is file 2 of an AD1 image; give the first file"):
        open_dump(files[1])
    files[3].unlink()
    with pytest.raises(DamagedInputError, match=r"only a part of an image: dump\.ad4 is missing"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert dump.remarks[0].endswith("dump.ad4 is missing")
    assert dump.remarks[-1] == f"4 broken chunks of {path} left out"
    _check_chunks(dump, 4)


def test_a_file_that_is_something_else(path: Path) -> None:
    """A foreign file is treated like a missing one: named, and lenient leaves out its chunks."""
    files = write_ad1(path, {"memory": NOISE}, per_file=3 * CHUNK)
    files[3].write_bytes(bytes(files[3].stat().st_size))
    with pytest.raises(DamagedInputError, match=r"dump\.ad4 is not file 4 of it"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert dump.remarks[-1] == f"4 broken chunks of {path} left out"
    _check_chunks(dump, 4)


def test_a_file_with_the_name_of_another(path: Path) -> None:
    files = write_ad1(path, {"memory": NOISE}, per_file=3 * CHUNK)
    files[3].unlink()
    files[2].rename(files[3])
    with pytest.raises(DamagedInputError, match=r"dump\.ad3 is missing"):
        open_dump(path)


def test_a_broken_chunk(path: Path) -> None:
    """The checksum finds it; lenient leaves out the frames in it."""
    write_ad1(path, {"memory": NOISE})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="cannot be unpacked"):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    assert dump.remarks[-1] == f"1 broken chunk of {path} left out"
    _check_chunks(dump, 1)


def test_a_broken_entry(path: Path) -> None:
    """An entry that leads nowhere is an error; lenient leaves it out."""
    write_ad1(path, {"memdump": NOISE, "lost": NOISE, "more": b""})
    data = bytearray(path.read_bytes())
    at = data.index(b"memdump") - 48
    data[at : at + 8] = struct.pack("<Q", 1 << 60)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="0x1000000000000000 are missing"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert "the entries to which it leads were left out" in dump.remarks[0]
    check(dump, frames_of([(0, NOISE)]))


def test_entries_in_circles(path: Path) -> None:
    """Entries that lead in circles are read once each."""
    write_ad1(path, {"memdump": NOISE, "next": b"x"})
    data = bytearray(path.read_bytes())
    at = data.index(b"next") - 48
    first = data.index(b"memdump") - 48 - 512
    data[at : at + 16] = struct.pack("<QQ", first, first)
    path.write_bytes(data)
    check(open_dump(path), frames_of([(0, NOISE)]))


def test_folders_without_an_end(path: Path) -> None:
    """The length of paths does not grow with the depth of folders."""
    tree: Tree = {"lost": NOISE}
    for _ in range(60):
        tree = {100 * "f": tree}
    write_ad1(path, {"memdump": NOISE, **tree})
    with pytest.raises(DamagedInputError, match="a path of more than 4,096 letters"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert "a path of more than" in dump.remarks[0]
    check(dump, frames_of([(0, NOISE)]))


def test_many_broken_entries(path: Path) -> None:
    """A few are named, the others counted."""
    names = [f"broken{number:02}" for number in range(20)]
    write_ad1(path, {"memdump": NOISE, **{name: {"inside": b"x"} for name in names}})
    data = bytearray(path.read_bytes())
    for name in names:
        at = data.index(name.encode()) - 48
        data[at + 8 : at + 16] = struct.pack("<Q", 1 << 60 | int(name[-2:]))
    path.write_bytes(data)
    remarks = open_dump(path, lenient=True).remarks
    assert sum("are missing" in remark for remark in remarks) == 5
    assert f"{path}: 15 more broken entries left out" in remarks


def test_cut_off_and_wrong_bytes(path: Path) -> None:
    """Cuts and wrong bytes end quickly in a dump or a sentence."""
    files = write_ad1(path, {"memory": CONTENTS, "a": {"b": b"c"}}, per_file=400_000)
    rng = np.random.default_rng(3)
    for file in files:
        whole = file.read_bytes()
        for attempt in range(60):
            data = bytearray(whole)
            if attempt % 2:
                del data[int(rng.integers(1, len(data))) :]
            else:
                at = int(rng.integers(600, 1000)) if attempt % 4 else int(rng.integers(48))
                data[at : at + 8] = rng.bytes(8)
            file.write_bytes(data)
            for lenient in (False, True):
                try:
                    open_dump(path, lenient=lenient).zero_frames()
                except BadInputError as error:
                    assert len(str(error)) < 1000
        file.write_bytes(whole)


@pytest.mark.parametrize("per_file", [0, 300_000])
def test_dissect_reads_the_same(path: Path, per_file: int) -> None:
    """dissect.evidence reads the same contents and hashes from the images of these tests."""
    ad1 = pytest.importorskip("dissect.evidence.ad1")
    files = write_ad1(path, {"a": {"memory": NOISE, "c": b"d"}, "b": b""}, per_file=per_file)
    image: Any = ad1.AD1(files)
    folder = image.get("C:/memory")
    assert sorted(folder.listdir()) == ["a", "b"]
    entry = image.get("C:/memory/a/memory")
    assert entry.open().read() == NOISE
    assert (entry.size, len(entry.sha1)) == (len(NOISE), 40)
