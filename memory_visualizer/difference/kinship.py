"""Evidence on whether two dumps are of one machine, without a restart in between.

Only then do page frames, addresses and pids mean the same in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from memory_visualizer.difference.moment import Moment
from memory_visualizer.snapshot.process import Process

_CLOCK_CHANGE = timedelta(minutes=2)
"""How far a clock may be set between two dumps."""


@dataclass(frozen=True)
class Witness:
    """A thing that stays the same while a machine runs."""

    what: str
    """Such as ``start of the system``."""
    before: str
    """As the earlier dump tells it."""
    after: str
    agrees: bool
    weight: int


@dataclass(frozen=True)
class Kinship:
    """The evidence on whether two dumps are of one machine, without a restart in between."""

    witnesses: tuple[Witness, ...]

    @property
    def is_known(self) -> bool:
        """Whether there is any evidence."""
        return bool(self.witnesses)

    @property
    def is_one(self) -> bool:
        """Whether the evidence for one machine outweighs that against it; True without evidence."""
        total = sum(one.weight if one.agrees else -one.weight for one in self.witnesses)
        return total > 0 or not self.witnesses

    @property
    def disagreeing(self) -> tuple[Witness, ...]:
        """The witnesses against."""
        return tuple(one for one in self.witnesses if not one.agrees)


def kinship(before: Moment, after: Moment, pairs: int) -> Kinship:
    """Gather the evidence; `pairs` is the number of processes that both dumps have.

    The processes weigh most, since they are many. The start of the system comes next: on systems
    without randomised addresses, nothing else changes with every start. All other witnesses are the
    same on many machines.
    """
    fewer = min(_with_objects(before), _with_objects(after))
    asked = [
        _alike("system", 2, *(str(one.system) if one.system else None for one in (before, after))),
        _alike("paging", 1, *(one.paging.name if one.paging else None for one in (before, after))),
        _alike("page table of the kernel", 2, _hex(before.kernel_dtb), _hex(after.kernel_dtb)),
        _alike("object of the first process", 2, *_first(before, after)),
        _same_start(before.booted, after.booted),
    ]
    if fewer:
        told = f"{fewer:,}", f"{pairs:,} of them"
        asked.append(Witness("processes", *told, agrees=2 * pairs >= fewer, weight=8))
    return Kinship(tuple(one for one in asked if one))


def _alike(what: str, weight: int, before: str | None, after: str | None) -> Witness | None:
    if before is None or after is None:
        return None
    return Witness(what, before, after, before == after, weight)


def _same_start(before: datetime | None, after: datetime | None) -> Witness | None:
    if before is None or after is None:
        return None
    first, second = (f"{time:%Y-%m-%d %H:%M:%S} UTC" for time in (before, after))
    is_same = abs(after - before) <= _CLOCK_CHANGE
    return Witness("start of the system", first, second, is_same, weight=4)


def _with_objects(moment: Moment) -> int:
    return sum(bool(process.object_address) for process in moment.processes)


def _first(before: Moment, after: Moment) -> tuple[str, str] | tuple[None, None]:
    """The addresses of the objects of the process with the lowest pid, which starts the others.

    The lowest pid that both dumps have: the object of a lower one may be lost in one of them.
    """
    old, new = _objects(before.processes), _objects(after.processes)
    pid = min(old.keys() & new.keys(), default=None)
    return (None, None) if pid is None else (f"{old[pid]:#x}", f"{new[pid]:#x}")


def _objects(processes: Sequence[Process]) -> dict[int, int]:
    """The address of the object of each pid; of a pid that several have, that of the first."""
    known = [one for one in processes if one.object_address and one.pid >= 0]
    return {one.pid: one.object_address for one in reversed(known)}


def _hex(address: int | None) -> str | None:
    return None if address is None else f"{address:#x}"
