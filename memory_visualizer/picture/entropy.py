"""The entropy of pages, a property of their contents alone."""

import threading
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import (
    Dump,
    Progress,
    Search,
    Words,
    place_of,
    zero_pages,
)
from memory_visualizer.picture.bytecount import PAGES_AT_ONCE, Sums, page_measure
from memory_visualizer.scratch import column
from memory_visualizer.units import PAGE_SIZE

ENTROPY_STEPS = 255
"""The value for 8 bits per byte, the largest possible entropy."""

# The information in a byte value that occurs n times in a page, times n; 0 bits where n is 0. Whole
# numbers, in so small parts that their sum in a page is right to a thousandth of a step.
_PART = 1 << 15
_COUNTS = np.arange(PAGE_SIZE + 1)
_BITS = np.rint(_COUNTS * np.log2(PAGE_SIZE / np.maximum(_COUNTS, 1)) * _PART).astype(np.uint32)


_Entropies: TypeAlias = tuple[slice | NDArray[np.int64], NDArray[np.uint8]]
"""Some frames, and their entropies."""

_of_thread = threading.local()


class EntropyScan(Search[_Entropies]):
    """Measures the entropy of each frame, during a scan of the dump."""

    def __init__(self, dump: Dump, zero: NDArray[np.bool_] | None = None) -> None:
        """`zero` tells which frames are all zeros, if that is known already."""
        self.steps: NDArray[np.uint8] = column(dump.frame_count, np.uint8)
        """As `entropy` gives them."""
        self._zero = zero

    def look(self, frames: NDArray[np.int64], words: Words) -> _Entropies | None:
        """Measure some frames."""
        if not hasattr(_of_thread, "measure"):
            _of_thread.measure = page_measure(_BITS)
        is_zero = zero_pages(words) if self._zero is None else self._zero[place_of(frames)]
        filled = np.flatnonzero(~is_zero)
        if not len(filled):
            return None
        pages, sums = words.view(np.uint8), np.empty(len(filled), np.uint32)
        for start in range(0, len(filled), PAGES_AT_ONCE):
            part = slice(start, start + PAGES_AT_ONCE)
            sums[part] = _of_thread.measure(pages, filled[part])
        return place_of(frames[filled]), _steps(sums)

    def take(self, part: _Entropies) -> None:
        """Keep the entropies of a block."""
        place, steps = part
        self.steps[place] = steps


def entropy(
    dump: Dump, progress: Progress | None = None, *, zero: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Shannon's entropy of the bytes of each frame, by PFN, in 8/255 bits per byte.

    0 for zeros, other pages of one repeated byte, and frames that the dump does not hold; text has
    about 4 to 5 bits, code 5 to 6.5, compressed and encrypted data 7.9 and more (4096 bytes of
    perfect noise 7.95). (C. Shannon, "A Mathematical Theory of Communication", 1948.) Reads the
    dump, except for the frames that `zero` tells to be all zeros; `progress` is told the bytes of
    held frames. Errors as for Dump.scan.
    """
    measured = EntropyScan(dump, zero)
    dump.scan([measured.visitor], progress)
    return measured.steps


def _steps(sums: Sums) -> NDArray[np.uint8]:
    """The entropy of pages, from the information in them, in bits times _PART."""
    steps: NDArray[np.uint8] = np.rint(sums * (ENTROPY_STEPS / (8 * PAGE_SIZE * _PART))).astype(
        np.uint8
    )
    return steps
