"""The page in a real browser: what a person sees there is the truth."""

import base64
import csv
import io
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import memory_visualizer
from memory_visualizer import PageClass, Snapshot, viewer
from memory_visualizer.cli.memviz import main
from memory_visualizer.paging import MAY_WRITE, SHARED
from memory_visualizer.picture.colouring import COLOURINGS, colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.folding import plan
from memory_visualizer.picture.layout import arrange
from memory_visualizer.picture.palette import DARK, DEFAULT, PALETTES
from memory_visualizer.printable import printable
from memory_visualizer.snapshot.framerecords import (
    FrameRecords,
    PageUse,
    RecordFinding,
    WindowsState,
)
from memory_visualizer.snapshot.pagemap import PageState
from tests.conftest import ROOT, do_without
from tests.screenshots import take
from tests.snapshot.test_snapshot import expanded, labels
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.containers import write_kdump, write_lime
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOLE = (3000, 700)
"""First frame and frames that the dump does not hold."""
SIZE = 32 * MIB
WINDOW = {"width": 1280, "height": 860}
ABSENT, BOTH, USER, KERNEL, DATA, ZEROS, LEFT_OUT = (page_class.label for page_class in PageClass)


@dataclass(frozen=True)
class Dump:
    """A synthetic dump, its truth, what the program makes of it, and the page."""

    path: Path
    truth: Truth
    snapshot: Snapshot
    page: Path

    @cached_property
    def classes(self) -> npt.NDArray[np.str_]:
        """The true class of each frame."""
        classes = self.truth.classes(self.truth.alive).astype("U16")
        classes[HOLE[0] : sum(HOLE)] = ABSENT
        return classes

    @cached_property
    def owners(self) -> dict[int, dict[tuple[int, str], str]]:
        """By frame, the true owners (pid, name) and their first virtual address, in hexadecimal.

        What all processes share is the kernel's, as pid -1.
        """
        owners: dict[int, dict[tuple[int, str], tuple[bool, int]]] = {}
        notes, frames, virtuals = expanded(self.truth)
        for note, frame, virtual in zip(notes, frames.tolist(), virtuals.tolist(), strict=True):
            process = self.truth.processes[note["owner"]] if note["owner"] >= 0 else None
            who = (process.pid, printable(process.name)) if process else (-1, "kernel, for all")
            if process and process.exited:
                continue
            found = (not note["user"], virtual)  # user mode's first
            mine = owners.setdefault(frame, {})
            mine[who] = min(mine.get(who, found), found)
        return {
            frame: {who: hex(virtual) for who, (_, virtual) in mine.items()}
            for frame, mine in owners.items()
        }

    def frames_of(self, *pids: int) -> set[int]:
        """The frames that these processes truly have."""
        return {frame for frame, mine in self.owners.items() if any(pid in pids for pid, _ in mine)}


def make(folder: Path, **options: Any) -> Dump:
    """Write a synthetic dump with a hole in it, and write its page."""
    truth = forge(folder / "dump.raw", profiles()["Win7SP1x64"], size=SIZE, holes=[HOLE], **options)
    memory = (folder / "dump.raw").read_bytes()
    end = sum(HOLE) * PAGE_SIZE
    path = folder / "dump.lime"
    write_lime(path, [(0, memory[: HOLE[0] * PAGE_SIZE]), (end, memory[end:])])
    snapshot = memory_visualizer.open(path)
    page = folder / "page.html"
    viewer.write_page(page, snapshot, entropy=entropy(snapshot.dump))
    return Dump(path, truth, snapshot, page)


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Dump:
    return make(tmp_path_factory.mktemp("page"), stretch=16)


@dataclass(frozen=True)
class Filtered(Dump):
    """A dump without some pages that the machine has."""

    left: npt.NDArray[np.int64]
    """Their frames."""

    @cached_property
    def classes(self) -> npt.NDArray[np.str_]:
        """The true class of each frame."""
        classes = super().classes.copy()
        classes[self.left] = LEFT_OUT
        return classes


