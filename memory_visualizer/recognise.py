"""What system a dump is of: one scan of its contents, then each system is asked in turn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Dump, Progress, ZeroScan
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo, VmcoreInfoSearch
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.windows import system as windows
from memory_visualizer.windows.processes import find_processes
from memory_visualizer.windows.processsearch import ProcessSearch
from memory_visualizer.windows.system import learn
from memory_visualizer.windows.toplevels import TopLevels, TopLevelSearch, is_in_doubt

# What reads Linux and other systems is imported where a dump is met that needs it.
if TYPE_CHECKING:
    from memory_visualizer.linux.kernel import TopTableSearch

_ENOUGH_TABLES = 3
"""So many tables that name themselves at one place are no accident."""


def recognise(dump: Dump, progress: Progress | None = None) -> Snapshot:
    """Find out what a dump is of, and who has each page.

    `progress` and errors as for Dump.scan. BadInputError also where the memory of a raw file lies
    elsewhere than it belongs, and cannot be put there.
    """
    zeros, tables, texts = ZeroScan(dump), TopLevelSearch(), VmcoreInfoSearch()
    objects = learn(dump, tables)
    visitors = [zeros.scan, tables.look_at, texts.look_at]
    dump.scan([*visitors, objects.look_at] if objects else visitors, progress)
    # First Linux, which few dumps of others look like: its kernel's word of itself is checked.
    if linux := _as_linux(dump, zeros.zero, texts.found(dump)):
        return linux
    if found := tables.found(dump):
        return _as_windows(dump, zeros.zero, found, progress, objects)
    return _recognise_by_more(dump, zeros.zero, tables, progress)


def _as_linux(
    dump: Dump,
    zero: NDArray[np.bool_],
    texts: Sequence[VmcoreInfo],
    tables: "TopTableSearch | None" = None,
) -> Snapshot | None:
    """A Linux dump's, if its kernel is found; what reads Linux is loaded for no others."""
    if not texts and not tables:
        return None
    from memory_visualizer.linux import system

    kernel = system.find_kernel(dump, texts, tables)
    return system.understand(dump, zero, kernel) if kernel else None


def _as_windows(
    dump: Dump,
    zero: NDArray[np.bool_],
    found: TopLevels,
    progress: Progress | None,
    objects: ProcessSearch | None = None,
) -> Snapshot:
    """A Windows dump's, put right where its memory may lie elsewhere than it belongs."""
    snapshot = windows.understand(dump, zero, found, objects)
    return _better(snapshot, progress) if is_in_doubt(dump, found) else snapshot


def _better(snapshot: Snapshot, progress: Progress | None) -> Snapshot:
    """What a raw file tells as it is, or with its memory put where it belongs, if that is more.

    Some pages may name others at one distance by chance, or to deceive: then a remark says so.
    """
    try:
        mended = _mended(snapshot.dump, progress)
    except _MendError as error:
        return replace(snapshot, remarks=(*snapshot.remarks, error.remark))
    if mended is None or _worth(mended) > _worth(snapshot):
        return mended or snapshot
    (remark,) = mended.dump.remarks[len(snapshot.dump.remarks) :]
    remark = f"it was not believed, as no more processes would be found, that {remark}"
    return replace(snapshot, remarks=(*snapshot.remarks, remark))


def _worth(snapshot: Snapshot) -> tuple[int, int]:
    """How much was understood: processes whose objects and tables are there, and their pages."""
    whole = [one for one in snapshot.processes if one.eprocess and one.space is not None]
    has_user = np.isin(snapshot.classes, (PageClass.USER, PageClass.BOTH))
    return len(whole), int(np.count_nonzero(has_user))


class _MendError(BadInputError):
    """Memory lies elsewhere than it belongs, and nothing is understood with it put there."""

    def __init__(self, dump: Dump, tables: int, distance: int) -> None:
        self.remark = (
            f"{counted(tables, 'page looks', 'pages look')} like top-level page tables that lie up"
            f" to {counted(distance, 'page')} from where they belong, and the memory could not be"
            " put there"
        )
        super().__init__(f"{dump.path} does not hold its memory where it belongs: {self.remark}")


def _mended(
    dump: Dump,
    progress: Progress | None,
    texts: Sequence[VmcoreInfo] = (),
    remarks: list[str] | None = None,
) -> Snapshot | None:
    """A raw file whose memory lies elsewhere than it belongs, understood with it put there.

    BadInputError where that does not help. `remarks` is told where this was not looked for.
    """
    if not isinstance(dump, RawDump):
        return None
    from memory_visualizer.displaced import DisplacedSearch, MendedDump, pieces_of_linux

    search = DisplacedSearch(dump)
    dump.scan([search.look_at], progress)
    for info in texts:
        if pieces := pieces_of_linux(dump, info, search):
            snapshot = recognise(MendedDump(dump, pieces), progress)
            if snapshot.system:
                return snapshot
    pieces = search.pieces(dump)
    if not pieces:
        if remarks is not None:
            remarks += search.remarks
        return None
    snapshot = recognise(MendedDump(dump, pieces), progress)
    if not snapshot.system:
        raise _MendError(dump, search.tables, max(abs(piece.shift) for piece in pieces))
    return snapshot


def _recognise_by_more(
    dump: Dump, zero: NDArray[np.bool_], search: TopLevelSearch, progress: Progress | None
) -> Snapshot:
    """Scan once more, for what is not at its usual place, and for other systems."""
    from memory_visualizer.linux.kernel import TopTableSearch
    from memory_visualizer.unknown import system as unknown
    from memory_visualizer.unknown.toplevels import SpaceSearch

    texts, spaces, tables = VmcoreInfoSearch(), SpaceSearch(dump), TopTableSearch()
    asked = 0

    def is_windows() -> bool:
        nonlocal asked
        # Tables of others may name themselves, too: so it is asked the less often the more it met.
        if search.most_met() < max(_ENOUGH_TABLES, 16 * asked):
            return False
        asked = search.most_met()
        found = search.found(dump)
        return found is not None and len(found.tops) >= _ENOUGH_TABLES

    visitors = [search.look_everywhere, texts.look_everywhere, spaces.look_at, tables.look_at]
    dump.scan(visitors, progress, until=is_windows)
    if is_windows():
        # Now it is known where this boot's tables name themselves.
        search.look_only()
        dump.scan([search.look_at])
    if found := search.found(dump):
        return _as_windows(dump, zero, found, progress)
    if linux := _as_linux(dump, zero, texts.found(dump), tables):
        return linux
    remarks: list[str] = []
    if mended := _mended(dump, progress, texts.found(dump), remarks):
        return mended
    # Where the tables that lead to Windows' word of itself are damaged, its processes tell.
    if alike := search.alike(dump):
        who = find_processes(dump, alike)
        if any(process.eprocess for process in who.processes):
            return windows.understand(dump, zero, alike, who=who)
    snapshot = unknown.understand(dump, zero, spaces.found())
    return replace(snapshot, remarks=(*snapshot.remarks, *remarks))
