"""Address spaces of a system that is not known, by what they share.

On x86-64 the top-level tables of one system's address spaces have the kernel's half in common, but
for the entry by which a table may name itself. So tables are looked for that are alike in that
half, and below which there are tables. Nothing tells here which of them are still in use, nor
whose they are.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.dump import Dump, Words
from memory_visualizer.paging import (
    ADDRESS,
    LARGE,
    PRESENT,
    X64,
    Mappings,
    as_processor_has_it,
    is_held,
    most_spaces,
    most_tables,
)

_HALF = 256
_MOST_ENTRIES = 192
"""In each half of a top-level table; the tools that know real ones demand 64 that are empty."""
_TOUCHED = 0x60
"""The bits by which the processor notes that an entry was used (SDM 4.8)."""
_MAX_CANDIDATES = 1 << 14
_TABLES_AT_ONCE = 128
_FAR = np.uint64(1 << 46)
"""No machine has memory from here on, at 64 TiB; devices are seldom so far up."""
_LEAST_SPACES = 2
_DIRECT_SHARE = 0.5
"""The part of memory from which on what the kernel maps at one distance is all memory."""


class SpaceSearch:
    """Finds pages that could be top-level tables while contents pass by, block after block.

    Blocks may come in any order, and from several threads.
    """

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._limit = np.uint64(dump.frame_count << 12)
        self._found: list[NDArray[np.int64]] = []

    def look_at(self, frames: NDArray[np.int64], words: Words) -> None:
        """Look at frames, with their contents."""
        bits = np.packbits(words[:, _HALF:] != 0, axis=1).view(np.uint64)
        used = np.bitwise_count(bits).sum(axis=1)
        rows = np.flatnonzero((used > 0) & (used <= _MOST_ENTRIES))
        for start in range(0, len(rows), _TABLES_AT_ONCE):
            part = rows[start : start + _TABLES_AT_ONCE]
            chosen = words[part]
            empty = chosen == 0
            address = chosen & np.uint64(ADDRESS)
            leads = chosen & np.uint64(PRESENT | LARGE) == PRESENT
            leads &= (address > 0) & (address < self._limit)
            sound = (empty | leads).all(axis=1)
            sound &= np.count_nonzero(~empty[:, :_HALF], axis=1) <= _MOST_ENTRIES
            if sound.any():
                self._found.append(frames[part[sound]])

    def found(self) -> NDArray[np.int64]:
        """Frames of the tables that speak for one another; shape (n, 1), n may be 0."""
        most = min(_MAX_CANDIDATES, most_spaces(self._dump))
        frames = np.sort(np.concatenate([np.empty(0, np.int64), *self._found]))[:most]
        return _alike(self._dump, frames[_lead_to_tables(self._dump, frames)])


def _alike(dump: Dump, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the tables that have the kernel's half in common."""
    groups: dict[bytes, list[int]] = {}
    entries: dict[bytes, int] = {}
    has_own = np.zeros(dump.frame_count, bool)
    for part, tables in _in_parts(dump, frames):
        # The kernel's own table, and that of a process about to go, map nothing of their own.
        has_own[part] = tables[:, :_HALF].any(axis=1)
        upper = tables[:, _HALF:] & ~np.uint64(_TOUCHED)
        upper[(upper & np.uint64(ADDRESS)) >> np.uint64(12) == part[:, None].astype(np.uint64)] = 0
        for frame, half in zip(part.tolist(), upper, strict=True):
            key = hashlib.blake2b(half.tobytes()).digest()
            groups.setdefault(key, []).append(frame)
            entries[key] = int(np.count_nonzero(half))
    best: list[int] = []
    most = 0
    for key, members in groups.items():
        if len(members) >= _LEAST_SPACES and len(members) * entries[key] > most:
            best, most = members, len(members) * entries[key]
    tops = np.array(best, np.int64)
    return (tops[has_own[tops]] if has_own[tops].any() else tops)[:, None]


def _lead_to_tables(dump: Dump, tops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tables lead to what looks like tables, and these, too, to nothing else.

    A table none of whose entries lead to a page of the dump is none.
    """
    # More tables than any machine has are a trick: those beyond are not believed.
    below = np.flatnonzero(_targets(dump, tops))[: most_spaces(dump)]
    deeper = np.flatnonzero(_targets(dump, below))[: most_tables(dump) // 4]
    is_table = np.zeros(dump.frame_count, bool)
    is_table[deeper] = _look_like_tables(dump, deeper)
    sound = _look_like_tables(dump, below) & _lead_only_to(dump, below, is_table)[0]
    is_table[:] = False
    is_table[below[sound]] = True
    only, any_ = _lead_only_to(dump, tops, is_table)
    return only & any_


def _in_parts(
    dump: Dump, frames: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Frames and their contents, so many as are read at once."""
    for start in range(0, len(frames), _TABLES_AT_ONCE):
        part = frames[start : start + _TABLES_AT_ONCE]
        yield part, dump.read_frames(part)


def _leading(dump: Dump, tables: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Row of each entry that leads to a table that the dump holds, and that table's frame."""
    row, column = np.nonzero(tables & np.uint64(PRESENT | LARGE) == PRESENT)
    target = ((tables[row, column] & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)
    held = is_held(dump, target)
    return row[held], target[held]


def _targets(dump: Dump, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """By PFN: whether an entry of these tables leads there."""
    found = np.zeros(dump.frame_count, bool)
    for _, tables in _in_parts(dump, frames):
        found[_leading(dump, tables)[1]] = True
    return found


def _lead_only_to(
    dump: Dump, frames: NDArray[np.int64], allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tables lead, within the dump, to nothing but allowed frames; and which to any frame."""
    only, any_ = np.ones(dump.frame_count, bool), np.zeros(dump.frame_count, bool)
    for part, tables in _in_parts(dump, frames):
        row, target = _leading(dump, tables)
        only[part[row[~allowed[target]]]] = False
        any_[part[row]] = True
    return only[frames], any_[frames]


def _look_like_tables(dump: Dump, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames hold entries that are present, and little else."""
    sound = np.zeros(dump.frame_count, bool)
    for part, contents in _in_parts(dump, frames):
        present = contents & np.uint64(PRESENT) != 0
        # Entries that are not present may hold anything, but not in most of a table.
        few = np.count_nonzero(present, axis=1)
        is_table = (few > 0) & (2 * few >= np.count_nonzero(contents, axis=1))
        is_table &= ~(present & (contents & np.uint64(ADDRESS) >= _FAR)).any(axis=1)
        sound[part] = is_table
    return sound[frames]


def without_direct_map(mappings: Mappings, held: NDArray[np.bool_]) -> tuple[Mappings, bool]:
    """Leave out the kernel's view of all memory, if it has one, and say whether it has.

    Such a view, at one distance from the physical addresses, tells nothing of what a page is.
    """
    kernel = ~mappings.is_user
    distance = mappings.virtual - (mappings.frame.astype(np.uint64) << np.uint64(12))
    values, group = np.unique(distance[kernel], return_inverse=True)
    if not len(values):
        return mappings, False
    covered = np.bincount(group, weights=mappings.frames[kernel])
    largest = int(np.argmax(covered))
    if covered[largest] < _DIRECT_SHARE * np.count_nonzero(held):
        return mappings, False
    return mappings.take(~(kernel & (distance == values[largest]))), True


PAGING = as_processor_has_it(X64)
"""The way of paging that is looked for."""
