"""Entries that name neither memory nor a device, though the processor allows them.

A processor reserves the bits of an entry above its physical width (SDM volume 3A, 4.1.4), which a
dump does not tell. But memory has low addresses, and the memory of a device is mapped contiguously.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging.architecture import Entries
from memory_visualizer.paging.memory import PhysicalMemory
from memory_visualizer.paging.software import Paging

_NEAR_BITS = 34
_NEAR_TIMES = 64
"""Memory is expected below 16 GiB, or below this multiple of the dump's size, since a dump may be
cut short."""
_FEWEST = 8
"""Fewer entries of a table prove nothing: some devices have a page or two."""
_GIGABYTE_BITS = 18
"""Bits of a PFN within a gigabyte: a device's memory lies within an aligned gigabyte, or within
several."""
_PLACE_BITS = 32
"""More bits than the number of a gigabyte has; the number of the table stands above them."""


def width_by_size(memory: PhysicalMemory) -> int:
    """The bits of a physical address that a machine uses, by the size of its dump."""
    return max(_NEAR_BITS, (_NEAR_TIMES * memory.frame_count - 1).bit_length() + 12)


class Leading(NamedTuple):
    """Entries of one level's tables that lead somewhere, in order; a row for each."""

    table: NDArray[np.intp]
    """The number of the entry's table."""
    slot: NDArray[np.intp]
    """Index of the entry in its table."""
    entry: Entries
    frame: NDArray[np.int64]
    """The frame that the entry names."""

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "Leading":
        """Some of the rows."""
        return Leading(self.table[rows], self.slot[rows], self.entry[rows], self.frame[rows])


def are_beyond(paging: Paging, number: int, leading: Leading, width: int) -> NDArray[np.bool_]:
    """Which entries name neither memory nor a device, in a machine with addresses of `width`.

    `leading` must have all entries of its tables that the processor follows. Tables lie in memory,
    so an entry for a table beyond the width is wrong. Pages beyond the width may belong to a
    device: such pages are mapped contiguously, or within a gigabyte of pages that are.
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
