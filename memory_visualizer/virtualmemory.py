"""Memory of one address space, read by virtual address as its page tables translate it.

For few addresses here and there: what is translated and read is kept. Tables over which much is to
be known at once are `paging.walk`'s.
"""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.paging import LARGE, Paging, PhysicalMemory, frames_behind

_KEPT_PAGES = 1 << 12  # 16 MiB


class VirtualMemory:
    """An address space by its top-level table; what is not mapped or not held reads as nothing."""

    def __init__(self, memory: PhysicalMemory, paging: Paging, top: int) -> None:
        """`top` is the frame of the top-level table."""
        self._memory = memory
        self._paging = paging
        self._top = top
        self._pages: dict[int, bytes] = {}
        self._frames: dict[int, int] = {}

    def frames(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The frame behind each address; -1 where nothing is mapped.

        A frame may lie outside of what the dump holds.
        """
        top = np.full(len(addresses), self._top, np.int64)
        return frames_behind(self._memory, self._paging, top, addresses)

    def frame(self, address: int) -> int:
        """The frame behind one address; -1 where nothing is mapped."""
        page = address // PAGE_SIZE
        if page not in self._frames:
            if len(self._frames) > _KEPT_PAGES:
                self._frames.clear()
            self._frames[page] = self._translate(address)
        return self._frames[page]

    def _translate(self, address: int) -> int:
        paging = self._paging
        table = self._top
        for number, level in enumerate(paging.levels):
            index = (address >> level.shift) % paging.entries
            at = index * paging.entry_bytes
            raw = self._page(table)[at : at + paging.entry_bytes]
            entry = np.array([int.from_bytes(raw, "little")], np.uint64)
            if not paging.is_present(entry)[0]:
                return -1
            target = int(paging.frames(entry)[0])
            if number == len(paging.levels) - 1 or (level.may_map and int(entry[0]) & LARGE):
                pages = 1 << (level.shift - 12)
                return target // pages * pages + (address >> 12) % pages
            table = target
        return -1

    def _page(self, frame: int) -> bytes:
        """A frame's contents; zeros where the dump does not hold it."""
        page = self._pages.get(frame)
        if page is None:
            if len(self._pages) > _KEPT_PAGES:
                self._pages.clear()
            page = self._memory.read_frames(np.array([frame])).tobytes()
            self._pages[frame] = page
        return page

    def read(self, address: int, size: int) -> bytes | None:
        """Read bytes; None unless all of them are mapped and held."""
        parts = []
        while size > 0:
            frame = self.frame(address)
            if not 0 <= frame < self._memory.frame_count or not self._memory.held[frame]:
                return None
            start = address % PAGE_SIZE
            part = self._page(frame)[start : start + size]
            parts.append(part)
            address += len(part)
            size -= len(part)
        return b"".join(parts)

    def number(self, address: int, size: int = 8) -> int | None:
        """Read an unsigned number; None where it cannot be."""
        raw = self.read(address, size)
        return None if raw is None else int.from_bytes(raw, "little")

    def read_far(self, address: int, size: int) -> NDArray[np.uint8]:
        """Read many bytes at once; zeros where nothing is mapped or held."""
        address %= 2**64
        first = address // PAGE_SIZE
        last = (address + size - 1) // PAGE_SIZE
        pages = np.arange(last + 1 - first, dtype=np.uint64) + np.uint64(first)
        frames = self.frames(pages * np.uint64(PAGE_SIZE))
        contents = self._memory.read_frames(np.where(frames >= 0, frames, self._memory.frame_count))
        start = address % PAGE_SIZE
        return contents.reshape(-1).view(np.uint8)[start : start + size]
