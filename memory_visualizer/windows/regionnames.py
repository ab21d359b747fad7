"""Names of regions: heaps and stacks, by structures in each process's own memory.

The block of a thread (TEB) holds its own address, the address of the process's block (PEB), and the
bounds of the thread's stack. The process's block lists the heaps, and each segment of a heap has a
mark and the heap's address. So these structures confirm one another, and the regions confirm them.
Offsets come from Volatility 2's profiles and symbols of later kernels: they depend on the size of
pointers only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import mark_runs
from memory_visualizer.paging import Mappings, PhysicalMemory
from memory_visualizer.paging.virtualmemory import VirtualMemory
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.processlayout import OBJECT_BYTES
from memory_visualizer.windows.vadtrees import Trees

HEAP, STACK = "[heap]", "[stack]"
_NAMES = ("", HEAP, STACK)
_HEAP_CODE, _STACK_CODE = 1, 2
"""Indices in _NAMES."""
_MARKS = np.array([0xEEFFEEFF, 0xFFEEFFEE, 0xDDEEDDEE], np.uint64)
"""Marks at the beginning of a heap, of a segment, and of a segment heap (Windows 10)."""
_MARK_WORD = 2
_SMALL_PAGES, _COMMON_PAGES = 4, 512
"""The most pages of a region that holds the block of a single thread; and the size of a region that
holds several blocks since Windows 8.1."""
_FEW_VOTES = 2
"""The number of threads that outvotes a process object on the place of the process's block."""


@dataclass(frozen=True)
class _Places:
    """Offsets in blocks and heaps."""

    own: int
    """Self, in a thread's block. StackBase and StackLimit are its second and third word."""
    process: int
    """ProcessEnvironmentBlock, in a thread's block."""
    heap: int
    """ProcessHeap, in the process's block."""
    heap_count: int
    heaps: int
    """ProcessHeaps: the address of an array."""
    links: tuple[int, int]
    """Heap in a segment, since Vista and before."""


_PLACES = {
    8: _Places(0x30, 0x60, 0x30, 0xE8, 0xF0, (0x28, 0x18)),
    4: _Places(0x18, 0x30, 0x18, 0x88, 0x90, (0x18, 0x10)),
}
"""By the bytes of a pointer."""


def region_names(
    kernel: KernelMemory,
    trees: Trees,
    is_private: NDArray[np.bool_],
    processes: NDArray[np.int64],
    objects: NDArray[np.uint64],
    mappings: Mappings,
    pages: int,
) -> list[str]:
    """The name of each node's region, empty for most.

    `processes` and `objects` are index and process object of each tree, `mappings` the user-mode
    mappings, `pages` the number of pages of user mode's half.
    """
    codes = np.zeros(len(trees.node), np.uint8)
    shift = (pages * PAGE_SIZE - 1).bit_length()
    at_once = 1 << 63 - shift
    for first in range(0, len(processes), at_once):
        some = slice(first, first + at_once)
        rows = slice(trees.of(first).start, trees.of(first + at_once - 1).stop)
        memory = _UserMemory(kernel.memory, mappings, processes[some], shift)
        regions = _Regions.of(trees, rows, first, is_private[rows], shift)
        # On 64 bits a 32-bit program has blocks, heaps and stacks of both kinds (WOW64).
        for word in sorted({4, kernel.word}):
            memory.word = word
            own = _Namer(memory, regions, kernel, objects[some]).codes()
            codes[rows] = np.where(own, own, codes[rows])
    return [_NAMES[code] for code in codes.tolist()]


class _UserMemory(VirtualMemory):
    """User mode's memory of several processes.

    The number of a process stands in the bits of an address from `shift` on.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        mappings: Mappings,
        processes: NDArray[np.int64],
        shift: int,
    ) -> None:
        """`processes` are the address spaces of the processes, in the order of their numbers."""
        super().__init__(memory)
        self.shift = np.uint64(shift)
        spaces = int(max(mappings.space.max(initial=-1), processes.max(initial=-1))) + 2
        number = np.full(spaces, -1, np.int64)  # the last for SHARED, which is -1
        number[processes] = np.arange(len(processes))
        own = mappings.take(number[mappings.space] >= 0)
        starts = number[own.space].astype(np.uint64) << self.shift | own.virtual
        order = np.argsort(starts, kind="stable")
        self.starts = starts[order]
        self._own = own.take(order)

    def frames(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """As in VirtualMemory."""
        if not len(self.starts):
            return np.full(len(addresses), -1, np.int64)
        row = np.maximum(np.searchsorted(self.starts, addresses, "right") - 1, 0)
        page = ((addresses - self.starts[row]) >> np.uint64(12)).astype(np.int64)
        inside = (addresses >= self.starts[row]) & (page < self._own.count[row])
        frames: NDArray[np.int64] = np.where(inside, self._own.pfn[row] + page, -1)
        return frames

    def rows_in(self, start: NDArray[np.uint64], end: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of the present pages (`starts`) lie in some ranges of addresses."""
        low, high = np.searchsorted(self.starts, start), np.searchsorted(self.starts, end)
        inside = np.zeros(len(self.starts), bool)
        some = high > low
        mark_runs(inside, low[some], (high - low)[some])
        return inside


