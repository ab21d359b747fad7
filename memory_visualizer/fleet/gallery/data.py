"""The data of the index: the facts of each dump, and which names occur in which dumps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory_visualizer.fleet.datasets import part_of
from memory_visualizer.fleet.outcome import Outcome, folder_of, outcomes_in
from memory_visualizer.printable import printable

MAX_NAMES = 100_000
"""The most names of each kind (processes, files, modules) in the index."""
_ROWS_AT_ONCE = 1 << 14
_UNLINKED = "unlinked"


@dataclass
class Names:
    """Names of one kind, and the dumps in which they occur."""

    names: list[str] = field(default_factory=list)
    """Each name once: names in the fewest dumps first, since rare names are of most interest; names
    in equally many dumps by the alphabet."""
    dumps: list[list[int]] = field(default_factory=list)
    """For each name, the numbers of the dumps, ascending."""
    unlinked: list[list[int]] = field(default_factory=list)
    """For each process name, the dumps in which such a process is unlinked; empty for others."""
    left_out: int = 0
    """The number of names that the index leaves out: those in the most dumps."""


def dumps_in(folder: Path) -> list[dict[str, Any]]:
    """The facts of each dump, by its name, as JSON values. Text is printable."""
    return [_dump(folder, outcome) for outcome in outcomes_in(folder)]


def _dump(folder: Path, outcome: Outcome) -> dict[str, Any]:
    name = outcome.name
    own = folder_of(folder, name).relative_to(folder).as_posix()
    there = {Path(path).name for path in outcome.outputs if path.startswith(f"{own}/")}
    links = {
        "page": f"{name}.html",
        "picture": f"{name}.png",
        "summary": f"{name}.json",
        "thumbnail": "thumbnail.png",
    }
    return {
        "name": printable(name),
        "source": printable(outcome.source),
        "sentence": printable(outcome.sentence or ""),
        "done": outcome.is_done,
        "system": printable(outcome.system or ""),
        "family": outcome.family or "",
        "time": outcome.time or "",
        "bytes": outcome.bytes,
        "size": outcome.size,
        "classes": dict(outcome.classes),
        "processes": outcome.processes,
        "unlinked": outcome.unlinked,
        "leads": dict(outcome.leads),
        "remarks": outcome.remarks,
        "links": {kind: f"{own}/{file}" for kind, file in links.items() if file in there},
    }


def names_in(folder: Path, dumps: Sequence[dict[str, Any]]) -> dict[str, Names]:
    """The names of processes, files and modules in the datasets of these dumps."""
    return {
        "process": _names(_processes(folder, dumps)),
        "file": _names(_texts(folder, dumps, "files", "path")),
        "module": _names(_texts(folder, dumps, "modules", "name")),
    }


def _processes(
    folder: Path, dumps: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, str | None, bool]]:
    for number, name, state in _rows(folder, dumps, "processes", ["name", "state"]):
        if state != "kernel thread":
            yield number, name, state == _UNLINKED


def _texts(
    folder: Path, dumps: Sequence[dict[str, Any]], dataset: str, column: str
) -> Iterator[tuple[int, str | None, bool]]:
    for number, text in _rows(folder, dumps, dataset, [column]):
        yield number, text, False


def _rows(
    folder: Path, dumps: Sequence[dict[str, Any]], dataset: str, columns: list[str]
) -> Iterator[tuple[Any, ...]]:
    """The values of some columns in a dataset, with the number of the dump in front."""
    from pyarrow.parquet import ParquetFile

    for number, dump in enumerate(dumps):
        path = part_of(folder, dataset, dump["name"])
        if not dump["done"] or not path.exists():
            continue
        with ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
                values = (batch.column(column).to_pylist() for column in columns)
                yield from zip([number] * len(batch), *values, strict=True)


def _names(rows: Iterator[tuple[int, str | None, bool]]) -> Names:
    """Gather names; a name that a dump has several times counts once."""
    found: dict[str, tuple[dict[int, None], dict[int, None]]] = {}
    for number, name, is_unlinked in rows:
        if name:
            everywhere, unlinked = found.setdefault(name, ({}, {}))
            everywhere[number] = None
            if is_unlinked:
                unlinked[number] = None
    order = sorted(found, key=lambda name: (not found[name][1], len(found[name][0]), name))
    kept = order[:MAX_NAMES]
    return Names(
        [printable(name) for name in kept],
        [[*found[name][0]] for name in kept],
        [[*found[name][1]] for name in kept],
        len(order) - len(kept),
    )
