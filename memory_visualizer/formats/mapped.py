"""Dumps whose pages lie in the file as they are, so that it can be mapped instead of read.

A read of a mapped file cannot fail as a call can: where the disk fails, or the file was cut, the
process is killed (SIGBUS). So every window of the file is brought in by the kernel first, which
says what is wrong (MADV_POPULATE_READ, Linux 5.14), and the file's size is looked at again before
any read. What remains is a file that is cut in the very moment in which a page of it is read.
"""

import ctypes
import errno
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import base
from memory_visualizer.formats.base import (
    MAX_FRAMES,
    MAX_RUNS,
    PAGE_SIZE,
    BlockWork,
    Dump,
    Words,
    ahead,
    merge_runs,
    near_pieces,
)

_MADV_POPULATE_READ = 22  # include/uapi/asm-generic/mman-common.h; not in Python's mmap
_LIBC = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")
_GATHER_FRAMES = 1024  # frames that are copied at once; bounds the memory for what is between


@dataclass(frozen=True)
class Extents:
    """Where a file holds frames: disjoint stretches in ascending order, a column each."""

    first: NDArray[np.int64]
    """PFN of the first frame."""
    count: NDArray[np.int64]
    """Frames; at least one."""
    offset: NDArray[np.int64]
    """Byte of the file at which the first frame begins."""

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> "Extents":
        return Extents(self.first[chosen], self.count[chosen], self.offset[chosen])


@dataclass(frozen=True)
class _Window:
    """Pages that lie one after another in the file."""

    frames: NDArray[np.int64]
    """PFN of each."""
    offset: int
    """Byte of the file at which the first begins."""

    @property
    def end(self) -> int:
        return self.offset + self.frames.size * PAGE_SIZE


