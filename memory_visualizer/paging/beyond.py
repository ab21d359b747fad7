"""Entries that name neither memory nor a device, though the processor would allow them.

A processor reserves the bits of an entry above its physical width (SDM volume 3A, 4.1.4), which a
dump does not tell. But memory lies low, and a device's memory is mapped page after page.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging.architecture import Entries
from memory_visualizer.paging.memory import PhysicalMemory
from memory_visualizer.paging.software import Paging

_NEAR_BITS = 34
_NEAR_TIMES = 64
"""Memory lies below 16 GiB, or so many times the size of the dump, which may be cut short."""
_FEWEST = 8
"""Fewer entries of a table tell nothing: some devices have a page or two."""
_GIGABYTE_BITS = 18
"""Of a PFN: a device's memory lies within an aligned gigabyte, or within several."""
_PLACE_BITS = 32
"""More than a gigabyte's number has: before them stands the number of a table."""


def width_by_size(memory: PhysicalMemory) -> int:
    """The bits of a physical address that a machine uses, as the size of its dump tells."""
    return max(_NEAR_BITS, (_NEAR_TIMES * memory.frame_count - 1).bit_length() + 12)


class Leading(NamedTuple):
    """Entries of some tables of one level that lead somewhere, in their order; a row for each."""

    table: NDArray[np.intp]
    """The number of its table."""
    slot: NDArray[np.intp]
    """Its index in that table."""
    entry: Entries
    frame: NDArray[np.int64]
    """What it names."""

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "Leading":
        """Some of the rows."""
        return Leading(self.table[rows], self.slot[rows], self.entry[rows], self.frame[rows])


def are_beyond(paging: Paging, number: int, leading: Leading, width: int) -> NDArray[np.bool_]:
    """Which entries name neither memory nor a device, where a machine uses addresses of `width`.

    They are all of their tables that the processor follows. Tables lie in memory, so one beyond the
    width is none. Pages beyond it may be a device's: such pages are mapped side by side, or within
    a gigabyte of others that are.
    """
    beyond: NDArray[np.bool_] = leading.frame >= 1 << (width - 12)
    if not beyond.any():
        return beyond
    level = paging.levels[number]
    rows = np.flatnonzero(beyond)
    if number < len(paging.levels) - 1:
        rows = rows[paging.is_large(leading.entry[rows], level)]
    few = np.bincount(leading.table)[leading.table[rows]] < _FEWEST
    table, slot, _, frame = leading.take(rows)
    follows = (np.diff(slot) == 1) & (np.diff(frame) == level.pages) & (np.diff(table) == 0)
    place = table << _PLACE_BITS | frame >> _GIGABYTE_BITS
    of_device = np.concatenate((place[:-1][follows], place[1:][follows]))
    beyond[rows[few | np.isin(place, of_device)]] = False
    return beyond
