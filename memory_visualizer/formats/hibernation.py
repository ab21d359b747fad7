"""Windows' hibernation files (hiberfil.sys), from XP on.

Up to Windows 7 a table lists ranges of page frames; blocks of Xpress with their contents follow, of
up to 16 pages each; then the next table. Volatility 2 (`hibernate_vtypes.py`) and Comae's Hibr2Bin
agree on the layouts. The first page, which Windows clears when it resumes, is not needed: the magic
tells the first block, and of the known layouts of tables the most sensible is taken.

From Windows 8 on there are two sections, for the boot loader and the kernel, with sets of
descriptors and contents. Sylve, Marziale and Richard describe them ("Modern Windows hibernation
file analysis", 2016), and LeechCore reads them so. Windows clears them when it resumes.

Hibernation files do not contain free, zeroed and standby pages.
"""

import struct
from array import array
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.formats import xpress
from memory_visualizer.formats.blocks import BlockList, BlocksDump, place_frames
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.paths import as_path
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_STORED, _PLAIN, _HUFFMAN = range(3)
_BLOCK_PAGES = 16
"""The largest block in pages: 64 KiB."""

# Up to Windows 7.
_BLOCK_MAGIC = b"\x81\x81xpress"
_BLOCK_HEADER = struct.Struct("<8sI20x")  # pages - 1 in 10 bits, size - 1 in 22
_FIRST_PAGES = 64
"""The first block is searched for in so many pages at the file's beginning."""
_GAP = 16 << 10
"""The next block is searched for in so many bytes behind a block."""
_MANY_BLOCKS = 1 << 13
"""How many blocks are counted to find the layout of the tables: 512 MiB."""


@dataclass(frozen=True)
class _Table:
    """The layout of a table of ranges; offsets are from the beginning of the table's page."""

    word: str
    """NumPy's type of a page number."""
    next: int
    """Offset of the page number of the next table, which is 0 for none."""
    count: int
    """Offset of the number of ranges."""
    ranges: int
    """Offset of the ranges."""
    first: int
    """Offset in a range of its first page; the page after its last follows."""
    range_size: int


_TABLES = (
    _Table("<u4", 4, 0xC, 0x10, 4, 0x10),  # XP, 2003, Vista without and with service pack 1
    _Table("<u4", 4, 8, 0xC, 0, 8),  # Vista with service pack 2
    _Table("<u4", 0, 4, 8, 0, 8),  # 7
    _Table("<u8", 8, 0x14, 0x20, 8, 0x20),  # the same for x64
    _Table("<u8", 8, 0x10, 0x18, 0, 0x10),
    _Table("<u8", 0, 8, 0x10, 0, 0x10),
)

# From Windows 8 on, for each set: number of descriptors, packed bytes, and method of packing.
_SET_HEADER_SIZE = 4
_MAX_SET_HEADER = _SET_HEADER_SIZE + 0xFF * 8


@dataclass(frozen=True)
class _Sections:
    """Offsets in the header of Windows 8 and later that describe the sections."""

    word: str
    page_size: int
    boot_pages: int
    boot: int
    kernel: int
    kernel_pages: dict[int, int]
    """Offsets by the header's own size, which differs between builds."""


_SECTIONS_64 = _Sections(
    "<Q",
    0x18,
    0x58,
    0x68,
    0x70,
    dict.fromkeys((0x3D8, 0x3E0, 0x448), 0x230) | {0x3B0: 0x218, 0x3C8: 0x220, 0x4D8: 0x238},
)
_SECTIONS_64_OLD = _Sections("<Q", 0x18, 0x58, 0x60, 0x68, {0x360: 0x1C8})  # 8 and 8.1
_SECTIONS_32 = _Sections(
    "<I",
    0x14,
    0x48,
    0x50,
    0x54,
    {0x2C8: 0x1B0, 0x310: 0x1F8, 0x328: 0x200, 0x338: 0x210, 0x340: 0x210},
)
_HEADER_SIZE_AT = 0xC


