"""Entries of top-level page tables with flipped bits, found by comparison with all other tables.

All address spaces share the kernel's entries. An entry that differs by a bit or two from the same
entry of nearly all other tables leads to a page that is not a table of the kernel: the entries of
this page would be painted as the kernel's.
"""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import (
    ADDRESS,
    PRESENT,
    Paging,
    PhysicalMemory,
    frames_there,
    is_held,
)
from memory_visualizer.paging.kernelhalf import TOUCHED
from memory_visualizer.printable import counted
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.toplevels import most_common

_FLIPPED_BITS = 2
"""How many bits may differ; an entry that differs by more was changed on purpose."""
_ODD_SHARE = 10
"""At most one in this many tables, but at least one table, may differ in an entry from all
others."""
_FEWEST = 4
_TABLES_AT_ONCE = 1 << 10
"""Tables that are compared with one another."""


class MendedEntries:
    """Memory in which such entries have the value of all other tables."""

    def __init__(self, memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> None:
        """`roots` as for walk."""
        self._memory = memory
        self.frame_count, self.held = memory.frame_count, memory.held
        self.budget = memory.budget
        self.there = frames_there(memory)
        self._width = PAGE_SIZE // paging.entries
        self._mended: dict[int, list[tuple[int, int]]] = defaultdict(list)
        """Index and value of the mended entries, by the frames of their tables."""
        held = np.flatnonzero(is_held(memory, roots[:, -1]))
        rows = held[np.unique(roots[held, -1], return_index=True)[1]]
        # Every batch takes tables from all over the memory, so that no batch is small or peculiar.
        batches = -(-len(rows) // _TABLES_AT_ONCE)
        for first in range(batches):
            self._compare(paging, roots[rows[first::batches]])

    def _compare(self, paging: Paging, roots: NDArray[np.int64]) -> None:
        """Note entries that differ from the same entry of nearly all of these tables."""
        if len(roots) < _FEWEST:
            return
        memory, frames = self._memory, roots[:, -1]
        entries = paging.decode(memory.read_frames(frames)) & ~np.uint64(TOUCHED)
        half = paging.entries // 2 if paging.top_frames == 1 else 0
        entries = entries[:, half:]
        # Each table names its own directories: without their frames these entries are equal, too.
        own = np.zeros_like(entries)
        for directory in roots.T.astype(np.uint64) * np.uint64(PAGE_SIZE):
            names = np.count_nonzero(entries & np.uint64(ADDRESS) == directory[:, None], axis=0)
            own[:, 2 * names > len(frames)] = directory[:, None]
        common, count = most_common(entries ^ own)
        fewest = len(frames) - max(1, len(frames) // _ODD_SHARE)
        bits = np.bitwise_count(entries ^ own ^ common)
        # The right values of the entries that name PAE's directories are known.
        is_known = (own != 0) & (paging.top_frames > 1)
        odd = (bits > 0) & (is_known | (bits <= _FLIPPED_BITS)) & (count >= fewest)
        odd &= common & np.uint64(PRESENT) != 0
        for row, column in np.argwhere(odd).tolist():
            value = int(common[column] ^ own[row, column])
            self._mended[int(frames[row])].append((half + column, value))

    @property
    def remarks(self) -> list[str]:
        """A sentence with the number of mended entries."""
        count = sum(map(len, self._mended.values()))
        if not count:
            return []
        return [
            f"{counted(count, 'entry', 'entries')} of top-level page tables"
            f" {'differs' if count == 1 else 'differ'} by a bit or two from the same entry of"
            f" nearly all other tables, and {'was' if count == 1 else 'were'} corrected"
        ]

    def read_frames(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """As in PhysicalMemory."""
        words = self._memory.read_frames(frames)
        if self._mended:
            entries = words.view(f"<u{self._width}")
            for row in np.flatnonzero(np.isin(frames, list(self._mended))).tolist():
                for index, value in self._mended[int(frames[row])]:
                    entries[row, index] = value
        return words
