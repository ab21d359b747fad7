"""The lines of the summary of ``memviz diff``."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.cli.command import shows_colours
from memory_visualizer.difference.changes import Change, ChangeBit
from memory_visualizer.difference.difference import Difference, FileChange
from memory_visualizer.difference.moment import Moment
from memory_visualizer.difference.processes import ProcessChange
from memory_visualizer.picture.changes import by_change
from memory_visualizer.picture.legend import legend, legend_lines
from memory_visualizer.printable import binary_size, counted, mebibytes, printable
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.process import Process
from memory_visualizer.units import PAGE_SIZE

_NAMED = 8
"""The most items of a kind that are named."""


def dump_line(moment: Moment) -> str:
    """A dump: its name, format, size, system and time."""
    system = str(moment.system or "no known system")
    time = f"taken {moment.time:%Y-%m-%d %H:%M:%S} UTC" if moment.time else "time not known"
    size = binary_size(moment.dump.size)
    return f"{printable(moment.name)}: {moment.dump.format}, {size}, {printable(system)}, {time}"


def step_blocks(found: Difference, palette: str, screen: TextIO) -> list[list[str]]:
    """The changes from a dump to the next, in blocks of lines."""
    return [
        ["Strongest change of each page", *change_lines(found.codes, palette, screen)]
        if found.is_one_machine
        else _class_lines(found),
        _bit_lines(found) if found.is_one_machine else [],
        _process_lines(found),
        _move_lines(found, ChangeBit.OWNER, "Pages that changed their owners"),
        _move_lines(found, ChangeBit.EXECUTABLE, "Pages that became executable"),
        _anomaly_lines(found.processes) if found.is_one_machine else [],
        _lead_lines(found),
        _file_lines(found.files),
    ]


def change_lines(codes: NDArray[np.uint8], palette: str, screen: TextIO) -> list[str]:
    """The number of pages with each Change."""
    return legend_lines(legend(by_change(codes, palette)), ansi=shows_colours(screen))


def why_not(found: Difference) -> str:
    """The evidence against two dumps being of one machine."""
    told = [f"{one.what} {one.before}, {one.after}" for one in found.kinship.disagreeing]
    return printable("; ".join(told))


def _class_lines(found: Difference) -> list[str]:
    """The classes in two dumps of different machines; shares are of pages that a dump holds."""
    lines = ["Pages by class, before and after"]
    moments = (found.before, found.after)
    totals = [sum(one.counts[held] for held in _HELD) for one in moments]
    for page_class in PageClass:
        cells = []
        for one, total in zip(moments, totals, strict=True):
            share = f"{100 * one.counts[page_class] / max(total, 1):.1f} %"
            cells.append(
                f"{one.counts[page_class]:>12,} {share if page_class in _HELD else '-':>7}"
            )
        lines.append(f"  {page_class.label:<12}{'  '.join(cells)}")
    return lines


_HELD = frozenset(PageClass) - {PageClass.ABSENT, PageClass.LEFT_OUT}
"""The classes of page frames that a dump holds."""


_BIT_WORDS = {
    ChangeBit.CONTENTS: "with other contents",
    ChangeBit.CLASS: "with another class",
    ChangeBit.OWNER: "with other owners",
    ChangeBit.EXECUTABLE: "that became executable",
}


def _bit_lines(found: Difference) -> list[str]:
    """The number of pages with each change, since a page may have several changes."""
    counts = found.bit_counts()
    told = [f"{counts[bit]:,} {words}" for bit, words in _BIT_WORDS.items()]
    return [f"Pages: {', '.join(told)}; a page may be among several"]


def _process_lines(found: Difference) -> list[str]:
    """The processes that came, went, grew or shrank, or changed otherwise."""
    title = f"Processes: {_living(found.before)} before, {_living(found.after)} after"
    if not found.is_one_machine:
        title += ", matched by their names"
    by_change: dict[str, list[ProcessChange]] = {}
    for one in found.processes:
        by_change.setdefault(one.change, []).append(one)
    lines = [title]
    for word in ("came", "went", "came and went"):
        some = sorted(by_change.get(word, ()), key=lambda one: -abs(one.grown))
        told = word if found.is_one_machine else _BY_NAME[word]
        lines += _listed(told, [_with_pages(one) for one in some])
    for word in ("grew", "shrank"):
        some = sorted(by_change.get(word, ()), key=lambda one: -abs(one.grown))
        lines += _listed(
            word, [f"{_name(one.process)} {one.grown:+,} {_size(one.grown)}" for one in some]
        )
    if found.is_one_machine:
        renamed = [one for one in found.processes if one.old_name is not None]
        names = [f"{printable(one.old_name or '')} is {_name(one.process)}" for one in renamed]
        lines += _listed("renamed", names)
        unlinked = [_name(one.process) for one in found.processes if one.was_unlinked]
        lines += _listed("unlinked", unlinked)
    return lines


_BY_NAME = {"came": "only later", "went": "only earlier", "came and went": "ended"}
"""The words for processes of different machines."""


def _living(moment: Moment) -> str:
    return f"{sum(one.is_alive for one in moment.processes):,}"


def _listed(word: str, names: Sequence[str]) -> list[str]:
    """A line with a number and the first names; none if there are no names."""
    if not names:
        return []
    more = len(names) - _NAMED
    told = ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    return [f"  {word:<13} {len(names):>5,}  {told}"]


def _name(process: Process) -> str:
    """A process for the user, named by its page tables if nothing else is known."""
    if not process.object_address:
        return f"tables at {process.dtb:#x}"
    return f"{printable(process.shown_name)} ({process.pid})"


def _with_pages(one: ProcessChange) -> str:
    pages = max(one.pages_before, one.pages_after)
    return f"{_name(one.process)} {counted(pages, 'page')} {_size(pages)}"


def _size(pages: int) -> str:
    return f"({mebibytes(abs(pages) * PAGE_SIZE)})"


def _move_lines(found: Difference, bit: ChangeBit, title: str) -> list[str]:
    """The former and new owners of the pages with a bit, most pages first."""
    if not found.is_one_machine:
        return []
    counts: Counter[str] = Counter()
    for before, after, frames in found.owner_moves(bit):
        old = _owners(before, found.before.processes)
        new = _owners(after, found.after.processes)
        if bit == ChangeBit.OWNER:
            counts[f"{old} > {new}"] += frames
        else:  # somebody may execute it: if no process has it, the kernel
            counts[new if after else "the kernel"] += frames
    if not counts:
        return []
    lines = [_move(frames, text) for text, frames in counts.most_common(_NAMED)]
    told = sum(frames for _, frames in counts.most_common(_NAMED))
    rest = found.bit_counts()[bit] - told  # with the moves of kinds that are left out
    return [title, *lines, *([_move(rest, "others")] if rest else [])]


def _move(frames: int, text: str) -> str:
    return f"  {frames:>10,}  {mebibytes(frames * PAGE_SIZE):>9}  {text}"


def _owners(indices: Sequence[int], processes: Sequence[Process]) -> str:
    if not indices:
        return "nobody"
    if len(indices) == 1:
        return _name(processes[indices[0]])
    return f"{len(indices):,} processes"


def _anomaly_lines(processes: Iterable[ProcessChange]) -> list[str]:
    """The anomalies that are new, with their processes."""
    found: dict[str, list[str]] = {}
    for one in processes:
        for word in one.new_anomalies:
            found.setdefault(word.split(" 0x")[0], []).append(_name(one.process))
    lines = [line for word, names in sorted(found.items()) for line in _anomaly(word, names)]
    return ["New anomalies of processes", *lines] if lines else []


def _anomaly(word: str, names: Sequence[str]) -> list[str]:
    more = len(names) - _NAMED
    told = ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    return [f"  {word}: {told}"]


def _lead_lines(found: Difference) -> list[str]:
    """The first new leads."""
    lines = [f"  {lead.kind}: {printable(lead.reason)}" for lead in found.leads[:_NAMED]]
    more = len(found.leads) - len(lines)
    if more > 0:
        lines.append(f"  and {more:,} more")
    return ["New leads", *lines] if lines else []


def _file_lines(files: Sequence[FileChange] | None) -> list[str]:
    """The files that came into memory, and the files that left it."""
    if not files:
        return []
    came = sorted((one for one in files if not one.pages_before), key=lambda one: -one.pages_after)
    went = sorted((one for one in files if not one.pages_after), key=lambda one: -one.pages_before)
    others = len(files) - len(came) - len(went)
    lines = ["Files in memory"]
    lines += _listed("came", [_file(one.path, one.pages_after) for one in came])
    lines += _listed("went", [_file(one.path, one.pages_before) for one in went])
    if others:
        lines.append(f"  {'more or fewer':<13} {others:>5,}")
    return lines


def series_title() -> list[str]:
    """The titles above the lines of series_line."""
    return [
        "Pages that changed from each dump to the next",
        f"{'step':>6} {'changed':>12} {'contents':>12} {'owner':>12} {'executable':>12}"
        f" {'came':>6} {'went':>6}  dump",
    ]


def series_line(step: int, found: Difference) -> str:
    """A step in one line."""
    words = Counter(one.change for one in found.processes)
    if not found.is_one_machine:
        return f"{step:>6} {'not of one machine as the dump before':<58}  {_when(found.after)}"
    changed = int(np.count_nonzero(found.codes > Change.SAME))
    counts = found.bit_counts()
    bits = (ChangeBit.CONTENTS, ChangeBit.OWNER, ChangeBit.EXECUTABLE)
    told = " ".join(f"{count:>12,}" for count in (changed, *(counts[bit] for bit in bits)))
    return f"{step:>6} {told} {words['came']:>6,} {words['went']:>6,}  {_when(found.after)}"


def _when(moment: Moment) -> str:
    time = f"{moment.time:%H:%M:%S} " if moment.time else ""
    return f"{time}{printable(moment.name)}"


def _file(path: str, pages: int) -> str:
    return f"{printable(path)} {pages:,} {_size(pages)}"