@dataclass(frozen=True, eq=False)
class _Regions:
    """Regions in columns, ascending; addresses as in _UserMemory."""

    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    is_private: NDArray[np.bool_]

    @classmethod
    def of(
        cls, trees: Trees, rows: slice, first: int, is_private: NDArray[np.bool_], shift: int
    ) -> "_Regions":
        """The regions of some nodes; the process of tree `first` has number 0."""
        above = (trees.tree[rows] - first).astype(np.uint64) << np.uint64(shift)
        page = np.uint64(PAGE_SIZE)
        start, end = (
            above + trees.start[rows] * page,
            above + (trees.end[rows] + np.uint64(1)) * page,
        )
        return cls(start, end, is_private)

    def row_of(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The row of the private region that holds each address; -1 if there is none."""
        if not len(self.start):
            return np.full(len(addresses), -1, np.int64)
        row = np.maximum(np.searchsorted(self.start, addresses, "right") - 1, 0)
        inside = (addresses >= self.start[row]) & (addresses < self.end[row])
        return np.where(inside & self.is_private[row], row, -1)


@dataclass(frozen=True, eq=False)
class _Threads:
    """Pages that may be blocks of threads, in columns. Addresses are without process numbers."""

    process: NDArray[np.int64]
    own: NDArray[np.bool_]
    """Whether the page holds its own address."""
    block: NDArray[np.uint64]
    """The address of the process's block, by this page."""
    base: NDArray[np.uint64]
    limit: NDArray[np.uint64]


class _Namer:
    """Names the regions of some processes."""

    def __init__(
        self,
        memory: _UserMemory,
        regions: _Regions,
        kernel: KernelMemory,
        objects: NDArray[np.uint64],
    ) -> None:
        self._memory = memory
        self._regions = regions
        self._kernel = kernel
        self._objects = objects
        self._places = _PLACES[memory.word]
        self._mask = (np.uint64(1) << memory.shift) - np.uint64(1)
        self._budget = kernel.memory.budget

    def codes(self) -> NDArray[np.uint8]:
        """An index in _NAMES for each region."""
        codes = np.zeros(len(self._regions.start), np.uint8)
        threads = self._threads()
        blocks = self._blocks(threads)
        codes[self._stacks(threads, blocks)] = _STACK_CODE
        codes[self._heaps(blocks)] = _HEAP_CODE
        return codes

    def _of(self, process: NDArray[np.int64], address: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Addresses with the numbers of their processes."""
        return (process.astype(np.uint64) << self._memory.shift) + address

    def _is_block(self, address: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which addresses may be those of a process's block."""
        aligned: NDArray[np.bool_] = address % np.uint64(PAGE_SIZE) == 0
        aligned &= (address > 0) & (address <= self._mask)
        return aligned

    def _threads(self) -> _Threads:
        """All pages that may be blocks of threads: by their regions, or outside of all regions."""
        regions, places, word = self._regions, self._places, self._memory.word
        size = (regions.end - regions.start) // np.uint64(PAGE_SIZE)
        likely = regions.is_private & ((size <= _SMALL_PAGES) | (size == _COMMON_PAGES))
        chosen = ~self._memory.rows_in(regions.start, regions.end)
        chosen |= self._memory.rows_in(regions.start[likely], regions.end[likely])
        pages = self._memory.starts[chosen]
        process = (pages >> self._memory.shift).astype(np.int64)
        count = np.bincount(process, minlength=len(self._objects))
        taken = self._budget.shares("possible block of a thread", count)
        some = _numbers(count) < taken[process]
        pages, process = pages[some], process[some]
        members = (places.own, places.process, word, 2 * word)
        (own, block, base, limit), _ = self._memory.members(pages, members)
        return _Threads(process, own == (pages & self._mask), block, base, limit)

    def _blocks(self, threads: _Threads) -> NDArray[np.uint64]:
        """The address of each process's block, 0 if unknown.

        The process object tells it, at the offset where most process objects agree with their
        threads; several threads that agree with one another outvote the object. Only threads tell
        the block of a process whose pointers are narrower than the kernel's.
        """
        told, votes = self._blocks_by_threads(threads)
        if self._memory.word != self._kernel.word:
            return told
        contents = self._kernel.read_partly(self._objects, OBJECT_BYTES[8 * self._kernel.word])
        words = self._kernel.words(contents)
        right = np.count_nonzero((words == told[:, None]) & (told != 0)[:, None], axis=0)
        if not right.any():
            return told
        by_object = words[:, int(np.argmax(right))]
        by_object = np.where(self._is_block(by_object), by_object, np.uint64(0))
        chosen: NDArray[np.uint64] = np.where(votes < _FEW_VOTES, by_object, told)
        return np.where(chosen == 0, told, chosen)

    def _blocks_by_threads(self, threads: _Threads) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The block by most threads of each process, 0 without threads; and their number."""
        told = np.zeros(len(self._objects), np.uint64)
        votes = np.zeros(len(self._objects), np.int64)
        chosen = threads.own & self._is_block(threads.block)
        pairs = self._of(threads.process[chosen], threads.block[chosen])
        some, count = np.unique(pairs, return_counts=True)
        order = np.argsort(count, kind="stable")  # the last write for a process counts
        process = (some[order] >> self._memory.shift).astype(np.int64)
        told[process], votes[process] = some[order] & self._mask, count[order]
        return told, votes

    def _stacks(self, threads: _Threads, blocks: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The rows of stacks.

        A stack is believed if it ends with a private region, and at least one of two addresses in
        its thread's block is right: that of the block itself, and that of the process's block.
        """
        is_proven = threads.own | (
            self._is_block(threads.block) & (threads.block == blocks[threads.process])
        )
        sound = is_proven & (threads.limit < threads.base) & (threads.base <= self._mask)
        process = threads.process[sound]
        rows = self._regions.row_of(self._of(process, threads.limit[sound]))
        if not len(self._regions.end):
            return rows[:0]
        ends = self._regions.end[np.maximum(rows, 0)]
        fits: NDArray[np.bool_] = (rows >= 0) & (ends == self._of(process, threads.base[sound]))
        return rows[fits]

    def _heaps(self, blocks: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The rows of heaps, and of their further segments.

        A heap is believed if it begins a private region, and a list names it, or it has a mark and
        its own address. A segment is believed if it has a mark and the address of a heap that is
        listed or believed.
        """
        regions, memory = self._regions, self._memory
        listed = self._listed_heaps(blocks)
        rows = np.flatnonzero(regions.is_private)
        starts = regions.start[rows]
        is_heap = np.isin(starts, listed)
        marks, _ = memory.numbers(starts + np.uint64(_MARK_WORD * memory.word), 4)
        links, _ = memory.members(starts, self._places.links)
        is_marked = np.isin(marks, _MARKS)
        is_heap |= is_marked & (links == starts & self._mask).any(axis=0)
        known = np.concatenate((listed, starts[is_heap]))
        process = (starts >> memory.shift).astype(np.int64)
        is_heap |= is_marked & np.isin(self._of(process, links & self._mask), known).any(axis=0)
        return rows[is_heap]

    def _listed_heaps(self, blocks: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The heaps that the processes' blocks list."""
        memory, places, word = self._memory, self._places, self._memory.word
        process = np.flatnonzero(blocks)
        at = self._of(process, blocks[process])
        (first, array), _ = memory.members(at, (places.heap, places.heaps))
        told = memory.numbers(at + np.uint64(places.heap_count), 4)[0].astype(np.int64)
        count = self._budget.shares("heap", np.where(array <= self._mask, told, 0))
        begins = np.repeat(self._of(process, array & self._mask), count)
        entries = begins + _numbers(count).astype(np.uint64) * np.uint64(word)
        heaps, _ = memory.numbers(entries)
        of = (entries >> memory.shift).astype(np.int64)
        found = np.concatenate((self._of(process, first), self._of(of, heaps)))
        plain = np.concatenate((first, heaps))
        return found[(plain > 0) & (plain <= self._mask)]


def _numbers(count: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from 0 to each owner's count less one, owner by owner."""
    numbers: NDArray[np.int64] = np.arange(int(count.sum())) - np.repeat(
        np.cumsum(count) - count, count
    )
    return numbers
