"""The processes of a Linux kernel, walked in its own list.

The list is one witness of several. Where it is broken, its parts are joined through its backward
links, and the tasks between them are found as relatives of others and in the slabs that hold tasks.
Each task is judged by itself: damage to a task affects only the report on that task.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Words
from memory_visualizer.linux.firsttask import (
    find_by_thread,
    find_first_task,
    find_thread,
    is_first_lost,
)
from memory_visualizer.linux.kernel import LinuxKernel
from memory_visualizer.linux.offsets import (
    COMM_SIZE,
    KERNEL_THREAD,
    KERNEL_THREADS_PARENT,
    MAX_PID,
    Offsets,
    offsets_by_btf,
    offsets_by_form,
)
from memory_visualizer.linux.pagestates import PageArray, Survey
from memory_visualizer.linux.tasklist import Roll, TaskSlabs, gather
from memory_visualizer.linux.threadnames import name_threads, with_thread_names
from memory_visualizer.paging import (
    SHARED,
    USER,
    PhysicalMemory,
    are_tables,
    is_held,
    read_roots,
    walk,
)
from memory_visualizer.paging.kernelhalf import TOUCHED, share_entries
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.process import FoundProcess, unnamed
from memory_visualizer.units import PAGE_SIZE

_ENDED = 0x30
"""In task_struct.exit_state: EXIT_DEAD, EXIT_ZOMBIE."""
_FRAMES_OF_TASK, _MORE_TASKS = 16, 1024
_ENDED_THREADS = 64
"""How many ended threads may precede a thread with memory in a list."""
_TABLES_AT_ONCE = 256
_NO_TYPES = "the kernel does not describe its types (BTF)"
_LOWER = np.uint64(0xFFFF_FFFF)


@dataclass(frozen=True, eq=False)
class LinuxProcesses:
    """The processes, and the top-level tables of processes with memory of their own."""

    processes: tuple[FoundProcess, ...]
    """In the order of their pids; `space` is an index in `roots`."""
    roots: NDArray[np.int64]
    """The roots of address spaces, numbered as by Architecture.roots_at: mostly frames, shape (n,
    1)."""
    remarks: tuple[str, ...]


def find_processes(
    found: LinuxKernel, pages: PageArray | None, survey: Survey | None = None
) -> LinuxProcesses:
    """Walk the kernel's list of processes, without threads, and its list of address spaces.

    A process that is only in the latter was taken out of the former, as rootkits do. `pages` are
    the kernel's struct pages, which list address spaces; `survey` is the result of reading them.
    """
    limit = task_limit(found.memory)
    slabs = TaskSlabs(found.kernel, pages, survey) if pages and survey else None
    first = find_first_task(found) or 0
    known = _roll(found, first, limit, slabs)
    if known is None:
        return _nameless(found, pages)
    offsets, roll = known
    if offsets.kthread is None:
        offsets = with_thread_names(found.kernel, offsets, roll.tasks)
    judge = _Judge(found, offsets, survey, _Numbers(found.kernel, offsets, slabs, first, roll))
    remarks = [*roll.remarks]
    if found.btf is None:
        remarks.append(f"{_NO_TYPES}; its processes were found by their structure")
    processes = judge.processes(roll.tasks, roll.listed)
    if pages and "pgd_list" in found.symbols:
        spaces, all_of_them = pages.listed(found.symbols["pgd_list"], limit)
        processes = judge.with_spaces(processes, pages, spaces)
        if not all_of_them:
            remarks.append(
                "the list of address spaces is longer than any machine has: only a part of it was"
                " read"
            )
    processes.sort(key=lambda process: (process.pid, process.object_address))
    roots = found.machine.roots_at(found.memory, np.array(list(judge.roots), np.int64))
    remarks += slabs.remarks if slabs else ()
    return LinuxProcesses(tuple(processes), roots, (*remarks, *judge.remarks(processes)))


def _roll(
    found: LinuxKernel, first: int, limit: int, slabs: TaskSlabs | None
) -> tuple[Offsets, Roll] | None:
    """The tasks of all processes, and the offsets in them; `first` is the first task of all.

    If the first task is lost, the walk begins at a thread that every kernel has.
    """

    def gathered(offsets: Offsets | None, first: int) -> tuple[Offsets, Roll] | None:
        roll = gather(found.kernel, offsets, first, limit, slabs) if offsets and first else None
        return (offsets, roll) if offsets and roll and roll.tasks else None

    def from_thread(offsets: Offsets, thread: int) -> tuple[Offsets, Roll] | None:
        if (known := gathered(offsets, thread)) is None:
            return None
        roll = known[1]
        remark = (
            "the first task (init_task) is lost: the list of processes was read from another task"
            " on"
        )
        return offsets, replace(
            roll,
            tasks=[thread, *(task for task in roll.tasks if task != first)],
            listed=roll.listed | {thread},
            remarks=(remark, *roll.remarks),
        )

    by_btf = offsets_by_btf(found.btf) if found.btf else None
    if known := gathered(by_btf, first):
        return known
    if by_btf and (thread := find_thread(found, by_btf)) and (known := from_thread(by_btf, thread)):
        return known
    # There is no BTF, or its offsets lead nowhere.
    places = slabs.places if slabs else None
    by_form = offsets_by_form(found, first, limit, places) if first else None
    if known := gathered(by_form, first):
        return known
    by_thread = find_by_thread(found, limit) if is_first_lost(found, first) else None
    return from_thread(by_thread[1], by_thread[0]) if by_thread else None


def task_limit(memory: PhysicalMemory) -> int:
    """The largest plausible number of processes: each has stacks, tables and objects of its own."""
    return memory.frame_count // _FRAMES_OF_TASK + _MORE_TASKS


def _nameless(found: LinuxKernel, pages: PageArray | None) -> LinuxProcesses:
    """Address spaces without known tasks: tables in use that share the kernel's half."""
    if not found.machine.has_own_half:
        remark = "neither the list of processes nor the address spaces were found"
        return LinuxProcesses((), np.empty((0, 1), np.int64), (remark,))
    own = found.memory.read_frames(np.array([found.top]))[0] & ~np.uint64(TOUCHED)
    half = found.paging.entries // 2

    def scan(frames: NDArray[np.int64], words: Words) -> NDArray[np.int64]:
        rows = np.flatnonzero((words[:, -1] & ~np.uint64(TOUCHED) == own[-1]) & (own[-1] != 0))
        tables = words[rows]
        # The second table under page-table isolation has only a few of these entries.
        alike = share_entries(tables[:, half:], own[half:])
        # Tables by which the kernel maps memory to itself, as when it starts a processor, have a
        # lower half, too, but user mode has no right to it.
        used = (tables[:, :half] & np.uint64(USER) != 0).any(axis=1)
        found: NDArray[np.int64] = frames[rows[alike & used]]
        return found

    roots = np.concatenate([np.empty(0, np.int64), *found.memory.each_block(scan)])
    if pages:
        roots = roots[pages.are_counted(roots)]
    remarks = [
        "the list of processes was not found; address spaces are shown without their names",
    ]
    if found.btf is None:
        remarks.insert(0, _NO_TYPES)
    if left_out := len(roots) - len(roots := roots[: task_limit(found.memory)]):
        remarks.append(
            f"{counted(left_out, 'address space')} left out: there are more than any machine has"
        )
    return LinuxProcesses(
        tuple(unnamed(frame, space) for space, frame in enumerate(roots.tolist())),
        roots[:, None],
        tuple(remarks),
    )


