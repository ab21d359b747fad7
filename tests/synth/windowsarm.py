"""Write the memory of a synthetic 64-bit ARM Windows machine.

No symbol file of such a kernel is at hand, so objects have x64's layout; only the form of the page
tables differs. The sources are the Arm Architecture Reference Manual (D8.3) and MemProcFS
(vmm/mm/mm_arm64.c), which was tried on dumps of real machines: one page is the top level of both
halves, an entry of it leads to itself, pages in transition have bit 11 set and bits 0 and 10 clear,
and bit 55 allows writes.
"""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.synth import Truth, forge, profiles
from tests.synth.memory import PAGE_SIZE

_PRESENT, _WRITE, _USER, _LARGE, _NO_EXECUTE = 1, 2, 4, 1 << 7, 1 << 63
"""Bits of x64's entries."""
_ADDRESS = 0x0000_FFFF_FFFF_F000
_VALID, _TABLE_OR_PAGE, _AP_USER, _READ_ONLY = 1, 2, 1 << 6, 1 << 7
_SHARED, _ACCESSED, _NOT_GLOBAL = 3 << 8, 1 << 10, 1 << 11
_PXN, _UXN, _WRITABLE = 1 << 53, 1 << 54, 1 << 55
_LEVELS = 4


def forge_windows_on_arm64(
    path: Path,
    profile: str = "Win10x64_17763",
    *,
    size: int,
    seed: int = 0,
    objects: bool = False,
) -> Truth:
    """Write a raw dump; the truth about it is returned. `objects` as for forge.

    The truth is that of x64, with one exception: in the self-map, the entry of a large page is not
    a page of the kernel, since page entries have another form here.
    """
    truth = forge(path, profiles()[profile], size=size, seed=seed, objects=objects)
    before = bytearray(path.read_bytes())
    memory = bytearray(before)
    tops = {process.dtb // PAGE_SIZE for process in truth.processes if process.dtb}
    _convert(memory, tops)
    path.write_bytes(memory)
    rows = truth.mappings
    large = rows["frame"][rows["size"] > PAGE_SIZE]
    index = rows["virtual"] >> np.uint64(39) & np.uint64(511)
    is_own = np.isin(index, [_self_entry(before, frame) for frame in tops]) & ~rows["user"]
    is_own &= (rows["size"] == PAGE_SIZE) & np.isin(rows["frame"], large)
    # No flags stand beside the address of a table here.
    processes = tuple(
        replace(process, dtb=process.dtb // PAGE_SIZE * PAGE_SIZE) for process in truth.processes
    )
    return replace(truth, mappings=rows[~is_own], processes=processes)


def _convert(memory: bytearray, tops: set[int]) -> None:
    """Convert the descriptors of all tables below these, each table once."""
    own = {frame: _self_entry(memory, frame) for frame in tops}
    levels = [tops]
    known = set(tops)
    for number in range(_LEVELS - 1):
        below = set()
        for frame in levels[number]:
            for index, entry in enumerate(_entries(memory, frame)):
                is_own = number == 0 and index == own[frame]
                leads = entry & _PRESENT and not (number and entry & _LARGE) and not is_own
                target = (entry & _ADDRESS) // PAGE_SIZE
                if leads and target < len(memory) // PAGE_SIZE and target not in known:
                    below.add(target)
        known |= below
        levels.append(below)
    for number, frames in enumerate(levels):
        for frame in frames:
            new = [_descriptor(entry, number) for entry in _entries(memory, frame)]
            struct.pack_into("<512Q", memory, frame * PAGE_SIZE, *new)


def _entries(memory: bytearray, frame: int) -> tuple[int, ...]:
    return struct.unpack_from("<512Q", memory, frame * PAGE_SIZE)


def _self_entry(memory: bytearray, frame: int) -> int:
    """The index of the entry by which a top-level table leads to itself."""
    entries = enumerate(_entries(memory, frame))
    return next(i for i, e in entries if e & _PRESENT and (e & _ADDRESS) // PAGE_SIZE == frame)


def _descriptor(entry: int, level: int) -> int:
    """An entry of x64 in the other processor's form, unchanged if it is not present."""
    if not entry & _PRESENT:
        return entry
    is_leaf = level == _LEVELS - 1 or (level and entry & _LARGE)
    if not is_leaf:
        # In the self-map it also serves as the entry of a page.
        return entry & _ADDRESS | _VALID | _TABLE_OR_PAGE | _ACCESSED | _SHARED | _PXN | _UXN
    leaf = entry & _ADDRESS | _VALID | _SHARED | _ACCESSED
    leaf |= _TABLE_OR_PAGE if level == _LEVELS - 1 else 0
    leaf |= _WRITABLE if entry & _WRITE else _READ_ONLY
    if not entry & _USER:
        return leaf | _UXN | (_PXN if entry & _NO_EXECUTE else 0)
    return leaf | _AP_USER | _NOT_GLOBAL | _PXN | (_UXN if entry & _NO_EXECUTE else 0)
