"""The comparison of two dumps' contents, frame by frame.

Contents are compared themselves, not by digests that are kept: equality is then a fact and not a
likelihood, no dump can be made to hide a change, and no memory is needed for it. The second read
costs little, since frames that are zeros in either dump are known already, and are not read.
"""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import chosen_rows
from memory_visualizer.formats.base import Dump, Progress, Words
from memory_visualizer.formats.inside import InsidePath
from memory_visualizer.formats.mapped import MappedDump

_FRAMES_AT_ONCE = 128
"""Frames that are copied and compared at once if any place of a file is read equally fast: half a
megabyte stays in the processor's cache, and the C library does not give it back to the system each
time."""


def differing(
    before: Dump, after: Dump, wanted: NDArray[np.bool_], progress: Progress | None = None
) -> NDArray[np.bool_]:
    """Which of the `wanted` frames have different contents, by PFN; False for all others.

    Both dumps must hold them, and none of them may be all zeros. `progress` and errors as for
    Dump.scan. One dump is scanned block by block, and the same frames of the other are read beside
    it, whatever the formats: the dump that is scanned is the one that is read best in its order.
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
    """How easily single frames of a dump are read: all in their order, in a container, anywhere."""
    if not isinstance(dump, MappedDump):
        return 0
    return 1 if isinstance(dump.path, InsidePath) else 2
