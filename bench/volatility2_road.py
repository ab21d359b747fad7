#!/usr/bin/env python3
"""Measure this project's plugin for Volatility 2 against the way of the seed project.

Usage: .venv/bin/python -m bench.volatility2_road [--runs N] [--dump FILE] [--volatility VOL.PY]

Writes a dump of a 64-bit Windows 7 of 2 GiB with 40 processes in a temporary folder and runs both
plugins on it in turn. `pslist` is measured, too: it shows the time that Volatility needs to start
and to find the processes.

Then both maps are painted and the pictures compared pixel by pixel. The seed reads only the U/S bit
of the last level, and walks processes that have exited; the truth tells whether these two facts
explain each different pixel. Exit code 1 if they do not.
"""

import argparse
import json
import mmap
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from memory_visualizer.picture.palette import DEFAULT
from memory_visualizer.snapshot.pagemap import PageClass, classify
from memory_visualizer.units import PAGE_SIZE
from tests.simple_walker import walk
from tests.synth import GIB, KERNEL, forge, profiles

ROOT = Path(__file__).resolve().parent.parent
PROFILE = "Win7SP1x64"
SELF_MAP_INDEX = 0x1ED
"""The entry of the top table through which 64-bit Windows 7 maps its page tables."""

ADDRESS, LARGE, USER = np.uint64(0x000F_FFFF_FFFF_F000), np.uint64(0x80), np.uint64(4)
"""Bits of a page table entry: the address of the table or page below, PS, U/S (SDM 3A, 4.5)."""

Flags: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plugin:
    """A measured plugin of Volatility."""

    name: str
    folder: Path
    """The argument of --plugins."""


SEED = Plugin("seedway", ROOT / "bench/volatility2")
OURS = Plugin("memoryvisualizer", ROOT / "plugins")
START = Plugin("pslist", ROOT / "plugins")

