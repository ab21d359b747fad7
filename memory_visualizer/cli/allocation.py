"""Return freed memory to the system at once, where this is possible.

The C library of Linux keeps what was freed, for all but the largest blocks, and raises the limit as
it goes: columns of some megabytes, made and let go of one after the other, then leave holes that
add up to more than all that is in use.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h, as of glibc
_LARGE = 1 << 20
_KEPT = 16 << 20  # of small blocks, so that those used again and again are not asked for each time


def give_back_large_blocks() -> None:
    """Let every block from a megabyte on be given back when it is freed (mallopt(3), glibc).

    Only the commands call this: a library must leave the choice to its program.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    except (OSError, AttributeError):
        return  # another C library
