"""QEMU's migration stream: of `migrate` into a file, of libvirt's `virsh save`, of Proxmox.

The format is that of QEMU's migration/savevm.c and ram.c (version 3 of the stream, 4 of the memory,
since 2010): sections, of which "ram" comes in many parts, with eight bytes before each page. A page
is stored unchanged, as a single repeated byte, packed with zlib, or as the difference from its last
state (XBZRLE); its last state counts. With the capability mapped-ram, as in libvirt's format
"sparse", pages have places of their own, and bitmaps tell which are present.

The stream holds blocks of memory by name. It does not tell their physical addresses, but names the
machine's type: see `_layout`. libvirt puts a header before the stream: see libvirt.py.
"""

import re
import struct
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import runs_without
from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import libvirt, magics
from memory_visualizer.formats.base import NO_RUNS, runs_of
from memory_visualizer.formats.bitmap import Bitmap
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.placed import FILLED, SPECIAL, PlacedDump, last_of_each
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_EOF, _START, _PART, _END, _FULL, _SUBSECTION = range(6)
_CONFIGURATION, _COMMAND, _FOOTER = 7, 8, 0x7E
_ZERO, _SIZES, _PAGE, _EOS, _CONTINUE, _XBZRLE, _HOOK = (1 << bit for bit in range(1, 8))
_ZLIB, _FLUSH = 0x100, 0x200
_FLAGS = PAGE_SIZE - 1

_WINDOW = 1 << 20
_FEW_AHEAD = _WINDOW // 16
_FEW_IN_ORDER = 16
_MAX_BLOCKS = 1 << 12
_FEW_PAGES = 1 << 21
"""Any block with a bitmap may have so many pages."""
_FOR_EACH = 1024
"""A larger block may have so many pages for each page that is present."""
_SEARCHED = 64 << 20
"""Bytes in which the end of an unknown section is searched for."""


@dataclass
class _Block:
    """A block of the machine's memory, by its name in the stream."""

    name: bytes
    size: int


class _Contents:
    """The pages of the stream, in its order."""

    def __init__(self) -> None:
        self.machine = b""
        # Name of the last page's block: the next page need not repeat it.
        self.current = b""
        self.blocks: dict[bytes, _Block] = {}
        # For each page: its number in a block, the block's number, and its place (see PlacedDump).
        self.page, self.block, self.place = array("q"), array("H"), array("q")
        # For each page with a place of SPECIAL: _ZLIB or _XBZRLE, byte of the file, size.
        self.packed: list[tuple[int, int, int]] = []
        # The number in `block` of each block's name.
        self.numbers: dict[bytes, int] = {}

    def add(self, name: bytes, page: NDArray[np.int64], place: NDArray[np.int64]) -> None:
        """Add pages of one block."""
        number = self.numbers.setdefault(name, len(self.numbers))
        self.page.frombytes(page.tobytes())
        self.place.frombytes(place.tobytes())
        self.block.frombytes(np.full(page.size, number, np.uint16).tobytes())


class _CutError(Exception):
    """The stream ends at this byte, or is broken there."""


class _Reader:
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
        """The next bytes; _CutError if the file ends before."""
        taken = self.peek(size)
        if len(taken) < size:
            raise _CutError
        self.position += size
        return taken

    def number(self, size: int) -> int:
        """The next number, big-endian."""
        return int.from_bytes(self.take(size), "big")

    def text(self, width: int = 1) -> bytes:
        """The next name; its length comes before it, as a number of `width` bytes."""
        return self.take(min(self.number(width), 1 << 16))

    def bitmap(self, count: int) -> Bitmap:
        """The next bitmap, of `count` bits; _CutError if it is cut off."""
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
        """Skip bytes; _CutError if the file ends before."""
        if self.position + size > self.size:
            raise _CutError
        self.position += size


@dataclass(frozen=True)
class _Made:
    """The components of a page: a base page, and its changes."""

    base: int
    """The place of the base as in `PlacedDump`; if it is SPECIAL, `packed` has it."""
    packed: tuple[int, int]
    """Byte of the file and size of a page packed with zlib."""
    changes: Sequence[tuple[int, int]]
    """Byte of the file and size of each piece of XBZRLE."""


