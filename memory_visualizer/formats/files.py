"""Access to files for all formats, on each operating system.

Only Linux can map a file safely. Reading mapped memory cannot report an error: if the disk fails,
or the file was cut, the process is killed (SIGBUS). So the kernel first loads each window of the
file, and reports errors (MADV_POPULATE_READ, Linux 5.14), and the file's size is checked again
before any read. Only a cut in the very moment of a read remains. Nothing is copied, wherever in the
file pages begin.

Other systems read pieces of the file into memory, which reports errors; the content of a container
(inside.py) is read so, too.
"""

import ctypes
import errno
import mmap
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BufferedReader, FileIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats import base
from memory_visualizer.formats.base import Words
from memory_visualizer.formats.inside import Inside, InsideFile, keep_open
from memory_visualizer.units import PAGE_SIZE

_MADV_POPULATE_READ = 22  # include/uapi/asm-generic/mman-common.h; not in Python's mmap
_COPIED_FRAMES = 1024
"""Frames that a thread reads into memory at once: 4 MiB."""
_MAX_RESIDENT = 1 << 30
"""Bytes of files that a process may have mapped in memory. They cost nothing, as the kernel takes
them when it needs room, but clusters count them, and end processes that have much. To unmap them
more often would take time: pages that are read again are mapped again."""
_PAGES_BETWEEN = 1 << 9
"""Pages after which the process is asked how much it has: an access to a page also maps its
neighbours, up to 2 MiB."""
_SHORT_HOLE = 8 * PAGE_SIZE
"""Bytes of a hole that are read as zeros, since a block more takes longer."""
_PAGE = np.dtype((np.void, PAGE_SIZE))
"""A page as bytes, which may begin anywhere: with a type of numbers numpy would copy the whole
file."""

_seeking = threading.Lock()


def file_size(file: BinaryIO) -> int:
    """The size of a file or block device in bytes."""
    # Seeking tells the size, since stat() gives 0 for a block device.
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """Read bytes from a place in a file, fewer at its end; any thread may call this. OSError.

    The content of a container raises the errors of `Inside.read_into`.
    """
    if inside := _inside(file):
        return inside.read(size, offset)
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with _at(file, offset) as descriptor:
        return os.read(descriptor, size)


def read_into(file: BinaryIO, target: memoryview, offset: int) -> int:
    """Fill `target` from a place in a file; returns the number of bytes. As `read_at`."""
    if inside := _inside(file):
        size = max(0, min(len(target), inside.size - offset))
        inside.read_into(target[:size], offset)
        return size
    done = 0
    while done < len(target):  # a call reads at most 2 GiB
        if hasattr(os, "preadv"):
            size = os.preadv(file.fileno(), [target[done:]], offset + done)
        else:
            with _at(file, offset + done):
                size = cast(FileIO, file).readinto(target[done:]) or 0
        if not size:
            break
        done += size
    return done


def ask(file: BinaryIO, offset: NDArray[np.int64], size: NDArray[np.int64] | int) -> None:
    """Say that stretches of bytes, which the file has, will be read at once: see `Inside.ask`."""
    if inside := _inside(file):
        inside.ask(offset, size)


def _inside(file: BinaryIO) -> Inside | None:
    """The content of a container that a file reads, perhaps through a buffer; else None."""
    raw = file.raw if isinstance(file, BufferedReader) else file
    return raw.inside if isinstance(raw, InsideFile) else None


@contextmanager
def _at(file: BinaryIO, offset: int) -> Iterator[int]:
    """Move a file's descriptor to another place for a moment, where pread is missing (Windows)."""
    descriptor = file.fileno()
    with _seeking:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, offset, os.SEEK_SET)
        try:
            yield descriptor
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


