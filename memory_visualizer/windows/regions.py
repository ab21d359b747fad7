"""The regions of processes: what their virtual address descriptors (VADs) tell, and which files.

Those of all processes are read at once, since most of them decide on their form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import MAY_EXECUTE, Mappings
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.controlareas import SectionKind, read_control_areas
from memory_visualizer.windows.kernelmemory import KernelMemory
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
"""An even sample of the trees, and of their nodes, decides on what nodes tell."""
_SHARED_DATA = 0x7FFE0
"""The page at which every process sees KUSER_SHARED_DATA, in every version."""


@dataclass(frozen=True)
class Found:
    """The regions of a process, and what is doubtful of them."""

    regions: tuple[Region, ...] | None
    """None if the process object does not tell where they are."""
    lost: int
    """Links that lead to no node of the tree."""
    doubtful: int
    """Nodes that contradict the others around them."""


@dataclass(frozen=True)
class Surroundings:
    """What is known of a dump beside its kernel's memory."""

    mappings: Mappings
    """Those of user mode, by process."""
    entry_bytes: int
    """Of a page table's entries."""
    lowest: int
    """First address of the kernel's half."""
    pages: int
    """Pages of the other half."""
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
    regions = _regions(kernel, trees, details, around.entry_bytes)
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
    """What all nodes tell; `processes` are the indices of the trees' processes."""
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

    Without the right to execute where no page lacks it, as the processor does not know it then.
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
        # Between the begins that are asked for stand their ends, whose results do not count.
        edges = np.stack((first[some], last[some]), axis=1).ravel()
        access = np.append(own.access, np.uint8(0))
        if len(edges):
            rights[mine[some]] = np.bitwise_or.reduceat(access, edges)[::2]
    has_page = rights > 0
    if has_page.any() and (rights[has_page] & MAY_EXECUTE).all():
        rights &= np.uint8(0xFF ^ MAY_EXECUTE)
    return rights


def _regions(
    kernel: KernelMemory, trees: Trees, details: Details, entry_bytes: int
) -> list[Region]:
    """All regions, in the order of the nodes."""
    areas, row = np.unique(details.area, return_inverse=True)
    sections = read_control_areas(kernel, areas)
    files = sections.files(kernel.memory.budget)
    kinds = sections.kinds[row]
    offsets = offsets_in_files(kernel, entry_bytes, details.subsection, details.prototype, kinds)
    columns = zip(
        (trees.start * np.uint64(PAGE_SIZE)).tolist(),
        ((trees.end + np.uint64(1)) * np.uint64(PAGE_SIZE)).tolist(),
        details.known.tolist(),
        details.protection.tolist(),
        details.is_private.tolist(),
        details.kind.tolist(),
        details.commit.tolist(),
        row.tolist(),
        kinds.tolist(),
        offsets.tolist(),
        strict=True,
    )
    regions = []
    for start, end, known, protection, is_private, kind, commit, area, section, offset in columns:
        if not known:
            regions.append(Region(start, end, "", is_private=False))
            continue
        file = files[area]
        lost = not is_private and section == SectionKind.UNKNOWN and kind not in _WITHOUT_SECTION
        regions.append(
            Region(
                start,
                end,
                PROTECTIONS[protection & 7],
                is_private=is_private,
                name="[shared data]" if start // PAGE_SIZE == _SHARED_DATA and is_private else "",
                file=file.path if file else "[lost]" if lost else "",
                offset=offset if file and offset >= 0 else None if file or lost else 0,
                is_deleted=bool(file and file.is_deleted),
                kind=KINDS[kind],
                commit=commit,
            )
        )
    return regions


_WITHOUT_SECTION = tuple(KINDS.index(kind) for kind in ("device memory", "rotating device memory"))
"""Kinds of regions that may have no section of the usual form behind them."""
