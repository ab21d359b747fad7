"""ELF cores of a machine, as QEMU, libvirt and VirtualBox write them, or Linux's /proc/vmcore.

System V ABI, chapters 4 and 5. This module reads the format itself, since the maintained reader
(Volatility 3 2.28.2) reads at most 65,535 segments, and refuses segments with a missing part, and
32-bit files.

QEMU's `dump-guest-memory` puts the section headers before the program headers, and memory at any
byte. With `paging=on` it writes a segment for each mapping: aliases of the same bytes, more than
fit into e_phnum. /proc/vmcore has the kernel's text twice. If a segment has fewer bytes in the file
than in memory, the ABI fills it with zeros, but the writers left the memory out (VirtualBox does so
for device memory): these frames are not held. Xen's cores have sections instead: see xen.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import xen
from memory_visualizer.formats.elfheaders import CLASS_64, IDENTITY, LAYOUTS, NOTE
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.records import RecordType, end_of, read_record
from memory_visualizer.units import MAX_RUNS

_Order: TypeAlias = Literal["<", ">"]
_ORDERS: dict[int, _Order] = {1: "<", 2: ">"}
"""The byte orders ELFDATA2LSB and ELFDATA2MSB in the notation of NumPy."""
_ET_CORE = 4
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF  # e_phnum when the number stands in sh_info of section 0
_MAX_NOTES = 16 << 20  # bytes of notes that are read; a CPU has less than 4 KiB of notes
_MAX_NAMED = 3


_Segments: TypeAlias = NDArray[np.void]
"""Program headers, little-endian."""


class ElfDump(MappedDump):
    """An ELF core. Its `notes` hold the ELF notes by name; notes with the same name are joined.

    ``VMCOREINFO`` is Linux's own text; ``QEMU`` and ``VBCPU`` are the states of the CPUs.
    """

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Read the program headers and the notes.

        BadInputError when the file cannot be read or is not the core of a machine;
        DamagedInputError, unless `lenient`, when a part of it is missing.
        """
        path = as_path(path)
        with reading(path), path.open("rb") as file:
            size = file_size(file)
            segments, machine, order = _segments(path, file, size)
            xen_pages = None if len(segments) else xen.find_pages(path, file, size, lenient=lenient)
            if xen_pages:
                notes, lost = _notes(path, file, [xen_pages.notes], order)
            else:
                noted = segments[segments["p_type"] == _PT_NOTE]
                places = noted[["p_offset", "p_filesz"]].tolist()
                notes, lost = _notes(path, file, places, order)
            notes["e_machine"] = machine
        if xen_pages:
            columns = (xen_pages.start, xen_pages.length, xen_pages.offset)
            extents, remarks = find_extents(path, *columns, file_size=size, lenient=lenient)
            remarks = [*xen_pages.remarks, *remarks, *lost]
            return cls(path, "Xen core", extents, notes=notes, remarks=remarks)
        loads = segments[(segments["p_type"] == _PT_LOAD) & (segments["p_filesz"] > 0)]
        if len(loads) > 1 and not loads["p_paddr"].any():
            raise BadInputError(f"{path} is the core of a process, not of a machine")
        extents, remarks = find_extents(
            path,
            loads["p_paddr"],
            loads["p_filesz"],
            loads["p_offset"],
            file_size=size,
            lenient=lenient,
            aliases=True,
        )
        return cls(path, "ELF core", extents, notes=notes, remarks=[*remarks, *lost])


def _segments(path: Path, file: BinaryIO, size: int) -> tuple[_Segments, int, _Order]:
    """Read the program headers; returns also e_machine, and the byte order as for NumPy."""
    head = file.read(LAYOUTS[CLASS_64].header.itemsize)
    cut = DamagedInputError(f"{path} ends within its ELF headers")
    if len(head) < LAYOUTS[CLASS_64].header.itemsize:
        raise cut
    identity = read_record(IDENTITY, head)
    class_, order = identity["ei_class"], identity["ei_data"]
    if class_ not in LAYOUTS or order not in _ORDERS:
        raise BadInputError(
            f"{path} is an ELF file without a valid class (32 or 64 bits) or byte order"
        )
    layout = LAYOUTS[class_]
    if _ORDERS[order] == ">":
        layout = layout.big_endian()
    header = read_record(layout.header, head)
    segments_at, segment_size, count = header["e_phoff"], header["e_phentsize"], header["e_phnum"]
    if header["e_type"] != _ET_CORE:
        raise BadInputError(f"{path} is an ELF file, but not a core")
    if count == _PN_XNUM and header["e_shoff"]:
        if header["e_shoff"] + end_of(layout.section, "sh_info") > size:
            raise cut
        file.seek(header["e_shoff"])
        count = read_record(layout.section, file.read(layout.section.itemsize))["sh_info"]
    if count and segment_size != layout.segment.itemsize:
        raise BadInputError(f"{path} has program headers of {segment_size} bytes")
    if count > MAX_RUNS:
        raise BadInputError(f"{path} says that it has {count:,} segments; too many")
    if segments_at + count * segment_size > size:
        raise cut
    file.seek(segments_at)
    segments = np.frombuffer(file.read(count * segment_size), layout.segment)
    return segments.astype(LAYOUTS[class_].segment), header["e_machine"], _ORDERS[order]


def _notes(
    path: Path, file: BinaryIO, segments: Sequence[tuple[int, int]], order: _Order
) -> tuple[dict[str, int | bytes], list[str]]:
    """Read the notes in segments, of which place and size are given; remarks on lost ones.

    A broken note ends its own segment.
    """
    found: dict[str, list[bytes]] = {}
    left, lost = _MAX_NOTES, 0
    broken: list[int] = []
    for offset, size in segments:
        data = b""
        if offset < 2**63:
            file.seek(offset)
            data = file.read(min(size, left))
        left -= len(data)
        lost += size - len(data)
        end = _read_notes(data, NOTE.newbyteorder(order), found)
        # Only padding may stand behind the last note.
        if any(data[end:]):
            broken.append(offset + end)
    remarks = []
    if lost:
        remarks.append(
            f"{lost:,} bytes of the notes of {path} were not read: they lie outside of the file, or"
            f" behind the first {_MAX_NOTES:,}"
        )
    if broken:
        named = ", ".join(f"{at:,}" for at in broken[:_MAX_NAMED])
        more = f", and {len(broken) - _MAX_NAMED:,} more" if len(broken) > _MAX_NAMED else ""
        remarks.append(f"notes of {path} are broken, and end, at byte {named}{more}")
    return {name: b"".join(descriptors) for name, descriptors in found.items()}, remarks


def _read_notes(data: bytes, note: RecordType, found: dict[str, list[bytes]]) -> int:
    """Add a segment's notes to `found`; returns the place of the first broken note, or the end.

    At the end there may be less than a note's header.
    """
    position = 0
    while position + note.itemsize <= len(data):
        name_size, descriptor_size, _ = np.frombuffer(data, note, 1, position)[0].item()
        name_at = position + note.itemsize
        at = name_at + -(-name_size // 4) * 4
        if at + descriptor_size > len(data):
            break
        position = at + -(-descriptor_size // 4) * 4
        name = data[name_at : name_at + name_size].rstrip(b"\0").decode("latin-1")
        found.setdefault(name, []).append(data[at : at + descriptor_size])
    return position
