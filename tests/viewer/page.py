"""Synthetic dumps, their pages, and values that tests read from a page in a browser."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import memory_visualizer
from memory_visualizer import PageClass, Snapshot, viewer
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.layout import arrange
from memory_visualizer.picture.palette import PALETTES
from memory_visualizer.printable import printable
from tests.conftest import ROOT, do_without
from tests.snapshot.test_snapshot import expanded
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.containers import write_lime
from tests.synth.memory import PAGE_SIZE

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize


HOLE = (3000, 700)
"""First frame and number of frames that the dump does not hold."""

SIZE = 32 * MIB
WINDOW: "ViewportSize" = {"width": 1280, "height": 860}
ABSENT, BOTH, USER, KERNEL, DATA, ZEROS, LEFT_OUT = (page_class.label for page_class in PageClass)


@dataclass(frozen=True)
class Dump:
    """A synthetic dump, its truth, the program's snapshot of it, and the page."""

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
        """By frame, the true owners (pid, name) and their first virtual addresses, in hexadecimal.

        Pages that all processes share belong to the kernel, as pid -1.
        """
        owners: dict[int, dict[tuple[int, str], tuple[bool, int]]] = {}
        notes, frames, virtuals = expanded(self.truth)
        for note, frame, virtual in zip(notes, frames.tolist(), virtuals.tolist(), strict=True):
            process = self.truth.processes[note["owner"]] if note["owner"] >= 0 else None
            who = (process.pid, printable(process.name)) if process else (-1, "kernel, for all")
            if process and process.exited:
                continue
            found = (not note["user"], virtual)  # user mode first
            mine = owners.setdefault(frame, {})
            mine[who] = min(mine.get(who, found), found)
        return {
            frame: {who: hex(virtual) for who, (_, virtual) in mine.items()}
            for frame, mine in owners.items()
        }

    def frames_of(self, *pids: int) -> set[int]:
        """The true frames of these processes."""
        return {frame for frame, mine in self.owners.items() if any(pid in pids for pid, _ in mine)}


def make(folder: Path, **options: Any) -> Dump:
    """Write a synthetic dump with a hole, and its page."""
    truth = forge(folder / "dump.raw", profiles()["Win7SP1x64"], size=SIZE, holes=[HOLE], **options)
    memory = (folder / "dump.raw").read_bytes()
    end = sum(HOLE) * PAGE_SIZE
    path = folder / "dump.lime"
    write_lime(path, [(0, memory[: HOLE[0] * PAGE_SIZE]), (end, memory[end:])])
    snapshot = memory_visualizer.open(path)
    page = folder / "page.html"
    viewer.write_page(page, snapshot, entropy=entropy(snapshot.dump))
    return Dump(path, truth, snapshot, page)


@dataclass(frozen=True)
class Filtered(Dump):
    """A dump that lacks some of the machine's pages."""

    left: npt.NDArray[np.int64]
    """The frames of these pages."""

    @cached_property
    def classes(self) -> npt.NDArray[np.str_]:
        """The true class of each frame."""
        classes = super().classes.copy()
        classes[self.left] = LEFT_OUT
        return classes


def settle(page: "Page") -> None:
    """Wait until the page is drawn, and nothing moves."""
    page.evaluate(
        """async () => {
            const frame = () => new Promise((done) => requestAnimationFrame(done));
            while (!window.memviz) {
                if (performance.now() > 120_000) throw new Error("the page does not start");
                await frame();
            }
            const { map } = memviz;
            for (let before; before !== String(map.transform) || !map.settled || map.scheduled
                    || map.canvas.__transition;) {
                before = String(map.transform);
                await frame();
                await frame();
            }
        }"""
    )


def is_firefox(page: "Page") -> bool:
    """Whether a page is open in Firefox."""
    browser = page.context.browser
    return browser is not None and browser.browser_type.name == "firefox"


def put_on_paper(page: "Page") -> None:
    """Let the page look as in print; Firefox lacks the command, so its print rules are applied."""
    if not is_firefox(page):
        page.emulate_media(media="print")
        return
    page.evaluate(
        """() => {
            for (const rule of document.styleSheets[0].cssRules)
                if (rule.media?.mediaText === "print") rule.media.mediaText = "all";
        }"""
    )


def downloaded(page: "Page", act: Callable[[], None]) -> tuple[str, bytes]:
    """Name and contents of the file that the page saves in an action.

    Playwright is not told of Firefox's saved files, so the page's own objects are read there.
    """
    if not is_firefox(page):
        with page.expect_download() as coming:
            act()
        return coming.value.suggested_filename, coming.value.path().read_bytes()
    page.evaluate(
        """() => {
            const make = URL.createObjectURL;
            window.savedAs = null;
            URL.createObjectURL = (blob) => { window.saved = blob; return make(blob); };
            HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download; };
        }"""
    )
    act()
    page.wait_for_function("window.savedAs")
    name, contents = page.evaluate(
        """async () => {
            const bytes = new Uint8Array(await saved.arrayBuffer());
            let text = "";
            for (let i = 0; i < bytes.length; i += 32768)
                text += String.fromCharCode(...bytes.subarray(i, i + 32768));
            return [savedAs, btoa(text)];
        }"""
    )
    return name, base64.b64decode(contents)


