"""The map of physical addresses of a Linux kernel (iomem_resource), as /proc/iomem shows it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import mark_runs
from memory_visualizer.limits import Budget
from memory_visualizer.linux.btf import Btf
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.snapshot.pagemap import PageState
from memory_visualizer.units import PAGE_SIZE

_RAM, _IMAGE = b"System RAM", b"Kernel "
"""The beginnings of the names of memory, and of the parts of the kernel's image in it."""
_FEW_USED = 8
"""If more than one in this many frames outside of RAM is in use, the frames are RAM."""
_IN_MEMORY = (
    PageState.FREE,
    PageState.ANONYMOUS,
    PageState.FILE_CACHE,
    PageState.SHARED_MEMORY,
    PageState.SLAB,
    PageState.PAGE_TABLE,
    PageState.HUGE_PAGE,
)
"""States that only memory has."""


@dataclass(frozen=True, eq=False)
class Resources:
    """The kernel's map of physical addresses."""

    is_ram: NDArray[np.bool_]
    """For each frame whether all of it is RAM."""
    image: NDArray[np.int64]
    """Frames of the kernel's image."""
    ram_end: int
    """The frame behind the last RAM; the dump may end before it."""


def read_resources(
    kernel: TableMemory, root: int, types: Btf | None, address_bytes: int, budget: Budget
) -> Resources | None:
    """Read the kernel's map of physical addresses; None if it names no RAM.

    `root` is the address of iomem_resource, `types` are the kernel's, `address_bytes` is the size
    of a physical address in a resource.
    """
    reader = _Reader(kernel, root, types, address_bytes, budget)
    count = kernel.frame_count
    ram: list[tuple[int, int]] = []
    image: list[tuple[int, int]] = []
    for name, start, end, below in reader.children(root):
        if not name.startswith(_RAM):
            continue
        # The kernel does not use a frame of which only a part is RAM.
        ram.append((-(-start // PAGE_SIZE), (end + 1) // PAGE_SIZE))
        for inner, first, last, _ in reader.children(below):
            if inner.startswith(_IMAGE):
                image.append((first // PAGE_SIZE, last // PAGE_SIZE + 1))
    is_ram = _marked(ram, count)
    if not is_ram.any():
        return None
    return Resources(is_ram, np.flatnonzero(_marked(image, count)), max(end for _, end in ram))


class _Reader:
    """Reads resources, up to a limit for all of them."""

    def __init__(
        self,
        kernel: TableMemory,
        root: int,
        types: Btf | None,
        address_bytes: int,
        budget: Budget,
    ) -> None:
        """The arguments are those of read_resources.

        Without types, the usual offsets are used (include/linux/ioport.h): two addresses, then
        pointers, of which there is one more since 4.6 (on 64 bits). The root has no sibling: the
        pointer in that place is its first child.
        """
        self._kernel, self._size, self._budget = kernel, address_bytes, budget
        self._left = budget.limit("resource of the machine")

        def offset(name: str, usual: int) -> int:
            place = types.offset("resource", name) if types else None
            return usual if place is None else place

        word = kernel.word
        is_old = bool(kernel.number(root + 2 * address_bytes + 4 * word))
        self._start, self._end = offset("start", 0), offset("end", address_bytes)
        self._name = offset("name", 2 * address_bytes)
        self._sibling = offset("sibling", 2 * address_bytes + (3 if is_old else 4) * word)
        self._child = offset("child", 2 * address_bytes + (4 if is_old else 5) * word)

    def children(self, parent: int) -> Iterator[tuple[bytes, int, int, int]]:
        """The resources below one: beginning of name, first and last byte, own address."""
        read = self._kernel.number
        at, seen = read(parent + self._child), set[int]()
        while at and at not in seen and self._left:
            seen.add(at)
            self._left -= 1
            start, end = (read(at + place, self._size) for place in (self._start, self._end))
            name = read(at + self._name)
            if start is None or end is None or name is None:
                return
            yield self._kernel.read(name, len(_RAM)) or b"", start, end, at
            at = read(at + self._sibling)
        if at and at not in seen:
            # How many there are behind is not known.
            self._budget.note("rest of the list of resources", 1)


def without_memory(states: NDArray[np.uint8], is_ram: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each frame whether it is no memory: what the kernel's map of resources does not call RAM.

    `states` are the PageState of each frame. By the kernel's records such frames are reserved, or
    without any use (4.15 to 5.x). A record of a use is right for its own frame, and if several
    frames side by side have one, the map is wrong there.
    """
    edges = np.diff(is_ram, prepend=True, append=True)
    bounds = np.flatnonzero(edges).reshape(-1, 2)
    outside = ~is_ram
    used = outside & np.isin(states, _IN_MEMORY)
    for begin, end in bounds[_counts(used, bounds) > 0].tolist():
        is_wrong = _FEW_USED * np.count_nonzero(used[begin:end]) > end - begin
        outside[begin:end] &= False if is_wrong else ~used[begin:end]
    return outside


def _counts(marks: NDArray[np.bool_], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many marks lie within each of some bounds: first place and end."""
    places = np.flatnonzero(marks)
    count: NDArray[np.int64] = np.diff(np.searchsorted(places, bounds), axis=1)[:, 0]
    return count


def _marked(stretches: list[tuple[int, int]], count: int) -> NDArray[np.bool_]:
    """Mark stretches of frames, given by first frame and end."""
    marks = np.zeros(count, bool)
    inside = [(first, min(end, count)) for first, end in stretches if first < min(end, count)]
    if inside:
        first, end = np.array(inside, np.int64).T
        mark_runs(marks, first, end - first)
    return marks
