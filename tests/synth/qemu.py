"""QEMU's migration stream, from its docs/devel/migration and migration/ram.c; and libvirt's."""

import bz2
import functools
import gzip
import hashlib
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import cramjam
import numpy as np

from tests.synth.containers import PAGE, Pieces, zlib_page

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
    packing: str = "",
) -> None:
    """A machine whose memory between the pieces is not sent.

    `how` tells how pages are sent: plain, zlib, or again, as XBZRLE over other contents. `mapped`
    puts pages at their own places. Without `devices` the file ends with the memory. `libvirt` is
    the magic of its header, if there is one, and `packing` the packing of the stream then.
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
    front = libvirt_header(libvirt, mapped, packing) if libvirt else b""
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
    if packing:
        out[len(front) :] = _PACKERS[packing](bytes(out[len(front) :]))
    path.write_bytes(out)


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, compresslevel=1),
    "bzip2": functools.partial(bz2.compress, compresslevel=1),
    "xz": functools.partial(lzma.compress, preset=0),
    "lzop": lambda data: b"\x89LZO\0\r\n\x1a\n" + data,
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
}


def libvirt_header(magic: bytes, mapped: bool, packing: str) -> bytes:
    """What stands before the stream; `packing` is one of `_PACKERS`, or nothing."""
    text = b"<domain type='kvm'/>".ljust(1000, b"\0")
    how = 6 if mapped else ["", *_PACKERS].index(packing)
    return magic + struct.pack("<5I", 2, len(text), 1, how, 0) + bytes(56) + text


def write_vma(
    path: Path, pieces: Pieces, *, state: bool = True, gap: int = 3, long_names: int = 0
) -> None:
    """A backup of Proxmox (vma_spec.txt) with a disk and, with `state`, the stream of a machine.

    Each extent has clusters of both, and `gap` clusters of no device at its end. In front of the
    names that are used stand twenty of `long_names` bytes.
    """
    names = b"\0" + (struct.pack("<H", long_names) + b"n" * long_names) * 20 * bool(long_names)
    places = []
    for name in (b"qemu-server.conf\0", b"cores: 1\n", b"drive-scsi0\0", b"vmstate\0"):
        places.append(len(names))
        names += struct.pack("<H", len(name)) + name
    size = -(-(12288 + len(names)) // 512) * 512
    header = struct.pack(
        ">4sI16sQ16sIII", b"VMA\0", 1, b"u" * 16, 0, bytes(16), 12288, len(names), size
    )
    header = header.ljust(2044, b"\0") + struct.pack(">I", places[0]).ljust(1024, b"\0")
    header = (header + struct.pack(">I", places[1])).ljust(4096, b"\0")
    devices = [(0, 0), (places[2], 1 << 30)] + [(places[3], 0)] * state
    header += b"".join(struct.pack(">IIQQQ", at, 0, length, 0, 0) for at, length in devices)
    header = (header.ljust(12288, b"\0") + names).ljust(size, b"\0")
    header = header[:32] + hashlib.md5(header).digest() + header[48:]
    write_qemu(path, pieces)
    stream = path.read_bytes()
    stream += bytes(-len(stream) % 65536)
    clusters: list[tuple[int, int, bytes]] = []
    for start in range(0, len(stream), 65536):
        clusters.append((1, start // 65536, b"disk".ljust(65536, b"\0")))
        if state:
            clusters.append((2, start // 65536, stream[start : start + 65536]))
    out = bytearray(header)
    for begin in range(0, len(clusters), 59 - gap):
        infos, data = [], b""
        for device, number, contents in clusters[begin : begin + 59 - gap]:
            blocks = [contents[at : at + PAGE] for at in range(0, 65536, PAGE)]
            mask = sum(1 << bit for bit, block in enumerate(blocks) if any(block))
            infos.append(mask << 48 | device << 32 | number)
            data += b"".join(block for block in blocks if any(block))
        infos += [0] * (59 - len(infos))
        extent = struct.pack(
            ">4sHH16s16s59Q", b"VMAE", 0, len(data) // PAGE, b"u" * 16, bytes(16), *infos
        )
        out += extent[:24] + hashlib.md5(extent).digest() + extent[40:] + data
    path.write_bytes(out)


def _footer(section: int) -> bytes:
    return b"\x7e" + struct.pack(">I", section)


def _send(out: bytearray, pages: dict[int, bytes], how: str) -> None:
    """Pages are sent in parts of 32; some pages of another block come in between."""
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
    """An earlier state of a page: zeros, other bytes and an other end in its second half.

    So some of the changes are short, and others take two bytes to tell their length.
    """
    half = PAGE // 2
    other = page[half + 64 : half + 512].translate(_INVERTED)
    return page[:half] + bytes(64) + other + page[half + 512 : -3] + b"old"


_INVERTED = bytes(range(255, -1, -1))


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
        packed = zlib_page(page)
        flags, data = _ZLIB, struct.pack(">I", len(packed)) + packed
    name = b"" if goes_on else b"\x06pc.ram"
    out += struct.pack(">Q", offset | flags | _CONTINUE * goes_on) + name + data


def _changes(old: bytes, new: bytes) -> bytes:
    """Lengths of equal and of changed bytes in turn; the new bytes follow the latter."""
    differs = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
    edges = np.flatnonzero(np.diff(differs, prepend=False, append=False)).tolist()
    out = bytearray()
    at = 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        out += _LEB128[start - at] + _LEB128[end - start] + new[start:end]
        at = end
    return bytes(out)


def _leb128(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 0x7F | 0x80, number >> 7])


_LEB128 = [_leb128(number) for number in range(PAGE + 1)]
"""The lengths of stretches of a page."""


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
