"""The processes of a Windows dump, and their address spaces.

Several clues tell a process object (`_EPROCESS`): it begins with the header of a process, holds the
address of a top-level table, is in the list of active processes, follows the tag of a process's
pool block, and has a pid and a name. No single clue decides, and each object is judged by itself:
its anomalies are reported for this object only (see process.ANOMALIES).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct, union
from memory_visualizer.paging import (
    ADDRESS,
    PAE,
    PRESENT,
    PhysicalMemory,
    are_tables,
    is_held,
    translate,
)
from memory_visualizer.snapshot.process import FoundProcess, unnamed
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.anomalies import put_together
from memory_visualizer.windows.directories import mended_directories
from memory_visualizer.windows.kernelmemory import AllMemory, KernelMemory, kernel_memory
from memory_visualizer.windows.processjudge import Judged, Objects, judge
from memory_visualizer.windows.processlayout import (
    Layout,
    few_of_each_base,
    find_links,
    have_pool_tag,
    kernel_space,
)
from memory_visualizer.windows.processobject import Object
from memory_visualizer.windows.processsearch import (
    BASE_NUMBER,
    ProcessSearch,
    TableBases,
    find_candidates,
    is_in,
    objects_by_base,
    pointed_to,
    virtual_places,
)
from memory_visualizer.windows.toplevels import (
    SHARED_DATA,
    USER_SHARED_DATA,
    TopLevels,
    bits_of,
    share_kernel,
)

_JUDGED_REMAINS = 1 << 12
"""How many places are judged that begin like a process, but lead to no tables; a remark tells the
number of the others."""
_COMPARED_SHADOWS = 1 << 8
"""How many second tables that no object names are compared with first tables; a remark tells the
number of the others."""
_FEWEST_DIRECTORIES = 2
_FEW_CANDIDATES = 8
_FRAMES_OF_PROCESS = 64
"""A process has at least so many frames. If a dump has more address spaces, it was made to waste
time, and not all of its memory is searched for process objects."""
_SIZES_TRIED = 8


@dataclass(frozen=True)
class FoundProcesses:
    """The result of find_processes."""

    found: TopLevels
    """The address spaces, with spaces that only a process object leads to."""
    processes: tuple[FoundProcess, ...] = ()
    """In the order of their pids; with processes that are hidden, ended, or known by their tables
    only."""
    copies: tuple[FoundProcess, ...] = ()
    """Old copies of process objects, and remains of processes that are gone."""
    remarks: tuple[str, ...] = ()


def find_processes(
    memory: PhysicalMemory,
    found: TopLevels,
    search: ProcessSearch | None = None,
    time: datetime | None = None,
) -> FoundProcesses:
    """Find the processes of these address spaces, and all others in the list of processes.

    `search` has already read some pages; only the others are read here. `time` is when the dump was
    taken.
    """
    paging = found.paging
    if search and search.known and search.known[0] is found:
        _, kernel = search.known
    else:
        kernel = kernel_memory(memory, found)
    found = replace(found, remarks=found.remarks + kernel.remarks)
    if search is None or search.paging is not paging:
        search = ProcessSearch(memory, paging)
    in_use = _in_use(memory, found)
    finder = _Finder(memory, found, kernel, search)
    roots, directory_remarks = mended_directories(memory, paging, found.roots, finder.bases)
    if directory_remarks:
        found = replace(found, roots=roots, remarks=found.remarks + directory_remarks)
        in_use = _in_use(memory, found)
        kernel = kernel_memory(memory, found)
        finder = _Finder(memory, found, kernel, search)
    judged = finder.judge(in_use)
    if finder.may_be_searched and (
        judged is None or 2 * len(finder.unclaimed(judged, in_use)) > len(in_use)
    ):
        # The tables that lead to the objects are lost, so all memory is searched for objects.
        everywhere = AllMemory(kernel, int(kernel_space(bits_of(paging))))
        finder = _Finder(memory, found, everywhere, search)
        judged = finder.judge(in_use) or judged
    if judged is None:
        remark = "no process objects were recognised: address spaces are shown without names"
        if not finder.may_be_searched:
            remark += "; these are too many to search all memory for objects"
        return FoundProcesses(found, tuple(_unnamed(memory, found, in_use)), remarks=(remark,))
    known = len(found.roots)
    if len(more := finder.tops_of_objects(judged)):
        found = replace(found, roots=np.concatenate((found.roots, more)))
        in_use = _in_use(memory, found)
        finder = finder.with_tops(found)
        judged = finder.judge(in_use) or judged
    missing = finder.unclaimed(judged, in_use)
    nameless = _unnamed(memory, found, missing, finder.second_tables(judged))
    processes, copies, remarks = put_together(judged, nameless, finder.left_out, time)
    return FoundProcesses(found, _marked(processes, known), copies, remarks)


def _marked(processes: tuple[FoundProcess, ...], known: int) -> tuple[FoundProcess, ...]:
    """Report processes whose tables do not name themselves as all others do."""
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
        self.bases = TableBases(memory, found.paging, found.roots)
        self._candidates = find_candidates(memory, kernel, self.bases, search)
        self.left_out = self._candidates.left_out
        self._shadows: dict[int, int] = {}
        if found.paging.top_frames == 1:
            self._shadows = {int(top) * PAGE_SIZE: n for n, top in enumerate(found.others[:, 0])}

    def judge(self, in_use: set[int]) -> "Judged | None":
        """Tell processes from objects that resemble them; None if the objects show no layout."""
        memory, found, kernel = self._memory, self._found, self._kernel
        bits, known = bits_of(found.paging), self._candidates.objects
        layout = _layout(kernel, bits, known)
        if layout is None and len(known) < _FEW_CANDIDATES and self.may_be_searched:
            # Perhaps the objects' headers were altered.
            known = union(known, self._by_base(range(len(found.roots))))
            layout = _layout(kernel, bits, known)
        if layout is None:
            return None
        fits = partial(_fit_together, memory, found)
        objects = self._read(layout, known, in_use)
        seeds = union(known, self._remains(objects.layout))
        if len(seeds) > len(known):
            objects = self._read(layout, seeds, in_use, objects)
        judged = judge(objects, fits)
        missing = self.unclaimed(judged, in_use)
        if not missing:
            return judged
        # Their objects may have an altered header, or hold no base.
        more = self._by_base(missing)
        if not len(more):
            return judged
        return judge(self._read(layout, union(seeds, more), in_use, objects), fits)

    @property
    def may_be_searched(self) -> bool:
        """Whether the number of address spaces is plausible for this much memory."""
        return _FRAMES_OF_PROCESS * len(self._found.roots) <= self._memory.frame_count

    def _read(
        self,
        layout: Layout,
        seeds: NDArray[np.uint64],
        in_use: set[int],
        before: "Objects | None" = None,
    ) -> "Objects":
        return Objects.read(self._kernel, layout, seeds, self.bases, self._shadows, in_use, before)

    def _by_base(self, spaces: Collection[int]) -> NDArray[np.uint64]:
        """Possible objects of these spaces, by their bases alone, whatever their headers."""
        bases = self.bases.of_spaces(self._kernel, spaces)
        found, left_out = objects_by_base(self._memory, self._kernel, bases, self._found.paging)
        self.left_out += left_out
        return found

    def _remains(self, layout: Layout) -> NDArray[np.uint64]:
        """Addresses of places that begin like this system's processes, but have no known base.

        At most _JUDGED_REMAINS; the others are counted as left out.
        """
        others = self._candidates.others
        places = others[others[:, 1] == layout.size_byte, 0]
        self.left_out += max(len(places) - _JUDGED_REMAINS, 0)
        objects = virtual_places(self._kernel, places[:_JUDGED_REMAINS])
        return objects[have_pool_tag(self._kernel, objects, layout.tags)]

    def unclaimed(self, judged: "Judged", in_use: set[int]) -> set[int]:
        """Address spaces in use that no process object leads to."""
        return in_use - {one.space for one in judged.owners.values()}

    def with_tops(self, found: TopLevels) -> "_Finder":
        """The same finder with other address spaces."""
        return _Finder(self._memory, found, self._kernel, self._search)

    def tops_of_objects(self, judged: "Judged") -> NDArray[np.int64]:
        """Top levels that do not name themselves, though listed processes lead to them.

        Shape (n, paging.top_frames). They share the kernel's half with the others, or map the page
        that Windows shows to all processes. Under PAE, the fourth directory may be the damaged one:
        then the other three must be tables.
        """
        memory, paging, roots = self._memory, self._found.paging, self._found.roots
        end = memory.frame_count * PAGE_SIZE
        bases = np.array(
            [
                one.dtb & ~BASE_NUMBER
                for one in judged.processes
                if one.space is None and not one.has_ended and one.dtb < end
            ],
            np.int64,
        )
        bases = distinct(bases[is_held(memory, bases // PAGE_SIZE) & (bases % 32 == 0)])
        if paging.architecture is PAE:
            directories, is_sound = pointed_to(memory, bases)
            is_sound[is_sound] = are_tables(memory, paging, 0, directories[is_sound])
            chosen: NDArray[np.int64] = directories[
                np.count_nonzero(is_sound, axis=1) >= _FEWEST_DIRECTORIES
            ]
            return chosen
        frames: NDArray[np.int64] = bases[bases % PAGE_SIZE == 0] // PAGE_SIZE
        is_root = is_in(frames.view(np.uint64), np.sort(roots.view(np.uint64), axis=None))
        frames = frames[~is_root][:, None]
        if not len(frames):
            return frames
        everyone = np.concatenate((roots, frames))
        known = np.arange(len(everyone)) < len(roots)
        are_kin = share_kernel(memory, paging, everyone, known)
        are_kin[_have_shared_data(memory, self._found, everyone)] = True
        return frames[are_kin[len(roots) :]]

    def second_tables(self, judged: "Judged") -> list[int]:
        """Second tables that no object names, by their index; at most as many as are compared."""
        named = {one.shadow for one in judged.objects.found.values()}
        left = sorted(set(self._shadows.values()) - named)
        self.left_out += max(len(left) - _COMPARED_SHADOWS, 0)
        return left[:_COMPARED_SHADOWS]


def _layout(kernel: KernelMemory, bits: int, objects: NDArray[np.uint64]) -> Layout | None:
    """The offsets of pid and links, by a few objects of each base, or by objects of one size.

    Objects that resemble processes, by chance or by intent, can outnumber the processes; but each
    process has a base of its own.
    """
    objects = few_of_each_base(kernel, bits, objects)
    if layout := find_links(kernel, bits, objects):
        return layout
    sizes = kernel.read_partly(objects, 4)[:, 2]
    known, count = np.unique(sizes, return_counts=True)
    for size in known[np.argsort(-count, kind="stable")[:_SIZES_TRIED]]:
        if layout := find_links(kernel, bits, objects[sizes == size]):
            return layout
    return None


def _in_use(memory: PhysicalMemory, found: TopLevels) -> set[int]:
    """Address spaces that are in use, by their index in `found.roots`.

    As long as a process with a user half lives, it maps KUSER_SHARED_DATA at a fixed address, to
    the frame that the kernel or most processes have there. When the process ends, its mappings are
    removed, this one too, while its top-level table stays unchanged in a free page. This does not
    tell about the System process and others without a user half.
    """
    return set(_have_shared_data(memory, found, found.roots).tolist())


def _have_shared_data(
    memory: PhysicalMemory, found: TopLevels, roots: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Indexes of the tables that map KUSER_SHARED_DATA where each process has it."""
    place = translate(memory, found.paging, roots, USER_SHARED_DATA)
    known = translate(memory, found.paging, found.roots, SHARED_DATA[bits_of(found.paging)])
    both = np.concatenate((known[known >= 0], place[place >= 0]))
    if not len(both):
        return np.empty(0, np.intp)
    frames, count = np.unique(both, return_counts=True)
    return np.flatnonzero(place == frames[np.argmax(count)])


