"""The command memviz, run as people run it."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import memory_visualizer
from memory_visualizer import __version__
from memory_visualizer.cli.memviz import COMMANDS
from memory_visualizer.picture import entropy as contents
from memory_visualizer.picture.colouring import COLOURINGS, colour_by
from memory_visualizer.picture.layout import hilbert_frames
from memory_visualizer.picture.palette import DEFAULT, hex_colour
from memory_visualizer.snapshot.pagemap import PageClass
from tests import prestarted
from tests.oddities import Image as Memory
from tests.synth import Truth, forge, profiles
from tests.synth.containers import write_kdump, write_lime
from tests.synth.memory import PAGE_SIZE
from tests.synth.truth import INJECTED_PAGES
from tests.terminal import on_a_terminal
from tests.unknown.test_machine import elf

with suppress(ImportError):  # Windows does not have it
    import resource

ROOT = Path(__file__).resolve().parents[2]
LABELS = [page_class.label for page_class in PageClass]
WIDTH = 91
"""Width of the picture of 32 MiB: the smallest square that holds 8,192 pages."""
MEMVIZ = ("-m", "memory_visualizer")
ENDINGS = {"-o": ".png", "--html": ".html", "--table": ".csv", "--json": ".json", "--map": ".map"}
"""A file name's ending for each output."""


def run(
    arguments: Sequence[object],
    folder: Path,
    *,
    program: Sequence[str] = MEMVIZ,
    **options: Any,
) -> "subprocess.CompletedProcess[str]":
    """Run memviz, or a Python program that calls it, in a folder."""
    if not options and program[0] != "-c":
        return prestarted.run([*program, *arguments], folder)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=folder,
        text=True,
        timeout=60,
        **({"env": environment()} | pipes | options),
    )


def environment(**changes: str) -> dict[str, str]:
    """The environment in which the program runs."""
    return prestarted.environment() | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dumps")


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    """The truth about a Windows 7, whose dump is folder / "win7.raw"."""
    return forge(folder / "win7.raw", profiles()["Win7SP1x64"])


@pytest.fixture(scope="module")
def dump(folder: Path, truth: Truth) -> Path:
    return folder / "win7.raw"


@pytest.fixture(scope="module")
def holes(truth: Truth) -> list[tuple[int, int]]:
    """First frame and end of three holes: at the beginning, and amid large pages of both kinds."""
    large = truth.mappings[truth.mappings["size"] > PAGE_SIZE]["frame"].tolist()
    return [(0, 16), *((first + 100, first + 300) for first in sorted(set(large))[:2])]


@pytest.fixture(scope="module")
def lime(folder: Path, dump: Path, truth: Truth, holes: list[tuple[int, int]]) -> Path:
    """The same dump as a LiME file with holes."""
    contents = dump.read_bytes()
    edges = [*(edge for hole in holes for edge in hole), truth.frames]
    pieces = [
        (start * PAGE_SIZE, contents[start * PAGE_SIZE : end * PAGE_SIZE])
        for start, end in zip(edges[1::2], edges[2::2], strict=True)
    ]
    write_lime(folder / "win7.lime", pieces)
    return folder / "win7.lime"


@pytest.fixture(scope="module")
def noise(folder: Path) -> Path:
    """A dump without Windows: four pages of noise, then four of zeros."""
    contents = np.random.default_rng(0).bytes(4 * PAGE_SIZE) + bytes(4 * PAGE_SIZE)
    (folder / "noise.raw").write_bytes(contents)
    return folder / "noise.raw"


def indexes(path: Path) -> npt.NDArray[np.uint8]:
    """Each pixel's index in the palette: the value of its class, which dimming raises."""
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture).ravel()


