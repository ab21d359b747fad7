"""The page map as comma-separated values, a row for each frame.

The rows contain only numbers and words of this program, and nothing to quote. Rows of frames
without an owner differ mostly in their addresses, so their ends are formatted only once.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.snapshot.pagemap import PageClass, PageState
from memory_visualizer.units import PAGE_SIZE

if TYPE_CHECKING:
    from memory_visualizer.snapshot.owners import Owners
    from memory_visualizer.snapshot.snapshot import Snapshot


def csv_rows(
    snapshot: "Snapshot",
    frames: range,
    owners: "Owners",
    pids: NDArray[np.int64],
    odd: Mapping[int, str],
) -> str:
    """The rows of some successive frames with their owners.

    `pids` are the processes' pids, by index; `odd` are the anomalies of owners, by PFN.
    """
    ends = _ends(snapshot, frames, owners, pids)
    for pfn, told in odd.items():
        ends[pfn - frames.start] += told
    rows = zip(frames, ends, strict=True)
    return "".join([f"{pfn},{pfn * PAGE_SIZE:#x},{end}\n" for pfn, end in rows])


def _ends(
    snapshot: "Snapshot", frames: range, owners: "Owners", pids: NDArray[np.int64]
) -> list[str]:
    """The rest of the rows of some frames, behind the addresses."""
    kinds, kind = _kinds(snapshot, frames)
    before = np.array([text for text, _ in kinds], object)
    behind = np.array([text for _, text in kinds], object)
    ends: list[str] = (before + "," + behind)[kind].tolist()

    frame = owners.frame - frames.start
    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    owned = frame[starts]
    edges = [*starts.tolist(), len(frame)]
    pid = list(map(str, pids[owners.process].tolist()))
    virtual = list(map(hex, owners.virtual.tolist()))
    columns = owned.tolist(), before[kind[owned]], behind[kind[owned]], edges, edges[1:]
    for row, head, tail, start, end in zip(*columns, strict=False):
        if end - start == 1:
            ends[row] = f"{head}{pid[start]},{virtual[start]}{tail}"
        else:
            ends[row] = f"{head}{' '.join(pid[start:end])},{' '.join(virtual[start:end])}{tail}"
    return ends


def _kinds(snapshot: "Snapshot", frames: range) -> tuple[list[tuple[str, str]], NDArray[np.intp]]:
    """The distinct texts before and behind the owners, and the index of each frame's texts."""
    some = slice(frames.start, frames.stop)
    mappings = snapshot.mapping_count[some]
    key = snapshot.classes[some].astype(np.int64) << 1 | snapshot.zero[some]
    if snapshot.states is not None:
        key |= snapshot.states[some].astype(np.int64) << 8
    key |= mappings.astype(np.int64) << 16
    found = distinct(key)
    kinds = []
    for code in found.tolist():
        page_class, zero, state = PageClass(code >> 1 & 0x7F), code & 1, code >> 8 & 0xFF
        behind = "," if snapshot.states is None else f",{PageState(state).label},"
        kinds.append((f"{page_class.label},{zero},{code >> 16},", behind))
    return kinds, np.searchsorted(found, key)
