"""Which addresses lie in the kernel's images if their headers are false."""

import numpy as np

from memory_visualizer.windows.kernelimages import Images

PAGE = 4096


def images(*pages: tuple[int, int]) -> Images:
    """Images by their first page and the page behind their last one."""
    start, end = (
        np.array(column, np.uint64) * np.uint64(PAGE) for column in zip(*pages, strict=True)
    )
    return Images(start, end)


def held(found: Images, end: int) -> list[int]:
    """The pages below `end` that lie in an image."""
    return np.flatnonzero(found.hold(np.arange(end, dtype=np.uint64) * np.uint64(PAGE))).tolist()


def test_a_false_header_inside_a_driver_hides_nothing() -> None:
    assert held(images((10, 30), (15, 17)), 40) == [*range(10, 30)]


def test_a_false_size_does_not_swallow_many_images() -> None:
    """Such an image ends at the first swallowed image, so pages between images are in none."""
    real = [(20, 22), (30, 33), (40, 41), (50, 52), (60, 61)]
    inside = [page for start, end in real for page in range(start, end)]
    assert held(images((10, 100), *real), 120) == [*range(10, 20), *inside]


def test_images_side_by_side() -> None:
    assert held(images((1, 3), (3, 4), (9, 11)), 12) == [1, 2, 3, 9, 10]
