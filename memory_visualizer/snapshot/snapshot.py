"""A whole dump, understood: what system it is of, its processes, and who has each page."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import BlockWork, zero_pages
from memory_visualizer.formats.opening import PAGE_SIZE, Dump, Progress, RawDump, Words, open_dump
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo, VmcoreInfoSearch
from memory_visualizer.paging import (
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    SHARED,
    Losses,
    Mappings,
    Paging,
    merge_alike,
    merge_kernel,
    most_mappings,
    most_spaces,
    tables_of,
    walk,
    without_contradicted,
)
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.owners import Owners, each_large, owners_by_frame
from memory_visualizer.snapshot.pagemap import (
    PageClass,
    PageMap,
    PageState,
    add_runs,
    classify,
    count_values,
    distinct,
    mark_runs,
)
from memory_visualizer.snapshot.process import Process, unnamed
from memory_visualizer.windows.kernelmemory import kernel_memory
from memory_visualizer.windows.processes import FoundProcesses, find_processes
from memory_visualizer.windows.processsearch import ProcessSearch
from memory_visualizer.windows.toplevels import (
    TopLevels,
    TopLevelSearch,
    is_in_doubt,
    read_shared_data,
)

# What reads Linux and other systems is imported where a dump is met that needs it.
if TYPE_CHECKING:
    from PIL.Image import Image

    from memory_visualizer.linux.kernel import LinuxKernel, TopTableSearch
    from memory_visualizer.linux.pagestates import PageStates, Survey
    from memory_visualizer.linux.tasks import LinuxProcesses
    from memory_visualizer.unknown.toplevels import Spaces

_LEARNING_FRAMES = 4096
"""The first 16 MiB: there lies the System process's top-level table of real machines."""
_FRAMES_AT_ONCE = 256
_ROWS_AT_ONCE = 1 << 17
"""Of mappings; a few megabytes."""
_MOST_EARLY_TABLES = 128
"""So many top-level tables may lie there; more are made to waste time."""
_SYSTEM_WEIGHT = 3
_SYSTEM_PID = 4
"""Of Windows' System process."""
_HUGE_FRAMES = 1 << 18
"""Frames of a page of 1 GiB."""
_ENOUGH_TABLES = 3
"""So many tables that name themselves at one place are no accident."""


