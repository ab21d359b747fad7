"""Address spaces of an unknown system, by the entries that they share.

On x86-64 the top-level tables of one system's address spaces share the kernel's half, except for
the entry by which a table may name itself. So the search finds tables that are alike in that half
and lead to tables. It cannot tell which tables are still in use, nor whose they are.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import chosen_rows, count_marks, distinct
from memory_visualizer.formats.base import Dump, Search, Words, zero_pages
from memory_visualizer.paging import (
    ADDRESS,
    LARGE,
    PRESENT,
    X64,
    Mappings,
    are_tables,
    as_processor_has_it,
    is_held,
    read_tables,
)
from memory_visualizer.paging.kernelhalf import MAX_ENTRIES, TOUCHED, share_entries

PAGING = as_processor_has_it(X64)
"""The paging that is searched for."""

_HALF = 256
_CANDIDATES = 1 << 14
"""The largest sample of possible top-level tables; found() tells if it leaves some out."""
_FRAMES_OF_SPACE = 64
"""An address space takes at least some 20 frames; small machines get some address spaces more:"""
_SPACES_OF_SMALL = 512
_CUT = 4
"""A machine may have so many times the memory that a dump holds, if the dump was cut."""
_TABLES_AT_ONCE = 128
_ROWS_AT_ONCE = 64
"""As many as fit into a processor's cache together with the results."""
_LEAST_SPACES = 2
_TRIED_GROUPS = 4
"""How many groups with equal halves are tried, the heaviest first; the budget notes the others."""
_SAMPLED_TABLES = 1 << 10
"""An even sample of the tables below a group: it only tells whether most of them are tables."""
_TIMES_ASKED = 4
"""How many times more pages than possible address spaces are compared with the shared half."""
_SAMPLED_OWN = 1 << 9
"""How many tables are sampled below the own halves of the spaces of one batch, to tell whether they
are tables."""
_DIRECT_SHARE = 0.5
"""If the kernel maps at least this share of memory at one distance, it maps all memory so."""


@dataclass(frozen=True, eq=False)
class Spaces:
    """Address spaces of an unknown system."""

    roots: NDArray[np.int64]
    """Frames of the top-level tables, shape (n, 1); n may be 0."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user on tables that were left out."""


