"""Leads about code that was altered: pages of a file that differ between processes.

All processes share the pages of a program or library, until one of them writes to a page: then it
has a copy. Code is not written to, but by debuggers, hooks, and loaders of code that cannot lie
anywhere.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes
from memory_visualizer.leads.lead import Lead
from memory_visualizer.leads.processpages import ProcessPages
from memory_visualizer.limits import Budget
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.findings import named
from memory_visualizer.snapshot.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class CodePages:
    """Pages of code of files, a row for each page and process that has it."""

    files: list[str]
    """Paths."""
    file: NDArray[np.int64]
    """Index in `files`."""
    offset: NDArray[np.int64]
    """Bytes into the file, as the regions tell."""
    process: NDArray[np.int64]
    """Index in Snapshot.processes; -1 for the system's own copy, in its cache of files."""
    frame: NDArray[np.int64]


def code_pages(snapshot: Snapshot, pages: ProcessPages) -> CodePages:
    """The pages in regions that are executable and have a file; those written to are left out.

    A region that may be written to is no proof of altered code: on Windows each program and library
    is one region, data included.
    """
    numbers: dict[str, int] = {}
    columns: list[tuple[NDArray[np.int64], ...]] = []
    for index, process in enumerate(snapshot.processes):
        regions = snapshot.regions(process) if process.has_tables else None
        code = [
            one
            for one in regions or ()
            if one.file and "x" in one.protection and not set("wc") & set(one.protection)
        ]
        for region in code:
            if region.offset is None:
                continue
            part = pages.of(index).between(region.start, region.end)
            count = len(part.frame)
            number = numbers.setdefault(region.file, len(numbers))
            inside = (part.virtual - np.uint64(region.start)).astype(np.int64)
            columns.append(
                (
                    np.full(count, number),
                    inside + region.offset,
                    np.full(count, index),
                    part.frame,
                )
            )
    columns += _cached(snapshot, numbers)
    joined = [
        np.concatenate([np.empty(0, np.int64), *(part[n] for part in columns)]) for n in range(4)
    ]
    return CodePages(list(numbers), *joined)


def _cached(snapshot: Snapshot, numbers: dict[str, int]) -> list[tuple[NDArray[np.int64], ...]]:
    """The system's own copies of pages of these files.

    Files that have one path, as in containers, cannot be told apart, and are left out.
    """
    found = snapshot.file_pages
    uses = Counter(file.path for file in found.files)
    known = [
        numbers[file.path] if file.path in numbers and uses[file.path] == 1 else -1
        for file in found.files
    ]
    number = np.array([*known, -1], np.int64)[found.file]
    rows = np.flatnonzero(number >= 0)
    return [(number[rows], found.offset[rows], np.full(len(rows), -1), found.frame[rows])]


def code_leads(snapshot: Snapshot, pages: ProcessPages, budget: Budget) -> Iterator[Lead]:
    """A lead for each process and file of which the process has code that differs."""
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
    altered: dict[tuple[int, int], list[int]] = {}
    for begin, end in zip(begins[fits].tolist(), ends[fits].tolist(), strict=True):
        for row in _unlike(snapshot, process[begin:end], frame[begin:end]):
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


def _unlike(snapshot: Snapshot, process: NDArray[np.int64], frame: NDArray[np.int64]) -> list[int]:
    """The rows of processes whose page has other contents than the right one.

    Right are the contents of the system's own copy, else those that most processes have; if there
    are as many of each, no row is told.
    """
    distinct_frames, copy = np.unique(frame, return_inverse=True)
    pages = snapshot.dump.read_frames(distinct_frames)
    contents: dict[bytes, int] = {}
    kind = np.array([contents.setdefault(page.tobytes(), len(contents)) for page in pages])[copy]
    if len(contents) == 1:
        return []
    cached = kind[process < 0]
    votes = np.bincount(cached if len(cached) else kind, minlength=len(contents))
    best = int(votes.max())
    if np.count_nonzero(votes == best) > 1:
        return []
    right = int(votes.argmax())
    rows: list[int] = np.flatnonzero((kind != right) & (process >= 0)).tolist()
    return rows
