"""Virtual memory of a Windows kernel, read by address through any address space."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct, mark_runs, union
from memory_visualizer.paging import SHARED, Mappings, PhysicalMemory, walk
from memory_visualizer.paging.virtualmemory import VirtualMemory
from memory_visualizer.printable import counted
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.toplevels import TopLevels

_KEPT_FRAMES = 1 << 14


class KernelMemory(VirtualMemory):
    """Virtual memory of the kernel, read by address."""

    remarks: tuple[str, ...] = ()
    """Sentences for the user on mappings that were left out."""

    def __init__(self, memory: PhysicalMemory, mappings: Mappings) -> None:
        # If there are several mappings at one address, the last one counts: mappings that processes
        # share belong to the kernel, a mapping of a single process is its own or false.
        is_shared = (mappings.space == SHARED).astype(np.uint64)
        order = np.argsort(mappings.virtual | is_shared, kind="stable")
        super().__init__(memory)
        self.mappings = mappings.take(order)
        self._frame_of: dict[int, int] = {}
        """Cache of frames by pages of virtual memory, for single requests."""

    def all_frames(self) -> NDArray[np.int64]:
        """All frames that the kernel maps, each once."""
        rows = self.mappings
        end = np.minimum(rows.pfn + rows.count, self.memory.frame_count)
        mapped = np.zeros(self.memory.frame_count, bool)
        mark_runs(mapped, rows.pfn, end - rows.pfn)
        return np.flatnonzero(mapped & self.memory.held)

    def virtual(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A virtual address of each of these frames; 0 if the kernel does not map the frame."""
        virtual = np.zeros(len(frames), np.uint64)
        asked = np.zeros(self.memory.frame_count, bool)
        asked[frames] = True
        rows = self.mappings
        single = rows.count == 1
        near = np.zeros(len(single), bool)
        near[single] = asked[rows.pfn[single]]
        # A large page may begin long before the frame, so large and small pages are searched
        # separately.
        for size in distinct(rows.count):
            of_size = rows.take(near if size == 1 else rows.count == size)
            if not len(of_size.pfn):
                continue
            of_size = of_size.take(np.argsort(of_size.pfn, kind="stable"))
            row = np.maximum(np.searchsorted(of_size.pfn, frames, "right") - 1, 0)
            inside = (frames >= of_size.pfn[row]) & (frames < of_size.pfn[row] + size)
            offset = ((frames - of_size.pfn[row]) * PAGE_SIZE).astype(np.uint64)
            virtual = np.where(inside, of_size.virtual[row] + offset, virtual)
        return virtual

    def frames(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """As in VirtualMemory, by the mappings."""
        rows = self.mappings
        if not len(rows.virtual):
            return np.full(len(addresses), -1, np.int64)
        row = np.maximum(np.searchsorted(rows.virtual, addresses, "right") - 1, 0)
        page = ((addresses - rows.virtual[row]) >> np.uint64(12)).astype(np.int64)
        inside = (addresses >= rows.virtual[row]) & (page < rows.count[row])
        return np.where(inside, rows.pfn[row] + page, -1)

    def frame(self, address: int) -> int:
        """As in VirtualMemory; members of an object that are read one by one share its page."""
        page = address % 2**64 // PAGE_SIZE
        if page not in self._frame_of:
            if len(self._frame_of) > _KEPT_FRAMES:
                self._frame_of.clear()
            self._frame_of[page] = super().frame(address)
        return self._frame_of[page]


class AllMemory(KernelMemory):
    """KernelMemory, and all frames that the kernel does not map, by their physical addresses.

    For dumps that lost the tables that lead to the kernel's objects. Physical addresses lie below
    the kernel's half, so they cannot be mistaken for its virtual addresses.
    """

    def __init__(self, kernel: KernelMemory, end: int) -> None:
        """`end` is where the kernel's half of virtual memory begins."""
        super().__init__(kernel.memory, kernel.mappings)
        self._end = min(end // PAGE_SIZE, self.memory.frame_count)

    def all_frames(self) -> NDArray[np.int64]:
        """All frames that can be read."""
        low = np.flatnonzero(self.memory.held[: self._end])
        return union(super().all_frames(), low)

    def virtual(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """An address of each frame: its virtual address if there is one, otherwise the physical."""
        virtual = super().virtual(frames)
        physical = np.where(frames < self._end, frames * PAGE_SIZE, 0).astype(np.uint64)
        return np.where(virtual == 0, physical, virtual)

    def frames(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """As in VirtualMemory."""
        frames = super().frames(addresses)
        is_low = addresses < np.uint64(self._end * PAGE_SIZE)
        return np.where(
            is_low & (frames < 0), (addresses >> np.uint64(12)).astype(np.int64), frames
        )


def kernel_memory(memory: PhysicalMemory, found: TopLevels) -> KernelMemory:
    """The memory that the kernel maps in any of these address spaces."""
    walked = walk(memory, found.paging, found.roots, kernel_only=True)
    kept, left_out = _up_to(memory.budget.limit("mapping"), walked)
    kernel = KernelMemory(memory, Mappings.join(kept))
    if left_out:
        kernel.remarks = (
            f"{counted(left_out, 'mapping')} of the kernel left out of the search for its objects:"
            " there are more than any machine has",
        )
    return kernel


def _up_to(limit: int, walked: Iterable[Mappings]) -> tuple[list[Mappings], int]:
    """The first `limit` mappings of a walk, and the number of the others.

    Only a dump made to waste memory has more.
    """
    kept: list[Mappings] = []
    left_out = 0
    for part in walked:
        fits = min(len(part.pfn), limit)
        limit -= fits
        left_out += len(part.pfn) - fits
        if fits:
            kept.append(part if fits == len(part.pfn) else part.take(np.arange(fits)))
    return kept, left_out
