"""Regions of processes: memviz's, and the lines of /proc/PID/maps that the guest read of itself.

fs/proc/task_mmu.c writes these lines: addresses, rights, offset, device, inode, and a name in which
line ends are octal numbers.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_LINE = re.compile(
    r"(?P<pid>\d+) (?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<rights>[r-][w-][x-][ps])"
    r" (?P<offset>[0-9a-f]+) [0-9a-f]+:[0-9a-f]+ (?P<inode>\d+) *(?P<name>.*)"
)
_DELETED = " (deleted)"
_LINE_END = r"\012"


class Region(NamedTuple):
    """A region, as a line of /proc/PID/maps tells it."""

    rights: str
    """Such as ``r-xp``; the last letter tells private (p) or shared (s)."""
    offset: int
    """Bytes into the file; 0 without one."""
    name: str
    """The path, or a name in brackets; empty for most regions without a file."""


Regions = dict[tuple[int, int, int], Region]
"""By pid, first address, and the address behind the last byte."""


def lines_of_records(records: Mapping[str, bytes]) -> str:
    """All processes' lines, each with its pid in front, from the records maps/PID."""
    lines = []
    for record, text in records.items():
        if match := re.fullmatch(r"maps/(\d+)", record):
            lines += [f"{match[1]} {line}\n" for line in text.decode().splitlines()]
    return "".join(lines)


def read_lines(text: str) -> Regions:
    """The regions by such lines; ValueError for one that is of another form."""
    regions = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of /proc/PID/maps: {line}")
        place = int(match["pid"]), int(match["start"], 16), int(match["end"], 16)
        name = match["name"].replace(_LINE_END, "\n")
        regions[place] = Region(match["rights"], int(match["offset"], 16), name)
    return regions


def told_regions(rows: Iterable[Mapping[str, Any]]) -> Regions:
    """The regions in the rows that `memviz --regions` writes as JSON."""
    regions = {}
    for row in rows:
        place = int(row["pid"]), int(row["start"], 16), int(row["end"], 16)
        path = row["file"] + (_DELETED if row["deleted"] else "")
        name = row["name"] or path
        regions[place] = Region(row["protection"] + row["sharing"][0], row["offset"] or 0, name)
    return regions


def differences(known: Regions, told: Regions) -> Iterator[tuple[str, str]]:
    """Kind and description of each region that memviz does not tell as the kernel does."""
    for place, region in known.items():
        if place not in told:
            yield "missing", f"{_where(place)} {region}"
        else:
            for field, right, said in zip(Region._fields, region, told[place], strict=True):
                if said != right:
                    yield field, f"{_where(place)} {said!r} instead of {right!r}"
    for place in told.keys() - known.keys():
        yield "extra", f"{_where(place)} {told[place]}"


def _where(place: tuple[int, int, int]) -> str:
    pid, start, end = place
    return f"{pid}: {start:#x}-{end:#x}"
