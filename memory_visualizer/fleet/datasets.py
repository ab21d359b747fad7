"""Datasets for questions over all dumps: Parquet, one folder for each, partitioned by dump.

Each dump has one file in each dataset, ``DATASET/dump=NAME/part-0.parquet``, even if it has no
rows. All files of a dataset have the same columns, whatever the system of their dumps: pyarrow,
DuckDB and polars read the folder as one table, in which ``dump`` is a column. Text is as in the
dump, not yet printable.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from memory_visualizer.api import Snapshot
from memory_visualizer.arrays import runs_in
from memory_visualizer.export.inventorytables import regions_of_processes
from memory_visualizer.export.summary import MAX_LISTED_RUNS
from memory_visualizer.export.tables import write_page_map
from memory_visualizer.output import GENERATOR, whole_file

_Row = Mapping[str, Any]

PART = "part-0.parquet"
"""The name of each file."""

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "processes": {
        **{"pid": "int64", "ppid": "int64", "name": "text", "state": "text", "phase": "text"},
        **{"listed": "bool", "kernel_thread": "bool", "exited": "bool"},
        **{"pages": "int64", "private_pages": "int64", "shared_pages": "int64"},
        **{"dtb": "uint64", "user_dtb": "uint64", "object_address": "uint64"},
        **{"created": "time", "exit_time": "time", "anomalies": "texts"},
    },
    "files": {
        **{"path": "text", "kind": "text", "deleted": "bool", "size": "uint64"},
        **{"file_system": "text", "device": "text", "inode": "uint64", "object_address": "uint64"},
        **{"pages": "int64", "bytes": "int64", "mapped_pages": "int64", "pids": "numbers"},
        **{"pages_by_state": "counts"},
    },
    "regions": {
        **{"pid": "int64", "process": "text", "start": "uint64", "end": "uint64", "size": "uint64"},
        **{"protection": "text", "sharing": "text", "type": "text", "commit": "int64"},
        **{"name": "text", "file": "text", "offset": "uint64", "deleted": "bool"},
        **{"pages": "int64", "findings": "texts"},
    },
    "modules": {
        **{"name": "text", "path": "text", "size": "uint64", "pages": "int64"},
        **{"start": "uint64", "ranges": "ranges", "object_address": "uint64"},
    },
    "leads": {
        **{"kind": "text", "reason": "text", "pid": "int64", "process": "text"},
        **{"object_address": "uint64", "pages": "int64"},
        **{"runs": "ranges", "runs_left_out": "int64"},
    },
}
"""The columns of each dataset, and the types of their values; for the page maps see export.tables.
Addresses are virtual, except for page tables (dtb)."""

DATASETS = ("pages", *COLUMNS)
"""The folders of the datasets."""


def part_of(folder: Path, dataset: str, name: str) -> Path:
    """The file of a dump, by its name, in a dataset below the run's folder."""
    return folder / dataset / f"dump={name}" / PART