def _unnamed(
    memory: PhysicalMemory, found: TopLevels, spaces: Iterable[int], shadows: Collection[int] = ()
) -> list[FoundProcess]:
    """Processes known by their tables only; `shadows` are second tables that no object names."""
    processes = []
    numbers = list(shadows)
    seconds = _user_halves(memory, found, found.others[numbers, 0]) if numbers else None
    for space in sorted(spaces):
        process = unnamed(int(found.roots[space, 0]), space)
        if seconds is not None:
            first = _user_halves(memory, found, found.roots[space, :1])
            fitting = np.flatnonzero(_are_alike(first, seconds))
            process = replace(process, shadow=numbers[fitting[0]] if len(fitting) else None)
        processes.append(process)
    return processes


def _fit_together(memory: PhysicalMemory, found: TopLevels, one: "Object") -> bool:
    """Whether the second table that an object names, if any, belongs to its address space."""
    if one.shadow is None or one.space is None:
        return True
    return _share_user_half(memory, found, one.space, one.shadow)


def _share_user_half(memory: PhysicalMemory, found: TopLevels, space: int, shadow: int) -> bool:
    """Whether most user entries of a top-level table and a second table are equal."""
    frames = np.array([found.roots[space, 0], found.others[shadow, 0]])
    halves = _user_halves(memory, found, frames)
    return bool(_are_alike(halves[:1], halves[1:])[0])


def _user_halves(
    memory: PhysicalMemory, found: TopLevels, frames: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """The user entries of top-level tables, without their flags, shape (n, entries)."""
    entries = found.paging.decode(memory.read_frames(frames))
    return entries[:, : found.paging.entries // 2] & np.uint64(ADDRESS | PRESENT)


def _are_alike(first: NDArray[np.uint64], seconds: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of the second tables have most user entries of the first one; shapes as above."""
    named = (first | seconds) & np.uint64(PRESENT) != 0
    same = np.count_nonzero(named & (first == seconds), axis=1)
    alike: NDArray[np.bool_] = (same > 0) & (2 * same >= np.count_nonzero(named, axis=1))
    return alike
