"""The state and use of each frame of a Windows dump, by its page frame database."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import are_among, look_up, mark_runs, sampled
from memory_visualizer.paging import SHARED, WINDOWS_ON_ARM64, Mappings, is_held
from memory_visualizer.snapshot.framerecords import (
    NO_PRIORITY,
    NOBODY,
    FrameDatabase,
    FrameRecords,
    PageUse,
    RecordFinding,
    SectionPages,
    WindowsState,
)
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.windows.framedatabase import (
    SAMPLED_RECORDS,
    SAMPLED_WITNESSES,
    Members,
    PageFrameDatabase,
    Piece,
    find_databases,
)
from memory_visualizer.windows.inventory import WindowsInventory
from memory_visualizer.windows.selfmap import SelfMap
from memory_visualizer.windows.subsections import pages_of_sections
from memory_visualizer.windows.systemranges import parts_of, uses_of_parts

BELIEVED = 1 / 2
"""A database is accepted if more than this share of active, mapped frames have a record that leads
to an entry for them. On real machines of an NT-like kernel it was 97.7 to 99.9 %."""

_PROTOTYPE = 1 << 10
"""Bit of OriginalPte: it names a subsection (MMPTE_SUBSECTION), not a place in the page file."""

_STATES = np.array(
    [
        WindowsState.ZEROED,
        WindowsState.FREE,
        WindowsState.STANDBY,
        WindowsState.MODIFIED,
        WindowsState.MODIFIED_NO_WRITE,
        WindowsState.BAD,
        WindowsState.ACTIVE,
        WindowsState.TRANSITION,
    ],
    np.uint8,
)
"""States by PageLocation (MMLISTS)."""


def _among(*states: WindowsState) -> NDArray[np.bool_]:
    """For each WindowsState, whether it is one of these."""
    return np.isin(np.arange(len(WindowsState)), states)


_WITHOUT_USE = _among(WindowsState.ZEROED, WindowsState.FREE, WindowsState.BAD)
_ON_A_LIST = _among(WindowsState.STANDBY, WindowsState.MODIFIED, WindowsState.MODIFIED_NO_WRITE)
_USES_OF_STATES = np.where(_WITHOUT_USE, PageUse.UNUSED, PageUse.UNKNOWN).astype(np.uint8)
_TOLD = ~_WITHOUT_USE & ~_among(WindowsState.ABSENT, WindowsState.UNKNOWN)

_FIXED_VERSIONS = ("6.0", "6.1")
_REGIONS = (
    (0xFFFFF880_00000000, 0xFFFFF8A0_00000000, PageUse.SYSTEM_PTE),
    (0xFFFFF8A0_00000000, 0xFFFFF8C0_00000000, PageUse.PAGED_POOL),
    (0xFFFFF900_00000000, 0xFFFFF980_00000000, PageUse.SESSION),
)
"""The regions of the kernel's 64-bit addresses that every machine with these versions has at the
same place ("Kernel Virtual Address Layout", CodeMachine; Windows Internals, 5th and 6th edition).
Later versions move them."""
_LAST_NONPAGED = 0xFFFFFFFF_FFC00000
"""The end of the nonpaged pool in these versions, which begins behind the database."""


def read_records(tops: NDArray[np.int64], snapshot: Snapshot) -> FrameRecords | tuple[str, ...]:
    """The records in the page frame database of a Windows dump; sentences if it is not credible.

    `tops` are the frames of the top-level tables of the snapshot's processes, shape (n, frames); -1
    if unknown.
    """
    paging = snapshot.paging
    if paging is None or paging is WINDOWS_ON_ARM64:
        return ()
    inventory = snapshot.inventory
    if not isinstance(inventory, WindowsInventory):
        inventory = WindowsInventory(snapshot, tops)
    self_map, kernel = inventory.self_map, inventory.kernel
    if self_map is None:
        return ()
    unused = sampled((snapshot.mapping_count == 0) & snapshot.dump.held, SAMPLED_WITNESSES)
    mapped = np.zeros(snapshot.dump.frame_count, bool)
    mapped[snapshot.mappings.pfn[snapshot.mappings.count == 1]] = True
    single = sampled(mapped, SAMPLED_RECORDS)
    del mapped
    doubted: list[tuple[float, int]] = []
    for database in find_databases(snapshot.dump, kernel, self_map, snapshot.zero, unused):
        agreement = database.agreement(single)
        if agreement > BELIEVED:
            return _Reader(snapshot, inventory, self_map, database, tops).read(agreement)
        doubted.append((agreement, database.base))
    inventory.release()  # nothing else may ask for the kernel's memory
    if not doubted:
        return ()
    agreement, base = max(doubted)
    return (
        f"what looks like the page frame database at {base:#x} is not believed: the records of only"
        f" {100 * agreement:.1f} % of the frames in use lead to an entry for them",
    )


@dataclass(eq=False)
class _Columns:
    """Facts on all frames, in columns by PFN."""

    states: NDArray[np.uint8]
    uses: NDArray[np.uint8]
    priorities: NDArray[np.uint8]

    def give(self, use: PageUse, marks: NDArray[np.bool_], *among: PageUse) -> None:
        """Give active frames that are marked this use, if they have one of these, or any if none.

        Some frames at a time: the work on them takes some bytes for each.
        """
        for start in range(0, marks.size, _FRAMES_AT_ONCE):
            some = slice(start, start + _FRAMES_AT_ONCE)
            uses = self.uses[some]
            chosen = marks[some] & (self.states[some] == WindowsState.ACTIVE)
            if among:
                chosen &= are_among(uses, among)
            uses[chosen] = use


_FRAMES_AT_ONCE = 1 << 17


@dataclass(frozen=True, eq=False)
class _Noted:
    """Frames of a piece that need facts from outside their records."""

    private: NDArray[np.uint32]
    """Frames on a list that belonged to a process."""
    table: NDArray[np.uint32]
    """For each of these frames that of the table with its entry; larger than any if unknown."""
    frame: NDArray[np.uint32]
    """Frames with a part of a file; the next two columns are about the same frames."""
    original: NDArray[np.uint64]
    """OriginalPte."""
    entry: NDArray[np.uint64]
    """PteAddress."""


_NO_FRAMES, _NO_NUMBERS = np.empty(0, np.uint32), np.empty(0, np.uint64)
_NOTHING_NOTED = _Noted(_NO_FRAMES, _NO_FRAMES, _NO_FRAMES, _NO_NUMBERS, _NO_NUMBERS)
_NO_TABLE = int(np.iinfo(np.uint32).max)


class _Reader:
    """Reads one database."""

    def __init__(
        self,
        snapshot: Snapshot,
        inventory: WindowsInventory,
        self_map: SelfMap,
        database: PageFrameDatabase,
        tops: NDArray[np.int64],
    ) -> None:
        self._snapshot = snapshot
        self._kernel = inventory.kernel
        self._self_map = self_map
        self._database = database
        self._tops = tops
        self._images = inventory.images
        self._regions = self._kernel_regions()
        self._parts = self._uses_of_parts()

    def read(self, agreement: float) -> FrameRecords:
        """Read all records; `agreement` is the share of records that proved right."""
        snapshot, count = self._snapshot, self._snapshot.dump.frame_count
        columns = _Columns(
            np.full(count, WindowsState.UNKNOWN, np.uint8),
            np.full(count, PageUse.UNKNOWN, np.uint8),
            np.full(count, NO_PRIORITY, np.uint8),
        )
        found = self._database.pieces(snapshot.zero, lambda piece: self._read_piece(piece, columns))
        noted = [_NOTHING_NOTED, *found]
        private, table = (
            np.concatenate([getattr(piece, name) for piece in noted]).astype(np.int64)
            for name in ("private", "table")
        )
        last_owners = self._last_owners(private, table, columns.states)
        del private, table
        sections, uses_of_stretches = self._sections(noted)
        self._mark_large_pages(columns)
        if sections:
            columns.uses[sections.frame] = uses_of_stretches[sections.stretch]
        there = snapshot.dump.there
        columns.states[~there] = WindowsState.ABSENT
        columns.uses[~there] = PageUse.ABSENT
        layout = self._database.layout
        return FrameRecords(
            columns.states,
            WindowsState,
            columns.uses,
            last_owners,
            columns.priorities,
            self._findings(columns),
            FrameDatabase(self._database.base, layout.size, agreement),
            sections,
        )

    def _read_piece(self, piece: Piece, columns: _Columns) -> "_Noted":
        """Fill the columns of a piece's frames; several threads read a piece each."""
        layout, records = self._database.layout, piece.records
        some = slice(piece.first, piece.first + len(records))
        states = look_up(_STATES, layout.locations(records))
        states[~piece.known] = WindowsState.UNKNOWN
        states[_empty(records, np.flatnonzero(states == WindowsState.ZEROED))] = (
            WindowsState.UNKNOWN
        )
        columns.states[some] = states
        columns.uses[some] = look_up(_USES_OF_STATES, states)
        # In records of frames without an owner, the other members are stale.
        used = np.flatnonzero(look_up(_TOLD, states))
        return self._read_used(piece, used, states[used], columns)

    def _read_used(
        self,
        piece: Piece,
        used: NDArray[np.intp],
        states: NDArray[np.uint8],
        columns: _Columns,
    ) -> "_Noted":
        """Read the records, in these rows, of frames with an owner, or with a last owner."""
        layout, members, records = self._database.layout, self._members, piece.records
        frames = used + piece.first
        entries = self._self_map.entry(layout.number(records, layout.pte_address, rows=used))
        columns.uses[frames], noted = self._uses(piece, used, states, entries)
        if members and members.priority:
            rows = used[states == WindowsState.STANDBY]
            columns.priorities[rows + piece.first] = members.priority.of(records, 7, rows)
        return noted

    @property
    def _members(self) -> Members | None:
        """The further members, as far as this version has them.

        Since Windows 8 two of them have other meanings.
        """
        members = self._database.layout.members
        system = self._snapshot.system
        if members and (system is None or system.version not in ("5.1", "5.2", "6.0", "6.1")):
            return replace(members, is_stack=None, is_awe=None)
        return members

    def _uses(
        self,
        piece: Piece,
        used: NDArray[np.intp],
        states: NDArray[np.uint8],
        entries: NDArray[np.uint64],
    ) -> tuple[NDArray[np.uint8], "_Noted"]:
        """The PageUse of the frames in these rows; frames of files and of processes are noted."""
        self_map, members, records = self._self_map, self._members, piece.records
        uses = np.full(len(used), PageUse.UNKNOWN, np.uint8)
        shown = self_map.shows(entries)
        page = self_map.page(entries)
        private = shown & (page < np.uint64(self_map.user_end))
        uses[private] = PageUse.PROCESS_PRIVATE
        on_list = used[private & look_up(_ON_A_LIST, states)]
        table = self._database.layout.table_frames(records, on_list)
        noted = replace(
            _NOTHING_NOTED,
            private=(on_list + piece.first).astype(np.uint32),
            table=np.minimum(table, _NO_TABLE).astype(np.uint32),
        )
        of_kernel = np.flatnonzero(shown & ~private)
        uses[of_kernel] = self._uses_in_kernel(page[of_kernel])
        if members and members.is_stack:
            stacks = members.is_stack.of(records, 1, used[of_kernel]) != 0
            uses[of_kernel[stacks]] = PageUse.KERNEL_STACK

        others = np.flatnonzero(~shown)
        locked = self._are_locked(records, used[others], states[others])
        uses[others[locked]] = PageUse.DRIVER_LOCKED
        if members and members.is_awe:
            awe = members.is_awe.of(records, 1, used[others]) != 0
            uses[others[locked & awe]] = PageUse.AWE
        if members:
            prototypes = others[~locked]
            prototypes = prototypes[self._kernel.frames(entries[prototypes]) >= 0]
            size = self_map.paging.entry_bytes
            original = self._database.layout.number(
                records, members.original, size, used[prototypes]
            )
            of_file = original & np.uint64(_PROTOTYPE) != 0
            uses[prototypes] = np.where(of_file, PageUse.FILE, PageUse.SHAREABLE)
            chosen = prototypes[of_file]
            noted = replace(
                noted,
                frame=(used[chosen] + piece.first).astype(np.uint32),
                original=original[of_file],
                entry=entries[chosen],
            )
        return uses, noted

    def _are_locked(
        self, records: NDArray[np.uint8], rows: NDArray[np.intp], states: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Which frames are in use without a table, which a special number in PteFrame marks."""
        layout = self._database.layout
        tables = layout.table_frames(records, rows)
        locked: NDArray[np.bool_] = tables >> (layout.frame_bits - 4) == 0xF
        locked &= tables >= self._snapshot.dump.frame_count
        locked &= states == WindowsState.ACTIVE
        return locked

    def _uses_in_kernel(self, page: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """The use of frames by the kernel addresses at which they are mapped."""
        uses = np.full(len(page), PageUse.KERNEL, np.uint8)
        if self._parts is not None:
            uses = self._parts[parts_of(page)]
        for start, end, use in self._regions:
            uses[(page >= np.uint64(start)) & (page < np.uint64(end))] = use
        uses[self._images.hold(page)] = PageUse.DRIVER_IMAGE
        uses[self._self_map.shows(page)] = PageUse.PAGE_TABLE
        return uses

    def _uses_of_parts(self) -> NDArray[np.uint8] | None:
        """The PageUse of each part of the kernel's addresses, if the kernel itself tells it."""
        snapshot, database = self._snapshot, self._database
        size = snapshot.dump.frame_count * database.layout.size
        objects = np.array([one.object_address for one in snapshot.processes], np.uint64)
        entries = database.entries(sampled(snapshot.mapping_count > 0, SAMPLED_RECORDS))
        outside = entries[~self._self_map.shows(entries)]
        known = {
            "database": np.array([database.base, database.base + size - 1], np.uint64),
            "objects": objects[objects >= np.uint64(self._self_map.user_end)],
            "prototypes": outside[self._kernel.frames(outside) >= 0],
        }
        return uses_of_parts(
            snapshot.dump, self._kernel, self._self_map, self._images, snapshot.system, known
        )

    def _kernel_regions(self) -> tuple[tuple[int, int, PageUse], ...]:
        """Parts of the kernel's addresses with one use."""
        system, database = self._snapshot.system, self._database
        if self._kernel.word == 4 or system is None or system.version not in _FIXED_VERSIONS:
            return ()
        end = database.base + self._snapshot.dump.frame_count * database.layout.size
        return (*_REGIONS, (end, _LAST_NONPAGED, PageUse.NONPAGED_POOL))

    def _mark_large_pages(self, columns: _Columns) -> None:
        """Give the frames of large pages their use: their records name the large page's entry."""
        large = self._snapshot.mappings.take(self._snapshot.mappings.count > 1)
        count, user = columns.states.size, large.is_user
        # In the self-map, the entry of a huge page looks like that of a large page.
        kernel = large.take(~user & ~self._self_map.shows(large.virtual))
        columns.give(PageUse.KERNEL, _frames_of(kernel, count), PageUse.PAGE_TABLE)
        images = kernel.take(self._images.hold(kernel.virtual))
        columns.give(PageUse.DRIVER_IMAGE, _frames_of(images, count))
        of_user = _frames_of(large.take(user), count)
        columns.give(PageUse.LARGE_PAGE, of_user, PageUse.PAGE_TABLE, PageUse.PROCESS_PRIVATE)

    def _sections(self, noted: list["_Noted"]) -> tuple[SectionPages | None, NDArray[np.uint8]]:
        """The pages of files, and the PageUse of each stretch of a file.

        Images are told from other files, if their control areas prove themselves. `noted` is empty
        afterwards.
        """
        if self._members is None:
            return None, np.empty(0, np.uint8)
        columns = [[piece.frame, piece.original, piece.entry] for piece in noted]
        noted.clear()
        frames, originals, entries = (
            np.concatenate([column.pop(0) for column in columns]) for _ in range(3)
        )
        return pages_of_sections(
            self._snapshot.dump.budget,
            self._kernel,
            self._self_map.paging.entry_bytes,
            frames,
            originals,
            entries,
        )

    def _last_owners(
        self, frames: NDArray[np.int64], tables: NDArray[np.int64], states: NDArray[np.uint8]
    ) -> NDArray[np.signedinteger[Any]]:
        """The process of each frame on a list whose entry is in a table of that process.

        `frames` are on a list, and have their entries in `tables`. The owner of a table is the
        process whose walk led to it. From a table that no walk led to, the records lead from table
        to table up to a top-level table.
        """
        owners = self._nobody()
        inside = tables < owners.size
        frames, at = frames[inside], tables[inside]
        owners[frames] = self._owners_of_tables()[at]
        unknown = owners[frames] == NOBODY
        frames, at = frames[unknown], at[unknown]
        for _ in range(len(self._self_map.paging.levels) - 1):
            at = self._tables_of(at, states)
            inside = at < owners.size
            frames, at = frames[inside], at[inside]
        process_of = self._nobody()
        for column in self._tops.T:
            known = np.flatnonzero(is_held(self._snapshot.dump, column))
            process_of[column[known]] = known
        owners[frames] = process_of[at]
        return owners

    def _tables_of(self, frames: NDArray[np.int64], states: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The frame of the table with each frame's entry, by its record; _NO_TABLE if unknown.

        The records of these few frames are read again: to keep it for all frames would take more
        memory than all that is kept of them.
        """
        asked, row = np.unique(frames, return_inverse=True)
        found = np.full(len(asked), _NO_TABLE)
        told = np.flatnonzero(look_up(_TOLD, states[asked]))
        for start in range(0, len(told), _FRAMES_AT_ONCE):
            some = told[start : start + _FRAMES_AT_ONCE]
            found[some] = self._database.layout.table_frames(self._database.records(asked[some]))
        return found[row]

    def _nobody(self) -> NDArray[np.signedinteger[Any]]:
        """NOBODY by PFN, with room for the index of any process."""
        kind = np.min_scalar_type(-len(self._snapshot.processes) - 1)
        return np.full(self._snapshot.dump.frame_count, NOBODY, kind)

    def _owners_of_tables(self) -> NDArray[np.signedinteger[Any]]:
        """By PFN the process whose table a frame is, as the walk of its tables met it."""
        rows = self._kernel.mappings
        own = (rows.count == 1) & (rows.space != SHARED) & self._self_map.shows(rows.virtual)
        owners = self._nobody()
        owners[rows.pfn[own]] = rows.space[own]
        return owners

    def _findings(self, columns: _Columns) -> NDArray[np.uint8]:
        """The disagreements between records and the page tables of live processes."""
        snapshot, count = self._snapshot, columns.states.size
        found = np.full(count, RecordFinding.NONE, np.uint8)
        for start in range(0, count, _FRAMES_AT_ONCE):
            some = slice(start, start + _FRAMES_AT_ONCE)
            classes, states, part = snapshot.classes[some], columns.states[some], found[some]
            mapped = are_among(classes, (PageClass.USER, PageClass.BOTH))
            part[mapped & look_up(_WITHOUT_USE, states)] = RecordFinding.FREE_BUT_MAPPED
            private = states == WindowsState.ACTIVE
            private &= columns.uses[some] == PageUse.PROCESS_PRIVATE
            private &= (snapshot.mapping_count[some] == 0) & snapshot.dump.held[some]
            part[private] = RecordFinding.PRIVATE_BUT_NOT_MAPPED
        return found


def _empty(records: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows with empty records.

    The kernel has empty records for frames that it does not manage.
    """
    words = records.view(np.uint32)
    for place in range(words.shape[1]):
        rows = rows[words[rows, place] == 0]
    return rows


def _frames_of(mappings: Mappings, frame_count: int) -> NDArray[np.bool_]:
    """The frames that some mappings lead to."""
    marks = np.zeros(frame_count, bool)
    if len(mappings.pfn):
        count = np.minimum(mappings.pfn + mappings.count, frame_count) - mappings.pfn
        mark_runs(marks, mappings.pfn, count)
    return marks
