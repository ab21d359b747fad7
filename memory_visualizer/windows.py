"""Whose address spaces a Windows dump holds, found in the dump alone.

Windows maps its page tables into themselves: an entry of each top-level table names that table's
own frame. Such tables are found by one look at each page; those of Windows lead to a page that
lies at one address in every version.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.pagemap import distinct
from memory_visualizer.paging import (
    ADDRESS,
    PAE,
    PRESENT,
    X64,
    X64_5_LEVELS,
    X86,
    Paging,
    PhysicalMemory,
    most_spaces,
    translate,
)

SHARED_DATA = {32: 0xFFDF0000, 64: 0xFFFFF780_00000000}
"""Where the kernel sees KUSER_SHARED_DATA, in every version (ntddk.h)."""

_MAJOR_VERSIONS, _MINOR_VERSIONS = range(5, 16), 16
"""Windows is 5.0 to 10.0 by its own counting; a few more are to come."""

EARLIEST, LATEST = 125_278_272_000_000_000, 157_469_184_000_000_000
"""Windows timestamps (100 ns since 1601) from 1998 to 2100: others are something else."""


@dataclass(frozen=True)
class SharedData:
    """What KUSER_SHARED_DATA (ntddk.h) tells of the system."""

    version: str
    """Such as ``6.1`` or ``10.0.19041``; the build number is there since Windows 10.

    Nothing where it is not known.
    """
    time: datetime | None
    """When the dump was taken, UTC."""


@dataclass(frozen=True)
class TopLevels:
    """Top-level tables that name themselves."""

    paging: Paging
    tops: NDArray[np.int64]
    """Frames, shape (n, paging.top_frames), of those that map all that a kernel needs."""
    others: NDArray[np.int64]
    """The same of those that do not: a process's second table for user mode (KVA shadow, since
    2018), or what looks like a table by chance."""


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

    def look_at(self, frame: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
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

    def look_everywhere(self, frame: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
        """Look at all 256 entries where 64-bit tables may name themselves (since 2016)."""
        entries = X64.self_entries
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

    def look_also(self, early: "TopLevelSearch") -> None:
        """Look where another search has met most tables that name themselves."""
        self._x64_entries = sorted({*self._x64_entries, *early._largest(_MOST_GROUPS)})

    def look_only(self) -> None:
        """From now on look where most tables were met that name themselves."""
        self._x64_entries = self._largest(_MOST_GROUPS)

    def _counts_by_entry(self) -> NDArray[np.int64]:
        """How many 64-bit tables were met that name themselves by each entry."""
        for part in self._x64[self._counted :]:
            self._counts += np.bincount(part % X64.entries, minlength=X64.entries)
            self._counted += 1
        return self._counts

    def _largest(self, most: int) -> list[int]:
        """The entries by which most 64-bit tables name themselves; one of them is Windows'."""
        counts = self._counts_by_entry()
        largest: list[int] = np.argsort(-counts, kind="stable")[:most].tolist()
        return [index for index in largest if counts[index]]

    def _groups(self, most: int) -> list[NDArray[np.int64]]:
        """The frames of the largest groups of tables that name themselves by the same entry."""
        found = _joined(self._x64)
        frame, index = np.divmod(found, X64.entries)
        return [frame[index == one] for one in self._largest(most)]

    @staticmethod
    def _own_entries(frame: NDArray[np.int64]) -> NDArray[np.uint64]:
        """What an entry that leads to each frame looks like."""
        return (frame.astype(np.uint64) << np.uint64(12)) | np.uint64(PRESENT)

    def found(self, memory: PhysicalMemory) -> "TopLevels | None":
        """The way of paging, and the top levels, that most tables speak for."""
        return self._best(memory, _with_shared_data, _MOST_GROUPS)

    def alike(self, memory: PhysicalMemory) -> "TopLevels | None":
        """The same by what the tables have in common, where a damaged dump lets `found` down."""
        return self._best(memory, _with_common_kernel, 1)

    def _best(
        self, memory: PhysicalMemory, believe: "_Belief", most_groups: int
    ) -> "TopLevels | None":
        most = most_spaces(memory)
        pae = _joined(self._pae)[:most]
        pointers = [memory.read_frames(frames)[:, :4] for frames in in_parts(pae)]
        directories = np.concatenate([np.empty((0, 4), np.uint64), *pointers])
        directories = (directories & np.uint64(ADDRESS)) >> np.uint64(12)
        x86 = _joined(self._x86)[:most, None]
        x64 = [tops[:most, None] for tops in self._groups(most_groups)]
        best: TopLevels | None = None
        for paging, groups in (
            (PAE, [directories.astype(np.int64)]),
            (X86, [x86]),
            (X64, x64),
            (X64_5_LEVELS, x64),
        ):
            for tops, believable in zip(groups, believe(memory, paging, groups), strict=True):
                count = int(np.count_nonzero(believable))
                if count and (best is None or count > len(best.tops)):
                    best = TopLevels(paging, tops[believable], tops[~believable])
        return best


