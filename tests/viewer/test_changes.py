"""The page of a difference: data, map, card and lists agree with the notes."""

import base64
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from memory_visualizer.api import moment
from memory_visualizer.cli.memviz import main
from memory_visualizer.difference.changes import Change
from memory_visualizer.difference.difference import compare_series
from memory_visualizer.difference.moment import Moment
from memory_visualizer.picture.changes import CHANGE_PALETTES, DARK_CHANGES
from memory_visualizer.picture.layout import arrange
from memory_visualizer.picture.palette import Colour, hex_colour
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.process import NAMELESS
from memory_visualizer.viewer import changes
from memory_visualizer.viewer.changes import ChangePage
from tests.conftest import ROOT, both_browsers
from tests.difference.conftest import Series, linux_series, windows_series
from tests.viewer.page import (
    assert_axe_finds_nothing,
    cells,
    numbers_of,
    place,
    settle,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["linux_series", "windows_series"]  # fixtures

Opener = Callable[..., "Page"]


@dataclass(frozen=True)
class Opened:
    """A series, its page, and the page's data, which are unpacked here."""

    series: Series
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def about(self) -> dict[str, Any]:
        """All data but the columns."""
        [found] = re.findall(
            r'<script type="application/json" id="about">(.*?)</script>', self.text
        )
        about: dict[str, Any] = json.loads(found)
        return about

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """A column, assembled from its planes."""
        [packed] = re.findall(rf'id="column-{name}">([^<]*)<', self.text)
        count, width = self.about["columns"][name]
        planes = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
        planes = planes.reshape(width, count).astype(np.int64)
        found: npt.NDArray[np.int64] = (planes << np.arange(0, 8 * width, 8)[:, None]).sum(axis=0)
        return found

    def of_dump(self, name: str, dump: int) -> npt.NDArray[np.int64]:
        """A column of a dump."""
        found = self.column(f"{name}_0")
        for number in range(1, dump + 1):
            found = found ^ self.column(f"{name}_{number}")
        return found

    @cached_property
    def words(self) -> list[npt.NDArray[np.str_]]:
        """The noted change of each frame, step by step."""
        return [step.words(self.series.memory) for step in self.series.steps]


def made(series: Series, folder: Path) -> Opened:
    path = folder / "changes.html"
    assert main(["diff", *map(str, series.paths), "--html", str(path), "-q"]) == 0
    return Opened(series, path)


@pytest.fixture(scope="module")
def opened(windows_series: Series, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return made(windows_series, tmp_path_factory.mktemp("changes"))


@pytest.fixture(scope="module")
def moments(windows_series: Series) -> list[Moment]:
    return [moment(path) for path in windows_series.paths]


# -- the data ---------------------------------------------------------------------------------


def test_processes_with_new_anomalies_only(moments: list[Moment]) -> None:
    """A process that neither grew nor shrank is in the list if it is odd now, or renamed."""
    first = moments[0]
    old, renamed, *others = first.processes
    odd = replace(old, anomalies=("parent unknown",))
    nameless = replace(first, processes=(old, replace(renamed, name=""), *others))
    page = ChangePage([nameless, first])
    lost = replace(others[0], pid=-1, name=NAMELESS, object_address=0, created=None)
    later = replace(first, processes=(odd, renamed, lost, *others[1:]))
    [step] = compare_series([nameless, later])
    page.add(step)
    [told] = page._steps
    assert [(owner, word, more) for owner, word, _, _, more in told["processes"]] == [
        (0, "odd", "parent unknown"),
        (1, "renamed", ""),
    ]
    # A process whose object is lost in the later dump keeps its name on the page.
    assert page._owners.told()[2] == [others[0].name, others[0].pid]


@pytest.mark.parametrize("system", ["windows_series", "linux_series"])
def test_data(system: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Changes, classes and owners of every page in every dump are as noted."""
    opened = made(request.getfixturevalue(system), tmp_path)
    about, steps = opened.about, opened.series.steps
    known = [steps[0].before, *(step.after for step in steps)]
    sizes, members = opened.column("set_size"), opened.column("members")
    starts = np.append(0, np.cumsum(sizes))
    for dump, truth in enumerate(known):
        page, sets = opened.of_dump("page", dump), opened.of_dump("owners", dump)
        labels = np.array([page_class.label for page_class in PageClass])
        np.testing.assert_array_equal(labels[page & 7], np.array(truth.classes))
        for frame in range(len(sets)):
            inside = members[starts[sets[frame]] : starts[sets[frame] + 1]].tolist()
            pids = {about["owners"][owner][1] for owner in inside}
            assert pids == truth.owners.get(frame, frozenset())
    for dump, words in enumerate(opened.words, 1):
        codes = np.array(about["changeOf"])[opened.column(f"bits_{dump}")]
        codes[words == "ABSENT"] = Change.ABSENT
        np.testing.assert_array_equal(np.array([one.name for one in Change])[codes], words)
    assert [one["time"] for one in about["dumps"]] == [
        f"2019-04-17 {hour}:{minute}:00" for hour, minute in ((18, 40), (18, 50), (19, "00"))
    ]


def test_a_page_loads_nothing_and_is_small(opened: Opened) -> None:
    """The page's own part has at most 250 KiB, and each dump adds only its changes."""
    data = sum(map(len, re.findall('<script type="application/octet-stream".*', opened.text)))
    assert len(opened.text.encode()) - data < 250 * 1024
    assert not re.search(r'(?:src|href)="(?!data:)', opened.text)
    assert "default-src &#x27;none&#x27;" in opened.text
    first, second = (
        len(re.findall(rf'id="column-page_{dump}">([^<]*)<', opened.text)[0]) for dump in (0, 1)
    )
    assert second < first / 2


def test_the_same_bytes(moments: list[Moment]) -> None:
    texts = []
    for _ in range(2):
        page = ChangePage(moments)
        for step in compare_series(moments):
            page.add(step)
        texts.append(page.text())
    assert texts[0] == texts[1]


def test_limits_are_told(moments: list[Moment], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moments[0].dump.frame_count
    monkeypatch.setattr(changes, "MAX_CELLS", 2 * frames + 1)
    monkeypatch.setattr(changes, "MAX_ROWS", 3)
    page = ChangePage(moments, remarks=["a <remark>"])
    for step in compare_series(moments):
        page.add(step)
    text = page.text()
    [found] = re.findall(r'<script type="application/json" id="about">(.*?)</script>', text)
    about = json.loads(found)
    assert len(about["dumps"]) == 2
    assert len(about["steps"]) == 1
    assert about["remarks"][:2] == [
        "a <remark>",
        f"this page has the first 2 dumps of 3: all together have more page frames than a browser"
        f" can hold ({2 * frames + 1:,})",
    ]
    rows = [len(about["steps"][0][name]) for name in ("processes", "leads", "files")]
    assert sum(rows) == 3
    assert re.fullmatch(r"\d+ rows? of lists left out: this page has 3", about["remarks"][2])


# -- the map -----------------------------------------------------------------------------------


def by_frame(page: "Page") -> npt.NDArray[np.uint8]:
    """The colour of each frame's cell in rows, shape (frames, 3)."""
    frames = arrange(np.arange(page.evaluate("memviz.model.frames")) + 1, "rows")
    found = cells(page, frames.shape)[..., :3]
    colours = np.empty((int(frames.max()), 3), np.uint8)
    colours[frames[frames > 0] - 1] = found[frames > 0]
    return colours


def codes_of(words: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    return np.array([Change[word] for word in words.tolist()])


@both_browsers
def test_colours_of_changes(open_page: Opener, opened: Opened) -> None:
    """Each page has its change's colour; over all steps, the strongest change's."""
    assert_colours(open_page(opened.path), opened, CHANGE_PALETTES["default"])


def test_colours_of_changes_in_the_dark(open_page: Opener, opened: Opened) -> None:
    page = open_page(opened.path, color_scheme="dark")
    assert_colours(page, opened, DARK_CHANGES["default"])


def assert_colours(page: "Page", opened: Opened, palette: Mapping[Change, Colour]) -> None:
    colours = np.array([palette[one] for one in Change], np.uint8)
    codes = [codes_of(words) for words in opened.words]
    assert page.evaluate("memviz.state.all")
    np.testing.assert_array_equal(by_frame(page), colours[np.maximum(*codes)])
    for dump in (2, 3):
        page.evaluate(f"location.hash = 'dump={dump}'")
        settle(page)
        np.testing.assert_array_equal(by_frame(page), colours[codes[dump - 2]])
        rows = page.locator("#legend-entries li .count").all_inner_texts()
        told = np.bincount(codes[dump - 2], minlength=len(Change))
        assert rows == [f"{count:,}" for count in told.tolist()]


@both_browsers
def test_before_and_after(open_page: Opener, opened: Opened) -> None:
    """Classes are bright if changed; a key switches, and shows the other dump while held."""
    page = open_page(opened.path, "#dump=2&view=before")
    codes, step = codes_of(opened.words[0]), opened.series.steps[0]
    labels = [page_class.label for page_class in PageClass]
    scheme = [np.array(bytearray.fromhex(one[1:])) for one in classes_of(opened)]
    for view, known in (("before", step.before), ("after", step.after)):
        page.locator(f"#views input[value={view}]").check(force=True)
        settle(page)
        shown = by_frame(page)
        lit = np.flatnonzero(codes > Change.SAME)
        expected = np.array([scheme[labels.index(known.classes[frame])] for frame in lit.tolist()])
        np.testing.assert_array_equal(shown[lit], expected)
        pale = np.flatnonzero((codes == Change.SAME) & (np.array(known.classes) == "user"))
        assert not (shown[pale] == scheme[labels.index("user")]).all(axis=1).any()
    assert page.locator("#classes").is_visible()
    views = []
    page.locator("#map").focus()
    page.keyboard.press("x")
    views.append(page.evaluate("memviz.state.view"))
    page.keyboard.down("x")
    views.append(page.evaluate("memviz.state.view"))
    page.wait_for_timeout(400)
    page.keyboard.up("x")
    views.append(page.evaluate("memviz.state.view"))
    page.keyboard.press("c")
    views.append(page.evaluate("memviz.state.view"))
    assert views == ["before", "after", "before", "change"]


def classes_of(opened: Opened) -> list[str]:
    scheme: list[str] = opened.about["schemes"]["light"]["default"]["class"]
    return scheme


@both_browsers
def test_the_slider(open_page: Opener, opened: Opened) -> None:
    """Arrow keys step through the dumps; a screen reader hears the times."""
    page = open_page(opened.path)
    slider = page.get_by_role("slider", name="Dump, in the order of time")
    assert "All 3 dumps" in str(slider.get_attribute("aria-valuetext"))
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[memviz.state.dump, memviz.state.all]") == [2, False]
    said = page.locator("#time-said").inner_text()
    assert said == slider.get_attribute("aria-valuetext")
    assert said == (
        "Dump 3 of 3: 3.raw, 2019-04-17 19:00:00 UTC, beside 2.raw, 2019-04-17 18:50:00 UTC"
    )
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("memviz.state.dump") == 1
    assert page.locator("#time-labels span").all_inner_texts() == ["18:50:00", "19:00:00"]
    page.locator("#map").focus()
    page.keyboard.press("]")
    assert page.evaluate("memviz.state.dump") == 2
    assert page.get_by_role("button", name="Later dump").is_disabled()
    page.get_by_label("All steps").check()
    assert page.evaluate("[memviz.state.all, location.hash]") == [True, "#all=1"]


def test_next_and_previous(open_page: Opener, opened: Opened) -> None:
    """The keys step through changed pages of the kinds that the legend shows."""
    page = open_page(opened.path, "#dump=2")
    codes = codes_of(opened.words[0])
    page.get_by_role("button", name="Only became executable").click(force=True)
    frames = np.flatnonzero(codes == Change.EXECUTABLE).tolist()
    assert len(frames) > 1
    found = []
    for key in [*"n" * len(frames), "p"]:
        page.keyboard.press(key)
        found.append(page.evaluate("memviz.state.pin"))
    assert found == [*frames, frames[-2]]
    assert page.locator("#lit").inner_text().startswith(f"{len(frames)} pages")


# -- texts ---------------------------------------------------------------------------------------


@both_browsers
def test_history_of_a_page(open_page: Opener, opened: Opened) -> None:
    """A page of each kind of change has its words, and its owners by name."""
    page = open_page(opened.path, "#dump=2")
    step = opened.series.steps[0]
    for word in sorted(set(opened.words[0].tolist()) - {"ABSENT"}):
        frame = int(np.flatnonzero(opened.words[0] == word)[0])
        page.mouse.move(*place(page, frame))
        settle(page)
        rows = page.locator("#passing .history li").all_inner_texts()
        told = " ".join(rows).replace("\n", " ")
        assert "18:40:00" in rows[0]
        assert f"{step.before.classes[frame]}, " in rows[0]
        if word == "OWNER":
            assert "owner: " in told
            before, after = (
                known.owners.get(frame, frozenset()) for known in (step.before, step.after)
            )
            for pid in before ^ after:
                assert f"{(step.before.names | step.after.names)[pid]} ({pid})" in told
        else:
            assert Change[word].label in told
    unchanged = np.flatnonzero((opened.words[0] == "SAME") & (opened.words[1] == "SAME"))
    page.mouse.move(*place(page, int(unchanged[5])))
    settle(page)
    rows = page.locator("#passing .history li").all_inner_texts()
    assert len(rows) == 2
    assert "18:50:00 \N{EN DASH} 19:00:00" in rows[1]
    assert "the same" in rows[1]


def test_lists(open_page: Opener, opened: Opened) -> None:
    """A chosen process, or move of owners, lights up its pages."""
    page = open_page(opened.path, "#dump=2")
    step = opened.series.steps[0]
    came = step.after.pages.keys() - step.before.pages.keys()
    went = step.before.pages.keys() - step.after.pages.keys()
    rows = page.locator("#process-list tbody tr").all_inner_texts()
    for word, pids in (("came", came), ("went", went)):
        found = [re.search(rf"\((\d+)\).*\b{word}\b", row.replace("\n", " ")) for row in rows]
        told = {int(match[1]) for match in found if match}
        assert told == pids
    pid = next(iter(went))
    page.get_by_role("button", name=re.compile(rf"\({pid}\)")).first.click()
    owned = {
        frame
        for known in (step.before, step.after)
        for frame, pids in known.owners.items()
        if pid in pids
    }
    lit = {frame for frame in owned if opened.words[0][frame] not in ("SAME", "ABSENT")}
    assert set(shaded(page)) == lit
    page.get_by_role("tab", name="Owners").click()
    counts = page.locator("#move-list tbody tr td:nth-child(3)").all_inner_texts()
    moved = int(np.count_nonzero(opened.words[0] == "OWNER"))
    assert sum(int(count.replace(",", "")) for count in counts) == moved
    page.locator("#move-list tbody button").first.click()
    assert len(shaded(page)) == int(counts[0].replace(",", ""))
    page.keyboard.press("]")
    assert page.evaluate("memviz.state.mark") is None


def shaded(page: "Page") -> list[int]:
    """The frames that are lit."""
    shades = numbers_of(page, "() => [...memviz.shades]")
    return [frame for frame, shade in enumerate(shades) if shade == 2]


def test_names_stay_text(open_page: Opener, moments: list[Moment], tmp_path: Path) -> None:
    """Names with markup are text, also in a series of dumps of different machines."""
    markup = "</script><img src=x onerror=alert(1)><b>x</b>"
    named = [
        replace(one, processes=tuple(replace(process, name=markup) for process in one.processes))
        for one in moments[:2]
    ]
    named[1] = replace(
        named[1],
        kernel_dtb=0x1000,
        booted=None,
        processes=tuple(
            replace(
                process, pid=process.pid + 70_000, created=None, object_address=n + 1, dtb=n + 1
            )
            for n, process in enumerate(named[1].processes)
        ),
    )
    page = ChangePage(named)
    for step in compare_series(named):
        assert not step.is_one_machine
        page.add(step)
    (tmp_path / "page.html").write_text(page.text(), "utf-8")
    opened = open_page(tmp_path / "page.html", "#pin=40")
    assert "pages are not compared" in opened.locator("#legend-note").inner_text()
    assert "not compared" in opened.locator("#pinned").inner_text()
    assert opened.locator("b, img").count() == 0
    assert markup in opened.locator("#process-list").inner_text()


def test_any_address(open_page: Opener, opened: Opened) -> None:
    """Values from the address are checked."""
    page = open_page(opened.path, "#dump=99&view=<b>&off=1e9,-1,77&pin=ffffffff&layout=x&all=2")
    state = page.evaluate("({ ...memviz.state, off: [...memviz.state.off] })")
    assert state["view"] == "change"
    assert state["layout"] == "rows"
    assert (state["off"], state["pin"], state["all"]) == ([], -1, True)


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(1280, 860, "light"), (1280, 860, "dark"), (800, 700, "light"), (390, 800, "dark")],
)
def test_axe_finds_nothing(
    open_page: Opener, opened: Opened, width: int, height: int, scheme: str
) -> None:
    """No rule of axe-core (Deque) fails with a pinned page and the side open; all parts fit."""
    frame = int(np.flatnonzero(opened.words[0] == "OWNER")[0])
    page = open_page(
        opened.path,
        f"#dump=2&view=after&pin={frame:x}",
        viewport={"width": width, "height": height},
        color_scheme=scheme,
    )
    if width <= 800:
        page.get_by_role("button", name="Legend and lists").click()
    assert_axe_finds_nothing(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_colours_are_those_of_the_picture(opened: Opened) -> None:
    scheme = opened.about["schemes"]["light"]
    for name, palette in CHANGE_PALETTES.items():
        assert scheme[name]["change"] == [hex_colour(palette[one]) for one in Change]


def test_the_documentation_tells_the_limits() -> None:
    text = (ROOT / "docs/diff.md").read_text()
    assert f"{changes.MAX_CELLS:,} pages together" in text
    assert f"{changes.MAX_ROWS:,} rows" in text
