"""The command line: ``memviz DUMP``."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.api import Snapshot
from memory_visualizer.api import open as open_snapshot
from memory_visualizer.cli.allocation import give_back_small_blocks
from memory_visualizer.cli.command import (
    Steps,
    check_outputs,
    check_picture_options,
    run,
    say,
    shown,
)
from memory_visualizer.cli.options import check_options, parser
from memory_visualizer.cli.outputs import paths_beside, write_outputs
from memory_visualizer.cli.processscan import ProcessScan
from memory_visualizer.cli.progress import ProgressLine
from memory_visualizer.cli.summary import print_summary
from memory_visualizer.cli.view import View
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.digest import FileHash
from memory_visualizer.formats.opening import opens_leniently
from memory_visualizer.output import STANDARD_OUTPUT
from memory_visualizer.picture.colouring import colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.palette import (
    APART_FOR_ALL,
    COLOURED_FOR_ALL,
    FOR_THE_LARGEST,
    NOT_FOR_STATES,
    PALETTES,
)
from memory_visualizer.snapshot.findings import remarks_on_copies
from memory_visualizer.unknown.contents import looks_like

if TYPE_CHECKING:
    from memory_visualizer.yara import Hits, Rules

PROGRAM = "memviz"
BAD_USAGE = 2
WRITE_ERROR = 1
"""Exit code if a requested output could not be written."""
NO_SYSTEM = 3
"""Exit code if neither Windows nor Linux was found in the dump."""

COMMANDS = ("extract", "convert", "diff", "fleet")
"""Each is a module of memory_visualizer.cli with the functions `parser` and `main`. It may have its
own `lenient_helps`; the default tests a single dump."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
    if list(arguments) == ["doctor"]:
        return run(PROGRAM, _doctor)
    if _is_doctor_with_more(arguments):
        say(PROGRAM, "doctor stands alone, without options")
        return BAD_USAGE
    if _names_command(arguments):
        return _run_command(arguments[0], arguments[1:])
    options = parser(PROGRAM).parse_args(arguments)
    helps = None if options.lenient else partial(_lenient_helps, options)
    return run(PROGRAM, lambda: _visualize(options), helps)


def _is_doctor_with_more(arguments: Sequence[str]) -> bool:
    """Whether the command doctor has arguments, of which only --help is known."""
    if arguments[:1] != ["doctor"] or {"-h", "--help"} & {*arguments}:
        return False
    return not Path(arguments[0]).exists()


def _lenient_helps(options: argparse.Namespace) -> bool:
    with ProgressLine("looking whether --lenient helps") as progress:
        return opens_leniently([options.dump, *options.more], progress)


def _names_command(arguments: Sequence[str]) -> bool:
    """Whether the first word is a command, and not a dump with the name of a command."""
    if not arguments or arguments[0] not in COMMANDS:
        return False
    return len(arguments) > 1 or not Path(arguments[0]).exists()


def _run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command that has options of its own."""
    command = import_module(f"memory_visualizer.cli.{name}")  # here, since most runs do not
    program = f"{PROGRAM} {name}"
    options = command.parser(program).parse_args(arguments)
    asked = getattr(command, "lenient_helps", _lenient_helps)
    helps = None if options.lenient else partial(asked, options)
    return run(PROGRAM, lambda: command.main(PROGRAM, options), helps)


def _doctor() -> int:
    from memory_visualizer.cli import doctor  # imported here, since no dump needs it

    return doctor.main(PROGRAM)


def _visualize(options: argparse.Namespace) -> int:
    """Read the dump, write all outputs, print the summary; returns the exit code."""
    picture: Path = options.output or Path(options.front_door or "", f"{options.dump.name}.png")
    if options.front_door and not options.html and picture != STANDARD_OUTPUT:
        options.html = picture.with_suffix(".html")
    others = paths_beside(options)
    if options.check:
        check_picture_options(options)
        check_outputs([picture, *others], [], force=options.force)
        return 0
    check_options(options, picture, others)
    rules = _rules(options)
    steps = Steps(PROGRAM, verbose=options.verbose)
    snapshot = _open(options)
    steps.done("reading the dump")
    give_back_small_blocks()
    _search(options, snapshot, steps)
    view = _view(options, snapshot, rules, steps)
    # Files come first, since the reader of the summary may stop before its end.
    written, failures = write_outputs(view, picture, steps)
    for remark in (*_record_remarks(options, snapshot), *_inventory_remarks(options, snapshot)):
        say(PROGRAM, remark)
    screen = sys.stderr if STANDARD_OUTPUT in (picture, *others) else sys.stdout
    if not options.quiet:
        painted = written.pop(picture, "")
        print_summary(view, [painted, *written.values()], screen)
        steps.done("the summary")
    screen.flush()
    return _end(snapshot, failures)


def _rules(options: argparse.Namespace) -> "Rules | None":
    """The compiled rules of --yara; RulesError, BadInputError or MissingLibraryError."""
    if not options.yara:
        return None
    from memory_visualizer.yara import Rules  # imported here, since most runs have no rules

    return Rules(options.yara)


def _open(options: argparse.Namespace) -> Snapshot:
    """Open the dump, and compute its hash meanwhile if it is asked for."""
    with FileHash(options.dump) if options.hash else nullcontext() as digest:
        with ProgressLine("reading the dump") as progress:
            files = [options.dump, *options.more]
            snapshot = open_snapshot(
                files, lenient=options.lenient, progress=progress, scanner=ProcessScan()
            )
        snapshot.dump.scanner = None  # entropy's code would be compiled in each process
        if digest:
            with ProgressLine("hashing the dump") as progress:
                snapshot.dump.sha256 = digest.wait(progress)
    return snapshot


def _search(options: argparse.Namespace, snapshot: Snapshot, steps: Steps) -> None:
    """Find all else in the dump that the options ask for, and print the remarks on the dump."""
    remarks = [*snapshot.dump.remarks, *snapshot.remarks, *remarks_on_copies(snapshot.copies)]
    if _asks_for_records(options) and not options.html:  # the page reads them beside other work
        _ = snapshot.record_remarks
        steps.done("reading the kernel's records of its pages")
    if options.leads:
        with ProgressLine("looking for leads") as progress:
            snapshot.look_for_leads(progress)
        remarks += snapshot.leads.remarks
        steps.done("looking for leads")
    for remark in (*remarks, *_palette_remarks(options, snapshot)):
        say(PROGRAM, remark)


def _asks_for_records(options: argparse.Namespace) -> bool:
    """Whether an output needs the kernel's records of its frames."""
    files = (options.html, options.table, options.json, options.files)
    told = (options.uses, options.verbose, options.leads)
    return any((*files, *told)) or options.color_by in ("state", "use", "file")


