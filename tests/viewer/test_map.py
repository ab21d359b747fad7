"""The map: colours, layouts, folds, marks, and its look at each scale."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import PageClass, viewer
from memory_visualizer.picture.colouring import COLOURINGS, colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.folding import plan
from memory_visualizer.picture.layout import arrange
from memory_visualizer.picture.palette import PALETTES
from tests.conftest import both_browsers
from tests.snapshot.test_snapshot import labels
from tests.synth.containers import write_lime
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import (
    ABSENT,
    BOTH,
    DATA,
    KERNEL,
    LEFT_OUT,
    USER,
    ZEROS,
    Dump,
    by_frame,
    canvas,
    card_of,
    choose,
    go_to,
    legend_rows,
    numbers_of,
    place,
    read_card,
    settle,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_colours_are_the_true_classes(page: "Page", dump: Dump) -> None:
    palette = PALETTES["default"]
    colours = np.array([palette[page_class] for page_class in PageClass], np.uint8)
    numbers = np.array([[ABSENT, BOTH, USER, KERNEL, DATA, ZEROS].index(c) for c in dump.classes])
    np.testing.assert_array_equal(by_frame(page, dump), colours[numbers])
    np.testing.assert_array_equal(labels(dump.snapshot), dump.classes)


@pytest.mark.parametrize(
    ("browser", "layout", "palette", "name"),
    [
        (browser, layout, palette, name)
        for number, name in enumerate(sorted(set(COLOURINGS) - {"state", "use", "file"}))
        for browser, layout, palette in (
            ("chromium", "rows", "colour-blind"),
            ("chromium", "hilbert", "default"),
            ("firefox", *(("hilbert", "default") if number % 2 else ("rows", "colour-blind"))),
        )
    ],
    indirect=["browser"],
)
@pytest.mark.many
def test_picture_equals_the_png(
    page: "Page", dump: Dump, name: str, layout: str, palette: str
) -> None:
    """In each colouring all pixels are equal, and the legend has the same counts."""
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
        if count or swatch.label != LEFT_OUT  # it is shown only if there are such pages
    ]
    if name == "process":
        base = colouring.general - 1
        expected = [*expected[:base], sum(expected[base:])]
    assert counts == expected


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
def test_layouts_equal_those_of_python(page: "Page", layout: str) -> None:
    """Positions lead to the same frames and back."""
    for frames in (1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 64, 1000, 8192, 70_001):
        assert_layout_is_python_s(page, layout, frames)


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
def test_folds_equal_those_of_python(page: "Page", layout: str) -> None:
    """Positions lead to the same frames and back with long holes, and breaks hide the same."""
    for frames, holes in (
        (30_000, [(100, 25_000)]),
        (60_000, [(0, 9000), (10_000, 5000), (20_000, 39_999)]),
        (70_001, [(5, 70_000 - 5)]),
    ):
        planned = plan(frames, layout, None, holes)
        drawn = planned.pixels(np.arange(1, frames + 1), -2, -1)
        expected = np.where(drawn > 0, drawn - 1, -1)
        width, height, found, places, folds = numbers_of(
            page,
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


@both_browsers
def test_a_hole_is_a_thin_break(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """The break tells address and size; pages behind it are at the expected places."""
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
    # The strip, too, is nearly all memory: its last tenth is behind the hole.
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
    width, height, found, places = numbers_of(
        page,
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
    # Rows without frames are left out.
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
    """Of pages smaller than a pixel the most frequent class wins, but chosen pages come first."""
    page.select_option("#layout", layout)
    choose(page, *chosen)
    tile = numbers_of(
        page,
        """() => {
            const { tiles } = memviz.map;
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 256;
            tiles.paint(canvas, 2, 0, 0);
            const { data } = canvas.getContext("2d").getImageData(0, 0, 32, 16);
            const pixels = [...new Uint32Array(data.buffer)];
            return [pixels, [...memviz.model.page.keys()].map((frame) => tiles.pixel(frame))];
        }""",
    )
    found, pixel_of = (np.array(numbers, np.int64) for numbers in tile)
    pids = [process.pid for process in dump.truth.processes if process.name in chosen]
    lit = np.isin(np.arange(dump.truth.frames), list(dump.frames_of(*pids)))
    frames = arrange(np.arange(dump.truth.frames), layout)[:64, :88]
    classes = labels(dump.snapshot)
    for at, block in enumerate(frames.reshape(16, 4, -1, 4).swapaxes(1, 2).reshape(-1, 16)):
        voters = block[lit[block]] if lit[block].any() else block
        _, votes = np.unique(classes[voters], return_counts=True)
        winners = {
            pixel_of[frame]
            for frame in voters
            if np.sum(classes[voters] == classes[frame]) == votes.max()
        }
        row, column = divmod(at, frames.shape[1] // 4)
        assert found[row * 32 + column] in winners


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
def test_marks_at_the_left_edge(page: "Page", dump: Dump, layout: str) -> None:
    """Rows have round addresses; the curve has squares of contiguous memory."""
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


def test_marks_at_all_edges_of_the_curve(page: "Page", dump: Dump) -> None:
    """Each mark is the lowest address of its square; rows have no such marks."""
    assert page.evaluate("memviz.map.marks('top')") == []
    page.select_option("#layout", "hilbert")
    settle(page)
    frames = arrange(np.arange(dump.truth.frames), "hilbert")
    for edge in ("top", "bottom", "right"):
        marks = [(at, int(label, 16)) for at, label in page.evaluate(f"memviz.map.marks('{edge}')")]
        assert len(marks) > 1
        side = marks[1][0] - marks[0][0]
        for at, address in marks:
            along = slice(at, at + side)
            across = slice(0, side) if edge == "top" else slice(-side, None)
            square = frames[along, across] if edge == "right" else frames[across, along]
            first = address // PAGE_SIZE
            assert np.sort(square.ravel()).tolist() == list(range(first, first + side**2))


def test_labels_of_close_folds_stand_apart(
    open_page: Callable[..., "Page"], tmp_path: Path
) -> None:
    """Labels of breaks in neighbouring rows have lines of their own."""
    path, far = tmp_path / "holes.lime", 1 << 30
    noise = np.random.default_rng(4).integers(1, 256, (4000, PAGE_SIZE), np.uint8).tobytes()
    whole = noise[: 3900 * PAGE_SIZE]
    write_lime(path, [(0, whole), (far, b"a" * PAGE_SIZE), (3 * far, noise[: 90 * PAGE_SIZE])])
    memory_visualizer.open(path).to_html(tmp_path / "holes.html")
    page = open_page(tmp_path / "holes.html")
    drawn = page.evaluate(
        """() => {
            const { map } = memviz, { context } = map, drawn = [];
            const fillText = context.fillText;
            context.fillText = (text, x, y) => drawn.push([text, y]);
            map.draw();
            context.fillText = fillText;
            return drawn;
        }"""
    )
    holes = [place for label, place in drawn if "absent" in label]
    assert len(holes) == 2
    places = sorted(place for _, place in drawn)
    assert min(np.diff(places)) >= 13


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
    assert (inside == inside[0]).all()  # one colour up to the border
    neighbourhood = pixels[middle - int(scale * 0.6) : middle + int(scale * 0.6)]
    assert (neighbourhood != inside[0]).any()
    for _ in range(20):
        page.keyboard.press("+")
    settle(page)
    assert page.evaluate("memviz.map.transform.k") == 96


def test_strip_shows_the_classes(page: "Page", dump: Dump) -> None:
    """Each bar's pixels have the pages' shares."""
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
