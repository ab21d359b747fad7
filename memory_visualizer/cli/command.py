"""Shared parts of the commands: exit codes, options for the picture, sentences on stderr."""

import argparse
import errno
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.cli.allocation import give_back_large_blocks
from memory_visualizer.errors import (
    BadInputError,
    DamagedInputError,
    MemoryVisualizerError,
    reading,
)
from memory_visualizer.formats import vmware
from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.opening import fingerprint
from memory_visualizer.formats.paths import as_path
from memory_visualizer.output import STANDARD_OUTPUT, check_target, is_own, is_standard_output
from memory_visualizer.picture.colouring import COLOURINGS, Colouring
from memory_visualizer.picture.file import paint_file
from memory_visualizer.picture.folding import HOLES
from memory_visualizer.picture.layout import LAYOUTS
from memory_visualizer.picture.legend import legend, legend_lines
from memory_visualizer.picture.palette import PALETTES
from memory_visualizer.picture.picture import MAX_ENTRIES
from memory_visualizer.picture.png import fingerprint_in
from memory_visualizer.picture.scale import MAX_SCALE, Scale, percent
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.version import __version__

MAX_WIDTH = 65_535
PARTS = "the other files of a split kdump; parts of other images are found beside DUMP"


def run(program: str, action: Callable[[], int], helps: Callable[[], bool] | None = None) -> int:
    """Run a command's work and return the exit code; each error becomes one sentence.

    `helps` is asked after an error of a damaged input whether --lenient would read it; None where
    the option was given, or there is no such option.
    """
    # A stream that was closed before the program started is None.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    give_back_large_blocks()
    _end_on_bus_error(program)
    # When ended from outside, leave no half-written file behind.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP; nohup ignores it on purpose
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        code = action()
        sys.stdout.flush()
    except DamagedInputError as error:
        return _fail(program, 2, f"{error}{_hint(helps)}")
    except BadInputError as error:
        return _fail(program, 2, str(error), getattr(error, "details", ""))
    except BrokenPipeError:  # the reader of the summary has gone
        _drop_output()
        return 1
    except OSError as error:
        if error.filename is None:
            _drop_output()
        return _fail(program, 1, cannot_write(error))
    except (MemoryVisualizerError, MemoryError) as error:
        return _fail(program, 1, str(error) or "out of memory")
    except KeyboardInterrupt:
        return _fail(program, 130, "interrupted")
    return code


def _hint(helps: Callable[[], bool] | None) -> str:
    """Offer --lenient where it is sure to help."""
    try:
        offered = helps is not None and helps()
    except (OSError, MemoryError, KeyboardInterrupt):  # the first error is the one to report
        offered = False
    return " (--lenient paints what can be painted)" if offered else ""


def _end_on_bus_error(program: str) -> None:
    """Print a sentence if a mapped file is truncated while it is read.

    The processor's exception cannot become a Python exception (see formats.files): a handler in
    Python would return to the same read for ever, so this handler ends the process. On Windows a
    mapped file cannot be truncated, and this signal does not exist.
    """
    if not hasattr(signal, "SIGBUS"):
        return
    import ctypes

    def end(_: int) -> None:
        sentence = f"{program}: the dump got shorter, or its disk failed, while it was read\n"
        os.write(2, sentence.encode())
        os._exit(2)

    global _on_bus_error
    _on_bus_error = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
    libc.signal(signal.SIGBUS, ctypes.cast(_on_bus_error, ctypes.c_void_p))


_on_bus_error: object = None
"""Kept alive here, since the C library does not do so."""


def _drop_output() -> None:
    """Keep the interpreter from failing on standard output again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def cannot_write(error: OSError) -> str:
    """Name the output that could not be written: without a file it is standard output."""
    return f"cannot write {error.filename or 'standard output'}: {error.strerror or error}"


def say(program: str, sentence: str) -> None:
    """Print a sentence on stderr, after the program's name."""
    print(f"{program}: {printable(sentence)}", file=sys.stderr)


def _fail(program: str, code: int, sentence: str, details: str = "") -> int:
    """Print a sentence, and the lines of `details` below it."""
    say(program, f"{sentence}:" if details else sentence)
    for line in details.splitlines():
        print(printable(line), file=sys.stderr)
    return code


