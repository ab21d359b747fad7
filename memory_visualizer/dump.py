"""Physical memory as a dump file holds it; for now raw dumps, where offset is address."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading

PAGE_SIZE = 4096
"""Bytes in a page frame, on x86 and x86-64 (Intel SDM, vol. 3A, 4.1)."""

Progress: TypeAlias = Callable[[int, int | None], None]
"""Told now and then how many bytes are done, and of how many (None: nobody knows)."""

_CHUNK_PAGES = 512  # 2 MiB: large enough to read fast, small enough for the processor's cache


@dataclass(frozen=True)
class RawDump:
    """A raw dump: byte N of the file is byte N of physical memory."""

    path: Path
    frame_count: int
    """Whole page frames in the file."""
    trailing_bytes: int = 0
    """Bytes after the last whole page; not looked at."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Look at the file's size; the file stays closed until its contents are asked for.

        BadInputError when the file cannot be read or holds no page; DamagedInputError, unless
        `lenient`, when it is not a whole number of pages.
        """
        path = Path(path)
        with reading(path), path.open("rb", buffering=0) as file:
            if not file.seekable():
                raise BadInputError(f"{path} is a pipe; a dump must be a file")
            # The end is asked for by seeking, as stat() gives 0 for a block device.
            frame_count, trailing_bytes = divmod(file.seek(0, os.SEEK_END), PAGE_SIZE)
        if frame_count == 0:
            raise BadInputError(f"{path} holds {trailing_bytes:,} bytes, less than one page")
        if trailing_bytes and not lenient:
            raise DamagedInputError(
                f"{path} is not a whole number of {PAGE_SIZE:,}-byte pages:"
                f" {trailing_bytes:,} bytes follow page {frame_count:,}"
            )
        return cls(path, frame_count, trailing_bytes)

    @property
    def size(self) -> int:
        """Bytes in whole page frames."""
        return self.frame_count * PAGE_SIZE

    def zero_frames(self, progress: Progress | None = None) -> NDArray[np.bool_]:
        """Find the frames that hold nothing but zeros; one bool for each frame, by PFN.

        Holes of a sparse file are zeros without being read. BadInputError when the file cannot
        be read, or ends before the size that it had when it was opened.
        """
        zero = np.ones(self.frame_count, dtype=np.bool_)
        words = np.empty((_CHUNK_PAGES, PAGE_SIZE // 8), dtype=np.uint64)
        buffer = words.data.cast("B")
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            position = _next_data(file, 0, self.size)
            while position < self.size:
                file.seek(position)
                pages = (file.readinto(buffer[: self.size - position]) or 0) // PAGE_SIZE
                if pages == 0:
                    raise BadInputError(f"{self.path} got shorter while it was read")
                first = position // PAGE_SIZE
                zero[first : first + pages] = np.bitwise_or.reduce(words[:pages], axis=1) == 0
                position += pages * PAGE_SIZE
                if progress:
                    progress(position, self.size)
                position = _next_data(file, position, self.size)
        return zero


def _next_data(file: BinaryIO, position: int, end: int) -> int:
    """Skip a sparse file's hole: the first page at or after `position` that may hold data."""
    try:
        data = os.lseek(file.fileno(), position, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: nothing but a hole from here on. Anything else: this file system cannot tell.
        return end if error.errno == errno.ENXIO else position
    return data // PAGE_SIZE * PAGE_SIZE
