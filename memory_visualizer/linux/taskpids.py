"""The pids of Linux tasks and of their parents, each by the majority of its witnesses."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.linux.offsets import MAX_PID, Offsets
from memory_visualizer.linux.tasklist import Roll, TaskSlabs, struct_pids
from memory_visualizer.paging.tablememory import TableMemory

_LOWER = np.uint64(0xFFFF_FFFF)
_SAMPLED = 256
"""How many tasks, evenly spread, tell how a struct pid leads to its task."""


@dataclass
class TaskPids:
    """The pids of tasks, each by the majority of its witnesses.

    The witnesses are tgid and pid in the task, which are equal in first threads, the number in its
    struct pid, and, if its page is lost, the struct pid that leads to it.
    """

    kernel: TableMemory
    offsets: Offsets
    slabs: TaskSlabs | None
    first: int
    roll: Roll
    of_task: dict[int, int] = field(default_factory=dict)
    """Pids known so far, by the task's address."""
    _of_lost: dict[int, int] | None = None

    def read(self, tasks: list[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The pid of each task, -1 if unknown; and whether its witnesses disagree."""
        kernel, offsets = self.kernel, self.offsets
        at = np.array(tasks, np.uint64)
        if offsets.own_pid == offsets.pid - 4:  # neighbours in all versions
            both, known = kernel.numbers(at + np.uint64(offsets.own_pid), 8)
            told = [_plausible(both >> np.uint64(32), known), _plausible(both & _LOWER, known)]
        else:
            told = [_plausible(*kernel.numbers(at + np.uint64(offsets.pid), 4))]
        structs = np.zeros(len(at), np.uint64)
        if offsets.pid_struct is not None and offsets.number is not None:
            structs, _ = kernel.numbers(at + np.uint64(offsets.pid_struct))
            number, known = kernel.numbers(structs + np.uint64(offsets.number), 4)
            told.append(_plausible(number, known & (structs != 0)))
        votes = np.stack(told)
        pids, doubt = votes[0].copy(), np.zeros(len(tasks), bool)
        for row in np.flatnonzero((votes != votes[0]).any(axis=0) | (votes[0] <= 0)).tolist():
            pids[row] = self._chosen(tasks[row], votes[:, row].tolist())
            # A process that has ended has no struct pid any more.
            doubt[row] = votes[0, row] != pids[row] or (votes[:2, row] != pids[row]).any()
        for row in np.flatnonzero(self._are_copies(at, structs)).tolist():
            pid = self._told_by_struct(tasks[row])
            if pid > 0 and pid != pids[row]:
                pids[row], doubt[row] = pid, True
        self.of_task |= dict(zip(tasks, pids.tolist(), strict=True))
        return pids, doubt

    def _are_copies(self, at: NDArray[np.uint64], structs: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which tasks have the struct pid of another task, as copies of that task have.

        `structs` are the struct pids, 0 if unknown. The tasks' own tgid and pid, which are copied,
        too, tell nothing of the task in whose place they lie.
        """
        if self._way is None:
            return np.zeros(len(at), bool)
        link, place = self._way
        led, there = self.kernel.numbers(structs + np.uint64(link))
        is_other = (led != 0) & (led != at + np.uint64(place))
        others: NDArray[np.bool_] = there & (structs != 0) & is_other
        return others

    @cached_property
    def _way(self) -> tuple[int, int] | None:
        sound = [*self._sound.items()]
        some = dict(sound[:: -(-len(sound) // _SAMPLED) or 1])
        return struct_pids(self.kernel, self.offsets, some)[1]

    @property
    def _sound(self) -> dict[int, int]:
        """The listed tasks with plausible pids, as they tell them."""
        told = zip(self.roll.tasks, self._in_order, strict=True)
        return {task: pid for task, pid in told if pid > 0}

    def _chosen(self, task: int, votes: list[int]) -> int:
        """The winning vote: by the majority, or on a tie by the place in the list.

        The struct pid, which lies elsewhere and leads to the task, has an additional vote.
        """
        votes = [vote for vote in (*votes, self._told_by_struct(task)) if vote > 0]
        limit = max(map(votes.count, votes), default=0)
        likely = list(dict.fromkeys(vote for vote in votes[::-1] if votes.count(vote) == limit))
        if len(likely) > 1:
            # Pids ascend in the list until they wrap around.
            low, high = self._around(task)
            between = [vote for vote in likely if low < vote < high]
            likely = between if len(between) == 1 else likely
        return likely[0] if likely else -1

    def _around(self, task: int) -> tuple[int, int]:
        """The pids of the tasks before and behind this one in the list."""
        pids, row = self._in_order, self._row_of.get(task, 0)
        return (pids[row - 1] if row else 0), pids[(row + 1) % len(pids)]

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {task: row for row, task in enumerate(self.roll.tasks)}

    @cached_property
    def _in_order(self) -> list[int]:
        """The pids of the listed tasks as the tasks tell them, -1 if not plausible."""
        at = np.array(self.roll.tasks, np.uint64) + np.uint64(self.offsets.pid)
        pids: list[int] = _plausible(*self.kernel.numbers(at, 4)).tolist()
        return pids

    def _told_by_struct(self, task: int) -> int:
        """The pid by the struct pid that leads to the task; -1 if there is none."""
        if self._of_lost is None:
            self._of_lost = self.slabs.numbers(self.offsets, self._sound) if self.slabs else {}
        return self._of_lost.get(task, -1)

    def of_parents(
        self, tasks: list[int], parents: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The pids of tasks' parents, -1 if unknown; and whether the address is not a task's.

        A parent may be a thread: then its group's leader counts. If real_parent is not a task,
        `parent` replaces it, which differs only for traced tasks.
        """
        known = self.of_task | self._of_overwritten(parents) | {self.first: 0}
        pids = np.full(len(parents), -1, np.int64)
        wrong = np.zeros(len(parents), bool)
        for row, (task, parent) in enumerate(zip(tasks, parents.tolist(), strict=True)):
            if parent in known:
                pids[row] = known[parent]
            elif (leader := self.leader_of(parent)) in known:
                pids[row] = known[leader]
            else:
                wrong[row] = True
                pids[row] = known.get(self._tracer_of(task), -1)
            if pids[row] < 0:
                pids[row] = self._told_by_struct(parent)
                wrong[row] &= pids[row] < 0
        return pids, wrong

    def _of_overwritten(self, parents: NDArray[np.uint64]) -> dict[int, int]:
        """The pids of parents that hold copies of other tasks, by the struct pids that lead there.

        A task of which no struct pid leads back has ended, and has no children any more. A thread
        leads to another task as its leader, but has another pid than its group.
        """
        at = distinct(parents[parents != 0])
        at = at[at != np.uint64(self.first)]
        offsets, kernel = self.offsets, self.kernel
        if offsets.pid_struct is None or offsets.own_pid is None or self._way is None:
            return {}
        link, place = self._way
        structs, _ = kernel.numbers(at + np.uint64(offsets.pid_struct))
        led, _ = kernel.numbers(structs + np.uint64(link))
        group, _ = kernel.numbers(at + np.uint64(offsets.pid), 4)
        own, _ = kernel.numbers(at + np.uint64(offsets.own_pid), 4)
        odd = at[((structs == 0) | (led != at + np.uint64(place))) & (own == group)].tolist()
        told = {task: self._told_by_struct(task) for task in odd}
        return {task: pid for task, pid in told.items() if pid > 0}

    def leader_of(self, task: int) -> int:
        """The address of the first thread in a task's group."""
        leader = self.offsets.leader
        return task if leader is None else self.kernel.number(task + leader) or 0

    def _tracer_of(self, task: int) -> int:
        tracer = self.offsets.tracer
        return task if tracer is None else self.kernel.number(task + tracer) or 0


def _plausible(numbers: NDArray[np.uint64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The plausible pids; -1 for all others."""
    return np.where(known & (numbers < MAX_PID), numbers, np.uint64(2**64 - 1)).view(np.int64)
