"""The card under the pointer tells the truth, in a real browser."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import viewer
from tests.conftest import both_browsers
from tests.snapshot.test_snapshot import expanded
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import (
    ABSENT,
    BOTH,
    DATA,
    KERNEL,
    USER,
    ZEROS,
    Dump,
    card_of,
    colour_of_card,
    go_to,
    is_firefox,
    numbers_of,
    place,
    read_card,
    settle,
    shown_at,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
@pytest.mark.parametrize("name", [ABSENT, BOTH, USER, KERNEL, DATA, ZEROS])
@pytest.mark.many
def test_hover_tells_the_truth(page: "Page", dump: Dump, name: str, layout: str) -> None:
    page.select_option("#layout", layout)
    settle(page)
    frames = np.flatnonzero(dump.classes == name)
    assert len(frames)
    rng = np.random.default_rng(7)
    for frame in rng.choice(frames, min(6, len(frames)), replace=False).tolist():
        told = card_of(page, frame)
        assert told["address"] == hex(frame * PAGE_SIZE)
        assert told["pfn"] == f"PFN {frame:#x} ({frame:,})"
        assert told["class"] == name
        if name == ABSENT:
            assert "Contents" not in told
            continue
        assert told["Contents"] == ("all zeros" if dump.truth.zero[frame] else "data")
        owners = dump.owners.get(frame, {})
        assert len(told["owners"]) == min(len(owners), 6)
        assert told["owners"].items() <= owners.items()
        if len(owners) > 6:
            assert f"and {len(owners) - 6} more" in page.locator("#passing").inner_text()
        kinds = {BOTH: "user", USER: "user", KERNEL: "kernel"}
        assert told["Protection"].startswith(kinds.get(name, "unused"))
        notes, noted, _ = expanded(dump.truth)
        dead = [i for i, process in enumerate(dump.truth.processes) if process.exited]
        here = notes[noted == frame]
        assert told["Mappings"] == str(np.count_nonzero(~np.isin(here["owner"], dead)))


def test_every_owner_of_every_page(page: "Page", dump: Dump) -> None:
    """The table behind the cards and all protections equal the engine's."""
    rows = numbers_of(
        page,
        """() => [...memviz.model.page.keys()].flatMap((frame) => memviz.model.owners.of(frame)
            .map(({ process, virtual }) => [frame, memviz.about.processes[process]?.pid ?? -1,
                memviz.about.processes[process]?.name ?? "kernel, for all",
                "0x" + (BigInt(virtual) << 12n).toString(16)]))""",
    )
    found: dict[int, dict[tuple[int, str], str]] = {}
    for frame, pid, name, virtual in rows:
        assert (pid, name) not in found.get(frame, {})
        found.setdefault(frame, {})[pid, name] = virtual
    assert found == dump.owners
    access = numbers_of(page, "() => [...memviz.model.page.keys()].map(memviz.model.accessOf)")
    assert access == dump.snapshot.access.tolist()


@both_browsers
def test_click_pins_and_copies(open_page: Callable[..., "Page"], dump: Dump) -> None:
    page = open_page(dump.page, permissions=["clipboard-read", "clipboard-write"])
    frame = max(dump.owners, key=lambda frame: (len(dump.owners[frame]), -frame))
    assert len(dump.owners[frame]) > 6
    page.mouse.click(*place(page, frame))
    told = read_card(page, "#pinned")
    assert told["address"] == hex(frame * PAGE_SIZE)
    assert told["owners"] == dump.owners[frame]  # all of them
    page.get_by_role("button", name="Copy physical address").click()
    assert page.evaluate("navigator.clipboard.readText()") == hex(frame * PAGE_SIZE)
    page.locator("#pinned .owners .copy").nth(1).click()
    assert page.evaluate("navigator.clipboard.readText()") in dump.owners[frame].values()
    # The card stays while the pointer moves on; Escape, a second click or its button closes it.
    card_of(page, 1)
    assert read_card(page, "#pinned")["address"] == hex(frame * PAGE_SIZE)
    page.keyboard.press("Escape")
    assert page.locator("#pinned").is_hidden()
    again: list[Callable[[], None]] = [
        lambda: page.mouse.click(*place(page, 1)),
        lambda: page.get_by_role("button", name="Unpin").click(),
    ]
    for unpin in again:
        page.mouse.click(*place(page, 1))
        assert read_card(page, "#pinned")["address"] == "0x1000"
        unpin()
        assert page.locator("#pinned").is_hidden()


