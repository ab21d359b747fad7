"""The index in browsers: sorting, filters, the search, small screens."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from memory_visualizer.fleet.gallery import FILE, write_gallery
from tests.conftest import both_browsers
from tests.fleet.test_gallery import folder
from tests.viewer.page import assert_axe_finds_nothing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["folder"]  # a fixture

pytestmark = pytest.mark.browser


@pytest.fixture
def index(folder: Path, browser: "Browser") -> Iterator["Page"]:
    """The index of four dumps, opened from disk; it may load only the thumbnails beside it."""
    Image.new("RGB", (8, 8), "red").save(_thumbnail(folder))
    write_gallery(folder)
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(f"threw {error}"))
    page.on("console", lambda message: troubles.append(f"said {message.text}"))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url.split("#")[0]))
    page.goto((folder / FILE).as_uri())
    yield page
    context.close()
    assert troubles == []
    own = {(folder / FILE).as_uri(), _thumbnail(folder).as_uri()}
    assert {url for url in requested if not url.startswith("data:")} <= own


def _thumbnail(folder: Path) -> Path:
    return folder / "dumps/ws-1.raw/thumbnail.png"


def cards(page: "Page") -> list[str]:
    return page.locator("#cards h2").all_text_contents()


@both_browsers
def test_pictures_filters_and_order(index: "Page") -> None:
    assert cards(index) == ["note.raw", "srv.lime", "ws-1.raw", "ws-2.raw"]
    first = index.locator(".card", has_text="ws-1.raw")
    picture = first.locator("img")
    picture.scroll_into_view_if_needed()
    index.wait_for_function("[...document.images].every((one) => one.naturalWidth === 8)")
    assert first.locator("h2 a").get_attribute("href") == "dumps/ws-1.raw/ws-1.raw.html"
    assert "1 unlinked process" in first.inner_text()
    assert "3 leads" in first.inner_text()
    assert "it is a text file <b>" in index.locator(".card.failed").inner_text()
    index.select_option("#sort", "unlinked")
    assert cards(index) == ["srv.lime", "ws-1.raw", "ws-2.raw", "note.raw"]
    index.click("#turn")
    assert cards(index) == ["ws-2.raw", "srv.lime", "ws-1.raw", "note.raw"]
    index.get_by_role("button", name="Windows 2").click()
    assert cards(index) == ["ws-2.raw", "ws-1.raw"]
    index.get_by_role("button", name="unlinked processes 2").click()
    assert cards(index) == ["ws-1.raw"]
    assert index.locator("#count").inner_text() == "1 of 4 dumps, 32 MiB of memory"
    index.get_by_role("button", name="Windows 2").click()
    index.get_by_role("button", name="failed 1").click()
    assert cards(index) == []
    index.click("#clear")
    assert len(cards(index)) == 4


@both_browsers
def test_ranges(index: "Page") -> None:
    """Ends are included, and an open end does not narrow; failed dumps are in no range."""
    assert index.locator("#least").is_hidden()
    for measure, least, most, expected in (
        ("bytes", "32", "32", 3),
        ("bytes", "33", "", 0),
        ("processes", "", "13", 0),
        ("processes", "14", "", 3),
        ("unlinked", "1", "", 2),
        ("time", "2026-11-20", "2026-11", 3),
        ("time", "2026-11-20 11", "", 0),
        ("time", "", "2026-11-19", 0),
        ("leads", "many", "", 4),
    ):
        index.select_option("#measure", measure)
        index.fill("#least", least)
        index.fill("#most", most)
        assert len(cards(index)) == expected, (measure, least, most)
    index.reload()
    assert index.input_value("#least") == "many"
    index.select_option("#measure", "")
    assert index.locator("#most").is_hidden()
    assert len(cards(index)) == 4


@both_browsers
def test_on_which_machines_is_it_unlinked(index: "Page") -> None:
    index.keyboard.press("/")
    index.keyboard.type("ROOTKIT")
    # The answer to the first letters may come before the last letters.
    index.wait_for_selector("#match-count:text-is('1 name')")
    assert cards(index) == ["ws-1.raw", "ws-2.raw"]
    [found] = index.locator("#match-list li").all_inner_texts()
    assert found.split("\n") == ["process", "rootkit.exe", "in 2 dumps", "unlinked in 1"]
    index.locator("#match-list button").click()
    assert index.locator(".hit").all_inner_texts() == [
        "process rootkit.exe is unlinked here",
        "process rootkit.exe is here",
    ]
    index.fill("#search", "one.dll")
    index.wait_for_function("document.querySelectorAll('.card').length === 1")
    assert cards(index) == ["ws-1.raw"]
    index.fill("#search", "srv")  # a dump by its own name
    index.wait_for_function("document.querySelector('.card h2').textContent === 'srv.lime'")
    index.fill("#search", "</script>")
    index.wait_for_selector("#match-list li")
    assert index.locator("#match-list .name").all_inner_texts() == ["evil\\u202e</script>"]
    index.select_option("#search-kind", "module")
    index.fill("#search", "ext")
    index.wait_for_function("document.querySelector('.card h2').textContent === 'srv.lime'")
    assert cards(index) == ["srv.lime"]


@both_browsers
def test_the_address_keeps_the_view(index: "Page") -> None:
    index.click("#as-table")
    index.get_by_role("button", name="processes", exact=True).click()
    index.get_by_role("button", name="Windows 2").click()
    rows = index.locator("#rows tr td:first-child")
    assert rows.all_inner_texts() == ["ws-1.raw", "ws-2.raw"]
    index.fill("#search", "rootkit")
    index.wait_for_selector("#match-list li")
    index.reload()
    index.wait_for_selector("#match-list li")
    assert index.input_value("#search") == "rootkit"
    assert rows.all_inner_texts() == ["ws-1.raw", "ws-2.raw"]
    assert index.locator("th[aria-sort=descending]").inner_text().startswith("processes")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 860), (800, 700), (390, 800)])
@pytest.mark.many
def test_axe_finds_nothing(index: "Page", width: int, height: int, scheme: str) -> None:
    index.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    index.set_viewport_size({"width": width, "height": height})
    index.fill("#search", "o")
    index.fill("#search", "ro")
    index.wait_for_selector("#match-list li")
    index.locator("#match-list button").first.click()
    assert_axe_finds_nothing(index)
    index.click("#as-table")
    assert_axe_finds_nothing(index)
    overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not index.evaluate(overflow)
