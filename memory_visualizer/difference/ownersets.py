"""The owners of each frame, as the number of a set of processes: two bytes for each frame.

Dumps with more than 65,535 sets need four.
"""

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes
from memory_visualizer.snapshot.owners import Owners

NOBODY = 0
"""The number of the empty set."""


@dataclass(frozen=True, eq=False)
class OwnerSets:
    """All sets of processes that own a frame together; frames refer to them by number."""

    start: NDArray[np.int64]
    """By number of the set: where its members begin in `member`; one entry more for the end."""
    member: NDArray[np.int32]
    """Indices in Snapshot.processes, ascending within each set."""

    def __len__(self) -> int:
        return len(self.start) - 1

    def members(self, number: int) -> list[int]:
        """The processes of a set, by their indices."""
        start, end = self.start[number : number + 2].tolist()
        members: list[int] = self.member[start:end].tolist()
        return members

    def sums(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """For each set the sum, modulo 2**64, of its members' values; `values` is by process."""
        before = np.zeros(len(self.member) + 1, np.uint64)
        np.cumsum(values[self.member], out=before[1:])
        return before[self.start[1:]] - before[self.start[:-1]]


def owner_sets(
    pieces: Iterable[tuple[range, Owners]], processes: int, frame_count: int
) -> tuple[NDArray[np.unsignedinteger[Any]], OwnerSets]:
    """The number of each frame's set, by PFN, and the sets; `pieces` come from owners_by_frame.

    Sets are told apart by the sums of random numbers, one for each process (Zobrist, "A New Hashing
    Method", 1970). The numbers are secret, so that no dump can be made to confuse them.
    """
    values = random_values(processes)
    of_frame: NDArray[np.unsignedinteger[Any]] = np.zeros(frame_count, np.uint16)
    start, member = array("q", [0, 0]), array("i")
    known: dict[int, int] = {}
    for _, owners in pieces:
        if not len(owners.frame):
            continue
        firsts = np.flatnonzero(changes(owners.frame))
        sums = np.add.reduceat(values[owners.process], firsts)
        distinct, example, which = np.unique(sums, return_index=True, return_inverse=True)
        edges = np.append(firsts, len(owners.frame))
        numbers = np.zeros(len(distinct), np.uint32)
        for row in np.argsort(example).tolist():  # in the order of their first frames
            number = known.setdefault(int(distinct[row]), len(known) + 1)
            numbers[row] = number
            if number == len(start) - 1:
                first = int(example[row])
                member.extend(owners.process[edges[first] : edges[first + 1]].tolist())
                start.append(len(member))
        if len(start) - 2 > np.iinfo(of_frame.dtype).max:
            of_frame = of_frame.astype(np.uint32)
        of_frame[owners.frame[firsts]] = numbers[which]
    return of_frame, OwnerSets(np.array(start, np.int64), np.array(member, np.int32))


def random_values(count: int) -> NDArray[np.uint64]:
    """So many numbers that nobody can foresee."""
    return np.frombuffer(os.urandom(8 * count), np.uint64).copy()
