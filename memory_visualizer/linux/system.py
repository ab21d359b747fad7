"""The analysis of a Linux dump: its kernel, its processes, and the owners of each page."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import are_among, even_sample
from memory_visualizer.errors import UntoldError
from memory_visualizer.formats.base import Dump
from memory_visualizer.linux import kernel as linux
from memory_visualizer.linux.clock import read_clock
from memory_visualizer.linux.doubts import Doubts
from memory_visualizer.linux.firsttask import with_first_task
from memory_visualizer.linux.inventory import LinuxInventory
from memory_visualizer.linux.kernel import LinuxKernel, TopTableSearch
from memory_visualizer.linux.pagestates import PageArray, PageStates, Survey
from memory_visualizer.linux.tasks import LinuxProcesses
from memory_visualizer.linux.tasks import find_processes as find_tasks
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo, VmcoreInfoSearch
from memory_visualizer.paging import Losses, Mappings, Paging, tables_of, walk
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.build import (
    Rest,
    left_out_of,
    mapping_counts,
    of_mappings,
    reached,
    walk_remarks,
)
from memory_visualizer.snapshot.framerecords import FrameRecords
from memory_visualizer.snapshot.pagemap import PageState, classify
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.snapshot.system import System

_SAMPLED_TASKS = 1 << 9
_MORE_SHARED = 1 << 16
"""So many more mappings than all processes have may be added for processes that share memory."""
_KERNEL_STATES = (
    PageState.SLAB,
    PageState.PAGE_TABLE,
    PageState.KERNEL_IMAGE,
    PageState.RESERVED,
    PageState.KERNEL_OTHER,
)
"""States of pages that the kernel uses, whether or not they are mapped into processes."""


def understand(
    dump: Dump,
    zero: NDArray[np.bool_],
    kernel: LinuxKernel,
    found: LinuxProcesses | None = None,
) -> Snapshot:
    """The snapshot of a Linux dump; the processes are searched for unless `found` is given."""
    clock = read_clock(kernel)
    kernel = with_first_task(kernel)
    remarks = [*kernel.remarks, *clock.remarks]
    pages, survey, lost = _surveyed(dump, kernel)
    remarks += lost
    found = found or find_tasks(kernel, pages, survey)
    remarks += found.remarks
    roots, owners, again = _spaces_once(found)
    read = _read_states(dump, kernel, survey, roots) if survey else None
    if "iomem_resource" in kernel.symbols and kernel.resources is None:
        remarks.append(
            "the kernel's map of resources is damaged or not in the dump: holes in memory that its"
            " records (struct page) call reserved count as memory"
        )
    losses, rest, doubts = Losses(), Rest(dump), Doubts(read.states if read else None)
    mappings = Mappings.join([])
    if len(roots):
        walked = walk(
            dump,
            kernel.users,
            roots,
            owners,
            own_only=True,
            losses=losses,
            no_tables=survey.no_tables if survey else None,
        )
        mappings = rest.without(map(doubts.believed, walked))
    remarks += [*walk_remarks(dump, mappings, losses, rest), *doubts.remarks]
    mapping_count = mapping_counts(mappings, dump.frame_count)
    mappings, lacking = _with_sharers(mappings, again)
    if lacking:
        remarks.append(
            f"{counted(lacking, 'process', 'processes')} with the memory of another process"
            f" {'is' if lacking == 1 else 'are'} not listed as"
            f" {'an owner' if lacking == 1 else 'owners'} of its pages: there are too many"
        )
    mapped = reached(dump, mappings, user=True)
    if rest.mappings:
        mapping_count += rest.mapping_count
        mapped |= rest.user
    remarks += read.remarks if read else ()
    states, used = _states_and_uses(dump, read, mapped)
    absent = states == PageState.ABSENT
    page_map = classify(mapped, used, zero, absent, left_out_of(dump))
    return Snapshot(
        classes=page_map.classes,
        zero=zero,
        mapping_count=mapping_count,
        dump=dump,
        system=kernel.system,
        time=clock.time,
        booted=clock.booted,
        paging=kernel.users,
        processes=tuple(process.told() for process in found.processes),
        stale_spaces=0,
        mappings=mappings,
        kernel_dtb=kernel.base,
        kernel_paging=kernel.paging,
        kernel_roots=kernel.kernel.roots,
        frame_records=FrameRecords(states) if read else None,
        remarks=tuple(remarks),
        inventory=LinuxInventory(kernel, states, _some_tasks(found)),
        vmcoreinfo=kernel.info.text,
        contradicted=doubts.frames,
    )


def _some_tasks(found: LinuxProcesses) -> NDArray[np.uint64]:
    """The tasks of some processes with memory of their own, from all over the list."""
    owners = [one for one in found.processes if one.space is not None and one.object_address]
    tasks = np.array([one.object_address for one in owners], np.uint64)
    return even_sample(tasks, _SAMPLED_TASKS)


def _surveyed(
    dump: Dump, kernel: LinuxKernel
) -> tuple[PageArray | None, Survey | None, tuple[str, ...]]:
    """The kernel's records of its pages, and what they tell; a remark if they are not found."""
    pages = None
    try:
        pages = PageArray(
            dump,
            kernel.kernel,
            kernel.info,
            kernel.btf,
            kernel.symbols,
            kernel.machine.page_frames,
        )
        return pages, pages.survey(), ()
    except UntoldError as error:
        remark = (
            f"the kernel's records of its pages were not found: {error}; its own pages are shown as"
            " unused"
        )
        return pages, None, (remark,)