class _Found:
    """The blocks and frames of a file, in the order of the file."""

    def __init__(self) -> None:
        self.blocks = BlockList()
        self.frame, self.block, self.row = array("q"), array("i"), array("H")

    def add(self, frames: NDArray[np.int64]) -> None:
        """Assign frames to the last block, from its first page on."""
        self.frame.frombytes(frames.astype(np.int64).tobytes())
        self.block.extend([len(self.blocks) - 1] * frames.size)
        self.row.extend(range(frames.size))


class HibernationDump(BlocksDump):
    """A hibernation file."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Find all blocks; `lenient` unpacks them, and leaves out broken ones.

        BadInputError when the file cannot be read or its contents were cleared;
        DamagedInputError, unless `lenient`, when a part is missing or broken.
        """
        path = as_path(path)
        found = _Found()
        remarks: list[str] = []
        with reading(path), path.open("rb", buffering=0) as file:
            page = None if _is_of_8(read_at(file, PAGE_SIZE, 0)) else _first_block(file)
            if page is not None:
                format_ = "Windows hibernation file (up to Windows 7)"
                _find_old(path, file, page - 1, found, lenient, remarks)
            else:
                format_ = "Windows hibernation file (from Windows 8 on)"
                _find_new(path, file, found, lenient, remarks)
        places = place_frames(
            path,
            np.frombuffer(found.frame, np.int64),
            np.frombuffer(found.block, np.int32),
            np.frombuffer(found.row, np.uint16),
            lenient=lenient,
            remarks=remarks,
        )
        dump = cls(path, format_, places, found.blocks.blocks(), remarks=remarks)
        return dump._without_broken_blocks() if lenient else dump

    def _unpack(self, packed: bytes, pages: int, kind: int) -> bytes:
        if kind == _STORED:
            return packed
        if kind == _PLAIN:
            return xpress.unpack_plain(packed, pages * PAGE_SIZE)
        return xpress.unpack_huffman(packed, pages * PAGE_SIZE)


def is_cleared(file: FileIO) -> bool:
    """Whether this file, behind a page of zeros, is a hibernation file up to Windows 7."""
    page = _first_block(file)
    return page is not None and any(_read_table(file, page - 1, layout) for layout in _TABLES)


def _first_block(file: FileIO) -> int | None:
    """The page of the first block of a hibernation file up to Windows 7; None in any other file."""
    for page in range(1, _FIRST_PAGES):
        if read_at(file, len(_BLOCK_MAGIC), page * PAGE_SIZE) == _BLOCK_MAGIC:
            return page
    return None


# Up to Windows 7


def _find_old(
    path: Path, file: FileIO, page: int, found: _Found, lenient: bool, remarks: list[str]
) -> None:
    """Read the tables from this page on."""
    size = file_size(file)
    layout = _layout(path, file, page)
    while at := page:
        table = _read_table(file, page, layout)
        where = f"{path}: the table of page frames at byte {page * PAGE_SIZE:,}"
        if table is None:
            sentence = f"{where} is broken; the tables after it cannot be found"
            report_damage(sentence, remarks, lenient=lenient)
            return
        page, ranges = table
        if missing := _find_blocks(file, at + 1, ranges, found, size):
            sentence = f"{where} lists {missing:,} pages that are missing"
            report_damage(sentence, remarks, lenient=lenient)


def _layout(path: Path, file: FileIO, page: int) -> _Table:
    """The layout of the tables; the first table is on this page.

    The witnesses are: the ranges that make sense; their share of the table's page; the blocks
    before the next table, which should have as many pages; and the header, if present, by the
    offset of its page size.
    """
    header = read_at(file, PAGE_SIZE, 0)
    used = np.flatnonzero(np.frombuffer(read_at(file, PAGE_SIZE, page * PAGE_SIZE), np.uint8))
    words = {"<u4": header[0x14:0x18], "<u8": header[0x18:0x1C]}
    pages_before: dict[int, int] = {}

    def score(layout: _Table) -> float:
        table = _read_table(file, page, layout)
        if table is None:
            return 0
        following, ranges = table
        start, end = ranges.T
        sensible = start < end
        sensible[1:] &= start[1:] >= end[:-1]
        listed = int((end - start)[sensible].sum())
        if following not in pages_before:
            pages_before[following] = _count_pages(file, page + 1, following)
        there = pages_before[following]
        agreement = min(listed, there) / max(listed, there, 1)
        told = words[layout.word] == PAGE_SIZE.to_bytes(4, "little")
        explained = used < layout.ranges + len(ranges) * layout.range_size
        return float(sensible.mean() + 2 * explained.mean()) + agreement + 0.5 * told

    scores = [score(layout) for layout in _TABLES]
    if max(scores) < 1:
        raise BadInputError(f"{path} is a hibernation file without a table of page frames")
    return _TABLES[scores.index(max(scores))]


