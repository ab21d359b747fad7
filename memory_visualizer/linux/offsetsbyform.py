"""The offsets of the needed members in a Linux kernel's tasks, as the tasks themselves show them.

They serve where a kernel has no BTF. Tasks vote on each offset: it is the place at which most tasks
have a fitting value, and a task that differs affects only itself. Members that are neighbours in
all versions from 4.14 on (include/linux/sched.h: mm and active_mm; pid and tgid; real_parent,
parent, children, sibling, group_leader) are taken to be neighbours here, too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.linux.kernel import LinuxKernel
from memory_visualizer.linux.offsets import (
    COMM_SIZE,
    FIRST_COMMS,
    KERNEL_THREAD,
    KERNEL_THREADS_PARENT,
    MAX_PID,
    PID_SIZE,
    Offsets,
    is_name,
)
from memory_visualizer.paging import are_tables, is_held
from memory_visualizer.paging.memory import TABLES_AT_ONCE
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

PlacesLike: TypeAlias = Callable[[NDArray[np.uint64], int], NDArray[np.uint64]]
"""Given some objects and their least size in bytes, returns possible places of others like them."""
_TASK_SIZE = 1 << 13
"""How many bytes of a task are read."""
_FAR_NAME = 1 << 12
"""The largest offset of the name in a task, in any version."""
_MEMORY_SIZE = 1 << 10
"""How many bytes of an mm_struct are read."""
_EXAMPLES = 512
"""How many tasks vote on offsets; the second of all tasks has pid 1."""
_FEW_EXAMPLES, _FEW_SPACES = 64, 16
_TRIED_COLUMNS = 8
"""How many places in a task are tried that may lead to its memory. They are enough, since `mm`
follows the links closely."""
_FEW_TASKS = 4
_COLUMNS_OF_PID, _COLUMNS_OF_GROUP = 32, 64
"""In how many words behind group_leader the pointers to the struct pid and to the next thread are
searched for."""
_CACHE_LINE = 64
"""Tasks begin at multiples of a cache line."""
_SMALLEST_LINE = 32
"""The smallest cache line of a processor that is supported."""
_TO_SIBLING = 16
"""Distance from children to sibling."""
_FEW_LETTERS = 2
_LINKS = 40
"""Distance from real_parent to group_leader: both parents and two list heads lie before it."""
_MAJORITY = 2 / 3
"""The share of tasks that must agree, since some may be lost or odd."""
_HALF = 1 / 2


def offsets_by_form(
    found: LinuxKernel,
    first: int,
    limit: int,
    places_like: PlacesLike | None = None,
) -> Offsets | None:
    """Find the offsets in the tasks; None if the tasks do not show them.

    `first` is the address of the first task, `limit` the largest number of tasks. `places_like`
    tells possible places of other tasks, which are tried if the list is broken.
    """
    for comm in _names_at(found.kernel, first):
        if offsets := _offsets_by_names(found, first, comm, limit, places_like):
            return offsets
    return None


def offsets_by_thread(found: LinuxKernel, name: int, limit: int) -> tuple[int, Offsets] | None:
    """The same if the first task is lost, by a thread of which only the name is known.

    `name` is the address of the thread's name. The task's address is returned, too.
    """
    before = _FAR_NAME + name % _CACHE_LINE
    start = name - before
    _, others, _ = _find_link(found.kernel, start, before, 2 * limit)
    begin = _find_begin(found.kernel, np.array([start, *others[:_EXAMPLES]], np.uint64), before)
    if begin is None:
        return None
    offsets = _offsets_by_names(found, start + begin, before - begin, limit, None)
    return None if offsets is None else (start + begin, offsets)


def offsets_by_leaders(
    found: LinuxKernel, tasks: NDArray[np.uint64], limit: int
) -> tuple[int, Offsets] | None:
    """The same by objects that may be first threads, of which only the addresses are known."""
    kernel = found.kernel
    sample = tasks[:: max(1, len(tasks) // _EXAMPLES)]
    contents, _ = kernel.read_each(sample, _TASK_SIZE)
    named = _are_names(contents)
    names = np.count_nonzero(named, axis=0)
    column = int(np.argmax(names))
    if len(sample) < _FEW_TASKS or names[column] < _HALF * len(sample):
        return None
    comm, sample = column * 8, sample[named[:, column]]
    link = _find_link_by_votes(kernel, sample, contents[named[:, column]], comm)
    if link is None:
        return None
    for first in sample[:: max(1, len(sample) // _FEW_TASKS)].tolist():
        reached = np.append(np.uint64(first), sample[sample != first])
        if offsets := _offsets_by_examples(found, reached[:limit], comm, link):
            return first, offsets
    return None


def leads_to_tasks(kernel: TableMemory, first: int) -> bool:
    """Whether the first task is in lists with two other tasks that have names and link back."""
    comm = next(_names_at(kernel, first), 0)
    inside = np.arange(0, comm, kernel.word, dtype=np.uint64)
    found = []
    for ahead in (0, kernel.word):
        led, _ = kernel.numbers(np.uint64(first + ahead) + inside)
        back, _ = kernel.numbers(led + np.uint64(kernel.word - ahead))
        found.append((led - inside)[back == np.uint64(first) + inside])
    others = distinct(np.concatenate(found))
    others = others[(others % np.uint64(_SMALLEST_LINE) == 0) & (others != np.uint64(first))]
    texts, _ = kernel.read_each(others + np.uint64(comm), COMM_SIZE)
    return sum(is_name(text.tobytes()) for text in texts) > 1


def _find_link_by_votes(
    kernel: TableMemory, tasks: NDArray[np.uint64], contents: NDArray[np.uint8], comm: int
) -> int | None:
    """The offset of the links in the list of all tasks, by many of these.

    The list of siblings links most tasks, too, but its links come later.
    """
    links = kernel.words(contents[:, : comm // kernel.word * kernel.word].copy())
    own = tasks[:, None] + np.arange(links.shape[1], dtype=np.uint64) * np.uint64(kernel.word)
    begins = np.sort(tasks)
    led = links - (own - tasks[:, None])
    place = np.minimum(np.searchsorted(begins, led), len(begins) - 1)
    votes = np.count_nonzero((begins[place] == led) & (links != own), axis=0)
    best = int(votes.max(initial=0))
    if best < _FEW_TASKS:
        return None
    return int(np.flatnonzero(votes >= _HALF * best)[0]) * kernel.word


def _find_begin(kernel: TableMemory, places: NDArray[np.uint64], size: int) -> int | None:
    """Offset of the tasks in these `size` bytes, which end at the tasks' names.

    Most tasks are first threads, whose group_leader leads to themselves.
    """
    contents, _ = kernel.read_each(places, size // 8 * 8)
    ahead = kernel.words(contents) - places[:, None]
    own = np.arange(ahead.shape[1], dtype=np.uint64) * np.uint64(kernel.word)
    # The head of an empty list also leads to itself, but not to the beginning of the task.
    likely = (ahead % np.uint64(_CACHE_LINE) == 0) & (ahead < np.uint64(size))
    likely &= (ahead != own) & (ahead + np.uint64(kernel.word) != own)
    begins, count = np.unique(ahead[likely], return_counts=True)
    best = int(np.argmax(count)) if len(count) else 0
    return int(begins[best]) if len(count) and count[best] > _HALF * len(places) else None


def _names_at(kernel: TableMemory, first: int) -> Iterator[int]:
    """Possible offsets of the name: at which the first task has its own, or most tasks have one."""
    raw = kernel.read_far(first, _TASK_SIZE).tobytes()
    known = next((raw.find(name) for name in FIRST_COMMS if name in raw), -1)
    if known >= 0:
        yield known
    best, place = 0, -1
    for link in range(0, _TASK_SIZE, kernel.word):
        tasks = _in_ring(kernel, first, link)
        if len(tasks) < _FEW_TASKS:
            continue
        contents, _ = kernel.read_each(np.array(tasks, np.uint64), _TASK_SIZE)
        names = np.count_nonzero(_are_names(contents), axis=0)
        if names.max() > max(best, _MAJORITY * len(tasks)):
            best, place = int(names.max()), int(np.argmax(names)) * 8
    if place not in (-1, known):
        yield place


def _in_ring(kernel: TableMemory, first: int, link: int) -> list[int]:
    """Some objects of the list through the first object, as far as each links back."""
    found: list[int] = []
    at = first + link
    while len(found) < _FEW_SPACES:
        following = kernel.number(at)
        if following is None or following < kernel.upper:
            break
        if kernel.number(following + kernel.word) != at:
            break
        at = following
        if at == first + link or at - link in found:
            break
        found.append(at - link)
    return found


def _are_names(contents: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The words of each row at which a name begins: some letters, then only zeros."""
    words = contents.reshape(len(contents), -1, 8)
    octets = np.concatenate((words[:, :-1], words[:, 1:]), axis=2)
    ends = np.logical_or.accumulate(octets == 0, axis=2)
    # Text in UTF-8 never has the upper bytes of kernel addresses.
    printable = (octets >= 0x20) & (octets != 0x7F) & (octets < 0xF8)
    names: NDArray[np.bool_] = np.logical_and.reduce(printable | ends, axis=2)
    return names & ~ends[:, :, _FEW_LETTERS - 1] & ends[:, :, -1]


