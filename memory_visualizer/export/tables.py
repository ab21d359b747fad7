"""A snapshot for other programs: tables, JSON, the text page map.

Every file appears whole or not at all. Names of processes come from the dump and are hostile: in
JSON they are escaped by its rules, and tables for spreadsheets hold numbers only.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from memory_visualizer.errors import MissingLibraryError
from memory_visualizer.export import arrowcolumns
from memory_visualizer.export.csvtable import csv_rows, record_titles
from memory_visualizer.export.ownerregions import OwnerRegions, cells
from memory_visualizer.output import CSV_TITLES, GENERATOR, is_standard_output, whole_file
from memory_visualizer.packages import how_to_get
from memory_visualizer.paging import SHARED
from memory_visualizer.snapshot.findings import odd_frames
from memory_visualizer.snapshot.framerecords import (
    NO_PRIORITY,
    NOBODY,
    PageUse,
    RecordFinding,
)
from memory_visualizer.snapshot.owners import Owners
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

TABLE_FORMATS = (".npz", ".csv", ".parquet")
INVENTORY_FORMATS = (".csv", ".parquet", ".json")
"""Endings for tables of files and regions: see inventorytables."""

_LABELS = [page_class.label for page_class in PageClass]
_USE_LABELS = [use.label for use in PageUse]
_FINDING_LABELS = [finding.label for finding in RecordFinding]

_LEVEL = 2
"""zlib's level for tables."""
_AT_ONCE = 1 << 17
"""Numbers of a column, at most a megabyte."""


def write_table(
    path: Path,
    snapshot: Snapshot,
    *,
    chosen: Collection[int] | None = None,
    regions: bool = False,
    force: bool = False,
) -> None:
    """Write the page map, a row for each frame, in the format that the file's ending names.

    ``.npz``: arrays ``pfn``, ``class`` (codes in ``class_names``), ``zero``, ``mappings``, and in
    long form ``owner_pfn``, ``owner_pid``, ``owner_virtual``, ``owner_user`` and ``owner_process``,
    an index in ``process_pid``, ``process_object`` and ``process_anomalies``. ``.csv`` and
    ``.parquet``: the same columns, owners as lists, and their anomalies. If the kernel's records
    are known, there are ``state`` and ``use``, in ``.npz`` with ``state_names`` and ``use_names``;
    of Windows also ``priority`` (255: none), ``finding`` (``finding_names``) and ``last_owner_pid``
    (-1: none). If the files are known, there are ``file`` (the path; in ``.npz`` an index in
    ``file_paths``, -1: none) and ``file_offset`` in bytes (in ``.npz`` -1: unknown). ``generator``
    in ``.npz`` tells the program. With `regions`, which takes longer, ``owner_regions`` (in
    ``.npz`` ``owner_region``) tells for each owner where its region begins, as in the table of
    regions; 0, in ``.csv`` ``-``, where none is known. Standard output receives ``.csv``. Only the
    `chosen` processes, indices in Snapshot.processes, are listed as owners. OSError when it cannot
    be written, or `path` must not be replaced (see output.check_target); MissingLibraryError when
    a format's library is not installed.
    """
    check_table(path)
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    write = _write_csv if is_standard_output(path) else writers[path.suffix.lower()]
    of_owners = OwnerRegions(snapshot) if regions and snapshot.inventory else None
    with whole_file(path, force=force) as file:
        write(file, snapshot.with_last_owners(chosen), _owners(snapshot, chosen), of_owners)


def write_page_map(path: Path, snapshot: Snapshot, *, force: bool = False) -> None:
    """Write the page map in Parquet with the same columns for each dump, of whatever system.

    So the files of many dumps form a dataset. The columns are those of write_table; columns that
    this dump cannot fill are null. Errors as for write_table.
    """
    _need("pyarrow", "a Parquet table")
    with whole_file(path, force=force) as file:
        _write_parquet(file, snapshot.with_last_owners(None), _owners(snapshot, None), None, _alike)


