"""The plainest possible reading of x86 page tables: one entry at a time, by recursion.

Slow and obvious, straight from the Intel SDM (volume 3A, 4.3 to 4.5), for the tests to check
forged dumps and the program's own walker with.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PRESENT, WRITE, USER, LARGE, PROTOTYPE, TRANSITION = 1, 2, 4, 0x80, 0x400, 0x800
NO_EXECUTE = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True)
class Page:
    """One leaf entry that Windows takes as present."""

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


def walk(memory: bytes | mmap.mmap, paging: str, table_base: int) -> Iterator[Page]:
    """All pages of the address space with this table base, page tables' own mapping included.

    `paging` is `x86`, `pae`, `x64` or `x64-5`; `memory` is all of physical memory.
    """
    shifts = {
        "x86": (22, 12),
        "pae": (30, 21, 12),
        "x64": (39, 30, 21, 12),
        "x64-5": (48, 39, 30, 21, 12),
    }[paging]
    mask = 0xFFFFFFE0 if paging == "pae" else ADDRESS
    yield from _walk(memory, paging, shifts, table_base & mask, 0, True, True, True)


def _walk(
    memory: bytes | mmap.mmap,
    paging: str,
    shifts: tuple[int, ...],
    table: int,
    base: int,
    user: bool,
    write: bool,
    execute: bool,
) -> Iterator[Page]:
    shift, is_pointer_table = shifts[0], paging == "pae" and len(shifts) == 3
    size = 4 if paging == "x86" else 8
    count = 4 if is_pointer_table else 4096 // size
    if table + count * size > len(memory):
        return
    for index in range(count):
        (entry,) = struct.unpack_from("<I" if size == 4 else "<Q", memory, table + index * size)
        in_transition = entry & (PRESENT | TRANSITION | PROTOTYPE) == TRANSITION
        if not (entry & PRESENT or in_transition):
            continue
        virtual = base + (index << shift)
        entry_user = user and (is_pointer_table or bool(entry & USER))
        entry_write = write and (is_pointer_table or bool(entry & WRITE))
        entry_execute = execute and (size == 4 or not entry & NO_EXECUTE)
        if in_transition:
            # A page's rights are then in the field Protection, bits 5 to 9 (ntosp.h, MM_...):
            # 2, 3, 6 and 7 allow to execute, 4 to 7 to write. A table's say nothing.
            protection = entry >> 5 & 31
            entry_write = write and (shift != 12 or bool(protection & 4))
            entry_execute = execute and (size == 4 or shift != 12 or bool(protection & 2))
        can_be_large = shift in (21, 30) if size == 8 else shift == 22
        if shift == 12 or (can_be_large and not is_pointer_table and entry & LARGE):
            physical = entry & ADDRESS & ~((1 << shift) - 1)
            top = {"x64": 47, "x64-5": 56}.get(paging)
            if top and virtual >> top:
                virtual |= (1 << 64) - (1 << top)
            yield Page(
                virtual,
                physical,
                1 << shift,
                entry_user,
                entry_write,
                entry_execute,
                in_transition,
            )
        else:
            below = entry & ADDRESS
            rights = (entry_user, entry_write, entry_execute)
            yield from _walk(memory, paging, shifts[1:], below, virtual, *rights)
