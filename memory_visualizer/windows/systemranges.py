"""The purpose of each part of the kernel's addresses, by the kernel's own word of it.

Since build 15063 of 64-bit Windows 10 the kernel keeps one byte for each entry of the kernel's half
of the top-level table (SystemVaType of _MI_VISIBLE_STATE, in the profiles of Volatility 2 and in
symbols of later kernels). The array lies somewhere in the kernel's data. It is known by what it
must say: the page frame database, the process objects and the prototype entries lie in parts whose
bytes are known.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.formats.base import Dump
from memory_visualizer.paging import X64
from memory_visualizer.snapshot.framerecords import PageUse
from memory_visualizer.snapshot.system import System
from memory_visualizer.windows.kernelimages import Images, data_pages
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.selfmap import SelfMap

_FIRST_BUILD = 15063
_PARTS = 256
_DATABASE, _NONPAGED, _PAGED = 4, 5, 6
_HIGHEST_TYPE = 17
_PAGES_AT_ONCE = 512
_PLACES_AT_ONCE = 1 << 12
_FEWEST_SIGNS = 2
"""Of the three parts whose type is known, so many must have it in the array."""

_USES = {
    1: PageUse.SESSION,
    _NONPAGED: PageUse.NONPAGED_POOL,
    _PAGED: PageUse.PAGED_POOL,
    7: PageUse.PAGED_POOL,  # the special pool
    9: PageUse.SYSTEM_PTE,
    11: PageUse.SESSION,
    12: PageUse.DRIVER_IMAGE,
}
"""By _MI_SYSTEM_VA_TYPE, as far as all builds have it alike; other types stand for KERNEL."""
_USES_BY_BUILD = (
    (
        range(16299, 17764),
        {13: PageUse.NONPAGED_POOL, 14: PageUse.SYSTEM_PTE, 15: PageUse.KERNEL_STACK},
    ),
    (
        range(19041, 22001),
        {13: PageUse.SYSTEM_PTE, 14: PageUse.KERNEL_STACK, 15: PageUse.NONPAGED_POOL},
    ),
)
"""The same for builds whose further types are known."""


def uses_of_parts(
    dump: Dump,
    kernel: KernelMemory,
    self_map: SelfMap,
    images: Images,
    system: System | None,
    known: Mapping[str, NDArray[np.uint64]],
) -> NDArray[np.uint8] | None:
    """The PageUse in each of the 256 parts of the kernel's addresses; None where it is not told.

    `known` are addresses of the ``database``, of process ``objects``, and of ``prototypes``.
    """
    if self_map.paging.architecture is not X64 or system is None or not system.build:
        return None
    if system.build < _FIRST_BUILD:
        return None
    expected = [
        (part, kind)
        for name, kind in (
            ("database", _DATABASE),
            ("objects", _NONPAGED),
            ("prototypes", _PAGED),
        )
        if (part := _most_common_part(known[name])) is not None
    ]
    if len(expected) < _FEWEST_SIGNS:
        return None
    types = _find(dump, kernel, images, expected)
    if types is None:
        return None
    uses = np.full(_HIGHEST_TYPE + 1, PageUse.KERNEL, np.uint8)
    further = [more for builds, more in _USES_BY_BUILD if system.build in builds]
    for kind, use in {**_USES, **(further[0] if further else {})}.items():
        uses[kind] = use
    return uses[types]


def parts_of(addresses: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The part in which each address of the kernel's half lies."""
    return ((addresses >> np.uint64(39)) & np.uint64(_PARTS - 1)).astype(np.intp)


def _most_common_part(addresses: NDArray[np.uint64]) -> int | None:
    if not len(addresses):
        return None
    return int(np.argmax(np.bincount(parts_of(addresses), minlength=_PARTS)))


def _find(
    dump: Dump, kernel: KernelMemory, images: Images, expected: list[tuple[int, int]]
) -> NDArray[np.uint8] | None:
    """The array in which most of these parts have these types; None if there is none.

    Several arrays may have them: an old copy, or a planted one. Those count of which most is as
    expected. Most of them decide on each part; a part on which they disagree has no type (0).
    """
    pages, _ = data_pages(dump, kernel, images)
    mapped = distinct(parts_of(kernel.mappings.virtual))
    room = dump.budget.limit("possible array of types")
    found = [np.empty((0, _PARTS), np.uint8)]
    signs = [np.empty(0, np.uint8)]
    for start in range(0, len(pages), _PAGES_AT_ONCE):
        some = pages[start : start + _PAGES_AT_ONCE + 1]  # the array may go on in the next page
        frames = np.where(some < 0, dump.frame_count, some)
        contents = dump.read_frames(frames).reshape(-1).view(np.uint8)
        right = np.zeros(max(len(contents) - _PARTS + 1, 0), np.uint8)
        for part, kind in expected:
            right += contents[part : part + len(right)] == kind
        places = np.flatnonzero(right >= _FEWEST_SIGNS)
        dump.budget.refuse("possible array of types", len(places) - room)
        places, room = places[:room], max(room - len(places), 0)
        for at in range(0, len(places), _PLACES_AT_ONCE):
            chosen = places[at : at + _PLACES_AT_ONCE]
            types = contents[chosen[:, None] + np.arange(_PARTS)]
            # What is mapped has a type, but for the tables' own window and the like.
            told = np.count_nonzero(types[:, mapped], axis=1)
            sound = (types.max(axis=1) <= _HIGHEST_TYPE) & (4 * told >= 3 * len(mapped))
            found.append(types[sound])
            signs.append(right[chosen[sound]])
    right = np.concatenate(signs)
    arrays = np.concatenate(found)[right == right.max(initial=0)]
    return _decided(arrays) if len(arrays) else None


def _decided(arrays: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The type that more than a half of the arrays give each part; 0 where none is."""
    votes = np.stack(
        [np.count_nonzero(arrays == kind, axis=0) for kind in range(_HIGHEST_TYPE + 1)]
    )
    decided: NDArray[np.uint8] = np.argmax(votes, axis=0).astype(np.uint8)
    decided[2 * votes.max(axis=0) <= len(arrays)] = 0
    return decided
