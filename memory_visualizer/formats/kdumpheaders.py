"""The headers of compressed kdump files, with makedumpfile's names (diskdump_mod.h).

The headers are C structures, so they differ between machines with 64-bit and 32-bit words, and
among the latter by the alignment of 64-bit numbers. Numbers are unsigned, and in the machine's
order of bytes: here little-endian, unless a layout is turned around.
"""

from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats import magics
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.records import RecordType, read_record
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_INCOMPLETE = 0x8
"""In the status: the disk was full."""
_WIDE_VERSION, _VMCOREINFO_VERSION, _SPLIT_VERSION = 6, 3, 2
"""Versions of the header since which the sub-header has wide numbers, VMCOREINFO, and the split."""
MAX_VMCOREINFO = 1 << 16
"""Bytes; the kernel's text has a page of room, and a page has 64 KiB at most."""
_HEADER_SIZE = 512
"""Bytes of the header that are read, more than any header has."""
_BLOCKS = {4096 << shift for shift in range(5)}
"""Possible sizes of a Linux page: 4 to 64 KiB."""

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
_LAYOUTS = (NARROW, WIDE, NARROW.big_endian(), WIDE.big_endian())
"""Of machines with 32-bit and 64-bit words, in each order of bytes."""
_SUB_HEADER_SIZE = WIDE.sub_header.itemsize
"""Of the longest one."""


@dataclass(frozen=True)
class Header:
    """What the header and sub-header of one file tell."""

    names: bytes
    """Names of the system and its machine (UTSNAME), the same in all parts of a dump."""
    incomplete: bool
    block: int
    """Bytes of a page."""
    bitmaps_at: int
    bitmap_size: int
    """Bytes of one of the two bitmaps."""
    frames: int
    """The number of pages of this size up to the machine's last."""
    part: tuple[int, int] | None
    """First page, and page after the last, of one file of several; None if the dump is not
    split."""
    vmcoreinfo: bytes
    lost_text: int
    """Bytes that VMCOREINFO has by the header, if it is not where the header says."""
    descriptor: RecordType
    """Of the table of pages."""


def read_header(path: Path, file: FileIO) -> Header:
    """Read the header and the sub-header; BadInputError if they are not valid."""
    head = read_at(file, _HEADER_SIZE, 0)
    layout = _layout_of(head) if len(head) == _HEADER_SIZE else None
    if layout is None:
        raise BadInputError(f"{path} has no kdump header where it should be")
    header = read_record(layout.header, head)
    version, block, bitmaps = (
        header[name] for name in ("header_version", "block_size", "bitmap_blocks")
    )
    size, bitmaps_at = file_size(file), block * (1 + header["sub_hdr_size"])
    if bitmaps < 2 or bitmaps_at + block * bitmaps > size:
        raise BadInputError(f"{path} ends within its header, or has a broken one")
    sub = _read_sub_header(file, layout, header)
    first, last, frames = sub["start_pfn"], sub["end_pfn"], header["max_mapnr"]
    if version >= _WIDE_VERSION:
        first, last, frames = (sub[f"{name}_64"] for name in ("start_pfn", "end_pfn", "max_mapnr"))
    if not 0 < frames * (block // PAGE_SIZE) <= MAX_FRAMES:
        raise BadInputError(
            f"{path} says that it has {frames:,} page frames; this program stops at"
            f" {MAX_FRAMES:,} (16 TiB)"
        )
    bitmap_size = bitmaps // 2 * block
    if bitmap_size * 8 < frames:
        raise BadInputError(f"{path} has a bitmap too small for its {frames:,} frames")
    place, length = sub["offset_vmcoreinfo"], sub["size_vmcoreinfo"]
    text, lost = b"", 0
    if version >= _VMCOREINFO_VERSION:
        if length <= MAX_VMCOREINFO and place + length <= size:
            text = read_at(file, length, place)
        else:
            lost = length
    return Header(
        names=header["utsname"],
        incomplete=bool(header["status"] & _INCOMPLETE),
        block=block,
        bitmaps_at=bitmaps_at,
        bitmap_size=bitmap_size,
        frames=frames,
        part=(first, last) if version >= _SPLIT_VERSION and sub["split"] else None,
        vmcoreinfo=text,
        lost_text=lost,
        descriptor=layout.descriptor,
    )


def _layout_of(head: bytes) -> Layout | None:
    """The layout in which the header makes sense; None if there is no header."""
    if not head.startswith((magics.KDUMP, magics.DISKDUMP)):
        return None
    for layout in _LAYOUTS:
        header = read_record(layout.header, head)
        block, frames = header["block_size"], header["max_mapnr"]
        if block in _BLOCKS and 0 < frames <= 8 * header["bitmap_blocks"] * block:
            return layout
    return None


def _read_sub_header(file: FileIO, layout: Layout, header: dict[str, Any]) -> dict[str, Any]:
    """Read the sub-header; all fields are 0 if there is none."""
    block, blocks = header["block_size"], header["sub_hdr_size"]
    there = blocks and header["header_version"]
    raw = read_at(file, _SUB_HEADER_SIZE if there else 0, block)
    sub = read_record(layout.sub_header, raw)
    if header["header_version"] >= _VMCOREINFO_VERSION:
        place, length = sub["offset_vmcoreinfo"], sub["size_vmcoreinfo"]
        if (place, length) != (0, 0) and not block < place < block * (1 + blocks):
            return read_record(layout.aligned_sub_header, raw)
    return sub
