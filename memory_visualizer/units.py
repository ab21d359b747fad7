"""Common units, and the largest plausible numbers of them."""

PAGE_SIZE = 4096
"""Bytes in a page frame, on x86 and x86-64 (Intel SDM, vol. 3A, 4.1)."""

MAX_FRAMES = 2**32
"""Frames up to which dumps are read: 16 TiB of physical addresses.

The largest machines have more, but a header may lie, and a table with a byte for each frame
must still fit a common machine's memory.
"""

MAX_RUNS = 2**24
"""Stretches of frames up to which headers are read; no machine's memory is in that many pieces."""
