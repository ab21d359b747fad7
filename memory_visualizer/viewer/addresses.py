"""Further addresses of pages: mappings beyond the first in a process, and those of a Linux kernel.

The owners in the HTML page have the first address of a page in each process (viewer/data.py). Few
pages have further addresses, which are stored as a list of runs.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import SHARED, Mappings
from memory_visualizer.paging.walk import walk
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

MAX_LISTED_RUNS = 1 << 19
"""A run has some five bytes in the page."""
_ADDRESS_SPACE = 1 << 52
"""Pages of 4 KiB in 64 bits of addresses."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Successive frames at successive addresses, a row for each run, sorted by space and page."""

    space: NDArray[np.int64]
    """Index of the process; the number after the last process's stands for the kernel."""
    page: NDArray[np.int64]
    """Number of the first page of address space."""
    frame: NDArray[np.int64]
    length: NDArray[np.int64]

    @classmethod
    def of(cls, mappings: Mappings, frame_count: int, kernel: int) -> "Runs":
        """Join mappings that continue one another; `kernel` is the number of the shared space."""
        space = np.where(mappings.space == SHARED, kernel, mappings.space).astype(np.int64)
        page = (mappings.virtual >> np.uint64(PAGE_SIZE.bit_length() - 1)).view(np.int64)
        page &= _ADDRESS_SPACE - 1
        length = np.minimum(mappings.count, frame_count - mappings.pfn)
        order = np.lexsort((mappings.pfn, page, space))
        space, page, frame, length = (
            column[order] for column in (space, page, mappings.pfn, length)
        )
        new = np.ones(len(space), bool)
        new[1:] = (
            (space[1:] != space[:-1])
            | (page[1:] != page[:-1] + length[:-1])
            | (frame[1:] != frame[:-1] + length[:-1])
        )
        starts = np.flatnonzero(new)
        total = np.add.reduceat(length, starts) if len(starts) else length
        return cls(space[starts], page[starts], frame[starts], total)

    def first(self, limit: int) -> "Runs":
        """The first runs; runs of the kernel have priority, since only this list has them."""
        order = np.lexsort((self.page, self.space))[::-1][:limit][::-1]
        return Runs(self.space[order], self.page[order], self.frame[order], self.length[order])


def further_columns(
    snapshot: Snapshot, has_further: NDArray[np.bool_], limit: int = MAX_LISTED_RUNS
) -> tuple[dict[str, NDArray[Any]], int]:
    """Columns of the runs, and the number of pages in runs beyond the limit.

    `has_further` tells which frames have mappings beyond the first in a process. The runs have all
    mappings of such frames, including the first ones. ``also_count`` is the number of runs of each
    process, and at the end of the kernel; ``also_gap`` the pages of address space between a run and
    the run before; ``also_frame`` and ``also_length`` are its frames.
    """
    kernel = len(snapshot.processes)
    rows = snapshot.mappings
    again = rows.take(lead_to(has_further, rows))
    found = Runs.of(
        Mappings.join([again, *_of_kernel(snapshot)]), snapshot.dump.frame_count, kernel
    )
    kept = found.first(limit)
    previous = np.zeros(len(kept.page), np.int64)
    same = np.flatnonzero(kept.space[1:] == kept.space[:-1]) + 1
    previous[same] = (kept.page + kept.length)[same - 1]
    columns = {
        "also_count": np.bincount(kept.space, minlength=kernel + 1),
        "also_gap": (kept.page - previous) % _ADDRESS_SPACE,
        "also_frame": kept.frame,
        "also_length": kept.length,
    }
    return columns, int(found.length.sum() - kept.length.sum())


def lead_to(frames: NDArray[np.bool_], rows: Mappings) -> NDArray[np.bool_]:
    """Which mappings lead to marked frames; `frames` has a mark for each frame of the dump.

    The result may also include large pages that do not begin and end at multiples of 64 frames.
    """
    found = frames[rows.pfn]
    large = np.flatnonzero(rows.count > 1)
    if len(large):
        # A bit for each frame. Large pages begin and end at multiples of 64 frames.
        bits = np.packbits(frames)
        words = np.append(bits, np.zeros(-len(bits) % 8, np.uint8)).view(np.uint64)
        before = np.append(0, np.cumsum(words != 0))
        first = rows.pfn[large]
        end = np.minimum(first + rows.count[large], len(frames))
        found[large] = before[-(-end // 64)] > before[first // 64]
    return found


def _of_kernel(snapshot: Snapshot) -> list[Mappings]:
    """The mappings of a Linux kernel's own tables, which Snapshot.mappings does not have."""
    if snapshot.kernel_paging is None:
        return []
    roots = np.array([snapshot.kernel_roots], np.int64)
    spaces = np.array([SHARED], np.int32)
    walked = walk(snapshot.dump, snapshot.kernel_paging, roots, spaces)
    return [replace(rows, space=np.full(len(rows.pfn), SHARED, np.int32)) for rows in walked]