def _alike(table: Any) -> Any:
    """A part of a page map, with the columns of any dump's."""
    import pyarrow as pa

    text, number, address = pa.string(), pa.int64(), pa.uint64()
    types = {
        **{"pfn": number, "physical": number, "class": text, "zero": pa.bool_()},
        **{"mappings": pa.uint32(), "owner_pids": pa.list_(number)},
        **{"owner_virtuals": pa.list_(address), "state": text, "use": text},
        **{"priority": pa.uint8(), "finding": text, "last_owner_pid": number},
        **{"file": text, "file_offset": number, "anomalies": text},
    }
    columns = {
        name: table[name].cast(type_) if name in table.column_names else pa.nulls(len(table), type_)
        for name, type_ in types.items()
    }
    schema = pa.schema(list(types.items()), metadata=table.schema.metadata)
    return pa.table(columns, schema=schema)


def _owners(snapshot: Snapshot, chosen: Collection[int] | None) -> Iterator[tuple[range, Owners]]:
    """Successive frames with their owners: all owners, or only the chosen."""
    for frames, owners in snapshot.owners_by_frame():
        yield frames, owners if chosen is None else owners.of(chosen)


def check_table(path: Path) -> None:
    """Raise MissingLibraryError when a library is missing that write_table would need."""
    if path.suffix.lower() == ".parquet":
        _need("pyarrow", "a Parquet table")


def _write_npz(
    file: IO[bytes],
    snapshot: Snapshot,
    pieces: Iterator[tuple[range, Owners]],
    regions: OwnerRegions | None,
) -> None:
    import zipfile  # imported here, since most runs write no such table

    owners = _CompactOwners(snapshot, pieces, regions)
    pids = _pids(snapshot)
    frames = snapshot.classes.size
    processes = snapshot.processes
    columns: dict[str, NDArray[Any] | _Pieces] = {
        "generator": np.array(GENERATOR),
        "pfn": _Pieces(np.int64, frames, _numbers(frames)),
        "class": snapshot.classes,
        "class_names": np.array(_LABELS),
        "zero": snapshot.zero,
        "mappings": snapshot.mapping_count,
        "owner_pfn": owners.column(np.int64, owners.frame),
        "owner_pid": owners.column(np.int64, owners.process, pids),
        "owner_virtual": owners.column(np.uint64, owners.virtual),
        "owner_user": owners.column(np.bool_, owners.is_user),
        "owner_process": owners.column(np.int32, owners.process),
        "process_pid": pids[: len(processes)],
        "process_object": np.array([one.object_address for one in processes], np.uint64),
        "process_anomalies": np.array(["; ".join(one.anomalies) for one in processes], np.str_),
    }
    if regions is not None:
        columns["owner_region"] = owners.column(np.uint64, owners.region)
    columns |= _record_columns(snapshot, pids)
    if snapshot.tells_files:
        columns |= _file_columns(snapshot)
    # Like np.savez_compressed, which packs a tenth tighter, but takes eight times as long.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name, column in columns.items():
            entry: str | zipfile.ZipInfo = f"{name}.npy"
            if name == "generator":  # not packed, so that output.is_own finds it
                entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as member:
                _write_npy(member, column)


def _file_columns(snapshot: Snapshot) -> dict[str, "NDArray[Any] | _Pieces"]:
    """The file behind each frame, by its index in the paths, and the offset in it."""
    pages, frames = snapshot.file_pages, snapshot.classes.size

    def pieces(column: int) -> Iterator[NDArray[Any]]:
        for at in range(0, frames, _AT_ONCE):
            yield pages.of_frames(at, min(at + _AT_ONCE, frames))[column]

    return {
        "file": _Pieces(np.int32, frames, pieces(0)),
        "file_offset": _Pieces(np.int64, frames, pieces(1)),
        "file_paths": np.array([file.path for file in pages.files], np.str_),
    }


