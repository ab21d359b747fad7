"""The regions of processes, by their virtual address descriptors (VADs), and the files behind them.

The regions of all processes are read at once, since the majority decides on their form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import MAY_EXECUTE, Mappings
from memory_visualizer.snapshot.inventory import FileObject, Region
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.controlareas import SectionKind, read_control_areas
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.regionnames import region_names
from memory_visualizer.windows.subsections import offsets_in_files
from memory_visualizer.windows.vaddetails import (
    KINDS,
    PROTECTIONS,
    Details,
    choose_form,
    detail_forms,
    read_details,
)
from memory_visualizer.windows.vadtrees import TreeForm, Trees, find_root, read_trees

_SAMPLED_TREES = 32
_SAMPLED_NODES = 1 << 12
"""The sizes of the even samples of trees, and of nodes, that decide on the form of members."""
_LACKING_SHARE = 16
"""If the processor uses the no-execute bit, more than one region in this many is not executable."""
_SHARED_DATA = 0x7FFE0
"""The page at which every process sees KUSER_SHARED_DATA, in every version."""


@dataclass(frozen=True)
class Found:
    """The regions of a process, and counts of lost and doubtful regions."""

    regions: tuple[Region, ...] | None
    """None if the process object does not lead to them."""
    lost: int
    """Links that lead to no node of the tree."""
    doubtful: int
    """Nodes that contradict the others around them."""


@dataclass(frozen=True)
class Surroundings:
    """Facts on a dump, in addition to its kernel's memory."""

    mappings: Mappings
    """Mappings of user mode, by process."""
    entry_bytes: int
    """Bytes of a page-table entry."""
    lowest: int
    """First address of the kernel's half."""
    pages: int
    """The number of pages of user mode's half."""
    build: int
    """The system's build number; 0 if unknown."""


def read_regions(
    kernel: KernelMemory, objects: NDArray[np.uint64], around: Surroundings
) -> list[Found] | None:
    """The regions behind each of some process objects; None if their form is not found.

    `objects` are in the order of the processes; 0 for a process without a known object.
    """
    rows = np.flatnonzero(objects)
    root = find_root(kernel, objects[rows], around.lowest, around.pages)
    if root is None:
        return None
    trees = read_trees(kernel, root, objects[rows], around.lowest, around.pages)
    details = _details(kernel, trees, rows, around, root.form)
    is_private = details.known & details.is_private
    names = region_names(
        kernel, trees, is_private, rows, objects[rows], around.mappings, around.pages
    )
    regions = _regions(kernel, trees, details, around.entry_bytes, names)
    found = [Found(None, 0, 0)] * len(objects)
    for tree, row in enumerate(rows.tolist()):
        some = tuple(regions[trees.of(tree)]) if trees.has_root[tree] else None
        found[row] = Found(some, int(trees.lost[tree]), int(trees.doubtful[tree]))
    return found


