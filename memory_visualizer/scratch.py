"""Scratch files: large temporary data that has no room in memory.

They have no name if the system allows this, and vanish when the program ends, however it ends. They
should not lie in memory, as /tmp does on some systems: TMPDIR names their folder, otherwise it is
/var/tmp, otherwise the system's own.
"""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGEST_COLUMN = 1 << 30
"""Bytes: of a dump of up to a terabyte, each column of bytes is kept in memory."""


def scratch_folder() -> Path:
    """The folder for large temporary files."""
    named = os.environ.get("TMPDIR")
    for folder in (named, "/var/tmp"):
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    return Path(tempfile.gettempdir())


def column(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """A column of zeros, as by np.zeros; in a scratch file if it is larger than LARGEST_COLUMN.

    The system then keeps in memory as much of it as there is room for. Where no such file can be
    written, or the disk lacks the room, the column is in memory.
    """
    bytes_ = size * np.dtype(dtype).itemsize
    if bytes_ > LARGEST_COLUMN and hasattr(os, "posix_fallocate"):
        try:
            with tempfile.TemporaryFile(buffering=0, dir=scratch_folder()) as file:
                # All of the room is taken now: a full disk would later kill the program (SIGBUS).
                os.posix_fallocate(file.fileno(), 0, bytes_)
                memory = mmap.mmap(file.fileno(), bytes_)
        except OSError:
            return np.zeros(size, dtype)
        return np.frombuffer(memory, dtype, size)
    return np.zeros(size, dtype)
