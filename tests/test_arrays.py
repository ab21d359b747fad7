"""Runs of frames, beside sets of frames."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_visualizer.arrays import joined_runs, runs_without

_FRAME, _COUNT = st.integers(0, 60), st.integers(1, 9)
_any_runs = st.lists(st.tuples(_FRAME, _COUNT), max_size=12)


def _array(runs: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(runs, np.int64).reshape(-1, 2)


def _frames(runs: NDArray[np.int64]) -> list[int]:
    return [frame for first, count in runs.tolist() for frame in range(first, first + count)]


def _are_runs(runs: NDArray[np.int64]) -> bool:
    """Ascending, none of them adjacent."""
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