def find_extents(
    path: Path,
    start: ArrayLike,
    length: ArrayLike,
    offset: ArrayLike,
    *,
    file_size: int,
    lenient: bool = False,
    aliases: bool = False,
) -> tuple[Extents, list[str]]:
    """Check what a header says, and find the whole frames in it; returns remarks, too.

    The three columns are in bytes: physical address, size and place in the file of `file_size`
    bytes. They may stand in any order, and hold any numbers below 2**64. Stretches that say the
    same of the same frame are joined. Frames in several places of the file are an error unless
    the format has `aliases`, copies of one another of which any will do.

    BadInputError for what cannot be a dump of a machine; DamagedInputError, unless `lenient`, for
    frames beyond the file's end or in several places. `path` stands for the file in errors.
    """
    start, length, offset = (
        np.asarray(column, dtype=np.uint64) for column in (start, length, offset)
    )
    remarks: list[str] = []
    limit = np.uint64(MAX_FRAMES * PAGE_SIZE)
    if start.size > MAX_RUNS:
        raise BadInputError(f"{path} says that it holds {start.size:,} pieces of memory; too many")
    far = (length > limit) | (start > limit - np.minimum(length, limit))
    if far.any():
        raise BadInputError(
            f"{path} says that it holds memory at physical address {start[far][0]:#x} and beyond"
            f" {int(limit):#x} (16 TiB), where this program stops"
        )
    end_of_file = np.uint64(file_size)
    available = end_of_file - np.minimum(offset, end_of_file)
    cut = length > available
    if cut.any():
        missing = int((length - np.minimum(length, available)).sum())
        sentence = (
            f"{path} ends too early: {missing:,} bytes of memory are missing, the first of them at"
            f" physical address {(start + available)[cut].min():#x}"
        )
        if not lenient:
            raise DamagedInputError(sentence)
        remarks.append(sentence)
        length = np.minimum(length, available)

    page = np.uint64(PAGE_SIZE)
    first = (start + page - np.uint64(1)) // page
    count = ((start + length) // page).astype(np.int64) - first.astype(np.int64)
    inside = count > 0
    place = offset[inside] + (first * page - start)[inside]
    extents = _join(Extents(first[inside].astype(np.int64), count[inside], place.astype(np.int64)))
    if extents.first.size == 0:
        raise BadInputError(f"{path} holds no page of memory")

    end_before = np.maximum.accumulate(extents.first + extents.count)[:-1]
    overlap = np.concatenate(([0], np.maximum(end_before - extents.first[1:], 0)))
    if overlap.any() and not aliases:
        twice = int(extents.first[overlap > 0][0])
        sentence = f"{path} holds page frame {twice:#x} in more than one place"
        if not lenient:
            raise DamagedInputError(sentence)
        remarks.append(f"{sentence}; the place listed for the lower address was taken")
    extents = Extents(
        extents.first + overlap, extents.count - overlap, extents.offset + overlap * PAGE_SIZE
    )[overlap < extents.count]
    if int(extents.count.sum()) * PAGE_SIZE > file_size:
        raise BadInputError(f"{path} says that it holds more memory than the file has bytes")
    near, left_out = near_pieces(
        path, extents.first * PAGE_SIZE, extents.count * PAGE_SIZE, lenient=lenient
    )
    return extents[near], remarks + left_out


def _join(extents: Extents) -> Extents:
    """Sort by frame, and join what overlaps or adjoins both in memory and in the file."""
    if extents.first.size == 0:
        return extents
    # Stretches that agree on where frame 0 would be in the file can be joined.
    origin = extents.offset - extents.first * PAGE_SIZE
    order = np.lexsort((extents.first, origin))
    extents, origin = extents[order], origin[order]
    group = np.cumsum(np.concatenate(([0], origin[1:] != origin[:-1])))
    base_of_group = group * (MAX_FRAMES + 1)
    end = np.maximum.accumulate(base_of_group + extents.first + extents.count) - base_of_group
    begins = np.concatenate(
        ([True], (extents.first[1:] > end[:-1]) | (group[1:] != group[:-1])),
    )
    starts = np.flatnonzero(begins)
    first, offset = extents.first[starts], extents.offset[starts]
    count = end[np.concatenate((starts[1:] - 1, [end.size - 1]))] - first
    return Extents(first, count, offset)[np.argsort(first, kind="stable")]


class MappedDump(Dump):
    """A dump that is a file and the places of the frames in it."""

    def __init__(
        self,
        path: Path,
        format_: str,
        extents: Extents,
        *,
        source: Path | None = None,
        notes: Mapping[str, int | bytes] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """`source` is the file that holds the pages, where that is not `path` itself."""
        runs = merge_runs(extents.first, extents.count)
        super().__init__(path, format_, runs, notes=notes, remarks=remarks)
        self._extents = extents
        self._source = source or path

    def each_block(self, work: BlockWork[_Result]) -> Iterator[_Result]:
        """Let `work` look at views of the mapped file; holes of a sparse file are left out."""
        with self._open() as file:

            def look(window: _Window) -> _Result:
                result = work(window.frames, file.read(window))
                file.drop(window)
                return result

            yield from ahead(look, self._windows(file))

    @contextmanager
    def _open(self) -> Iterator["_MappedFile"]:
        with reading(self._source), self._source.open("rb", buffering=0) as file:
            yield _MappedFile(self._source, file, self._end)

    def _windows(self, file: "_MappedFile") -> Iterator[_Window]:
        """Go through the file's pages, not the runs: a bitmap's many short runs adjoin in it."""
        extents = self._extents
        end = extents.offset + extents.count * PAGE_SIZE
        parts = (np.flatnonzero(extents.offset[1:] != end[:-1]) + 1).tolist()
        for low, high in pairwise([0, *parts, end.size]):
            offset = int(extents.offset[low])
            for page, count in file.data(offset, (int(end[high - 1]) - offset) // PAGE_SIZE):
                for start in range(page, page + count, base.BLOCK_FRAMES):
                    pages = np.arange(start, min(start + base.BLOCK_FRAMES, page + count))
                    frames = pages + extents.first[low]
                    if high - low > 1:
                        place = offset + pages * PAGE_SIZE
                        run = np.searchsorted(extents.offset[low:high], place, side="right")
                        run += low - 1
                        frames = extents.first[run] + (place - extents.offset[run]) // PAGE_SIZE
                    yield _Window(frames, offset + start * PAGE_SIZE)

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Gather frames from the mapped file."""
        frames = np.asarray(frames, dtype=np.int64)
        pages = np.empty((frames.size, PAGE_SIZE // 8), dtype=np.uint64)
        with reading(self._source):
            file = self._file
            if frames.size == 1:  # lists are followed page by page
                pages[0] = self._page(file, int(frames[0]))
                return pages
            for start in range(0, frames.size, _GATHER_FRAMES):
                self._gather(file, frames[start:][:_GATHER_FRAMES], pages[start:])
        return pages

    def _page(self, file: "_MappedFile", frame: int) -> Words | int:
        """One frame's contents; 0 where the dump does not hold it."""
        extents = self._extents
        file.check_size()
        index = bisect_right(extents.first, frame) - 1
        inside = frame - int(extents.first[index])
        if index < 0 or inside >= extents.count[index]:
            return 0
        return file.page(int(extents.offset[index]) + inside * PAGE_SIZE)

    def _gather(self, file: "_MappedFile", frames: NDArray[np.int64], pages: Words) -> None:
        extents = self._extents
        file.check_size()
        index = extents.first.searchsorted(frames, side="right") - 1
        inside = frames - extents.first[index]
        is_held = (index >= 0) & (inside < extents.count[index])
        place = extents.offset[index] + inside * PAGE_SIZE
        # Frames whose places differ by whole pages are rows of the same view of the file.
        remainder = place % PAGE_SIZE
        aligned = int(remainder[0])
        if is_held.all() and (remainder == aligned).all():  # as in most dumps
            view = file.rows(aligned)
            view.take(place // PAGE_SIZE, axis=0, out=pages[: len(frames)], mode="clip")
            return
        pages[: len(frames)] = 0
        held = np.flatnonzero(is_held)
        for aligned in np.unique(remainder[held]).tolist():
            rows = held[remainder[held] == aligned]
            pages[rows] = file.rows(aligned)[place[rows] // PAGE_SIZE]

    @cached_property
    def _file(self) -> "_MappedFile":
        with self._open() as file:
            return file

    @property
    def _end(self) -> int:
        return int((self._extents.offset + self._extents.count * PAGE_SIZE).max())


class _MappedFile:
    """A file in memory, up to a given byte.

    Raises OSError, and BadInputError where the file has become shorter than that.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        """`file` must stay open for `data` only."""
        self._path = path
        self._file = file
        self._size = size
        self._data_from = self._data_to = 0
        self._can_populate = True
        if file_size(file) < size:
            raise self._shorter()
        self._memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self._address = np.frombuffer(self._memory, np.uint8).ctypes.data
        self._has_size = self._memory.size() > 0  # a block device tells none

    def check_size(self) -> None:
        if self._has_size and self._memory.size() < self._size:
            raise self._shorter()

    def data(self, offset: int, count: int) -> Iterator[tuple[int, int]]:
        """Find what is no hole among the `count` pages at byte `offset`.

        Yields stretches of pages: number within those, and how many.
        """
        end = offset + count * PAGE_SIZE
        position = offset
        while position < end:
            if not self._data_from <= position < self._data_to:
                self._data_from, self._data_to = self._next_data(position)
            first = (max(self._data_from, position) - offset) // PAGE_SIZE
            last = -(-(min(self._data_to, end) - offset) // PAGE_SIZE)
            if first < count:
                yield first, min(last, count) - first
            position = max(self._data_to, offset + last * PAGE_SIZE)

    def _next_data(self, position: int) -> tuple[int, int]:
        descriptor = self._file.fileno()
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            return start, os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                self.check_size()
                return self._size, self._size
            return position, self._size  # this file system cannot tell

    def read(self, window: _Window) -> Words:
        """View a window's pages, which the kernel then has read without an error."""
        self.check_size()
        if self._can_populate:
            self._populate(window)
        count = window.frames.size
        words = np.frombuffer(self._memory, np.uint64, count * (PAGE_SIZE // 8), window.offset)
        return words.reshape(count, -1)

    def drop(self, window: _Window) -> None:
        """Let go of a window's memory, which else would add up to all of the file.

        Whoever still looks at it brings it back.
        """
        self._advise(window, mmap.MADV_DONTNEED)

    def _populate(self, window: _Window) -> None:
        try:
            self._advise(window, _MADV_POPULATE_READ)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EFAULT: to read it would have been SIGBUS
                self.check_size()
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
            self._can_populate = False  # an older kernel

    def _advise(self, window: _Window, advice: int) -> None:
        # Not by Python's own madvise(), which makes all other threads wait.
        start = window.offset // PAGE_SIZE * PAGE_SIZE
        place, size = ctypes.c_void_p(self._address + start), ctypes.c_size_t(window.end - start)
        if _LIBC.madvise(place, size, advice):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def page(self, offset: int) -> Words:
        """View the page from byte `offset` on."""
        return np.frombuffer(self._memory, np.uint64, PAGE_SIZE // 8, offset)

    def rows(self, offset: int) -> Words:
        """View all pages from byte `offset` on, the last one only if it is whole."""
        count = (self._size - offset) // PAGE_SIZE
        words = np.frombuffer(self._memory, np.uint64, count * (PAGE_SIZE // 8), offset)
        return words.reshape(count, -1)

    def _shorter(self) -> BadInputError:
        return BadInputError(f"{self._path} got shorter while it was read")


def file_size(file: BinaryIO) -> int:
    """Ask a file or block device for its size, in bytes."""
    # By seeking, as stat() gives 0 for a block device.
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size
