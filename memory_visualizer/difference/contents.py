"""The comparison of two dumps' contents, frame by frame.

The bytes themselves are compared, not stored digests: so equality is certain, no crafted dump can
hide a change, and no memory is needed. The second read costs little, since frames that are all
zeros in either dump are known already, and are not read.
"""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import chosen_rows
from memory_visualizer.formats.base import Dump, Progress, Words
from memory_visualizer.formats.inside import InsidePath
from memory_visualizer.formats.mapped import MappedDump

_FRAMES_AT_ONCE = 64
"""Frames that are copied and compared at once if random access to a file is fast: 256 KiB stay
in the processor's cache, and the C library does not return them to the system each time."""


def differing(
    before: Dump, after: Dump, wanted: NDArray[np.bool_], progress: Progress | None = None
) -> NDArray[np.bool_]:
    """Which of the `wanted` frames have different contents, by PFN; False for all others.

    Both dumps must hold them, and none of them may be all zeros. `progress` and errors as for
    Dump.scan. One dump is scanned block by block, and the same frames of the other are read beside
    it, whatever the formats. The scanned dump is the one that is slower to read out of order.
    """
    scanned, other = sorted((before, after), key=_ease)
    pieces = _FRAMES_AT_ONCE if isinstance(other, MappedDump) else len(wanted)
    found = np.zeros(len(wanted), np.bool_)

    def compare(frames: NDArray[np.int64], words: Words) -> None:
        inside = frames[: np.searchsorted(frames, len(wanted))]
        rows = np.flatnonzero(wanted[inside])
        for at in range(0, len(rows), pieces):
            some = rows[at : at + pieces]
            mine, theirs = chosen_rows(words, some), other.read_frames(frames[some])
            found[frames[some]] = (mine != theirs).any(axis=1)
        other.release()

    scanned.scan([compare], progress)
    return found


def _ease(dump: Dump) -> int:
    """How fast random access is: 0 for dumps to read in order, 1 in a container, 2 in a file."""
    if not isinstance(dump, MappedDump):
        return 0
    return 1 if isinstance(dump.path, InsidePath) else 2
