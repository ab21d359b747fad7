"""The command line: ``memviz fleet DUMPS…``."""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from memory_visualizer.cli.command import (
    Parser,
    add_color_option,
    add_holes_option,
    add_picture_options,
    check_outputs,
    check_picture_options,
    say,
)
from memory_visualizer.cli.progress import ProgressLine
from memory_visualizer.errors import BadInputError
from memory_visualizer.fleet.cluster import Place, check_libraries
from memory_visualizer.fleet.gallery import FILE as INDEX
from memory_visualizer.fleet.gallery import write_gallery
from memory_visualizer.fleet.outcome import Outcome, outcomes_in
from memory_visualizer.fleet.runner import results
from memory_visualizer.fleet.sources import expand
from memory_visualizer.fleet.split import AUTOMATIC_SIZE
from memory_visualizer.fleet.task import ClusterError, Options, clear_parts
from memory_visualizer.output import make_folder
from memory_visualizer.printable import binary_size, counted, printable

SOME_FAILED = 2
"""Exit code if a dump could not be analysed."""

DESCRIPTION = """\
Analyse many memory dumps at once, on all cores of this machine or on a cluster
of Dask. Each dump gets the picture, page and summary that memviz makes. All
dumps together get tables for queries: page maps, processes, files, regions,
modules and leads. A dump that fails does not affect the others; the same
command resumes the run.
"""

EXAMPLES = """\
examples:
  memviz fleet /evidence --out report
  memviz fleet '/evidence/*.lime' more/xp.raw --out report --leads
  memviz fleet /evidence --out /shared/report --scheduler tcp://10.0.0.5:8786
  memviz fleet database-server.elf --out report --split

the folder:
  index.html       all dumps, with filters and a search
  dumps/NAME/      NAME.png, NAME.html, NAME.json, thumbnail.png, outcome.json
  pages/           page maps in Parquet, a file for each dump; also processes/,
                   files/, regions/, modules/ and leads/ (docs/fleet.md)

exit codes:
  0    all dumps were analysed
  1    the scheduler cannot be reached or went away, or another error
  2    bad usage, or a dump could not be analysed (a message names it)
  130  interrupted
"""


def parser(program: str) -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(program, DESCRIPTION, EXAMPLES)
    options.add_argument(
        "dumps",
        metavar="DUMPS",
        nargs="+",
        help="dumps: files, folders, patterns such as '*.raw', URLs, or @ and the name of a file"
        " that lists them, one per line",
    )
    options.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="the folder for all outputs; it is made if it does not exist",
    )
    options.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        type=_address,
        help="use the workers of a running scheduler of Dask, such as tcp://host:8786 or"
        " tls://host:8786; the workers must see dumps and FOLDER under the same paths",
    )
    options.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        help="processes on this machine (default: one per core)",
    )
    options.add_argument(
        "--split",
        action="store_true",
        help="analyse one dump after another, and have all workers share the scan of each; always"
        f" done for dumps of {binary_size(AUTOMATIC_SIZE)} or more",
    )
    add_picture_options(options)
    add_holes_option(options)
    add_color_option(options)
    options.add_argument(
        "--leads",
        action="store_true",
        help="list all leads in pages and summaries, too; the table of leads always has them",
    )
    options.add_argument(
        "--lenient",
        action="store_true",
        help="read damaged dumps as far as possible, and name the missing parts",
    )
    options.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    return options


def _workers(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


def _address(text: str) -> str:
    if not re.fullmatch(r"([a-z]+://)?.*[^:/]:\d+", text):
        raise argparse.ArgumentTypeError("must be an address such as tcp://host:8786")
    return text


def lenient_helps(_: argparse.Namespace) -> bool:
    """Never asked, since the outcome of a dump has its error."""
    return False


def main(program: str, options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code. Errors as for memviz."""
    check_picture_options(options)
    check_libraries()
    if options.scheduler and options.workers:
        raise BadInputError("--workers is for this machine; a scheduler has workers of its own")
    folder: Path = options.out.absolute()
    sources = expand(options.dumps, without=folder, remark=partial(say, program))
    make_folder(folder)
    clear_parts(folder)
    check_outputs([folder / INDEX], [], force=options.force)
    before = {outcome.name for outcome in outcomes_in(folder)}
    place = Place(options.scheduler, options.workers)
    made = results(
        sources,
        folder,
        _options_of(options),
        place,
        force=options.force,
        split=options.split,
        remark=partial(say, program),
        shown=lambda source: ProgressLine(f"reading {printable(source.name)}"),
    )
    kept, failed = 0, 0
    try:
        for number, result in enumerate(made, 1):
            outcome = result.outcome
            # If a result is lost with its worker, a second task finds the outputs of this very run.
            is_kept = result.is_kept and outcome.name in before
            kept += is_kept
            line = f"{number:,} of {len(sources):,}: {outcome.name}: {_described(outcome)}"
            if not outcome.is_done:
                failed += 1
                say(program, line)
            elif not options.quiet and not is_kept:
                print(printable(line), flush=True)
    except ClusterError:
        write_gallery(folder, force=options.force)  # of the dumps that are done
        raise
    write_gallery(folder, force=options.force)
    if not options.quiet:
        print(_summary(len(sources), kept, failed, folder))
        sys.stdout.flush()
    return SOME_FAILED if failed else 0


def _options_of(options: argparse.Namespace) -> Options:
    return Options(
        layout=options.layout,
        width=options.width,
        scale=options.scale,
        palette=options.palette,
        legend=options.legend,
        holes=options.holes,
        color_by=options.color_by,
        leads=options.leads,
        lenient=options.lenient,
    )


def _described(outcome: Outcome) -> str:
    """The rest of the line on a dump."""
    if not outcome.is_done:
        return f"failed: {outcome.sentence}"
    leads = sum(outcome.leads.values())
    facts: Sequence[str] = (
        outcome.system or "neither Windows nor Linux found",
        counted(outcome.processes, "process", "processes"),
        *([f"{outcome.unlinked:,} unlinked"] if outcome.unlinked else []),
        *([counted(leads, "lead")] if leads else []),
    )
    return ", ".join(facts)


def _summary(total: int, kept: int, failed: int, folder: Path) -> str:
    """The last line."""
    parts = [f"{counted(total, 'dump')}: {total - failed:,} analysed"]
    if kept:
        parts[0] += f" ({kept:,} of them before)"
    if failed:
        parts.append(f"{failed:,} failed")
    return printable(f"{', '.join(parts)}; see {folder}")