def _palette_remarks(options: argparse.Namespace, snapshot: Snapshot) -> list[str]:
    """Remarks on colours that the palette for all eyes cannot keep apart."""
    if options.palette == "default":
        return []
    processes = sum(not process.is_kernel_thread for process in snapshot.processes)
    too_many = options.color_by == "process" and processes > APART_FOR_ALL
    return [
        *([NOT_FOR_STATES] if options.color_by in COLOURED_FOR_ALL else []),
        *([FOR_THE_LARGEST] if too_many else []),
    ]


def _view(
    options: argparse.Namespace, snapshot: Snapshot, rules: "Rules | None", steps: Steps
) -> View:
    """The processes, hits and colours that the options choose; remarks on them are printed."""
    chosen = _chosen(options, snapshot)
    hits = _hits(snapshot, rules, chosen) if rules else None
    if hits:
        steps.done("scanning for YARA rules")
    measured = cache(lambda: _entropy(snapshot))
    colouring = colour_by(options.color_by, snapshot, PALETTES[options.palette], measured)
    return View(options, snapshot, colouring, measured, chosen, hits)


def _chosen(options: argparse.Namespace, snapshot: Snapshot) -> list[int] | None:
    """Indices of the processes that --pid and --name choose; None without these options."""
    if (options.pid is None and options.name is None) or not snapshot.processes:
        return None
    pids = options.pid or set()
    for pid in sorted(pids - {process.pid for process in snapshot.processes}):
        say(PROGRAM, f"the dump has no process {pid}")
    chosen = [
        index
        for index, process in enumerate(snapshot.processes)
        if process.pid in pids or (options.name and options.name.search(process.name))
    ]
    if not chosen:
        raise BadInputError("no process in the dump matches --pid or --name")
    return chosen


def _hits(snapshot: Snapshot, rules: "Rules", chosen: list[int] | None) -> "Hits":
    """The hits of --yara; remarks on them are printed."""
    from memory_visualizer.yara import find_hits  # imported here, since most runs have no rules

    with ProgressLine("scanning for YARA rules") as progress:
        hits = find_hits(snapshot, rules, chosen, progress)
    for remark in hits.remarks:
        say(PROGRAM, remark)
    return hits


def _entropy(snapshot: Snapshot) -> NDArray[np.uint8]:
    """The entropy of all frames, for which the dump is read a second time."""
    with ProgressLine("measuring entropy") as progress:
        return entropy(snapshot.dump, progress, zero=snapshot.zero)


def _record_remarks(options: argparse.Namespace, snapshot: Snapshot) -> Sequence[str]:
    """Remarks on the kernel's records of its frames, if they were asked for."""
    if not _asks_for_records(options):
        return ()
    if options.uses and snapshot.records is None:
        unknown = "the kernel's records of its pages were not found: their uses are unknown"
        return (*snapshot.record_remarks, unknown)
    return snapshot.record_remarks


def _inventory_remarks(options: argparse.Namespace, snapshot: Snapshot) -> Sequence[str]:
    """Remarks on files, regions and modules that were asked for and could not be read."""
    remarks = [*(snapshot.inventory.remarks if snapshot.inventory else ())]
    if options.files and not snapshot.tells_files:
        remarks.append(
            f"{shown(options.files)} has no rows: the files behind the pages of this dump are not"
            " known"
        )
    if options.regions and not snapshot.inventory:
        remarks.append(f"{shown(options.regions)} has no rows: the system of this dump is unknown")
    return remarks


def _end(snapshot: Snapshot, failures: Sequence[str]) -> int:
    """Print the last sentences, and return the exit code."""
    code = 0
    if snapshot.system is None:
        say(PROGRAM, _no_system(snapshot))
        code = NO_SYSTEM
    for failure in failures:  # last, so that it is seen
        say(PROGRAM, failure)
        code = WRITE_ERROR
    return code


def _no_system(snapshot: Snapshot) -> str:
    """A sentence on a dump in which no system was found."""
    known = "user, kernel, zeros and data" if snapshot.paging else "zeros and data"
    return (
        f"neither Windows nor Linux was found: {looks_like(snapshot.dump, snapshot.zero)}; only"
        f" {known} are distinguished"
    )


if __name__ == "__main__":
    sys.exit(main())
