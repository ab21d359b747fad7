"""Compare memviz's output with the guest's own records.

memviz is run as a user runs it, and its table and JSON are compared. A frame's expected class is
`user` if a process's pagemap has it, `both` if that page is also the kernel's own (its image, rings
that a process maps), unused if it is free or cached and not mapped, and otherwise `kernel`. Frames
that changed while the guest read itself, frames that are not RAM, the zero page and unmapped huge
pages of the pool are not scored.
"""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.guests.maps import Regions, differences, read_lines, told_regions
from tests.guests.truth import NAMES, Says

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Marks: TypeAlias = NDArray[np.bool_]

_MEMVIZ_PAGE = 4096
_MIXED = "mixed"
_UNSCORED = (Says.NOT_RAM, Says.NO_STRUCT_PAGE, Says.ZERO_PAGE, Says.HUGE_POOL)
_UNSCORED_CLASS = Says.ANONYMOUS_UNMAPPED
"""Both classes are right for pages on their way to or from swap."""
_FREE = (Says.FREE, Says.FREE_ON_PROCESSOR, Says.SHARED_MEMORY, Says.FILE_CACHE)
_OWN_AND_MAPPED = (Says.IMAGE_MAPPED, Says.OTHER_MAPPED)
_ENDED = ("Z", "X")
_WORKER = re.compile(r"kworker/[^-+]+")
_FEW = 6
"""How many examples of each fault are shown."""


@dataclass(frozen=True)
class Answer:
    """The output of memviz for a dump."""

    table: Arrays
    summary: Mapping[str, Any]
    regions: Regions = field(default_factory=dict)


