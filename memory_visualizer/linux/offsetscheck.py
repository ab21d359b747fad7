"""Offsets that a kernel describes (BTF), checked by the tasks themselves.

A single wrong word of the description would cost the names, pids, parents or links of all tasks. So
most tasks must have fitting values at the described places; otherwise the places count at which
they do have them.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import even_sample
from memory_visualizer.linux.offsets import (
    COMM_SIZE,
    FIRST_COMMS,
    KERNEL_THREAD,
    KERNEL_THREADS_PARENT,
    MAX_PID,
    Offsets,
    is_name,
)
from memory_visualizer.linux.tasklist import leads_back
from memory_visualizer.paging.tablememory import TableMemory

_VOTERS = 128
_FEWEST = 4
"""Fewer tasks prove nothing."""
_NAMED = 3 / 4
"""The share of tasks whose name looks like one. Parts of names look like names, too."""
_THREADS_PARENT = b"kthreadd\0"
"""The name of the task with the pid KERNEL_THREADS_PARENT, in every version."""
_TOGETHER = {
    "comm": ("comm",),
    "tasks": ("tasks",),
    "pid": ("pid", "own_pid"),
    "parent": ("parent", "tracer"),
    "flags": ("flags",),
}
"""Members that are neighbours, by the name of the member that is checked."""


def wrong_members(
    kernel: TableMemory, offsets: Offsets, first: int, tasks: list[int]
) -> tuple[str, ...]:
    """The members that most of these tasks do not have at the described place.

    `first` is the address of the first task of all.
    """
    if len(tasks) < _FEWEST:
        return ()
    some = even_sample(np.array(tasks, np.uint64), _VOTERS)
    own_pid = offsets.pid if offsets.own_pid is None else offsets.own_pid
    (group, own), _ = kernel.members(some, (offsets.pid, own_pid), 4)
    (parents, mm), _ = kernel.members(some, (offsets.parent, offsets.mm))
    are_known = np.isin(parents, np.array([first, *tasks], np.uint64))
    fits = {
        "comm": _are_named(kernel, offsets, first, some, own),
        "tasks": _most(leads_back(kernel, some + np.uint64(offsets.tasks))),
        "pid": _most((group > 0) & (group < MAX_PID) & (group == own)),
        "parent": _most(are_known),
    }
    if offsets.flags is not None:
        flags, _ = kernel.numbers(some + np.uint64(offsets.flags), 4)
        is_thread = flags & np.uint64(KERNEL_THREAD) != 0
        fits["flags"] = _most(is_thread[mm == 0]) and _most(~is_thread[mm != 0])
    return tuple(name for name, is_right in fits.items() if not is_right)


def _most(fit: NDArray[np.bool_]) -> bool:
    return not len(fit) or 2 * int(fit.sum()) > len(fit)


def _are_named(
    kernel: TableMemory,
    offsets: Offsets,
    first: int,
    tasks: NDArray[np.uint64],
    pids: NDArray[np.uint64],
) -> bool:
    """Whether two of three signs say that the name is there."""
    parent = tasks[pids == KERNEL_THREADS_PARENT]
    asked = np.concatenate((np.array([first], np.uint64), parent[:1], tasks))
    texts = [
        text.tobytes() for text in kernel.read_each(asked + np.uint64(offsets.comm), COMM_SIZE)[0]
    ]
    names = texts[1 + len(parent[:1]) :]
    signs = [
        texts[0].startswith(FIRST_COMMS),
        # Without this task nothing can be said.
        not len(parent) or texts[1].startswith(_THREADS_PARENT),
        sum(map(is_name, names)) > _NAMED * len(names),
    ]
    return signs.count(True) > 1


def corrected(
    offsets: Offsets, wrong: tuple[str, ...], by_form: Callable[[], Offsets | None]
) -> Offsets:
    """The offsets, with those of wrong members as the tasks show them."""
    shown = by_form() if wrong else None
    if shown is None:
        return offsets
    names = [name for member in wrong for name in _TOGETHER[member]]
    values = {name: getattr(shown, name) for name in names}
    return replace(offsets, **{name: value for name, value in values.items() if value is not None})
