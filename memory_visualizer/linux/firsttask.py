"""The task with which a search begins: the first task, or another task if the first is lost.

The first task, `init_task`, lies in the kernel's image, and a symbol names it. All other tasks lie
in the direct map, the kernel's view of all memory. Some of them exist in every kernel, under the
same names.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Words
from memory_visualizer.limits import Budget
from memory_visualizer.linux.groupleaders import each_kind, leaders
from memory_visualizer.linux.kallsyms import places_of
from memory_visualizer.linux.kernel import LinuxKernel
from memory_visualizer.linux.offsets import (
    COMM_SIZE,
    FIRST_COMMS,
    MAX_PID,
    Offsets,
)
from memory_visualizer.linux.offsetsbyform import offsets_by_leaders, offsets_by_thread
from memory_visualizer.units import PAGE_SIZE

_THREADS = (
    b"kthreadd",
    b"ksoftirqd/0",
    b"migration/0",
    b"kdevtmpfs",
    b"kswapd0",
    b"oom_reaper",
    b"rcu_sched",
    b"rcu_preempt",
    b"kworker/0:0",
    b"kworker/0:1",
    b"kauditd",
    b"kcompactd0",
)
"""Kernel threads of nearly every kernel: the parent of all, and some of its children."""
_THING = "possible name of a task"
_COSTLY_TRIES = 2
"""How many threads the costly search tries. A false thread shows no offsets, and the most reliable
name comes first."""
_TASK_SIZE = 1 << 13
"""The largest offset of the name in a task."""
_OWN_ADDRESSES, _ALIGNED = 3, 16
"""How often the first task holds its own address, and the alignment of tasks."""
_GIB = 1 << 30
_FIRST_ENTRIES = 8
"""How many entries of the top-level table are searched for the direct map. It loses nothing, since
the direct map is the first mapping in the kernel's half."""
_SOME_FRAMES = 64


def find_first_task(found: LinuxKernel) -> int | None:
    """The address of the first task; None if nothing tells it."""
    if (known := found.symbols.get("init_task")) is not None:
        return known or None
    return _first_by_name(found)


def with_first_task(found: LinuxKernel) -> LinuxKernel:
    """The kernel with the first task among its symbols: so its image is searched only once."""
    if found.symbols.get("init_task"):
        return found
    # Another object, so that the image is kept no longer than it is needed here.
    first = _first_by_name(replace(found)) or 0
    return replace(found, symbols={**found.symbols, "init_task": first})


def _first_by_name(found: LinuxKernel) -> int | None:
    """The first task by its name, in the kernel's image."""
    if found.image is None:
        return None
    comm = found.btf.offset("task_struct", "comm") if found.btf else None
    tasks = found.btf.offset("task_struct", "tasks") if found.btf else None
    if comm is None or tasks is None:
        return first_by_form(*found.image, found.memory.budget, found.kernel.word)
    start, contents = found.image
    for name in FIRST_COMMS:
        for place in places_of(name, contents, found.memory.budget, _THING):
            task = start + place - comm
            following = found.kernel.number(task + tasks)
            if following and found.kernel.number(following + found.kernel.word) == task + tasks:
                return task
    return None


def first_by_form(
    start: int, contents: NDArray[np.uint8], budget: Budget, word: int = 8
) -> int | None:
    """The address of the first task in an image, given with its first address; None if missing.

    The first task is its own parent, twice, and the leader of its group, so its own address stands
    in it three times, before its name (include/linux/init_task.h).
    """
    times: dict[int, int] = {}
    for name in FIRST_COMMS:
        for place in places_of(name, contents, budget, _THING):
            if (start + place) % word:
                continue
            low = max(place - _TASK_SIZE, place % word)
            words = contents[low:place].view(f"<u{word}").astype(np.uint64, copy=False)
            inside = (words >= np.uint64(start + low)) & (words < np.uint64(start + place))
            own = words[inside & (words % np.uint64(_ALIGNED) == 0)]
            tasks, count = np.unique(own, return_counts=True)
            for task, number in zip(tasks.tolist(), count.tolist(), strict=True):
                times[task] = max(times.get(task, 0), number)
    best = max(times, key=lambda task: times[task], default=0)
    return best if times.get(best, 0) >= _OWN_ADDRESSES else None


def is_first_lost(found: LinuxKernel, first: int) -> bool:
    """Whether the first task's place lacks its name; `first` is 0 if the place is unknown."""
    raw = found.kernel.read_far(first, _TASK_SIZE).tobytes() if first else b""
    return not any(name in raw for name in FIRST_COMMS)