_Belief: TypeAlias = Callable[
    [PhysicalMemory, Paging, list[NDArray[np.int64]]], Iterable[NDArray[np.bool_]]
]
"""Tells which tables of each group, those that name themselves by one entry, are believable."""


def _named(frame: NDArray[np.int64], index: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Frames and the entries that name them, as single numbers."""
    return frame * X64.entries + index


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return distinct(np.concatenate([np.empty(0, np.int64), *parts]))


def _with_shared_data(
    memory: PhysicalMemory, paging: Paging, groups: list[NDArray[np.int64]]
) -> Iterator[NDArray[np.bool_]]:
    """By which tables KUSER_SHARED_DATA lies where most of their group say.

    Other pages that name themselves by chance, or in another system, have nothing there.
    """
    # First some of each group: of a dump full of tables that name themselves all are too many.
    for tops in groups:
        believable = np.zeros(len(tops), bool)
        step = -(-len(tops) // _SAMPLE)
        if not len(tops) or _place_of_shared_data(memory, paging, tops[::step])[0] is None:
            yield believable
            continue
        place, frames = _place_of_shared_data(memory, paging, tops)
        yield frames == place if place is not None else believable


def _place_of_shared_data(
    memory: PhysicalMemory, paging: Paging, tops: NDArray[np.int64]
) -> tuple[int | None, NDArray[np.int64]]:
    """Where most of these address spaces have KUSER_SHARED_DATA, and where each has it."""
    frames = translate(memory, paging, tops, SHARED_DATA[bits_of(paging)])
    places, count = np.unique(frames[frames >= 0], return_counts=True)
    for place in places[np.argsort(-count, kind="stable")[:_MOST_PLACES]]:
        if _SharedPage(memory.read_frames(place[None])[0]).is_believable:
            return int(place), frames
    return None, frames


_SAMPLE = 64
_MOST_PLACES = 4
_MOST_OWN_ENTRIES = 4
_MOST_GROUPS = 4
"""Groups of tables, each with one entry by which they name themselves; one of them is honest."""
_ROWS_AT_ONCE = 512
"""Of tables, as many as fit into a processor's cache with what is made of them."""
_MOST_COMPARED = 1 << 12
_FEWEST_ALIKE = 3


def _with_common_kernel(
    memory: PhysicalMemory, paging: Paging, groups: list[NDArray[np.int64]]
) -> Iterator[NDArray[np.bool_]]:
    """Which tables have most entries of their kernel's half in common with others of the group."""
    for tops in groups:
        yield _alike(memory, paging, tops)


def _alike(memory: PhysicalMemory, paging: Paging, tops: NDArray[np.int64]) -> NDArray[np.bool_]:
    alike = np.zeros(len(tops), bool)
    if not _FEWEST_ALIKE <= len(tops) <= _MOST_COMPARED:
        return alike
    last = tops[:, -1]
    held = np.flatnonzero((last < memory.frame_count) & memory.held[last % memory.frame_count])
    entries = paging.decode(memory.read_frames(last[held]))
    if paging.top_frames == 1:
        entries = entries[:, paging.entries // 2 :]
    common = np.zeros(entries.shape, bool)
    for column, given in enumerate(np.sort(entries.T, axis=1)):
        starts = np.flatnonzero(np.diff(given, prepend=~given[:1]))
        count = np.diff(starts, append=len(given))
        value = given[starts[np.argmax(count)]]
        if value and count.max() >= _FEWEST_ALIKE:
            common[:, column] = entries[:, column] == value
    columns = np.count_nonzero(common.any(axis=0))
    alike[held] = (2 * common.sum(axis=1) > columns) & (columns >= _FEWEST_ALIKE)
    return alike if np.count_nonzero(alike) >= _FEWEST_ALIKE else np.zeros(len(tops), bool)


def bits_of(paging: Paging) -> int:
    """Whether Windows is one of 32 or of 64 bits."""
    return 32 if paging.address_bits == 32 else 64


def read_shared_data(memory: PhysicalMemory, paging: Paging, tops: NDArray[np.int64]) -> SharedData:
    """Read what Windows tells to every process about itself."""
    frame = translate(memory, paging, tops, SHARED_DATA[bits_of(paging)])
    if not (frame >= 0).any():
        return SharedData("", None)
    page = _SharedPage(memory.read_frames(frame[frame >= 0][:1])[0])
    if not page.is_believable:
        return SharedData("", None)
    build = f".{page.build}" if page.major >= 10 and page.build else ""
    time = datetime_of(page.time) if EARLIEST < page.time < LATEST else None
    return SharedData(f"{page.major}.{page.minor}{build}", time)


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


def datetime_of(timestamp: int) -> datetime:
    """A Windows timestamp (100 ns since 1601) as a date, UTC."""
    return datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=timestamp // 10)


def timestamp_of(time: datetime) -> int:
    """A date as a Windows timestamp (100 ns since 1601)."""
    return (time - datetime(1601, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10


def in_parts(frames: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Part frames in as many as are read at once."""
    return [frames[start : start + 256] for start in range(0, len(frames), 256)]
