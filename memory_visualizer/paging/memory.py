"""The part of a dump's interface that a walk of page tables needs."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget

TABLES_AT_ONCE = 256


class PhysicalMemory(Protocol):
    """The part of a dump that a walk needs."""

    @property
    def frame_count(self) -> int:
        """The number behind the last frame's; the first frame has number 0."""

    @property
    def budget(self) -> Budget:
        """The limits for this dump."""

    @property
    def held(self) -> NDArray[np.bool_]:
        """For each frame whether the dump holds it."""

    def read_frames(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Contents of frames, shape (n, 512); zeros for frames that are not held."""


def is_held(memory: PhysicalMemory, frame: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames the dump holds; any number may be asked for."""
    held: NDArray[np.bool_] = memory.held.take(frame, mode="clip")
    held &= (frame >= 0) & (frame < memory.frame_count)
    return held


def frames_there(memory: PhysicalMemory) -> NDArray[np.bool_]:
    """For each frame, whether the machine has it: the dump holds it or leaves it out on purpose.

    A frame that is left out cannot be read as a table, but tables that are held tell its owners.
    """
    # Only a Dump tells which frames it leaves out.
    there: NDArray[np.bool_] = getattr(memory, "there", memory.held)
    return there


def is_there(memory: PhysicalMemory, frame: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames the machine has (frames_there); any number may be asked for."""
    there: NDArray[np.bool_] = frames_there(memory).take(frame, mode="clip")
    there &= (frame >= 0) & (frame < memory.frame_count)
    return there
