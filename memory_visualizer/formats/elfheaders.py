"""The headers of ELF files, with the names of the System V ABI (chapters 4 and 5, and <elf.h>).

The types are little-endian, for both classes; ``newbyteorder(">")`` converts them.
"""

from dataclasses import dataclass

import numpy as np

from memory_visualizer.formats.records import RecordType

CLASS_32, CLASS_64 = 1, 2
"""ELFCLASS32 and ELFCLASS64."""

IDENTITY: RecordType = np.dtype(
    [
        ("ei_mag", "S4"),
        ("ei_class", "u1"),
        ("ei_data", "u1"),
        ("ei_version", "u1"),
        ("ei_osabi", "u1"),
        ("ei_abiversion", "u1"),
        ("ei_pad", "V7"),
    ]
)
"""e_ident, which is the same in all classes and byte orders."""

NOTE: RecordType = np.dtype([("n_namesz", "<u4"), ("n_descsz", "<u4"), ("n_type", "<u4")])
"""ElfN_Nhdr: the head of a note, the same in both classes."""


@dataclass(frozen=True)
class Layout:
    """The headers of one class."""

    header: RecordType
    """ElfN_Ehdr"""
    segment: RecordType
    """ElfN_Phdr: a program header."""
    section: RecordType
    """ElfN_Shdr"""

    def big_endian(self) -> "Layout":
        """The same headers in the other byte order."""
        types = (self.header, self.segment, self.section)
        return Layout(*(type_.newbyteorder(">") for type_ in types))


def _header(word: str) -> RecordType:
    return np.dtype(
        [
            ("e_ident", f"V{IDENTITY.itemsize}"),
            ("e_type", "<u2"),
            ("e_machine", "<u2"),
            ("e_version", "<u4"),
            ("e_entry", word),
            ("e_phoff", word),
            ("e_shoff", word),
            ("e_flags", "<u4"),
            ("e_ehsize", "<u2"),
            ("e_phentsize", "<u2"),
            ("e_phnum", "<u2"),
            ("e_shentsize", "<u2"),
            ("e_shnum", "<u2"),
            ("e_shstrndx", "<u2"),
        ]
    )


def _section(word: str) -> RecordType:
    return np.dtype(
        [
            ("sh_name", "<u4"),
            ("sh_type", "<u4"),
            ("sh_flags", word),
            ("sh_addr", word),
            ("sh_offset", word),
            ("sh_size", word),
            ("sh_link", "<u4"),
            ("sh_info", "<u4"),
            ("sh_addralign", word),
            ("sh_entsize", word),
        ]
    )


_PLACES = ("p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz")

LAYOUTS = {
    CLASS_32: Layout(
        _header("<u4"),
        np.dtype(
            [
                ("p_type", "<u4"),
                *((name, "<u4") for name in _PLACES),
                ("p_flags", "<u4"),
                ("p_align", "<u4"),
            ]
        ),
        _section("<u4"),
    ),
    CLASS_64: Layout(
        _header("<u8"),
        np.dtype(
            [
                ("p_type", "<u4"),
                ("p_flags", "<u4"),
                *((name, "<u8") for name in _PLACES),
                ("p_align", "<u8"),
            ]
        ),
        _section("<u8"),
    ),
}
"""By class."""
