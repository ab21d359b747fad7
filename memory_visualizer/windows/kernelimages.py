"""The kernel and its drivers, by the headers at the beginning of their images in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.formats.base import Dump, numbers_in
from memory_visualizer.paging import MAY_EXECUTE, MAY_WRITE, SHARED, Mappings, is_held
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.selfmap import SelfMap

_FRAMES_AT_ONCE = 512
_ROUNDS = 16
"""The most images in a row, each directly behind the last, that are followed."""
_DOS, _PE = 0x5A4D, 0x4550
_MAGIC = {4: 0x10B, 8: 0x20B}
"""Magic of the optional header, by the bytes of a pointer (PE format, "Optional header")."""
LARGEST_IMAGE = 1 << 28
_LACKING_SHARE = 16
"""If the processor uses the no-execute bit, more than one mapping in this many has it."""
_MAX_INSIDE = 3
"""The most headers of other images that may lie within an image."""


@dataclass(frozen=True, eq=False)
class Images:
    """The kernel's images, a row for each, by address."""

    start: NDArray[np.uint64]
    end: NDArray[np.uint64]

    def hold(self, addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of these addresses lie in an image."""
        if not len(self.start):
            return np.zeros(len(addresses), bool)
        row = np.maximum(np.searchsorted(self.start, addresses, "right") - 1, 0)
        reach = np.maximum.accumulate(self.believed_ends)
        held: NDArray[np.bool_] = (addresses >= self.start[row]) & (addresses < reach[row])
        return held

    @property
    def believed_ends(self) -> NDArray[np.uint64]:
        """The end of each image, as far as it is believed.

        An image may contain a few others, which are false headers in its data. If it contains many,
        its size is false, and it ends where the first of them begins.
        """
        row = np.arange(len(self.start))
        inside = np.searchsorted(self.start, self.end) - row - 1
        following = self.start[np.minimum(row + 1, len(row) - 1)]
        return np.where(inside > _MAX_INSIDE, np.minimum(following, self.end), self.end)

    def sizes(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The bytes of the image that begins at each address; 0 if no image begins there."""
        if not len(self.start):
            return np.zeros(len(addresses), np.int64)
        row = np.minimum(np.searchsorted(self.start, addresses), len(self.start) - 1)
        sizes = (self.end[row] - self.start[row]).astype(np.int64)
        return np.where(self.start[row] == addresses, sizes, 0)

    def with_ranges(self, ranges: Sequence[tuple[int, int]]) -> "Images":
        """The same, with these ranges of addresses added, which do not overlap one another.

        An image that overlaps such a range is left out: it is the same image, or a false one.
        """
        if not ranges:
            return self
        more = np.array(sorted(ranges), np.uint64)
        before = np.searchsorted(more[:, 0], self.end, "left")
        apart = before == np.searchsorted(more[:, 1], self.start, "right")
        start = np.concatenate((self.start[apart], more[:, 0]))
        order = np.argsort(start, kind="stable")
        end = np.concatenate((self.end[apart], more[:, 1]))
        return Images(start[order], end[order])


def kernel_images(dump: Dump, kernel: KernelMemory, self_map: SelfMap) -> Images:
    """Find images at the beginning of mapped stretches, and directly behind other images.

    Drivers are loaded page-aligned, and free their initialisation code after the start, so nearly
    every image begins a stretch.
    """
    rows = kernel.mappings
    starts = rows.virtual[1:] != rows.virtual[:-1] + rows.count[:-1].astype(np.uint64) * np.uint64(
        PAGE_SIZE
    )
    begins = np.append(np.ones(min(len(rows.virtual), 1), bool), starts)
    begins &= (rows.space == SHARED) & (rows.virtual >= np.uint64(self_map.user_end))
    begins &= ~self_map.shows(rows.virtual)
    budget = dump.budget
    limit = budget.limit("stretch of the kernel")
    asked = budget.take("stretch of the kernel", rows.virtual[begins], limit)
    found: list[NDArray[np.uint64]] = []
    for _ in range(_ROUNDS):
        start, size = _headers(dump, kernel, asked)
        if not len(start):
            break
        found.append(np.stack((start, start + size)))
        known, asked = np.sort(start), distinct(start + size)
        at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        asked = asked[known[at] != asked]
    if not found:
        return Images(np.empty(0, np.uint64), np.empty(0, np.uint64))
    start, end = np.concatenate(found, axis=1)
    order = np.argsort(start, kind="stable")
    return Images(start[order], end[order])


def unlisted_images(
    kernel: KernelMemory, images: Images, listed: Sequence[tuple[int, int]]
) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Executable images that overlap no listed image: start, end, and frames.

    Empty if the list lacks more images than it has, since such a list is lost; also if the
    processor does not use the no-execute bit, since files that the cache has mapped look the same.
    """
    more = np.array(sorted(listed), np.uint64).reshape(-1, 2)
    before = np.searchsorted(more[:, 0], images.end, "left")
    apart = np.flatnonzero(before == np.searchsorted(more[:, 1], images.start, "right"))
    rows = kernel.mappings
    may_execute = rows.access & MAY_EXECUTE != 0
    lack_it = np.count_nonzero(~may_execute)
    believed = images.believed_ends
    if 2 * len(apart) > len(images.start) or lack_it * _LACKING_SHARE <= len(may_execute):
        return []
    found = []
    for row in apart.tolist():
        start, end = int(images.start[row]), int(images.end[row])
        low, high = np.searchsorted(rows.virtual, np.array([start, end], np.uint64)).tolist()
        if may_execute[low:high].any():
            frames = _frames_between(rows, start, int(believed[row]))
            found.append((start, end, distinct(frames[is_held(kernel.memory, frames)])))
    return found


def _frames_between(rows: Mappings, start: int, end: int) -> NDArray[np.int64]:
    """The frames mapped between two addresses; `rows` ascend by their addresses."""
    size = np.uint64(PAGE_SIZE)
    low, high = np.searchsorted(rows.virtual, np.array([start, end], np.uint64)).tolist()
    some = rows.take(np.arange(max(low - 1, 0), high))
    begin = np.maximum(some.virtual, np.uint64(start))
    stop = np.minimum(some.virtual + some.count.astype(np.uint64) * size, np.uint64(end))
    chosen = stop > begin
    ahead = ((begin - some.virtual) // size).astype(np.int64)
    pages = ((stop - begin)[chosen] // size).astype(np.int64)
    return numbers_in(np.stack(((some.pfn + ahead)[chosen], pages), axis=1))


def data_pages(
    dump: Dump, kernel: KernelMemory, images: Images
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Frames and addresses of writable pages in images, in the order of their addresses.

    Frame -1 separates stretches of addresses. The budget limits the number of pages.
    """
    rows = kernel.mappings
    chosen = images.hold(rows.virtual) & (rows.access & MAY_WRITE != 0)
    limit = dump.budget.limit("page of the kernel's data")
    ends = np.minimum(np.cumsum(rows.count[chosen]), limit)
    dump.budget.note("page of the kernel's data", int(rows.count[chosen].sum()) - limit)
    count = np.diff(ends, prepend=0)
    inside = np.arange(int(count.sum())) - np.repeat(ends - count, count)
    frames = np.repeat(rows.pfn[chosen], count) + inside
    offset = (inside * PAGE_SIZE).astype(np.uint64)
    virtual = np.repeat(rows.virtual[chosen], count) + offset
    breaks = np.flatnonzero(np.diff(virtual) != PAGE_SIZE) + 1
    frames = np.where(frames < dump.frame_count, frames, -1)
    return np.insert(frames, breaks, -1), np.insert(virtual, breaks, np.uint64(0))


def _headers(
    dump: Dump, kernel: KernelMemory, addresses: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The addresses of pages at which an image begins, and the sizes of the images."""
    sizes, _ = image_sizes(dump, kernel, addresses)
    found = sizes > 0
    return addresses[found], sizes[found].astype(np.uint64)


def image_sizes(
    dump: Dump, kernel: KernelMemory, addresses: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The size of the image that begins at each page-aligned address; 0 without an image.

    The second array tells whether the dump holds the page.
    """
    sizes = np.zeros(len(addresses), np.int64)
    frames = kernel.frames(addresses)
    held = is_held(dump, frames)
    rows = np.flatnonzero(held)
    for at in range(0, len(rows), _FRAMES_AT_ONCE):
        some = rows[at : at + _FRAMES_AT_ONCE]
        pages = dump.read_frames(frames[some])
        likely = np.flatnonzero(pages[:, 0] & np.uint64(0xFFFF) == _DOS)
        for row in likely.tolist():
            sizes[some[row]] = _size_of_image(pages[row].tobytes(), kernel.word)
    return sizes, held


def _size_of_image(page: bytes, word: int) -> int:
    """SizeOfImage of the headers in a page, in whole pages; 0 if there are no headers."""
    at = int.from_bytes(page[0x3C:0x40], "little")
    if at > PAGE_SIZE - 0x60 or int.from_bytes(page[at : at + 4], "little") != _PE:
        return 0
    optional = at + 24
    if int.from_bytes(page[optional : optional + 2], "little") != _MAGIC[word]:
        return 0
    size = int.from_bytes(page[optional + 56 : optional + 60], "little")
    return -(-size // PAGE_SIZE) * PAGE_SIZE if size <= LARGEST_IMAGE else 0
