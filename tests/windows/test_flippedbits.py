"""A flipped bit in a top-level table costs only the pages below its entry."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.windows import flippedbits
from tests.conftest import some
from tests.synth import MIB, forge, profiles

PAGE = 4096
Tables = npt.NDArray[np.unsignedinteger]
"""The memory as entries of tables, a row for each frame."""
SYSTEMS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "x86": ("WinXPSP2x86", {"pae": False}, "<u4", 512),
    "x64": ("Win7SP1x64", {}, "<u8", 256),
    "5 levels": ("Win10x64_17763", {"five_levels": True}, "<u8", 256),
}


def opened_with(path: Path, tables: Tables, place: tuple[int, int], change: int) -> Snapshot:
    """The snapshot with these bits of an entry flipped; the file is sound again afterwards."""
    sound = tables[place]
    odd = sound ^ tables.dtype.type(change)
    with path.open("r+b") as file:
        for entry in (odd, sound):
            file.seek((place[0] * tables.shape[1] + place[1]) * tables.itemsize)
            file.write(entry.tobytes())
            file.flush()
            if entry is odd:
                snapshot = memory_visualizer.open(path)
    return snapshot


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_entries_that_all_tables_have(system: str, tmp_path: Path) -> None:
    """No flipped bit changes a frame's class, and a remark tells it."""
    name, options, entry, half = SYSTEMS[system]
    path = tmp_path / "dump"
    truth = forge(path, profiles()[name], size=16 * MIB, processes=12, seed=3, **options)
    sound = memory_visualizer.open(path)
    tables = np.fromfile(path, entry).reshape(PAGE * 4096 // PAGE, -1)
    live = [process for process in truth.processes if not process.exited]
    roots = np.array([process.dtb // PAGE for process in live])
    halves = tables[roots, half:]
    used = np.flatnonzero((halves[0] & 1 == 1) & (halves >> 12 == halves[0] >> 12).all(axis=0))
    names = np.flatnonzero((halves >> 12 == roots[:, None]).all(axis=0))
    assert len(used)
    assert len(names) == 1
    rng = np.random.default_rng(1)
    for index in half + np.append(rng.permutation(used)[:6], names):
        for bit in (0, 2, *rng.integers(12, 24, 2).tolist()):
            snapshot = opened_with(path, tables, (rng.choice(roots), index), 1 << bit)
            np.testing.assert_array_equal(snapshot.classes, sound.classes, f"{index} {bit}")
            assert len(snapshot.processes) == len(sound.processes)
            assert any("by a bit or two" in remark for remark in snapshot.remarks)


def test_every_table_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In more tables than a batch, a flipped bit of any table is repaired."""
    monkeypatch.setattr(flippedbits, "_TABLES_AT_ONCE", 5)
    path = tmp_path / "dump"
    truth = forge(path, profiles()["Win7SP1x64"], size=16 * MIB, processes=12, seed=3)
    sound = memory_visualizer.open(path)
    tables = np.fromfile(path, "<u8").reshape(-1, PAGE // 8)
    live = [process for process in truth.processes if not process.exited]
    roots = np.array([process.dtb // PAGE for process in live])
    halves = tables[roots, 256:]
    [used, *_] = np.flatnonzero(
        (halves[0] & 1 == 1) & (halves >> 12 == halves[0] >> 12).all(axis=0)
    )
    for root in roots.tolist():
        snapshot = opened_with(path, tables, (root, 256 + int(used)), 1 << 14)
        np.testing.assert_array_equal(snapshot.classes, sound.classes, f"table {root:#x}")
        assert any("by a bit or two" in remark for remark in snapshot.remarks)


ALONE: dict[str, tuple[str, dict[str, Any], str, int, int]] = {
    "x86": ("WinXPSP2x86", {"pae": False}, "<u4", 512, 1),
    "x64": ("Win7SP1x64", {}, "<u8", 256, 3),
    "10, x64": ("Win10x64_17763", {}, "<u8", 256, 3),
}
"""The last number is the levels below the top."""
_MAX_BY_NUMBERS = 4


def below(tables: Tables, frame: int, levels: int) -> set[int]:
    """A table and all frames below it."""
    found = {frame}
    if levels:
        for entry in tables[frame][tables[frame] & 1 == 1].tolist():
            if entry >> 12 & 0xF_FFFF_FFFF < len(tables):
                found |= below(tables, entry >> 12 & 0xF_FFFF_FFFF, levels - 1)
    return found


@pytest.mark.parametrize("system", ALONE)
@pytest.mark.many
def test_an_entry_that_one_process_has(system: str, tmp_path: Path) -> None:
    """An entry like hyperspace's costs the frames below it, and the frame that it names now.

    The process maps that frame, as it maps its tables. No page of others changes, even if it is
    another process's page table. Only a page of small numbers may pass for a table of a few pages.
    """
    name, options, entry, half, levels = ALONE[system]
    path = tmp_path / "dump"
    truth = forge(path, profiles()[name], size=16 * MIB, processes=12, seed=3, **options)
    sound = memory_visualizer.open(path)
    tables = np.fromfile(path, entry).reshape(4096, -1)
    roots = np.array([process.dtb // PAGE for process in truth.processes if not process.exited])
    present = (tables[roots, half:] & 1 == 1).all(axis=0)
    frames = (tables[roots, half:].astype(np.int64) >> 12) & 0xF_FFFF_FFFF
    differ = np.array([len(set(column)) == len(roots) for column in frames.T.tolist()])
    (index,) = half + np.flatnonzero(present & differ & (frames != roots[:, None]).all(axis=0))
    said = 0
    for number, root in list(enumerate(roots.tolist()))[::2]:
        led_to = below(tables, int(frames[number, index - half]), levels)
        for bit in some(range(12, 24)):
            snapshot = opened_with(path, tables, (root, int(index)), 1 << bit)
            named = int(tables[root, index]) >> 12 & 0xF_FFFF_FFFF ^ 1 << bit - 12
            changed = np.flatnonzero(snapshot.classes != sound.classes)
            changed = changed[~np.isin(changed, [*led_to, named])]
            assert len(changed) <= _MAX_BY_NUMBERS, (root, bit)
            of_user = np.isin(sound.classes[changed], (PageClass.USER, PageClass.BOTH))
            assert not of_user.any(), (root, bit)
            said += any("of user mode left out" in remark for remark in snapshot.remarks)
    assert said


@pytest.mark.parametrize("number", [0, 4, 8])
@pytest.mark.parametrize("index", range(4))
@pytest.mark.many
def test_pae_directories(number: int, index: int, tmp_path: Path) -> None:
    """A damaged entry for a directory does no harm, since the processor's pointers name it, too.

    Nor does a damaged pointer: for any flipped bit, all classes and processes stay.
    """
    path = tmp_path / "dump"
    truth = forge(path, profiles()["Win7SP1x86"], size=16 * MIB, processes=12, seed=3)
    sound = memory_visualizer.open(path)
    words = np.fromfile(path, "<u8").reshape(4096, -1)
    live = [one for one in truth.processes if not one.exited]
    page, offset = divmod(live[number].dtb, PAGE)
    pointers = words[page, offset // 8 : offset // 8 + 4] >> 12
    rng = np.random.default_rng([4, number, index])
    bits = 1 << rng.choice(np.arange(12, 24), 3, replace=False)
    told = 0
    for change in (1 << 1, *bits.tolist(), int(rng.integers(1, 1 << 12)) << 12):
        for place in ((page, offset // 8 + index), (int(pointers[3]), index)):
            snapshot = opened_with(path, words, place, change)
            case = f"{place}, {change:#x}"
            np.testing.assert_array_equal(snapshot.classes, sound.classes, case)
            names = [one.name for one in snapshot.processes if one.is_alive]
            assert names == [one.name for one in sound.processes if one.is_alive], case
            told += any("pointers only" in remark for remark in snapshot.remarks)
    assert told or index == 3  # the last entry names its own table
