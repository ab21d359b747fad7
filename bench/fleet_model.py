#!/usr/bin/env python3
"""The time for a dump of up to 16 TiB, split among workers: a simulation with measured rates.

Usage: .venv/bin/python -m bench.fleet_model [RATES.json] [--storage GIB/S] [--link GIB/S]

Workers take ranges in their order, at most fleet.split's number ahead; each reads its range over a
link of its own from storage that all share, while it searches the range before. One process takes
the findings in order, and then does the rest. bench.split writes RATES.json.
"""

import argparse
import heapq
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

from memory_visualizer.fleet import split

PAGE = 4096
_COLUMNS = {"classes": 1.0, "zero": 1.0, "mapping_count": 4.0, "held": 1.0}
"""Bytes for each frame that stay."""
_PASSING = {"reached": 2.0, "not held": 1.0}
"""Bytes for each frame, for a while and before mapping_count is made."""
_MAPPING = 29
"""Bytes of a mapping: space, address, frame, count, rights."""


@dataclass(frozen=True)
class Rates:
    """Seconds of one processor for each GiB of the dump."""

    scan: float
    take: float
    rest: float
    findings: float = 64_000.0
    """Bytes of findings for each GiB, computed: a bit for each frame, the overhead of a pickle for
    each block, and eight bytes for each of the kernel's pages, a hundredth of all."""


@dataclass(frozen=True)
class Result:
    """The times and the memory of a run."""

    gib: float
    workers: int
    scan: float
    """Seconds until the last range is taken."""
    rest: float
    """Seconds for all else, by one process."""
    is_read_bound: bool
    idle: float
    """Share of the workers' time in the scan in which they wait."""
    columns: float = field(default=0.0)
    """GiB of the columns while most of them are there."""

    def described(self) -> str:
        """In words."""
        bound = "reading" if self.is_read_bound else "searching"
        return (
            f"{self.scan + self.rest:,.0f} s: {self.scan:,.0f} s of scan, bound by {bound}, and"
            f" {self.rest:,.0f} s of one process ({100 * self.serial:.0f} %)"
        )

    @property
    def serial(self) -> float:
        """Share of the time in which one process works alone."""
        return self.rest / (self.scan + self.rest)


def simulated(
    rates: Rates, gib: float, workers: int, *, storage: float = 20.0, link: float = 2.5
) -> Result:
    """Simulate a run; `storage` and `link` are in GiB a second, of all workers and of one."""
    rng = random.Random(0)
    frames = gib * 2**30 / PAGE
    size = max(split._SMALLEST_RANGE, frames / split._MAX_RANGES) * PAGE / 2**30
    count = max(1, round(gib / size))
    reading = 1 / min(link, storage / workers)
    each = size * max(reading, rates.scan)
    ready = [0.0] * workers
    heapq.heapify(ready)
    done: list[float] = []
    taken: list[float] = []
    busy = 0.0
    for number in range(count):
        free = heapq.heappop(ready)
        before = number - split._AHEAD * workers
        start = max(free, taken[before] if before >= 0 else 0.0)
        time = each * rng.uniform(0.9, 1.1)  # ranges differ, and so do machines
        busy += time
        done.append(start + time)
        heapq.heappush(ready, done[-1])
        taken.append(max(done[-1], taken[-1] if taken else 0.0) + rates.take * size)
    scan = taken[-1]
    stays = sum(_COLUMNS.values())
    passing = sum(_COLUMNS.values()) - _COLUMNS["mapping_count"] + sum(_PASSING.values())
    return Result(
        gib,
        workers,
        scan,
        rates.rest * gib,
        reading > rates.scan,
        1 - busy / (workers * scan),
        frames * max(stays, passing) / 2**30,
    )


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Simulate large dumps, split among workers.")
    parser.add_argument("rates", type=Path, nargs="?", help="of bench.split")
    parser.add_argument("--storage", type=float, default=20.0, help="GiB a second in all (20)")
    parser.add_argument("--link", type=float, default=2.5, help="GiB a second a worker (2.5)")
    options = parser.parse_args()
    rates = Rates(scan=0.15, take=0.001, rest=0.05)
    if options.rates:
        rates = Rates(**json.loads(options.rates.read_text()))
    print(rates)
    print(
        "| dump, GiB | frames | workers | scan, s | one process, s | in all, s | bound by |"
        " workers idle | findings, MiB | columns, GiB |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for gib in (64, 1024, 4096, 16384):
        for workers in (1, 16, 64):
            result = simulated(rates, gib, workers, storage=options.storage, link=options.link)
            print(
                f"| {gib:,} | {gib * 2**30 // PAGE:,} | {workers} | {result.scan:,.0f} |"
                f" {result.rest:,.0f} | {result.scan + result.rest:,.0f} |"
                f" {'reading' if result.is_read_bound else 'searching'} |"
                f" {100 * result.idle:.0f} % | {gib * rates.findings / 2**20:,.0f} |"
                f" {result.columns:.1f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
