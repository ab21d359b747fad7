"""Hibernation files of every Windows give back the written pages; damage costs its own pages."""

import ctypes
import itertools
import os
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats import xpress
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import GIB, PIECES, check, check_without, frames_of, memory
from tests.synth.hibernation import NEW, OLD, write_hibernation
from tests.synth.xpress import pack_huffman, pack_plain
from tests.volatility2program import volatility

MANY = [(0x1000, memory(600, 1)), (0x400000, memory(37, 2)), (0x1200000, memory(30, 3))]
"""More ranges than a table has room for, if each range is at most a page."""
NEW_PIECES = [*MANY, (5 * GIB, memory(40, 4))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hiberfil.sys"


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("system", OLD)
@pytest.mark.many
def test_tables_one_after_another(path: Path, system: str, cleared: bool) -> None:
    """All tables are read; the first page, which Windows clears on a resume, is not needed."""
    write_hibernation(path, MANY, system=system, longest=1, cleared=cleared)
    dump = open_dump(path)
    assert (dump.format, dump.remarks) == ("Windows hibernation file (up to Windows 7)", ())
    check(dump, frames_of(MANY))


def test_a_raw_dump_with_a_block_in_it(path: Path) -> None:
    """A raw dump with zeros and a block's magic is not taken for a hibernation file."""
    path = path.with_name("memory.raw")
    path.write_bytes(bytes(6 * PAGE_SIZE) + b"\x81\x81xpress" + bytes(3 * PAGE_SIZE - 8))
    assert open_dump(path).format == "raw"


def test_an_old_block_in_a_newer_file(path: Path) -> None:
    """A leftover block of an older Windows in the file is ignored."""
    write_hibernation(path, PIECES, system="10 x64")
    data = bytearray(path.read_bytes())
    data[3 * PAGE_SIZE : 3 * PAGE_SIZE + 8] = b"\x81\x81xpress"
    path.write_bytes(data)
    check(open_dump(path), frames_of(PIECES))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("system", NEW)
@pytest.mark.many
def test_both_sections(path: Path, system: str, plain: bool) -> None:
    """The pages of both sections are read, for each build and packing, in short and long runs."""
    write_hibernation(path, NEW_PIECES, system=system, longest=3 if plain else 16, plain=plain)
    dump = open_dump(path)
    assert (dump.format, dump.remarks) == ("Windows hibernation file (from Windows 8 on)", ())
    check(dump, frames_of(NEW_PIECES))


@pytest.mark.parametrize("magic", [b"hibr", b"wake", b"WAKE", b"RSTR", b"HIBR"])
def test_every_magic(path: Path, magic: bytes) -> None:
    """The magic tells the machine's state; the contents are read the same."""
    for system in ("XP", "10 x64"):
        write_hibernation(path, PIECES[:4], system=system, magic=magic)
        check(open_dump(path), frames_of(PIECES[:4]))


def test_a_build_that_is_not_known(path: Path) -> None:
    """Of an unknown build all fields but the number of pages in the last section are known."""
    write_hibernation(path, NEW_PIECES, system="11 24H2 x64")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 12, 0x520)
    path.write_bytes(data + bytes(3 * PAGE_SIZE))
    dump = open_dump(path)
    check(dump, frames_of(NEW_PIECES))
    assert len(dump.remarks) == 1 and "is unknown" in dump.remarks[0]


@pytest.mark.parametrize("cleared", [False, True])
def test_contents_that_were_cleared(path: Path, cleared: bool) -> None:
    """Windows 8 and later clear the file on a resume; --lenient does not help."""
    write_hibernation(path, NEW_PIECES, system="10 x64", cleared=cleared)
    data = path.read_bytes()
    path.write_bytes(data[:PAGE_SIZE] + bytes(len(data) - PAGE_SIZE))
    for lenient in (False, True):
        with pytest.raises(BadInputError, match=r"a resume|was cleared") as caught:
            open_dump(path, lenient=lenient)
        assert not isinstance(caught.value, DamagedInputError)


