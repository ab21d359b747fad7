"""The files of libkdumpfile's own tests, read by both: python -m tests.formats.kdumpfile FOLDER.

FOLDER is the built source of libkdumpfile (github.com/ptesarik/libkdumpfile), in which ``make
check`` has run: tests/out then holds the dumps, and tests/dumpdata reads them. For each dump, this
project's result is printed. Each frame that it holds must have the same bytes in dumpdata, and
dumpdata must not read any other frame. Exit code 1 if they differ.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE

_MAX_FRAMES = 64
"""Frames of each dump that are compared: so many from the first on, and so many held frames."""


def main() -> int:
    """Compare all dumps; 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    tests = parser.parse_args().folder / "tests"
    counts: Counter[str] = Counter()
    for dump in _dumps(tests / "out"):
        verdict = _verdict(tests / "dumpdata", dump)
        counts[verdict.split(":")[0]] += 1
        print(f"{dump[0].name}{f' and {len(dump) - 1} more' if dump[1:] else ''}: {verdict}")
    print(dict(counts))
    return int(bool(counts["DIFFERS"]))


def _dumps(folder: Path) -> list[list[Path]]:
    """Each dump, as all its files."""
    files = [path for path in sorted(folder.iterdir()) if re.search(r"\.dump(\.\d+)?$", path.name)]
    parts = [path for path in files if path.suffix != ".dump"]
    split = sorted({path.stem for path in parts})
    together = [[path for path in parts if path.stem == stem] for stem in split]
    return [*([path] for path in files), *together]


def _verdict(reader: Path, files: Sequence[Path]) -> str:
    """The result for a dump here, and whether libkdumpfile agrees."""
    try:
        dump = open_dump(files)
    except BadInputError as error:
        return f"refused: {str(error).replace(str(files[0]), '')}"
    if not (frames := _frames(reader, files, dump)):
        return f"same: {dump.format}, {np.count_nonzero(dump.held)} frames"
    return f"DIFFERS: {dump.format}, frames {frames}"


def _frames(reader: Path, files: Sequence[Path], dump: Dump) -> list[int]:
    """The frames that differ."""
    pfns = np.unique([*range(_MAX_FRAMES), *np.flatnonzero(dump.held)[:_MAX_FRAMES].tolist()])
    pages = dump.read_frames(pfns)
    held = set(np.flatnonzero(dump.held).tolist())
    differ = []
    for pfn, page in zip(pfns.tolist(), pages, strict=True):
        theirs = _page(reader, files, pfn)
        # It gives zeros for the page before a segment of an ELF core, which the file does not hold
        # by its own page map (tests/elf-overlap).
        is_before = pfn + 1 in held and theirs is not None and not any(theirs)
        if theirs != page.tobytes() if pfn in held else not (theirs is None or is_before):
            differ.append(pfn)
    return differ


def _page(reader: Path, files: Sequence[Path], pfn: int) -> bytes | None:
    """A frame as libkdumpfile reads it; None if it lacks a part of it."""
    number = ("-n", str(len(files))) if files[1:] else ()
    command = [reader, *number, *files, hex(pfn * PAGE_SIZE), str(PAGE_SIZE)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode or "?" in run.stdout:
        return None
    return bytes.fromhex(run.stdout)


if __name__ == "__main__":
    sys.exit(main())
