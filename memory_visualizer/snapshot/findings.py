"""The anomalies of a dump's processes, as sentences and groups for the user."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.printable import counted, mebibytes, printable
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.snapshot.owners import Owners
from memory_visualizer.snapshot.process import Process
from memory_visualizer.units import PAGE_SIZE

_NAMED = 6


def findings(processes: Sequence[Process]) -> dict[str, list[Process]]:
    """The processes with each anomaly of process.ANOMALIES, the rarest anomaly first.

    A rare anomaly is the better lead. Addresses that follow an anomaly are left out here.
    """
    found: dict[str, list[Process]] = defaultdict(list)
    for process in processes:
        for word in process.anomalies:
            found[word.split(" 0x")[0]].append(process)
    return dict(sorted(found.items(), key=lambda row: (len(row[1]), row[0])))


def named(processes: Sequence[Process]) -> str:
    """The first of some processes by name and pid, and how many more there are. Not yet printable.

    A process known by its tables only is named by the address of its top-level table.
    """
    names = [
        f"{process.shown_name} ({process.pid})"
        if process.object_address
        else f"tables at {process.dtb:#x}"
        for process in processes[:_NAMED]
    ]
    more = len(processes) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


def odd_frames(owners: Owners, processes: Sequence[Process]) -> dict[int, str]:
    """The anomalies of the processes that have a frame, by PFN; other frames have no entry.

    The anomaly "known by its page tables only" is left out, since the pid tells it already.
    """
    words = [
        [word for word in process.anomalies if process.object_address] for process in processes
    ]
    odd = np.array([bool(of_one) for of_one in words], bool)
    rows = np.flatnonzero(odd[owners.process]) if len(odd) else np.empty(0, np.intp)
    found: dict[int, dict[str, None]] = defaultdict(dict)
    for frame, process in zip(
        owners.frame[rows].tolist(), owners.process[rows].tolist(), strict=True
    ):
        found[frame] |= dict.fromkeys(words[process])
    return {frame: "; ".join(told) for frame, told in found.items()}


def odd_regions(
    known: Iterable[tuple[Process, Sequence[Region]]],
) -> dict[str, list[tuple[Process, int]]]:
    """For each word of inventory.REGION_FINDINGS, the processes with such regions, and counts."""
    found: dict[str, list[tuple[Process, int]]] = defaultdict(list)
    for process, regions in known:
        counts = Counter(word for region in regions for word in region.findings)
        for word, count in counts.items():
            found[word].append((process, count))
    return dict(sorted(found.items()))


def remarks_on_copies(copies: Sequence[Process]) -> tuple[str, ...]:
    """A sentence on old copies of process objects, if there are any."""
    if not copies:
        return ()
    if len(copies) == 1:
        return (
            "1 stale copy of a process object was found and is not counted as a process:"
            f" {named(copies)}",
        )
    return (
        f"{len(copies):,} stale copies of process objects were found and are not counted as"
        f" processes: {named(copies)}",
    )


_NAMED_BY_PAGES = 4


def _amount(pages: int) -> str:
    return f"{pages:,} ({mebibytes(pages * PAGE_SIZE)})"


def with_most_pages(processes: Sequence[Process], pages: NDArray[Any]) -> str:
    """Name the few processes with most of these pages, each with its number, and count the others.

    `pages` has a number for each process; the text is empty if all numbers are 0.
    """
    order = [int(index) for index in np.argsort(-pages, kind="stable") if pages[index]]
    named = [
        f"{printable(process.shown_name)} (pid {process.pid}) {_amount(int(pages[index]))}"
        for index in order[:_NAMED_BY_PAGES]
        for process in [processes[index]]
    ]
    if more := len(order) - len(named):
        named.append(f"and {counted(more, 'other')}")
    return ", ".join(named)
