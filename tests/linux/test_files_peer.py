"""Regions and files of a real guest, as Volatility 3 lists them with the kernel's symbols."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from tests.volatility3.program import Volatility

_ADDRESS = (1 << 48) - 1
"""Volatility gives addresses without their upper bits."""
_UNNAMED = "Anonymous Mapping"


@pytest.fixture(scope="module")
def snapshot(qemu_core: tuple[Path, Path]) -> Snapshot:
    return memory_visualizer.open(qemu_core[0])


@pytest.fixture(scope="module")
def volatility(
    qemu_core: tuple[Path, Path],
    volatility3: Path,
    symbol_files: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Volatility:
    """Volatility 3 with the guest's memory: the first run finds the kernel for all."""
    program = Volatility(volatility3, tmp_path_factory.mktemp("volatility3"), symbol_files)
    program.dump = qemu_core[0]
    return program


def rows_of(volatility: Volatility, plugin: str) -> list[Any]:
    """The rows of one of Volatility's plugins."""
    done = volatility.run("-r", "json", plugin)
    assert done.returncode == 0, done.stderr
    rows: list[Any] = json.loads(done.stdout[done.stdout.index("[") :])
    return rows


def test_regions(snapshot: Snapshot, volatility: Volatility) -> None:
    """Regions have the same rights, files and names; Volatility lacks a few names."""
    told: dict[int, list[tuple[object, ...]]] = {}
    for row in rows_of(volatility, "linux.proc.Maps"):
        name = "" if row["File Path"] == _UNNAMED else row["File Path"] or ""
        region = row["Start"], row["End"], row["Flags"], row["PgOff"], name
        told.setdefault(row["PID"], []).append(region)
    found = {
        process.pid: [
            (
                region.start,
                region.end,
                region.protection,
                region.offset,
                f"{region.file}{' (deleted)' * region.is_deleted}" or region.name,
            )
            for region in regions
        ]
        for process in snapshot.processes
        if (regions := snapshot.regions(process))
    }
    assert set(found) == set(told)
    for pid, rows in found.items():
        assert [row[:4] for row in rows] == [row[:4] for row in told[pid]]
        for own, theirs in zip(rows, told[pid], strict=True):
            assert own[4] == theirs[4] or (own[4] in ("[vvar]", "[heap]") and not theirs[4])


def test_start_of_the_machine(snapshot: Snapshot, volatility: Volatility) -> None:
    """Volatility computes the same start from the timekeeper, by the kernel's symbols."""
    plugin = "linux.boottime.Boottime"
    (row,) = rows_of(volatility, plugin)
    told = datetime.fromisoformat(row["Boot Time"])
    assert snapshot.booted is not None
    assert abs(snapshot.booted - told) <= timedelta(microseconds=1)


def test_files(snapshot: Snapshot, volatility: Volatility) -> None:
    """Each inode that Volatility reaches by name has as many cached pages, and the same path."""
    paths: dict[int, set[str]] = {}
    pages: dict[int, int] = {}
    for row in rows_of(volatility, "linux.pagecache.Files"):
        inode = row["InodeAddr"] & _ADDRESS
        paths.setdefault(inode, set()).add(row["FilePath"])
        pages[inode] = row["CachedPages"]
    found = {file.object_address & _ADDRESS: file for file in snapshot.files}
    both = set(found) & set(paths)
    assert len(both) > 300
    assert all(found[inode].pages == pages[inode] for inode in both)
    assert all(found[inode].path in paths[inode] for inode in both)
    assert not any(count for inode, count in pages.items() if inode not in found)
    # Volatility walks names down from each root, and does not reach these.
    others = [found[inode] for inode in set(found) - both]
    assert all(file.path.startswith("[") or file.kind == "shared memory" for file in others)
