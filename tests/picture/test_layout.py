"""Layouts: each frame has its pixel, and neighbours along the curve stay neighbours."""

import numpy as np
import pytest

from memory_visualizer.picture.layout import (
    arrange_hilbert,
    arrange_rows,
    hilbert_frames,
)


@pytest.mark.parametrize(
    ("frame_count", "side"), [(1, 1), (2, 2), (4, 2), (5, 3), (131_072, 363), (262_144, 512)]
)
def test_rows_are_the_smallest_square(frame_count: int, side: int) -> None:
    """The square is as in the seed's pictures: 363 x 363 for 512 MiB."""
    assert arrange_rows(np.zeros(frame_count, np.uint8)).shape == (side, side)


@pytest.mark.parametrize(("frame_count", "width"), [(7, 3), (6, 3), (2, 5), (10, None), (1, 1)])
def test_frames_lie_in_rows(frame_count: int, width: int | None) -> None:
    """The first frame is top left, and rows go left to right, top to bottom; the rest is beyond."""
    rows = arrange_rows(np.arange(frame_count), width, beyond=-1)
    if width:
        assert rows.shape[1] == width
        assert (rows.shape[0] - 1) * width < frame_count <= rows.shape[0] * width
    for y, x in np.ndindex(rows.shape):
        pfn = y * rows.shape[1] + x
        assert rows[y, x] == (pfn if pfn < frame_count else -1)


COUNTS = [1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 100, 1000, 4096, 70_000]


@pytest.mark.parametrize("frame_count", COUNTS)
def test_neighbours_in_memory_are_neighbours_on_the_curve(frame_count: int) -> None:
    """Each frame is one pixel beside the previous one, and no pixel is used twice."""
    pixels = arrange_hilbert(np.arange(frame_count), beyond=-1)
    y, x = np.nonzero(pixels >= 0)
    order = np.argsort(pixels[y, x])
    assert np.array_equal(pixels[y, x][order], np.arange(frame_count))
    steps = np.abs(np.diff(y[order])) + np.abs(np.diff(x[order]))
    assert (steps == 1).all()
    assert pixels[0, 0] == 0


@pytest.mark.parametrize("frame_count", COUNTS)
def test_the_square_holds_no_more_than_it_must(frame_count: int) -> None:
    """A side is a power of two; the width is half of it if all frames are in the left half."""
    height, width = arrange_hilbert(np.zeros(frame_count, np.uint8)).shape
    assert height & (height - 1) == 0
    assert width in (height, height // 2)
    assert height * width < 4 * frame_count


def test_known_curve() -> None:
    """The second order equals the textbooks' curve that begins downwards."""
    assert arrange_hilbert(np.arange(16)).tolist() == [
        [0, 1, 14, 15],
        [3, 2, 13, 12],
        [4, 7, 8, 11],
        [5, 6, 9, 10],
    ]


@pytest.mark.parametrize("order", [0, 1, 2, 5, 8])
def test_frames_by_pixel(order: int) -> None:
    """The inverse, computed pixel by pixel, agrees with the arrangement."""
    y, x = np.indices((1 << order, 1 << order))
    assert np.array_equal(hilbert_frames(x, y, order), arrange_hilbert(np.arange(4**order)))