def _details(
    kernel: KernelMemory,
    trees: Trees,
    processes: NDArray[np.int64],
    around: Surroundings,
    form: TreeForm,
) -> Details:
    """The members of all nodes; `processes` are the indices of the trees' processes."""
    sampled = np.unique(trees.tree)
    sampled = sampled[:: -(-len(sampled) // _SAMPLED_TREES) or 1]
    rows = np.flatnonzero(np.isin(trees.tree, sampled))
    rows = rows[:: -(-len(rows) // _SAMPLED_NODES) or 1]
    rights = _rights(trees, rows, processes, around.mappings)
    forms = detail_forms(kernel.word, form)
    chosen = choose_form(kernel, forms, trees.node[rows], rights, around.build)
    return read_details(kernel, chosen, trees.node)


def _rights(
    trees: Trees,
    rows: NDArray[np.int64],
    processes: NDArray[np.int64],
    mappings: Mappings,
) -> NDArray[np.uint8]:
    """The rights of any page in each region, as MAY_ bits; 0 where there is no page.

    If nearly all regions are executable, the processor does not use the no-execute bit: the right
    to execute is then left out.
    """
    rights = np.zeros(len(rows), np.uint8)
    for tree in np.unique(trees.tree[rows]).tolist():
        own = mappings.take(mappings.space == processes[tree])
        own = own.take(np.argsort(own.virtual, kind="stable"))
        mine = np.flatnonzero(trees.tree[rows] == tree)
        pages = own.virtual // np.uint64(PAGE_SIZE)
        first = np.searchsorted(pages, trees.start[rows[mine]], "left")
        last = np.searchsorted(pages, trees.end[rows[mine]], "right")
        some = first < last
        # Ends of regions lie between the beginnings; the results for ends are dropped.
        edges = np.stack((first[some], last[some]), axis=1).ravel()
        access = np.append(own.access, np.uint8(0))
        if len(edges):
            rights[mine[some]] = np.bitwise_or.reduceat(access, edges)[::2]
    return _without_ignored(rights)


def _without_ignored(rights: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rights, without the right to execute if too few regions with pages lack it."""
    lack_it = np.count_nonzero((rights > 0) & (rights & MAY_EXECUTE == 0))
    if lack_it * _LACKING_SHARE <= np.count_nonzero(rights):
        return rights & np.uint8(0xFF ^ MAY_EXECUTE)
    return rights


def _regions(
    kernel: KernelMemory, trees: Trees, details: Details, entry_bytes: int, names: list[str]
) -> list[Region]:
    """All regions, in the order of the nodes; only addresses where flags are not readable."""
    files, offsets = _files(kernel, details, entry_bytes)
    starts = (trees.start * np.uint64(PAGE_SIZE)).tolist()
    ends = ((trees.end + np.uint64(1)) * np.uint64(PAGE_SIZE)).tolist()
    members = (details.is_private, details.commit, details.protection & 7, details.kind)
    # Lists, since numpy takes long for single values.
    rows = zip(*(member.tolist() for member in members), strict=True)
    return [
        _region(start, end, row, *more) if known else Region(start, end, "", is_private=False)
        for start, end, known, row, *more in zip(
            starts, ends, details.known.tolist(), rows, files, offsets, names, strict=True
        )
    ]


def _files(
    kernel: KernelMemory, details: Details, entry_bytes: int
) -> tuple[list[FileObject | None], list[int | None]]:
    """The file behind each node, _LOST if unknown; and the offset of the view in the file."""
    areas, row = np.unique(details.area, return_inverse=True)
    sections = read_control_areas(kernel, areas)
    named = sections.files(kernel.memory.budget)
    kinds = sections.kinds[row]
    views = details.subsection, details.prototype
    offsets = offsets_in_files(kernel, entry_bytes, *views, kinds).tolist()
    lost = ~details.is_private & (kinds == SectionKind.UNKNOWN)
    lost &= ~np.isin(details.kind, _WITHOUT_SECTION)
    files = [
        _LOST if is_lost else named[area]
        for area, is_lost in zip(row.tolist(), lost.tolist(), strict=True)
    ]
    return files, [None if offset < 0 else offset for offset in offsets]


def _region(
    start: int,
    end: int,
    members: tuple[bool, int, int, int],
    file: FileObject | None,
    offset: int | None,
    name: str,
) -> Region:
    """A region; `members` are is_private, commit, protection and kind, as in Details."""
    is_private, commit, protection, kind = members
    return Region(
        start,
        end,
        PROTECTIONS[protection],
        is_private=is_private,
        name="[shared data]" if start // PAGE_SIZE == _SHARED_DATA and is_private else name,
        file=file.path if file else "",
        file_object=file.object_address if file else 0,
        offset=offset if file else 0,
        is_deleted=bool(file and file.is_deleted),
        kind=KINDS[kind],
        # Some versions have the largest number for regions without a charge.
        commit=commit if commit <= (end - start) // PAGE_SIZE else None,
    )


_LOST = FileObject("[lost]", "")
_WITHOUT_SECTION = tuple(KINDS.index(kind) for kind in ("device memory", "rotating device memory"))
"""Kinds of regions that may have no section of the usual form behind them."""
