"""Memory of one address space, as its page tables translate it.

Few addresses are translated here; `paging.walk` reads whole tables.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging.memory import PhysicalMemory
from memory_visualizer.paging.software import Paging
from memory_visualizer.paging.tables import read_tables
from memory_visualizer.paging.translate import frames_behind
from memory_visualizer.paging.virtualmemory import VirtualMemory
from memory_visualizer.paging.width import with_voted_width
from memory_visualizer.units import PAGE_SIZE

_KEPT_REGIONS = 1 << 14
_FEW_PAGES = 1 << 8
"""Batches up to this size are looked up among the pages of earlier batches: lists and trees are
read with many small batches, mostly of the same pages."""
_KEPT_PAGES = 1 << 16
_NOTHING = np.full(512 * 16, -1, np.int64)
_ADDRESSES_AT_ONCE = 1 << 11
"""Each address may need a table of its own."""


class TableMemory(VirtualMemory):
    """An address space by its top-level table; pages that are not mapped or not held read as None.

    The budget limits the number of tables that are read one by one.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        paging: Paging,
        top: int | Sequence[int],
        regular: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        """`top` is the first frame of the top-level table, or the roots of the top level.

        `regular` are contiguously mapped stretches, each as first address, end, and first frame:
        they replace tables that are lost.
        """
        super().__init__(memory)
        if isinstance(top, int):
            self._roots = [*paging.architecture.roots_at(np.array([top * PAGE_SIZE]))[0].tolist()]
        else:
            self._roots = [*top]
        self._paging = with_voted_width(memory, paging, np.array(self._roots))
        self.regular = tuple(regular)
        self.word = 4 if paging.address_bits == 32 else 8
        """Bytes of a pointer."""
        self.upper = 0xC000_0000 if self.word == 4 else 1 << 63
        """A lower bound of the kernel's addresses."""
        self._regions: dict[int, NDArray[np.int64] | range] = {}
        """Frames behind addresses, in pieces as large as a table of the lowest level covers."""
        self._tables: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
        """Tables that were read, by frame and level."""
        self._translations: dict[int, int] = {}
        """Frames behind pages of earlier small batches, by page number."""
        self._tables_left = memory.budget.limit("table of the kernel")

    @property
    def roots(self) -> tuple[int, ...]:
        """The roots of its top level: see Architecture.roots_at."""
        return tuple(self._roots)

    def with_regular(self, stretch: tuple[int, int, int]) -> "TableMemory":
        """The same memory with one more contiguously mapped stretch."""
        return TableMemory(self.memory, self._paging, self._roots, (*self.regular, stretch))

    def frames(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """As in VirtualMemory."""
        if len(addresses) > _FEW_PAGES:
            return self._translated(addresses)
        numbers = (addresses // np.uint64(PAGE_SIZE)).tolist()
        new = [number for number in dict.fromkeys(numbers) if number not in self._translations]
        if len(self._translations) + len(new) > _KEPT_PAGES:
            self._translations.clear()
            new = list(dict.fromkeys(numbers))
        if new:
            found = self._translated(np.array(new, np.uint64) * np.uint64(PAGE_SIZE))
            self._translations.update(zip(new, found.tolist(), strict=True))
        return np.array([self._translations[number] for number in numbers], np.int64)

    def _translated(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        frames = np.empty(len(addresses), np.int64)
        for start in range(0, len(addresses), _ADDRESSES_AT_ONCE):
            part = addresses[start : start + _ADDRESSES_AT_ONCE]
            top = np.full(len(part), self._roots[0], np.int64)
            if len(self._roots) > 1:
                index = (part >> np.uint64(self._paging.levels[0].shift)).view(np.int64)
                top = np.array(self._roots)[index // self._paging.entries % len(self._roots)]
            frames[start : start + len(part)] = frames_behind(self.memory, self._paging, top, part)
        for first, end, frame in self.regular:
            lost = (frames < 0) & (addresses >= np.uint64(first)) & (addresses < np.uint64(end))
            inside = (addresses[lost] - np.uint64(first)) // np.uint64(PAGE_SIZE)
            frames[lost] = inside.astype(np.int64) + frame
        return frames

    def are_canonical(self, addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which addresses are as the processor demands in the bits that it does not translate."""
        translated = np.uint64((1 << self._paging.address_bits) - 1)
        sound: NDArray[np.bool_] = self._paging.canonical(addresses & translated) == addresses
        return sound

    def frame(self, address: int) -> int:
        """As in VirtualMemory; the tables on the way are kept."""
        pages = self._paging.entries * self._paging.architecture.page_frames
        number = address // PAGE_SIZE
        region = self._regions.get(number // pages)
        if region is None:
            if len(self._regions) > _KEPT_REGIONS:
                self._regions.clear()
            region = self._regions[number // pages] = self._region(address)
        frame = int(region[number % pages])
        if frame < 0:
            for first, end, start in self.regular:
                if first <= address < end:
                    return (address - first) // PAGE_SIZE + start
        return frame

    def _region(self, address: int) -> "NDArray[np.int64] | range":
        """The frames of the lowest-level table, real or assumed, that covers an address."""
        paging, parts = self._paging, self._paging.architecture.page_frames
        pages = paging.entries * parts
        table, begin, entries = self._root_of(address)
        for number, (level, below) in enumerate(pairwise(paging.levels)):
            targets, is_large = self._table(table, number)
            index = (address >> level.shift) % entries + begin
            begin, entries = 0, paging.entries
            target = int(targets[index])
            if target >= 0 and is_large[index]:
                first = target + (address >> 12) % level.pages // pages * pages
                return range(first, first + pages)
            if target < 0:
                return _NOTHING
            table = target + (address >> below.shift) // paging.entries % parts
        frames = self._table(table, len(paging.levels) - 1)[0]
        if parts == 1:
            return frames
        return np.where(frames[:, None] < 0, -1, frames[:, None] + np.arange(parts)).ravel()

    def _root_of(self, address: int) -> tuple[int, int, int]:
        """The top-level frame for an address, its first entry, and its number of entries."""
        architecture = self._paging.architecture
        frame = (address >> self._paging.levels[0].shift) // architecture.entries
        root = np.array([self._roots[frame % len(self._roots)]])
        entries = architecture.entries if architecture.is_whole else architecture.root_entries
        begin = architecture.index_of_roots(root)[0]
        return int(architecture.frames_of_roots(root)[0]), int(begin), entries

    def _table(self, frame: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The frame that each entry of a table leads to, -1 for none; and which map large pages."""
        known = self._tables.get((frame, number))
        if known is None:
            if not self._tables_left:
                self.memory.budget.refuse("table of the kernel", 1)
                return _NOTHING, _NOTHING > 0
            self._tables_left -= 1
            targets, is_page = read_tables(self.memory, self._paging, number, np.array([frame]))
            known = self._tables[frame, number] = targets[0], is_page[0]
        return known