def _record_columns(snapshot: Snapshot, pids: NDArray[np.int64]) -> "dict[str, Any]":
    """The columns of `.npz` with the kernel's records of each frame."""
    records, uses = snapshot.records, snapshot.uses
    if records is None or uses is None:
        return {}
    columns: dict[str, NDArray[Any] | _Pieces] = {
        "state": records.states,
        "state_names": np.array([state.label for state in records.kind]),
        "use": uses,
        "use_names": np.array(_USE_LABELS),
    }
    if records.last_owners is not None:
        columns["last_owner_pid"] = _Pieces(
            np.int64, records.last_owners.size, _pids_of(records.last_owners, pids)
        )
    if records.priorities is not None:
        columns["priority"] = records.priorities
    if records.findings is not None:
        columns["finding"] = records.findings
        columns["finding_names"] = np.array(_FINDING_LABELS)
    return columns


def _pids_of(
    owners: NDArray[np.signedinteger[Any]], pids: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """The pids of former owners, in pieces; -1 where there is none."""
    for at in range(0, owners.size, _AT_ONCE):
        some = owners[at : at + _AT_ONCE]
        yield np.where(some == NOBODY, -1, pids[some])


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A column that never exists as a whole in memory."""

    dtype: npt.DTypeLike
    size: int
    pieces: Iterable[NDArray[Any]]
    """Arrays of any type that fits into the column's."""

    @classmethod
    def of(cls, column: NDArray[Any]) -> "_Pieces":
        """The pieces of an existing column, as views."""
        pieces = (column[at : at + _AT_ONCE] for at in range(0, column.size, _AT_ONCE))
        return cls(column.dtype, column.size, pieces)


def _write_npy(member: IO[bytes], column: NDArray[Any] | _Pieces) -> None:
    """Write a column like np.save, which would use copies of many megabytes."""
    if isinstance(column, np.ndarray):
        if column.dtype.kind == "U":
            np.lib.format.write_array(member, column, allow_pickle=False)
            return
        column = _Pieces.of(column)
    about = np.lib.format.header_data_from_array_1_0(np.empty(0, column.dtype))
    np.lib.format.write_array_header_1_0(member, {**about, "shape": (column.size,)})
    for piece in column.pieces:
        member.write(piece.astype(column.dtype, copy=False).tobytes())


def _numbers(limit: int) -> Iterator[NDArray[np.int64]]:
    for at in range(0, limit, _AT_ONCE):
        yield np.arange(at, min(at + _AT_ONCE, limit))


class _CompactOwners:
    """The owners of pages as columns in pieces, each number in as few bytes as it needs."""

    def __init__(
        self,
        snapshot: Snapshot,
        pieces: Iterator[tuple[range, Owners]],
        regions: OwnerRegions | None,
    ) -> None:
        self.frame: list[NDArray[Any]] = []
        self.process: list[NDArray[Any]] = []
        self.virtual: list[NDArray[Any]] = []
        self.is_user: list[NDArray[Any]] = []
        self.region: list[NDArray[Any]] = []
        self._size = 0
        frame_type = np.min_scalar_type(snapshot.classes.size)
        process_type = np.min_scalar_type(len(snapshot.processes))
        for _, owners in pieces:
            self.frame.append(owners.frame.astype(frame_type))
            self.process.append(owners.process.astype(process_type))
            self.virtual.append(owners.virtual)
            self.is_user.append(owners.is_user)
            if regions is not None:
                self.region.append(regions.starts(owners))
            self._size += len(owners.frame)

    def column(
        self,
        dtype: npt.DTypeLike,
        pieces: list[NDArray[Any]],
        table: NDArray[Any] | None = None,
    ) -> _Pieces:
        """One of the columns, or the values of a table at its numbers."""
        found = pieces if table is None else (table[piece] for piece in pieces)
        return _Pieces(dtype, self._size, found)


def _pids(snapshot: Snapshot) -> NDArray[np.int64]:
    """The pids, by index in Snapshot.processes; a single unused pid if there are no processes."""
    return np.array([process.pid for process in snapshot.processes] or [-1], np.int64)


def _write_csv(
    file: IO[bytes],
    snapshot: Snapshot,
    pieces: Iterator[tuple[range, Owners]],
    regions: OwnerRegions | None,
) -> None:
    more = ("file", "file_offset") if snapshot.tells_files else ()
    if regions is not None:
        more = (*more, "owner_regions")
    columns = (*CSV_TITLES, *record_titles(snapshot.records), "anomalies", *more)
    file.write(",".join(columns).encode("ascii") + b"\n")
    pids = _pids(snapshot)
    for frames, owners in pieces:
        odd = odd_frames(owners, snapshot.processes)
        begins = cells(owners, regions.starts(owners), frames) if regions is not None else None
        file.write(csv_rows(snapshot, frames, owners, pids, odd, begins).encode("utf-8"))


def _write_parquet(
    file: IO[bytes],
    snapshot: Snapshot,
    pieces: Iterator[tuple[range, Owners]],
    regions: OwnerRegions | None,
    shaped: Callable[[Any], Any] = lambda table: table,
) -> None:
    import pyarrow.parquet

    # A few pieces make a row group: all at once would take four times the snapshot's memory.
    writer = None
    while group := list(islice(pieces, _PIECES_OF_GROUP)):
        frames = range(group[0][0].start, group[-1][0].stop)
        owners = Owners.join([owners for _, owners in group])
        table = shaped(_arrow(snapshot, frames, owners, regions))
        writer = writer or pyarrow.parquet.ParquetWriter(
            file, table.schema, use_dictionary=list(_REPEATING)
        )
        writer.write_table(table)
        del table, group, owners
        pyarrow.default_memory_pool().release_unused()
    if writer:
        writer.close()


_PIECES_OF_GROUP = 2
_REPEATING = (
    "class",
    "mappings",
    "owner_pids.list.element",
    "state",
    "use",
    "priority",
    "finding",
    "last_owner_pid",
    "anomalies",
    "file",
)
"""Columns of Parquet with few distinct values. For the other columns, a dictionary of the values
would be a second copy, in memory and in the file."""


def to_arrow(snapshot: Snapshot) -> Any:
    """The page map as a pyarrow.Table, a row for each frame; owners as two list columns.

    MissingLibraryError where pyarrow is not installed.
    """
    _need("pyarrow", "an Arrow table")
    return _arrow(snapshot, range(snapshot.classes.size), snapshot.owners)


def _arrow(
    snapshot: Snapshot, frames: range, owners: Owners, regions: OwnerRegions | None = None
) -> Any:
    """The rows of some successive frames with their owners."""
    import pyarrow as pa

    some = slice(frames.start, frames.stop)
    pfn = np.arange(frames.start, frames.stop)
    offsets = np.searchsorted(owners.frame, np.append(pfn, frames.stop)).astype(np.int32)
    columns = (
        arrowcolumns.numbers(pfn),
        arrowcolumns.numbers(pfn * PAGE_SIZE),
        arrowcolumns.words(snapshot.classes[some].astype(np.int8), _LABELS),
        arrowcolumns.numbers(snapshot.zero[some]),
        arrowcolumns.numbers(snapshot.mapping_count[some]),
        arrowcolumns.lists(offsets, _pids(snapshot)[owners.process]),
        arrowcolumns.lists(offsets, owners.virtual),
    )
    table = dict(zip(CSV_TITLES, columns, strict=True))
    table |= _arrow_records(snapshot, some)
    if snapshot.tells_files:
        table |= _arrow_files(snapshot, frames)
    if regions is not None:
        table["owner_regions"] = arrowcolumns.lists(offsets, regions.starts(owners))
    table["anomalies"] = _arrow_anomalies(snapshot, frames, owners)
    return pa.table(table).replace_schema_metadata({"generator": GENERATOR})


def _arrow_anomalies(snapshot: Snapshot, frames: range, owners: Owners) -> Any:
    """The anomalies of the owners of some successive frames; an empty text where there are none."""
    code_of = {"": 0}
    codes = np.zeros(len(frames), np.int32)
    for frame, told in odd_frames(owners, snapshot.processes).items():
        codes[frame - frames.start] = code_of.setdefault(told, len(code_of))
    return arrowcolumns.words(codes, [*code_of])


def _arrow_files(snapshot: Snapshot, frames: range) -> dict[str, Any]:
    """Path of the file behind each of some frames, and the offset in it; null without a file."""
    pages = snapshot.file_pages
    file, offset = pages.of_frames(frames.start, frames.stop)
    none = file < 0
    # Several files may have one path, such as /dev/zero; a dictionary has each text once.
    code_of: dict[str, int] = {}
    codes = [code_of.setdefault(one.path, len(code_of)) for one in pages.files]
    code = np.array([*codes, 0], np.int32)[file]
    return {
        "file": arrowcolumns.words(code, [*code_of], none=none),
        "file_offset": arrowcolumns.numbers(offset, none=none | (offset < 0)),
    }


def _arrow_records(snapshot: Snapshot, some: slice) -> dict[str, Any]:
    """The kernel's records of some successive frames, as columns."""

    def words(codes: NDArray[np.uint8], labels: list[str]) -> Any:
        return arrowcolumns.words(codes.astype(np.int8), labels)

    records, uses = snapshot.records, snapshot.uses
    if records is None or uses is None:
        return {}
    columns = {
        "state": words(records.states[some], [state.label for state in records.kind]),
        "use": words(uses[some], _USE_LABELS),
    }
    if records.priorities is not None:
        priorities = records.priorities[some]
        none = priorities == NO_PRIORITY
        columns["priority"] = arrowcolumns.numbers(priorities, none=none)
    if records.findings is not None:
        columns["finding"] = words(records.findings[some], _FINDING_LABELS)
    if records.last_owners is not None:
        owners = records.last_owners[some]
        pids = _pids(snapshot)[owners]
        columns["last_owner_pid"] = arrowcolumns.numbers(pids, none=owners == NOBODY)
    return columns


def to_pandas(snapshot: Snapshot, *, entropy: NDArray[np.uint8] | None = None) -> Any:
    """The page map as a pandas.DataFrame, a row for each frame.

    ``physical`` is its address, ``protection`` the rights on it (such as ``rwx``; empty if no page
    table leads to it), ``owners`` the number of its processes. ``state``, ``use``, and ``entropy``
    in bits per byte are present if they are known. MissingLibraryError where pandas is not
    installed.
    """
    _need("pandas", "a DataFrame")
    import pandas as pd

    pfn = np.arange(snapshot.classes.size)
    rights = np.where(snapshot.mapping_count > 0, snapshot.access >> 1 & 3, len(_RIGHTS) - 1)
    columns = {
        "physical": pfn * PAGE_SIZE,
        "class": pd.Categorical.from_codes(snapshot.classes, _LABELS),
        "zero": snapshot.zero,
        "mappings": snapshot.mapping_count,
        "protection": pd.Categorical.from_codes(rights.astype(np.int8), _RIGHTS),
        "owners": _owner_counts(snapshot),
    }
    if entropy is not None:
        columns["entropy"] = entropy * np.float32(8 / 255)
    records, uses = snapshot.records, snapshot.uses
    if records is not None and uses is not None:
        labels = [state.label for state in records.kind]
        columns["state"] = pd.Categorical.from_codes(records.states, labels)
        columns["use"] = pd.Categorical.from_codes(uses, _USE_LABELS)
        if records.last_owners is not None:
            owners = records.last_owners
            columns["last_owner_pid"] = np.where(owners == NOBODY, -1, _pids(snapshot)[owners])
    return pd.DataFrame(columns, index=pd.RangeIndex(snapshot.classes.size, name="pfn"))


_RIGHTS = ("r--", "rw-", "r-x", "rwx", "")
"""By MAY_WRITE and MAY_EXECUTE; the last is for frames without a known mapping."""


def _owner_counts(snapshot: Snapshot) -> NDArray[np.uint32]:
    """The number of processes that have each frame, by PFN."""
    counts = np.zeros(snapshot.classes.size, np.uint32)
    for frames, owners in snapshot.owners_by_frame():
        some = np.bincount(owners.frame - frames.start, minlength=len(frames))
        counts[frames.start : frames.stop] = some
    return counts


def processes_frame(snapshot: Snapshot) -> Any:
    """The processes as a pandas.DataFrame, a row for each, in the order of Snapshot.processes.

    Owners and Mappings name processes by the index of this frame. MissingLibraryError where pandas
    is not installed.
    """
    _need("pandas", "a DataFrame")
    import pandas as pd

    pages = snapshot.pages_of_processes()
    processes = snapshot.processes
    columns: dict[str, Any] = {
        name: [getattr(process, name) for process in processes]
        for name in ("pid", "ppid", "name", "state", "is_alive", "is_listed", "is_kernel_thread")
    }
    columns |= {
        "private_pages": pages[:, 0],
        "shared_pages": pages[:, 1],
        "dtb": np.array([process.dtb for process in processes], np.uint64),
        "object_address": np.array([process.object_address for process in processes], np.uint64),
        "created": pd.to_datetime([process.created for process in processes], utc=True),
        "exited": pd.to_datetime([process.exited for process in processes], utc=True),
        "anomalies": [", ".join(process.anomalies) for process in processes],
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(processes), name="process"))


