"""Memory read by virtual address, whatever translates the addresses.

Addresses are read one after the other, if each depends on the bytes at the last one, or many at
once. Pages that are read one by one are kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging.memory import PhysicalMemory, is_held
from memory_visualizer.units import PAGE_SIZE

_KEPT_PAGES = 1 << 12  # 16 MiB
_PIECES_AT_ONCE = 1 << 9
"""Pieces of memory, each of which may be in a page of its own."""


class VirtualMemory(ABC):
    """Virtual memory; bytes that are not mapped or not held read as None."""

    word = 8
    """Bytes of a pointer."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.frame_count = memory.frame_count
        """Frames of the memory: a measure of how large the kernel's structures can be."""
        self._pages: dict[int, bytes | None] = {}

    @abstractmethod
    def frames(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The frame behind each address; -1 where nothing is mapped.

        The dump may not hold the frame.
        """

    def frame(self, address: int) -> int:
        """The frame behind one address; -1 where nothing is mapped."""
        return int(self.frames(np.array([address % 2**64], np.uint64))[0])

    def physical(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Physical addresses; -1 where nothing is mapped or held."""
        frames = self.frames(addresses)
        offset = (addresses % np.uint64(PAGE_SIZE)).astype(np.int64)
        return np.where(is_held(self.memory, frames), frames * PAGE_SIZE + offset, -1)

    def _page(self, frame: int) -> bytes | None:
        """A frame's contents; None where the dump does not hold it."""
        if frame in self._pages:
            return self._pages[frame]
        if len(self._pages) > _KEPT_PAGES:
            self._pages.clear()
        page = None
        if 0 <= frame < self.frame_count and self.memory.held[frame]:
            page = self.memory.read_frames(np.array([frame])).tobytes()
        self._pages[frame] = page
        return page

    def read(self, address: int, size: int) -> bytes | None:
        """Read bytes; None unless all of them are mapped and held."""
        parts: list[bytes] = []
        while size > 0:
            page = self._page(self.frame(address))
            if page is None:
                return None
            start = address % PAGE_SIZE
            part = page[start : start + size]
            if len(part) == size and not parts:
                return part
            parts.append(part)
            address += len(part)
            size -= len(part)
        return b"".join(parts)

    def number(self, address: int, size: int = 0) -> int | None:
        """Read an unsigned number, by default as large as a pointer; None if not readable."""
        raw = self.read(address, size or self.word)
        return None if raw is None else int.from_bytes(raw, "little")

    def words(self, raw: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """Rows of bytes as rows of numbers that are as large as pointers."""
        return raw.view(f"<u{self.word}").astype(np.uint64, copy=False)

    def read_far(self, address: int, size: int) -> NDArray[np.uint8]:
        """Read many bytes at once; zeros where nothing is mapped or held."""
        address %= 2**64
        first = address // PAGE_SIZE
        last = (address + size - 1) // PAGE_SIZE
        pages = np.arange(last + 1 - first, dtype=np.uint64) + np.uint64(first)
        frames = self.frames(pages * np.uint64(PAGE_SIZE))
        contents = self.memory.read_frames(np.where(frames >= 0, frames, self.frame_count))
        start = address % PAGE_SIZE
        return contents.reshape(-1).view(np.uint8)[start : start + size]

    def read_each(
        self, addresses: NDArray[np.uint64], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read a few bytes at each address, shape (n, size); and tell where all bytes were read.

        Zeros where any byte is not mapped or not held.
        """
        contents, known = self._read_each(addresses, size)
        contents[~known] = 0
        return contents, known

    def read_partly(self, addresses: NDArray[np.uint64], size: int) -> NDArray[np.uint8]:
        """Read `size` bytes at each address, shape (n, size); zeros where not readable."""
        return self._read_each(addresses, size)[0]

    def _read_each(
        self, addresses: NDArray[np.uint64], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        contents = np.zeros((len(addresses), size), np.uint8)
        known = np.zeros(len(addresses), bool)
        for start in range(0, len(addresses), _PIECES_AT_ONCE):
            part = slice(start, start + _PIECES_AT_ONCE)
            contents[part], known[part] = self._read_pieces(addresses[part], size)
        return contents, known

    def _read_pieces(
        self, addresses: NDArray[np.uint64], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        begin = (addresses % np.uint64(PAGE_SIZE)).astype(np.int64)
        count = (int(begin.max()) + size - 1) // PAGE_SIZE + 1
        page = (addresses // np.uint64(PAGE_SIZE))[:, None] + np.arange(count, dtype=np.uint64)
        needed = np.arange(count) * PAGE_SIZE < (begin + size)[:, None]
        page = np.where(needed, page, page[:, :1])  # most pieces lie in a single page
        pages, row = np.unique(page.ravel(), return_inverse=True)
        frames = self.frames((pages * np.uint64(PAGE_SIZE)).astype(np.uint64))
        held = is_held(self.memory, frames)
        row = row.reshape(page.shape)
        known: NDArray[np.bool_] = np.logical_and.reduce(held[row], axis=1)
        words = self.memory.read_frames(np.where(held, frames, self.frame_count))
        # Objects stand at multiples of a word; reading whole words is much faster.
        unit = 8 if size % 8 == 0 and not (begin % 8).any() else 1
        contents = words.reshape(-1) if unit == 8 else words.view(np.uint8).reshape(-1)
        in_page = PAGE_SIZE // unit
        place = begin[:, None] // unit + np.arange(size // unit)
        at = np.take_along_axis(row, place // in_page, axis=1) * in_page + place % in_page
        return contents[at].view(np.uint8), known

    def numbers(
        self, addresses: NDArray[np.uint64], size: int = 0
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Read a number at each address, 0 where not readable; and tell where it is.

        Numbers are unsigned, and by default as large as a pointer.
        """
        size = size or self.word
        raw, known = self.read_each(addresses, size)
        return _as_numbers(raw), known

    def members(
        self, objects: NDArray[np.uint64], offsets: Sequence[int], size: int = 0
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """As `numbers`, at several offsets from each object: one row for each offset.

        Each page is copied once for all members of the objects in it, not once for each member.
        """
        size = size or self.word
        ahead = np.array([offset % 2**64 for offset in offsets], np.uint64)
        numbers = np.zeros((len(ahead), len(objects)), np.uint64)
        known = np.zeros(numbers.shape, bool)
        for start in range(0, len(objects), _PIECES_AT_ONCE):
            at = objects[start : start + _PIECES_AT_ONCE, None] + ahead
            raw, there = self._read_pieces(at.ravel(), size)
            raw[~there] = 0
            numbers[:, start : start + len(at)] = _as_numbers(raw).reshape(at.shape).T
            known[:, start : start + len(at)] = there.reshape(at.shape).T
        return numbers, known


def _as_numbers(raw: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Rows of up to 8 bytes as unsigned numbers."""
    whole = np.zeros((len(raw), 8), np.uint8)
    whole[:, : raw.shape[1]] = raw
    return whole.view(np.uint64)[:, 0]
