"""The command line: ``memviz DUMP``."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.api import Snapshot
from memory_visualizer.api import open as open_snapshot
from memory_visualizer.cli.command import (
    Steps,
    add_color_option,
    add_holes_option,
    add_picture_options,
    cannot_write,
    check_default_picture,
    check_outputs,
    check_picture_options,
    check_terminal,
    legend_text,
    output,
    parser_of_dump,
    run,
    say,
    shown,
    write_picture,
)
from memory_visualizer.cli.progress import ProgressLine
from memory_visualizer.errors import BadInputError
from memory_visualizer.export.summary import dump_holes, write_json
from memory_visualizer.export.tables import (
    INVENTORY_FORMATS,
    TABLE_FORMATS,
    check_table,
    write_table,
    write_text_map,
)
from memory_visualizer.export.volatility2 import profiles_of, why_unknown
from memory_visualizer.formats.digest import FileHash
from memory_visualizer.formats.opening import check_file, is_split, opens_leniently
from memory_visualizer.leads import LEADS, writable_pages
from memory_visualizer.output import STANDARD_OUTPUT, whole_file
from memory_visualizer.picture.colouring import Colouring, colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.palette import (
    APART_FOR_ALL,
    COLOURED_FOR_ALL,
    FOR_THE_LARGEST,
    NOT_FOR_STATES,
    PALETTES,
)
from memory_visualizer.printable import binary_size, mebibytes, printable
from memory_visualizer.snapshot.findings import (
    findings,
    named,
    odd_regions,
    remarks_on_copies,
    with_most_pages,
)
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.system import System
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.unknown.contents import looks_like
from memory_visualizer.version import __version__

if TYPE_CHECKING:
    from memory_visualizer.yara import Hits, Rules

PROGRAM = "memviz"
WRITE_ERROR = 1
"""Exit code if a requested output could not be written."""
NO_SYSTEM = 3
"""Exit code if neither Windows nor Linux was found in the dump."""

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


COMMANDS = ("extract", "convert", "diff", "fleet")
"""Each is a module of memory_visualizer.cli with the functions `parser` and `main`. It may have its
own `lenient_helps`; the default tests a single dump."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
    if list(arguments) == ["doctor"]:
        return run(PROGRAM, _doctor)
    if _names_command(arguments):
        return _run_command(arguments[0], arguments[1:])
    options = _parser().parse_args(arguments)
    helps = None if options.lenient else partial(_lenient_helps, options)
    return run(PROGRAM, lambda: _visualize(options), helps)


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
    """List the optional parts that are present, and how to get the others."""
    from memory_visualizer.cli.doctor import examine  # imported here, since no dump needs it

    parts = examine()
    print(f"memviz {__version__}")
    names, places = ([getattr(part, field) or "-" for part in parts] for field in ("name", "found"))
    name_width, place_width = (max(map(len, texts)) for texts in (names, places))
    for part, name, place in zip(parts, names, places, strict=True):
        line = f"  {name:<{name_width}}  {printable(place):<{place_width}}  {part.purpose}"
        print(line if part.found else f"{line}: {part.remedy}")
    missing = [part.name for part in parts if part.is_needed and not part.found]
    if missing:
        sys.stdout.flush()
        say(PROGRAM, f"missing, and needed: {', '.join(missing)}")
        return WRITE_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of_dump(
        PROGRAM,
        DESCRIPTION,
        EXAMPLES,
        parts="the other files of a kdump that makedumpfile split (--split), in any order; the"
        " parts of other images (E01, AD1, .001) are found beside DUMP",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PICTURE",
        type=output(".png"),
        help="the PNG to write (default: DUMP's name and .png, in the current folder); for this"
        " and the other outputs - is standard output, and the summary then goes to standard error",
    )
    add_picture_options(parser)
    add_holes_option(parser)
    add_color_option(parser)
    parser.add_argument(
        "--pid",
        metavar="N[,N]",
        type=_pids,
        help="show the pages of these processes, dim the rest; tables, JSON, map and summary then"
        " cover these processes only",
    )
    parser.add_argument(
        "--name",
        metavar="REGEX",
        type=_pattern,
        help="the same for processes whose names match",
    )
    parser.add_argument(
        "--html",
        metavar="PAGE",
        type=output(".html", ".htm"),
        help="write a page for the browser that explains each pixel; with --color-by entropy or"
        " file it also shows these, and with --regions the names of regions",
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        type=output(*TABLE_FORMATS),
        help="write the page map as a table: .npz, .csv (also for -) or .parquet",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=output(".json"), help="write the summary as JSON: .json"
    )
    parser.add_argument(
        "--map",
        metavar="FILE",
        type=output(".map", ".txt"),
        help="write the text page map: .map or .txt",
    )
    parser.add_argument(
        "--files",
        metavar="FILE",
        type=output(*INVENTORY_FORMATS),
        help="write the files with pages in memory: .csv (also for -), .parquet or .json",
    )
    parser.add_argument(
        "--regions",
        metavar="FILE",
        type=output(*INVENTORY_FORMATS),
        help="write the regions of the processes' memory: as for --files; --table and --html"
        " then tell the region of each page, too",
    )
    parser.add_argument(
        "--uses",
        action="store_true",
        help="print a table of pages by use and state, as the kernel records them",
    )
    parser.add_argument(
        "--leads",
        action="store_true",
        help="list leads (findings to look at first), each with its reason: hidden processes,"
        " injected images, altered code and so on; reads contents, regions and files",
    )
    parser.add_argument(
        "--yara",
        metavar="RULES",
        type=Path,
        action="append",
        help="search the memory with YARA rules, show the pages with hits, dim the rest; with --pid"
        " or --name search only these processes, in the order of their addresses; may be given"
        " several times (needs yara-x)",
    )
    parser.add_argument(
        "--hits",
        metavar="FILE",
        type=output(*INVENTORY_FORMATS),
        help="write the hits of --yara: as for --files",
    )
    parser.add_argument(
        "--hash",
        action="store_true",
        help="compute the SHA-256 of the dump's file, and put it into every output",
    )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="read a damaged dump as far as possible, and name the missing parts",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print no summary, only remarks and errors"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print how long each step takes, and more"
    )
    # For visualizer.sh: the folder of pictures with default names, with a page for each; the facts
    # that it needs to continue with Volatility 2; a check of the options before other work.
    parser.add_argument("--front-door", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--volatility2", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    return parser


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


def _visualize(options: argparse.Namespace) -> int:
    picture: Path = options.output or Path(options.front_door or "", f"{options.dump.name}.png")
    if options.front_door and not options.html and picture != STANDARD_OUTPUT:
        options.html = picture.with_suffix(".html")
    outputs = (options.html, options.table, options.json, options.map, options.files)
    others = [path for path in (*outputs, options.regions, options.hits) if path]
    if options.check:
        check_picture_options(options)
        check_outputs([picture, *others], [], force=options.force)
        return 0
    _check(options, picture, others)
    rules = _rules(options)
    screen = sys.stderr if STANDARD_OUTPUT in (picture, *others) else sys.stdout
    steps = Steps(PROGRAM, verbose=options.verbose)
    snapshot = _open(options)
    steps.done("reading the dump")
    remarks = [*snapshot.dump.remarks, *snapshot.remarks, *remarks_on_copies(snapshot.copies)]
    if _asks_for_records(options):
        remarks += snapshot.record_remarks
        if options.uses and snapshot.records is None:
            remarks.append(
                "the kernel's records of its pages were not found: their uses are unknown"
            )
        steps.done("reading the kernel's records of its pages")
    if options.leads:
        with ProgressLine("looking for leads") as progress:
            snapshot.look_for_leads(progress)
        remarks += snapshot.leads.remarks
        steps.done("looking for leads")
    if options.palette != "default" and options.color_by in COLOURED_FOR_ALL:
        remarks.append(NOT_FOR_STATES)
    many = sum(not process.is_kernel_thread for process in snapshot.processes) > APART_FOR_ALL
    if options.palette != "default" and options.color_by == "process" and many:
        remarks.append(FOR_THE_LARGEST)
    for remark in remarks:
        say(PROGRAM, remark)
    chosen = _chosen(options, snapshot)
    hits = _hits(options, snapshot, rules, chosen)
    if hits:
        steps.done("scanning for YARA rules")
    measured = cache(lambda: _entropy(snapshot))
    colouring = colour_by(options.color_by, snapshot, PALETTES[options.palette], measured)
    # Files come first, since the reader of the summary may stop before its end.
    written: dict[Path, str] = {}
    failures: list[str] = []
    for path, write in _jobs(options, picture, colouring, chosen, measured, hits):
        try:
            written[path] = write(path, snapshot)
        except BrokenPipeError:  # the reader of standard output has gone
            raise
        except OSError as error:
            failures.append(cannot_write(error))
        steps.done(f"writing {shown(path)}")
    for remark in _inventory_remarks(options, snapshot):
        say(PROGRAM, remark)
    if not options.quiet:
        painted = written.pop(picture, "")
        lines = [painted, *written.values()]
        _print_summary(snapshot, colouring, chosen, lines, screen, options, hits)
        steps.done("the summary")
    screen.flush()
    code = 0
    if snapshot.system is None:
        say(PROGRAM, _no_system(snapshot))
        code = NO_SYSTEM
    for failure in failures:  # last, so that it is seen
        say(PROGRAM, failure)
        code = WRITE_ERROR
    return code


def _check(options: argparse.Namespace, picture: Path, others: Sequence[Path]) -> None:
    """Check the options before any work; BadInputError or OSError."""
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


def _open(options: argparse.Namespace) -> Snapshot:
    """Open the dump, and compute its hash meanwhile if it is asked for."""
    with FileHash(options.dump) if options.hash else nullcontext() as digest:
        with ProgressLine("reading the dump") as progress:
            files = [options.dump, *options.more]
            snapshot = open_snapshot(files, lenient=options.lenient, progress=progress)
        if digest:
            with ProgressLine("hashing the dump") as progress:
                snapshot.dump.sha256 = digest.wait(progress)
    return snapshot


def _jobs(
    options: argparse.Namespace,
    picture: Path,
    colouring: Colouring,
    chosen: list[int] | None,
    measured: Callable[[], NDArray[np.uint8]],
    hits: "Hits | None",
) -> list[tuple[Path, Callable[[Path, Snapshot], str]]]:
    """The outputs with the functions that write them; each returns a line about its output.

    Standard output comes last, since its reader may stop.
    """
    more = {"chosen": chosen, "force": options.force}
    jobs: list[tuple[Path | None, Callable[[Path, Snapshot], str]]] = [
        (picture, partial(_paint, options, colouring, chosen, hits)),
        (options.html, partial(_write, partial(_write_page, options, measured, chosen, hits))),
        (
            options.table,
            partial(_write, partial(write_table, regions=bool(options.regions), **more)),
        ),
        (options.json, partial(_write, partial(write_json, hits=hits, **more))),
        (options.map, partial(_write, partial(write_text_map, **more))),
        (options.files, partial(_write, partial(_write_files, options))),
        (options.regions, partial(_write, partial(_write_regions, options, chosen))),
        (options.hits, partial(_write, partial(_write_hits, options, hits))),
        (options.volatility2, _write_for_volatility2),
    ]
    named = [(path, write) for path, write in jobs if path]
    return sorted(named, key=lambda job: job[0] == STANDARD_OUTPUT)


def _print_summary(
    snapshot: Snapshot,
    colouring: Colouring,
    chosen: list[int] | None,
    written: Sequence[str],
    screen: TextIO,
    options: argparse.Namespace,
    hits: "Hits | None",
) -> None:
    """Print the summary, and the lines on `written` files, the picture's line first."""
    painted, *others = written
    told = range(len(snapshot.processes)) if chosen is None else chosen
    pale = "" if chosen is None else f"Pages of {_processes(len(chosen))} shown, others pale"
    if hits:
        pale = f"{_count(len(hits.frames), 'page')} with hits of YARA rules shown, others pale"
    picture_lines = [painted, legend_text(colouring, screen), pale]
    blocks = [
        _description(snapshot),
        [*filter(None, [*picture_lines, *others])],
        *_record_blocks(snapshot, told, options),
        _process_lines(snapshot, told, threads=chosen is not None) if snapshot.processes else [],
        _finding_lines(snapshot, told),
        _region_lines(snapshot, told) if options.regions else [],
        _writable_code_lines(snapshot, told),
        _lead_lines(snapshot, told) if options.leads else [],
        _hit_lines(snapshot, hits) if hits else [],
        _others_lines(snapshot, told),
    ]
    print("\n\n".join("\n".join(block) for block in blocks if block), file=screen)


def _record_blocks(
    snapshot: Snapshot, told: Sequence[int], options: argparse.Namespace
) -> list[list[str]]:
    """The kernel's records of its frames, if they were asked for, or are known anyway."""
    if not snapshot.has_read_records or snapshot.records is None:
        return []
    from memory_visualizer.cli.recordlines import (  # here, since most runs print no such lines
        contradiction_lines,
        database_lines,
        last_owner_lines,
        state_lines,
        use_lines,
    )

    return [
        database_lines(snapshot) if options.verbose else [],
        use_lines(snapshot) if options.uses else state_lines(snapshot),
        last_owner_lines(snapshot, told),
        contradiction_lines(snapshot),
    ]


def _asks_for_records(options: argparse.Namespace) -> bool:
    """Whether an output needs the kernel's records of its frames."""
    files = (options.html, options.table, options.json, options.files)
    told = (options.uses, options.verbose, options.leads)
    return any((*files, *told)) or options.color_by in ("state", "use", "file")


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


def _no_system(snapshot: Snapshot) -> str:
    """A sentence on a dump in which no system was found."""
    known = "user, kernel, zeros and data" if snapshot.paging else "zeros and data"
    return (
        f"neither Windows nor Linux was found: {looks_like(snapshot.dump, snapshot.zero)}; only"
        f" {known} are distinguished"
    )


def _entropy(snapshot: Snapshot) -> NDArray[np.uint8]:
    """The entropy of all frames, for which the dump is read a second time."""
    with ProgressLine("measuring entropy") as progress:
        return entropy(snapshot.dump, progress, zero=snapshot.zero)


def _write_page(
    options: argparse.Namespace,
    measured: Callable[[], NDArray[np.uint8]],
    chosen: list[int] | None,
    hits: "Hits | None",
    path: Path,
    snapshot: Snapshot,
) -> None:
    """Write the page; the options choose its first view."""
    from memory_visualizer.viewer import write_page  # imported here, since most runs write no page

    write_page(
        path,
        snapshot,
        entropy=measured() if options.color_by == "entropy" else None,
        layout=options.layout,
        color_by=options.color_by,
        palette=options.palette,
        chosen=chosen,
        regions=bool(options.regions),
        holes=options.holes,
        hits=hits,
        force=options.force,
    )


def _write_hits(
    options: argparse.Namespace, hits: "Hits | None", path: Path, snapshot: Snapshot
) -> None:
    from memory_visualizer.export.inventorytables import write_hits  # as most runs do not ask

    assert hits is not None  # _check has seen --yara
    write_hits(path, snapshot, hits, force=options.force)


def _write_files(options: argparse.Namespace, path: Path, snapshot: Snapshot) -> None:
    from memory_visualizer.export.inventorytables import write_files  # as most runs do not ask

    write_files(path, snapshot, force=options.force)


def _write_regions(
    options: argparse.Namespace, chosen: list[int] | None, path: Path, snapshot: Snapshot
) -> None:
    from memory_visualizer.export.inventorytables import write_regions  # as most runs do not ask

    write_regions(path, snapshot, chosen=chosen, force=options.force)


def _paint(
    options: argparse.Namespace,
    colouring: Colouring,
    chosen: list[int] | None,
    hits: "Hits | None",
    path: Path,
    snapshot: Snapshot,
) -> str:
    dimmed = None if chosen is None else snapshot.pages_of_others(chosen)
    if hits:
        dimmed = np.ones(snapshot.classes.size, bool)
        dimmed[hits.frames] = False
    return write_picture(options, path, snapshot.dump, colouring, dimmed=dimmed, snapshot=snapshot)


def _write(write: Callable[[Path, Snapshot], None], path: Path, snapshot: Snapshot) -> str:
    write(path, snapshot)
    return f"{shown(path)}: written"


def _write_for_volatility2(path: Path, snapshot: Snapshot) -> str:
    """Write the facts for visualizer.sh: lines with a keyword and a value."""
    unlinked = [process for process in snapshot.processes if process.state == "unlinked"]
    lines = [
        f"profiles {' '.join(profiles_of(snapshot))}",
        f"why {why_unknown(snapshot)}",
        f"unlinked {len(unlinked)}",
    ]
    with whole_file(path) as file:
        file.write("".join(f"{printable(line)}\n" for line in lines).encode("utf-8"))
    return ""


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


def _others_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The number of processes that the summary leaves out because they were not chosen."""
    others = [snapshot.processes[index] for index in _left_out(snapshot, told)]
    if not others:
        return []
    odd = sum(process.state == "unlinked" or bool(process.anomalies) for process in others)
    leads = f"; {odd:,} of them with anomalies" if odd else ""
    return [f"{_count(len(others), 'other process', 'other processes')} not chosen{leads}"]


def _rules(options: argparse.Namespace) -> "Rules | None":
    """The compiled rules of --yara; RulesError, BadInputError or MissingLibraryError."""
    if not options.yara:
        return None
    from memory_visualizer.yara import Rules  # imported here, since most runs have no rules

    return Rules(options.yara)


def _hits(
    options: argparse.Namespace,
    snapshot: Snapshot,
    rules: "Rules | None",
    chosen: list[int] | None,
) -> "Hits | None":
    """The hits of --yara; remarks on them are printed."""
    if rules is None:
        return None
    from memory_visualizer.yara import find_hits

    with ProgressLine("scanning for YARA rules") as progress:
        hits = find_hits(snapshot, rules, chosen, progress)
    for remark in hits.remarks:
        say(PROGRAM, remark)
    return hits


_HIT_RULES = 20


def _hit_lines(snapshot: Snapshot, hits: "Hits") -> list[str]:
    """The rules with hits, a line for each, and where the first hit is."""
    lines = [f"YARA: {_count(len(hits.rules), 'rule')} with hits in {binary_size(hits.scanned)}"]
    for number, rule in enumerate(hits.rules[:_HIT_RULES]):
        first = next((hit for hit in hits.found if hit.rule == number), None)
        line = f"  {rule.name}: {'' if rule.is_exact else 'more than '}{_count(rule.count, 'hit')}"
        line += f" in {'' if rule.is_exact else 'at least '}{_count(len(rule.frames), 'page')}"
        if first:
            line += f", first at {first.physical:#x}"
            if first.process >= 0:
                line += f", {printable(named([snapshot.processes[first.process]]))}"
        lines.append(line)
    if more := len(hits.rules) - _HIT_RULES:
        lines += [f"  and {_count(more, 'other rule')}"] if more > 0 else []
    return lines


_LEADS_OF_A_KIND = 10


def _lead_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The first leads of each kind."""
    leads = snapshot.leads.of([snapshot.processes[index] for index in told])
    lines = []
    for kind in LEADS:
        reasons = [lead.reason for lead in leads.found if lead.kind == kind]
        lines += [f"  {kind}: {printable(reason)}" for reason in reasons[:_LEADS_OF_A_KIND]]
        if more := len(reasons) - _LEADS_OF_A_KIND:
            lines += [f"  {kind}: and {more:,} more"] if more > 0 else []
    return ["Leads", *lines] if lines else ["No leads found"]


def _left_out(snapshot: Snapshot, told: Sequence[int]) -> list[int]:
    """Indices of the other processes."""
    among = set(told)
    return [index for index in range(len(snapshot.processes)) if index not in among]


def _writable_code_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The processes with private pages that user mode may write and execute.

    Programs that generate code at run time have such pages; other pages may hold injected code.
    """
    pages = writable_pages(snapshot)
    pages[_left_out(snapshot, told)] = 0
    if not pages.any():
        return []
    named = with_most_pages(snapshot.processes, pages)
    total = _count(int(pages.sum()), "private page")
    return [f"{total} that user mode may write and execute: {named}"]


def _description(snapshot: Snapshot) -> list[str]:
    """The format and size of the dump, and its system."""
    dump = snapshot.dump
    pages = dump.size // PAGE_SIZE
    dump_line = f"{printable(dump.path.name)}: {dump.format}, {binary_size(dump.size)}"
    dump_line += f", {_count(pages, 'page')} in {_count(len(dump.runs), 'run')}"
    left_out = int(np.count_nonzero(dump.left_out)) if len(dump.left_out_runs) else 0
    if holes := dump_holes(dump):
        missing = _count(dump.frame_count - pages - left_out, "page")
        dump_line += f", {_count(holes, 'hole')} ({missing})"
    if left_out:
        dump_line += f", {_count(left_out, 'page')} left out"
    digest = [f"SHA-256 {dump.sha256}"] if dump.sha256 else []
    if not snapshot.system or not snapshot.paging:
        paging = f", {snapshot.paging.name} paging" if snapshot.paging else ""
        return [dump_line, *digest, f"Neither Windows nor Linux found{paging}"]
    system_line = f"{snapshot.system}{_release(snapshot.system)}, {snapshot.paging.name} paging"
    if snapshot.time:
        system_line += f", taken {snapshot.time:%Y-%m-%d %H:%M:%S} UTC"
    return [dump_line, *digest, system_line]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _processes(number: int) -> str:
    return _count(number, "process", "processes")


_RELEASES = {
    "5.0": "2000",
    "5.1": "XP",
    "5.2": "Server 2003 or XP x64",
    "6.0": "Vista or Server 2008",
    "6.1": "7 or Server 2008 R2",
    "6.2": "8 or Server 2012",
    "6.3": "8.1 or Server 2012 R2",
    "10.0": "10 or 11, or their Servers",
}
_FIRST_WINDOWS_11 = 22000


def _release(system: System) -> str:
    """The product names of a version of Windows."""
    name = _RELEASES.get(system.version, "") if system.family == "Windows" else ""
    if system.version == "10.0" and system.build:
        is_11 = system.build >= _FIRST_WINDOWS_11
        name = "11 or Server 2025" if is_11 else "10 or Server 2016 to 2022"
    return f" ({name})" if name else ""


def _process_lines(snapshot: Snapshot, told: Sequence[int], *, threads: bool) -> list[str]:
    """A table of these processes with their pages; the names, which may be long, come last.

    Kernel threads have no pages, and are counted; with `threads` they are listed as well.
    """
    processes = [snapshot.processes[index] for index in told]
    lines = [
        _process_title(processes),
        f"{'pid':>8} {'parent':>8} {'private':>10} {'shared':>10} {'size':>10}  {'':<9}  name",
    ]
    counts = snapshot.pages_of_processes()[told].tolist()
    for process, (private, shared) in zip(processes, counts, strict=True):
        if process.is_kernel_thread and not threads:
            continue
        if process.state == "unknown":
            pid = parent = "?"
        else:
            pid, parent = str(process.pid), str(process.ppid)
        size = mebibytes((private + shared) * PAGE_SIZE)
        lines.append(
            f"{pid:>8} {parent:>8} {private:>10,} {shared:>10,} {size:>10}"
            f"  {process.state:<9}  {printable(process.name)}"
        )
    if snapshot.stale_spaces:
        spaces = _count(snapshot.stale_spaces, "address space")
        lines.append(f"{spaces} without a process: not painted")
    return lines


def _process_title(processes: Sequence[Process]) -> str:
    """The title of the table: the number of processes, in all and of each kind."""
    threads = sum(process.is_kernel_thread for process in processes)
    states = [process.state for process in processes if not process.is_kernel_thread]
    title = f"Pages of {_processes(len(states))}"
    for state, what in (
        ("unlinked", "unlinked (not in the list of active processes)"),
        ("starting", "starting"),
        ("ending", "ending"),
        ("exited", "exited"),
        ("no tables", "with page tables that the dump does not hold"),
        ("no memory", "without memory"),
        ("unknown", "known by their page tables only"),
    ):
        if number := states.count(state):
            title += f", {number:,} {what}"
    if threads:
        title += f"; {_count(threads, 'kernel thread')}, which have none"
    return title


def _finding_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The anomalies of these processes, a line for each kind; no line if there are none."""
    found = findings([snapshot.processes[index] for index in told])
    if not found:
        return []
    width = max(map(len, found))
    return [
        "Anomalies of processes",
        *(f"  {word:<{width}}  {printable(named(found[word]))}" for word in found),
    ]


def _region_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """Findings about regions of these processes, a line for each kind; empty without findings."""
    from memory_visualizer.export.inventorytables import PagesOfProcesses  # as most do not ask

    processes = [snapshot.processes[index] for index in told]
    found = odd_regions((process, snapshot.regions(process) or ()) for process in processes)
    pages = PagesOfProcesses(snapshot, of_user=True)
    outside = [
        (process, count)
        for index, process in zip(told, processes, strict=True)
        if (regions := snapshot.regions(process)) and (count := pages.outside(index, regions))
    ]
    lines = []
    for word, rows in (found | ({"pages in no region": outside} if outside else {})).items():
        total = sum(count for _, count in rows)
        names = printable(named([process for process, _ in rows]))
        lines.append(f"  {word}: {total:,} in {names}")
    return ["Findings about regions", *lines] if lines else []


if __name__ == "__main__":
    sys.exit(main())