class QemuDump(PlacedDump):
    """The memory in a migration stream."""

    _made: Sequence[_Made] = ()

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Find all pages.

        BadInputError when the file cannot be read or holds no memory; DamagedInputError, unless
        `lenient`, when a part is missing or broken.
        """
        path = as_path(path)
        remarks: list[str] = []
        contents = _Contents()
        with reading(path), path.open("rb", buffering=0) as file:
            start, format_ = _begin(path, file, lenient, remarks)
            reader = _Reader(path, file, start)
            complete = False
            try:
                _read_stream(reader, contents)
                complete = True
            except _CutError:
                at = f"byte {reader.position:,}"
                if not contents.page:
                    raise BadInputError(f"{path} ends before the machine's memory") from None
                what = f"ends too early, at {at}" if reader.at_end() else f"is invalid at {at}"
                _complain(f"{path}, a QEMU stream, {what}", lenient, remarks)
            parts = _layout(path, file, contents, remarks)
        frame, row = _frames(contents, parts)
        frame, place, made = _last_states(path, contents, frame, row, lenient, remarks)
        left_out = _left_out(parts, frame) if complete else NO_RUNS
        dump = cls(path, format_, frame, place, left_out=left_out, remarks=remarks)
        dump._made = made
        return dump._without_broken_pages() if lenient and made else dump

    def _special(self, file: FileIO, number: int) -> bytes:
        made = self._made[number]
        if made.base <= SPECIAL:
            page = bytearray(self._unzipped(file, *made.packed))
        else:
            page = bytearray(self._pages(file, np.array([made.base])).tobytes())
        for at, size in made.changes:
            if not _change(page, self._read(file, size, at)):
                raise DamagedInputError(f"{self.path}: a change at byte {at:,} is invalid")
        return bytes(page)

    def _unzipped(self, file: FileIO, at: int, size: int) -> bytes:
        packed = self._read(file, size, at)
        try:
            page = zlib.decompressobj().decompress(packed, PAGE_SIZE)
        except zlib.error:
            page = b""
        if len(page) != PAGE_SIZE:
            raise DamagedInputError(f"{self.path}: the page at byte {at:,} cannot be unpacked")
        return page

    def _without_broken_pages(self) -> Self:
        """Make all pages that have to be made; leave out broken ones."""
        sound = np.ones(len(self._made), np.bool_)
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for number in range(sound.size):
                try:
                    self._special(file, number)
                except DamagedInputError:
                    sound[number] = False
        if sound.all():
            return self
        special = self._place <= SPECIAL
        kept = ~special
        kept[special] = sound[SPECIAL - self._place[special]]
        lost = f"{np.count_nonzero(~sound):,} broken pages of {self.path} were left out"
        remarks = [*self.remarks, lost]
        if not kept.any():
            raise BadInputError(f"{self.path} holds no page of memory that can be read")
        dump = type(self)(
            self.path,
            self.format,
            self._frame[kept],
            self._place[kept],
            left_out=self.left_out_runs,
            remarks=remarks,
        )
        dump._made = self._made
        return dump.instead_of(self)


def _complain(sentence: str, lenient: bool, remarks: list[str]) -> None:
    if not lenient:
        raise DamagedInputError(sentence)
    remarks.append(f"{sentence}; the part before it was read")


def _begin(path: Path, file: FileIO, lenient: bool, remarks: list[str]) -> tuple[int, str]:
    """The place of the stream, and the format's name."""
    head = read_at(file, libvirt.HEADER_SIZE, 0)
    if head.startswith(magics.QEMU):
        return 0, "QEMU migration stream"
    header = libvirt.header_of(head)
    if header is None or read_at(file, len(magics.QEMU), header.start) != magics.QEMU:
        raise BadInputError(f"{path} is a machine saved by libvirt, but without QEMU's stream")
    if header.is_part:
        sentence = f"{path} is a machine that libvirt did not finish saving"
        if not lenient:
            raise DamagedInputError(sentence)
        remarks.append(sentence)
    return header.start, "libvirt save"


def _read_stream(reader: _Reader, contents: _Contents) -> None:
    """Read sections up to the end of the memory; _CutError if the file ends before."""
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
            raise _CutError


def _read_subsection(reader: _Reader) -> set[bytes]:
    """Read a subsection of the configuration; returns the capabilities that it tells."""
    reader.skip(1)
    name = reader.text()
    reader.skip(4)
    if name == b"configuration/capabilities":
        return {reader.text() for _ in range(min(reader.number(4), 256))}
    sizes = {b"configuration/target-page-bits": 4, b"configuration/uuid": 16}
    if name not in sizes:
        raise _CutError
    reader.skip(sizes[name])
    return set()


def _skip_section(reader: _Reader, number: int) -> None:
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
    raise _CutError


