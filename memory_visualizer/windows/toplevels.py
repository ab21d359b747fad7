"""The address spaces of a Windows dump, found in the dump alone.

Windows maps its page tables into themselves: an entry of each top-level table names that table's
own frame. One scan of all pages finds such tables. Windows' tables lead to a page that lies at one
address in every version.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct, even_sample
from memory_visualizer.formats.base import Search, Visitor, Words
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
"""Virtual address of KUSER_SHARED_DATA in the kernel, in every version (ntddk.h)."""

USER_SHARED_DATA = 0x7FFE0000
"""Virtual address of the same page in each process with a user half, by its own tables; the second
table maps it, too."""

_MAJOR_VERSIONS, _MINOR_VERSIONS = range(5, 16), 16
"""Windows counts its versions from 5.0 to 10.0; a few more may come."""

EARLIEST, LATEST = 125_278_272_000_000_000, 157_469_184_000_000_000
"""Windows timestamps (100 ns since 1601) from 1998 to 2100: other numbers are not times."""


@dataclass(frozen=True)
class SharedData:
    """The system's description of itself in KUSER_SHARED_DATA (ntddk.h)."""

    system: System
    """Windows, with its version if known, and its build since Windows 10."""
    time: datetime | None
    """When the dump was taken, UTC."""
    booted: datetime | None = None
    """When the system was started, UTC."""


@dataclass(frozen=True, eq=False)
class TopLevels:
    """Top-level tables that name themselves."""

    paging: Paging
    roots: NDArray[np.int64]
    """Frames, shape (n, paging.top_frames), of tables that map all that a kernel needs."""
    others: NDArray[np.int64]
    """Frames of the other tables: a process's second table for user mode (KVA shadow, since 2018),
    or a page that looks like a table by chance."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user on tables of another boot."""


