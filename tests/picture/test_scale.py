"""Pictures in which each pixel stands for many pages."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_visualizer.arrays import runs_in
from memory_visualizer.errors import BadInputError
from memory_visualizer.picture.changes import picture_of_changes
from memory_visualizer.picture.colouring import Colouring, Swatch, by_class
from memory_visualizer.picture.folding import long_holes, long_holes_between
from memory_visualizer.picture.layout import LAYOUTS, arrange, shape_of
from memory_visualizer.picture.painting import Painting, paint
from memory_visualizer.picture.palette import DEFAULT
from memory_visualizer.picture.panel import ticks
from memory_visualizer.picture.scale import Scale, majority, percent
from memory_visualizer.snapshot.pagemap import PageMap


def some_classes(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Runs of classes, with other pages among them."""
    rng = np.random.default_rng(seed)
    stretches = np.repeat(rng.integers(7, size=count // 37 + 1), 37)[:count].astype(np.uint8)
    return np.where(rng.random(count) < 0.3, rng.integers(7, size=count), stretches).astype(
        np.uint8
    )


def painted(classes: NDArray[np.uint8], layout: str = "rows", scale: str | int = 1) -> Painting:
    page_map = PageMap(classes, np.zeros(len(classes), bool))
    return paint(by_class(page_map, DEFAULT), layout, scale=Scale.of(scale))


def most(pages: list[int]) -> int:
    """The most frequent class, computed in another way than by the program."""
    there = [one for one in pages if one] or [0]
    votes = Counter(sorted(there))
    return max(votes, key=lambda one: (votes[one], -one))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.integers(2, 4),
    st.sets(st.integers(0, 4)),
)
def test_majority(values: list[int], part: int, absent: set[int]) -> None:
    """Absent values count only if all are absent; all other values that lose are counted."""
    pages = part * part
    is_absent = np.isin(np.arange(5), list(absent))
    pixels, lost = majority(np.array(values, np.uint8), pages, is_absent)
    groups = [values[start : start + pages] for start in range(0, len(values), pages)]
    for group, pixel in zip(groups, pixels.tolist(), strict=True):
        voters = [one for one in group if one not in absent] or group
        assert voters.count(pixel) == max(map(voters.count, voters))
        assert pixel == min(one for one in voters if voters.count(one) == voters.count(pixel))
    there = [
        one == pixel
        for group, pixel in zip(groups, pixels.tolist(), strict=True)
        for one in group
        if one not in absent
    ]
    assert lost == pytest.approx(there.count(False) / len(there) if there else 0)


def test_of_many_colours_and_pages() -> None:
    """Batches do not change the result."""
    values = np.random.default_rng(1).integers(3000, size=400_000).astype(np.uint16)
    pixels, _ = majority(values, 64 * 64, np.arange(3000) == 0)
    for number in (0, 1, 50, len(pixels) - 1):
        assert pixels[number] == most(values[number * 4096 : number * 4096 + 4096].tolist())


@pytest.mark.parametrize("part", [2, 4, 16])
def test_a_square_of_the_curve(part: int) -> None:
    """On Hilbert's curve a pixel stands for a square of the full picture."""
    full = painted(some_classes(64 * 64), "hilbert").pixels
    small = painted(some_classes(64 * 64), "hilbert", f"1/{part}").pixels
    assert small.shape == (64 // part, 64 // part)
    for (y, x), pixel in np.ndenumerate(small):
        square = full[y * part : (y + 1) * part, x * part : (x + 1) * part]
        assert pixel == most(square.ravel().tolist())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 15, 16, 17, 1000, 4097])
