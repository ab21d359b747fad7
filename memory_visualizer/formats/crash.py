"""Windows crash dumps that hold pages: complete ones, bitmap ones, and those with page ranges.

Microsoft documents no more than the name of the format; the offsets below are those on which
Volatility 3 (`crash.json`, `crash64.json`, `crash_common.json`) and 0vercl0k's kdmp-parser agree,
the ranges (Windows 10 and later) kdmp-parser's alone. Read here, since the former builds an object
for each word of the bitmap and does not know the ranges, and the latter reads no 32-bit dumps and
keeps a table entry for each page.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.inside import as_path
from memory_visualizer.formats.mapped import MappedDump, file_size, find_extents
from memory_visualizer.units import MAX_FRAMES, MAX_RUNS, PAGE_SIZE

MAGIC_32 = b"PAGEDUMP"
MAGIC_64 = b"PAGEDU64"

_PageRuns: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.uint64]]
"""First frame and number of frames of each run, in the order in which the file holds them."""


@dataclass(frozen=True)
class _Layout:
    """Where things stand in the header (offsets from the file's start)."""

    bits: int
    header_size: int
    word: str
    """NumPy's type of a page number in a run."""
    run_count: int
    runs: int
    runs_end: int
    dump_type: int
    fields: dict[str, tuple[int, str]]
    """Offset and struct format of what the header tells of the machine."""


_LAYOUTS = {
    MAGIC_32: _Layout(
        bits=32,
        header_size=0x1000,
        word="<u4",
        run_count=0x64,
        runs=0x6C,
        runs_end=0x320,
        dump_type=0xF88,
        fields={
            "MajorVersion": (0x08, "<I"),
            "MinorVersion": (0x0C, "<I"),
            "DirectoryTableBase": (0x10, "<I"),
            "PfnDataBase": (0x14, "<I"),
            "PsLoadedModuleList": (0x18, "<I"),
            "PsActiveProcessHead": (0x1C, "<I"),
            "MachineImageType": (0x20, "<I"),
            "NumberProcessors": (0x24, "<I"),
            "BugCheckCode": (0x28, "<I"),
            "PaeEnabled": (0x5C, "<B"),
            "KdDebuggerDataBlock": (0x60, "<I"),
            "SystemTime": (0xFC0, "<Q"),
        },
    ),
    MAGIC_64: _Layout(
        bits=64,
        header_size=0x2000,
        word="<u8",
        run_count=0x88,
        runs=0x98,
        runs_end=0x348,
        dump_type=0xF98,
        fields={
            "MajorVersion": (0x08, "<I"),
            "MinorVersion": (0x0C, "<I"),
            "DirectoryTableBase": (0x10, "<Q"),
            "PfnDataBase": (0x18, "<Q"),
            "PsLoadedModuleList": (0x20, "<Q"),
            "PsActiveProcessHead": (0x28, "<Q"),
            "MachineImageType": (0x30, "<I"),
            "NumberProcessors": (0x34, "<I"),
            "BugCheckCode": (0x38, "<I"),
            "KdDebuggerDataBlock": (0x80, "<Q"),
            "SystemTime": (0xFA8, "<Q"),
        },
    ),
}
_COMPLETE, _BITMAP, _COMPLETE_RANGES = 1, 5, 10
_RANGES = {8: "kernel", 9: "kernel and user", _COMPLETE_RANGES: "complete"}
_OTHERS = {2: "a kernel dump of the old kind", 3: "a header without memory", 4: "a minidump"}

# Of the bitmap's own header: magic, first page's place in the file, bits.
_BITMAP_HEADER = struct.Struct("<4s4s24xQ8xQ")
_BITMAP_MAGICS = (b"SDMP", b"FDMP")
_BITMAP_SLICE = 1 << 17  # bytes of a bitmap that are unpacked at once, to a megabyte
# Of the ranges' own header: magic, first page's place in the file, pages (of a complete dump).
_RANGES_HEADER = struct.Struct("<4x4s4s4x8xQ8xQ")


class CrashDump(MappedDump):
    """A Windows crash dump. Its `notes` hold the header's fields, all of them numbers."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Read the header, and the bitmap or ranges that follow it.

        BadInputError when the file cannot be read or holds no pages to be found so;
        DamagedInputError, unless `lenient`, when pages are missing or there twice.
        """
        path = as_path(path)
        with reading(path), path.open("rb") as file:
            size = file_size(file)
            header = file.read(0x2000)
            layout = _LAYOUTS[header[:8]]
            if len(header) < layout.header_size:
                raise DamagedInputError(f"{path} ends within its header")
            (dump_type,) = struct.unpack_from("<I", header, layout.dump_type)
            file.seek(layout.header_size)
            if dump_type == _COMPLETE:
                kind, at = "complete", layout.header_size
                first, count = _header_runs(path, header, layout)
            elif dump_type == _BITMAP:
                kind = "bitmap"
                at, first, count = _bitmap_runs(path, file)
            elif dump_type in _RANGES and layout.bits == 64:
                kind = f"{_RANGES[dump_type]} ranges"
                at, first, count = _range_runs(path, file, complete=dump_type == _COMPLETE_RANGES)
            else:
                what = _OTHERS.get(dump_type, f"of type {dump_type}")
                raise BadInputError(
                    f"{path} is a Windows crash dump, but {what}; complete and bitmap ones are read"
                )
        page, most = np.uint64(PAGE_SIZE), np.uint64(MAX_FRAMES + 1)
        first, count = np.minimum(first, most), np.minimum(count, most)
        offset = np.uint64(at) + (np.cumsum(count) - count) * page
        extents, remarks = find_extents(
            path, first * page, count * page, offset, file_size=size, lenient=lenient
        )
        format_ = f"Windows crash dump ({kind}, {layout.bits}-bit)"
        notes = {
            name: struct.unpack_from(code, header, place)[0]
            for name, (place, code) in layout.fields.items()
        }
        return cls(path, format_, extents, notes=notes, remarks=remarks)


def _header_runs(path: Path, header: bytes, layout: _Layout) -> _PageRuns:
    (run_count,) = struct.unpack_from("<I", header, layout.run_count)
    columns = np.dtype((layout.word, 2))
    if run_count > (layout.runs_end - layout.runs) // columns.itemsize:
        raise DamagedInputError(
            f"{path} says that it has {run_count:,} runs; its header has no room"
        )
    runs = np.frombuffer(header, columns, run_count, layout.runs).astype(np.uint64)
    return runs[:, 0], runs[:, 1]


def _bitmap_runs(path: Path, file: BinaryIO) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
    """Find the runs of ones in the bitmap at the file's position; and where their pages begin."""
    header = file.read(_BITMAP_HEADER.size)
    if len(header) < _BITMAP_HEADER.size:
        raise DamagedInputError(f"{path} ends within its header")
    magic, valid, at, bits = _BITMAP_HEADER.unpack(header)
    if magic not in _BITMAP_MAGICS or valid != b"DUMP":
        raise DamagedInputError(f"{path} has no bitmap of its pages where it should be")
    if bits > MAX_FRAMES or file.tell() + -(-bits // 8) > at:
        raise DamagedInputError(f"{path} says that its bitmap has {bits:,} bits; there is no room")
    edges: list[NDArray[np.int64]] = []
    edge_count, before = 0, 0
    for start in range(0, bits, _BITMAP_SLICE * 8):
        wanted = min(bits - start, _BITMAP_SLICE * 8)
        packed = np.frombuffer(file.read(-(-wanted // 8)), np.uint8)
        if packed.size * 8 < wanted:
            raise DamagedInputError(f"{path} ends within the bitmap of its pages")
        ones = np.unpackbits(packed, bitorder="little", count=wanted).view(np.int8)
        edges.append(np.flatnonzero(np.diff(ones, prepend=np.int8(before))) + start)
        before = ones[-1]
        edge_count += edges[-1].size
        if edge_count > 2 * MAX_RUNS:
            raise BadInputError(f"{path} has more than {MAX_RUNS:,} runs of pages")
    if before:
        edges.append(np.array([bits]))
    begin_and_end = np.concatenate(edges or [np.empty(0, np.int64)]).astype(np.uint64)
    return at, begin_and_end[::2], begin_and_end[1::2] - begin_and_end[::2]


def _range_runs(
    path: Path, file: BinaryIO, *, complete: bool
) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
    """Read the ranges of frames at the file's position; and where their pages begin."""
    header = file.read(_RANGES_HEADER.size)
    if len(header) < _RANGES_HEADER.size:
        raise DamagedInputError(f"{path} ends within its header")
    magic, valid, at, page_count = _RANGES_HEADER.unpack(header)
    if magic != b"RDMP" or valid != b"DUMP":
        raise DamagedInputError(f"{path} has no ranges of its pages where they should be")
    room = max(at - file.tell(), 0) // 16
    if room > MAX_RUNS:
        raise BadInputError(f"{path} has more than {MAX_RUNS:,} runs of pages")
    data = file.read(room * 16)
    ranges = np.frombuffer(data, "<u8", len(data) // 16 * 2).reshape(-1, 2)
    first, count = np.minimum(ranges, np.uint64(MAX_FRAMES + 1)).T
    # Frame 0, which Windows never uses, ends the ranges; a complete dump's end with its page count.
    used = first != 0
    if complete:
        used &= np.cumsum(count) - count < page_count
    end = int(np.argmin(used)) if not used.all() else used.size
    return at, first[:end], count[:end]
