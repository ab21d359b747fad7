"""The region of each owner in the tables of pages."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.snapshot.owners import Owners
from memory_visualizer.snapshot.snapshot import Snapshot

NO_REGION = 0
"""The value for a page that lies in no known region of its owner, instead of an address."""


class OwnerRegions:
    """Finds the region in which a process has a page, by the first address of the page there."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Reads the regions of all processes."""
        self._regions: list[tuple[NDArray[np.uint64], NDArray[np.uint64]]] = []
        for process in snapshot.processes:
            found = sorted((one.start, one.end) for one in snapshot.regions(process) or ())
            start, end = np.array(found, np.uint64).reshape(-1, 2).T
            self._regions.append((start, end))

    def starts(self, owners: Owners) -> NDArray[np.uint64]:
        """The first address of the region for each row; NO_REGION if none is known."""
        starts = np.full(len(owners.frame), NO_REGION, np.uint64)
        order = np.argsort(owners.process, kind="stable")
        edges = np.searchsorted(owners.process[order], np.arange(len(self._regions) + 1))
        for (start, end), first, last in zip(self._regions, edges[:-1], edges[1:], strict=True):
            if first == last or not len(start):
                continue
            rows = order[first:last]
            virtual = owners.virtual[rows]
            place = np.searchsorted(start, virtual, "right") - 1
            inside = (place >= 0) & (virtual < end[place])
            starts[rows[inside]] = start[place[inside]]
        return starts


def cells(owners: Owners, starts: NDArray[np.uint64], frames: range) -> list[str]:
    """For each frame the beginnings of its owners' regions, ``-`` for none, with spaces between."""
    found = [""] * len(frames)
    words = [hex(start) if start else "-" for start in starts.tolist()]
    edges = np.searchsorted(owners.frame, np.arange(frames.start, frames.stop + 1)).tolist()
    for row, (first, last) in enumerate(pairwise(edges)):
        if first < last:
            found[row] = " ".join(words[first:last])
    return found