_Found: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Frames of x86, frames of PAE, and frames of x86-64 with the entries that name them: see
_named."""


_Candidates: TypeAlias = tuple[Paging, list[NDArray[np.int64]]]
"""Groups of tables, shape (n, paging.top_frames), that name themselves by one entry."""


@dataclass(frozen=True, eq=False)
class _Answer:
    """What some candidates were found to be."""

    candidates: list[_Candidates]
    found: TopLevels | None

    def is_about(self, candidates: list[_Candidates]) -> bool:
        """Whether these are the same tables."""
        return len(candidates) == len(self.candidates) and all(
            len(groups) == len(known) and all(map(np.array_equal, groups, known))
            for (_, groups), (_, known) in zip(candidates, self.candidates, strict=True)
        )


class TopLevelSearch(Search[_Found]):
    """Finds top-level tables during a scan of the dump."""

    def __init__(self) -> None:
        self._x86: list[NDArray[np.int64]] = []
        self._pae: list[NDArray[np.int64]] = []
        self._x64: list[NDArray[np.int64]] = []
        """Frames, and for each the entry that names it: see _named."""
        self._x64_entries = [0x1ED]
        """The entries that `look` tests: Windows' own choice until 2016, and entries met before."""
        self._counts = np.zeros(X64.entries, np.int64)
        """How many pages of the first _counted batches of _x64 name themselves by each entry."""
        self._counted = 0
        self._last: _Answer | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the last answer: a worker that gets this search only looks."""
        return vars(self) | {"_last": None}

    def look(self, frames: NDArray[np.int64], words: Words) -> _Found | None:
        """Test frames, given with their contents, at the known entries."""
        own = self._own_entries(frames)
        mask = ADDRESS | PRESENT
        x86, pae = (
            frames[words[:, index] & np.uint64(mask) == own]
            for index, mask in ((0x180, 0xFFFFF001), (3, mask))
        )
        x64 = [
            _named(frames[words[:, index] & np.uint64(mask) == own], index)
            for index in self._x64_entries
        ]
        return _unless_empty(x86, pae, np.concatenate([_NOBODY, *x64]))

    def look_everywhere(self, frames: NDArray[np.int64], words: Words) -> _Found | None:
        """Test all 256 entries at which 64-bit tables may name themselves (since 2016)."""
        entries = _X64.software.self_entries
        mask = ADDRESS | PRESENT
        found = [_NOBODY]
        for start in range(0, len(frames), _ROWS_AT_ONCE):
            own = self._own_entries(frames[start : start + _ROWS_AT_ONCE])
            upper = words[start : start + _ROWS_AT_ONCE, entries.start : entries.stop]
            # The lower halves of entries are faster to compare, and rarely equal.
            lower = upper.view(np.uint32)[:, ::2] & np.uint32(mask & 0xFFFFFFFF)
            row, column = np.divmod(
                np.flatnonzero(lower == own.astype(np.uint32)[:, None]), len(entries)
            )
            alike = upper[row, column] & np.uint64(mask) == own[row]
            # No top-level table names itself by so many entries.
            alike &= np.bincount(row[alike], minlength=len(own))[row] <= _OWN_ENTRIES
            found.append(_named(frames[start + row[alike]], entries.start + column[alike]))
        return _unless_empty(_NOBODY, _NOBODY, np.concatenate(found))

    def take(self, part: _Found) -> None:
        """Add what was found in a block."""
        for batches, found in zip((self._x86, self._pae, self._x64), part, strict=True):
            if len(found):
                batches.append(found)

    @property
    def everywhere(self) -> Visitor[_Found]:
        """For Dump.scan: the search at all entries."""
        return Visitor(self.look_everywhere, self.take)

    def scan_everywhere(self, frames: NDArray[np.int64], words: Words) -> None:
        """Look at all entries, and take at once."""
        if part := self.look_everywhere(frames, words):
            self.take(part)

    def most_met(self) -> int:
        """The largest number of 64-bit tables that name themselves by the same entry."""
        return int(self._counts_by_entry().max())

    def scan_also(self, early: "TopLevelSearch") -> None:
        """Also test the entries at which a search of the first pages met most tables.

        Its answer stays known, as this search meets the same tables in a small dump.
        """
        self._x64_entries = sorted({*self._x64_entries, *early._largest(_TRIED_GROUPS)})
        self._last = early._last

    def scan_only(self) -> None:
        """From now on, test only the entry at which most tables name themselves."""
        self._x64_entries = self._largest(_TRIED_GROUPS)

    def _counts_by_entry(self) -> NDArray[np.int64]:
        """For each entry, the number of 64-bit tables met that name themselves by it."""
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
        """The entry that would lead to each frame."""
        return (frame.astype(np.uint64) << np.uint64(12)) | np.uint64(PRESENT)

    def found(self, memory: PhysicalMemory) -> "TopLevels | None":
        """The paging, and the top-level tables, that most tables support.

        Of several boots, only the tables of the last one count. Asked again about the same tables,
        it gives the same object.
        """
        candidates = list(self._candidates(memory))
        if self._last is None or not self._last.is_about(candidates):
            boots = [
                boot
                for paging, groups in candidates
                for roots in groups
                for boot in _boots(memory, paging, roots)
            ]
            self._last = _Answer(candidates, _last_boot(boots) if boots else None)
        return self._last.found

    def alike(self, memory: PhysicalMemory) -> "TopLevels | None":
        """The same by the entries that the tables share, if `found` fails in a damaged dump."""
        best: TopLevels | None = None
        most = 0
        for paging, groups in self._candidates(memory):
            for roots in groups:
                kin = share_kernel(memory, paging, roots, np.ones(len(roots), bool))
                if np.count_nonzero(kin) < _FEWEST_ALIKE:
                    continue
                # If KUSER_SHARED_DATA is damaged, most tables still lead to its page.
                lead = _seen(memory, paging, roots[kin], None)[0] >= 0
                count = np.count_nonzero(kin) + np.count_nonzero(lead)
                if count > most:
                    best, most = TopLevels(paging, roots[kin], roots[~kin]), int(count)
        return best

    def _candidates(self, memory: PhysicalMemory) -> Iterator[_Candidates]:
        """For each paging, the groups of tables that name themselves by one entry."""
        limit = memory.budget.limit("address space")
        take = memory.budget.take
        pae = take("top-level table of PAE", _joined(self._pae), limit)
        pointers = [memory.read_frames(frames)[:, :4] for frames in in_parts(pae)]
        directories = np.concatenate([np.empty((0, 4), np.uint64), *pointers])
        directories = (directories & np.uint64(ADDRESS)) >> np.uint64(12)
        name = "top-level table of x86-64"
        x64 = [take(name, roots, limit)[:, None] for roots in self._groups(_TRIED_GROUPS)]
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
    """Whether most entries of these tables have the form of 64-bit ARM, and not of x86-64.

    The places are equal, and an entry that leads somewhere on one leads there on the other, too.
    """
    entries = memory.read_frames(even_sample(roots, _SAMPLE))
    entries = entries[entries & np.uint64(PRESENT) != 0]
    count = []
    for software in (_X64.software, WINDOWS_ON_ARM64.software):
        mask, value = software.table_flags or (0, 0)
        count.append(int(np.count_nonzero(entries & np.uint64(mask) == value)))
    return count[1] > count[0]


def _unless_empty(
    x86: NDArray[np.int64], pae: NDArray[np.int64], x64: NDArray[np.int64]
) -> _Found | None:
    return (x86, pae, x64) if len(x86) or len(pae) or len(x64) else None


_NOBODY = np.empty(0, np.int64)


def _named(frame: NDArray[np.int64], index: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Frames and the entries that name them, as single numbers."""
    return frame * X64.entries + index


