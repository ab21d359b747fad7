"""The search for misplaced memory by top-level tables that would name themselves if moved."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import chosen_rows, count_marks, distinct
from memory_visualizer.displaced.ends import FEWEST_TABLES, ascending, ends
from memory_visualizer.displaced.mended import FAR, MendedDump, Piece
from memory_visualizer.formats.base import Dump, Search, Words
from memory_visualizer.paging import (
    ACCESSED,
    ADDRESS,
    LARGE,
    PAE,
    PRESENT,
    WRITE,
    X64,
    X64_5_LEVELS,
    X86,
    Paging,
    are_tables,
    as_windows_has_it,
    is_held,
    read_tables,
)
from memory_visualizer.paging.kernelhalf import MAX_ENTRIES
from memory_visualizer.printable import counted
from memory_visualizer.windows.toplevels import share_kernel

_FEWEST_OF_PIECE = 2
_SAMPLED_NAMED = 1 << 8
"""An even sample of tables, which tells whether the move makes sense for most of them."""
ROWS_AT_ONCE = 64
"""As many as fit into a processor's cache together with the results."""
_STEP = 37
_FLAGS = PRESENT | WRITE | ACCESSED
_HALF = 256
SAMPLED_ROOTS = 1 << 9
"""Top-level tables that vote on pieces. A piece has several, and tables below show it as well."""


@dataclass(frozen=True, eq=False)
class _Named:
    """Pages that look like top-level tables, and the frame that one entry of each names."""

    page: NDArray[np.int64]
    index: NDArray[np.int64]
    frame: NDArray[np.int64]

    @property
    def shift(self) -> NDArray[np.int64]:
        """How far each page was moved, if its entry names the table itself."""
        return self.frame - self.page

    def take(self, rows: NDArray[np.bool_]) -> "_Named":
        return _Named(self.page[rows], self.index[rows], self.frame[rows])


@dataclass(eq=False)
class _Found:
    """What DisplacedSearch finds in a block."""

    named: list[tuple[str, _Named]]
    """With the architecture's name."""
    like: list[NDArray[np.int64]]
    """Pages that look like tables with entries of eight bytes."""
    count: int = 0
    """How many pages look like tables."""


class DisplacedSearch(Search[_Found]):
    """Finds tables that would name themselves if they were moved, during a scan of the dump."""

    def __init__(self, dump: Dump) -> None:
        self._limit = self._room = dump.budget.limit("page table")
        """How many more pages may look like tables; a dump with more was made to waste time."""
        self._found: dict[str, list[_Named]] = {"x86": [], "PAE": [], "x86-64": []}
        self._like: list[NDArray[np.int64]] = []
        """Pages that look like tables with entries of eight bytes."""
        self.tables = 0
        """How many top-level tables support the result of `pieces`."""

    def look(self, frames: NDArray[np.int64], words: Words) -> _Found | None:
        """Search pages, given with their contents."""
        found, room = _Found([], []), self._room
        for start in range(0, len(frames), ROWS_AT_ONCE):
            if found.count > room:
                break
            part = slice(start, start + ROWS_AT_ONCE)
            self._search(frames[part], words[part], found)
        return found if found.count else None

    def take(self, part: _Found) -> None:
        """Add the tables in a block, as long as there is room."""
        self._room -= part.count
        if self._room >= 0:
            self._like += part.like
            for name, named in part.named:
                self._found[name].append(named)

    @staticmethod
    def _search(pages: NDArray[np.int64], words: Words, found: _Found) -> None:
        # A few words rule out most pages: not a table, or a full table, which proves nothing.
        few = np.ascontiguousarray(words[:, ::_STEP])
        maybe = np.flatnonzero(_are_like_tables(few, some=False) & (few == 0).any(axis=1))
        maybe = maybe[_are_used(chosen_rows(words, maybe))]
        like = maybe[_are_like_tables(chosen_rows(words, maybe))]
        if len(like):
            found.like.append(pages[like])
        found.count += len(like)
        tables = chosen_rows(words, like)
        lower, upper = (count_marks(half != 0) for half in (tables[:, :_HALF], tables[:, _HALF:]))
        chosen = (upper > 0) & (upper <= MAX_ENTRIES) & (lower <= MAX_ENTRIES)
        tables, rows = tables[chosen, _HALF:], like[chosen]
        row, column = np.nonzero(tables & np.uint64(PRESENT | LARGE) == PRESENT)
        _add(found, "x86-64", pages[rows[row]], column + _HALF, tables[row, column])
        # The entry for itself of PAE's fourth directory, and of the 32-bit directory.
        rows = like[words[like, 3] & np.uint64(_FLAGS | LARGE) == _FLAGS]
        _add(found, "PAE", pages[rows], np.zeros(len(rows), np.int64), words[rows, 3])
        few = few.view(np.uint32)
        maybe = np.flatnonzero(_are_like_tables(few, some=False) & (few == 0).any(axis=1))
        rows = maybe[words[maybe, 0x180] & np.uint64(_FLAGS | LARGE) == _FLAGS]
        rows = rows[_are_like_tables(words[rows].view(np.uint32))]
        found.count += len(rows)
        entries = words[rows, 0x180] & np.uint64(0xFFFFFFFF)
        _add(found, "x86", pages[rows], np.zeros(len(rows), np.int64), entries)

    @property
    def like(self) -> NDArray[np.int64]:
        """Pages that look like tables with entries of eight bytes."""
        like = self._like if self._room >= 0 else []
        return distinct(np.concatenate([np.empty(0, np.int64), *like]))

    @property
    def remarks(self) -> list[str]:
        """A sentence for the user if the search was given up."""
        if self._room >= 0:
            return []
        return [
            "the search for misplaced memory in the file was given up: more than"
            f" {counted(self._limit, 'page looks', 'pages look')} like page tables, more"
            " than any machine has"
        ]

    def pieces(self, dump: Dump, known: Paging | None = None) -> list[Piece]:
        """The pieces that most tables support; none if all memory lies where it belongs.

        64-bit tables are read as having four levels, unless they are `known` to have five.
        """
        best: list[Piece] = []
        voters = 0
        if self._room < 0:
            return best
        wide = known.architecture if known and known.architecture is X64_5_LEVELS else X64
        for architecture in (wide, PAE, X86):
            paging = as_windows_has_it(architecture)
            name = "x86-64" if architecture is wide else architecture.name
            tables = _alike(dump, paging, self._found[name])
            if tables is None or len(tables.page) <= voters:
                continue
            shifts = ascending(dump.budget, tables.page, tables.shift)
            moved = any(shift for _, shift in shifts)
            if moved and not _makes_sense(dump, paging, tables.page, _begun_by(shifts)):
                continue
            pieces = ends(dump, paging, shifts, self.like)
            if len(pieces) == 1 and not pieces[0].shift:
                continue
            if _makes_sense(dump, paging, tables.page, pieces):
                best, voters = pieces, len(tables.page)
                self.tables = voters
        return best


