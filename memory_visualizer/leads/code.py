"""Leads about code that was altered: pages of a file that differ between processes.

All processes share the pages of a program or library until a process writes to a page, which gives
it a copy. Only debuggers, hooks, and loaders of position-dependent code write to code.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes
from memory_visualizer.leads.lead import Lead
from memory_visualizer.leads.processpages import ProcessPages
from memory_visualizer.leads.writable import uses_no_execute
from memory_visualizer.limits import Budget
from memory_visualizer.paging import MAY_EXECUTE, MAY_WRITE
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.findings import named
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.snapshot.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class CodePages:
    """Code pages of files, a row for each page and each process that has it."""

    files: list[str]
    """Paths."""
    file: NDArray[np.int64]
    """Index in `files`."""
    offset: NDArray[np.int64]
    """Offset in the file in bytes, by the regions."""
    process: NDArray[np.int64]
    """Index in Snapshot.processes; -1 for the system's own copy, in its cache of files."""
    frame: NDArray[np.int64]


def code_pages(snapshot: Snapshot, pages: ProcessPages) -> CodePages:
    """The pages of files that processes may execute, and may not write to.

    Writable regions are left out, since changes there prove nothing, and so are regions of files
    that are lost. Files with the same path, as in containers, or after an update, are told apart by
    the kernel's objects. On Windows each program and
    library is one region, data included, so the rights on its pages decide. Such an image is only
    compared with images at the same address, since relocation changes its code.
    """
    numbers: dict[tuple[str, int, int], int] = {}
    columns: list[tuple[NDArray[np.int64], ...]] = []
    images_tell = uses_no_execute(snapshot)
    for index, process in enumerate(snapshot.processes):
        for region in (snapshot.regions(process) if process.has_tables else None) or ():
            is_image = "c" in region.protection
            if not _is_code(region) or (is_image and not images_tell) or region.offset is None:
                continue
            part = pages.of(index).between(region.start, region.end)
            if is_image:
                part = part.take(part.access & (MAY_EXECUTE | MAY_WRITE) == MAY_EXECUTE)
            count = len(part.frame)
            key = region.file, region.file_object, region.start if is_image else 0
            number = numbers.setdefault(key, len(numbers))
            inside = (part.virtual - np.uint64(region.start)).astype(np.int64) + region.offset
            columns.append((np.full(count, number), inside, np.full(count, index), part.frame))
    columns.append(_cached(snapshot, numbers))
    joined = [np.concatenate([part[n] for part in columns]) for n in range(4)]
    return CodePages([path for path, *_ in numbers], *joined)


def _is_code(region: Region) -> bool:
    return region.file_object > 0 and "x" in region.protection and "w" not in region.protection


def _cached(
    snapshot: Snapshot, numbers: dict[tuple[str, int, int], int]
) -> tuple[NDArray[np.int64], ...]:
    """The system's own copies of pages of these files, mapped or not.

    Images are left out, whose pages have other offsets in the file.
    """
    found = snapshot.file_pages
    by_object = {at: number for (_, at, start), number in numbers.items() if not start}
    known = [by_object.get(file.object_address, -1) for file in found.files]
    number = np.array([*known, -1], np.int64)[found.file]
    rows = np.flatnonzero((number >= 0) & (found.offset >= 0))
    return number[rows], found.offset[rows], np.full(len(rows), -1), found.frame[rows]


def code_leads(snapshot: Snapshot, pages: ProcessPages, budget: Budget) -> Iterator[Lead]:
    """A lead for each process and file, if the process has code pages that differ."""
    code = code_pages(snapshot, pages)
    order = np.lexsort((code.frame, code.offset, code.file))
    columns = [column[order] for column in (code.file, code.offset, code.process, code.frame)]
    file, offset, process, frame = columns
    begins = np.flatnonzero(changes(file, offset)) if len(file) else np.empty(0, np.intp)
    ends = np.append(begins[1:], len(file))
    several = frame[begins] != frame[ends - 1] if len(begins) else np.empty(0, bool)
    begins, ends = begins[several], ends[several]
    fits = np.cumsum(ends - begins) <= budget.limit("copy of a code page")
    budget.refuse("copy of a code page", int((ends - begins)[~fits].sum()))
    of_file = np.zeros(snapshot.classes.size, bool)
    of_file[snapshot.file_pages.frame] = True
    altered: dict[tuple[int, int], list[int]] = {}
    for begin, end in zip(begins[fits].tolist(), ends[fits].tolist(), strict=True):
        for row in _unlike(snapshot, of_file[frame[begin:end]], frame[begin:end]):
            key = int(process[begin + row]), int(file[begin + row])
            altered.setdefault(key, []).append(int(frame[begin + row]))
    for (index, number), frames in sorted(altered.items()):
        who = named([snapshot.processes[index]])
        reason = (
            f"{counted(len(frames), 'code page')} of {code.files[number]} in {who}"
            f" {'differs' if len(frames) == 1 else 'differ'} from the same"
            f" {'page' if len(frames) == 1 else 'pages'} elsewhere"
        )
        every = np.unique(np.array(frames, np.int64))
        yield Lead("altered code", reason, every, snapshot.processes[index])


def _unlike(snapshot: Snapshot, of_file: NDArray[np.bool_], frame: NDArray[np.int64]) -> list[int]:
    """The rows whose page has unexpected contents.

    The system's own pages of the file (`of_file`) tell the expected contents. Without such pages,
    the contents of most rows do; on a tie, no row is returned.
    """
    distinct_frames, copy = np.unique(frame, return_inverse=True)
    pages = snapshot.dump.read_frames(distinct_frames)
    contents: dict[bytes, int] = {}
    kind = np.array([contents.setdefault(page.tobytes(), len(contents)) for page in pages])[copy]
    if len(contents) == 1:
        return []
    right = np.unique(kind[of_file])
    if not len(right):
        votes = np.bincount(kind)
        right = np.flatnonzero(votes == votes.max())
        if len(right) > 1:
            return []
    rows: list[int] = np.flatnonzero(~np.isin(kind, right)).tolist()
    return rows
