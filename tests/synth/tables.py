"""Page tables under construction, for each of Windows' three paging modes on x86.

The bits are those of the Intel SDM, volume 3A, chapter 4; what a not-present entry means is
Windows' own (Windows Internals, "Page faults").
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.synth.memory import PAGE_SIZE, Frames, PhysicalMemory
from tests.synth.truth import Ledger

PRESENT = 1 << 0
WRITE = 1 << 1
USER = 1 << 2
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7
PROTOTYPE = 1 << 10
TRANSITION = 1 << 11
NO_EXECUTE = 1 << 63
READ_WRITE_PROTECTION = 4 << 5
"""MM_READWRITE in the protection field of an entry that is not present."""

Entries = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Paging:
    """One paging mode."""

    name: str
    entry_size: int
    """Bytes of an entry."""
    shifts: tuple[int, ...]
    """For each level, from the top: an entry covers ``2**shift`` bytes."""
    top_frames: int
    """Frames of the top level; PAE has four page directories side by side."""
    self_index: int
    """The first top-level entry through which the tables map themselves."""
    transition_mark: int = 0
    """A further bit of entries of pages in transition: since 2018 a bit above the address."""

    @property
    def address_bits(self) -> int:
        """Bits of a virtual address that are translated."""
        return self.shifts[0] + (self.top_frames * PAGE_SIZE // self.entry_size - 1).bit_length()

    @property
    def entries(self) -> int:
        """Entries of a table below the top."""
        return PAGE_SIZE // self.entry_size

    @property
    def has_no_execute(self) -> bool:
        """Whether entries have a no-execute bit."""
        return self.entry_size == 8

    def canonical(self, virtual: int) -> int:
        """The canonical address: the bits above the translated bits have their required values."""
        if self.address_bits > 32 and virtual >> (self.address_bits - 1) & 1:
            return virtual | (1 << 64) - (1 << self.address_bits)
        return virtual

    def through_self_map(self, virtual: int, times: int) -> int:
        """The address in the self-map of the entry that maps `virtual`.

        With `times` 2, of the entry that maps this entry, and so on.
        """
        base = self.canonical(self.self_index << self.shifts[0])
        for _ in range(times):
            virtual = base + ((virtual & (1 << self.address_bits) - 1) >> 12) * self.entry_size
        return virtual


X86 = Paging("x86", 4, (22, 12), 1, 0x300)
PAE = Paging("pae", 8, (21, 12), 4, 0x600)
X64 = Paging("x64", 8, (39, 30, 21, 12), 1, 0x1ED)
X64_5_LEVELS = Paging("x64-5", 8, (48, 39, 30, 21, 12), 1, 0x1ED)


class TableTree:
    """The tables below some top-level entries, which one or several address spaces use."""

    def __init__(self, memory: PhysicalMemory, ledger: Ledger, paging: Paging, owner: int) -> None:
        self.paging = paging
        self.top: dict[int, int] = {}
        """Top-level index to entry."""
        self._memory = memory
        self._ledger = ledger
        self._owner = owner
        self._tables: dict[tuple[int, int], tuple[Entries, bool]] = {}
        self._table_frames: dict[tuple[int, int], int] = {}

    def map(
        self,
        virtual: int,
        frames: Frames,
        *,
        user: bool,
        size: int = PAGE_SIZE,
        write: bool = True,
        execute: bool = False,
        transition: bool = False,
        user_above: bool | None = None,
        use: str = "kernel",
    ) -> None:
        """Map consecutive pages of `size` bytes that begin at these frames.

        `user` is the leaf's U/S bit, `user_above` that of the levels above (by default the same).
        `transition` makes the pages not present to the processor, though the process still has
        them, as Windows does when it trims a working set.
        `use` is the page frame database's word for the pages, unless it has another one already.
        """
        shift = size.bit_length() - 1
        above = user if user_above is None else user_above
        flags = TRANSITION | READ_WRITE_PROTECTION if transition else PRESENT | ACCESSED
        flags |= self.paging.transition_mark if transition else 0
        flags |= USER if user else 0
        flags |= WRITE | (0 if transition else DIRTY) if write else 0
        flags |= LARGE if shift > 12 else 0
        if self.paging.has_no_execute and not execute and not transition:
            flags |= NO_EXECUTE
        entries = frames.astype(np.uint64) << np.uint64(12) | np.uint64(flags)
        self._write(virtual, entries, shift, above)
        self._ledger.note(
            frames,
            virtual,
            self._owner,
            size=size,
            user=user and above,
            transition=transition,
        )
        self._log_pages(virtual, frames, shift, use, transition=transition)
        # In the self-map, the entry of a large page reads as the entry of a smaller page: the first
        # part of the page is visible there, to the kernel only.
        levels = self.paging.shifts[self.paging.shifts.index(shift) + 1 :]
        for times, seen_shift in enumerate(levels, start=1):
            for position, frame in enumerate(frames):
                shown = self.paging.through_self_map(virtual + position * size, times)
                self._ledger.note(
                    np.array([frame]), shown, self._owner, size=1 << seen_shift, user=False
                )

    def _log_pages(
        self, virtual: int, frames: Frames, shift: int, use: str, *, transition: bool
    ) -> None:
        """Note what the page frame database says of pages, and by which entry they are mapped."""
        log, paging = self._ledger.log, self.paging
        if log is None:
            return
        times = len(paging.shifts) - paging.shifts.index(shift)
        step = paging.entry_size
        entries = paging.through_self_map(virtual, times) + np.arange(
            len(frames), dtype=np.uint64
        ) * np.uint64(step)
        if shift == paging.shifts[0]:
            tables = np.zeros(len(frames), np.int64)
        else:
            parent = paging.shifts[paging.shifts.index(shift) - 1]
            inside = virtual & (1 << paging.address_bits) - 1
            start = (np.arange(len(frames), dtype=np.int64) + (inside >> shift)) >> (parent - shift)
            tables = np.zeros(len(frames), np.int64)
            for one in np.unique(start).tolist():
                tables[start == one] = self._table_frames[one << parent, parent]
        pages = 1 << (shift - 12)
        log.note(
            (frames[:, None] + np.arange(pages)).ravel(),
            use,
            np.repeat(entries, pages),
            np.repeat(tables, pages),
            state=log.trimmed_state() if transition else "active",
            owner=self._owner,
        )

    def write_raw(self, virtual: int, values: npt.NDArray[np.uint64], *, user: bool) -> None:
        """Write leaf entries that map nothing."""
        self._write(virtual, values, 12, user)

    def _write(self, virtual: int, values: npt.NDArray[np.uint64], shift: int, user: bool) -> None:
        written = 0
        while written < len(values):
            at = (virtual & (1 << self.paging.address_bits) - 1) + (written << shift)
            if shift == self.paging.shifts[0]:
                self.top[at >> shift] = int(values[written])
                written += 1
                continue
            parent_shift = self.paging.shifts[self.paging.shifts.index(shift) - 1]
            table = self._table(at >> parent_shift << parent_shift, parent_shift, user)
            index = (at >> shift) % self.paging.entries
            part = values[written : written + self.paging.entries - index]
            if table[index : index + len(part)].any():
                raise ValueError(f"something is mapped at {at:#x} already")
            table[index : index + len(part)] = part
            written += len(part)

    def _table(self, start: int, shift: int, user: bool) -> Entries:
        """The table that covers 2**shift bytes from `start` on; it is made if it is missing."""
        known = self._tables.get((start, shift))
        if known is not None:
            table, made_for_user = known
            if made_for_user != user:
                raise ValueError(f"the table at {start:#x} cannot be for user and kernel")
            return table
        frame = self._memory.allocate()
        depth = self.paging.shifts.index(shift)
        shown = self.paging.through_self_map(
            self.paging.canonical(start), len(self.paging.shifts) - 1 - depth
        )
        self._ledger.note(frame, shown, self._owner, size=PAGE_SIZE, user=False)
        self._table_frames[start, shift] = int(frame[0])
        entry = int(frame[0]) << 12 | PRESENT | WRITE | ACCESSED | (USER if user else 0)
        self._write(start, np.array([entry], dtype=np.uint64), shift, user)
        if (log := self._ledger.log) is not None:
            parent = 0
            if depth:
                above = self.paging.shifts[depth - 1]
                parent = self._table_frames[start >> above << above, above]
            address = np.array([self.paging.through_self_map(shown, 1)], np.uint64)
            log.note(frame, "page table", address, parent)
            if not depth:
                log.note_below_top(int(frame[0]), start >> shift, self)
        table = table_in(self._memory.page(int(frame[0])), self.paging)
        self._tables[start, shift] = table, user
        return table


class AddressSpace:
    """The top-level table of a process, filled from the trees that it uses."""

    def __init__(
        self, memory: PhysicalMemory, ledger: Ledger, paging: Paging, owner: int, frames: Frames
    ) -> None:
        self._memory = memory
        self._paging = paging
        self.frames = frames
        """The frames of the top level."""
        self.trees: list[TableTree] = []
        self.bars_user_code = False
        """Whether user pages are executable only through the shadow of this table (KVA shadow)."""
        ledger.note(
            frames,
            paging.through_self_map(0, len(paging.shifts)),
            owner,
            size=PAGE_SIZE,
            user=False,
        )
        self._log = ledger.log
        if self._log is not None:
            shown = paging.through_self_map(0, len(paging.shifts))
            entry = paging.through_self_map(shown, 1)
            entries = np.arange(len(frames), dtype=np.uint64) * np.uint64(paging.entry_size)
            own = int(frames[paging.self_index // paging.entries])
            self._log.note(frames, "page table", np.uint64(entry) + entries, own)

    def finish(self) -> None:
        """Write the top level: the entries of the trees, and the table's entry for itself."""
        tables = [table_in(self._memory.page(int(f)), self._paging) for f in self.frames]
        own = {
            self._paging.self_index + i: int(frame) << 12 | PRESENT | WRITE | ACCESSED | DIRTY
            for i, frame in enumerate(self.frames)
        }
        for entries in [*(tree.top for tree in self.trees), own]:
            for index, entry in entries.items():
                barred = NO_EXECUTE if self.bars_user_code and entry & USER else 0
                table = tables[index // self._paging.entries]
                table[index % self._paging.entries] = entry | barred
        if self._log is not None:
            for tree in self.trees:
                self._log.settle(
                    tree, lambda index: int(self.frames[index // self._paging.entries])
                )


def table_in(page: bytearray, paging: Paging) -> Entries:
    """A view of the page's entries, for reading and writing."""
    return np.frombuffer(page, dtype="<u4" if paging.entry_size == 4 else "<u8")
