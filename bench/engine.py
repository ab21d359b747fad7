#!/usr/bin/env python3
"""Measure memviz as a whole command, beside `cat`, the seed's way and MemProcFS.

Usage: .venv/bin/python -m bench.engine [--runs N] [--folder FOLDER] [--write]

Forges dumps of 2, 4 and 8 GiB in FOLDER (kept there; a temporary one otherwise) and runs the
commands in turn, each once unmeasured so that the dump is in the page cache. --write puts the
table into bench/README.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.forge import GIB, forge, profiles

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "bench/README.md"
BEGIN, END = "<!-- engine.py: begin -->", "<!-- engine.py: end -->"
SEED_PROFILE = "Win7SP1x64"


@dataclass(frozen=True)
class Dump:
    """A forged dump to measure with."""

    name: str
    profile: str
    gib: int
    processes: int


DUMPS = (
    Dump("2g.raw", SEED_PROFILE, 2, 40),
    Dump("4g.raw", "Win10x64_17763", 4, 60),
    Dump("8g.raw", "Win10x64_17763", 8, 60),
)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure memviz beside its peers.")
    parser.add_argument("--runs", metavar="N", type=int, default=5, help="measured runs (5)")
    parser.add_argument("--folder", type=Path, help="where the dumps are, or shall be kept")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        lines = [
            "| dump | command | wall, s | cpu, s | anonymous memory, MiB | wall to memviz's |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        for dump in DUMPS:
            path = folder / dump.name
            if not path.exists():
                size = dump.gib * GIB
                forge(path, profiles()[dump.profile], size=size, processes=dump.processes)
            lines += _rows(dump, path, Path(temporary), options.runs)
            print("\n".join(lines[-8:]), flush=True)
    if options.write:
        text = README.read_text()
        head, rest = text.split(BEGIN)
        tail = rest.split(END)[1]
        README.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail)
    return 0


def _rows(dump: Dump, path: Path, folder: Path, runs: int) -> list[str]:
    python = sys.executable
    commands = {
        "memviz": [python, "-m", "memory_visualizer", str(path), "-o", str(folder / "a.png")],
        "cat": ["cat", str(path)],
        "MemProcFS, all maps": [python, str(ROOT / "bench/memprocfs_maps.py"), str(path)],
    }
    if dump.profile == SEED_PROFILE:
        vol = ROOT / ".venv-volatility2/bin"
        page_map = folder / "seed.map"
        seed = [str(vol / "python"), str(vol / "vol.py"), f"--plugins={ROOT}/bench/volatility2"]
        seed += ["-f", str(path), f"--profile={SEED_PROFILE}", "seedway"]
        painter = [python, str(ROOT / "bench/seedpainter.py"), str(path), str(page_map)]
        commands["the seed's plugin"] = seed
        commands["the seed's painter"] = [*painter, str(folder / "b.png")]
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            slow = name.startswith("the seed's")
            if slow and number > 2:  # a minute each: three are enough
                continue
            keeps = name == "the seed's plugin"
            cost = _run(command, folder / "seed.map" if keeps else Path("/dev/null"), folder)
            if number or slow:
                results[name].append(cost)
    if dump.profile == SEED_PROFILE:
        pairs = zip(results["the seed's plugin"], results["the seed's painter"], strict=True)
        results["the seed's way, both"] = [
            (a[0] + b[0], a[1] + b[1], max(a[2], b[2])) for a, b in pairs
        ]
    ours = median(cost[0] for cost in results["memviz"])
    return [
        f"| {dump.gib} GiB, {dump.processes} processes | {name} | "
        + " | ".join(f"{median(column):.2f}" for column in zip(*costs, strict=True))
        + f" | {median(cost[0] for cost in costs) / ours:.2f} |"
        for name, costs in results.items()
    ]


def _run(command: list[str], output: Path, folder: Path) -> tuple[float, float, float]:
    """Run a command: seconds by the clock, of processor time, and MiB of anonymous memory."""
    result = folder / "cost"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "bench/cost.py"), str(result), *command],
            stdout=file,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _anonymous_memory(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"failed with code {process.returncode}: {' '.join(command)}")
    cost = json.loads(result.read_text())
    return cost["wall"], cost["cpu"], peak


def _anonymous_memory(parent: int) -> float:
    """MiB of memory, other than of files, that the parent's only child has in use."""
    try:
        child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        status = Path(f"/proc/{child}/status").read_text()
    except (OSError, IndexError):
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
    return int(found[0]) / 1024 if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
