"""Files, regions, and hits of YARA rules as tables: CSV, Parquet or JSON.

Text from a dump is escaped (printable) and quoted in CSV; text that a spreadsheet would take for a
formula gets an apostrophe in front. In Parquet and JSON it is as in the dump.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.export.csvtable import text_cell
from memory_visualizer.export.hits import hit_rows
from memory_visualizer.export.tables import check_table
from memory_visualizer.output import (
    FILE_TITLES,
    GENERATOR,
    HIT_TITLES,
    REGION_TITLES,
    is_standard_output,
    whole_file,
)
from memory_visualizer.snapshot.inventory import File, Region
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.yara import Hits

_ROWS_AT_ONCE = 1 << 14

_Row = Mapping[str, Any]


def write_files(
    path: Path,
    snapshot: Snapshot,
    *,
    chosen: Sequence[int] | None = None,
    force: bool = False,
) -> None:
    """Write the files with pages in memory, a row for each.

    Columns are those of snapshot.inventory.File: path, kind, whether it is deleted, size in bytes,
    file system, device, inode, pages, bytes of these, mapped pages, pids of the processes that have
    any, and pages by state (a column ``pages_…`` for each state that occurs). `chosen`, indices in
    Snapshot.processes, limits the table to files with pages of these processes. The format is that
    of the file's ending, and CSV for standard output. OSError when it cannot be written, or `path`
    must not be replaced; MissingLibraryError when a format's library is not installed.
    """
    files = snapshot.files
    if chosen is not None:
        among = {snapshot.processes[index] for index in chosen}
        files = tuple(file for file in files if among.intersection(file.processes))
    states = sorted({state for file in snapshot.files for state in file.states})
    titles = (*FILE_TITLES, *(f"pages_{state.replace(' ', '_')}" for state in states))
    rows = (_file_row(titles, states, file) for file in files)
    _write(path, "files", titles, rows, force=force)


def _file_row(titles: Sequence[str], states: Sequence[str], file: File) -> _Row:
    values = (
        file.path,
        file.kind,
        file.is_deleted,
        file.size,
        file.file_system,
        file.device,
        file.number,
        file.pages,
        file.bytes,
        file.mapped,
        [process.pid for process in file.processes],
        *(file.states.get(state, 0) for state in states),
    )
    return dict(zip(titles, values, strict=True))


def write_regions(
    path: Path,
    snapshot: Snapshot,
    *,
    chosen: Sequence[int] | None = None,
    force: bool = False,
) -> None:
    """Write the regions of all processes, a row for each, by process and address.

    Columns are the process's pid, those of snapshot.inventory.Region, and the number of present
    pages. `chosen`, indices in Snapshot.processes, limits the table to these processes. Formats
    and errors as for write_files.
    """
    rows = (
        _region_row(process, region, pages)
        for process, regions, present in regions_of_processes(snapshot, chosen)
        for region, pages in zip(regions, present.tolist(), strict=True)
    )
    _write(path, "regions", REGION_TITLES, rows, force=force)


def regions_of_processes(
    snapshot: Snapshot, chosen: Sequence[int] | None = None
) -> Iterator[tuple[Process, tuple[Region, ...], NDArray[np.int64]]]:
    """Each process with its regions, and the number of present pages in each of these."""
    pages = PagesOfProcesses(snapshot)
    for index in range(len(snapshot.processes)) if chosen is None else chosen:
        process = snapshot.processes[index]
        regions = snapshot.regions(process)
        if regions:
            yield process, regions, pages.present(index, regions)


def write_hits(path: Path, snapshot: Snapshot, hits: Hits, *, force: bool = False) -> None:
    """Write the hits of YARA rules that were kept, a row for each, in the order of the scan.

    Columns: the rule and the name of its file, the pattern, physical address, page frame, offset in
    it, length in bytes; pid, name and virtual address of the process in which it was found, or of
    the first process that has the page, and the number of processes that have it; the file behind
    the page with the offset in it; and the first bytes in hexadecimal, up to the page's end.
    Formats and errors as for write_files.
    """
    _write(path, "hits", HIT_TITLES, hit_rows(snapshot, hits), force=force)


class PagesOfProcesses:
    """The pages of all processes by their addresses, sorted once for all regions."""

    def __init__(self, snapshot: Snapshot, *, of_user: bool = False) -> None:
        """With `of_user` only the pages that user mode may reach."""
        rows = snapshot.mappings
        rows = rows.take(rows.is_user) if of_user else rows
        order = np.lexsort((rows.virtual, rows.space))
        self._virtual, self._count = rows.virtual[order], rows.count[order]
        self._edges = np.searchsorted(rows.space[order], np.arange(len(snapshot.processes) + 1))

    def outside(self, index: int, regions: Sequence[Region]) -> int:
        """The number of a process's pages in memory that lie outside of all its regions."""
        count = int(self._count[slice(*self._edges[index : index + 2])].sum())
        return max(count - int(self.present(index, regions).sum()), 0)

    def present(self, index: int, regions: Sequence[Region]) -> NDArray[np.int64]:
        """The number of pages in memory for each region of a process, given by its index."""
        some = slice(*self._edges[index : index + 2])
        virtual, before = self._virtual[some], np.append(0, np.cumsum(self._count[some]))
        edges = np.array([(region.start, region.end) for region in regions], np.uint64)
        place = np.searchsorted(virtual, edges)
        present: NDArray[np.int64] = before[place[:, 1]] - before[place[:, 0]]
        return present


