"""The headers of compressed kdump files, with makedumpfile's names (diskdump_mod.h).

The headers are C structures, so they differ between machines with 64-bit and 32-bit words, and
among the latter by the alignment of 64-bit numbers. Numbers are unsigned, and in the machine's
order of bytes: here little-endian, unless a layout is turned around.
"""

from dataclasses import dataclass

import numpy as np

from memory_visualizer.formats.records import RecordType

UTSNAME: RecordType = np.dtype(
    [
        (name, "V65")
        for name in ("sysname", "nodename", "release", "version", "machine", "domainname")
    ]
)
"""new_utsname; each name is padded with zeros."""

PAGE_DESCRIPTOR: RecordType = np.dtype(
    [("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")]
)
"""page_desc: place and compression of a page."""


@dataclass(frozen=True)
class Layout:
    """The headers of one kind of machine."""

    header: RecordType
    """disk_dump_header"""
    sub_header: RecordType
    """kdump_sub_header"""
    aligned_sub_header: RecordType
    """The same where 64-bit numbers are aligned, as on 32-bit ARM."""
    descriptor: RecordType = PAGE_DESCRIPTOR

    def big_endian(self) -> "Layout":
        """The layout with the other order of bytes."""
        return Layout(
            self.header.newbyteorder(">"),
            self.sub_header.newbyteorder(">"),
            self.aligned_sub_header.newbyteorder(">"),
            self.descriptor.newbyteorder(">"),
        )


def _header(word: str, padding: str) -> RecordType:
    return np.dtype(
        [
            ("signature", "S8"),
            ("header_version", "<u4"),
            ("utsname", f"V{UTSNAME.itemsize}"),
            ("padding", padding),
            ("tv_sec", word),
            ("tv_usec", word),
            ("status", "<u4"),
            ("block_size", "<u4"),
            ("sub_hdr_size", "<u4"),
            ("bitmap_blocks", "<u4"),
            ("max_mapnr", "<u4"),
            ("total_ram_blocks", "<u4"),
            ("device_blocks", "<u4"),
            ("written_blocks", "<u4"),
            ("current_cpu", "<u4"),
            ("nr_cpus", "<u4"),
        ]
    )


def _sub_header(word: str, padding: str = "V0") -> RecordType:
    """`padding` stands before the first 64-bit number, and between a word and such a number."""
    return np.dtype(
        [
            ("phys_base", word),
            ("dump_level", "<u4"),
            ("split", "<u4"),
            ("start_pfn", word),
            ("end_pfn", word),
            ("padding0", padding),
            ("offset_vmcoreinfo", "<u8"),
            ("size_vmcoreinfo", word),
            ("padding1", padding),
            ("offset_note", "<u8"),
            ("size_note", word),
            ("padding2", padding),
            ("offset_eraseinfo", "<u8"),
            ("size_eraseinfo", word),
            ("padding3", padding),
            ("start_pfn_64", "<u8"),
            ("end_pfn_64", "<u8"),
            ("max_mapnr_64", "<u8"),
        ]
    )


WIDE = Layout(_header("<u8", "V6"), _sub_header("<u8"), _sub_header("<u8"))
NARROW = Layout(_header("<u4", "V2"), _sub_header("<u4"), _sub_header("<u4", "V4"))
LAYOUTS = (NARROW, WIDE, NARROW.big_endian(), WIDE.big_endian())
"""Of machines with 32-bit and 64-bit words, in each order of bytes."""
SUB_HEADER_SIZE = WIDE.sub_header.itemsize
"""Of the longest one."""
