"""An unknown header in front of a raw file's memory, which moves all memory to higher offsets.

Some tools write a header that nobody describes. Windows' top-level page tables tell its size, since
each has an entry that names the table's own frame. If this entry stands at byte n of the file and
names the address a, then n - a is the size of the header plus the entry's offset in the table. A
Linux kernel tells the address of the system's names.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.displaced.linux import distances_moved, is_linux_in_place
from memory_visualizer.formats.base import Dump, Search, Words
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from memory_visualizer.paging import ACCESSED, LARGE, PRESENT, USER, WRITE, X64, as_windows_has_it
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.toplevels import TopLevelSearch

_X64 = as_windows_has_it(X64)
_LARGEST_SIZE = 1 << 16
"""The size up to which headers are searched for. No tool is known to write a larger one."""
_UNIT = 8
"""A header's size is a multiple of this."""
_FLAGS = PRESENT | WRITE | ACCESSED
_FEWEST = 3
"""The fewest tables with the same distance that count as evidence; fewer may be chance."""
_SAMPLED_TABLES, _LIKELY_PLACES = 16, 4
"""How many tables vote, and how many places in x64's tables are tried. All tables of a boot have
the entry in the same place, so a few of them show it."""
_ROOM = 1 << 16
"""How many entries are collected: the header's distance stands out long before."""
_PARTS, _PART_FRAMES, _ALL_FRAMES = 8, 64, 1 << 13
"""Of larger dumps only one batch of frames in so many is searched, since tables lie everywhere; the
first 32 MiB are searched whole."""
_USUAL_PLACES = (0x300 * 4, 3 * 8, 0x1ED * 8)
"""Offsets of the entry that names the table itself: x86, PAE, and x64 before 2016."""


_Entries: TypeAlias = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Places and distances as in FileHeaderSearch, for each part of a block that has any."""


class FileHeaderSearch(Search[_Entries]):
    """Finds entries that would name their own table behind a header, during a scan of the dump."""

    def __init__(self, dump: Dump) -> None:
        self._step = max(1, min(_PARTS, dump.frame_count // _ALL_FRAMES))
        self._place: list[NDArray[np.int64]] = []
        """Bytes of the file at which such entries stand."""
        self._distance: list[NDArray[np.int64]] = []
        """How far each entry stands behind the address that it names."""
        self._room = _ROOM

    def look(self, frames: NDArray[np.int64], words: Words) -> _Entries | None:
        """Search some of these pages of the file, given with their contents."""
        found: _Entries = []
        room = self._room
        for start in range(0, len(frames), _PART_FRAMES):
            if frames[start] // _PART_FRAMES % self._step == 0 and room >= 0:
                part = slice(start, start + _PART_FRAMES)
                place, distance = self._entries(frames[part], words[part])
                if len(place):
                    found.append((place, distance))
                    room -= len(place)
        return found or None

    def take(self, part: _Entries) -> None:
        """Add the entries in a block, as long as there is room."""
        for place, distance in part:
            if self._room >= 0:
                self._room -= len(place)
                self._place.append(place)
                self._distance.append(distance)

    @staticmethod
    def _entries(
        pages: NDArray[np.int64], words: Words
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places of such entries in some pages, and their distances."""
        entries = words.view(np.uint32)
        # The lower halves of 64-bit entries suffice for a first choice. The first test is whether
        # an entry names a place shortly before its own page: few words do.
        base = (pages * PAGE_SIZE & 0xFFFFFFFF).astype(np.uint32)[:, None]
        away = base + np.uint32(2 * PAGE_SIZE) - entries
        page, word = np.divmod(
            np.flatnonzero(away < _LARGEST_SIZE + 3 * PAGE_SIZE), 2 * X64.entries
        )
        entry = entries[page, word]
        place = pages[page] * PAGE_SIZE + word * 4
        distance = (place - (entry & np.uint32(0xFFFFF000))) & 0xFFFFFFFF
        near = (entry & np.uint32(_FLAGS | LARGE) == _FLAGS) & (distance > 0)
        near &= distance < _LARGEST_SIZE + PAGE_SIZE
        return place[near], distance[near]

    def size(self, dump: Dump) -> int:
        """Size of the header in bytes; 0 if none is found. `dump` is the file without a header."""
        place = np.concatenate([np.empty(0, np.int64), *self._place])
        distance = np.concatenate([np.empty(0, np.int64), *self._distance])
        values, count = np.unique(distance, return_counts=True)
        order = np.argsort(-count, kind="stable")[:2]
        # In a dump full of made-up entries, many distances occur a few times by chance.
        if not len(order) or count[order[0]] < max(_FEWEST, 2 * count[order[1:]].max(initial=0)):
            return 0
        best = int(values[order[0]])
        named = place[distance == best][:_SAMPLED_TABLES]
        for entry in (*_USUAL_PLACES, *_likely_places(dump, named)):
            if self.is_size(best - entry) and _leads_to_windows(dump, best - entry, named - best):
                return best - entry
        return 0

    @staticmethod
    def is_size(size: int) -> bool:
        """Whether a header may have this size; by whole pages, memory is only displaced."""
        return 0 < size <= _LARGEST_SIZE and size % _UNIT == 0 and size % PAGE_SIZE != 0


def _likely_places(dump: Dump, named: NDArray[np.int64]) -> list[int]:
    """Offsets in x64's tables at which these entries may stand, the likeliest first.

    The lower half of a table has user mode's entries, the upper half the kernel's.
    """
    pages = (named // PAGE_SIZE)[:, None] + np.arange(-1, 2)
    entries = dump.read_frames(pages.ravel()).reshape(len(named), -1)
    at = X64.entries + named % PAGE_SIZE // 8
    around = np.arange(1 - X64.entries, X64.entries // 2)
    near = np.take_along_axis(entries, at[:, None] + around, axis=1)
    present = near & np.uint64(PRESENT) != 0
    is_user = present & (near & np.uint64(USER) != 0)
    # By how many entries up to each place user mode's outnumber the kernel's.
    more = np.append(0, np.cumsum(2 * is_user.sum(axis=0) - present.sum(axis=0)))
    index = np.array(_X64.software.self_entries)
    begin = X64.entries - 1 - index
    middle, end = begin + X64.entries // 2, np.minimum(begin + X64.entries, len(more) - 1)
    fits = (more[middle] - more[begin]) - (more[end] - more[middle])
    likely: list[int] = (index[np.argsort(-fits, kind="stable")[:_LIKELY_PLACES]] * 8).tolist()
    return likely


def _leads_to_windows(dump: Dump, header: int, tables: NDArray[np.int64]) -> bool:
    """Whether the tables at these physical addresses are Windows', given a header of this size."""
    memory = RawDump.behind(dump.path, header)
    search = TopLevelSearch()
    frames = tables // PAGE_SIZE
    words = memory.read_frames(frames)
    search.scan(frames, words)
    search.scan_everywhere(frames, words)
    return search.found(memory) is not None


def size_by_linux(dump: Dump, info: VmcoreInfo) -> int:
    """Size of a header by the address that a Linux kernel tells of itself; 0 if none is found."""
    sizes = (-moved for moved in distances_moved(dump, info))
    for size in filter(FileHeaderSearch.is_size, sizes):
        if is_linux_in_place(RawDump.behind(dump.path, size), info):
            return size
    return 0
