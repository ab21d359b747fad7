"""The command line: ``memviz DUMP``."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.command import add_picture_options, check_output, run, say, write_picture
from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.errors import BadInputError
from memory_visualizer.export import TABLE_FORMATS, write_json, write_table, write_text_map
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.progress import ProgressLine
from memory_visualizer.snapshot import Snapshot
from memory_visualizer.snapshot import open as open_snapshot

PROGRAM = "memviz"
NO_SYSTEM = 3
"""Exit code where no operating system was found in the dump."""

EXAMPLES = """\
examples:
  memviz xp.raw                             paint xp.raw.png in this folder, print a summary
  memviz memory.lime -o memory.png --legend
  memviz win10.vmem --name '^lsass' -o lsass.png
  memviz xp.raw --table pages.csv --json summary.json --map xp.map

exit codes: 0 painted; 1 cannot write, or any other error; 2 bad input or usage; 3 no operating
system found in the dump (zeros and data are painted all the same); 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _parser().parse_args(arguments)
    return run(PROGRAM, lambda: _visualize(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Paint each page of a memory dump as one pixel: kernel, user, or unused. The"
        " dump may be raw, LiME, AVML, an ELF core, a Windows crash dump or VMware's; no profile"
        " and no symbols are needed.",
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
        "--pid", metavar="N[,N]", type=_pids, help="show pages of these processes, dim the rest"
    )
    parser.add_argument(
        "--name",
        metavar="REGEX",
        type=_pattern,
        help="show pages of processes whose names match, dim the rest",
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
    output: Path = options.output or Path(f"{options.dump.name}.png")
    for path in filter(None, (output, options.table, options.json, options.map)):
        check_output(path, [options.dump])
    with ProgressLine("reading the dump") as progress:
        snapshot = open_snapshot(options.dump, lenient=options.lenient, progress=progress)
    for remark in snapshot.dump.remarks:
        say(PROGRAM, remark)
    dimmed = _dimmed(options, snapshot)
    print("\n".join(_description(snapshot)))
    write_picture(options, output, snapshot.dump, snapshot, dimmed=dimmed)
    if snapshot.processes:
        print("\n".join(_process_lines(snapshot)))
    for path, write in (
        (options.table, write_table),
        (options.json, write_json),
        (options.map, write_text_map),
    ):
        if path:
            write(path, snapshot)
    if snapshot.system is None:
        say(
            PROGRAM,
            "no Windows was found: the dump is of another system, damaged or encrypted;"
            " only zeros and data are told apart",
        )
        return NO_SYSTEM
    return 0


def _dimmed(options: argparse.Namespace, snapshot: Snapshot) -> NDArray[np.bool_] | None:
    """The frames that the chosen processes do not have; None where none were chosen."""
    if options.pid is None and options.name is None:
        return None
    chosen = [
        index
        for index, process in enumerate(snapshot.processes)
        if (options.pid and process.pid in options.pid)
        or (options.name and options.name.search(process.name))
    ]
    if not chosen:
        raise BadInputError("the dump has no process that --pid or --name would choose")
    owners = snapshot.owners
    dimmed = np.ones(snapshot.classes.size, bool)
    dimmed[owners.frame[np.isin(owners.process, chosen)]] = False
    return dimmed


def _description(snapshot: Snapshot) -> list[str]:
    """What the dump is, and of what system."""
    dump = snapshot.dump
    pages = dump.size // PAGE_SIZE
    lines = [
        f"{printable(dump.path.name)}: {dump.format}, {binary_size(dump.size)}, {pages:,} pages"
        + (f" in {len(dump.runs):,} runs" if len(dump.runs) > 1 else "")
    ]
    if snapshot.system and snapshot.paging:
        time = f", taken {snapshot.time:%Y-%m-%d %H:%M:%S} UTC" if snapshot.time else ""
        lines.append(f"{snapshot.system}, {snapshot.paging.name} paging{time}")
    if snapshot.stale_spaces:
        lines.append(f"page tables of {snapshot.stale_spaces:,} that no process has any more")
    return lines


def _process_lines(snapshot: Snapshot) -> list[str]:
    """A table of the processes with their pages."""
    processes = snapshot.processes
    hidden = sum(process.is_alive and not process.is_listed for process in processes)
    ended = sum(not process.is_alive for process in processes)
    title = f"{len(processes):,} processes"
    title += f", {hidden:,} not in the list of active processes" if hidden else ""
    title += f", {ended:,} ended" if ended else ""
    lines = [title, f"{'pid':>7} {'parent':>7}  {'name':<24} {'private':>9} {'shared':>9}"]
    counts = snapshot.pages_of_processes().tolist()
    for process, (private, shared) in zip(processes, counts, strict=True):
        mark = "" if process.is_alive else "  ended"
        if process.is_alive and not process.is_listed:
            mark = "  NOT IN THE LIST"
        lines.append(
            f"{process.pid:>7} {process.ppid:>7}  {printable(process.name):<24}"
            f" {private:>9,} {shared:>9,}{mark}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
