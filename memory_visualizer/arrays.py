"""Operations that numpy lacks or does slowly: runs, counts of small numbers, distinct values."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.generic)

_AT_ONCE = 1 << 17
"""Frames; numpy makes 8 bytes of each small number that is counted or used as an index. A megabyte
stays in the processor's cache."""
_FEW = 16


def count_values(values: NDArray[np.unsignedinteger[Any]], limit: int) -> NDArray[np.int64]:
    """How often each number below `limit` comes among small ones, as by np.bincount.

    >>> count_values(np.array([2, 0, 2], np.uint8), 3)
    array([1, 0, 2])
    """
    counts = np.zeros(limit, np.int64)
    for start in range(0, values.size, _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        if limit <= _FEW:  # a comparison with each of them takes a tenth of the time
            counts += [np.count_nonzero(some == number) for number in range(limit)]
        else:
            counts += np.bincount(some, minlength=limit)
    return counts


def count_marks(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of each row are true, at most 65,535; faster than np.count_nonzero by rows."""
    counts: NDArray[np.int64] = np.add.reduce(marks, axis=1, dtype=np.uint16).astype(np.int64)
    return counts


def chosen_rows(table: NDArray[_Number], rows: NDArray[np.intp]) -> NDArray[_Number]:
    """``table[rows]`` for ascending rows; not copied if each row follows the one before."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return table[rows[0] : rows[-1] + 1]
    return table[rows]


def distinct(values: NDArray[_Number]) -> NDArray[_Number]:
    """Each of many numbers once, ascending; much faster than np.unique of numpy 2.3 and later."""
    values = np.sort(values)
    is_new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=is_new[1:])
    return values[is_new]


def union(first: NDArray[_Number], second: NDArray[_Number]) -> NDArray[_Number]:
    """Each number of two arrays once, ascending; as np.union1d, which loads numpy.ma."""
    return distinct(np.concatenate((first, second)))


def even_sample(values: NDArray[_Number], limit: int) -> NDArray[_Number]:
    """At most `limit` of the values, from all over them."""
    return values if len(values) <= limit else values[_even_places(len(values), limit)]


def _even_places(count: int, limit: int) -> NDArray[np.intp]:
    """At most `limit` of the numbers below `count`, from all over them."""
    if count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).astype(np.intp)


def sampled(marks: NDArray[np.bool_], limit: int) -> NDArray[np.int64]:
    """At most `limit` of the places that are marked, from all over them.

    As ``even_sample(np.flatnonzero(marks), limit)``, which takes 8 bytes for each marked place.

    >>> sampled(np.array([1, 1, 0, 1, 1, 1], bool), 3)
    array([0, 3, 5])
    """
    starts = range(0, marks.size, _AT_ONCE)
    counts = [int(np.count_nonzero(marks[start : start + _AT_ONCE])) for start in starts]
    chosen = _even_places(sum(counts), limit)
    before = np.cumsum([0, *counts])
    parts = [np.empty(0, np.int64)]
    for start, (first, end) in zip(starts, pairwise(before.tolist()), strict=True):
        some = chosen[slice(*np.searchsorted(chosen, [first, end]))]
        if len(some):
            parts.append(np.flatnonzero(marks[start : start + _AT_ONCE])[some - first] + start)
    return np.concatenate(parts)


def look_up(table: NDArray[_Number], index: NDArray[np.unsignedinteger[Any]]) -> NDArray[_Number]:
    """``table[index]`` for many small numbers."""
    found = np.empty(index.size, table.dtype)
    for start in range(0, index.size, _AT_ONCE):
        found[start : start + _AT_ONCE] = table[index[start : start + _AT_ONCE]]
    return found


def are_among(codes: NDArray[np.uint8], chosen: Iterable[int]) -> NDArray[np.bool_]:
    """Which codes are among a few chosen ones; np.isin takes twenty times as long."""
    found = np.zeros(codes.shape, bool)
    for code in chosen:
        found |= codes == code
    return found


def changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows differ from the row before; the first one does."""
    different = np.ones(len(columns[0]), bool)
    np.not_equal(columns[0][1:], columns[0][:-1], out=different[1:])
    for column in columns[1:]:
        different[1:] |= column[1:] != column[:-1]
    return different


def add_runs(counts: NDArray[np.uint32], begin: NDArray[np.int64], end: NDArray[np.int64]) -> None:
    """Add one to ``counts[begin[i] : end[i]]`` for every i; runs may overlap."""
    begin, end = np.sort(begin), np.sort(end)
    for start in range(0, counts.size, _AT_ONCE):
        some = counts[start : start + _AT_ONCE]
        # The number of runs that cover a frame: runs that began up to there, minus runs that ended.
        covered = np.zeros(some.size, np.int32)
        edges = [start, start + some.size]
        covered[0] = np.searchsorted(begin, start) - np.searchsorted(end, start)
        for places, one in ((begin, np.int32(1)), (end, np.int32(-1))):
            here = places[slice(*np.searchsorted(places, edges))]
            np.add.at(covered, here - start, one)
        np.cumsum(covered, out=covered)
        some += covered.view(np.uint32)


def mark_runs(marks: NDArray[np.bool_], first: NDArray[np.int64], count: NDArray[np.int64]) -> None:
    """Set ``marks[first[i] : first[i] + count[i]]`` for every i; runs may overlap.

    All runs must lie within `marks`, and have at least one frame.
    """
    single = count == 1
    marks[first[single]] = True
    if single.all():
        return
    runs = joined_runs(np.stack((first[~single], count[~single]), axis=1))
    if len(runs) <= _FEW_RUNS:
        for begin, length in runs.tolist():
            marks[begin : begin + length] = True
        return
    low, high = int(runs[0, 0]), int(runs[-1].sum())
    inside = np.zeros(high - low + 1, np.int8)  # 1 where a run begins, -1 behind its end
    inside[runs[:, 0] - low] = 1
    inside[runs.sum(axis=1) - low] = -1
    np.cumsum(inside, dtype=np.int8, out=inside)
    marks[low:high] |= inside[:-1].view(bool)


_FEW_RUNS = 1 << 12
"""Up to so many runs are marked one by one, which is faster than a column with all their ends."""


def count_marked(
    marks: NDArray[np.bool_], first: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The number of marks in ``marks[first[i] : end[i]]`` for every i; runs may overlap."""
    edges = distinct(np.concatenate((first, end)))
    before = np.zeros(len(edges), np.int64)
    if len(edges):
        pairs = pairwise(edges.tolist())
        np.cumsum([np.count_nonzero(marks[a:b]) for a, b in pairs], out=before[1:])
    found: NDArray[np.int64] = before[np.searchsorted(edges, end)]
    found -= before[np.searchsorted(edges, first)]
    return found


