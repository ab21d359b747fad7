"""Small physical memories, and the page tables in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from memory_visualizer.limits import Budget

PAGE = 4096


@dataclass
class Memory:
    """Physical memory in bytes, which counts the frames that are read."""

    contents: bytes
    missing: frozenset[int] = frozenset()
    frames_read: int = field(default=0)

    @property
    def frame_count(self) -> int:
        """The number of frames."""
        return len(self.contents) // PAGE

    @cached_property
    def budget(self) -> Budget:
        """The budget for this memory."""
        return Budget(self.frame_count)

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Frames that are not missing."""
        return ~np.isin(np.arange(self.frame_count), list(self.missing))

    def read_frames(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Contents of frames; zeros for missing ones."""
        self.frames_read += len(frames)
        words = np.frombuffer(self.contents, "<u8").reshape(-1, 512)
        inside = (frames >= 0) & (frames < len(words))
        found = np.where(inside[:, None], words[np.where(inside, frames, 0)], np.uint64(0))
        found[np.isin(frames, list(self.missing))] = 0
        return found


def chain(flags: Sequence[int]) -> npt.NDArray[np.uint64]:
    """Memory with a chain of tables in frames 1 to 4; the lowest has entries with these flags."""
    words = np.zeros((64, 512), np.uint64)
    for frame in (1, 2, 3):
        words[frame, 0] = frame + 1 << 12 | 0x67
    frames = np.arange(5, 5 + len(flags), dtype=np.uint64)
    words[4, : len(flags)] = frames << np.uint64(12) | np.array(flags, np.uint64)
    return words
