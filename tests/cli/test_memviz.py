"""The command memviz, run as people run it."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from math import isqrt
from pathlib import Path

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
from tests.synth.containers import write_lime
from tests.synth.memory import PAGE_SIZE
from tests.synth.truth import INJECTED_PAGES

with suppress(ImportError):  # Windows does not have it
    pass
from tests.cli.running import (
    LABELS,
    MEMVIZ,
    ROOT,
    WIDTH,
    classes_in,
    colours,
    environment,
    indexes,
    pages_of,
    run,
)


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
        time.sleep(0.001)
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
    # Mostly holes, too short to be folded: where no system tells holes, zeros would be read.
    pieces = [(place * PAGE_SIZE, bytes(PAGE_SIZE)) for place in range(0, 60_000 * 10, 1000)]
    write_lime(
        tmp_path / "large.lime", [*pieces, ((60_000 * 10 - 1) * PAGE_SIZE, bytes(PAGE_SIZE))]
    )
    result = run(["large.lime", *options], tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "memviz: the picture would have 3,840,000 x 640 pixels; choose a smaller scale, such as"
        " --scale 59\n"
    )


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
