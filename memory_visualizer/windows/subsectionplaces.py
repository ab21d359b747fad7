"""The address of the subsection that a page's OriginalPte names (`_MMPTE_SUBSECTION`).

Entries of 8 bytes hold the address, and so do entries of 4 bytes since Vista. Until then, entries
of 4 bytes only hold the distance from one of two places in the nonpaged pool, which no structure
names. The subsections tell these places: each holds the address of its prototype entries.
"""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct, even_sample
from memory_visualizer.windows.kernelmemory import KernelMemory

_BASE_OF_OLD = 16
"""Offset of SubsectionBase in a subsection of Windows XP and 2003 with pointers of 4 bytes."""
_SAMPLED_FRAMES = 1 << 13
"""An even sample of the kernel's frames, which is searched for subsections: dozens have some."""
_FRAMES_AT_ONCE = 512
_WITNESSES_OF_PAGE = 256
"""The most witnesses in a page, which has room for 128 subsections."""
_SAMPLED_NAMES = 1 << 10
"""The size of the even sample of subsections by which their addresses are checked."""
_TRIED_PLACES = 4
"""How many places are tried; the most frequent is nearly always the right one."""


def subsections_named(
    kernel: KernelMemory,
    entry_bytes: int,
    originals: NDArray[np.uint64],
    entries: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """The address of each page's subsection; 0 where unknown.

    `originals` are values of OriginalPte that name a subsection, `entries` the addresses of the
    pages' prototype entries.
    """
    if kernel.word == 8:
        return (originals.view(np.int64) >> 16).view(np.uint64)
    if entry_bytes == 8:
        return originals >> np.uint64(32)
    whole = (originals & np.uint64(0xFFFF_F800)) | ((originals & np.uint64(0x3FE)) << np.uint64(1))
    if 2 * _proven(kernel, whole) > 1:
        return whole
    return _by_distance(kernel, originals, entries)


def _by_distance(
    kernel: KernelMemory, originals: NDArray[np.uint64], entries: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The addresses by distances from two places (MiGetSubsectionAddress of XP and 2003, x86).

    The highest bit tells whether a subsection lies behind MmSubsectionBase, or before the end of
    the nonpaged pool.
    """
    distance = (originals & np.uint64(0x7FFF_F800)) >> np.uint64(4)
    distance |= (originals << np.uint64(2)) & np.uint64(0x78)
    is_behind = originals >> np.uint64(31) & np.uint64(1) != 0
    addresses = np.zeros(len(originals), np.uint64)
    for rows, turn in ((is_behind, 1), (~is_behind, -1)):
        ahead = distance[rows].view(np.int64) * turn
        place = _place(kernel, ahead, entries[rows])
        if place is not None:
            addresses[rows] = (place + ahead).view(np.uint64) & np.uint64(0xFFFF_FFFF)
    return addresses


def _place(
    kernel: KernelMemory, ahead: NDArray[np.int64], entries: NDArray[np.uint64]
) -> int | None:
    """The place from which subsections have these distances; None if no place fits most of them.

    A word that holds the first entry of a subsection is a witness: it may be SubsectionBase.
    """
    if not len(ahead):
        return None
    order = np.lexsort((entries, ahead))
    is_first = np.append(True, np.diff(ahead[order]) != 0)
    ahead, first = ahead[order][is_first], entries[order][is_first]
    order = np.argsort(first, kind="stable")
    ahead, first = ahead[order], first[order]
    found = []
    frames = even_sample(kernel.all_frames(), _SAMPLED_FRAMES)
    virtual = kernel.virtual(frames)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        some = slice(start, start + _FRAMES_AT_ONCE)
        words = kernel.memory.read_frames(frames[some]).view(np.uint32)
        row, column = np.nonzero((words >= first[0]) & (words <= first[-1]))
        # Pages full of such numbers, which fill a hostile dump, must not cost more than others.
        few = np.arange(len(row)) - np.searchsorted(row, row) < _WITNESSES_OF_PAGE
        row, column = row[few], column[few]
        value = words[row, column].astype(np.uint64)
        at = np.minimum(np.searchsorted(first, value), len(first) - 1)
        same = first[at] == value
        address = virtual[some][row[same]].astype(np.int64) + 4 * column[same] - _BASE_OF_OLD
        found.append(address - ahead[at[same]])
    places, votes = np.unique(np.concatenate(found), return_counts=True)
    tried = places[np.argsort(-votes, kind="stable")[:_TRIED_PLACES]]
    shares = [_proven(kernel, (place + ahead).view(np.uint64)) for place in tried]
    best = int(np.argmax(shares)) if shares else 0
    return int(tried[best]) if shares and shares[best] > 1 / 2 else None


def _proven(kernel: KernelMemory, subsections: NDArray[np.uint64]) -> float:
    """The share of these addresses that lead to a control area whose segment leads back to it."""
    some = even_sample(distinct(subsections), _SAMPLED_NAMES)
    areas, _ = kernel.numbers(some)
    segments, _ = kernel.numbers(areas)
    back, _ = kernel.numbers(segments)
    return float(np.mean((back == areas) & (areas != 0))) if len(some) else 0.0
