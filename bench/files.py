#!/usr/bin/env python3
"""Measure what the files, regions and uses of a Windows dump cost beside its picture.

Usage: .venv/bin/python -m bench.files [--gib N] [--files N] [--rounds N] [--write]

The dump is a synthetic Windows 10 with a page frame database, and 50 pages of each of many files.
Both commands run in turn, and the processor time of each round is compared. The program ends with
exit code 1 if all that the kernel tells costs more than two and a half times the picture alone.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench.measure import ROOT, run
from bench.readme import put_table
from tests.synth import GIB, forge, profiles

MOST = 2.5
ALL = "--color-by file --files x.csv --regions y.csv --uses --json x.json"
OUTPUTS = ("", "--files x.csv", "--color-by file", "--uses", ALL, "--html x.html")


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure what files of Windows cost.")
    parser.add_argument("--gib", metavar="N", type=int, default=2, help="GiB of the dump (2)")
    parser.add_argument("--files", metavar="N", type=int, default=2000, help="in it (2000)")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="of all (3)")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size, profile = options.gib * GIB, profiles()["Win10x64_17763"]
        dump = folder / "dump.raw"
        truth = forge(
            dump, profile, size=size, processes=60, objects=True, files=options.files, stretch=64
        )
        assert truth.records is not None
        pages = int((truth.records.records["file"] >= 0).sum())
        costs = [[_cost(folder, dump, output) for output in OUTPUTS] for _ in range(options.rounds)]
    lines = [
        f"| {options.gib} GiB, {pages:,} pages of files | cpu, s | times the picture |",
        "| --- | ---: | ---: |",
    ]
    ratios = {}
    for number, output in enumerate(OUTPUTS):
        cpu = statistics.median(costs_of[number] for costs_of in costs)
        ratios[output] = statistics.median(costs_of[number] / costs_of[0] for costs_of in costs)
        lines.append(f"| {output or 'the picture alone'} | {cpu:.2f} | {ratios[output]:.2f} |")
    print("\n".join(lines))
    if options.write:
        put_table("files.py", lines)
    return 0 if ratios[ALL] <= MOST else 1


def _cost(folder: Path, dump: Path, output: str) -> float:
    """Processor seconds of memviz with these options."""
    words = [str(folder / word) if word[:2] in ("x.", "y.") else word for word in output.split()]
    command = [sys.executable, "-m", "memory_visualizer", str(dump), "-o", str(folder / "x.png")]
    return run([*command, *words], folder)[1]


if __name__ == "__main__":
    sys.exit(main())
