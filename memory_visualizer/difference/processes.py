"""Processes matched across two dumps, and what changed for each."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.snapshot.process import NAMELESS, Process

_WEIGHTS = {"pid": 2, "created": 2, "object_address": 2, "dtb": 1, "name": 1}
"""The properties that identify a process in both dumps. Any of them may be damaged, and any two of
the others may agree by chance: pids and the memory of objects are reused. Page tables and name
change when a process of Linux executes another program."""
_UNKNOWN = {"pid": -1, "object_address": 0, "dtb": 0, "created": None, "name": NAMELESS}


@dataclass(frozen=True, eq=False)
class ProcessChange:
    """A process in two dumps; at least one of them has it."""

    before: Process | None
    """In the earlier dump."""
    after: Process | None
    """In the later dump."""
    pages_before: int
    """Page frames that it has in user mode, in the earlier dump."""
    pages_after: int

    @property
    def process(self) -> Process:
        """The process in the later dump; or in the earlier dump, if that alone has its object."""
        is_lost = self.after is not None and self.after.name == NAMELESS
        process = self.before if self.before and is_lost else self.after or self.before
        assert process is not None
        return process

    @property
    def grown(self) -> int:
        """By how many pages it grew; negative if it shrank."""
        return self.pages_after - self.pages_before

    @property
    def change(self) -> str:
        """``came``, ``went``, ``came and went``, ``grew``, ``shrank``, or ``same``."""
        lived, lives = _is_alive(self.before), _is_alive(self.after)
        if lived != lives:
            return "came" if lives else "went"
        if self.before is None and not lives:
            return "came and went"
        return "grew" if self.grown > 0 else "shrank" if self.grown < 0 else "same"

    @property
    def old_name(self) -> str | None:
        """Its earlier name, if it has been renamed."""
        if not self.before or not self.after:
            return None
        names = self.before.name, self.after.name
        return None if names[0] == names[1] or NAMELESS in names else names[0]

    @property
    def was_unlinked(self) -> bool:
        """Whether it was taken out of the list of processes and is still alive.

        That is unknown if only its page tables were found in the later dump.
        """
        return bool(
            self.before
            and self.after
            and self.after.object_address
            and self.before.is_listed
            and not self.after.is_listed
            and _is_alive(self.after)
        )

    @property
    def new_anomalies(self) -> tuple[str, ...]:
        """Its anomalies that the earlier dump does not show."""
        known = {_without_address(word) for word in self.before.anomalies} if self.before else set()
        told = self.after.anomalies if self.after else ()
        return tuple(word for word in told if _without_address(word) not in known)


def _is_alive(process: Process | None) -> bool:
    return process is not None and process.is_alive


def _without_address(anomaly: str) -> str:
    return anomaly.split(" 0x")[0]


def matched(before: Sequence[Process], after: Sequence[Process]) -> list[tuple[int, int]]:
    """Pairs of indices of the objects that are of one process; each index once at most.

    Two objects belong together if what agrees weighs more than what differs, and no other object
    fits one of them better.
    """
    weights = {
        pair: _weight(before[pair[0]], after[pair[1]]) for pair in _candidates(before, after)
    }
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for pair in sorted(weights, key=lambda pair: (-weights[pair], pair)):
        if weights[pair] > 0 and pair[0] not in taken[0] and pair[1] not in taken[1]:
            taken[0].add(pair[0])
            taken[1].add(pair[1])
            pairs.append(pair)
    return sorted(pairs)


def _candidates(before: Sequence[Process], after: Sequence[Process]) -> set[tuple[int, int]]:
    """Pairs that agree in two properties, or in page tables: of some, nothing else is known.

    If several objects of a dump are alike, the first is compared with the first, and so on: even a
    dump that was crafted to waste time has no more pairs than objects.
    """
    found: set[tuple[int, int]] = set()
    for names in [*combinations(_WEIGHTS, 2), ("dtb",)]:
        groups: tuple[dict[tuple[object, ...], list[int]], ...] = (
            defaultdict(list),
            defaultdict(list),
        )
        for processes, group in zip((before, after), groups, strict=True):
            for index, process in enumerate(processes):
                values = tuple(getattr(process, name) for name in names)
                if not any(_is_unknown(*told) for told in zip(names, values, strict=True)):
                    group[values].append(index)
        for values, indices in groups[0].items():
            found.update(zip(indices, groups[1].get(values, ()), strict=False))
    return found


def _weight(before: Process, after: Process) -> int:
    """The weight of equal properties less that of different ones; unknown ones do not count."""
    total = 0
    for name, weight in _WEIGHTS.items():
        told = getattr(before, name), getattr(after, name)
        if not any(_is_unknown(name, value) for value in told):
            total += weight if told[0] == told[1] else -weight
    return total


def _is_unknown(name: str, value: object) -> bool:
    return name in _UNKNOWN and value == _UNKNOWN[name]


def matched_by_name(before: Sequence[Process], after: Sequence[Process]) -> list[tuple[int, int]]:
    """Pairs of indices of processes with the same name, for dumps of different machines."""
    groups: tuple[dict[str, list[int]], ...] = (defaultdict(list), defaultdict(list))
    for processes, group in zip((before, after), groups, strict=True):
        for index, process in enumerate(processes):
            group[process.name].append(index)
    return sorted(
        pair
        for name, indices in groups[0].items()
        for pair in zip(indices, groups[1].get(name, ()), strict=False)
    )


def process_changes(
    before: Sequence[Process],
    after: Sequence[Process],
    pages: tuple[NDArray[np.int64], NDArray[np.int64]],
    pairs: Sequence[tuple[int, int]],
) -> tuple[ProcessChange, ...]:
    """All processes of both dumps, in the order of the later dump, gone processes last.

    `pages` come from Snapshot.pages_of_processes, `pairs` from `matched`.
    """
    totals = [some.sum(axis=1).tolist() for some in pages]
    partner = {new: old for old, new in pairs}
    changes = [
        ProcessChange(
            before[partner[new]] if new in partner else None,
            process,
            totals[0][partner[new]] if new in partner else 0,
            totals[1][new],
        )
        for new, process in enumerate(after)
    ]
    gone = set(range(len(before))) - set(partner.values())
    return (
        *changes,
        *(ProcessChange(before[old], None, totals[0][old], 0) for old in sorted(gone)),
    )