def _offsets_by_names(
    found: LinuxKernel, first: int, comm: int, limit: int, places_like: PlacesLike | None
) -> Offsets | None:
    """Find all offsets, given the offset of the name."""
    kernel = found.kernel
    link, tasks, is_whole = _find_link(kernel, first, comm, 2 * limit)
    if len(tasks) < _FEW_TASKS and places_like:
        other, more = _find_neighbours(kernel, first, comm, places_like)
        link, tasks = (other, more) if more else (link, tasks)
    if len(tasks) < _FEW_TASKS and (child := _first_child(kernel, first, comm)):
        other, more, _ = _find_link(kernel, child, comm, 2 * limit)
        if len(more) >= _FEW_TASKS:
            link, tasks, is_whole = other, [child, *(task for task in more if task != first)], False
    if not tasks:
        return None
    reached = np.array([first, *tasks], np.uint64)
    if places_like and not is_whole:
        others = places_like(reached, comm + COMM_SIZE)[:limit]
        reached = np.append(reached, others[~np.isin(others, reached)])
    return _offsets_by_examples(found, reached, comm, link)


def _offsets_by_examples(
    found: LinuxKernel, reached: NDArray[np.uint64], comm: int, link: int
) -> Offsets | None:
    """Find all offsets, given those of name and links; `reached` begins with the first task."""
    kernel = found.kernel
    examples = _Examples.read(kernel, reached, comm)
    word = kernel.word
    memory = _find_memory(found, examples.words, link // word + 2)
    pid = _find_pids(examples.numbers, link // 4)
    if memory is None or pid is None:
        return None
    parent = _find_parents(examples.words, reached, pid // word + 1, word)
    if parent is None:
        parent = _find_leaders(examples, pid // word + 1, word)
    if parent is None:
        return None
    mm, pgd = memory
    leader = parent + (_LINKS + 8) // 8 * word
    return Offsets(
        link,
        pid,
        parent,
        comm,
        mm,
        flags=_find_flags(kernel, examples, parent, pid),
        exit_state=None,
        pgd=pgd,
        own_pid=pid - 4,
        tracer=parent + word,
        active_mm=mm + word,
        children=parent + 2 * word,
        sibling=parent + 4 * word,
        leader=leader,
        group=_find_group(kernel, examples, leader),
        **_find_numbers(kernel, examples, pid, leader),
    )


@dataclass(frozen=True, eq=False)
class _Examples:
    """The beginnings of tasks, up to the name; most of the tasks are sound."""

    tasks: NDArray[np.uint64]
    """Their addresses."""
    words: NDArray[np.uint64]
    """Shape (n, words); the first row is the first task of all."""
    numbers: NDArray[np.uint32]
    """The same memory."""

    @classmethod
    def read(cls, kernel: TableMemory, tasks: NDArray[np.uint64], comm: int) -> "_Examples":
        """Read the tasks that have a name, copies only once, and the first task in any case."""
        texts, _ = kernel.read_each(tasks[: 2 * _EXAMPLES] + np.uint64(comm), COMM_SIZE)
        named = [0, *(n for n, text in enumerate(texts) if n and is_name(text.tobytes()))]
        contents, _ = kernel.read_each(tasks[named[:_EXAMPLES]], comm)
        rows: dict[bytes, int] = {}
        for row, octets in enumerate(contents):
            rows.setdefault(octets.tobytes(), row)
        kept = list(rows.values())
        contents = contents[kept]
        words = kernel.words(contents[:, : comm // kernel.word * kernel.word].copy())
        numbers = contents[:, : comm // 4 * 4].copy().view("<u4")
        return cls(tasks[named[:_EXAMPLES]][kept], words, numbers)


def _find_link(
    kernel: TableMemory, first: int, comm: int, room: int
) -> tuple[int, list[int], bool]:
    """The offset of the links in the list of all tasks, the tasks, and whether the list is whole.

    It is the list in which the most objects have names.
    """
    best: tuple[int, int, list[int], bool] = (0, 0, [], False)
    for link in range(0, comm, kernel.word):
        tasks, names, is_whole = _named_tasks(kernel, first, link, comm, room)
        room -= len(tasks)
        best = max(best, (names, -link, tasks, is_whole))
        if (is_whole and names > _MAJORITY * len(tasks)) or room <= 0:
            break
    return -best[1], best[2], best[3]


def _first_child(kernel: TableMemory, first: int, comm: int) -> int | None:
    """A child of the first task, if its own links are lost: `children` leads to `sibling`."""
    for children in range(0, comm, kernel.word):
        sibling = kernel.number(first + children)
        if sibling is None or sibling < kernel.upper or sibling == first + children:
            continue
        child = sibling - children - _TO_SIBLING // 8 * kernel.word
        if kernel.number(sibling + kernel.word) == first + children and is_name(
            kernel.read(child + comm, COMM_SIZE) or b""
        ):
            return child
    return None


def _find_neighbours(
    kernel: TableMemory,
    first: int,
    comm: int,
    places_like: PlacesLike,
) -> tuple[int, list[int]]:
    """The offset of the links, and tasks, if both neighbours of the first task are lost.

    At this offset, links lead to objects that lie among objects with names.
    """
    tries = 0
    for link in range(0, comm, kernel.word):
        ends = [kernel.number(first + link), kernel.number(first + link + kernel.word)]
        if tries == _TRIED_COLUMNS or None in ends or ends[0] == ends[1]:
            continue
        lost = np.array(
            [(end or 0) - link for end in ends if end and end >= kernel.upper], np.uint64
        )
        # Words of two neighbouring list_heads lead to tasks, too, but not to their beginnings.
        lost = lost[lost % np.uint64(_CACHE_LINE) == 0]
        places = places_like(lost, comm + COMM_SIZE) if len(lost) == 2 else lost[:0]
        if len(places) < _FEW_TASKS:
            continue
        tries += 1
        texts, _ = kernel.read_each(places + np.uint64(comm), COMM_SIZE)
        named = np.array([is_name(text.tobytes()) for text in texts])
        if np.count_nonzero(named) >= max(_FEW_TASKS, _HALF * len(places)):
            return link, places[named].tolist()
    return 0, []


def _named_tasks(
    kernel: TableMemory, first: int, link: int, comm: int, room: int
) -> tuple[list[int], int, bool]:
    """The tasks in both directions from the first; the number with names; whether they form a ring.

    A link is followed if its target links back, or has a name. Beside the right offset, links lead
    to places where longer names end, but no task begins.
    """
    tasks: dict[int, bool] = {}
    for direction in (0, kernel.word):
        at = first
        while len(tasks) < room:
            following = kernel.number(at + link + direction)
            if following is None or following < kernel.upper:
                break
            back = kernel.number(following + kernel.word - direction)
            leads_back = back == at + link
            at = following - link
            if at == first and leads_back:
                return list(tasks), sum(tasks.values()), direction == 0
            named = is_name(kernel.read(at + comm, COMM_SIZE) or b"")
            is_aligned = at % _SMALLEST_LINE == 0
            if at == first or at in tasks or not is_aligned or not (leads_back or named):
                break
            tasks[at] = named
    return list(tasks), sum(tasks.values()), False


def _find_memory(
    found: LinuxKernel, words: NDArray[np.uint64], start: int
) -> tuple[int, int] | None:
    """The offsets `mm`, and `pgd` in its target.

    `mm` is null, as in the first task, or equal to `active_mm` behind it.
    """
    tries = 0
    # Words that are null in the first task come first; but the first task may be damaged.
    columns = start + np.argsort(words[0, start : words.shape[1] - 1] != 0, kind="stable")
    for column in columns.tolist():
        mm = words[:, column]
        led = (mm >= np.uint64(found.kernel.upper)) & (mm == words[:, column + 1])
        if not led.any() or np.mean(led | (mm == 0)) < _MAJORITY:
            continue
        # Kernel threads, which may be most tasks, tell nothing: they do not count.
        if np.count_nonzero(led) < _HALF * np.count_nonzero(mm):
            continue
        pgd = _find_tables(found, np.unique(mm[led])[:_FEW_SPACES])
        if pgd is not None:
            return column * found.kernel.word, pgd
        # `mm` closely follows the links: if the first task is damaged, few candidates come before
        # it.
        tries += 2 if mm[0] else 1
        if tries >= _TRIED_COLUMNS:
            break
    return None


def _find_tables(found: LinuxKernel, spaces: NDArray[np.uint64]) -> int | None:
    """The offset `pgd`: in most spaces it leads to a table with the kernel's last entry."""
    kernel = found.kernel
    raw, _ = kernel.read_each(spaces, _MEMORY_SIZE)
    contents = kernel.words(raw)
    likely = contents % np.uint64(found.machine.root_alignment) == 0
    likely &= contents >= np.uint64(kernel.upper)
    likely &= np.mean(likely, axis=0) >= _HALF
    leads = np.zeros(likely.shape, bool)
    leads[likely] = _lead_to_tables(found, contents[likely])
    share = np.mean(leads, axis=0)
    column = int(np.argmax(share))
    return column * kernel.word if share[column] >= _HALF else None


def _lead_to_tables(found: LinuxKernel, pointers: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which pointers lead to top-level tables with the kernel's uppermost entry.

    If the kernel has separate tables, any table that is not empty counts.
    """
    memory = found.memory
    frames = found.kernel.frames(pointers)
    rows = np.flatnonzero(is_held(memory, frames))
    inside = (pointers[rows] % np.uint64(PAGE_SIZE)).astype(np.int64)
    roots = found.machine.roots_at(memory, frames[rows] * PAGE_SIZE + inside)
    lead = np.zeros(len(pointers), bool)
    if not found.machine.has_own_half:
        lead[rows] = are_tables(memory, found.users, 0, roots[:, 0])
        return lead
    own = found.machine.roots_at(memory, np.array([found.base]))
    top = memory.read_frames(own[:, -1])[0, -1]
    held = is_held(memory, roots[:, -1])
    tables, row = np.unique(roots[held, -1], return_inverse=True)
    parts = np.split(tables, range(TABLES_AT_ONCE, len(tables), TABLES_AT_ONCE))
    last = np.concatenate([memory.read_frames(part)[:, -1] for part in parts])
    lead[rows[held]] = last[row] == top
    return lead


def _find_pids(numbers: NDArray[np.uint32], start: int) -> int | None:
    """The offset `tgid`: it equals `pid` before it in first threads, and is 0 in the first task."""
    best, place = _HALF, None
    for column in range(start, numbers.shape[1] - 1):
        pids = numbers[:, column]
        fits = (pids < MAX_PID) & (numbers[:, column + 1] == pids) & (pids > 0)
        fits[0] = False
        votes = len(np.unique(pids[fits])) + (not pids[0] and not numbers[0, column + 1])
        if (share := votes / len(pids)) > best:
            best, place = share, (column + 1) * 4
    return place


def _find_parents(
    words: NDArray[np.uint64], tasks: NDArray[np.uint64], start: int, size: int
) -> int | None:
    """The offset `real_parent`: it leads to a task, in the first task to itself.

    Few parents are threads, and `parent` behind it is nearly always equal.
    """
    ordered = np.sort(tasks)
    best, found = _HALF, None
    for column in range(start, words.shape[1] - 1):
        parents = words[:, column]
        place = np.minimum(np.searchsorted(ordered, parents), len(ordered) - 1)
        fits = (ordered[place] == parents) & (words[:, column + 1] == parents)
        fits[0] &= parents[0] == tasks[0]
        share = float(np.mean(fits))
        if share > best:
            best, found = share, column * size
    return found


def _find_leaders(examples: _Examples, start: int, size: int) -> int | None:
    """The same if most parents are lost: most tasks are the leaders of their groups themselves."""
    own = examples.words[:, start:] == examples.tasks[:, None]
    share = np.mean(own, axis=0)
    column = int(np.argmax(share)) if len(share) else 0
    if not len(share) or share[column] <= _HALF:
        return None
    return (start + column - (_LINKS + 8) // 8) * size


def _find_flags(kernel: TableMemory, examples: _Examples, parent: int, pid: int) -> int | None:
    """The offset `flags`: kernel threads, kthreadd's children, have a bit of their own."""
    parents = examples.words[:, parent // kernel.word]
    above, known = kernel.members(parents, (pid - 4, pid), 4)
    # One wrong number must not make init the parent of kernel threads.
    of_kthreadd = np.logical_and.reduce(known & (above == KERNEL_THREADS_PARENT))
    own = examples.numbers[:, pid // 4 - 1 : pid // 4 + 1] == KERNEL_THREADS_PARENT
    expected = of_kthreadd | np.logical_and.reduce(own, axis=1)
    expected[0] = True
    told = examples.numbers[:, :64] & np.uint32(KERNEL_THREAD) != 0
    share = np.mean(told == expected[:, None], axis=0)
    # Tasks that are not kernel threads must lack the bit.
    share[~(told & expected[:, None]).any(axis=0)] = 0
    column = int(np.argmax(share))
    return column * 4 if share[column] >= _MAJORITY else None


def _find_group(kernel: TableMemory, examples: _Examples, leader: int) -> int | None:
    """The offset `thread_group`, or since 6.7 `thread_node`; None if none has a second thread.

    Without second threads it would tell nothing. A single thread leads to itself, or to the head of
    a list of which it is the only member. In no other list does a task lead to a task with the same
    leader.
    """
    begin = leader // kernel.word + 1
    tasks = examples.words[:, leader // kernel.word]
    best, found = 0, None
    for column in range(begin, min(begin + _COLUMNS_OF_GROUP, examples.words.shape[1] - 1)):
        links = examples.words[:, column]
        following = links - np.uint64(kernel.word * column)
        others = np.flatnonzero(following != tasks)
        back, known = kernel.numbers(links[others])
        is_only = known & (back == tasks[others] + np.uint64(kernel.word * column))
        is_only &= links[others] == examples.words[others, column + 1]
        if not len(others) or np.count_nonzero(~is_only) > _HALF * len(tasks):
            continue
        leaders, known = kernel.numbers(following[others] + np.uint64(leader))
        is_led = known & (leaders == tasks[others])
        led = int(np.count_nonzero(is_led))
        if led > best and led >= np.count_nonzero(~is_led & ~is_only):
            best, found = led, kernel.word * column
    return found


def _find_numbers(
    kernel: TableMemory, examples: _Examples, pid: int, leader: int
) -> dict[str, int]:
    """The offsets of the pointer to the struct pid and of the number in it; empty if not found."""
    words, own = examples.words[1:], examples.numbers[1:, pid // 4]
    best, places = _HALF, dict[str, int]()
    begin = leader // kernel.word + 1
    for column in range(begin, min(begin + _COLUMNS_OF_PID, words.shape[1])):
        pointers = words[:_FEW_EXAMPLES, column]
        if np.mean(pointers >= np.uint64(kernel.upper)) < _HALF:
            continue
        if len(np.unique(pointers)) < _HALF * len(pointers):
            continue
        raw, known = kernel.read_each(pointers, PID_SIZE)
        same = raw.view("<u4") == own[: len(pointers), None]
        share = np.mean(same & known[:, None], axis=0)
        if share.max() > best:
            best = float(share.max())
            places = {"pid_struct": column * kernel.word, "number": int(np.argmax(share)) * 4}
    return places