def _read_ram(reader: _Reader, contents: _Contents, capabilities: set[bytes]) -> None:
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
        if name not in contents.blocks or kind not in (_ZERO, _PAGE, _XBZRLE, _ZLIB):
            reader.position = before
            raise _CutError
        if kind in (_ZERO, _PAGE):
            _read_pages(reader, contents, name, page, kind)
            continue
        if kind == _XBZRLE and reader.number(1) != 1:
            raise _CutError
        size = reader.number(2 if kind == _XBZRLE else 4)
        at = reader.position
        reader.skip(size)
        place = SPECIAL - len(contents.packed)
        contents.packed.append((kind, at, size))
        contents.add(name, np.array([page]), np.array([place]))


def _read_sizes(reader: _Reader, contents: _Contents, total: int, capabilities: set[bytes]) -> None:
    """Read the list of blocks, which together have `total` bytes."""
    while total > 0:
        if len(contents.blocks) == _MAX_BLOCKS:
            raise _CutError
        block = _Block(reader.text(), reader.number(8))
        if not block.name or block.size > MAX_FRAMES * PAGE_SIZE:
            raise _CutError
        contents.blocks[block.name] = block
        total -= block.size
        if b"x-ignore-shared" in capabilities:
            reader.skip(8)
        if b"mapped-ram" in capabilities:
            _read_mapped(reader, contents, block)


def _read_mapped(reader: _Reader, contents: _Contents, block: _Block) -> None:
    """Find the pages of a block with a bitmap, and continue behind them."""
    version, page_size, bitmap_at, pages_at = struct.unpack(">IQQQ", reader.take(28))
    count = block.size // PAGE_SIZE
    if version != 1 or page_size != PAGE_SIZE or pages_at < bitmap_at:
        raise _CutError
    reader.position = min(bitmap_at, reader.size)
    bitmap = reader.bitmap(count)
    if count > max(_FEW_PAGES, _FOR_EACH * bitmap.count()) or pages_at > reader.size:
        raise _CutError
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
        raise _CutError


def _read_pages(reader: _Reader, contents: _Contents, name: bytes, page: int, kind: int) -> None:
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
        raise _CutError
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


def _change(page: bytearray, changes: bytes) -> bool:
    """Apply XBZRLE's changes (QEMU, docs/xbzrle.txt); returns whether this was possible."""
    at = position = 0
    while position < len(changes):
        for is_new in (False, True):
            length, position = _leb128(changes, position)
            if length is None:
                return False
            if is_new:
                piece = changes[position : position + length]
                if len(piece) < length or at + length > PAGE_SIZE:
                    return False
                page[at : at + length] = piece
                position += length
            at += length
    return at <= PAGE_SIZE


def _leb128(data: bytes, position: int) -> tuple[int | None, int]:
    """A number of one or two bytes, and its end; None if it is broken."""
    if position >= len(data):
        return None, position
    if data[position] < 0x80:
        return data[position], position + 1
    if position + 1 >= len(data):
        return None, position
    return data[position] & 0x7F | data[position + 1] << 7, position + 2


# The places of the blocks in physical memory

_MAIN = re.compile(rb"(?:/objects/)?(?:pc\.ram|microvm\.ram|mach-virt\.ram|ram-node(\d+))")
_HOTPLUGGED = re.compile(rb"(?:/objects/)?(?:mem)?dimm\d+|.*virtio-mem.*")
_HOLE_END = 1 << 32
_ARM_START = 1 << 30


@dataclass(frozen=True)
class _Part:
    """Pages of a block that are contiguous in physical memory."""

    block: bytes
    page: int
    count: int
    frame: int


