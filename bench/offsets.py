#!/usr/bin/env python3
"""Measure the cost of memory that begins at an odd place of the file.

Usage: .venv/bin/python -m bench.offsets [--size 2G] [--runs N] [--dump FILE] [--write]

The same synthetic dump as LiME files in which memory begins at a multiple of eight bytes, and at 1,
2 and 4 bytes more, as ELF cores of makedumpfile and VirtualBox have it. Each file is measured in
turn with the first file; ratios are medians of these pairs. The program ends with exit code 1 if a
ratio exceeds 1.2.
"""

import argparse
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.measure import ROOT, Cost, run
from bench.readme import put_table
from tests.synth import GIB, forge, profiles

OFFSETS = (0, 1, 2, 4)
MOST = 1.2
_PAGE = 4096
_AT_ONCE = 1 << 24


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure odd places of memory in the file.")
    parser.add_argument("--runs", metavar="N", type=int, default=7, help="measured pairs (7)")
    parser.add_argument("--gib", metavar="N", type=int, default=2, help="GiB of the dump (2)")
    parser.add_argument("--dump", type=Path, help="a raw dump that is there already")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    lines = [
        f"| {options.gib} GiB, beyond a multiple of 8 bytes | wall, s | cpu, s"
        " | anonymous memory, MiB | cpu to aligned | memory to aligned |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=options.dump and options.dump.parent) as temporary:
        folder = Path(temporary)
        raw = options.dump or folder / "dump.raw"
        if options.dump is None:
            forge(raw, profiles()["Win10x64_17763"], size=options.gib * GIB, processes=40)
        dumps = {offset: folder / f"{offset}.lime" for offset in OFFSETS}
        for offset, path in dumps.items():
            write_shifted(path, raw, offset)
        for offset, path in dumps.items():
            pairs = [
                (_measure(dumps[0], folder), _measure(path, folder)) for _ in range(options.runs)
            ]
            wall, cpu, memory = (median(odd[n] for _, odd in pairs) for n in range(3))
            to_cpu, to_memory = (median(odd[n] / even[n] for even, odd in pairs) for n in (1, 2))
            worst = max(worst, to_cpu, to_memory)
            lines.append(
                f"| {offset} | {wall:.2f} | {cpu:.2f} | {memory:.0f} | {to_cpu:.2f}"
                f" | {to_memory:.2f} |"
            )
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if options.write:
        put_table("offsets.py", lines)
    return 0 if worst <= MOST else 1


def write_shifted(path: Path, raw: Path, beyond: int) -> None:
    """A raw dump as a LiME file in which memory begins `beyond` a multiple of eight bytes.

    A range of less than a page, which holds no frame, comes first.
    """
    size = raw.stat().st_size
    with path.open("wb") as file, raw.open("rb") as source:
        for address, length in ((size + _PAGE, beyond), (0, size)):
            if length:
                header = struct.pack("<4sIQQQ", b"EMiL", 1, address, address + length - 1, 0)
                file.write(header + bytes(length if address else 0))
        shutil.copyfileobj(source, file, _AT_ONCE)
        os.fsync(file.fileno())


def _measure(dump: Path, folder: Path) -> Cost:
    """The cost of memviz on a dump."""
    command = [sys.executable, "-m", "memory_visualizer", str(dump), "-o", str(folder / "a.png")]
    os.environ["PYTHONPATH"] = str(ROOT)
    return run(command, folder)


if __name__ == "__main__":
    sys.exit(main())
