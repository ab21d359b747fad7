#!/usr/bin/env python3
"""Measure imagegenerator.py on a text page map of 5 million lines and a sparse dump of 4 GiB.

Usage: renderer.py [--lines N] [--gib N]

The files are made in a temporary folder and removed afterwards (about 220 MB).
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE_SIZE = 4096
PROGRAM = Path(__file__).resolve().parent.parent / "imagegenerator.py"


def main() -> None:
    """Make the files, run the program on them, print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", metavar="N", type=int, default=5_000_000)
    parser.add_argument("--gib", metavar="N", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dump, page_map, picture = folder / "dump.raw", folder / "dump.map", folder / "dump.png"
        _make_dump(dump, options.gib << 30)
        _make_map(page_map, options.lines, (options.gib << 30) // PAGE_SIZE)
        command = [sys.executable, str(PROGRAM), str(dump), str(page_map), "-o", str(picture)]
        seconds = [_seconds(command) for _ in range(3)]
    # On Linux ru_maxrss is in KiB, and that of the largest child.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    times = ", ".join(f"{second:.2f} s" for second in seconds)
    print(f"{options.lines:,} lines, {options.gib} GiB: {times}; {peak:.0f} MiB at most")


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _make_dump(path: Path, size: int) -> None:
    """Write a sparse file with a page of data in every 64 KiB of its first half."""
    with path.open("wb") as file:
        file.truncate(size)
        for position in range(0, size // 2, 16 * PAGE_SIZE):
            file.seek(position)
            file.write(b"data" * (PAGE_SIZE // 4))


def _make_map(path: Path, lines: int, frame_count: int) -> None:
    """Write mappings of random pages, one in a hundred of them of 2 MiB."""
    generator = random.Random(1)
    with path.open("w") as file:
        file.write("(Virtual)   (Physical)    (Size)    (Kernel)\n" + "-" * 46 + "\n")
        for _ in range(lines):
            frame = generator.randrange(frame_count)
            kernel = generator.random() < 0.5
            virtual = 0xFFFFF80000000000 * kernel + frame * PAGE_SIZE
            size = PAGE_SIZE
            if frame % 512 == 0 or generator.random() < 0.01:
                frame, size = frame // 512 * 512, 512 * PAGE_SIZE
            file.write(f"{virtual:#x}  {frame * PAGE_SIZE:#x}  {size:#x}  {kernel}\n")


if __name__ == "__main__":
    main()