@dataclass(frozen=True)
class Snapshot(PageMap):
    """What a dump tells: a page map, and what it was made from."""

    mapping_count: NDArray[np.uint32]
    """How many mappings lead to each frame; those of the kernel, which all share, count once."""
    dump: Dump
    system: str | None
    """Such as ``Windows 6.1``, or None where no Windows was found."""
    time: datetime | None
    """When the dump was taken, by the system's own clock, UTC."""
    paging: Paging | None
    processes: tuple[Process, ...]
    """All processes, in the order of their pids; also those hidden or ended."""
    stale_spaces: int
    """Address spaces that no live process claims; they are not painted."""
    mappings: Mappings
    """Every mapping of live processes; `space` is an index in `processes`, or SHARED. Of a Linux
    kernel, which maps all memory, only those that processes have of their own."""
    kernel_dtb: int | None = None
    """Physical address of the kernel's own top-level page table, where that is known."""
    states: NDArray[np.uint8] | None = None
    """PageState of each frame; None where the system is not Linux."""
    remarks: tuple[str, ...] = ()
    """Sentences on what could not be known of the system, for the person at the screen."""
    copies: tuple[Process, ...] = ()
    """Old copies of process objects, and what is left of processes long gone: no processes."""

    @cached_property
    def owners(self) -> Owners:
        """Who has which page: see Owners."""
        return Owners.join([owners for _, owners in self.owners_by_frame()])

    def owners_by_frame(self) -> Iterator[tuple[range, Owners]]:
        """The same in pieces: some successive frames and who has them, until all frames were told.

        For whoever needs it once: `owners` is as large as the mappings.
        """
        return owners_by_frame(self.mappings, self.classes, most_mappings(self.dump))

    @cached_property
    def access(self) -> NDArray[np.uint8]:
        """What may be done with each frame, as MAY_ bits.

        By user mode where it has the frame at all, else by the kernel; what any of the mappings
        allows is allowed.
        """
        access = np.zeros(self.classes.size, np.uint8)
        of_user = np.isin(self.classes, (PageClass.USER, PageClass.BOTH))
        for at in range(0, len(self.mappings.frame), _ROWS_AT_ONCE):
            some = slice(at, at + _ROWS_AT_ONCE)
            rows = Mappings(*(column[some] for column in self.mappings.columns))
            single = (rows.frames == 1) & (of_user[rows.frame] == rows.is_user)
            for bit in (MAY_USER, MAY_WRITE, MAY_EXECUTE):
                access[rows.frame[single & (rows.access & bit != 0)]] |= bit
        rows = self.mappings.take(self.mappings.frames > 1)
        count = np.minimum(rows.frame + rows.frames, access.size) - rows.frame
        for user, frames in ((True, of_user), (False, ~of_user)) if len(count) else ():
            for bit in (MAY_USER, MAY_WRITE, MAY_EXECUTE):
                chosen = (rows.is_user == user) & (rows.access & bit != 0)
                marks = np.zeros(access.size, bool)
                mark_runs(marks, rows.frame[chosen], count[chosen])
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
        """Pages in user mode of each process, shape (processes, 2): its own alone, and shared."""
        return self._pages_of_processes.copy()

    @cached_property
    def _pages_of_processes(self) -> NDArray[np.int64]:
        # Without `owners`, which costs a sort of all rows, and without listing large pages.
        rows = self.mappings
        chosen = rows.is_user & (rows.space != SHARED)
        runs = _runs_of_large(rows.take(chosen & (rows.frames > 1)), self.classes.size)
        chosen &= rows.frames == 1
        # As numbers of 16 bits, if these do, the sort is a quick one.
        process = rows.space[chosen].astype(np.min_scalar_type(len(self.processes)))
        frame = rows.frame[chosen].astype(np.min_scalar_type(self.classes.size))
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
        """The single pages of some mappings: row, number within it, and frame that is held.

        Of a large page that a process has at several addresses only the first one counts: a
        thousand mappings of one gigabyte would be many pages to list. Of large pages beyond
        most_mappings, all their pages counted, none is listed; `remarks` then says so.
        """
        if (rows.frames == 1).all():
            row = np.arange(len(rows.frame))
            return row, np.zeros(len(row), np.int64), rows.frame
        chosen = rows.frames == 1
        large, pages = each_large(rows, self.classes.size)
        chosen[large[np.cumsum(pages) <= most_mappings(self.dump)]] = True
        row = np.flatnonzero(chosen)
        count = np.minimum(rows.frames, self.classes.size - rows.frame)[row]
        row = np.repeat(row, count)
        part = np.arange(len(row))
        part -= np.repeat(np.cumsum(count) - count, count)
        frame = rows.frame[row]
        frame += part
        inside = self.classes[frame] != PageClass.ABSENT
        if inside.all():
            return row, part, frame
        return row[inside], part[inside], frame[inside]

    def state_counts(self) -> dict[PageState, int]:
        """Count the frames of each state, states without any included; nothing where unknown."""
        if self.states is None:
            return {}
        counts = count_values(self.states, len(PageState))
        return {state: int(counts[state]) for state in PageState}

    def pages_of_others(self, processes: Collection[int]) -> NDArray[np.bool_]:
        """By PFN: whether none of these processes, by their index, has the frame."""
        others = np.ones(self.classes.size, bool)
        for _, owners in self.owners_by_frame():
            others[owners.of(processes).frame] = False
        return others

    def image(
        self,
        *,
        color_by: str = "class",
        layout: str = "rows",
        width: int | None = None,
        scale: int = 1,
        palette: str = "default",
        legend: bool = False,
    ) -> "Image":
        """The picture as a PIL.Image.Image: see picture.picture_of, colouring and palette.

        `color_by` is one of colouring.COLOURINGS, `palette` one of palette.PALETTES.
        """
        from memory_visualizer.picture import entropy as contents
        from memory_visualizer.picture.colouring import colour_by
        from memory_visualizer.picture.painting import picture_of
        from memory_visualizer.picture.palette import PALETTES

        colouring = colour_by(
            color_by, self, PALETTES[palette], lambda: contents.entropy(self.dump)
        )
        return picture_of(
            self.dump, colouring, layout=layout, width=width, scale=scale, legend=legend
        ).image()

    def _repr_html_(self) -> str:
        """How a notebook shows it: the picture with its legend."""
        from memory_visualizer.picture import notebook

        return notebook.html(self)

    def _repr_png_(self) -> bytes:
        """The same for what shows pictures only."""
        from memory_visualizer.picture import notebook

        return notebook.png(self)

    def summary(self) -> dict[str, Any]:
        """All that is known but the pages themselves, as JSON has it: see export.summary."""
        from memory_visualizer.export import tables as export

        return export.summary(self)

    def to_arrow(self) -> Any:
        """The page map as a pyarrow.Table: see export.to_arrow."""
        from memory_visualizer.export import tables as export

        return export.to_arrow(self)

    def to_pandas(self) -> Any:
        """The page map as a pandas.DataFrame: see export.to_pandas."""
        from memory_visualizer.export import tables as export

        return export.to_pandas(self)

    def to_html(self, path: str | Path, *, entropy: NDArray[np.uint8] | None = None) -> None:
        """Write the page for the browser: see viewer.write_page."""
        from memory_visualizer import viewer

        viewer.write_page(Path(path), self, entropy=entropy)


