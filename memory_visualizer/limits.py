"""Limits on the cost of a dump: how many things of a kind a machine with its memory can have.

Everything in a dump is hostile, and may have been made to waste time and memory. So each search
takes no more than a machine can have, and reports how much it left out. Sizes of pieces that are
read at once are no limits: all pieces are read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.printable import counted

_Item = TypeVar("_Item")
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Rate:
    """A limit for a kind of thing: a number for each frame, and a base number."""

    for_frames: int
    """Frames for so many of them."""
    count: int
    """So many for these frames."""
    base: int
    """So many in any case."""


RATES: Mapping[str, Rate] = {
    # No honest machine maps its frames so often.
    "mapping": Rate(1, 4, 1 << 16),
    # A machine with more has hardly room for anything else.
    "page table": Rate(8, 1, 2048),
    # Of each table for each way to it.
    "table entry": Rate(1, 8, 1 << 19),
    # Each takes some 20 frames.
    "address space": Rate(64, 1, 512),
    # There lie struct pages, and the heads of lists of them.
    "page of lists": Rate(32, 1, 1024),
    # A kernel's own tables lie close: one has 512 entries, and most map large pages.
    "table of the kernel": Rate(256, 1, 1024),
    # Each file of which a page is cached has one, and its folders.
    "directory entry": Rate(1, 1, 1 << 16),
    "letter of paths": Rate(1, 64, 1 << 22),
    # A machine with many containers has some thousands.
    "mount": Rate(64, 1, 1 << 12),
    # A process has 65,530 at most (vm.max_map_count), and each takes some 200 bytes.
    "region": Rate(1, 4, 1 << 16),
    "module": Rate(64, 1, 1 << 10),
}
"""By the thing's name in remarks; whoever needs a new one adds it here."""


class Budget:
    """The limits for a dump, and a record of each refusal."""

    def __init__(self, frame_count: int) -> None:
        self._frame_count = frame_count
        self._refused: Counter[str] = Counter()

    def limit(self, thing: str) -> int:
        """The limit for a thing in RATES."""
        rate = RATES[thing]
        return self._frame_count * rate.count // rate.for_frames + rate.base

    def share(self, thing: str, parts: int) -> int:
        """A fair share of that for one of `parts`."""
        return self.limit(thing) // max(parts, 1)

    @overload
    def take(self, thing: str, values: NDArray[_Number], limit: int) -> NDArray[_Number]: ...
    @overload
    def take(self, thing: str, values: list[_Item], limit: int) -> list[_Item]: ...
    def take(self, thing: str, values: Any, limit: int) -> Any:
        """The first of some values; how many others there are is noted under the thing's name.

        `values` are all there are: asked for again, they are not counted again.
        """
        if (left_out := len(values) - limit) > 0:
            self._refused[thing] = max(self._refused[thing], left_out)
        return values[: max(limit, 0)]

    def refuse(self, thing: str, count: int) -> None:
        """Note that so many more of a thing were left out; of none, or fewer, nothing is noted."""
        if count > 0:
            self._refused[thing] += count

    @property
    def remarks(self) -> Sequence[str]:
        """A sentence for each kind of thing of which some were left out."""
        return tuple(
            f"{counted(count, thing, plural(thing))} left out: more than any machine has"
            for thing, count in self._refused.items()
        )


def plural(thing: str) -> str:
    """Of a thing's name, whose first noun counts.

    >>> plural("table of the kernel"), plural("table entry")
    ('tables of the kernel', 'table entries')
    """
    noun, of, rest = thing.partition(" of ")
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{many}{of}{rest}"
