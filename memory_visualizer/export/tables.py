"""A snapshot for other programs: tables, JSON, the text page map.

Every file appears whole or not at all. Names of processes come from the dump and are hostile: in
JSON they are escaped by its rules, and tables for spreadsheets hold numbers only.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from memory_visualizer.errors import MemoryVisualizerError
from memory_visualizer.export.csvtable import csv_rows
from memory_visualizer.output import CSV_TITLES, GENERATOR, is_standard_output, whole_file
from memory_visualizer.packages import how_to_get
from memory_visualizer.paging import SHARED
from memory_visualizer.snapshot.findings import odd_frames
from memory_visualizer.snapshot.owners import Owners
from memory_visualizer.snapshot.pagemap import PageClass, PageState
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

TABLE_FORMATS = (".npz", ".csv", ".parquet")

_LABELS = [page_class.label for page_class in PageClass]
_STATE_LABELS = [state.label for state in PageState]

_LEVEL = 2
"""Of zlib's, in tables."""
_AT_ONCE = 1 << 17
"""Numbers of a column, a megabyte at most."""


class MissingLibraryError(MemoryVisualizerError):
    """A needed library is not installed."""


def write_table(
    path: Path,
    snapshot: Snapshot,
    *,
    chosen: Collection[int] | None = None,
    force: bool = False,
) -> None:
    """Write the page map, a row for each frame, in the format that the file's ending names.

    ``.npz``: arrays ``pfn``, ``class`` (codes in ``class_names``), ``zero``, ``mappings``, and in
    long form ``owner_pfn``, ``owner_pid``, ``owner_virtual``, ``owner_user`` and ``owner_process``,
    an index in ``process_pid``, ``process_object`` and ``process_anomalies``. ``.csv`` and
    ``.parquet``: the same columns, owners as lists, and what is odd about them. Of a Linux dump
    there is ``state`` as well, in ``.npz`` with ``state_names``, and the file behind each frame:
    ``file``, in ``.npz`` an index in ``file_paths`` (-1 for none), and ``file_offset`` in bytes.
    ``generator`` tells who wrote it. To standard output it is ``.csv``. `chosen`, indices in
    Snapshot.processes, are the only owners to be told. OSError when it cannot be written, or `path`
    must not be replaced (see output.check_target); MissingLibraryError when a format's library is
    not installed.
    """
    check_table(path)
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    write = _write_csv if is_standard_output(path) else writers[path.suffix.lower()]
    with whole_file(path, force=force) as file:
        write(file, snapshot, _owners(snapshot, chosen))


def _owners(snapshot: Snapshot, chosen: Collection[int] | None) -> Iterator[tuple[range, Owners]]:
    """Some successive frames and who has them, until all were told; all processes or some."""
    for frames, owners in snapshot.owners_by_frame():
        yield frames, owners if chosen is None else owners.of(chosen)


def check_table(path: Path) -> None:
    """Raise MissingLibraryError when a library is missing that write_table would need."""
    if path.suffix.lower() == ".parquet":
        need("pyarrow", "a Parquet table")


def _write_npz(file: IO[bytes], snapshot: Snapshot, pieces: Iterator[tuple[range, Owners]]) -> None:
    import zipfile  # here, since most runs write no such table

    owners = _CompactOwners(snapshot, pieces)
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
    if snapshot.states is not None:
        columns |= {"state": snapshot.states, "state_names": np.array(_STATE_LABELS)}
    if snapshot.inventory:
        columns |= _file_columns(snapshot)
    # As np.savez_compressed does, which packs a tenth tighter, but takes eight times as long.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name, column in columns.items():
            entry: str | zipfile.ZipInfo = f"{name}.npy"
            if name == "generator":  # not packed, so that it is found at once: see output.is_own
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


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A column that is never there as a whole."""

    dtype: npt.DTypeLike
    size: int
    pieces: Iterable[NDArray[Any]]
    """Of any type that the column's has room for."""

    @classmethod
    def of(cls, column: NDArray[Any]) -> "_Pieces":
        """A column that is there; its pieces are views of it."""
        pieces = (column[at : at + _AT_ONCE] for at in range(0, column.size, _AT_ONCE))
        return cls(column.dtype, column.size, pieces)


