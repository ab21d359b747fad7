#!/usr/bin/env python3
"""Measure how much memory each output takes, with many processes in much memory.

Usage: .venv/bin/python -m bench.outputs [--gib N] [--processes N] [--dump FILE] [--write]

The dump is a synthetic Windows 10 with many frames, so that the memory for each frame and each
mapping counts. The program ends with exit code 1 if an output takes more anonymous memory than 120
MiB and 12 bytes for each frame.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from bench.measure import ROOT, run
from bench.readme import put_table
from tests.synth import GIB, MIB, forge, profiles

BASE_MIB = 120
BYTES_A_FRAME = 12
_PAGE = 4096
OUTPUTS = (
    "",
    "--html x.html",
    "--table x.csv",
    "--table x.npz",
    "--table x.parquet",
    "--json x.json",
    "--map x.map",
    "--pid 4 --table x.csv",
    "--color-by process",
    "--color-by protection",
    "--color-by mappings",
    "--layout hilbert --legend",
)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure the memory that outputs take.")
    parser.add_argument("--gib", metavar="N", type=int, default=16, help="GiB of the dump (16)")
    parser.add_argument("--processes", metavar="N", type=int, default=200, help="in it (200)")
    parser.add_argument("--dump", type=Path, help="a raw dump that is there already")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dump = options.dump or folder / "dump.raw"
        if options.dump is None:
            size, profile = options.gib * GIB, profiles()["Win10x64_17763"]
            forge(dump, profile, size=size, processes=options.processes)
        frames = dump.stat().st_size // _PAGE
        limit = BASE_MIB + BYTES_A_FRAME * frames / MIB
        lines = [
            f"| {frames:,} frames: {limit:.0f} MiB allowed | anonymous memory, MiB | cpu, s |",
            "| --- | ---: | ---: |",
        ]
        worst = 0.0
        for output in OUTPUTS:
            words = [
                str(folder / word) if word.startswith("x.") else word for word in output.split()
            ]
            command = [sys.executable, "-m", "memory_visualizer", str(dump)]
            _, cpu, memory = run([*command, "-o", str(folder / "x.png"), *words], folder)
            worst = max(worst, memory)
            lines.append(f"| {output or 'the picture alone'} | {memory:.0f} | {cpu:.2f} |")
            print(lines[-1], flush=True)
    if options.write:
        put_table("outputs.py", lines)
    return 0 if worst <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
