"""Hyper-V's saved states, as Microsoft's OpenVMM describes them (support/hvs_file/FORMAT.md).

Packed blocks have the pieces that Pascal Beyer's parser supports.
"""

import struct
import zlib
from pathlib import Path

from tests.synth.containers import PAGE, Pieces
from tests.synth.xpress import pack_plain

_MIB = 1 << 20
_HEADER, _TABLE = 4096, 4096


def write_hyperv(path: Path, pieces: Pieces, *, packed: bool = True, changes: int = 0) -> None:
    """Ranges of whole mebibytes around the pieces; `changes` are entries of the log.

    Values of 2 KiB and more are separate objects, smaller values follow their keys.
    """
    ranges = sorted(
        {(address // _MIB, -(-(address + len(data)) // _MIB)) for address, data in pieces}
    )
    merged: list[tuple[int, int]] = []
    for low, high in ranges:
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    keys: list[tuple[bytes, int, bytes]] = [(b"VmVersion", 3, struct.pack("<q", 0xA00))]
    block = 0
    for number, (low, high) in enumerate(merged):
        last = max(address + len(data) for address, data in pieces if address < high * _MIB)
        pages = -(-min(last, high * _MIB) // PAGE) - low * 256
        fields = (3, 0, pages, block * 256, low * 256, 0, 0, 0)
        keys.append((b"RamMemoryBlock%d" % number, 7, struct.pack("<IIQQQIIQ", *fields)))
        for mib in range(low, high):
            contents = bytearray(_MIB)
            for address, data in pieces:
                begin, end = max(address, mib * _MIB), min(address + len(data), (mib + 1) * _MIB)
                if begin < end:
                    contents[begin - mib * _MIB : end - mib * _MIB] = data[
                        begin - address : end - address
                    ]
            value = _pack(bytes(contents)) if packed else bytes(contents)
            keys.append((b"RamBlock%d" % block, 7, value))
            block += 1
    path.write_bytes(_store(keys, changes))


def _pack(block: bytes) -> bytes:
    """A block's pieces: pages filled with eight bytes, alone or many; packed ones; stored ones."""
    out = bytearray()
    pages = [block[at : at + PAGE] for at in range(0, len(block), PAGE)]
    at = 0
    while at < len(pages):
        page = pages[at]
        if page == page[:8] * (PAGE // 8):
            count = 1
            while at + count < len(pages) and pages[at + count] == page:
                count += 1
            if count == 1:
                out += struct.pack("<I", 0xFFFFFFFE) + page[:8]
            else:
                out += struct.pack("<I", 0xFFFFFFFD) + page[:8] + struct.pack("<I", count)
            at += count
            continue
        data = pack_plain(page)
        if len(data) >= PAGE:
            out += struct.pack("<I", PAGE) + page
        elif at % 2:
            out += struct.pack("<III", 0xFFFFFFFC, PAGE, len(data)) + data
        else:
            out += struct.pack("<I", len(data)) + data
        at += 1
    if len(out) + 4 >= _MIB:
        return block
    return bytes(out) + struct.pack("<I", 0xFFFFFFFF)


def _checked(data: bytes, at: int, size: int) -> bytes:
    """The data with a checksum of their first `size` bytes in place of four zeros."""
    return data[:at] + struct.pack("<I", zlib.crc32(data[:size])) + data[at + 4 :]


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4096)


def _store(keys: list[tuple[bytes, int, bytes]], changes: int) -> bytes:
    """Headers, a table of objects, a log, large values, tables of keys."""
    objects: list[tuple[int, int, int]] = []
    room = -(-(8 + 18 * (len(keys) * 2 + 20)) // 4096) * 4096
    out = bytearray(2 * _HEADER + room)

    def add(kind: int, data: bytes) -> int:
        out.extend(bytes(-len(out) % 4096))
        at = len(out)
        objects.append((kind, at, len(_aligned(data))))
        out.extend(data)
        return at

    log = struct.pack("<IIIBIIIIIB", 0x01110003, 0, changes, 0, 32, 0, 0, 0, 0, 0)
    log_at = add(6, _checked(log, 4, len(log)))
    # Tables of keys come first, so that the file ends with memory.
    large = [value for _, kind, value in keys if kind == 7 and len(value) >= 2048]
    at = len(_aligned(bytes(out))) + _TABLE * len(_tables(keys, [0] * len(large)))
    places = []
    for value in large:
        places.append(at)
        at += len(_aligned(value))
    for table in _tables(keys, places):
        add(2, table)
    for value in large:
        add(3, value)
    objects.append((0, 0, 0))
    listed = struct.pack("<II", 0x01110001, len(objects))
    for kind, at, size in objects:
        listed += _checked(struct.pack("<BIQIB", kind, 0, at, size, 1), 1, 18)
    out[2 * _HEADER : 2 * _HEADER + len(listed)] = listed
    for copy in range(2):
        fields = (0x01282014, 0, 2 - copy, 0x400, 0, 0, 4096, log_at, 4096, 34)
        header = _checked(struct.pack("<IIHIIIIQQI", *fields), 4, 46)
        out[copy * _HEADER : copy * _HEADER + len(header)] = header
    return bytes(out)


def _tables(keys: list[tuple[bytes, int, bytes]], places: list[int]) -> list[bytes]:
    """Tables of keys, all of one node; `places` are the places of the large values."""
    entries = [_entry(b"savedstate\0", 9, 0, bytes(12), (0, 0), 1)]
    left = iter(places)
    for number, (name, kind, value) in enumerate(keys):
        flags, data = 0, value
        if kind == 7 and len(value) >= 2048:
            flags, data = 1, struct.pack("<IQ", len(value), next(left))
        elif kind == 7:
            data = struct.pack("<I", len(value)) + value
        entries.append(_entry(name + b"\0", kind, flags, data, (1, 10), number + 1))
    tables: list[bytes] = []
    table = b""
    for entry in [*entries, b""]:
        if not entry or 10 + len(table) + len(entry) + 22 > _TABLE:
            table += _entry(b"", 1, 0, bytes(_TABLE - 10 - len(table) - 21), (0, 0), 0)
            header = struct.pack("<HHHI", 2, len(tables) + 1, 1, 0)
            tables.append(_checked(header, 6, 10) + table)
            table = b""
        table += entry
    return tables


def _entry(
    name: bytes, kind: int, flags: int, data: bytes, parent: tuple[int, int], order: int
) -> bytes:
    size = 21 + len(name) + len(data)
    head = struct.pack("<BBIHIIIB", kind, flags, size, *parent, 0, order, len(name))
    return _checked(head + name + data, 12, size)
