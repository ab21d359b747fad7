"""Which processes a Windows dump holds, and whose address space is whose.

A process object (`_EPROCESS`) is known by several clues: it begins as a process does, holds the
address of a top-level table, stands in the list of active processes, behind the tag of a process'
pool block, and has a pid and a name. No single clue decides, and each object is judged by itself:
what is odd about one is said of that one (see process.ANOMALIES).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import (
    ADDRESS,
    PAE,
    PRESENT,
    PhysicalMemory,
    are_tables,
    is_held,
    most_spaces,
    translate,
)
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.process import Process, unnamed
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.kernelmemory import AllMemory, KernelMemory, kernel_memory
from memory_visualizer.windows.processlayout import (
    MAX_PID,
    NAME_BYTES,
    OBJECT_BYTES,
    STILL_ACTIVE,
    SYSTEM_PID,
    Layout,
    are_names,
    are_pids,
    find_links,
    have_pool_tag,
    kernel_space,
    lead_to_handles,
    numbers_at,
    with_fields,
    with_shadow,
)
from memory_visualizer.windows.processlist import ActiveList, Links, find_list
from memory_visualizer.windows.processsearch import (
    BASE_NUMBER,
    PROCESS_OBJECT,
    TABLE_BASE,
    ProcessSearch,
    TableBases,
    find_candidates,
    is_in,
    objects_by_base,
    pointed_to,
    rank_among,
    virtual_places,
)
from memory_visualizer.windows.toplevels import (
    EARLIEST,
    LATEST,
    SHARED_DATA,
    TopLevels,
    bits_of,
    share_kernel,
    time_of,
    timestamp_of,
)

USER_SHARED_DATA = 0x7FFE0000
"""Where each process with a user half sees KUSER_SHARED_DATA, in every version (ntddk.h)."""

_LIST_FACTOR = 2
"""So many entries of the list, for each process that there may be: some have ended."""
_MOST_REMAINS = 1 << 12
"""So many places that begin as a process does, but lead to no tables, are judged."""
_MOST_SHADOWS = 1 << 8
"""So many second tables that no object names are compared with first ones."""
_RIGHTS = 7
"""How many of the reasons to be the owner of an address space are more than a custom."""
_FEW_CLUES = 2
"""So many of four clues are worth to follow an object's links."""
_SURE_CLUES = 3
"""So many of four clues make an object a process for sure."""
_READ_AT_ONCE = 256
_FEWEST_DIRECTORIES = 2
_VOTERS_OF_BASE = 2
_FEW_CANDIDATES = 8
_FRAMES_OF_PROCESS = 64
"""A process has so many frames at least; of dumps with more address spaces, made to waste time, not
all memory is searched for process objects."""
_SIZES_TRIED = 8
_MOST_NAMED = 8
"""So many are named in one remark."""


@dataclass(frozen=True)
class FoundProcesses:
    """What find_processes found."""

    found: TopLevels
    """The address spaces, also those that only a process object leads to."""
    processes: tuple[Process, ...] = ()
    """In the order of their pids; also those hidden or ended, and known by their tables only."""
    copies: tuple[Process, ...] = ()
    """Old copies of process objects, and what is left of processes that are gone."""
    remarks: tuple[str, ...] = ()


def find_processes(
    memory: PhysicalMemory,
    found: TopLevels,
    search: ProcessSearch | None = None,
    time: datetime | None = None,
) -> FoundProcesses:
    """Find the processes that have these address spaces, and those in their list.

    `search` has looked at pages already; it is asked for those, and the others are read. `time`
    is when the dump was taken.
    """
    paging = found.paging
    kernel = kernel_memory(memory, found)
    found = replace(found, remarks=found.remarks + kernel.remarks)
    if search is None or search.paging is not paging:
        search = ProcessSearch(memory, paging)
    in_use = _in_use(memory, found)
    finder = _Finder(memory, found, kernel, search)
    judged = finder.judge(in_use)
    if finder.may_be_searched and (
        judged is None or 2 * len(finder.unclaimed(judged, in_use)) > len(in_use)
    ):
        # What leads to the objects is lost, so these are looked for wherever they may lie.
        everywhere = AllMemory(kernel, int(kernel_space(bits_of(paging))))
        finder = _Finder(memory, found, everywhere, search)
        judged = finder.judge(in_use) or judged
    if judged is None:
        remark = "no process objects were recognised: address spaces are shown without names"
        if not finder.may_be_searched:
            remark += "; there are too many of these to look for objects in all memory"
        return FoundProcesses(found, tuple(_unnamed(memory, found, in_use)), remarks=(remark,))
    known = len(found.tops)
    if len(more := finder.tops_of_objects(judged)):
        found = replace(found, tops=np.concatenate((found.tops, more)))
        in_use = _in_use(memory, found)
        finder = finder.with_tops(found)
        judged = finder.judge(in_use) or judged
    missing = finder.unclaimed(judged, in_use)
    nameless = _unnamed(memory, found, missing, finder.second_tables(judged))
    processes, copies, remarks = _put_together(judged, nameless, finder.left_out, time)
    return FoundProcesses(found, _marked(processes, known), copies, remarks)


