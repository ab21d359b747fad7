"""The command line: ``memviz convert DUMP``."""

import argparse
import sys
from pathlib import Path

from memory_visualizer.api import open as open_snapshot
from memory_visualizer.cli.command import check_outputs, output, parser_of_dump, say
from memory_visualizer.cli.progress import ProgressLine
from memory_visualizer.errors import BadInputError
from memory_visualizer.export.convert import FORMATS, Layout, convert_dump, described, layout_of
from memory_visualizer.formats.opening import check_file
from memory_visualizer.output import part_of
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.snapshot.snapshot import Snapshot

DESCRIPTION = """\
Convert a memory dump of any supported format to a raw file, LiME or ELF core.
Pages of zeros take no room if the file system has sparse files. The file
appears whole or not at all; it is read back and compared by checksums first.
The command can be repeated: a file that holds the same memory is kept, and the
pages that an interrupted run left in FILE.memviz-part are reused.
"""

EXAMPLES = """\
examples:
  memviz convert memory.avml -o memory.lime
  memviz convert hiberfil.sys -o memory.raw
  memviz convert vmcore -o memory.elf
"""


def parser(program: str) -> argparse.ArgumentParser:
    """The command's options."""
    options = parser_of_dump(program, DESCRIPTION, EXAMPLES)
    options.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=output(
            *FORMATS,
            only_files="a converted dump is read back, so it cannot go to standard output",
        ),
        required=True,
        help="the file to write; its ending chooses the format: .raw, .lime or .elf",
    )
    options.add_argument(
        "--lenient", action="store_true", help="read a damaged dump as far as possible"
    )
    options.add_argument("-q", "--quiet", action="store_true", help="print remarks and errors only")
    return options


def main(program: str, options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code. Errors as for memviz."""
    path: Path = options.output
    files = [options.dump, *options.more]
    for source in files:
        check_file(source)
    if not path.is_file():
        check_outputs([path], files)
    elif any(path.samefile(source) for source in files):
        raise BadInputError(f"{path} is an input and must not be replaced")
    with ProgressLine("reading the dump") as progress:
        snapshot = open_snapshot(files, lenient=options.lenient, progress=progress)
    for remark in snapshot.dump.remarks:
        say(program, remark)
    layout = layout_of(snapshot, path)
    if size := _unusual_size(snapshot, layout):
        say(program, f"{path} will have {size}")
    try:
        with ProgressLine("converting") as progress:
            conversion = convert_dump(snapshot, path, layout, progress)
    except BaseException:
        if (part := part_of(path)).exists():
            say(program, f"the same command goes on with {part}")
        raise
    for remark in conversion.remarks:
        say(program, remark)
    if not options.quiet:
        print(described(conversion, printable(str(path))))
        sys.stdout.flush()
    return 0


def _unusual_size(snapshot: Snapshot, layout: Layout) -> str:
    """The size of a file that is larger than the memory in it; else an empty text."""
    held = snapshot.dump.size
    if layout.format != "raw" or layout.size == held:
        return ""
    return f"{binary_size(layout.size)}, {binary_size(held)} of them memory and the others holes"