class Steps:
    """Prints the duration of each step on stderr, with --verbose."""

    def __init__(self, program: str, *, verbose: bool) -> None:
        self._program = program
        self._verbose = verbose
        self._before = time.monotonic()

    def done(self, what: str) -> None:
        """End a step, which is all work since the last step."""
        now = time.monotonic()
        if self._verbose:
            say(self._program, f"{now - self._before:.2f} s: {what}")
        self._before = now


class Parser(argparse.ArgumentParser):
    """Reports a wrong option in one sentence, without the usage."""

    def __init__(self, program: str | None, description: str, examples: str) -> None:
        """Without `program`, the name is that of the script."""
        super().__init__(
            prog=program,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Print the sentence, and end the program with exit code 2."""
        self.exit(2, f"{self.prog}: {printable(message)} ({self.prog} --help lists all options)\n")


def parser_of_dump(program: str, description: str, examples: str, parts: str = PARTS) -> Parser:
    """A parser of a command that reads one dump; `parts` is the help on its further files."""
    parser = Parser(program, description, examples)
    parser.add_argument(
        "dump", metavar="DUMP", type=dump_path, help="dump of physical memory, or its URL"
    )
    parser.add_argument("more", metavar="PART", type=dump_path, nargs="*", default=[], help=parts)
    return parser


def dump_path(text: str) -> Path:
    """The type of an argument that names a dump. Path would take an empty name for this folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return as_path(text)


def output(*endings: str, only_files: str = "") -> Callable[[str], Path]:
    """The type of an option that names an output: a path with one of these endings, or ``-``.

    `only_files` is the reason why this output cannot go to standard output.
    """

    def parse(text: str) -> Path:
        if text == "-" or is_standard_output(Path(text)):
            if only_files:
                raise argparse.ArgumentTypeError(only_files)
            return STANDARD_OUTPUT
        if Path(text).suffix.lower() not in endings:
            known = endings[0] if len(endings) == 1 else f"one of {', '.join(endings)}"
            choice = known if only_files else f"{known}, or be - for standard output"
            raise argparse.ArgumentTypeError(f"must end in {choice}; not {text or 'empty'}")
        return Path(text)

    return parse


def _palette(text: str) -> str:
    """A palette's name; other spellings are accepted, too."""
    alike = text.lower().replace("colorblind", "colour-blind").replace("color-", "colour-")
    return "colour-blind" if alike == "colourblind" else alike


def add_picture_options(parser: argparse.ArgumentParser, *, legend: bool = False) -> None:
    """Add the options of every command that paints; `legend` tells whether it is usual."""
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="rows",
        help="where a page's pixel lies: in rows from the top left, or along a Hilbert curve,"
        " which keeps neighbours together (default: %(default)s)",
    )
    parser.add_argument(
        "--width",
        metavar="N",
        type=_width,
        help="pages in a row (default: the smallest square that holds all pages)",
    )
    parser.add_argument(
        "--scale",
        metavar="N",
        type=_scale,
        default=1,
        help="N by N pixels for each page; or, as 1/N for large dumps, a pixel for each N x N"
        " successive pages, in the colour of most (default: %(default)s)",
    )
    parser.add_argument(
        "--palette",
        choices=PALETTES,
        type=_palette,
        default="default",
        help="colours (default: %(default)s)",
    )
    parser.add_argument(
        "--legend",
        action=argparse.BooleanOptionalAction if legend else "store_true",
        default=legend,
        help="draw a title and a legend below the picture, and addresses on its left",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also replace files that this program did not write, except possible dumps",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")


def add_holes_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that paint dumps."""
    parser.add_argument(
        "--holes",
        choices=HOLES,
        default="fold",
        help="how to show long stretches of addresses without memory: as a thin dashed break, or"
        " with a pixel for each absent page (default: %(default)s)",
    )


def add_color_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands whose colours show the findings about pages."""
    parser.add_argument(
        "--color-by",
        "--colour-by",
        metavar="WHAT",
        choices=COLOURINGS,
        default="class",
        help="what the colours show: class, process, protection (rights to read, write, execute),"
        " entropy of the contents, mappings (how many lead to the page), state or use (as the"
        " kernel records them), or file (the files with most pages in memory)"
        " (default: %(default)s)",
    )


def _width(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WIDTH:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_WIDTH}")
    return int(text)


def check_picture_options(options: argparse.Namespace) -> None:
    """Raise BadInputError if options of add_picture_options contradict one another."""
    if options.width and options.layout != "rows":
        raise BadInputError(
            "--width is for rows; the width of a Hilbert curve follows from the number of pages"
        )


