#!/usr/bin/env python3
"""Measure memviz fleet on this machine: many dumps, with one worker and with more.

Usage: .venv/bin/python -m bench.fleet [--dumps N] [--mib N] [--workers N,N] [--runs N] [--write]

The dumps are sparse ones of a synthetic Windows 10, each with other contents. A run with a single
dump tells what the start costs: Dask, its processes, and the program in each. Without it, the
share of the work that does not scale follows from the times with one worker and with more
(Amdahl's law), and from this share what a terabyte of such dumps would take on 16 workers. That
is a model, not a measurement: it has neither network nor shared storage.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from bench.measure import run
from bench.readme import put_table
from memory_visualizer.printable import counted
from tests.synth import MIB, forge, profiles

_PROFILE = "Win10x64_17763"
_MODEL_WORKERS = 16
_MODEL_BYTES = 1 << 40


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure memviz fleet.")
    parser.add_argument("--dumps", metavar="N", type=int, default=64, help="dumps (64)")
    parser.add_argument("--mib", metavar="N", type=int, default=256, help="MiB of each (256)")
    parser.add_argument("--workers", metavar="N,N", default="1,2", help="numbers of workers (1,2)")
    parser.add_argument("--runs", metavar="N", type=int, default=3, help="median of so many (3)")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    lines = ["| | wall, s | cpu, s |", "| --- | ---: | ---: |"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dumps = [_written(folder, number, options.mib) for number in range(options.dumps)]
        start = _median(folder, dumps[:1], 1, options.runs)
        _add(lines, "1 dump, 1 worker: the start", start)
        walls: dict[int, float] = {}
        for workers in map(int, options.workers.split(",")):
            cost = _median(folder, dumps, workers, options.runs)
            walls[workers] = cost[0] - start[0]
            each = f"{len(dumps)} dumps of {options.mib} MiB"
            _add(lines, f"{each}, {counted(workers, 'worker')}", cost)
    model = _model(walls, len(dumps) * options.mib * MIB)
    print(*model)
    lines += ["", *model]
    if options.write:
        put_table("fleet.py", lines)
    return 0


def _written(folder: Path, number: int, mib: int) -> Path:
    path = folder / f"{number}.raw"
    profile = profiles()[_PROFILE]
    forge(path, profile, size=mib * MIB, processes=12, seed=number, free_data=0.02, stretch=64)
    return path


def _median(folder: Path, dumps: list[Path], workers: int, runs: int) -> tuple[float, float]:
    """Seconds by the clock and of processor time, all processes together."""
    costs = [_once(folder, dumps, workers) for _ in range(runs)]
    walls, processor = zip(*costs, strict=True)
    return statistics.median(walls), statistics.median(processor)


def _once(folder: Path, dumps: list[Path], workers: int) -> tuple[float, float]:
    out = folder / "out"
    program = [sys.executable, "-m", "memory_visualizer", "fleet"]
    more = ["--out", str(out), "--workers", str(workers), "-q"]
    cost = run([*program, *map(str, dumps), *more], folder)
    shutil.rmtree(out)
    return cost[0], cost[1]


def _model(walls: dict[int, float], size: int) -> list[str]:
    """The share that does not scale, and the time for a terabyte by that share."""
    one, most = min(walls), max(walls)
    if one == most:
        return []
    ratio = most / one
    share = min(max((walls[most] / walls[one] * ratio - 1) / (ratio - 1), 0.0), 1.0)
    alone = walls[one] * one * _MODEL_BYTES / size
    model = alone * (share + (1 - share) / _MODEL_WORKERS)
    return [
        f"The share that does not scale is {share:.1%}. By that, 1 TiB of such dumps would take"
        f" {alone / 3600:.1f} hours with one worker, and {model / 60:.0f} minutes with"
        f" {_MODEL_WORKERS}."
    ]


def _add(lines: list[str], what: str, cost: tuple[float, float]) -> None:
    lines.append(f"| {what} | {cost[0]:.1f} | {cost[1]:.1f} |")
    print(lines[-1], flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
