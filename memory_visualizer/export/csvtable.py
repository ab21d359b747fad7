"""The page map as comma-separated values, a row for each frame.

Beside the paths of files there are numbers and words of this program only, and nothing to quote. Of
frames that no process has the rows differ in little but their addresses, so what they end with is
written once for all.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.printable import printable
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
    """The rows of some successive frames, and who has these.

    `pids` are those of the processes, by index; `odd` says by PFN what is odd about owners.
    """
    ends = _ends(snapshot, frames, owners, pids)
    for pfn, told in odd.items():
        ends[pfn - frames.start] += told
    if snapshot.inventory:
        _add_files(snapshot, frames, ends)
    rows = zip(frames, ends, strict=True)
    return "".join([f"{pfn},{pfn * PAGE_SIZE:#x},{end}\n" for pfn, end in rows])


def _add_files(snapshot: "Snapshot", frames: range, ends: list[str]) -> None:
    """Add the path of the file behind each frame, and the offset in it."""
    pages = snapshot.file_pages
    file, offset = pages.of_frames(frames.start, frames.stop)
    named = np.flatnonzero(file >= 0)
    texts = {number: text_cell(pages.files[number].path) for number in set(file[named].tolist())}
    known = zip(file[named].tolist(), offset[named].tolist(), strict=True)
    told = dict(zip(named.tolist(), known, strict=True))
    for row, end in enumerate(ends):
        own = told.get(row)
        ends[row] = f"{end},{texts[own[0]]},{own[1]}" if own else f"{end},,"


def text_cell(text: str) -> str:
    """Text of a dump as a value of CSV: escaped, quoted, and no formula for a spreadsheet."""
    text = printable(text)
    text = f"'{text}" if text.startswith(_FORMULA) else text
    return '"' + text.replace('"', '""') + '"' if _QUOTED & set(text) else text


_FORMULA = ("=", "+", "-", "@")
_QUOTED = {",", '"'}


def _ends(
    snapshot: "Snapshot", frames: range, owners: "Owners", pids: NDArray[np.int64]
) -> list[str]:
    """What follows the addresses in the rows of some frames."""
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
    """What stands before and behind the owners in different rows, and which each frame has."""
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
