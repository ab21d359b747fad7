"""The unpacked columns of the page, against the mappings one by one."""

import zlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_visualizer.formats.opening import open_dump
from memory_visualizer.paging import MAY_USER, MAY_WRITE, SHARED, Mappings
from memory_visualizer.snapshot.build import of_mappings
from memory_visualizer.snapshot.process import unnamed
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.viewer import data
from memory_visualizer.viewer.data import Column, Scattered, owner_columns, pack

FRAMES = 24
PROCESSES = 3
_WHERE = st.sampled_from([0, 1, 2, 5, 0xFFFF8_00000000, 0xFFFF8_00000001, 0xFFFFF_FFFFFFF0])
_ROWS = st.lists(
    st.tuples(
        st.integers(SHARED, PROCESSES - 1),
        _WHERE,
        st.integers(0, FRAMES - 1),
        st.sampled_from([1, 1, 1, 4]),
        st.booleans(),
    ),
    max_size=30,
)
"""Space, page number of the virtual address, frame, number of frames, and whether for user mode."""


def numbers(column: Column) -> list[int]:
    """Unpack a column as the page does."""
    planes = np.frombuffer(zlib.decompress(column.packed), np.uint8)
    found = np.zeros(column.count, np.int64)
    for place, plane in enumerate(planes.reshape(column.width, column.count)):
        found |= plane.astype(np.int64) << 8 * place
    return found.tolist()


@pytest.mark.parametrize("largest", [0, 1, 255, 256, 65_535, 1 << 24, (1 << 52) - 1])
@pytest.mark.parametrize("type_", [np.uint8, np.uint32, np.int64])
def test_pack(largest: int, type_: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest number tells the number of planes; small batches give the same."""
    if largest > np.iinfo(type_).max:
        largest = int(np.iinfo(type_).max)
    values: NDArray[Any] = np.linspace(0, largest, 100).astype(type_)
    for at_once in (7, 1000):
        monkeypatch.setattr(data, "_PACKED_AT_ONCE", at_once)
        assert numbers(pack(values)) == values.tolist()
    assert numbers(pack(values[:0])) == []


def test_pack_scattered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of mostly zeros is packed as if all its numbers were given."""
    place = np.array([0, 6, 7, 20, 99])
    number = np.array([1, 70_000, 2, 3, 1 << 40])
    whole = np.zeros(100, np.int64)
    whole[place] = number
    for at_once in (7, 1000):
        monkeypatch.setattr(data, "_PACKED_AT_ONCE", at_once)
        assert pack(Scattered(100, place, number)) == pack(whole)


def snapshot_of(path: Path, rows: list[tuple[int, int, int, int, bool]]) -> Snapshot:
    """A snapshot with these mappings; shared ones are the kernel's, as they are."""
    path.write_bytes(bytes(FRAMES * PAGE_SIZE))
    space, page, frame, frames, user = (np.array(column) for column in zip(*rows, strict=True))
    user &= space != SHARED
    mappings = Mappings(
        space.astype(np.int32),
        (page.astype(np.uint64) * np.uint64(PAGE_SIZE)),
        frame.astype(np.int64),
        frames.astype(np.int64),
        np.where(user, MAY_USER | MAY_WRITE, MAY_WRITE).astype(np.uint8),
    )
    dump = open_dump(path)
    processes = tuple(unnamed(n, n) for n in range(PROCESSES))
    return of_mappings(dump, dump.zero_frames(), mappings, processes=processes)


def test_nobody_has_a_page(tmp_path: Path) -> None:
    """A dump of an unknown system has neither runs nor sets of owners."""
    (tmp_path / "dump").write_bytes(bytes(FRAMES * PAGE_SIZE))
    dump = open_dump(tmp_path / "dump")
    columns, held_by = owner_columns(of_mappings(dump, dump.zero_frames(), Mappings.join([])))
    assert not any(column.size for column in columns.values())
    assert held_by.tolist() == [0] * FRAMES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=_ROWS.filter(bool), at_once=st.sampled_from([3, 1 << 16]))
def test_owners_of_every_page(
    tmp_path: Path, rows: list[tuple[int, int, int, int, bool]], at_once: int
) -> None:
    """Each process has a page once, at its first address; user mode comes before the kernel."""
    best: dict[tuple[int, int], tuple[bool, int]] = {}
    for space, page, first, frames, user in rows:
        is_kernel = not user or space == SHARED
        holder = PROCESSES if space == SHARED else space
        for part in range(min(frames, FRAMES - first)):
            at = (page + part) % (1 << 52)
            key = first + part, holder
            best[key] = min(best.get(key, (True, 1 << 60)), (is_kernel, at))
    expected = {(frame, holder, *where) for (frame, holder), where in best.items()}

    with (
        patch("memory_visualizer.snapshot.owners.PIECE_FRAMES", at_once),
        patch("memory_visualizer.viewer.data._GROUPS_AT_ONCE", at_once),
    ):
        columns, held_by = owner_columns(snapshot_of(tmp_path / "dump", rows))
    unpacked = {name: column.tolist() for name, column in columns.items()}
    runs = zip(*(unpacked[f"run_{name}"] for name in ("frame", "length", "gap")), strict=True)
    members = iter(unpacked["members"])
    told = []
    for size, user, count in zip(
        *(unpacked[f"set_{name}"] for name in ("size", "user", "runs")), strict=True
    ):
        holders = [next(members) for _ in range(size)]
        at = 0
        for _ in range(count):
            frame, length, gap = next(runs)
            at = (at + gap) % (1 << 52)
            told += [(frame + n, who, not user, at + n) for n in range(length) for who in holders]
            at += length
    assert sorted(told) == sorted(expected)
    assert held_by.tolist() == [sum(key[0] == frame for key in best) for frame in range(FRAMES)]
