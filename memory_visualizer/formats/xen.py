"""Xen's own cores of guests (`xl dump-core`): ELF files with sections and no program headers.

The format is that of Xen's docs/misc/dump-core-format.txt: consecutive pages in ".xen_pages", and
the page frame of each in ".xen_pfn", or, for a paravirtual guest, in ".xen_p2m" beside the frame of
the machine. This module reads the format itself, since Volatility 3's reader (2.28.2) builds an
object for each page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.elfheaders import CLASS_64, IDENTITY, LAYOUTS
from memory_visualizer.formats.files import read_at
from memory_visualizer.formats.records import read_record
from memory_visualizer.units import MAX_FRAMES, MAX_RUNS, PAGE_SIZE

_LONGEST_NAME = 32
"""Bytes of a section's name that are read; the names that count are shorter."""
_NO_FRAME = np.uint64(0xFFFFFFFF), np.uint64(2**64 - 1)
"""In place of a page that the guest gave back (32-bit and 64-bit tools)."""

_Sections: TypeAlias = Mapping[bytes, tuple[int, int]]
"""Place and size of each section, by name."""


@dataclass(frozen=True, eq=False)
class Pages:
    """The places of the pages in bytes, as for find_extents; the notes; remarks."""

    start: NDArray[np.uint64]
    length: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    notes: tuple[int, int]
    """Place and size of Xen's notes."""
    remarks: list[str]


def find_pages(path: Path, file: BinaryIO, size: int, *, lenient: bool) -> Pages | None:
    """Read the table of pages; None if the ELF file is not a core of Xen.

    BadInputError if the table is missing; DamagedInputError, unless `lenient`, if it does not cover
    all pages.
    """
    sections = _sections(file, size)
    if b".xen_pages" not in sections:
        return None
    name = b".xen_p2m" if b".xen_p2m" in sections else b".xen_pfn"
    if name not in sections:
        raise BadInputError(f"{path} is a Xen core, but does not tell the addresses of its pages")
    at, table_size = sections[name]
    entry = 16 if name == b".xen_p2m" else 8
    pages_at, pages_size = sections[b".xen_pages"]
    count = min(table_size // entry, MAX_RUNS)
    file.seek(min(at, size))
    table = np.frombuffer(file.read(min(count * entry, size)), np.uint8)
    table = table[: table.size // entry * entry].reshape(-1, entry)
    frame = np.ascontiguousarray(table[:, :8]).view("<u8")[:, 0]
    remarks: list[str] = []
    if name == b".xen_p2m":
        remarks.append(
            f"{path} comes from a paravirtual guest, whose page tables hold machine frame numbers:"
            " this program cannot follow them"
        )
    limit = f" (more than {MAX_RUNS:,} are not read)" if count == MAX_RUNS else ""
    page_count = pages_size // PAGE_SIZE
    sentence = f"{path} gives addresses for {frame.size:,} pages{limit}, but holds {page_count:,}"
    if not frame.size:
        raise BadInputError(sentence)
    if frame.size < page_count:
        report_damage(sentence, remarks, lenient=lenient)
    elif frame.size > page_count:
        remarks.append(f"{sentence}; the other addresses are ignored")
    frame = frame[:page_count]
    [held] = np.nonzero((frame != _NO_FRAME[0]) & (frame != _NO_FRAME[1]))
    if not held.size:
        raise BadInputError(f"{path} holds no page of memory")
    start, length, offset = _stretches(frame[held], held, pages_at)
    notes = sections.get(b".note.Xen", (0, 0))
    return Pages(start, length, offset, notes, remarks)


def _stretches(
    frame: NDArray[np.uint64], number: NDArray[np.intp], pages_at: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Physical address, size and place in the file of each stretch of pages."""
    first = np.minimum(frame, np.uint64(MAX_FRAMES)).astype(np.int64)
    begins = np.concatenate(([True], (np.diff(first) != 1) | (np.diff(number) != 1)))
    [starts] = np.nonzero(begins)
    count = np.diff(starts, append=first.size)
    page = np.uint64(PAGE_SIZE)
    offset = np.uint64(pages_at) + number[starts].astype(np.uint64) * page
    return first[starts].astype(np.uint64) * page, count.astype(np.uint64) * page, offset


def _sections(file: BinaryIO, size: int) -> _Sections:
    """The sections that lie in the file, by name."""
    file.seek(0)
    layout = LAYOUTS[CLASS_64]
    head = file.read(layout.header.itemsize)
    if len(head) < layout.header.itemsize:
        return {}
    header = read_record(layout.header, head)
    at, entry, count = header["e_shoff"], header["e_shentsize"], header["e_shnum"]
    names_number = header["e_shstrndx"]
    if read_record(IDENTITY, head)["ei_class"] != CLASS_64 or entry != layout.section.itemsize:
        return {}
    if at >= size or names_number >= count:
        return {}
    file.seek(at)
    data = file.read(count * entry)
    sections = np.frombuffer(data, layout.section, len(data) // entry)
    if len(sections) <= names_number:
        return {}
    names_at = int(sections["sh_offset"][names_number])
    if names_at >= size:
        return {}
    found: dict[bytes, tuple[int, int]] = {}
    for name, offset, length in sections[["sh_name", "sh_offset", "sh_size"]].tolist():
        text = read_at(file, _LONGEST_NAME, names_at + name).split(b"\0", 1)[0]
        found.setdefault(text, (min(offset, size), length))
    return found
