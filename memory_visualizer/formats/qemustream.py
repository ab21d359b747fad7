"""Reads QEMU's migration stream (see qemu.py): its sections, and where its pages lie."""

import re
import struct
from array import array
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats import magics
from memory_visualizer.formats.bitmap import Bitmap
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.placed import FILLED, SPECIAL
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_EOF, _START, _PART, _END, _FULL, _SUBSECTION = range(6)
_CONFIGURATION, _COMMAND, _FOOTER = 7, 8, 0x7E
_ZERO, _SIZES, _PAGE, _EOS, _CONTINUE, XBZRLE, _HOOK = (1 << bit for bit in range(1, 8))
ZLIB, _FLUSH = 0x100, 0x200
_FLAGS = PAGE_SIZE - 1

_WINDOW = 1 << 20
_FEW_AHEAD = _WINDOW // 16
_FEW_IN_ORDER = 16
_MAX_BLOCKS = 1 << 12
_MAX_TEXT, _MAX_CAPABILITIES = 1 << 16, 256
"""Bytes of a name, and capabilities; a stream with more is broken."""
_FEW_PAGES = 1 << 21
"""Any block with a bitmap may have so many pages."""
_FOR_EACH = 1024
"""A larger block may have so many pages for each page that is present."""
_SEARCHED = 64 << 20
"""Bytes in which the end of an unknown section is searched for."""


@dataclass
class Block:
    """A block of the machine's memory, by its name in the stream."""

    name: bytes
    size: int


class Contents:
    """The pages of the stream, in its order."""

    def __init__(self) -> None:
        self.machine = b""
        # Name of the last page's block: the next page need not repeat it.
        self.current = b""
        self.blocks: dict[bytes, Block] = {}
        # For each page: its number in a block, the block's number, and its place (see PlacedDump).
        self.page, self.block, self.place = array("q"), array("H"), array("q")
        # For each page with a place of SPECIAL: ZLIB or XBZRLE, byte of the file, size.
        self.packed: list[tuple[int, int, int]] = []
        # The number in `block` of each block's name.
        self.numbers: dict[bytes, int] = {}

    def add(self, name: bytes, page: NDArray[np.int64], place: NDArray[np.int64]) -> None:
        """Add pages of one block."""
        number = self.numbers.setdefault(name, len(self.numbers))
        self.page.frombytes(page.tobytes())
        self.place.frombytes(place.tobytes())
        self.block.frombytes(np.full(page.size, number, np.uint16).tobytes())


class CutError(Exception):
    """The stream ends at this byte, or is broken there."""


