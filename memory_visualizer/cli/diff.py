"""The command line: ``memviz diff DUMP DUMP …``."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from memory_visualizer.api import moment
from memory_visualizer.cli.allocation import give_back_small_blocks
from memory_visualizer.cli.changelines import (
    change_lines,
    dump_line,
    series_line,
    series_title,
    step_blocks,
    why_not,
)
from memory_visualizer.cli.command import (
    Parser,
    add_holes_option,
    add_picture_options,
    check_outputs,
    check_picture_options,
    check_terminal,
    dump_path,
    output,
    say,
    shown,
)
from memory_visualizer.cli.progress import ProgressLine
from memory_visualizer.difference.difference import Difference, compare_series, in_order
from memory_visualizer.difference.moment import Moment
from memory_visualizer.errors import BadInputError
from memory_visualizer.export.changesummary import step_values, write_changes
from memory_visualizer.export.changetables import CHANGE_FORMATS, ChangeTable, change_table
from memory_visualizer.export.tables import check_table
from memory_visualizer.formats.opening import check_file, opens_leniently, together
from memory_visualizer.output import STANDARD_OUTPUT
from memory_visualizer.picture.folding import long_holes
from memory_visualizer.printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from memory_visualizer.viewer.changes import ChangePage

_TOO_FEW = "a comparison needs two dumps or more"
OTHER_MACHINE = 3
"""Exit code if two dumps are not of one machine."""

ANIMATIONS = (".webp", ".png", ".gif")
"""The formats of animation.write_animation, whose module is slow to import."""

DESCRIPTION = """\
Compare dumps of one machine: for each page, whether its contents, its owners,
its class or its rights changed; which processes came, went, grew or shrank; and
which files came into memory. The dumps may have different formats. The clocks
of their systems tell their order. With more than two, each is compared with the
one before it. If two dumps are not of one machine, without a restart between
them, memviz says so, and compares only the classes, and the processes by name.
"""

EXAMPLES = """\
examples:
  memviz diff before.raw after.lime
  memviz diff before.raw after.raw -o changes.png --table changes.csv
  memviz diff monday/*.lime --animate monday.webp --json monday.json

exit codes:
  0    compared, and all outputs are written
  1    an output could not be written (a message names it), or another error
  2    bad input or usage
  3    not of one machine: frames are not compared
  130  interrupted
"""


def parser(program: str) -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(program, DESCRIPTION, EXAMPLES)
    options.add_argument(
        "dumps",
        metavar="DUMP",
        type=dump_path,
        nargs="+",
        help="dumps of physical memory, two or more; of a split one, all files one after another",
    )
    options.add_argument(
        "-o",
        "--output",
        metavar="PICTURE",
        type=output(".png"),
        help="write a picture: the strongest change of each page; for this and the other outputs,"
        " but for --animate, - is standard output, and the summary then goes to standard error",
    )
    options.add_argument(
        "--table",
        metavar="FILE",
        type=output(*CHANGE_FORMATS),
        help="write the changes of each page as a table: .csv (also for -), .parquet or .npz",
    )
    options.add_argument(
        "--json", metavar="FILE", type=output(".json"), help="write the summary as JSON: .json"
    )
    options.add_argument(
        "--animate",
        metavar="FILE",
        type=output(
            *ANIMATIONS, only_files="an animation is written to a file, not to standard output"
        ),
        help="write an animation with a picture of each dump, changes bright: .webp, .png or .gif",
    )
    options.add_argument(
        "--html",
        metavar="FILE",
        type=output(".html"),
        help="write a page for the browser: a slider over time, before and after, and the history"
        " of each page: .html",
    )
    options.add_argument(
        "--in-order",
        action="store_true",
        help="keep the order of the command line, whatever the clocks of the dumps say",
    )
    add_picture_options(options, legend=True)
    add_holes_option(options)
    options.add_argument(
        "--lenient", action="store_true", help="read damaged dumps as far as possible"
    )
    options.add_argument("-q", "--quiet", action="store_true", help="print remarks and errors only")
    return options


def lenient_helps(options: argparse.Namespace) -> bool:
    """Whether all dumps could be read with --lenient."""
    with ProgressLine("looking whether --lenient helps") as progress:
        return all(opens_leniently(paths, progress) for paths in together(options.dumps))


def main(program: str, options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code. Errors as for memviz."""
    outputs = [options.output, options.table, options.json, options.animate, options.html]
    named = [path for path in outputs if path]
    _check(options, named)
    screen = sys.stderr if STANDARD_OUTPUT in named else sys.stdout
    dumps = together(options.dumps)
    if len(dumps) < 2:
        raise BadInputError(f"{_TOO_FEW}; these files are parts of one")
    moments = [_read(program, paths, options, is_kept=len(dumps) < 3) for paths in dumps]
    remarks: list[str] = []
    if not options.in_order:
        moments, remarks = in_order(moments)
        for remark in remarks:
            say(program, remark)
    work = _Comparison(options, moments, remarks)
    work.run()
    for sentence in work.sentences:
        say(program, sentence)
    if not options.quiet:
        blocks = [*work.blocks(screen), [f"{shown(path)}: written" for path in work.written]]
        print("\n\n".join("\n".join(block) for block in blocks if block), file=screen)
    screen.flush()
    return 0 if work.are_one_machine else OTHER_MACHINE


def _check(options: argparse.Namespace, named: Sequence[Path]) -> None:
    """Check the options before any work; BadInputError or OSError."""
    if len(options.dumps) < 2:
        raise BadInputError(_TOO_FEW)
    for path in options.dumps:
        check_file(path)
    check_picture_options(options)
    check_outputs(named, options.dumps, force=options.force)
    if options.output:
        check_terminal(options.output)
    if options.table:
        check_table(options.table)


def _read(
    program: str, paths: Sequence[Path], options: argparse.Namespace, *, is_kept: bool
) -> Moment:
    """The kept part of a dump; if there are more than two dumps, its columns are packed."""
    with ProgressLine(f"reading {printable(paths[0].name)}") as progress:
        found = moment(paths, lenient=options.lenient, progress=progress)
    for remark in found.remarks:
        say(program, f"{found.name}: {remark}")
    kept = found if is_kept else found.packed()
    del found
    give_back_small_blocks()
    return kept


class _Comparison:
    """All steps from one dump to the next, and the outputs, which grow step by step."""

    def __init__(
        self, options: argparse.Namespace, moments: Sequence[Moment], remarks: Sequence[str]
    ) -> None:
        self._options, self._moments, self._remarks = options, moments, remarks
        self._frames = max(one.dump.frame_count for one in moments)
        self._strongest = np.zeros(self._frames, np.uint8)
        self._steps: list[dict[str, Any]] = []
        self._last: Difference | None = None
        self._rows: list[str] = series_title()
        self._page = self._new_page() if options.html else None
        self.written: list[Path] = []
        """The outputs."""
        self.sentences: list[str] = []
        """Remarks for the user."""
        self.are_one_machine = True
        """Whether all dumps are of one machine."""

    def run(self) -> None:
        """Compare, and write all outputs; errors as for compare_series and output.whole_file."""
        options = self._options
        with ExitStack() as stack:
            progress = stack.enter_context(ProgressLine("comparing"))
            table = (
                stack.enter_context(change_table(options.table, force=options.force))
                if options.table
                else None
            )
            steps = self._each(table, progress)
            if options.animate:
                self._animate(steps)
            for _ in steps:
                """Nothing is kept of a step."""
        if options.output:
            self._paint()
        if options.json:
            write_changes(
                options.json, self._moments, self._steps, self._remarks, force=options.force
            )
        if self._page:
            from memory_visualizer.viewer.changes import write_change_page

            write_change_page(options.html, self._page, force=options.force)
        outputs = (options.output, options.table, options.json, options.animate, options.html)
        self.written = [path for path in outputs if path]

    def _each(self, table: ChangeTable | None, progress: ProgressLine) -> Iterator[Difference]:
        """Compare each dump with the one before it, and add the result to the outputs."""
        for number, found in enumerate(compare_series(self._moments, progress), 1):
            if len(self._moments) == 2:  # in a longer series, steps are not kept
                self._last = found
            self._rows.append(series_line(number, found))
            names = f"{found.before.name} and {found.after.name}"
            self.sentences += [f"{names}: {remark}" for remark in found.remarks]
            if self._options.json:
                self._steps.append(step_values(found, number))
            if found.is_one_machine:
                part = self._strongest[: len(found.codes)]
                np.maximum(part, found.codes, out=part)
            else:
                self.are_one_machine = False
                self.sentences.append(f"{names} are not of one machine: {why_not(found)}")
            if table:
                table.add(found)
            if self._page:
                self._page.add(found)
            yield found

    def _animate(self, steps: Iterator[Difference]) -> None:
        from memory_visualizer.picture.animation import write_animation  # it loads much
        from memory_visualizer.picture.changes import frame_of

        paint = partial(
            frame_of,
            frame_count=self._frames,
            layout=self._options.layout,
            width=self._options.width,
            scale=self._options.scale,
            palette=self._options.palette,
            holes=self._holes(),
        )
        count = len(self._moments)

        def frames() -> Iterator["Image"]:
            yield paint(self._moments[0], None, f"1/{count}")
            for number, found in enumerate(steps, 2):
                codes = found.codes if found.is_one_machine else None
                yield paint(found.after, codes, f"{number}/{count}")

        write_animation(self._options.animate, frames(), force=self._options.force)

    def _paint(self) -> None:
        """Write the picture; where nothing could be compared, all of it is absent."""
        from memory_visualizer.picture.changes import change_texts, picture_of_changes
        from memory_visualizer.picture.png import write_png

        options, names = self._options, [one.name for one in self._moments]
        picture = picture_of_changes(
            self._strongest,
            " > ".join(names if len(names) < 3 else [names[0], "...", names[-1]]),
            layout=options.layout,
            width=options.width,
            scale=options.scale,
            palette=options.palette,
            with_legend=options.legend,
            holes=self._holes(),
        )
        texts = change_texts(self._strongest, names, options.palette, picture)
        write_png(options.output, picture.image(), texts, force=options.force)

    def _new_page(self) -> "ChangePage":
        from memory_visualizer.viewer.changes import ChangePage  # most runs write no page

        return ChangePage(
            self._moments,
            self._holes(),
            self._remarks,
            layout=self._options.layout,
            palette=self._options.palette,
        )

    def _holes(self) -> list[tuple[int, int]]:
        """The holes that are folded: long ones that all dumps have."""
        if self._options.holes == "draw":
            return []
        there = np.zeros(self._frames, bool)
        for one in self._moments:
            for runs in (one.dump.runs, one.dump.left_out_runs):
                for first, count in runs.tolist():
                    there[first : first + count] = True
        return long_holes(there)

    def blocks(self, screen: TextIO) -> list[list[str]]:
        """The summary: of two dumps in detail, of more a line for each step."""
        dumps = [dump_line(one) for one in self._moments]
        if self._last:
            return [dumps, *step_blocks(self._last, self._options.palette, screen)]
        changes = [
            "The strongest change of each page over all steps",
            *change_lines(self._strongest, self._options.palette, screen),
        ]
        return [dumps, self._rows, changes]
