"""What a walk of page tables needs of a dump, and how much of everything it may hold."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TABLES_AT_ONCE = 256


class PhysicalMemory(Protocol):
    """What a walk needs of a dump."""

    @property
    def frame_count(self) -> int:
        """Frames are numbered from 0 to below this."""

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


def most_mappings(memory: PhysicalMemory) -> int:
    """How many rows of mappings are kept at most: no honest machine has so many for its frames."""
    return 4 * memory.frame_count + (1 << 16)


def most_tables(memory: PhysicalMemory) -> int:
    """How many tables are read at most; a machine with more has hardly room for anything else."""
    return memory.frame_count // 8 + 2048


def most_entries(memory: PhysicalMemory) -> int:
    """How many entries of tables are read at most, of each for each way to its table."""
    return 8 * memory.frame_count + (1 << 19)


def most_spaces(memory: PhysicalMemory) -> int:
    """How many address spaces, or processes, a machine has at most; each takes some 20 frames."""
    return memory.frame_count // 64 + 512
