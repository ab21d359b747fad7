"""What a snapshot tells, for other programs: tables, JSON, the text page map.

Every file appears whole or not at all. Names of processes come from the dump and are hostile:
in JSON they are escaped by its rules, and tables for spreadsheets hold numbers only.
"""

import csv
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from memory_visualizer.errors import MemoryVisualizerError
from memory_visualizer.output import whole_file
from memory_visualizer.pagemap import PageClass
from memory_visualizer.paging import SHARED
from memory_visualizer.snapshot import Snapshot
from memory_visualizer.windows import datetime_of

PAGE_SIZE = 4096
TABLE_FORMATS = (".npz", ".csv", ".parquet")


class MissingLibraryError(MemoryVisualizerError):
    """A library is needed that is not installed."""


def write_table(path: Path, snapshot: Snapshot) -> None:
    """Write the page map, a row for each frame, in the format that the file's ending names.

    ``.npz``: arrays ``pfn``, ``class`` (codes in ``class_names``), ``zero``, ``mappings``, and in
    long form ``owner_pfn``, ``owner_pid``, ``owner_virtual``, ``owner_user``. ``.csv`` and
    ``.parquet``: the same columns, owners as lists. OSError when it cannot be written,
    MissingLibraryError when a format's library is not installed.
    """
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    with whole_file(path) as file:
        writers[path.suffix.lower()](file, snapshot)


def _write_npz(file: IO[bytes], snapshot: Snapshot) -> None:
    owners = snapshot.owners
    pids = np.array([process.pid for process in snapshot.processes], np.int64)
    arrays: dict[str, Any] = {
        "pfn": np.arange(snapshot.classes.size),
        "class": snapshot.classes,
        "class_names": np.array([page_class.label for page_class in PageClass]),
        "zero": snapshot.zero,
        "mappings": snapshot.mapping_count,
        "owner_pfn": owners.frame,
        "owner_pid": pids[owners.process] if len(pids) else np.empty(0, np.int64),
        "owner_virtual": owners.virtual,
        "owner_user": owners.is_user,
    }
    np.savez_compressed(file, allow_pickle=False, **arrays)


_COLUMNS = ("pfn", "physical", "class", "zero", "mappings", "owner_pids", "owner_virtuals")


def _write_csv(file: IO[bytes], snapshot: Snapshot) -> None:
    import io

    with io.TextIOWrapper(file, encoding="ascii", newline="", write_through=True) as text:
        writer = csv.writer(text)
        writer.writerow(_COLUMNS)
        for pfn, physical, label, zero, mappings, pids, virtuals in _rows(snapshot):
            addresses = " ".join(map(hex, virtuals))
            row = (pfn, hex(physical), label, int(zero), mappings)
            writer.writerow((*row, " ".join(map(str, pids)), addresses))
        text.detach()


def _rows(snapshot: Snapshot) -> Iterator[tuple[Any, ...]]:
    """The columns of each frame as Python's own types, owners as two lists."""
    labels = [page_class.label for page_class in PageClass]
    owners = snapshot.owners
    starts = np.searchsorted(owners.frame, np.arange(snapshot.classes.size + 1)).tolist()
    pids = [snapshot.processes[process].pid for process in owners.process.tolist()]
    virtuals = owners.virtual.tolist()
    columns = (snapshot.classes.tolist(), snapshot.zero.tolist(), snapshot.mapping_count.tolist())
    for pfn, (page_class, zero, mappings) in enumerate(zip(*columns, strict=True)):
        mine = slice(starts[pfn], starts[pfn + 1])
        yield (
            pfn,
            pfn * PAGE_SIZE,
            labels[page_class],
            zero,
            mappings,
            pids[mine],
            virtuals[mine],
        )


def _write_parquet(file: IO[bytes], snapshot: Snapshot) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(to_arrow(snapshot), file)


