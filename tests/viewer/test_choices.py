"""Processes and the legend: chosen pages are lit, counted and saved."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from memory_visualizer import viewer
from memory_visualizer.cli.memviz import main
from memory_visualizer.paging import MAY_WRITE
from memory_visualizer.picture.colouring import colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.palette import DEFAULT, PALETTES
from tests.conftest import both_browsers
from tests.synth import forge, profiles
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import (
    ABSENT,
    BOTH,
    DATA,
    KERNEL,
    SIZE,
    USER,
    ZEROS,
    Dump,
    choose,
    downloaded,
    expected_legend,
    fragment_of,
    legend_rows,
    lit,
    megabytes,
    names_listed,
    numbers_of,
    place,
    read_card,
    settle,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page


@both_browsers
def test_choosing_a_process_lights_exactly_its_pages(page: "Page", dump: Dump) -> None:
    everything = set(range(dump.truth.frames))
    assert lit(page, dump) == everything
    processes = {process.name: process.pid for process in dump.truth.processes}
    choose(page, "lsass.exe")
    assert lit(page, dump) == dump.frames_of(processes["lsass.exe"])
    choose(page, "rootkit.exe")  # added
    assert lit(page, dump) == dump.frames_of(processes["lsass.exe"], processes["rootkit.exe"])
    choose(page, "lsass.exe")  # removed
    assert lit(page, dump) == dump.frames_of(processes["rootkit.exe"])
    page.get_by_role("button", name="Clear 1").click()
    assert lit(page, dump) == everything
    choose(page, "setup.exe")  # it has ended, and has no pages
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
        [process.name, str(process.pid), f"{mine:,}", f"{others:,}", megabytes(mine + others)]
        for process, mine, others in zip(dump.snapshot.processes, private, shared, strict=True)
    ]
    assert page.locator("#process-count").inner_text() == "14 · 1 unlinked · 1 exited"
    # The unlinked process differs in words and in looks.
    unlinked = page.locator("#process-rows tr.unlinked")
    assert unlinked.locator(".name").inner_text() == "rootkit.exe"
    assert unlinked.locator(".badge").inner_text() == "unlinked"
    is_whole = "(name) => name.scrollWidth <= name.clientWidth"  # no badge cuts a name off
    assert all(row.evaluate(is_whole) for row in page.locator("#process-rows .name").all())
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
    page.locator("#processes").get_by_role("button", name="Private").click()  # descending
    counts = page.locator("#process-rows td:nth-child(3)").all_inner_texts()
    numbers = [int(count.replace(",", "")) for count in counts]
    assert numbers == sorted(dump.snapshot.pages_of_processes()[:, 0].tolist(), reverse=True)


def test_search(page: "Page", dump: Dump) -> None:
    page.keyboard.press("/")
    page.keyboard.type("SVC")
    assert set(names_listed(page)) == {"svchost.exe"}
    page.keyboard.press("Enter")  # lights up all matches
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


@both_browsers
def test_arrows_walk_the_list_of_processes(page: "Page") -> None:
    boxes = page.locator("#process-rows input")
    boxes.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert [box.is_checked() for box in boxes.all()][:3] == [False, True, False]
    page.keyboard.press("ArrowDown")  # the focus has stayed
    page.keyboard.press("Space")
    assert [box.is_checked() for box in boxes.all()][:3] == [False, True, True]


def test_the_legend_follows_what_is_chosen(page: "Page", dump: Dump) -> None:
    """Counts and shares are of the chosen process, within the filters of other legends."""
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


@both_browsers
def test_private_user_writable_and_executable(
    open_page: Callable[..., "Page"], dump: Dump, tmp_path: Path
) -> None:
    """Filters of several legends combine: a count, the next and the previous page, a table."""
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
    name, text = downloaded(page, page.get_by_role("button", name="CSV of the lit pages").click)
    assert name == "dump.lime.pages.csv"
    rows = list(csv.DictReader(io.StringIO(text.decode("utf-8"))))
    assert [int(row["pfn"]) for row in rows] == chosen
    for row, frame in zip(rows, chosen, strict=True):
        [((pid, name), virtual)] = dump.owners[frame].items()
        assert row["physical"] == hex(frame * PAGE_SIZE)
        assert (row["class"], row["protection"]) == (USER, "user rwx")
        assert row["owners"] == f"{name} ({pid}) {virtual}"
    # The link has the filters, and they are removed one by one.
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


def test_entropy_is_a_scale(page: "Page", dump: Dump) -> None:
    """Entropy has one bar of steps from low to high, which can be switched off."""
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
    shades = numbers_of(page, "() => [...memviz.map.tiles.shades]")
    assert {frame for frame, shade in enumerate(shades) if shade == 0} == hidden


def test_a_palette_that_does_not_apply_says_so(
    open_page: Callable[..., "Page"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page and the command line say so, while other colourings change."""
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=SIZE, database=True)
    out = ["-o", str(tmp_path / "a.png"), "--html", str(tmp_path / "page.html")]
    options = ["--palette", "colour-blind", "--color-by", "use"]
    assert main([str(tmp_path / "dump"), *out, *options]) == 0
    assert "colour-blind does not change the colours of states" in capsys.readouterr().err
    page = open_page(tmp_path / "page.html")
    assert page.locator("#legend-note").is_visible()
    page.select_option("#color", "class")
    assert page.locator("#legend-note").is_hidden()
    page.select_option("#color", "process")
    assert "The 20 largest" in page.locator("#legend-note").inner_text()
    page.select_option("#palette", "default")
    assert page.locator("#legend-note").is_hidden()
