"""The changes between dumps as a table, written step by step: a step leads to the next dump."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.difference.changes import Change, ChangeBit
from memory_visualizer.difference.difference import Difference
from memory_visualizer.difference.moment import FrameColumns, Moment
from memory_visualizer.export.tables import TABLE_FORMATS, check_table
from memory_visualizer.output import CHANGE_TITLES, GENERATOR, is_standard_output, whole_file
from memory_visualizer.paging import MAY_EXECUTE, MAY_WRITE
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.units import PAGE_SIZE

CHANGE_FORMATS = TABLE_FORMATS

_ROWS_AT_ONCE = 1 << 16
_LINES_AT_ONCE = 1 << 14
"""A line as Python's objects takes half a kilobyte."""
_LEVEL = 2
"""zlib's level for arrays."""

_Columns: TypeAlias = dict[str, NDArray[Any]]


class ChangeTable(Protocol):
    """A table that grows step by step."""

    def add(self, found: Difference) -> None:
        """Add a step, the first of which has the number 1."""

    def close(self) -> None:
        """Write the end of the file."""


@contextmanager
def change_table(path: Path, *, force: bool = False) -> Iterator[ChangeTable]:
    """Write a table of changes, in the format that the file's ending names; CSV for a pipe.

    ``.csv`` and ``.parquet``: a row for each step and each frame that changed, with the columns
    CHANGE_TITLES. `contents` is ``same``, ``changed``, ``filled`` or ``zeroed``, or empty if only
    one dump holds the frame; `protection` is that of user mode if it has the frame. ``.npz``: for
    step N the arrays ``change_N`` (Change) and ``bits_N`` (ChangeBit) of all frames by PFN, with
    ``change_names`` and ``bit_names``. Errors are as for tables.write_table.
    """
    check_table(path)
    kinds: dict[str, Callable[[IO[bytes]], ChangeTable]] = {
        ".csv": _CsvTable,
        ".npz": _ArrayTable,
        ".parquet": _ParquetTable,
    }
    kind = _CsvTable if is_standard_output(path) else kinds[path.suffix.lower()]
    with whole_file(path, force=force) as file:
        table: ChangeTable = kind(file)
        yield table
        table.close()


class _CsvTable:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._step = file, 0
        file.write(",".join(CHANGE_TITLES).encode("ascii") + b"\n")

    def add(self, found: Difference) -> None:
        self._step += 1
        for columns in _pieces(found, self._step, _LINES_AT_ONCE):
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            text = "".join([",".join(map(str, row)) + "\n" for row in rows])
            self._file.write(text.encode("ascii"))

    def close(self) -> None:
        """Nothing is left to be written."""


class _ParquetTable:
    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        kinds = {"step": pa.int32(), "pfn": pa.int64()}
        schema = pa.schema(
            [(title, kinds.get(title, pa.string())) for title in CHANGE_TITLES],
            metadata={"generator": GENERATOR},
        )
        self._schema, self._step = schema, 0
        self._writer = pyarrow.parquet.ParquetWriter(file, schema)

    def add(self, found: Difference) -> None:
        import pyarrow as pa

        self._step += 1
        for columns in _pieces(found, self._step, _ROWS_AT_ONCE):
            arrays = [
                pa.array(column.tolist(), kind)
                for column, kind in zip(columns.values(), self._schema.types, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


class _ArrayTable:
    def __init__(self, file: IO[bytes]) -> None:
        import zipfile  # imported here, since most runs write no such table

        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
        self._step = 0
        # The first is not packed, so that output.is_own finds it.
        self._write(zipfile.ZipInfo("generator.npy"), np.array(GENERATOR))
        self._write("change_names.npy", np.array([change.label for change in Change]))
        self._write("bit_names.npy", np.array([str(bit.name).lower() for bit in ChangeBit]))

    def add(self, found: Difference) -> None:
        self._step += 1
        self._write(f"change_{self._step}.npy", found.codes)
        self._write(f"bits_{self._step}.npy", found.bits)

    def _write(self, entry: Any, column: NDArray[Any]) -> None:
        with self._archive.open(entry, "w", force_zip64=True) as member:
            np.lib.format.write_array(member, column, allow_pickle=False)

    def close(self) -> None:
        self._archive.close()


_CHANGES = np.array([change.label for change in Change], object)
_CLASSES = np.array([page_class.label for page_class in PageClass], object)
_RIGHTS = np.array(["r--", "rw-", "r-x", "rwx", ""], object)
"""By the right to write, and the right to execute; the last is for frames without an owner."""


def _pieces(found: Difference, step: int, at_once: int) -> Iterator[_Columns]:
    """The rows of a step, so many at a time, as columns of CHANGE_TITLES."""
    columns = found.columns
    pids = _pid_texts(found.before), _pid_texts(found.after)
    changed = np.flatnonzero(found.bits)
    for at in range(0, len(changed), at_once):
        rows = changed[at : at + at_once]
        before, after = (each.take(rows) for each in columns)
        values = (
            np.full(len(rows), step),
            rows,
            np.array([hex(frame * PAGE_SIZE) for frame in rows.tolist()], object),
            _CHANGES[found.codes[rows]],
            _contents(found.bits[rows]),
            _CLASSES[before.classes],
            _CLASSES[after.classes],
            pids[0][before.owners],
            pids[1][after.owners],
            _rights(before),
            _rights(after),
        )
        yield dict(zip(CHANGE_TITLES, values, strict=True))


def _contents(bits: NDArray[np.uint8]) -> NDArray[Any]:
    """The change of the contents, in a word."""
    one = bits & (ChangeBit.ONLY_EARLIER | ChangeBit.ONLY_LATER) != 0
    tests = (one, bits & ChangeBit.ZEROED, bits & ChangeBit.FILLED, bits & ChangeBit.CONTENTS)
    words = ("", "zeroed", "filled", "changed")
    told: NDArray[Any] = np.select([test != 0 for test in tests], words, "same")
    return told


def _rights(columns: FrameColumns) -> NDArray[Any]:
    access = columns.access
    number = (access & MAY_WRITE != 0) + 2 * (access & MAY_EXECUTE != 0)
    told: NDArray[Any] = _RIGHTS[np.where(columns.owners | access, number, 4)]
    return told


def _pid_texts(moment: Moment) -> NDArray[Any]:
    """The pids of each set of owners, with spaces between them."""
    pids: Sequence[str] = [str(process.pid) for process in moment.processes]
    sets = range(len(moment.sets))
    texts = [" ".join(pids[index] for index in moment.sets.members(number)) for number in sets]
    return np.array(texts, object)
