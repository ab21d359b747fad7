"""The page map as comma-separated values, a row for each frame.

Except for the paths of files, the rows contain only numbers and words of this program. Rows of
frames without an owner differ mostly in their addresses, so their ends are formatted only once.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.printable import printable
from memory_visualizer.snapshot.framerecords import (
    NOBODY,
    FrameRecords,
    PageUse,
    RecordFinding,
)
from memory_visualizer.snapshot.pagemap import PageClass
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
    last: Iterable[str] | None = None,
) -> str:
    """The rows of some successive frames with their owners.

    `pids` are the processes' pids, by index; `odd` are the anomalies of owners, by PFN; `last` are
    the cells of a last column.
    """
    ends = _ends(snapshot, frames, owners, pids)
    _add_last_owners(ends, snapshot.records, frames, pids)
    for pfn, told in odd.items():
        ends[pfn - frames.start] += told
    if snapshot.tells_files:
        _add_files(snapshot, frames, ends)
    if last is not None:
        ends = [f"{end},{cell}" for end, cell in zip(ends, last, strict=True)]
    rows = zip(frames, ends, strict=True)
    return "".join([f"{pfn},{pfn * PAGE_SIZE:#x},{end}\n" for pfn, end in rows])


def record_titles(records: FrameRecords | None) -> tuple[str, ...]:
    """The titles of the columns that stand for a kernel's records of its frames."""
    if records is None:
        return ()
    if records.last_owners is None:
        return "state", "use"
    return "state", "use", "priority", "finding", "last_owner_pid"


def _add_last_owners(
    ends: list[str], records: FrameRecords | None, frames: range, pids: NDArray[np.int64]
) -> None:
    """Write former owners into their column, the last but one, which is still empty."""
    if records is None or records.last_owners is None:
        return
    last = records.last_owners[frames.start : frames.stop]
    rows = np.flatnonzero(last != NOBODY)
    for row, pid in zip(rows.tolist(), pids[last[rows]].tolist(), strict=True):
        ends[row] = f"{ends[row][:-1]}{pid},"


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
        place = own[1] if own and own[1] >= 0 else ""
        ends[row] = f"{end},{texts[own[0]]},{place}" if own else f"{end},,"


def text_cell(text: str) -> str:
    """Text of a dump as a value of CSV: escaped, quoted, and never a spreadsheet's formula."""
    if not text or _PLAIN.fullmatch(text):
        return text
    text = printable(text)
    text = f"'{text}" if text.startswith(_FORMULA) else text
    return '"' + text.replace('"', '""') + '"' if _QUOTED & set(text) else text


_PLAIN = re.compile(r"[A-Za-z0-9_./\[][A-Za-z0-9_./:;\[\] +-]*", re.ASCII)
"""Text that stands as it is: most cells, which are thus told much faster."""
_FORMULA = ("=", "+", "-", "@")
_QUOTED = {",", '"'}


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
    key = snapshot.classes[some].astype(np.int64) << 1 | snapshot.zero[some]
    key |= snapshot.mapping_count[some].astype(np.int64) << _MAPPINGS
    records, uses = snapshot.records, snapshot.uses
    if records is not None and uses is not None:
        key |= records.states[some].astype(np.int64) << _STATE
        key |= uses[some].astype(np.int64) << _USE
        if records.findings is not None and records.priorities is not None:
            key |= records.findings[some].astype(np.int64) << _FINDING
            # Plus one, so that 255 (no priority) becomes 0.
            key |= (records.priorities[some] + np.uint8(1)).astype(np.int64) << _PRIORITY
    found = distinct(key)
    kinds = [
        (
            f"{PageClass(code >> 1 & 7).label},{code & 1},{code >> _MAPPINGS & 0xFFFF_FFFF},",
            _record_cells(records, code),
        )
        for code in found.tolist()
    ]
    return kinds, np.searchsorted(found, key)


_STATE, _USE, _FINDING, _MAPPINGS, _PRIORITY = 4, 8, 13, 16, 48
"""The bits of each column in the number of a kind of row."""


def _record_cells(records: FrameRecords | None, code: int) -> str:
    """The cells behind the owners of a kind of row, with no former owner and no anomalies."""
    if records is None:
        return ","
    cells = [records.kind(code >> _STATE & 0xF).label, PageUse(code >> _USE & 0x1F).label]
    if records.last_owners is not None:
        priority = (code >> _PRIORITY) - 1
        cells.append("" if priority < 0 else str(priority))
        cells += [RecordFinding(code >> _FINDING & 7).label, ""]
    return f",{','.join(cells)},"
