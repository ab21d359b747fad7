"""The summary that ``memviz DUMP`` prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import numpy as np

from memory_visualizer.api import Snapshot
from memory_visualizer.cli.command import legend_text
from memory_visualizer.cli.processlines import (
    finding_lines,
    others_lines,
    process_lines,
    region_lines,
    writable_code_lines,
)
from memory_visualizer.cli.view import View
from memory_visualizer.export.summary import dump_holes
from memory_visualizer.leads import LEADS
from memory_visualizer.printable import binary_size, counted, printable
from memory_visualizer.snapshot.findings import named
from memory_visualizer.snapshot.system import System
from memory_visualizer.units import PAGE_SIZE

if TYPE_CHECKING:
    from memory_visualizer.yara import Hits


def print_summary(view: View, written: Sequence[str], screen: TextIO) -> None:
    """Print the summary, and the lines on `written` files, the picture's line first."""
    snapshot, told, options = view.snapshot, view.told, view.options
    has_threads = view.chosen is not None
    blocks = [
        _description(snapshot),
        _picture_lines(view, written, screen),
        *_record_blocks(view),
        process_lines(snapshot, told, threads=has_threads) if snapshot.processes else [],
        finding_lines(snapshot, told),
        region_lines(snapshot, told) if options.regions else [],
        writable_code_lines(snapshot, told),
        _lead_lines(snapshot, told) if options.leads else [],
        _hit_lines(snapshot, view.hits) if view.hits else [],
        others_lines(snapshot, told),
    ]
    print("\n\n".join("\n".join(block) for block in blocks if block), file=screen)


def _picture_lines(view: View, written: Sequence[str], screen: TextIO) -> list[str]:
    """The lines on written files; the legend and the pale pages follow the picture's line."""
    painted, *others = written
    pale = ""
    if view.hits:
        pale = f"{counted(len(view.hits.frames), 'page')} with hits of YARA rules shown"
    elif view.chosen is not None:
        pale = f"Pages of {counted(len(view.chosen), 'process', 'processes')} shown"
    lines = [painted, legend_text(view.colouring, screen), f"{pale}, others pale" if pale else ""]
    return [*filter(None, [*lines, *others])]


def _record_blocks(view: View) -> list[list[str]]:
    """The kernel's records of its frames, if they were asked for, or are known anyway."""
    snapshot = view.snapshot
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
        database_lines(snapshot) if view.options.verbose else [],
        use_lines(snapshot) if view.options.uses else state_lines(snapshot),
        last_owner_lines(snapshot, view.told),
        contradiction_lines(snapshot),
    ]


def _description(snapshot: Snapshot) -> list[str]:
    """The format and size of the dump, and its system."""
    dump = snapshot.dump
    pages = dump.size // PAGE_SIZE
    dump_line = f"{printable(dump.path.name)}: {dump.format}, {binary_size(dump.size)}"
    dump_line += f", {counted(pages, 'page')} in {counted(len(dump.runs), 'run')}"
    left_out = int(np.count_nonzero(dump.left_out)) if len(dump.left_out_runs) else 0
    if holes := dump_holes(dump):
        missing = counted(dump.frame_count - pages - left_out, "page")
        dump_line += f", {counted(holes, 'hole')} ({missing})"
    if left_out:
        dump_line += f", {counted(left_out, 'page')} left out"
    digest = [f"SHA-256 {dump.sha256}"] if dump.sha256 else []
    if not snapshot.system or not snapshot.paging:
        paging = f", {snapshot.paging.title}" if snapshot.paging else ""
        return [dump_line, *digest, f"Neither Windows nor Linux found{paging}"]
    system_line = f"{snapshot.system}{_release(snapshot.system)}, {snapshot.paging.title}"
    if snapshot.time:
        system_line += f", taken {snapshot.time:%Y-%m-%d %H:%M:%S} UTC"
    return [dump_line, *digest, system_line]


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


_LEADS_OF_A_KIND = 10


def _lead_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The first leads of each kind."""
    leads = snapshot.leads.of([snapshot.processes[index] for index in told])
    lines = []
    for kind in LEADS:
        reasons = [lead.reason for lead in leads.found if lead.kind == kind]
        lines += [f"  {kind}: {printable(reason)}" for reason in reasons[:_LEADS_OF_A_KIND]]
        if (more := len(reasons) - _LEADS_OF_A_KIND) > 0:
            lines.append(f"  {kind}: and {more:,} more")
    return ["Leads", *lines] if lines else ["No leads found"]


_HIT_RULES = 20


def _hit_lines(snapshot: Snapshot, hits: "Hits") -> list[str]:
    """The rules with hits, a line for each, and where the first hit is."""
    lines = [f"YARA: {counted(len(hits.rules), 'rule')} with hits in {binary_size(hits.scanned)}"]
    for number, rule in enumerate(hits.rules[:_HIT_RULES]):
        first = next((hit for hit in hits.found if hit.rule == number), None)
        line = f"  {rule.name}: {'' if rule.is_exact else 'more than '}{counted(rule.count, 'hit')}"
        line += f" in {'' if rule.is_exact else 'at least '}{counted(len(rule.frames), 'page')}"
        if first:
            line += f", first at {first.physical:#x}"
            if first.process >= 0:
                line += f", {printable(named([snapshot.processes[first.process]]))}"
        lines.append(line)
    if (more := len(hits.rules) - _HIT_RULES) > 0:
        lines.append(f"  and {counted(more, 'other rule')}")
    return lines