def _states_and_uses(
    dump: Dump, read: PageStates | None, mapped: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The PageState of each frame, and whether the kernel uses it; `mapped` are users' frames."""
    if read is None:
        states = np.full(dump.frame_count, PageState.UNKNOWN, np.uint8)
        states[~dump.there] = PageState.ABSENT
        return states, np.zeros(dump.frame_count, bool)
    states = read.states
    used = are_among(states, _KERNEL_STATES)
    # In use, though not mapped: a huge page in its pool, a page that was just released.
    used |= ~mapped & (states == PageState.HUGE_PAGE)
    used |= ~mapped & (states == PageState.ANONYMOUS) & ~read.swap_cache
    return states, used


def of_linux(
    dump: Dump, zero: NDArray[np.bool_], processes: LinuxProcesses, paging: Paging
) -> Snapshot:
    """The snapshot of a Linux dump whose processes were found elsewhere.

    Struct pages tell the pages that the kernel uses; if they are not found, `remarks` says so, and
    pages that no process maps are unused. `zero` is as for of_mappings.
    """
    texts = VmcoreInfoSearch()
    dump.scan([texts.everywhere])
    kernel = find_kernel(dump, texts.found(dump))
    if kernel:
        return understand(dump, zero, kernel, processes)
    spaces = [n for n, process in enumerate(processes.processes) if process.space is not None]
    owners = np.array(spaces, np.int32)
    walked = walk(dump, paging, processes.roots, owners, own_only=True) if spaces else ()
    snapshot = of_mappings(
        dump,
        zero,
        Mappings.join(list(walked)),
        system=System("Linux"),
        paging=paging,
        processes=[process.told() for process in processes.processes],
    )
    remark = "the kernel's records of its pages were not found: its own pages are shown as unused"
    return replace(snapshot, remarks=(*processes.remarks, remark))


def find_kernel(
    dump: Dump, texts: Sequence[VmcoreInfo], tables: TopTableSearch | None = None
) -> LinuxKernel | None:
    """The Linux kernel of one of these texts, or else the kernel found by its tables."""
    if not texts and not tables:
        return None
    found = linux.find_kernel(dump, texts)
    return found or (linux.find_kernel_by_form(dump, texts, tables) if tables else None)


def _spaces_once(
    found: LinuxProcesses,
) -> tuple[NDArray[np.int64], NDArray[np.int32], dict[int, list[int]]]:
    """The top-level tables of processes, each once; its first process; and its other processes.

    Processes may share their memory (CLONE_VM): the others are given by the first one's index.
    """
    first: dict[bytes, int] = {}
    spaces: dict[bytes, int] = {}
    again: dict[int, list[int]] = {}
    for index, process in enumerate(found.processes):
        if process.space is not None:
            top = found.roots[process.space].tobytes()
            if top in first:
                again.setdefault(first[top], []).append(index)
            first.setdefault(top, index)
            spaces.setdefault(top, process.space)
    roots = found.roots[np.array(list(spaces.values()), np.int64)]
    return roots, np.array(list(first.values()), np.int32), again


def _with_sharers(mappings: Mappings, again: dict[int, list[int]]) -> tuple[Mappings, int]:
    """Add the mappings of processes that share another process's memory.

    At most as many as there are, and some more; the second result tells for how many processes
    there was no room. Those with the fewest pages come first.
    """
    if not again:
        return mappings, 0
    spaces = mappings.space
    count = np.bincount(spaces[spaces >= 0], minlength=max(again) + 1)
    sharers = [(int(count[first]), first, other) for first in again for other in again[first]]
    room, chosen = len(mappings.pfn) + _MORE_SHARED, set[int]()
    for pages, _, other in sorted(sharers):
        room -= pages
        if room >= 0:
            chosen.add(other)
    batches = [mappings]
    for first, others in again.items():
        if not chosen.intersection(others):
            continue
        own = mappings.take(spaces == first)
        for other in others:
            if other in chosen:
                batches.append(replace(own, space=np.full(len(own.pfn), other, np.int32)))
    return Mappings.join(batches), len(sharers) - len(chosen)


def _read_states(
    dump: Dump, kernel: LinuxKernel, survey: Survey, roots: NDArray[np.int64]
) -> PageStates:
    """The state of each frame, by the kernel's struct pages."""
    resources = kernel.resources
    image = resources.image if resources else np.empty(0, np.int64)
    if not len(image):
        image = linux.frames_of_image(kernel)
    own, leaves = tables_of(dump, kernel.users, roots, own_only=True, no_tables=survey.no_tables)
    base = np.array([kernel.base])
    top = kernel.paging.architecture.roots_at(base)
    if kernel.machine.has_own_half:
        top = kernel.machine.roots_at(dump, base)
    tables, _ = tables_of(dump, kernel.paging, top)
    is_ram = resources.is_ram if resources else None
    return survey.array.finish(survey, image, is_ram, own | tables, leaves)
