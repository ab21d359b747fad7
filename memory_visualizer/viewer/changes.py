"""The page of a comparison: one HTML file that shows the changes from dump to dump.

    page = ChangePage(moments, folds)
    for step in compare_series(moments):
        page.add(step)
    write_change_page(Path("changes.html"), page)

It is made step by step, so that no more than two dumps of a series are unpacked at a time. Columns
of a dump are kept as differences from the dump before (exclusive or), which are mostly zeros and
pack well.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.difference.changes import CHANGE_OF, Change, ChangeBit
from memory_visualizer.difference.difference import Difference
from memory_visualizer.difference.moment import FrameColumns, Moment
from memory_visualizer.difference.ownersets import OwnerSets, random_values
from memory_visualizer.difference.processes import ProcessChange
from memory_visualizer.output import whole_file
from memory_visualizer.picture.changes import CHANGE_PALETTES, DARK_CHANGES
from memory_visualizer.picture.palette import DARK, FOLD, PALETTES, Colour, Palette, hex_colour
from memory_visualizer.printable import binary_size, counted, printable
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.process import NAMELESS, Process
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.viewer.data import Column, pack
from memory_visualizer.viewer.htmlfile import MAP_SCRIPTS, file_of

_SCRIPTS = (
    *MAP_SCRIPTS,
    "goto",
    "link",
    "series",
    "history",
    "timeline",
    "changes",
)
"""The page's own scripts; together they form one function, so that no name leaks."""

MAX_CELLS = 1 << 25
"""The most frames of all dumps together (128 dumps of 1 GiB, or 16 of 8 GiB): a browser needs six
bytes for each, 200 MB in all."""
MAX_ROWS = 100_000
"""The most rows of all lists together."""


