#!/usr/bin/env python3
"""Measure memviz on dumps made to waste time, beside sound dumps of the same size.

Usage: .venv/bin/python -m bench.crafted [--size N] [--runs N] [--only NAME] [--write]

The sound dump and each dump made from it are measured in turn, in a memory file system if there is
one. --size is in MiB (128), --runs counts each pair (5), --only takes a kind by its name, --write
puts the table into bench/README.md. Exit code 1 if a dump takes more than twice the sound dump's
time, or more than 300 MiB.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

from bench.measure import Cost, run
from bench.readme import put_table
from tests.fuzz.cases import workplace
from tests.fuzz.crafted import CRAFTED, crafted, sound
from tests.synth import MIB

_TIMES = 2
_MEMORY = 300


def main() -> int:
    """Measure and print the table; returns 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description="Measure memviz on dumps made to waste time.")
    parser.add_argument("--size", metavar="MIB", type=int, default=128, help="of the dumps (128)")
    parser.add_argument("--runs", metavar="N", type=int, default=5, help="measured pairs (5)")
    parser.add_argument("--only", metavar="NAME", choices=CRAFTED, help="one kind")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    lines = [
        f"| {options.size} MiB | wall, s | cpu, s | anonymous memory, MiB | wall to sound |"
        " cpu to sound |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    failed = False
    with workplace() as folder:
        for name in [options.only] if options.only else CRAFTED:
            pairs = _measure(name, options.size * MIB, options.runs, folder)
            before, after = (
                [median(column) for column in zip(*pair, strict=True)] for pair in pairs
            )
            wall, cpu = after[0] / before[0], after[1] / before[1]
            failed |= max(wall, cpu) > _TIMES or after[2] > _MEMORY
            lines.append(
                f"| {name} | {after[0]:.2f} | {after[1]:.2f} | {after[2]:.0f} | {wall:.2f} |"
                f" {cpu:.2f} |"
            )
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if options.write:
        put_table("crafted.py", lines)
    return int(failed)


def _measure(name: str, size: int, runs: int, folder: Path) -> tuple[list[Cost], list[Cost]]:
    """The costs of the sound dumps, and of the dumps made from them."""
    before, after = folder / "sound", folder / "crafted"
    before.write_bytes(sound(CRAFTED[name][0], size).contents)
    after.write_bytes(crafted(name, size))
    memviz = [sys.executable, "-m", "memory_visualizer"]
    lists = ["--regions", str(folder / "a.csv"), "--files", str(folder / "b.csv")]
    outputs = ["-o", str(folder / "a.png"), "--uses", *lists]
    commands = [[*memviz, str(path), *outputs] for path in (before, after)]
    for command in commands:
        run(command, folder)
    pairs = [[run(command, folder) for command in commands] for _ in range(runs)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


if __name__ == "__main__":
    sys.exit(main())
