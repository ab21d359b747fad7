"""The command line: ``memviz DUMP``."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_visualizer import __version__
from memory_visualizer.colouring import COLOURINGS, Colouring, colour_by
from memory_visualizer.command import (
    add_picture_options,
    cannot_write,
    check_outputs,
    check_picture_options,
    legend_text,
    run,
    say,
    write_picture,
)
from memory_visualizer.contents import entropy
from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.errors import BadInputError
from memory_visualizer.export import (
    TABLE_FORMATS,
    check_table,
    dump_holes,
    write_json,
    write_table,
    write_text_map,
)
from memory_visualizer.findings import findings, named, remarks_on_copies
from memory_visualizer.palette import PALETTES
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.progress import ProgressLine
from memory_visualizer.snapshot import Snapshot
from memory_visualizer.snapshot import open as open_snapshot

PROGRAM = "memviz"
WRITE_ERROR = 1
"""Exit code where not all that was asked for could be written."""
NO_SYSTEM = 3
"""Exit code where neither Windows nor Linux was found in the dump."""

DESCRIPTION = """\
Paint each page of a memory dump as one pixel: kernel, user, or unused; and say
whose it is. The dump may be raw, LiME, AVML, an ELF core, kdump, a Windows
crash dump or VMware's, of Windows or of Linux; no profile and no symbols are
needed.
"""

EXAMPLES = """\
examples:
  memviz xp.raw              print a summary, paint xp.raw.png in this folder
  memviz memory.lime -o memory.png --legend
  memviz win10.vmem --name '^lsass' -o lsass.png
  memviz xp.raw --html xp.html
  memviz xp.raw --table pages.csv --json summary.json --map xp.map
  memviz doctor              which optional parts are there, how to get more

exit codes:
  0    painted, and all else that was asked for is written
  1    something could not be written (a sentence says what), or another error
  2    bad input or usage
  3    neither Windows nor Linux found; zeros and data are painted all the same
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
    if list(arguments) == ["doctor"]:
        return run(PROGRAM, _doctor)
    options = _parser().parse_args(arguments)
    return run(PROGRAM, lambda: _visualize(options))


def _doctor() -> int:
    """Say which optional parts are there, and how to get the others."""
    from memory_visualizer.doctor import examine  # here, since no dump needs it

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
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dump", metavar="DUMP", type=Path, help="dump of physical memory")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PICTURE",
        type=Path,
        help="the PNG to write (default: DUMP's name and .png, in the current folder)",
    )
    add_picture_options(parser)
    parser.add_argument(
        "--color-by",
        metavar="WHAT",
        choices=COLOURINGS,
        default="class",
        help="what the colours tell: class, process, protection (what may be done: read, write,"
        " execute), entropy of the contents, mappings (by how many a page is shared), or state"
        " (what it is to a Linux kernel) (default: %(default)s)",
    )
    parser.add_argument(
        "--pid", metavar="N[,N]", type=_pids, help="show pages of these processes, dim the rest"
    )
    parser.add_argument(
        "--name",
        metavar="REGEX",
        type=_pattern,
        help="show pages of processes whose names match, dim the rest",
    )
    parser.add_argument(
        "--html",
        metavar="PAGE",
        type=Path,
        help="write a page for the browser in which each pixel can be asked what it is; with"
        " entropies if --color-by entropy is given",
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        type=_table,
        help="write the page map as a table: .npz, .csv or .parquet",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the summary as JSON")
    parser.add_argument("--map", metavar="FILE", type=Path, help="write the text page map")
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="take a damaged dump as far as it can be read, and say what is missing",
    )
    return parser


def _pids(text: str) -> set[int]:
    try:
        return {int(pid) for pid in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError("must be process ids, parted by commas") from None


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"is no regular expression: {error}") from None


def _table(text: str) -> Path:
    if Path(text).suffix.lower() not in TABLE_FORMATS:
        raise argparse.ArgumentTypeError(f"must end in one of {', '.join(TABLE_FORMATS)}")
    return Path(text)


