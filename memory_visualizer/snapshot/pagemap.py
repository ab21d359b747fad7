"""The page map: one record for each page frame, by PFN."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.generic)


class PageClass(IntEnum):
    """What a page frame is. A frame has the first class of these that fits it."""

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

    @property
    def label(self) -> str:
        """The class's name as people read it.

        >>> PageClass.UNUSED_DATA.label
        'unused-data'
        """
        return self.name.lower().replace("_", "-")


class PageState(IntEnum):
    """What a page frame is to a Linux kernel, more finely than its class; told by `struct page`."""

    ABSENT = 0
    """No RAM, or not in the dump."""
    FREE = 1
    """In the buddy allocator, or on one processor's list of free pages."""
    ANONYMOUS = 2
    """A process's own memory that no file stands behind."""
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
    """Never given to the allocator: early memory of the kernel, firmware's tables."""
    HUGE_PAGE = 9
    """In the pool of huge pages (hugetlb), whether used or not."""
    KERNEL_OTHER = 10
    """Any other page in use: stacks, vmalloc, modules, per-processor data, drivers."""
    UNKNOWN = 11
    """The dump does not hold what the kernel knows of it."""

    @property
    def label(self) -> str:
        """The state's name as people read it, such as ``file cache``."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class PageMap:
    """The records, a column each; all columns have one entry for each frame, by PFN."""

    classes: NDArray[np.uint8]
    """PageClass of each frame."""
    zero: NDArray[np.bool_]
    """Whether the frame is all zeros, whatever its class."""

    def counts(self) -> dict[PageClass, int]:
        """Count the frames of each class, classes without any included."""
        counts = count_values(self.classes, len(PageClass))
        return {page_class: int(counts[page_class]) for page_class in PageClass}


def classify(
    user: NDArray[np.bool_],
    kernel: NDArray[np.bool_],
    zero: NDArray[np.bool_],
    absent: NDArray[np.bool_] | None = None,
) -> PageMap:
    """Give each frame its class.

    All arguments have one entry for each frame: reached by a user mapping, reached by a
    supervisor mapping, all zeros, and not held by the dump (None: it holds all of them).
    """
    what = zero.astype(np.uint8)
    what |= kernel.view(np.uint8) << 1
    what |= user.view(np.uint8) << 2
    if absent is not None:
        what |= absent.view(np.uint8) << 3
    return PageMap(look_up(_CLASS_OF, what), zero)


_CLASS_OF = np.full(16, PageClass.ABSENT, np.uint8)
"""By what is true of a frame: zeros 1, mapped by the kernel 2, by user mode 4, absent 8."""
_CLASS_OF[:8] = [
    PageClass.UNUSED_DATA,
    PageClass.UNUSED_ZERO,
    *[PageClass.KERNEL] * 2,
    *[PageClass.USER] * 2,
    *[PageClass.BOTH] * 2,
]


_AT_ONCE = 1 << 20
"""Frames; numpy makes 8 bytes of each small number that is counted or used as an index."""


def count_values(values: NDArray[np.unsignedinteger[Any]], most: int) -> NDArray[np.int64]:
    """How often each number below `most` comes among small ones, as by np.bincount."""
    counts = np.zeros(most, np.int64)
    for start in range(0, values.size, _AT_ONCE):
        counts += np.bincount(values[start : start + _AT_ONCE], minlength=most)
    return counts


def distinct(values: NDArray[_Number]) -> NDArray[_Number]:
    """Each of many numbers once, ascending; much faster than np.unique of numpy 2.3 and later."""
    values = np.sort(values)
    is_new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=is_new[1:])
    return values[is_new]


def look_up(table: NDArray[_Number], index: NDArray[np.unsignedinteger[Any]]) -> NDArray[_Number]:
    """``table[index]`` for many small numbers."""
    found = np.empty(index.size, table.dtype)
    for start in range(0, index.size, _AT_ONCE):
        found[start : start + _AT_ONCE] = table[index[start : start + _AT_ONCE]]
    return found


def add_runs(counts: NDArray[np.uint32], begin: NDArray[np.int64], end: NDArray[np.int64]) -> None:
    """Add one to ``counts[begin[i] : end[i]]`` for every i; runs may overlap."""
    begin, end = np.sort(begin), np.sort(end)
    for start in range(0, counts.size, _AT_ONCE):
        some = counts[start : start + _AT_ONCE]
        # How many runs cover a frame: those begun less those ended up to there.
        covered = np.zeros(some.size, np.int32)
        edges = [start, start + some.size]
        covered[0] = np.searchsorted(begin, start) - np.searchsorted(end, start)
        for places, one in ((begin, np.int32(1)), (end, np.int32(-1))):
            here = places[slice(*np.searchsorted(places, edges))]
            np.add.at(covered, here - start, one)
        np.cumsum(covered, out=covered)
        some += covered.view(np.uint32)


def mark_runs(marks: NDArray[np.bool_], first: NDArray[np.int64], count: NDArray[np.int64]) -> None:
    """Set ``marks[first[i] : first[i] + count[i]]`` for every i; runs may overlap.

    All runs must lie within `marks`, and have at least one frame.
    """
    single = count == 1
    marks[first[single]] = True
    if single.all():
        return
    start, end = first[~single], (first + count)[~single]
    low, high = int(start.min()), int(end.max())
    # How many runs cover a frame is the sum of the runs begun less those ended up to there.
    depth = np.zeros(high - low + 1, dtype=np.int32)
    one = np.int32(1)  # of the same type as what it is added to: so `at` is twenty times as fast
    np.add.at(depth, start - low, one)
    np.subtract.at(depth, end - low, one)
    np.cumsum(depth, out=depth)
    marks[low:high] |= depth[:-1] > 0
