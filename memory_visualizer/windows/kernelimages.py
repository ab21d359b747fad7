"""The kernel and its drivers, by the headers at the beginning of their images in memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.formats.base import Dump
from memory_visualizer.paging import SHARED, is_held
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.selfmap import SelfMap

_FRAMES_AT_ONCE = 512
_ROUNDS = 16
"""How many images are followed that lie directly behind one another."""
_DOS, _PE = 0x5A4D, 0x4550
_MAGIC = {4: 0x10B, 8: 0x20B}
"""Magic of the optional header, by the bytes of a pointer (PE format, "Optional header")."""
_LARGEST_IMAGE = 1 << 28


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
        held: NDArray[np.bool_] = (addresses >= self.start[row]) & (addresses < self.end[row])
        return held


def kernel_images(dump: Dump, kernel: KernelMemory, self_map: SelfMap) -> Images:
    """Find images at the beginning of mapped stretches, and directly behind other images.

    Drivers are loaded page-aligned, and drop a part of themselves after their start, so nearly
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


def _headers(
    dump: Dump, kernel: KernelMemory, addresses: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The addresses of pages at which an image begins, and the sizes of the images."""
    frames = kernel.frames(addresses)
    held = is_held(dump, frames)
    addresses, frames = addresses[held], frames[held]
    starts, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for at in range(0, len(frames), _FRAMES_AT_ONCE):
        pages = dump.read_frames(frames[at : at + _FRAMES_AT_ONCE])
        likely = np.flatnonzero(pages[:, 0] & np.uint64(0xFFFF) == _DOS)
        for row in likely.tolist():
            if size := _size_of_image(pages[row].tobytes(), kernel.word):
                starts.append(addresses[at + row : at + row + 1])
                sizes.append(np.array([size], np.uint64))
    return np.concatenate(starts), np.concatenate(sizes)


def _size_of_image(page: bytes, word: int) -> int:
    """SizeOfImage of the headers in a page, in whole pages; 0 if there are no headers."""
    at = int.from_bytes(page[0x3C:0x40], "little")
    if at > PAGE_SIZE - 0x60 or int.from_bytes(page[at : at + 4], "little") != _PE:
        return 0
    optional = at + 24
    if int.from_bytes(page[optional : optional + 2], "little") != _MAGIC[word]:
        return 0
    size = int.from_bytes(page[optional + 56 : optional + 60], "little")
    return -(-size // PAGE_SIZE) * PAGE_SIZE if size <= _LARGEST_IMAGE else 0