def find_thread(found: LinuxKernel, offsets: Offsets) -> int | None:
    """The address of a task, for lost first tasks; None if missing.

    It is a kernel thread that is known by its name, or any other first thread.
    """
    for name in _names_of_threads(found):
        task = name - offsets.comm
        if _is_task(found, offsets, task):
            return task
    base = _direct_map(found)
    if base is None or offsets.leader is None:
        return None
    tasks = leaders(found, base, offsets.leader).tolist()
    return next((task for task in tasks if _is_task(found, offsets, task)), None)


def find_by_thread(
    found: LinuxKernel, limit: int, *, is_first_lost: bool
) -> tuple[int, Offsets] | None:
    """The same for a kernel without BTF, with the offsets that the tasks' form shows.

    If the first task is there, though it showed no offsets, the costly search by names is left out.
    """
    for number, name in enumerate(_names_of_threads(found) if is_first_lost else ()):
        if number == _COSTLY_TRIES:
            break
        if by_form := offsets_by_thread(found, name, limit):
            return by_form
    base = _direct_map(found)
    for tasks in each_kind(found, base) if base is not None else ():
        if by_leaders := offsets_by_leaders(found, tasks, limit):
            return by_leaders
    return None


def _is_task(found: LinuxKernel, offsets: Offsets, task: int) -> bool:
    """Whether a listed task with a pid of its own lies at this address."""
    read = found.kernel.number
    pid = read(task + offsets.pid, 4) or 0
    if not 0 < pid < MAX_PID or (
        offsets.own_pid is not None and read(task + offsets.own_pid, 4) != pid
    ):
        return False
    link = task + offsets.tasks
    following, before = read(link) or 0, read(link + found.kernel.word) or 0
    return link in (read(following + found.kernel.word), read(before))


def _names_of_threads(found: LinuxKernel) -> Iterator[int]:
    """Virtual addresses of such names, the most reliable names first."""
    base = _direct_map(found)
    if base is None:
        return
    memory = found.memory
    size = found.kernel.word
    texts = [np.frombuffer(name.ljust(COMM_SIZE, b"\0"), f"<u{size}") for name in _THREADS]
    places: dict[int, list[int]] = {number: [] for number in range(len(texts))}
    limit = memory.budget.limit(_THING)
    left_out: list[int] = []

    def scan(frames: NDArray[np.int64], words: Words) -> list[tuple[int, int]]:
        met: list[tuple[int, int]] = []
        flat = words.reshape(-1).view(f"<u{size}")
        for number, text in enumerate(texts):
            at = np.flatnonzero(flat[: 1 - len(text)] == text[0])
            for place in range(1, len(text)):
                at = at[flat[at + place] == text[place]]
            left_out.append(max(len(at) - limit, 0))
            page, inside = np.divmod(at[:limit] * size, PAGE_SIZE)
            met += [(number, place) for place in (frames[page] * PAGE_SIZE + inside).tolist()]
        return met

    for met in memory.each_block(scan):
        for number, place in met:
            places[number].append(base + place)
    left_out += [max(len(of_name) - limit, 0) for of_name in places.values()]
    memory.budget.note(_THING, sum(left_out))
    for of_name in places.values():
        yield from of_name[:limit]


def _direct_map(found: LinuxKernel) -> int | None:
    """The first address of the direct map; None if the kernel's tables do not show it."""
    variable = found.symbols.get("page_offset_base")
    told = found.kernel.number(variable) if variable else found.machine.direct_map
    held = np.flatnonzero(found.memory.held[: _GIB // PAGE_SIZE])
    if not len(held):
        return None
    some = held[np.linspace(0, len(held) - 1, _SOME_FRAMES).astype(np.int64)]
    bases = _bases(found) if told is None else [np.array([told], np.uint64)]
    for part in bases:
        mapped = np.zeros(len(part), np.int64)
        for frame in some[:: len(some) // 4].tolist():
            at = part + np.uint64(frame * PAGE_SIZE)
            mapped += found.kernel.frames(at) == frame
        for base in part[mapped > 0].tolist():
            seen = found.kernel.frames(np.uint64(base) + some.astype(np.uint64) * PAGE_SIZE)
            if 2 * np.count_nonzero(seen == some) > len(some):
                return int(base)
    return None


def _bases(found: LinuxKernel) -> Iterator[NDArray[np.uint64]]:
    """Addresses at which it may begin: multiples of a gigabyte in the kernel's half."""
    paging = found.paging
    if not found.machine.has_own_half:
        return
    table = found.memory.read_frames(np.array([found.top]))[0]
    half = paging.entries // 2
    for entry in (half + np.flatnonzero(table[half:]))[:_FIRST_ENTRIES].tolist():
        start = np.array([entry << paging.levels[0].shift], np.uint64)
        count = (1 << paging.levels[0].shift) // _GIB
        yield paging.canonical(start) + np.arange(count, dtype=np.uint64) * np.uint64(_GIB)
