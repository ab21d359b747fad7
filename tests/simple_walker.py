"""The plainest reader of page tables: one entry at a time, by recursion.

It is slow and obvious, straight from the Intel SDM (volume 3A, 4.3 to 4.5) and the Arm Architecture
Reference Manual (D8.2 to D8.4). It checks synthetic dumps and the program's own walker.

A page is not a table if most of its entries that lead somewhere break the manual's rules, or name
neither memory nor a device; in a table, entries that break the rules lead nowhere. A table ends at
the first broken entry from which on most entries are broken: see `end_of_table`.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PRESENT, WRITE, USER, LARGE, PROTOTYPE, TRANSITION = 1, 2, 4, 0x80, 0x400, 0x800
NO_EXECUTE = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
PHYSICAL_BITS = 46
"""MAXPHYADDR of the machines in the tests; higher bits of an address are reserved."""
GIB = 1 << 30


def reach(memory: bytes | mmap.mmap, tops: Sequence[Sequence[int]]) -> int:
    """The power of two below which a machine's memory lies, estimated from this much memory.

    It is 16 GiB or 64 times the dump's memory, or more if the top-level tables say so: each item of
    `tops` has the addresses of the tables that one of them names. The power that suffices for three
    quarters of these is its vote; with three votes or more, the lower half counts.
    """
    votes = sorted(sorted(named)[3 * (len(named) - 1) // 4] for named in tops if named)
    needed = votes[(len(votes) - 1) // 2] + 1 if len(votes) > 2 else 1
    reached = 1
    while reached < max(16 * GIB, 64 * len(memory), needed):
        reached *= 2
    return reached


def are_beyond(
    pages: Sequence[tuple[int, int]], tables: Sequence[int], size: int, count: int, end: int
) -> int:
    """How many of a table's entries name neither memory below `end` nor a device.

    `pages` are index and address of each page of `size` that it maps, `tables` the addresses of the
    tables that it names, `count` is its number of entries of both kinds. Tables lie in memory. The
    pages of a device adjoin, or lie in the same gigabyte as others that do.
    """
    far = [page for page in pages if page[1] >= end]
    beyond = sum(address >= end for address in tables)
    if count < 8:
        return beyond
    devices = set()
    known = set(far)
    for index, address in far:
        if (index + 1, address + size) in known:
            devices |= {address // GIB, (address + size) // GIB}
    return beyond + sum(address // GIB not in devices for _, address in far)


def end_of_table(are_broken: Sequence[bool | None]) -> int:
    """The index at which a table ends; `are_broken` has None for unused entries.

    The end is the first broken entry from which on more than half are broken.
    """
    for index, is_broken in enumerate(are_broken):
        if is_broken:
            rest = [one for one in are_broken[index:] if one is not None]
            if 2 * sum(rest) > len(rest):
                return index
    return len(are_broken)


@dataclass(frozen=True)
class Page:
    """A leaf entry that Windows takes as present."""

    virtual: int
    physical: int
    size: int
    user: bool
    """U/S is set in the entries of all levels."""
    write: bool
    """R/W is set in the entries of all levels."""
    execute: bool
    """No-execute is clear in the entries of all levels."""
    transition: bool


def walk(
    memory: bytes | mmap.mmap,
    paging: str,
    table_base: int,
    *,
    is_windows: bool = True,
    bases: Sequence[int] = (),
) -> Iterator[Page]:
    """All pages of the address space with this table base, including the page tables' own mapping.

    `paging` is `x86`, `pae`, `x64` or `x64-5`; `memory` is all of physical memory. `is_windows`
    says whether entries that are not present may be pages in transition. `bases` are the table
    bases of all address spaces, if there are others: see `reach`.
    """
    shifts = {
        "x86": (22, 12),
        "pae": (30, 21, 12),
        "x64": (39, 30, 21, 12),
        "x64-5": (48, 39, 30, 21, 12),
    }[paging]
    mask = 0xFFFFFFE0 if paging == "pae" else ADDRESS
    walker = _Walker(memory, paging, is_windows, 0)
    tops = {base & mask for base in bases or [table_base]}
    if paging == "pae":
        pointers = [struct.unpack_from("<4Q", memory, top) for top in tops]
        tops = {pointer & ADDRESS for four in pointers for pointer in four}
    shift = shifts[1] if paging == "pae" else shifts[0]
    end = reach(memory, [walker.tables_named(shift, top) for top in tops])
    walker = _Walker(memory, paging, is_windows, end)
    yield from walker.walk(shifts, table_base & mask, 0, True, True, True)


@dataclass(frozen=True)
class _Walker:
    memory: bytes | mmap.mmap
    paging: str
    is_windows: bool
    end: int
    """All memory lies below this address: see `reach`."""

    def tables_named(self, shift: int, table: int) -> list[int]:
        """The addresses of the tables that a top-level table names."""
        size = 4 if self.paging == "x86" else 8
        if table + 4096 > len(self.memory):
            return []
        entries = struct.unpack_from(
            f"<{4096 // size}{'I' if size == 4 else 'Q'}", self.memory, table
        )
        return [
            self.address(entry)
            for entry in entries
            if self.leads(entry)
            and not self.is_broken(entry, shift)
            and not self.is_large(entry, shift)
        ]

    def walk(
        self,
        shifts: tuple[int, ...],
        table: int,
        base: int,
        user: bool,
        write: bool,
        execute: bool,
    ) -> Iterator[Page]:
        shift, is_pointer_table = shifts[0], self.paging == "pae" and len(shifts) == 3
        size = 4 if self.paging == "x86" else 8
        count = 4 if is_pointer_table else 4096 // size
        if table + count * size > len(self.memory):
            return
        entries = struct.unpack_from(f"<{count}{'I' if size == 4 else 'Q'}", self.memory, table)
        leading = [entry for entry in entries if self.leads(entry)]
        broken = [entry for entry in leading if self.is_broken(entry, shift)]
        against = len(broken) + self.beyond(entries, shift)
        if 2 * against > len(leading) and not is_pointer_table:
            return
        are_broken = [
            self.is_broken(entry, shift) if self.leads(entry) else None for entry in entries
        ]
        end = count if is_pointer_table else end_of_table(are_broken)
        for index, entry in enumerate(entries[:end]):
            if not self.leads(entry) or self.is_broken(entry, shift):
                continue
            virtual = base + (index << shift)
            entry_user = user and (is_pointer_table or bool(entry & USER))
            entry_write = write and (is_pointer_table or bool(entry & WRITE))
            entry_execute = execute and (size == 4 or not entry & NO_EXECUTE)
            in_transition = not entry & PRESENT
            if in_transition:
                # The field Protection, bits 5 to 9, then has a page's rights (ntosp.h, MM_...):
                # 2, 3, 6 and 7 allow execution, 4 to 7 writing. A table's bits have no meaning.
                protection = entry >> 5 & 31
                entry_write = write and (shift != 12 or bool(protection & 4))
                entry_execute = execute and (size == 4 or shift != 12 or bool(protection & 2))
            if shift == 12 or self.is_large(entry, shift):
                top = {"x64": 47, "x64-5": 56}.get(self.paging)
                if top and virtual >> top:
                    virtual |= (1 << 64) - (1 << top)
                yield Page(
                    virtual,
                    self.page_address(entry, shift),
                    1 << shift,
                    entry_user,
                    entry_write,
                    entry_execute,
                    in_transition,
                )
            else:
                below = self.address(entry)
                rights = (entry_user, entry_write, entry_execute)
                yield from self.walk(shifts[1:], below, virtual, *rights)

    def beyond(self, entries: Sequence[int], shift: int) -> int:
        """How many of a table's entries name neither memory nor a device: see `are_beyond`."""
        pages, tables = [], []
        for index, entry in enumerate(entries):
            if not self.leads(entry) or self.is_broken(entry, shift):
                continue
            if shift == 12 or self.is_large(entry, shift):
                pages.append((index, self.page_address(entry, shift)))
            else:
                tables.append(self.address(entry))
        return are_beyond(pages, tables, 1 << shift, len(pages) + len(tables), self.end)

    def leads(self, entry: int) -> bool:
        """Whether the entry is present, or Windows has its page in transition."""
        in_transition = entry & (PRESENT | TRANSITION | PROTOTYPE) == TRANSITION
        return bool(entry & PRESENT) or (self.is_windows and in_transition)

    def is_large(self, entry: int, shift: int) -> bool:
        """Whether PS is set on a level that has it; a page in transition has another bit there."""
        levels = {"x86": (22,), "pae": (21,), "x64": (21, 30), "x64-5": (21, 30)}[self.paging]
        return shift in levels and bool(entry & PRESENT) and bool(entry & LARGE)

    def is_broken(self, entry: int, shift: int) -> bool:
        """Whether a bit is set that must be zero: tables 4-5, 4-6 and 4-8 to 4-20 of the manual."""
        if self.paging == "x86":
            return self.is_large(entry, shift) and bool(entry >> 21 & 1)
        if not entry & PRESENT:
            # A single bit above the address keeps the processor from guessing; more are damage.
            return (entry >> 45 & 0x7F).bit_count() > 1
        if entry >> PHYSICAL_BITS & (1 << 52 - PHYSICAL_BITS) - 1:
            return True
        if self.paging == "pae" and shift == 30:
            return bool(entry & 0b1_1110_0110) or bool(entry >> 52)
        if self.paging == "pae" and entry >> 52 & 0x7FF:
            return True
        if shift in (39, 48):
            return bool(entry & LARGE)
        if self.is_large(entry, shift):
            return bool(entry >> 13 & (1 << shift - 13) - 1)
        return False

    def address(self, entry: int) -> int:
        """The address of the table or small page."""
        if self.paging != "x86" and not entry & PRESENT:
            return entry & ADDRESS & (1 << 45) - 1
        return entry & ADDRESS

    def page_address(self, entry: int, shift: int) -> int:
        """The address of the page."""
        address = self.address(entry) & ~((1 << shift) - 1)
        if self.paging == "x86" and shift == 22:
            address |= (entry >> 13 & 0xFF) << 32  # PSE-36
        return address