@dataclass
class _Numbers:
    """The pids of tasks, each by the majority of its witnesses.

    The witnesses are tgid and pid in the task, which are equal in first threads, the number in its
    struct pid, and, if its page is lost, the struct pid that leads to it.
    """

    kernel: TableMemory
    offsets: Offsets
    slabs: TaskSlabs | None
    first: int
    roll: Roll
    of_task: dict[int, int] = field(default_factory=dict)
    """Pids known so far, by the task's address."""
    _of_lost: dict[int, int] | None = None

    def read(self, tasks: list[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The pid of each task, -1 if unknown; and whether its witnesses disagree."""
        kernel, offsets = self.kernel, self.offsets
        at = np.array(tasks, np.uint64)
        if offsets.own_pid == offsets.pid - 4:  # neighbours in all versions
            both, known = kernel.numbers(at + np.uint64(offsets.own_pid), 8)
            told = [_plausible(both >> np.uint64(32), known), _plausible(both & _LOWER, known)]
        else:
            told = [_plausible(*kernel.numbers(at + np.uint64(offsets.pid), 4))]
        if offsets.pid_struct is not None and offsets.number is not None:
            place, _ = kernel.numbers(at + np.uint64(offsets.pid_struct))
            number, known = kernel.numbers(place + np.uint64(offsets.number), 4)
            told.append(_plausible(number, known & (place != 0)))
        votes = np.stack(told)
        pids, doubt = votes[0].copy(), np.zeros(len(tasks), bool)
        for row in np.flatnonzero((votes != votes[0]).any(axis=0) | (votes[0] <= 0)).tolist():
            pids[row] = self._chosen(tasks[row], votes[:, row].tolist())
            # A process that has ended has no struct pid any more.
            doubt[row] = votes[0, row] != pids[row] or (votes[:2, row] != pids[row]).any()
        self.of_task |= dict(zip(tasks, pids.tolist(), strict=True))
        return pids, doubt

    def _chosen(self, task: int, votes: list[int]) -> int:
        """The winning vote: by the majority, or on a tie by the place in the list.

        The struct pid, which lies elsewhere and leads to the task, has an additional vote.
        """
        votes = [vote for vote in (*votes, self._told_by_struct(task)) if vote > 0]
        limit = max(map(votes.count, votes), default=0)
        likely = list(dict.fromkeys(vote for vote in votes[::-1] if votes.count(vote) == limit))
        if len(likely) > 1:
            # Pids ascend in the list until they wrap around.
            low, high = self._around(task)
            between = [vote for vote in likely if low < vote < high]
            likely = between if len(between) == 1 else likely
        return likely[0] if likely else -1

    def _around(self, task: int) -> tuple[int, int]:
        """The pids of the tasks before and behind this one in the list."""
        pids, row = self._in_order, self._row_of.get(task, 0)
        return (pids[row - 1] if row else 0), pids[(row + 1) % len(pids)]

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {task: row for row, task in enumerate(self.roll.tasks)}

    @cached_property
    def _in_order(self) -> list[int]:
        """The pids of the listed tasks as the tasks tell them, -1 if not plausible."""
        at = np.array(self.roll.tasks, np.uint64) + np.uint64(self.offsets.pid)
        pids: list[int] = _plausible(*self.kernel.numbers(at, 4)).tolist()
        return pids

    def _told_by_struct(self, task: int) -> int:
        """The pid by the struct pid that leads to the task; -1 if there is none."""
        if self._of_lost is None:
            told = zip(self.roll.tasks, self._in_order, strict=True)
            sound = {task: pid for task, pid in told if pid > 0}
            self._of_lost = self.slabs.numbers(self.offsets, sound) if self.slabs else {}
        return self._of_lost.get(task, -1)

    def of_parents(
        self, tasks: list[int], parents: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The pids of tasks' parents, -1 if unknown; and whether the address is not a task's.

        A parent may be a thread: then its group's leader counts. If real_parent is not a task,
        `parent` replaces it, which differs only for traced tasks.
        """
        known = self.of_task | {self.first: 0}
        pids = np.full(len(parents), -1, np.int64)
        wrong = np.zeros(len(parents), bool)
        for row, (task, parent) in enumerate(zip(tasks, parents.tolist(), strict=True)):
            if parent in known:
                pids[row] = known[parent]
            elif (leader := self.leader_of(parent)) in known:
                pids[row] = known[leader]
            else:
                wrong[row] = True
                pids[row] = known.get(self._tracer_of(task), -1)
            if pids[row] < 0:
                pids[row] = self._told_by_struct(parent)
                wrong[row] &= pids[row] < 0
        return pids, wrong

    def leader_of(self, task: int) -> int:
        """The address of the first thread in a task's group."""
        leader = self.offsets.leader
        return task if leader is None else self.kernel.number(task + leader) or 0

    def _tracer_of(self, task: int) -> int:
        tracer = self.offsets.tracer
        return task if tracer is None else self.kernel.number(task + tracer) or 0


def _plausible(numbers: NDArray[np.uint64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The plausible pids; -1 for all others."""
    return np.where(known & (numbers < MAX_PID), numbers, np.uint64(2**64 - 1)).view(np.int64)


@dataclass
class _Judge:
    """Reads tasks, judges each by itself, and reports its anomalies."""

    found: LinuxKernel
    offsets: Offsets
    survey: Survey | None
    numbers: _Numbers
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
        kernel, offsets = self.found.kernel, self.offsets
        places = {
            name: place
            for name, place in offsets.of_task.items()
            if name in ("parent", "comm", "comm_end", "mm", "active_mm", "flags", "exit_state")
        }
        tasks_at = np.array(tasks, np.uint64)
        words, known = kernel.members(tasks_at, list(places.values()))
        member: dict[str, NDArray[np.uint64]] = dict(zip(places, words, strict=True))
        whole = np.logical_and.reduce(known, axis=0)
        says = (words != words[0]).any(axis=0)

        def column(name: str) -> NDArray[np.uint64]:
            if name not in member:
                return np.zeros(len(tasks), np.uint64)
            return member[name].copy()

        def far(name: str, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
            """A member that is read for few tasks only."""
            if name not in offsets.of_task:
                return np.zeros(len(rows), np.uint64)
            return kernel.numbers(tasks_at[rows] + np.uint64(offsets.of_task[name]))[0]

        pids, in_doubt = self.numbers.read(tasks)
        parents, no_parent = self.numbers.of_parents(tasks, column("parent"))
        flags, state = column("flags") & _LOWER, column("exit_state") & _LOWER
        mm, active = column("mm"), column("active_mm")
        is_thread = self._are_threads(flags, mm, pids, parents)
        ended = (mm == 0) & ~is_thread
        if offsets.exit_state is not None:
            ended = state & np.uint64(_ENDED) != 0
        lost = np.flatnonzero(whole & ended & (mm == 0))
        mm[lost] = memory_of_threads(
            kernel, offsets, tasks_at[lost], far("signal", lost), task_limit(self.found.memory)
        )
        # A kernel thread may borrow a process's memory for a while.
        mm = np.where(is_thread, np.uint64(0), mm)
        self.task_of |= dict(zip(mm.tolist(), tasks, strict=True))
        bases, wrong = self._memory_of(tasks_at, mm, np.where(is_thread, mm, active), ended)
        texts, _ = kernel.read_each(tasks_at + np.uint64(offsets.comm), COMM_SIZE)
        comms = [text.tobytes().split(b"\0")[0] for text in texts]
        nowhere = self._lead_nowhere(tasks, listed)
        threads = np.flatnonzero(whole & is_thread)
        if offsets.kthread is not None:
            kthread = np.zeros(len(tasks), np.uint64)
            kthread[threads] = far("kthread", threads)
            name_threads(kernel, offsets, comms, threads, flags, kthread)
        processes = []
        for row, task in enumerate(tasks):
            if not says[row]:
                self.blank += 1
                continue
            base, name = int(bases[row]), comms[row].decode("utf-8", "backslashreplace")
            pid = int(pids[row])
            odd = {
                "not whole": not whole[row],
                "links lead nowhere": bool(nowhere[row]),
                "pid not plausible": bool(in_doubt[row]) or pid < 0,
                "name not printable": not (name and name.isprintable()),
                "parent unknown": bool(no_parent[row]) or int(parents[row]) < 0,
                "base leads to no table": bool(wrong[row]),
            }
            if base >= 0 and not wrong[row]:
                self.roots.setdefault(base, len(self.roots))
            process = FoundProcess(
                pid=pid,
                ppid=int(parents[row]),
                name=name,
                dtb=max(base, 0),
                object_address=task,
                created=None,
                exited=None,
                # A process whose first thread has ended lives on in its other threads.
                is_alive=not ended[row] or base >= 0,
                is_listed=task in listed,
                space=self.roots.get(base) if not wrong[row] else None,
                is_kernel_thread=bool(is_thread[row]),
                anomalies=tuple(word for word, is_so in odd.items() if is_so),
            )
            processes.append(process)
        return processes

    def _lead_nowhere(self, tasks: list[int], listed: set[int]) -> NDArray[np.bool_]:
        """Which tasks have links to null, or to themselves."""
        kernel, nowhere = self.found.kernel, np.zeros(len(tasks), bool)
        sound = listed if self.numbers.roll.is_sound else set()
        rows = [row for row, task in enumerate(tasks) if task not in sound]
        links = np.array([tasks[row] for row in rows], np.uint64) + np.uint64(self.offsets.tasks)
        for led in kernel.members(links, (0, kernel.word))[0]:
            nowhere[rows] |= (led == links) | ~kernel.numbers(led)[1]
        return nowhere

    def _are_threads(
        self,
        flags: NDArray[np.uint64],
        mm: NDArray[np.uint64],
        pids: NDArray[np.int64],
        parents: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Which tasks are kernel threads, by two of three signs: flag, memory, parent."""
        if self.offsets.flags is None:
            without: NDArray[np.bool_] = mm == 0
            return without
        votes = (flags & np.uint64(KERNEL_THREAD) != 0).astype(np.int8) + (mm == 0)
        votes += (parents == KERNEL_THREADS_PARENT) | (pids == KERNEL_THREADS_PARENT)
        are: NDArray[np.bool_] = votes >= 2
        return are

    def _memory_of(
        self,
        tasks: NDArray[np.uint64],
        mm: NDArray[np.uint64],
        active: NDArray[np.uint64],
        ended: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The base of each task's address space, -1 for none; and whether it is not a table.

        A process also has its memory in `active_mm`. This replaces an `mm` that leads to no table,
        if the memory belongs to this very task.
        """
        frames, wrong = self._roots_of(mm)
        rows = np.flatnonzero((active != mm) & (active != 0) & ((mm == 0) | (frames < 0) | wrong))
        if not len(rows):
            return frames, wrong
        others, no_table = self._roots_of(active[rows])
        better = (others >= 0) & ~no_table
        if self.offsets.owner is None:
            better &= mm[rows] != 0
        else:
            owner, _ = self.found.kernel.numbers(active[rows] + np.uint64(self.offsets.owner))
            better &= (mm[rows] != 0) | ((owner == tasks[rows]) & ~ended[rows])
        frames[rows[better]], wrong[rows[better]] = others[better], False
        return frames, wrong

    def _roots_of(self, mm: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Physical addresses of top-level tables, by their mm_structs.

        -1 if there is none; also whether the page there is not such a table.
        """
        found = self.found
        bases = np.full(len(mm), -1, np.int64)
        rows = np.flatnonzero(mm)
        pgd, _ = found.kernel.numbers(mm[rows] + np.uint64(self.offsets.pgd))
        rows, pgd = rows[pgd != 0], pgd[pgd != 0]
        frames = found.kernel.frames(pgd)
        place = frames * PAGE_SIZE + (pgd % np.uint64(PAGE_SIZE)).astype(np.int64)
        held = is_held(found.memory, frames)
        bases[rows[held]] = place[held]
        wrong = np.zeros(len(mm), bool)
        there = np.flatnonzero(bases >= 0)
        wrong[there] = ~are_roots(found, self.survey, bases[there])
        return bases, wrong

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
            addresses = [self._leader(task, known) for task in tasks[owned].tolist()]
            new = [address for address in dict.fromkeys(addresses) if address not in known]
            known |= {process.object_address: process for process in self.processes(new, set())}
            for row, address in zip(owned.tolist(), addresses, strict=True):
                owners[row] = known.get(address)
        by_task = {process.object_address: process for process in processes}
        added = []
        for frame, process in zip(frames.tolist(), owners, strict=True):
            if process is None or process.is_kernel_thread:
                added.append(unnamed(frame, self.roots[frame * PAGE_SIZE]))
                continue
            base = frame * PAGE_SIZE
            theirs = {"dtb": base, "space": self.roots[base], "is_alive": True}
            if process.object_address in by_task:  # the task's own pointers lead elsewhere
                if by_task[process.object_address].space is None:
                    by_task[process.object_address] = replace(process, **theirs)
                else:
                    added.append(unnamed(frame, self.roots[base]))
            else:
                # If a process's first thread is lost, another thread stands for it, which is in no
                # list.
                is_first = self.numbers.leader_of(process.object_address) == process.object_address
                added.append(replace(process, **theirs, is_listed=not is_first))
        return [*by_task.values(), *added]

    def _leader(self, task: int, known: dict[int, FoundProcess]) -> int:
        """The first thread of a task's group, if it is a known process; otherwise the task."""
        leader = self.numbers.leader_of(task)
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


def are_roots(
    found: LinuxKernel, survey: Survey | None, bases: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which physical addresses, all held, may be those of processes' top-level tables.

    All such tables share the kernel's half, except for a few entries (of LDTs, and entries that old
    kernels fill in on demand), and none lies in a page with another use. If processes and kernel
    have separate tables, the pages must be tables, or empty.
    """
    memory, paging = found.memory, found.users
    roots = found.machine.roots_at(memory, bases)
    if not found.machine.has_own_half:
        return _are_roots(found, survey, roots[:, 0])
    frames = roots[:, -1]  # the last frame of the top level is the kernel's, or has its half
    [base] = found.machine.roots_at(memory, np.array([found.base]))
    user = paging.software.user_entries or range(0)
    half = user.stop - (paging.top_frames - 1) * paging.entries
    own = paging.decode(memory.read_frames(base[-1:]))[0, half:]
    alike = np.zeros(len(frames), bool)
    for start in range(0, len(frames), _TABLES_AT_ONCE):
        part = slice(start, start + _TABLES_AT_ONCE)
        tables = paging.decode(memory.read_frames(frames[part]))
        alike[part] = share_entries(tables[:, half:], own)
    if survey:
        alike &= is_held(memory, frames)
        alike &= ~survey.no_tables[np.maximum(frames, 0) * alike]
    return alike


def _are_roots(
    found: LinuxKernel, survey: Survey | None, roots: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """The same for tables of processes without the kernel's half."""
    architecture = found.users.architecture
    sound = np.zeros(len(roots), bool)
    for start in range(0, len(roots), _TABLES_AT_ONCE):
        part = roots[start : start + _TABLES_AT_ONCE]
        is_empty = ~read_roots(found.memory, found.users, part).any(axis=1)
        sound[start : start + len(part)] = is_empty | are_tables(found.memory, found.users, 0, part)
    if survey and architecture.has_page_for_root:  # smaller top levels are objects in slabs
        sound &= ~survey.no_tables[architecture.frames_of_roots(roots)]
    return sound


def memory_of_threads(
    kernel: TableMemory,
    offsets: Offsets,
    tasks: NDArray[np.uint64],
    signals: NDArray[np.uint64],
    limit: int,
) -> NDArray[np.uint64]:
    """The memory of processes whose first threads have ended: that of another thread, or 0.

    The signal_struct of a process lists its threads, or the threads are linked with one another. At
    most `limit` threads are read beside two of each process: threads that have ended, except the
    first, are not in the list. Where the place of the list's head is not known, a thread is known
    by its leader.
    """
    memory = np.zeros(len(tasks), np.uint64)
    if offsets.threads is not None and offsets.thread is not None:
        link, head = offsets.thread, signals + np.uint64(offsets.threads)
        at, _ = kernel.numbers(head)
        at[signals == 0] = 0
    elif offsets.group is not None:
        link, head = offsets.group, tasks + np.uint64(offsets.group)
        at, _ = kernel.numbers(head)
    else:
        return memory
    to_mm = np.uint64((offsets.mm - link) % 2**64)
    room = limit + 2 * len(tasks)
    for _ in range(_ENDED_THREADS):
        rows = np.flatnonzero((at != 0) & (at != head) & (memory == 0))[:room]
        if not len(rows):
            break
        room -= len(rows)
        memory[rows], _ = kernel.numbers(at[rows] + to_mm)
        following, _ = kernel.numbers(at[rows])
        if link == offsets.group and offsets.leader is not None:
            leaders, _ = kernel.numbers(at[rows] + np.uint64((offsets.leader - link) % 2**64))
            is_other = leaders != tasks[rows]
            memory[rows[is_other]] = following[is_other] = 0
        at[rows] = following
    return memory
