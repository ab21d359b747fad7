"""Reads the tasks of a Linux kernel, and judges each by itself."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.kernel import LinuxKernel
from memory_visualizer.linux.offsets import (
    COMM_SIZE,
    KERNEL_THREAD,
    KERNEL_THREADS_PARENT,
    Offsets,
)
from memory_visualizer.linux.pagestates import PageArray, Survey
from memory_visualizer.linux.tasklist import task_limit
from memory_visualizer.linux.taskmemory import TaskMemory, are_roots, memory_of_threads
from memory_visualizer.linux.taskpids import TaskPids
from memory_visualizer.linux.threadnames import name_threads
from memory_visualizer.paging import SHARED, walk
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.process import FoundProcess, unnamed
from memory_visualizer.units import PAGE_SIZE

_ENDED = 0x30
"""In task_struct.exit_state: EXIT_DEAD, EXIT_ZOMBIE."""
_LOWER = np.uint64(0xFFFF_FFFF)
_MEMBERS = {"parent", "comm", "comm_end", "mm", "active_mm", "flags", "exit_state"}
"""The members that are read of each task, by their names in Offsets.of_task."""


@dataclass(frozen=True, eq=False)
class _Members:
    """The members of tasks."""

    kernel: TableMemory
    offsets: dict[str, int]
    at: NDArray[np.uint64]
    """The addresses of the tasks."""
    words: dict[str, NDArray[np.uint64]]
    """The members that are read for all tasks, by name."""
    is_whole: NDArray[np.bool_]
    """Whether the dump holds all these members of a task."""
    is_blank: NDArray[np.bool_]
    """Whether all these members of a task are equal, as in an empty page."""

    @classmethod
    def read(cls, kernel: TableMemory, offsets: Offsets, tasks: list[int]) -> "_Members":
        """Read the needed members of each task."""
        places = {name: place for name, place in offsets.of_task.items() if name in _MEMBERS}
        at = np.array(tasks, np.uint64)
        words, known = kernel.members(at, list(places.values()))
        return cls(
            kernel,
            offsets.of_task,
            at,
            dict(zip(places, words, strict=True)),
            is_whole=np.logical_and.reduce(known, axis=0),
            is_blank=(words == words[0]).all(axis=0),
        )

    def column(self, name: str) -> NDArray[np.uint64]:
        """A member of each task; zeros if its offset is unknown."""
        if name not in self.words:
            return np.zeros(len(self.at), np.uint64)
        return self.words[name].copy()

    def half(self, name: str) -> NDArray[np.uint64]:
        """A member of 32 bits of each task."""
        return self.column(name) & _LOWER

    def of_some(self, name: str, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
        """A member that is read for a few tasks only; zeros if its offset is unknown."""
        if name not in self.offsets:
            return np.zeros(len(rows), np.uint64)
        return self.kernel.numbers(self.at[rows] + np.uint64(self.offsets[name]))[0]


@dataclass(frozen=True, eq=False)
class _TaskTable:
    """Tasks, and the findings about each; a row for each task."""

    tasks: list[int]
    """Their addresses."""
    names: list[bytes]
    pids: NDArray[np.int64]
    """-1 if unknown, as in `parents`."""
    is_doubtful: NDArray[np.bool_]
    """Whether the witnesses of the pid disagree."""
    parents: NDArray[np.int64]
    is_parent_lost: NDArray[np.bool_]
    is_thread: NDArray[np.bool_]
    has_ended: NDArray[np.bool_]
    bases: NDArray[np.int64]
    """Physical addresses of top-level tables, -1 for none."""
    is_no_table: NDArray[np.bool_]
    """Whether the page at the base is no top-level table."""
    is_whole: NDArray[np.bool_]
    is_blank: NDArray[np.bool_]
    leads_nowhere: NDArray[np.bool_]

    def name(self, row: int) -> str:
        """The name of a task."""
        return self.names[row].decode("utf-8", "backslashreplace")

    def anomalies(self, row: int) -> tuple[str, ...]:
        """The findings about a task."""
        name = self.name(row)
        odd = {
            "not whole": not self.is_whole[row],
            "links lead nowhere": self.leads_nowhere[row],
            "pid not plausible": self.is_doubtful[row] or self.pids[row] < 0,
            "name not printable": not (name and name.isprintable()),
            "parent unknown": self.is_parent_lost[row] or self.parents[row] < 0,
            "base leads to no table": self.is_no_table[row],
        }
        return tuple(word for word, is_so in odd.items() if is_so)


@dataclass
class TaskJudge:
    """Reads tasks, judges each by itself, and reports its anomalies."""

    found: LinuxKernel
    offsets: Offsets
    survey: Survey | None
    pids: TaskPids
    roots: dict[int, int] = field(default_factory=dict)
    """Physical addresses of top-level tables, and the order in which they were met."""
    task_of: dict[int, int] = field(default_factory=dict)
    """Tasks by the addresses of their mm_structs."""
    blank: int = 0
    """The number of tasks that could not be read at all."""

    def processes(self, tasks: list[int], listed: set[int]) -> list[FoundProcess]:
        """The process of each task that is readable at all.

        Top-level tables that are not yet in `roots` are added. All tasks are read together, since
        there may be many.
        """
        if not tasks:
            return []
        read = self._read(tasks, listed)
        self.blank += int(np.count_nonzero(read.is_blank))
        return [
            self._process(read, row, is_listed=tasks[row] in listed)
            for row in np.flatnonzero(~read.is_blank).tolist()
        ]

    def _read(self, tasks: list[int], listed: set[int]) -> "_TaskTable":
        """Read tasks, and the objects to which they lead."""
        members = _Members.read(self.found.kernel, self.offsets, tasks)
        pids, is_doubtful = self.pids.read(tasks)
        parents, is_lost = self.pids.of_parents(tasks, members.column("parent"))
        is_thread = self._are_threads(members, pids, parents)
        has_ended = self._have_ended(members, is_thread)
        mm = self._mm(members, is_thread, has_ended)
        self.task_of |= dict(zip(mm.tolist(), tasks, strict=True))
        active = np.where(is_thread, mm, members.column("active_mm"))
        memory = TaskMemory(self.found, self.offsets, self.survey)
        bases, is_no_table = memory.bases(members.at, mm, active, has_ended)
        return _TaskTable(
            tasks=tasks,
            names=self._names(members, is_thread),
            pids=pids,
            is_doubtful=is_doubtful,
            parents=parents,
            is_parent_lost=is_lost,
            is_thread=is_thread,
            has_ended=has_ended,
            bases=bases,
            is_no_table=is_no_table,
            is_whole=members.is_whole,
            is_blank=members.is_blank,
            leads_nowhere=self._lead_nowhere(tasks, listed),
        )

    def _are_threads(
        self, members: "_Members", pids: NDArray[np.int64], parents: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which tasks are kernel threads, by two of three signs: flag, memory, parent.

        Without flags, a task without memory is one unless its parent is known to be another process
        than that of kernel threads: then the task has ended.
        """
        without: NDArray[np.bool_] = members.column("mm") == 0
        is_child = (parents == KERNEL_THREADS_PARENT) | (pids == KERNEL_THREADS_PARENT)
        if self.offsets.flags is None:
            likely: NDArray[np.bool_] = without & (is_child | (parents <= 0))
            return likely
        votes = (members.half("flags") & np.uint64(KERNEL_THREAD) != 0).astype(np.int8) + without
        votes += is_child
        are: NDArray[np.bool_] = votes >= 2
        return are

    def _have_ended(self, members: "_Members", is_thread: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which first threads have ended: by exit_state, or, where it is unknown, by memory."""
        ended: NDArray[np.bool_] = (members.column("mm") == 0) & ~is_thread
        if self.offsets.exit_state is not None:
            ended = members.half("exit_state") & np.uint64(_ENDED) != 0
        return ended

    def _mm(
        self,
        members: "_Members",
        is_thread: NDArray[np.bool_],
        has_ended: NDArray[np.bool_],
    ) -> NDArray[np.uint64]:
        """The address of each process's mm_struct, 0 for none."""
        mm = members.column("mm")
        lost = np.flatnonzero(members.is_whole & has_ended & (mm == 0))
        mm[lost] = memory_of_threads(
            self.found.kernel,
            self.offsets,
            members.at[lost],
            members.of_some("signal", lost),
            task_limit(self.found.memory, self.found.kernel.word),
        )
        # A kernel thread may borrow a process's memory for a while.
        return np.where(is_thread, np.uint64(0), mm)

    def _names(self, members: "_Members", is_thread: NDArray[np.bool_]) -> list[bytes]:
        """The name of each task; long ones of kernel threads stand elsewhere."""
        kernel, offsets = self.found.kernel, self.offsets
        texts, _ = kernel.read_each(members.at + np.uint64(offsets.comm), COMM_SIZE)
        names = [text.tobytes().split(b"\0")[0] for text in texts]
        if offsets.kthread is not None:
            threads = np.flatnonzero(members.is_whole & is_thread)
            kthread = np.zeros(len(names), np.uint64)
            kthread[threads] = members.of_some("kthread", threads)
            name_threads(kernel, offsets, names, threads, members.half("flags"), kthread)
        return names

    def _lead_nowhere(self, tasks: list[int], listed: set[int]) -> NDArray[np.bool_]:
        """Which tasks have links to null, or to themselves."""
        kernel, nowhere = self.found.kernel, np.zeros(len(tasks), bool)
        sound = listed if self.pids.roll.is_sound else set()
        rows = [row for row, task in enumerate(tasks) if task not in sound]
        links = np.array([tasks[row] for row in rows], np.uint64) + np.uint64(self.offsets.tasks)
        for led in kernel.members(links, (0, kernel.word))[0]:
            nowhere[rows] |= (led == links) | ~kernel.numbers(led)[1]
        return nowhere

    def _process(self, read: "_TaskTable", row: int, *, is_listed: bool) -> FoundProcess:
        """The process of a task; its table is added to `roots`."""
        base, is_no_table = int(read.bases[row]), bool(read.is_no_table[row])
        if base >= 0 and not is_no_table:
            self.roots.setdefault(base, len(self.roots))
        return FoundProcess(
            pid=int(read.pids[row]),
            ppid=int(read.parents[row]),
            name=read.name(row),
            dtb=max(base, 0),
            object_address=read.tasks[row],
            created=None,
            exited=None,
            # A process whose first thread has ended lives on in its other threads.
            is_alive=not read.has_ended[row] or base >= 0,
            is_listed=is_listed,
            space=None if is_no_table else self.roots.get(base),
            is_kernel_thread=bool(read.is_thread[row]),
            anomalies=read.anomalies(row),
        )

    def with_spaces(
        self, processes: list[FoundProcess], pages: PageArray, listed: list[int]
    ) -> list[FoundProcess]:
        """Add the processes of address spaces that are not in `roots`, by their tables.

        The table's `struct page` leads to the mm_struct, which leads to its owner, if BTF tells the
        offsets. If the owner is a known process (its first thread has ended), it gets the space
        back.
        """
        found, offsets = self.found, self.offsets
        bases = [frame * PAGE_SIZE for frame in dict.fromkeys(listed)]
        frames = np.array([n for n in bases if n not in self.roots], np.int64) // PAGE_SIZE
        frames = frames[found.memory.held[frames]]
        frames = frames[are_roots(found, self.survey, frames * PAGE_SIZE)]
        has_user = np.zeros(len(frames), bool)
        roots = found.machine.roots_at(found.memory, frames * PAGE_SIZE)
        for part in walk(found.memory, found.users, roots, own_only=True):
            has_user[part.space[part.is_user & (part.space != SHARED)]] = True
        frames = frames[has_user]  # others are about to be freed, or are the kernel's own
        for frame in frames.tolist():
            self.roots.setdefault(frame * PAGE_SIZE, len(self.roots))
        owners: list[FoundProcess | None] = [None] * len(frames)
        phases = [""] * len(frames)
        if offsets.space_of_table is not None and offsets.owner is not None:
            mm, _ = pages.words(frames, offsets.space_of_table)
            tasks, _ = found.kernel.numbers(mm + np.uint64(offsets.owner))
            back, _ = found.kernel.numbers(tasks + np.uint64(offsets.mm))
            # The mm_struct may be lost though the task that owns it is not.
            lost = np.flatnonzero((mm != 0) & (tasks == 0))
            tasks[lost] = [self.task_of.get(space, 0) for space in mm[lost].tolist()]
            back[lost] = mm[lost]
            owned = np.flatnonzero((mm != 0) & (tasks != 0) & (back == mm))
            known = {process.object_address: process for process in processes}
            phases = self._phases(mm, tasks, known)
            addresses = [self._leader(task, known) for task in tasks[owned].tolist()]
            new = [address for address in dict.fromkeys(addresses) if address not in known]
            known |= {process.object_address: process for process in self.processes(new, set())}
            for row, address in zip(owned.tolist(), addresses, strict=True):
                owners[row] = known.get(address)
        by_task = {process.object_address: process for process in processes}
        added = []
        for frame, process, phase in zip(frames.tolist(), owners, phases, strict=True):
            if process is None or process.is_kernel_thread:
                added.append(self._nameless(frame, phase))
                continue
            base = frame * PAGE_SIZE
            theirs = {"dtb": base, "space": self.roots[base], "is_alive": True}
            if process.object_address in by_task:  # the task's own pointers lead elsewhere
                if by_task[process.object_address].space is None:
                    by_task[process.object_address] = replace(process, **theirs)
                else:
                    added.append(self._nameless(frame, phase))
            else:
                # If a process's first thread is lost, another thread stands for it, which is in no
                # list.
                is_first = self.pids.leader_of(process.object_address) == process.object_address
                added.append(replace(process, **theirs, is_listed=not is_first))
        return [*by_task.values(), *added]

    def _nameless(self, frame: int, phase: str) -> FoundProcess:
        """A process that is known by its top-level table in this frame only."""
        nameless = unnamed(frame, self.roots[frame * PAGE_SIZE])
        return replace(nameless, anomalies=(*nameless.anomalies, *filter(None, [phase])))

    def _phases(
        self, mm: NDArray[np.uint64], tasks: NDArray[np.uint64], known: dict[int, FoundProcess]
    ) -> list[str]:
        """``starting`` or ``ending`` for memory that no task has as its own; empty for others.

        `tasks` are the owners by the mm_structs `mm`. A process that runs another program fills a
        second mm_struct, of which it is the owner, before it gives up the first (fs/exec.c). A new
        process is a copy of its parent's task, and has its own mm_struct, before it has its own
        place among the tasks (copy_process). When a process ends, its memory has no users any more
        until all pages are free (exit_mmap).
        """
        kernel, users = self.found.kernel, self.offsets.users
        count, is_known = np.ones(len(mm), np.uint64), np.zeros(len(mm), bool)
        if users is not None:
            count, is_known = kernel.numbers(mm + np.uint64(users), 4)
        phases = []
        for owner, is_unused in zip(
            tasks.tolist(), (is_known & (mm != 0) & (count == 0)).tolist(), strict=True
        ):
            process = known.get(self._leader(owner, known)) if owner else None
            has_other = process is not None and process.is_listed and process.space is not None
            phases.append("ending" if is_unused else "starting" if has_other else "")
        return phases

    def _leader(self, task: int, known: dict[int, FoundProcess]) -> int:
        """The first thread of a task's group, if it is a known process; otherwise the task."""
        leader = self.pids.leader_of(task)
        return leader if leader in known else task

    def remarks(self, processes: list[FoundProcess]) -> list[str]:
        """Sentences for the user on data that is missing."""
        remarks = []
        if self.blank:
            remarks.append(
                f"{counted(self.blank, 'task')} in the list of processes"
                f" {'is' if self.blank == 1 else 'are'} empty in this dump:"
                f" {'its process is' if self.blank == 1 else 'their processes are'} unknown"
            )
        if part := sum("not whole" in process.anomalies for process in processes):
            known = sum(process.object_address != 0 for process in processes)
            remarks.append(
                f"{part:,} of {counted(known, 'process', 'processes')} could not be read"
                " completely: the dump lacks parts of their tasks"
            )
        if wrong := sum("base leads to no table" in process.anomalies for process in processes):
            remarks.append(
                f"{counted(wrong, 'process', 'processes')} without a valid top-level page table:"
                " the table does not share the kernel's half with the others, or its page has"
                " another use; the pages of these processes are unknown"
            )
        return remarks
