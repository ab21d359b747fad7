#!/usr/bin/env python3
"""Paint a picture of physical memory from a dump and its text page map."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO

from memory_visualizer.cli.command import (
    Parser,
    add_picture_options,
    check_default_picture,
    check_outputs,
    check_picture_options,
    check_terminal,
    legend_text,
    output,
    run,
    say,
    write_picture,
)
from memory_visualizer.cli.progress import ProgressLine
from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.export.textmap import MappedFrames, read_mapped_frames
from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.opening import check_file, open_dump, opens_leniently
from memory_visualizer.output import STANDARD_OUTPUT
from memory_visualizer.picture.colouring import by_class
from memory_visualizer.picture.palette import PALETTES
from memory_visualizer.snapshot.pagemap import classify

PROGRAM = "imagegenerator.py"
IMAGES = Path(__file__).resolve().parent / "images"

EXAMPLES = """\
examples:
  imagegenerator.py dumps/xp.raw xp.map xp           writes images/xp.png
  imagegenerator.py xp.raw xp.map -o xp.png --legend
  vol.py --plugins=plugins -f xp.raw memoryvisualizer | imagegenerator.py xp.raw - xp

exit codes: 0 painted, 2 bad input or usage, 1 any other error, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = _parser()
    _check_names_of_options(parser, sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    if options.name is None and options.output is None:
        parser.error("give a NAME, or a path with -o")
    helps = None if options.lenient else partial(_lenient_helps, options)
    return run(PROGRAM, lambda: _paint(options), helps)


def _check_names_of_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Name unknown options, whose values would else be taken for DUMP, MAP and NAME."""
    if {"-h", "--help"} & {*arguments}:
        return
    known = Parser(None, "", "")
    _add_options(known)
    end = list(arguments).index("--") if "--" in arguments else None
    _, others = known.parse_known_args(arguments[:end])
    unknown = [word for word in others if word.startswith("-") and word != "-"]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")


def _lenient_helps(options: argparse.Namespace) -> bool:
    """Whether --lenient finds mappings in a damaged map, or reads a damaged dump.

    A map from a pipe cannot be read once more.
    """
    if options.map == "-":
        return opens_leniently(options.dump)
    try:
        frame_count = open_dump(options.dump, lenient=True).frame_count
        return _read_map(options, frame_count, lenient=True).row_count > 0
    except BadInputError:
        return False


def _parser() -> argparse.ArgumentParser:
    description = "Paint each page of a memory dump as one pixel: kernel, user, or unused."
    parser = Parser(None, description, EXAMPLES)
    parser.add_argument("dump", metavar="DUMP", type=Path, help="dump of physical memory")
    parser.add_argument(
        "map", metavar="MAP", help="text page map that the Volatility plugin printed; - for stdin"
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=_name, help="write images/NAME.png of this project"
    )
    _add_options(parser)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=output(".png"),
        help="write to PATH, whatever NAME is; - is standard output",
    )
    add_picture_options(parser)
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="paint damaged input as far as possible: skip broken lines, cut mappings off at the"
        " dump's end, ignore an incomplete last page; and say so",
    )
    # For visualizer.sh: checks the options before Volatility's work.
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)


def _name(text: str) -> str:
    if not text or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError("NAME must be a plain file name; -o takes a path")
    return text


def _paint(options: argparse.Namespace) -> int:
    check_picture_options(options)
    if options.output is None:
        IMAGES.mkdir(exist_ok=True)
    picture: Path = options.output or IMAGES / f"{options.name}.png"
    check_file(options.dump)
    check_outputs([picture], [options.dump, Path(options.map)], force=options.force)
    check_terminal(picture)
    if options.output is None:
        check_default_picture(picture, options.dump, force=options.force)
    if options.check:
        return 0
    dump = open_dump(options.dump, lenient=options.lenient)
    mapped = _read_map(options, dump.frame_count, lenient=options.lenient)
    with ProgressLine("reading the dump") as progress:
        zero = dump.zero_frames(progress)
    left_out = dump.left_out if len(dump.left_out_runs) else None
    page_map = classify(mapped.user, mapped.kernel, zero, ~dump.held, left_out)
    _report_damage(options.map, dump, mapped)
    colouring = by_class(page_map, PALETTES[options.palette])
    screen = sys.stderr if picture == STANDARD_OUTPUT else sys.stdout
    print(write_picture(options, picture, dump, colouring), file=screen)
    print(legend_text(colouring, screen), file=screen)
    return 0


def _read_map(options: argparse.Namespace, frame_count: int, *, lenient: bool) -> MappedFrames:
    name = "standard input" if options.map == "-" else options.map
    with _open_map(options.map) as stream, ProgressLine("reading the map") as progress:
        return read_mapped_frames(
            stream,
            name,
            frame_count,
            lenient=lenient,
            progress=progress,
            total_bytes=os.fstat(stream.fileno()).st_size or None,  # a pipe has the size 0
        )


def _open_map(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    with reading(name):
        return Path(name).open("rb")


def _report_damage(map_name: str, dump: Dump, mapped: MappedFrames) -> None:
    for remark in dump.remarks:
        say(PROGRAM, remark)
    for fault, done in (
        (mapped.broken, "broken lines skipped"),
        (mapped.beyond, "mappings cut off at the dump's end"),
    ):
        if fault:
            first = f"first line {fault.line}: {fault.reason}"
            say(PROGRAM, f"{map_name}: {done}: {fault.count:,}, {first}")
    if mapped.row_count == 0:
        say(PROGRAM, f"{map_name} has no mapping, so all pages are painted as unused")


if __name__ == "__main__":
    sys.exit(main())
