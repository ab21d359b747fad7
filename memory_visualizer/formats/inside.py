"""The content of a container, read like a file of its own.

gzip, E01 and others wrap a file. Their reader is an `Inside`: a size, and bytes from any place. As
an `InsidePath` it goes wherever a dump's path goes, so the format inside is recognised and read by
the same modules as a file on disk. Containers may lie in one another.
"""

import io
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memory_visualizer.errors import DamagedInputError
from memory_visualizer.printable import counted

if sys.platform == "win32":
    from pathlib import WindowsPath as _SystemPath
else:
    from pathlib import PosixPath as _SystemPath

_CACHE_SIZE = 32 << 20
"""Bytes of unpacked chunks that are kept, in each container."""


class Inside(ABC):
    """The bytes in a container; they may be asked for by several threads at once."""

    name: str
    """What the container is called, such as ``gzip``."""
    size: int
    """Bytes."""
    remarks: tuple[str, ...] = ()
    """Sentences on what was left out or could not be known."""
    missing: NDArray[np.int64] = np.empty((0, 2), np.int64)
    """Start and end of stretches of bytes that cannot be read, ascending; they are given as zeros,
    and no frame that has one of these bytes is held."""

    @abstractmethod
    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` from byte `offset` on; both lie within `size`.

        BadInputError where the container got shorter; DamagedInputError where it cannot be
        unpacked; OSError.
        """

    def open(self) -> BinaryIO:
        """Open it as a file is opened."""
        return cast(BinaryIO, InsideFile(self))

    def data(self, position: int) -> tuple[int, int]:
        """Find the next stretch from `position` on that is not known to be zeros: start, end.

        Both are `size` where there is none.
        """
        return position, self.size

    def read(self, size: int, offset: int) -> bytes:
        """Read bytes, fewer at the end. Errors as for `read_into`."""
        target = bytearray(max(0, min(size, self.size - offset)))
        if target:
            self.read_into(memoryview(target), offset)
        return bytes(target)


class InsideFile(io.RawIOBase):
    """An `Inside` as Python's file objects are; `files.read_at` and others know it."""

    def __init__(self, inside: Inside) -> None:
        self.inside = inside
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next `read` begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another place."""
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.inside.size}
        self._position = max(0, begin[whence] + offset)
        return self._position

    def readinto(self, target: Any) -> int:
        """Fill as much of `target` as there are bytes."""
        room = memoryview(target).cast("B")
        size = max(0, min(len(room), self.inside.size - self._position))
        if size:
            self.inside.read_into(room[:size], self._position)
        self._position += size
        return size


class InsidePath(_SystemPath):
    """The path of a container, which opens as the file inside it."""

    inside: Inside | None = None

    @classmethod
    def of(cls, path: Path, inside: Inside) -> "InsidePath":
        """Make the path of what is inside `path`."""
        self = cls(path)
        self.inside = inside
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        """As any path; TypeError where it leads into a container, which a pickle cannot hold."""
        if self.inside is not None:
            raise TypeError(f"the contents of {self} cannot be pickled by its path")
        return super().__reduce__()

    def open(self, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        """Open what is inside; paths made of this one, such as its parent, open as any other."""
        if self.inside is None:
            return super().open(mode, buffering, *args, **options)
        file = self.inside.open()
        return file if buffering == 0 else io.BufferedReader(cast(io.RawIOBase, file))


def lacks(
    path: Path, offset: NDArray[np.int64], size: NDArray[np.int64] | int
) -> NDArray[np.bool_]:
    """Which stretches of the file that a path leads to have a byte that cannot be read."""
    if not isinstance(path, InsidePath) or path.inside is None or not len(path.inside.missing):
        return np.zeros(offset.size, np.bool_)
    starts, ends = path.inside.missing.T
    following = np.searchsorted(ends, offset, side="right")
    start = np.append(starts, np.iinfo(np.int64).max)[following]
    lacking: NDArray[np.bool_] = start < offset + size
    return lacking


def as_path(path: str | Path) -> Path:
    """Make a path of a name; one that leads into a container stays as it is."""
    return path if isinstance(path, Path) else Path(path)


class ChunkedInside(Inside):
    """Content that is packed in independent chunks."""

    def __init__(self, path: Path, starts: ArrayLike, size: int) -> None:
        """`starts` are the first bytes of the chunks, inside, in ascending order, the first 0."""
        self.path = path
        self.size = size
        begins = np.asarray(starts, np.int64)
        # What begins behind the end is no part of the contents.
        self._starts: NDArray[np.int64] = np.append(begins[begins < size], size)
        self._file = keep_open(self, path)
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._broken: set[int] = set()
        self._lock = threading.Lock()

    @abstractmethod
    def unpack(self, number: int, length: int) -> bytes:
        """Unpack a chunk; it has `length` bytes inside. Errors as for `read_into`."""

    def read_into(self, target: memoryview, offset: int) -> None:
        """Unpack the chunks that these bytes are in."""
        end = offset + len(target)
        number = int(np.searchsorted(self._starts, offset, side="right")) - 1
        place = offset
        while place < end:
            start, stop = (int(byte) for byte in self._starts[number : number + 2])
            upto = min(stop, end)
            if upto > place:
                whole = (place, upto) == (start, stop)
                chunk = self._unpack(number) if whole else self._chunk(number)
                target[place - offset : upto - offset] = chunk[place - start : upto - start]
                place = upto
            number += 1

    def _unpack(self, number: int) -> bytes:
        start, stop = (int(byte) for byte in self._starts[number : number + 2])
        if number in self._broken:
            return bytes(stop - start)
        chunk = self.unpack(number, stop - start)
        if len(chunk) != stop - start:
            raise DamagedInputError(
                f"{self.path}: {len(chunk):,} bytes are in a chunk where {stop - start:,} should be"
            )
        return chunk

    def leave_out_broken(self) -> None:
        """Unpack all chunks; those that cannot be are missing from then on."""
        for number in range(len(self._starts) - 1):
            try:
                self._unpack(number)
            except DamagedInputError:
                self._broken.add(number)
        if not self._broken:
            return
        broken = np.array(sorted(self._broken))
        self.missing = np.stack((self._starts[broken], self._starts[broken + 1]), axis=1)
        pieces = counted(len(broken), "broken chunk")
        self.remarks = (*self.remarks, f"{pieces} of {self.path} left out")

    def _chunk(self, number: int) -> bytes:
        """A chunk of which a part is asked for: the other parts may be asked for soon."""
        with self._lock:
            if (found := self._cached.get(number)) is not None:
                self._cached.move_to_end(number)
                return found
        chunk = self._unpack(number)
        with self._lock:
            if number not in self._cached:
                self._cached[number] = chunk
                self._cached_bytes += len(chunk)
            while self._cached_bytes > _CACHE_SIZE and len(self._cached) > 1:
                self._cached_bytes -= len(self._cached.popitem(last=False)[1])
        return chunk


def keep_open(owner: object, path: Path) -> BinaryIO:
    """Open a file for as long as `owner` lives."""
    file: BinaryIO = path.open("rb", buffering=0)
    weakref.finalize(owner, file.close)
    return file
