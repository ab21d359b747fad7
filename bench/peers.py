#!/usr/bin/env python3
"""Measure memviz as a whole command beside its alternatives, on the same dumps.

Usage: .venv/bin/python -m bench.peers [--runs N] [--folder FOLDER] [--write] [--linux DUMP]

Writes dumps of 512 MiB, 2 GiB and 8 GiB in FOLDER (kept there; a temporary one otherwise) and runs
the commands in turn. Commands that take less than a minute run once unmeasured before, so that the
dump is in the page cache. Everything takes three hours, so measurements are kept in
FOLDER/peers.json and not repeated: delete this file after a change of a measured program. --write
puts the table into bench/README.md, and draws bench/growth.svg.
"""

import argparse
import json
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from bench.measure import ROOT, Cost, run
from bench.readme import put_table
from tests.synth import GIB, MIB, forge, profiles
from tests.synth.isf import write_symbols
from tests.synth.linux import forge_linux

PLOT = ROOT / "bench/growth.svg"
PROFILE = "Win10x64_17763"
_LINUX_SIZE = 4608 * MIB
_SLOW = ("the seed's", "Volatility 3")
"""The beginnings of names of commands that take a minute or more."""


@dataclass(frozen=True)
class Dump:
    """A synthetic dump to measure with."""

    name: str
    size: int
    processes: int


DUMPS = (
    Dump("512 MiB", 512 * MIB, 40),
    Dump("2 GiB", 2 * GIB, 40),
    Dump("8 GiB", 8 * GIB, 60),
)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure memviz beside its peers.")
    parser.add_argument("--runs", metavar="N", type=int, default=5, help="measured runs (5)")
    parser.add_argument("--folder", type=Path, help="where the dumps are, or shall be kept")
    parser.add_argument("--linux", type=Path, help="a raw Linux dump, with Volatility 3 beside it")
    parser.add_argument("--symbols", type=Path, help="folder of Volatility 3's symbols for it")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    lines = [
        "| dump | command | wall, s | cpu, s | anonymous memory, MiB | wall to memviz's |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    growth: dict[str, list[tuple[int, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        kept = Measurements(folder / "peers.json")
        write_symbols(profiles()[PROFILE], folder)
        for dump in DUMPS:
            path = folder / f"{dump.size // MIB}m.raw"
            if not path.exists():
                forge(path, profiles()[PROFILE], size=dump.size, processes=dump.processes)
                _as_read(path)
            commands = _commands(dump, path, folder, Path(temporary))
            kept.measure(dump.name, commands, Path(temporary), options.runs)
            costs = kept.costs(dump.name)
            for name, of_one in costs.items():
                if name in ("the seed's plugin", "the seed's painter"):
                    continue  # parts of the seed's way
                growth.setdefault(name, []).append((dump.size, median(c[0] for c in of_one)))
            lines += _rows(f"{dump.name}, {dump.processes} processes", costs)
            print("\n".join(lines), flush=True)
        synthetic = folder / "linux.raw"
        if not synthetic.exists():
            forge_linux(synthetic, size=_LINUX_SIZE, processes=40, pti=True)
            _as_read(synthetic)
        guests = {"4.5 GiB, a synthetic Linux, 40 processes": (synthetic, None)}
        if options.linux:
            grown = folder / "grown.raw"
            _grow(options.linux, grown)
            guests["a real Linux guest"] = (options.linux, options.symbols)
            guests["the same, grown to 4.5 GiB"] = (grown, options.symbols)
        for what, (guest, symbols) in guests.items():
            commands = _linux_commands(guest, symbols, Path(temporary))
            kept.measure(what, commands, Path(temporary), options.runs)
            lines += _rows(what, kept.costs(what))
    print("\n".join(lines))
    if options.write:
        put_table("peers.py", lines)
        PLOT.write_text(_plot(growth))
    return 0


def _grow(guest: Path, grown: Path) -> None:
    """A dump of 4.5 GiB whose kernel knows only the first part; the rest is noise."""
    noise = np.random.default_rng(0).bytes(64 * MIB)
    with grown.open("wb") as file:
        file.write(guest.read_bytes())
        while file.tell() < _LINUX_SIZE:
            file.write(noise[: _LINUX_SIZE - file.tell()])
    _as_read(grown)


def _as_read(path: Path) -> None:
    """Let the page cache hold the dump as if it had been read, not written page by page."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _commands(dump: Dump, path: Path, folder: Path, scratch: Path) -> dict[str, list[str]]:
    python, picture = sys.executable, str(scratch / "a.png")
    memviz = [python, "-m", "memory_visualizer", str(path), "-o", picture]
    commands = {
        "memviz": memviz,
        "`cat`": ["cat", str(path)],
        "memviz --html": [*memviz, "--html", str(scratch / "a.html")],
        "MemProcFS, all maps": [python, str(ROOT / "bench/memprocfs_maps.py"), str(path)],
        "visualizer.sh, Volatility 2": [
            str(ROOT / "visualizer.sh"),
            str(path),
            PROFILE,
            "-o",
            str(scratch / "b.png"),
        ],
    }
    volatility2 = ROOT / ".venv-volatility2/bin"
    seed = [str(volatility2 / "python"), str(volatility2 / "vol.py")]
    seed += [f"--plugins={ROOT}/bench/volatility2", "-f", str(path), f"--profile={PROFILE}"]
    text = path.with_suffix(".map")
    painter = [python, str(ROOT / "bench/seedpainter.py"), str(path), str(text)]
    seedway = f"exec {shlex.join([*seed, 'seedway'])} > {shlex.quote(str(text))}"
    commands["the seed's plugin"] = ["sh", "-c", seedway]
    commands["the seed's painter"] = [*painter, str(scratch / "c.png")]
    commands["Volatility 3, memmap"] = [*_volatility3(path, folder, scratch), "windows.memmap"]
    return commands


def _linux_commands(path: Path, symbols: Path | None, scratch: Path) -> dict[str, list[str]]:
    commands = {
        "memviz": [
            sys.executable,
            "-m",
            "memory_visualizer",
            str(path),
            "-o",
            str(scratch / "a.png"),
        ],
        "`cat`": ["cat", str(path)],
    }
    if symbols:
        volatility3 = _volatility3(path, symbols, scratch)
        commands["Volatility 3, linux.pslist"] = [*volatility3, "linux.pslist"]
        commands["Volatility 3, linux.proc.Maps"] = [*volatility3, "linux.proc.Maps"]
    return commands


def _volatility3(path: Path, symbols: Path, scratch: Path) -> list[str]:
    vol = str(Path(sys.executable).with_name("vol"))
    options = ["--offline", "-q", "-r", "csv", "--cache-path", str(scratch), "-s", str(symbols)]
    return [vol, *options, "-f", str(path)]


class Measurements:
    """The measurements, by dump and command; kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, dict[str, list[Cost]]] = {}
        if path.exists():
            self._kept = json.loads(path.read_text())

    def measure(self, dump: str, commands: dict[str, list[str]], scratch: Path, runs: int) -> None:
        """Run the commands in turn, as many times as are still missing."""
        before = self._kept.get(dump, {})
        costs = self._kept[dump] = {name: before.get(name, []) for name in commands}
        for name, command in commands.items():
            if len(costs[name]) < runs and not name.startswith(_SLOW):
                run(command, scratch)
        for number in range(runs):
            for name, command in commands.items():
                if len(costs[name]) > number:
                    continue
                costs[name].append(run(command, scratch))
                beside = self._path.with_suffix(".new")
                beside.write_text(json.dumps(self._kept))
                beside.replace(self._path)

    def costs(self, dump: str) -> dict[str, list[Cost]]:
        """The costs by command; also the sum of the two parts of the seed's way."""
        costs = dict(self._kept[dump])
        if "the seed's plugin" in costs:
            pairs = zip(costs["the seed's plugin"], costs["the seed's painter"], strict=False)
            costs["the seed's way, both"] = [
                (a[0] + b[0], a[1] + b[1], max(a[2], b[2])) for a, b in pairs
            ]
        return costs


