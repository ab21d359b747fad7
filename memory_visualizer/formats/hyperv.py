"""Hyper-V's saved states of Windows Server 2016 and later (.vmrs).

The file is a store of keys and values, which Microsoft describes in OpenVMM (support/hvs_file/
FORMAT.md): tables of objects, of which some are tables of keys. "RamMemoryBlockN" tells a range of
page frames, "RamBlockN" holds 1 MiB of them, mostly packed. Only Pascal Beyer's parser of such
files describes the packing: pieces with their sizes, packed by Xpress or filled with repetitions of
eight bytes. The data confirm this: all pieces together must have 1 MiB, and each must unpack to its
size.
"""

import re
import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import magics, xpress
from memory_visualizer.formats.blocks import BlockList, BlocksDump, place_frames
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.paths import as_path
from memory_visualizer.printable import counted
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_HEADER = struct.Struct("<4s4xH16xQ")  # magic, sequence, place of the log
_LOG = 0x01110003
_FIRST_TABLE = 0x2000
_OBJECT_TABLE = 0x01110001
_OBJECT = struct.Struct("<B4xQIx")  # type, place, size
_TABLE_OF_OBJECTS, _TABLE_OF_KEYS = 1, 2
_KEYS_HEADER = struct.Struct("<HHH4x")  # signature, index, sequence
_KEYS_SIGNATURE = 2
_KEY = struct.Struct("<BBI2x4x4x4xB")  # type, flags, size, bytes of the name
_ARRAY = 7
_ELSEWHERE = 1
"""Flag of a key whose value is an object: the key tells its size and place."""
_VALUE_ELSEWHERE = struct.Struct("<IQ")
_RANGE = struct.Struct("<8xQQQ")  # pages, first page among the blocks, first page frame
_NAME = re.compile(rb"(RamMemoryBlock|RamBlock)(\d{1,10})\0?")
_MAX_OBJECTS, _MAX_TABLES, _MAX_KEYS = 1 << 20, 1 << 10, 64 << 20
"""Limits: entries of a table of objects, such tables, and bytes of tables of keys."""
_MAX_TABLE = 1 << 20
"""Bytes of a table of keys that are read: with more, its size is damaged."""

_BLOCK_SIZE = 1 << 20
_BLOCK_PAGES = _BLOCK_SIZE // PAGE_SIZE
_STORED, _PACKED = 0, 1
# In place of a piece's size: the end; a page, or several, filled with a number; a size follows.
_END, _FILLED_PAGE, _FILLED_PAGES, _SIZED = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFC


@dataclass
class _Saved:
    """The ranges of page frames, and place and size of the blocks, both by number."""

    ranges: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    blocks: dict[int, tuple[int, int]] = field(default_factory=dict)


class HypervDump(BlocksDump):
    """The memory of a machine that Hyper-V saved."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Find all blocks; `lenient` unpacks them, and leaves out broken ones.

        BadInputError when the file cannot be read or holds no memory; DamagedInputError, unless
        `lenient`, when a part is missing or broken.
        """
        path = as_path(path)
        remarks: list[str] = []
        with reading(path), path.open("rb", buffering=0) as file:
            saved = _read_keys(path, file)
            if _has_changes(file):
                remarks.append(f"{path} has changes that Hyper-V did not apply; they were ignored")
            size = file_size(file)
        if not saved.ranges or not saved.blocks:
            raise BadInputError(
                f"{path} is a Hyper-V file without the machine's memory: the machine was not saved,"
                " or it was saved before Windows Server 2016 (then Microsoft's vm2dmp makes a dump)"
            )
        blocks = BlockList()
        place: dict[int, int] = {}
        for number, (at, length) in sorted(saved.blocks.items()):
            if 0 < length <= _BLOCK_SIZE and at + length <= size:
                place[number] = len(blocks)
                kind = _STORED if length == _BLOCK_SIZE else _PACKED
                blocks.append(at, length, _BLOCK_PAGES, kind)
        frames, numbers, rows, missing, homeless = _expand(saved, place)
        if missing:
            sentence = f"{path} ends too early, or is broken: {missing:,} pages are not there"
            report_damage(sentence, remarks, lenient=lenient)
        if homeless:
            remarks.append(
                f"{path} does not tell the addresses of {counted(homeless, 'block')} of 1 MiB; left"
                " out"
            )
        places = place_frames(path, frames, numbers, rows, lenient=lenient, remarks=remarks)
        dump = cls(path, "Hyper-V saved state", places, blocks.blocks(), remarks=remarks)
        return dump._without_broken_blocks() if lenient else dump

    def _unpack(self, packed: bytes, pages: int, kind: int) -> bytes:
        if kind == _STORED:
            return packed
        target = bytearray()
        for piece in _pieces(packed):
            if len(target) + len(piece) > _BLOCK_SIZE:
                raise DamagedInputError("its pieces are too large")
            target += piece
        if len(target) != _BLOCK_SIZE:
            raise DamagedInputError(f"its pieces have {len(target):,} bytes in total")
        return bytes(target)


