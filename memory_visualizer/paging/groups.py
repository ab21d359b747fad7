"""Groups of rows with equal values."""

import numpy as np
from numpy.typing import NDArray

SHARED = -1
"""In place of an address space: several address spaces share the row."""


def one_of_each(frame: NDArray[np.int64], frame_count: int) -> NDArray[np.int32]:
    """For each row, the number of one row that represents all rows with the same frame."""
    standing = np.empty(frame_count, np.int32)
    standing[frame] = np.arange(len(frame), dtype=np.int32)
    return standing[frame]


def group_starts(*columns: NDArray[np.generic]) -> NDArray[np.intp]:
    """Where a new combination of values begins in sorted columns."""
    if not len(columns[0]):
        return np.empty(0, np.intp)
    changes = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.concatenate(([0], np.flatnonzero(changes) + 1))


def common_space(space: NDArray[np.int32], starts: NDArray[np.intp]) -> NDArray[np.int32]:
    """For each group of rows, the space of all its rows, or SHARED if they differ."""
    if not len(starts):
        return np.empty(0, np.int32)
    lowest = np.minimum.reduceat(space, starts)
    highest = np.maximum.reduceat(space, starts)
    return np.where(lowest == highest, lowest, np.int32(SHARED))
