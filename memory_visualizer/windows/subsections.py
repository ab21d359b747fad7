"""Subsections, each of which describes a stretch of a file, and the pages that are in memory of it.

A page's OriginalPte names its subsection, and its PteAddress the prototype entry of the page. The
subsection tells where its prototype entries begin, and where its stretch begins in the file. The
offsets are those of Volatility 2's profiles and of symbols of later kernels; most subsections
decide which of them count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget
from memory_visualizer.snapshot.framerecords import SectionPages
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.controlareas import SectionKind, read_control_areas
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.subsectionplaces import subsections_named

_SECTOR = {SectionKind.IMAGE: 9, SectionKind.DATA: 12}
"""Bits of a place within a sector: images are counted in 512 bytes, data in 4096."""
_LONGEST_CHAIN = 64
"""Subsections of one file that are followed behind the last one of which a page is in memory."""


@dataclass(frozen=True)
class _Layout:
    """Offsets in a subsection; the control area stands first in every version."""

    base: int
    """SubsectionBase."""
    count: int
    """PtesInSubsection."""
    flags: int
    """Two numbers follow: StartingSector and NumberOfFullSectors."""
    following: int
    """NextSubsection."""
    high: int
    """The first of ten bits of the flags with the upper part of StartingSector."""


_LAYOUTS = {
    8: (
        _Layout(8, 44, 32, 16, 6),  # 10 and 11
        _Layout(8, 24, 40, 16, 6),  # Vista to 8.1
        _Layout(24, 36, 8, 40, 10),  # XP and 2003
    ),
    4: (
        _Layout(4, 28, 16, 8, 6),  # 10
        _Layout(4, 12, 20, 8, 6),  # Vista to 8.1
        _Layout(16, 24, 4, 28, 10),  # XP and 2003
    ),
}
"""By the bytes of a pointer."""


@dataclass(frozen=True, eq=False)
class Subsections:
    """Some subsections, a row for each; zeros in those that cannot be read."""

    area: NDArray[np.uint64]
    base: NDArray[np.uint64]
    count: NDArray[np.int64]
    start: NDArray[np.int64]
    """In sectors."""
    sectors: NDArray[np.int64]
    rest: NDArray[np.int64]
    """Bytes behind the last whole sector."""
    following: NDArray[np.uint64]

    def offsets(self, kinds: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first byte of each stretch in its file, and the end; -1 where the kind is unknown.

        Of images the upper part of StartingSector does not count.
        """
        shift = np.zeros(len(kinds), np.int64)
        for kind, bits in _SECTOR.items():
            shift[kinds == kind] = bits
        is_image = kinds == SectionKind.IMAGE
        start = np.where(is_image, self.start & 0xFFFF_FFFF, self.start) << shift
        end = start + (self.sectors << shift) + self.rest
        return np.where(shift > 0, start, -1), np.where(shift > 0, end, -1)


