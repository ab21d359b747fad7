"""Runs of frames, compared with sets of frames."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_visualizer import arrays
from memory_visualizer.arrays import (
    add_runs,
    are_among,
    chosen_rows,
    count_marked,
    count_marks,
    joined_runs,
    mark_runs,
    places_of_text,
    runs_without,
    sampled,
)

_FRAME, _COUNT = st.integers(0, 60), st.integers(1, 9)
_any_runs = st.lists(st.tuples(_FRAME, _COUNT), max_size=12)


def _array(runs: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(runs, np.int64).reshape(-1, 2)


def _frames(runs: NDArray[np.int64]) -> list[int]:
    return [frame for first, count in runs.tolist() for frame in range(first, first + count)]


def _are_runs(runs: NDArray[np.int64]) -> bool:
    """Whether runs ascend and do not adjoin."""
    return bool((runs[1:, 0] > runs[:-1].sum(axis=1)).all())


@given(st.lists(_any_runs, min_size=1, max_size=3))
def test_joined_runs(parts: list[list[tuple[int, int]]]) -> None:
    joined = joined_runs(*map(_array, parts))
    expected = {frame for part in parts for frame in _frames(_array(part))}
    assert _frames(joined) == sorted(expected)
    assert _are_runs(joined)


@given(_any_runs.filter(len), _any_runs.filter(len))
def test_runs_without(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    held, lost = joined_runs(_array(some)), joined_runs(_array(others))
    left = runs_without(held, lost)
    assert _frames(left) == sorted({*_frames(held)} - {*_frames(lost)})
    assert _are_runs(left)


@given(_any_runs)
def test_runs_across_pieces(runs: list[tuple[int, int]]) -> None:
    """Runs are counted and marked in pieces of a few frames, as one by one."""
    rows = _array(runs)
    expected = [sum(first <= frame < first + count for first, count in runs) for frame in range(70)]
    counts, marks = np.zeros(70, np.uint32), np.zeros(70, bool)
    with patch.object(arrays, "_AT_ONCE", 7):
        add_runs(counts, rows[:, 0], rows.sum(axis=1))
        mark_runs(marks, rows[:, 0], rows[:, 1])
    assert counts.tolist() == expected
    assert marks.tolist() == [count > 0 for count in expected]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20))
def test_samples_of_marks(marks: list[bool], limit: int) -> None:
    """Places are chosen in pieces of a few: from the first to the last, about as far apart."""
    places = [place for place, mark in enumerate(marks) if mark]
    with patch.object(arrays, "_AT_ONCE", 7):
        found = sampled(np.array(marks, bool), limit).tolist()
    assert len(found) == min(len(places), limit)
    rows = [places.index(place) for place in found]
    assert rows[:1] == [0][: len(places)]
    if limit > 1:
        assert found[-1:] == places[-1:]
        steps = [after - before for before, after in pairwise(rows)]
        assert not steps or max(steps) - min(steps) <= 1


@given(_any_runs, st.lists(st.booleans(), min_size=70, max_size=70))
def test_count_marked(runs: list[tuple[int, int]], marks: list[bool]) -> None:
    first, count = _array(runs).T
    found = count_marked(np.array(marks), first, first + count)
    assert found.tolist() == [sum(marks[start : start + size]) for start, size in runs]


@given(st.lists(st.integers(0, 255)), st.lists(st.integers(0, 255), max_size=4))
def test_are_among(codes: list[int], chosen: list[int]) -> None:
    found = are_among(np.array(codes, np.uint8), chosen)
    assert found.tolist() == [code in chosen for code in codes]


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=20))
def test_rows(marks: list[list[bool]]) -> None:
    table = np.array(marks)
    assert count_marks(table).tolist() == [sum(row) for row in marks]
    for rows in (np.flatnonzero(table[:, 0]), np.flatnonzero(table.any(axis=1))):
        assert chosen_rows(table, rows).tolist() == [marks[row] for row in rows]


@given(st.lists(st.sampled_from((b"textual, ", b"textual", b"-", b"--")), max_size=30))
def test_places_of_text(pieces: list[bytes]) -> None:
    contents, text = b"".join(pieces), b"textual, "
    places = [at for at in range(len(contents)) if contents.startswith(text, at)]
    for step in (1, 2, 4):
        found = places_of_text(text, np.frombuffer(contents, np.uint8), 99, step=step)
        assert found == [at for at in places if at % step == 0]