def _visualize(options: argparse.Namespace) -> int:
    picture: Path = options.output or Path(f"{options.dump.name}.png")
    tables = [path for path in (options.html, options.table, options.json, options.map) if path]
    check_picture_options(options)
    check_outputs([picture, *tables], [options.dump])
    if options.table:
        check_table(options.table)
    with ProgressLine("reading the dump") as progress:
        snapshot = open_snapshot(options.dump, lenient=options.lenient, progress=progress)
    remarks = (*snapshot.dump.remarks, *snapshot.remarks, *remarks_on_copies(snapshot.copies))
    for remark in remarks:
        say(PROGRAM, remark)
    chosen = _chosen(options, snapshot)
    measured = cache(lambda: _entropy(snapshot))
    colouring = colour_by(options.color_by, snapshot, PALETTES[options.palette], measured)
    # Files first: whoever reads the summary may stop doing so before its end.
    painted = _painted(options, snapshot, colouring, picture, chosen)
    tables_written = [
        _written(path, write, snapshot)
        for path, write in (
            (options.html, partial(_write_page, options, measured)),
            (options.table, write_table),
            (options.json, write_json),
            (options.map, write_text_map),
        )
        if path
    ]
    print("\n".join(_description(snapshot)), end="\n\n")
    print("\n".join(filter(None, (painted, legend_text(colouring)))))
    if chosen is not None:
        print(f"Pages of {_count(len(chosen), 'process', 'processes')} shown, others pale")
    for line in filter(None, tables_written):
        print(line)
    if snapshot.states is not None:
        print("", *_state_lines(snapshot), sep="\n")
    if snapshot.processes:
        print("", *_process_lines(snapshot), sep="\n")
    if odd := _finding_lines(snapshot):
        print("", *odd, sep="\n")
    code = 0 if painted and all(tables_written) else WRITE_ERROR
    if snapshot.system is None:
        sys.stdout.flush()
        known = "user, kernel, zeros and data" if snapshot.paging else "zeros and data"
        say(
            PROGRAM,
            "neither Windows nor Linux was found: the dump is of another system, damaged or"
            f" encrypted; only {known} are told apart",
        )
        return code or NO_SYSTEM
    return code


def _entropy(snapshot: Snapshot) -> NDArray[np.uint8]:
    """What contents.entropy says; it takes a second look at the whole dump."""
    with ProgressLine("measuring entropy") as progress:
        return entropy(snapshot.dump, progress)


def _write_page(
    options: argparse.Namespace,
    measured: Callable[[], NDArray[np.uint8]],
    path: Path,
    snapshot: Snapshot,
) -> None:
    """Write the page; it opens with the layout and the colours that the options choose."""
    from memory_visualizer.viewer import write_page  # here, since most runs write no page

    write_page(
        path,
        snapshot,
        entropy=measured() if options.color_by == "entropy" else None,
        layout=options.layout,
        color_by=options.color_by,
        palette=options.palette,
    )


def _painted(
    options: argparse.Namespace,
    snapshot: Snapshot,
    colouring: Colouring,
    path: Path,
    chosen: list[int] | None,
) -> str:
    """Write the picture and say so; an empty text, and a word on stderr, if it cannot be."""
    dimmed = None if chosen is None else snapshot.pages_of_others(chosen)
    try:
        return write_picture(options, path, snapshot.dump, colouring, dimmed=dimmed)
    except OSError as error:
        say(PROGRAM, cannot_write(error))
        return ""


def _written(path: Path, write: Callable[[Path, Snapshot], None], snapshot: Snapshot) -> str:
    """Write a file for other programs, likewise."""
    try:
        write(path, snapshot)
    except OSError as error:
        say(PROGRAM, cannot_write(error))
        return ""
    return f"{printable(str(path))}: written"


def _chosen(options: argparse.Namespace, snapshot: Snapshot) -> list[int] | None:
    """Indices of the processes that --pid and --name choose; None where there is no choice."""
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
        raise BadInputError("the dump has no process that --pid or --name would choose")
    return chosen


