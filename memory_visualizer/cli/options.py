"""The options of ``memviz DUMP``, and the check of them before any work."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from memory_visualizer.cli.command import (
    add_color_option,
    add_holes_option,
    add_picture_options,
    check_default_picture,
    check_outputs,
    check_picture_options,
    check_terminal,
    output,
    parser_of_dump,
)
from memory_visualizer.errors import BadInputError
from memory_visualizer.export.tables import INVENTORY_FORMATS, TABLE_FORMATS, check_table
from memory_visualizer.formats.opening import check_file, is_split

DESCRIPTION = """\
Paint each page of a memory dump as one pixel: kernel, user, or unused. Also
tell which processes own it. The dump may be raw, LiME, AVML, an ELF core,
kdump, a crash dump or hibernation file of Windows, an E01, AFF4 or AD1 image,
or of a virtual machine (docs/formats.md lists them all), of Windows or of
Linux. memviz needs no profile and no symbols.
"""

EXAMPLES = """\
examples:
  memviz xp.raw              print a summary, paint xp.raw.png in this folder
  memviz memory.lime -o memory.png --legend
  memviz win10.vmem --name '^lsass' -o lsass.png
  memviz xp.raw --html xp.html
  memviz xp.raw --table pages.csv --json summary.json --map xp.map
  memviz xp.raw --hash --json - | jq .sha256
  memviz linux.lime --files files.csv --regions regions.csv
  memviz win10.vmem --leads --html win10.html
  memviz win10.vmem --yara rules.yar --name lsass --hits hits.csv
  memviz extract linux.lime --file '^/etc/' --to folder
  memviz convert memory.avml -o memory.lime
  memviz diff before.raw after.raw -o changes.png
  memviz fleet /evidence --out report
  memviz doctor              list the optional parts and how to get more

exit codes:
  0    painted, and all other outputs are written
  1    an output could not be written (a message names it), or another error
  2    bad input or usage
  3    neither Windows nor Linux found; zeros and data are still painted
  130  interrupted
"""


def parser(program: str) -> argparse.ArgumentParser:
    """The options of the command without a name, which reads a dump and paints it."""
    options = parser_of_dump(
        program,
        DESCRIPTION,
        EXAMPLES,
        parts="the other files of a kdump that makedumpfile split (--split), in any order; the"
        " parts of other images (E01, AD1, .001) are found beside DUMP",
    )
    options.add_argument(
        "-o",
        "--output",
        metavar="PICTURE",
        type=output(".png"),
        help="the PNG to write (default: DUMP's name and .png, in the current folder); for this"
        " and the other outputs - is standard output, and the summary then goes to standard error",
    )
    add_picture_options(options)
    add_holes_option(options)
    add_color_option(options)
    _add_choice_of_processes(options)
    _add_files(options)
    _add_searches(options)
    _add_reading(options)
    _add_messages(options)
    _add_for_the_front_door(options)
    return options


def _add_choice_of_processes(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--pid",
        metavar="N[,N]",
        type=_pids,
        help="show the pages of these processes, dim the rest; tables, JSON, map and summary then"
        " cover these processes only",
    )
    options.add_argument(
        "--name",
        metavar="REGEX",
        type=_pattern,
        help="the same for processes whose names match",
    )


def _add_files(options: argparse.ArgumentParser) -> None:
    """Add the outputs beside the picture; each is the name of a writer in `outputs.WRITERS`."""
    options.add_argument(
        "--html",
        metavar="PAGE",
        type=output(".html", ".htm"),
        help="write a page for the browser that explains each pixel; with --color-by entropy or"
        " file it also shows these, and with --regions the names of regions",
    )
    options.add_argument(
        "--table",
        metavar="FILE",
        type=output(*TABLE_FORMATS),
        help="write the page map as a table: .npz, .csv (also for -) or .parquet",
    )
    options.add_argument(
        "--json", metavar="FILE", type=output(".json"), help="write the summary as JSON: .json"
    )
    options.add_argument(
        "--map",
        metavar="FILE",
        type=output(".map", ".txt"),
        help="write the text page map: .map or .txt",
    )
    options.add_argument(
        "--files",
        metavar="FILE",
        type=output(*INVENTORY_FORMATS),
        help="write the files with pages in memory: .csv (also for -), .parquet or .json",
    )
    options.add_argument(
        "--regions",
        metavar="FILE",
        type=output(*INVENTORY_FORMATS),
        help="write the regions of the processes' memory: as for --files; --table and --html"
        " then tell the region of each page, too",
    )


def _add_searches(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--uses",
        action="store_true",
        help="print a table of pages by use and state, as the kernel records them",
    )
    options.add_argument(
        "--leads",
        action="store_true",
        help="list leads (findings to look at first), each with its reason: hidden processes,"
        " injected images, altered code and so on; reads contents, regions and files",
    )
    options.add_argument(
        "--yara",
        metavar="RULES",
        type=Path,
        action="append",
        help="search the memory with YARA rules, show the pages with hits, dim the rest; with --pid"
        " or --name search only these processes, in the order of their addresses; may be given"
        " several times (needs yara-x)",
    )
    options.add_argument(
        "--hits",
        metavar="FILE",
        type=output(*INVENTORY_FORMATS),
        help="write the hits of --yara: as for --files",
    )


def _add_reading(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--hash",
        action="store_true",
        help="compute the SHA-256 of the dump's file, and put it into every output",
    )
    options.add_argument(
        "--lenient",
        action="store_true",
        help="read a damaged dump as far as possible, and name the missing parts",
    )


def _add_messages(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "-q", "--quiet", action="store_true", help="print no summary, only remarks and errors"
    )
    options.add_argument(
        "-v", "--verbose", action="store_true", help="print how long each step takes, and more"
    )


def _add_for_the_front_door(options: argparse.ArgumentParser) -> None:
    """Add hidden options for visualizer.sh.

    They are the folder of pictures with default names, with a page for each; the file for the facts
    that it needs to continue with Volatility 2; and a check of the options before other work.
    """
    options.add_argument("--front-door", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--volatility2", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--check", action="store_true", help=argparse.SUPPRESS)


def _pids(text: str) -> set[int]:
    try:
        return {int(pid) for pid in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError("must be process ids, separated by commas") from None


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"is not a regular expression: {error}") from None


def check_options(options: argparse.Namespace, picture: Path, others: Sequence[Path]) -> None:
    """Check the options, and the `others` among the outputs; BadInputError or OSError."""
    if str(options.dump) == "-":
        raise BadInputError("a dump is read more than once, so it cannot come from standard input")
    for path in (options.dump, *options.more):
        check_file(path)
    if options.hash and (options.more or is_split(options.dump)):
        raise BadInputError("--hash covers a single file, but this dump consists of several")
    if options.hits and not options.yara:
        raise BadInputError("--hits writes the hits of --yara, which is missing")
    check_picture_options(options)
    check_outputs([picture, *others], [options.dump, *options.more], force=options.force)
    check_terminal(picture)
    if options.output is None:
        check_default_picture(picture, options.dump, force=options.force)
    for path in filter(None, (options.table, options.files, options.regions, options.hits)):
        check_table(path)