def _joined(batches: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return distinct(np.concatenate([np.empty(0, np.int64), *batches]))


_SAMPLE = 64
_TRIED_PLACES = 4
"""How many pages of KUSER_SHARED_DATA are tried, the most frequent first. A boot with fewer tables
than four others is not the running one."""
_OWN_ENTRIES = 4
"""A page with more entries for itself is full of equal words, and not a table."""
_TRIED_GROUPS = 4
"""Groups of tables with a common self-naming entry that are tried, the largest first. Windows' is
the largest: other systems' tables and chance make smaller ones."""
_ROWS_AT_ONCE = 512
"""As many tables as fit into a processor's cache together with the results."""
_COMPARED_AT_ONCE = 1 << 11
_SAMPLED_TABLES = 1 << 7
"""How many tables vote on the entries that all share."""
_FEWEST_ALIKE = 3
_PART_OF_BOOT = 8
"""A boot has at least this fraction of the largest boot's tables; fewer tables are strays."""


@dataclass(frozen=True, eq=False)
class _Boot:
    """The top-level tables that lead to one page of KUSER_SHARED_DATA."""

    paging: Paging
    roots: NDArray[np.int64]
    others: NDArray[np.int64]
    """The tables of the group that belong to no boot."""
    page: "_SharedPage"


def _last_boot(boots: list[_Boot]) -> TopLevels:
    """The boot with the latest clock, of boots with enough tables; a remark on the others.

    If the clock of the largest boot is damaged, nothing tells the last one: the largest counts.
    """
    largest = max(boots, key=lambda boot: len(boot.roots))
    enough = max(2, len(largest.roots) // _PART_OF_BOOT)
    many = [boot for boot in boots if len(boot.roots) >= enough and boot.page.clock]
    latest = max(many, key=lambda boot: boot.page.time, default=largest)
    last = latest if largest.page.clock else largest
    remarks = [
        f"{len(boot.roots):,} top-level page tables are of another boot of {boot.page.system},"
        f" whose clock stood at {boot.page.clock:%Y-%m-%d %H:%M:%S} UTC; the pages that these"
        " tables map are not painted"
        for boot in many
        if boot is not last
    ]
    return TopLevels(last.paging, last.roots, last.others, tuple(remarks))


def _boots(memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> list[_Boot]:
    """The boots to which tables with the same self-naming entry belong.

    A table belongs to a boot if it leads to the boot's page of KUSER_SHARED_DATA, or shares most of
    the kernel's half with tables that do. Pages that name themselves by chance, or in another
    system, have no such page.
    """
    # First a sample of each group: a hostile dump may be full of tables that name themselves.
    step = -(-len(roots) // _SAMPLE)
    if not len(roots):
        return []
    seen = _seen(memory, paging, roots[::step], None)
    if not seen[1] and not _seen(memory, paging, roots[::step], USER_SHARED_DATA)[1]:
        return []
    unknown = np.ones(len(roots), bool)
    found = []
    places, pages = seen if step == 1 else _seen(memory, paging, roots, None)
    for place, page in pages.items():
        found.append((places == place, page))
    for rows, _ in found:
        unknown &= ~rows
    # The kernel's tables that lead to the page, which all processes share, may be damaged.
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
    """The frame that each address space has at an address of KUSER_SHARED_DATA; -1: none.

    Also the plausible pages among the most frequent of these frames, by frame. `virtual` is None
    for the kernel's address.
    """
    virtual = SHARED_DATA[bits_of(paging)] if virtual is None else virtual
    frames = translate(memory, paging, roots, virtual)
    places, count = np.unique(frames[frames >= 0], return_counts=True)
    places = places[np.argsort(-count, kind="stable")[:_TRIED_PLACES]]
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
    """Which tables share most of the kernel's half with most of the chosen tables.

    Entries that more tables have weigh more: the kernel's own entries, not a session's.
    """
    kin = np.zeros(len(roots), bool)
    last = roots[:, -1]
    rows = np.flatnonzero(is_held(memory, last))
    voters = even_sample(rows[among[rows]], _SAMPLED_TABLES)
    if len(voters) < 2:
        return kin
    common, count = most_common(_kernel_entries(memory, paging, last[voters]))
    # An entry of a single table is its own, and an entry of a few tells little.
    fewest = max(2, len(voters) // 4)
    weight = np.where(count >= fewest, count, 0)
    for at in range(0, len(rows), _COMPARED_AT_ONCE):
        some = rows[at : at + _COMPARED_AT_ONCE]
        kin[some] = share_entries(_kernel_entries(memory, paging, last[some]), common, weight)
    return kin


def _kernel_entries(
    memory: PhysicalMemory, paging: Paging, frames: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """The entries of the kernel's half in each of these tables; 0 for entries of the table's own.

    These are entries that are not present, and those that name the table itself.
    """
    entries = paging.decode(memory.read_frames(frames))
    if paging.top_frames == 1:
        entries = entries[:, paging.entries // 2 :]
    entries = entries & ~np.uint64(TOUCHED)
    entries[(entries & np.uint64(PRESENT) == 0) | _names(entries, frames)] = 0
    return entries


def _names(entries: NDArray[np.uint64], frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which entries of each table name that table's own frame."""
    named = (entries & np.uint64(ADDRESS)) >> np.uint64(12)
    own: NDArray[np.bool_] = named == frames.astype(np.uint64)[:, None]
    return own


def most_common(entries: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """For each column, the most frequent value except 0, and its frequency."""
    if not len(entries):
        return np.zeros(entries.shape[1], np.uint64), np.zeros(entries.shape[1], np.int64)
    given = np.sort(entries, axis=0)
    # The number of rows right before with the same value.
    row = np.arange(len(given))[:, None]
    is_new = np.ones(given.shape, bool)
    is_new[1:] = given[1:] != given[:-1]
    count = row - np.maximum.accumulate(np.where(is_new, row, 0), axis=0) + 1
    count[given == 0] = 0
    best = np.argmax(count, axis=0)[None]
    return np.take_along_axis(given, best, 0)[0], np.take_along_axis(count, best, 0)[0]


def bits_of(paging: Paging) -> int:
    """32 or 64: the word size of Windows with this paging."""
    return 32 if paging.address_bits == 32 else 64


def read_shared_data(
    memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]
) -> SharedData:
    """Read Windows' description of itself from the page that most processes map."""
    for view in _VIEWS:
        for page in _seen(memory, paging, roots, view)[1].values():
            return SharedData(page.system, page.clock, page.booted)
    return SharedData(System("Windows"), None)


class _SharedPage:
    """KUSER_SHARED_DATA as it lies in memory."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        page = words.tobytes()

        def number(offset: int, size: int) -> int:
            return int.from_bytes(page[offset : offset + size], "little")

        self.running = number(0x08, 8)
        self.time = number(0x14, 8)
        self.build = number(0x260, 4) & 0xFFFF
        self.major, self.minor = number(0x26C, 4), number(0x270, 4)

    @property
    def is_believable(self) -> bool:
        """Whether such a version of Windows is plausible."""
        return self.major in _MAJOR_VERSIONS and self.minor < _MINOR_VERSIONS

    @property
    def system(self) -> System:
        """Windows, its version, and its build if it tells it."""
        build = self.build if self.major >= 10 and self.build else None
        return System("Windows", f"{self.major}.{self.minor}", build)

    @property
    def clock(self) -> datetime | None:
        """The time of its clock, UTC; None if it is not plausible."""
        return datetime_of(self.time) if EARLIEST < self.time < LATEST else None

    @property
    def booted(self) -> datetime | None:
        """When the system was started, UTC: by its clock, and InterruptTime, which runs since then.

        None if that is not plausible.
        """
        start = self.time - self.running
        known = self.running and start > EARLIEST and self.clock
        return datetime_of(start) if known else None


def datetime_of(timestamp: int) -> datetime:
    """A Windows timestamp (100 ns since 1601) as a date, UTC."""
    return datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=timestamp // 10)


def time_of(timestamp: int) -> datetime | None:
    """The same; None if it is 0, or cannot be a date."""
    try:
        return datetime_of(timestamp) if timestamp else None
    except OverflowError:
        return None


def timestamp_of(time: datetime) -> int:
    """A date as a Windows timestamp (100 ns since 1601)."""
    return (time - datetime(1601, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10


def in_parts(frames: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Split frames into batches of as many as are read at once."""
    return [frames[start : start + 256] for start in range(0, len(frames), 256)]
