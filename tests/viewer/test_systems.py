"""The kernel's records of pages: states, uses, files, modules, regions; dumps without a system."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import memory_visualizer
from memory_visualizer import PageClass, viewer
from memory_visualizer.paging import SHARED
from memory_visualizer.picture.colouring import colour_by
from memory_visualizer.picture.palette import PALETTES
from memory_visualizer.printable import mebibytes, printable
from memory_visualizer.snapshot.framerecords import (
    FrameRecords,
    PageUse,
    RecordFinding,
    WindowsState,
)
from memory_visualizer.snapshot.pagemap import PageState
from tests.synth import forge, profiles
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import (
    DATA,
    SIZE,
    ZEROS,
    Dump,
    by_frame,
    card_of,
    choose,
    fragment_of,
    legend_rows,
    lit_frames,
    megabytes,
    names_listed,
    place,
    settle,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_dump_without_windows(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (600, PAGE_SIZE), np.uint8)
    noise[100:380] = 0
    (tmp_path / "noise.raw").write_bytes(noise.tobytes())
    memory_visualizer.open(tmp_path / "noise.raw").to_html(tmp_path / "noise.html")
    page = open_page(tmp_path / "noise.html")
    assert "no system found" in page.locator("#facts").inner_text()
    assert page.locator("#process-count").inner_text() == "none found"
    assert card_of(page, 150)["class"] == ZEROS
    assert card_of(page, 450)["class"] == DATA
    # 1.25 MiB, a number between two tenths: Python takes the even one, and so does the page.
    [row] = [row for row in legend_rows(page) if row[0] == DATA]
    assert row[1:] == ["320", f"{megabytes(320)} MiB", "53.3 %"]
    assert row[2] == mebibytes(320 * PAGE_SIZE)
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
    """Linux dumps have a state for each page, and processes without pages."""
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
    """The page frame database tells state, use, priority and former owner of a page."""
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
    counts = snapshot.use_counts()
    shown = [use.label for use in PageUse if counts[use].any()]  # as in the picture's legend
    assert [row[0] for row in legend_rows(page)] == shown
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
    """Real memory is less tidy than synthetic memory."""
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


def test_the_file_behind_a_page(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """The card has path and offset; text from the dump stays text."""
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
    """The list has each file's pages, and choices of several kinds combine."""
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


def test_modules_and_regions(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    """The card has them as the truth does; a chosen module's pages are lit."""
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
        int(address, 16): (int(pages.replace(",", "")), size)
        for address, _, pages, size in page.locator("#region-list tbody tr").evaluate_all(
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
    assert told == {start: (len(frames), megabytes(len(frames))) for start, frames in known.items()}
    start = max(known, key=lambda start: len(known[start]))
    page.locator("#region-list tbody tr", has_text=hex(start)).click()
    assert lit_frames(page) == known[start]
