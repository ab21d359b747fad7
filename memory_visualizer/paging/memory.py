"""The interface that a walk of page tables needs of a dump."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget

TABLES_AT_ONCE = 256


class PhysicalMemory(Protocol):
    """The part of a dump that a walk needs."""

    @property
    def frame_count(self) -> int:
        """Frames are numbered from 0 to below this."""

    @property
    def budget(self) -> Budget:
        """What may be had of it."""

    @property
    def held(self) -> NDArray[np.bool_]:
        """For each frame whether the dump holds it."""

    def read_frames(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Contents of frames, shape (n, 512); zeros for those that are not held."""


def is_held(memory: PhysicalMemory, frame: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames, any numbers, the dump holds."""
    held: NDArray[np.bool_] = memory.held.take(frame, mode="clip")
    held &= (frame >= 0) & (frame < memory.frame_count)
    return held


def frames_there(memory: PhysicalMemory) -> NDArray[np.bool_]:
    """For each frame whether the machine has it: those that the dump holds or leaves out.

    What is left out on purpose is no table, but its owners are known by the tables that are held.
    """
    there: NDArray[np.bool_] = getattr(memory, "there", memory.held)  # a Dump knows
    return there


def is_there(memory: PhysicalMemory, frame: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames, any numbers, are among frames_there."""
    there: NDArray[np.bool_] = frames_there(memory).take(frame, mode="clip")
    there &= (frame >= 0) & (frame < memory.frame_count)
    return there
