"""What the commands have in common: exit codes, options for the picture, sentences on stderr."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_visualizer import __version__
from memory_visualizer.dump import PAGE_SIZE, Dump
from memory_visualizer.errors import (
    BadInputError,
    DamagedInputError,
    MemoryVisualizerError,
    reading,
)
from memory_visualizer.legend import legend, legend_json, legend_lines, legend_panel
from memory_visualizer.output import check_target
from memory_visualizer.pagemap import PageMap
from memory_visualizer.palette import PALETTES
from memory_visualizer.picture import add_panel, paint, write_png
from memory_visualizer.printable import binary_size, printable

MAX_WIDTH = 65_535


def run(program: str, action: Callable[[], int]) -> int:
    """Run a command's work and return the exit code; each error becomes one sentence."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Ended from outside, leave nothing half written behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        code = action()
        sys.stdout.flush()
    except DamagedInputError as error:
        return _fail(program, 2, f"{error} (--lenient paints what can be painted)")
    except BadInputError as error:
        return _fail(program, 2, str(error))
    except BrokenPipeError:
        # Nobody reads the legend; keep the interpreter from failing on it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        target = error.filename or "standard output"
        return _fail(program, 1, f"cannot write {target}: {error.strerror}")
    except (MemoryVisualizerError, MemoryError) as error:
        return _fail(program, 1, str(error) or "out of memory")
    except KeyboardInterrupt:
        return _fail(program, 130, "interrupted")
    return code


def say(program: str, sentence: str) -> None:
    """Tell something on stderr, in the program's name."""
    print(f"{program}: {printable(sentence)}", file=sys.stderr)


def _fail(program: str, code: int, sentence: str) -> int:
    say(program, sentence)
    return code


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command which paints has."""
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")


def _width(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WIDTH:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_WIDTH}")
    return int(text)


def check_output(path: Path, inputs: list[Path]) -> None:
    """Refuse an output that cannot be written, or that would replace an input.

    BadInputError or OSError.
    """
    check_target(path)
    for source in inputs:
        with reading(source):
            if path.exists() and source.exists() and path.samefile(source):
                raise BadInputError(f"{path} is an input; the picture must not replace it")


def write_picture(
    options: argparse.Namespace,
    output: Path,
    dump: Dump,
    page_map: PageMap,
    *,
    dimmed: NDArray[np.bool_] | None = None,
) -> None:
    """Paint the page map with the options of add_picture_options, write it and say so.

    `dimmed` tells the frames to be shown pale.
    """
    palette = PALETTES[options.palette]
    entries = legend(page_map, palette)
    size = binary_size(dump.size)
    picture = paint(page_map, palette, options.width, dimmed)
    shape = f"{picture.width:,} x {picture.height:,} pixels"
    if options.legend:
        subtitle = f"{size}, {dump.size // PAGE_SIZE:,} pages; one pixel = one page of 4 KiB"
        panel = legend_panel(picture.width, dump.path.name, subtitle, entries)
        picture = add_panel(picture, panel, palette)
    name = printable(dump.path.name)
    texts = {
        "Software": f"Memory Visualizer {__version__}",
        "Source": name,
        "Legend": legend_json(palette),
        "Layout": "rows",
    }
    write_png(output, picture, texts)
    print(f"{printable(str(output))}: {shape}, one for each 4 KiB page of {name} ({size})")
    print("\n".join(legend_lines(entries, ansi=_shows_colours())))


def _shows_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