RUN_SCRIPT = (
    "import gc, runpy, sys; gc.set_threshold(100000); del sys.argv[0];"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""The way in which visualizer.sh starts a vol.py: with fewer garbage collections. All plugins are
started so."""


@dataclass(frozen=True)
class Cost:
    """The cost of a run of a program."""

    wall: float
    """Seconds by the clock."""
    cpu: float
    """Seconds of processor time, in user mode and in the kernel."""
    peak: float
    """Peak memory in MiB."""


def main() -> int:
    """Measure, compare, and return the exit code."""
    parser = argparse.ArgumentParser(
        description="Measure the plugin for Volatility 2 against the way of the seed project."
    )
    parser.add_argument("--runs", metavar="N", type=int, default=3, help="measured runs (3)")
    parser.add_argument(
        "--dump", metavar="FILE", type=Path, help=f"a {PROFILE} dump of tests.synth, with its truth"
    )
    parser.add_argument(
        "--volatility",
        metavar="VOL.PY",
        type=Path,
        default=ROOT / ".venv-volatility2/bin/vol.py",
        help="a vol.py that starts (the project's own)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dump = options.dump or _synthetic(folder / "dump.raw")
        _measure(options.volatility, dump, folder, options.runs)
        return _compare(dump, folder)


def _synthetic(path: Path) -> Path:
    truth = forge(path, profiles()[PROFILE], size=2 * GIB, processes=40, kernel_pages=60_000)
    truth.save(_truth_path(path))
    return path


def _truth_path(dump: Path) -> Path:
    return dump.with_name(dump.name + ".truth.npz")


# -- the measurement --------------------------------------------------------------------------


def _measure(volatility: Path, dump: Path, folder: Path, runs: int) -> None:
    """Run the plugins in turn and print their costs; their maps stay in the folder."""
    plugins = (START, OURS, SEED)
    for plugin in plugins:  # one unmeasured run, so that the dump is in the page cache
        _run_plugin(volatility, dump, folder, plugin)
    rounds = [
        {plugin: _run_plugin(volatility, dump, folder, plugin) for plugin in plugins}
        for _ in range(runs)
    ]
    print(f"{dump.stat().st_size / GIB:g} GiB, {runs} runs of each in turn, medians")
    for plugin in plugins:
        lines = _map_path(folder, plugin).read_bytes().count(b"\n")
        _print_costs(plugin.name, [costs[plugin] for costs in rounds], f"{lines:9,} lines")
    _print_ratios("seedway / memoryvisualizer, wall", [c[SEED].wall / c[OURS].wall for c in rounds])
    _print_ratios("seedway / memoryvisualizer, cpu", [c[SEED].cpu / c[OURS].cpu for c in rounds])
    for plugin in (OURS, SEED):
        beyond = median(costs[plugin].cpu - costs[START].cpu for costs in rounds)
        print(f"{plugin.name}, cpu beyond pslist: {beyond:+.2f} s")
    for plugin in (OURS, SEED):
        paintings = [_run_painter(dump, folder, plugin) for _ in range(runs)]
        _print_costs(f"painting {plugin.name}'s map", paintings)


def _map_path(folder: Path, plugin: Plugin) -> Path:
    return folder / f"{plugin.name}.map"


def _picture_path(folder: Path, plugin: Plugin) -> Path:
    return folder / f"{plugin.name}.png"


def _run_plugin(volatility: Path, dump: Path, folder: Path, plugin: Plugin) -> Cost:
    output = _map_path(folder, plugin)
    output.unlink(missing_ok=True)  # Volatility does not overwrite
    command = [
        str(volatility.parent / "python"),
        "-c",
        RUN_SCRIPT,
        str(volatility),
        f"--plugins={plugin.folder}",
        f"--filename={dump}",
        f"--profile={PROFILE}",
        plugin.name,
        f"--output-file={output}",
    ]
    return _run(command, folder)


def _run_painter(dump: Path, folder: Path, plugin: Plugin) -> Cost:
    # The seed lists device memory too, which lies beyond the dump; --lenient cuts it off.
    command = [
        sys.executable,
        str(ROOT / "imagegenerator.py"),
        "--lenient",
        f"--output={_picture_path(folder, plugin)}",
        "--",
        str(dump),
        str(_map_path(folder, plugin)),
    ]
    return _run(command, folder)


def _run(command: Sequence[str], folder: Path) -> Cost:
    """Run a command to its end; its output goes to a file, which is shown if it fails."""
    log, result = folder / "log", folder / "cost.json"
    measure = [sys.executable, "-I", str(ROOT / "bench/cost.py"), str(result), *command]
    with log.open("wb") as file:
        done = subprocess.run(
            measure, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        sys.stderr.write(log.read_text(errors="backslashreplace"))
        raise subprocess.CalledProcessError(done.returncode, command)
    return Cost(**json.loads(result.read_text()))


def _print_costs(name: str, costs: Sequence[Cost], more: str = "") -> None:
    wall, cpu = median(cost.wall for cost in costs), median(cost.cpu for cost in costs)
    peak = median(cost.peak for cost in costs)
    line = f"{name:32}{wall:8.2f} s wall{cpu:8.2f} s cpu{peak:6.0f} MiB  {more}"
    print(line.rstrip(), flush=True)


def _print_ratios(name: str, ratios: Sequence[float]) -> None:
    pairs = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    print(f"{name}: {median(ratios):.1f} ({pairs})", flush=True)


# -- the comparison ---------------------------------------------------------------------------

_ROW = np.dtype(
    [
        ("frame", "i8"),
        ("user", "?"),  # user mode reaches it: U/S is set in the entries of all levels
        ("last", "?"),  # U/S is set in the entry of the last level
        ("self_map", "?"),  # visible through the self-map
        ("exited", "?"),  # visible in the tables of a process that has exited
    ]
)


def _compare(dump: Path, folder: Path) -> int:
    """Explain each pixel in which the pictures differ; return the exit code."""
    with np.load(_truth_path(dump)) as truth, dump.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        rows = np.concatenate(
            [_noted_rows(truth, memory), *_rows_of_exited_processes(truth, memory)]
        )
        zero: Flags = truth["zero"]
    ours, seeds = (_painted_classes(_picture_path(folder, p), zero.size) for p in (OURS, SEED))
    live = rows[~rows["exited"]]
    unexplained = (ours != _expected(live, "user", zero)) | (seeds != _expected(rows, "last", zero))

    differs = ours != seeds
    print(f"{differs.sum():,} of {zero.size:,} pages are painted differently:")
    misread = live[live["user"] != live["last"]]
    causes = {
        "page tables, seen through their own mapping, whose last entry has the user bit": (
            misread[misread["self_map"]]
        ),
        "other pages of the kernel whose last entry alone has the user bit": (
            misread[~misread["self_map"]]
        ),
        "pages of an exited process, free again, that the seed still walks": rows[rows["exited"]],
    }
    left = differs & ~unexplained
    for cause, its_rows in causes.items():
        caused = left & _marks(its_rows["frame"], zero.size)
        print(f"{caused.sum():8,}  {cause}")
        left &= ~caused
    unexplained |= left
    print(f"{unexplained.sum():8,}  unexplained")
    return int(unexplained.any())


def _painted_classes(picture: Path, frame_count: int) -> npt.NDArray[np.uint8]:
    """Read the class of each frame from the colours of a picture."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)[:frame_count]
    classes = np.full(frame_count, len(PageClass), dtype=np.uint8)
    for page_class, colour in DEFAULT.items():
        classes[(pixels == colour).all(axis=1)] = page_class
    return classes


def _expected(rows: npt.NDArray[np.void], user_by: str, zero: Flags) -> npt.NDArray[np.uint8]:
    """The class of each frame by these rows."""
    user, kernel = (_marks(rows["frame"][rows[user_by] == mode], zero.size) for mode in (1, 0))
    return classify(user, kernel, zero).classes


def _marks(frames: npt.NDArray[np.int64], frame_count: int) -> Flags:
    marks = np.zeros(frame_count, dtype=np.bool_)
    marks[frames] = True
    return marks


def _noted_rows(truth: Mapping[str, npt.NDArray[Any]], memory: mmap.mmap) -> npt.NDArray[np.void]:
    """Make rows of the truth about the kernel and for the live, listed processes.

    Only the last level's bit is read from the dump, at the noted place.
    """
    listed = np.flatnonzero(truth["process_listed"] & ~truth["process_exited"])
    found = []
    for owner in [KERNEL, *listed]:
        chosen = truth["mapping_owner"] == owner
        frame, virtual, size, user = (
            truth[f"mapping_{name}"][chosen] for name in ("frame", "virtual", "size", "user")
        )
        last = np.zeros(frame.size, dtype=np.bool_)
        # Not every process maps the kernel memory of sessions.
        unseen = np.ones(frame.size, dtype=np.bool_)
        for process in listed if owner == KERNEL else [owner]:
            at = np.flatnonzero(unseen)
            physical, bit = _translate(memory, int(truth["process_dtb"][process]), virtual[at])
            same = physical == frame[at] * PAGE_SIZE
            last[at[same]], unseen[at[same]] = bit[same], False
        if unseen.any():
            raise ValueError(f"the dump does not have {unseen.sum()} pages that its truth tells of")
        found.append(_rows(frame, virtual, size, user, last, memory))
    return np.concatenate(found)


def _rows_of_exited_processes(
    truth: Mapping[str, npt.NDArray[Any]], memory: mmap.mmap
) -> list[npt.NDArray[np.void]]:
    """Make rows of all mappings that the tables of exited processes still have."""
    found = []
    for table_base in truth["process_dtb"][truth["process_exited"]].tolist():
        pages = list(walk(memory, "x64", table_base))
        virtual = np.array([page.virtual for page in pages], dtype=np.uint64)
        frame = np.array([page.physical // PAGE_SIZE for page in pages])
        size = np.array([page.size for page in pages])
        user = np.array([page.user for page in pages])
        _, last = _translate(memory, table_base, virtual)
        rows = _rows(frame, virtual, size, user, last, memory)
        rows["exited"] = True
        found.append(rows)
    return found


def _rows(
    frame: npt.NDArray[np.int64],
    virtual: npt.NDArray[np.uint64],
    size: npt.NDArray[np.int64],
    user: Flags,
    last: Flags,
    memory: mmap.mmap,
) -> npt.NDArray[np.void]:
    """Make a row for each held frame of each mapping."""
    count = size // PAGE_SIZE
    mapping = np.repeat(np.arange(frame.size), count)
    rows = np.zeros(mapping.size, dtype=_ROW)
    within = np.arange(mapping.size) - np.repeat(np.cumsum(count) - count, count)
    rows["frame"] = frame[mapping] + within
    rows["user"], rows["last"] = user[mapping], last[mapping]
    rows["self_map"] = (virtual[mapping] >> np.uint64(39)) % np.uint64(512) == SELF_MAP_INDEX
    return rows[rows["frame"] < len(memory) // PAGE_SIZE]


def _translate(
    memory: mmap.mmap, table_base: int, virtual: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], Flags]:
    """Translate virtual addresses: physical addresses, and U/S of the last level.

    Both are meaningless for an address that is not mapped.
    """
    words = np.frombuffer(memory, dtype="<u8")
    table = np.full(virtual.size, table_base, dtype=np.uint64) & ADDRESS
    entry = np.zeros(virtual.size, dtype=np.uint64)
    offset_bits = np.zeros(virtual.size, dtype=np.uint64)
    for shift in (39, 30, 21, 12):
        going = (offset_bits == 0) & (table < len(memory))
        index = virtual[going] >> np.uint64(shift) & np.uint64(511)
        entry[going] = words[(table[going] >> np.uint64(3)) + index]
        is_leaf = going & ((shift == 12) | (shift < 39) & (entry & LARGE != 0))
        offset_bits[is_leaf] = shift
        table = entry & ADDRESS
    page_mask = ~((np.uint64(1) << offset_bits) - np.uint64(1))
    return (entry & ADDRESS & page_mask).astype(np.int64), entry & USER != 0


if __name__ == "__main__":
    sys.exit(main())