class SpaceSearch(Search[NDArray[np.int64]]):
    """Finds pages that could be top-level tables during a scan of the dump."""

    def __init__(self, dump: Dump) -> None:
        self._limit = np.uint64(_CUT * dump.frame_count << 12)
        self._found: list[NDArray[np.int64]] = []

    def look(self, frames: NDArray[np.int64], words: Words) -> NDArray[np.int64] | None:
        """Test frames, given with their contents."""
        found: list[NDArray[np.int64]] = []
        bits = np.packbits(words[:, _HALF:] != 0, axis=1).view(np.uint64)
        upper = np.bitwise_count(bits).sum(axis=1).astype(np.int64)
        rows = np.flatnonzero((upper > 0) & (upper <= MAX_ENTRIES))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            chosen = chosen_rows(words, part)
            leads = chosen & np.uint64(PRESENT | LARGE) == PRESENT
            # Address 0 becomes the largest number, which is as wrong as other high addresses.
            leads &= (chosen & np.uint64(ADDRESS)) - np.uint64(1) < self._limit - np.uint64(1)
            lower = count_marks(chosen[:, :_HALF] != 0)
            used = lower + upper[part]
            odd = used - count_marks(leads)
            # A flipped bit should not cost an address space.
            sound = odd <= np.maximum(used // _ODD_SHARE, used > 2)
            sound &= lower <= MAX_ENTRIES
            if sound.any():
                found.append(frames[part[sound]])
        return np.concatenate(found) if found else None

    def take(self, part: NDArray[np.int64]) -> None:
        """Add the frames of a block."""
        self._found.append(part)

    def found(self, dump: Dump) -> Spaces:
        """The tables that confirm one another."""
        every = distinct(np.concatenate([np.empty(0, np.int64), *self._found]))
        held = int(np.count_nonzero(dump.held))
        limit = min(_CANDIDATES, held // _FRAMES_OF_SPACE + _SPACES_OF_SMALL)
        # More tables than any machine has are a trick: a sample of them shows the shared half.
        kernel = _shared_half(dump, every[:: -(-len(every) // limit) or 1])
        if kernel is None:
            return Spaces(np.empty((0, 1), np.int64))
        asked = every[:: -(-len(every) // (_TIMES_ASKED * limit)) or 1]
        alike = asked[_agreeing(dump, asked, kernel)]
        step = -(-len(alike) // limit) or 1
        remarks = []
        if step > 1 or len(asked) < len(every):
            remarks.append(
                f"{len(every):,} pages look like top-level page tables, more than any machine has:"
                f" {len(alike[::step]):,} of them, evenly spread, are used"
            )
        return Spaces(_with_own_half(dump, alike[::step])[:, None], tuple(remarks))


_ODD_SHARE = 8
"""One in so many entries of a top-level table may be odd, and one entry in any case."""


def _shared_half(dump: Dump, frames: NDArray[np.int64]) -> NDArray[np.uint64] | None:
    """The kernel's half that most tables share, if it leads to tables."""
    groups: dict[bytes, list[int]] = {}
    halves: dict[bytes, NDArray[np.uint64]] = {}
    for part, tables in _in_parts(dump, frames):
        for frame, half in zip(part.tolist(), _kernel_halves(part, tables), strict=True):
            key = hashlib.blake2b(half.tobytes()).digest()
            groups.setdefault(key, []).append(frame)
            halves.setdefault(key, half)
    weights = {
        key: len(members) * int(np.count_nonzero(halves[key]))
        for key, members in groups.items()
        if len(members) >= _LEAST_SPACES
    }
    heaviest = sorted(weights, key=lambda key: -weights[key])
    for key in dump.budget.take("kind of top-level table", heaviest, _TRIED_GROUPS):
        below = halves[key][halves[key] & np.uint64(PRESENT | LARGE) == PRESENT]
        named = ((below & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)
        if not is_held(dump, named).any():
            # The dump was cut: the processes' own tables may be left.
            members = np.array(groups[key][:_TABLES_AT_ONCE], np.int64)
            target, is_page = read_tables(dump, PAGING, 0, members)
            own = target[:, :_HALF]
            named = own[(own >= 0) & ~is_page[:, :_HALF]]
        if _lead_to_tables(dump, named):
            return halves[key]
    return None


def _kernel_halves(frames: NDArray[np.int64], tables: Words) -> Words:
    """The upper halves without each table's own bits: accessed and dirty, and its entry for itself.

    The address in an entry that is not present has no meaning.
    """
    upper: Words = tables[:, _HALF:] & ~np.uint64(TOUCHED)
    own = (upper & np.uint64(ADDRESS)) >> np.uint64(12) == frames[:, None].astype(np.uint64)
    upper[own] = 0
    return upper


def _agreeing(
    dump: Dump, frames: NDArray[np.int64], kernel: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Which tables share most entries of this kernel half."""
    used = kernel != 0
    agrees = np.zeros(len(frames), bool)
    done = 0
    for part, tables in _in_parts(dump, frames):
        halves = _kernel_halves(part, tables)
        own = np.count_nonzero((halves != 0) & ~used, axis=1)
        alike = share_entries(halves, kernel) & (own <= np.count_nonzero(used))
        agrees[done : done + len(part)] = alike
        done += len(part)
    return agrees


def _with_own_half(dump: Dump, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """The tables that map pages of their own; all tables if none does.

    The kernel's own table, and the table of a process about to end, map no own pages. If a table's
    page has been reused, most of its entries lead to no tables.
    """
    has_own = np.zeros(len(frames), bool)
    done = 0
    for part, tables in _in_parts(dump, frames):
        row, column = np.nonzero(tables[:, :_HALF] & np.uint64(PRESENT | LARGE) == PRESENT)
        target = ((tables[row, column] & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)
        row, target = row[is_held(dump, target)], target[is_held(dump, target)]
        some = slice(None, None, -(-len(row) // _SAMPLED_OWN) or 1)
        row, target = row[some], target[some]
        known = distinct(target)
        is_table = are_tables(dump, PAGING, 1, known)[np.searchsorted(known, target)]
        right = np.bincount(row[is_table], minlength=len(part))
        count = np.bincount(row, minlength=len(part))
        has_own[done : done + len(part)] = (count > 0) & (2 * right >= count)
        done += len(part)
    return frames[has_own] if has_own.any() else frames


def _lead_to_tables(dump: Dump, frames: NDArray[np.int64]) -> bool:
    """Whether most of these pages are second-level tables that lead to tables themselves.

    A system may keep empty tables for later, but a page with entries of which none leads to a page
    of the dump is not a table.
    """
    frames = distinct(frames[is_held(dump, frames)])
    frames = frames[~zero_pages(dump.read_frames(frames))]
    sound = frames[are_tables(dump, PAGING, 1, frames)]
    if 2 * len(sound) <= len(frames):
        return False
    target, is_page = read_tables(dump, PAGING, 1, sound)
    below = target[(target >= 0) & ~is_page]
    below = distinct(below[is_held(dump, below)])
    below = below[:: -(-len(below) // _SAMPLED_TABLES) or 1]
    right = np.count_nonzero(are_tables(dump, PAGING, 2, below))
    # The kernel may map all memory by pages of 1 GiB only.
    return bool(2 * right >= len(below)) and bool((target >= 0).any())


def _in_parts(
    dump: Dump, frames: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Frames and their contents, in batches of as many as are read at once."""
    for start in range(0, len(frames), _TABLES_AT_ONCE):
        part = frames[start : start + _TABLES_AT_ONCE]
        yield part, dump.read_frames(part)


def without_direct_map(mappings: Mappings, held: NDArray[np.bool_]) -> tuple[Mappings, bool]:
    """Leave out the kernel's direct map of all memory, if it has one; and tell whether it has.

    A direct map, at a constant distance from the physical addresses, says nothing about a page's
    use.
    """
    kernel = ~mappings.is_user
    distance = mappings.virtual - (mappings.pfn.astype(np.uint64) << np.uint64(12))
    values, group = np.unique(distance[kernel], return_inverse=True)
    if not len(values):
        return mappings, False
    covered = np.bincount(group, weights=mappings.count[kernel])
    largest = int(np.argmax(covered))
    if covered[largest] < _DIRECT_SHARE * np.count_nonzero(held):
        return mappings, False
    return mappings.take(~(kernel & (distance == values[largest]))), True