def colours(path: Path) -> npt.NDArray[np.uint8]:
    """Each pixel's colour, shape (height, width, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def classes_in(path: Path, frames: int) -> list[str]:
    """The class of each frame by its pixel; pixels behind the last frame are absent."""
    pixels = indexes(path)
    assert (pixels[frames:] == PageClass.ABSENT).all()
    return [LABELS[pixel] for pixel in pixels[:frames]]


def pages_of(truth: Truth, chosen: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Whether one of these processes has each frame."""
    owned = np.zeros(truth.frames, bool)
    for note in truth.mappings[np.isin(truth.mappings["owner"], list(chosen))]:
        owned[note["frame"] : note["frame"] + note["size"] // PAGE_SIZE] = True
    return owned


# The picture and the summary


def test_picture_in_this_folder(dump: Path, truth: Truth, tmp_path: Path) -> None:
    """The picture is DUMP's name and .png with the true colours; no other file appears."""
    result = run([dump], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["win7.raw.png"]
    assert classes_in(tmp_path / "win7.raw.png", truth.frames) == (
        truth.classes(truth.alive).tolist()
    )
    by_class = {LABELS[page_class]: DEFAULT[page_class] for page_class in PageClass}
    expected = [by_class[label] for label in truth.classes(truth.alive).tolist()]
    painted = colours(tmp_path / "win7.raw.png")
    assert painted.shape == (WIDTH, WIDTH, 3)
    assert painted.reshape(-1, 3)[: truth.frames].tolist() == [list(c) for c in expected]


def size_and_share(label: str, count: int) -> list[str]:
    """The columns of size and share in the legend of a dump of 8,192 pages."""
    digits = 0 if not count else 1 if count >= 256 else 2 if count > 2 else 3
    share = ["-"] if label == LABELS[0] else [f"{count / 81.92:.1f}", "%"]
    return [f"{count / 256:.{digits}f}", "MiB", *share]


def test_summary(dump: Path, truth: Truth, tmp_path: Path) -> None:
    """The summary tells the dump, its system, its classes and its processes."""
    head, picture, processes, code = run([dump], tmp_path).stdout.split("\n\n")
    assert head == (
        "win7.raw: raw, 32 MiB, 8,192 pages in 1 run\n"
        "Windows 6.1 (7 or Server 2008 R2), x86-64 paging, taken 2019-04-17 18:40:00 UTC"
    )
    classes = truth.classes(truth.alive)
    first, *legend = picture.splitlines()
    assert first == ("win7.raw.png: 91 x 91 pixels, one for each 4 KiB page of win7.raw (32 MiB)")
    counts = [int(np.count_nonzero(classes == label)) for label in LABELS]
    assert [line.split() for line in legend] == [
        [hex_colour(DEFAULT[page_class]), label, f"{count:,}", *size_and_share(label, count)]
        for page_class, label, count in zip(PageClass, LABELS, counts, strict=True)
        if count or page_class != PageClass.LEFT_OUT  # the legend names it only if a page has it
    ]
    title, columns, *rows, left = processes.splitlines()
    assert title == (
        "Pages of 14 processes, 1 unlinked (not in the list of active processes), 1 exited"
    )
    assert columns.split() == ["pid", "parent", "private", "shared", "size", "name"]
    assert left == "1 address space without a process: not painted"
    [injected] = [process for process in truth.processes if process.injected]
    assert code == (
        f"{INJECTED_PAGES} private pages that user mode may write and execute: {injected.name}"
        f" (pid {injected.pid}) {INJECTED_PAGES} ({INJECTED_PAGES / 256:.2f} MiB)\n"
    )

    holders = sum(user_pages(truth, [owner]).astype(int) for owner in truth.alive)
    expected = []
    for owner, process in enumerate(truth.processes):
        mine = user_pages(truth, [owner])
        private, shared = (np.count_nonzero(mine & group) for group in (holders == 1, holders > 1))
        state = "exited" if process.exited else "" if process.listed else "unlinked"
        size = " ".join(size_and_share("", int(private + shared))[:2])
        expected.append(
            f"{process.pid:>8} {process.ppid:>8} {private:>10,} {shared:>10,} {size:>10}"
            f"  {state:<9}  {process.name}"
        )
    assert rows == sorted(expected)
    assert all(len(row) <= 79 for row in [columns, *rows])


def user_pages(truth: Truth, chosen: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Whether one of these processes has each frame in user mode."""
    notes = truth.mappings[truth.mappings["user"] & np.isin(truth.mappings["owner"], list(chosen))]
    owned = np.zeros(truth.frames, bool)
    for note in notes:
        owned[note["frame"] : note["frame"] + note["size"] // PAGE_SIZE] = True
    return owned


def test_holes(lime: Path, truth: Truth, holes: list[tuple[int, int]], tmp_path: Path) -> None:
    """Holes are told, counted, and painted as absent."""
    result = run([lime, "--json", "a.json"], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(
        "win7.lime: LiME, 30.38 MiB, 7,776 pages in 3 runs, 3 holes (416 pages)\n"
    )
    expected = truth.classes(truth.alive)
    for first, end in holes:
        expected[first:end] = "absent"
    painted = classes_in(tmp_path / "win7.lime.png", truth.frames)
    assert painted == expected.tolist()
    summary = json.loads((tmp_path / "a.json").read_text())
    assert (summary["runs"], summary["holes"], summary["frames"]) == (3, 3, 8192)
    assert summary["classes"]["absent"] == 416


def test_processes_that_are_not_known(dump: Path, truth: Truth, tmp_path: Path) -> None:
    """Page tables without process objects are reported, and process objects without page tables."""
    contents = dump.read_bytes()
    pages = np.frombuffer(contents, np.uint8).reshape(-1, PAGE_SIZE).copy()
    memory = Memory(profiles()["Win7SP1x64"], truth, pages, contents)
    for process in truth.processes:
        memory.lose_page(process.eprocess, b"\0")
    pages.tofile(tmp_path / "dump")
    result = run(["dump"], tmp_path)
    assert result.returncode == 0
    assert result.stderr == (
        "memviz: no process objects were recognised: address spaces are shown without names\n"
    )
    title, _, row, *_ = result.stdout.split("\n\n")[2].splitlines()
    assert re.fullmatch(r"Pages of (\d+) processes, \1 known by their page tables only", title)
    assert re.fullmatch(r" +\? +\? +\d+ +\d+ +[\d.]+ MiB  unknown    \(unknown\)", row)

    lost = truth.processes[6]
    damaged = bytearray(contents)
    damaged[lost.dtb : lost.dtb + PAGE_SIZE] = np.random.default_rng(0).bytes(PAGE_SIZE)
    (tmp_path / "dump").write_bytes(damaged)
    processes = run(["dump"], tmp_path).stdout.split("\n\n")[2]
    assert ", 1 with page tables that the dump does not hold\n" in processes
    assert f"0 MiB  no tables  {lost.name}\n" in processes


@pytest.mark.parametrize(
    ("profile", "system"),
    [
        ("WinXPSP3x86", "Windows 5.1 (XP), x86 paging"),
        ("Win2003SP1x86", "Windows 5.2 (Server 2003 or XP x64), x86 paging"),
        ("Win10x64_17134", "Windows 10.0.17134 (10 or Server 2016 to 2022), x86-64 paging"),
    ],
)
def test_systems(profile: str, system: str, tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()[profile])
    result = run(["dump"], tmp_path)
    assert result.returncode == 0
    assert result.stdout.splitlines()[1].startswith(f"{system}, taken ")
    assert classes_in(tmp_path / "dump.png", truth.frames) == truth.classes(truth.alive).tolist()


def test_options_of_the_picture(dump: Path, tmp_path: Path) -> None:
    """The options of the picture are the same as imagegenerator.py's."""
    options = ["--width", 100, "--palette", "colour-blind", "--legend", "-o", "a.png"]
    result = run([dump, *options], tmp_path)
    assert result.returncode == 0
    assert result.stdout.splitlines()[3].startswith("a.png: 100 x 82 pixels, ")
    assert "  #56b4e9  kernel " in result.stdout
    assert colours(tmp_path / "a.png").shape[0] > 182
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "color_by", [name for name in COLOURINGS if name not in ("state", "use", "file")]
)
def test_colour_by(color_by: str, dump: Path, tmp_path: Path) -> None:
    """The picture and the printed legend have the colours of the chosen colouring only."""
    result = run([dump, "-o", "a.png", "--color-by", color_by], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["Colours"] == color_by
        legend = json.loads(picture.info["Legend"])
    snapshot = memory_visualizer.open(dump)
    expected = colour_by(color_by, snapshot, DEFAULT, lambda: contents.entropy(snapshot.dump))
    swatches = {s.label: hex_colour(s.colour) for s in expected.swatches}
    swatches.pop(PageClass.LEFT_OUT.label, None)  # the legend names it only if a page has it
    assert legend == swatches
    table = np.array([swatch.colour for swatch in expected.swatches])
    pixels = colours(tmp_path / "a.png").reshape(-1, 3)[: expected.values.size]
    np.testing.assert_array_equal(pixels, table[expected.values])
    used = [s.label for s, n in zip(expected.swatches, expected.counts(), strict=True) if n]
    assert all(f"  {label} " in result.stdout for label in used[:5])


def test_layout_and_scale(dump: Path, truth: Truth, tmp_path: Path) -> None:
    """Each page of the Hilbert curve has three by three pixels at its place."""
    options = ["--layout", "hilbert", "--scale", 3, "--legend", "-o", "a.png"]
    result = run([dump, *options], tmp_path)
    assert result.stdout.splitlines()[3] == (
        "a.png: 192 x 384 pixels, 3 x 3 for each 4 KiB page of win7.raw (32 MiB)"
    )
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["Layout"] == "hilbert"
        assert picture.info["System"] == "Windows 6.1"
        assert picture.info["Creation Time"] == "2019-04-17T18:40:00Z"
        assert (picture.info["Source"], picture.info["Size"]) == ("win7.raw", str(32 << 20))
        left, top, right, bottom = map(int, picture.info["Box"].split())
        pixels = np.asarray(picture)[top:bottom, left:right]
    grid = np.indices(pixels.shape) // 3
    frames = hilbert_frames(grid[1], grid[0], 7)
    expected = np.array([LABELS.index(label) for label in truth.classes(truth.alive)])
    np.testing.assert_array_equal(pixels, expected[frames])


@pytest.mark.parametrize("attempt", range(5))
@pytest.mark.many
def test_a_dump_cut_while_it_is_read(attempt: int, tmp_path: Path) -> None:
    """A dump that is cut during any step ends in one sentence; no file is left behind."""
    path = tmp_path / "dump.raw"
    path.write_bytes(b"x" * (512 << 20))
    process = subprocess.Popen(
        [sys.executable, "-m", "memory_visualizer", path],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Wait until the dump is mapped.
    while process.poll() is None and str(path) not in _maps(process.pid):
        pass
    time.sleep(0.01 * attempt)
    os.truncate(path, 4096)
    printed, said = process.communicate(timeout=60)
    if process.returncode == 3:  # the program was quicker
        return
    assert (process.returncode, printed) == (2, "")
    assert re.fullmatch("memviz: .*(got shorter|Input/output error).*\n", said)
    assert [path.name for path in tmp_path.iterdir()] == ["dump.raw"]


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def test_width_is_for_rows(dump: Path, tmp_path: Path) -> None:
    """--width with the Hilbert curve is an error before any work."""
    result = run([dump, "--width", "100", "--layout", "hilbert"], tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "memviz: --width is for rows; the width of a Hilbert curve follows from the number of"
        " pages\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pixel_for_many_pages(dump: Path, tmp_path: Path) -> None:
    """The summary, the picture's text and the legend say how many pages are not shown."""
    result = run([dump, "--scale", "1/4", "--legend", "-o", "a.png"], tmp_path)
    assert result.returncode == 0, result.stderr
    lost = re.search(r"one for each 16 pages of .*; ([0-9.]+ %) of the pages", result.stdout)
    assert lost
    with Image.open(tmp_path / "a.png") as picture:
        text, box = (picture.info[key] for key in ("Scale", "Box"))
    left, top, right, bottom = map(int, box.split())
    assert text.startswith("1/4: one pixel = 16 pages (64 KiB)") and lost[1] in text
    frames = dump.stat().st_size // PAGE_SIZE
    assert (right - left) * (bottom - top) >= frames // 16
    assert right - left == isqrt(-(-frames // 16) - 1) + 1
    for wrong in ("1/65", "2/3", "1/0", "0.5", "1/"):
        assert "from 1/2 to 1/64" in run([dump, "--scale", wrong], tmp_path).stderr


def test_a_picture_too_large(dump: Path, tmp_path: Path) -> None:
    """A picture that does not fit into memory ends in a sentence."""
    options = ["--width", "60000", "--scale", "64", "--layout", "rows"]
    (tmp_path / "large.raw").touch()
    os.truncate(tmp_path / "large.raw", 60_000 * 10 * PAGE_SIZE)
    result = run(["large.raw", *options], tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "memviz: the picture would have 3,840,000 x 640 pixels; choose a smaller scale, such as"
        " --scale 59\n"
    )


# Chosen processes


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--name", "^CSRSS"], {"csrss.exe"}),
        (["--pid", "4"], {"System"}),
        (["--pid", "4,3604", "--name", "smss"], {"System", "rootkit.exe", "smss.exe"}),
        (["--name", "setup"], {"setup.exe"}),
        (["--name", "."], None),
    ],
)
def test_chosen_processes(
    options: list[str], names: set[str] | None, dump: Path, truth: Truth, tmp_path: Path
) -> None:
    """Pages of chosen processes keep the colours of their classes; all others turn pale."""
    run([dump, "-o", "all.png"], tmp_path)
    result = run([dump, "-o", "some.png", *options], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    chosen = [n for n, p in enumerate(truth.processes) if names is None or p.name in names]
    count = "1 process" if len(chosen) == 1 else f"{len(chosen)} processes"
    assert f"\nPages of {count} shown, others pale\n" in result.stdout

    shown = np.zeros(WIDTH * WIDTH, bool)
    shown[: truth.frames] = pages_of(truth, set(chosen) & set(truth.alive))
    shown[truth.frames :] = True  # pixels behind the last frame keep their colour
    full, some = indexes(tmp_path / "all.png"), indexes(tmp_path / "some.png")
    np.testing.assert_array_equal(some, np.where(shown, full, full + len(PageClass)))
    before, after = (
        colours(tmp_path / name).reshape(-1, 3).astype(int) for name in ("all.png", "some.png")
    )
    np.testing.assert_array_equal(after[shown], before[shown])
    classes = full[~shown]
    for page_class in np.unique(classes):
        [pale] = np.unique(after[~shown][classes == page_class], axis=0)
        assert pale.min() > 180
        assert not (pale == [list(colour) for colour in DEFAULT.values()]).all(axis=1).any()


def test_a_process_that_is_not_there(dump: Path, tmp_path: Path) -> None:
    """An unknown process is a warning beside a known one, and alone an error without output."""
    result = run([dump, "--pid", "4,17"], tmp_path)
    assert (result.returncode, result.stderr) == (0, "memviz: the dump has no process 17\n")
    (tmp_path / "win7.raw.png").unlink()
    for options in (["--name", "nobody"], ["--pid", "18"]):
        result = run([dump, *options, "--json", "a.json"], tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.endswith("memviz: no process in the dump matches --pid or --name\n")
        assert list(tmp_path.iterdir()) == []


def test_chosen_processes_in_every_output(dump: Path, truth: Truth, tmp_path: Path) -> None:
    """All outputs are about the chosen processes: tables, JSON, map, page and summary."""
    chosen = [n for n, p in enumerate(truth.processes) if p.name in ("csrss.exe", "lsass.exe")]
    pids = {truth.processes[n].pid for n in chosen}
    options = ["--name", "csrss|lsass", "--json", "a.json", "--map", "a.map", "--html", "a.html"]
    result = run([dump, *options, "--table", "a.npz"], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"Pages of {len(chosen)} processes shown, others pale\n" in result.stdout
    table = result.stdout.split(f"Pages of {len(chosen)} processes\n")[1].split("\n\n")[0]
    titles, *listed, stale = (line.split() for line in table.splitlines())
    assert titles == ["pid", "parent", "private", "shared", "size", "name"]
    assert " ".join(stale) == "1 address space without a process: not painted"
    assert [(words[0], words[-1]) for words in listed] == sorted(
        ((str(truth.processes[n].pid), truth.processes[n].name) for n in chosen),
        key=lambda words: int(words[0]),
    )
    others = {p.name for p in truth.processes} - {"csrss.exe", "lsass.exe"}
    assert not [name for name in others if name in result.stdout]
    left_out = len(truth.processes) - len(chosen)
    odd = sum(not p.listed and not p.exited for p in truth.processes)
    assert odd
    assert result.stdout.endswith(
        f"\n{left_out} other processes not chosen; {odd} of them with anomalies\n"
    )

    summary = json.loads((tmp_path / "a.json").read_text())
    assert {process["pid"] for process in summary["processes"]} == pids
    assert summary["processes_left_out"] == len(truth.processes) - len(chosen)
    with np.load(tmp_path / "a.npz") as table:
        owners = set(zip(table["owner_pfn"].tolist(), table["owner_pid"].tolist(), strict=True))
        assert table["pfn"].size == truth.frames
    expected = {
        (frame, truth.processes[owner].pid)
        for owner in chosen
        for frame in np.flatnonzero(pages_of(truth, [owner])).tolist()
    }
    assert owners == expected
    run([dump, "--name", "csrss|lsass", "--table", "a.csv"], tmp_path)
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    in_csv = {(int(row["pfn"]), int(pid)) for row in rows for pid in row["owner_pids"].split()}
    assert in_csv == expected

    rows_of_map = [line.split() for line in (tmp_path / "a.map").read_text().splitlines()[2:]]
    mapped = np.zeros(truth.frames, bool)
    for _, physical, size, _ in rows_of_map:
        first = int(physical, 16) // PAGE_SIZE
        mapped[first : first + int(size, 16) // PAGE_SIZE] = True
    np.testing.assert_array_equal(mapped, pages_of(truth, chosen))

    indexes = [
        n for n, process in enumerate(sorted(p.pid for p in truth.processes)) if process in pids
    ]
    shown = re.search(r'"show":"([\d,]*)"', (tmp_path / "a.html").read_text())
    assert shown
    assert [int(index) for index in shown[1].split(",")] == indexes


# Tables, JSON, map


def test_all_outputs(dump: Path, truth: Truth, tmp_path: Path) -> None:
    """The summary names all outputs, and each has its content (details: test_tables.py)."""
    options = ["--table", "a.npz", "--json", "a.json", "--map", "a.map"]
    result = run([dump, *options], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\na.npz: written\na.json: written\na.map: written\n\n" in result.stdout
    with np.load(tmp_path / "a.npz") as table:
        labels = table["class_names"][table["class"]]
        np.testing.assert_array_equal(labels, truth.classes(truth.alive))
        owners = set(zip(table["owner_pfn"].tolist(), table["owner_pid"].tolist(), strict=True))
    expected = {
        (frame, process.pid)
        for owner, process in enumerate(truth.processes)
        for frame in np.flatnonzero(pages_of(truth, [owner])).tolist()
    }
    assert owners == expected
    summary = json.loads((tmp_path / "a.json").read_text())
    assert summary["os"] == "Windows 6.1"
    assert [p["pid"] for p in summary["processes"]] == sorted(p.pid for p in truth.processes)
    assert run([dump, "--table", "A.CSV"], tmp_path).returncode == 0
    with (tmp_path / "A.CSV").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == labels.tolist()


@pytest.mark.parametrize("kind", ["raw", "lime", "noise"])
def test_the_map_paints_the_same_picture(
    kind: str, dump: Path, lime: Path, noise: Path, tmp_path: Path
) -> None:
    """imagegenerator.py paints the map as memviz does; only the text on the system is missing."""
    source = {"raw": dump, "lime": lime, "noise": noise}[kind]
    assert run([source, "-o", "a.png", "--map", "a.map"], tmp_path).returncode in (0, 3)
    program = [str(ROOT / "imagegenerator.py")]
    assert not run([source, "a.map", "-o", "b.png"], tmp_path, program=program).returncode
    np.testing.assert_array_equal(indexes(tmp_path / "a.png"), indexes(tmp_path / "b.png"))
    with Image.open(tmp_path / "a.png") as ours, Image.open(tmp_path / "b.png") as theirs:
        assert ours.getpalette() == theirs.getpalette()
        more = {"System", "Creation Time", "Size"}
        assert {key: text for key, text in ours.info.items() if key not in more} == theirs.info
        assert "Size" in ours.info


def test_the_same_bytes_again(lime: Path, tmp_path: Path) -> None:
    """The same dump and options give the same files and words, whatever the order of sets."""
    printed = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        options = ["--table", "a.npz", "--json", "a.json", "--map", "a.map", "--pid", "4"]
        for outputs in ([*options, "--legend"], ["--table", "a.csv"]):
            command = [*MEMVIZ, lime, *outputs]
            printed.add(prestarted.run(command, tmp_path / name, anew=True).stdout)
    assert len(printed) == 2
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["a.csv", "a.json", "a.map", "a.npz", "win7.lime.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# Standard output


@pytest.mark.parametrize("name", ["-", pytest.param("/dev/stdout", marks=pytest.mark.posix)])
@pytest.mark.parametrize("option", ENDINGS)
@pytest.mark.many
def test_standard_output(option: str, name: str, dump: Path, tmp_path: Path) -> None:
    """Standard output gets just the file's bytes; the summary goes to standard error."""
    others = [] if option == "-o" else ["-o", "b.png"]
    assert not run([dump, option, f"a{ENDINGS[option]}", *others], tmp_path).returncode
    expected = (tmp_path / f"a{ENDINGS[option]}").read_bytes()
    arguments = [dump, option, name, *others]
    command = [sys.executable, "-m", "memory_visualizer", *map(str, arguments)]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True)
    assert result.returncode == 0
    assert result.stdout == expected
    said = result.stderr.decode()
    assert said.startswith("win7.raw: raw, 32 MiB")
    assert "standard output: " in said
    assert "lsass.exe" in said
    with (tmp_path / "redirected").open("wb") as file:
        subprocess.run([*command, "-q"], cwd=tmp_path, env=environment(), stdout=file, check=True)
    assert (tmp_path / "redirected").read_bytes() == expected


def test_nobody_reads_standard_output(dump: Path, tmp_path: Path) -> None:
    """If nobody reads standard output, the other outputs are still written."""
    reader, writer = os.pipe()
    os.close(reader)
    result = run([dump, "--map", "-", "--json", "a.json"], tmp_path, stdout=writer)
    os.close(writer)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    json.loads((tmp_path / "a.json").read_text())


@pytest.mark.posix
def test_no_picture_on_a_terminal(dump: Path, tmp_path: Path) -> None:
    output = on_a_terminal(
        lambda slave: run([dump, "-o", "-"], tmp_path, stdout=slave, stderr=slave)
    )
    assert output == (
        "memviz: a picture is not written to a terminal; name a file, or redirect it\r\n"
    )


def test_a_file_called_minus(noise: Path, tmp_path: Path) -> None:
    """`-` is refused at once, without waiting for input; a file of that name needs a path."""
    (tmp_path / "-").write_bytes(noise.read_bytes())
    result = run(["-"], tmp_path, stdin=subprocess.PIPE)
    assert (result.returncode, result.stdout) == (2, "")
    assert "it cannot come from standard input" in result.stderr


@pytest.mark.posix
def test_a_pipe_as_dump(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run(["pipe", "--json", "a.json"], tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("memviz: pipe is a pipe; ")
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]


# The hash


@pytest.mark.parametrize("kind", ["raw", "lime", "noise"])
def test_hash(kind: str, dump: Path, lime: Path, noise: Path, tmp_path: Path) -> None:
    """With --hash all outputs have the hash of the file; without, none has it."""
    source = {"raw": dump, "lime": lime, "noise": noise}[kind]
    expected = hashlib.sha256(source.read_bytes()).hexdigest()
    outputs = ["-o", "a.png", "--json", "a.json", "--html", "a.html"]
    plain = run([source, *outputs], tmp_path)
    assert expected not in plain.stdout
    assert json.loads((tmp_path / "a.json").read_text())["sha256"] is None
    result = run([source, *outputs, "--hash"], tmp_path)
    assert result.returncode == plain.returncode
    assert f"\nSHA-256 {expected}\n" in result.stdout
    assert json.loads((tmp_path / "a.json").read_text())["sha256"] == expected
    assert f"SHA-256 {expected}" in (tmp_path / "a.html").read_text()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["SHA-256"] == expected


# Quiet, verbose, other spellings


def test_quiet(dump: Path, noise: Path, tmp_path: Path) -> None:
    """--quiet leaves out the summary, but not the warnings."""
    result = run([dump, "-q", "--json", "a.json"], tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert len(list(tmp_path.iterdir())) == 2
    result = run([noise, "--quiet"], tmp_path)
    assert (result.returncode, result.stdout) == (3, "")
    assert "neither Windows nor Linux" in result.stderr


def test_verbose(dump: Path, tmp_path: Path) -> None:
    """--verbose tells each step's time on standard error; the summary stays the same."""
    plain = run([dump, "--json", "a.json"], tmp_path)
    result = run([dump, "--json", "a.json", "-v"], tmp_path)
    assert result.stdout == plain.stdout
    steps = ["reading the dump", "reading the kernel's records of its pages"]
    steps += [r"writing win7\.raw\.png", r"writing a\.json", "the summary"]
    assert re.fullmatch("".join(rf"memviz: \d+\.\d\d s: {step}\n" for step in steps), result.stderr)


@pytest.mark.parametrize("palette", ["colorblind", "color-blind", "colourblind", "Colour-Blind"])
def test_other_spellings(palette: str, dump: Path, tmp_path: Path) -> None:
    options = ["--color-by", "protection", "--palette", "colour-blind", "-o", "a.png"]
    assert not run([dump, *options], tmp_path).returncode
    options = ["--colour-by", "protection", "--palette", palette, "-o", "b.png"]
    assert not run([dump, *options], tmp_path).returncode
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_consoles_without_utf_8(tmp_path: Path) -> None:
    """Consoles with cp1252 and cp437 get escapes for other characters, and no traceback."""
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 << 20, names=["日本ß.exe"])
    for encoding, name in (("cp1252", r"\u65e5\u672cß.exe"), ("cp437", r"\u65e5\u672cß.exe")):
        result = run(
            ["dump", "--name", "exe", "-v"],
            tmp_path,
            env=environment(PYTHONIOENCODING=encoding),
            encoding=encoding,
        )
        assert result.returncode == 0
        assert name in result.stdout


# No system


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zeros", "the dump is all zeros"),
        ("noise", r"looks compressed or encrypted: entropy 7\.9[56] in 100 % of its pages"),
        ("half noise", r"looks compressed or encrypted: entropy 7\.9[56] in 100 % of its pages"),
        ("packed", "looks compressed or encrypted: entropy 7.9"),
        (
            "program",
            r"of another system, or damaged \(50 % zeros, entropy [456]\.\d\d in the rest\)",
        ),
    ],
)
def test_what_a_dump_without_a_system_looks_like(kind: str, words: str, tmp_path: Path) -> None:
    """Without a system, pages of zeros, of noise and of other data get different colours."""
    rng = np.random.default_rng(0)
    code = b"".join(
        path.read_bytes() for path in sorted((ROOT / "memory_visualizer").rglob("*.py"))
    )
    contents = {
        "zeros": bytes(64 * PAGE_SIZE),
        "noise": rng.bytes(64 * PAGE_SIZE),
        "half noise": rng.bytes(64 * PAGE_SIZE) + bytes(256 * PAGE_SIZE),
        "packed": b"\0" + zlib.compress(rng.bytes(2000) * 200 + code, 9),
        "program": bytes(64 * PAGE_SIZE) + (code * 9)[: 64 * PAGE_SIZE],
    }[kind]
    (tmp_path / "dump").write_bytes(
        contents.ljust(-(-len(contents) // PAGE_SIZE) * PAGE_SIZE, b"\0")
    )
    result = run(["dump"], tmp_path)
    assert result.returncode == 3
    assert re.search(words, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


def test_a_machine_that_is_not_read(tmp_path: Path) -> None:
    """The architecture of an unread machine is named; zeros and data are painted."""
    (tmp_path / "core").write_bytes(elf(">", 64, 22))
    result = run(["core", "-o", "core.png"], tmp_path)
    assert result.returncode == 3
    assert (
        "the dump is of IBM Z, which this program does not read; only zeros and data"
        in result.stderr
    )
    assert (tmp_path / "core.png").exists()


@pytest.mark.parametrize(
    ("machine", "name"), [(b"s390x", "IBM Z"), (b"ppc64", "64-bit PowerPC"), (b"ppc", "PowerPC")]
)
def test_a_big_endian_kdump_file(machine: bytes, name: str, tmp_path: Path) -> None:
    """The header of a big-endian kdump file tells the machine; zeros and data are painted."""
    contents = bytes(4 * PAGE_SIZE) + b"data" * PAGE_SIZE
    bits = 32 if machine == b"ppc" else 64
    write_kdump(tmp_path / "dump", [(0, contents)], order=">", machine=machine, bits=bits)
    result = run(["dump", "-o", "dump.png"], tmp_path)
    assert result.returncode == 3
    sentence = f"the dump is of {name}, which this program does not read; only zeros and data"
    assert sentence in result.stderr
    expected = 4 * ["unused-zero"] + 4 * ["unused-data"]
    assert classes_in(tmp_path / "dump.png", 8) == expected


def test_a_machine_without_no_execute(tmp_path: Path) -> None:
    """Without the no-execute bit every page is executable, so the right to execute is not told."""
    forge(tmp_path / "dump", profiles()["WinXPSP2x86"], pae=False)
    result = run(["dump"], tmp_path)
    assert result.returncode == 0
    assert "write and execute" not in result.stdout


# No Windows


def test_no_windows(noise: Path, tmp_path: Path) -> None:
    """A dump without Windows is painted with a sentence, all outputs, and exit code 3."""
    options = ["--table", "a.csv", "--json", "a.json", "--map", "a.map"]
    result = run([noise, *options], tmp_path)
    assert result.returncode == 3
    assert re.fullmatch(
        r"memviz: neither Windows nor Linux was found: the dump looks compressed or encrypted:"
        r" entropy 7\.9[56] in 100 % of its pages that are not zeros; only zeros and data are"
        r" distinguished\n",
        result.stderr,
    )
    assert (
        "noise.raw: raw, 32 KiB, 8 pages in 1 run\nNeither Windows nor Linux found\n"
        in result.stdout
    )
    assert "processes" not in result.stdout
    expected = 4 * ["unused-data"] + 4 * ["unused-zero"]
    assert classes_in(tmp_path / "noise.raw.png", 8) == expected
    assert json.loads((tmp_path / "a.json").read_text())["os"] is None
    assert len(list(tmp_path.iterdir())) == 4


def test_no_windows_and_a_choice(noise: Path, tmp_path: Path) -> None:
    """Without processes none can be chosen, and no page is dimmed."""
    result = run([noise, "--name", "lsass"], tmp_path)
    assert result.returncode == 3
    assert classes_in(tmp_path / "noise.raw.png", 8)[0] == "unused-data"


# Text from the dump


HOSTILE = {
    "\x1b[2J\x1b]0;x\x07": r"\x1b[2J\x1b]0;x\x07",
    "\u202egpj.exe": r"\u202egpj.exe",
    "a\r\n   4 b": r"a\x0d\x0a   4 b",
    "=cmd()|'/c x'!A": "=cmd()|'/c x'!A",
    "<script>x(1)": "<script>x(1)",
    'a,b;"c"\t\'': r"a,b;" + '"c"' + r"\x09" + "'",
    "\\x41": r"\\x41",
    "日本.exe": "日本.exe",
}
"""Names of processes, and their forms on the screen."""


def test_hostile_names(tmp_path: Path) -> None:
    """Hostile names are escaped on the screen, in JSON and in CSV, also if they are not UTF-8."""
    names = [*HOSTILE, "not-utf-8-name"]
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], names=names)
    contents = (tmp_path / "dump").read_bytes()
    assert contents.count(b"not-utf-8-name\0") == 1
    invalid = b"\xff\xfe\xc3\x28\x80valid.exe"
    (tmp_path / "dump").write_bytes(contents.replace(b"not-utf-8-name", invalid[:14]))

    for encoding in ("utf-8", "ascii"):
        options = ["--table", "a.csv", "--json", "a.json", "--map", "a.map"]
        result = run(
            ["dump", *options],
            tmp_path,
            env=environment(PYTHONIOENCODING=encoding),
            encoding="utf-8",
        )
        assert (result.returncode, result.stderr) == (0, "")
        shown = result.stdout.splitlines()
        assert all(line.isprintable() for line in shown)
        [head] = [n for n, line in enumerate(shown) if line.split()[:2] == ["pid", "parent"]]
        place = shown[head].index("name")
        listed = [line[place:] for line in shown[head + 1 :][:14]]
        expected = [
            name if encoding == "utf-8" else name.encode("ascii", "backslashreplace").decode()
            for name in HOSTILE.values()
        ]
        assert set(expected) <= set(listed)
        assert any(re.fullmatch(r"[\\xfec380(]+valid\.ex?e?", name) for name in listed)

    text = (tmp_path / "a.json").read_text("ascii")
    assert all(line.isprintable() for line in text.splitlines())
    assert set(HOSTILE) <= {process["name"] for process in json.loads(text)["processes"]}
    table = (tmp_path / "a.csv").read_text("ascii").splitlines()
    assert all(re.fullmatch(r"[0-9a-fx, ]+|[0-9a-fx]+,[-0-9a-z, ]+", row) for row in table[1:])
    assert (tmp_path / "a.map").read_text("ascii").isascii()

    result = run(["dump", "--name", r"^\x1b\[2J"], tmp_path)
    assert "Pages of 1 process shown" in result.stdout


@pytest.mark.posix  # Windows allows no such names
def test_hostile_file_names(noise: Path, tmp_path: Path) -> None:
    """Hostile names of files are escaped on the screen, in the PNG and in JSON."""
    name = "\x1b[31m\u202e\udcff\n.raw"
    (tmp_path / name).write_bytes(noise.read_bytes())
    result = run([name, "--json", f"{name}.json", "--legend"], tmp_path)
    assert result.returncode == 3
    shown = "\\x1b[31m\\u202e\\xff\\x0a.raw"
    assert f"{shown}: raw, 32 KiB" in result.stdout
    assert f"\n{shown}.json: written\n" in result.stdout
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.info["Source"] == shown
    summary = json.loads((tmp_path / f"{name}.json").read_text("ascii"))
    assert summary["dump"] == "\x1b[31m\u202e\\xff\n.raw"


# Evidence


def test_the_dump_is_only_read(dump: Path, tmp_path: Path) -> None:
    """The dump is opened only for reading, and does not change."""
    before, contents = dump.stat(), dump.read_bytes()
    program = """
import os, sys
from memory_visualizer.cli.memviz import main

opened = set()
def watch(event, arguments):
    named = event == "open" and not isinstance(arguments[0], int)
    if named and os.fspath(arguments[0]) == sys.argv[1]:
        opened.add((arguments[1], arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
    elif event.startswith(("os.", "shutil.")) and sys.argv[1] in arguments:
        opened.add(event)
sys.addaudithook(watch)
code = main([sys.argv[1], "--table", "a.npz", "--json", "a.json", "--map", "a.map"])
assert opened and all(mode in ("r", "rb", None) and not flags for mode, flags in opened), opened
sys.exit(code)
"""
    result = run([dump], tmp_path, program=["-c", program])
    assert (result.returncode, result.stderr) == (0, "")
    after = dump.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert dump.read_bytes() == contents


@pytest.mark.parametrize(("option", "ending"), ENDINGS.items())
@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.many
def test_the_dump_is_never_replaced(
    force: list[str], option: str, ending: str, noise: Path, tmp_path: Path
) -> None:
    """No output replaces the dump, not even under another name."""
    (tmp_path / f"dump{ending}").write_bytes(noise.read_bytes())
    (tmp_path / f"link{ending}").symlink_to(f"dump{ending}")
    result = run([f"dump{ending}", option, f"link{ending}", *force], tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"memviz: link{ending} is an input and must not be replaced\n"
    assert (tmp_path / f"dump{ending}").read_bytes() == noise.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_lies_beside_the_dump_is_never_replaced(
    force: list[str], noise: Path, tmp_path: Path
) -> None:
    """Neither file of a VMware dump is replaced."""
    (tmp_path / "a.vmem").write_bytes(noise.read_bytes())
    (tmp_path / "a.vmss").write_bytes(b"state")
    (tmp_path / "a.json").symlink_to("a.vmss")
    result = run(["a.vmem", "--json", "a.json", *force], tmp_path)
    assert result.returncode == 2
    assert result.stderr == "memviz: a.json is an input and must not be replaced\n"
    assert (tmp_path / "a.vmss").read_bytes() == b"state"


@pytest.mark.parametrize("option", ENDINGS)
def test_two_dumps_where_one_is_meant(option: str, dump: Path, noise: Path, tmp_path: Path) -> None:
    """`memviz --html *.raw`, where the shell puts a dump in the place of the output, is refused."""
    for name, source in (("a.raw", dump), ("b.raw", noise)):
        (tmp_path / name).write_bytes(source.read_bytes())
        (tmp_path / name).chmod(0o444)
    for more in ([], ["--force"]):
        result = run([option, "a.raw", "b.raw", *more], tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"argument {option}" in result.stderr
        assert re.search(r": must end in .*; not a\.raw \(", result.stderr)
        assert result.stderr.count("\n") == 1
    assert (tmp_path / "a.raw").read_bytes() == dump.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("option", "ending"), ENDINGS.items())
@pytest.mark.many
def test_what_others_wrote_stays(option: str, ending: str, noise: Path, tmp_path: Path) -> None:
    """Another program's file stays without --force; this program's own outputs are replaced."""
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"mine")
    result = run([noise, option, path.name], tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"memviz: cannot write a{ending}: it exists, and this program did not write it; --force"
        " replaces it\n"
    )
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]
    assert run([noise, option, path.name, "--force"], tmp_path).returncode == 3
    first = path.read_bytes()
    assert first != b"mine"
    assert run([noise, option, path.name], tmp_path).returncode == 3
    assert path.read_bytes() == first


def test_dumps_of_one_name(dump: Path, noise: Path, tmp_path: Path) -> None:
    """Dumps of one name in two folders: the second picture does not replace the first."""
    for folder, source in (("a", dump), ("b", noise)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "memory.raw").write_bytes(source.read_bytes())
    assert run(["a/memory.raw"], tmp_path).returncode == 0
    first = (tmp_path / "memory.raw.png").read_bytes()
    result = run(["b/memory.raw"], tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "memviz: cannot write memory.raw.png: it exists and shows another dump; -o names another"
        " file, --force replaces it\n"
    )
    assert (tmp_path / "memory.raw.png").read_bytes() == first
    assert run(["a/memory.raw", "--legend"], tmp_path).returncode == 0  # the same dump again
    assert run(["b/memory.raw", "--force"], tmp_path).returncode == 3
    assert classes_in(tmp_path / "memory.raw.png", 8)[0] == "unused-data"


# Errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: DUMP"),
        (["a", "--pid", "x"], "--pid: must be process ids, separated by commas"),
        (["a", "--pid", "4,"], "--pid: must be process ids, separated by commas"),
        (["a", "--name", "("], "--name: is not a regular expression: missing ), unterminated"),
        (["a", "--table", "a.txt"], "--table: must end in one of .npz, .csv, .parquet"),
        (["a", "--table", "csv"], "--table: must end in one of .npz, .csv, .parquet"),
        (["a", "-o", "x.jpg"], "-o/--output: must end in .png, or be - for standard output"),
        (["a", "-o", ".png"], "-o/--output: must end in .png"),
        (["a", "--json", "x.raw"], "--json: must end in .json"),
        (["a", "--map", "x.raw"], "--map: must end in one of .map, .txt"),
        (["a", "--html", "x.raw"], "--html: must end in one of .html, .htm"),
        (["a", "--width", "0"], "--width: must be a whole number from 1 to 65535"),
        (["a", "--json", "b.json", "c"], "unrecognized arguments: c"),
    ],
)
@pytest.mark.many
def test_usage_errors(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    result = run(arguments, tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert re.fullmatch(r"memviz: .* \(memviz --help lists all options\)\n", result.stderr)


def test_bad_dumps(noise: Path, tmp_path: Path) -> None:
    """A bad dump ends with exit code 2, a sentence and no file; --lenient reads the rest."""
    (tmp_path / "cut").write_bytes(noise.read_bytes()[:-1])
    (tmp_path / "empty").touch()
    (tmp_path / "packed").write_bytes(b"PK\x03\x04 and so on")
    for name, sentence in (
        ("missing", "cannot read missing: No such file or directory"),
        ("empty", "empty holds 0 bytes, less than one page"),
        ("packed", "packed is packed with zip; unpack it first (unzip)"),
        (".", "cannot read .: Is a directory"),
        ("cut", "cut is not a whole number of 4,096-byte pages: 4,095 bytes follow page 7"),
    ):
        result = run([name, "--json", "a.json"], tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"memviz: {sentence}")
        assert result.stderr.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 3
    result = run(["cut", "--lenient"], tmp_path)
    assert result.returncode == 3
    assert result.stderr.startswith(
        "memviz: ignored the last 4,095 bytes of cut, less than a whole page\n"
    )
    assert classes_in(tmp_path / "cut.png", 7)[-1] == "unused-zero"


def test_two_dumps(noise: Path, tmp_path: Path) -> None:
    """Several files are only taken as parts of one kdump dump."""
    result = run([noise, noise], tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        f"memviz: {noise} is not part of a split kdump file or image; other dumps are single files"
        "\n"
    )
    result = run([noise, noise, "--hash"], tmp_path)
    assert result.stderr == (
        "memviz: --hash covers a single file, but this dump consists of several\n"
    )


@pytest.mark.posix
def test_an_output_for_two(noise: Path, tmp_path: Path) -> None:
    (tmp_path / "b.json").symlink_to("b.map")
    result = run([noise, "--json", "b.json", "--map", "b.map"], tmp_path)
    assert result.returncode == 2
    assert result.stderr == "memviz: b.json is named for more than one output\n"
    result = run([noise, "--json", "-", "--map", "/dev/stdout"], tmp_path)
    assert result.returncode == 2
    assert result.stderr == "memviz: standard output is named for more than one output\n"
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(("option", "ending"), ENDINGS.items())
def test_folder_is_missing(option: str, ending: str, noise: Path, tmp_path: Path) -> None:
    """A missing folder is an error before any work, so no output is written."""
    result = run([noise, option, f"nowhere/a{ending}"], tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"memviz: cannot write nowhere/a{ending}: its folder does not exist\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.posix
def test_some_outputs_cannot_be_written(dump: Path, tmp_path: Path) -> None:
    """Each failed output is named, the others are written, and no half-written file is left.

    Failures come last, after the summary.
    """
    old = "(Virtual) (Physical) (Size) (Kernel)\n---\n"
    (tmp_path / "a.map").write_text(old)
    options = ["--table", "a.csv", "--json", "a.json", "--map", "a.map"]
    result = run(
        [dump, *options],
        tmp_path,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert result.returncode == 1
    assert result.stdout.endswith(
        "memviz: cannot write a.csv: File too large\nmemviz: cannot write a.map: File too large\n"
    )
    assert "a.json: written" in result.stdout
    assert result.stdout.count("a.csv") == 1
    assert "14 processes" in result.stdout
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.json", "a.map", "win7.raw.png"]
    assert (tmp_path / "a.map").read_text() == old
    json.loads((tmp_path / "a.json").read_text())


@pytest.mark.posix
def test_the_picture_cannot_be_written(dump: Path, tmp_path: Path) -> None:
    """If the picture fails, all other outputs and the summary still appear."""
    result = run(
        [dump, "--map", "a.map"],
        tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert result.returncode == 1
    assert "memviz: cannot write win7.raw.png: File too large\n" in result.stderr
    assert "win7.raw.png" not in result.stdout
    assert "unused-zero" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_nobody_reads_the_summary(dump: Path, tmp_path: Path) -> None:
    """If nobody reads the summary, all files are written, and there is no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    result = run([dump, "--json", "a.json", "--map", "a.map"], tmp_path, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.posix
@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream(stream: int, noise: Path, tmp_path: Path) -> None:
    """Messages for a closed stream are dropped, and get into no file."""
    result = run([noise, "--json", "a.json"], tmp_path, preexec_fn=lambda: os.close(stream))
    assert result.returncode == 3
    said = (result.stdout, result.stderr)
    assert said[stream - 1] == ""
    assert ("Neither Windows nor Linux found" in said[0], "neither Windows nor" in said[1]) == (
        stream != 1,
        stream != 2,
    )
    json.loads((tmp_path / "a.json").read_text())
    assert classes_in(tmp_path / "noise.raw.png", 8)[0] == "unused-data"


@pytest.mark.posix
def test_the_screen_is_full(dump: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = run([dump, "--json", "a.json"], tmp_path, stdout=full)
    assert result.returncode == 1
    assert result.stderr == "memviz: cannot write standard output: No space left on device\n"
    json.loads((tmp_path / "a.json").read_text())


def test_pyarrow_is_missing(dump: Path, tmp_path: Path) -> None:
    """A missing pyarrow is an error before any work, with advice."""
    program = """
import sys
from memory_visualizer.cli import memviz as cli
from memory_visualizer.export import tables as export
export.find_spec = lambda _: None
sys.exit(cli.main())
"""
    result = run([dump, "--table", "a.parquet"], tmp_path, program=["-c", program])
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "memviz: a Parquet table needs pyarrow, which is not installed"
        f" ({sys.executable} -m pip install pyarrow)\n"
    )
    assert list(tmp_path.iterdir()) == []


# Help, terminal, names


def test_help(tmp_path: Path) -> None:
    """The help has all options and exit codes, in lines that fit a terminal."""
    result = run(["--help"], tmp_path, env=environment(COLUMNS="80"))
    assert (result.returncode, result.stderr) == (0, "")
    for option in ("-o", "--table", "--json", "--map", "--pid", "--name", "--lenient", "--legend"):
        assert f" {option}" in result.stdout
    codes = result.stdout.split("exit codes:")[1]
    assert re.findall(r"\b\d+\b", codes) == ["0", "1", "2", "3", "130"]
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_the_console_script() -> None:
    """The installed command `memviz` works."""
    script = Path(sys.executable).with_name("memviz")
    if not script.exists():
        pytest.skip("memory-visualizer is not installed beside this Python")
    result = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"memviz {__version__}\n")


@pytest.mark.posix
def test_on_a_terminal(dump: Path, tmp_path: Path) -> None:
    """A terminal gets swatches, and no progress in the first two seconds."""
    output = on_a_terminal(lambda slave: run([dump], tmp_path, stdout=slave, stderr=slave))
    assert "\x1b[48;2;95;194;205m" in output
    assert "reading" not in output
    assert "lsass.exe" in output


@pytest.mark.posix
def test_progress_on_a_terminal(dump: Path, tmp_path: Path) -> None:
    """Progress appears on standard error (here at once), and is gone at the end of the work."""
    program = """
import sys
from memory_visualizer.cli import memviz as cli
from memory_visualizer.cli import progress
progress._SILENT_SECONDS = 0
sys.exit(cli.main())
"""
    output = on_a_terminal(
        lambda slave: run([dump], tmp_path, program=["-c", program], stderr=slave)
    )
    assert output.startswith("\rreading the dump: ")
    assert output.split("\r")[-2].strip() == ""
    assert "System" not in output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_its_arguments(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without arguments a command says what it needs; a dump of its name is painted."""
    from memory_visualizer.cli import memviz as cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main([name])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"memviz {name}: the following arguments are required: DUMP")
    Path(name).write_bytes(bytes(4096))
    assert cli.main([name]) == 3
