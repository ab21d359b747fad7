"""The purpose of each part of the kernel's addresses, as the kernel itself records it.

Since build 15063 of 64-bit Windows 10 the kernel keeps one byte for each entry of the kernel's half
of the top-level table (SystemVaType of _MI_VISIBLE_STATE, in the profiles of Volatility 2 and in
symbols of later kernels). The array lies somewhere in the kernel's data. Its contents identify it:
the bytes for the parts with the page frame database, the process objects and the prototype entries
are known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.formats.base import Dump, ahead
from memory_visualizer.paging import X64
from memory_visualizer.snapshot.framerecords import PageUse
from memory_visualizer.snapshot.system import System
from memory_visualizer.windows.kernelimages import Images, data_pages
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.selfmap import SelfMap

_FIRST_BUILD = 15063
_PARTS, _ALIGNED = 256, 8
_DATABASE, _NONPAGED, _PAGED = 4, 5, 6
_HIGHEST_TYPE = 17
_PAGES_AT_ONCE = 256
_PLACES_AT_ONCE = 1 << 12
_FEWEST_SIGNS = 2
"""The number of parts, of the three with a known type, that must have this type in the array."""

_USES = {
    1: PageUse.SESSION,
    _NONPAGED: PageUse.NONPAGED_POOL,
    _PAGED: PageUse.PAGED_POOL,
    7: PageUse.PAGED_POOL,  # the special pool
    9: PageUse.SYSTEM_PTE,
    11: PageUse.SESSION,
    12: PageUse.DRIVER_IMAGE,
}
"""By _MI_SYSTEM_VA_TYPE, as far as all builds agree; other types stand for KERNEL."""
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
    """The PageUse in each of the 256 parts of the kernel's addresses; None if it is unknown.

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

    Several arrays may have them, such as old copies, or planted ones. The arrays with the most
    expected types count, and their majority decides on each part; a part without a majority has no
    type (0).
    """
    pages, _ = data_pages(dump, kernel, images)
    mapped = distinct(parts_of(kernel.mappings.virtual))
    room = limit = dump.budget.limit("possible array of types")

    def sound_ones(start: int) -> tuple[int, _Arrays]:
        """The number of possible arrays in a batch of pages, and the sound ones among them."""
        some = pages[start : start + _PAGES_AT_ONCE + 1]  # the array may go on in the next page
        frames = np.where(some < 0, dump.frame_count, some)
        contents = dump.read_frames(frames).reshape(-1).view(np.uint8)
        places, signs = _places(contents, expected)
        found = [_Arrays.none()]
        for at in range(0, min(len(places), limit), _PLACES_AT_ONCE):
            number = np.arange(at, min(at + _PLACES_AT_ONCE, len(places), limit))
            types = contents[places[number, None] + np.arange(_PARTS)]
            # Mapped parts have a type, except for the self-map and the like.
            told = np.count_nonzero(types[:, mapped], axis=1)
            sound = (types.max(axis=1) <= _HIGHEST_TYPE) & (4 * told >= 3 * len(mapped))
            found.append(_Arrays(number, signs[number], types).take(sound))
        return len(places), _Arrays.join(found)

    found = [_Arrays.none()]
    for count, arrays in ahead(sound_ones, range(0, len(pages), _PAGES_AT_ONCE)):
        dump.budget.refuse("possible array of types", count - room)
        found.append(arrays.take(arrays.number < room))
        room = max(room - count, 0)
    best = _Arrays.join(found)
    types = best.types[best.signs == best.signs.max(initial=0)]
    return _decided(types) if len(types) else None


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Possible arrays of types, a row for each."""

    number: NDArray[np.intp]
    """In the order of their places in a batch."""
    signs: NDArray[np.intp]
    """The number of expected types in their places."""
    types: NDArray[np.uint8]
    """Shape (n, _PARTS)."""

    @classmethod
    def none(cls) -> "_Arrays":
        """No row."""
        return cls(np.empty(0, np.intp), np.empty(0, np.intp), np.empty((0, _PARTS), np.uint8))

    @classmethod
    def join(cls, parts: list["_Arrays"]) -> "_Arrays":
        """The rows of all."""
        columns = zip(*((part.number, part.signs, part.types) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def take(self, rows: NDArray[np.bool_]) -> "_Arrays":
        """Some of the rows."""
        return _Arrays(self.number[rows], self.signs[rows], self.types[rows])


def _places(
    contents: NDArray[np.uint8], expected: list[tuple[int, int]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places where an array may begin, with the number of expected types (two at least).

    Only places with one of these types are examined: they are rare. The array begins at a multiple
    of 8 bytes, since words of 8 bytes precede it in every version.
    """
    words = contents.reshape(-1, _ALIGNED)
    # A place with enough of the types has one of these.
    likely = [
        np.flatnonzero(words[:, part % _ALIGNED] == kind) * _ALIGNED + part % _ALIGNED - part
        for part, kind in expected[_FEWEST_SIGNS - 1 :]
    ]
    places = distinct(np.concatenate(likely))
    places = places[(places >= 0) & (places <= len(contents) - _PARTS)]
    right = np.count_nonzero([contents[places + part] == kind for part, kind in expected], axis=0)
    chosen = right >= _FEWEST_SIGNS
    return places[chosen], right[chosen]


def _decided(arrays: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The type that more than half of the arrays give each part; 0 without a majority."""
    votes = np.stack(
        [np.count_nonzero(arrays == kind, axis=0) for kind in range(_HIGHEST_TYPE + 1)]
    )
    decided: NDArray[np.uint8] = np.argmax(votes, axis=0).astype(np.uint8)
    decided[2 * votes.max(axis=0) <= len(arrays)] = 0
    return decided