@dataclass
class Comparison:
    """The agreement of memviz's output with the truth."""

    frames: int
    """The number of scored frames."""
    agree: int
    owners: int
    """Pairs of a process and a frame in the truth."""
    owners_missing: int
    owners_extra: int
    """Pairs that only memviz has: mostly memory that /proc/PID/pagemap does not show, such as rings
    and /dev/mem.
    """
    processes: int
    sound: int
    """Processes found exactly once, with the right pid, parent and name."""
    regions: int = 0
    """The number of lines in all processes' /proc/PID/maps; 0 if the guest did not read them."""
    regions_right: int = 0
    """Lines whose region memviz tells with the same addresses, rights, offset and name."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """The disagreements, with examples."""

    @property
    def per_cent(self) -> float:
        """The percentage of scored frames that agree."""
        return 100 * self.agree / max(self.frames, 1)


def ask_memviz(dump: Path, folder: Path) -> Answer:
    """Run memviz on a dump; its outputs go into `folder`. CalledProcessError if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    table, summary = folder / "table.npz", folder / "summary.json"
    regions = folder / "regions.json"
    command = [sys.executable, "-m", "memory_visualizer", str(dump), "--force", "--quiet"]
    command += ["-o", str(folder / "picture.png"), "--table", str(table), "--json", str(summary)]
    command += ["--regions", str(regions)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    with np.load(table) as arrays:
        return Answer(
            dict(arrays),
            json.loads(summary.read_text()),
            told_regions(json.loads(regions.read_text())["regions"]),
        )


def compare(truth: Arrays, answer: Answer, regions: Regions | None = None) -> Comparison:
    """Compare memviz's output with the truth; `regions` are the guest's own /proc/PID/maps."""
    own = int(answer.summary.get("page_size", _MEMVIZ_PAGE))
    wider = int(truth["page_size"]) // own
    table = of_pages(answer.table, wider)
    faults: dict[str, list[str]] = {}
    frames, agree = _compare_frames(truth, table, faults)
    owners, missing, extra = _compare_owners(truth, table, faults)
    sound = _compare_processes(truth, answer.summary["processes"], faults)
    processes = len(truth["pids"])
    lines, right = _compare_regions(regions or {}, answer.regions, faults)
    return Comparison(frames, agree, owners, missing, extra, processes, sound, lines, right, faults)


def of_pages(table: Arrays, wider: int) -> Arrays:
    """The table by pages of `wider` frames each.

    A page with frames of several classes is ``mixed``; if unused frames differ in holding data, the
    page holds data. The owners are those of the page's first frame.
    """
    if wider == 1:
        return table
    pages, page = np.unique(table["pfn"] // wider, return_inverse=True)
    names = [*table["class_names"].tolist(), _MIXED]
    zeros, data = names.index("unused-zero"), names.index("unused-data")
    classes = np.where(table["class"] == zeros, data, table["class"])
    lowest, highest = np.full(len(pages), len(names)), np.full(len(pages), -1)
    np.minimum.at(lowest, page, classes)
    np.maximum.at(highest, page, classes)
    merged = np.where(lowest == highest, lowest, names.index(_MIXED))
    merged[np.bincount(page, table["class"] != zeros) == 0] = zeros
    keep = table["owner_pfn"] % wider == 0
    return {
        "pfn": pages,
        "class": merged,
        "class_names": np.array(names),
        "owner_pfn": table["owner_pfn"][keep] // wider,
        "owner_pid": table["owner_pid"][keep],
        "owner_virtual": table["owner_virtual"][keep],
    }


def expected_classes(truth: Arrays) -> NDArray[np.str_]:
    """The name of the class that each frame should have."""
    says = truth["kernel_says"]
    classes = np.full(len(says), "kernel", "<U11")
    free = np.isin(says, _FREE)
    classes[free] = np.where(truth["zero"][free], "unused-zero", "unused-data")
    classes[truth["user_mapped"]] = "user"
    classes[np.isin(says, _OWN_AND_MAPPED)] = "both"
    return classes


def _by_frame(truth: Arrays, table: Arrays, column: str) -> NDArray[np.str_]:
    """The names that a column of memviz's table has for each frame of the truth."""
    count, first = len(truth["kernel_says"]), int(truth["first_frame"])
    names = np.array([str(name) for name in table[f"{column}_names"]])
    told = np.full(count, "not there", "<U32")
    frames = table["pfn"] - first
    inside = (frames >= 0) & (frames < count)
    told[frames[inside]] = names[table[column][inside]]
    return told


def _compare_frames(truth: Arrays, table: Arrays, faults: dict[str, list[str]]) -> tuple[int, int]:
    """The number of scored frames, and of frames that agree."""
    says, expected = truth["kernel_says"], expected_classes(truth)
    told = _by_frame(truth, table, "class")
    scored = ~truth["changed"] & ~np.isin(says, _UNSCORED)
    wrong = scored & (told != expected) & (says != _UNSCORED_CLASS)
    kinds: dict[str, list[int]] = {}
    for frame in np.flatnonzero(wrong).tolist():
        kind = f"{NAMES[Says(int(says[frame]))]}: {told[frame]} instead of {expected[frame]}"
        kinds.setdefault(kind, []).append(frame + int(truth["first_frame"]))
    for kind, frames in sorted(kinds.items(), key=lambda item: -len(item[1])):
        examples = ", ".join(f"{frame:#x}" for frame in frames[:_FEW])
        faults.setdefault("class", []).append(f"{len(frames)} frames, {kind}: {examples}")
    return int(np.count_nonzero(scored)), int(np.count_nonzero(scored & ~wrong))


_OWNER = np.dtype([("pid", "<i8"), ("pfn", "<i8"), ("virtual", "<u8")])


def first_addresses(pid: Any, pfn: Any, virtual: Any) -> NDArray[np.void]:
    """Rows of pid, frame and lowest virtual address, in order: each pid and frame once."""
    rows = np.empty(len(pid), _OWNER)
    rows["pid"], rows["pfn"], rows["virtual"] = pid, pfn, virtual
    rows.sort(order=("pid", "pfn", "virtual"))
    again: Marks = (rows["pid"][1:] == rows["pid"][:-1]) & (rows["pfn"][1:] == rows["pfn"][:-1])
    first: NDArray[np.void] = rows[np.concatenate([[True], ~again])[: len(rows)]]
    return first


def _compare_owners(
    truth: Arrays, table: Arrays, faults: dict[str, list[str]]
) -> tuple[int, int, int]:
    """The number of owners, of owners that memviz misses, and of owners that only memviz has."""
    present = truth["owner_pfn"] > 0
    columns = ("owner_pid", "owner_pfn", "owner_virtual")
    known = first_addresses(*(truth[name][present] for name in columns))
    told = first_addresses(*(table[name] for name in columns))
    missing, extra = known[~np.isin(known, told)], told[~np.isin(told, known)]
    for what, rows in (("owner missing", missing), ("owner extra", extra)):
        for pid, count in Counter(rows["pid"].tolist()).most_common(_FEW):
            at = rows[rows["pid"] == pid][0]
            example = f"{at['virtual']:#x} in frame {at['pfn']:#x}"
            faults.setdefault(what, []).append(f"{count} of pid {pid}: {example}")
    return len(known), len(missing), len(extra)


def _compare_processes(
    truth: Arrays, processes: list[Mapping[str, Any]], faults: dict[str, list[str]]
) -> int:
    """The number of processes that memviz lists exactly once, with the right parent and name."""
    told: dict[int, list[Mapping[str, Any]]] = {}
    for process in processes:
        told.setdefault(process["pid"], []).append(process)
    sound = 0
    for known in _known_processes(truth):
        wrong = list(_faults_of(told.pop(known.pid, []), known))
        sound += not wrong
        for kind, words in wrong:
            faults.setdefault(f"process {kind}", []).append(f"{known.pid}: {words}")
    for pid, extra in told.items():
        faults.setdefault("process extra", []).append(f"{pid}: {extra[0]['name']!r}")
    return sound


@dataclass(frozen=True)
class _Known:
    """A process in the truth."""

    pid: int
    parent: int
    names: tuple[str, str]
    """Names before and after the stop."""
    has_ended: bool
    """Whether the whole process has ended, not only its first thread."""

    def is_called(self, name: str) -> bool:
        """Whether the process may have had this name at the moment of the dump.

        A worker of the kernel changes the end of its name with its work.
        """
        before, after = self.names
        worker = _WORKER.match(before) if before != after else None
        return name in self.names or bool(worker and name.startswith(worker[0]))


def _known_processes(truth: Arrays) -> Iterator[_Known]:
    threads = truth["threads"] if "threads" in truth else np.ones(len(truth["pids"]), np.int64)
    ended = np.isin(truth["state"], _ENDED) & (threads <= 1)
    after = truth["comm_after"] if "comm_after" in truth else truth["comm"]
    columns = (truth["pids"], truth["ppid"], truth["comm"], after, ended)
    for pid, parent, name, later, over in zip(*(each.tolist() for each in columns), strict=True):
        yield _Known(pid, parent, (name, later), over)


def _faults_of(found: list[Mapping[str, Any]], known: _Known) -> Iterator[tuple[str, str]]:
    """The faults of one process: kind, and description."""
    if len(found) != 1:
        yield ("more than once" if found else "missing"), repr(known.names[0])
        return
    [process] = found
    for kind, told, right in (
        ("parent", process["ppid"], known.parent),
        ("end", process["exited"], known.has_ended),
        ("listed", process["listed"], True),
    ):
        if told != right:
            yield kind, f"{told!r} instead of {right!r}"
    if not known.is_called(process["name"]):
        yield "name", f"{process['name']!r} instead of {known.names[0]!r}"


def _compare_regions(
    known: Regions, told: Regions, faults: dict[str, list[str]]
) -> tuple[int, int]:
    """The number of regions, and of regions that memviz tells as the kernel does."""
    if not known:
        return 0, 0
    for kind, words in differences(known, told):
        faults.setdefault(f"region {kind}", []).append(words)
    return len(known), sum(told.get(place) == region for place, region in known.items())


@dataclass(frozen=True)
class Result:
    """A comparison and its subject, kept beside the guest."""

    form: str
    system: str
    seconds: float
    remarks: list[str]
    comparison: Comparison

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read the JSON of `write`."""
        fields = json.loads(path.read_text())
        return cls(**{**fields, "comparison": Comparison(**fields["comparison"])})


def compare_dump(truth: Path, maps: Path, dump: Path, folder: Path) -> Result:
    """Run memviz on a dump and compare; its outputs are kept in `folder`.

    `maps` has the lines of /proc/PID/maps; an older guest has no such file.
    """
    start = time.monotonic()
    answer = ask_memviz(dump, folder)
    seconds = time.monotonic() - start
    with np.load(truth) as arrays:
        regions = read_lines(maps.read_text()) if maps.exists() else None
        comparison = compare(dict(arrays), answer, regions)
    system = str(answer.summary["os"])
    return Result(dump.suffix[1:], system, seconds, list(answer.summary["remarks"]), comparison)


def report(result: Result) -> Iterator[str]:
    """The comparison in lines."""
    told = result.comparison
    yield (
        f"{result.form}: {told.per_cent:.3f} % of {told.frames:,} frames; owners: {told.owners:,},"
        f" {told.owners_missing} missing, {told.owners_extra} extra;"
        f" processes: {told.sound} of {told.processes};"
        f" regions: {told.regions_right:,} of {told.regions:,}; {result.seconds:.1f} s"
    )
    for remark in result.remarks:
        yield f"  remark: {remark}"
    for kind, examples in told.faults.items():
        for example in examples[:_FEW]:
            yield f"  {kind}: {example}"
        if len(examples) > _FEW:
            yield f"  {kind}: {len(examples) - _FEW} more"


def markdown(results: Mapping[str, list[Result]]) -> Iterator[str]:
    """A row for each guest and format, for docs/guests.md."""
    yield "| guest | system | format | frames | agree | owners | missing | extra | processes |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, rows in results.items():
        for result in rows:
            told = result.comparison
            yield (
                f"| {name} | {result.system} | {result.form} | {told.frames:,} |"
                f" {told.per_cent:.3f} % | {told.owners:,} | {told.owners_missing} |"
                f" {told.owners_extra} | {told.sound} of {told.processes} |"
            )
