"""The analysis of a Windows dump: its processes, and the owners of each page."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump
from memory_visualizer.paging import (
    Losses,
    Mappings,
    PhysicalMemory,
    merge_alike,
    merge_kernel,
    walk,
    without_contradicted,
)
from memory_visualizer.snapshot.build import Rest, of_mappings, walk_remarks
from memory_visualizer.snapshot.framerecords import FrameRecords
from memory_visualizer.snapshot.process import FoundProcess, Process, unnamed
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.flippedbits import MendedEntries
from memory_visualizer.windows.inventory import WindowsInventory
from memory_visualizer.windows.kernelmemory import kernel_memory
from memory_visualizer.windows.processes import FoundProcesses, find_processes
from memory_visualizer.windows.processlayout import SYSTEM_PID
from memory_visualizer.windows.processsearch import ProcessSearch
from memory_visualizer.windows.toplevels import TopLevels, TopLevelSearch, read_shared_data

_LEARNING_FRAMES = 4096
"""The first 16 MiB: on real machines they hold the System process's top-level table."""
_EARLY_TABLES = 128
"""How many top-level tables may lie there. A dump with more was made to waste time, and loses only
this early start: the search that follows reads all memory."""
_SYSTEM_WEIGHT = 3


def understand(
    dump: Dump,
    zero: NDArray[np.bool_],
    found: TopLevels,
    search: ProcessSearch | None = None,
    who: FoundProcesses | None = None,
) -> Snapshot:
    """The snapshot of a Windows dump; the processes are searched for unless `who` is given."""
    losses, rest = Losses(), Rest(dump)
    shared_data = read_shared_data(dump, found.paging, found.roots)
    who = who or find_processes(dump, found, search, shared_data.time)
    found, processes = who.found, who.processes
    if not any(process.is_alive and process.space is not None for process in processes):
        # The dump is damaged: tables without a known process are better than nothing.
        limit = dump.budget.limit("address space")
        roots = dump.budget.take("address space", found.roots, limit)
        processes = tuple(unnamed(int(top[0]), space) for space, top in enumerate(roots))
        found = replace(found, roots=roots)
    used = [process.space for process in processes if process.space is not None]
    memory = MendedEntries(dump, found.paging, found.roots[used])
    mappings = _mappings_of(memory, found, processes, losses, rest)
    system = _system_process(processes)
    snapshot = of_mappings(
        dump,
        zero,
        mappings,
        rest=rest,
        remarks=(
            *(*found.remarks, *who.remarks, *memory.remarks),
            *walk_remarks(dump, mappings, losses, rest),
        ),
        kernel_dtb=system.dtb if system else None,
        system=shared_data.system,
        time=shared_data.time,
        paging=found.paging,
        processes=[_told(process, found) for process in processes],
        stale_spaces=len(set(range(len(found.roots))) - {process.space for process in processes}),
    )
    tops = _top_frames(processes, found)
    return replace(
        snapshot,
        booted=shared_data.booted,
        copies=tuple(copy.told() for copy in who.copies),
        frame_records=partial(_read_records, tops),
        inventory=WindowsInventory(snapshot, tops),
    )


def _read_records(tops: NDArray[np.int64], snapshot: Snapshot) -> FrameRecords | tuple[str, ...]:
    """As framestates.read_records, which most runs do not need."""
    from memory_visualizer.windows.framestates import read_records

    return read_records(tops, snapshot)


def _top_frames(processes: Sequence[FoundProcess], found: TopLevels) -> NDArray[np.int64]:
    """The frames of each process's top-level table, shape (n, frames); -1 without a table.

    The second tables, by which user mode runs, follow.
    """
    width = found.paging.top_frames
    tops = np.full((len(processes), 2 * width), -1, np.int64)
    for row, process in enumerate(processes):
        if process.space is not None:
            tops[row, :width] = found.roots[process.space]
        if process.shadow is not None:
            tops[row, width:] = found.others[process.shadow]
    return tops


def _told(process: FoundProcess, found: TopLevels) -> Process:
    """The public Process: its base without flag bits, and the address of its second table."""
    process = replace(process, dtb=found.paging.architecture.base_address(process.dtb))
    if process.shadow is not None:
        second = int(found.others[process.shadow, -1]) * PAGE_SIZE
        process = replace(process, user_dtb=second)
    return process.told()


def _system_process(processes: Sequence[FoundProcess]) -> FoundProcess | None:
    """Windows' System process, by the majority of its signs: pid, name, and no parent."""

    def weight(process: FoundProcess) -> int:
        is_system = (process.pid == SYSTEM_PID) + (process.name == "System") + (process.ppid == 0)
        return is_system + (process.is_listed and process.space is not None)

    best = max(processes, key=weight, default=None)
    return best if best and weight(best) >= _SYSTEM_WEIGHT else None


def _mappings_of(
    memory: PhysicalMemory,
    found: TopLevels,
    processes: tuple[FoundProcess, ...],
    losses: Losses,
    rest: Rest,
) -> Mappings:
    """All mappings of the live processes; `space` is a process's index, or SHARED."""
    roots, owners = [], []
    has_shadows = False
    for index, process in enumerate(processes):
        if process.is_alive and process.space is not None:
            roots.append(found.roots[process.space])
            owners.append(index)
            if process.shadow is not None:
                roots.append(found.others[process.shadow])
                owners.append(index)
                has_shadows = True
    walked = walk(memory, found.paging, np.array(roots), np.array(owners, np.int32), losses=losses)
    # With KVA shadow, both tables of a process lead to its pages.
    merge = merge_alike if has_shadows else merge_kernel
    # Nothing else may refer to the mappings: they are freed while they are merged.
    return merge(without_contradicted(rest.without(walked), memory.frame_count, losses))


def learn(dump: Dump, search: TopLevelSearch) -> ProcessSearch | None:
    """Read the memory that holds the System process's tables: these tell the kernel's pages.

    So the search for processes needs no scan of its own.
    """
    early = TopLevelSearch()
    visitors = [early.everywhere, early.visitor]
    dump.take_findings(visitors, dump.look_through(visitors, range(_LEARNING_FRAMES)))
    found = early.found(dump)
    search.scan_also(early)
    if found is None or len(found.roots) > _EARLY_TABLES:
        return None
    kernel = kernel_memory(dump, found)
    learned = ProcessSearch(dump, found.paging, kernel.all_frames())
    if dump.frame_count <= _LEARNING_FRAMES:  # the whole dump is known by now
        learned.known = found, kernel
    return learned
