"""Leads about memory that a process may write and execute."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.leads.lead import Lead
from memory_visualizer.leads.processpages import Pages, ProcessPages
from memory_visualizer.limits import Budget
from memory_visualizer.paging import MAY_EXECUTE, MAY_USER, MAY_WRITE, SHARED
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.findings import named
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

_ALL = MAY_USER | MAY_WRITE | MAY_EXECUTE
_NAMED = 3


@dataclass(frozen=True, eq=False)
class WritableCode:
    """Private memory of a process that it may write and execute."""

    index: int
    """Index of the process."""
    stretches: list[tuple[int, int]]
    """First address and end of each range."""
    pages: Pages
    """The pages of it that are in memory."""


def writable_pages(snapshot: Snapshot) -> NDArray[np.int64]:
    """The number of private pages that user mode may write and execute, for each process.

    The page tables alone tell. All zeros on machines that do not use the no-execute bit.
    """
    rows = snapshot.mappings
    processes = len(snapshot.processes)
    if not uses_no_execute(snapshot):
        return np.zeros(processes, np.int64)
    found = np.flatnonzero((rows.access & _ALL == _ALL) & (rows.space != SHARED))
    frames = np.minimum(rows.pfn[found], snapshot.classes.size - 1)
    found = found[snapshot.mapping_count[frames] == 1]
    counts = np.bincount(rows.space[found], rows.count[found], processes)
    return counts.astype(np.int64)


def uses_no_execute(snapshot: Snapshot) -> bool:
    """Whether most pages that processes may write are not executable.

    Older 32-bit machines do not use the no-execute bit: all their pages are executable.
    """
    rows = snapshot.mappings
    both = MAY_USER | MAY_WRITE
    may_write = (rows.access & both == both) & (rows.space != SHARED)
    may_execute = may_write & (rows.access & MAY_EXECUTE != 0)
    return bool(2 * np.count_nonzero(may_execute) <= np.count_nonzero(may_write))


def writable_code(
    snapshot: Snapshot, pages: ProcessPages, *, ask_regions: bool
) -> Iterator[WritableCode]:
    """The writable code of each process that has any, by its page tables and its regions.

    Regions are read only with `ask_regions`. They include pages that were not written yet, which
    are still read-only for the processor. The tables show rights that were changed after the region
    was made; on Windows, regions do not show such changes.
    """
    counts = writable_pages(snapshot)
    for index, process in enumerate(snapshot.processes):
        regions = snapshot.regions(process) if ask_regions and process.has_tables else None
        stretches = [(one.start, one.end) for one in regions or () if _is_writable_code(one)]
        parts = [pages.of(index).between(*stretch) for stretch in stretches]
        if counts[index]:
            mine = pages.of(index)
            chosen = (mine.access & _ALL == _ALL) & (snapshot.mapping_count[mine.frame] == 1)
            for start, end in stretches:
                chosen[slice(*np.searchsorted(mine.virtual, np.array([start, end], np.uint64)))] = 0
            parts.append(mine.take(chosen))
            stretches += parts[-1].stretches
        if stretches:
            yield WritableCode(index, sorted(stretches), _joined(parts))


def _is_writable_code(region: Region) -> bool:
    return "private, writable, executable" in region.findings


def _joined(parts: list[Pages]) -> Pages:
    return Pages(
        np.concatenate([part.virtual for part in parts]),
        np.concatenate([part.frame for part in parts]),
        np.concatenate([part.access for part in parts]),
    )


def writable_leads(snapshot: Snapshot, found: list[WritableCode]) -> Iterator[Lead]:
    """A lead for each process with writable code."""
    for code in found:
        process = snapshot.processes[code.index]
        size = sum(end - start for start, end in code.stretches) // PAGE_SIZE
        places = ", ".join(f"{start:#x}-{end:#x}" for start, end in code.stretches[:_NAMED])
        more = len(code.stretches) - _NAMED
        places += f" and {counted(more, 'other')}" if more > 0 else ""
        in_memory = len(code.pages.frame)
        reason = (
            f"{named([process])} may write and execute {counted(size, 'private page')} at {places}"
        )
        if in_memory < size:
            reason += f"; {counted(in_memory, 'page')} in memory"
        yield Lead("writable code", reason, code.pages.frames, process)


HIGH_ENTROPY = 7.5
"""Bits per byte in a page: machine code has 5 to 6.5, compressed or encrypted data 7.9."""
_AT_ONCE = 256


def packed_leads(
    snapshot: Snapshot, found: list[WritableCode], budget: Budget, limit: int | None = None
) -> Iterator[Lead]:
    """Writable code that looks packed. Nothing is read if there are more than `limit` pages."""
    if limit is not None and sum(len(code.pages.frame) for code in found) > limit:
        return
    room = budget.limit("page of writable code")
    for code in found:
        frames = code.pages.frames
        budget.refuse("page of writable code", len(frames) - room)
        frames = frames[: max(room, 0)]
        room -= len(frames)
        bits = _entropies(snapshot, frames)
        packed = frames[bits >= HIGH_ENTROPY]
        if len(packed):
            process = snapshot.processes[code.index]
            reason = (
                f"{counted(len(packed), 'page')} that {named([process])} may write and execute"
                f" {'looks' if len(packed) == 1 else 'look'} encrypted or compressed, with up to"
                f" {bits.max():.1f} bits per byte"
            )
            yield Lead("packed code", reason, packed, process)


def _entropies(snapshot: Snapshot, frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shannon's entropy of the bytes of some frames, in bits."""
    found = [np.empty(0)]
    for start in range(0, len(frames), _AT_ONCE):
        some = snapshot.dump.read_frames(frames[start : start + _AT_ONCE]).view(np.uint8)
        value = some.astype(np.intp) + np.arange(len(some))[:, None] * 256
        counts = np.bincount(value.ravel(), minlength=256 * len(some)).reshape(-1, 256)
        information = np.log2(PAGE_SIZE / np.maximum(counts, 1))
        found.append((counts * information).sum(axis=1) / PAGE_SIZE)
    return np.concatenate(found)
