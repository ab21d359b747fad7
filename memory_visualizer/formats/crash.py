"""Windows crash dumps that hold pages: complete dumps, dumps with a bitmap, and with page ranges.

Microsoft documents only the name of the format. crashheaders.py has the fields on which Volatility
3 and 0vercl0k's kdmp-parser agree, and the ranges (Windows 10 and later), which only kdmp-parser
has. This module reads the format itself: Volatility 3 builds an object for each word of the bitmap
and does not know the ranges, and kdmp-parser reads no 32-bit dumps and keeps a table entry for each
page.

All processors have the same header; its ``MachineImageType`` tells them apart (ARM64: 0xAA64).
Fields that Windows never wrote hold repetitions of ``PAGE``; the number of runs and the runs may be
such fields.
"""

from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import runs_without
from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import magics
from memory_visualizer.formats.base import NO_RUNS
from memory_visualizer.formats.bitmap import Bitmap
from memory_visualizer.formats.crashheaders import (
    BITMAP_HEADER,
    HEADER_32,
    HEADER_64,
    RANGES_HEADER,
    RUN_64,
)
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.reach import near_frames
from memory_visualizer.formats.records import RecordType, read_record
from memory_visualizer.units import MAX_FRAMES, MAX_RUNS, PAGE_SIZE

_HEADERS = {magics.CRASH_32: HEADER_32, magics.CRASH_64: HEADER_64}
_NOTED = (
    "MajorVersion",
    "MinorVersion",
    "DirectoryTableBase",
    "PfnDataBase",
    "PsLoadedModuleList",
    "PsActiveProcessHead",
    "MachineImageType",
    "NumberProcessors",
    "BugCheckCode",
    "PaeEnabled",
    "KdDebuggerDataBlock",
    "SystemTime",
)
"""Fields that describe the machine; not all headers have all of them."""
_COMPLETE, _COMPLETE_RANGES = 1, 10
_BITMAPS = {5: "bitmap", 6: "live, bitmap"}
"""Type 6 is a dump of a running machine's kernel by the Task Manager of Windows 11."""
_RANGES = {8: "kernel", 9: "kernel and user", _COMPLETE_RANGES: "complete"}
_FILLER = b"PAGE"
_OTHERS = {2: "a kernel dump of the old kind", 3: "a header without memory", 4: "a minidump"}

_BITMAP_MAGICS, _VALID = (b"SDMP", b"FDMP"), b"DUMP"


class CrashDump(MappedDump):
    """A Windows crash dump. Its `notes` hold the header's fields, all of them numbers."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Read the header, and the bitmap or ranges that follow it.

        BadInputError when the file cannot be read or does not hold pages in one of these forms;
        DamagedInputError, unless `lenient`, when pages are missing or occur twice, or some runs
        make no sense.
        """
        path = as_path(path)
        remarks: list[str] = []
        with reading(path), path.open("rb") as file:
            size = file_size(file)
            raw = file.read(HEADER_64.itemsize)
            type_ = _HEADERS[raw[:8]]
            if len(raw) < type_.itemsize:
                raise BadInputError(f"{path} ends within its header")
            header = np.frombuffer(raw, type_, 1)[0]
            dump_type, bits = int(header["DumpType"]), 32 if type_ is HEADER_32 else 64
            file.seek(type_.itemsize)
            if dump_type == _COMPLETE:
                kind = "complete"
                offset, first, count = _header_runs(path, header, size, lenient, remarks)
            elif dump_type in _BITMAPS:
                kind = _BITMAPS[dump_type]
                at, first, count = _bitmap_runs(path, file, lenient, remarks)
                offset = _one_after_another(at, count)
            elif dump_type in _RANGES and bits == 64:
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
        format_ = f"Windows crash dump ({kind}, {bits}-bit)"
        remarks += more
        left_out = NO_RUNS if dump_type == _COMPLETE else _left_out(header, first, count)
        return cls(path, format_, extents, left_out=left_out, notes=_notes(header), remarks=remarks)


