"""Limits on the cost of a dump: how many things of each kind a machine of its size can have.

Everything in a dump is hostile, and may have been made to waste time and memory. So each search
takes no more than a machine can have, and reports how much it left out. Sizes of pieces that are
read at once are no limits: all pieces are read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.printable import counted

_Item = TypeVar("_Item")
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Rate:
    """A limit for a kind of thing: a number that grows with the frames, and a base number."""

    for_frames: int
    """For each so many frames, `count` things more."""
    count: int
    """How many things `for_frames` frames allow."""
    base: int
    """How many things are allowed in any case."""


RATES: Mapping[str, Rate] = {
    # No sound machine maps its frames so often.
    "mapping": Rate(1, 4, 1 << 16),
    # A machine with more would have hardly room for anything else.
    "page table": Rate(8, 1, 2048),
    # Each table counts once for each path to it.
    "table entry": Rate(1, 8, 1 << 19),
    # Each process takes some 20 frames.
    "address space": Rate(64, 1, 512),
    # These pages hold struct pages, and the heads of their lists.
    "page of lists": Rate(32, 1, 1024),
    # Drivers, pools and views are mapped in stretches of many pages.
    "stretch of the kernel": Rate(32, 1, 1 << 13),
    # Those of all drivers together are a hundredth of memory.
    "page of the kernel's data": Rate(32, 1, 1 << 12),
    # Volumes, and network drives, have one each.
    "device": Rate(1 << 10, 1, 1 << 10),
    # Pages of data that look like one by chance are few.
    "possible array of types": Rate(16, 1, 1 << 12),
    # Each is of a file, of which several pages are in memory.
    "subsection": Rate(8, 1, 1 << 13),
    # A kernel needs few tables of its own: a table has 512 entries, and most map large pages.
    "table of the kernel": Rate(256, 1, 1024),
    # A kernel keeps two texts, a few banners, and one of each of the others. More memory may hold
    # more old copies of them.
    "beginning of VMCOREINFO": Rate(1 << 12, 1, 512),
    "text of VMCOREINFO": Rate(1 << 14, 1, 64),
    "banner of Linux": Rate(1 << 14, 1, 64),
    "possible clock of Linux": Rate(1 << 14, 1, 16),
    "kind of top-level table": Rate(1 << 12, 1, 256),
    "possible beginning of BTF": Rate(1 << 14, 1, 256),
    # Each removable block of memory is one.
    "resource of the machine": Rate(1024, 1, 1024),
    # A sixteenth of memory; common kernels have some 6 MiB.
    "byte of kernel types": Rate(1, 256, 1 << 22),
    # Structures and unions without a name in one structure: compilers nest a dozen.
    "unnamed part of a kernel type": Rate(1 << 14, 1, 256),
    "possible name of a task": Rate(1 << 12, 1, 256),
    # Each process has one, and each takes some 20 frames.
    "possible first thread": Rate(16, 1, 1 << 10),
    "possible symbol table": Rate(1 << 14, 1, 32),
    # Each of them costs a walk through its tables. They are tried by their weight, so that the
    # kernel's own is the first one in a sound dump.
    "kind of page directory": Rate(1 << 15, 1, 4),
    "possible top-level table of ARM": Rate(1 << 16, 1, 8),
    # Memory has a few holes; each piece between two holes was moved by its own distance.
    "piece of misplaced memory": Rate(1 << 16, 1, 16),
    # Each file of which a page is cached has one, and its folders.
    "directory entry": Rate(1, 1, 1 << 16),
    "letter of paths": Rate(1, 64, 1 << 22),
    # A machine with many containers has some thousands.
    "mount": Rate(64, 1, 1 << 12),
    # A process has 65,530 at most (vm.max_map_count of Linux), most have some hundred; each takes
    # some 100 to 200 bytes of the kernel's memory.
    "region": Rate(8, 1, 1 << 13),
    # Each thread has one; other small regions have a few pages each.
    "possible block of a thread": Rate(16, 1, 1 << 12),
    # Most processes have a few, some have hundreds.
    "heap": Rate(64, 1, 1 << 12),
    "module": Rate(64, 1, 1 << 10),
    # A kernel has some hundred modules, each named by a few objects.
    "possible module": Rate(16, 1, 1 << 13),
    # Heads of lists in the kernel's data, and what looks like them.
    "list of the kernel": Rate(8, 1, 1 << 14),
    # People can look at a few hundred.
    "lead": Rate(1 << 10, 1, 512),
    # Programs that make code have some thousands.
    "page of writable code": Rate(4, 1, 1 << 10),
    # Each program and library in memory has one.
    "beginning of an image": Rate(64, 1, 1 << 12),
    # A process has a copy only of pages that it has written to; all others are counted once each.
    "page of an image": Rate(1, 1, 1 << 12),
    "copy of a code page": Rate(1, 1, 1 << 12),
}
"""By the name that remarks use. New kinds of things are added here."""


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
        """A fair share of this limit for one of `parts`."""
        return self.limit(thing) // max(parts, 1)

    @overload
    def take(
        self, thing: str, values: NDArray[_Number], limit: int | None = None
    ) -> NDArray[_Number]: ...
    @overload
    def take(self, thing: str, values: list[_Item], limit: int | None = None) -> list[_Item]: ...
    def take(self, thing: str, values: Any, limit: int | None = None) -> Any:
        """The first of some values, by default as many as RATES allow; the others are noted.

        `values` must be all that there are: a second call for the same thing counts nothing twice.
        """
        limit = max(self.limit(thing) if limit is None else limit, 0)
        self.note(thing, len(values) - limit)
        return values[:limit]

    def shares(self, thing: str, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many things each of several owners may have; the others are noted.

        If there are more than RATES allow, the owners with most things share what the others leave,
        so that a false number costs nobody else anything.
        """
        left = self.limit(thing)
        taken = np.zeros(len(counts), np.int64)
        for done, owner in enumerate(np.argsort(counts, kind="stable").tolist()):
            taken[owner] = min(int(counts[owner]), left // (len(counts) - done))
            left -= int(taken[owner])
        self.note(thing, int(counts.sum()) - int(taken.sum()))
        return taken

    def in_turn(self, thing: str, values: Sequence[_Item]) -> Iterator[_Item]:
        """Yield values to try, as many as RATES allow; only if all fail are the others noted.

        A caller who has found what it looks for asks for no more, and has lost nothing.
        """
        limit = self.limit(thing)
        yield from values[:limit]
        self.note(thing, len(values) - limit)

    def note(self, thing: str, count: int) -> None:
        """Note that `count` of all things of a kind are left out, unless more are noted already."""
        if count > 0:
            self._refused[thing] = max(self._refused[thing], count)

    def refuse(self, thing: str, count: int) -> None:
        """Note that `count` more things were left out; nothing is noted if it is 0 or less."""
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
    """The plural of a thing's name: of its first noun.

    >>> plural("table of the kernel"), plural("table entry")
    ('tables of the kernel', 'table entries')
    """
    noun, of, rest = thing.partition(" of ")
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{many}{of}{rest}"
