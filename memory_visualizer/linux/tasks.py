"""The processes of a Linux kernel, walked in its own list.

The list is one witness of several. Where it is broken, its parts are joined through its backward
links, and the tasks between them are found as relatives of others and in the slabs that hold tasks.
Each task is judged by itself: damage to a task affects only the report on that task.
"""

from dataclasses import dataclass, replace

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
from memory_visualizer.linux.offsets import Offsets, offsets_by_btf
from memory_visualizer.linux.offsetsbyform import leads_to_tasks, offsets_by_form
from memory_visualizer.linux.offsetscheck import corrected, wrong_members
from memory_visualizer.linux.pagestates import PageArray, Survey
from memory_visualizer.linux.taskjudge import TaskJudge
from memory_visualizer.linux.tasklist import Roll, TaskSlabs, gather, task_limit
from memory_visualizer.linux.taskpids import TaskPids
from memory_visualizer.linux.threadnames import with_thread_names
from memory_visualizer.paging import USER
from memory_visualizer.paging.kernelhalf import TOUCHED, share_entries
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.process import FoundProcess, unnamed

_NO_TYPES = "the kernel does not describe its types (BTF)"


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
    limit = task_limit(found.memory, found.kernel.word)
    slabs = TaskSlabs(found.kernel, pages, survey) if pages and survey else None
    first = find_first_task(found) or 0
    known = _roll(found, first, limit, slabs)
    if known is None:
        return _nameless(found, pages)
    offsets, roll = known
    if offsets.kthread is None:
        offsets = with_thread_names(found.kernel, offsets, roll.tasks)
    judge = TaskJudge(found, offsets, survey, TaskPids(found.kernel, offsets, slabs, first, roll))
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

    If the first task is lost or leads nowhere, the walk begins at a thread that every kernel has.
    """

    def gathered(offsets: Offsets | None, begin: int) -> tuple[Offsets, Roll] | None:
        if not offsets or not begin:
            return None
        lost = [first] if first not in (0, begin) else []
        roll = gather(found.kernel, offsets, begin, limit, slabs, lost)
        return (offsets, roll) if roll.tasks else None

    def from_thread(offsets: Offsets, thread: int) -> tuple[Offsets, Roll] | None:
        if (known := gathered(offsets, thread)) is None:
            return None
        roll = known[1]
        state = "is lost" if is_first_lost(found, first) else "leads to no other task"
        remark = (
            f"the first task (init_task) {state}: the list of processes was read from another task"
            " on"
        )
        return offsets, replace(
            roll,
            tasks=[thread, *(task for task in roll.tasks if task != first)],
            listed=roll.listed | {thread},
            remarks=(remark, *roll.remarks),
        )

    def shown() -> Offsets | None:
        places = slabs.places if slabs else None
        return offsets_by_form(found, first, limit, places) if first else None

    def checked(known: tuple[Offsets, Roll]) -> tuple[Offsets, Roll]:
        """The tasks by corrected offsets, if most tasks contradict the described ones."""
        wrong = wrong_members(found.kernel, known[0], first, known[1].tasks)
        better = corrected(known[0], wrong, shown)
        if better == known[0] or (again := gathered(better, first)) is None:
            return known
        remark = (
            f"the kernel's description of its types (BTF) is damaged: most tasks have"
            f" {', '.join(wrong)} at another place than it says, which was used"
        )
        return better, replace(again[1], remarks=(remark, *again[1].remarks))

    by_btf = offsets_by_btf(found.btf) if found.btf else None
    if known := gathered(by_btf, first):
        return checked(known)
    if by_btf and (thread := find_thread(found, by_btf)) and (known := from_thread(by_btf, thread)):
        return known
    # There is no BTF, or its offsets lead nowhere.
    if known := gathered(shown(), first):
        return known
    is_lost = is_first_lost(found, first)
    if not is_lost and leads_to_tasks(found.kernel, first):
        return None
    by_thread = find_by_thread(found, limit, is_first_lost=is_lost)
    return from_thread(by_thread[1], by_thread[0]) if by_thread else None


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
    if left_out := len(roots) - len(roots := roots[: task_limit(found.memory, found.kernel.word)]):
        remarks.append(
            f"{counted(left_out, 'address space')} left out: there are more than any machine has"
        )
    return LinuxProcesses(
        tuple(unnamed(frame, space) for space, frame in enumerate(roots.tolist())),
        roots[:, None],
        tuple(remarks),
    )