def _notes(header: np.void) -> dict[str, int]:
    """The fields that Windows wrote."""
    type_ = header.dtype
    filled = np.frombuffer(_FILLER * (type_.itemsize // len(_FILLER)), type_)[0]
    there = [name for name in _NOTED if name in (type_.names or ())]
    return {name: int(header[name]) for name in there if header[name] != filled[name]}


def _runs(header: np.void) -> tuple[NDArray[np.uint64], int, int]:
    """All runs that the header has room for, shape (n, 2); the told number of runs and of pages."""
    memory = header["PhysicalMemoryBlockBuffer"]
    table = np.stack([memory["Run"][name] for name in ("BasePage", "PageCount")], axis=1)
    return table.astype(np.uint64), int(memory["NumberOfRuns"]), int(memory["NumberOfPages"])


def _left_out(
    header: np.void, first: NDArray[np.uint64], count: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Frames in the header's runs that the dump lacks; none if the runs are not plausible."""
    table, run_count, pages = _runs(header)
    if not 0 < run_count <= len(table):
        return NO_RUNS
    table = table[:run_count]
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
    """The place of each run in the file; the first lies at byte `at`."""
    count = np.minimum(count, np.uint64(MAX_FRAMES + 1))
    return np.uint64(at) + (np.cumsum(count) - count) * np.uint64(PAGE_SIZE)


def _header_runs(
    path: Path, header: np.void, size: int, lenient: bool, remarks: list[str]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """For each run its place in the file, first frame, and number of frames.

    A damaged run moves all later runs in the file. So `lenient` places the runs before the first
    damaged run from the file's beginning, and the runs behind the last damaged run from its end.
    """
    table, run_count, said = _runs(header)
    too_many = run_count > len(table)
    table = table[:run_count]
    if said & 0xFFFFFFFF == int.from_bytes(_FILLER, "little") or said > MAX_FRAMES:
        said = 0
    header_size = header.dtype.itemsize
    pages = (size - header_size) // PAGE_SIZE
    good = _sensible(table, max(pages, said))
    if too_many:  # runs end at the first run that makes no sense
        [last] = np.nonzero(good)
        table = table[: last[-1] + 1 if last.size else 0]
        good = good[: len(table)]
    first, count = table[:, 0], table[:, 1]
    if good.all() and not too_many:
        return _one_after_another(header_size, count), first, count
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
    offset[before] = _one_after_another(header_size, count[before])
    from_end = int(count[behind].sum())
    if 0 < from_end <= pages - int(count[before].sum()):
        at = header_size + (pages - from_end) * PAGE_SIZE
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
    """Which runs are plausible: the largest set of runs without common frames."""
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


def _read_header(path: Path, file: BinaryIO, type_: RecordType) -> dict[str, Any]:
    """Read the header of a bitmap or of ranges at the file's position."""
    raw = file.read(type_.itemsize)
    if len(raw) < type_.itemsize:
        raise BadInputError(f"{path} ends within its header")
    return read_record(type_, raw)


def _bitmap_runs(
    path: Path, file: BinaryIO, lenient: bool, remarks: list[str]
) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
    """Find the runs of set bits in the bitmap at the file's position; where pages begin."""
    header = _read_header(path, file, BITMAP_HEADER)
    at, bits = header["FirstPage"], header["Pages"]
    if header["Signature"] not in _BITMAP_MAGICS or header["ValidDump"] != _VALID:
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
    runs = Bitmap(path, file, file.tell(), bits).runs().astype(np.uint64)
    return at, runs[:, 0], runs[:, 1]


def _range_runs(
    path: Path, file: BinaryIO, *, complete: bool
) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
    """Read the ranges of frames at the file's position; and the place of their pages."""
    header = _read_header(path, file, RANGES_HEADER)
    at, page_count = header["FirstPageOffset"], header["TotalNumberOfPages"]
    if header["Signature"] != b"RDMP" or header["ValidDump"] != _VALID:
        raise BadInputError(f"{path} has no ranges of its pages where they should be")
    room = max(at - file.tell(), 0) // RUN_64.itemsize
    if room > MAX_RUNS:
        raise BadInputError(f"{path} has more than {MAX_RUNS:,} runs of pages")
    data = file.read(room * RUN_64.itemsize)
    ranges = np.frombuffer(data, RUN_64, len(data) // RUN_64.itemsize)
    limit = np.uint64(MAX_FRAMES + 1)
    first, count = (np.minimum(ranges[name], limit) for name in ("BasePage", "PageCount"))
    # Frame 0, which Windows never uses, ends the ranges; a complete dump's end with its page count.
    used = first != 0
    if complete:
        used &= np.cumsum(count) - count < page_count
    end = int(np.argmin(used)) if not used.all() else used.size
    return at, first[:end], count[:end]