# -- 64-bit ARM ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmPage:
    """A leaf descriptor: a block or a page."""

    virtual: int
    physical: int
    size: int
    el0: bool
    """Whether user mode (EL0) may read, write or execute it."""
    write: bool
    execute: bool
    """For EL0 if it may use the page at all, else for the kernel (EL1)."""


@dataclass(frozen=True)
class ArmRegime:
    """The fields of TCR_EL1 for one half of the addresses."""

    page_bits: int
    """12, 14 or 16, by TG0 or TG1."""
    address_bits: int
    """64 less T0SZ or T1SZ."""
    upper: bool = False
    """Whether it is the half of TTBR1_EL1."""
    ds: bool = False
    """FEAT_LPA2: addresses of 52 bits with pages of 4 or 16 KiB."""


def walk_arm(memory: bytes | mmap.mmap, regime: ArmRegime, table_base: int) -> Iterator[ArmPage]:
    """All pages of the half with this table base (BADDR)."""
    bits = regime.page_bits - 3
    level = 4 - -(-(regime.address_bits - regime.page_bits) // bits)
    shift = regime.page_bits + bits * (3 - level)
    count = 1 << (regime.address_bits - shift)
    tops = []
    # Parts of a table with a frame each are judged on their own.
    for first in range(0, count, 512):
        at, number = table_base + 8 * first, min(512, count)
        if at // 4096 * 4096 + 4096 <= len(memory):
            entries = struct.unpack_from(f"<{number}Q", memory, at)
            tops.append(_arm_named(regime, entries, level, shift)[1])
    barred = False, False, False, False
    end = reach(memory, tops)
    yield from _arm_level(memory, regime, end, table_base, level, 0, barred)


def _arm_named(
    regime: ArmRegime, entries: Sequence[int], level: int, shift: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """The pages that a table maps, with their entries' indices, and the tables that it names."""
    pages, tables = [], []
    for index, entry in enumerate(entries):
        if not entry & 1 or _arm_is_broken(regime, entry, level, shift):
            continue
        address = _arm_address(regime, entry)
        if level < 3 and entry & 2:
            tables.append(address)
        else:
            pages.append((index, address >> shift << shift))
    return pages, tables


def _arm_level(
    memory: bytes | mmap.mmap,
    regime: ArmRegime,
    end: int,
    table: int,
    level: int,
    base: int,
    barred: tuple[bool, bool, bool, bool],
) -> Iterator[ArmPage]:
    """`barred`: APTable[0], APTable[1], UXNTable and PXNTable of the levels above, together."""
    bits = regime.page_bits - 3
    shift = regime.page_bits + bits * (3 - level)
    is_root = shift + bits >= regime.address_bits
    count = 1 << (min(regime.address_bits, shift + bits) - shift)
    # A part of 4 KiB, a dump's unit, that does not hold a table's entries is left out.
    for first in range(0, count, 512):
        some = range(first, min(first + 512, count))
        if table + 8 * some.start + min(4096, 8 * count) > len(memory):
            continue
        entries = [
            int.from_bytes(memory[table + 8 * n : table + 8 * n + 8], "little") for n in some
        ]
        valid = [entry for entry in entries if entry & 1]
        broken = [entry for entry in valid if _arm_is_broken(regime, entry, level, shift)]
        pages, tables = _arm_named(regime, entries, level, shift)
        against = len(broken) + are_beyond(pages, tables, 1 << shift, len(pages) + len(tables), end)
        if 2 * against > len(valid) and not (is_root and count < 512):
            continue
        are_broken = [
            None
            if not entry & 1 or _arm_is_reserved(regime, entry, level)
            else _arm_is_broken(regime, entry, level, shift)
            for entry in entries
        ]
        stop = len(entries) if is_root and count < 512 else end_of_table(are_broken)
        for number, entry in zip(some[:stop], entries[:stop], strict=True):
            if not entry & 1 or _arm_is_broken(regime, entry, level, shift):
                continue
            virtual = base + (number << shift)
            if level < 3 and entry & 2:
                above = tuple(
                    was or bool(entry >> bit & 1)
                    for was, bit in zip(barred, (61, 62, 60, 59), strict=True)
                )
                below = _arm_address(regime, entry)
                yield from _arm_level(memory, regime, end, below, level + 1, virtual, above)  # type: ignore[arg-type]
            else:
                yield _arm_page(regime, entry, virtual, shift, barred)


def _arm_page(
    regime: ArmRegime,
    entry: int,
    virtual: int,
    shift: int,
    barred: tuple[bool, bool, bool, bool],
) -> ArmPage:
    el0_access, read_only = bool(entry >> 6 & 1), bool(entry >> 7 & 1)
    dbm, pxn, uxn = (bool(entry >> bit & 1) for bit in (51, 53, 54))
    el0_executes = not regime.upper and not uxn
    el0 = (el0_access or el0_executes) and not barred[0]
    execute = not (uxn if el0_access or el0_executes else pxn)
    return ArmPage(
        virtual | ((1 << 64) - (1 << regime.address_bits) if regime.upper else 0),
        _arm_address(regime, entry) >> shift << shift,
        1 << shift,
        el0,
        (not read_only or dbm) and not barred[1],
        execute and not (barred[3] if regime.upper else barred[2]),
    )


def _arm_address(regime: ArmRegime, entry: int) -> int:
    """The output address, or the next table's (figures D8-14 to D8-17)."""
    low = entry & (1 << (50 if regime.ds else 48)) - (1 << regime.page_bits)
    if regime.page_bits == 16:
        return low | (entry >> 12 & 0xF) << 48
    return low | (entry >> 8 & 3) << 50 if regime.ds else low


def _arm_is_reserved(regime: ArmRegime, entry: int, level: int) -> bool:
    """Whether a valid descriptor's type is reserved: the processor takes it as not valid."""
    blocks = {12: (1, 2), 14: (2,), 16: (1, 2)}[regime.page_bits]
    if regime.ds:
        blocks = {12: (0, 1, 2), 14: (1, 2)}[regime.page_bits]
    return not entry & 2 and level not in blocks


def _arm_is_broken(regime: ArmRegime, entry: int, level: int, shift: int) -> bool:
    """Whether a valid descriptor is reserved, or has bits set that are RES0."""
    if _arm_is_reserved(regime, entry, level):
        return True
    if not regime.ds and regime.page_bits != 16 and entry >> 48 & 3:
        return True
    if entry & 2:
        return False
    low = 17 if regime.page_bits == 16 else 12
    return bool((entry & (1 << shift) - 1) >> low << low & ~(1 << 16))
