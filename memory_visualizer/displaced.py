"""Memory that does not lie in its file where it belongs, as in a raw file with its holes left out.

A raw file says nothing of addresses. Where a tool left out what is no memory, all behind lies too
low: a .vmem renamed, or the ranges of a machine's memory one after the other. Windows' top-level
page tables tell, as each names its own frame: what many of them name, less where they lie, is how
far they were moved. Tables below them, where they make sense at one place only, tell where one
piece ends and the next begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.dump import Dump, Words
from memory_visualizer.formats.base import BlockWork, merge_runs
from memory_visualizer.pagemap import distinct
from memory_visualizer.paging import (
    ACCESSED,
    ADDRESS,
    LARGE,
    PAE,
    PRESENT,
    WRITE,
    X64,
    X86,
    Paging,
    are_tables,
    is_held,
    read_tables,
)
from memory_visualizer.windows import share_kernel

_Result = TypeVar("_Result")

_FEWEST_TABLES = 3
"""So many tables that were moved by the same distance are no accident."""
_FEWEST_OF_PIECE = 2
_MOST_ENTRIES = 192
"""In each half of a 64-bit top-level table; the tools that know real ones demand 64 empty ones."""
_FAR = 1 << 28
"""Frames, a terabyte of addresses: no hole in a machine's memory is larger."""
_MOST_PIECES = 16
_MOST_TABLES = 1 << 13
"""Tables of one level that are looked at for where a piece ends."""
_FLAGS = PRESENT | WRITE | ACCESSED
_HALF = 256


@dataclass(frozen=True)
class Piece:
    """A stretch of a file's pages that all lie equally far from where they belong."""

    first: int
    """Its first page in the file."""
    shift: int
    """What is to be added to a page's number in the file for its PFN."""


class MendedDump(Dump):
    """A dump whose pieces have been put where they belong."""

    def __init__(self, dump: Dump, pieces: Sequence[Piece]) -> None:
        """`pieces` ascend, and so do their shifts; the first one begins with the file."""
        self._dump = dump
        self._first = np.array([piece.first for piece in pieces], np.int64)
        self._shift = np.array([piece.shift for piece in pieces], np.int64)
        end = np.append(self._first[1:], dump.frame_count)
        start = np.maximum(self._first, -self._shift)  # what would lie before 0 is no memory
        some = end > start
        runs = merge_runs((start + self._shift)[some], (end - start)[some])
        moved = ", ".join(
            f"page {piece.first:,} on by {piece.shift:,}" for piece in pieces if piece.shift
        )
        remark = (
            "the file does not hold its memory where it belongs, as where holes were left out; its"
            f" page tables tell by how many pages it was to be moved: {moved}. Where one piece ends"
            " is known to some pages only"
        )
        super().__init__(
            dump.path, dump.format, runs, notes=dump.notes, remarks=(*dump.remarks, remark)
        )

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """A mended dump is made of another one."""
        raise NotImplementedError

    def each_block(self, work: BlockWork[_Result]) -> Iterator[_Result]:
        """As in Dump; blocks that lie before the first frame are not shown."""

        def moved(pages: NDArray[np.int64], words: Words) -> _Result | None:
            frames = pages + self._shift[np.searchsorted(self._first, pages, "right") - 1]
            inside = frames >= 0
            if inside.all():
                return work(frames, words)
            return work(frames[inside], words[inside]) if inside.any() else None

        for result in self._dump.each_block(moved):
            if result is not None:
                yield result

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """As in Dump."""
        start = np.maximum(self._first, -self._shift) + self._shift
        piece = np.maximum(np.searchsorted(start, frames, "right") - 1, 0)
        pages = np.where(is_held(self, frames), frames - self._shift[piece], self._dump.frame_count)
        return self._dump.read_frames(pages)


@dataclass(frozen=True)
class _Named:
    """Pages that look like top-level tables, and what one of their entries names; a row each."""

    page: NDArray[np.int64]
    index: NDArray[np.int64]
    frame: NDArray[np.int64]

    @property
    def shift(self) -> NDArray[np.int64]:
        """How far each was moved, if the entry names the table itself."""
        return self.frame - self.page

    def take(self, rows: NDArray[np.bool_]) -> "_Named":
        return _Named(self.page[rows], self.index[rows], self.frame[rows])


