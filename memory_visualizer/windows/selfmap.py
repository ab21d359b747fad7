"""The window through which Windows accesses its own page tables: the addresses of their entries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import ADDRESS, PAE, PRESENT, Paging, PhysicalMemory, is_held

_SAMPLED_ROOTS = 64
"""An even sample of top-level tables: sound ones name themselves by the same entry."""


@dataclass(frozen=True)
class SelfMap:
    """The range in which the current address space's tables appear as one array of entries."""

    paging: Paging
    base: int
    """Virtual address of the entry that maps address 0."""

    @classmethod
    def of(
        cls, memory: PhysicalMemory, paging: Paging, tops: NDArray[np.int64]
    ) -> "SelfMap | None":
        """The window of most of these top-level tables; None if none names itself.

        `tops` are frames, shape (n, paging.top_frames).
        """
        if paging.architecture is PAE:
            index = paging.software.self_entries.start
        else:
            tops = tops[is_held(memory, tops[:, 0]), :1]
            tops = tops[:: -(-len(tops) // _SAMPLED_ROOTS) or 1]
            own = paging.software.self_entries
            entries = paging.decode(memory.read_frames(tops[:, 0]))[:, own.start : own.stop]
            named = (entries & np.uint64(ADDRESS)) >> np.uint64(12) == tops.astype(np.uint64)
            named &= entries & np.uint64(PRESENT) != 0
            counts = np.count_nonzero(named, axis=0)
            if not counts.size or not counts.max():
                return None
            index = own.start + int(np.argmax(counts))
        base = np.array([index << paging.levels[0].shift], np.uint64)
        return cls(paging, int(paging.canonical(base)[0]))

    @property
    def size(self) -> int:
        """Bytes of the window."""
        return (1 << self.paging.address_bits - 12) * self.paging.entry_bytes

    @property
    def user_end(self) -> int:
        """The end of user mode's half of the addresses."""
        return 1 << self.paging.address_bits - 1

    @property
    def kernel_begin(self) -> int:
        """The first address of the kernel's half."""
        return int(self.paging.canonical(np.array([self.user_end], np.uint64))[0])

    def shows(self, addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which addresses lie in the window."""
        shown: NDArray[np.bool_] = addresses - np.uint64(self.base) < np.uint64(self.size)
        return shown

    def entry(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Addresses of entries, without the lowest bits, which Windows uses as locks and marks."""
        return words & ~np.uint64(self.paging.entry_bytes - 1)

    def page(self, entries: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The first address of the page that each entry in the window maps, canonical."""
        number = (entries - np.uint64(self.base)) // np.uint64(self.paging.entry_bytes)
        return self.paging.canonical(number << np.uint64(12))