@both_browsers
def test_the_card_follows_what_is_under_the_pointer(page: "Page", dump: Dump) -> None:
    """The card changes with any move of the map: keys, links, go to, and other layouts."""
    x, y = (at + 2.5 for at in place(page, 4000))  # not at an edge, so all moves are possible
    page.mouse.move(x, y)

    def moved() -> str:
        settle(page)
        frame, _ = shown_at(page, x, y)
        if frame < 0:
            assert page.locator("#passing").is_hidden()
            return ""
        assert read_card(page, "#passing")["address"] == hex(frame * PAGE_SIZE)
        return hex(frame)

    met = [moved()]
    for key in ("+", "+", "ArrowRight", "ArrowDown", "Home"):
        page.keyboard.press(key)
        met.append(moved())
    page.evaluate("location.hash = '#view=20,20,30'")
    page.wait_for_timeout(100)
    met.append(moved())
    page.keyboard.press("g")
    page.keyboard.type("0x5000")
    page.keyboard.press("Enter")
    met.append(moved())
    page.keyboard.press("Escape")
    page.evaluate("location.hash = '#layout=hilbert'")
    page.wait_for_timeout(100)
    met.append(moved())
    assert len(set(met)) > 5
    page.mouse.move(5, 5)
    assert page.locator("#passing").is_hidden()


@pytest.mark.parametrize(
    ("browser", "ratio", "view"),
    [
        ("chromium", 1, ""),
        ("chromium", 1.25, "#view=41,40,3.3"),
        ("chromium", 1.5, "#view=50,30,0.7&layout=hilbert"),
        ("firefox", 1.25, "#view=41,40,3.3"),
    ],
    indirect=["browser"],
)
def test_card_click_and_pixel_agree(
    open_page: Callable[..., "Page"], dump: Dump, ratio: float, view: str
) -> None:
    """They agree at any fraction of a pixel, on scaled displays, and for small scales."""
    page = open_page(dump.page, view, device_scale_factor=ratio)
    box = page.locator("#map").bounding_box()
    assert box
    page.evaluate("scale => { memviz.map.zoom.scaleExtent([0.01, 96]); }", 1)
    if "0.7" in view:
        page.evaluate("() => memviz.map.goTo(50, 30, 0.7)")
    settle(page)
    left, top, scale = page.evaluate("[...'xyk'].map((name) => memviz.map.transform[name])")
    rng = np.random.default_rng(5)
    has_whole_pixels = is_firefox(page)  # its protocol sends whole pixels only
    told = 0
    for _ in range(25):
        x, y = (
            box["x"] + left + rng.uniform(2, 60 * scale),
            box["y"] + top + rng.uniform(2, 60 * scale),
        )
        if has_whole_pixels:
            x, y = round(x), round(y)
        if not (box["x"] < x < box["x"] + box["width"] - 60):
            continue
        if not (box["y"] < y < box["y"] + box["height"] - 130):
            continue
        page.mouse.move(x, y)
        _, colour = shown_at(page, x, y)
        if page.locator("#passing").is_hidden():
            continue
        settle(page)
        assert colour_of_card(page) == colour
        told += 1
        address = read_card(page, "#passing")["address"]
        page.mouse.click(x, y)
        assert read_card(page, "#pinned")["address"] == address
        page.keyboard.press("Escape")
        page.mouse.move(5, 5)
        settle(page)
    assert told > 3


def test_all_addresses_of_a_page(
    open_page: Callable[..., "Page"], tmp_path: Path, dump: Dump
) -> None:
    """A pinned card lists each address of each process, not only the first."""
    rows = dump.snapshot.mappings
    space = int(rows.space[rows.space >= 0][0])
    [mine] = [np.flatnonzero((rows.space == space) & rows.is_user)[:1]]
    frame = int(rows.pfn[mine][0])
    again = rows.take(mine)
    more = [
        replace(again, virtual=np.array([virtual], np.uint64))
        for virtual in (0x7FFE_0000_0000, 0x7FFE_1234_5000)
    ]
    count = dump.snapshot.mapping_count.copy()
    count[frame] += 2
    snapshot = replace(
        dump.snapshot,
        mappings=type(rows).join([rows.take(np.arange(len(rows.pfn))), *more]),
        mapping_count=count,
    )
    viewer.write_page(tmp_path / "page.html", snapshot)
    page = open_page(tmp_path / "page.html")
    told = card_of(page, frame)
    first = set(dump.owners[frame].values())
    assert set(told["owners"].values()) <= first
    addresses = page.locator("#passing .also .virtual").all_inner_texts()
    assert {"0x7ffe00000000", "0x7ffe12345000"} <= set(addresses)
    page.mouse.click(*place(page, frame))
    assert page.locator("#pinned .also .virtual").all_inner_texts() == addresses
    name = dump.snapshot.processes[space]
    assert go_to(page, "virtual", "0x7ffe12345000", f"{name.pid} {name.name}") == ""
    assert read_card(page, "#pinned")["address"] == hex(frame * PAGE_SIZE)


def test_addresses_of_the_kernel_of_linux(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """The kernel's own tables translate them, though no process has them."""
    truth = forge_linux(tmp_path / "dump", "6.1")
    memory_visualizer.open(tmp_path / "dump").to_html(tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    for frame in (40, 2000, 3001):
        address = truth.direct + frame * PAGE_SIZE
        assert go_to(page, "virtual", hex(address + 0x123), "kernel") == ""
        assert read_card(page, "#pinned")["address"] == hex(frame * PAGE_SIZE)
        assert hex(address) in page.locator("#pinned .also .virtual").all_inner_texts()
    lost = truth.direct - 0x1000_0000
    assert "no page" in go_to(page, "virtual", hex(lost), "kernel")
