"""Subsections: each describes a stretch of a file, and leads to the stretch's pages in memory.

A page's OriginalPte names its subsection, and its PteAddress the prototype entry of the page. The
subsection tells where its prototype entries begin, and where its stretch begins in the file. The
offsets come from Volatility 2's profiles and symbols of later kernels; the majority of subsections
decides which offsets apply.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget
from memory_visualizer.snapshot.framerecords import PageUse, SectionPages
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.controlareas import SectionKind, read_control_areas
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.sectionpages import uses_of_areas
from memory_visualizer.windows.subsectionplaces import subsections_named

_SECTOR = {SectionKind.IMAGE: 9, SectionKind.DATA: 12}
"""Bits of an offset within a sector: sectors have 512 bytes for images, 4096 for data."""
_LONGEST_CHAIN = 64
"""The most subsections of a file that are followed behind the last with a page in memory."""


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
        """The first byte of each stretch in its file, and the end; -1 if the kind is unknown.

        The upper part of StartingSector does not apply to images.
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
    frames: NDArray[np.uint32],
    originals: NDArray[np.uint64],
    entries: NDArray[np.uint64],
) -> tuple[SectionPages, NDArray[np.uint8]]:
    """The stretches of files to which some frames belong, and the use of each stretch's pages.

    `originals` are the OriginalPte of each frame, `entries` its PteAddress.
    Each stretch, and each page in it, is judged by itself: implausible values count as unknown.
    """
    named = subsections_named(kernel, entry_bytes, originals, entries)
    addresses, number = np.unique(named, return_inverse=True)
    row = number.astype(np.uint32)
    some = budget.take("subsection", addresses)
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
        _follow(budget, kernel, layout, read, of_area, areas, size)
    more = len(addresses) - len(some)
    nothing = np.full(more, -1)
    uses = np.append(uses_of_areas(found)[of_area], np.full(more, PageUse.FILE, np.uint8))
    pages = SectionPages(
        frames,
        row,
        page,
        np.append(np.where(is_file, read.area, np.uint64(0)), np.zeros(more, np.uint64)),
        np.append(kinds, np.zeros(more, np.uint8)),
        np.append(offset, nothing),
        np.append(end, nothing),
        np.append(size[of_area], nothing),
    )
    return pages, uses


def offsets_in_files(
    kernel: KernelMemory,
    entry_bytes: int,
    subsections: NDArray[np.uint64],
    entries: NDArray[np.uint64],
    kinds: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """The offset in its file of the page behind each prototype entry; -1 if unknown.

    An entry belongs to the subsection in the same row, or to a later one of the same file; `kinds`
    are the SectionKind of their control areas.
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
    if layout:
        kernel.memory.budget.refuse("subsection", len(rows))
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

    None if no layout fits more than half of them.
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
    """The number of each page within its stretch; -1 if its entry lies outside.

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
    budget: Budget,
    kernel: KernelMemory,
    layout: _Layout,
    read: Subsections,
    area: NDArray[np.intp],
    areas: NDArray[np.uint64],
    size: NDArray[np.int64],
) -> None:
    """Raise the sizes of data files by subsections without a known page.

    `area` is the row of each subsection's control area in `areas`, and `size` has those of known
    subsections.
    """
    following, room = read.following, budget.limit("subsection") - len(area)
    for _ in range(_LONGEST_CHAIN):
        following, first = np.unique(following, return_index=True)
        area = area[first]
        goes_on = (following != 0) & (size[area] >= 0)
        following, area = following[goes_on], area[goes_on]
        budget.refuse("subsection", len(following) - room)
        following, area = following[:room], area[:room]
        room -= len(following)
        if not len(following):
            return
        more = _read(kernel, following, layout)
        _, end = more.offsets(np.full(len(area), SectionKind.DATA, np.uint8))
        own = more.area == areas[area]
        np.maximum.at(size, area[own], end[own])
        following = np.where(own, more.following, np.uint64(0))
    budget.refuse("subsection", int(np.count_nonzero(following)))