class ChangePage:
    """The page of a series of dumps, to which each step is added in turn."""

    def __init__(
        self,
        moments: Sequence[Moment],
        folds: Sequence[tuple[int, int]] = (),
        remarks: Sequence[str] = (),
        *,
        layout: str = "rows",
        palette: str = "default",
    ) -> None:
        """`moments` are all dumps in their order; `folds` are long holes that all of them have.

        `remarks` are sentences for the user. The other arguments choose the first view.
        """
        self._frames = max(one.dump.frame_count for one in moments)
        most = max(2, MAX_CELLS // max(self._frames, 1))
        self._moments, self._folds = moments[:most], folds
        self._remarks = [*remarks]
        if len(moments) > most:
            self._remarks.append(
                f"this page has the first {counted(most, 'dump')} of {len(moments):,}: all together"
                f" have more page frames than a browser can hold ({MAX_CELLS:,})"
            )
        self._start = {"layout": layout, "palette": palette}
        self._steps: list[dict[str, Any]] = []
        self._columns: dict[str, Column] = {}
        self._owners = _Owners()
        self._before: tuple[NDArray[np.uint8], NDArray[np.uint32]] | None = None
        self._rows_left, self._rows_left_out = MAX_ROWS, 0

    def add(self, found: Difference) -> None:
        """Add the step from a dump to the next; steps beyond the page's limit change nothing."""
        number = len(self._steps)
        if number + 1 >= len(self._moments):
            return
        if self._before is None:
            indices = self._owners.newcomers(found.before.processes)
            self._add_dump(0, found.columns[0], self._owners.numbers(found.before.sets, indices))
            self._owners.now = indices
        pairs = _pairs(found) if found.is_one_machine else {}
        indices = self._owners.followers(found.after.processes, pairs)
        sets = self._owners.numbers(found.after.sets, indices)
        self._add_dump(number + 1, found.columns[1], sets)
        bits = np.zeros(self._frames, np.uint8)
        bits[: len(found.bits)] = found.bits
        self._columns[f"bits_{number + 1}"] = pack(bits)
        self._steps.append(self._told(found, indices))
        self._owners.now = indices

    def _add_dump(self, number: int, columns: FrameColumns, sets: NDArray[np.uint32]) -> None:
        """Pack the columns of a dump; `sets` has the page's number for each set of owners."""
        grown = columns.grown(self._frames)
        page = grown.facts
        owners = sets[grown.owners]
        before = self._before or (np.uint8(0), np.uint32(0))
        self._columns[f"page_{number}"] = pack(page ^ before[0])
        self._columns[f"owners_{number}"] = pack(owners ^ before[1])
        self._before = page, owners

    def _told(self, found: Difference, indices: NDArray[np.int64]) -> dict[str, Any]:
        """The rows of the lists for a step."""
        disagreeing = [
            f"{one.what}: {one.before}, {one.after}" for one in found.kinship.disagreeing
        ]
        place = {id(process): row for row, process in enumerate(found.after.processes)}
        gone = {id(process): row for row, process in enumerate(found.before.processes)}
        rows = [
            self._process(
                one,
                int(indices[place[id(one.after)]])
                if one.after
                else int(self._owners.now[gone[id(one.before)]]),
            )
            for one in found.processes
            if one.change != "same" or _other_words(one)
        ]
        files = sorted(found.files or (), key=lambda one: -abs(one.pages_after - one.pages_before))
        return {
            "one": found.is_one_machine,
            "why": printable("; ".join(disagreeing)) if not found.is_one_machine else "",
            "remarks": [printable(remark) for remark in found.remarks],
            "processes": self._taken(rows),
            "leads": self._taken(
                [[lead.kind, printable(lead.reason), lead.pages] for lead in found.leads]
            ),
            "files": self._taken(
                [[printable(one.path), one.pages_before, one.pages_after] for one in files]
            ),
            "knowsFiles": found.files is not None,
        }

    def _process(self, one: ProcessChange, owner: int) -> list[Any]:
        words = _other_words(one)
        change = one.change if one.change != "same" else words.pop(0)
        more = [f"was {printable(one.old_name)}"] if one.old_name else []
        more += [word for word in words if word not in ("renamed", "odd")]
        more += [printable(word) for word in one.new_anomalies]
        return [owner, change, one.pages_before, one.pages_after, "; ".join(more)]

    def _taken(self, rows: list[list[Any]]) -> list[list[Any]]:
        """The rows for which there is room; the others are counted."""
        taken = rows[: self._rows_left]
        self._rows_left -= len(taken)
        self._rows_left_out += len(rows) - len(taken)
        return taken

    def text(self) -> str:
        """The page, once all steps are added."""
        names = [printable(one.name) for one in self._moments]
        title = " > ".join(names if len(names) < 3 else [names[0], "…", names[-1]])
        remarks = [*map(printable, self._remarks)]
        if self._rows_left_out:
            remarks.append(
                f"{counted(self._rows_left_out, 'row')} of lists left out: this page has"
                f" {MAX_ROWS:,}"
            )
        about = {
            "dump": {"name": title, "frames": self._frames},
            "classes": [page_class.label for page_class in PageClass],
            "changes": [change.label for change in Change],
            "changeOf": CHANGE_OF.tolist(),
            "bits": {str(bit.name): int(bit) for bit in ChangeBit},
            "palettes": list(PALETTES),
            "schemes": {
                "light": _schemes(PALETTES, CHANGE_PALETTES),
                "dark": _schemes(DARK, DARK_CHANGES),
            },
            "start": self._start,
            "folds": list(self._folds),
            "fold": hex_colour(FOLD),
            "dumps": [_dump(one) for one in self._moments],
            "steps": self._steps,
            "owners": self._owners.told(),
            "processes": [],
            "remarks": remarks,
        }
        columns = {**self._columns, **self._owners.columns()}
        return file_of(
            "changes.html",
            scripts=_SCRIPTS,
            styles=("style.css", "changes.css"),
            about=about,
            columns=columns,
            parts={
                "title": html.escape(title),
                "facts": html.escape(self._facts()),
                "end": hex(self._frames * PAGE_SIZE),
            },
        )

    def _facts(self) -> str:
        first = self._moments[0]
        system = printable(str(first.system)) if first.system else "no system found"
        size = binary_size(max(one.dump.size for one in self._moments))
        return f"{counted(len(self._moments), 'dump')} · {size} · {system}"


def write_change_page(path: Path, page: ChangePage, *, force: bool = False) -> None:
    """Write the page. The file appears whole or not at all; errors as for viewer.write_page."""
    text = page.text()
    with whole_file(path, force=force) as file:
        file.write(text.encode("utf-8"))


class _Owners:
    """The processes of all dumps, and their sets, each with one number in the whole page."""

    def __init__(self) -> None:
        self._processes: list[Process] = []
        self._values = np.empty(0, np.uint64)
        self._known: dict[int, int] = {0: 0}
        self._sizes: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._members: list[NDArray[np.int64]] = []
        self.now = np.empty(0, np.int64)
        """The number of each process of the dump that was added last."""

    def newcomers(self, processes: Sequence[Process]) -> NDArray[np.int64]:
        """Numbers for processes that are new in a dump."""
        first = len(self._processes)
        self._processes += processes
        self._values = np.append(self._values, random_values(len(processes)))
        return np.arange(first, len(self._processes))

    def followers(self, processes: Sequence[Process], pairs: dict[int, int]) -> NDArray[np.int64]:
        """Numbers for processes; `pairs` leads from some to their index in the dump before."""
        numbers = np.full(len(processes), -1, np.int64)
        for new, old in pairs.items():
            numbers[new] = number = int(self.now[old])
            if processes[new].name != NAMELESS:
                self._processes[number] = processes[new]  # it may have another name
        unknown = np.flatnonzero(numbers < 0)
        numbers[unknown] = self.newcomers([processes[row] for row in unknown.tolist()])
        return numbers

    def numbers(self, sets: OwnerSets, indices: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The number of each set of a dump; `indices` are the numbers of its processes.

        Sets are told apart by the sums of random numbers: see ownersets.owner_sets.
        """
        sums = sets.sums(self._values[indices]).tolist()
        before = len(self._known)
        found = [self._known.setdefault(one, len(self._known)) for one in sums]
        numbers = np.array(found, np.uint32)
        fresh = np.flatnonzero(numbers >= before)
        fresh = fresh[np.unique(numbers[fresh], return_index=True)[1]]
        sizes = sets.start[fresh + 1] - sets.start[fresh]
        rows = np.repeat(sets.start[fresh] - np.cumsum(sizes) + sizes, sizes)
        self._sizes.append(sizes)
        self._members.append(indices[sets.member[rows + np.arange(len(rows))]])
        return numbers

    def told(self) -> list[list[Any]]:
        """Name and pid of each process; a renamed process has its last name."""
        return [[printable(process.shown_name), process.pid] for process in self._processes]

    def columns(self) -> dict[str, Column]:
        """``set_size`` by number of the set, and ``members``, the processes of all sets."""
        return {
            "set_size": pack(np.concatenate(self._sizes)),
            "members": pack(np.concatenate([np.empty(0, np.int64), *self._members])),
        }


def _other_words(one: ProcessChange) -> list[str]:
    """What happened to a process beside its change, in the words of the page's list."""
    words = {
        "renamed": one.old_name is not None,
        "unlinked": one.was_unlinked,
        "odd": bool(one.new_anomalies),
    }
    return [word for word, happened in words.items() if happened]


def _pairs(found: Difference) -> dict[int, int]:
    """For each process that both dumps have, the index in the earlier dump by that in the later."""
    old = {id(process): row for row, process in enumerate(found.before.processes)}
    new = {id(process): row for row, process in enumerate(found.after.processes)}
    return {
        new[id(one.after)]: old[id(one.before)]
        for one in found.processes
        if one.before is not None and one.after is not None
    }


def _dump(moment: Moment) -> dict[str, Any]:
    return {
        "name": printable(moment.name),
        "format": printable(moment.dump.format),
        "size": binary_size(moment.dump.size),
        "time": f"{moment.time:%Y-%m-%d %H:%M:%S}" if moment.time else "",
        "remarks": [printable(remark) for remark in moment.remarks],
    }


def _schemes(
    palettes: Mapping[str, Palette], changes: Mapping[str, Mapping[Change, Colour]]
) -> dict[str, dict[str, list[str]]]:
    """The colours of classes and of changes, by palette."""
    return {
        name: {
            "class": [hex_colour(palette[one]) for one in PageClass],
            "change": [hex_colour(changes[name][one]) for one in Change],
        }
        for name, palette in palettes.items()
    }