def _add(
    found: _Found,
    name: str,
    page: NDArray[np.int64],
    index: NDArray[np.int64],
    entry: NDArray[np.uint64],
) -> None:
    """Add tables, given with the entry of each, unless it names a frame too far away."""
    frame = ((entry & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)
    named = _Named(page, index, frame)
    named = named.take(np.abs(named.shift) < FAR)
    if len(named.page):
        found.named.append((name, named))


def _are_used(words: Words) -> NDArray[np.bool_]:
    used: NDArray[np.bool_] = np.bitwise_or.reduce(words, axis=1) != 0
    return used


def _are_like_tables(
    tables: NDArray[np.uint64] | NDArray[np.uint32], *, some: bool = True
) -> NDArray[np.bool_]:
    """Which pages hold almost only entries that systems make; with `some`, at least one."""
    used = count_marks(tables != 0)
    entries = count_marks(tables & tables.dtype.type(_FLAGS | LARGE) == _FLAGS)
    like: NDArray[np.bool_] = 8 * entries >= 7 * used - (0 if some else 8)
    return like & (entries > 0) if some else like


def _alike(dump: Dump, paging: Paging, batches: list[_Named]) -> _Named | None:
    """The tables that name themselves by the same entry, if they were moved by common distances.

    A table moved by another distance counts if its kernel half equals that of these tables.
    """
    if not batches:
        return None
    every = _Named(
        np.concatenate([part.page for part in batches]),
        np.concatenate([part.index for part in batches]),
        np.concatenate([part.frame for part in batches]),
    )
    vote = every.index * (2 * FAR) + every.shift + FAR
    votes, which, count = np.unique(vote, return_inverse=True, return_counts=True)
    voted = votes // (2 * FAR)
    several = count >= _FEWEST_OF_PIECE
    if not several.any():
        return None
    index = int(np.argmax(np.bincount(voted[several], weights=count[several])))
    if count[several & (voted == index)].max() < FEWEST_TABLES:
        return None
    moved_alike = (several & (voted == index))[which]
    chosen = every.index == index
    chosen[np.flatnonzero(chosen)[SAMPLED_ROOTS:]] = False
    every, moved_alike = every.take(chosen), moved_alike[chosen]
    kin = share_kernel(dump, paging, every.page[:, None], moved_alike)
    return every.take(moved_alike | kin)


def _begun_by(known: list[tuple[int, int]]) -> list[Piece]:
    """Pieces that begin with their first known page; the first piece begins with the file."""
    first: dict[int, int] = {}
    for page, shift in known:
        first.setdefault(shift, page if first else 0)
    return [Piece(page, shift) for shift, page in first.items()]


def _makes_sense(
    dump: Dump, paging: Paging, roots: NDArray[np.int64], pieces: Sequence[Piece]
) -> bool:
    """Whether the pieces turn more of the pages that these roots name as tables into tables.

    Systems allocate a process's tables one after the other, so a table names pages right behind it.
    """
    roots = roots[:: -(-len(roots) // _SAMPLED_NAMED) or 1]
    target, is_page = read_tables(dump, paging, 0, roots)
    named = distinct(target[(target >= 0) & ~is_page])
    named = named[:: -(-len(named) // _SAMPLED_NAMED) or 1]
    mended = MendedDump(dump, pieces)
    there = named[is_held(mended, named)]
    here = named[is_held(dump, named)]
    after = np.count_nonzero(are_tables(mended, paging, 1, there))
    return bool(after > np.count_nonzero(are_tables(dump, paging, 1, here)))
