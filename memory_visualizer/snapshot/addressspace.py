"""A process's memory by virtual address, read through its mappings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import Mappings
from memory_visualizer.units import PAGE_SIZE


@dataclass(frozen=True, eq=False, repr=False)
class AddressSpace:
    """Some mappings, a row for each, in ascending order of their virtual addresses."""

    first: NDArray[np.uint64]
    """Address of the first byte."""
    frame: NDArray[np.int64]
    """First frame."""
    count: NDArray[np.int64]
    """How many frames."""

    @classmethod
    def of(cls, mappings: Mappings, space: int) -> "AddressSpace":
        """The mappings of a process, by its index; with SHARED, the mappings that all share."""
        rows = np.flatnonzero(mappings.space == space)
        rows = rows[np.argsort(mappings.virtual[rows], kind="stable")]
        return cls(mappings.virtual[rows], mappings.pfn[rows], mappings.count[rows])

    def frames(self, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The frame behind each page, given by its first address; -1 where nothing is mapped."""
        if not len(self.first):
            return np.full(len(pages), -1, np.int64)
        row = np.maximum(np.searchsorted(self.first, pages, "right") - 1, 0)
        # Below the first mapping, this wraps around to a huge number.
        inside = (pages - self.first[row]) // np.uint64(PAGE_SIZE)
        is_mapped = inside < self.count[row].astype(np.uint64)
        frames: NDArray[np.int64] = np.where(is_mapped, self.frame[row] + inside.view(np.int64), -1)
        return frames


def pages_between(address: int, size: int) -> NDArray[np.uint64]:
    """The first addresses of all pages with some of these bytes; `size` is at least 1."""
    first, last = address // PAGE_SIZE, (address + size - 1) // PAGE_SIZE
    pages = np.arange(last - first + 1, dtype=np.uint64) + np.uint64(first)
    return pages * np.uint64(PAGE_SIZE)