def _read_table(file: FileIO, page: int, layout: _Table) -> tuple[int, NDArray[np.int64]] | None:
    """Page of the next table (0 for none), and the ranges: first page, and page after the last.

    None if this cannot be a table. Ranges that make no sense are returned unchanged.
    """
    contents = read_at(file, PAGE_SIZE, page * PAGE_SIZE)
    if len(contents) < PAGE_SIZE:
        return None
    [following] = np.frombuffer(contents, layout.word, 1, layout.next).tolist()
    (count,) = struct.unpack_from("<I", contents, layout.count)
    room = (PAGE_SIZE - layout.ranges) // layout.range_size
    if not 0 < count <= room:
        return None
    if count < room or not page < following <= file_size(file) // PAGE_SIZE:
        following = 0  # only a full table has a successor
    word = np.dtype(layout.word)
    places = [layout.first, layout.first + word.itemsize]
    range_ = np.dtype(
        {
            "names": ["start", "end"],
            "formats": [word] * 2,
            "offsets": places,
            "itemsize": layout.range_size,
        }
    )
    ranges = np.frombuffer(contents, range_, count, layout.ranges)
    limit = np.uint64(MAX_FRAMES)  # larger numbers included, which the caller reports
    columns = [np.minimum(ranges[name].astype(np.uint64), limit) for name in ("start", "end")]
    return following, np.stack(columns, axis=1).astype(np.int64)


def _find_blocks(
    file: FileIO, page: int, ranges: NDArray[np.int64], found: _Found, size: int
) -> int:
    """Find the blocks of a table from this page on; returns the number of missing pages."""
    start, end = ranges.T
    count = np.maximum(end - start, 0)
    before = np.cumsum(count) - count
    wanted = int(count.sum())
    position, done = page * PAGE_SIZE, 0
    while done < wanted:
        block = _next_block(file, position, size)
        if block is None:
            break
        at, packed, pages = block
        kind = _STORED if packed == pages * PAGE_SIZE else _PLAIN
        found.blocks.append(at, packed, pages, kind)
        number = np.arange(done, min(done + pages, wanted))
        inside = np.searchsorted(before, number, side="right") - 1
        found.add(start[inside] + number - before[inside])
        position, done = at + packed, done + pages
    return max(wanted - done, 0)


def _count_pages(file: FileIO, page: int, following: int) -> int:
    """The number of pages in the blocks from this page on, up to the next table or _MANY_BLOCKS."""
    limit = following * PAGE_SIZE if following else file_size(file)
    position, pages = page * PAGE_SIZE, 0
    for _ in range(_MANY_BLOCKS):
        if not (block := _next_block(file, position, limit)):
            break
        at, packed, more = block
        position, pages = at + packed, pages + more
    return pages