def _need(module: str, what: str) -> None:
    if find_spec(module) is None:
        raise MissingLibraryError(
            f"{what} needs {module}, which is not installed ({how_to_get(module)})"
        )


def write_text_map(
    path: Path,
    snapshot: Snapshot,
    *,
    chosen: Collection[int] | None = None,
    force: bool = False,
) -> None:
    """Write the text page map (see textmap), as the Volatility 2 plugin prints it.

    `chosen`, indices in Snapshot.processes, limits the map to mappings of these processes. Errors
    as for write_table.
    """
    width = 12 if snapshot.paging and snapshot.paging.address_bits == 32 else 20
    titles = f"{'(Virtual)':<{width}}{'(Physical)':<14}{'(Size)':<10}(Kernel)"
    with whole_file(path, force=force) as file:
        file.write(f"{titles}\n{'-' * (len(titles) + 2)}\n".encode("ascii"))
        for part in _text_rows(snapshot, width, chosen):
            file.write(part)


def _text_rows(snapshot: Snapshot, width: int, chosen: Collection[int] | None) -> Iterator[bytes]:
    rows = snapshot.mappings
    if chosen is not None:
        rows = rows.take(np.isin(rows.space, list(chosen)))
    held = snapshot.dump.held
    order = np.lexsort((rows.virtual, np.where(rows.space == SHARED, 1 << 30, rows.space)))
    for part in np.array_split(order, len(order) // 65_536 + 1):
        columns = zip(
            rows.virtual[part].tolist(),
            rows.pfn[part].tolist(),
            rows.count[part].tolist(),
            rows.is_user[part].tolist(),
            strict=True,
        )
        lines = [
            b"%-#*x %-#13x %-#9x %s\n"
            % (
                width - 1,
                virtual + skip * PAGE_SIZE,
                (frame + skip) * PAGE_SIZE,
                length * PAGE_SIZE,
                b"False" if user else b"True",
            )
            for virtual, frame, frames, user in columns
            for skip, length in ([(0, 1)] if frames == 1 else _held_parts(held, frame, frames))
        ]
        yield b"".join(lines)


def _held_parts(held: np.ndarray[Any, Any], frame: int, frames: int) -> list[tuple[int, int]]:
    """The stretches of a large page that the dump holds: first frame and count of each."""
    edges = np.flatnonzero(np.diff(held[frame : frame + frames], prepend=False, append=False))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]