def _scale(text: str) -> int | str:
    try:
        scale = Scale.of(text)
    except BadInputError:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 1 to {MAX_SCALE}, or from 1/2 to 1/{MAX_SCALE}"
        ) from None
    return str(scale) if scale.pages > 1 else scale.side


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], *, force: bool = False) -> None:
    """Refuse outputs that cannot be written, or that would replace a file that must stay.

    Such a file is an input, another output, or a file that output.check_target refuses.
    BadInputError or OSError.
    """
    # Files that must stay in any case are reported first.
    for path in filter(Path.exists, outputs):  # a name that is too long is an error of the output
        for source in chain.from_iterable(map(_files_of, inputs)):
            with reading(source):
                if source.exists() and path.samefile(source):
                    raise BadInputError(f"{path} is an input and must not be replaced")
    if STANDARD_OUTPUT in outputs and getattr(sys.stdout, "name", None) == os.devnull:  # see run
        raise OSError(errno.EBADF, "it is closed", "standard output")
    targets = [check_target(path, force=force) for path in outputs]
    for path, target in zip(outputs, targets, strict=True):
        if targets.count(target) > 1:
            name = "standard output" if path == STANDARD_OUTPUT else path
            raise BadInputError(f"{name} is named for more than one output")


def check_default_picture(path: Path, dump: Path, *, force: bool = False) -> None:
    """Raise FileExistsError if the default name belongs to the picture of another dump.

    Dumps in different folders often have the same name.
    """
    if force or not path.is_file() or not is_own(path):
        return
    if fingerprint_in(path) != fingerprint(dump):
        raise FileExistsError(
            errno.EEXIST,
            "it exists and shows another dump; -o names another file, --force replaces it",
            str(path),
        )


def check_terminal(picture: Path) -> None:
    """Raise BadInputError if a picture would be written to a terminal."""
    if picture == STANDARD_OUTPUT and sys.stdout.isatty():
        raise BadInputError("a picture is not written to a terminal; name a file, or redirect it")


def _files_of(source: Path) -> list[Path]:
    """The possible files of an input: one, or two for VMware (see formats.vmware)."""
    suffixes = (vmware.RAM_SUFFIX, *vmware.STATE_SUFFIXES)
    if source.suffix.lower() not in suffixes:
        return [source]
    return [source, *map(source.with_suffix, suffixes)]


def write_picture(
    options: argparse.Namespace,
    output: Path,
    dump: Dump,
    colouring: Colouring,
    *,
    dimmed: NDArray[np.bool_] | None = None,
    snapshot: Snapshot | None = None,
) -> str:
    """Paint with the options of add_picture_options and write the PNG.

    `dimmed` tells the frames to be shown pale; the picture names the system and the time of
    `snapshot`. Returns a line on the written file. OSError if it cannot be written, BadInputError
    if the picture would be too large.
    """
    picture = paint_file(
        output,
        dump,
        colouring,
        layout=options.layout,
        width=options.width,
        scale=options.scale,
        dimmed=dimmed,
        legend=options.legend,
        holes=getattr(options, "holes", "draw"),
        snapshot=snapshot,
        force=options.force,
    )
    left, top, right, bottom = picture.box
    shape = f"{right - left:,} x {bottom - top:,} pixels"
    scale, of_dump = picture.scale, f"of {printable(dump.path.name)} ({binary_size(dump.size)})"
    if scale.pages > 1:
        return (
            f"{shown(output)}: {shape}, one for each {scale.pages:,} pages {of_dump} in the colour"
            f" of most; {percent(picture.lost)} of the pages have another colour than their pixel"
        )
    each = "one" if scale.side == 1 else f"{scale.side} x {scale.side}"
    return f"{shown(output)}: {shape}, {each} for each 4 KiB page {of_dump}"


def shown(output: Path) -> str:
    """An output's name, for the user."""
    return "standard output" if output == STANDARD_OUTPUT else printable(str(output))


def legend_text(colouring: Colouring, screen: TextIO) -> str:
    """The legend for the terminal: each colour with its meaning, its pages and their share."""
    entries = legend(colouring, MAX_ENTRIES)
    return "\n".join(legend_lines(entries, ansi=shows_colours(screen)))


def shows_colours(screen: TextIO) -> bool:
    """Whether colours are for this stream: a terminal, unless NO_COLOR forbids it."""
    return screen.isatty() and not os.environ.get("NO_COLOR")
