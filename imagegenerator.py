#!/usr/bin/env python3
"""Paint a picture of physical memory from a dump and its text page map."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from memory_visualizer import __version__
from memory_visualizer.dump import RawDump
from memory_visualizer.errors import (
    BadInputError,
    DamagedInputError,
    MemoryVisualizerError,
    reading,
)
from memory_visualizer.legend import legend, legend_json, legend_lines, legend_panel
from memory_visualizer.pagemap import classify
from memory_visualizer.palette import PALETTES
from memory_visualizer.picture import add_panel, check_target, paint, write_png
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.progress import ProgressLine
from memory_visualizer.textmap import MappedFrames, read_mapped_frames

IMAGES = Path(__file__).resolve().parent / "images"
MAX_WIDTH = 65_535

EXAMPLES = """\
examples:
  imagegenerator.py dumps/xp.raw xp.map xp           writes images/xp.png
  imagegenerator.py xp.raw xp.map -o xp.png --legend
  vol.py --plugins=plugins -f xp.raw memoryvisualizer | imagegenerator.py xp.raw - xp

exit codes: 0 painted, 2 bad input or usage, 1 any other error, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Ended from outside, leave nothing half written behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.name is None and options.output is None:
        parser.error("give a NAME, or a path with -o")
    try:
        _paint(options)
        sys.stdout.flush()
    except DamagedInputError as error:
        return _fail(2, f"{error} (--lenient paints what can be painted)")
    except BadInputError as error:
        return _fail(2, str(error))
    except BrokenPipeError:
        # Nobody reads the legend; keep the interpreter from failing on it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(1, f"cannot write {error.filename or 'standard output'}: {error.strerror}")
    except (MemoryVisualizerError, MemoryError) as error:
        return _fail(1, str(error) or "out of memory")
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Paint each page of a memory dump as one pixel: kernel, user, or unused.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dump", metavar="DUMP", type=Path, help="raw dump of physical memory")
    parser.add_argument(
        "map", metavar="MAP", help="text page map that the Volatility plugin printed; - for stdin"
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=_name, help="write images/NAME.png of this project"
    )
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=Path, help="write to PATH, whatever NAME is"
    )
    parser.add_argument(
        "--width",
        metavar="N",
        type=_width,
        help="pixels in a row (default: the smallest square that holds all pages)",
    )
    parser.add_argument(
        "--palette", choices=PALETTES, default="default", help="colours (default: %(default)s)"
    )
    parser.add_argument("--legend", action="store_true", help="draw the legend below the picture")
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="paint damaged input as far as possible: skip broken lines, cut mappings off at the"
        " dump's end, ignore an incomplete last page; and say so",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _name(text: str) -> str:
    if not text or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError("NAME must be a plain file name; -o takes a path")
    return text


def _width(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WIDTH:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_WIDTH}")
    return int(text)


def _paint(options: argparse.Namespace) -> None:
    output = _output(options)
    dump = RawDump.open(options.dump, lenient=options.lenient)
    mapped = _read_map(options, dump.frame_count)
    with ProgressLine("reading the dump") as progress:
        zero = dump.zero_frames(progress)
    page_map = classify(mapped.user, mapped.kernel, zero)

    palette = PALETTES[options.palette]
    entries = legend(page_map, palette)
    size = binary_size(dump.size)
    picture = paint(page_map, palette, options.width)
    caption = f"{picture.width:,} x {picture.height:,} pixels, one for each 4 KiB page of"
    if options.legend:
        subtitle = f"{size}, {dump.frame_count:,} pages; one pixel = one page of 4 KiB"
        panel = legend_panel(picture.width, dump.path.name, subtitle, entries)
        picture = add_panel(picture, panel, palette)
    texts = {
        "Software": f"Memory Visualizer {__version__}",
        "Source": printable(dump.path.name),
        "Legend": legend_json(palette),
        "Layout": "rows",
    }
    write_png(output, picture, texts)

    _report_damage(options.map, dump, mapped)
    print(f"{printable(str(output))}: {caption} {printable(dump.path.name)} ({size})")
    ansi = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print("\n".join(legend_lines(entries, ansi=ansi)))


def _output(options: argparse.Namespace) -> Path:
    if options.output is None:
        IMAGES.mkdir(exist_ok=True)
    path: Path = options.output or IMAGES / f"{options.name}.png"
    check_target(path)
    for source in (options.dump, Path(options.map)):
        with reading(source):
            if path.exists() and source.exists() and path.samefile(source):
                raise BadInputError(f"{path} is an input; the picture must not replace it")
    return path


def _read_map(options: argparse.Namespace, frame_count: int) -> MappedFrames:
    name = "standard input" if options.map == "-" else options.map
    with _open_map(options.map) as stream, ProgressLine("reading the map") as progress:
        return read_mapped_frames(
            stream,
            name,
            frame_count,
            lenient=options.lenient,
            progress=progress,
            total_bytes=os.fstat(stream.fileno()).st_size or None,  # a pipe's is 0
        )


def _open_map(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    with reading(name):
        return Path(name).open("rb")


def _report_damage(map_name: str, dump: RawDump, mapped: MappedFrames) -> None:
    if dump.trailing_bytes:
        _say(f"ignored the last {dump.trailing_bytes:,} bytes of {dump.path}, not a whole page")
    for fault, done in (
        (mapped.broken, "broken lines skipped"),
        (mapped.beyond, "mappings cut off at the dump's end"),
    ):
        if fault:
            _say(f"{map_name}: {done}: {fault.count:,}, first line {fault.line}: {fault.reason}")
    if mapped.row_count == 0:
        _say(f"{map_name} has no mapping, so all pages are painted as unused")


def _say(sentence: str) -> None:
    print(f"imagegenerator.py: {printable(sentence)}", file=sys.stderr)


def _fail(code: int, sentence: str) -> int:
    _say(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