class PagesFile(ABC):
    """The pages of a file up to a given byte.

    Raises OSError, and BadInputError if the file has become shorter.
    """

    block_frames: int
    """The largest number of pages in a view."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        """`file` must stay open for `data` and `view`."""
        self._path = path
        self._file = file
        self._size = size
        self._data_from = self._data_to = 0
        if file_size(file) < size:
            raise self._shorter()

    @abstractmethod
    def check_size(self) -> None:
        """Check that the file still has its size."""

    @abstractmethod
    def view(self, offset: int, count: int) -> Words:
        """The `count` pages from byte `offset` on, valid until this thread asks for others.

        Words may be unaligned.
        """

    @abstractmethod
    def drop(self, offset: int, count: int) -> None:
        """Release a view's memory; otherwise the whole file would stay mapped in memory."""

    @abstractmethod
    def gather(self, places: NDArray[np.int64], pages: Words) -> None:
        """Copy the pages that begin at these bytes into `pages`."""

    def data(self, offset: int, count: int) -> Iterator[tuple[int, int]]:
        """Find the pages outside of holes among the `count` pages at byte `offset`.

        Yields stretches of pages: number of the first page, counted from `offset`, and length.
        """
        end = offset + count * PAGE_SIZE
        position = offset
        while position < end:
            if not self._data_from <= position < self._data_to:
                self._data_from, self._data_to = self._joined_data(position)
            first = (max(self._data_from, position) - offset) // PAGE_SIZE
            last = -(-(min(self._data_to, end) - offset) // PAGE_SIZE)
            if first < count:
                yield first, min(last, count) - first
            position = max(self._data_to, offset + last * PAGE_SIZE)

    def _joined_data(self, position: int) -> tuple[int, int]:
        """The next data from `position` on, read across short holes up to the size of a block."""
        start, end = self._next_data(position)
        while end < min(self._size, start + base.BLOCK_FRAMES * PAGE_SIZE):
            following, following_end = self._next_data(end)
            if following - end > _SHORT_HOLE:
                break
            end = following_end
        return start, end

    def _next_data(self, position: int) -> tuple[int, int]:
        """The start and the end of the next data from `position` on."""
        if not hasattr(os, "SEEK_DATA"):
            return position, self._size
        descriptor = self._file.fileno()
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            return start, os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole from here on
                self.check_size()
                return self._size, self._size
            return position, self._size  # this file system does not tell its holes

    def _shorter(self) -> BadInputError:
        return BadInputError(f"{self._path} got shorter while it was read")


def open_pages(path: Path, file: BinaryIO, size: int) -> PagesFile:
    """Choose the best way on this system to read an open file's pages up to byte `size`."""
    if isinstance(file, InsideFile):
        return _InsidePages(path, file, size)
    kind = _MappedFile if _can_populate() else _CopiedFile
    return kind(path, file, size)


class _MappedFile(PagesFile):
    """A mapped file. `gather` works even after the file was closed."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        super().__init__(path, file, size)
        self.block_frames = base.BLOCK_FRAMES
        self._memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self._address = np.frombuffer(self._memory, np.uint8).ctypes.data
        self._has_size = self._memory.size() > 0  # a block device does not tell one
        self._touched = 0

    def check_size(self) -> None:
        if self._has_size and self._memory.size() < self._size:
            raise self._shorter()

    def view(self, offset: int, count: int) -> Words:
        """View pages after the kernel has loaded them without an error."""
        self.check_size()
        try:
            self._advise(offset, count, _MADV_POPULATE_READ)
        except OSError as error:  # EFAULT: reading would have raised SIGBUS
            self.check_size()
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        words = np.frombuffer(self._memory, np.uint64, count * (PAGE_SIZE // 8), offset)
        return words.reshape(count, -1)

    def drop(self, offset: int, count: int) -> None:
        """Unmap pages; a later access loads them again."""
        self._advise(offset, count, mmap.MADV_DONTNEED)

    def _advise(self, offset: int, count: int, advice: int) -> None:
        start = offset // PAGE_SIZE * PAGE_SIZE
        _advise(self._address + start, offset + count * PAGE_SIZE - start, advice)

    def _drop_some(self, touched: int) -> None:
        """Unmap all pages where too many are in memory."""
        self._touched += touched
        if self._touched >= _PAGES_BETWEEN:
            self._touched = 0
            if _resident() > _MAX_RESIDENT:
                self.drop(0, -(-self._size // PAGE_SIZE))

    def gather(self, places: NDArray[np.int64], pages: Words) -> None:
        self.check_size()
        self._drop_some(len(places))
        if len(places) == 1:  # searches that follow lists read page by page
            pages[0] = np.frombuffer(self._memory, np.uint64, PAGE_SIZE // 8, int(places[0]))
            return
        # Pages whose places differ by multiples of a page are rows of the same view of the file.
        remainder = places % PAGE_SIZE
        wanted = pages.view(_PAGE)[:, 0]
        first = int(remainder[0])
        if (remainder == first).all():  # as in most dumps
            self._rows(first).take(places // PAGE_SIZE, out=wanted, mode="clip")
            return
        for offset in np.unique(remainder).tolist():
            chosen = np.flatnonzero(remainder == offset)
            wanted[chosen] = self._rows(offset)[places[chosen] // PAGE_SIZE]

    def _rows(self, offset: int) -> NDArray[np.void]:
        """View all whole pages from byte `offset` on."""
        return np.frombuffer(self._memory, _PAGE, (self._size - offset) // PAGE_SIZE, offset)


class _ReadPages(PagesFile):
    """Pages that are read batch by batch into a buffer that each thread reuses."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        super().__init__(path, file, size)
        self.block_frames = min(base.BLOCK_FRAMES, _COPIED_FRAMES)
        self._of_thread = threading.local()

    @abstractmethod
    def _read(self, pages: Words, offset: int) -> None:
        """Fill `pages` from byte `offset` on."""

    def view(self, offset: int, count: int) -> Words:
        memory: Words | None = getattr(self._of_thread, "memory", None)
        if memory is None or len(memory) < count:
            memory = self._of_thread.memory = np.empty((count, PAGE_SIZE // 8), np.uint64)
        self._read(memory[:count], offset)
        words = memory[:count]
        words.flags.writeable = False
        return words

    def drop(self, offset: int, count: int) -> None:
        """Nothing to do: the buffer is reused."""

    def gather(self, places: NDArray[np.int64], pages: Words) -> None:
        breaks = np.flatnonzero(np.diff(places) != PAGE_SIZE) + 1
        for start, end in pairwise([0, *breaks.tolist(), len(places)]):
            self._read(pages[start:end], int(places[start]))


class _CopiedFile(_ReadPages):
    """A file that is read by calls. It keeps an own file object open."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        super().__init__(path, file, size)
        self._own = keep_open(self, path)
        # A block device does not tell its size.
        self._has_size = os.fstat(self._own.fileno()).st_size > 0

    def check_size(self) -> None:
        if self._has_size and os.fstat(self._own.fileno()).st_size < self._size:
            raise self._shorter()

    def _read(self, pages: Words, offset: int) -> None:
        if read_into(self._own, pages.data.cast("B"), offset) < pages.nbytes:
            raise self._shorter()


class _InsidePages(_ReadPages):
    """The content of a container. `gather` works even after the file was closed."""

    def __init__(self, path: Path, file: InsideFile, size: int) -> None:
        super().__init__(path, cast(BinaryIO, file), size)
        self._inside: Inside = file.inside

    def check_size(self) -> None:
        """Nothing to do: the container's reader checks its size."""

    def _read(self, pages: Words, offset: int) -> None:
        self._inside.read_into(pages.data.cast("B"), offset)

    def gather(self, places: NDArray[np.int64], pages: Words) -> None:
        at_once = self._inside.asks_at_once
        for start in range(0, len(places), at_once):
            part = slice(start, start + at_once)
            self._inside.ask(places[part], PAGE_SIZE)
            super().gather(places[part], pages[part])

    def _next_data(self, position: int) -> tuple[int, int]:
        return self._inside.data(position)


@cache
def _can_populate() -> bool:
    """Whether a system call can load mapped pages and report errors."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_DONTNEED"):
        return False
    with mmap.mmap(-1, PAGE_SIZE) as memory:
        try:
            _advise(_address_of(memory), PAGE_SIZE, _MADV_POPULATE_READ)
        except OSError:  # EINVAL: an older kernel
            return False
    return True


def _resident() -> int:
    """Bytes of files that this process has mapped in memory (proc(5), statm); 0 if not told."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[2]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def _address_of(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def _advise(address: int, size: int, advice: int) -> None:
    """Call madvise(2) directly, since Python's own function blocks all other threads."""
    libc = _c_library()
    if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
