"""Lines of the summary on the kernel's own records of its page frames."""

from collections.abc import Sequence

import numpy as np

from memory_visualizer.printable import binary_size, counted, mebibytes
from memory_visualizer.snapshot.findings import with_most_pages
from memory_visualizer.snapshot.framerecords import NOBODY, PageUse
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

_NAMED = 4


def state_lines(snapshot: Snapshot) -> list[str]:
    """The states of pages, a line for each state that occurs; shares are of pages with memory."""
    counts = {state: count for state, count in snapshot.state_counts().items() if count}
    width = max(13, *(len(state.label) for state in counts))
    total = sum(count for state, count in counts.items() if state != snapshot.state_kind.ABSENT)
    return [
        "Page states, as the kernel records them",
        *(
            f"  {state.label:<{width}}  {count:>11,}  {mebibytes(count * PAGE_SIZE):>9}"
            f"  {'-' if state == snapshot.state_kind.ABSENT else f'{100 * count / total:.1f} %':>7}"
            for state, count in counts.items()
        ),
    ]


def use_lines(snapshot: Snapshot) -> list[str]:
    """A table of pages, uses down and states across; empty rows and columns are left out."""
    counts = snapshot.use_counts()
    states = [state for state in snapshot.state_kind if counts[:, state].any()]
    rows = [(use.label, counts[use]) for use in PageUse if counts[use].any()]
    rows.append(("total", counts.sum(axis=0)))
    titles = ["use", *(state.label for state in states), "pages", "bytes"]
    cells = [
        [
            label,
            *(f"{row[state]:,}" if row[state] else "" for state in states),
            f"{row.sum():,}",
            binary_size(int(row.sum()) * PAGE_SIZE),
        ]
        for label, row in rows
    ]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    return ["Pages by use and state", *(_table_line(line, widths) for line in (titles, *cells))]


def _table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        f"{cell:>{width}}" if number else f"{cell:<{width}}"
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join([f"  {first}", *others]).rstrip()


def database_lines(snapshot: Snapshot) -> list[str]:
    """The place of Windows' page frame database, and its agreement with the page tables."""
    found = snapshot.records.database if snapshot.records else None
    if found is None:
        return []
    return [
        f"Page frame database at {found.address:#x}, {found.stride} bytes a frame;"
        f" {100 * found.agreement:.1f} % of the frames in use lead to their entries"
    ]


def contradiction_lines(snapshot: Snapshot) -> list[str]:
    """Frames whose records and page tables disagree, a line for each kind."""
    records = snapshot.records
    if records is None or records.findings is None:
        return []
    lines = []
    for finding, count in snapshot.finding_counts().items():
        if not count:
            continue
        frames = np.flatnonzero(records.findings == finding)[:_NAMED]
        named = ", ".join(f"{frame * PAGE_SIZE:#x}" for frame in frames.tolist())
        more = f" and {count - len(frames):,} more" if count > len(frames) else ""
        lines.append(f"  {finding.label}: {counted(count, 'page')} ({named}{more})")
    return ["Pages whose records contradict the page tables", *lines] if lines else []


def last_owner_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The processes among these that were the last owners of the most pages on a list."""
    records = snapshot.records
    if records is None or records.last_owners is None:
        return []
    owners = records.last_owners[records.last_owners != NOBODY]
    pages = np.bincount(owners, minlength=len(snapshot.processes))
    chosen = np.zeros(len(pages), bool)
    chosen[list(told)] = True
    pages[~chosen] = 0
    named = with_most_pages(snapshot.processes, pages)
    if not named:
        return []
    total = counted(int(pages.sum()), "standby or modified page")
    return [f"{total} with a former owner: {named}"]