@pytest.mark.parametrize("system", ["7 x64", "10 x64"])
@pytest.mark.many
def test_a_broken_block(path: Path, system: str) -> None:
    """Lenient leaves out the pages of a block that cannot be unpacked, and no others."""
    if system == "7 x64":
        magic = b"\x81\x81xpress"
        write_hibernation(path, MANY, system=system)
        data = bytearray(path.read_bytes())
        at = data.index(magic, data.index(magic) + 1) + 32
    else:
        write_hibernation(path, MANY, system=system)
        data = bytearray(path.read_bytes())
        first = int.from_bytes(data[7 * PAGE_SIZE :][:4], "little")
        at = 7 * PAGE_SIZE + 4 + 8 * (first & 0xFF) + (first >> 8 & 0x3FFFFF)
        at += 4 + 8 * data[at]
    data[at : at + 400] = b"\xff" * 400
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"the block at byte [\d,]+: broken Xpress"):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    assert dump.remarks == (f"1 broken blocks of {path} were left out, with 16 pages",)
    check_without(dump, frames_of(MANY), range(17, 33))


def test_a_broken_table(path: Path) -> None:
    """The ranges of the table are lost, and all later ones; earlier pages are read."""
    write_hibernation(path, MANY, system="XP", longest=1)
    data = bytearray(path.read_bytes())
    second = int.from_bytes(data[5 * PAGE_SIZE + 4 :][:4], "little")
    data[second * PAGE_SIZE + 12 :][:4] = bytes(4)
    struct.pack_into("<I", data, second * PAGE_SIZE + 12, 0)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"table of page frames at byte [\d,]+ is broken"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert len(dump.remarks) == 1
    check(dump, {pfn: page for pfn, page in frames_of(MANY).items() if pfn <= 255})


def test_a_page_in_both_sections(path: Path) -> None:
    """The kernel's page, which Windows reads last, is taken; a remark tells that there were two."""
    one, other = memory(40, 1), memory(40, 2)
    write_hibernation(path, [(0x1000, one), (0x100000, other)])
    data = bytearray(path.read_bytes())
    kernel = int.from_bytes(data[0x70:0x78], "little") * PAGE_SIZE
    struct.pack_into("<Q", data, kernel + 4, 1 << 4 | 15)
    path.write_bytes(data)
    dump = open_dump(path)
    assert dump.remarks == (f"{path} holds 16 pages more than once; the later copies were used",)
    assert dump.read_frames(np.arange(1, 17)).tobytes() == other[: 16 * PAGE_SIZE]


def test_pages_far_away(path: Path) -> None:
    """A descriptor of garbage costs its own pages, with --lenient."""
    write_hibernation(path, NEW_PIECES)
    data = bytearray(path.read_bytes())
    for far, words in ((1 << 50, "16 TiB"), (1 << 31, "far too high")):
        struct.pack_into("<Q", data, 7 * PAGE_SIZE + 4, far << 4 | 15)
        path.write_bytes(data)
        with pytest.raises(DamagedInputError, match=words):
            open_dump(path)
        dump = open_dump(path, lenient=True)
        assert words in dump.remarks[0] and "left out" in dump.remarks[0]
        check(dump, {pfn: page for pfn, page in frames_of(NEW_PIECES).items() if pfn > 16})


# Xpress without a dump

