"""The structure offsets and signatures of versions of Windows.

`profiles.json` is written by `tests/volatility2/profilelayouts.py` from the profile objects of
Volatility 2.6.1 itself, `builds.json` by `tests/synth/builds.py` from symbol files of later
builds; their docstrings have the commands.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Profile:
    """One Windows version, with the data of Volatility 2's profile of the same name."""

    name: str
    bits: int
    """32 or 64."""
    version: tuple[int, int]
    """NT major and minor version; Volatility calls Windows 10 6.4."""
    build: int
    """Build number, 0 where the profile names none (Windows XP)."""
    process_signature: bytes
    """First four bytes of every process object: the dispatcher header's type and size."""
    kdbg_header: bytes
    """The bytes around the tag `KDBG` that Volatility searches for."""
    structures: Mapping[str, Mapping[str, Any]]
    frame_record: Mapping[str, Any]
    """Of `_MMPFN`: its size, and members as byte, first bit and end (0 to 0: a whole word)."""
    bit_fields: Mapping[str, Mapping[str, tuple[int, int, int]]]
    """Members of structures of bit fields: byte, first bit and end."""
    vad_root: str
    """What VadRoot of a process is: `pointer`, `_MM_AVL_TABLE` or `_RTL_AVL_TREE`."""
    pdb: str
    """GUID and age of the kernel's symbols, as in ``606FF669409B00F7FC8C61A9C1670129-1``: of the
    real identity, or an invented one if the real kernel's symbols are unknown."""
    symbols: Mapping[str, int]
    """Offsets in the real kernel's image of the symbols that the writer uses; empty if unknown."""

    @property
    def pointer_size(self) -> int:
        """Size of a pointer in bytes."""
        return self.bits // 8

    @property
    def service_pack(self) -> int:
        """The service pack that the profile's name tells, else 0."""
        told = re.search(r"SP(\d)", self.name)
        return int(told[1]) if told else 0

    @property
    def kdbg_size(self) -> int:
        """Size of the kernel debugger block in bytes, by its header."""
        return int.from_bytes(self.kdbg_header[-2:], "little")

    @property
    def encodes_kdbg(self) -> bool:
        """Whether the running kernel keeps its debugger block encoded (64-bit, Windows 8 on)."""
        return self.bits == 64 and self.version >= (6, 2)

    @property
    def randomises_self_map(self) -> bool:
        """Whether the page tables' own mapping moves at each boot (Windows 10 1607 on)."""
        return self.bits == 64 and self.version >= (6, 4) and self.build >= 14393

    @property
    def marks_transition(self) -> bool:
        """Whether entries of pages in transition have a bit set above the address (L1TF, 2018).

        False for versions with a Volatility 2 profile, which would not find these pages.
        """
        return self.bits == 64 and self.version >= (6, 4) and self.build > 17763

    @property
    def tells_system_types(self) -> bool:
        """Whether the kernel has SystemVaType, a byte for each top-level entry of its half."""
        return self.bits == 64 and self.version >= (6, 4) and self.build >= 15063

    @property
    def has_shadow_tables(self) -> bool:
        """Whether a process may have a second top-level table, for user mode (2018 on)."""
        return self.has("_KPROCESS", "UserDirectoryTableBase")

    @property
    def may_lack_pae(self) -> bool:
        """Whether this kernel also ran without PAE: 32-bit, before Windows 8."""
        return self.bits == 32 and self.version < (6, 2)

    @property
    def usually_has_pae(self) -> bool:
        """Whether most machines with this 32-bit kernel ran with PAE (for NX, from Vista on)."""
        return self.bits == 32 and self.version >= (6, 0)

    @property
    def family(self) -> str:
        """The name of the kernel generation that profiles share, such as `xp-x86`."""
        names = {
            (5, 1): "xp",
            (5, 2): "2003",
            (6, 0): "vista",
            (6, 1): "7",
            (6, 2): "8",
            (6, 3): "8.1",
            (6, 4): "10",
        }
        return f"{names[self.version]}-x{86 if self.bits == 32 else 64}"

    def size(self, structure: str) -> int:
        """Size of a structure in bytes."""
        return int(self.structures[structure]["size"])

    def offset(self, structure: str, member: str) -> int:
        """Offset of a member in bytes; KeyError where this version has none."""
        return int(self.structures[structure]["members"][member])

    def has(self, structure: str, member: str) -> bool:
        """Whether this version's structure has the member."""
        return member in self.structures[structure]["members"]


@functools.cache
def profiles() -> Mapping[str, Profile]:
    """All 58 Windows profiles of Volatility 2.6.1, by name."""
    return _read("profiles.json")


@functools.cache
def builds() -> Mapping[str, Profile]:
    """Windows builds of 2016 to 2021, by name, with the offsets of their real kernels."""
    return _read("builds.json")


def _read(file: str) -> Mapping[str, Profile]:
    described = json.loads(Path(__file__).with_name(file).read_text())
    return {
        name: Profile(
            name=name,
            bits=row["bits"],
            version=(row["version"][0], row["version"][1]),
            build=row["build"],
            process_signature=bytes.fromhex(row["process_signature"]),
            kdbg_header=bytes.fromhex(row["kdbg_header"]),
            structures=row["structures"],
            frame_record=row["frame_record"],
            bit_fields=row["bit_fields"],
            vad_root=row["vad_root"],
            pdb=row.get("pdb") or f"{hashlib.md5(name.encode()).hexdigest().upper()}-1",
            symbols=row.get("symbols", {}),
        )
        for name, row in described.items()
    }
