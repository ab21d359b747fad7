"""Bitmaps of page frames, against numpy's own unpacking of all bits at once."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats import bitmap
from memory_visualizer.formats.bitmap import Bitmap

_AHEAD = b"\xff" * 3
"""Bytes of the file before the bitmap."""
_NAME = Path("some dump")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bitmap") / "dump"


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """Pieces of two bytes, so that a few bytes have many edges between pieces."""
    with patch.object(bitmap, "_FRAMES_AT_ONCE", 16):
        yield


def _bits(data: bytes, count: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:count]
    return bits.view(np.bool_)


def _frames(runs: NDArray[np.int64]) -> list[int]:
    """The frames of runs; runs are ascending, not empty, and do not adjoin."""
    first, count = runs.T
    assert runs.dtype == np.int64
    assert (count > 0).all()
    assert (first[1:] > (first + count)[:-1]).all()
    return [frame for first, count in runs.tolist() for frame in range(first, first + count)]


# Dumps have long stretches of equal bits, and these meet the edges of pieces.
_data = st.lists(
    st.one_of(st.binary(max_size=3), st.sampled_from([b"\0" * 4, b"\xff" * 4])), max_size=6
).map(b"".join)


@given(_data, st.data())
def test_pieces_and_count(path: Path, data: bytes, draw: st.DataObject) -> None:
    frames = draw.draw(st.integers(0, len(data) * 8))
    path.write_bytes(_AHEAD + data + b"\xff")
    with path.open("rb") as file:
        some = Bitmap(_NAME, file, len(_AHEAD), frames)
        pieces = list(some.pieces())
        count = some.count()
    expected = _bits(data, frames)
    np.testing.assert_array_equal(
        np.concatenate([np.empty(0, np.bool_), *(bits for _, bits in pieces)]), expected
    )
    assert [start for start, _ in pieces] == list(range(0, frames, 16))
    assert count == np.count_nonzero(expected)


@given(_data, st.data())
def test_runs(path: Path, data: bytes, draw: st.DataObject) -> None:
    frames = draw.draw(st.integers(0, len(data) * 8))
    first, end = draw.draw(st.tuples(*[st.integers(0, 300) | st.just(2**64)] * 2))
    path.write_bytes(_AHEAD + data + b"\xff")
    with path.open("rb") as file:
        some = Bitmap(_NAME, file, len(_AHEAD), frames)
        runs, within = some.runs(), some.runs(first, end)
    expected = np.flatnonzero(_bits(data, frames)).tolist()
    assert _frames(runs) == expected
    assert _frames(within) == [frame for frame in expected if first <= frame < end]


@given(_data, st.data())
def test_runs_without_those_of_another(path: Path, data: bytes, draw: st.DataObject) -> None:
    other = draw.draw(st.binary(min_size=len(data), max_size=len(data)))
    path.write_bytes(data + other)
    with path.open("rb") as file:
        some = Bitmap(_NAME, file, 0, len(data) * 8)
        without = Bitmap(_NAME, file, len(data), len(data) * 8)
        runs = some.runs(without=without)
    bits = _bits(data, len(data) * 8) & ~_bits(other, len(data) * 8)
    assert _frames(runs) == np.flatnonzero(bits).tolist()


@given(_data.filter(len), st.data())
def test_one_that_the_file_cuts(path: Path, data: bytes, draw: st.DataObject) -> None:
    frames = draw.draw(st.integers(len(data) * 8 + 1, len(data) * 8 + 100))
    path.write_bytes(data)
    with path.open("rb") as file:
        some = Bitmap(_NAME, file, 0, frames)
        for read in (some.runs, some.count, lambda: list(some.pieces())):
            with pytest.raises(BadInputError, match=r"^some dump ends within the bitmap of its"):
                read()


def test_too_many_runs(path: Path) -> None:
    path.write_bytes(b"\x55" * 100)
    with path.open("rb") as file, patch.object(bitmap, "MAX_RUNS", 399):
        assert len(Bitmap(_NAME, file, 0, 798).runs()) == 399
        with pytest.raises(BadInputError, match=r"^some dump has more than 399 runs of pages$"):
            Bitmap(_NAME, file, 0, 800).runs()
