"""Write the memory of a synthetic 64-bit ARM Linux machine, with pages of 4 KiB and 48 bits.

Everything except the page tables and a few lines of VMCOREINFO is as on x86-64. So the tables,
which have the same levels, are made as there, and then each descriptor is converted by the Arm
Architecture Reference Manual (D8.3) and the kernel's arch/arm64/include/asm/pgtable-prot.h.
Processes do not have the kernel's half.
"""

import struct
from pathlib import Path

from tests.synth.eras import ERAS
from tests.synth.linux import _IMAGE_BASE, MIB, LinuxTruth, _Machine
from tests.synth.memory import PAGE_SIZE

_PRESENT, _WRITE, _USER, _LARGE, _NONE, _NO_EXECUTE = 1, 2, 4, 1 << 7, 1 << 8, 1 << 63
"""Bits of x86's entries."""
_ADDRESS = 0x000F_FFFF_FFFF_F000
_VALID, _TABLE_OR_PAGE, _AP_USER, _READ_ONLY = 1, 2, 1 << 6, 1 << 7
_SHARED, _ACCESSED, _NOT_GLOBAL = 3 << 8, 1 << 10, 1 << 11
_PXN, _UXN, _PXN_TABLE, _UXN_TABLE = 1 << 53, 1 << 54, 1 << 59, 1 << 60
_PROTECTION_NONE_BEFORE_6_10 = 1 << 58
_NEW_ERAS = ("6.10", "6.11", "6.12", "6.14", "7.0")


def forge_linux_on_arm64(
    path: Path, era: str = "6.12", *, size: int = 32 * MIB, seed: int = 0
) -> LinuxTruth:
    """Write a raw dump of so many bytes, from address 0 on; the truth about it is returned."""
    return _ArmMachine(ERAS[era], era, size, seed).write(path)


class _ArmMachine(_Machine):
    def __init__(self, era: object, name: str, size: int, seed: int) -> None:
        super().__init__(era, size, False, False, False, 6, seed)  # type: ignore[arg-type]
        self._is_new = name in _NEW_ERAS
        # The direct map comes first in the kernel's half.
        chance = int(self.rng.integers(1, 64)) << 30
        self.direct, self.vmemmap = (0xFFFF << 48) + chance, (0xFFFF_FC00 << 32) + chance

    def _tell(self) -> None:
        self.symbols.pop("pgd_list")  # there is no such half
        super()._tell()

    def _lines(self, parts: dict[str, int]) -> dict[str, int | str]:
        lines = super()._lines(parts)
        for name in ("NUMBER(phys_base)", "NUMBER(pgtable_l5_enabled)"):
            lines.pop(name, None)
        return {
            "PAGESIZE": 4096,
            **lines,
            "NUMBER(VA_BITS)": 48,
            "NUMBER(kimage_voffset)": _IMAGE_BASE - self.phys_base,
            "NUMBER(PHYS_OFFSET)": 0,
            "NUMBER(TCR_EL1_T1SZ)": 16,
        }

    def _share_kernel_half(self) -> None:
        """Nothing is shared here: the tables are only converted for the other processor."""
        for tables, _ in self.user_tables:
            for frame in [*tables.frames[-1], *tables.frames[-2]]:
                if frame != tables.top:
                    self.pages[frame].type = self.era.table
            self._convert(tables.frames, is_user=True)
        self._convert(self.kernel.frames, is_user=False)

    def _convert(self, levels: list[list[int]], *, is_user: bool) -> None:
        for number, frames in enumerate(levels):
            is_last = number == len(levels) - 1
            for frame in frames:
                entries = struct.unpack("<512Q", self.peek(frame * PAGE_SIZE, PAGE_SIZE))
                new = [
                    self._descriptor(entry, is_last, is_user) if entry else 0 for entry in entries
                ]
                self.poke(frame * PAGE_SIZE, struct.pack("<512Q", *new))

    def _descriptor(self, entry: int, is_last: bool, is_user: bool) -> int:
        if not entry & _PRESENT:
            return self._invalid(entry, is_last) if entry & _NONE else entry
        address = entry & _ADDRESS
        if not is_last and not entry & _LARGE:
            return address | _VALID | _TABLE_OR_PAGE | (_PXN_TABLE if is_user else _UXN_TABLE)
        leaf = address | _VALID | _SHARED | _ACCESSED
        leaf |= _PXN if is_user or entry & _NO_EXECUTE else 0
        leaf |= _TABLE_OR_PAGE if is_last else 0
        leaf |= 0 if entry & _WRITE else _READ_ONLY
        if is_user:
            return leaf | _AP_USER | _NOT_GLOBAL | (_UXN if entry & _NO_EXECUTE else 0)
        return leaf | _UXN

    def _invalid(self, entry: int, is_last: bool) -> int:
        """A page of PROT_NONE, whose address is not inverted."""
        address = entry & _ADDRESS
        if self.era.inverts:
            address ^= _ADDRESS
        bits = _READ_ONLY | _SHARED | _ACCESSED | _PXN | _UXN | (_TABLE_OR_PAGE if is_last else 0)
        return address | bits | (_NOT_GLOBAL if self._is_new else _PROTECTION_NONE_BEFORE_6_10)
