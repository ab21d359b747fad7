"""Hyper-V's saved states give back the written pages; damage costs its own mebibyte."""

import struct
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats import hyperv
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import GIB, check, check_without, frames_of, memory
from tests.synth.hyperv import write_hyperv

MIB = 1 << 20
PIECES = [(0, memory(3 * 256, 1)), (4 * GIB, memory(300, 2))]
"""The last mebibyte is only partly used by pages."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.vmrs"


@pytest.mark.parametrize("packed", [False, True])
def test_many_keys(path: Path, packed: bool) -> None:
    """Keys may fill more than one table."""
    many = [*PIECES, (8 * GIB, bytes(200 * MIB))]
    write_hyperv(path, many if packed else PIECES, packed=packed)
    dump = open_dump(path)
    assert (dump.format, dump.remarks) == ("Hyper-V saved state", ())
    if packed:
        assert dump.size == sum(len(data) for _, data in many)
        assert dump.read_frames(np.arange(3 * 256)).tobytes() == PIECES[0][1]
    else:
        check(dump, frames_of(PIECES))


def test_more_tables_than_any_file_has(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables beyond the limit are an error."""
    monkeypatch.setattr(hyperv, "_MAX_TABLES", 0)
    write_hyperv(path, PIECES)
    with pytest.raises(BadInputError, match="has more than 0 tables of objects"):
        open_dump(path)


def test_a_broken_block(path: Path) -> None:
    """Lenient leaves out the mebibyte of the block, and nothing else."""
    write_hyperv(path, PIECES)
    sound = path.read_bytes()
    text = sound.index(b"memory visualizer")
    data = bytearray(sound)
    data[text - 12 : text + 60] = b"\xff" * 72
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"the block at byte [\d,]+: "):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    assert dump.remarks == (f"1 broken blocks of {path} were left out, with 256 pages",)
    check_without(dump, frames_of(PIECES), range(256))


def test_a_broken_key(path: Path) -> None:
    """Keys behind a broken key are found by their names."""
    write_hyperv(path, PIECES, packed=False)
    data = bytearray(path.read_bytes())
    at = data.index(b"VmVersion\0") - 21
    data[at + 2 : at + 6] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    check(open_dump(path), frames_of(PIECES))


def test_blocks_that_are_not_there(path: Path) -> None:
    write_hyperv(path, PIECES, packed=False)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - MIB - 5])
    with pytest.raises(DamagedInputError, match="300 pages are not there"):
        open_dump(path)
    check(open_dump(path, lenient=True), frames_of(PIECES[:1]))


def test_changes_that_were_not_applied(path: Path) -> None:
    write_hyperv(path, PIECES, changes=3)
    assert "changes that Hyper-V did not apply" in open_dump(path).remarks[0]


def test_a_machine_that_was_not_saved(path: Path) -> None:
    """The .vmrs and the .vmcx of a running or stopped machine are refused."""
    write_hyperv(path, PIECES)
    path.write_bytes(path.read_bytes().replace(b"RamMemoryBlock", b"OtherKindBlock"))
    for lenient in (False, True):
        with pytest.raises(BadInputError, match="without the machine's memory") as caught:
            open_dump(path, lenient=lenient)
        assert not isinstance(caught.value, DamagedInputError)


def test_tables_of_one_index(path: Path) -> None:
    """The table with the higher sequence counts."""
    write_hyperv(path, PIECES, packed=False)
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<I", data, 0x2004)
    table = next(at for at in range(0x2008, 0x2008 + 18 * count, 18) if data[at] == 2)
    (place,) = struct.unpack_from("<Q", data, table + 5)
    old = bytearray(data[place : place + PAGE_SIZE])
    struct.pack_into("<H", old, 4, 0)
    at = old.index(b"RamMemoryBlock0\0") + 16 + 4 + 24
    struct.pack_into("<Q", old, at, 7 * 256)
    struct.pack_into("<BIQIB", data, table + 18 * (count - 2), 2, 0, len(data), PAGE_SIZE, 1)
    path.write_bytes(data + old)
    check(open_dump(path), frames_of(PIECES))


def test_blocks_of_no_range(path: Path) -> None:
    """Blocks whose addresses are lost are counted."""
    write_hyperv(path, PIECES, packed=False)
    path.write_bytes(path.read_bytes().replace(b"RamMemoryBlock1\0", b"RamMemoryBlocks\0"))
    dump = open_dump(path)
    check(dump, frames_of(PIECES[:1]))
    told = f"{path} does not tell the addresses of 2 blocks of 1 MiB; left out"
    assert dump.remarks == (told,)


def test_a_block_of_two_ranges(path: Path) -> None:
    """A block belongs to one range only; the pages of the other range are reported missing."""
    write_hyperv(path, PIECES, packed=False)
    data = bytearray(path.read_bytes())
    at = data.index(b"RamMemoryBlock1\0") + 16 + 4 + 16
    struct.pack_into("<Q", data, at, 0)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="300 pages are not there"):
        open_dump(path)
    check(open_dump(path, lenient=True), frames_of(PIECES[:1]))
