#!/usr/bin/env python3
"""Measure windows.memoryvisualizer beside Volatility 3's own windows.memmap on the same dump.

Usage: .venv/bin/python -m bench.volatility3 [--runs N] [--write]

Writes a Windows 10 of 2 GiB with 40 processes, and its symbol file, in a temporary folder. Each
plugin lists the mappings of all processes, as CSV. --write puts the table into bench/README.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.readme import put_table
from tests.synth import GIB, forge, profiles
from tests.synth.isf import write_symbols

ROOT = Path(__file__).resolve().parent.parent
PROFILE = "Win10x64_17763"
COMMANDS = {
    "`windows.pslist`": ["windows.pslist"],
    "`windows.memoryvisualizer`": ["windows.memoryvisualizer"],
    "`windows.memoryvisualizer --pages`": ["windows.memoryvisualizer", "--pages"],
    "`windows.memoryvisualizer --pages --every-mapping`": [
        "windows.memoryvisualizer",
        "--pages",
        "--every-mapping",
    ],
    "`windows.memmap`": ["windows.memmap"],
}


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure the plugin beside windows.memmap.")
    parser.add_argument("--runs", metavar="N", type=int, default=1, help="measured runs (1)")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_symbols(profiles()[PROFILE], folder)
        forge(folder / "2g.raw", profiles()[PROFILE], size=2 * GIB, processes=40)
        _run(["windows.pslist"], folder)  # fills Volatility's cache, and the page cache
        results = {
            name: [_run(command, folder) for _ in range(options.runs)]
            for name, command in COMMANDS.items()
        }
    theirs = median(run[0] for run in results["`windows.memmap`"])
    lines = [
        "| plugin | wall, s | cpu, s | peak memory, MiB | rows | `memmap`'s wall to its |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in results.items():
        wall, cpu, peak, rows = (median(column) for column in zip(*runs, strict=True))
        lines.append(
            f"| {name} | {wall:.1f} | {cpu:.1f} | {peak:.0f} | {rows:,.0f} | {theirs / wall:.1f} |"
        )
    print("\n".join(lines))
    if options.write:
        put_table("volatility3.py", lines)
    return 0


def _run(plugin: list[str], folder: Path) -> tuple[float, float, float, int]:
    """Run a plugin: seconds by the clock and of processor time, peak MiB, rows."""
    command = [str(Path(sys.executable).with_name("vol")), "--offline", "-q", "-r", "csv"]
    command += ["--cache-path", str(folder), "-s", str(folder), "-p", str(ROOT / "plugins3")]
    command += ["-f", str(folder / "2g.raw"), *plugin]
    cost = [sys.executable, str(ROOT / "bench/cost.py"), str(folder / "cost")]
    with (folder / "rows.csv").open("wb") as file:
        subprocess.run([*cost, *command], stdout=file, stderr=subprocess.DEVNULL, check=True)
    told = json.loads((folder / "cost").read_text())
    with (folder / "rows.csv").open("rb") as file:
        rows = sum(line.startswith(b"0,") for line in file)
    return told["wall"], told["cpu"], told["peak"], rows


if __name__ == "__main__":
    sys.exit(main())