def to_arrow(snapshot: Snapshot) -> Any:
    """The page map as a pyarrow.Table, a row for each frame; owners as two list columns.

    MissingLibraryError where pyarrow is not installed.
    """
    _need("pyarrow", "pip install 'memory-visualizer[parquet]'")
    import pyarrow as pa

    owners = snapshot.owners
    offsets = np.searchsorted(owners.frame, np.arange(snapshot.classes.size + 1)).astype(np.int32)
    pids = np.array([process.pid for process in snapshot.processes] or [0], np.int64)
    labels = pa.array([page_class.label for page_class in PageClass])
    classes = pa.DictionaryArray.from_arrays(pa.array(snapshot.classes.astype(np.int8)), labels)
    pfn = np.arange(snapshot.classes.size)
    columns = (
        pa.array(pfn),
        pa.array(pfn * PAGE_SIZE),
        classes,
        pa.array(snapshot.zero),
        pa.array(snapshot.mapping_count),
        pa.ListArray.from_arrays(offsets, pa.array(pids[owners.process])),
        pa.ListArray.from_arrays(offsets, pa.array(owners.virtual)),
    )
    return pa.table(dict(zip(_COLUMNS, columns, strict=True)))


def to_pandas(snapshot: Snapshot) -> Any:
    """The page map as a pandas.DataFrame, a row for each frame, without the owners.

    MissingLibraryError where pandas is not installed.
    """
    _need("pandas", "pip install pandas")
    import pandas as pd

    labels = [page_class.label for page_class in PageClass]
    return pd.DataFrame(
        {
            "class": pd.Categorical.from_codes(snapshot.classes, labels),
            "zero": snapshot.zero,
            "mappings": snapshot.mapping_count,
        },
        index=pd.RangeIndex(snapshot.classes.size, name="pfn"),
    )


def _need(module: str, how: str) -> None:
    if find_spec(module) is None:
        raise MissingLibraryError(f"{module} is not installed: {how}")


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """All that is known but the pages themselves, as JSON has it; addresses as numbers."""
    pages = snapshot.pages_of_processes().tolist()
    system = next((process for process in snapshot.processes if process.pid == 4), None)
    return {
        "dump": snapshot.dump.path.name,
        "format": snapshot.dump.format,
        "os": snapshot.system,
        "time": snapshot.time.isoformat() if snapshot.time else None,
        "paging": snapshot.paging.name if snapshot.paging else None,
        "dtb": system.dtb if system else None,
        "frames": snapshot.classes.size,
        "runs": len(snapshot.dump.runs),
        "classes": {page_class.label: count for page_class, count in snapshot.counts().items()},
        "stale_spaces": snapshot.stale_spaces,
        "processes": [
            {
                "pid": process.pid,
                "ppid": process.ppid,
                "name": process.name,
                "dtb": process.dtb,
                "eprocess": process.eprocess,
                "pages": private + shared,
                "private_pages": private,
                "shared_pages": shared,
                "listed": process.is_listed,
                "exited": not process.is_alive,
                "created": datetime_of(process.created).isoformat() if process.created else None,
            }
            for process, (private, shared) in zip(snapshot.processes, pages, strict=True)
        ],
    }


def write_json(path: Path, snapshot: Snapshot) -> None:
    """Write the summary as JSON. OSError when it cannot be written."""
    with whole_file(path) as file:
        file.write(json.dumps(summary(snapshot), indent=2).encode("ascii") + b"\n")


def write_text_map(path: Path, snapshot: Snapshot) -> None:
    """Write the text page map (see textmap), as the Volatility 2 plugin prints it."""
    title = f"{'(Virtual)':<20}{'(Physical)':<14}{'(Size)':<10}(Kernel)\n"
    with whole_file(path) as file:
        file.write(f"{title}{'-' * len(title)}\n".encode("ascii"))
        for part in _text_rows(snapshot):
            file.write(part)


def _text_rows(snapshot: Snapshot) -> Iterator[bytes]:
    rows = snapshot.mappings
    held = snapshot.dump.held
    order = np.lexsort((rows.virtual, np.where(rows.space == SHARED, 1 << 30, rows.space)))
    for part in np.array_split(order, len(order) // 65_536 + 1):
        columns = zip(
            rows.virtual[part].tolist(),
            rows.frame[part].tolist(),
            rows.frames[part].tolist(),
            rows.is_user[part].tolist(),
            strict=True,
        )
        lines = [
            b"%-#20x%-#14x%-#10x%s\n"
            % (
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
