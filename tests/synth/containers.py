"""The same physical memory in every format of dumps, written from each format's description.

Memory is given as pieces: physical address and contents, in the order of the file. Nothing here
knows the reader; if a format is not documented, the source is named.
"""

import itertools
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import cramjam

Pieces: TypeAlias = Sequence[tuple[int, bytes]]

PAGE = 4096


def write_raw(path: Path, pieces: Pieces) -> None:
    """Byte N is byte N of memory; gaps between pieces are holes."""
    with path.open("wb") as file:
        for address, contents in pieces:
            file.seek(address)
            file.write(contents)


def write_lime(path: Path, pieces: Pieces) -> None:
    """LiME version 1 (LiME, doc/README.md)."""
    with path.open("wb") as file:
        for address, contents in pieces:
            last = address + len(contents) - 1
            file.write(struct.pack("<4sIQQQ", b"EMiL", 1, address, last, 0) + contents)


def write_avml(
    path: Path,
    pieces: Pieces,
    block_size: int = 16 << 20,
    *,
    without_zeros: bool = False,
    packed: Sequence[bool] = (True,),
) -> list[int]:
    """AVML's version 2 of LiME's header (microsoft/avml, src/image.rs).

    AVML compresses with the Rust library behind cramjam. `without_zeros` leaves out blocks of
    zeros, as AVML does. `packed` tells for each block, in turn, whether it is compressed or has
    LiME's own header. Returns the places of the blocks in the file.
    """
    places = []
    numbers = itertools.cycle(packed)
    with path.open("wb") as file:
        for address, contents in pieces:
            for start in range(0, len(contents), block_size):
                block = contents[start : start + block_size]
                if without_zeros and not any(block):
                    continue
                first = address + start
                last = first + len(block) - 1
                places.append(file.tell())
                if not next(numbers):
                    file.write(struct.pack("<4sIQQQ", b"EMiL", 1, first, last, 0) + block)
                    continue
                stream = bytes(cramjam.snappy.compress(block))
                file.write(struct.pack("<4sIQQQ", b"AVML", 2, first, last, 0))
                file.write(stream + struct.pack("<Q", len(stream)))
    return places


def write_elf(
    path: Path,
    pieces: Pieces,
    *,
    bits: int = 64,
    notes: Sequence[tuple[bytes, bytes]] = (),
    left_out: Sequence[tuple[int, int]] = (),
    views: Sequence[tuple[int, int]] = (),
    many: bool = False,
) -> None:
    """An ELF core as QEMU writes it (dump/dump.c), section headers first (since 7.2).

    `left_out` are address and size of segments without bytes in the file (VirtualBox: device
    memory). `views` are address and size of further segments that repeat a part of a piece, as with
    paging=on. `many` writes the number of segments in the place for numbers that do not fit into
    e_phnum.
    """
    wide = bits == 64
    header_size, segment_size, section_size = (64, 56, 64) if wide else (52, 32, 40)
    note = b""
    for name, descriptor in notes:
        note += struct.pack("<III", len(name) + 1, len(descriptor), 0)
        note += _padded(name + b"\0") + _padded(descriptor)
    count = 1 + len(pieces) + len(left_out) + len(views)
    section_at = header_size
    segment_at = section_at + 2 * section_size
    note_at = segment_at + count * segment_size
    memory_at = note_at + len(note)

    def segment(type_: int, at: int, address: int, in_file: int, in_memory: int) -> bytes:
        if wide:
            return struct.pack("<IIQQQQQQ", type_, 0, at, 0, address, in_file, in_memory, 0)
        return struct.pack("<IIIIIIII", type_, at, 0, address, in_file, in_memory, 0, 0)

    segments = bytearray(segment(4, note_at, 0, len(note), len(note)))
    places = []
    at = memory_at
    for address, contents in pieces:
        segments += segment(1, at, address, len(contents), len(contents))
        places.append((address, len(contents), at))
        at += len(contents)
    for address, size in left_out:
        segments += segment(1, at, address, 0, size)
    for address, size in views:
        begin, place = next((b, p) for b, length, p in places if b <= address < b + length)
        segments += segment(1, place + address - begin, address, size, size)

    header = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    words = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
    machine = 62 if wide else 3
    header += struct.pack(
        words,
        4,
        machine,
        1,
        0,
        segment_at,
        section_at,
        0,
        header_size,
        segment_size,
        0xFFFF if many else count,
        section_size,
        2,
        1,
    )
    section = bytearray(section_size)
    struct.pack_into("<I", section, 44 if wide else 28, count if many else 0)
    with path.open("wb") as file:
        file.write(header + section + bytes(section_size) + segments + note)
        for _, contents in pieces:
            file.write(contents)