def _next_block(file: FileIO, position: int, limit: int) -> tuple[int, int, int] | None:
    """Place of the contents, packed bytes and pages of the next block before byte `limit`."""
    header = read_at(file, _BLOCK_HEADER.size, position)
    if not header.startswith(_BLOCK_MAGIC):
        at = read_at(file, _GAP, position).find(_BLOCK_MAGIC)
        if at < 0:
            return None
        position += at
        header = read_at(file, _BLOCK_HEADER.size, position)
    if len(header) < _BLOCK_HEADER.size:
        return None
    _, told = _BLOCK_HEADER.unpack(header)
    pages, size = (told & 0x3FF) + 1, (told >> 10) + 1
    at = position + _BLOCK_HEADER.size
    size = -(-size // 8) * 8
    if pages > _BLOCK_PAGES or size > pages * PAGE_SIZE or at + size > limit:
        return None
    return at, size, pages


# From Windows 8 on


def _is_of_8(header: bytes) -> bool:
    """Whether a header belongs to a known build from Windows 8 on."""
    size = int.from_bytes(header[_HEADER_SIZE_AT:][:4], "little")
    return any(size in one.kernel_pages for one in (_SECTIONS_64, _SECTIONS_64_OLD, _SECTIONS_32))


def _find_new(path: Path, file: FileIO, found: _Found, lenient: bool, remarks: list[str]) -> None:
    """Read both sections."""
    header = read_at(file, PAGE_SIZE, 0).ljust(PAGE_SIZE, b"\0")
    (header_size,) = struct.unpack_from("<I", header, _HEADER_SIZE_AT)
    layouts = [_SECTIONS_64, _SECTIONS_64_OLD, _SECTIONS_32]
    layouts = [one for one in layouts if _number(header, "<I", one.page_size) == PAGE_SIZE]
    if not layouts:
        raise BadInputError(f"{path} is a hibernation file, but its header is invalid")
    known = [one for one in layouts if header_size in one.kernel_pages]
    layout = (known or layouts)[0]
    boot, kernel = (_number(header, layout.word, at) for at in (layout.boot, layout.kernel))
    boot_pages = _number(header, "<Q", layout.boot_pages)
    kernel_pages = None
    if known:
        kernel_pages = _number(header, "<Q", layout.kernel_pages[header_size])
    faults = []
    for name, page, pages in (("boot", boot, boot_pages), ("kernel", kernel, kernel_pages)):
        fault = _read_sets(file, page, pages, np.dtype(layout.word.replace("Q", "u8")), found)
        if not fault:
            continue
        faults.append(f"{path}, {name} section of the hibernation file: {fault}")
    if not len(found.blocks):
        raise BadInputError(
            f"{path} is a hibernation file without contents; Windows clears them on a resume"
        )
    for sentence in faults:
        report_damage(sentence, remarks, lenient=lenient)
    if not known:
        remarks.append(
            f"{path} comes from a version of Windows whose header ({header_size:,} bytes) is"
            " unknown; its last section was read as far as it is valid"
        )


def _number(header: bytes, code: str, at: int) -> int:
    (value,) = struct.unpack_from(code, header, at)
    return int(value)


def _read_sets(
    file: FileIO, page: int, wanted: int | None, word: np.dtype[np.unsignedinteger], found: _Found
) -> str:
    """Read sets from this page on until they have `wanted` pages; returns the fault, or ""."""
    size, limit = file_size(file), np.uint64(MAX_FRAMES)
    position, done = page * PAGE_SIZE, 0
    while wanted is None or done < wanted:
        head = read_at(file, _MAX_SET_HEADER, position) if position < size else b""
        told = int.from_bytes(head[:_SET_HEADER_SIZE], "little")
        count, packed, method = told & 0xFF, told >> 8 & 0x3FFFFF, told >> 30
        at = position + _SET_HEADER_SIZE + count * word.itemsize
        if not count or not packed or at + packed > size:
            break
        descriptors = np.frombuffer(head, word, count, _SET_HEADER_SIZE).astype(np.uint64)
        counts = (descriptors & np.uint64(0xF)).astype(np.int64) + 1
        pages = int(counts.sum())
        if pages > _BLOCK_PAGES or packed > pages * PAGE_SIZE:
            break
        firsts = np.minimum(descriptors >> np.uint64(4), limit).astype(np.int64)
        kind = _STORED if packed == pages * PAGE_SIZE else _HUFFMAN if method >= 2 else _PLAIN
        found.blocks.append(at, packed, pages, kind)
        inside = np.arange(pages) - np.repeat(np.cumsum(counts) - counts, counts)
        found.add(np.repeat(firsts, counts) + inside)
        position, done = at + packed, done + pages
    if wanted is None or done >= wanted:
        return ""
    return f"{wanted - done:,} of {wanted:,} pages are missing"