def _write_npy(member: IO[bytes], column: NDArray[Any] | _Pieces) -> None:
    """Write a column as np.save does, which would have copies of megabytes in use."""
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
    """Who has which page, each number in as few bytes as it needs: columns in pieces."""

    def __init__(self, snapshot: Snapshot, pieces: Iterator[tuple[range, Owners]]) -> None:
        self.frame: list[NDArray[Any]] = []
        self.process: list[NDArray[Any]] = []
        self.virtual: list[NDArray[Any]] = []
        self.is_user: list[NDArray[Any]] = []
        self._size = 0
        frame_type = np.min_scalar_type(snapshot.classes.size)
        process_type = np.min_scalar_type(len(snapshot.processes))
        for _, owners in pieces:
            self.frame.append(owners.frame.astype(frame_type))
            self.process.append(owners.process.astype(process_type))
            self.virtual.append(owners.virtual)
            self.is_user.append(owners.is_user)
            self._size += len(owners.frame)

    def column(
        self,
        dtype: npt.DTypeLike,
        pieces: list[NDArray[Any]],
        table: NDArray[Any] | None = None,
    ) -> _Pieces:
        """One of the columns, or what stands for each of its numbers in a table."""
        found = pieces if table is None else (table[piece] for piece in pieces)
        return _Pieces(dtype, self._size, found)


def _pids(snapshot: Snapshot) -> NDArray[np.int64]:
    """The pids, by index in Snapshot.processes; one that nobody has where there are none."""
    return np.array([process.pid for process in snapshot.processes] or [-1], np.int64)


def _write_csv(file: IO[bytes], snapshot: Snapshot, pieces: Iterator[tuple[range, Owners]]) -> None:
    states = () if snapshot.states is None else ("state",)
    files = ("file", "file_offset") if snapshot.inventory else ()
    columns = (*CSV_TITLES, *states, "anomalies", *files)
    file.write(",".join(columns).encode("ascii") + b"\n")
    pids = _pids(snapshot)
    for frames, owners in pieces:
        odd = odd_frames(owners, snapshot.processes)
        file.write(csv_rows(snapshot, frames, owners, pids, odd).encode("utf-8"))


def _write_parquet(
    file: IO[bytes], snapshot: Snapshot, pieces: Iterator[tuple[range, Owners]]
) -> None:
    import pyarrow.parquet

    # A row group for each few pieces: all at once would take four times the snapshot's memory.
    writer = None
    while group := list(islice(pieces, _PIECES_OF_GROUP)):
        frames = range(group[0][0].start, group[-1][0].stop)
        table = _arrow(snapshot, frames, Owners.join([owners for _, owners in group]))
        writer = writer or pyarrow.parquet.ParquetWriter(
            file, table.schema, use_dictionary=list(_REPEATING)
        )
        writer.write_table(table)
        del table, group
        pyarrow.default_memory_pool().release_unused()
    if writer:
        writer.close()


_PIECES_OF_GROUP = 2
_REPEATING = ("class", "mappings", "owner_pids.list.element", "state", "file", "anomalies")
"""Columns of Parquet whose values are the same again and again. Of the others, all different, a
list of the values there are would be a second copy, in memory and in the file."""


def to_arrow(snapshot: Snapshot) -> Any:
    """The page map as a pyarrow.Table, a row for each frame; owners as two list columns.

    MissingLibraryError where pyarrow is not installed.
    """
    need("pyarrow", "an Arrow table")
    return _arrow(snapshot, range(snapshot.classes.size), snapshot.owners)