def write_xen(
    path: Path, pieces: Pieces, *, paravirtual: bool = False, gone: int = 3, more_names: int = 0
) -> None:
    """A core of Xen (docs/misc/dump-core-format.txt); pieces are whole pages.

    The guest gave back `gone` pages at the end. The frames of the machine, which a paravirtual
    guest's table has, too, are the guest's in another order. `more_names` bytes stand in front of
    the names of sections.
    """
    frames = [
        (address + start) // PAGE
        for address, contents in pieces
        for start in range(0, len(contents), PAGE)
    ]
    frames += [2**64 - 1] * gone
    pages = b"".join(contents for _, contents in pieces) + bytes(gone * PAGE)
    if paravirtual:
        table = b"".join(struct.pack("<QQ", frame, frame ^ 0x155) for frame in frames)
    else:
        table = struct.pack(f"<{len(frames)}Q", *frames)
    note = b""
    magic = 0xF00FEBED if paravirtual else 0xF00FEBEE
    for kind, descriptor in (
        (0x2000000, b""),
        (0x2000001, struct.pack("<4Q", magic, 1, len(frames), PAGE)),
        (0x2000003, struct.pack("<Q", 1)),
    ):
        note += struct.pack("<III", 4, len(descriptor), kind) + b"Xen\0" + descriptor
    table_name = b".xen_p2m" if paravirtual else b".xen_pfn"
    names = (
        b"n" * more_names
        + b"\0.shstrtab\0.note.Xen\0.xen_prstatus\0.xen_pages\0"
        + table_name
        + b"\0"
    )
    parts = [
        (b".shstrtab", 3, names),
        (b".note.Xen", 7, note),
        (b".xen_prstatus", 1, bytes(5168)),
        (b".xen_pages", 1, pages),
        (table_name, 1, table),
    ]
    at = 64 + 64 * (1 + len(parts))
    headers = bytes(64)
    contents = b""
    for name, kind, data in parts:
        padding = bytes(-at % PAGE) if name == b".xen_pages" else bytes(-at % 4)
        at += len(padding)
        fields = (names.index(name + b"\0"), kind, 0, 0, at, len(data), 0, 0, 1, 0)
        headers += struct.pack("<IIQQQQIIQQ", *fields)
        contents += padding + data
        at += len(data)
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, 1 + len(parts), 1)
    path.write_bytes(header + headers + contents)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def write_crash(
    path: Path,
    pieces: Pieces,
    *,
    bits: int = 64,
    kind: str = "complete",
    machine: int = 0x8664,
    left_out: Pieces = (),
) -> None:
    """A Windows crash dump; pieces are whole pages, for a bitmap by ascending address.

    Dumps with a bitmap leave the runs of the header unwritten, full of ``PAGE``, unless there is
    memory that is `left_out`. Offsets from Volatility 2's `_DMP_HEADER` and `_DMP_HEADER64` vtypes,
    those of the bitmap and the ranges from 0vercl0k's kdmp-parser (kdmp-parser-structs.h).
    """
    wide = bits == 64
    header = bytearray(b"PAGE" * (0x2000 // 4) if wide else b"PAGE" * (0x1000 // 4))
    runs = [(address // PAGE, len(contents) // PAGE) for address, contents in pieces]
    pages = sum(count for _, count in runs)
    all_runs = [*runs, *((address // PAGE, len(data) // PAGE) for address, data in left_out)]
    fields = (*_CRASH_FIELDS[:6], machine, *_CRASH_FIELDS[6:])
    if wide:
        struct.pack_into("<8sIIQQQQIII", header, 0, b"PAGEDU64", *fields)
        struct.pack_into("<Q", header, 0x80, 0xFFFFF80000001000)
        if "bitmap" not in kind or left_out:
            struct.pack_into("<IIQ", header, 0x88, len(all_runs), 0, sum(n for _, n in all_runs))
        for number, run in enumerate(all_runs[:43] if "bitmap" not in kind or left_out else ()):
            struct.pack_into("<QQ", header, 0x98 + 16 * number, *run)
        struct.pack_into("<I", header, 0xF98, _CRASH_TYPES[kind])
    else:
        struct.pack_into("<8sIIIIIIIII", header, 0, b"PAGEDUMP", *fields)
        struct.pack_into("<BxxxI", header, 0x5C, 1, 0x80001000)
        if "bitmap" not in kind or left_out:
            struct.pack_into("<II", header, 0x64, len(all_runs), sum(n for _, n in all_runs))
        for number, run in enumerate(all_runs[:86] if "bitmap" not in kind or left_out else ()):
            struct.pack_into("<II", header, 0x6C + 8 * number, *run)
        struct.pack_into("<I", header, 0xF88, _CRASH_TYPES[kind])
    if "bitmap" in kind:
        bit_count = max(first + count for first, count in runs)
        bitmap = bytearray(-(-bit_count // 8))
        for first, count in runs:
            for bit in range(first, first + count):
                bitmap[bit // 8] |= 1 << bit % 8
        first_page = -(-(len(header) + 0x38 + len(bitmap)) // PAGE) * PAGE
        header += (
            struct.pack(
                "<8s24xQQQ", b"FDMPDUMP" if wide else b"SDMPDUMP", first_page, pages, bit_count
            )
            + bitmap
        )
        header += bytes(first_page - len(header))
    elif kind == "ranges":
        # No description of the metadata behind the ranges is public; none are written.
        table = b"".join(struct.pack("<QQ", *run) for run in runs) + b"left over" * 16
        first_page = len(header) + 0x30 + len(table)
        header += struct.pack("<I8sI", 0x40, b"RDMPDUMP", 0)
        header += struct.pack("<QQIIQ", first_page - 0x2020, first_page, len(runs), 0, pages)
        header += table
    with path.open("wb") as file:
        file.write(header)
        for _, contents in pieces:
            file.write(contents)


_CRASH_FIELDS = (15, 19041, 0x1AA000, 0x10, 0x20, 0x30, 4, 0xE2)
"""Versions, DTB, PFN database, modules, processes, (machine,) processors, bug check."""
_CRASH_TYPES = {"complete": 1, "bitmap": 5, "live bitmap": 6, "ranges": 10}


def write_kdump(
    path: Path,
    pieces: Pieces,
    *,
    compression: str = "zlib",
    flattened: bool = False,
    vmcoreinfo: bytes = b"",
    left_out: Sequence[int] = (),
    magic: bytes = b"KDUMP   ",
    version: int = 6,
    bits: int = 64,
    padded: bool = False,
    block: int = PAGE,
    part: tuple[int, int] | None = None,
    machine: bytes = b"x86_64",
    order: str = "<",
) -> None:
    """A compressed kdump file (makedumpfile's IMPLEMENTATION and diskdump_mod.h).

    Pieces are whole pages of `block` bytes. `left_out` are pages of memory that the file lacks.
    Incompressible pages are stored unchanged; all pages of zeros share one place. `flattened` is
    the form for pipes (makedumpfile -F, QEMU): pieces in any order, one of which overlaps another.
    `bits` are the machine's; some 32-bit machines align 64-bit numbers (`padded`, as ARM does).
    `part` selects one file of several (--split): its first page and the page after its last.
    `order` is the machine's order of bytes, as struct calls it.
    """
    pages = {
        (address + start) // block: contents[start : start + block]
        for address, contents in pieces
        for start in range(0, len(contents), block)
    }
    frames = max(pages) + 1
    blocks = -(-frames // (8 * block))
    ram, kept = (bytearray(blocks * block) for _ in range(2))
    for frame in pages:
        ram[frame // 8] |= 1 << frame % 8
        if frame not in left_out:
            kept[frame // 8] |= 1 << frame % 8
    first, last = part or (0, frames)
    table_at = block * (2 + 2 * blocks)
    held = sorted(page for page in pages.keys() - set(left_out) if first <= page < last)
    data_at = table_at + 24 * len(held)
    table, data = _packed_pages([pages[page] for page in held], data_at, block, compression, order)
    names = b"".join(name.ljust(65, b"\0") for name in _uts(machine))
    header = struct.pack(f"{order}8sI", magic, version) + names + bytes(22 if bits == 64 else 10)
    count = frames & 0xFFFFFFFF
    header += struct.pack(f"{order}IIIIIIIIII", 1, block, 1, 2 * blocks, count, 0, 0, 0, 0, 1)
    # The text is an ELF note, which follows the sub-header in the same block.
    name = b"VMCOREINFO\0"
    note = (
        struct.pack(f"{order}III", len(name), len(vmcoreinfo), 0)
        + _padded(name)
        + _padded(vmcoreinfo)
    )
    note = note if vmcoreinfo else b""
    place = block + 512 if note else 0
    text_at = place + len(note) - len(_padded(vmcoreinfo)) if note else 0
    text = text_at, len(vmcoreinfo), place, len(note), 0, 0
    values = (0, 31, int(part is not None), first, last, *text)
    kind = "QiiQQQQQQQQQQQ" if bits == 64 else "IiiIIQIQIQIQQQ"
    if padded:
        kind = "IiiII4xQI4xQI4xQI4xQQQ"
    sub = struct.pack(order + kind, *values, first, last, frames).ljust(512, b"\0") + note
    front = header.ljust(block, b"\0") + sub.ljust(block, b"\0") + ram + kept
    contents = bytes(front + table + data)
    if not flattened:
        path.write_bytes(contents)
        return
    cuts = [0, 5000, table_at, table_at + 100, data_at, data_at + len(data) // 2, len(contents)]
    stretches = [(low, contents[low:high]) for low, high in itertools.pairwise(cuts)]
    _write_flattened(path, [(50, b"old"), *stretches[::-1], (60, contents[60:80])])


def _packed_pages(
    pages: Sequence[bytes], data_at: int, block: int, compression: str, order: str
) -> tuple[bytes, bytes]:
    """The descriptors of pages, and the packed pages, which begin at byte `data_at`."""
    table, data = bytearray(), bytearray()
    zeros, zero = bytes(block), b""
    for page in pages:
        if page == zeros and zero:
            table += zero
            continue
        packed, flag = pack_page(page, compression)
        if len(packed) >= block:
            packed, flag = page, 0
        descriptor = struct.pack(f"{order}QIIQ", data_at + len(data), len(packed), flag, 0)
        if page == zeros:
            zero = descriptor
        table += descriptor
        data += packed
    return bytes(table), bytes(data)


def _uts(machine: bytes) -> Sequence[bytes]:
    """The six names of uname(2)."""
    return b"Linux", b"guest", b"6.1.0", b"#1 SMP Debian 6.1", machine, b"(none)"


def write_flattened_elf(path: Path, pieces: Pieces) -> None:
    """An ELF core as by makedumpfile -E -F: each stretch of memory follows its headers."""
    write_elf(path, pieces, notes=[(b"VMCOREINFO", b"OSRELEASE=6.1\n")])
    contents = path.read_bytes()
    cuts = [0, 4096, *range(5000, len(contents), 70_001), len(contents)]
    _write_flattened(path, [(low, contents[low:high]) for low, high in itertools.pairwise(cuts)])


def _write_flattened(path: Path, stretches: Sequence[tuple[int, bytes]]) -> None:
    """Stretches of a file, each behind place and size; later ones overwrite earlier ones."""
    with path.open("wb") as file:
        file.write((b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(PAGE, b"\0"))
        for start, stretch in stretches:
            file.write(struct.pack(">qq", start, len(stretch)) + stretch)
        file.write(struct.pack(">qq", -1, -1))


@lru_cache(1 << 13)
def zlib_page(page: bytes) -> bytes:
    """A page packed with zlib; kept, since several formats pack the pages of one dump so."""
    return zlib.compress(page, zlib.Z_BEST_SPEED)


def pack_page(page: bytes, compression: str) -> tuple[bytes, int]:
    """A page as makedumpfile packs it, and the flag that says so."""
    if compression == "none":
        return page, 0
    if compression == "zlib":
        return zlib_page(page), 1
    if compression == "lzo":
        import lzallright

        return bytes(lzallright.LZOCompressor().compress(page)), 2
    if compression == "snappy":
        return bytes(cramjam.snappy.compress_raw(page)), 4
    return bytes(cramjam.zstd.compress(page)), 0x20


def write_vmware(
    ram: Path,
    state: Path,
    pieces: Pieces,
    *,
    version: int = 2,
    inside: bool = False,
    padding: int = 3,
) -> None:
    """A suspended VMware machine: `ram` (.vmem) with consecutive pieces, and `state` (.vmss).

    `inside` puts the RAM into the state file and writes only this file, as VMware ESX did. The
    source is VMware's own vmware_vmss.c and .h in crash.
    """
    wide = "<QQH" if version else "<IIH"
    tags = _vmware_tag("align_mask", (), struct.pack("<I", 0xFFFF))
    # A block with padding before the needed blocks, like a thumbnail picture.
    tags += _vmware_tag("thumbnail", (0,), None) + struct.pack(wide, 5, 5, padding)
    tags += bytes(padding) + b"image"
    tags += _vmware_tag(
        "regionsCount", (), struct.pack("<I", len(pieces) if len(pieces) > 1 else 0)
    )
    page = 0
    for number, (address, contents) in enumerate(pieces if len(pieces) > 1 else ()):
        for name, value in (
            ("regionPageNum", page),
            ("regionPPN", address // PAGE),
            ("regionSize", len(contents) // PAGE),
        ):
            tags += _vmware_tag(name, (number,), struct.pack("<I", value))
        page += len(contents) // PAGE
    memory = b"".join(contents for _, contents in pieces)
    if inside:
        tags += _vmware_tag("Memory", (0, 0), None)
        tags += struct.pack(wide, len(memory), len(memory), padding)
        tags += bytes(padding) + memory
    else:
        ram.write_bytes(memory)
    tags += b"\0\0"
    groups = [b"Checkpoint", b"memory"]
    tags_at = 12 + 80 * len(groups)
    header = struct.pack("<III", 0xBED2BED2 if version else 0xBED0BED0, 8, len(groups))
    header += struct.pack("<64sQQ", groups[0], tags_at, 2)
    header += struct.pack("<64sQQ", groups[1], tags_at + 2, len(tags))
    state.write_bytes(header + b"\0\0" + tags)


def _vmware_tag(name: str, indexes: tuple[int, ...], value: bytes | None) -> bytes:
    """A number, or without a value the beginning of a block."""
    size = 63 if value is None else len(value)
    tag = bytes([len(indexes) << 6 | size, len(name)]) + name.encode()
    return tag + struct.pack(f"<{len(indexes)}I", *indexes) + (value or b"")


WRITERS: dict[str, Callable[[Path, Pieces], object]] = {
    "raw": write_raw,
    "lime": write_lime,
    "avml": write_avml,
    "elf": write_elf,
    "crash": write_crash,
    "kdump": write_kdump,
}
"""The writers that make a single file of pieces, by name."""
