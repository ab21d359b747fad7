"""The analysis of a whole dump: its system, its processes, and the owners of each page."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import are_among, count_values, distinct, mark_runs
from memory_visualizer.errors import NotMappedError, OtherProcessError
from memory_visualizer.formats.base import Dump
from memory_visualizer.paging import (
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    SHARED,
    Mappings,
    Paging,
    is_held,
)
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.addressspace import AddressSpace, pages_between
from memory_visualizer.snapshot.framerecords import (
    FrameRecords,
    PageUse,
    RecordFinding,
    StateKind,
    WindowsState,
    uses_of_linux,
)
from memory_visualizer.snapshot.inventory import (
    File,
    FileObject,
    FilePages,
    Inventory,
    Module,
    Region,
)
from memory_visualizer.snapshot.largepages import stretches_of_large
from memory_visualizer.snapshot.owners import Owners, each_large, owners_by_frame
from memory_visualizer.snapshot.pagemap import PageClass, PageMap, PageState
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.system import System
from memory_visualizer.units import PAGE_SIZE

_ROWS_AT_ONCE = 1 << 17
"""Of mappings; a few megabytes."""


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot(PageMap):
    """The analysis of a dump: the page map, and the findings behind it."""

    mapping_count: NDArray[np.uint32]
    """The number of mappings of each frame; the kernel's mappings, which all share, count once."""
    dump: Dump
    system: System | None
    """Such as Windows 6.1; None if the system is unknown."""
    time: datetime | None
    """When the dump was taken, by the system's own clock, UTC."""
    paging: Paging | None
    processes: tuple[Process, ...]
    """All processes, in the order of their pids; also those hidden or ended."""
    stale_spaces: int
    """Address spaces that no live process claims; they are not painted."""
    mappings: Mappings
    """Every mapping of live processes; `space` is an index in `processes`, or SHARED. On Linux,
    whose kernel maps all memory, only the mappings of single processes."""
    kernel_dtb: int | None = None
    """Physical address of the kernel's own top-level page table; None if not known."""
    kernel_paging: Paging | None = None
    """The paging of a Linux kernel's own tables; on ARM they cover one half of the addresses."""
    kernel_roots: tuple[int, ...] = ()
    """The roots of the kernel's own tables: see Architecture.roots_at."""
    frame_records: FrameRecords | Callable[["Snapshot"], FrameRecords | tuple[str, ...]] | None = (
        None
    )
    """The kernel's own records of its frames, or a function that reads them at the first access
    (see `records`). The function may instead return sentences on why they are not believed. It is a
    function of a module, or a partial of it, so that a snapshot can be pickled."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user on facts that could not be found out."""
    copies: tuple[Process, ...] = ()
    """Old copies of process objects, and remains of processes long gone. These are not
    processes."""
    inventory: Inventory | None = None
    """Files, regions and modules, which are read at the first access; None if nothing is known."""
    booted: datetime | None = None
    """When the system was started, by its own clock, UTC; None if not known."""
    vmcoreinfo: bytes = b""
    """A Linux kernel's description of itself, as lines of text; empty if there is none."""
    contradicted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Frames, ascending, of mappings that were left out, because a Linux kernel's records
    contradict them."""

    @cached_property
    def records(self) -> FrameRecords | None:
        """The kernel's records of its frames; None if they are not known.

        Windows' records are read at the first access.
        """
        return self._told if isinstance(self._told, FrameRecords) else None

    @cached_property
    def _told(self) -> FrameRecords | tuple[str, ...]:
        """The records, or sentences on why there are none."""
        told = self.frame_records
        if told is None or isinstance(told, FrameRecords):
            return told or ()
        return told(self)

    def with_last_owners(self, chosen: Collection[int] | None) -> Self:
        """The snapshot with only the chosen processes, by their index, as former owners of frames.

        If `chosen` is None, this is the snapshot itself.
        """
        if chosen is None or self.records is None:
            return self
        return replace(self, frame_records=self.records.of(chosen))

    @property
    def has_read_records(self) -> bool:
        """Whether the records were read already, or are known to be missing."""
        return not callable(self.frame_records) or "_told" in vars(self)

    @property
    def record_remarks(self) -> tuple[str, ...]:
        """Sentences on the kernel's records of frames, beside `remarks`."""
        return self._told.remarks if isinstance(self._told, FrameRecords) else self._told

    @property
    def states(self) -> NDArray[np.uint8] | None:
        """The state of each frame: codes of `state_kind`."""
        return self.records.states if self.records else None

    @property
    def state_kind(self) -> StateKind:
        """The meaning of the codes of `states`: PageState on Linux, WindowsState on Windows."""
        return self.records.kind if self.records else PageState

    @cached_property
    def uses(self) -> NDArray[np.uint8] | None:
        """The PageUse of each frame, as far as it is known; None if `states` is None."""
        if self.records is None:
            return None
        if self.records.uses is None and self.state_kind is PageState:
            return uses_of_linux(self.records.states)
        return self.records.uses

    @cached_property
    def file_pages(self) -> FilePages:
        """The frames that hold parts of files; if empty, `remarks` or the inventory's tell why."""
        return FilePages.none() if self._found_pages is None else self._found_pages

    @property
    def tells_files(self) -> bool:
        """Whether the dump tells the files behind its pages, if there are any."""
        return self._found_pages is not None

    @cached_property
    def _found_pages(self) -> FilePages | None:
        return self.inventory.file_pages(self.records) if self.inventory else None

    @cached_property
    def files(self) -> tuple[File, ...]:
        """The files with pages in memory, in the order of FilePages.files."""
        from memory_visualizer.snapshot.filelist import files_in_memory

        return files_in_memory(
            self.file_pages,
            self.states,
            self.state_kind,
            self.mapping_count,
            self.owners_by_frame(),
            self.processes,
        )

    def file_of(self, frame: int) -> tuple[FileObject, int | None] | None:
        """The file behind a frame, and the offset in it; None for a frame without a file.

        The offset in bytes is None if it is unknown. It is the place in the file for images, too,
        not the address in memory.
        """
        pages = self.file_pages
        row = pages.row(frame)
        if row is None:
            return None
        offset = int(pages.offset[row])
        return pages.files[pages.file[row]], None if offset < 0 else offset

    def regions(self, process: Process) -> tuple[Region, ...] | None:
        """The regions of a process of `processes`, by address; None if they are not known."""
        return self.inventory.regions(process) if self.inventory else None

    @cached_property
    def modules(self) -> tuple[Module, ...] | None:
        """The modules of the kernel in the order of its list; None if they are not known."""
        return self.inventory.modules() if self.inventory else None

    @cached_property
    def owners(self) -> Owners:
        """The owners of each page: see Owners."""
        return Owners.join([owners for _, owners in self.owners_by_frame()])

    def owners_by_frame(self) -> Iterator[tuple[range, Owners]]:
        """The same in batches: successive frames and their owners, until all frames were yielded.

        Use this for a single pass: `owners` takes as much memory as the mappings.
        """
        return owners_by_frame(self.mappings, self.classes, self.dump.budget.limit("mapping"))

    @cached_property
    def access(self) -> NDArray[np.uint8]:
        """The rights on each frame, as MAY_ bits.

        The rights of user mode if it maps the frame, otherwise of the kernel; the union over all
        mappings.
        """
        access = np.zeros(self.classes.size, np.uint8)
        of_user = are_among(self.classes, (PageClass.USER, PageClass.BOTH))
        left_out = self.classes == PageClass.LEFT_OUT
        if left_out.any():
            rows = self.mappings.take(self.mappings.is_user)
            marks = np.zeros(left_out.size, bool)
            count = np.minimum(rows.pfn + rows.count, marks.size) - rows.pfn
            mark_runs(marks, rows.pfn, count)
            of_user |= marks & left_out
        for at in range(0, len(self.mappings.pfn), _ROWS_AT_ONCE):
            some = slice(at, at + _ROWS_AT_ONCE)
            rows = Mappings(*(column[some] for column in self.mappings.columns))
            single = (rows.count == 1) & (of_user[rows.pfn] == rows.is_user)
            for bit in (MAY_USER, MAY_WRITE, MAY_EXECUTE):
                access[rows.pfn[single & (rows.access & bit != 0)]] |= bit
        rows = self.mappings.take(self.mappings.count > 1)
        count = np.minimum(rows.pfn + rows.count, access.size) - rows.pfn
        for user, frames in ((True, of_user), (False, ~of_user)) if len(count) else ():
            for bit in (MAY_USER, MAY_WRITE, MAY_EXECUTE):
                chosen = (rows.is_user == user) & (rows.access & bit != 0)
                marks = np.zeros(access.size, bool)
                mark_runs(marks, rows.pfn[chosen], count[chosen])
                access[marks & frames] |= bit
        return access

    def owners_of(self, frame: int) -> list[tuple[Process, int]]:
        """The processes that have a frame, each with its first virtual address there."""
        owners = self.owners
        start, end = np.searchsorted(owners.frame, [frame, frame + 1])
        return [
            (self.processes[process], virtual)
            for process, virtual in zip(
                owners.process[start:end].tolist(), owners.virtual[start:end].tolist(), strict=True
            )
        ]

    def pages_of_processes(self) -> NDArray[np.int64]:
        """User-mode pages of each process, shape (processes, 2): its own, and shared."""
        return self._pages_of_processes.copy()

    @cached_property
    def _pages_of_processes(self) -> NDArray[np.int64]:
        # This avoids `owners`, which costs a sort of all rows, and a list of the pages of large
        # pages.
        rows = self.mappings
        chosen = rows.is_user & (rows.space != SHARED)
        runs = stretches_of_large(rows.take(chosen & (rows.count > 1)), self.classes.size)
        chosen &= rows.count == 1
        # numpy sorts 16-bit numbers quickly, so these are used if they suffice.
        process = rows.space[chosen].astype(np.min_scalar_type(len(self.processes)))
        frame = rows.pfn[chosen].astype(np.min_scalar_type(self.classes.size))
        if len(runs.space):
            left = ~runs.cover(process, frame)
            process, frame = process[left], frame[left]
        by_process = np.argsort(process, kind="stable")
        process = process[by_process]
        frame = frame[by_process]
        del chosen, by_process  # many megabytes
        edges = np.searchsorted(process, np.arange(len(self.processes) + 1)).tolist()
        held = np.zeros(self.classes.size, bool)
        held_again = np.zeros(self.classes.size, bool)
        pages = []
        for start, end in pairwise(edges):
            mine = distinct(frame[start:end])
            frame[start : start + len(mine)] = mine
            pages.append(frame[start : start + len(mine)])
            held_again[mine] |= held[mine]
            held[mine] = True
        if len(runs.space):
            depth = runs.depth(self.classes.size)
            held_again |= depth > 1
            held &= depth > 0
            held_again |= held
            del depth
        del held
        count = np.zeros((len(self.processes), 2), np.int64)
        count[:, 1] = [np.count_nonzero(held_again[mine]) for mine in pages]
        count[:, 0] = [len(mine) for mine in pages]
        if len(runs.space):
            there = self.classes != PageClass.ABSENT
            held_again &= there
            np.add.at(count[:, 1], runs.space, runs.count(held_again))
            np.add.at(count[:, 0], runs.space, runs.count(there))
        count[:, 0] -= count[:, 1]
        return count

    def pages_of(
        self, rows: Mappings
    ) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
        """The single pages of some mappings: row, number within the mapping, and held frame.

        If a process maps a large page at several addresses, only the first counts: a thousand
        mappings of one gigabyte would be too many pages to list. Large pages beyond the limit are
        not listed; `remarks` then says so.
        """
        if (rows.count == 1).all():
            row = np.arange(len(rows.pfn))
            return row, np.zeros(len(row), np.int64), rows.pfn
        chosen = rows.count == 1
        large, pages = each_large(rows, self.classes.size)
        chosen[large[np.cumsum(pages) <= self.dump.budget.limit("mapping")]] = True
        row = np.flatnonzero(chosen)
        count = np.minimum(rows.count, self.classes.size - rows.pfn)[row]
        row = np.repeat(row, count)
        part = np.arange(len(row))
        part -= np.repeat(np.cumsum(count) - count, count)
        frame = rows.pfn[row]
        frame += part
        inside = self.classes[frame] != PageClass.ABSENT
        if inside.all():
            return row, part, frame
        return row[inside], part[inside], frame[inside]

    def pages(self, process: Process) -> NDArray[np.int64]:
        """The page frames that user mode of a process has, by PFN, each once.

        OtherProcessError if it is not in `processes`. This also holds for the methods below.
        """
        space = self.index_of(process)
        mappings = self.mappings
        rows = mappings.take((mappings.space == space) & mappings.is_user)
        return distinct(self.pages_of(rows)[2])

    def translate(self, process: Process, address: int) -> int | None:
        """The physical address behind a virtual address of a process; None if there is none."""
        if address < 0:
            return None
        [frame] = self._frames_at(process, pages_between(address, 1)).tolist()
        return None if frame < 0 else frame * PAGE_SIZE + address % PAGE_SIZE

    def read(self, process: Process, address: int, size: int) -> bytes:
        """Read bytes of a process's memory by their virtual address.

        NotMappedError if a byte is not mapped or not held. Errors as for Dump.read_frames.
        """
        if size <= 0:
            return b""
        if address < 0:
            raise NotMappedError(f"an address cannot be negative: {address}")
        pages = pages_between(address, size)
        frames = self._frames_at(process, pages)
        if (lost := np.flatnonzero(frames < 0)).size:
            first = max(int(pages[lost[0]]), address)
            raise NotMappedError(
                f"{printable(process.shown_name)} ({process.pid}) has no memory at {first:#x}"
                " in this dump"
            )
        start = address % PAGE_SIZE
        return self.dump.read_frames(frames).tobytes()[start : start + size]

    def index_of(self, process: Process) -> int:
        """The index of a process in `processes`; OtherProcessError if it is not among them."""
        index = self._index_of.get(id(process), -1)
        # Numbers that come with a pickle are those of other objects.
        if index >= 0 and self.processes[index] is process:
            return index
        if process not in self.processes:
            raise OtherProcessError(
                f"{printable(process.shown_name)} ({process.pid}) is a process of another snapshot"
            )
        return self.processes.index(process)

    @cached_property
    def _index_of(self) -> dict[int, int]:
        """The index of each process by its identity: there may be very many processes."""
        return {id(process): index for index, process in enumerate(self.processes)}

    @cached_property
    def _address_spaces(self) -> dict[int, AddressSpace]:
        """The address spaces used so far, by the index of their process, or SHARED."""
        return {}

    def _frames_at(self, process: Process, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The frame behind each page of a process; -1 if there is none, or the dump lacks it."""
        frames = np.full(len(pages), -1, np.int64)
        for space in (self.index_of(process), SHARED):
            known = self._address_spaces
            if space not in known:
                known[space] = AddressSpace.of(self.mappings, space)
            frames = np.where(frames < 0, known[space].frames(pages), frames)
        if (paging := self.kernel_paging) is not None:
            # A Linux kernel's own mappings are not among the mappings.
            kernel = TableMemory(self.dump, paging, self.kernel_roots)
            inside = pages & np.uint64((1 << paging.address_bits) - 1)
            lost = np.flatnonzero((frames < 0) & (paging.canonical(inside) == pages))
            frames[lost] = kernel.frames(pages[lost])
        frames[~is_held(self.dump, frames)] = -1
        return frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dump.close()

    def __repr__(self) -> str:
        system = str(self.system or "no known system")
        return (
            f"<Snapshot of {printable(self.dump.path.name)}: {system},"
            f" {counted(self.classes.size, 'page frame')},"
            f" {counted(len(self.processes), 'process', 'processes')}>"
        )

    def state_counts(self) -> "dict[PageState | WindowsState, int]":
        """The number of frames of each state, states without frames included; {} if unknown."""
        if self.states is None:
            return {}
        counts = count_values(self.states, len(self.state_kind))
        return {state: int(counts[state]) for state in self.state_kind}

    def use_counts(self) -> NDArray[np.int64]:
        """The number of frames of each use and state, shape (uses, states); zeros if unknown."""
        shape = len(PageUse), len(self.state_kind)
        if self.states is None or self.uses is None:
            return np.zeros(shape, np.int64)
        both = self.uses.astype(np.uint16) * np.uint16(shape[1]) + self.states
        return count_values(both, shape[0] * shape[1]).reshape(shape)

    def finding_counts(self) -> dict[RecordFinding, int]:
        """Count the frames of each RecordFinding except NONE; empty without records."""
        if self.records is None or self.records.findings is None:
            return {}
        counts = count_values(self.records.findings, len(RecordFinding))
        return {finding: int(counts[finding]) for finding in RecordFinding if finding}

    def pages_of_others(self, processes: Collection[int]) -> NDArray[np.bool_]:
        """For each frame, whether none of these processes, given by index, has it."""
        others = np.ones(self.classes.size, bool)
        for _, owners in self.owners_by_frame():
            others[owners.of(processes).frame] = False
        return others
