"""Pages that the machine has and the dump leaves out."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memory_visualizer.picture.colouring import COLOURINGS, colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.palette import PALETTES
from tests.snapshot.test_snapshot import labels
from tests.viewer.page import (
    ABSENT,
    HOLE,
    LEFT_OUT,
    USER,
    Filtered,
    by_frame,
    card_of,
    choose,
    expected_legend,
    lit,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_left_out_pages_under_the_pointer(
    open_page: Callable[..., "Page"], filtered: Filtered
) -> None:
    """The card tells them from absent and from held pages, and shows their owners."""
    page = open_page(filtered.page)
    owned = [frame for frame in filtered.left.tolist() if filtered.owners.get(frame)]
    others = sorted({*filtered.left.tolist()} - {*owned})
    rng = np.random.default_rng(7)
    for frame in [*rng.choice(owned, 6).tolist(), *rng.choice(others, 6).tolist()]:
        told = card_of(page, frame)
        assert told["class"] == LEFT_OUT
        assert told["pfn"] == f"PFN {frame:#x} ({frame:,})"
        assert "Contents" not in told and "Entropy" not in told
        owners = filtered.owners.get(frame, {})
        assert len(told["owners"]) == min(len(owners), 6)
        assert told["owners"].items() <= owners.items()
        assert "The machine has this page." in page.locator("#passing .note").inner_text()
    absent = card_of(page, HOLE[0] + 5)
    assert absent["class"] == ABSENT
    assert page.locator("#passing .note").inner_text() == "The dump does not hold this page."
    held = np.setdiff1d(np.flatnonzero(filtered.classes == USER), filtered.left)
    assert "Contents" in card_of(page, int(held[0]))


def test_left_out_pages_in_the_legend(open_page: Callable[..., "Page"], filtered: Filtered) -> None:
    """The legend has their number, a switch, and their own colour."""
    page = open_page(filtered.page)
    np.testing.assert_array_equal(labels(filtered.snapshot), filtered.classes)
    everything = set(range(filtered.truth.frames))
    left = set(filtered.left.tolist())
    row = page.locator("#legend-entries label", has_text=LEFT_OUT).inner_text().split("\n")
    assert row == expected_legend({LEFT_OUT: len(left)})[0]
    assert lit(page, filtered) == everything
    page.get_by_role("checkbox", name=LEFT_OUT).click()
    assert lit(page, filtered) == everything - left
    page.get_by_role("button", name="Show all").click()
    page.locator("#legend-entries li", has_text=LEFT_OUT).hover()
    page.get_by_role("button", name=f"Only {LEFT_OUT}").click()
    assert lit(page, filtered) == left


def test_choosing_a_process_lights_its_left_out_pages(
    open_page: Callable[..., "Page"], filtered: Filtered
) -> None:
    page = open_page(filtered.page)
    [pid] = [process.pid for process in filtered.truth.processes if process.name == "lsass.exe"]
    choose(page, "lsass.exe")
    expected = filtered.frames_of(pid)
    assert expected & set(filtered.left.tolist())
    assert lit(page, filtered) == expected


@pytest.mark.parametrize(
    "name", [name for name in COLOURINGS if name not in ("state", "use", "file")]
)
@pytest.mark.many
def test_left_out_pages_equal_the_png(
    open_page: Callable[..., "Page"], filtered: Filtered, name: str
) -> None:
    """In each colouring all pixels are equal, and the legend has the same counts."""
    page = open_page(filtered.page)
    page.select_option("#color", name)
    measured = entropy(filtered.snapshot.dump)
    colouring = colour_by(name, filtered.snapshot, PALETTES["default"], lambda: measured)
    colours = np.array([swatch.colour for swatch in colouring.swatches], np.uint8)
    np.testing.assert_array_equal(by_frame(page, filtered), colours[colouring.values])
    for swatch, count in zip(colouring.swatches, colouring.counts(), strict=True):
        if swatch.label == LEFT_OUT:
            row = page.locator("#legend-entries label", has_text=LEFT_OUT).inner_text()
            assert row.split("\n")[1] == f"{count:,}"
