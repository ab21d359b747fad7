"""A kernel's own records of each page frame: its state, its use, and its last owner.

Windows keeps them in the page frame database (`MmPfnDatabase`), Linux in its array of
`struct page`.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import look_up
from memory_visualizer.snapshot.pagemap import PageState

NO_PRIORITY = 0xFF
"""The value for frames without a priority."""
NOBODY = -1
"""The value for frames without an owner, instead of a process's index."""


class WindowsState(IntEnum):
    """The list on which a frame is by Windows' page frame database, or that it is in use."""

    ABSENT = 0
    """Not in the dump; frames that it leaves out on purpose have their own state."""
    ACTIVE = 1
    """In use: in a working set, or the kernel's own."""
    STANDBY = 2
    """Taken from its owner, and unchanged since the last write to disk; may get another owner."""
    MODIFIED = 3
    """Taken from its owner; must be written before it may get another owner."""
    MODIFIED_NO_WRITE = 4
    """The same, but must not be written yet, such as metadata of file systems until their log is
    written."""
    TRANSITION = 5
    """Between lists, such as while it is read or written."""
    ZEROED = 6
    """Free, and filled with zeros."""
    FREE = 7
    """Free, with its old contents."""
    BAD = 8
    """Never to be used: faulty, or taken out by an administrator."""
    UNKNOWN = 9
    """The dump does not hold the frame's record, or the record is not plausible."""

    @property
    def label(self) -> str:
        """The state's name as people read it, such as ``modified no write``."""
        return self.name.lower().replace("_", " ")


class PageUse(IntEnum):
    """The purpose of a page frame, as far as the dump tells it."""

    ABSENT = 0
    UNUSED = 1
    """On a list of free pages, or bad."""
    PROCESS_PRIVATE = 2
    """A process's own memory: heaps, stacks, changed pages of files."""
    MAPPED_FILE = 3
    """A part of a file as data, mapped or in the file cache."""
    IMAGE = 4
    """A part of a file as a program or library."""
    FILE = 5
    """A part of a file; whether as data or as a program is unknown."""
    SHAREABLE = 6
    """Memory that processes may share, without a file."""
    PAGE_TABLE = 7
    PAGED_POOL = 8
    NONPAGED_POOL = 9
    KERNEL_STACK = 10
    SYSTEM_PTE = 11
    """In the range for system PTEs: drivers' mappings, and stacks that cannot be told apart."""
    SESSION = 12
    """Memory of the kernel for one session."""
    DRIVER_IMAGE = 13
    """Code and data of the kernel or a driver."""
    METAFILE = 14
    """A part of a file system's own files."""
    LARGE_PAGE = 15
    """A part of a large page of a process."""
    AWE = 16
    """Allocated to a process as physical memory (Address Windowing Extensions)."""
    DRIVER_LOCKED = 17
    """Allocated by a driver as physical memory, without a table that Windows keeps."""
    KERNEL = 18
    """The kernel's own, of a kind that the dump does not tell."""
    UNKNOWN = 19

    @property
    def label(self) -> str:
        """The use's name as people read it, such as ``page table``."""
        return _LABELS.get(self, self.name.lower().replace("_", " "))


_LABELS = {PageUse.SYSTEM_PTE: "system PTE", PageUse.AWE: "AWE"}


class RecordFinding(IntEnum):
    """A disagreement between a frame's record and the page tables."""

    NONE = 0
    FREE_BUT_MAPPED = 1
    """A live process has mapped a frame that its record calls free, zeroed or bad."""
    PRIVATE_BUT_NOT_MAPPED = 2
    """By its record a frame is private memory of a live process, but no process has it."""

    @property
    def label(self) -> str:
        """The finding in words; empty if there is none."""
        return "" if self is RecordFinding.NONE else self.name.lower().replace("_", " ")


StateKind: TypeAlias = type[PageState] | type[WindowsState]


@dataclass(frozen=True)
class FrameDatabase:
    """The place of Windows' page frame database, and its credibility."""

    address: int
    """Virtual address of frame 0's record."""
    stride: int
    """Bytes of a record."""
    agreement: float
    """The share of active, mapped frames whose record leads to the entry that maps them."""


@dataclass(frozen=True, eq=False, repr=False)
class SectionPages:
    """The pages of files by Windows' records: the stretch of a file to which a frame belongs."""

    frame: NDArray[np.uint32]
    """PFNs, each once; the next two columns have a row for each."""
    stretch: NDArray[np.uint32]
    """A row in the columns below, which describe stretches of files (subsections)."""
    page: NDArray[np.int32]
    """The number of the page within the stretch; -1 if unknown."""
    area: NDArray[np.uint64]
    """The address of the control area of the stretch's file; 0 if unknown."""
    kind: NDArray[np.uint8]
    """Of the file: SectionKind."""
    offset: NDArray[np.int64]
    """Bytes from the file's beginning to the stretch; -1 if unknown."""
    end: NDArray[np.int64]
    """Bytes from the file's beginning to the end of the stretch; -1 if unknown."""
    size: NDArray[np.int64]
    """Bytes of the whole file; -1 if unknown."""


@dataclass(frozen=True, eq=False, repr=False)
class FrameRecords:
    """The kernel's records of all frames, in columns by PFN."""

    states: NDArray[np.uint8]
    """Codes of `kind`."""
    kind: StateKind = PageState
    uses: NDArray[np.uint8] | None = None
    """PageUse."""
    last_owners: NDArray[np.signedinteger[Any]] | None = None
    """Index in Snapshot.processes of the process that had a standby or modified page of its own;
    NOBODY for all other frames."""
    priorities: NDArray[np.uint8] | None = None
    """Priorities of standby pages: 0 is reused first, 7 last; NO_PRIORITY for all other frames."""
    findings: NDArray[np.uint8] | None = None
    """RecordFinding."""
    database: FrameDatabase | None = None
    sections: SectionPages | None = None
    """The pages of files; None if the records do not tell them."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user on records that were not found or are not credible."""

    def of(self, processes: Collection[int]) -> "FrameRecords":
        """The same records with these processes, by their index, as the only former owners."""
        if self.last_owners is None:
            return self
        # One more entry, for NOBODY.
        largest = max(int(self.last_owners.max(initial=NOBODY)), *processes, 0)
        table = np.full(largest + 2, NOBODY)
        table[list(processes)] = list(processes)
        return replace(self, last_owners=table.astype(self.last_owners.dtype)[self.last_owners])


_USES_ON_LINUX = {
    PageState.ABSENT: PageUse.ABSENT,
    PageState.FREE: PageUse.UNUSED,
    PageState.ANONYMOUS: PageUse.PROCESS_PRIVATE,
    PageState.FILE_CACHE: PageUse.MAPPED_FILE,
    PageState.SHARED_MEMORY: PageUse.SHAREABLE,
    PageState.PAGE_TABLE: PageUse.PAGE_TABLE,
    PageState.KERNEL_IMAGE: PageUse.KERNEL,
    PageState.SLAB: PageUse.KERNEL,
    PageState.RESERVED: PageUse.KERNEL,
    PageState.KERNEL_OTHER: PageUse.KERNEL,
    PageState.HUGE_PAGE: PageUse.LARGE_PAGE,
}


def uses_of_linux(states: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The use of each frame (PageUse), as far as a Linux kernel's PageState tells it."""
    uses = [_USES_ON_LINUX.get(state, PageUse.UNKNOWN) for state in PageState]
    return look_up(np.array(uses, np.uint8), states)