def test_pages_that_follow_one_another(layout: str, count: int) -> None:
    """Each pixel stands for the next sixteen pages, in all layouts."""
    classes = some_classes(count)
    votes = [most(classes[start : start + 16].tolist()) for start in range(0, count, 16)]
    expected = arrange(np.array(votes, np.uint8), layout)
    assert np.array_equal(painted(classes, layout, "1/4").pixels, expected)
    assert shape_of(len(votes), layout) == expected.shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_holes(layout: str) -> None:
    """A hole is folded if none of its pixels has a page; all other pages are drawn."""
    classes = some_classes(300_000) % 6 + 1
    classes[70_001:230_003] = 0
    holes = long_holes(classes > 0)
    colouring = Colouring("class", classes, tuple(Swatch(str(n), (n, n, n)) for n in range(7)))
    painting = paint(colouring, layout, None, None, holes, Scale.of("1/8"))
    [fold] = painting.plan.folds
    assert fold.first == -(-70_001 // 64) and fold.first + fold.count == 230_003 // 64
    text = painting.plan.described()
    assert f"fold {fold.first * 64 * 4096:#x} {fold.count * 64 * 4096:#x}" in text
    drawn = {*range(fold.first), *range(fold.first + fold.count, -(-300_000 // 64))}
    places = painting.plan.place_of(np.array(sorted(drawn)))
    votes = [most(classes[one * 64 : one * 64 + 64].tolist()) for one in sorted(drawn)]
    order = arrange(np.arange(painting.pixels.size), layout, painting.pixels.shape[1] or None)
    if layout == "hilbert":
        order = arrange(np.arange(painting.pixels.size), layout)
    by_place = np.zeros(painting.pixels.size, np.uint8)
    by_place[order.ravel()] = painting.pixels.ravel()
    assert by_place[places].tolist() == votes
    # Addresses on the left are those of pages, not of pixels.
    marks = ticks(painting.plan, painting.pixels.shape, 1, 1)
    assert marks[0] == (0, "0x0")
    frames = [int(label.split()[0], 16) // 4096 for _, label in marks]
    assert max(frames) > 230_003 and all(frame % 64 == 0 for frame in frames)


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 9000)), min_size=1, max_size=9))
def test_holes_by_runs(stretches: list[tuple[int, int]]) -> None:
    """Holes from runs equal holes from frames."""
    there = np.concatenate([np.repeat([False, True], stretch) for stretch in stretches])
    assert long_holes_between(runs_in(np.flatnonzero(there))) == long_holes(there)


def test_a_few_pages_in_a_hole_are_seen() -> None:
    classes = np.zeros(16 * 16, np.uint8)
    classes[100] = 2
    painting = painted(classes, scale="1/4")
    assert np.count_nonzero(painting.pixels == 2) == 1 and painting.lost == 0


def test_dimmed() -> None:
    """Bright and pale pages vote as different colours."""
    classes = np.full(64, 3, np.uint8)
    page_map = PageMap(classes, np.zeros(64, bool))
    dimmed = np.arange(64) % 16 < 7
    painting = paint(by_class(page_map, DEFAULT), "rows", None, dimmed, (), Scale.of("1/4"))
    assert (painting.pixels == 3).all() and painting.lost == 7 / 16


def test_of_changes() -> None:
    codes = np.repeat(np.array([1, 2], np.uint8), 512)
    picture = picture_of_changes(codes, "a > b", scale="1/8", with_legend=False)
    assert picture.pixels.ravel().tolist() == [1] * 8 + [2] * 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_largest_dump(layout: str) -> None:
    """16 TiB of pages have too many pixels, and the error advises a scale that works."""
    swatches = by_class(PageMap(np.zeros(1, np.uint8), np.zeros(1, bool)), DEFAULT).swatches
    every = Colouring("class", np.broadcast_to(np.uint8(3), 2**32), swatches)
    with pytest.raises(BadInputError, match=r"65,536 x 65,536 pixels.* such as --scale 1/2$"):
        paint(every, layout)


def test_texts() -> None:
    assert str(Scale.of(3)) == "3" and str(Scale.of("1/16")) == "1/16"
    assert Scale.of(2).described(0) == "2 x 2 pixels = one page of 4 KiB"
    assert Scale.of("1/16").described(0.031).startswith("one pixel = 256 pages (1 MiB)")
    assert percent(0.5) == "50.0 %" and percent(1e-9) == "less than 0.1 %"