def _read(kernel: KernelMemory, addresses: NDArray[np.uint64], layout: _Layout) -> Subsections:
    word = kernel.word
    size = max(layout.base + word, layout.count + 4, layout.flags + 12, layout.following + word)
    contents, _ = kernel.read_each(addresses, -(-size // 8) * 8)

    def pointer(place: int) -> NDArray[np.uint64]:
        return kernel.words(np.ascontiguousarray(contents[:, place : place + word]))[:, 0]

    def number(place: int) -> NDArray[np.int64]:
        part = np.ascontiguousarray(contents[:, place : place + 4]).view("<u4")
        return part[:, 0].astype(np.int64)

    flags = number(layout.flags)
    high = flags >> layout.high & 0x3FF
    return Subsections(
        pointer(0),
        pointer(layout.base),
        number(layout.count),
        number(layout.flags + 4) | high << 32,
        number(layout.flags + 8),
        flags >> 20,  # SectorEndOffset, in every version
        pointer(layout.following),
    )


def pages_of_sections(
    budget: Budget,
    kernel: KernelMemory,
    entry_bytes: int,
    frames: NDArray[np.int64],
    originals: NDArray[np.uint64],
    entries: NDArray[np.uint64],
) -> SectionPages:
    """The stretches of files to which some frames belong, by OriginalPte and PteAddress of each.

    A stretch, and a page within it, is judged by itself: what makes no sense is unknown.
    """
    named = subsections_named(kernel, entry_bytes, originals, entries)
    addresses, number = np.unique(named, return_inverse=True)
    row = number.astype(np.uint32)
    some = budget.take("subsection", addresses, budget.limit("subsection"))
    lowest, highest = _extent(row, entries, len(addresses))
    layout, read = _decide(kernel, some, entry_bytes, lowest[: len(some)], highest[: len(some)])
    page = _pages(read, row, entries, entry_bytes, len(some))
    areas, of_area = np.unique(read.area, return_inverse=True)
    found = read_control_areas(kernel, areas)
    kinds = found.kinds[of_area]
    is_file = np.isin(kinds, (SectionKind.DATA, SectionKind.IMAGE))
    if layout is None:
        offset = end = np.full(len(some), -1)
    else:
        offset, end = read.offsets(kinds)
    size = np.full(len(areas), -1)
    is_data = np.flatnonzero(kinds == SectionKind.DATA)
    np.maximum.at(size, of_area[is_data], end[is_data])
    if layout is not None:
        _follow(kernel, layout, read, of_area, areas, size)
    more = len(addresses) - len(some)
    nothing = np.full(more, -1)
    return SectionPages(
        frames.astype(np.uint32),
        row,
        page,
        np.append(np.where(is_file, read.area, np.uint64(0)), np.zeros(more, np.uint64)),
        np.append(kinds, np.zeros(more, np.uint8)),
        np.append(offset, nothing),
        np.append(end, nothing),
        np.append(size[of_area], nothing),
    )


def offsets_in_files(
    kernel: KernelMemory,
    entry_bytes: int,
    subsections: NDArray[np.uint64],
    entries: NDArray[np.uint64],
    kinds: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """The place in its file of the page that each prototype entry is for; -1 where unknown.

    An entry belongs to the subsection in the same row, or to one that follows it; `kinds` are the
    SectionKind of their control areas.
    """
    found = np.full(len(entries), -1)
    layout, _ = _decide(kernel, subsections, entry_bytes, entries, entries)
    rows = np.flatnonzero((subsections != 0) & (entries != 0))
    at = subsections[rows]
    for _ in range(_LONGEST_CHAIN if layout else 0):
        if not len(rows) or layout is None:
            break
        read = _read(kernel, at, layout)
        page = _pages(
            read, np.arange(len(rows), dtype=np.uint32), entries[rows], entry_bytes, len(rows)
        )
        start, _ = read.offsets(kinds[rows])
        inside = (page >= 0) & (start >= 0)
        found[rows[inside]] = start[inside] + page[inside].astype(np.int64) * PAGE_SIZE
        goes_on = (page < 0) & (read.following != 0)
        rows, at = rows[goes_on], read.following[goes_on]
    return found


def _extent(
    row: NDArray[np.uint32], entries: NDArray[np.uint64], count: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The lowest and the highest prototype entry of each subsection."""
    lowest = np.full(count, np.iinfo(np.uint64).max, np.uint64)
    highest = np.zeros(count, np.uint64)
    np.minimum.at(lowest, row, entries)
    np.maximum.at(highest, row, entries)
    return lowest, highest


def _decide(
    kernel: KernelMemory,
    addresses: NDArray[np.uint64],
    entry_bytes: int,
    lowest: NDArray[np.uint64],
    highest: NDArray[np.uint64],
) -> tuple[_Layout | None, Subsections]:
    """The layout by which the pages of most subsections lie within their subsection.

    None if those of at most a half do.
    """
    layouts: Sequence[_Layout] = _LAYOUTS[kernel.word]
    best, votes = layouts[0], -1
    for layout in layouts:
        read = _read(kernel, addresses, layout)
        end = read.base + read.count.astype(np.uint64) * np.uint64(entry_bytes)
        fits = (read.base != 0) & (read.base <= lowest) & (highest < end)
        if (count := int(np.count_nonzero(fits))) > votes:
            best, votes = layout, count
    read = _read(kernel, addresses, best)
    is_decided = 2 * votes > np.count_nonzero(read.area)
    return (best if is_decided else None), read


def _pages(
    read: Subsections,
    row: NDArray[np.uint32],
    entries: NDArray[np.uint64],
    entry_bytes: int,
    known: int,
) -> NDArray[np.int32]:
    """The number of each page within its stretch; -1 where its entry lies outside.

    The subsections behind the first `known` ones were not read.
    """
    page = np.full(len(row), -1, np.int32)
    rows = np.flatnonzero(row < known)
    at = row[rows]
    distance = (entries[rows] - read.base[at]).view(np.int64)
    number = distance // entry_bytes
    fits = (number >= 0) & (number < read.count[at]) & (distance % entry_bytes == 0)
    fits &= number <= np.iinfo(np.int32).max
    page[rows[fits]] = number[fits]
    return page


def _follow(
    kernel: KernelMemory,
    layout: _Layout,
    read: Subsections,
    area: NDArray[np.intp],
    areas: NDArray[np.uint64],
    size: NDArray[np.int64],
) -> None:
    """Raise the sizes of files of data by the subsections of which no page is known.

    `area` is the row of each subsection's control area in `areas`, and `size` has those of known
    subsections.
    """
    following = read.following
    for _ in range(_LONGEST_CHAIN):
        following, first = np.unique(following, return_index=True)
        area = area[first]
        goes_on = (following != 0) & (size[area] >= 0)
        following, area = following[goes_on], area[goes_on]
        if not len(following):
            return
        more = _read(kernel, following, layout)
        _, end = more.offsets(np.full(len(area), SectionKind.DATA, np.uint8))
        own = more.area == areas[area]
        np.maximum.at(size, area[own], end[own])
        following = np.where(own, more.following, np.uint64(0))
