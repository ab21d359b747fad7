"""PAE's page directories that an altered entry hides, found by the processor's own four pointers.

Windows finds an address space's directories in the fourth one, whose first entries name all four
of them. The processor finds them by four pointers, which lie elsewhere (SDM 4.4.1). So a flipped
bit in one of these entries need not cost the process a gigabyte of addresses.
"""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import PAE, Paging, PhysicalMemory, are_tables, is_held, read_tables
from memory_visualizer.printable import counted
from memory_visualizer.windows.processsearch import TableBases, pointed_to


def mended_directories(
    memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64], bases: TableBases
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The roots of PAE with the directories that only pointers name, and a remark on these.

    `roots` are as for walk; `bases` are those of the process objects, and lead to three directories
    of a root at least. A pointer is preferred to an entry if most bases of the address space lead
    to it, and if the entry's frame has another place, too, or looks less like a directory.
    """
    known = np.array(bases.known, np.int64)
    if paging.architecture is not PAE or not len(known):
        return roots, ()
    space = np.array([bases.get(base) for base in known.tolist()], np.int64)
    pointed, is_sound = pointed_to(memory, known)
    row, column = np.nonzero(is_sound & (pointed != roots[space]))
    claims = np.stack((space[row], column, pointed[row, column]), axis=1)
    claims, votes = np.unique(claims, axis=0, return_counts=True)
    most = 2 * votes > np.bincount(space, minlength=len(roots))[claims[:, 0]]
    space, column, frame = claims[most].T
    named = roots[space, column]
    frames, count = np.unique(roots, return_counts=True)
    # A directory belongs to one address space, and to one place there.
    free = np.isin(named, frames[count > 1]).astype(np.int64) - np.isin(frame, frames)
    better = _likeness(memory, paging, frame) - _likeness(memory, paging, named)
    chosen = (free > 0) | (free == 0) & (better > 0)
    if not chosen.any():
        return roots, ()
    roots = roots.copy()
    roots[space[chosen], column[chosen]] = frame[chosen]
    remark = (
        f"{counted(int(np.count_nonzero(chosen)), 'page directory', 'page directories')} of PAE"
        " found by the processor's pointers only: the entries that should name them are altered"
    )
    return roots, (remark,)


def _likeness(
    memory: PhysicalMemory, paging: Paging, frames: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How much each page resembles a directory: its entries that lead to tables, less the others.

    A table of the last level has the form of a directory, but it leads to any pages. An empty page
    gets 0, and a page that is not held or does not have this form gets less than that.
    """
    likeness = np.full(len(frames), -paging.entries, np.int64)
    held = np.flatnonzero(is_held(memory, frames))
    is_empty = ~memory.read_frames(frames[held]).any(axis=1)
    likeness[held[is_empty]] = 0
    for place in held[are_tables(memory, paging, 0, frames[held])].tolist():
        target, is_page = read_tables(memory, paging, 0, frames[place : place + 1])
        sound = are_tables(memory, paging, 1, target[(target >= 0) & ~is_page])
        likeness[place] = 2 * np.count_nonzero(sound) - np.count_nonzero(target >= 0)
    return likeness
