"""The page map: one record for each page frame, by PFN."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import count_values
from memory_visualizer.scratch import column


class PageClass(IntEnum):
    """The class of a page frame: the first of these that fits.

    LEFT_OUT, though last here, is tried right after ABSENT.
    """

    ABSENT = 0
    """The dump does not hold the frame."""
    BOTH = 1
    """Reached by a user mapping and by a supervisor mapping."""
    USER = 2
    """Reached by user mappings only."""
    KERNEL = 3
    """Reached by supervisor mappings only."""
    UNUSED_DATA = 4
    """Reached by nobody, not all zeros."""
    UNUSED_ZERO = 5
    """Reached by nobody, all zeros."""
    LEFT_OUT = 6
    """The dump leaves the frame out on purpose, as makedumpfile's filter does, or is broken there;
    its owners and its PageState may still be known."""

    @property
    def label(self) -> str:
        """The class's name as people read it.

        >>> PageClass.UNUSED_DATA.label
        'unused-data'
        """
        return self.name.lower().replace("_", "-")


class PageState(IntEnum):
    """The use of a page frame by a Linux kernel, finer than its class; told by `struct page`."""

    ABSENT = 0
    """Not RAM, or not in the dump; frames that it leaves out on purpose have their own state."""
    FREE = 1
    """In the buddy allocator, or on one processor's list of free pages."""
    ANONYMOUS = 2
    """A process's own memory that belongs to no file."""
    FILE_CACHE = 3
    """A part of a file, mapped or not."""
    SHARED_MEMORY = 4
    """Memory that processes share, and files of tmpfs."""
    SLAB = 5
    """The kernel's small objects."""
    PAGE_TABLE = 6
    KERNEL_IMAGE = 7
    """The kernel's own code and data, as they were loaded."""
    RESERVED = 8
    """Never given to the allocator: early memory of the kernel, tables of the firmware."""
    HUGE_PAGE = 9
    """In the pool of huge pages (hugetlb), whether used or not."""
    KERNEL_OTHER = 10
    """Any other page in use: stacks, vmalloc, modules, per-processor data, drivers."""
    UNKNOWN = 11
    """The dump does not hold the kernel's record of the frame."""

    @property
    def label(self) -> str:
        """The state's name as people read it, such as ``file cache``."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, eq=False)
class PageMap:
    """The records, a column each; all columns have one entry for each frame, by PFN."""

    classes: NDArray[np.uint8]
    """PageClass of each frame."""
    zero: NDArray[np.bool_]
    """Whether the frame is all zeros, whatever its class."""

    def counts(self) -> dict[PageClass, int]:
        """The number of frames of each class, empty classes included."""
        counts = count_values(self.classes, len(PageClass))
        return {page_class: int(counts[page_class]) for page_class in PageClass}


def classify(
    user: NDArray[np.bool_],
    kernel: NDArray[np.bool_],
    zero: NDArray[np.bool_],
    absent: NDArray[np.bool_] | None = None,
    left_out: NDArray[np.bool_] | None = None,
) -> PageMap:
    """Give each frame its class.

    All arguments have one entry for each frame: reached by a user mapping, reached by a
    supervisor mapping, all zeros, not held by the dump (None: it holds all of them), and left out
    by it on purpose (None: none is).
    """
    classes: NDArray[np.uint8] = column(zero.size, np.uint8)
    for start in range(0, zero.size, _FRAMES_AT_ONCE):  # so only the columns take memory
        some = slice(start, start + _FRAMES_AT_ONCE)
        what = zero[some].astype(np.uint8)
        what |= kernel[some].view(np.uint8) << 1
        what |= user[some].view(np.uint8) << 2
        if absent is not None:
            what |= absent[some].view(np.uint8) << 3
        classes[some] = _CLASS_OF[what]
        if left_out is not None:
            classes[some][left_out[some]] = PageClass.LEFT_OUT
    return PageMap(classes, zero)


_FRAMES_AT_ONCE = 1 << 20


_CLASS_OF = np.full(16, PageClass.ABSENT, np.uint8)
"""Index: the sum of 1 for all zeros, 2 for mapped by the kernel, 4 by user mode, 8 for absent."""
_CLASS_OF[:8] = [
    PageClass.UNUSED_DATA,
    PageClass.UNUSED_ZERO,
    *[PageClass.KERNEL] * 2,
    *[PageClass.USER] * 2,
    *[PageClass.BOTH] * 2,
]
