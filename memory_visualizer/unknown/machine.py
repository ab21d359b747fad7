"""The machine of a dump, by its header or by a Linux kernel's own names."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import places_of_text
from memory_visualizer.formats.base import Dump, Words

_OF_ELF = {
    2: "SPARC",
    3: "x86",
    4: "Motorola 68000",
    8: "MIPS",
    15: "PA-RISC",
    20: "PowerPC",
    21: "64-bit PowerPC",
    22: "IBM Z",
    40: "32-bit ARM",
    43: "64-bit SPARC",
    50: "Itanium",
    62: "x86-64",
    183: "64-bit ARM",
    243: "RISC-V",
    258: "LoongArch",
    0x9026: "Alpha",
}
"""By e_machine of an ELF file (System V ABI)."""
_OF_WINDOWS = {
    0x14C: "x86",
    0x1C0: "32-bit ARM",
    0x1C4: "32-bit ARM",
    0x200: "Itanium",
    0x8664: "x86-64",
    0xAA64: "64-bit ARM",
}
"""By MachineImageType of a crash dump (the PE format's IMAGE_FILE_MACHINE)."""
_OF_LINUX = (
    ("i386", "x86"),
    ("i486", "x86"),
    ("i586", "x86"),
    ("i686", "x86"),
    ("x86_64", "x86-64"),
    ("aarch64", "64-bit ARM"),
    ("arm", "32-bit ARM"),
    ("ppc64", "64-bit PowerPC"),
    ("ppc", "PowerPC"),
    ("s390", "IBM Z"),
    ("mips", "MIPS"),
    ("riscv", "RISC-V"),
    ("loongarch", "LoongArch"),
    ("sparc64", "64-bit SPARC"),
    ("sparc", "SPARC"),
    ("ia64", "Itanium"),
    ("parisc", "PA-RISC"),
    ("alpha", "Alpha"),
    ("m68k", "Motorola 68000"),
)
"""By the beginning of the machine's name in struct new_utsname, as `uname -m` tells it."""
_READ = ("x86", "x86-64", "64-bit ARM")
SYSTEM_NAME = b"Linux".ljust(65, b"\0")
"""The first of the names in struct new_utsname, 65 bytes each; the fifth is the machine's."""
_NAME_SIZE = len(SYSTEM_NAME)
_TO_MACHINE = 4 * _NAME_SIZE
_SAMPLED_NAMES = 64
_ALIGNED = 2
"""The names follow an integer, or begin a structure with pointers: on all machines, even on the
68000, both begin at a multiple of this (struct uts_namespace, linux/utsname.h)."""


def machine_of(dump: Dump) -> str:
    """The machine's architecture, such as ``64-bit ARM``; empty if unknown.

    The dump's header tells it, otherwise a Linux kernel's own names in the dump. Errors as for
    Dump.each_block.
    """
    notes = dump.notes
    if isinstance(number := notes.get("e_machine"), int):
        return _OF_ELF.get(number, f"an architecture with the number {number} in ELF files")
    if isinstance(number := notes.get("MachineImageType"), int) and number in _OF_WINDOWS:
        return _OF_WINDOWS[number]
    if isinstance(name := notes.get("machine"), bytes) and (known := _by_name(name)):
        return known
    return _by_contents(dump)


def is_read(machine: str) -> bool:
    """Whether dumps of this architecture are supported."""
    return machine in _READ


def _by_name(name: bytes) -> str:
    text = name.split(b"\0")[0].decode("latin-1")
    return next((known for start, known in _OF_LINUX if text.startswith(start)), "")


def _by_contents(dump: Dump) -> str:
    """The machine by most places that look like the names of a Linux system."""

    def scan(_: NDArray[np.int64], words: Words) -> list[str]:
        contents = words.reshape(-1).view(np.uint8)
        places = places_of_text(SYSTEM_NAME, contents, _SAMPLED_NAMES, step=_ALIGNED)
        texts = [contents[place + _TO_MACHINE :][:_NAME_SIZE].tobytes() for place in places]
        return list(filter(None, map(_by_name, texts)))

    votes = Counter(machine for found in dump.each_block(scan) for machine in found)
    return max(votes, key=lambda machine: votes[machine], default="")