@pytest.fixture(scope="module")
def filtered(dump: Dump, tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    """The same memory as makedumpfile's filter leaves it: a third of the pages is left out.

    These are pages of processes, free ones and zeros. What describes the machine stays.
    """
    folder = tmp_path_factory.mktemp("filtered")
    memory = dump.path.with_suffix(".raw").read_bytes()
    end = sum(HOLE) * PAGE_SIZE
    candidates = np.flatnonzero(np.isin(dump.classes, [USER, DATA, ZEROS]))
    number = dump.truth.frames // 3
    left = np.sort(np.random.default_rng(3).choice(candidates, number, replace=False))
    path = folder / "dump.kdump"
    pieces = [(0, memory[: HOLE[0] * PAGE_SIZE]), (end, memory[end:])]
    write_kdump(path, pieces, left_out=left.tolist())
    snapshot = memory_visualizer.open(path)
    page = folder / "page.html"
    viewer.write_page(page, snapshot, entropy=entropy(snapshot.dump))
    return Filtered(path, dump.truth, snapshot, page, left)


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Opens a page's file in a fresh window, with options of Playwright's; all well to the end.

    Nothing may be asked of the network, no error thrown, no policy violated.
    """
    contexts = []
    troubles: list[str] = []

    def open_(path: Path, fragment: str = "", **options: Any) -> "Page":
        context = browser.new_context(**({"viewport": WINDOW} | options))
        contexts.append(context)
        page = context.new_page()
        wanted = path.as_uri()

        def requested(url: str) -> None:
            if url.split("#")[0] != wanted and not url.startswith(("data:", "blob:")):
                troubles.append(f"requested {url}")

        def said(text: str) -> None:
            if "willReadFrequently" not in text:  # the tests read the canvas, the page does not
                troubles.append(f"said {text}")

        page.on("request", lambda request: requested(request.url))
        page.on("pageerror", lambda error: troubles.append(f"threw {error}"))
        page.on("console", lambda message: said(message.text))
        page.on("dialog", lambda dialog: troubles.append(f"asked {dialog.message}"))
        page.on("popup", lambda _: troubles.append("opened a window"))
        page.goto(wanted + fragment)
        settle(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(open_page: Callable[..., "Page"], dump: Dump) -> "Page":
    """The page of `dump`, as it is when it is opened."""
    return open_page(dump.page)


def settle(page: "Page") -> None:
    """Wait until all is drawn and nothing moves."""
    page.evaluate(
        """async () => {
            const frame = () => new Promise((done) => requestAnimationFrame(done));
            while (!window.memviz) await frame();
            const { map } = memviz;
            for (let before; before !== String(map.transform) || !map.settled || map.scheduled
                    || map.canvas.__transition;) {
                before = String(map.transform);
                await frame();
                await frame();
            }
        }"""
    )


def fragment_of(page: "Page") -> str:
    """The link's fragment once it is written, a moment after the last move."""
    settle(page)
    page.wait_for_timeout(400)
    fragment: str = page.evaluate("location.hash")
    return fragment


def place(page: "Page", frame: int) -> tuple[float, float]:
    """Where in the window the middle of a frame's cell is."""
    x, y = page.evaluate(
        """(frame) => {
            const { left, top, size } = memviz.map.boxOf(frame);
            const box = memviz.map.canvas.getBoundingClientRect();
            return [box.left + left + size / 2, box.top + top + size / 2];
        }""",
        frame,
    )
    return x, y


def canvas(page: "Page") -> npt.NDArray[np.uint8]:
    """The pixels of the map, shape (height, width, 4), read back from the canvas."""
    data, width, height = page.evaluate(
        """() => {
            const { canvas } = memviz.map;
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            let text = "";
            for (let i = 0; i < data.length; i += 32768)
                text += String.fromCharCode(...data.subarray(i, i + 32768));
            return [btoa(text), width, height];
        }"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def cells(page: "Page", shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The colour in the middle of each cell of the whole map, shape (height, width, 4).

    The map must be as it is when opened, all of it in view.
    """
    settle(page)
    left, top, scale = page.evaluate("[...'xyk'].map((name) => memviz.map.transform[name])")
    rows, columns = (
        np.floor(start + (np.arange(count) + 0.5) * scale).astype(int)
        for start, count in zip((top, left), shape, strict=True)
    )
    return canvas(page)[np.ix_(rows, columns)]


def by_frame(page: "Page", dump: Dump, layout: str = "rows") -> npt.NDArray[np.uint8]:
    """The colour of each frame's cell, shape (frames, 3)."""
    frames = arrange(np.arange(dump.truth.frames) + 1, layout)  # 0 is what no frame has
    found = cells(page, frames.shape)[..., :3]
    colours = np.empty((dump.truth.frames, 3), np.uint8)
    colours[frames[frames > 0] - 1] = found[frames > 0]
    return colours


def lit(page: "Page", dump: Dump) -> set[int]:
    """The frames whose cells have the full colour of their class."""
    palette = PALETTES["default"]
    full = np.array([palette[page_class] for page_class in PageClass], np.uint8)
    colours = full[dump.snapshot.classes]
    return set(np.flatnonzero((by_frame(page, dump) == colours).all(axis=1)).tolist())


def card_of(page: "Page", frame: int) -> dict[str, Any]:
    """What the card beside the pointer says when it points at a frame."""
    page.mouse.move(*place(page, frame))
    return read_card(page, "#passing")


def read_card(page: "Page", card: str) -> dict[str, Any]:
    """A card's content, as it can be seen."""
    assert page.locator(card).is_visible()
    terms = page.locator(f"{card} dt").all_inner_texts()
    owners = page.locator(f"{card} .owners li").evaluate_all(
        """(rows) => rows.map((row) => [".pid", ".name", ".virtual"].map((part) =>
            row.querySelector(part).textContent))"""
    )
    return {
        "address": page.locator(f"{card} .physical").inner_text(),
        "pfn": page.locator(f"{card} .pfn").inner_text(),
        "class": page.locator(f"{card} .class .label").inner_text(),
        "owners": {
            (int(pid.removeprefix("pid ") or -1), name): virtual for pid, name, virtual in owners
        },
        **dict(zip(terms, page.locator(f"{card} dd").all_inner_texts(), strict=True)),
    }


def choose(page: "Page", *names: str) -> None:
    """Choose processes in the list."""
    for name in names:
        page.locator("#process-rows tr", has_text=name).first.locator("input").click()


def names_listed(page: "Page") -> list[str]:
    return page.locator("#process-rows .name").all_inner_texts()


# -- what is under the pointer -------------------------------------------------------------


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
    """The whole table behind the cards, and all protections, as the engine has them."""
    rows = page.evaluate(
        """() => [...memviz.model.page.keys()].flatMap((frame) => memviz.model.owners.of(frame)
            .map(({ process, virtual }) => [frame, memviz.about.processes[process]?.pid ?? -1,
                memviz.about.processes[process]?.name ?? "kernel, for all",
                "0x" + (BigInt(virtual) << 12n).toString(16)]))"""
    )
    found: dict[int, dict[tuple[int, str], str]] = {}
    for frame, pid, name, virtual in rows:
        assert (pid, name) not in found.get(frame, {})
        found.setdefault(frame, {})[pid, name] = virtual
    assert found == dump.owners
    access = page.evaluate("[...memviz.model.page.keys()].map(memviz.model.accessOf)")
    assert access == dump.snapshot.access.tolist()


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
    # It stays while the pointer moves on, and goes with Escape, a second click or its button.
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


def shown_at(page: "Page", x: float, y: float) -> tuple[int, list[int]]:
    """The frame at a place of the window by the map's transform, and the colour of the pixel."""
    frame, colour = page.evaluate(
        """([x, y]) => {
            const { map } = memviz;
            const box = map.canvas.getBoundingClientRect();
            const at = [x - box.left, y - box.top];
            const pixel = at.map((place) => Math.floor(place * devicePixelRatio));
            const { data } = map.canvas.getContext("2d").getImageData(...pixel, 1, 1);
            const cell = map.transform.invert(at).map(Math.floor);
            return [map.layout.frameAt(...cell), [...data].slice(0, 3)];
        }""",
        [x, y],
    )
    return int(frame), list(colour)


def colour_of_card(page: "Page", card: str = "#passing") -> list[int]:
    """The colour of the class that a card tells."""
    label = page.locator(f"{card} .class .label").inner_text()
    [page_class] = [page_class for page_class in PageClass if page_class.label == label]
    return list(PALETTES["default"][page_class])


def test_the_card_follows_what_is_under_the_pointer(page: "Page", dump: Dump) -> None:
    """However the map moves: by keys, by a link, by going somewhere, to another layout."""
    x, y = (at + 2.5 for at in place(page, 4000))  # not at an edge, however the map moves
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
    ("ratio", "view"), [(1, ""), (1.25, "#view=41,40,3.3"), (1.5, "#view=50,30,0.7&layout=hilbert")]
)
def test_card_click_and_pixel_agree(
    open_page: Callable[..., "Page"], dump: Dump, ratio: float, view: str
) -> None:
    """At any place, a fraction of a pixel included, on scaled displays, and far away, too."""
    page = open_page(dump.page, view, device_scale_factor=ratio)
    box = page.locator("#map").bounding_box()
    assert box
    page.evaluate("scale => { memviz.map.zoom.scaleExtent([0.01, 96]); }", 1)
    if "0.7" in view:
        page.evaluate("() => memviz.map.goTo(50, 30, 0.7)")
    settle(page)
    left, top, scale = page.evaluate("[...'xyk'].map((name) => memviz.map.transform[name])")
    rng = np.random.default_rng(5)
    told = 0
    for _ in range(25):
        x, y = (
            box["x"] + left + rng.uniform(2, 60 * scale),
            box["y"] + top + rng.uniform(2, 60 * scale),
        )
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
    """On the pinned card: each address of each process, whether its first there or not."""
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
    """Translated by the kernel's own tables, though no process has them."""
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


def test_an_answer_of_go_to_goes_with_the_next_action(page: "Page") -> None:
    """And it covers nothing and moves nothing while it is there."""
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


# -- the picture ---------------------------------------------------------------------------


def test_colours_are_the_true_classes(page: "Page", dump: Dump) -> None:
    palette = PALETTES["default"]
    colours = np.array([palette[page_class] for page_class in PageClass], np.uint8)
    numbers = np.array([[ABSENT, BOTH, USER, KERNEL, DATA, ZEROS].index(c) for c in dump.classes])
    np.testing.assert_array_equal(by_frame(page, dump), colours[numbers])
    np.testing.assert_array_equal(labels(dump.snapshot), dump.classes)


@pytest.mark.parametrize(("layout", "palette"), [("rows", "colour-blind"), ("hilbert", "default")])
@pytest.mark.parametrize("name", sorted(set(COLOURINGS) - {"state", "use", "file"}))
@pytest.mark.many
def test_picture_equals_the_png(
    page: "Page", dump: Dump, name: str, layout: str, palette: str
) -> None:
    """Each colouring, pixel for pixel; the legend counts the same."""
    page.select_option("#layout", layout)
    page.select_option("#color", name)
    page.select_option("#palette", palette)
    measured = entropy(dump.snapshot.dump)
    colouring = colour_by(name, dump.snapshot, PALETTES[palette], lambda: measured)
    colours = np.array([swatch.colour for swatch in colouring.swatches], np.uint8)
    np.testing.assert_array_equal(by_frame(page, dump, layout), colours[colouring.values])
    counts = [
        int(text.replace(",", ""))
        for text in page.locator("#legend-entries .count").all_inner_texts()
    ]
    expected = [
        count
        for swatch, count in zip(colouring.swatches, colouring.counts(), strict=True)
        if count or swatch.label != LEFT_OUT  # there, only where there are such pages
    ]
    if name == "process":
        base = colouring.general - 1
        expected = [*expected[:base], sum(expected[base:])]
    assert counts == expected


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
def test_layouts_equal_those_of_python(page: "Page", layout: str) -> None:
    """Position to frame and back."""
    for frames in (1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 64, 1000, 8192, 70_001):
        assert_layout_is_python_s(page, layout, frames)


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
def test_folds_equal_those_of_python(page: "Page", layout: str) -> None:
    """Position to frame and back, with long holes; what a break hides."""
    for frames, holes in (
        (30_000, [(100, 25_000)]),
        (60_000, [(0, 9000), (10_000, 5000), (20_000, 39_999)]),
        (70_001, [(5, 70_000 - 5)]),
    ):
        planned = plan(frames, layout, None, holes)
        drawn = planned.pixels(np.arange(1, frames + 1), -2, -1)
        expected = np.where(drawn > 0, drawn - 1, -1)
        width, height, found, places, folds = page.evaluate(
            """([name, frames, holes]) => {
                const layout = new memviz.LAYOUTS[name](frames, holes);
                const found = [], places = [], folds = [];
                for (let y = 0; y < layout.height; y++)
                    for (let x = 0; x < layout.width; x++) {
                        found.push(Math.max(layout.frameAt(x, y), -1));
                        folds.push(layout.foldAt(x, y)?.first ?? -1);
                    }
                for (let frame = 0; frame < frames; frame++) places.push(layout.placeOf(frame));
                return [layout.width, layout.height, found, places, folds];
            }""",
            [layout, frames, holes],
        )
        assert width == expected.shape[1]
        assert height == expected.shape[0] or (expected[height:] == -1).all()
        expected = expected[:height]
        np.testing.assert_array_equal(np.array(found).reshape(height, width), expected)
        x, y = np.array(places).T
        shown = np.setdiff1d(np.arange(frames), [n for f, c in holes for n in range(f, f + c)])
        np.testing.assert_array_equal(expected[y[shown], x[shown]], shown)
        hidden = np.array(folds).reshape(height, width)
        for first, count in holes:
            assert (hidden[y[first : first + count], x[first : first + count]] == first).all()


def test_a_hole_is_a_thin_break(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """The break tells address and size; pages behind it are where they were said to be."""
    noise = np.random.default_rng(4).integers(0, 256, (600, PAGE_SIZE), np.uint8).tobytes()
    path = tmp_path / "hole.lime"
    top = 0xFFFC_0000
    write_lime(path, [(0, noise[: 500 * PAGE_SIZE]), (top, noise[500 * PAGE_SIZE :])])
    memory_visualizer.open(path).to_html(tmp_path / "hole.html")
    page = open_page(tmp_path / "hole.html")
    rows = [row for row in legend_rows(page) if row[0] == DATA]
    assert rows == [[DATA, "600", "2.3 MiB", "100.0 %"]]
    page.mouse.move(*place(page, 500))
    assert page.locator("#passing .physical").inner_text() == f"{500 * PAGE_SIZE:#x} to {top:#x}"
    hole = top // PAGE_SIZE - 500
    assert f"{hole:,} pages (4 GiB): no memory" in page.locator("#passing").inner_text()
    assert card_of(page, top // PAGE_SIZE + 3)["address"] == hex(top + 3 * PAGE_SIZE)
    assert go_to(page, "physical", hex(top + 0x5000)) == ""
    assert read_card(page, "#pinned")["address"] == hex(top + 0x5000)
    # The strip, too, is nearly all memory: its last tenth lies behind the hole.
    strip = page.locator("#strip").bounding_box()
    assert strip
    page.mouse.click(strip["x"] + strip["width"] * 0.98, strip["y"] + 10)
    settle(page)
    page.keyboard.press("Escape")
    page.locator("#map").focus()
    page.keyboard.press("Enter")
    assert int(read_card(page, "#pinned")["address"], 16) >= top
    viewer.write_page(tmp_path / "drawn.html", memory_visualizer.open(path), holes="draw")
    page = open_page(tmp_path / "drawn.html")
    assert page.evaluate("memviz.map.layout.places.folds.length") == 0


def assert_layout_is_python_s(page: "Page", layout: str, frames: int) -> None:
    expected = arrange(np.arange(frames) + 1, layout) - 1
    width, height, found, places = page.evaluate(
        """([name, frames]) => {
            const layout = new memviz.LAYOUTS[name](frames);
            const found = [], places = [];
            for (let y = 0; y < layout.height; y++)
                for (let x = 0; x < layout.width; x++) found.push(layout.frameAt(x, y));
            for (let frame = 0; frame < frames; frame++) places.push(layout.placeOf(frame));
            return [layout.width, layout.height, found, places];
        }""",
        [layout, frames],
    )
    # Rows that no frame is in are left out.
    assert (height, width) == (
        np.count_nonzero((expected >= 0).any(axis=1)),
        expected.shape[1],
    ) or (layout == "hilbert" and (height, width) == expected.shape)
    np.testing.assert_array_equal(np.array(found).reshape(height, width), expected[:height])
    x, y = np.array(places).T
    np.testing.assert_array_equal(expected[y, x], np.arange(frames))


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
@pytest.mark.parametrize("chosen", [(), ("lsass.exe",)])
def test_far_away_a_dot_is_what_most_pages_are(
    page: "Page", dump: Dump, layout: str, chosen: tuple[str, ...]
) -> None:
    """Where pages are smaller than a pixel; pages of chosen processes come before all others."""
    page.select_option("#layout", layout)
    choose(page, *chosen)
    tile = page.evaluate(
        """() => {
            const { tiles } = memviz.map;
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 256;
            tiles.paint(canvas, 2, 0, 0);
            const { data } = canvas.getContext("2d").getImageData(0, 0, 32, 16);
            const pixels = [...new Uint32Array(data.buffer)];
            return [pixels, [...memviz.model.page.keys()].map((frame) => tiles.pixel(frame))];
        }"""
    )
    found, pixel_of = (np.array(numbers, np.int64) for numbers in tile)
    pids = [process.pid for process in dump.truth.processes if process.name in chosen]
    lit = np.isin(np.arange(dump.truth.frames), list(dump.frames_of(*pids)))
    frames = arrange(np.arange(dump.truth.frames), layout)[:64, :88]
    for at, block in enumerate(frames.reshape(16, 4, -1, 4).swapaxes(1, 2).reshape(-1, 16)):
        voters = block[lit[block]] if lit[block].any() else block
        _, votes = np.unique(labels(dump.snapshot)[voters], return_counts=True)
        winners = {
            pixel_of[frame]
            for frame in voters
            if np.sum(labels(dump.snapshot)[voters] == labels(dump.snapshot)[frame]) == votes.max()
        }
        row, column = divmod(at, frames.shape[1] // 4)
        assert found[row * 32 + column] in winners


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
def test_marks_at_the_left_edge(page: "Page", dump: Dump, layout: str) -> None:
    """Round addresses in rows; along the curve, squares that are one stretch of memory."""
    page.select_option("#layout", layout)
    settle(page)
    marks = [(row, int(label, 16)) for row, label in page.evaluate("memviz.map.marks()")]
    assert len(marks) > 4
    frames = arrange(np.arange(dump.truth.frames), layout)
    side = marks[1][0] - marks[0][0]
    for row, address in marks:
        if layout == "rows":
            assert address // PAGE_SIZE in frames[row]
            assert address % (marks[1][1] & -marks[1][1]) == 0
            continue
        square = np.sort(frames[row : row + side, :side].ravel())
        assert square.tolist() == list(range(address // PAGE_SIZE, square[-1] + 1))
        assert len(square) == side**2


def test_zoom_to_single_pages_with_borders(page: "Page", dump: Dump) -> None:
    page.keyboard.press("g")
    page.keyboard.type("0x5000")
    page.keyboard.press("Enter")
    settle(page)
    scale = page.evaluate("memviz.map.transform.k")
    assert scale >= 24
    page.keyboard.press("Escape")  # from the field to the map
    page.keyboard.press("Escape")  # unpins
    settle(page)
    x, y = place(page, 5)
    box = page.locator("#map").bounding_box()
    assert box
    pixels = canvas(page)[int(y - box["y"])]
    middle = int(x - box["x"])
    inside = pixels[middle - int(scale * 0.4) : middle + int(scale * 0.4)]
    assert (inside == inside[0]).all()  # crisp: one colour, to the border
    neighbourhood = pixels[middle - int(scale * 0.6) : middle + int(scale * 0.6)]
    assert (neighbourhood != inside[0]).any()
    for _ in range(20):
        page.keyboard.press("+")
    settle(page)
    assert page.evaluate("memviz.map.transform.k") == 96


# -- processes and the legend --------------------------------------------------------------


def test_choosing_a_process_lights_exactly_its_pages(page: "Page", dump: Dump) -> None:
    everything = set(range(dump.truth.frames))
    assert lit(page, dump) == everything
    processes = {process.name: process.pid for process in dump.truth.processes}
    choose(page, "lsass.exe")
    assert lit(page, dump) == dump.frames_of(processes["lsass.exe"])
    choose(page, "rootkit.exe")  # one more
    assert lit(page, dump) == dump.frames_of(processes["lsass.exe"], processes["rootkit.exe"])
    choose(page, "lsass.exe")  # no more
    assert lit(page, dump) == dump.frames_of(processes["rootkit.exe"])
    page.get_by_role("button", name="Clear 1").click()
    assert lit(page, dump) == everything
    choose(page, "setup.exe")  # has exited: has no pages
    assert lit(page, dump) == set()


def test_choosing_the_owner_on_the_pinned_card(page: "Page", dump: Dump) -> None:
    frame = next(
        frame
        for frame in np.flatnonzero(dump.classes == USER).tolist()
        if len(dump.owners[frame]) == 1
    )
    [(pid, name)] = dump.owners[frame]
    page.mouse.click(*place(page, frame))
    page.locator("#pinned").get_by_role("button", name=name, exact=True).click()
    page.keyboard.press("Escape")
    assert lit(page, dump) == dump.frames_of(pid)


def test_list_of_processes(page: "Page", dump: Dump) -> None:
    private, shared = dump.snapshot.pages_of_processes().T
    rows = page.locator("#process-rows tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    assert [[name.split("\n")[0], *numbers] for name, *numbers in rows] == [
        [process.name, str(process.pid), f"{mine:,}", f"{others:,}"]
        for process, mine, others in zip(dump.snapshot.processes, private, shared, strict=True)
    ]
    assert page.locator("#process-count").inner_text() == "14 · 1 unlinked · 1 exited"
    # The unlinked one stands out, in words and in looks.
    unlinked = page.locator("#process-rows tr.unlinked")
    assert unlinked.locator(".name").inner_text() == "rootkit.exe"
    assert unlinked.locator(".badge").inner_text() == "unlinked"
    colour = "(element) => getComputedStyle(element).color"
    other = page.locator("#process-rows tr:not(.unlinked) .name").first
    assert unlinked.locator(".name").evaluate(colour) != other.evaluate(colour)


def test_sorting(page: "Page", dump: Dump) -> None:
    by_name = sorted(process.name.lower() for process in dump.truth.processes)
    page.locator("#processes").get_by_role("button", name="Name").click()
    assert [name.lower() for name in names_listed(page)] == by_name
    assert page.locator("#processes th[aria-sort=ascending]").inner_text().startswith("Name")
    page.locator("#processes").get_by_role("button", name="Name").click()
    assert [name.lower() for name in names_listed(page)] == by_name[::-1]
    page.locator("#processes").get_by_role("button", name="Private").click()  # the most first
    counts = page.locator("#process-rows td:nth-child(3)").all_inner_texts()
    numbers = [int(count.replace(",", "")) for count in counts]
    assert numbers == sorted(dump.snapshot.pages_of_processes()[:, 0].tolist(), reverse=True)


def test_search(page: "Page", dump: Dump) -> None:
    page.keyboard.press("/")
    page.keyboard.type("SVC")
    assert set(names_listed(page)) == {"svchost.exe"}
    page.keyboard.press("Enter")  # lights up all that match
    pids = [process.pid for process in dump.truth.processes if process.name == "svchost.exe"]
    assert len(pids) > 1
    assert lit(page, dump) == dump.frames_of(*pids)
    for text, expected in (
        (str(pids[0]), ["svchost.exe"]),
        ("unlinked", ["rootkit.exe"]),
        ("nobody", []),
    ):
        page.fill("#search", text)
        assert names_listed(page) == expected
    assert page.locator("#process-note").inner_text() == "No process matches."


def legend_rows(page: "Page") -> list[list[str]]:
    """Label, pages, size and share of each entry."""
    rows = page.locator("#legend-entries label").all_inner_texts()
    return [row.split("\n") for row in rows]


def expected_legend(counts: dict[str, int]) -> list[list[str]]:
    """The same from true counts: shares are those of the pages that the dump holds."""
    held = sum(count for name, count in counts.items() if name not in (ABSENT, LEFT_OUT))
    rows = []
    for name, count in counts.items():
        share = 100 * count / max(held, 1)
        words = "< 0.1 %" if 0 < share < 0.05 else "0 %" if not count else f"{share:.1f} %"
        size = count / 256
        digits = 0 if size == 0 or size >= 100 else 1 if size >= 1 else 2 if size >= 0.01 else 3
        unheld = name in (ABSENT, LEFT_OUT)
        rows.append(
            [name, f"{count:,}", f"{size:,.{digits}f} MiB", "\N{EN DASH}" if unheld else words]
        )
    return rows


def test_the_legend_follows_what_is_chosen(page: "Page", dump: Dump) -> None:
    """Counts and shares are of the chosen process, and of what other legends leave."""
    choose(page, "lsass.exe")
    [pid] = [process.pid for process in dump.truth.processes if process.name == "lsass.exe"]
    mine = np.isin(np.arange(dump.truth.frames), list(dump.frames_of(pid)))

    def counts(chosen: npt.NDArray[np.bool_]) -> dict[str, int]:
        return {
            name: int(np.count_nonzero((dump.classes == name) & chosen))
            for name in (ABSENT, BOTH, USER, KERNEL, DATA, ZEROS)
        }

    assert legend_rows(page) == expected_legend(counts(mine))
    page.select_option("#color", "protection")
    page.locator("#legend-entries li", has_text="user rw-").hover()
    page.get_by_role("button", name="Only user rw-").click()
    page.select_option("#color", "class")
    protections = colour_by(
        "protection", dump.snapshot, PALETTES["default"], lambda: dump.snapshot.classes
    )
    labels_ = np.array([swatch.label for swatch in protections.swatches])[protections.values]
    assert legend_rows(page) == expected_legend(counts(mine & (labels_ == "user rw-")))


def test_private_user_writable_and_executable(
    open_page: Callable[..., "Page"], dump: Dump, tmp_path: Path
) -> None:
    """Filters of several legends together: a count, the next and the previous page, a table."""
    access = dump.snapshot.access & ~np.uint8(MAY_WRITE)
    alone = [frame for frame, mine in dump.owners.items() if len(mine) == 1]
    private = sorted(frame for frame in alone if dump.classes[frame] == USER)
    chosen = [private[3], private[40], private[-2]]
    both = next(f for f, mine in dump.owners.items() if len(mine) > 2 and dump.classes[f] == USER)
    access[[*chosen, both]] = 7
    snapshot = replace(dump.snapshot)
    vars(snapshot)["access"] = access
    viewer.write_page(tmp_path / "page.html", snapshot)
    page = open_page(tmp_path / "page.html", accept_downloads=True)
    for colouring, label in (("protection", "user rwx"), ("process", "one process alone")):
        page.select_option("#color", colouring)
        page.locator("#legend-entries li", has_text=label).hover()
        page.get_by_role("button", name=f"Only {label}").click()
    page.select_option("#color", "class")
    bar = page.locator("#lit")
    assert "3 pages (12 KiB) lit" in bar.inner_text()
    assert "user rwx" in bar.inner_text() and "one process alone" in bar.inner_text()

    def pinned() -> int:
        settle(page)
        return int(read_card(page, "#pinned")["address"], 16) // PAGE_SIZE

    met = []
    for _ in range(4):
        page.keyboard.press("n")
        met.append(pinned())
    assert met == [*chosen, chosen[0]]
    page.get_by_role("button", name="Previous lit page").click()
    assert pinned() == chosen[-1]
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of the lit pages").click()
    assert download.value.suggested_filename == "dump.lime.pages.csv"
    text = download.value.path().read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["pfn"]) for row in rows] == chosen
    for row, frame in zip(rows, chosen, strict=True):
        [((pid, name), virtual)] = dump.owners[frame].items()
        assert row["physical"] == hex(frame * PAGE_SIZE)
        assert (row["class"], row["protection"]) == (USER, "user rwx")
        assert row["owners"] == f"{name} ({pid}) {virtual}"
    # The filters are in the link, and go one by one.
    other = open_page(tmp_path / "page.html", fragment_of(page))
    assert "3 pages (12 KiB) lit" in other.locator("#lit").inner_text()
    bar.get_by_role("button", name="one process alone").click()
    assert "4 pages (16 KiB) lit" in bar.inner_text()


def test_legend_switches_classes(page: "Page", dump: Dump) -> None:
    counts = {
        name: int(np.count_nonzero(dump.classes == name))
        for name in (ABSENT, BOTH, USER, KERNEL, DATA, ZEROS)
    }
    assert legend_rows(page) == expected_legend(counts)
    page.get_by_role("checkbox", name="user").click()
    assert lit(page, dump) == set(np.flatnonzero(dump.classes != USER).tolist())
    page.get_by_role("checkbox", name="kernel").click()
    others = ~np.isin(dump.classes, [USER, KERNEL])
    assert lit(page, dump) == set(np.flatnonzero(others).tolist())
    page.get_by_role("button", name="Show all").click()
    assert len(lit(page, dump)) == dump.truth.frames
    page.locator("#legend-entries li", has_text="kernel").hover()
    page.get_by_role("button", name="Only kernel").click()
    assert lit(page, dump) == set(np.flatnonzero(dump.classes == KERNEL).tolist())


# -- pages that the dump leaves out --------------------------------------------------------


def test_left_out_pages_under_the_pointer(
    open_page: Callable[..., "Page"], filtered: Filtered
) -> None:
    """They are told from those that no machine has, and from those that are held; owners stay."""
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
    """A line with their count, a switch, and their own colour."""
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
    """In each colouring, pixel for pixel; the legend counts the same."""
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


# -- going somewhere -----------------------------------------------------------------------


def go_to(page: "Page", kind: str, number: str, process: str | None = None) -> str:
    """Use the form; returns what it answers."""
    page.select_option("#goto-kind", kind)
    if process:
        page.select_option("#goto-process", label=process)
    page.fill("#goto-number", number)
    page.get_by_role("button", name="Go", exact=True).click()
    settle(page)
    return page.locator("#goto-answer").inner_text()


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
        # It lies in the middle of the map, and large enough to be seen.
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


def test_strip_navigates(page: "Page", dump: Dump) -> None:
    box = page.locator("#strip").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    settle(page)
    strip = page.get_by_role("slider", name="Place in physical memory")
    frames = dump.truth.frames

    def here() -> int:
        page.wait_for_timeout(200)  # it tells a moment later
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


def test_strip_shows_the_classes(page: "Page", dump: Dump) -> None:
    """Bar by bar: the share of the pixels is the share of the pages."""
    data, width, height, bars = page.evaluate(
        """() => {
            const canvas = document.getElementById("strip");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return [[...data], width, height, Math.floor(width / 3)];
        }"""
    )
    full = height - 6
    pixels = np.array(data, np.uint8).reshape(height, width, 4)[:full, :, :3]
    edges = np.arange(bars + 1) * dump.truth.frames // bars
    for bar in range(0, bars, 7):
        column = pixels[:, int((bar + 0.5) * width / bars)]
        for page_class in PageClass:
            here = labels(dump.snapshot)[edges[bar] : edges[bar + 1]] == page_class.label
            colour = PALETTES["default"][page_class]
            assert abs((column == colour).all(axis=1).mean() - here.mean()) < 2 / full


# -- moving --------------------------------------------------------------------------------


def view(page: "Page") -> tuple[float, float, float]:
    """The cell in the middle of the map, and the scale."""
    settle(page)
    x, y, scale = page.evaluate("[...memviz.map.centre, memviz.map.transform.k]")
    return x, y, scale


def fitted(page: "Page", frames: int) -> float:
    """Pixels of a page when all are in view: so many that the map fills the window but a margin."""
    box = page.locator("#map").bounding_box()
    assert box
    side = int(np.ceil(np.sqrt(frames)))
    scale = min((box["width"] - 48) / side, (box["height"] - 48) / -(-frames // side))
    return float(scale if scale <= 8 else np.floor(scale))


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
    # Letters in a field are text, not commands.
    page.keyboard.press("/")
    page.keyboard.type("g?/+")
    assert page.input_value("#search") == "g?/+"
    assert view(page)[2] == pytest.approx(cell)


def test_tab_reaches_everything_and_shows_where_it_is(page: "Page") -> None:
    """The first stop leads to the map; lists are one stop each, and arrows walk in them."""
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
    met = []
    for _ in range(32):
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


def test_arrows_walk_the_list_of_processes(page: "Page") -> None:
    boxes = page.locator("#process-rows input")
    boxes.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert [box.is_checked() for box in boxes.all()][:3] == [False, True, False]
    page.keyboard.press("ArrowDown")  # the focus is still where it was
    page.keyboard.press("Space")
    assert [box.is_checked() for box in boxes.all()][:3] == [False, True, True]


def test_mouse(page: "Page") -> None:
    x, y, cell = view(page)
    frame_x, frame_y = place(page, 4140)
    page.mouse.move(frame_x, frame_y)
    page.mouse.wheel(0, -400)
    _, _, scale = view(page)
    assert scale > 1.5 * cell
    assert place(page, 4140) == pytest.approx((frame_x, frame_y), abs=scale)  # stays under it
    before = place(page, 4140)
    page.mouse.down()
    page.mouse.move(frame_x + 120, frame_y + 40, steps=5)
    page.mouse.up()
    settle(page)
    after = place(page, 4140)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((120, 40), abs=1)
    assert page.locator("#pinned").is_hidden()  # to drag is not to click
    page.get_by_role("button", name="Whole memory").click()
    assert view(page) == pytest.approx((x, y, cell))


def test_touch(open_page: Callable[..., "Page"], dump: Dump) -> None:
    page = open_page(dump.page, has_touch=True)
    cell = view(page)[2]
    frame_x, frame_y = place(page, 4000)
    page.touchscreen.tap(frame_x, frame_y)
    assert read_card(page, "#pinned")["address"] == hex(4000 * PAGE_SIZE)
    page.wait_for_timeout(600)  # a second touch soon after would be a double tap
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
    page.keyboard.press("Escape")  # without a pin: what was in the middle
    before = page.evaluate("memviz.map.layout.frameAt(...memviz.map.centre.map(Math.floor))")
    page.select_option("#layout", "rows")
    settle(page)
    after = page.evaluate("memviz.map.layout.frameAt(...memviz.map.centre.map(Math.floor))")
    assert after == before


# -- the link ------------------------------------------------------------------------------


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
    # A link that is pasted into a page that is open works, too.
    other.evaluate("location.hash = '#pin=1f'")
    settle(other)
    assert read_card(other, "#pinned")["address"] == "0x1f000"
    assert other.input_value("#layout") == "rows"


def test_a_page_that_opens_with_chosen_processes(
    open_page: Callable[..., "Page"], dump: Dump, tmp_path: Path
) -> None:
    """Theirs are lit up until others are chosen, or none; the link tells that, too."""
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


@pytest.mark.parametrize(
    "fragment",
    [
        "#layout=<img src=x onerror=alert(1)>&color=__proto__&palette=constructor",
        "#pin=<script>alert(1)</script>&show=<b>,1e9,-1,999999&off=<i>",
        "#view=NaN,1,2&pin=fffffffff",
        "#view=1e308,1e308,1e308",
        "#view=-5,-5,0.0000001&show=" + "9," * 5000,
        "#%E2%80%AE%00%ff&&&===",
        "#layout=toString&color=valueOf",
    ],
)
@pytest.mark.many
def test_hostile_links(open_page: Callable[..., "Page"], dump: Dump, fragment: str) -> None:
    page = open_page(dump.page, fragment)
    assert page.input_value("#layout") == "rows"
    assert page.input_value("#color") == "class"
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("img, b, i, iframe").count() == 0
    page.keyboard.press("Home")
    assert view(page)[2] == pytest.approx(fitted(page, dump.truth.frames))


# -- hostile text, and no way out ----------------------------------------------------------

HOSTILE = {
    "<script>a(1)</s": "<script>a(1)</s",
    "</script><b>x": "</script><b>x",
    "<img src=x>": "<img src=x>",
    "\"'`&lt;${1}": "\"'`&lt;${1}",
    "{{columns}}": "{{columns}}",
    "<!--<script>": "<!--<script>",
    "\x1b]0;own\x07": "\\x1b]0;own\\x07",
    "\x1b[31mred\n\r": "\\x1b[31mred\\x0a\\x0d",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u05d0\u05d1\u05d2 1234": "\u05d0\u05d1\u05d2 1234",
    "constructor": "constructor",
}


def test_hostile_names_stay_text(
    open_page: Callable[..., "Page"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of processes and of the dump itself: in the list, cards, choices, title and terminal."""
    path = tmp_path / '<b>\u202e&{{about}}\x1b[1m".raw'
    shown = '<b>\\u202e&{{about}}\\x1b[1m".raw'
    truth = forge(path, profiles()["Win7SP1x64"], size=SIZE, processes=16, names=list(HOSTILE))
    out = tmp_path / "page.html"
    assert main([str(path), "-o", str(tmp_path / "a.png"), "--html", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in HOSTILE.values())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", printed)

    page = open_page(out)
    assert page.title() == f"{shown} \N{EN DASH} Memory Visualizer"
    assert page.locator("h1").inner_text() == shown
    assert set(HOSTILE.values()) < set(names_listed(page))
    assert page.locator("b, img, iframe, script[src]").count() == 0
    titles = page.locator("#process-rows td[title]").evaluate_all(
        "(all) => all.map((td) => td.title)"
    )
    for name in HOSTILE.values():
        assert any(title.startswith(f"{name} (parent ") for title in titles)
    # A name from the right to the left does not turn the numbers behind it.
    isolated = page.locator("#process-rows bdi.name").evaluate_all(
        "(all) => all.every((name) => getComputedStyle(name).unicodeBidi === 'isolate')"
    )
    assert isolated
    for process in truth.processes:
        if process.name not in HOSTILE:
            continue
        name = HOSTILE[process.name]
        page.fill("#search", name)
        assert name in names_listed(page)
        index = truth.processes.index(process)
        note = next(n for n in truth.mappings if n["owner"] == index and n["user"])
        assert go_to(page, "virtual", hex(note["virtual"]), f"{process.pid} {name}") == ""
        told = read_card(page, "#pinned")
        assert told["owners"][process.pid, name] == hex(note["virtual"])
    assert fragment_of(page).startswith("#pin=")


def test_the_policy_lets_nothing_out_or_in(browser: "Browser", dump: Dump) -> None:
    """Not even what a script of the page itself would try."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    context = browser.new_context()
    page = context.new_page()
    page.goto(dump.page.as_uri())
    settle(page)
    tried = page.evaluate(
        """async (elsewhere) => {
            const violated = [];
            document.addEventListener("securitypolicyviolation",
                (event) => violated.push(event.effectiveDirective));
            const failed = [];
            const attempt = async (name, work) => {
                try { await work(); } catch { failed.push(name); }
            };
            await attempt("fetch", () => fetch(elsewhere));
            await attempt("markup", () => { document.body.innerHTML = "<b>x</b>"; });
            await attempt("eval", () => eval("1"));
            await attempt("script", () => {
                const script = document.createElement("script");
                script.text = "window.owned = true";
                document.body.append(script);
            });
            await attempt("image", () => new Promise((done, fail) =>
                Object.assign(new Image(), { onload: done, onerror: fail,
                    src: elsewhere + "x.png" })));
            // For a frame Chromium opens a connection, and says nothing on it, before it asks the
            // policy; so not at the address that is watched.
            const frame = document.createElement("iframe");
            frame.src = "http://127.0.0.1:9/";
            document.body.append(frame);
            await new Promise((done) => setTimeout(done, 200));
            return { failed, violated, owned: window.owned ?? false };
        }""",
        f"http://127.0.0.1:{server.getsockname()[1]}/",
    )
    context.close()
    with server, pytest.raises(BlockingIOError):  # nobody has called
        server.accept()
    assert {"fetch", "markup", "script", "image"} <= set(tried["failed"])
    assert {"connect-src", "img-src", "frame-src", "require-trusted-types-for"} <= set(
        tried["violated"]
    )
    assert tried["owned"] is False


def test_the_file_names_no_other_place(dump: Dump) -> None:
    """No address in it but namespaces and the libraries' own home in comments."""
    text = dump.page.read_text("utf-8")
    addresses = set(
        re.findall(r"""(?:src|href|url\(|@import|from)\s*[=("']+\s*(?!data:|#)[^"')\s>]+""", text)
    )
    assert {found for found in addresses if "//" in found} == set()


# -- for everyone --------------------------------------------------------------------------


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
    """WCAG 2.1's contrast of 4.5 to 1 for all text, in light and dark."""
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
    """The map, too: zeros are dark; legend and map have the colours of the dark palette."""
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


def test_entropy_is_a_scale(page: "Page", dump: Dump) -> None:
    """One bar from little to much, whose steps can be switched off."""
    page.select_option("#color", "entropy")
    steps = page.locator(".scale .step")
    colours = steps.evaluate_all("(all) => all.map((one) => one.style.backgroundColor)")
    assert colours == [f"rgb({r}, {g}, {b})" for r, g, b in DEFAULT.ramp(16)]
    tops = steps.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().top)")
    assert len(set(tops)) == 1
    assert page.locator("#legend-entries li").count() == 3  # absent, zeros, the scale
    values = colour_by(
        "entropy", dump.snapshot, DEFAULT, lambda: entropy(dump.snapshot.dump)
    ).values
    step = int(np.bincount(values[values > 1]).argmax())
    page.locator(f"#entry-{step}").click()
    hidden = set(np.flatnonzero(values == step).tolist())
    shades = page.evaluate("[...memviz.map.tiles.shades]")
    assert {frame for frame, shade in enumerate(shades) if shade == 0} == hidden


def test_a_palette_that_does_not_apply_says_so(
    open_page: Callable[..., "Page"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the page and on the command line; other colourings change."""
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=SIZE, database=True)
    out = ["-o", str(tmp_path / "a.png"), "--html", str(tmp_path / "page.html")]
    options = ["--palette", "colour-blind", "--color-by", "use"]
    assert main([str(tmp_path / "dump"), *out, *options]) == 0
    assert "colour-blind does not change the colours of states" in capsys.readouterr().err
    page = open_page(tmp_path / "page.html")
    assert page.locator("#legend-note").is_visible()
    page.select_option("#color", "class")
    assert page.locator("#legend-note").is_hidden()


def test_print(open_page: Callable[..., "Page"], dump: Dump) -> None:
    """Map, strip, legend and processes on paper; nothing to click."""
    page = open_page(dump.page, color_scheme="dark")
    page.emulate_media(media="print")
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


def assert_axe_finds_nothing(page: "Page") -> None:
    """Skips where there is no axe-core, but fails if REQUIRE_AXE=1."""
    if not AXE.exists():
        do_without("REQUIRE_AXE", "no axe-core here (npm ci in .ci/javascript)")
    page.evaluate(AXE.read_text("utf-8"))
    told = page.evaluate("axe.run(document)")
    violations = [(rule["id"], rule["nodes"][0]["target"]) for rule in told["violations"]]
    assert violations == []
    assert len(told["passes"]) > 20


AXE = ROOT / ".ci/javascript/node_modules/axe-core/axe.min.js"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 860), (800, 700), (390, 800)])
@pytest.mark.many
def test_axe_finds_nothing(
    open_page: Callable[..., "Page"], dump: Dump, width: int, height: int, scheme: str
) -> None:
    """The rules of axe-core (Deque), with a pinned page, chosen processes, and the side open."""
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
    """A phone, and 1280 by 860 at 400 %: nothing is wider than the screen, the map can be seen."""
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


# -- the file ------------------------------------------------------------------------------


def test_a_dump_without_windows(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (600, PAGE_SIZE), np.uint8)
    noise[100:200] = 0
    (tmp_path / "noise.raw").write_bytes(noise.tobytes())
    memory_visualizer.open(tmp_path / "noise.raw").to_html(tmp_path / "noise.html")
    page = open_page(tmp_path / "noise.html")
    assert "no system found" in page.locator("#facts").inner_text()
    assert page.locator("#process-count").inner_text() == "none found"
    assert card_of(page, 150)["class"] == ZEROS
    assert card_of(page, 250)["class"] == DATA
    assert "entropy" not in page.locator("#color option").evaluate_all(
        "(all) => all.map(({ value }) => value)"
    )
    for name in ("class", "process", "protection"):
        page.select_option("#color", name)
        settle(page)
    page.select_option("#color", "entropy?")
    assert "memviz DUMP --color-by entropy --html" in page.locator("#goto-answer").inner_text()
    assert page.input_value("#color") == "protection"


def test_states_and_kernel_threads(
    open_page: Callable[..., "Page"], dump: Dump, tmp_path: Path
) -> None:
    """What only Linux dumps have: a state for each page, and processes without pages."""
    states = np.random.default_rng(3).integers(1, len(PageState), dump.truth.frames, np.uint8)
    states[dump.snapshot.classes == PageClass.ABSENT] = PageState.ABSENT
    processes = list(dump.snapshot.processes)
    thread: dict[str, Any] = {
        "name": "kworker/0:1",
        "is_kernel_thread": True,
        "has_tables": False,
        "dtb": 0,
    }
    processes[4] = replace(processes[4], **thread)
    snapshot = replace(
        dump.snapshot, frame_records=FrameRecords(states), processes=tuple(processes)
    )
    like_linux = replace(dump, snapshot=snapshot, page=tmp_path / "page.html")
    viewer.write_page(like_linux.page, snapshot, color_by="state")
    page = open_page(like_linux.page)
    assert page.input_value("#color") == "state"
    colouring = colour_by("state", snapshot, PALETTES["default"], lambda: states)
    colours = np.array([swatch.colour for swatch in colouring.swatches], np.uint8)
    np.testing.assert_array_equal(by_frame(page, like_linux), colours[states])
    for frame in (20, 4000):
        assert card_of(page, frame)["State"] == PageState(states[frame]).label
    assert "kworker/0:1" not in names_listed(page)
    assert page.locator("#process-count").inner_text() == (
        "13 · 1 unlinked · 1 exited · 1 kernel thread"
    )
    page.get_by_role("button", name="1 kernel thread").click()
    assert names_listed(page) == ["kworker/0:1"]


def test_the_kernels_word_on_windows(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """State, use, priority and former owner of a page, from the page frame database."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=SIZE, database=True)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert truth.records is not None and snapshot.records is not None
    assert snapshot.records.findings is not None
    found = snapshot.records.findings.copy()
    found[5000] = RecordFinding.FREE_BUT_MAPPED
    snapshot = replace(snapshot, frame_records=replace(snapshot.records, findings=found))
    viewer.write_page(tmp_path / "page.html", snapshot, color_by="use")
    page = open_page(tmp_path / "page.html")
    assert page.input_value("#color") == "use"
    for name, codes in (("state", snapshot.states), ("use", snapshot.uses)):
        values = page.evaluate(f"[...memviz.colourings.get('{name}', 'default').values]")
        np.testing.assert_array_equal(values, codes)
    records = truth.records.records
    owned = np.flatnonzero((records["last_owner"] >= 0) & (records["state"] == "standby"))
    for frame in [int(owned[0]), int(owned[-1])]:
        card = card_of(page, frame)
        process = truth.processes[records["last_owner"][frame]]
        assert (card["State"], card["Use"]) == ("standby", "process private")
        assert card["Priority"] == str(records["priority"][frame])
        assert card["Last owner"] == f"{process.name} ({process.pid})"
    table = int(np.flatnonzero(records["use"] == "page table")[3])
    card = card_of(page, table)
    assert (card["State"], card["Use"]) == ("active", "page table")
    assert not {"Priority", "Last owner", "Contradiction"} & set(card)
    assert card_of(page, 5000)["Contradiction"] == "free but mapped"

    page.get_by_role("button", name="Table", exact=True).click()
    counts = snapshot.use_counts()
    states = [state for state in WindowsState if counts[:, state].any()]
    head = page.locator("#uses-head th").all_inner_texts()
    assert head == ["Use", *(state.label for state in states), "Pages", "Size"]
    rows = [
        [*line.locator("th").all_inner_texts(), *line.locator("td").all_inner_texts()]
        for line in page.locator("#uses-rows tr").all()
    ]
    expected = [
        [use.label, *(f"{counts[use, state]:,}" if counts[use, state] else "" for state in states)]
        for use in PageUse
        if counts[use].any()
    ]
    assert [row[:-2] for row in rows[:-1]] == expected
    assert rows[-1][-2:] == [f"{counts.sum():,}", f"{counts.sum() * 4:,} KiB"]
    page.get_by_role("button", name="page table", exact=True).click()
    assert not page.locator("#uses").is_visible()
    shown = page.evaluate("[...memviz.colourings.get('use', 'default').entries].map(e => e.label)")
    off = page.evaluate("[...memviz.state.off.use]")
    assert [label for index, label in enumerate(shown) if index not in off] == ["page table"]


def test_no_table_without_records(open_page: Callable[..., "Page"], dump: Dump) -> None:
    assert not open_page(dump.page).get_by_role("button", name="Table", exact=True).is_visible()


def test_a_real_linux_guest(
    open_page: Callable[..., "Page"], qemu_core: tuple[Path, Path], tmp_path: Path
) -> None:
    """Synthetic memory is tidier than real memory."""
    snapshot = memory_visualizer.open(qemu_core[0])
    snapshot.to_html(tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    for name in ("process", "protection", "mappings", "state"):
        page.select_option("#color", name)
        colouring = colour_by(name, snapshot, PALETTES["default"], lambda: snapshot.classes)
        values = page.evaluate(f"[...memviz.colourings.get('{name}', 'default').values]")
        np.testing.assert_array_equal(values, colouring.values)
    pids = [process.pid for process in snapshot.processes if not process.is_kernel_thread]
    listed = page.locator("#process-rows td:nth-child(2)").all_inner_texts()
    assert list(map(int, listed)) == sorted(pids)
    owners = page.evaluate(
        "[...memviz.model.page.keys()].map((frame) => memviz.model.owners.of(frame).length)"
    )
    shared = snapshot.mappings.take(snapshot.mappings.space == SHARED)
    expected = np.bincount(snapshot.owners.frame, minlength=snapshot.classes.size)
    expected[np.unique(snapshot.pages_of(shared)[2])] += 1
    np.testing.assert_array_equal(owners, expected)


@pytest.mark.parametrize("stretch", [1, 256])
def test_size(tmp_path: Path, stretch: int) -> None:
    """Six bytes a mapped page and 300 KiB, also where no two frames stay together.

    The first for data, the second for all else, so that it does not hang on the dump's size.
    """
    path = tmp_path / "dump"
    profile = profiles()["Win10x64_17763"]
    forge(path, profile, size=256 * MIB, processes=40, stretch=stretch)
    snapshot = memory_visualizer.open(path)
    # Entropies are for all pages, mapped or not: with them only where frames stay together.
    measured = entropy(snapshot.dump) if stretch > 1 else None
    viewer.write_page(tmp_path / "page.html", snapshot, entropy=measured)
    text = (tmp_path / "page.html").read_text()
    data = sum(map(len, re.findall('<script type="application/octet-stream".*', text)))
    assert data <= 6 * np.count_nonzero(snapshot.mapping_count)
    assert len(text.encode()) - data <= 300 * 1024


def test_command_line(
    open_page: Callable[..., "Page"], dump: Dump, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page opens as the options say; the same bytes each time; whole or not at all."""
    out = tmp_path / "page.html"
    arguments = [str(dump.path), "-o", str(tmp_path / "a.png"), "--html"]
    visitors = ["--layout", "hilbert", "--color-by", "entropy", "--palette", "colour-blind"]
    assert main([*arguments, str(out), *visitors]) == 0
    assert f"{out}: written" in capsys.readouterr().out
    first = out.read_bytes()
    page = open_page(out)
    assert [page.input_value(f"#{name}") for name in ("layout", "color", "palette")] == [
        "hilbert",
        "entropy",
        "colour-blind",
    ]
    assert main([*arguments, str(out), *visitors]) == 0
    assert out.read_bytes() == first
    with pytest.raises(OSError, match="is not a plain file"):
        viewer.write_page(Path("/dev/null"), dump.snapshot)
    evidence = tmp_path / "dump.html"
    evidence.write_bytes(contents := dump.path.read_bytes())
    assert main([str(evidence), *arguments[1:], str(evidence)]) == 2
    assert "must not be replaced" in capsys.readouterr().err
    assert evidence.read_bytes() == contents
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "dump.html", "page.html"]


def test_pictures_of_the_page(browser: "Browser", tmp_path: Path) -> None:
    """Those in docs/images can be taken again, and are small enough to be shown."""
    for path in take(browser, tmp_path):
        shown = ROOT / "docs/images" / path.name
        with Image.open(path) as taken, Image.open(shown) as kept:
            assert taken.size == kept.size == (1280, 800)
        assert shown.stat().st_size <= 300 * 1024


def test_the_file_behind_a_page(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """Path and offset under the pointer; the text of a dump stays text."""
    truth = forge_linux(tmp_path / "dump", "6.1", files=True).files
    assert truth
    snapshot = memory_visualizer.open(tmp_path / "dump")
    viewer.write_page(tmp_path / "page.html", snapshot, color_by="file")
    page = open_page(tmp_path / "page.html")
    assert page.input_value("#color") == "file"
    told = {
        own.path if own else "[file without an inode]": (frame, own, offset)
        for frame, (own, offset) in truth.pages.items()
    }
    for path, (frame, own, offset) in told.items():
        card = card_of(page, frame)
        shown = path.replace("\n", r"\x0a") + (" (deleted)" if own and own.is_deleted else "")
        assert card["File"] == shown
        assert int(card["Offset in file"], 16) == offset
    frame = next(n for n in range(0x200, len(snapshot.classes)) if n not in truth.pages)
    assert not {"File", "Offset in file"} & set(card_of(page, frame))


def test_choosing_files_lights_their_pages(
    open_page: Callable[..., "Page"], tmp_path: Path
) -> None:
    """The list has each file with its pages; choices of several kinds narrow each other."""
    truth = forge_linux(tmp_path / "dump", "6.1", files=True).files
    assert truth
    snapshot = memory_visualizer.open(tmp_path / "dump")
    viewer.write_page(tmp_path / "page.html", snapshot)
    page = open_page(tmp_path / "page.html")
    page.get_by_role("tab", name="Files").click()
    frames: dict[str, set[int]] = {}
    for frame, (own, _) in truth.pages.items():
        path = own.path if own else "[file without an inode]"
        shown = path.replace("\n", r"\x0a") + (" (deleted)" if own and own.is_deleted else "")
        frames.setdefault(shown, set()).add(frame)
    rows = page.locator("#file-list tbody tr")
    listed = {
        row.get_attribute("title"): int(row.locator("td").nth(1).inner_text().replace(",", ""))
        for row in rows.all()
    }
    assert listed == {path: len(those) for path, those in frames.items()}
    first, second = sorted(frames, key=lambda path: -len(frames[path]))[:2]
    for path in (first, second):
        page.locator("#file-list input").fill(path)
        rows.first.click()
    assert lit_frames(page) == frames[first] | frames[second]
    assert page.locator("#lit").inner_text().startswith(f"{len(lit_frames(page))} pages")
    page.locator("#file-list input").fill("no such file")
    assert page.locator("#file-list .note").inner_text() == "Nothing matches."
    fragment = fragment_of(page)
    again = open_page(tmp_path / "page.html", fragment)
    assert lit_frames(again) == frames[first] | frames[second]
    page.get_by_role("tab", name="Processes").click()
    page.locator("#process-rows input").first.click()
    process = page.evaluate("[...memviz.state.chosen][0]")
    mine = set(snapshot.pages(snapshot.processes[process]).tolist())
    assert lit_frames(page) <= (frames[first] | frames[second])
    assert lit_frames(page) >= (frames[first] | frames[second]) & mine
    page.locator("#lit .chip").last.click()
    assert lit_frames(page) >= mine


def lit_frames(page: "Page") -> set[int]:
    """The frames that are lit, by the page's own word."""
    return set(
        page.evaluate(
            "[...memviz.map.tiles.shades].map((one, at) => one === 2 ? at : -1).filter(n => n >= 0)"
        )
    )


def test_modules_and_regions(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """Under the pointer as the truth has them; choosing a module lights its pages."""
    truth = forge_linux(tmp_path / "dump", "6.1", files=True).files
    assert truth
    snapshot = memory_visualizer.open(tmp_path / "dump")
    viewer.write_page(tmp_path / "page.html", snapshot, regions=True)
    page = open_page(tmp_path / "page.html")
    for name, _, frames in truth.modules:
        for frame in (frames[0], frames[-1]):
            assert card_of(page, frame)["Module"] == name
    others = np.ones(len(snapshot.classes), bool)
    others[[frame for *_, frames in truth.modules for frame in frames]] = False
    assert "Module" not in card_of(page, int(np.flatnonzero(others)[100]))
    page.get_by_role("tab", name="Modules").click()
    name, _, frames = truth.modules[1]
    page.locator("#module-list tbody tr", has_text=name).click()
    assert lit_frames(page) == set(frames)
    page.locator("#module-list tbody tr", has_text=name).click()
    assert len(lit_frames(page)) == len(others)

    at = "([process, page]) => memviz.model.regions.of(process, page)?.text ?? null"
    for index, process in enumerate(snapshot.processes):
        end = 0
        for region in truth.regions.get(process.pid, []):
            kind = "private" if region.is_private else "shared"
            path = printable(region.name or region.file)
            words = [region.protection, kind, *([path] if path else [])]
            words += ["(deleted)"] if region.is_deleted else []
            pages = [region.start // PAGE_SIZE, region.end // PAGE_SIZE - 1]
            for number in pages:
                told = page.evaluate(at, [index, number])
                assert told is not None
                assert told.split(" · ")[0] == " ".join(words)
            if region.start > end:
                assert page.evaluate(at, [index, region.start // PAGE_SIZE - 1]) is None
            end = region.end
    frame, index, virtual = page.evaluate(
        """() => {
            const { model } = memviz;
            for (let frame = 0; frame < model.frames; frame++)
                for (const { process, virtual } of model.owners.of(frame))
                    if (model.regions.of(process, virtual)) return [frame, process, virtual];
        }"""
    )
    page.mouse.move(*place(page, frame))
    shown = page.locator("#passing .region").first.inner_text()
    assert shown == page.evaluate(at, [index, virtual])

    page.get_by_role("tab", name="Regions").click()
    assert "Choose one process" in page.locator("#region-list .note").inner_text()
    process = next(one for one in snapshot.processes if len(snapshot.pages(one)))
    pid = process.pid
    page.get_by_role("tab", name="Processes").click()
    choose(page, process.name)
    page.get_by_role("tab", name="Regions").click()
    told = {
        int(address, 16): int(pages.replace(",", ""))
        for address, _, pages in page.locator("#region-list tbody tr").evaluate_all(
            "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))"
        )
    }
    index = snapshot.processes.index(process)
    rows = snapshot.mappings.take(snapshot.mappings.space == index)
    columns = (rows.virtual.tolist(), rows.pfn.tolist(), rows.count.tolist())
    frame_at = {
        virtual + n * PAGE_SIZE: first + n
        for virtual, first, count in zip(*columns, strict=True)
        for n in range(count)
    }
    known = {
        region.start: {
            frame_at[at] for at in range(region.start, region.end, PAGE_SIZE) if at in frame_at
        }
        for region in truth.regions[pid]
    }
    assert told == {start: len(frames) for start, frames in known.items()}
    start = max(known, key=lambda start: len(known[start]))
    page.locator("#region-list tbody tr", has_text=hex(start)).click()
    assert lit_frames(page) == known[start]