def _region_row(process: Process, region: Region, pages: int) -> _Row:
    values = (
        process.pid,
        hex(region.start),
        hex(region.end),
        region.size,
        region.protection,
        "private" if region.is_private else "shared",
        region.kind,
        region.commit,
        region.name,
        region.file,
        region.offset if region.file else None,
        region.is_deleted,
        pages,
        "; ".join(region.findings),
    )
    return dict(zip(REGION_TITLES, values, strict=True))


def _write(
    path: Path, what: str, titles: Sequence[str], rows: Iterator[_Row], *, force: bool
) -> None:
    check_table(path)
    writers: dict[str, Callable[[IO[bytes], str, Sequence[str], Iterator[_Row]], None]] = {
        ".csv": _write_csv,
        ".parquet": _write_parquet,
        ".json": _write_json,
    }
    write = _write_csv if is_standard_output(path) else writers[path.suffix.lower()]
    with whole_file(path, force=force) as file:
        write(file, what, titles, rows)


def _write_csv(file: IO[bytes], _: str, titles: Sequence[str], rows: Iterator[_Row]) -> None:
    file.write(",".join(titles).encode("ascii") + b"\n")
    while some := [",".join(map(_cell, row.values())) for row in islice(rows, _ROWS_AT_ONCE)]:
        file.write("".join(f"{row}\n" for row in some).encode("utf-8"))


def _cell(value: object) -> str:
    """A value as it stands in CSV."""
    return _CELLS.get(type(value), _other_cell)(value)


def _other_cell(value: object) -> str:
    return text_cell(value) if isinstance(value, str) else str(value)


_CELLS: Mapping[type, Callable[[Any], str]] = {
    str: text_cell,
    int: str,
    bool: lambda value: str(int(value)),
    list: lambda value: " ".join(map(str, value)),
    type(None): lambda _: "",
}
"""A table, since a large file has millions of values."""


def _write_json(file: IO[bytes], what: str, _: Sequence[str], rows: Iterator[_Row]) -> None:
    text = json.dumps({"generator": GENERATOR, what: [*rows]}, indent=2)
    file.write(text.encode("ascii") + b"\n")


def _write_parquet(file: IO[bytes], _: str, titles: Sequence[str], rows: Iterator[_Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.Table.from_pylist([*rows], schema=_schema(titles))
    pyarrow.parquet.write_table(table.replace_schema_metadata({"generator": GENERATOR}), file)


_TEXTS = (
    *("path", "kind", "file_system", "device", "start", "end"),
    *("protection", "sharing", "type", "name", "file", "findings"),
    *("rule", "rules", "pattern", "physical", "process", "virtual", "data"),
)
_UNSIGNED = ("size", "inode", "offset")


def _schema(titles: Sequence[str]) -> Any:
    """The types of columns: numbers, unless known otherwise."""
    import pyarrow as pa

    kinds = dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(_UNSIGNED, pa.uint64())
    kinds |= {"deleted": pa.bool_(), "pids": pa.list_(pa.int64())}
    return pa.schema([(title, kinds.get(title, pa.int64())) for title in titles])
