"""Candidates for process objects, found in the contents of pages.

A process object (`_EPROCESS`) begins with a dispatcher header and holds the address of its
top-level table, at the same offset in every version of Windows.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct, union
from memory_visualizer.formats.base import Search, Words, ahead
from memory_visualizer.paging import (
    ADDRESS,
    PAE,
    PAE_POINTER_RESERVED,
    PRESENT,
    Paging,
    PhysicalMemory,
    is_held,
)
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.toplevels import TopLevels, bits_of, in_parts

TABLE_BASE = {32: 0x18, 64: 0x28}
"""Offset of DirectoryTableBase in `_KPROCESS`, in every version."""

_SIZE_BYTE = 2
"""Offset of the object's size in a dispatcher header (DISPATCHER_HEADER, wdm.h)."""
PROCESS_OBJECT = 3
"""Type in a process's dispatcher header (KOBJECTS, wdm.h)."""

BASE_NUMBER = 3
"""From 2018 on the low bits of a 64-bit base may hold a small number (SDM 4.10.1)."""

_ROOM = 1 << 20
"""How many places that may be processes are kept before the table bases are known. The frames of
further places are read later, when the bases are known."""
_ROOM_OF_BATCH = 1 << 10
"""The same for a batch of pages, a megabyte: no more processes fit into it."""
_PLACES_OF_PROCESS = 16
"""The most copies of a process object, in freed pages."""
_COPIES = 64
"""How many copies of an address space's four pointers are used."""
_NEEDED_OF_FOUR = 3
"""How many of an address space's four directories a base must lead to (PAE)."""
_BASES_AT_ONCE = 1 << 12
_UNKNOWN = -1
"""In place of a table base that stands in another page."""


