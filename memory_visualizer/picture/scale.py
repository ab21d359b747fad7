"""The scale of a picture: pixels per page or, for a large dump, pages per pixel.

At a scale of 1/16 a pixel stands for 16 x 16 = 256 successive pages, so the picture's sides are a
sixteenth as long. Along Hilbert's curve these pages are a square of the picture in full size (for
powers of two). The pixel has the colour of most of the pages: colours are never mixed, since a
blend of two classes could be the colour of a third. The loss of such a picture is the share of
pages with another colour than their pixel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.printable import binary_size
from memory_visualizer.units import PAGE_SIZE

MAX_SCALE = 64
_COUNTS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Scale:
    """At least one of the two numbers is 1."""

    side: int = 1
    """A page is a square of pixels with this side."""
    part: int = 1
    """A pixel stands for the square of this number of pages."""

    @classmethod
    def of(cls, text: int | str) -> "Scale":
        """Read a scale such as 4 or ``1/16``; BadInputError for other texts.

        >>> Scale.of("1/16").pages
        256
        """
        above, slash, below = str(text).partition("/")
        numbers = [above, below] if slash else [above]
        if not all(number.isdecimal() and 1 <= int(number) <= MAX_SCALE for number in numbers) or (
            slash and int(above) != 1
        ):
            raise BadInputError(
                f"a scale must be a whole number from 1 to {MAX_SCALE}, or from 1/2 to"
                f" 1/{MAX_SCALE}; not {text}"
            )
        return cls(part=int(below)) if slash else cls(side=int(above))

    def __str__(self) -> str:
        return f"1/{self.part}" if self.part > 1 else str(self.side)

    @property
    def pages(self) -> int:
        """Pages for each pixel."""
        return self.part**2

    @property
    def unit(self) -> int:
        """Bytes of memory for each pixel, or square of pixels."""
        return self.pages * PAGE_SIZE

    def described(self, lost: float) -> str:
        """The meaning of a pixel in words; `lost` is the share of pages with another colour."""
        if self.pages > 1:
            return (
                f"one pixel = {self.pages:,} pages ({binary_size(self.unit)}), in the colour of"
                f" most; {percent(lost)} of the pages have another colour than their pixel"
            )
        one = "one pixel" if self.side == 1 else f"{self.side} x {self.side} pixels"
        return f"{one} = one page of 4 KiB"


def percent(share: float) -> str:
    """A share to a tenth of a percent; a share that is not 0 is never written as 0.0 %.

    >>> percent(0.0312), percent(0.0001), percent(0)
    ('3.1 %', 'less than 0.1 %', '0.0 %')
    """
    return "less than 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def majority(
    values: NDArray[np.unsignedinteger[Any]], pages: int, is_absent: NDArray[np.bool_]
) -> tuple[NDArray[np.unsignedinteger[Any]], float]:
    """The most frequent value of each group of successive values, and the share that differs.

    Absent values vote only among themselves, and do not count in the share: so a small piece of
    memory in a hole is seen. `is_absent` tells which values are absent. Of equally frequent values,
    the smallest is taken.
    """
    kinds = len(is_absent)
    pixels = np.empty(-(-values.size // pages), values.dtype)
    there = kept = 0
    at_once = max(1, _COUNTS_AT_ONCE // max(pages, kinds))
    for start in range(0, pixels.size, at_once):
        part = values[start * pages : (start + at_once) * pages]
        count = -(-part.size // pages)
        keys = np.arange(part.size) // pages * kinds + part
        votes = np.bincount(keys, minlength=count * kinds).reshape(count, kinds)
        present = np.where(is_absent, 0, votes)
        some = present.any(axis=1)
        pixels[start : start + count] = np.where(some, present.argmax(axis=1), votes.argmax(axis=1))
        there += int(present.sum())
        kept += int(present.max(axis=1).sum())
    return pixels, (there - kept) / there if there else 0.0
