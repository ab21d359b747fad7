"""Where pieces of misplaced memory begin and end, by tables below the top level."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.displaced.mended import FAR, Piece
from memory_visualizer.formats.base import Dump
from memory_visualizer.limits import Budget
from memory_visualizer.paging import (
    Paging,
    are_tables,
    read_tables,
)

FEWEST_TABLES = 3
"""The fewest tables with the same distance that count as evidence; fewer may be chance."""
_SAMPLED_TABLES = 1 << 10
"""An even sample of the tables of one level, which tells the end of a piece closely enough: holes
in memory begin and end at round addresses."""
_SAMPLED_MISSING, _SAMPLED_LIKE = 256, 1 << 11
"""Even samples of the misplaced tables, and of the pages that look like tables: the tables of a
piece agree on its distance."""
_NEAR = 16
"""Pages within which neighbouring tables lie."""


def ends(
    dump: Dump,
    paging: Paging,
    known: list[tuple[int, int]],
    like: NDArray[np.int64],
    roots: NDArray[np.int64] | None = None,
) -> list[Piece]:
    """The pieces to which the known top-level tables and their shifts belong.

    Pieces without a top-level table are found by tables that entries name, but that lie in no other
    piece. `like` are all pages that look like tables; `roots` are all top-level tables, with a
    known shift or not.
    """
    labels = _Labels(*np.array(known, np.int64).T)
    roots = labels.page if roots is None else roots
    for _ in range(dump.budget.limit("piece of misplaced memory")):
        learned, missing = _descend(dump, paging, roots, labels)
        further = _piece_of(missing, like[~np.isin(like, learned.page)], labels.shift)
        every = _Labels.join([labels, further])
        chosen = _Labels(*np.array(ascending(dump.budget, every.page, every.shift), np.int64).T)
        if not np.isin(further.shift, chosen.shift).any():
            break
        labels = chosen
    else:
        learned, _ = _descend(dump, paging, roots, labels)
    shifts = np.unique(labels.shift)
    pieces = [Piece(0, int(shifts[0]))]
    for before, after in zip(shifts[:-1].tolist(), shifts[1:].tolist(), strict=True):
        low, high = _between(
            learned.page[learned.shift == before], learned.page[learned.shift == after]
        )
        low = max(low, pieces[-1].first)
        high = max(low, high)
        pieces.append(Piece(_roundest(low, high, before, after), after, (low, high)))
    return pieces


@dataclass(frozen=True, eq=False)
class _Labels:
    """Pages, and how far each was moved; a row each."""

    page: NDArray[np.int64]
    shift: NDArray[np.int64]

    @classmethod
    def join(cls, batches: "list[_Labels]") -> "_Labels":
        return cls(
            np.concatenate([part.page for part in batches]),
            np.concatenate([part.shift for part in batches]),
        )


def ascending(
    budget: Budget, page: NDArray[np.int64], shift: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """The longest selection of pages in which the shifts ascend with the pages."""
    order = np.argsort(page, kind="stable")
    values, count = np.unique(shift, return_counts=True)
    values = values[np.argsort(-count, kind="stable")]
    values = np.sort(budget.take("piece of misplaced memory", values))
    # For each shift, the longest ascending selection so far that ends with it.
    rows: list[list[tuple[int, int]]] = [[] for _ in values]
    for one, moved in zip(page[order].tolist(), shift[order].tolist(), strict=True):
        at = int(np.searchsorted(values, moved))
        if at == len(values) or values[at] != moved:
            continue
        longest = max(rows[: at + 1], key=len)
        rows[at] = [*longest, (one, moved)]
    return max(rows, key=len)


def _descend(
    dump: Dump, paging: Paging, tables: NDArray[np.int64], labels: _Labels
) -> tuple[_Labels, NDArray[np.int64]]:
    """Go down from top-level tables, and note each table that makes sense at one place only.

    Returns the shifts of these tables, and the frames that are named as tables but make sense
    nowhere.
    """
    pages, moved, missing = [labels.page], [labels.shift], [np.empty(0, np.int64)]
    # The range in which a piece may begin and end, by the tables known so far.
    shifts = np.unique(labels.shift)
    low = [0, *(int(labels.page[labels.shift == shift].max()) + 1 for shift in shifts[:-1])]
    high = [int(labels.page[labels.shift == shift].min()) for shift in shifts[1:]]
    for number in range(len(paging.levels) - 1):
        target, is_page = read_tables(dump, paging, number, tables)
        named = distinct(target[(target >= 0) & ~is_page])
        named = named[:: -(-len(named) // _SAMPLED_TABLES) or 1]
        places = named - shifts[:, None]
        is_table = places >= np.array(low)[:, None]
        is_table &= places < np.array([*high, dump.frame_count])[:, None]
        for row, place in zip(is_table, places, strict=True):
            row[row] = are_tables(dump, paging, number + 1, place[row])
        count = np.count_nonzero(is_table, axis=0)
        piece = np.argmax(is_table[:, count == 1], axis=0)
        tables = named[count == 1] - shifts[piece]
        pages.append(tables)
        moved.append(shifts[piece])
        missing.append(named[count == 0])
    return _Labels(np.concatenate(pages), np.concatenate(moved)), np.concatenate(missing)


def _piece_of(
    missing: NDArray[np.int64], like: NDArray[np.int64], known: NDArray[np.int64]
) -> _Labels:
    """The place of most missing tables, if all of them were moved by one distance."""
    missing = missing[:: -(-len(missing) // _SAMPLED_MISSING) or 1]
    like = like[:: -(-len(like) // _SAMPLED_LIKE) or 1]
    shift = (missing[:, None] - like).reshape(-1)
    near = (np.abs(shift) < FAR) & ~np.isin(shift, known)
    values, count = np.unique(shift[near], return_counts=True)
    highest = int(count.max(initial=0))
    # Tables lie side by side, so distances near the right one have many votes, too.
    likely = values[4 * count >= 3 * highest]
    best = likely[np.argmax(_roundness(likely))] if len(likely) else 0
    others = count[np.abs(values - best) > _NEAR].max(initial=0)
    if highest < max(FEWEST_TABLES, 2 * others):
        return _Labels(np.empty(0, np.int64), np.empty(0, np.int64))
    page = missing[np.isin(missing - best, like)] - best
    return _Labels(page, np.full(len(page), best))


def _between(before: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[int, int]:
    """The first and the last page that may begin a piece, by most of the known pages."""
    pages = np.concatenate((before, after))
    is_after = np.arange(len(pages)) >= len(before)
    order = np.argsort(pages, kind="stable")
    pages, is_after = pages[order], is_after[order]
    # For each possible first page: how many known pages then lie on the wrong side of it.
    wrong = np.append(0, np.cumsum(is_after)) + np.append(np.cumsum(~is_after[::-1])[::-1], 0)
    best = int(np.argmin(wrong))
    low = int(pages[best - 1]) + 1 if best else 0
    return low, int(pages[best]) if best < len(pages) else low


def _roundest(low: int, high: int, before: int, after: int) -> int:
    """The page from `low` to `high` at which a hole in memory most likely was.

    Such holes begin and end at round addresses.
    """
    page = np.arange(low, high + 1)
    return low + int(np.argmax(_roundness(page + before) + _roundness(page + after)))


def _roundness(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each number can be halved; for 0, more often than for any other number."""
    lowest: NDArray[np.float64] = np.log2(np.where(numbers == 0, 2.0**63, numbers & -numbers))
    return lowest
