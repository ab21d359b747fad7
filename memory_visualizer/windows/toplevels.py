"""The address spaces of a Windows dump, found in the dump alone.

Windows maps its page tables into themselves: an entry of each top-level table names that table's
own frame. Such tables are found by one look at each page; those of Windows lead to a page that lies
at one address in every version.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging import (
    ADDRESS,
    PAE,
    PRESENT,
    WINDOWS_ON_ARM64,
    X64,
    X64_5_LEVELS,
    X86,
    Paging,
    PhysicalMemory,
    as_windows_has_it,
    is_held,
    translate,
)
from memory_visualizer.paging.kernelhalf import TOUCHED, share_entries
from memory_visualizer.snapshot.system import System

_X64 = as_windows_has_it(X64)

SHARED_DATA = {32: 0xFFDF0000, 64: 0xFFFFF780_00000000}
"""Where the kernel sees KUSER_SHARED_DATA, in every version (ntddk.h)."""

USER_SHARED_DATA = 0x7FFE0000
"""Where each process with a user half sees it, by tables of its own; its second one, too."""

_MAJOR_VERSIONS, _MINOR_VERSIONS = range(5, 16), 16
"""Windows is 5.0 to 10.0 by its own counting; a few more are to come."""

EARLIEST, LATEST = 125_278_272_000_000_000, 157_469_184_000_000_000
"""Windows timestamps (100 ns since 1601) from 1998 to 2100: others are something else."""


@dataclass(frozen=True)
class SharedData:
    """What KUSER_SHARED_DATA (ntddk.h) tells of the system."""

    system: System
    """Windows, and which one where that is known; the build is there since Windows 10."""
    time: datetime | None
    """When the dump was taken, UTC."""


@dataclass(frozen=True, eq=False)
class TopLevels:
    """Top-level tables that name themselves."""

    paging: Paging
    roots: NDArray[np.int64]
    """Frames, shape (n, paging.top_frames), of those that map all that a kernel needs."""
    others: NDArray[np.int64]
    """The same of those that do not: a process's second table for user mode (KVA shadow, since
    2018), or what looks like a table by chance."""
    remarks: tuple[str, ...] = ()
    """Sentences on tables that are of another boot, for the person at the screen."""


class TopLevelSearch:
    """Finds top-level tables while the dump's contents pass by, block after block.

    Blocks may come in any order, and from several threads.
    """

    def __init__(self) -> None:
        self._x86: list[NDArray[np.int64]] = []
        self._pae: list[NDArray[np.int64]] = []
        self._x64: list[NDArray[np.int64]] = []
        """Frames, and the entry of each that names it: see _named."""
        self._x64_entries = [0x1ED]
        """Where look_at looks: at Windows' own choice until 2016, and at what was met."""
        self._counts = np.zeros(X64.entries, np.int64)
        """How many of the first _counted parts of _x64 name themselves by each entry."""
        self._counted = 0

    def scan(self, frame: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
        """Look at frames, with their contents, where tables are known to name themselves."""
        own = self._own_entries(frame)
        for found, index, mask in (
            (self._x86, 0x180, 0xFFFFF001),
            (self._pae, 3, ADDRESS | PRESENT),
        ):
            if (names_itself := words[:, index] & np.uint64(mask) == own).any():
                found.append(frame[names_itself])
        for index in self._x64_entries:
            if (names_itself := words[:, index] & np.uint64(ADDRESS | PRESENT) == own).any():
                self._x64.append(_named(frame[names_itself], index))

    def scan_everywhere(self, frame: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
        """Look at all 256 entries where 64-bit tables may name themselves (since 2016)."""
        entries = _X64.software.self_entries
        mask = ADDRESS | PRESENT
        for start in range(0, len(frame), _ROWS_AT_ONCE):
            own = self._own_entries(frame[start : start + _ROWS_AT_ONCE])
            upper = words[start : start + _ROWS_AT_ONCE, entries.start : entries.stop]
            # The lower halves of entries are less to compare, and seldom alike.
            lower = upper.view(np.uint32)[:, ::2] & np.uint32(mask & 0xFFFFFFFF)
            row, column = np.divmod(
                np.flatnonzero(lower == own.astype(np.uint32)[:, None]), len(entries)
            )
            alike = upper[row, column] & np.uint64(mask) == own[row]
            # No top-level table names itself so often.
            alike &= np.bincount(row[alike], minlength=len(own))[row] <= _MOST_OWN_ENTRIES
            if alike.any():
                self._x64.append(_named(frame[start + row[alike]], entries.start + column[alike]))

    def most_met(self) -> int:
        """How many 64-bit tables, at most, name themselves by the same entry."""
        return int(self._counts_by_entry().max())

    def scan_also(self, early: "TopLevelSearch") -> None:
        """Look where another search has met most tables that name themselves."""
        self._x64_entries = sorted({*self._x64_entries, *early._largest(_MOST_GROUPS)})

    def scan_only(self) -> None:
        """From now on look where most tables were met that name themselves."""
        self._x64_entries = self._largest(_MOST_GROUPS)

    def _counts_by_entry(self) -> NDArray[np.int64]:
        """How many 64-bit tables were met that name themselves by each entry."""
        for part in self._x64[self._counted :]:
            self._counts += np.bincount(part % X64.entries, minlength=X64.entries)
            self._counted += 1
        return self._counts

    def _largest(self, limit: int) -> list[int]:
        """The entries by which most 64-bit tables name themselves; one of them is Windows'."""
        counts = self._counts_by_entry()
        largest: list[int] = np.argsort(-counts, kind="stable")[:limit].tolist()
        return [index for index in largest if counts[index]]

    def _groups(self, limit: int) -> list[NDArray[np.int64]]:
        """The frames of the largest groups of tables that name themselves by the same entry."""
        found = _joined(self._x64)
        frame, index = np.divmod(found, X64.entries)
        return [frame[index == one] for one in self._largest(limit)]

    @staticmethod
    def _own_entries(frame: NDArray[np.int64]) -> NDArray[np.uint64]:
        """What an entry that leads to each frame looks like."""
        return (frame.astype(np.uint64) << np.uint64(12)) | np.uint64(PRESENT)

    def found(self, memory: PhysicalMemory) -> "TopLevels | None":
        """The way of paging, and the top levels, that most tables speak for.

        Of the tables of several boots those of the last one.
        """
        boots = [
            boot
            for paging, groups in self._candidates(memory)
            for roots in groups
            for boot in _boots(memory, paging, roots)
        ]
        return _last_boot(boots) if boots else None

    def alike(self, memory: PhysicalMemory) -> "TopLevels | None":
        """The same by what the tables have in common, where a damaged dump lets `found` down."""
        best: TopLevels | None = None
        most = 0
        for paging, groups in self._candidates(memory):
            for roots in groups:
                kin = share_kernel(memory, paging, roots, np.ones(len(roots), bool))
                if np.count_nonzero(kin) < _FEWEST_ALIKE:
                    continue
                # Where Windows' word of itself is damaged, most tables still lead to its place.
                lead = _seen(memory, paging, roots[kin], None)[0] >= 0
                count = np.count_nonzero(kin) + np.count_nonzero(lead)
                if count > most:
                    best, most = TopLevels(paging, roots[kin], roots[~kin]), int(count)
        return best

    def _candidates(
        self, memory: PhysicalMemory
    ) -> Iterator[tuple[Paging, list[NDArray[np.int64]]]]:
        """For each way of paging the groups of tables that name themselves by one entry."""
        limit = memory.budget.limit("address space")
        take = memory.budget.take
        pae = take("top-level table of PAE", _joined(self._pae), limit)
        pointers = [memory.read_frames(frames)[:, :4] for frames in in_parts(pae)]
        directories = np.concatenate([np.empty((0, 4), np.uint64), *pointers])
        directories = (directories & np.uint64(ADDRESS)) >> np.uint64(12)
        name = "top-level table of x86-64"
        x64 = [take(name, roots, limit)[:, None] for roots in self._groups(_MOST_GROUPS)]
        yield as_windows_has_it(PAE), [directories.astype(np.int64)]
        yield (
            as_windows_has_it(X86),
            [take("top-level table of x86", _joined(self._x86), limit)[:, None]],
        )
        is_arm = [_are_of_arm64(memory, roots[:, 0]) for roots in x64]
        intel = [roots for roots, is_so in zip(x64, is_arm, strict=True) if not is_so]
        yield _X64, intel
        yield as_windows_has_it(X64_5_LEVELS), intel
        yield WINDOWS_ON_ARM64, [roots for roots, is_so in zip(x64, is_arm, strict=True) if is_so]


def _are_of_arm64(memory: PhysicalMemory, roots: NDArray[np.int64]) -> bool:
    """Whether most entries of these tables have the form of 64-bit ARM's, and not of x86-64's.

    Where they stand is the same, and whatever leads somewhere by the one does so by the other.
    """
    entries = memory.read_frames(roots[:_SAMPLE])
    entries = entries[entries & np.uint64(PRESENT) != 0]
    count = []
    for software in (_X64.software, WINDOWS_ON_ARM64.software):
        mask, value = software.table_flags or (0, 0)
        count.append(int(np.count_nonzero(entries & np.uint64(mask) == value)))
    return count[1] > count[0]


def _named(frame: NDArray[np.int64], index: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Frames and the entries that name them, as single numbers."""
    return frame * X64.entries + index


def _joined(batches: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return distinct(np.concatenate([np.empty(0, np.int64), *batches]))


_SAMPLE = 64
_MOST_PLACES = 4
_MOST_OWN_ENTRIES = 4
_MOST_GROUPS = 4
"""Groups of tables, each with one entry by which they name themselves; one of them is honest."""
_ROWS_AT_ONCE = 512
"""Of tables, as many as fit into a processor's cache with what is made of them."""
_MOST_COMPARED = 1 << 11
_MOST_ASKED = 1 << 7
"""So many tables tell what they have in common, at most."""
_FEWEST_ALIKE = 3
_PART_OF_BOOT = 8
"""A boot has at least this part of the tables that the largest has; fewer are odd ones."""


@dataclass(frozen=True, eq=False)
class _Boot:
    """The top-level tables by which one page of KUSER_SHARED_DATA is reached."""

    paging: Paging
    roots: NDArray[np.int64]
    others: NDArray[np.int64]
    """Those of the group that are of no boot."""
    page: "_SharedPage"


def _last_boot(boots: list[_Boot]) -> TopLevels:
    """The boot with the latest clock, of those that have tables enough; a remark on the others."""
    largest = max(boots, key=lambda boot: len(boot.roots))
    enough = max(2, len(largest.roots) // _PART_OF_BOOT)
    many = [boot for boot in boots if len(boot.roots) >= enough and boot.page.clock]
    last = max(many, key=lambda boot: boot.page.time, default=largest)
    remarks = [
        f"{len(boot.roots):,} top-level page tables are of another boot of {boot.page.system},"
        f" whose clock stood at {boot.page.clock:%Y-%m-%d %H:%M:%S} UTC; the pages that these"
        " tables map are not painted"
        for boot in many
        if boot is not last
    ]
    return TopLevels(last.paging, last.roots, last.others, tuple(remarks))


def _boots(memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> list[_Boot]:
    """The boots that some tables, which name themselves by the same entry, are of.

    A table is of a boot if it leads to the boot's page of KUSER_SHARED_DATA, or has most of the
    kernel's half in common with those that do. Pages that name themselves by chance, or in another
    system, have nothing there.
    """
    # First some of each group: of a dump full of tables that name themselves all are too many.
    step = -(-len(roots) // _SAMPLE)
    if not len(roots) or not any(_seen(memory, paging, roots[::step], one)[1] for one in _VIEWS):
        return []
    unknown = np.ones(len(roots), bool)
    found = []
    places, pages = _seen(memory, paging, roots, None)
    for place, page in pages.items():
        found.append((places == place, page))
    for rows, _ in found:
        unknown &= ~rows
    # The tables by which the kernel sees it, which all processes of a boot share, may be damaged.
    rest = np.flatnonzero(unknown)
    known = set(pages)
    places, pages = _seen(memory, paging, roots[rest], USER_SHARED_DATA)
    for place, page in pages.items():
        rows = np.zeros(len(roots), bool)
        rows[rest[places == place]] = place not in known
        rows &= share_kernel(memory, paging, roots, rows)
        if np.count_nonzero(rows) >= _FEWEST_ALIKE:
            found.append((rows, page))
            unknown &= ~rows
    for rows, _ in found:
        if unknown.any():
            rows |= unknown & share_kernel(memory, paging, roots, rows)
            unknown &= ~rows
    return [_Boot(paging, roots[rows], roots[unknown], page) for rows, page in found]


def _seen(
    memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64], virtual: int | None
) -> tuple[NDArray[np.int64], dict[int, "_SharedPage"]]:
    """Where each of these address spaces has KUSER_SHARED_DATA, by an address of it; -1: nowhere.

    And the pages that most of them have there, by frame, as far as these are believable. `virtual`
    is None for the kernel's address.
    """
    virtual = SHARED_DATA[bits_of(paging)] if virtual is None else virtual
    frames = translate(memory, paging, roots, virtual)
    places, count = np.unique(frames[frames >= 0], return_counts=True)
    places = places[np.argsort(-count, kind="stable")[:_MOST_PLACES]]
    pages = {int(place): _SharedPage(memory.read_frames(place[None])[0]) for place in places}
    return frames, {place: page for place, page in pages.items() if page.is_believable}


_VIEWS = (None, USER_SHARED_DATA)
"""The addresses of KUSER_SHARED_DATA: the kernel's, and the user's."""


def share_kernel(
    memory: PhysicalMemory,
    paging: Paging,
    roots: NDArray[np.int64],
    among: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which tables have most of the kernel's half in common with most of those chosen.

    What more of these have counts for more: the kernel's own entries, not those of a session.
    """
    kin = np.zeros(len(roots), bool)
    last = roots[:, -1]
    rows = np.flatnonzero(is_held(memory, last))[:_MOST_COMPARED]
    chosen = among[rows]
    if np.count_nonzero(chosen) < 2:
        return kin
    entries = paging.decode(memory.read_frames(last[rows]))
    if paging.top_frames == 1:
        entries = entries[:, paging.entries // 2 :]
    entries = entries & ~np.uint64(TOUCHED)
    entries[(entries & np.uint64(PRESENT) == 0) | _names(entries, last[rows])] = 0
    some = np.flatnonzero(chosen)
    some = some[:: -(-len(some) // _MOST_ASKED) or 1]
    common, count = most_common(entries[some])
    # What a single one has is its own, and what a few have tells little.
    fewest = max(2, len(some) // 4)
    weight = np.where(count >= fewest, count, 0)
    kin[rows] = share_entries(entries, common, weight)
    return kin


def _names(entries: NDArray[np.uint64], frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which entries of each table name that table's own frame."""
    named = (entries & np.uint64(ADDRESS)) >> np.uint64(12)
    own: NDArray[np.bool_] = named == frames.astype(np.uint64)[:, None]
    return own


def most_common(entries: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """For each column the value but zero that comes most often, and how often."""
    if not len(entries):
        return np.zeros(entries.shape[1], np.uint64), np.zeros(entries.shape[1], np.int64)
    given = np.sort(entries, axis=0)
    # How many rows before have the same value, without a break.
    row = np.arange(len(given))[:, None]
    is_new = np.ones(given.shape, bool)
    is_new[1:] = given[1:] != given[:-1]
    count = row - np.maximum.accumulate(np.where(is_new, row, 0), axis=0) + 1
    count[given == 0] = 0
    best = np.argmax(count, axis=0)[None]
    return np.take_along_axis(given, best, 0)[0], np.take_along_axis(count, best, 0)[0]


def bits_of(paging: Paging) -> int:
    """Whether Windows is one of 32 or of 64 bits."""
    return 32 if paging.address_bits == 32 else 64


def read_shared_data(
    memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]
) -> SharedData:
    """Read what Windows tells to every process about itself, where most of them see it."""
    for view in _VIEWS:
        for page in _seen(memory, paging, roots, view)[1].values():
            return SharedData(page.system, page.clock)
    return SharedData(System("Windows"), None)


class _SharedPage:
    """KUSER_SHARED_DATA as it lies in memory."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        page = words.tobytes()

        def number(offset: int, size: int) -> int:
            return int.from_bytes(page[offset : offset + size], "little")

        self.time = number(0x14, 8)
        self.build = number(0x260, 4) & 0xFFFF
        self.major, self.minor = number(0x26C, 4), number(0x270, 4)

    @property
    def is_believable(self) -> bool:
        """Whether there is such a version of Windows."""
        return self.major in _MAJOR_VERSIONS and self.minor < _MINOR_VERSIONS

    @property
    def system(self) -> System:
        """Windows, its version and its build, if it tells that."""
        build = self.build if self.major >= 10 and self.build else None
        return System("Windows", f"{self.major}.{self.minor}", build)

    @property
    def clock(self) -> datetime | None:
        """What its clock shows, UTC; None where no clock does."""
        return datetime_of(self.time) if EARLIEST < self.time < LATEST else None


def datetime_of(timestamp: int) -> datetime:
    """A Windows timestamp (100 ns since 1601) as a date, UTC."""
    return datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=timestamp // 10)


def time_of(timestamp: int) -> datetime | None:
    """The same; None where it is 0, or beyond what a date can be."""
    try:
        return datetime_of(timestamp) if timestamp else None
    except OverflowError:
        return None


def timestamp_of(time: datetime) -> int:
    """A date as a Windows timestamp (100 ns since 1601)."""
    return (time - datetime(1601, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10


def in_parts(frames: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Part frames in as many as are read at once."""
    return [frames[start : start + 256] for start in range(0, len(frames), 256)]
