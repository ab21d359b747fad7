"""A 32-bit Linux kernel, found by the form of its page tables if its VMCOREINFO is lost.

The kernel has the last gigabyte of addresses, as usual, and maps low memory there contiguously,
mostly by large pages. Under PAE four pointers lead to its tables; the kernel's own root has only
the last pointer.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump, Search, Words
from memory_visualizer.linux.armform import longest_stretch
from memory_visualizer.linux.machine import Machine, i386_machine
from memory_visualizer.paging import (
    ACCESSED,
    ADDRESS,
    LARGE,
    MAY_WRITE,
    PAE,
    PRESENT,
    X86,
    Mappings,
    walk,
)
from memory_visualizer.paging.kernelhalf import TOUCHED
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

_BEGIN = 0xC000_0000
_NARROW_ADDRESS = 0xFFFF_F000
_PAE_COLUMNS = np.array([2, 3, 4, 6, 8, 12, 16, 32], np.uint64)
"""Entries of the kernel's gigabyte under PAE that are examined, each of 2 MiB."""
_PAIRS = np.array([1, 2, 3, 4, 5, 8], np.uint64)
"""Pairs of entries of 4 MiB without PAE; two entries stand in each word of 64 bits."""
_FIRST_PAIR = 384
_FEW = 2
"""At least this many of them must map low memory contiguously."""
_LAST_POINTER = 3
_TOUCHED = np.uint64(TOUCHED | TOUCHED << 32)
_WEIGHTS = np.cumprod(np.full(512 - _FIRST_PAIR, 0x9E37_79B9_7F4A_7C15, np.uint64))
_LEAST_IMAGE = 1 << 20


_Rows: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Rows as in LowMemorySearch."""


class LowMemorySearch(Search[_Rows]):
    """Finds tables that map low memory in a row, while the dump's contents pass by."""

    def __init__(self) -> None:
        self._directories: list[NDArray[np.int64]] = []
        """Rows of entries for user mode, entries for the kernel, frame, and _mark of the latter."""
        self._tables: list[NDArray[np.int64]] = []
        """Rows of frame and entries of tables of the kernel's gigabyte under PAE."""
        self._pointers: list[NDArray[np.int64]] = []
        """Rows of frame of a page with the last pointer only, and frame that it leads to."""

    @staticmethod
    def look(frames: NDArray[np.int64], words: Words) -> _Rows | None:
        """Look at some entries of each page."""
        flags = np.uint64(PRESENT | LARGE)
        mask = np.uint64(ADDRESS) | flags
        expected = _PAE_COLUMNS << np.uint64(21) | flags
        rows = _agree(words[:, _PAE_COLUMNS.astype(np.intp)] & mask, expected)
        tables = np.column_stack((frames[rows], _used(words[rows])))
        mask = np.uint64(_NARROW_ADDRESS) | flags
        lower = _PAIRS << np.uint64(23) | flags
        expected = lower | (lower + np.uint64(1 << 22)) << np.uint64(32)
        pairs = words[:, _PAIRS.astype(np.intp) + _FIRST_PAIR]
        rows = _agree(pairs & (mask | mask << np.uint64(32)), expected)
        of_user, own = words[rows, :_FIRST_PAIR], words[rows, _FIRST_PAIR:]
        directories = np.column_stack((_used(of_user), _used(own), frames[rows], _mark(own)))
        last = words[:, _LAST_POINTER]
        rows = np.flatnonzero(last & np.uint64(~(ADDRESS | ACCESSED) % 2**64) == np.uint64(PRESENT))
        rows = rows[_used(words[rows]) == 1]
        below = (last[rows] & np.uint64(ADDRESS)).astype(np.int64) // PAGE_SIZE
        pointers = np.column_stack((frames[rows], below))
        found = directories, tables, pointers
        return found if any(map(len, found)) else None

    def take(self, part: _Rows) -> None:
        """Add the rows of a block."""
        kept = self._directories, self._tables, self._pointers
        for batches, rows in zip(kept, part, strict=True):
            batches.append(rows)

    def directories(self) -> list[int]:
        """Frames of page directories without PAE, one of each kind, the likeliest first.

        Directories of a kind have the same entries for the kernel, as those of most processes do.
        The kernel's own directory has no entries for user mode, and the most for the kernel.
        """
        of_user, own, frames, marks = np.concatenate([_NO_ROWS_OF_4, *self._directories]).T
        order = np.lexsort((frames, -own, of_user))
        _, first = np.unique(marks[order], return_index=True)
        chosen: list[int] = frames[order[np.sort(first)]].tolist()
        return chosen

    def pointers(self) -> list[int]:
        """Frames of the kernel's own four pointers under PAE, one frame for each table.

        Pointers to tables with more entries come first.
        """
        tables, used = np.unique(np.concatenate([_NO_ROWS_OF_2, *self._tables]), axis=0).T
        frames, below = np.concatenate([_NO_ROWS_OF_2, *self._pointers]).T
        is_sound = np.isin(below, tables)
        frames, below = frames[is_sound], below[is_sound]
        used = used[np.searchsorted(tables, below)]
        order = np.lexsort((frames, -used))
        _, first = np.unique(below[order], return_index=True)
        chosen: list[int] = frames[order[np.sort(first)]].tolist()
        return chosen


_NO_ROWS_OF_2, _NO_ROWS_OF_4 = np.empty((0, 2), np.int64), np.empty((0, 4), np.int64)


def _used(words: Words) -> NDArray[np.int64]:
    """How many words of each row are not zero."""
    counts: NDArray[np.int64] = np.count_nonzero(words, axis=1)
    return counts


def _mark(entries: Words) -> NDArray[np.int64]:
    """A number for the contents of each row, without the bits that the processor sets."""
    sums: NDArray[np.uint64] = np.sum((entries & ~_TOUCHED) * _WEIGHTS, axis=1)
    return sums.view(np.int64)


def _agree(entries: NDArray[np.uint64], expected: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The rows that have enough of these entries."""
    return np.flatnonzero(np.count_nonzero(entries == expected, axis=1) >= _FEW)


def machines_by_form(
    memory: Dump, search: LowMemorySearch
) -> Iterator[tuple[int, Machine, TableMemory, int]]:
    """Frames of the kernel's own top level, the machine, its memory, and where its image begins."""
    with_pae, narrow = i386_machine(PAE), i386_machine(X86)
    for machine, tops in ((with_pae, search.pointers()), (narrow, search.directories())):
        for top in memory.budget.in_turn("kind of page directory", tops):
            roots = machine.roots_at(memory, np.array([top * PAGE_SIZE]))
            if (start := _image(memory, machine, roots)) is not None:
                kernel = TableMemory(memory, machine.kernel, roots[0].tolist())
                yield top, machine, kernel, start


def _image(memory: Dump, machine: Machine, roots: NDArray[np.int64]) -> int | None:
    """The first address of the longest stretch of low memory that cannot be written to.

    It holds the kernel's code and constants.
    """
    rows = Mappings.join(list(walk(memory, machine.kernel, roots)))
    begin = rows.pfn.astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(_BEGIN)
    rows = rows.take((rows.access & MAY_WRITE == 0) & (rows.virtual == begin))
    found = longest_stretch(rows)
    return found[0] if found and found[2] >= _LEAST_IMAGE else None