def _layout(path: Path, file: FileIO, contents: _Contents, remarks: list[str]) -> list[_Part]:
    """The places of the machine's RAM: below a hole for devices, and from 4 GiB on.

    QEMU's hw/i386/pc_piix.c, pc_q35.c and microvm.c tell the beginning of the hole of their
    machines; the option max-ram-below-4g may change it.
    """
    blocks = contents.blocks
    if not blocks:
        raise BadInputError(f"{path} describes no memory")
    main = [name for name in blocks if _MAIN.fullmatch(name)]
    if not main:
        main = [max(blocks, key=lambda name: int(blocks[name].size))]
        shown = main[0].decode("latin-1")
        remarks.append(f"{path}: the largest block of memory, {shown!r}, was assumed to be the RAM")
    main.sort(key=_node)
    if others := [name for name in blocks if _HOTPLUGGED.fullmatch(name)]:
        size = sum(blocks[name].size for name in others) // PAGE_SIZE
        remarks.append(
            f"{path} does not tell the addresses of {size:,} pages of memory that were plugged in"
        )
    total = sum(blocks[name].size for name in main)
    start, hole = _hole(path, file, contents.machine, total, remarks)
    parts = []
    address = start
    for name in main:
        done, size = 0, blocks[name].size
        while done < size:
            upto = min(size - done, hole - address) if address < hole else size - done
            parts.append(_Part(name, done // PAGE_SIZE, upto // PAGE_SIZE, address // PAGE_SIZE))
            done += upto
            address += upto
            if address == hole:
                address = _HOLE_END
    return parts


def _node(name: bytes) -> int:
    """The number of a NUMA node's block."""
    found = _MAIN.fullmatch(name)
    return int(found[1] or 0) if found else 0


def _hole(
    path: Path, file: FileIO, machine: bytes, total: int, remarks: list[str]
) -> tuple[int, int]:
    """The beginning of RAM, and the beginning of the hole for devices."""
    none = 1 << 62
    if machine.startswith(b"virt"):
        return _ARM_START, none
    kind = machine
    if not machine:
        tail = read_at(file, _WINDOW, max(0, file_size(file) - _WINDOW)).lower()
        is_q35 = tail.count(b"ich9") > tail.count(b"piix")
        kind = b"pc-q35" if is_q35 else b"pc-i440fx"
    if kind.startswith(b"pc-q35"):
        return 0, 0x80000000 if total >= 0xB0000000 else none
    if kind.startswith(b"microvm"):
        return 0, 0xC0000000
    if not kind.startswith((b"pc-", b"xenfv")) and total >= 0x80000000:
        shown = machine.decode("latin-1")
        remarks.append(
            f"{path} comes from an unknown machine type ({shown!r}): its memory is placed as in a"
            " PC"
        )
    if re.match(rb"pc-(i440fx-)?[01]\.", kind):
        return 0, 0xE0000000
    return 0, 0xC0000000 if total >= 0xE0000000 else none


def _frames(
    contents: _Contents, parts: Sequence[_Part]
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """PFNs of the pages of RAM in the stream, and the rows of these pages."""
    page = np.frombuffer(contents.page, np.int64)
    block = np.frombuffer(contents.block, np.uint16)
    frame = np.full(page.size, -1, np.int64)
    for part in parts:
        if (number := contents.numbers.get(part.block)) is None:
            continue
        inside = (block == number) & (page >= part.page) & (page < part.page + part.count)
        frame[inside] = page[inside] - part.page + part.frame
    [row] = np.nonzero((frame >= 0) & (frame < MAX_FRAMES))
    return frame[row], row


def _left_out(parts: Sequence[_Part], frame: NDArray[np.int64]) -> NDArray[np.int64]:
    """RAM that QEMU did not send because the guest reported it as free; as Dump.runs."""
    ram = np.array(sorted((part.frame, part.count) for part in parts), np.int64)
    return runs_without(ram, runs_of(frame))


def _last_states(
    path: Path,
    contents: _Contents,
    frame: NDArray[np.int64],
    row: NDArray[np.intp],
    lenient: bool,
    remarks: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[_Made]]:
    """The last state of each frame: PFN, place, and the pages that have to be made."""
    last = last_of_each(path, frame, lenient=lenient, remarks=remarks)
    place = np.frombuffer(contents.place, np.int64)[row]
    made: list[_Made] = []
    places = place[last]
    [special] = np.nonzero(places <= SPECIAL)
    if special.size:
        order = np.argsort(
            frame, kind="stable"
        )  # sorted, so that the states of a frame are neighbours
        ends = np.searchsorted(frame[order], frame[last[special]], side="right")
        for number, end in zip(special.tolist(), ends.tolist(), strict=True):
            pfn, at, changes = frame[last[number]], end - 1, []
            while at >= 0 and frame[order[at]] == pfn:
                state = int(place[order[at]])
                kind, begin, size = (
                    contents.packed[SPECIAL - state] if state <= SPECIAL else (0, 0, 0)
                )
                if kind != _XBZRLE:
                    break
                changes.append((begin, size))
                at -= 1
            else:
                state, begin, size = FILLED, 0, 0  # a page that was not sent before was all zeros
            places[number] = SPECIAL - len(made)
            made.append(_Made(state, (begin, size), changes[::-1]))
    return frame[last], places, made
