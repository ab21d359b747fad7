"""Common units, and the largest plausible numbers of them."""

PAGE_SIZE = 4096
"""Bytes in a page frame, on x86 and x86-64 (Intel SDM, vol. 3A, 4.1)."""

MAX_FRAMES = 2**32
"""Frames up to which dumps are read: 16 TiB of physical addresses.

The largest machines have more, but a header may be false, and a table with a byte for each frame
must fit into the memory of a common machine.
"""

MAX_RUNS = 2**24
"""Runs of frames up to which headers are read; no machine's memory has that many runs."""
