"""Return freed memory to the system at once, where this is possible.

The C library of Linux keeps freed memory, except for the largest blocks, and raises this limit as
it goes. Columns of some megabytes, made and freed one after the other, then leave holes that add up
to more than the memory in use. It also gives each thread memory of its own, which it keeps when the
thread has ended.
"""

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h
_LARGE = 1 << 21
"""Smaller blocks, too, would cost the page faults of all their pages each time: with half a
megabyte, the page of an 8 GiB dump took a tenth longer. With four megabytes it took a twentieth
less, but some 15 MiB more memory at 16 GiB."""
_KEPT = 16 << 20
"""Bytes that stay with the program, so that small blocks are not requested each time."""


def give_back_large_blocks() -> None:
    """Return every freed block of two megabytes or more to the system (mallopt(3), glibc).

    All threads share one heap, so that blocks that a thread has freed serve other threads.

    Only the commands call this: a library must leave this choice to its program.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE)
    _call("mallopt", _M_TRIM_THRESHOLD, _KEPT)
    _call("mallopt", _M_ARENA_MAX, 1)


def give_back_small_blocks() -> None:
    """Return the freed memory that the C library still keeps (malloc_trim(3), glibc).

    For the end of a large task if another follows: it takes some milliseconds.
    """
    _call("malloc_trim", 0)


def _call(name: str, *numbers: int) -> None:
    """Call a function of Linux' C library; where there is none of this name, nothing happens."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), name)(*numbers)
