"""The page in Firefox: it opens without a word, and paints and tells what the truth has."""

import base64
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from memory_visualizer import PageClass
from memory_visualizer.difference.changes import Change
from memory_visualizer.picture.changes import CHANGE_PALETTES
from memory_visualizer.picture.colouring import COLOURINGS
from memory_visualizer.picture.layout import arrange
from memory_visualizer.picture.palette import PALETTES
from tests.conftest import do_without
from tests.difference.conftest import Series, windows_series
from tests.viewer import test_changes as of_changes
from tests.viewer.test_bytes import CUT_AT, NARROW_AT, SECRET, WIDE_AT, made
from tests.viewer.test_viewer import AXE, WINDOW, Dump, make

try:
    from tests.viewer.firefox import Firefox, command, started
except ImportError as error:
    pytest.skip(f"no second browser: {error}", allow_module_level=True)

__all__ = ["windows_series"]  # a fixture

pytestmark = pytest.mark.browser

SETTLED = """new Promise((done) => {
    const look = (before) => requestAnimationFrame(() => {
        const { map } = window.memviz ?? {};
        const now = String(map?.transform);
        const rests = map?.settled && !map.scheduled && !map.canvas.__transition;
        if (rests && now === before) done(true); else look(now);
    });
    look();
})"""
UNTIL = """new Promise((done) => {
    const look = () => (%s) ? done(true) : setTimeout(look, 20);
    look();
})"""
PIXELS = """(() => {
    const { canvas, transform } = memviz.map;
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    let text = "";
    for (let i = 0; i < data.length; i += 32768)
        text += String.fromCharCode(...data.subarray(i, i + 32768));
    return [btoa(text), width, height, transform.x, transform.y, transform.k];
})()"""


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Dump:
    return make(tmp_path_factory.mktemp("firefox"), stretch=16)


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    """Skips where there is none, but fails if REQUIRE_FIREFOX=1."""
    path = command()
    if path is None:
        do_without("REQUIRE_FIREFOX", "no Firefox here (on Debian: apt install firefox-esr)")
    with started(path, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def opened(firefox: Firefox, path: Path, fragment: str = "") -> Firefox:
    """A page once all is drawn."""
    firefox.said.clear()
    firefox.open("about:blank", **WINDOW)
    firefox.open(path.as_uri() + fragment, **WINDOW)
    assert firefox.evaluate(SETTLED)
    return firefox


def by_frame(firefox: Firefox, frames: int, layout: str) -> npt.NDArray[np.uint8]:
    """The colour in the middle of each frame's cell, shape (frames, 3)."""
    numbers = arrange(np.arange(frames) + 1, layout)  # 0 is what no frame has
    data, width, height, left, top, scale = firefox.evaluate(PIXELS)
    pixels = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
    row, column = np.nonzero(numbers)
    down, right = (
        np.floor(start + (at + 0.5) * scale).astype(int)
        for start, at in ((top, row), (left, column))
    )
    colours = np.empty((frames, 3), np.uint8)
    colours[numbers[row, column] - 1] = pixels[down, right, :3]
    return colours


@pytest.mark.parametrize("layout", ["rows", "hilbert"])
@pytest.mark.parametrize("palette", PALETTES)
def test_every_page_has_its_colour(firefox: Firefox, dump: Dump, layout: str, palette: str) -> None:
    """By its class; nothing is written to the console."""
    opened(firefox, dump.page, f"#layout={layout}&palette={palette}")
    of_class = {page_class.label: PALETTES[palette][page_class] for page_class in PageClass}
    expected = np.array([of_class[name] for name in dump.classes.tolist()], np.uint8)
    np.testing.assert_array_equal(by_frame(firefox, len(expected), layout), expected)
    assert not [text for text in firefox.said if "willReadFrequently" not in text]


@pytest.mark.parametrize("name", sorted(set(COLOURINGS) - {"state", "use", "file"}))
def test_colourings(firefox: Firefox, dump: Dump, name: str) -> None:
    """As in the picture that the program paints."""
    opened(firefox, dump.page, f"#color={name}")
    picture = dump.snapshot.image(color_by=name).convert("RGB")
    expected = np.asarray(picture).reshape(-1, 3)[: dump.truth.frames]
    np.testing.assert_array_equal(by_frame(firefox, len(expected), "rows"), expected)


def test_what_a_click_tells(firefox: Firefox, dump: Dump) -> None:
    """Address, class and all owners of the page that most processes have."""
    opened(firefox, dump.page)
    frame = max(dump.owners, key=lambda frame: (len(dump.owners[frame]), -frame))
    x, y = firefox.evaluate(
        f"""(() => {{
            const {{ left, top, size }} = memviz.map.boxOf({frame});
            const box = memviz.map.canvas.getBoundingClientRect();
            return [box.left + left + size / 2, box.top + top + size / 2];
        }})()"""
    )
    firefox.click(x, y)
    text = "document.querySelector('#pinned .%s').textContent"
    assert firefox.evaluate(text % "physical") == hex(frame * 4096)
    assert firefox.evaluate(text % "label") == dump.classes[frame]
    rows = firefox.evaluate(
        """[...document.querySelectorAll('#pinned .owners li')].map((row) =>
            [".pid", ".name", ".virtual"].map((part) => row.querySelector(part).textContent))"""
    )
    told = {(int(pid.removeprefix("pid ") or -1), name): virtual for pid, name, virtual in rows}
    assert told == dump.owners[frame]


def test_bytes(firefox: Firefox, tmp_path: Path) -> None:
    """The dump is opened, read and searched, and pages of it are saved."""
    memory = made(tmp_path, "dump.lime")
    opened(firefox, memory.page)
    firefox.evaluate("document.getElementById('bench-open').click()")
    firefox.give("#bench-file", memory.path)
    assert firefox.evaluate(UNTIL % "memviz.bench.dump")
    assert firefox.evaluate("memviz.bench.dump.isCompared")
    for frame in (0, 5, 33, 40):
        got = firefox.evaluate(f"memviz.bench.bytesOf({frame}).then((bytes) => [...bytes])")
        assert bytes(got) == memory.frames[frame]
    firefox.evaluate(
        f"""(() => {{
            document.getElementById("find-text").value = {SECRET!r};
            document.getElementById("find-start").click();
        }})()"""
    )
    assert firefox.evaluate(UNTIL % "!memviz.bench.find.worker")
    hits = firefox.evaluate("memviz.bench.find.hits.map(({ address, kind }) => [address, kind])")
    assert hits == [[WIDE_AT, "UTF-16"], [CUT_AT, "ASCII"], [NARROW_AT, "ASCII"]]
    firefox.evaluate(
        """(() => {
            const make = URL.createObjectURL;
            URL.createObjectURL = (blob) => { window.saved = blob; return make(blob); };
            document.getElementById("save-scope").value = "shown";
            document.getElementById("save").requestSubmit();
        })()"""
    )
    assert firefox.evaluate(UNTIL % "window.saved")
    archive = firefox.evaluate("window.saved.arrayBuffer().then((b) => [...new Uint8Array(b)])")
    with tarfile.open(fileobj=io.BytesIO(bytes(archive))) as saved:
        content = saved.extractfile("memory.bin")
        assert content
        assert content.read() == b"".join(memory.frames[frame] for frame in (5, 9, 10, 40))
    assert not [text for text in firefox.said if "willReadFrequently" not in text]


@pytest.mark.parametrize("fragment", ["", "#view=41,40,3.3", "#layout=hilbert&view=40,40,0.7"])
def test_the_card_is_of_the_pixel_under_the_pointer(
    firefox: Firefox, dump: Dump, fragment: str
) -> None:
    """Its class has the colour of the pixel, also after the map has moved by keys."""
    opened(firefox, dump.page, fragment)
    box = "memviz.map.canvas.getBoundingClientRect()"
    left, top, width, height = firefox.evaluate(
        f"(({{ left, top, width, height }}) => [left, top, width, height])({box})"
    )
    colours = {page_class.label: list(PALETTES["default"][page_class]) for page_class in PageClass}
    for step, key in enumerate(["", "+", "\ue014", "\ue015", "-", "+"]):
        x, y = round(left + width / 2 - 20 + 9 * step), round(top + height / 2 + 7 * step)
        firefox.move(x, y)
        if key:
            firefox.press(key)
        firefox.evaluate(SETTLED)
        label, hidden, pixel = firefox.evaluate(
            f"""(() => {{
                const {{ left, top }} = {box};
                const at = [{x} - left, {y} - top].map(Math.floor);
                const card = document.getElementById("passing");
                const {{ data }} = memviz.map.canvas.getContext("2d").getImageData(...at, 1, 1);
                const label = card.querySelector(".class .label");
                return [label?.textContent, card.hidden, [...data].slice(0, 3)];
            }})()"""
        )
        assert not hidden
        assert colours[label] == pixel


def test_axe_finds_nothing(firefox: Firefox, dump: Dump) -> None:
    """The rules of axe-core (Deque)."""
    if not AXE.exists():
        do_without("REQUIRE_AXE", "no axe-core here (npm ci in .ci/javascript)")
    opened(firefox, dump.page, "#pin=40&show=3,4")
    firefox.evaluate(f"(() => {{ {AXE.read_text('utf-8')}; return 1; }})()")
    told = firefox.evaluate("axe.run(document)")
    assert [rule["id"] for rule in told["violations"]] == []
    assert len(told["passes"]) > 20


def test_the_page_of_a_difference(firefox: Firefox, windows_series: Series, tmp_path: Path) -> None:
    """Each page has the colour of its change; keys lead from dump to dump, and flip."""
    page = of_changes.made(windows_series, tmp_path)
    opened(firefox, page.path, "#dump=2")
    colours = np.array([CHANGE_PALETTES["default"][one] for one in Change], np.uint8)
    for words in page.words:
        codes = of_changes.codes_of(words)
        np.testing.assert_array_equal(by_frame(firefox, len(codes), "rows"), colours[codes])
        firefox.press("]")
        firefox.evaluate(SETTLED)
    firefox.press("x")
    assert firefox.evaluate("[memviz.state.dump, memviz.state.view]") == [2, "before"]
    firefox.press("n")
    assert firefox.evaluate("document.querySelectorAll('#pinned .history li').length") > 1
    assert not [text for text in firefox.said if "willReadFrequently" not in text]
    if AXE.exists():
        firefox.evaluate(f"(() => {{ {AXE.read_text('utf-8')}; return 1; }})()")
        told = firefox.evaluate("axe.run(document)")
        assert [rule["id"] for rule in told["violations"]] == []