def _arrow(snapshot: Snapshot, frames: range, owners: Owners) -> Any:
    """The rows of some successive frames, and who has these."""
    import pyarrow as pa

    some = slice(frames.start, frames.stop)
    pfn = np.arange(frames.start, frames.stop)
    offsets = np.searchsorted(owners.frame, np.append(pfn, frames.stop)).astype(np.int32)
    labels = pa.array(_LABELS)
    classes = pa.DictionaryArray.from_arrays(
        pa.array(snapshot.classes[some].astype(np.int8)), labels
    )
    columns = (
        pa.array(pfn),
        pa.array(pfn * PAGE_SIZE),
        classes,
        pa.array(snapshot.zero[some]),
        pa.array(snapshot.mapping_count[some]),
        pa.ListArray.from_arrays(offsets, pa.array(_pids(snapshot)[owners.process])),
        pa.ListArray.from_arrays(offsets, pa.array(owners.virtual)),
    )
    table = dict(zip(CSV_TITLES, columns, strict=True))
    if snapshot.states is not None:
        states = pa.array(snapshot.states[some].astype(np.int8))
        table["state"] = pa.DictionaryArray.from_arrays(states, pa.array(_STATE_LABELS))
    if snapshot.inventory:
        table |= _arrow_files(snapshot, frames)
    odd = odd_frames(owners, snapshot.processes)
    table["anomalies"] = pa.array(
        [odd.get(frame, "") for frame in pfn.tolist()]
    ).dictionary_encode()
    return pa.table(table).replace_schema_metadata({"generator": GENERATOR})


def _arrow_files(snapshot: Snapshot, frames: range) -> dict[str, Any]:
    """Path of the file behind each of some frames, and the offset in it; null where none is."""
    import pyarrow as pa

    pages = snapshot.file_pages
    file, offset = pages.of_frames(frames.start, frames.stop)
    none = file < 0
    paths = pa.array([one.path for one in pages.files], pa.string())
    return {
        "file": pa.DictionaryArray.from_arrays(pa.array(file, mask=none), paths),
        "file_offset": pa.array(offset, mask=none),
    }


def to_pandas(snapshot: Snapshot, *, entropy: NDArray[np.uint8] | None = None) -> Any:
    """The page map as a pandas.DataFrame, a row for each frame.

    ``physical`` is its address, ``protection`` what may be done with it (as ``rwx``; nothing where
    no page table leads to it), ``owners`` the number of processes that have it. Linux' ``state``
    and ``entropy``, in bits per byte, are there if they are known. MissingLibraryError where pandas
    is not installed.
    """
    need("pandas", "a DataFrame")
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
    if snapshot.states is not None:
        columns["state"] = pd.Categorical.from_codes(snapshot.states, _STATE_LABELS)
    return pd.DataFrame(columns, index=pd.RangeIndex(snapshot.classes.size, name="pfn"))


_RIGHTS = ("r--", "rw-", "r-x", "rwx", "")
"""By MAY_WRITE and MAY_EXECUTE, and where no mapping is known."""


def _owner_counts(snapshot: Snapshot) -> NDArray[np.uint32]:
    """How many processes have each frame, by PFN."""
    counts = np.zeros(snapshot.classes.size, np.uint32)
    for frames, owners in snapshot.owners_by_frame():
        some = np.bincount(owners.frame - frames.start, minlength=len(frames))
        counts[frames.start : frames.stop] = some
    return counts


def processes_frame(snapshot: Snapshot) -> Any:
    """The processes as a pandas.DataFrame, a row for each, in the order of Snapshot.processes.

    Its index is the one by which Owners and Mappings name a process. MissingLibraryError where
    pandas is not installed.
    """
    need("pandas", "a DataFrame")
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


def need(module: str, what: str) -> None:
    """Raise MissingLibraryError if a module is not installed that an output needs."""
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

    `chosen`, indices in Snapshot.processes: only what these have of their own. Errors as for
    write_table.
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
    """Where in a large page the dump holds frames: first and count of each stretch."""
    edges = np.flatnonzero(np.diff(held[frame : frame + frames], prepend=False, append=False))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]
