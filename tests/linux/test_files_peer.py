"""Regions and files of a real guest, as Volatility 3 lists them with the kernel's symbols."""

import json
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memory_visualizer
from memory_visualizer import Snapshot

_ADDRESS = (1 << 48) - 1
"""Volatility gives addresses without their upper bits."""
_UNNAMED = "Anonymous Mapping"


@pytest.fixture(scope="module")
def snapshot(qemu_core: tuple[Path, Path]) -> Snapshot:
    return memory_visualizer.open(qemu_core[0])


def rows_of(program: Path, symbols: Path, cache: Path, dump: Path, plugin: str) -> list[Any]:
    """The rows of one of Volatility's plugins."""
    arguments = ["-q", "--offline", "--cache-path", cache, "-s", symbols, "-r", "json", "-f", dump]
    done = subprocess.run(
        [program, *map(str, arguments), plugin], stdout=subprocess.PIPE, check=True, text=True
    )
    rows: list[Any] = json.loads(done.stdout)
    return rows


def test_regions(
    snapshot: Snapshot,
    qemu_core: tuple[Path, Path],
    volatility3: Path,
    symbol_files: Path,
    tmp_path: Path,
) -> None:
    """Regions have the same rights, files and names; Volatility lacks a few names."""
    told: dict[int, list[tuple[object, ...]]] = {}
    for row in rows_of(volatility3, symbol_files, tmp_path, qemu_core[0], "linux.proc.Maps"):
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


def test_start_of_the_machine(
    snapshot: Snapshot,
    qemu_core: tuple[Path, Path],
    volatility3: Path,
    symbol_files: Path,
    tmp_path: Path,
) -> None:
    """Volatility computes the same start from the timekeeper, by the kernel's symbols."""
    plugin = "linux.boottime.Boottime"
    (row,) = rows_of(volatility3, symbol_files, tmp_path, qemu_core[0], plugin)
    told = datetime.fromisoformat(row["Boot Time"])
    assert snapshot.booted is not None
    assert abs(snapshot.booted - told) <= timedelta(microseconds=1)


def test_files(
    snapshot: Snapshot,
    qemu_core: tuple[Path, Path],
    volatility3: Path,
    symbol_files: Path,
    tmp_path: Path,
) -> None:
    """Each inode that Volatility reaches by name has as many cached pages, and the same path."""
    paths: dict[int, set[str]] = {}
    pages: dict[int, int] = {}
    for row in rows_of(volatility3, symbol_files, tmp_path, qemu_core[0], "linux.pagecache.Files"):
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
