#!/usr/bin/env python3
"""Measure one large dump whose scan is split, with 1, 2 and 4 workers.

Usage: .venv/bin/python -m bench.split [--gib N] [--runs N] [--workers N …] [--folder F]

A worker is a process with one thread. The dump is synthetic, and read once before. Prints a table,
the share of the processor time that does not scale, and the rates for bench.fleet_model, which it
writes to rates.json in the folder.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import memory_visualizer
from bench.fleet_model import Rates, simulated
from memory_visualizer.fleet.split import SplitScan
from memory_visualizer.formats.base import Dump, Progress, Visitor
from tests.synth import GIB, forge, profiles

_PIECE = 1 << 24


@dataclass(frozen=True)
class Run:
    """Seconds."""

    wall: float
    scan: float
    """By the clock, in all scans."""
    workers: float
    """Processor time of the workers, and of their start."""
    taking: float
    """Processor time of the joining process in the scans."""
    rest: float
    """Its processor time for all else."""

    @property
    def serial(self) -> float:
        """Share of the processor time that one process has to do alone."""
        return (self.taking + self.rest) / (self.workers + self.taking + self.rest)


class _Timed:
    """A scanner that knows how long it took."""

    def __init__(self, scan: SplitScan) -> None:
        self._scan = scan
        self.wall = self.cpu = 0.0

    def __call__(
        self,
        dump: Dump,
        /,
        visitors: Sequence[Visitor[Any]],
        progress: Progress | None = None,
        *,
        until: Any = None,
    ) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self._scan(dump, visitors, progress, until=until)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def _on_one_processor() -> None:
    """Keep a worker on a single processor, so that its threads do not run in parallel."""
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {available[os.getpid() % len(available)]})


def measure(path: Path, workers: int) -> Run:
    """Analyse the dump once."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with ProcessPoolExecutor(workers, get_context("spawn"), _on_one_processor) as pool:
        # Workers are started before the measurement, like those of a cluster.
        list(pool.map(_warm, range(4 * workers)))
        timed = _Timed(SplitScan(pool, workers, 1 << 16))
        wall, cpu = time.perf_counter(), time.process_time()
        memory_visualizer.open(path, scanner=timed)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, timed.wall, children, timed.cpu, cpu - timed.cpu)


def _warm(_: int) -> None:
    import memory_visualizer.fleet.split  # noqa: F401 - all that a worker needs

    time.sleep(0.2)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure a dump whose scan is split.")
    parser.add_argument("--gib", type=int, default=8, help="of the dump (8)")
    parser.add_argument("--runs", type=int, default=3, help="of each number of workers (3)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="(1 2 4)")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="for the dump")
    options = parser.parse_args()
    path = options.folder / "split.raw"
    try:
        forge(path, profiles()["Win10x64_17763"], size=options.gib * GIB, processes=100)
        with path.open("rb") as file:
            while file.read(_PIECE):
                pass
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
        print("| workers | wall, s | scan, s | workers' cpu, s | taking, s | rest, s | serial |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        all_runs = {
            count: [measure(path, count) for _ in range(options.runs)] for count in options.workers
        }
        for count, runs in all_runs.items():
            middle = {
                name: statistics.median(getattr(run, name) for run in runs)
                for name in (*asdict(runs[0]), "serial")
            }
            print(
                f"| {count} | {middle['wall']:.2f} | {middle['scan']:.2f} |"
                f" {middle['workers']:.2f} | {middle['taking']:.3f} | {middle['rest']:.2f} |"
                f" {100 * middle['serial']:.1f} % |"
            )
        walls = [statistics.median(run.wall for run in runs) for runs in all_runs.values()]
        inverse = 1 / np.array([*all_runs], float)
        slope, constant = np.polyfit(inverse, walls, 1) if len(walls) > 1 else (walls[0], 0.0)
        print(f"Amdahl by the clock: {constant:.2f} s + {slope:.2f} s / workers")
        flat = [run for runs in all_runs.values() for run in runs]
        # The start of a worker is not part of the work.
        idle = statistics.median(_start_cost() for _ in range(3))
        rates = Rates(
            scan=min(
                (run.workers - count * idle) / options.gib
                for count, runs in all_runs.items()
                for run in runs
            ),
            take=statistics.median(run.taking for run in flat) / options.gib,
            rest=statistics.median(run.rest for run in flat) / options.gib,
        )
        (options.folder / "rates.json").write_text(json.dumps(asdict(rates)))
        print(rates)
        print(f"1 TiB, 16 workers by the model: {simulated(rates, 1 << 10, 16).described()}")
    finally:
        path.unlink(missing_ok=True)
    return 0


def _start_cost() -> float:
    """Processor time of a worker that does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with ProcessPoolExecutor(1, get_context("spawn"), _on_one_processor) as pool:
        list(pool.map(_warm, range(4)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
