"""The page map as comma-separated values, a row for each frame.

There are numbers and words of this program only, and nothing to quote. Of frames that no process
has the rows differ in little but their addresses, so what they end with is written once for all.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.pagemap import PageClass, PageState, distinct

if TYPE_CHECKING:
    from memory_visualizer.snapshot import Owners, Snapshot

_FRAMES_AT_ONCE = 1 << 16


def csv_parts(
    snapshot: "Snapshot", owners: "Owners", pids: NDArray[np.int64], odd: Mapping[int, str]
) -> Iterator[str]:
    """The rows of all frames, many at once.

    `pids` are those of the processes, by index; `odd` says by PFN what is odd about owners.
    """
    odd_pfns = np.sort(np.fromiter(odd, np.int64, len(odd)))
    for first in range(0, snapshot.classes.size, _FRAMES_AT_ONCE):
        frames = slice(first, min(first + _FRAMES_AT_ONCE, snapshot.classes.size))
        ends = _ends(snapshot, owners, pids, frames)
        for pfn in odd_pfns[slice(*np.searchsorted(odd_pfns, [first, frames.stop]))].tolist():
            ends[pfn - first] += odd[pfn]
        yield "".join(
            [f"{pfn},{pfn * PAGE_SIZE:#x},{end}\n" for pfn, end in enumerate(ends, first)]
        )


def _ends(
    snapshot: "Snapshot", owners: "Owners", pids: NDArray[np.int64], frames: slice
) -> list[str]:
    """What follows the addresses in the rows of some frames."""
    kinds, kind = _kinds(snapshot, frames)
    before = np.array([text for text, _ in kinds], object)
    behind = np.array([text for _, text in kinds], object)
    ends: list[str] = (before + "," + behind)[kind].tolist()

    low, high = np.searchsorted(owners.frame, [frames.start, frames.stop]).tolist()
    frame = owners.frame[low:high] - frames.start
    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    owned = frame[starts]
    edges = [*starts.tolist(), len(frame)]
    pid = list(map(str, pids[owners.process[low:high]].tolist()))
    virtual = list(map(hex, owners.virtual[low:high].tolist()))
    columns = owned.tolist(), before[kind[owned]], behind[kind[owned]], edges, edges[1:]
    for row, head, tail, start, end in zip(*columns, strict=False):
        if end - start == 1:
            ends[row] = f"{head}{pid[start]},{virtual[start]}{tail}"
        else:
            ends[row] = f"{head}{' '.join(pid[start:end])},{' '.join(virtual[start:end])}{tail}"
    return ends


def _kinds(snapshot: "Snapshot", frames: slice) -> tuple[list[tuple[str, str]], NDArray[np.intp]]:
    """What stands before and behind the owners in different rows, and which each frame has."""
    mappings = snapshot.mapping_count[frames]
    key = snapshot.classes[frames].astype(np.int64) << 1 | snapshot.zero[frames]
    if snapshot.states is not None:
        key |= snapshot.states[frames].astype(np.int64) << 8
    key |= mappings.astype(np.int64) << 16
    found = distinct(key)
    kinds = []
    for code in found.tolist():
        page_class, zero, state = PageClass(code >> 1 & 0x7F), code & 1, code >> 8 & 0xFF
        behind = "," if snapshot.states is None else f",{PageState(state).label},"
        kinds.append((f"{page_class.label},{zero},{code >> 16},", behind))
    return kinds, np.searchsorted(found, key)