def _marked(processes: tuple[Process, ...], known: int) -> tuple[Process, ...]:
    """Say of processes whose tables only their objects led to that these are not as others are."""
    word = ("top-level table altered",)
    return tuple(
        replace(process, anomalies=process.anomalies + word)
        if process.space is not None and process.space >= known
        else process
        for process in processes
    )


class _Finder:
    """Finds the process objects in the kernel's memory, or in all of it."""

    def __init__(
        self, memory: PhysicalMemory, found: TopLevels, kernel: KernelMemory, search: ProcessSearch
    ) -> None:
        self._memory, self._found, self._kernel, self._search = memory, found, kernel, search
        self._bases = TableBases(memory, found.paging, found.tops)
        self._candidates = find_candidates(memory, kernel, self._bases, search)
        self.left_out = self._candidates.left_out
        self._shadows: dict[int, int] = {}
        if found.paging.top_frames == 1:
            self._shadows = {int(top) * PAGE_SIZE: n for n, top in enumerate(found.others[:, 0])}

    def judge(self, in_use: set[int]) -> "_Judged | None":
        """Tell processes from what looks like one; None where the objects show no layout."""
        memory, found, kernel = self._memory, self._found, self._kernel
        bits, known = bits_of(found.paging), self._candidates.objects
        layout = _layout(kernel, bits, known)
        if layout is None and len(known) < _FEW_CANDIDATES and self.may_be_searched:
            # Perhaps they do not begin as processes do.
            known = np.union1d(known, self._by_base(range(len(found.tops))))
            layout = _layout(kernel, bits, known)
        if layout is None:
            return None
        fits = partial(_fit_together, memory, found)
        objects = self._read(layout, known, in_use)
        seeds = np.union1d(known, self._remains(objects.layout))
        if len(seeds) > len(known):
            objects = self._read(layout, seeds, in_use)
        judged = _judge(objects, fits)
        missing = self.unclaimed(judged, in_use)
        if not missing:
            return judged
        # Their objects may begin as no process does, or hold no base.
        more = self._by_base(missing)
        if not len(more):
            return judged
        return _judge(self._read(layout, np.union1d(seeds, more), in_use), fits)

    @property
    def may_be_searched(self) -> bool:
        """Whether there are no more address spaces than so much memory can have."""
        return _FRAMES_OF_PROCESS * len(self._found.tops) <= self._memory.frame_count

    def _read(self, layout: Layout, seeds: NDArray[np.uint64], in_use: set[int]) -> "_Objects":
        return _Objects.read(self._kernel, layout, seeds, self._bases, self._shadows, in_use)

    def _by_base(self, spaces: Collection[int]) -> NDArray[np.uint64]:
        """What would be objects of these spaces by their bases alone, however they begin."""
        bases = self._bases.of_spaces(self._kernel, spaces)
        found, left_out = objects_by_base(self._memory, self._kernel, bases, self._found.paging)
        self.left_out += left_out
        return found

    def _remains(self, layout: Layout) -> NDArray[np.uint64]:
        """Addresses of what begins as a process of this system does, but has no known base.

        No more are looked at than are worth it.
        """
        others = self._candidates.others
        places = others[others[:, 1] == layout.size_byte, 0]
        self.left_out += max(len(places) - _MOST_REMAINS, 0)
        objects = virtual_places(self._kernel, places[:_MOST_REMAINS])
        return objects[have_pool_tag(self._kernel, objects, layout.tags)]

    def unclaimed(self, judged: "_Judged", in_use: set[int]) -> set[int]:
        """Address spaces in use that no process object leads to."""
        return in_use - {one.space for one in judged.owners.values()}

    def with_tops(self, found: TopLevels) -> "_Finder":
        """The same with other address spaces."""
        return _Finder(self._memory, found, self._kernel, self._search)

    def tops_of_objects(self, judged: "_Judged") -> NDArray[np.int64]:
        """Top levels that do not name themselves, though processes of the list lead to them.

        Shape (n, paging.top_frames). They share the kernel's half with the others, or have the page
        that Windows shows to all processes; of PAE's, whose fourth directory may be the damaged
        one, the others are tables.
        """
        memory, paging, tops = self._memory, self._found.paging, self._found.tops
        end = memory.frame_count * PAGE_SIZE
        bases = np.array(
            [
                one.dtb & ~BASE_NUMBER
                for one in judged.processes
                if one.space is None and not one.has_ended and one.dtb < end
            ],
            np.int64,
        )
        bases = np.unique(bases[is_held(memory, bases // PAGE_SIZE) & (bases % 32 == 0)])
        if paging.architecture is PAE:
            directories, is_sound = pointed_to(memory, bases)
            is_sound[is_sound] = are_tables(memory, paging, 0, directories[is_sound])
            chosen: NDArray[np.int64] = directories[
                np.count_nonzero(is_sound, axis=1) >= _FEWEST_DIRECTORIES
            ]
            return chosen
        frames = np.setdiff1d(bases[bases % PAGE_SIZE == 0] // PAGE_SIZE, tops)[:, None]
        everyone = np.concatenate((tops, frames))
        known = np.arange(len(everyone)) < len(tops)
        are_kin = share_kernel(memory, paging, everyone, known)
        are_kin[_have_shared_data(memory, self._found, everyone)] = True
        return frames[are_kin[len(tops) :]]

    def second_tables(self, judged: "_Judged") -> list[int]:
        """Second tables that no object names, by their index; no more than are worth to compare."""
        named = {one.shadow for one in judged.objects.found.values()}
        left = sorted(set(self._shadows.values()) - named)
        self.left_out += max(len(left) - _MOST_SHADOWS, 0)
        return left[:_MOST_SHADOWS]


def _layout(kernel: KernelMemory, bits: int, objects: NDArray[np.uint64]) -> Layout | None:
    """Where pid and links stand, by a few objects of each base, or by those of one size.

    What looks like a process by chance, or was made to, can outnumber the processes; but these
    have a base each.
    """
    base = numbers_at(kernel, objects, TABLE_BASE[bits], bits // 8)
    objects = objects[rank_among(base) < _VOTERS_OF_BASE]
    if layout := find_links(kernel, bits, objects):
        return layout
    sizes = kernel.read(objects, 4)[:, 2]
    known, count = np.unique(sizes, return_counts=True)
    for size in known[np.argsort(-count, kind="stable")[:_SIZES_TRIED]]:
        if layout := find_links(kernel, bits, objects[sizes == size]):
            return layout
    return None


def _in_use(memory: PhysicalMemory, found: TopLevels) -> set[int]:
    """Address spaces that are in use, by their index in `found.tops`.

    While a process with a user half lives, KUSER_SHARED_DATA is mapped there at one address, and
    its frame is the one that the kernel has, or that most have. When it ends, its mappings are
    undone, this one too, while its top-level table stays as it was in a page that is free. The
    System process and others without a user half are not told so.
    """
    return set(_have_shared_data(memory, found, found.tops).tolist())


def _have_shared_data(
    memory: PhysicalMemory, found: TopLevels, tops: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Which of these tables have KUSER_SHARED_DATA where each process has it, by their index."""
    place = translate(memory, found.paging, tops, USER_SHARED_DATA)
    known = translate(memory, found.paging, found.tops, SHARED_DATA[bits_of(found.paging)])
    known = known[known >= 0] if (known >= 0).any() else place[place >= 0]
    if not len(known):
        return np.empty(0, np.intp)
    frames, count = np.unique(known, return_counts=True)
    return np.flatnonzero(place == frames[np.argmax(count)])


def _unnamed(
    memory: PhysicalMemory, found: TopLevels, spaces: Iterable[int], shadows: Collection[int] = ()
) -> list[Process]:
    """Processes of which only the tables were found; `shadows` are second tables left over."""
    processes = []
    for space in sorted(spaces):
        process = unnamed(int(found.tops[space, 0]), space)
        fitting = (n for n in shadows if _share_user_half(memory, found, space, n))
        processes.append(replace(process, shadow=next(fitting, None)))
    return processes


def _fit_together(memory: PhysicalMemory, found: TopLevels, one: "_Object") -> bool:
    """Whether the second table that an object names, if any, is that of its address space."""
    if one.shadow is None or one.space is None:
        return True
    return _share_user_half(memory, found, one.space, one.shadow)


def _share_user_half(memory: PhysicalMemory, found: TopLevels, space: int, shadow: int) -> bool:
    """Whether most user entries of a top-level table and of a second one are the same."""
    frames = np.array([found.tops[space, 0], found.others[shadow, 0]])
    half = found.paging.entries // 2
    mask = np.uint64(ADDRESS | PRESENT)
    first, second = found.paging.decode(memory.read_frames(frames))[:, :half] & mask
    named = (first | second) & np.uint64(PRESENT) != 0
    same = np.count_nonzero(first[named] == second[named])
    return bool(same and 2 * same >= np.count_nonzero(named))


@dataclass(frozen=True)
class _Object:
    """What one object says, each part by itself."""

    address: int
    physical: int
    pid: int
    ppid: int
    name: bytes
    dtb: int
    created: int | None
    exited: int | None
    """None where the objects do not show where they say so."""
    is_signalled: bool
    has_ended_by_status: bool | None
    space: int | None
    shadow: int | None
    is_header_sound: bool
    has_tag: bool
    is_name_sound: bool
    is_whole: bool
    thread_pid: int | None
    """By its first thread; None where it has none, or that is not known."""
    has_threads: bool | None
    has_handles: bool | None
    """Whether it has a table of handles; None where that is not known, or lost."""
    is_in_use: bool | None
    """Whether its page tables are in use; None where they are not known."""
    lacks_signs: bool
    """Whether it lacks what all processes but a few have."""

    @property
    def is_pid_sound(self) -> bool:
        """Whether Windows gives such pids."""
        return is_pid(self.pid)

    @cached_property
    def clues(self) -> int:
        """How many clues of four say that it is a process: header, base, tag, pid with name."""
        fields = self.is_pid_sound and self.is_name_sound
        return self.is_header_sound + (self.space is not None) + self.has_tag + fields

    @cached_property
    def has_exit_time(self) -> bool | None:
        """Whether it says when it ended; None where it is not known where it would."""
        if self.exited is None:
            return None
        return is_time(self.exited) and self.exited >= (self.created or 0)

    @cached_property
    def told(self) -> tuple[bool, ...]:
        """What it says itself of its end, as far as it is known where.

        Signal, time, status, and its handles, of which Windows lets go when it ends.
        """
        has_none = None if self.has_handles is None else not self.has_handles
        told = (self.is_signalled, self.has_exit_time, self.has_ended_by_status, has_none)
        return tuple(vote for vote in told if vote is not None)

    @cached_property
    def has_ended(self) -> bool:
        """What most witnesses say: itself, its threads, and whether its tables are in use."""
        votes = list(self.told)
        if self.has_threads is not None:
            votes.append(not self.has_threads)
        if self.is_in_use is not None:
            votes.append(not self.is_in_use)
        return 2 * sum(votes) > len(votes)


def is_pid(number: int) -> bool:
    """Whether Windows gives such pids."""
    return 0 < number < MAX_PID and number % 4 == 0


def is_time(number: int) -> bool:
    """Whether it is a timestamp that a clock of Windows may show."""
    return EARLIEST < number < LATEST


@dataclass(frozen=True)
class _Objects:
    """All objects that may be processes, and the list that they are in."""

    layout: Layout
    list: ActiveList
    found: dict[int, _Object]
    """By the address of their links."""
    links: dict[int, tuple[int, int]]

    @classmethod
    def read(
        cls,
        kernel: KernelMemory,
        layout: Layout,
        seeds: NDArray[np.uint64],
        bases: TableBases,
        shadows: dict[int, int],
        in_use: set[int],
    ) -> "_Objects":
        """Follow the links of the seeds, and read all objects that are found."""
        offset, width = layout.links, layout.width
        links = Links(kernel, width, _LIST_FACTOR * most_spaces(kernel.memory))

        entries = seeds + np.uint64(offset)
        looks = _clues(kernel, layout, seeds, bases) >= _FEW_CLUES
        known: dict[int, bool] = dict(zip(entries.tolist(), looks.tolist(), strict=True))

        def is_process(entry: int) -> bool:
            if entry not in known:
                known[entry] = _looks_like_process(kernel, layout, entry - offset, bases)
            return known[entry]

        links.follow(entries, is_process)
        active = find_list(links, is_process, ())
        everything = np.array(sorted({*filter(is_process, links.of)}), np.uint64)
        everything = everything - np.uint64(offset)
        linked = np.array(list(active.main | active.proven), np.uint64) - np.uint64(offset)
        is_voter = np.isin(everything, linked)
        is_voter |= _clues(kernel, layout, everything, bases) >= _SURE_CLUES
        voters = everything[is_voter] if np.count_nonzero(is_voter) > 1 else seeds
        layout = with_fields(layout, kernel, voters)
        if shadows:
            layout = with_shadow(layout, kernel, voters, shadows)
        rows = _read_objects(kernel, layout, everything, bases, shadows, in_use)
        found = {one.address + offset: one for one in _each_once(rows, active.main, offset)}
        credible = _credible(found, active)
        return cls(layout, find_list(links, is_process, credible), found, links.of)


def _credible(found: dict[int, _Object], active: ActiveList) -> set[int]:
    """Links of objects that surely are processes: of those with one base only the best of them.

    A copy's threads, unlike the original's, do not lead back to it.
    """
    best: dict[int, int] = {}
    credible = set()
    for entry, one in sorted(
        found.items(),
        key=lambda row: (
            row[1].has_threads is not True,
            row[0] not in active.proven,
            -row[1].clues,
            row[0] not in active.main,
            row[0],
        ),
    ):
        if one.clues < _SURE_CLUES:
            continue
        if one.space is None:
            credible.add(entry)
        else:
            best.setdefault(one.space, entry)
    return credible | set(best.values())


def _clues(
    kernel: KernelMemory, layout: Layout, objects: NDArray[np.uint64], bases: TableBases
) -> NDArray[np.int8]:
    """How many of four clues each object has: header, base, pool block, pid."""
    bits, width = layout.bits, layout.width
    bases.learn(numbers_at(kernel, objects, TABLE_BASE[bits], width) & ~np.uint64(BASE_NUMBER))
    clues: NDArray[np.int8] = (kernel.read(objects, 1)[:, 0] == PROCESS_OBJECT).astype(np.int8)
    base = numbers_at(kernel, objects, TABLE_BASE[bits], width) & ~np.uint64(BASE_NUMBER)
    clues += is_in(base, bases.known)
    clues += have_pool_tag(kernel, objects, layout.tags)
    clues += are_pids(numbers_at(kernel, objects, layout.pid, width))
    return clues


def _looks_like_process(
    kernel: KernelMemory, layout: Layout, address: int, bases: TableBases
) -> bool:
    """Whether _clues of one object are enough to follow its links; faster for a single one."""
    address %= 2**64
    if address % (2 * layout.width):  # as allocations of the pool are
        return False
    clues = int(kernel.number(address, 1) == PROCESS_OBJECT)
    clues += kernel.number(address + TABLE_BASE[layout.bits], layout.width) & ~BASE_NUMBER in bases
    clues += is_pid(kernel.number(address + layout.pid, layout.width))
    if clues == _FEW_CLUES - 1:
        objects = np.array([address], np.uint64)
        clues += bool(have_pool_tag(kernel, objects, layout.tags)[0])
    return clues >= _FEW_CLUES


def _each_once(objects: Iterable[_Object], main: set[int], links: int) -> list[_Object]:
    """Each object once, however many addresses lead to it: by that which the list has."""
    by_place: dict[int, _Object] = {}
    for one in objects:
        known = by_place.get(one.physical)
        if known is None or (one.address + links in main and known.address + links not in main):
            by_place[one.physical] = one
    return list(by_place.values())


def _read_objects(
    kernel: KernelMemory,
    layout: Layout,
    objects: NDArray[np.uint64],
    bases: TableBases,
    shadows: dict[int, int],
    in_use: set[int],
) -> Iterator[_Object]:
    """Read what each object says."""
    for start in range(0, len(objects), _READ_AT_ONCE):
        yield from _read_some(
            kernel, layout, objects[start : start + _READ_AT_ONCE], bases, shadows, in_use
        )


def _read_some(
    kernel: KernelMemory,
    layout: Layout,
    objects: NDArray[np.uint64],
    bases: TableBases,
    shadows: dict[int, int],
    in_use: set[int],
) -> Iterator[_Object]:
    """The same of so many as are read at once."""
    contents = kernel.read(objects, OBJECT_BYTES[layout.bits])
    width = layout.width

    def column(offset: int | None, size: int = width) -> NDArray[np.uint64]:
        if offset is None:
            return np.zeros(len(objects), np.uint64)
        return contents[:, offset : offset + size].copy().view(f"<u{size}").astype(np.uint64)[:, 0]

    names = np.zeros((len(objects), 16), np.uint8)
    if layout.name is not None:
        names = contents[:, layout.name : layout.name + 16]
    signal, status = column(4, 4), column(layout.status, 4)
    is_sound = (contents[:, 0] == PROCESS_OBJECT) & (contents[:, 2] == layout.size_byte)
    places = (layout.links + 2 * width, layout.name, layout.exited, layout.created, layout.parent)
    last = max(place for place in places if place is not None)
    signs = np.array(layout.signs, np.int64) // 4
    bytes_of = [row.tobytes()[:NAME_BYTES].split(b"\0")[0] for row in names]
    dtb = column(TABLE_BASE[layout.bits]).tolist()
    for (
        *numbers,
        name,
        base,
        second,
        is_header,
        has_tag,
        is_name,
        is_whole,
        lacks,
        threads,
        handles,
    ) in zip(
        objects.tolist(),
        kernel.physical(objects).tolist(),
        column(layout.pid).tolist(),
        column(layout.parent).tolist(),
        column(layout.created, 8).tolist(),
        column(layout.exited, 8).tolist(),
        signal.tolist(),
        status.tolist(),
        bytes_of,
        dtb,
        column(layout.shadow).tolist(),
        (is_sound & (signal <= 1)).tolist(),
        have_pool_tag(kernel, objects, layout.tags).tolist(),
        (are_names(names) | (layout.name is None)).tolist(),
        (kernel.physical(objects + np.uint64(last)) >= 0).tolist(),
        (contents.view("<u4")[:, signs] == 0).any(axis=1).tolist(),
        _first_threads(kernel, layout, objects),
        _have_handles(kernel, layout, column(layout.handles)),
        strict=True,
    ):
        address, physical, pid, ppid, created, exited, is_signalled, code = numbers
        space = bases.get(base & ~BASE_NUMBER)
        yield _Object(
            address=address,
            physical=physical,
            pid=pid,
            ppid=ppid,
            name=name,
            dtb=base,
            created=created if layout.created is not None else None,
            exited=exited if layout.exited is not None else None,
            is_signalled=is_signalled != 0,
            has_ended_by_status=None if layout.status is None else code != STILL_ACTIVE,
            space=space,
            shadow=shadows.get(second & ~0xFFF),
            is_header_sound=is_header,
            has_tag=has_tag,
            is_name_sound=is_name,
            is_whole=is_whole,
            thread_pid=threads[1],
            has_threads=threads[0],
            has_handles=handles,
            is_in_use=None if space is None else space in in_use,
            lacks_signs=lacks,
        )


def _have_handles(
    kernel: KernelMemory, layout: Layout, tables: NDArray[np.uint64]
) -> list[bool | None]:
    """Of each object whether it has a table of handles; None where it leads elsewhere."""
    if layout.handles is None:
        return [None] * len(tables)
    are_there = lead_to_handles(kernel, layout.bits, tables)
    return [
        False if not table else True if is_there else None
        for table, is_there in zip(tables.tolist(), are_there.tolist(), strict=True)
    ]


def _first_threads(
    kernel: KernelMemory, layout: Layout, objects: NDArray[np.uint64]
) -> list[tuple[bool | None, int | None]]:
    """Of each object whether its list of threads leads to one, and the pid that this one tells."""
    threads, width = layout.threads, layout.width
    if threads is None:
        return [(None, None)] * len(objects)
    head = objects + np.uint64(threads.head)
    link = numbers_at(kernel, objects, threads.head, width)
    leads_back = numbers_at(kernel, link, width, width) == head
    has_threads = leads_back & (link != head)
    pids = np.zeros(len(objects), np.uint64)
    if threads.pid is not None:
        pids = numbers_at(kernel, link, threads.pid, width)
    return [
        (bool(there), int(pid) if there and threads.pid is not None else None)
        for there, pid in zip(has_threads, pids, strict=True)
    ]


@dataclass(frozen=True)
class _Judged:
    """Which objects are processes, and which only look like one."""

    objects: _Objects
    processes: list[_Object]
    copies: list[_Object]
    owners: dict[int, _Object]
    """Of each address space that any object leads to, by its index, the one that has it."""
    seconds: dict[int | None, _Object]
    """Of address spaces that two processes in the list claim with equal right, the other one."""
    is_list_known: bool
    """Whether most processes are in a list at all; else nobody is missed there."""

    def is_listed(self, one: _Object) -> bool:
        """Whether the list has it, or there is none that could."""
        return not self.is_list_known or self._entry(one) in self.objects.list.main

    def _entry(self, one: _Object) -> int:
        return one.address + self.objects.layout.links

    def own_links(self, one: _Object) -> tuple[int, int]:
        """Where its links lead."""
        return self.objects.links.get(self._entry(one), (0, 0))

    def are_links_wrong(self, one: _Object) -> bool:
        """Whether its links do not lead where they should: to what is there, and leads back."""
        entry = self._entry(one)
        if entry in self.objects.list.wrong or 0 in self.own_links(one):
            return True
        if entry in self.objects.list.main:
            return False
        return any(target not in self.objects.links for target in self.own_links(one))


def _judge(objects: _Objects, fits: Callable[[_Object], bool]) -> _Judged:
    """Tell processes from copies of them, and from what only looks like one.

    `fits` says whether the two tables that an object names are of one process.

    An object that is in no list and leads to no tables is a process if its own links or threads
    lead back to it, as those of copies do not, and it has not ended.
    """
    main, offset = objects.list.main, objects.layout.links
    listed, others = [], []
    for entry, one in objects.found.items():
        if entry in main and one.clues >= 2:
            listed.append(one)
        elif entry not in main and one.clues >= _SURE_CLUES:
            others.append(one)
    is_list_known = len(listed) > 1 and 3 * len(listed) >= len(others)

    claims = Counter(one.space for one in (*listed, *others))

    def rank(one: _Object) -> tuple[bool, bool, bool, bool, int, bool, bool, int, int]:
        """The smallest is the best owner of an address space."""
        entry = one.address + offset
        return (
            entry not in main,
            one.pid == 0,
            entry not in objects.list.proven,
            one.has_threads is False,
            -one.clues,
            one.has_ended,
            claims[one.space] > 1 and not fits(one),
            one.created or 0,
            one.address,
        )

    owners: dict[int, _Object] = {}
    for one in sorted((*listed, *others), key=rank):
        if one.space is not None:
            owners.setdefault(one.space, one)
    seconds: dict[int | None, _Object] = {}
    for one in sorted(listed, key=rank):
        first = owners[one.space] if one.space is not None else one
        if one is not first and rank(one)[:_RIGHTS] == rank(first)[:_RIGHTS]:
            seconds.setdefault(first.space, one)
    processes, copies = [*listed], []
    pids = {one.pid for one in listed}
    for one in others:
        owner = None if one.space is None else owners[one.space]
        if one.pid == 0 and owner is not one:
            continue  # Idle has the tables of System, and is no process
        is_original = one.address + offset in objects.list.proven or one.has_threads is True
        lacks_tables = owner is None and is_original and not one.has_ended
        if owner is one or (lacks_tables and one.pid not in pids):
            processes.append(one)
        else:
            copies.append(one)
    return _Judged(objects, processes, copies, owners, seconds, is_list_known)


def _put_together(
    judged: _Judged, nameless: list[Process], left_out: int, time: datetime | None
) -> tuple[tuple[Process, ...], tuple[Process, ...], tuple[str, ...]]:
    """The processes with what is odd about each, copies, and remarks on all of them."""
    now = None if time is None else timestamp_of(time)
    late = [one for one in judged.processes if now and one.created and now < one.created < LATEST]
    if 2 * len(late) > len(judged.processes):
        now, late = None, late  # then it is the clock that is wrong
    processes = [_process(judged, one, now) for one in judged.processes]
    copies = [_process(judged, one, now) for one in judged.copies]
    remarks = _remarks(judged, left_out)
    if late and now is None:
        remarks.append(
            f"{len(late):,} of {len(processes):,} processes were created after the time that the"
            " system's clock shows: it is not believed"
        )
    everyone = sorted(
        (*_with_doubles(judged, processes), *nameless),
        key=lambda process: (process.pid, process.eprocess),
    )
    return tuple(everyone), tuple(copies), tuple(remarks)


def _process(judged: _Judged, one: _Object, now: int | None) -> Process:
    owner = None if one.space is None else judged.owners[one.space]
    second = None if one.space is None else judged.seconds.get(one.space)
    is_listed = judged.is_listed(one)
    phase = _phase(judged, one, is_listed)
    has_ended = one.has_ended and not (phase == "ending" and not one.is_signalled)
    process = Process(
        pid=one.pid,
        ppid=one.ppid,
        name=one.name.decode("utf-8", "backslashreplace"),
        dtb=one.dtb,
        eprocess=one.address,
        created=time_of(one.created or 0),
        exited=time_of(one.exited or 0),
        is_alive=not has_ended,
        is_listed=is_listed,
        space=one.space if one in (owner, second) else None,
        shadow=one.shadow,
    )
    odd = [*filter(None, [phase]), *_oddities(judged, one, is_listed, phase, now)]
    if one not in (owner, second) and not has_ended:
        odd.append(f"base also of {owner.address:#x}" if owner else "base leads to no table")
    return replace(process, anomalies=tuple(odd))


def _phase(judged: _Judged, one: _Object, is_listed: bool) -> str:
    """Whether it is being made or deleted when the dump is taken; nothing where it is neither.

    What is made has no links yet, and lacks threads or other things that all processes have; what
    is deleted has no links any more, or its end is noted but not yet announced.
    """
    is_out = not is_listed and judged.own_links(one) == (0, 0)
    if one.has_exit_time and not one.is_signalled and one.has_ended_by_status is not False:
        return "ending"
    if one.has_ended:
        return "ending" if is_out else ""
    if not is_out:
        return ""
    return "starting" if one.has_threads is False or one.lacks_signs else ""


def _oddities(
    judged: _Judged, one: _Object, is_listed: bool, phase: str, now: int | None
) -> Iterator[str]:
    """Words of process.ANOMALIES that fit an object by itself."""
    if not one.is_header_sound:
        yield "header altered"
    if judged.are_links_wrong(one) and not phase:
        yield "links lead nowhere"
    if not one.is_pid_sound:
        yield "pid not plausible"
    if one.thread_pid not in (None, one.pid):
        yield "threads tell another pid"
    if not one.is_name_sound:
        yield "name not printable"
    if one.ppid and (not is_pid(one.ppid) or one.ppid == one.pid):
        yield "parent unknown"
    yield from _odd_times(one, phase, now)
    if not one.is_whole:
        yield "not whole"
    if one.address < kernel_space(judged.objects.layout.bits):
        yield "object not mapped"


def _odd_times(one: _Object, phase: str, now: int | None) -> Iterator[str]:
    """Words on when it began and ended, as far as it is known where objects say so."""
    may_be_zero = one.pid == SYSTEM_PID or phase == "starting"
    if one.created is not None:
        if not is_time(one.created) and not (one.created == 0 and may_be_zero):
            yield "creation time not plausible"
        elif now is not None and one.created > now:
            yield "created in the future"
    if one.exited and not one.has_exit_time:
        yield "exit time not plausible"
    if phase != "ending" and len(set(one.told)) > 1:
        yield "end in doubt"


def _with_doubles(judged: _Judged, processes: list[Process]) -> Iterator[Process]:
    """Say of whom else a pid is: of each pid the process that its own thread speaks for has it."""
    by_pid = defaultdict(list)
    for one, process in zip(judged.processes, processes, strict=True):
        by_pid[one.pid].append((one.thread_pid not in (None, one.pid), process))
    for same in by_pid.values():
        right = [process for is_wrong, process in same if not is_wrong] or [same[0][1]]
        for _, process in same:
            word = f"pid also of {right[0].eprocess:#x}"
            is_doubtful = not any(process is one for one in right)
            yield replace(process, anomalies=(*process.anomalies, word)) if is_doubtful else process


def _undecided(judged: _Judged) -> Iterator[str]:
    """Sentences on what two processes claim with equal right."""
    for space, second in judged.seconds.items():
        owner = judged.owners[space or 0]
        yield f"{_title(owner)} and {_title(second)} name the same page tables"
    by_pid = defaultdict(list)
    for one in judged.processes:
        if one.is_pid_sound and one.thread_pid in (None, one.pid):
            by_pid[one.pid].append(one)
    for pid, same in sorted(by_pid.items()):
        if len(same) > 1:
            places = ", ".join(f"{one.address:#x}" for one in same[:_MOST_NAMED])
            yield f"{len(same):,} processes have the pid {pid}: their objects lie at {places}"


def _remarks(judged: _Judged, left_out: int) -> list[str]:
    """What could not be known of all processes together."""
    remarks = []
    active = judged.objects.list
    if not judged.is_list_known and len(judged.processes) > 1:
        remarks.append(
            "the list of active processes was not found: nobody is said to be missing in it"
        )
    elif active.gaps:
        places = [
            " and ".join(
                filter(
                    None, (_named(judged, side, at) for side, at in zip(_SIDES, gap, strict=True))
                )
            )
            for gap in active.gaps
        ]
        some = "; ".join(places[:_MOST_NAMED])
        more = f"; {len(places) - _MOST_NAMED:,} more" if len(places) > _MOST_NAMED else ""
        count = "one place" if len(places) == 1 else f"{len(places):,} places"
        remarks.append(f"the list of active processes is broken at {count}: {some}{more}")
    remarks += _shortened(list(_undecided(judged)))
    if active.left_out:
        remarks.append(
            f"{counted(active.left_out, 'link')} between processes"
            f" {'was' if active.left_out == 1 else 'were'} not followed: there are more than any"
            " machine has"
        )
    if left_out:
        remarks.append(
            f"{counted(left_out, 'place')} that may be of a process"
            f" {'was' if left_out == 1 else 'were'} not looked at: there are more than any machine"
            " has"
        )
    return remarks


def _shortened(sentences: list[str]) -> list[str]:
    """The first of many sentences, and how many more there are."""
    more = len(sentences) - _MOST_NAMED
    return sentences[:_MOST_NAMED] + ([f"{more:,} more of this kind"] if more > 0 else [])


def _title(one: _Object) -> str:
    return f"{one.name.decode('utf-8', 'backslashreplace')} ({one.pid})"


_SIDES = ("behind", "before")


def _named(judged: _Judged, side: str, entry: int) -> str:
    """A place in the list, by the process there."""
    one = judged.objects.found.get(entry)
    if not entry:
        return ""
    if one is None:
        return f"{side} {entry:#x}"
    return f"{side} {_title(one)}"
