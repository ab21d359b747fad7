"""Windows' hibernation files, written from descriptions of the format.

Up to Windows 7: Volatility 2's `hibernate_vtypes.py` and symbols (`PO_MEMORY_IMAGE`), and Comae's
Hibr2Bin for the blocks. From 8 on: Sylve, Marziale, Richard, "Modern Windows hibernation file
analysis" (2016), and LeechCore's offsets for each build.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.synth.containers import PAGE, Pieces
from tests.synth.xpress import pack_huffman, pack_plain

_BLOCK = 16 * PAGE


@dataclass(frozen=True)
class _Old:
    """A Windows up to 7: where the header names the first table, and the form of tables."""

    header_size: int
    page_size_at: int
    first_table: tuple[int, str]
    room: int
    link: str
    """Struct format of next table and number of ranges."""
    range_: str
    """Struct format of first page and the page after the last."""


OLD = {
    "XP": _Old(0xA8, 0x14, (0x58, "<I"), 255, "<4xI4xI", "<4xII4x"),
    "Vista": _Old(0xF0, 0x14, (0x50, "<I"), 255, "<4xI4xI", "<4xII4x"),
    "Vista SP2": _Old(0xF0, 0x14, (0x50, "<I"), 510, "<4xII", "<II"),
    "7": _Old(0xE0, 0x14, (0x4C, "<I"), 511, "<II", "<II"),
    "2003 x64": _Old(0xC0, 0x18, (0x68, "<Q"), 127, "<8xQ4xI8x", "<8xQQ8x"),
    "Vista SP2 x64": _Old(0x138, 0x18, (0x68, "<Q"), 254, "<8xQI4x", "<QQ"),
    "7 x64": _Old(0x128, 0x18, (0x60, "<Q"), 255, "<QI4x", "<QQ"),
}


@dataclass(frozen=True)
class _New:
    """A Windows from 8 on: offsets in its header, and the struct format of a page number."""

    header_size: int
    word: str
    page_size_at: int
    boot_pages: int
    boot: int
    kernel: int
    kernel_pages: int
    highest: int


NEW = {
    "8": _New(0x2C8, "<I", 0x14, 0x48, 0x50, 0x54, 0x1B0, 0x2B0),
    "10": _New(0x340, "<I", 0x14, 0x48, 0x50, 0x54, 0x210, 0x310),
    "8 x64": _New(0x360, "<Q", 0x18, 0x58, 0x60, 0x68, 0x1C8, 0x330),
    "10 1607 x64": _New(0x3C8, "<Q", 0x18, 0x58, 0x68, 0x70, 0x220, 0x388),
    "10 x64": _New(0x3E0, "<Q", 0x18, 0x58, 0x68, 0x70, 0x230, 0x398),
    "11 x64": _New(0x448, "<Q", 0x18, 0x58, 0x68, 0x70, 0x230, 0x400),
    "11 24H2 x64": _New(0x4D8, "<Q", 0x18, 0x58, 0x68, 0x70, 0x238, 0x498),
}


def _pages(pieces: Pieces) -> dict[int, bytes]:
    return {
        (address + start) // PAGE: contents[start : start + PAGE]
        for address, contents in pieces
        for start in range(0, len(contents), PAGE)
    }


def _runs(frames: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """First frame and number of frames of each run, in order."""
    first, count = frames[0], 0
    for frame in frames:
        if frame != first + count or count == longest:
            yield first, count
            first, count = frame, 0
        count += 1
    yield first, count


def write_hibernation(
    path: Path,
    pieces: Pieces,
    *,
    system: str = "10 x64",
    magic: bytes | None = None,
    cleared: bool = False,
    longest: int = 1 << 20,
    plain: bool = False,
) -> None:
    """A hibernation file; with `cleared` its first page is empty, as after a resume.

    No run is longer than `longest` pages. `plain` packs without Huffman on Windows 8 and later.
    """
    pages = _pages(pieces)
    if old := OLD.get(system):
        contents = _old(pages, old, longest)
        contents[:4] = magic or b"hibr"
    else:
        contents = _new(pages, NEW[system], min(longest, 16), pack_plain if plain else pack_huffman)
        contents[:4] = magic or b"HIBR"
    if cleared:
        contents[:PAGE] = bytes(PAGE)
    path.write_bytes(contents)


def _old(pages: dict[int, bytes], system: _Old, longest: int) -> bytearray:
    out = bytearray(5 * PAGE)
    struct.pack_into("<I", out, 12, system.header_size)
    struct.pack_into("<I", out, system.page_size_at, PAGE)
    at, word = system.first_table
    struct.pack_into(word, out, at, len(out) // PAGE)
    runs = list(_runs(list(pages), longest))
    for start in range(0, len(runs), system.room):
        some = runs[start : start + system.room]
        out += bytes(-len(out) % PAGE)
        table_at = len(out)
        out += bytes(PAGE)
        for number, (first, count) in enumerate(some):
            place = table_at + struct.calcsize(system.link)
            place += number * struct.calcsize(system.range_)
            struct.pack_into(system.range_, out, place, first, first + count)
        frames = [first + n for first, count in some for n in range(count)]
        for block in range(0, len(frames), 16):
            data = b"".join(pages[frame] for frame in frames[block : block + 16])
            packed = pack_plain(data)
            packed += bytes(-len(packed) % 8)
            if len(packed) >= len(data):
                packed = data
            told = len(data) // PAGE - 1 | (len(packed) - 1) << 10
            out += struct.pack("<8sI20x", b"\x81\x81xpress", told) + packed
        following = -(-len(out) // PAGE) if start + system.room < len(runs) else 0
        struct.pack_into(system.link, out, table_at, following, len(some))
    return out


def _new(
    pages: dict[int, bytes], system: _New, longest: int, pack: Callable[[bytes], bytes]
) -> bytearray:
    out = bytearray(7 * PAGE)
    struct.pack_into("<I", out, 12, system.header_size)
    struct.pack_into("<I", out, system.page_size_at, PAGE)
    struct.pack_into(system.word, out, system.highest, max(pages))
    frames = list(pages)
    half = len(frames) // 2
    for some, place_at, count_at in (
        (frames[:half], system.boot, system.boot_pages),
        (frames[half:], system.kernel, system.kernel_pages),
    ):
        out += bytes(-len(out) % PAGE)
        struct.pack_into(system.word, out, place_at, len(out) // PAGE)
        struct.pack_into("<Q", out, count_at, len(some))
        for block in range(0, len(some), 16):
            wanted = some[block : block + 16]
            data = b"".join(pages[frame] for frame in wanted)
            packed = pack(data)
            if len(packed) >= len(data):
                packed = data
            runs = list(_runs(wanted, longest))
            method = 2 if pack is pack_huffman else 0
            out += struct.pack("<I", len(runs) | len(packed) << 8 | method << 30)
            for first, count in runs:
                out += struct.pack(system.word, first << 4 | count - 1)
            out += packed
    return out
