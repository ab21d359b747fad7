"""Address spaces of a system that is not known, by what they share.

On x86-64 the top-level tables of one system's address spaces have the kernel's half in common, but
for the entry by which a table may name itself. So tables are looked for that are alike in that
half, and below which there are tables. Nothing tells here which of them are still in use, nor
whose they are.
"""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.dump import Dump, Words
from memory_visualizer.paging import ADDRESS, LARGE, PRESENT, X64, Mappings, is_held

_HALF = 256
_MOST_ENTRIES = 192
"""In each half of a top-level table; the tools that know real ones demand 64 that are empty."""
_TOUCHED = 0x60
"""The bits by which the processor notes that an entry was used (SDM 4.8)."""
_MAX_CANDIDATES = 1 << 14
_TABLES_AT_ONCE = 128
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
        frames = np.sort(np.concatenate([np.empty(0, np.int64), *self._found]))[:_MAX_CANDIDATES]
        return _alike(self._dump, frames, self._dump.read_frames(frames))


def _alike(dump: Dump, frames: NDArray[np.int64], tables: Words) -> NDArray[np.int64]:
    """Those of the tables that have the kernel's half in common."""
    if len(frames) < _LEAST_SPACES:
        return np.empty((0, 1), np.int64)
    sound = _lead_to_tables(dump, tables, 2)
    frames, tables = frames[sound], tables[sound]
    upper = tables[:, _HALF:] & ~np.uint64(_TOUCHED)
    own = (upper & np.uint64(ADDRESS)) >> np.uint64(12) == frames[:, None].astype(np.uint64)
    upper[own] = 0
    groups: dict[bytes, list[int]] = {}
    for frame, half in zip(frames.tolist(), upper, strict=True):
        groups.setdefault(half.tobytes(), []).append(frame)
    best: list[int] = []
    most = 0
    for half, members in groups.items():
        entries = int(np.count_nonzero(np.frombuffer(half, np.uint64)))
        if len(members) >= _LEAST_SPACES and len(members) * entries > most:
            best, most = members, len(members) * entries
    tops = np.array(best, np.int64)
    # The kernel's own table, and that of a process that is about to go, map nothing of their own.
    has_own = tables[np.searchsorted(frames, tops), :_HALF].any(axis=1)
    return (tops[has_own] if has_own.any() else tops)[:, None]


def _lead_to_tables(dump: Dump, tables: Words, depth: int) -> NDArray[np.bool_]:
    """Whether what all entries of a table lead to are tables as well, down to a depth."""
    row, column = np.nonzero(tables & np.uint64(PRESENT | LARGE) == PRESENT)
    target = ((tables[row, column] & np.uint64(ADDRESS)) >> np.uint64(12)).astype(np.int64)
    held = is_held(dump, target)
    below, number = np.unique(target[held], return_inverse=True)
    contents = dump.read_frames(below)
    used = contents != 0
    present = contents & np.uint64(PRESENT) != 0
    # Entries that are not present may hold anything, but not in most of a table.
    sound = present.any(axis=1)
    sound &= np.count_nonzero(present, axis=1) * 2 >= np.count_nonzero(used, axis=1)
    address = contents & np.uint64(ADDRESS)
    sound &= ~(present & (address >= np.uint64(1 << 46))).any(axis=1)
    if depth > 1 and len(below):
        sound[sound] = _lead_to_tables(dump, contents[sound], depth - 1)
    good = np.ones(len(row), bool)
    good[held] = sound[number]
    result = np.ones(len(tables), bool)
    result[row[~good]] = False
    # A table none of whose entries lead to a page of the dump is none.
    known = np.zeros(len(tables), bool)
    known[row[held]] = True
    if depth > 1:
        result &= known
    return result


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


PAGING = X64
"""The way of paging that is looked for."""
