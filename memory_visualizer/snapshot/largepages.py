"""Large pages of processes as stretches of frames, since a list of their pages would be long."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import count_marked
from memory_visualizer.paging import Mappings

_ROWS_AT_ONCE = 1 << 17
"""Of mappings; a few megabytes."""


@dataclass(frozen=True, eq=False)
class Stretches:
    """Stretches of frames that processes have; the stretches of one process are disjoint."""

    space: NDArray[np.int32]
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    """The frame behind the last one."""

    def cover(
        self, space: NDArray[np.integer[Any]], frame: NDArray[np.integer[Any]]
    ) -> NDArray[np.bool_]:
        """Which of these frames lie in a stretch of the process in the same row."""
        size = int(self.end.max(initial=0)) + 1
        starts = self.space * size + self.first
        ends = self.space * size + self.end
        covered = np.zeros(len(frame), bool)
        for start in range(0, len(frame), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            asked = space[part].astype(np.int64) * size + np.minimum(frame[part], size - 1)
            row = np.maximum(np.searchsorted(starts, asked, "right") - 1, 0)
            covered[part] = (asked >= starts[row]) & (asked < ends[row])
        return covered

    def depth(self, frame_count: int) -> NDArray[np.signedinteger[Any]]:
        """For each frame, the number of processes that have it in a stretch."""
        change = np.zeros(frame_count + 1, np.min_scalar_type(-len(self.first) - 1))
        one = change.dtype.type(1)  # of the same type as the sum: so `at` is twenty times as fast
        np.add.at(change, self.first, one)
        np.subtract.at(change, self.end, one)
        np.cumsum(change, out=change)
        return change[:-1]

    def count(self, marks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The number of marked frames in each stretch."""
        return count_marked(marks, self.first, self.end)


def stretches_of_large(rows: Mappings, frame_count: int) -> Stretches:
    """The stretches that each process's large pages form."""
    order = np.lexsort((rows.pfn, rows.space))
    space = rows.space[order].astype(np.int64)
    first = rows.pfn[order]
    end = np.minimum(first + rows.count[order], frame_count)
    # The processes' memories are placed one behind the other, with a gap, so that one sort
    # suffices.
    start = space * (frame_count + 1)
    reach = np.maximum.accumulate(start + end) if len(order) else end
    begins = np.flatnonzero(start[1:] + first[1:] > reach[:-1]) + 1 if len(order) else order
    begins = np.append(np.zeros(min(1, len(order)), np.intp), begins)
    last = np.append(begins[1:], len(order))[: len(begins)] - 1
    return Stretches(space[begins].astype(np.int32), first[begins], (reach - start)[last])
