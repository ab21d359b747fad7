"""Accessibility: names, contrast, keys, paper, small screens."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memory_visualizer import PageClass
from memory_visualizer.picture.palette import DARK, PALETTES
from tests.conftest import both_browsers
from tests.viewer.page import ZEROS, Dump, assert_axe_finds_nothing, by_frame, place, put_on_paper

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_every_control_has_a_name(page: "Page") -> None:
    page.mouse.click(*place(page, 40))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(
                "button, input, select, textarea, summary, dialog, [tabindex], [role]")]
            .filter((element) => {
                const labelled = element.getAttribute("aria-labelledby");
                const name = element.getAttribute("aria-label")
                    || (labelled && document.getElementById(labelled)?.textContent)
                    || [...(element.labels ?? [])].map((label) => label.textContent).join("")
                    || (element.matches("button, summary") && element.textContent);
                return !(name || "").trim() && !element.matches("[role=status], [role=alert]")
                    && !element.hidden;
            }).map((element) => element.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(({ id }) => id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page: Callable[..., "Page"], dump: Dump, scheme: str) -> None:
    """All text has WCAG 2.1's contrast of 4.5 to 1, in light and dark."""
    page = open_page(dump.page, color_scheme=scheme)
    page.mouse.click(*place(page, 40))
    found = page.evaluate(
        """() => [...document.querySelectorAll("header *, aside *, footer *, .card *")]
            .filter((element) => element.checkVisibility() && element.childNodes.length
                && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            .map((element) => {
                const paper = (of) => getComputedStyle(of).backgroundColor;
                let behind = element;
                while (/, 0\\)$|transparent/.test(paper(behind)) && behind.parentElement)
                    behind = behind.parentElement;
                const ink = getComputedStyle(element).color;
                return [element.textContent.slice(0, 30), ink, paper(behind)];
            })"""
    )

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    assert len(found) > 40
    for text, ink, paper in found:
        low, high = sorted((luminance(ink), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ink, paper)


@pytest.mark.parametrize("palette", PALETTES)
def test_dark_is_dark(open_page: Callable[..., "Page"], dump: Dump, palette: str) -> None:
    """Zeros in the map are dark, and legend and map have the dark palette's colours."""
    page = open_page(dump.page, f"#palette={palette}", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != light
    dark = np.array([DARK[palette][page_class] for page_class in PageClass], np.uint8)
    shown = by_frame(page, dump)
    np.testing.assert_array_equal(shown, dark[dump.snapshot.classes])
    assert shown[dump.classes == ZEROS].max() < 64
    swatches = page.locator("#legend-entries .swatch").evaluate_all(
        "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert swatches == [f"rgb({r}, {g}, {b})" for r, g, b in dark[:-1].tolist()]
    page.emulate_media(color_scheme="light")
    classes = np.array([PALETTES[palette][page_class] for page_class in PageClass], np.uint8)
    np.testing.assert_array_equal(by_frame(page, dump), classes[dump.snapshot.classes])


@both_browsers
def test_tab_reaches_everything_and_shows_where_it_is(page: "Page") -> None:
    """The first stop leads to the map; each list is one stop, in which arrows move."""
    wanted = {
        "skip",
        "layout",
        "color",
        "palette",
        "goto-kind",
        "goto-number",
        "help-open",
        "search",
        "map",
    }
    wanted |= {"strip", "zoom-in", "zoom-out", "zoom-fit", "entry-0"}
    met: list[str] = []
    while "strip" not in met and len(met) < 32:  # the browser's own buttons come next
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => [document.activeElement.id,
                getComputedStyle(document.activeElement).outlineStyle]"""
        )
        met.append(name)
        assert outline == "solid" or not name, name
    assert met[0] == "skip"
    assert wanted <= set(met)
    assert met.index("map") < 24
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "map"
    page.locator("#entry-0").focus()
    for key, focused in (
        ("ArrowDown", "entry-1"),
        ("ArrowRight", "only-1"),
        ("ArrowDown", "only-2"),
        ("ArrowLeft", "entry-2"),
        ("ArrowUp", "entry-1"),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == focused
    page.keyboard.press("Space")
    assert not page.locator("#entry-1").is_checked()
    assert page.evaluate("document.activeElement.id") == "entry-1"


@both_browsers
def test_print(open_page: Callable[..., "Page"], dump: Dump) -> None:
    """Paper has map, strip, legend and processes, and no controls."""
    page = open_page(dump.page, color_scheme="dark")
    put_on_paper(page)
    for part in ("h1", "#map", "#strip", "#legend-entries .label", "#process-rows .name"):
        assert page.locator(part).first.is_visible()
    for part in ("#goto", "#choices", "#zoom", "#search", "#help-open", "#entry-0"):
        assert page.locator(part).first.is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.locator("#map").focus()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "none"
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")


@pytest.mark.parametrize(
    ("browser", "width", "height", "scheme"),
    [
        *(
            ("chromium", width, height, scheme)
            for width, height in ((1280, 860), (800, 700), (390, 800))
            for scheme in ("light", "dark")
        ),
        ("firefox", 1280, 860, "light"),
        ("firefox", 390, 800, "light"),
    ],
    indirect=["browser"],
)
@pytest.mark.many
def test_axe_finds_nothing(
    open_page: Callable[..., "Page"], dump: Dump, width: int, height: int, scheme: str
) -> None:
    """No rule of axe-core (Deque) fails with a pinned page, chosen processes, and the side open."""
    frame = max(dump.owners, key=lambda frame: (len(dump.owners[frame]), -frame))
    viewport = {"width": width, "height": height}
    page = open_page(dump.page, f"#pin={frame:x}&show=3,4", viewport=viewport, color_scheme=scheme)
    if width <= 800:
        page.get_by_role("button", name="Legend and processes").click()
    assert_axe_finds_nothing(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(390, 800), (320, 215)])
def test_small_screens(
    open_page: Callable[..., "Page"], dump: Dump, width: int, height: int
) -> None:
    """On a phone, and at 400 % on 1280 by 860, no part exceeds the width, and the map shows."""
    viewport = {"width": width, "height": height}
    page = open_page(dump.page, viewport=viewport, has_touch=True)
    assert page.locator("#side").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for control in page.locator("header :is(select, input, button):visible").all():
        box = control.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
    size = page.locator("#map").bounding_box()
    assert size and size["height"] > 200
    for name in ("Layout", "Colour by", "Palette"):
        assert page.get_by_role("combobox", name=name).is_visible()
    page.get_by_role("button", name="Legend and processes").click()
    assert page.locator("#search").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#map").is_visible()
