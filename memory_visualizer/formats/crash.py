"""Windows crash dumps that hold pages: complete ones, bitmap ones, and those with page ranges.

Microsoft documents no more than the name of the format; the offsets below are those on which
Volatility 3 (`crash.json`, `crash64.json`, `crash_common.json`) and 0vercl0k's kdmp-parser agree,
the ranges (Windows 10 and later) kdmp-parser's alone. Read here, since the former builds an object
for each word of the bitmap and does not know the ranges, and the latter reads no 32-bit dumps and
keeps a table entry for each page.

The header is one for all processors; its ``MachineImageType`` tells them apart (ARM64: 0xAA64).
What Windows never wrote of it holds ``PAGE`` again and again, the number of runs and the runs too.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import runs_without
from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import NO_RUNS, near_frames
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.inside import as_path
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.units import MAX_FRAMES, MAX_RUNS, PAGE_SIZE

MAGIC_32 = b"PAGEDUMP"
MAGIC_64 = b"PAGEDU64"


@dataclass(frozen=True)
class _Layout:
    """Where things stand in the header (offsets from the file's start)."""

    bits: int
    header_size: int
    word: str
    """NumPy's type of a page number in a run."""
    run_count: int
    page_count: int
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
        page_count=0x68,
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
        page_count=0x90,
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
_COMPLETE, _COMPLETE_RANGES = 1, 10
_BITMAPS = {5: "bitmap", 6: "live, bitmap"}
"""Type 6 is what the Task Manager of Windows 11 makes of a running machine's kernel."""
_RANGES = {8: "kernel", 9: "kernel and user", _COMPLETE_RANGES: "complete"}
_FILLER = b"PAGE"
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
        DamagedInputError, unless `lenient`, when pages are missing or there twice, or some runs
        make no sense.
        """
        path = as_path(path)
        remarks: list[str] = []
        with reading(path), path.open("rb") as file:
            size = file_size(file)
            header = file.read(0x2000)
            layout = _LAYOUTS[header[:8]]
            if len(header) < layout.header_size:
                raise BadInputError(f"{path} ends within its header")
            (dump_type,) = struct.unpack_from("<I", header, layout.dump_type)
            file.seek(layout.header_size)
            if dump_type == _COMPLETE:
                kind = "complete"
                offset, first, count = _header_runs(path, header, layout, size, lenient, remarks)
            elif dump_type in _BITMAPS:
                kind = _BITMAPS[dump_type]
                at, first, count = _bitmap_runs(path, file, lenient, remarks)
                offset = _one_after_another(at, count)
            elif dump_type in _RANGES and layout.bits == 64:
                kind = f"{_RANGES[dump_type]} ranges"
                at, first, count = _range_runs(path, file, complete=dump_type == _COMPLETE_RANGES)
                offset = _one_after_another(at, count)
            else:
                what = _OTHERS.get(dump_type, f"of type {dump_type}")
                raise BadInputError(
                    f"{path} is a Windows crash dump, but {what}; this program reads complete and"
                    " bitmap dumps"
                )
        page, limit = np.uint64(PAGE_SIZE), np.uint64(MAX_FRAMES + 1)
        first, count = np.minimum(first, limit), np.minimum(count, limit)
        extents, more = find_extents(
            path, first * page, count * page, offset, file_size=size, lenient=lenient
        )
        format_ = f"Windows crash dump ({kind}, {layout.bits}-bit)"
        notes = _notes(header, layout)
        remarks += more
        left_out = NO_RUNS if dump_type == _COMPLETE else _left_out(header, layout, first, count)
        return cls(path, format_, extents, left_out=left_out, notes=notes, remarks=remarks)


def _notes(header: bytes, layout: _Layout) -> dict[str, int]:
    """The fields that Windows wrote."""
    notes: dict[str, int] = {}
    for name, (place, code) in layout.fields.items():
        (value,) = struct.unpack_from(code, header, place)
        size = struct.calcsize(code)
        if header[place : place + size] != (_FILLER * 2)[place % 4 : place % 4 + size]:
            notes[name] = value
    return notes


def _left_out(
    header: bytes, layout: _Layout, first: NDArray[np.uint64], count: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Frames in the header's runs that the dump says not to hold; none where they tell nothing."""
    (run_count,) = struct.unpack_from("<I", header, layout.run_count)
    word = np.dtype(layout.word)
    [pages] = np.frombuffer(header, word, 1, layout.page_count).tolist()
    room = (layout.runs_end - layout.runs) // (2 * word.itemsize)
    if not 0 < run_count <= room:
        return NO_RUNS
    table = np.frombuffer(header, (word, 2), run_count, layout.runs).astype(np.uint64)
    limit = near_frames(int(count.sum()) * PAGE_SIZE)
    if not _sensible(table, limit).all() or int(table[:, 1].sum()) != pages:
        return NO_RUNS
    runs = table.astype(np.int64)
    runs = runs[np.argsort(runs[:, 0])]
    if runs[-1].sum() > limit:
        return NO_RUNS
    held = np.stack((first, count), axis=1).astype(np.int64)
    return runs_without(runs, held[np.argsort(held[:, 0], kind="stable")])


def _one_after_another(at: int, count: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The place in the file of each run, the first at byte `at`."""
    count = np.minimum(count, np.uint64(MAX_FRAMES + 1))
    return np.uint64(at) + (np.cumsum(count) - count) * np.uint64(PAGE_SIZE)


def _header_runs(
    path: Path, header: bytes, layout: _Layout, size: int, lenient: bool, remarks: list[str]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Where in the file each run begins, its first frame and number of frames.

    One run of garbage moves all that follow it in the file. So `lenient` counts the runs before
    the first such run from the file's beginning, and those behind the last one from its end.
    """
    (run_count,) = struct.unpack_from("<I", header, layout.run_count)
    said = 0
    if header[layout.page_count :][:4] != _FILLER:
        [said] = np.frombuffer(header, layout.word, 1, layout.page_count).tolist()
    columns = np.dtype((layout.word, 2))
    room = (layout.runs_end - layout.runs) // columns.itemsize
    too_many = run_count > room
    table = np.frombuffer(header, columns, min(run_count, room), layout.runs).astype(np.uint64)
    pages = (size - layout.header_size) // PAGE_SIZE
    good = _sensible(table, max(pages, said if said <= MAX_FRAMES else 0))
    if too_many:  # the runs end where they begin to make no sense
        [last] = np.nonzero(good)
        table = table[: last[-1] + 1 if last.size else 0]
        good = good[: len(table)]
    first, count = table[:, 0], table[:, 1]
    if good.all() and not too_many:
        return _one_after_another(layout.header_size, count), first, count
    what = f"says that it has {run_count:,} runs of pages" if too_many else "has runs of pages"
    why = "its header has no room for them" if too_many else "some of them are invalid"
    sentence = f"{path} {what}, but {why}"
    if not good.any():
        raise BadInputError(f"{sentence}; nothing else in it gives the addresses of its pages")
    if not lenient:
        raise DamagedInputError(sentence)
    [bad] = np.nonzero(~good)
    before = np.arange(len(table)) < (bad[0] if bad.size else len(table))
    behind = np.arange(len(table)) > (bad[-1] if bad.size else len(table))
    offset = np.zeros(len(table), np.uint64)
    offset[before] = _one_after_another(layout.header_size, count[before])
    from_end = int(count[behind].sum())
    if 0 < from_end <= pages - int(count[before].sum()):
        at = layout.header_size + (pages - from_end) * PAGE_SIZE
        offset[behind] = _one_after_another(at, count[behind])
    else:
        behind[:] = False
    kept = before | behind
    known = int(count[kept].sum())
    remarks.append(
        f"{sentence}; {np.count_nonzero(kept):,} were used, with {known:,} of {pages:,} pages"
    )
    return offset[kept], first[kept], count[kept]


def _sensible(table: NDArray[np.uint64], pages: int) -> NDArray[np.bool_]:
    """Which runs may be true: the most of them of which no two have a frame in common."""
    first, count = np.minimum(table, np.uint64(MAX_FRAMES)).astype(np.int64).T
    possible = np.flatnonzero((count > 0) & (count <= pages) & (first + count <= MAX_FRAMES))
    end = (first + count).tolist()
    length: dict[int, int] = {}
    before: dict[int, int] = {}
    for number in possible[np.argsort(first[possible], kind="stable")].tolist():
        fits = [one for one in length if end[one] <= first[number]]
        before[number] = max(fits, key=length.__getitem__, default=-1)
        length[number] = length.get(before[number], 0) + 1
    good = np.zeros(len(table), np.bool_)
    number = max(length, key=length.__getitem__, default=-1)
    while number >= 0:
        good[number] = True
        number = before[number]
    return good


def _bitmap_runs(
    path: Path, file: BinaryIO, lenient: bool, remarks: list[str]
) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
    """Find the runs of ones in the bitmap at the file's position; and where their pages begin."""
    header = file.read(_BITMAP_HEADER.size)
    if len(header) < _BITMAP_HEADER.size:
        raise BadInputError(f"{path} ends within its header")
    magic, valid, at, bits = _BITMAP_HEADER.unpack(header)
    if magic not in _BITMAP_MAGICS or valid != b"DUMP":
        raise BadInputError(f"{path} has no bitmap of its pages where it should be")
    room = max(min((at - file.tell()) * 8, MAX_FRAMES), 0)
    if bits > room:
        sentence = f"{path} says that its bitmap has {bits:,} bits, but there is no room"
        if not room:
            raise BadInputError(sentence)
        if not lenient:
            raise DamagedInputError(sentence)
        remarks.append(f"{sentence} for more than {room:,}")
        bits = room
    edges: list[NDArray[np.int64]] = []
    edge_count, before = 0, 0
    for start in range(0, bits, _BITMAP_SLICE * 8):
        wanted = min(bits - start, _BITMAP_SLICE * 8)
        packed = np.frombuffer(file.read(-(-wanted // 8)), np.uint8)
        if packed.size * 8 < wanted:
            raise BadInputError(f"{path} ends within the bitmap of its pages")
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
        raise BadInputError(f"{path} ends within its header")
    magic, valid, at, page_count = _RANGES_HEADER.unpack(header)
    if magic != b"RDMP" or valid != b"DUMP":
        raise BadInputError(f"{path} has no ranges of its pages where they should be")
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