def _description(snapshot: Snapshot) -> list[str]:
    """What the dump is, and of what system."""
    dump = snapshot.dump
    pages = dump.size // PAGE_SIZE
    dump_line = f"{printable(dump.path.name)}: {dump.format}, {binary_size(dump.size)}"
    dump_line += f", {_count(pages, 'page')} in {_count(len(dump.runs), 'run')}"
    if holes := dump_holes(dump):
        missing = _count(dump.frame_count - pages, "page")
        dump_line += f", {_count(holes, 'hole')} ({missing})"
    if not snapshot.system or not snapshot.paging:
        paging = f", {snapshot.paging.name} paging" if snapshot.paging else ""
        return [dump_line, f"No Windows and no Linux found{paging}"]
    system_line = f"{snapshot.system}{_release(snapshot.system)}, {snapshot.paging.name} paging"
    if snapshot.time:
        system_line += f", taken {snapshot.time:%Y-%m-%d %H:%M:%S} UTC"
    return [dump_line, system_line]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


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


def _release(system: str) -> str:
    """The names under which a version of Windows was sold."""
    major, minor, build = (*system.removeprefix("Windows ").split("."), "", "", "")[:3]
    if major == "10" and build.isdecimal():
        name = (
            "11 or Server 2025" if int(build) >= _FIRST_WINDOWS_11 else "10 or Server 2016 to 2022"
        )
    else:
        name = _RELEASES.get(f"{major}.{minor}", "")
    return f" ({name})" if name else ""


def _state_lines(snapshot: Snapshot) -> list[str]:
    """What the kernel says of its pages, a line for each state that there is."""
    counts = {state: count for state, count in snapshot.state_counts().items() if count}
    return [
        "By the kernel's own word",
        *(
            f"  {state.label:<13}  {count:>11,}  {100 * count / snapshot.classes.size:>5.1f} %"
            for state, count in counts.items()
        ),
    ]


def _process_lines(snapshot: Snapshot) -> list[str]:
    """A table of the processes with their pages; the names, which may be anything, come last."""
    threads = sum(process.is_kernel_thread for process in snapshot.processes)
    processes = [process for process in snapshot.processes if not process.is_kernel_thread]
    states = [process.state for process in processes]
    title = f"Pages of {_count(len(processes), 'process', 'processes')}"
    for state, what in (
        ("unlinked", "unlinked (not in the list of active processes)"),
        ("starting", "starting"),
        ("ending", "ending"),
        ("exited", "exited"),
        ("no tables", "with page tables that the dump does not hold"),
        ("unknown", "known by their page tables only"),
    ):
        if number := states.count(state):
            title += f", {number:,} {what}"
    if threads:
        title += f"; {_count(threads, 'kernel thread')}, which have none"
    lines = [title, f"{'pid':>8} {'parent':>8} {'private':>10} {'shared':>10}  {'':<9}  name"]
    counts = [
        pages
        for process, pages in zip(
            snapshot.processes, snapshot.pages_of_processes().tolist(), strict=True
        )
        if not process.is_kernel_thread
    ]
    for process, state, (private, shared) in zip(processes, states, counts, strict=True):
        if state == "unknown":
            pid = parent = "?"
        else:
            pid, parent = str(process.pid), str(process.ppid)
        lines.append(
            f"{pid:>8} {parent:>8} {private:>10,} {shared:>10,}"
            f"  {state:<9}  {printable(process.name)}"
        )
    if snapshot.stale_spaces:
        spaces = _count(snapshot.stale_spaces, "address space")
        lines.append(f"{spaces} without a process: not painted")
    return lines


def _finding_lines(snapshot: Snapshot) -> list[str]:
    """What is odd about processes, a line for each word; nothing where nothing is."""
    found = findings(snapshot.processes)
    if not found:
        return []
    width = max(map(len, found))
    return [
        "What is odd about processes",
        *(f"  {word:<{width}}  {printable(named(found[word]))}" for word in found),
    ]


if __name__ == "__main__":
    sys.exit(main())
