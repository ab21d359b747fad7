"""A lead as data, and the kinds of leads."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.snapshot.process import Process

LEADS = {
    "unlinked process": "it is in memory, but not in the system's list of processes",
    "page tables without a process": "page tables are in use, but no process object leads to them",
    "odd process object": "its object differs from sound ones: see process.ANOMALIES",
    "ended process with memory": "its object says that it has ended or is ending; it has memory",
    "unlisted driver": "executable code of the kernel is in no list of its modules",
    "altered code": "a code page of a file differs from the same page in other processes",
    "hidden image": "an executable image lies in private memory, where no file is behind it",
    "packed code": "memory that may be written and executed looks encrypted or compressed",
    "writable code": "private memory that the process may write and execute",
    "records disagree": "the kernel's record of the page contradicts the page tables",
    "image in unused memory": "executable images lie in memory without an owner",
}
"""The kinds of leads, and their meanings; the most telling first. A lead is not a verdict: each
kind also occurs on sound machines."""


@dataclass(frozen=True, eq=False)
class Lead:
    """A process or page frames that an analyst should look at."""

    kind: str
    """One of LEADS."""
    reason: str
    """A sentence. It may hold any text from the dump, not yet printable."""
    frames: NDArray[np.int64]
    """The page frames, ascending, each once; there may be none."""
    process: Process | None = None
    """The process that has the pages; None if the lead is about no single process."""


@dataclass(frozen=True, eq=False)
class Leads:
    """The leads in a dump."""

    found: tuple[Lead, ...]
    """In the order of LEADS; of one kind, in the order of the processes."""
    is_complete: bool
    """Whether contents, regions and files were examined; otherwise kinds that need them are
    missing."""
    remarks: tuple[str, ...] = ()
    """Sentences on what was left out."""

    def of(self, processes: Collection[Process]) -> "Leads":
        """The leads about these processes, and the leads about no single process."""
        chosen = {id(process) for process in processes}
        found = [one for one in self.found if one.process is None or id(one.process) in chosen]
        return replace(self, found=tuple(found))