def _rows(what: str, results: dict[str, list[Cost]]) -> Iterator[str]:
    ours = median(cost[0] for cost in results["memviz"])
    for name, costs in results.items():
        columns = (f"{median(column):.2f}" for column in zip(*costs, strict=True))
        ratio = median(cost[0] for cost in costs) / ours
        yield f"| {what} | {name} | {' | '.join(columns)} | {ratio:.2f} |"


_COLOURS = ("#d4462d", "#1c1e22", "#b06a00", "#5c2d78", "#1f7a8c", "#7a7f87", "#9a9fa7", "#2c7a3f")


def _plot(growth: dict[str, list[tuple[int, float]]]) -> str:
    """Wall time over the dump's size, both in powers of two, as an SVG."""
    width, height, left, top = 720, 420, 60, 20
    seconds = [time_ for points in growth.values() for _, time_ in points]
    low, high = min(seconds) / 1.5, max(seconds) * 1.5

    def place(size: int, time_: float) -> tuple[float, float]:
        x = left + (width - left - 230) * math.log2(size / DUMPS[0].size) / 4
        part = (math.log(time_) - math.log(low)) / (math.log(high) - math.log(low))
        return x, top + (height - top - 40) * (1 - part)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for dump in DUMPS:
        x, _ = place(dump.size, low)
        parts.append(f'<text x="{x:.0f}" y="{height - 12}" text-anchor="middle">{dump.name}</text>')
    for mark in (0.1, 0.3, 1, 3, 10, 30, 100, 300):
        if low < mark < high:
            _, y = place(DUMPS[0].size, mark)
            parts.append(
                f'<path d="M{left} {y:.0f}H{width - 230}" stroke="#ddd"/>'
                f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{mark} s</text>'
            )
    labels: list[tuple[float, float]] = []
    for colour, (name, points) in zip(_COLOURS, growth.items(), strict=False):
        places = [place(*point) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = places[-1][1] + 4
        while any(places[-1][0] == x and abs(y - other) < 14 for x, other in labels):
            y += 2
        labels.append((places[-1][0], y))
        parts.append(
            f'<text x="{places[-1][0] + 8:.0f}" y="{y:.0f}" fill="{colour}">'
            f"{name.replace('`', '')}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