class TableBases:
    """Table bases in process objects: from DirectoryTableBase to address space.

    Under PAE a base is the address of four pointers, 32 bytes anywhere in the kernel's memory:
    these are read for each base.
    """

    def __init__(self, memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> None:
        """`roots` are the frames of the top levels, shape (n, paging.top_frames)."""
        self._memory, self._roots = memory, roots
        self._is_pae = paging.architecture is PAE
        self._spaces: dict[int, int | None] = {}
        if not self._is_pae:
            self._spaces = {int(top) * PAGE_SIZE: n for n, top in enumerate(roots[:, 0])}

    def __contains__(self, base: int) -> bool:
        return self.get(base) is not None

    def get(self, base: int) -> int | None:
        """The address space, by its index; None where the base leads to none."""
        if self._is_pae and base not in self._spaces:
            self.learn(np.array([base], np.uint64))
        return self._spaces.get(base)

    def learn(self, bases: NDArray[np.uint64]) -> None:
        """Read many bases at once, which is faster."""
        if not self._is_pae:
            return
        bases = distinct(bases)
        self._spaces.update(dict.fromkeys(bases.tolist()))
        possible = bases[(bases % np.uint64(32) == 0) & (bases < np.uint64(1 << 32))].astype(
            np.int64
        )
        possible = possible[is_held(self._memory, possible // PAGE_SIZE)]
        for start in range(0, len(possible), _BASES_AT_ONCE):
            part = possible[start : start + _BASES_AT_ONCE]
            space = _spaces_of(pointed_to(self._memory, part)[0], self._roots)
            found = np.flatnonzero(space >= 0)
            self._spaces.update(zip(part[found].tolist(), space[found].tolist(), strict=True))

    @property
    def known(self) -> NDArray[np.uint64]:
        """All bases read so far that lead to an address space, ascending."""
        known = [base for base, space in self._spaces.items() if space is not None]
        return np.sort(np.array(known, np.uint64))

    def of_spaces(self, kernel: KernelMemory, spaces: Collection[int]) -> list[int]:
        """All possible bases of these spaces; under PAE, wherever their pointers stand."""
        if not self._is_pae:
            return [base for base, space in self._spaces.items() if space in spaces]
        return _places_of_pointers(self._memory, kernel, self._roots[sorted(spaces)])


def pointed_to(
    memory: PhysicalMemory, bases: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The frames of the directories behind PAE's bases, and which pointers are sound; (n, 4).

    A pointer is present and has no reserved bit (SDM 4.4.1). The bases must be multiples of 32.
    """
    frames, row = np.unique(bases // PAGE_SIZE, return_inverse=True)
    words = memory.read_frames(frames)
    place = (bases % PAGE_SIZE // 8)[:, None] + np.arange(4)
    pointers = words[row[:, None], place]
    roots: NDArray[np.int64] = ((pointers & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)
    is_sound: NDArray[np.bool_] = (
        pointers & np.uint64(PAE_POINTER_RESERVED | PRESENT) == PRESENT
    ) & is_held(memory, roots)
    return roots, is_sound


def _spaces_of(directories: NDArray[np.int64], roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index of the space that most of four directories belong to; -1 if there is none."""
    space = np.full(len(directories), -1, np.int64)
    for column in (
        3,
        0,
    ):  # first the directory that names itself; if its pointer is altered, another directory
        order = np.argsort(roots[:, column], kind="stable")
        ordered = roots[order, column]
        if not len(ordered):
            return space
        place = np.minimum(np.searchsorted(ordered, directories[:, column]), len(ordered) - 1)
        same = np.count_nonzero(roots[order[place]] == directories, axis=1)
        space = np.where((space < 0) & (same >= _NEEDED_OF_FOUR), order[place], space)
    return space


def _places_of_pointers(
    memory: PhysicalMemory, kernel: KernelMemory, roots: NDArray[np.int64]
) -> list[int]:
    """Physical addresses of the four pointers of these address spaces, in the kernel's memory."""
    places: list[int] = []
    pointers = (roots.astype(np.uint64) << np.uint64(12)) | np.uint64(PRESENT)
    order = np.argsort(pointers[:, 0], kind="stable")
    first = pointers[order, 0]
    room = np.full(len(roots), _COPIES)
    for frames in in_parts(kernel.all_frames()):
        groups = memory.read_frames(frames).reshape(-1, 4)
        hits = np.flatnonzero(is_in(groups[:, 0], first))
        index = order[np.searchsorted(first, groups[hits, 0])]
        hits, index = hits[room[index] > 0], index[room[index] > 0]
        alike = (groups[hits] == pointers[index]).all(axis=1)
        hits, index = hits[alike], index[alike]
        room -= np.bincount(index, minlength=len(room))
        page, place = np.divmod(hits, PAGE_SIZE // 32)
        places += (frames[page] * PAGE_SIZE + place * 32).tolist()
    return places


_Batches: TypeAlias = list[tuple[NDArray[np.int64], NDArray[np.int64], int]]
"""Frames that were searched together, the places in them (see ProcessSearch.places), and how many
places there are: too many are not given."""


class ProcessSearch(Search[_Batches]):
    """Finds places that begin like a process object, during a scan of the dump."""

    known: tuple[TopLevels, KernelMemory] | None = None
    """Address spaces, and the kernel's memory by their tables, if they are known before."""

    def __init__(
        self,
        memory: PhysicalMemory,
        paging: Paging,
        frames: NDArray[np.int64] | None = None,
    ) -> None:
        """Search these frames only, which ascend."""
        self.paging = paging
        self._wanted = np.empty(0, np.int64) if frames is None else frames
        self._seen: list[NDArray[np.int64]] = []
        """Frames that were searched, ascending."""
        self._end = memory.frame_count * PAGE_SIZE
        self._found: list[NDArray[np.int64]] = []
        self._room = min(_ROOM, memory.frame_count // 2 + (1 << 16))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is known before: a worker that gets this search only looks."""
        return vars(self) | {"known": None}

    def look(self, frames: NDArray[np.int64], words: Words) -> _Batches | None:
        """Search frames, given with their contents; frames that were not asked for are skipped."""
        if self._room < 0:
            return None
        first, end = np.searchsorted(self._wanted, [frames[0], frames[-1] + 1])
        rows = np.searchsorted(frames, wanted := self._wanted[first:end])
        batches: _Batches = []
        for chosen in in_parts(rows[frames[rows] == wanted]):
            found = self.places(frames[chosen], words, rows=chosen)
            count = len(found)
            # If a batch is full of such places, they are read later, when the bases are known.
            batches.append((frames[chosen], found[: 0 if count > _ROOM_OF_BATCH else None], count))
        return batches or None

    def take(self, part: _Batches) -> None:
        """Add the places in a block, as long as there is room."""
        for frames, found, count in part:
            self._room -= count
            if self._room >= 0 and count <= _ROOM_OF_BATCH:
                self._found.append(found)
                self._seen.append(frames)

    def not_seen(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some ascending frames that were not searched."""
        seen = np.concatenate([np.empty(0, np.int64), *self._seen])
        return frames[~is_in(frames.view(np.uint64), seen.view(np.uint64))]

    def places(
        self,
        frames: NDArray[np.int64],
        words: NDArray[np.uint64],
        bases: NDArray[np.uint64] | None = None,
        *,
        rows: NDArray[np.intp] | None = None,
    ) -> NDArray[np.int64]:
        """Places that begin like a process and have any table base, or one of some sorted bases.

        `rows` tells which of the pages belong to `frames`, by default all. Returns physical
        addresses, bases, and the sizes in the headers, shape (n, 3); _UNKNOWN if the base stands in
        another page.
        """
        offset, step, align = _object_grid(self.paging)
        # Type is one byte: testing it is much faster than testing bases or copying pages.
        places = PAGE_SIZE // align
        types = words.view(np.uint8)[:, ::align]
        hits = np.flatnonzero((types if rows is None else types[rows]) == PROCESS_OBJECT)
        page = hits // places
        # No page with a process is full of places that look like one.
        is_full = np.bincount(page, minlength=len(frames)) > places // 4
        if is_full.any():
            chosen = ~is_full[page]
            hits, page = hits[chosen], page[chosen]
        at = (hits - page * places) * align
        place = (page if rows is None else rows[page]) * PAGE_SIZE + at
        words = words.reshape(-1)
        # If the base stands in the next page, SignalState tells whether to read it.
        is_cut = at >= PAGE_SIZE - offset
        whole, cut = np.flatnonzero(~is_cut), np.flatnonzero(is_cut)
        cut = cut[words.view("<u4")[place[cut] // 4 + 1] <= 1]
        base = words.view(f"<u{step}")[(place[whole] + offset) // step].astype(np.int64)
        base &= ~BASE_NUMBER
        if bases is None:
            possible = (base > 0) & (base < self._end) & (base & 31 == 0)
        else:
            possible = is_in(base.view(np.uint64), bases)
        chosen = np.concatenate((whole[possible], cut))
        base = np.concatenate((base[possible], np.full(len(cut), _UNKNOWN)))
        size = words.view(np.uint8)[place[chosen] + _SIZE_BYTE].astype(np.int64)
        physical = frames[page[chosen]] * PAGE_SIZE + at[chosen]
        return np.stack((physical, base, size), axis=1)

    def found(self) -> NDArray[np.int64]:
        """All places found, as from `places`."""
        return np.concatenate([np.empty((0, 3), np.int64), *self._found])


def _object_grid(paging: Paging) -> tuple[int, int, int]:
    """For process objects: offset of the table base, its size, and the objects' alignment."""
    bits = bits_of(paging)
    return TABLE_BASE[bits], bits // 8, bits // 4


@dataclass(frozen=True, eq=False)
class Candidates:
    """Possible process objects."""

    objects: NDArray[np.uint64]
    """Virtual addresses, ascending, of places that begin like a process and have a known table
    base."""
    others: NDArray[np.int64]
    """Places that begin so, but have another address in place of the base: physical address, and
    the size in the header; shape (n, 2)."""
    left_out: int
    """The number of places that were not read, since no machine has so many processes."""


def find_candidates(
    memory: PhysicalMemory, kernel: KernelMemory, bases: TableBases, search: ProcessSearch
) -> Candidates:
    """Find places that begin like a process object, in pages that the kernel maps.

    `search` has already read some pages; the others are read here.
    """
    known = bases.known
    frames = kernel.all_frames()

    def scan(part: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        words = memory.read_frames(part)
        found = search.places(part, words)
        if len(found) > _ROOM_OF_BATCH:
            found = search.places(part, words, known)
        kept = found
        if len(found) > _ROOM_OF_BATCH:
            kept = found[rank_among(found[:, 1]) < _PLACES_OF_PROCESS][:_ROOM_OF_BATCH]
        return kept, len(found) - len(kept)

    places = [search.found()]
    # A hostile dump may consist of nothing but places that look like a process.
    limit = memory.budget.limit("address space")
    room = _PLACES_OF_PROCESS * limit
    left_out = 0
    for of_part, too_many in ahead(scan, in_parts(search.not_seen(frames))):
        room -= len(of_part)
        left_out += too_many
        if room < 0:
            left_out += len(of_part)
        else:
            places.append(of_part)
    found = np.concatenate(places)
    is_cut = found[:, 1] == _UNKNOWN
    base = np.ascontiguousarray(found[:, 1]).view(np.uint64)
    cut = virtual_places(kernel, _fairly(found[is_cut], limit))
    offset, step, _ = _object_grid(search.paging)
    base_of_cut = kernel.read_partly(cut + np.uint64(offset), step).copy().view(f"<u{step}")[:, 0]
    base_of_cut = base_of_cut.astype(np.uint64) & ~np.uint64(BASE_NUMBER)
    bases.learn(np.concatenate((base[~is_cut], base_of_cut)))
    known = bases.known
    is_known = is_in(base, known)
    sure = _fairly(found[is_known], limit)
    left_out += int(np.count_nonzero(is_known)) - len(sure)
    objects = union(virtual_places(kernel, sure), cut[is_in(base_of_cut, known)])
    return Candidates(objects, found[~is_known & ~is_cut][:, [0, 2]], left_out)


def objects_by_base(
    memory: PhysicalMemory, kernel: KernelMemory, bases: list[int], paging: Paging
) -> tuple[NDArray[np.uint64], int]:
    """Virtual addresses of possible process objects by these few table bases alone.

    Headers are ignored: this is for address spaces that are in use though no object was found for
    them. Returns the addresses, at most as many as there may be processes, and the number of the
    others.
    """
    offset, step, align = _object_grid(paging)
    limit = memory.budget.limit("address space")
    wanted = np.sort(np.array(bases, np.uint64))

    # Few frames hold a base, so a table of frames rules out most words before the search.
    has_base = np.zeros(memory.frame_count + 1, bool)
    has_base[wanted.astype(np.int64) // PAGE_SIZE] = True

    def scan(part: NDArray[np.int64]) -> NDArray[np.int64]:
        words = memory.read_frames(part).view(f"<u{step}").reshape(-1)
        frames = (words >> words.dtype.type(12)).astype(np.int64, copy=False)
        place = np.flatnonzero(has_base.take(frames, mode="clip"))  # the last is of no base
        values = words[place].astype(np.uint64) & ~np.uint64(BASE_NUMBER)
        place = place[is_in(values, wanted)]
        page, at = np.divmod(place * step, PAGE_SIZE)
        begin = at - offset
        whole = (begin >= 0) & (begin % align == 0)
        found: NDArray[np.int64] = part[page[whole]] * PAGE_SIZE + begin[whole]
        return found

    places: list[NDArray[np.int64]] = []
    room, left_out = limit, 0
    for of_part in ahead(scan, in_parts(kernel.all_frames())):
        places.append(of_part[:room])
        left_out += len(of_part) - len(places[-1])
        room -= len(places[-1])
    return virtual_places(kernel, np.concatenate([np.empty(0, np.int64), *places])), left_out


def _fairly(found: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """The first `limit` places: the first place of each table base, then the second of each."""
    found = found[np.lexsort(found.T[::-1])]
    return np.sort(found[np.argsort(rank_among(found[:, 1]), kind="stable")[:limit], 0])


def rank_among(values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """For each value, the number of equal values before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return rank


def virtual_places(kernel: KernelMemory, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Virtual addresses of physical places; places that are not mapped are left out."""
    virtual = kernel.virtual(places // PAGE_SIZE)
    is_seen = virtual != 0
    objects: NDArray[np.uint64] = virtual[is_seen] + (places[is_seen] % PAGE_SIZE).astype(np.uint64)
    return objects


def is_in(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of the values are in a sorted array."""
    if not len(known):
        return np.zeros(values.shape, bool)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: NDArray[np.bool_] = known[place] == values
    return found
