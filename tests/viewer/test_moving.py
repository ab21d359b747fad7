"""Going somewhere: by address, strip, keys, mouse and touch; and the link to a place."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memory_visualizer import viewer
from memory_visualizer.picture.layout import arrange
from tests.conftest import both_browsers
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import (
    SIZE,
    Dump,
    canvas,
    choose,
    fitted,
    fragment_of,
    go_to,
    place,
    read_card,
    settle,
    view,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
def test_go_to(page: "Page", dump: Dump, layout: str) -> None:
    page.select_option("#layout", layout)
    process = next(p for p in dump.truth.processes if p.name == "explorer.exe")
    frame, virtual = next(
        (frame, mine[process.pid, process.name])
        for frame, mine in dump.owners.items()
        if (process.pid, process.name) in mine and frame > 4000
    )
    kernel, address = next(
        (frame, mine[-1, "kernel, for all"])
        for frame, mine in dump.owners.items()
        if (-1, "kernel, for all") in mine and frame > 4000
    )
    for kind, number, chosen, expected in (
        ("physical", "0x1a2b123", None, 0x1A2B),
        ("physical", "1a2b000", None, 0x1A2B),
        ("pfn", "6699", None, 6699),
        ("pfn", "0x1a2b", None, 0x1A2B),
        ("virtual", virtual, f"{process.pid} explorer.exe", frame),
        ("virtual", hex(int(virtual, 16) + 0xABC), f"{process.pid} explorer.exe", frame),
        ("virtual", address, f"{process.pid} explorer.exe", kernel),
        ("virtual", address.replace("0xffff", "0xffff`"), "kernel", kernel),
    ):
        assert go_to(page, kind, number, chosen) == ""
        assert read_card(page, "#pinned")["address"] == hex(expected * PAGE_SIZE)
        # The page is in the middle of the map, and large enough to see.
        box = page.locator("#map").bounding_box()
        assert box
        x, y = place(page, expected)
        assert abs(x - box["x"] - box["width"] / 2) < 1
        assert abs(y - box["y"] - box["height"] / 2) < 1
        assert page.evaluate("memviz.map.transform.k") >= 24
    state = fragment_of(page)
    for kind, number, chosen, answer in (
        ("physical", hex(SIZE), None, f"The memory ends before {SIZE:#x}."),
        ("pfn", "1a2b", None, "That is not a number."),
        ("physical", "<b>1</b>", None, "That is not a number."),
        ("physical", "", None, "That is not a number."),
        ("virtual", "0x10", "4 System", "That process has no page of the dump at this address."),
    ):
        assert go_to(page, kind, number, chosen) == answer
    assert fragment_of(page) == state


def test_an_answer_of_go_to_goes_with_the_next_action(page: "Page") -> None:
    """While it is there, the answer neither covers nor moves anything."""
    before = page.locator("#map").bounding_box()
    acts: list[Callable[[], None]] = [
        lambda: page.mouse.click(700, 500),
        lambda: page.keyboard.press("+"),
        lambda: page.mouse.wheel(0, 100),
    ]
    for act in acts:
        assert go_to(page, "pfn", "0xffffffff") != ""
        assert page.locator("#map").bounding_box() == before
        covered = page.evaluate(
            """() => {
                const box = document.getElementById("goto-answer").getBoundingClientRect();
                return [...document.querySelectorAll("select, button, input, canvas")]
                    .filter((it) => it.checkVisibility())
                    .map((it) => [it.id, it.getBoundingClientRect()])
                    .filter(([, it]) => it.left < box.right && box.left < it.right
                        && it.top < box.bottom && box.top < it.bottom)
                    .map(([id]) => id);
            }"""
        )
        assert covered == []
        page.mouse.move(700, 500)
        act()
        settle(page)
        assert page.locator("#goto-answer").inner_text() == ""
        assert page.locator("#facts").is_visible()


def test_strip_navigates(page: "Page", dump: Dump) -> None:
    box = page.locator("#strip").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    settle(page)
    strip = page.get_by_role("slider", name="Place in physical memory")
    frames = dump.truth.frames

    def here() -> int:
        page.wait_for_timeout(200)  # its value follows a moment later
        return int(strip.get_attribute("aria-valuenow") or -1)

    assert abs(here() - 0.75 * frames) < 200
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 10, steps=4)
    page.mouse.up()
    settle(page)
    assert abs(here() - 0.25 * frames) < 200
    strip.focus()
    page.keyboard.press("End")
    settle(page)
    assert here() > frames - 200
    page.keyboard.press("PageDown")
    settle(page)
    assert abs(here() - 7 / 8 * frames) < 300


@both_browsers
def test_keyboard(page: "Page", dump: Dump) -> None:
    cell = fitted(page, dump.truth.frames)
    assert view(page)[2] == pytest.approx(cell)
    page.keyboard.press("+")
    page.keyboard.press("+")
    x, y, scale = view(page)
    assert scale == pytest.approx(cell * 1.5**2)
    for key, dx, dy in (
        ("ArrowRight", 1, 0),
        ("ArrowDown", 0, 1),
        ("ArrowLeft", -1, 0),
        ("ArrowUp", 0, -1),
    ):
        page.keyboard.press(key)
        new_x, new_y, _ = view(page)
        assert (new_x - x, new_y - y) == pytest.approx((dx * 90 / scale, dy * 90 / scale))
        x, y = new_x, new_y
    page.keyboard.press("-")
    assert view(page)[2] == pytest.approx(cell * 1.5)
    page.keyboard.press("Enter")  # the page in the middle
    x, y, _ = view(page)
    width = arrange(dump.snapshot.classes, "rows").shape[1]
    frame = int(y) * width + int(x)
    assert read_card(page, "#pinned")["address"] == hex(frame * PAGE_SIZE)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert read_card(page, "#pinned")["address"] == hex((frame + 1 + width) * PAGE_SIZE)
    page.keyboard.press("Escape")
    assert page.locator("#pinned").is_hidden()
    page.keyboard.press("Home")
    assert view(page)[2] == pytest.approx(cell)
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="How to use this page").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    # Letters in a text field are not commands.
    page.keyboard.press("/")
    page.keyboard.type("g?/+")
    assert page.input_value("#search") == "g?/+"
    assert view(page)[2] == pytest.approx(cell)


@both_browsers
def test_mouse(page: "Page") -> None:
    x, y, cell = view(page)
    frame_x, frame_y = place(page, 4140)
    page.mouse.move(frame_x, frame_y)
    page.mouse.wheel(0, -400)
    _, _, scale = view(page)
    assert scale > 1.5 * cell
    assert place(page, 4140) == pytest.approx((frame_x, frame_y), abs=scale)  # it stays there
    before = place(page, 4140)
    page.mouse.down()
    page.mouse.move(frame_x + 120, frame_y + 40, steps=5)
    page.mouse.up()
    settle(page)
    after = place(page, 4140)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((120, 40), abs=1)
    assert page.locator("#pinned").is_hidden()  # dragging is not clicking
    page.get_by_role("button", name="Whole memory").click()
    assert view(page) == pytest.approx((x, y, cell))


def test_touch(open_page: Callable[..., "Page"], dump: Dump) -> None:
    page = open_page(dump.page, has_touch=True)
    cell = view(page)[2]
    frame_x, frame_y = place(page, 4000)
    page.touchscreen.tap(frame_x, frame_y)
    assert read_card(page, "#pinned")["address"] == hex(4000 * PAGE_SIZE)
    page.wait_for_timeout(600)  # a second touch soon after it would be a double tap
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (700, 400), (800, 400))
    for spread in (20, 40, 60, 80, 100):
        touch("touchMove", (700 - spread, 400), (800 + spread, 400))
    touch("touchEnd")
    assert view(page)[2] == pytest.approx(3 * cell, rel=0.05)
    before = place(page, 4000)
    touch("touchStart", (700, 400))
    for step in (20, 40, 60):
        touch("touchMove", (700 - step, 400 + step))
    touch("touchEnd")
    settle(page)
    after = place(page, 4000)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((-60, 60), abs=2)


def test_another_layout_keeps_the_spot(page: "Page", dump: Dump) -> None:
    go_to(page, "pfn", "5000")
    scale = view(page)[2]
    page.select_option("#layout", "hilbert")
    assert view(page)[2] == scale
    x, y = place(page, 5000)
    box = page.locator("#map").bounding_box()
    assert box
    assert (x, y) == pytest.approx((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))
    page.keyboard.press("Escape")  # without a pin, the former middle
    before = page.evaluate("memviz.map.layout.frameAt(...memviz.map.centre.map(Math.floor))")
    page.select_option("#layout", "rows")
    settle(page)
    after = page.evaluate("memviz.map.layout.frameAt(...memviz.map.centre.map(Math.floor))")
    assert after == before


def test_the_link_leads_a_colleague_to_the_same_spot(
    open_page: Callable[..., "Page"], dump: Dump
) -> None:
    page = open_page(dump.page)
    page.select_option("#layout", "hilbert")
    page.select_option("#color", "process")
    page.select_option("#palette", "colour-blind")
    choose(page, "lsass.exe", "rootkit.exe")
    page.get_by_role("checkbox", name="unused-data").click()
    go_to(page, "pfn", "5000")
    other = open_page(dump.page, fragment_of(page))
    assert view(other) == pytest.approx(view(page), abs=0.01)
    assert read_card(other, "#pinned") == read_card(page, "#pinned")
    for control in ("#layout", "#color", "#palette"):
        assert other.input_value(control) == page.input_value(control)
    assert other.locator("#process-rows tr.chosen .name").all_inner_texts() == [
        "lsass.exe",
        "rootkit.exe",
    ]
    assert not other.get_by_role("checkbox", name="unused-data").is_checked()
    for one in (page, other):
        one.mouse.move(5, 5)
        settle(one)
    np.testing.assert_array_equal(canvas(other), canvas(page))
    # A link that is pasted into an open page works, too.
    other.evaluate("location.hash = '#pin=1f'")
    settle(other)
    assert read_card(other, "#pinned")["address"] == "0x1f000"
    assert other.input_value("#layout") == "rows"


def test_a_page_that_opens_with_chosen_processes(
    open_page: Callable[..., "Page"], dump: Dump, tmp_path: Path
) -> None:
    """Their pages are lit until the choice changes; the link has the choice, too."""
    names = ["lsass.exe", "rootkit.exe"]
    chosen = [n for n, process in enumerate(dump.snapshot.processes) if process.name in names]
    viewer.write_page(tmp_path / "page.html", dump.snapshot, chosen=chosen)
    page = open_page(tmp_path / "page.html")
    listed = page.locator("#process-rows tr.chosen .name")
    assert listed.all_inner_texts() == names
    assert fragment_of(page) == ""
    lit = canvas(page)
    choose(page, *names)  # off again
    assert listed.all_inner_texts() == []
    assert fragment_of(page) == "#show="
    other = open_page(tmp_path / "page.html", fragment_of(page))
    assert other.locator("#process-rows tr.chosen").count() == 0
    assert (canvas(other) != lit).any()
