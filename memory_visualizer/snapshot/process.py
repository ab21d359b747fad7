"""A process of any system."""

from dataclasses import dataclass
from datetime import datetime

from memory_visualizer.units import PAGE_SIZE

ANOMALIES = {
    "starting": "it is being created, and is in no list yet; or its page tables are for a program"
    " that another process is about to run",
    "ending": "it is being deleted: its end is noted, it has left the list, or its memory is being"
    " freed",
    "header altered": "the header of its object differs from all other process objects",
    "links lead nowhere": "its own links in the list of processes lead to no other process",
    "pid also of": "another process has the same pid; the address of its object follows",
    "pid not plausible": "this system never gives such a pid to a process",
    "threads tell another pid": "its first thread says that it belongs to another pid",
    "name not printable": "its name is empty, or has characters that names do not have",
    "parent unknown": "its parent's pid is its own, or a pid that this system never gives",
    "created in the future": "by the system's own clock it was created after the dump was taken",
    "creation time not plausible": "no clock of this system shows such a creation time",
    "exit time not plausible": "no clock shows such an exit time, or it lies before the creation",
    "end in doubt": "the fields that tell whether it has ended disagree: the majority decided",
    "base leads to no table": "the address of its page tables leads to no page table",
    "base also of": "another process has the same page tables; the address of its object follows",
    "top-level table altered": "its top-level page table differs from those of all other processes",
    "not whole": "a part of its object could not be read",
    "object not mapped": "no page table leads to its object any more: its address is physical",
    "known by its page tables only": "no object of a process leads to these page tables",
}
"""The anomalies of a process, and their meanings. An anomaly is a lead, not a verdict: many also
occur in sound processes, for example if memory is saved while a process starts."""

STATE_WORDS = ("starting", "ending", "known by its page tables only")
"""Anomalies that Process.state tells, too."""


@dataclass(frozen=True)
class Process:
    """A process, by the kernel's object: `_EPROCESS`, or on Linux `task_struct`."""

    pid: int
    ppid: int
    name: str
    """The image's name, up to 15 bytes; on Linux the `comm` of the first thread."""
    dtb: int
    """Physical address of its top-level page table; 0 where it has none (kernel threads)."""
    object_address: int
    """Virtual address of its object in the kernel, or the physical address if the kernel's tables
    that lead there are lost; 0 if only its page tables were found."""
    created: datetime | None
    """When it was created, by the system's own clock, UTC; None if not known."""
    exited: datetime | None
    """When it ended; None while it lives, or if only the object's state tells its end."""
    is_alive: bool
    """Whether its page tables are in use: it runs, starts, or has not quite ended."""
    is_listed: bool
    """Whether it is in the system's list of processes."""
    has_tables: bool = False
    """Whether its page tables were found."""
    user_dtb: int = 0
    """Physical address of its second table, for user mode (KVA shadow, of Windows since 2018)."""
    is_kernel_thread: bool = False
    """Whether it is a thread of a Linux kernel, which has no memory of its own."""
    anomalies: tuple[str, ...] = ()
    """Its anomalies, in words of ANOMALIES; some are followed by an address."""

    @property
    def shown_name(self) -> str:
        """Its name for a reader, who would take an empty name for a mistake. Not yet printable."""
        return self.name or "(no name)"

    @property
    def phase(self) -> str:
        """``starting``, ``running``, ``ending`` or ``exited``."""
        for phase in ("starting", "ending"):
            if phase in self.anomalies:
                return phase
        return "running" if self.is_alive else "exited"

    @property
    def state(self) -> str:
        """Its unusual state in a word or two; empty if it is a usual running process."""
        if not self.object_address:
            return "unknown"
        if self.phase != "running":
            return self.phase
        if not self.is_listed:
            return "unlinked"
        if self.is_kernel_thread:
            return "kernel thread"
        if self.has_tables:
            return ""
        return "no tables" if self.dtb else "no memory"


@dataclass(frozen=True)
class FoundProcess(Process):
    """A process as a search finds it, with the number of its address space."""

    space: int | None = None
    """Index of its address space among those that were found."""
    shadow: int | None = None
    """Index of its second table, for user mode, in TopLevels.others."""

    @classmethod
    def of(cls, process: Process, space: int) -> "FoundProcess":
        """A given process with the number of its address space."""
        return cls(**vars(process), space=space)

    def told(self) -> Process:
        """The process without these numbers, which have no meaning outside of the search."""
        values = {**vars(self), "has_tables": self.space is not None}
        del values["space"], values["shadow"]
        return Process(**values)


NAMELESS = "(unknown)"
"""The name of a process of which only its page tables are known."""


def unnamed(frame: int, space: int) -> FoundProcess:
    """A process known by its page tables only; `frame` is its top-level table."""
    return FoundProcess(
        pid=-1,
        ppid=-1,
        name=NAMELESS,
        dtb=frame * PAGE_SIZE,
        object_address=0,
        created=None,
        exited=None,
        is_alive=True,
        is_listed=False,
        space=space,
        anomalies=("known by its page tables only",),
    )