def runs_in(frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """The runs of some ascending frames, each once; as `Dump.runs`."""
    return merge_runs(frames, np.ones(len(frames), np.int64))


def merge_runs(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the adjacent ones of some ascending stretches of frames; as `Dump.runs`."""
    if not len(first):
        return np.empty((0, 2), np.int64)
    begins = np.concatenate(([True], first[1:] != (first + count)[:-1]))
    starts = np.flatnonzero(begins)
    return np.stack((first[starts], np.add.reduceat(count, starts)), axis=1)


def runs_without(runs: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frames of some runs that lie in none of the other runs; all runs have shape (n, 2)."""
    columns = [column for some in (runs, others) for column in (some[:, 0], some.sum(axis=1))]
    edges = np.unique(np.concatenate(columns))
    first, count = edges[:-1], np.diff(edges)
    chosen = _covers(runs, first) & ~_covers(others, first)
    return merge_runs(first[chosen], count[chosen]) if chosen.any() else np.empty((0, 2), np.int64)


def joined_runs(*parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frames that lie in any of some runs, which may overlap; as `Dump.runs`."""
    runs = np.concatenate(parts)
    if not len(runs):
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    end = np.maximum.accumulate(runs.sum(axis=1))
    starts = np.flatnonzero(np.concatenate(([True], runs[1:, 0] > end[:-1])))
    last = np.append(starts[1:], len(runs)) - 1
    first = runs[starts, 0]
    return np.stack((first, end[last] - first), axis=1)


def _covers(runs: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames lie in one of some runs."""
    run = np.searchsorted(runs[:, 0], frames, side="right") - 1
    covered: NDArray[np.bool_] = (run >= 0) & (frames < runs[run].sum(axis=1))
    return covered


_QUADS_AT_ONCE = 1 << 16


def places_of_text(
    text: bytes, contents: NDArray[np.uint8], limit: int, *, step: int = 1
) -> list[int]:
    """The first places, so many at most, where a text of 8 bytes or more stands.

    Only multiples of `step`, which is 1, 2 or 4, are searched.

    Words of four bytes are compared, of which some are aligned wherever the text lies: in pages of
    zeros and numbers that takes a tenth of the time of `bytes.find`.

    >>> places_of_text(b"texttext", np.frombuffer(b"-" * 5 + b"text" * 2 + b"-" * 11, np.uint8), 9)
    [5]
    """
    quads, found = contents[: len(contents) // 4 * 4].view("<u4"), list[int]()
    for first in range(0, len(quads), _QUADS_AT_ONCE):
        starts = [_starts_of(text, quads, first, shift) for shift in range(0, 4, step)]
        for start in np.sort(np.concatenate(starts)).tolist():
            if start >= 0 and contents[start : start + len(text)].tobytes() == text:
                found.append(start)
            if len(found) == limit:
                return found
    return found


def _starts_of(text: bytes, quads: NDArray[np.uint32], first: int, shift: int) -> NDArray[np.intp]:
    """Where a text may begin by its whole words from `shift` on, if these are aligned."""
    words = np.frombuffer(text, "<u4", (len(text) - shift) // 4, shift)
    place = first + np.flatnonzero(quads[first : first + _QUADS_AT_ONCE] == words[0])
    for number, word in enumerate(words[1:], 1):
        if not len(place):
            break
        place = place[place + number < len(quads)]
        place = place[quads[place + number] == word]
    return place * 4 - shift


_STEPS_AT_ONCE = 8
_PLACES_AT_ONCE = 1 << 16
"""As many as fit into a processor's cache together with the results."""


def follow(steps: NDArray[np.int32], limit: int) -> NDArray[np.int64]:
    """The places from 0 on; `steps` tells for each place the distance to the next.

    Ends behind the last place, or when there are `limit`. All steps must be above 0.

    >>> follow(np.array([2, 1, 1, 3, 1], np.int32), 9)
    array([0, 2, 3])
    """
    batches, place = [np.empty(0, np.int64)], 0
    for start in range(0, len(steps), _PLACES_AT_ONCE):
        part = steps[start : start + _PLACES_AT_ONCE]
        if start <= place < start + len(part) and limit > 0:
            found = _followed(part, place - start)[:limit]
            place = start + int(found[-1]) + int(part[found[-1]])
            limit -= len(found)
            batches.append(found + start)
    return np.concatenate(batches)


def _followed(steps: NDArray[np.int32], place: int) -> NDArray[np.int64]:
    end = len(steps)
    ahead = np.full(end + 1, end, np.int64)
    np.minimum(np.arange(end) + steps, end, out=ahead[:end])
    # The place that so many steps lead to, for all places at once: so fewer are taken one by one.
    far = ahead
    for _ in range(_STEPS_AT_ONCE.bit_length() - 1):
        far = far.take(far, mode="clip")
    places, leads = list[int](), far.data
    while place < end:
        places.append(place)
        place = leads[place]
    rows = np.empty((_STEPS_AT_ONCE, len(places)), np.int64)
    rows[0] = places
    for before, row in pairwise(rows):
        ahead.take(before, out=row, mode="clip")
    found = rows.T.ravel()
    return found[found < end]