class Stream:
    """Reads the stream, a window at a time."""

    def __init__(self, path: Path, file: FileIO, position: int) -> None:
        self._path, self._file = path, file
        self.size = file_size(file)
        self.position = position
        self._window, self._begin = b"", 0

    def peek(self, size: int) -> bytes:
        """The next bytes, fewer at the file's end."""
        at = self.position - self._begin
        if at < 0 or at + size > len(self._window):
            self._window = read_at(self._file, max(size, _WINDOW), self.position)
            self._begin, at = self.position, 0
        return self._window[at : at + size]

    def take(self, size: int) -> bytes:
        """The next bytes; CutError if the file ends before."""
        taken = self.peek(size)
        if len(taken) < size:
            raise CutError
        self.position += size
        return taken

    def number(self, size: int) -> int:
        """The next number, big-endian."""
        return int.from_bytes(self.take(size), "big")

    def text(self, width: int = 1) -> bytes:
        """The next name; its length comes before it, as a number of `width` bytes."""
        length = self.number(width)
        if length > _MAX_TEXT:
            raise CutError
        return self.take(length)

    def bitmap(self, count: int) -> Bitmap:
        """The next bitmap, of `count` bits; CutError if it is cut off."""
        begin = self.position
        self.skip(-(-count // 8))
        return Bitmap(self._path, self._file, begin, count)

    def ahead(self) -> tuple[bytes, int]:
        """A window of the file that contains many of the next bytes, and their place in it."""
        at = self.position - self._begin
        if not 0 <= at <= len(self._window) - _FEW_AHEAD:
            self._window = read_at(self._file, _WINDOW, self.position)
            self._begin, at = self.position, 0
        return self._window, at

    def at_end(self) -> bool:
        """Whether the file ends here, or before the next page."""
        return self.size - self.position < 8 + PAGE_SIZE

    def skip(self, size: int) -> None:
        """Skip bytes; CutError if the file ends before."""
        if self.position + size > self.size:
            raise CutError
        self.position += size


def read_stream(reader: Stream, contents: Contents) -> None:
    """Read sections up to the end of the memory; CutError if the file ends before."""
    reader.skip(len(magics.QEMU))
    names: dict[int, bytes] = {}
    capabilities: set[bytes] = set()
    while (kind := reader.number(1)) != _EOF:
        if kind == _CONFIGURATION:
            contents.machine = reader.text(4)
            while reader.peek(1) == bytes([_SUBSECTION]):
                capabilities |= _read_subsection(reader)
        elif kind == _COMMAND:
            reader.skip(2)
            reader.skip(reader.number(2))
        elif kind == _FOOTER:
            reader.skip(4)
        elif kind in (_START, _PART, _END, _FULL):
            number = reader.number(4)
            if kind in (_START, _FULL):
                names[number] = reader.text()
                reader.skip(8)  # number of the instance, version
            if names.get(number) != b"ram":
                _skip_section(reader, number)
                continue
            _read_ram(reader, contents, capabilities)
            if kind == _END:
                return
        else:
            raise CutError


def _read_subsection(reader: Stream) -> set[bytes]:
    """Read a subsection of the configuration; returns the capabilities that it tells."""
    reader.skip(1)
    name = reader.text()
    reader.skip(4)
    if name == b"configuration/capabilities":
        count = reader.number(4)
        if count > _MAX_CAPABILITIES:
            raise CutError
        return {reader.text() for _ in range(count)}
    sizes = {b"configuration/target-page-bits": 4, b"configuration/uuid": 16}
    if name not in sizes:
        raise CutError
    reader.skip(sizes[name])
    return set()


def _skip_section(reader: Stream, number: int) -> None:
    """Find the end of an unknown section: its footer, and the beginning of another section."""
    end = re.compile(
        rb"\x7e" + re.escape(number.to_bytes(4, "big")) + rb"[\0-\x04\x06-\x08]", re.DOTALL
    )
    left = _SEARCHED
    while left > 0:
        data = reader.peek(_WINDOW)
        if found := end.search(data):
            reader.skip(found.end() - 1)
            return
        if len(data) < _WINDOW:
            break
        reader.skip(len(data) - 6)
        left -= len(data)
    raise CutError


def _read_ram(reader: Stream, contents: Contents, capabilities: set[bytes]) -> None:
    """Read a part of the memory."""
    while True:
        before = reader.position
        header = reader.number(8)
        flags, address = header & _FLAGS, header & ~_FLAGS
        if flags & _EOS:
            return
        if flags & _SIZES:
            _read_sizes(reader, contents, address, capabilities)
            continue
        if flags & _FLUSH and not flags & ~_FLUSH:
            continue
        if not flags & _CONTINUE:
            contents.current = reader.text()
        name = contents.current
        kind = flags & ~_CONTINUE
        page = address // PAGE_SIZE
        is_known = name in contents.blocks and kind in (_ZERO, _PAGE, XBZRLE, ZLIB)
        if not is_known or page >= contents.blocks[name].size // PAGE_SIZE:
            reader.position = before
            raise CutError
        if kind in (_ZERO, _PAGE):
            _read_pages(reader, contents, name, page, kind)
            continue
        if kind == XBZRLE and reader.number(1) != 1:
            raise CutError
        size = reader.number(2 if kind == XBZRLE else 4)
        at = reader.position
        reader.skip(size)
        place = SPECIAL - len(contents.packed)
        contents.packed.append((kind, at, size))
        contents.add(name, np.array([page]), np.array([place]))


def _read_sizes(reader: Stream, contents: Contents, total: int, capabilities: set[bytes]) -> None:
    """Read the list of blocks, which together have `total` bytes."""
    while total > 0:
        if len(contents.blocks) == _MAX_BLOCKS:
            raise CutError
        block = Block(reader.text(), reader.number(8))
        if not block.name or block.size > MAX_FRAMES * PAGE_SIZE:
            raise CutError
        contents.blocks[block.name] = block
        total -= block.size
        if b"x-ignore-shared" in capabilities:
            reader.skip(8)
        if b"mapped-ram" in capabilities:
            _read_mapped(reader, contents, block)


def _read_mapped(reader: Stream, contents: Contents, block: Block) -> None:
    """Find the pages of a block with a bitmap, and continue behind them."""
    version, page_size, bitmap_at, pages_at = struct.unpack(">IQQQ", reader.take(28))
    count = block.size // PAGE_SIZE
    if version != 1 or page_size != PAGE_SIZE or pages_at < bitmap_at:
        raise CutError
    reader.position = min(bitmap_at, reader.size)
    bitmap = reader.bitmap(count)
    if count > max(_FEW_PAGES, _FOR_EACH * bitmap.count()) or pages_at > reader.size:
        raise CutError
    whole = (reader.size - pages_at) // PAGE_SIZE
    complete = True
    for start, present in bitmap.pieces():
        page = np.arange(start, start + present.size)
        place = np.where(present, pages_at + page * PAGE_SIZE, FILLED)
        there = ~present | (page < whole)
        contents.add(block.name, page[there], place[there])
        complete &= bool(there.all())
    reader.position = pages_at + block.size
    if not complete or reader.position > reader.size:
        raise CutError


def _read_pages(reader: Stream, contents: Contents, name: bytes, page: int, kind: int) -> None:
    """Read a page, and all pages of the same kind that follow it in order."""
    size = PAGE_SIZE if kind == _PAGE else 1
    data, at = reader.ahead()
    stride = 8 + size
    count = _in_order(data, at + size, stride, (page + 1) * PAGE_SIZE | kind | _CONTINUE) + 1
    count = min(count, (reader.size - reader.position + 8) // stride)
    if kind == _PAGE:
        place = reader.position + np.arange(count) * stride
    else:
        inside = min(count, (len(data) - at - 1) // stride + 1)
        fill = np.ndarray((inside,), np.uint8, data, at, (stride,))
        count, place = inside, FILLED - fill.astype(np.int64)
    pages = np.arange(page, page + count)
    beyond = page + count > contents.blocks[name].size // PAGE_SIZE
    if beyond or not count:
        raise CutError
    contents.add(name, pages, place)
    reader.skip(count * stride - 8)


def _in_order(data: bytes, at: int, stride: int, header: int) -> int:
    """The number of headers from this one on that belong to consecutive pages."""
    room = max(0, (len(data) - at - 8) // stride + 1)
    count = 0
    for some in (_FEW_IN_ORDER, room):  # a few headers mostly show that there are no more
        some = min(some, room)
        headers = np.ndarray((some,), ">u8", data, at, (stride,)) if some else np.empty(0)
        expected = np.arange(some, dtype=np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(header)
        [other] = np.nonzero(headers != expected)
        count = int(other[0]) if other.size else some
        if count < some:
            break
    return count
