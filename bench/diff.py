#!/usr/bin/env python3
"""Measure the comparison of dumps: time beside reading and analysing both, and memory.

Usage: .venv/bin/python -m bench.diff [--gib N] [--processes N] [--series N] [--dump FILE] [--write]

The dumps are of a synthetic Windows 10 that goes on running; or a given one, which is compared with
itself: the work is the same, and dumps with a page frame database can be measured, whose files are
read, too (`python -m tests.synth --database` writes one). Bounds: two dumps take at most 1.3 times
the processor time of `cat` and `memviz` of both, and the memory of one and 12 bytes for each frame;
a series of sparse dumps takes at most twice the memory of one. The program ends with exit code 1 if
a bound is not kept.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.measure import ROOT, Cost, run
from bench.readme import put_table
from tests.synth import GIB, MIB, profiles
from tests.synth.evolution import EvolvingWindows

_MAX_TIME = 1.3
_BYTES_A_FRAME = 12
_PAGE = 4096
_STEPS = ("start", "end", "move", "make executable", "write", "clear")
_QUIET_STEPS = ("move", "write", "clear")


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="Measure the comparison of dumps.")
    parser.add_argument("--gib", metavar="N", type=int, default=8, help="GiB of two dumps (8)")
    parser.add_argument("--processes", metavar="N", type=int, default=60, help="in them (60)")
    parser.add_argument("--series", metavar="N", type=int, default=60, help="dumps of 1 GiB (60)")
    parser.add_argument("--dump", metavar="FILE", type=Path, help="a dump to compare with itself")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    lines, kept = ["| | cpu, s | anonymous memory, MiB |", "| --- | ---: | ---: |"], True
    if options.gib:
        kept &= _pair(options.gib, options.processes, lines)
    if options.dump:
        dump = options.dump.absolute()
        with tempfile.TemporaryDirectory() as folder:
            kept &= _compared([dump, dump], dump.name, lines, Path(folder))
    if options.series:
        kept &= _series(options.series, lines)
    if options.write:
        put_table("diff.py", lines)
    return 0 if kept else 1


_PROFILE = "Win10x64_17763"


def _pair(gib: int, processes: int, lines: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        folder, profile = Path(temporary), profiles()[_PROFILE]
        dumps = _written(EvolvingWindows(profile, size=gib * GIB, processes=processes), 2, folder)
        return _compared(dumps, f"{gib} GiB each", lines, folder)


def _compared(dumps: Sequence[Path], what: str, lines: list[str], folder: Path) -> bool:
    """Measure the comparison of two dumps; returns whether the bounds are kept."""
    for _ in range(2):  # the second time, the dumps are in the page cache
        reading = [run(["cat", str(dump)], folder) for dump in dumps]
    alone = [_memviz(folder, str(dump)) for dump in dumps]
    both = _memviz(folder, "diff", *map(str, dumps))
    clock, bound = (sum(cost[kind] for cost in (*reading, *alone)) for kind in range(2))
    frames = max(dump.stat().st_size for dump in dumps) // _PAGE
    room = max(cost[2] for cost in alone) + _BYTES_A_FRAME * frames / MIB
    _add(lines, f"`cat` of both, {what}", (0, sum(cost[1] for cost in reading), 0))
    for number, cost in enumerate(alone, 1):
        _add(lines, f"`memviz`, dump {number}", cost)
    by_clock = f"{both[0]:.2f} of {clock:.2f} s by the clock, {both[0] / clock:.2f}"
    _add(lines, f"`memviz diff`: {both[1] / bound:.2f} of all above ({by_clock})", both)
    print(f"memory allowed: {room:.0f} MiB")
    return both[1] <= _MAX_TIME * bound and both[2] <= room


def _series(count: int, lines: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        profile = profiles()[_PROFILE]
        machine = EvolvingWindows(
            profile,
            size=GIB,
            processes=12,
            kernel_pages=4000,
            user_pages=500,
            free_data=0.02,
            stretch=512,
        )
        dumps = _written(machine, count, folder)
        alone = _memviz(folder, str(dumps[0]))
        two = _memviz(folder, "diff", *map(str, dumps[:2]))
        all_of_them = _memviz(folder, "diff", *map(str, dumps))
    _add(lines, "`memviz`, a sparse dump of 1 GiB", alone)
    _add(lines, "`memviz diff`, two of them", two)
    _add(lines, f"`memviz diff`, {count} of them", all_of_them)
    return all_of_them[2] <= 2 * alone[2]


def _written(machine: EvolvingWindows, count: int, folder: Path) -> list[Path]:
    """Successive dumps of a machine."""
    dumps = [folder / f"{number:03}.raw" for number in range(count)]
    for number, dump in enumerate(dumps):
        machine.dump(dump)
        # The writer has room for few processes, and few that may end.
        for name in _STEPS if number % 12 == 0 else _QUIET_STEPS:
            machine.can[name]()
    return dumps


def _memviz(folder: Path, *arguments: str) -> Cost:
    command = [sys.executable, "-m", "memory_visualizer", *arguments]
    return run([*command, "-o", str(folder / "x.png")], folder)


def _add(lines: list[str], what: str, cost: Cost) -> None:
    memory = f"{cost[2]:.0f}" if cost[2] else ""
    lines.append(f"| {what} | {cost[1]:.2f} | {memory} |")
    print(lines[-1], flush=True)


if __name__ == "__main__":
    sys.exit(main())
