"""PAE page directories behind altered entries, found by the processor's own four pointers.

The first entries of an address space's fourth directory name all four directories: Windows finds
them there. The processor finds them by four pointers, which lie elsewhere (SDM 4.4.1). So the
pointers help if a bit in one of these entries is flipped, which would cost the process a gigabyte
of addresses.
"""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import PAE, Paging, PhysicalMemory, are_tables, is_held, read_tables
from memory_visualizer.printable import counted
from memory_visualizer.windows.processsearch import TableBases, pointed_to


def mended_directories(
    memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64], bases: TableBases
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The PAE roots, with directories that only pointers name, and a remark on these.

    `roots` are as for walk; `bases` come from process objects, and each leads to at least three
    directories of a root. A pointer is preferred to an entry if most bases of the address space
    agree on it, and if the entry's frame also has another place, or looks less like a directory.
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
    # A directory belongs to a single address space, and has a single place there.
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
    """The score of each page as a directory: its entries that lead to tables, less the others.

    A table of the last level has the form of a directory, but its entries lead to pages of any
    kind. The score is 0 for an empty page, and negative for a page that is not held or has another
    form.
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