BLOCKS = [
    bytes(1 << 16),
    memory(16, 3),
    memory(1, 4),
    b"abc" * 1365 + b"d",
    np.random.default_rng(5).bytes(1 << 16),
    np.random.default_rng(6).bytes(PAGE_SIZE) + bytes(15 * PAGE_SIZE),
]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_xpress(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Xpress is unpacked with libfwnt and, if plain, without it."""
    block = BLOCKS[number]
    assert xpress.unpack_huffman(pack_huffman(block), len(block)) == block
    assert xpress.unpack_plain(pack_plain(block), len(block)) == block
    monkeypatch.setattr(xpress, "_library", lambda name: None)
    assert xpress.unpack_plain(pack_plain(block), len(block)) == block
    with pytest.raises(BadInputError, match="install the Python package libfwnt-python"):
        xpress.unpack_huffman(pack_huffman(block), len(block))


def test_the_longest_copies() -> None:
    """Lengths of more than 16 bits, which have a form of their own, are unpacked."""
    block = bytes(80 << 10)
    assert xpress.unpack_plain(pack_plain(block), len(block)) == block


@pytest.mark.parametrize("with_library", [False, True])
def test_broken_xpress(with_library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken data give the requested bytes or an error, never more bytes."""
    if not with_library:
        monkeypatch.setattr(xpress, "_library", lambda name: None)
    rng = np.random.default_rng(0)
    unpackers = [(pack_plain, xpress.unpack_plain)]
    if with_library:
        unpackers.append((pack_huffman, xpress.unpack_huffman))
    for (pack, unpack), block in itertools.product(unpackers, (memory(2, 7), bytes(PAGE_SIZE))):
        packed = pack(block)
        for attempt in range(300):
            data = bytearray(packed)
            for place in rng.integers(len(data), size=1 + attempt % 5):
                data[place] = rng.integers(256)
            if attempt % 3 == 0:
                del data[int(rng.integers(len(data))) :]
            try:
                assert len(unpack(bytes(data), len(block))) == len(block)
            except DamagedInputError as error:
                assert "roken Xpress" in str(error) or "Xpress data of" in str(error)


# Second opinions


def test_ms_compress_unpacks_the_same(leechcore: ModuleType) -> None:
    """ms-compress, which LeechCore brings with it, unpacks the same bytes."""
    found = Path(str(leechcore.__file__)).parent / "libMSCompression.so"
    if not found.exists():
        pytest.skip("no second opinion here: LeechCore without libMSCompression.so")
    library = ctypes.CDLL(str(found))
    for name, pack in (("xpress_decompress", pack_plain), ("xpress_huff_decompress", pack_huffman)):
        for block in BLOCKS:
            packed = pack(block)
            target = ctypes.create_string_buffer(len(block))
            size = ctypes.c_size_t(len(block))
            arguments = (packed, ctypes.c_size_t(len(packed)), target, ctypes.byref(size))
            assert getattr(library, name)(*arguments) == 0
            assert target.raw == block


@pytest.mark.parametrize("system", NEW)
@pytest.mark.many
def test_leechcore_reads_the_same(path: Path, system: str, leechcore: ModuleType) -> None:
    """LeechCore 2.23.3 reads the same pages, except for the highest run, which it forgets."""
    highest = [(6 * GIB, memory(1, 6))]
    write_hibernation(path, [*NEW_PIECES, *highest], system=system)
    os.truncate(path, 20 << 20)  # it takes no smaller blocks
    try:
        reader = leechcore.LeechCore(f"hibr://file={path}")
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no second opinion here: {error}")
    for pfn, page in frames_of(NEW_PIECES).items():
        assert reader.read(pfn * PAGE_SIZE, PAGE_SIZE) == page
    reader.close()
    check(open_dump(path), frames_of([*NEW_PIECES, *highest]))


PROFILES = {
    "XP": "WinXPSP2x86",
    "Vista": "VistaSP1x86",
    "Vista SP2": "VistaSP2x86",
    "7": "Win7SP1x86",
    "2003 x64": "Win2003SP1x64",
    "Vista SP2 x64": "VistaSP2x64",
    "7 x64": "Win7SP1x64",
}


@pytest.mark.parametrize("system", OLD)
@pytest.mark.many
def test_volatility2_reads_the_same(path: Path, system: str, volatility2: Path) -> None:
    write_hibernation(path, MANY, system=system, longest=2)
    copy = path.with_suffix(".raw")
    done = volatility(volatility2, path, PROFILES[system], "imagecopy", "-O", copy)
    assert done.returncode == 0, done.stderr
    raw = copy.read_bytes()
    for pfn, page in frames_of(MANY).items():
        assert raw[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE] == page