def write_datasets(folder: Path, name: str, snapshot: Snapshot, *, force: bool = False) -> None:
    """Write a dump's part of each dataset. OSError as for output.whole_file."""
    rows: Mapping[str, Callable[[Snapshot], Iterator[_Row]]] = {
        "processes": _processes,
        "files": _files,
        "regions": _regions,
        "modules": _modules,
        "leads": _leads,
    }
    for dataset in DATASETS:
        path = part_of(folder, dataset, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if dataset == "pages":
            write_page_map(path, snapshot, force=force)
        else:
            _write(path, COLUMNS[dataset], rows[dataset](snapshot), force=force)


def _write(path: Path, kinds: Mapping[str, str], rows: Iterator[_Row], *, force: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    types = _types()
    schema = pa.schema(
        [(column, types[kind]) for column, kind in kinds.items()],
        metadata={"generator": GENERATOR},
    )
    table = pa.Table.from_pylist([*rows], schema=schema)
    with whole_file(path, force=force) as file:
        pyarrow.parquet.write_table(table, file)


def _types() -> dict[str, Any]:
    """The types of Arrow, by their names in COLUMNS."""
    import pyarrow as pa

    return {
        "int64": pa.int64(),
        "uint64": pa.uint64(),
        "bool": pa.bool_(),
        "text": pa.string(),
        "time": pa.timestamp("us", "UTC"),
        "texts": pa.list_(pa.string()),
        "numbers": pa.list_(pa.int64()),
        "counts": pa.map_(pa.string(), pa.int64()),
        "ranges": pa.list_(pa.struct([("first", pa.uint64()), ("last", pa.uint64())])),
    }


def _processes(snapshot: Snapshot) -> Iterator[_Row]:
    counts = snapshot.pages_of_processes().tolist()
    for process, (private, shared) in zip(snapshot.processes, counts, strict=True):
        yield {
            "pid": process.pid,
            "ppid": process.ppid,
            "name": _text(process.name),
            "state": process.state,
            "phase": process.phase,
            "listed": process.is_listed,
            "kernel_thread": process.is_kernel_thread,
            "exited": not process.is_alive,
            "pages": private + shared,
            "private_pages": private,
            "shared_pages": shared,
            "dtb": process.dtb,
            "user_dtb": process.user_dtb,
            "object_address": process.object_address,
            "created": process.created,
            "exit_time": process.exited,
            "anomalies": [*map(_text, process.anomalies)],
        }


def _files(snapshot: Snapshot) -> Iterator[_Row]:
    for file in snapshot.files:
        yield {
            "path": _text(file.path),
            "kind": file.kind,
            "deleted": file.is_deleted,
            "size": file.size,
            "file_system": _text(file.file_system),
            "device": file.device,
            "inode": file.number,
            "object_address": file.object_address,
            "pages": file.pages,
            "bytes": file.bytes,
            "mapped_pages": file.mapped,
            "pids": [process.pid for process in file.processes],
            "pages_by_state": sorted(file.states.items()),
        }


def _regions(snapshot: Snapshot) -> Iterator[_Row]:
    for process, regions, present in regions_of_processes(snapshot):
        for region, pages in zip(regions, present.tolist(), strict=True):
            yield {
                "pid": process.pid,
                "process": _text(process.name),
                "start": region.start,
                "end": region.end,
                "size": region.size,
                "protection": region.protection,
                "sharing": "private" if region.is_private else "shared",
                "type": region.kind,
                "commit": region.commit,
                "name": _text(region.name),
                "file": _text(region.file),
                "offset": region.offset if region.file else None,
                "deleted": region.is_deleted,
                "pages": pages,
                "findings": [*region.findings],
            }


def _modules(snapshot: Snapshot) -> Iterator[_Row]:
    for module in snapshot.modules or ():
        yield {
            "name": _text(module.name),
            "path": _text(module.path),
            "size": module.size,
            "pages": len(module.frames),
            "start": min((start for start, _ in module.ranges), default=None),
            "ranges": [{"first": start, "last": end - 1} for start, end in module.ranges],
            "object_address": module.object_address,
        }


def _leads(snapshot: Snapshot) -> Iterator[_Row]:
    for lead in snapshot.leads.found:
        runs = runs_in(lead.frames)
        yield {
            "kind": lead.kind,
            "reason": _text(lead.reason),
            "pid": lead.process.pid if lead.process else None,
            "process": _text(lead.process.name) if lead.process else None,
            "object_address": lead.process.object_address if lead.process else None,
            "pages": len(lead.frames),
            "runs": [
                {"first": first, "last": first + count - 1}
                for first, count in runs[:MAX_LISTED_RUNS].tolist()
            ],
            "runs_left_out": max(len(runs) - MAX_LISTED_RUNS, 0),
        }


def _text(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate of UTF-16 becomes its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
