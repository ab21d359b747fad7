"""The content of a container, read like a file of its own.

gzip, E01 and others wrap a file. Their reader is an `Inside`: a size, and bytes from any place. An
`InsidePath` leads to it like a dump's path, so the same modules recognise and read the format
inside as they do a file on disk. Containers may be nested.
"""

import io
import sys
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memory_visualizer.arrays import joined_runs
from memory_visualizer.errors import DamagedInputError
from memory_visualizer.formats.cache import PieceCache
from memory_visualizer.printable import counted

if sys.platform == "win32":
    from pathlib import WindowsPath as _SystemPath
else:
    from pathlib import PosixPath as _SystemPath


class Inside(ABC):
    """The bytes in a container; several threads may read them at once."""

    name: str
    """The container's name, such as ``gzip``."""
    size: int
    """Size of the content in bytes."""
    is_unpacked_first: bool = False
    """Whether the whole container has to be unpacked before any byte can be read."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user on data that was left out or is unknown."""
    missing: NDArray[np.int64] = np.empty((0, 2), np.int64)
    """Start and end of unreadable stretches of bytes, ascending. They read as zeros, and frames
    with such bytes are not held."""

    @abstractmethod
    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` from byte `offset` on; both lie within `size`.

        BadInputError if the container became shorter; DamagedInputError if it cannot be unpacked;
        OSError.
        """

    def open(self) -> BinaryIO:
        """Open the content like a file."""
        return cast(BinaryIO, InsideFile(self))

    def ask(  # noqa: B027 - most contents have nothing to gain
        self, offset: NDArray[np.int64], size: NDArray[np.int64] | int
    ) -> None:
        """Announce that stretches of bytes, which lie within `size`, will be read soon.

        Remote content then arrives sooner. This does not wait, and raises no error.
        """

    def check(self) -> None:  # noqa: B027 - most contents cannot change unnoticed
        """Raise BadInputError if the content has changed since it was opened."""

    @property
    def asks_at_once(self) -> int:
        """The number of scattered pages that should be announced at once by `ask`."""
        return sys.maxsize

    def data(self, position: int) -> tuple[int, int]:
        """Find the next stretch from `position` on that is not known to be zeros: start and end.

        Both are `size` if there is none.
        """
        return position, self.size

    def read(self, size: int, offset: int) -> bytes:
        """Read bytes, fewer at the end. Errors as for `read_into`."""
        target = bytearray(max(0, min(size, self.size - offset)))
        if target:
            self.read_into(memoryview(target), offset)
        return bytes(target)


class InsideFile(io.RawIOBase):
    """An `Inside` as a Python file object, which `files.read_at` and others recognise."""

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
        """The position of the next `read`."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
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
    """A container's path that opens the file inside."""

    inside: Inside | None = None
    is_whole_file = False
    """Whether the content is a whole file, which lies elsewhere, and not a part of this one."""
    _shown = ""

    @classmethod
    def of(cls, path: Path, inside: Inside) -> "InsidePath":
        """Make the path of the content of `path`."""
        self = cls(path)
        self.inside = inside
        self._shown = path._shown if isinstance(path, InsidePath) else ""
        return self

    def __str__(self) -> str:
        """The path, or the URL for which it stands."""
        return self._shown or super().__str__()

    def __reduce__(self) -> str | tuple[Any, ...]:
        """As for any path; TypeError if it leads into a container, which a pickle cannot hold."""
        if self.inside is not None:
            raise TypeError(f"the contents of {self} cannot be pickled by its path")
        return super().__reduce__()

    def open(self, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        """Open the content; paths derived from this one, such as its parent, open as usual."""
        if self.inside is None:
            return super().open(mode, buffering, *args, **options)
        file = self.inside.open()
        return file if buffering == 0 else io.BufferedReader(cast(io.RawIOBase, file))


def is_content(path: Path) -> bool:
    """Whether a path leads to the content of a container, and not to a file."""
    return isinstance(path, InsidePath) and not path.is_whole_file and path.inside is not None


def is_unpacked_first(path: Path) -> bool:
    """Whether a container, or one around it, has to be unpacked before its content can be read."""
    while isinstance(path, InsidePath) and path.inside is not None:
        if path.inside.is_unpacked_first:
            return True
        path = getattr(path.inside, "path", Path())
    return False


def lacks(
    path: Path, offset: NDArray[np.int64], size: NDArray[np.int64] | int
) -> NDArray[np.bool_]:
    """Which stretches of the file behind a path have an unreadable byte."""
    if not isinstance(path, InsidePath) or path.inside is None or not len(path.inside.missing):
        return np.zeros(offset.size, np.bool_)
    starts, ends = path.inside.missing.T
    following = np.searchsorted(ends, offset, side="right")
    start = np.append(starts, np.iinfo(np.int64).max)[following]
    lacking: NDArray[np.bool_] = start < offset + size
    return lacking


class ChunkedInside(Inside):
    """Content that is packed in independent chunks."""

    def __init__(self, path: Path, starts: ArrayLike, size: int) -> None:
        """`starts` are the first bytes of the chunks in the content, ascending from 0."""
        self.path = path
        self.size = size
        begins = np.asarray(starts, np.int64)
        # Chunks that begin behind the end do not belong to the contents.
        self._starts: NDArray[np.int64] = np.append(begins[begins < size], size)
        self._file = keep_open(self, path)
        self._cache = PieceCache[bytes](len)
        """Chunks that were read in part: other parts may follow soon."""
        self._broken: set[int] = set()

    @abstractmethod
    def unpack(self, number: int, length: int) -> bytes:
        """Unpack a chunk of `length` bytes. Errors as for `read_into`."""

    def read_into(self, target: memoryview, offset: int) -> None:
        """Read these bytes from their chunks."""
        end = offset + len(target)
        number = int(np.searchsorted(self._starts, offset, side="right")) - 1
        place = offset
        while place < end:
            start, stop = (int(byte) for byte in self._starts[number : number + 2])
            upto = min(stop, end)
            if upto > place:
                whole = (place, upto) == (start, stop)
                chunk = self._unpack(number) if whole else self._cache.get(number, self._unpack)
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
        """Unpack all chunks; broken chunks count as missing afterwards."""
        for number in range(len(self._starts) - 1):
            try:
                self._unpack(number)
            except DamagedInputError:
                self._broken.add(number)
        if not self._broken:
            return
        broken = np.array(sorted(self._broken))
        self.leave_out(np.stack((self._starts[broken], self._starts[broken + 1]), axis=1))
        pieces = counted(len(broken), "broken chunk")
        self.remarks = (*self.remarks, f"{pieces} of {self.path} left out")

    def leave_out(self, stretches: NDArray[np.int64]) -> None:
        """Add stretches of bytes, in any order, to `missing`."""
        all_of_them = np.concatenate((self.missing, stretches))
        runs = joined_runs(np.stack((all_of_them[:, 0], np.diff(all_of_them)[:, 0]), axis=1))
        self.missing = np.stack((runs[:, 0], runs.sum(axis=1)), axis=1)


def keep_open(owner: object, path: Path) -> BinaryIO:
    """Open a file for as long as `owner` lives."""
    file: BinaryIO = path.open("rb", buffering=0)
    weakref.finalize(owner, file.close)
    return file