def numbers_of(page: "Page", function: str, given: object = None) -> Any:
    """The result of a function in the page, as Page.evaluate gives it, but with many numbers.

    It comes as a text, since Playwright looks at each number by itself, in three processes.
    """
    return json.loads(page.evaluate(f"(given) => JSON.stringify(({function})(given))", given))


def fragment_of(page: "Page") -> str:
    """The link's fragment, which is written a moment after the last move."""
    settle(page)
    page.wait_for_timeout(400)
    fragment: str = page.evaluate("location.hash")
    return fragment


def place(page: "Page", frame: int) -> tuple[float, float]:
    """The middle of a frame's cell in the window."""
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

    The map must be as it is when opened, completely in view.
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
    frames = arrange(np.arange(dump.truth.frames) + 1, layout)  # 0 means no frame
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
    """The text of the card when the pointer is at a frame."""
    page.mouse.move(*place(page, frame))
    return read_card(page, "#passing")


def read_card(page: "Page", card: str) -> dict[str, Any]:
    """The visible text of a card."""
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
    """The names in the list of processes, in its order."""
    return page.locator("#process-rows .name").all_inner_texts()


def shown_at(page: "Page", x: float, y: float) -> tuple[int, list[int]]:
    """The frame at a place of the window by the map's transform, and the pixel's colour."""
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
    """The colour of the class that a card names."""
    label = page.locator(f"{card} .class .label").inner_text()
    [page_class] = [page_class for page_class in PageClass if page_class.label == label]
    return list(PALETTES["default"][page_class])


def legend_rows(page: "Page") -> list[list[str]]:
    """Label, pages, size and share of each entry."""
    rows = page.locator("#legend-entries label").all_inner_texts()
    return [row.split("\n") for row in rows]


def megabytes(pages: int) -> str:
    """Pages in MiB, as columns show them."""
    size = pages / 256
    digits = 0 if size == 0 or size >= 100 else 1 if size >= 1 else 2 if size >= 0.01 else 3
    return f"{size:,.{digits}f}"


def expected_legend(counts: dict[str, int]) -> list[list[str]]:
    """The legend's rows by true counts; shares are of the pages that the dump holds."""
    held = sum(count for name, count in counts.items() if name not in (ABSENT, LEFT_OUT))
    rows = []
    for name, count in counts.items():
        share = 100 * count / max(held, 1)
        words = "< 0.1 %" if 0 < share < 0.05 else "0 %" if not count else f"{share:.1f} %"
        unheld = name in (ABSENT, LEFT_OUT)
        rows.append(
            [name, f"{count:,}", f"{megabytes(count)} MiB", "\N{EN DASH}" if unheld else words]
        )
    return rows


def go_to(page: "Page", kind: str, number: str, process: str | None = None) -> str:
    """Use the form for going somewhere; returns its answer."""
    page.select_option("#goto-kind", kind)
    if process:
        page.select_option("#goto-process", label=process)
    page.fill("#goto-number", number)
    page.get_by_role("button", name="Go", exact=True).click()
    settle(page)
    return page.locator("#goto-answer").inner_text()


def view(page: "Page") -> tuple[float, float, float]:
    """The cell in the middle of the map, and the scale."""
    settle(page)
    x, y, scale = page.evaluate("[...memviz.map.centre, memviz.map.transform.k]")
    return x, y, scale


def fitted(page: "Page", frames: int) -> float:
    """Pixels of a page when the whole map is in view: it fills the window except for a margin."""
    box = page.locator("#map").bounding_box()
    assert box
    side = int(np.ceil(np.sqrt(frames)))
    scale = min((box["width"] - 48) / side, (box["height"] - 48) / -(-frames // side))
    return float(scale if scale <= 8 else np.floor(scale))


def assert_axe_finds_nothing(page: "Page") -> None:
    """Run axe-core. Skips if it is missing, but fails if REQUIRE_AXE=1."""
    if not AXE.exists():
        do_without("REQUIRE_AXE", "no axe-core here (npm ci in .ci/javascript)")
    page.evaluate(AXE.read_text("utf-8"))
    # The same rules on the same elements, but axe-core describes each only where it finds a fault.
    violations, passed = page.evaluate(
        """async () => {
            const told = await axe.run(document, { resultTypes: ["violations"] });
            const violations = told.violations.map(({ id, nodes }) => [id, nodes[0].target]);
            return [violations, told.passes.length];
        }"""
    )
    assert violations == []
    assert passed > 20


AXE = ROOT / ".ci/javascript/node_modules/axe-core/axe.min.js"


def lit_frames(page: "Page") -> set[int]:
    """The lit frames, by the page's own data."""
    shades = "() => [...memviz.map.tiles.shades]"
    return {frame for frame, shade in enumerate(numbers_of(page, shades)) if shade == 2}
