"""The address spaces of Linux tasks: their top-level tables, by the tasks' pointers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.kernel import LinuxKernel
from memory_visualizer.linux.offsets import Offsets
from memory_visualizer.linux.pagestates import Survey
from memory_visualizer.paging import are_tables, is_held, read_roots
from memory_visualizer.paging.kernelhalf import share_entries
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

_ENDED_THREADS = 64
"""How many ended threads may precede a thread with memory in a list."""
_TABLES_AT_ONCE = 256


@dataclass(frozen=True)
class TaskMemory:
    """Reads the top-level tables to which tasks lead, and judges each."""

    found: LinuxKernel
    offsets: Offsets
    survey: Survey | None

    def bases(
        self,
        tasks: NDArray[np.uint64],
        mm: NDArray[np.uint64],
        active: NDArray[np.uint64],
        has_ended: NDArray[np.bool_],
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
            better &= (mm[rows] != 0) | ((owner == tasks[rows]) & ~has_ended[rows])
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


def are_roots(
    found: LinuxKernel, survey: Survey | None, bases: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """At which of these physical addresses, all held, processes' top-level tables may lie.

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