def _expand(
    saved: _Saved, place: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint16], int, int]:
    """For all pages: PFN, number of the block, number in the block.

    Then the number of missing pages, and of blocks that no range contains. A block belongs to the
    first range that contains it.
    """
    frames, blocks, rows = (
        [np.empty(0, np.int64)],
        [np.empty(0, np.int32)],
        [np.empty(0, np.uint16)],
    )
    missing = following = 0
    left = sorted(place)
    for _, (pages, first, frame) in sorted(saved.ranges.items()):
        count = -(-pages // _BLOCK_PAGES)
        # Blocks are numbered by their first page, or they follow the blocks of the range before.
        begin = first // _BLOCK_PAGES if first % _BLOCK_PAGES == 0 else following
        following = begin + count
        low, high = bisect_left(left, begin), bisect_left(left, begin + count)
        missing += pages
        for number in left[low:high]:
            start = (number - begin) * _BLOCK_PAGES
            row = np.arange(min(_BLOCK_PAGES, pages - start))
            frames.append(min(frame + start, MAX_FRAMES) + row)
            blocks.append(np.full(row.size, place[number], np.int32))
            rows.append(row.astype(np.uint16))
            missing -= row.size
        del left[low:high]
    columns = np.concatenate(frames), np.concatenate(blocks), np.concatenate(rows)
    return *columns, missing, len(left)


def _pieces(packed: bytes) -> Iterator[bytes]:
    """Unpack the pieces of a block; DamagedInputError if they are broken."""
    position = 0
    try:
        while position < len(packed):
            (size,) = struct.unpack_from("<I", packed, position)
            position += 4
            if size == _END:
                return
            if size in (_FILLED_PAGE, _FILLED_PAGES):
                value = packed[position : position + 8]
                position += 8
                count = 1
                if size == _FILLED_PAGES:
                    (count,) = struct.unpack_from("<I", packed, position)
                    position += 4
                if len(value) < 8 or count > _BLOCK_PAGES:
                    raise DamagedInputError("a piece is invalid")
                yield value * (count * PAGE_SIZE // 8)
                continue
            unpacked = PAGE_SIZE
            if size == _SIZED:
                unpacked, size = struct.unpack_from("<II", packed, position)
                position += 8
            piece = packed[position : position + size]
            if len(piece) < size or unpacked > _BLOCK_SIZE:
                raise DamagedInputError("a piece is invalid")
            yield piece if size == unpacked else xpress.unpack_plain(piece, unpacked)
            position += size
    except struct.error as error:
        raise DamagedInputError("it ends too early") from error


def _read_keys(path: Path, file: FileIO) -> _Saved:
    """Find the keys of the memory in all tables of keys; the latest table of an index counts."""
    tables: dict[int, tuple[int, int, bytes]] = {}
    left = _MAX_KEYS
    for at, size in _tables_of_keys(path, file):
        data = _read(file, min(size, _MAX_TABLE), at)
        left -= len(data)
        if left < 0:
            raise BadInputError(f"{path} has more than {_MAX_KEYS:,} bytes of keys")
        if len(data) < _KEYS_HEADER.size:
            continue
        signature, index, sequence = _KEYS_HEADER.unpack_from(data)
        if signature == _KEYS_SIGNATURE and (index not in tables or sequence >= tables[index][0]):
            tables[index] = (sequence, at, data)
    saved = _Saved()
    for _, at, data in tables.values():
        _read_table(file, at, data, saved)
    return saved


def _tables_of_keys(path: Path, file: FileIO) -> Iterator[tuple[int, int]]:
    """Place and size of each table of keys."""
    at: int | None = _FIRST_TABLE
    seen: set[int] = set()
    while at is not None and at not in seen:
        if len(seen) == _MAX_TABLES:
            raise BadInputError(f"{path} has more than {_MAX_TABLES:,} tables of objects")
        seen.add(at)
        header = _read(file, 8, at)
        signature, count = struct.unpack("<II", header) if len(header) == 8 else (0, 0)
        if signature != _OBJECT_TABLE or count > _MAX_OBJECTS:
            if at == _FIRST_TABLE:
                raise BadInputError(f"{path} is a Hyper-V file, but has no table of objects")
            return
        data = _read(file, count * _OBJECT.size, at + 8)
        data = data[: len(data) // _OBJECT.size * _OBJECT.size]
        at = None
        for kind, place, size in _OBJECT.iter_unpack(data):
            if kind == _TABLE_OF_KEYS:
                yield place, size
            elif kind == _TABLE_OF_OBJECTS:
                at = place


def _read_table(file: FileIO, table_at: int, data: bytes, saved: _Saved) -> None:
    """Read the keys of a table; behind a broken key, only keys that are found by their names."""
    position = _KEYS_HEADER.size
    while position + _KEY.size <= len(data):
        kind, flags, size, name_size = _KEY.unpack_from(data, position)
        if not _KEY.size <= size <= len(data) - position:
            named = _NAME.search(data, position + _KEY.size + 1)
            if not named:
                return
            position = named.start() - _KEY.size
            continue
        name_at = position + _KEY.size
        found = _NAME.fullmatch(data[name_at : name_at + name_size])
        if found and kind == _ARRAY:
            value_at = name_at + name_size
            value = data[value_at : position + size]
            place = _place(value, table_at + value_at, is_elsewhere=bool(flags & _ELSEWHERE))
            _keep(file, found[1], int(found[2]), place, saved)
        position += size


def _place(value: bytes, value_at: int, *, is_elsewhere: bool) -> tuple[int, int]:
    """Place and size of a value, which stands in its entry or elsewhere; 0 if broken."""
    if not is_elsewhere:
        return value_at + 4, int.from_bytes(value[:4], "little")
    if len(value) < _VALUE_ELSEWHERE.size:
        return 0, 0
    size, at = _VALUE_ELSEWHERE.unpack_from(value)
    return at, size


def _keep(file: FileIO, name: bytes, number: int, place: tuple[int, int], saved: _Saved) -> None:
    if name == b"RamBlock":
        saved.blocks[number] = place
        return
    told = _read(file, _RANGE.size, place[0])
    if place[1] >= _RANGE.size and len(told) == _RANGE.size:
        saved.ranges[number] = _RANGE.unpack(told)


def _read(file: FileIO, size: int, offset: int) -> bytes:
    """Read bytes, fewer at the end, and none at impossible places."""
    return read_at(file, size, offset) if offset < 1 << 62 else b""


def _has_changes(file: FileIO) -> bool:
    """Whether the log of the newer header has entries."""
    headers = [
        _HEADER.unpack(_read(file, _HEADER.size, at).ljust(_HEADER.size, b"\0"))
        for at in (0, 0x1000)
    ]
    _, _, log_at = max(headers, key=lambda header: (header[0] == magics.HYPERV, header[1]))
    log = _read(file, 12, log_at)
    signature, count = struct.unpack("<I4xI", log) if len(log) == 12 else (0, 0)
    return bool(signature == _LOG and count > 0)