class DisplacedSearch:
    """Finds tables that would name themselves if they were moved, while contents pass by.

    Blocks may come in any order, and from several threads.
    """

    def __init__(self) -> None:
        self._found: dict[str, list[_Named]] = {"x86": [], "PAE": [], "x86-64": []}
        self.tables = 0
        """How many top-level tables speak for what `pieces` has found."""

    def look_at(self, pages: NDArray[np.int64], words: Words) -> None:
        """Look at pages, with their contents."""
        used = words != 0
        lower = np.count_nonzero(used[:, :_HALF], axis=1)
        upper = np.count_nonzero(used[:, _HALF:], axis=1)
        rows = np.flatnonzero((upper > 0) & (upper <= _MOST_ENTRIES) & (lower <= _MOST_ENTRIES))
        rows = rows[_are_like_tables(words[rows])]
        tables = words[rows, _HALF:]
        row, column = np.nonzero(tables & np.uint64(PRESENT | LARGE) == PRESENT)
        self._add("x86-64", pages[rows[row]], column + _HALF, tables[row, column])
        # The fourth directory's entry for itself, and the 32-bit one's.
        for name, word in (("PAE", words[:, 3]), ("x86", words[:, 0x180] & np.uint64(0xFFFFFFFF))):
            rows = np.flatnonzero(word & np.uint64(_FLAGS | LARGE) == _FLAGS)
            tables = words[rows]
            if name == "x86":
                tables = tables.view(np.uint32)
            rows = rows[_are_like_tables(tables)]
            self._add(name, pages[rows], np.zeros(len(rows), np.int64), word[rows])

    def _add(
        self,
        name: str,
        page: NDArray[np.int64],
        index: NDArray[np.int64],
        entry: NDArray[np.uint64],
    ) -> None:
        frame = ((entry & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)
        named = _Named(page, index, frame)
        named = named.take(np.abs(named.shift) < _FAR)
        if len(named.page):
            self._found[name].append(named)

    def pieces(self, dump: Dump) -> list[Piece]:
        """The pieces that most tables speak for; none where all lies where it belongs."""
        best: list[Piece] = []
        most = 0
        for name, paging in (("x86-64", X64), ("PAE", PAE), ("x86", X86)):
            tables = _alike(dump, paging, self._found[name])
            if tables is None or len(tables.page) <= most:
                continue
            shifts = _ascending(tables.page, tables.shift)
            if len({shift for _, shift in shifts}) == 1 and shifts[0][1] == 0:
                continue
            most = self.tables = len(tables.page)
            # Tables of five levels are read as if they had four: the lowest are not needed.
            best = _ends(dump, paging, shifts)
        return best


def _are_like_tables(tables: NDArray[np.uint64] | NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which pages hold little but entries as systems make them for tables."""
    used = np.count_nonzero(tables, axis=1)
    flags = tables & tables.dtype.type(_FLAGS | LARGE)
    entries = np.count_nonzero(flags == _FLAGS, axis=1)
    like: NDArray[np.bool_] = (entries > 0) & (8 * entries >= 7 * used)
    return like


def _alike(dump: Dump, paging: Paging, parts: list[_Named]) -> _Named | None:
    """The tables that name themselves by the same entry, moved by the same distances.

    Or by others, if they have the kernel's half in common with those.
    """
    if not parts:
        return None
    every = _Named(
        np.concatenate([part.page for part in parts]),
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.frame for part in parts]),
    )
    votes, which, count = np.unique(
        np.stack((every.index, every.shift)), axis=1, return_inverse=True, return_counts=True
    )
    several = count >= _FEWEST_OF_PIECE
    if not several.any():
        return None
    by_index = np.bincount(votes[0, several], weights=count[several])
    index = int(np.argmax(by_index))
    if count[several & (votes[0] == index)].max() < _FEWEST_TABLES:
        return None
    moved_alike = (several & (votes[0] == index))[which.reshape(-1)]
    chosen = every.index == index
    every, moved_alike = every.take(chosen), moved_alike[chosen]
    kin = share_kernel(dump, paging, every.page[:, None], moved_alike)
    return every.take(moved_alike | kin)


def _ascending(page: NDArray[np.int64], shift: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Most of the pages with their shifts, such that with the pages the shifts ascend, too."""
    order = np.argsort(page, kind="stable")
    values, count = np.unique(shift, return_counts=True)
    values = np.sort(values[np.argsort(-count, kind="stable")[:_MOST_PIECES]])
    # For each shift the most rows up to here that ascend and end with it.
    rows: list[list[tuple[int, int]]] = [[] for _ in values]
    for one, moved in zip(page[order].tolist(), shift[order].tolist(), strict=True):
        at = int(np.searchsorted(values, moved))
        if at == len(values) or values[at] != moved:
            continue
        longest = max(rows[: at + 1], key=len)
        rows[at] = [*longest, (one, moved)]
    return max(rows, key=len)


@dataclass(frozen=True)
class _Labels:
    """Pages, and by how far they were moved; a row each."""

    page: NDArray[np.int64]
    shift: NDArray[np.int64]


def _ends(dump: Dump, paging: Paging, known: list[tuple[int, int]]) -> list[Piece]:
    """The pieces that these pages belong to, the top-level tables with how far each was moved."""
    tops = np.array(known, np.int64)
    labels = _Labels(tops[:, 0], tops[:, 1])
    shifts = np.unique(labels.shift)
    if len(shifts) > 1:
        labels = _descend(dump, paging, labels, shifts)
    pieces = [Piece(0, int(shifts[0]))]
    for before, after in zip(shifts[:-1].tolist(), shifts[1:].tolist(), strict=True):
        low, high = _between(
            labels.page[labels.shift == before], labels.page[labels.shift == after]
        )
        low = max(low, pieces[-1].first)
        pieces.append(Piece(_roundest(low, max(low, high), before, after), after))
    return pieces


def _descend(dump: Dump, paging: Paging, tops: _Labels, shifts: NDArray[np.int64]) -> _Labels:
    """Go down the tables, and learn of each that makes sense at one place only where it lies."""
    pages, moved = [tops.page], [tops.shift]
    # Where a piece may begin and end by the top-level tables alone.
    low = [0, *(int(tops.page[tops.shift == shift].max()) + 1 for shift in shifts[:-1])]
    high = [int(tops.page[tops.shift == shift].min()) for shift in shifts[1:]]
    tables = tops.page
    for number in range(len(paging.levels) - 1):
        target, is_page = read_tables(dump, paging, number, tables)
        named = distinct(target[(target >= 0) & ~is_page])
        named = named[:: -(-len(named) // _MOST_TABLES) or 1]
        places = named - shifts[:, None]
        is_table = places >= np.array(low)[:, None]
        is_table &= places < np.array([*high, dump.frame_count])[:, None]
        for row, place in zip(is_table, places, strict=True):
            row[row] = are_tables(dump, paging, number + 1, place[row])
        one = np.count_nonzero(is_table, axis=0) == 1
        piece = np.argmax(is_table[:, one], axis=0)
        tables = named[one] - shifts[piece]
        pages.append(tables)
        moved.append(shifts[piece])
    return _Labels(np.concatenate(pages), np.concatenate(moved))


def _between(before: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[int, int]:
    """The first and the last page with which a piece may begin, by most of the pages known."""
    pages = np.concatenate((before, after))
    is_after = np.arange(len(pages)) >= len(before)
    order = np.argsort(pages, kind="stable")
    pages, is_after = pages[order], is_after[order]
    # If it begins with the page at each place: those after that lie before it, and the reverse.
    wrong = np.append(0, np.cumsum(is_after)) + np.append(np.cumsum(~is_after[::-1])[::-1], 0)
    best = int(np.argmin(wrong))
    low = int(pages[best - 1]) + 1 if best else 0
    return low, int(pages[best]) if best < len(pages) else low


def _roundest(low: int, high: int, before: int, after: int) -> int:
    """The page from low to high where a hole in a machine's memory most likely was.

    Such holes begin and end at round addresses.
    """
    page = np.arange(low, high + 1)
    begin, end = page + before, page + after
    roundness = np.log2(np.maximum(begin & -begin, 1)) + np.log2(np.maximum(end & -end, 1))
    return low + int(np.argmax(roundness))