@dataclass(frozen=True)
class _Runs:
    """Stretches of frames that processes have, a row for each; those of a process do not meet."""

    space: NDArray[np.int32]
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    """The frame behind the last one."""

    def cover(
        self, space: NDArray[np.integer[Any]], frame: NDArray[np.integer[Any]]
    ) -> NDArray[np.bool_]:
        """Which of these frames, each of a process, lie in a stretch of that process."""
        size = int(self.end.max(initial=0)) + 1
        starts = self.space * size + self.first
        ends = self.space * size + self.end
        covered = np.zeros(len(frame), bool)
        for start in range(0, len(frame), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            asked = space[part].astype(np.int64) * size + np.minimum(frame[part], size - 1)
            row = np.maximum(np.searchsorted(starts, asked, "right") - 1, 0)
            covered[part] = (asked >= starts[row]) & (asked < ends[row])
        return covered

    def depth(self, frame_count: int) -> NDArray[np.int32]:
        """How many processes have each frame in a stretch."""
        change = np.zeros(frame_count + 1, np.int32)
        np.add.at(change, self.first, np.int32(1))
        np.subtract.at(change, self.end, np.int32(1))
        np.cumsum(change, out=change)
        return change[:-1]

    def count(self, marks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many frames of each stretch are marked."""
        before = np.zeros(marks.size + 1, np.uint32)  # no more frames than MAX_FRAMES
        np.cumsum(marks, out=before[1:])
        return before[self.end].astype(np.int64) - before[self.first]


def _runs_of_large(rows: Mappings, frame_count: int) -> _Runs:
    """The stretches that these large pages make up for each process."""
    order = np.lexsort((rows.frame, rows.space))
    space = rows.space[order].astype(np.int64)
    first = rows.frame[order]
    end = np.minimum(first + rows.frames[order], frame_count)
    # As if the processes' memories stood one behind the other, and did not touch.
    start = space * (frame_count + 1)
    reach = np.maximum.accumulate(start + end) if len(order) else end
    begins = np.flatnonzero(start[1:] + first[1:] > reach[:-1]) + 1 if len(order) else order
    begins = np.append(np.zeros(min(1, len(order)), np.intp), begins)
    last = np.append(begins[1:], len(order))[: len(begins)] - 1
    return _Runs(space[begins].astype(np.int32), first[begins], (reach - start)[last])


def open(  # noqa: A001 - the library's own word, as in ``memory_visualizer.open(path)``
    path: str | Path | Sequence[str | Path],
    *,
    lenient: bool = False,
    progress: Progress | None = None,
) -> Snapshot:
    """Read a memory dump, or all files of a split one: what it is of, and who has each page.

    `progress` is told how many bytes of the dump have been looked at. BadInputError when the
    file cannot be read or is no dump; DamagedInputError, unless `lenient`, when a part of it is
    missing.
    """
    return _understand(open_dump(path, lenient=lenient, progress=progress), progress)


def _understand(dump: Dump, progress: Progress | None) -> Snapshot:
    search, texts = TopLevelSearch(), VmcoreInfoSearch()
    objects = _learn(dump, search)
    looks = [search.look_at, texts.look_at, *([objects.look_at] if objects else [])]
    zero = _look_at_all(dump, looks, progress)
    # First Linux, which few dumps of others look like: its kernel's word of itself is checked.
    if kernel := _linux_kernel(dump, texts.found(dump)):
        return _linux_snapshot(dump, zero, kernel)
    if found := search.found(dump):
        snapshot = _windows_snapshot(dump, zero, found, objects)
        return _better(snapshot, progress) if is_in_doubt(dump, found) else snapshot
    return _second_look(dump, zero, search, progress)


def _better(snapshot: Snapshot, progress: Progress | None) -> Snapshot:
    """What a raw file tells as it is, or with its memory put where it belongs, if that is more.

    Some pages may name others at one distance by chance, or to deceive: then a remark says so.
    """
    try:
        mended = _mended(snapshot.dump, progress)
    except _MendError as error:
        return replace(snapshot, remarks=(*snapshot.remarks, error.remark))
    if mended is None or _worth(mended) > _worth(snapshot):
        return mended or snapshot
    (remark,) = mended.dump.remarks[len(snapshot.dump.remarks) :]
    remark = f"it was not believed, as no more processes would be found, that {remark}"
    return replace(snapshot, remarks=(*snapshot.remarks, remark))


def _worth(snapshot: Snapshot) -> tuple[int, int]:
    """How much was understood: processes whose objects and tables are there, and their pages."""
    whole = [one for one in snapshot.processes if one.eprocess and one.space is not None]
    has_user = np.isin(snapshot.classes, (PageClass.USER, PageClass.BOTH))
    return len(whole), int(np.count_nonzero(has_user))


class _MendError(BadInputError):
    """Memory lies elsewhere than it belongs, and nothing is understood with it put there."""

    def __init__(self, dump: Dump, tables: int, distance: int) -> None:
        self.remark = (
            f"{counted(tables, 'page looks', 'pages look')} like top-level page tables that lie up"
            f" to {counted(distance, 'page')} from where they belong, and the memory could not be"
            " put there"
        )
        super().__init__(f"{dump.path} does not hold its memory where it belongs: {self.remark}")


def _mended(
    dump: Dump,
    progress: Progress | None,
    texts: Sequence[VmcoreInfo] = (),
    remarks: list[str] | None = None,
) -> Snapshot | None:
    """A raw file whose memory lies elsewhere than it belongs, understood with it put there.

    BadInputError where that does not help. `remarks` is told where this was not looked for.
    """
    if not isinstance(dump, RawDump):
        return None
    from memory_visualizer.displaced import DisplacedSearch, MendedDump, pieces_of_linux

    search = DisplacedSearch(dump)
    for _ in _pass_by(dump, [search.look_at], progress):
        pass
    for info in texts:
        if pieces := pieces_of_linux(dump, info, search):
            snapshot = _understand(MendedDump(dump, pieces), progress)
            if snapshot.system:
                return snapshot
    pieces = search.pieces(dump)
    if not pieces:
        if remarks is not None:
            remarks += search.remarks
        return None
    snapshot = _understand(MendedDump(dump, pieces), progress)
    if not snapshot.system:
        raise _MendError(dump, search.tables, max(abs(piece.shift) for piece in pieces))
    return snapshot


def _second_look(
    dump: Dump, zero: NDArray[np.bool_], search: TopLevelSearch, progress: Progress | None
) -> Snapshot:
    """Look once more for what is not at its usual place, and for other systems."""
    from memory_visualizer.linux.kernel import TopTableSearch
    from memory_visualizer.unknown import toplevels as othersystems

    texts, spaces, tables = VmcoreInfoSearch(), othersystems.SpaceSearch(dump), TopTableSearch()
    looks = [search.look_everywhere, texts.look_everywhere, spaces.look_at, tables.look_at]
    asked = 0
    for _ in _pass_by(dump, looks, progress):
        # Tables of others may name themselves, too: so it is asked the less often the more it met.
        if search.most_met() < max(_ENOUGH_TABLES, 16 * asked):
            continue
        asked = search.most_met()
        if (found := search.found(dump)) and len(found.tops) >= _ENOUGH_TABLES:
            # Now it is known where this boot's tables name themselves.
            search.look_only()
            for _ in dump.each_block(search.look_at):
                pass
            break
    if found := search.found(dump):
        snapshot = _windows_snapshot(dump, zero, found)
        return _better(snapshot, progress) if is_in_doubt(dump, found) else snapshot
    if kernel := _linux_kernel(dump, texts.found(dump), tables):
        return _linux_snapshot(dump, zero, kernel)
    remarks: list[str] = []
    if mended := _mended(dump, progress, texts.found(dump), remarks):
        return mended
    # Where the tables that lead to Windows' word of itself are damaged, its processes tell.
    if alike := search.alike(dump):
        who = find_processes(dump, alike)
        if any(process.eprocess for process in who.processes):
            return _windows_snapshot(dump, zero, alike, who=who)
    snapshot = _other_snapshot(dump, zero, spaces.found())
    return replace(snapshot, remarks=(*snapshot.remarks, *remarks))


def _linux_kernel(
    dump: Dump, texts: Sequence[VmcoreInfo], tables: "TopTableSearch | None" = None
) -> "LinuxKernel | None":
    """The Linux kernel that one of these texts is of, if it is; else the one by its tables."""
    if not texts and not tables:
        return None
    from memory_visualizer.linux import kernel as linux

    found = linux.find_kernel(dump, texts)
    return found or (linux.find_kernel_by_form(dump, texts, tables) if tables else None)


def _other_snapshot(dump: Dump, zero: NDArray[np.bool_], spaces: "Spaces") -> Snapshot:
    """A system that is not known: user and kernel as its page tables say, if any are found."""
    from memory_visualizer.unknown import toplevels as othersystems

    tops = spaces.tops
    losses, rest = Losses(), _Rest(dump)
    mappings = Mappings.join([])
    if len(tops):
        mappings = rest.without(walk(dump, othersystems.PAGING, tops, losses=losses))
    mappings, has_direct_map = othersystems.without_direct_map(mappings, dump.held)
    mappings = merge_kernel(mappings)
    remarks = [*spaces.remarks]
    if len(tops):
        remarks.append(
            f"{counted(len(tops), 'address space')} found by what the top-level page tables share:"
            " whose, and whether still in use, is not known"
        )
    if has_direct_map:
        remarks.append("the kernel's view of all memory was left out: it tells of no page's use")
    return of_mappings(
        dump,
        zero,
        mappings,
        rest=rest,
        paging=othersystems.PAGING if len(tops) else None,
        processes=tuple(unnamed(int(top[0]), space) for space, top in enumerate(tops)),
        remarks=(*remarks, *_remarks(dump, mappings, losses, rest)),
    )


def _system_process(processes: Sequence[Process]) -> Process | None:
    """Windows' System process, by most of what is known of it: pid, name, and no parent."""

    def weight(process: Process) -> int:
        is_system = (process.pid == _SYSTEM_PID) + (process.name == "System") + (process.ppid == 0)
        return is_system + (process.is_listed and process.space is not None)

    best = max(processes, key=weight, default=None)
    return best if best and weight(best) >= _SYSTEM_WEIGHT else None


def _windows_snapshot(
    dump: Dump,
    zero: NDArray[np.bool_],
    found: TopLevels,
    search: ProcessSearch | None = None,
    who: FoundProcesses | None = None,
) -> Snapshot:
    """A Windows dump's; where `who` is not given, the processes are looked for."""
    losses, rest = Losses(), _Rest(dump)
    shared_data = read_shared_data(dump, found.paging, found.tops)
    who = who or find_processes(dump, found, search, shared_data.time)
    found, processes = who.found, who.processes
    if not any(process.is_alive and process.space is not None for process in processes):
        # Damaged: the tables, whoever they belong to, are better than nothing.
        tops = found.tops[: most_spaces(dump)]
        losses.tables += len(found.tops) - len(tops)
        processes = tuple(unnamed(int(top[0]), space) for space, top in enumerate(tops))
        found = replace(found, tops=tops)
    mappings = _mappings_of(dump, found, processes, losses, rest)
    system = _system_process(processes)
    snapshot = of_mappings(
        dump,
        zero,
        mappings,
        rest=rest,
        remarks=(*found.remarks, *who.remarks, *_remarks(dump, mappings, losses, rest)),
        kernel_dtb=system.dtb if system else None,
        system=f"Windows {shared_data.version}".rstrip(),
        time=shared_data.time,
        paging=found.paging,
        processes=processes,
        stale_spaces=len(set(range(len(found.tops))) - {process.space for process in processes}),
    )
    return replace(snapshot, copies=who.copies)


_KERNEL_STATES = (
    PageState.SLAB,
    PageState.PAGE_TABLE,
    PageState.KERNEL_IMAGE,
    PageState.RESERVED,
    PageState.KERNEL_OTHER,
)
"""States of pages that the kernel uses, whether or not they are mapped into processes."""


def of_linux(
    dump: Dump, zero: NDArray[np.bool_], processes: "LinuxProcesses", paging: Paging
) -> Snapshot:
    """Put together what is known of a Linux dump, with processes that were found elsewhere.

    What the kernel uses is in its struct pages; where these are not found, `remarks` says so, and
    all that no process maps is unused. `zero` as for of_mappings.
    """
    texts = VmcoreInfoSearch()
    for _ in dump.each_block(texts.look_everywhere):
        pass
    kernel = _linux_kernel(dump, texts.found(dump))
    if kernel:
        return _linux_snapshot(dump, zero, kernel, processes)
    spaces = [n for n, process in enumerate(processes.processes) if process.space is not None]
    owners = np.array(spaces, np.int32)
    walked = walk(dump, paging, processes.tops, owners, own_only=True) if spaces else ()
    snapshot = of_mappings(
        dump,
        zero,
        Mappings.join(list(walked)),
        system="Linux",
        paging=paging,
        processes=processes.processes,
    )
    remark = "what the kernel knows of its pages was not found: its own are shown as unused"
    return replace(snapshot, remarks=(*processes.remarks, remark))


def _linux_snapshot(
    dump: Dump,
    zero: NDArray[np.bool_],
    kernel: "LinuxKernel",
    found: "LinuxProcesses | None" = None,
) -> Snapshot:
    """A Linux dump's; where `found` is not given, the processes are looked for."""
    from memory_visualizer.linux.pagestates import PageArray
    from memory_visualizer.linux.tasks import find_processes as find_tasks

    remarks = [*kernel.remarks]
    survey = pages = None
    try:
        pages = PageArray(dump, kernel.kernel, kernel.info, kernel.btf, kernel.symbols)
        survey = pages.survey()
    except LookupError as error:
        remarks.append(f"what the kernel knows of its pages was not found: {error}")
    found = found or find_tasks(kernel, pages, survey)
    remarks += found.remarks
    tops, owners, again = _spaces_once(found)
    read = _read_states(dump, kernel, survey, tops) if survey else None
    losses, rest, doubts = Losses(), _Rest(dump), _Doubts(read.states if read else None)
    mappings = Mappings.join([])
    if len(tops):
        walked = walk(
            dump,
            kernel.paging,
            tops,
            owners,
            own_only=True,
            losses=losses,
            no_tables=survey.no_tables if survey else None,
        )
        mappings = rest.without(map(doubts.believed, walked))
    remarks += [*_remarks(dump, mappings, losses, rest), *doubts.remarks]
    mapping_count = _mapping_count(mappings, dump.frame_count) + rest.mapping_count
    mappings = _with_sharers(mappings, again)
    mapped = _reached(dump, mappings, user=True) | rest.user
    if read is None:
        states = np.full(dump.frame_count, PageState.UNKNOWN, np.uint8)
        states[~dump.held] = PageState.ABSENT
        used = np.zeros(dump.frame_count, bool)
    else:
        remarks += read.remarks
        states = read.states
        used = np.isin(states, _KERNEL_STATES)
        # In use, though nobody maps them: a huge page in its pool, a page just let go of.
        used |= ~mapped & (states == PageState.HUGE_PAGE)
        used |= ~mapped & (states == PageState.ANONYMOUS) & ~read.swap_cache
    absent = states == PageState.ABSENT
    page_map = classify(mapped, used, zero, absent)
    return Snapshot(
        classes=page_map.classes,
        zero=zero,
        mapping_count=mapping_count,
        dump=dump,
        system=kernel.system,
        time=None,
        paging=kernel.paging,
        processes=found.processes,
        stale_spaces=0,
        mappings=mappings,
        kernel_dtb=kernel.top * PAGE_SIZE,
        states=states,
        remarks=tuple(remarks),
    )


def _spaces_once(
    found: "LinuxProcesses",
) -> tuple[NDArray[np.int64], NDArray[np.int32], dict[int, list[int]]]:
    """The top-level tables of processes, each once; the first process that has it, and the others.

    Processes may share their memory (CLONE_VM): these are given by the first one's index.
    """
    first: dict[int, int] = {}
    again: dict[int, list[int]] = {}
    for index, process in enumerate(found.processes):
        if process.space is not None:
            frame = int(found.tops[process.space, 0])
            if frame in first:
                again.setdefault(first[frame], []).append(index)
            first.setdefault(frame, index)
    tops = np.array(list(first), np.int64)[:, None]
    return tops, np.array(list(first.values()), np.int32), again


def _with_sharers(mappings: Mappings, again: dict[int, list[int]]) -> Mappings:
    """Add the mappings of those processes that have another one's memory as well."""
    parts = [mappings]
    room = len(mappings.frame) + (1 << 16)
    for first, others in again.items():
        own = mappings.take(mappings.space == first)
        for other in others:
            room -= len(own.frame)
            if room >= 0:
                parts.append(replace(own, space=np.full(len(own.frame), other, np.int32)))
    return Mappings.join(parts) if len(parts) > 1 else mappings


class _Doubts:
    """Mappings of user mode that the kernel's own word of the pages speaks against.

    In a dump that was saved while the system ran, a table may be of another moment than its page's
    use. No process has a page that is free, slab or a page table, and a page of 1 GiB is a huge
    page to the kernel as well.
    """

    def __init__(self, states: NDArray[np.uint8] | None) -> None:
        """`states` are PageState by PFN, None where they are not known."""
        self._states = states
        self._before: dict[tuple[PageState, ...], NDArray[np.int32]] = {}
        """How many frames before each one are in some states."""
        self._pages = 0
        self._huge = 0

    def believed(self, part: Mappings) -> Mappings:
        """Those of these mappings that nothing speaks against."""
        if self._states is None or not len(part.frame):
            return part
        states = self._states
        against = self._share(states, part, PageState.FREE, PageState.SLAB, PageState.PAGE_TABLE)
        # Drivers map what is reserved, but not together with what is not.
        reserved = self._share(states, part, PageState.RESERVED)
        wrong = against + np.where(reserved < 1, reserved, 0) > 1 / 2
        huge = part.frames == _HUGE_FRAMES
        if huge.any():
            huge &= self._share(states, part, PageState.HUGE_PAGE) <= 1 / 2
        wrong &= ~huge
        if not (wrong | huge).any():
            return part
        self._pages += int(part.frames[wrong].sum())
        self._huge += int(np.count_nonzero(huge))
        return part.take(~(wrong | huge))

    def _share(
        self, states: NDArray[np.uint8], part: Mappings, *some: PageState
    ) -> NDArray[np.float64]:
        """The share of each mapping's frames that are in one of some states."""
        if some not in self._before:
            among = np.isin(states, some)
            self._before[some] = np.concatenate(([0], np.cumsum(among, dtype=np.int32)))
        before = self._before[some]
        end = np.minimum(part.frame + part.frames, len(before) - 1)
        share: NDArray[np.float64] = (before[end] - before[part.frame]) / part.frames
        return share

    @property
    def remarks(self) -> list[str]:
        """How many there were."""
        remarks = []
        if self._pages:
            remarks.append(
                f"{counted(self._pages, 'page')} mapped into processes but free or the kernel's own"
                " by its word: these mappings are of another moment, and are left out"
            )
        if self._huge:
            remarks.append(
                f"{counted(self._huge, 'mapping')} of 1 GiB where the kernel knows of no such page:"
                " left out"
            )
        return remarks


def _read_states(
    dump: Dump, kernel: "LinuxKernel", survey: "Survey", tops: NDArray[np.int64]
) -> "PageStates":
    """The state of each frame, by the kernel's struct pages."""
    from memory_visualizer.linux import kernel as linux

    resources = linux.read_resources(kernel)
    image = resources.image if resources else linux.frames_of_image(kernel)
    own, leaves = tables_of(dump, kernel.paging, tops, own_only=True, no_tables=survey.no_tables)
    tables, _ = tables_of(dump, kernel.paging, np.array([[kernel.top]]))
    is_ram = resources.is_ram if resources else None
    return survey.array.finish(survey, image, is_ram, own | tables, leaves)


class _Rest:
    """What the mappings amount to for which there is no room."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._room = most_mappings(dump)
        self._room_for_each = self._room // 2
        self._of_space = np.zeros(1, np.int64)
        """How many mappings of each space there were; of those that are SHARED first."""
        self.mappings = 0
        self.user = np.zeros(dump.frame_count, bool)
        self.kernel = np.zeros(dump.frame_count, bool)
        self.mapping_count = np.zeros(dump.frame_count, np.uint32)

    def without(self, walked: Iterable[Mappings]) -> Mappings:
        """Join the parts of a walk; keep only the sum of what exceeds the room.

        No honest machine has so many mappings of so few frames, but memory must not be what a
        dump can take from those who look at it. A space that has too many loses its own.
        """
        joined: list[Mappings] = []
        kept: list[Mappings] = []
        waiting = 0
        for part in walked:
            fits = self._fits(part)
            some = part if fits.all() else part.take(fits)
            self._room -= len(some.frame)
            if self._room < 0:
                self._add(part)
                continue
            kept.append(some)
            # Many small parts, let go of one by one, would leave memory in pieces.
            waiting += len(some.frame)
            if waiting > _ROWS_AT_ONCE:
                joined.append(Mappings.join(kept))
                waiting = 0
            if some is not part:
                self._add(part.take(~fits))
        joined.append(Mappings.join(kept))
        return Mappings.join(joined)

    def _fits(self, part: Mappings) -> NDArray[np.bool_]:
        """Which mappings are of spaces that have not too many."""
        number = part.space.astype(np.int64) - SHARED
        count = np.bincount(number, minlength=len(self._of_space))
        count[: len(self._of_space)] += self._of_space
        self._of_space = count
        fits = count <= self._room_for_each
        fits[0] = True
        return fits[number]

    def _add(self, part: Mappings) -> None:
        """Add mappings to the sum."""
        self.mappings += len(part.frame)
        self.user |= _reached(self._dump, part, user=True)
        self.kernel |= _reached(self._dump, part, user=False)
        self.mapping_count += _mapping_count(part, self._dump.frame_count)


def _remarks(dump: Dump, mappings: Mappings, losses: Losses, rest: _Rest) -> list[str]:
    """What the walk could not use, and what is not listed, for the person at the screen."""
    remarks = []
    large = mappings.take((mappings.frames > 1) & (mappings.space != SHARED))
    pages = int(each_large(large, dump.frame_count)[1].sum())
    if pages > most_mappings(dump):
        remarks.append(
            f"the large pages of all processes have {pages:,} pages in all: too many for a list of"
            " the owners of each, so some of them are not told"
        )
    if losses.not_tables:
        many = len(losses.not_tables)
        remarks.append(
            "1 page is named as a page table but is none: what it mapped is not known"
            if many == 1
            else f"{many:,} pages are named as page tables but are none: what they mapped is not"
            " known"
        )
    if losses.impossible:
        remarks.append(
            f"{counted(losses.impossible, 'entry', 'entries')} of page tables cannot be, by the"
            " rules of the processor and the system: left out, each by itself"
        )
    if losses.contradicted:
        remarks.append(
            f"{counted(losses.contradicted, 'large page')} left out: processes have much of the"
            " same memory page by page"
        )
    if losses.tables:
        remarks.append(
            f"{counted(losses.tables, 'page table')} left out: there are more than any machine has"
        )
    if rest.mappings:
        remarks.append(
            f"{counted(rest.mappings, 'mapping')} too many to keep: their pages have their classes,"
            " but not all of their owners are told"
        )
    return remarks


def _mappings_of(
    dump: Dump,
    found: TopLevels,
    processes: tuple[Process, ...],
    losses: Losses,
    rest: _Rest,
) -> Mappings:
    """All mappings of the live processes; `space` is a process's index, or SHARED."""
    tops, owners = [], []
    has_shadows = False
    for index, process in enumerate(processes):
        if process.is_alive and process.space is not None:
            tops.append(found.tops[process.space])
            owners.append(index)
            if process.shadow is not None:
                tops.append(found.others[process.shadow])
                owners.append(index)
                has_shadows = True
    walked = walk(dump, found.paging, np.array(tops), np.array(owners, np.int32), losses=losses)
    mappings = without_contradicted(rest.without(walked), dump.frame_count, losses)
    # With shadows both tables of a process lead to its pages.
    return (merge_alike if has_shadows else merge_kernel)(mappings)


def of_mappings(
    dump: Dump,
    zero: NDArray[np.bool_],
    mappings: Mappings,
    *,
    system: str | None = None,
    time: datetime | None = None,
    paging: Paging | None = None,
    processes: tuple[Process, ...] = (),
    stale_spaces: int = 0,
    kernel_dtb: int | None = None,
    rest: "_Rest | None" = None,
    remarks: Sequence[str] = (),
) -> Snapshot:
    """Put together what is known of a dump; the mappings decide who has which frame.

    `zero` tells for each frame whether it is all zeros, `rest` the sum of mappings beside these;
    all else is as in Snapshot.
    """
    user = _reached(dump, mappings, user=True)
    kernel = _reached(dump, mappings, user=False)
    mapping_count = _mapping_count(mappings, dump.frame_count)
    if rest and rest.mappings:
        user |= rest.user
        kernel |= rest.kernel
        mapping_count += rest.mapping_count
    page_map = classify(user, kernel, zero, ~dump.held)
    return Snapshot(
        classes=page_map.classes,
        zero=zero,
        mapping_count=mapping_count,
        dump=dump,
        system=system,
        time=time,
        paging=paging,
        processes=processes,
        stale_spaces=stale_spaces,
        mappings=mappings,
        kernel_dtb=kernel_dtb,
        remarks=tuple(remarks),
    )


def _reached(dump: Dump, mappings: Mappings, *, user: bool) -> NDArray[np.bool_]:
    """For each frame whether a mapping of user mode, or of the kernel, leads to it."""
    reached = np.zeros(dump.frame_count, bool)
    rows = mappings.is_user == user
    first, frames = mappings.frame[rows], mappings.frames[rows]
    mark_runs(reached, first, np.minimum(first + frames, dump.frame_count) - first)
    return reached & dump.held


def _mapping_count(mappings: Mappings, frame_count: int) -> NDArray[np.uint32]:
    count = np.zeros(frame_count, np.uint32)
    for at in range(0, len(mappings.frame), _ROWS_AT_ONCE):
        some = slice(at, at + _ROWS_AT_ONCE)
        # Ones of the same type as the counts: so `at` is twenty times as fast.
        np.add.at(count, mappings.frame[some][mappings.frames[some] == 1], np.uint32(1))
    large = np.flatnonzero(mappings.frames > 1)
    if len(large):
        begin = mappings.frame[large]
        add_runs(count, begin, np.minimum(begin + mappings.frames[large], frame_count))
    return count


def _learn(dump: Dump, search: TopLevelSearch) -> ProcessSearch | None:
    """Look where Windows has its System process' tables: by these its kernel's pages are known.

    So the search for processes needs no look of its own.
    """
    early = TopLevelSearch()
    for first in range(0, min(_LEARNING_FRAMES, dump.frame_count), _FRAMES_AT_ONCE):
        frames = first + np.flatnonzero(dump.held[first : first + _FRAMES_AT_ONCE])
        words = dump.read_frames(frames)
        early.look_everywhere(frames, words)
        early.look_at(frames, words)
    search.look_also(early)
    found = early.found(dump)
    if found is None or len(found.tops) > _MOST_EARLY_TABLES:
        return None
    return ProcessSearch(dump, found.paging, kernel_memory(dump, found).frames())


def _look_at_all(
    dump: Dump, looks: Sequence[BlockWork[None]], progress: Progress | None
) -> NDArray[np.bool_]:
    """Look once at all contents: find the frames of zeros, and let others look on the way."""
    zero = np.ones(dump.frame_count, bool)

    def find_zeros(frames: NDArray[np.int64], words: Words) -> None:
        zero[frames] = zero_pages(words)

    for _ in _pass_by(dump, [find_zeros, *looks], progress):
        pass
    return zero


def _pass_by(
    dump: Dump, looks: Sequence[BlockWork[None]], progress: Progress | None
) -> Iterator[None]:
    """Let all contents pass by those that look, and yield after each block."""

    def look(frames: NDArray[np.int64], words: Words) -> int:
        for one in looks:
            one(frames, words)
        return int(frames[-1]) + 1

    for done in dump.each_block(look):
        if progress:
            progress(done * PAGE_SIZE, dump.frame_count * PAGE_SIZE)
        yield
