"""QEMU's migration stream, as its docs/devel/migration and migration/ram.c have it; libvirt's."""

import struct
import zlib
from pathlib import Path

from tests.synth.containers import PAGE, Pieces

_HOLE = {b"pc-i440fx-7.2": 0xC0000000, b"pc-q35-7.2": 0x80000000, b"pc-1.0": 0xE0000000}
_ZERO, _SIZES, _PAGE, _EOS, _CONTINUE, _XBZRLE, _ZLIB = 2, 4, 8, 0x10, 0x20, 0x40, 0x100


def write_qemu(
    path: Path,
    pieces: Pieces,
    *,
    machine: bytes = b"pc-i440fx-7.2",
    libvirt: bytes = b"",
    how: str = "plain",
    mapped: bool = False,
    devices: bool = True,
) -> None:
    """A machine that has memory between the pieces, too, which is not sent.

    `how` is how pages are sent: plain, zlib, or again, as XBZRLE over other contents. `mapped` has
    the pages at their own places. Without `devices` the file ends with the memory. `libvirt` is the
    magic of its header, if there shall be one.
    """
    hole = _HOLE[machine]
    pages: dict[int, bytes] = {}
    for address, contents in pieces:
        assert address + len(contents) <= hole or address >= 1 << 32
        offset = address if address < hole else address - (1 << 32) + hole
        for start in range(0, len(contents), PAGE):
            pages[offset + start] = contents[start : start + PAGE]
    size = max(pages) + PAGE
    if max(pages) >= hole:
        size = max(size, hole + PAGE)
    front = _libvirt_header(libvirt, mapped) if libvirt else b""
    out = bytearray(front + b"QEVM\0\0\0\3")
    out += b"\7" + struct.pack(">I", len(machine)) + machine
    if mapped:
        out += b"\5\x1aconfiguration/capabilities" + struct.pack(">II", 1, 1) + b"\x0amapped-ram"
    out += b"\1" + struct.pack(">I", 1) + b"\5timer" + struct.pack(">II", 0, 2) + b"unknown"
    out += _footer(1)
    out += b"\1" + struct.pack(">I", 2) + b"\3ram" + struct.pack(">II", 0, 4)
    blocks = [(b"pc.ram", size), (b"vga.vram", 4 * PAGE)]
    out += struct.pack(">Q", sum(size for _, size in blocks) | _SIZES)
    for name, length in blocks:
        out += bytes([len(name)]) + name + struct.pack(">Q", length)
        if mapped:
            _map(out, pages if name == b"pc.ram" else {}, length)
    out += struct.pack(">Q", _EOS) + _footer(2)
    if not mapped:
        _send(out, pages, how)
    out += b"\3" + struct.pack(">IQ", 2, _EOS)
    if devices:
        out += (
            _footer(2)
            + b"\4"
            + struct.pack(">I", 3)
            + b"\3cpu"
            + struct.pack(">II", 0, 1)
            + bytes(200)
        )
        out += _footer(3) + b"\0" + b"\6" + struct.pack(">I", 2) + b"{}"
    path.write_bytes(out)


def _libvirt_header(magic: bytes, mapped: bool) -> bytes:
    text = b"<domain type='kvm'/>".ljust(1000, b"\0")
    return magic + struct.pack("<5I", 2, len(text), 1, 6 * mapped, 0) + bytes(56) + text


def _footer(section: int) -> bytes:
    return b"\x7e" + struct.pack(">I", section)


def _send(out: bytearray, pages: dict[int, bytes], how: str) -> None:
    """In parts of 32 pages; some pages of another block are between them."""
    offsets = list(pages)
    rounds = ["old", "xbzrle"] if how == "again" else [how]
    for kind in rounds:
        for start in range(0, len(offsets), 32):
            out += b"\2" + struct.pack(">I", 2)
            before = b""
            for number, offset in enumerate(offsets[start : start + 32]):
                if number == 20:
                    out += struct.pack(">Q", _PAGE) + b"\x08vga.vram" + b"v" * PAGE
                    before = b"vga.vram"
                _send_page(out, offset, pages[offset], kind, before == b"pc.ram")
                before = b"pc.ram"
            out += struct.pack(">Q", _EOS) + _footer(2)


def _old(page: bytes) -> bytes:
    """What a page was before: half of it, and other bytes at its end."""
    return page[: PAGE // 2] + bytes(PAGE // 2 - 3) + b"old"


def _send_page(out: bytearray, offset: int, page: bytes, kind: str, goes_on: bool) -> None:
    flags, data = _PAGE, page
    if kind == "old":
        data = _old(page)
    elif kind == "xbzrle":
        changes = _changes(_old(page), page)
        flags, data = _XBZRLE, b"\1" + struct.pack(">H", len(changes)) + changes
    elif not page.strip(page[:1]):
        flags, data = _ZERO, page[:1]
    elif kind == "zlib":
        packed = zlib.compress(page)
        flags, data = _ZLIB, struct.pack(">I", len(packed)) + packed
    name = b"" if goes_on else b"\x06pc.ram"
    out += struct.pack(">Q", offset | flags | _CONTINUE * goes_on) + name + data


def _changes(old: bytes, new: bytes) -> bytes:
    """Lengths of what is the same and of what is not, in turn; the new bytes behind the latter."""
    out = bytearray()
    at = 0
    while at < PAGE:
        same = at
        while same < PAGE and old[same] == new[same]:
            same += 1
        if same == PAGE:
            break
        other = same
        while other < PAGE and old[other] != new[other]:
            other += 1
        out += _leb128(same - at) + _leb128(other - same) + new[same:other]
        at = other
    return bytes(out)


def _leb128(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 0x7F | 0x80, number >> 7])


def _map(out: bytearray, pages: dict[int, bytes], size: int) -> None:
    """A header, a bitmap, and room for all pages at a multiple of 1 MiB."""
    bitmap = bytearray(-(-(size // PAGE) // 64) * 8)
    for offset, page in pages.items():
        if any(page):
            bitmap[offset // PAGE // 8] |= 1 << offset // PAGE % 8
    bitmap_at = len(out) + 28
    pages_at = -(-(bitmap_at + len(bitmap)) // (1 << 20)) << 20
    out += struct.pack(">IQQQ", 1, PAGE, bitmap_at, pages_at) + bitmap
    out += bytes(pages_at + size - len(out))
    for offset, page in pages.items():
        out[pages_at + offset : pages_at + offset + PAGE] = page
