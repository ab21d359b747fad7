"""Recognise the system of a dump: scan its contents once, then ask each system in turn."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import are_among
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Dump, Progress, Scanner, Visitor, ZeroScan
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo, VmcoreInfoSearch
from memory_visualizer.paging import Paging
from memory_visualizer.paging.doubt import doubt_about
from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows import system as windows
from memory_visualizer.windows.processes import find_processes
from memory_visualizer.windows.system import learn
from memory_visualizer.windows.toplevels import TopLevelSearch

# The modules for Linux and for unknown systems are imported only for dumps that need them.
if TYPE_CHECKING:
    from memory_visualizer.fileheader import FileHeaderSearch
    from memory_visualizer.linux.kernel import LinuxKernel, TopTableSearch

_ENOUGH_TABLES = 3
"""The fewest tables with the same self-naming entry that count as evidence; fewer may be chance."""


def recognise(dump: Dump, progress: Progress | None = None) -> Snapshot:
    """Find the system of a dump, and the owners of each page.

    `progress` and errors as for Dump.scan. BadInputError also if the memory of a raw file is
    misplaced and cannot be moved into place.
    """
    return _with_remarks(_recognise(dump, progress), dump)


def _with_remarks(snapshot: Snapshot, dump: Dump) -> Snapshot:
    """The snapshot with the remarks on everything that was left out in the dump."""
    if snapshot.dump is not dump:  # moved into place, and recognised by itself
        return snapshot
    return replace(snapshot, remarks=(*snapshot.remarks, *dump.budget.remarks))


def _recognise(dump: Dump, progress: Progress | None) -> Snapshot:
    zeros, tables, texts = ZeroScan(dump), TopLevelSearch(), VmcoreInfoSearch()
    objects = learn(dump, tables)
    visitors: list[Visitor[Any]] = [zeros.visitor, tables.visitor, texts.visitor]
    dump.scan([*visitors, objects.visitor] if objects else visitors, progress)
    # Linux comes first: its kernel's description of itself is checked, and few other dumps have
    # one.
    if linux := _as_linux(dump, zeros.zero, texts.found(dump), progress):
        return linux
    if linux := _as_linux_from_elsewhere(dump, texts.found(dump), progress):
        return linux
    if found := tables.found(dump):
        return _in_place(
            windows.understand(dump, zeros.zero, found, objects), found.roots, progress
        )
    return _recognise_by_more(dump, zeros.zero, tables, progress)


def _as_linux(
    dump: Dump,
    zero: NDArray[np.bool_],
    texts: Sequence[VmcoreInfo],
    progress: Progress | None,
    tables: "TopTableSearch | None" = None,
) -> Snapshot | None:
    """The snapshot of a Linux dump, if its kernel is found."""
    if not texts and not tables:
        return None
    from memory_visualizer.linux import system

    kernel = system.find_kernel(dump, texts, tables)
    if kernel is None:
        return None
    snapshot = system.understand(dump, zero, kernel)
    bases = [one.dtb for one in snapshot.processes if one.has_tables]
    if kernel.machine.has_own_half:
        bases.insert(0, kernel.top * PAGE_SIZE)
    roots = kernel.users.architecture.roots_at(np.array(bases, np.int64))
    return _in_place(snapshot, roots, progress, kernel)


def _as_linux_from_elsewhere(
    dump: Dump, texts: Sequence[VmcoreInfo], progress: Progress | None
) -> Snapshot | None:
    """The snapshot of a raw Linux dump whose memory does not begin at address 0."""
    if not texts or not isinstance(dump, RawDump):
        return None
    from memory_visualizer.displaced.linux import put_where_it_begins

    moved = put_where_it_begins(dump, texts)
    return recognise(moved, progress) if moved else None


def _in_place(
    snapshot: Snapshot,
    roots: NDArray[np.int64],
    progress: Progress | None,
    kernel: "LinuxKernel | None" = None,
) -> Snapshot:
    """The snapshot of a raw file, with its memory moved into place if necessary.

    `roots` are the frames of its top-level tables, `kernel` is given if it is of Linux. A remark
    tells of pages that would lie behind its end.
    """
    dump, paging = snapshot.dump, snapshot.paging
    if not isinstance(dump, RawDump) or paging is None:
        return snapshot
    is_lost = kernel is not None and kernel.is_lost
    end = kernel.resources.ram_end if kernel and kernel.resources else 0
    doubt = doubt_about(dump, paging, roots)
    if is_lost or end > dump.frame_count or doubt.is_serious:
        snapshot = _better(snapshot, progress, kernel)
    if snapshot.dump is not dump:
        return snapshot
    remarks = [*snapshot.remarks, *doubt.remarks]
    if end > dump.frame_count:
        remarks.append(
            f"the kernel says that the machine has memory up to page {end - 1:,}, but the dump ends"
            f" with page {dump.frame_count - 1:,}"
        )
    return replace(snapshot, remarks=tuple(remarks))


def _better(
    snapshot: Snapshot, progress: Progress | None, kernel: "LinuxKernel | None"
) -> Snapshot:
    """The better snapshot of a raw file: as it is, or with its memory moved into place.

    Some pages may name others at a common distance by chance, or to deceive: a remark says so.
    """
    try:
        texts = [kernel.info] if kernel else []
        known = None if kernel and kernel.is_lost else snapshot.paging
        mended = _mended(snapshot.dump, progress, texts, known=known)
    except _MendError as error:
        return replace(snapshot, remarks=(*snapshot.remarks, error.remark))
    if mended is None or _worth(mended) > _worth(snapshot):
        return mended or snapshot
    told = [one for one in mended.dump.remarks if one not in snapshot.dump.remarks]
    remark = "a correction was rejected, since it would reveal no more processes"
    remark = ": ".join((remark, *told))
    return replace(snapshot, remarks=(*snapshot.remarks, remark))


def _worth(snapshot: Snapshot) -> tuple[int, int]:
    """A measure of the result: processes with an object and tables, and their pages."""
    whole = [one for one in snapshot.processes if one.object_address and one.has_tables]
    has_user = are_among(snapshot.classes, (PageClass.USER, PageClass.BOTH))
    return len(whole), int(np.count_nonzero(has_user))


class _MendError(BadInputError):
    """Memory is misplaced, and no system is found with the memory moved into place."""

    def __init__(self, dump: Dump, tables: int, distance: int) -> None:
        self.remark = (
            f"{counted(tables, 'page looks', 'pages look')} like top-level page tables that lie up"
            f" to {counted(distance, 'page')} from where they belong, but moving the memory there"
            " did not help"
        )
        super().__init__(f"{dump.path} does not hold its memory where it belongs: {self.remark}")


def _mended(
    dump: Dump,
    progress: Progress | None,
    texts: Sequence[VmcoreInfo] = (),
    remarks: list[str] | None = None,
    known: Paging | None = None,
) -> Snapshot | None:
    """The snapshot of a raw file with misplaced memory, read with the memory moved into place.

    BadInputError if this does not help. `texts` are of Linux kernels. If `known`, the way of
    paging, is given, the dump is of one of these kernels, or of Windows if there are none. If the
    search was given up, `remarks` receives a sentence.
    """
    if not isinstance(dump, RawDump):
        return None
    from memory_visualizer.displaced.linux import pieces_of_linux
    from memory_visualizer.displaced.mended import MendedDump
    from memory_visualizer.displaced.search import DisplacedSearch
    from memory_visualizer.fileheader import FileHeaderSearch

    search, header = DisplacedSearch(dump), FileHeaderSearch(dump)
    dump.scan([search.visitor] if known else [search.visitor, header.visitor], progress)
    if not known and (snapshot := _behind_header(dump, header, texts, progress)):
        return snapshot
    for info in texts:
        if pieces := pieces_of_linux(dump, info, search):
            snapshot = recognise(MendedDump(dump, pieces), progress)
            if snapshot.system:
                return snapshot
    pieces = [] if texts and known else search.pieces(dump, known)
    if not pieces:
        if remarks is not None:
            remarks += search.remarks
        return None
    mended = MendedDump(dump, pieces)
    snapshot = _as_windows(mended, progress) if known else recognise(mended, progress)
    if not snapshot or not snapshot.system:
        raise _MendError(dump, search.tables, max(abs(piece.shift) for piece in pieces))
    return snapshot


def recognise_behind_header(
    path: Path, progress: Progress | None = None, scanner: Scanner | None = None
) -> Snapshot | None:
    """The snapshot of a raw file of uneven size, whose memory follows an unknown header.

    None if no such header is found. `scanner` as for Dump, errors as for `recognise`.
    """
    from memory_visualizer.fileheader import FileHeaderSearch

    dump = RawDump.open(path, lenient=True)
    dump.scanner, dump.reopen = scanner, partial(RawDump.open, path, lenient=True)
    search, texts = FileHeaderSearch(dump), VmcoreInfoSearch()
    dump.scan([search.visitor, texts.everywhere], progress)
    return _behind_header(dump, search, texts.found(dump), progress)


def _behind_header(
    dump: Dump,
    search: "FileHeaderSearch",
    texts: Sequence[VmcoreInfo],
    progress: Progress | None,
) -> Snapshot | None:
    """The snapshot of a raw file behind its header; None if no header is found."""
    from memory_visualizer.fileheader import size_by_linux

    for size in [search.size(dump), *(size_by_linux(dump, text) for text in texts)]:
        if size:
            behind = RawDump.behind(dump.path, size)
            behind.scanner = dump.scanner
            snapshot = recognise(behind, progress)
            if snapshot.system:
                return snapshot
    return None


def _as_windows(dump: Dump, progress: Progress | None) -> Snapshot | None:
    """The snapshot of a dump that can only be of Windows; None if its page tables are not found."""
    zeros, tables = ZeroScan(dump), TopLevelSearch()
    objects = learn(dump, tables)
    dump.scan([zeros.visitor, tables.visitor, *([objects.visitor] if objects else [])], progress)
    if found := tables.found(dump):
        snapshot: Snapshot | None = windows.understand(dump, zeros.zero, found, objects)
    else:
        snapshot = _windows_anywhere(
            dump, zeros.zero, tables, [], progress
        ) or _windows_by_processes(dump, zeros.zero, tables, progress)
    return _with_remarks(snapshot, dump) if snapshot else None


def _windows_anywhere(
    dump: Dump,
    zero: NDArray[np.bool_],
    search: TopLevelSearch,
    others: Sequence[Visitor[Any]],
    progress: Progress | None,
) -> Snapshot | None:
    """The snapshot of a Windows whose tables lie at unusual places; None if it is not found.

    `others` take part in the scan, which ends early if Windows is found.
    """
    asked = 0

    def is_windows() -> bool:
        nonlocal asked
        # Other systems' tables may name themselves, too: the index met most often is the likeliest.
        if search.most_met() < max(_ENOUGH_TABLES, 16 * asked):
            return False
        asked = search.most_met()
        found = search.found(dump)
        return found is not None and len(found.roots) >= _ENOUGH_TABLES

    dump.scan([search.everywhere, *others], progress, until=is_windows)
    if is_windows():
        # The index at which this boot's tables name themselves is known now.
        search.scan_only()
        dump.scan([search.visitor])
    if found := search.found(dump):
        return _in_place(windows.understand(dump, zero, found), found.roots, progress)
    return None


def _windows_by_processes(
    dump: Dump, zero: NDArray[np.bool_], search: TopLevelSearch, progress: Progress | None
) -> Snapshot | None:
    """The snapshot of a Windows by its processes; None if there are none.

    If the tables that lead to KUSER_SHARED_DATA are damaged, the processes tell the system.
    """
    if alike := search.alike(dump):
        who = find_processes(dump, alike)
        if any(process.object_address for process in who.processes):
            snapshot = windows.understand(dump, zero, alike, who=who)
            return _in_place(snapshot, alike.roots, progress)
    return None


def _recognise_by_more(
    dump: Dump, zero: NDArray[np.bool_], search: TopLevelSearch, progress: Progress | None
) -> Snapshot:
    """Scan once more, for tables at unusual places and for other systems."""
    from memory_visualizer.linux.banner import BannerSearch
    from memory_visualizer.linux.kernel import TopTableSearch
    from memory_visualizer.unknown import system as unknown
    from memory_visualizer.unknown.toplevels import SpaceSearch

    texts, spaces, tables = VmcoreInfoSearch(), SpaceSearch(dump), TopTableSearch()
    banners = BannerSearch()
    others: list[Visitor[Any]] = [texts.everywhere, spaces.visitor, tables.visitor, banners.visitor]
    if found := _windows_anywhere(dump, zero, search, others, progress):
        return found
    if linux := _as_linux(dump, zero, texts.found(dump), progress, tables):
        return linux
    remarks: list[str] = []
    told = texts.found(dump)
    # A kernel of another processor explains the dump; otherwise memory may be misplaced.
    if not any(info.is_of_another_processor for info in told):
        try:
            mended = _mended(dump, progress, told, remarks)
        except _MendError as error:  # tables that lie side by side name each other, too
            remarks.append(error.remark)
        else:
            if mended:
                return mended
    if found := _windows_by_processes(dump, zero, search, progress):
        return found
    snapshot = unknown.understand(dump, zero, spaces.found(dump))
    remarks += [
        f"the dump names a Linux kernel, {printable(info.release)}, but that kernel is not where it"
        " says, or this program cannot read the page tables of its processor"
        for info in told[:1]
    ]
    if not told and (release := banners.release(dump)):
        remarks.append(
            f"the dump has the banner of a Linux kernel, {printable(release)}, but neither its"
            " VMCOREINFO nor its page tables were found: the dump was cut short, or is damaged"
        )
    return replace(snapshot, remarks=(*snapshot.remarks, *remarks))
