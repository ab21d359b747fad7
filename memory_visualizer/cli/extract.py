"""The command line: ``memviz extract DUMP``."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from memory_visualizer.api import open as open_snapshot
from memory_visualizer.cli.command import parser_of_dump, say
from memory_visualizer.cli.progress import ProgressLine
from memory_visualizer.errors import BadInputError
from memory_visualizer.export.extract import (
    IN_ALL,
    MANIFEST,
    Piece,
    piece_of_frames,
    pieces_of_files,
    pieces_of_process,
    write_pieces,
)
from memory_visualizer.formats.opening import check_file
from memory_visualizer.printable import binary_size, counted, printable
from memory_visualizer.snapshot.snapshot import Snapshot

DESCRIPTION = """\
Write files, the memory of a process, or page frames of a memory dump into a
folder. Pages that are not in memory become holes, which read as zeros.
FOLDER/manifest.json tells for each written file its path in the dump, its size,
the pages present, and the SHA-256 of these pages.
"""

EXAMPLES = """\
examples:
  memviz extract memory.lime --file '^/etc/' --to etc
  memviz extract memory.lime --process 812 --to process-812
  memviz extract xp.raw --frames 0x100-0x1ff --to frames
"""


def parser(program: str) -> argparse.ArgumentParser:
    """The command's options."""
    options = parser_of_dump(program, DESCRIPTION, EXAMPLES)
    options.add_argument(
        "--to",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="the folder to write into; it is made if it is missing",
    )
    options.add_argument(
        "--file",
        metavar="REGEX",
        type=_pattern,
        help="the files whose paths match (case counts)",
    )
    options.add_argument(
        "--process", metavar="PID", type=_pid, help="the memory of a process, a file per region"
    )
    options.add_argument(
        "--frames",
        metavar="A-B",
        type=_frames,
        help="the page frames from A to B, raw; decimal, or hexadecimal with 0x",
    )
    options.add_argument(
        "--limit",
        metavar="GIB",
        type=_gibibytes,
        default=IN_ALL >> 30,
        help="the most GiB to write in all, holes included; 0 for no limit (default: %(default)s)",
    )
    options.add_argument(
        "--force",
        action="store_true",
        help="also replace files that are in FOLDER, except possible dumps",
    )
    options.add_argument(
        "--lenient", action="store_true", help="read a damaged dump as far as possible"
    )
    options.add_argument("-q", "--quiet", action="store_true", help="print remarks and errors only")
    return options


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"is not a regular expression: {error}") from None


def _pid(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be the id of a process, a whole number")
    return int(text)


def _gibibytes(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a whole number of GiB")
    return int(text)


def _frames(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(0x[0-9a-fA-F]+|\d+)-(0x[0-9a-fA-F]+|\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError("must be two page frame numbers, such as 0x100-0x1ff")
    first, last = (int(number, 16 if number[:2] == "0x" else 10) for number in match.groups())
    if first > last:
        raise argparse.ArgumentTypeError("must not end before it begins")
    return first, last


def main(program: str, options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code. Errors as for memviz."""
    if options.file is None and options.process is None and options.frames is None:
        raise BadInputError("nothing to extract: give --file, --process or --frames")
    for path in (options.dump, *options.more):
        check_file(path)
    with ProgressLine("reading the dump") as progress:
        files = [options.dump, *options.more]
        snapshot = open_snapshot(files, lenient=options.lenient, progress=progress)
    for remark in (*snapshot.dump.remarks, *snapshot.remarks):
        say(program, remark)
    pieces = _pieces(snapshot, options)
    for remark in snapshot.inventory.remarks if snapshot.inventory else ():
        say(program, remark)
    if not any(len(piece.frame) for piece in pieces):
        say(program, "nothing of what was asked for is in memory")
    limit = options.limit << 30 or None
    manifest = write_pieces(options.to, snapshot.dump, pieces, force=options.force, limit=limit)
    if beyond := sum(entry["beyond_limit"] for entry in manifest["pieces"]):
        say(
            program,
            f"{counted(beyond, 'file')} not written: more than {options.limit} GiB in all;"
            " --limit allows more",
        )
    if not options.quiet:
        print(_summary(options.to, manifest))
        sys.stdout.flush()
    return 0


def _pieces(snapshot: Snapshot, options: argparse.Namespace) -> list[Piece]:
    """The pieces to write; BadInputError if a requested process, file or frame is missing."""
    pieces: list[Piece] = []
    if options.file is not None:
        found = pieces_of_files(snapshot, options.file)
        if not found:
            raise BadInputError(
                "no file in the dump matches --file"
                if len(snapshot.file_pages.files)
                else "the files behind the pages of this dump are not known"
            )
        pieces += found
    if options.process is not None:
        processes = [one for one in snapshot.processes if one.pid == options.process]
        if not processes:
            raise BadInputError(f"the dump has no process {options.process}")
        for number, process in enumerate(processes):
            pieces += pieces_of_process(snapshot, process, number)
    if options.frames is not None:
        pieces.append(piece_of_frames(snapshot.dump, *options.frames))
    return pieces


def _summary(folder: Path, manifest: dict[str, Any]) -> str:
    entries = [entry for entry in manifest["pieces"] if entry["written"]]
    pages = sum(entry["pages_written"] for entry in entries)
    size = binary_size(sum(entry["bytes_written"] for entry in entries))
    lost = sum(entry["pages_left_out"] + entry["pages_not_in_dump"] for entry in entries)
    line = (
        f"{printable(str(folder))}: {counted(len(entries), 'file')} written,"
        f" {counted(pages, 'page')} ({size}); {MANIFEST} lists them"
    )
    return f"{line}; {counted(lost, 'page')} not written" if lost else line
