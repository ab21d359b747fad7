"""The list of a Linux kernel's processes, repaired where it is broken.

Children and siblings also lead from task to task: a task found only among these was taken out of
the list. If the list is broken, it is walked from both ends, and tasks are also searched for in the
slabs of their cache. A task found there counts as a live process if something links back to it, or
if its own links lead to places of tasks: the kernel poisons the links of a task that has ended
(list_del_rcu), and a copy in another page is in no list.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.offsets import COMM_SIZE, MAX_PID, PID_SIZE, Offsets, along, is_name
from memory_visualizer.linux.pagestates import PageArray, Survey
from memory_visualizer.paging import PhysicalMemory
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted
from memory_visualizer.units import PAGE_SIZE

_PLACES_OF_SLAB = 1 << 10
"""The largest number of objects in one slab; a remark tells if places are left out."""
_TRIED_STARTS = 16
"""How many offsets in slabs vote on the distance of objects, the most frequent first."""
_GENERATIONS = 64
"""How many generations of relatives are followed; a remark tells if there are more."""
_SCANS = 3
"""How often all slabs of tasks are searched; a remark tells if the last time still found some."""
_MORE_RELATIVES = (
    f"relatives of processes were followed for {_GENERATIONS} generations: there may be more"
)
_MORE_IN_SLABS = (
    f"the slabs of tasks were searched {_SCANS} times, and the last time still found"
    " processes: there may be more"
)
_NAMED_BREAKS = 4
"""How many breaks in the list one remark names."""
_CACHE_LINE = 64
_FRAMES_OF_TASK: Mapping[int, int] = {8: 32, 4: 16}
"""Linux itself allows one thread for so many frames, by the bytes of a pointer, unless an
administrator raises the limit (set_max_threads, kernel/fork.c)."""
_MORE_TASKS = 1024
"""The number of tasks that any dump may have beyond these."""

_Addresses = NDArray[np.uint64]
_Marks = NDArray[np.bool_]


def task_limit(memory: PhysicalMemory, word: int = 8) -> int:
    """The largest number of processes that are read; `word` is the size of a pointer in bytes.

    Each has stacks, tables and objects of its own, so memory limits their number.
    """
    return memory.frame_count // _FRAMES_OF_TASK[word] + _MORE_TASKS


@dataclass(frozen=True)
class Roll:
    """All tasks of processes that were found."""

    tasks: list[int]
    """In the list's order as far as it is known, without the first task of all."""
    listed: set[int]
    """All tasks except those that are known to be missing from the list."""
    is_whole: bool
    """Whether each task's place in the list is known; otherwise there may be more tasks."""
    remarks: tuple[str, ...] = ()
    is_sound: bool = False
    """Whether all links of the listed tasks link back."""


class TaskSlabs:
    """The slabs in which the kernel keeps objects of a kind, found by some of these objects."""

    def __init__(self, kernel: TableMemory, pages: PageArray, survey: Survey) -> None:
        self._kernel = kernel
        self._pages = pages
        self._survey = survey
        self.left_out = 0
        """Places that were left out, since there are too many."""

    def places(self, examples: _Addresses, least: int = _CACHE_LINE) -> _Addresses:
        """Addresses of all objects of the cache with most of the examples, free objects included.

        An object has at least `least` bytes. At most as many places as page frames are returned.
        """
        frames = self._kernel.frames(examples)
        # In a dump that was cut short, the tables lead to frames beyond its end.
        there = (frames >= 0) & (frames < self._kernel.frame_count)
        examples, frames = examples[there], frames[there]
        if not len(examples):
            return examples
        page = examples // np.uint64(PAGE_SIZE) * np.uint64(PAGE_SIZE)
        bases, count = np.unique(
            page - frames.astype(np.uint64) * np.uint64(PAGE_SIZE), return_counts=True
        )
        base = bases[np.argmax(count)]  # the address of frame 0 in the direct map
        first, slabs = self._pages.in_same_cache(frames, self._survey)
        inside = (examples - base).view(np.int64) - first * PAGE_SIZE
        size = self._slab_size(slabs)
        # An example that is mapped outside of the direct map tells nothing.
        inside = inside[np.isin(first, slabs) & (inside >= 0) & (inside < size)]
        if not len(inside):
            return examples[:0]
        start, apart = _grid(inside, least)
        starts = np.arange(start, size, apart or size)
        kept = starts[:_PLACES_OF_SLAB]
        limit = self._kernel.frame_count // len(kept)
        self.left_out += len(slabs) * len(starts) - len(slabs[:limit]) * len(kept)
        begin = base + slabs[:limit].astype(np.uint64) * np.uint64(PAGE_SIZE)
        places: _Addresses = (begin[:, None] + kept.astype(np.uint64)).ravel()
        return places

    def _slab_size(self, slabs: NDArray[np.int64]) -> int:
        """The most frequent size of these slabs in bytes."""
        slabs = slabs // self._pages.page_frames
        tails = self._survey.head[np.isin(self._survey.head, slabs)]
        _, behind = np.unique(np.append(slabs, tails), return_counts=True)
        pages, count = np.unique(behind, return_counts=True)
        size = PAGE_SIZE * self._pages.page_frames
        return int(pages[np.argmax(count)]) * size if len(slabs) else 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for the user on places that were not searched."""
        if not self.left_out:
            return ()
        left_out = counted(self.left_out, "place")
        return (f"{left_out} in slabs where tasks may lie were not searched: there are too many",)

    def numbers(self, offsets: Offsets, sound: dict[int, int]) -> dict[int, int]:
        """The pids of all tasks by the struct pids that lead to them.

        The offsets are learned from sound tasks, whose pids are given by their addresses.
        """
        if offsets.pid_struct is None or offsets.number is None or not sound:
            return {}
        kernel = self._kernel
        structs, way = struct_pids(kernel, offsets, sound)
        if way is None:
            return {}
        link, place = way
        structs = self.places(structs, max(link + kernel.word, offsets.number + 4))
        number, known = kernel.numbers(structs + np.uint64(offsets.number), 4)
        led, _ = kernel.numbers(structs + np.uint64(link))
        known &= (number > 0) & (number < MAX_PID) & (led > np.uint64(place))
        return dict(
            zip((led[known] - np.uint64(place)).tolist(), number[known].tolist(), strict=True)
        )


def struct_pids(
    kernel: TableMemory, offsets: Offsets, sound: dict[int, int]
) -> tuple[_Addresses, tuple[int, int] | None]:
    """The struct pids of tasks, and how a struct pid leads to its task; None if unknown.

    The way is the offset of a pointer in struct pid, and that of its target in the task, by most of
    the tasks, whose pids are given by their addresses.
    """
    tasks = np.array(list(sound), np.uint64)
    pids = np.array(list(sound.values()), np.uint64)
    if offsets.pid_struct is None or offsets.number is None or not sound:
        return tasks[:0], None
    structs, known = kernel.numbers(tasks + np.uint64(offsets.pid_struct))
    raw, there = kernel.read_each(structs, PID_SIZE)
    agree = known & there & (raw.view("<u4")[:, offsets.number // 4] == pids)
    if not agree.any():
        return tasks[:0], None
    # Of the offsets at which most lead to the same place in their tasks, the last counts: the
    # first is of all threads, the second of processes.
    ahead = kernel.words(raw)[agree] - tasks[agree][:, None]
    near = np.where(ahead < np.uint64(1 << 16), ahead, np.uint64(0))
    for column in range(near.shape[1]):
        values, count = np.unique(near[:, column], return_counts=True)
        if values[np.argmax(count)] and count.max() * 2 > len(near):
            return structs[agree], (column * kernel.word, int(values[np.argmax(count)]))
    return tasks[:0], None


def _grid(inside: NDArray[np.int64], least: int) -> tuple[int, int]:
    """Offset of a slab's first object, and the objects' distance; 0 if unknown.

    `inside` are offsets in slabs at which objects should begin. The distance, at least `least`, is
    the one that most of them have: a wild offset is outvoted.
    """
    values, count = np.unique(inside, return_counts=True)
    frequent = np.sort(np.argsort(-count, kind="stable")[:_TRIED_STARTS])
    values, count = values[frequent], count[frequent]
    distances = np.unique(values[:, None] - values)
    distances = np.unique(np.gcd.outer(distances, distances))
    best, chosen = int(count.max()), (int(values[np.argmax(count)]), 0)
    for apart in distances[distances >= least].tolist():
        starts, row = np.unique(values % apart, return_inverse=True)
        votes = np.bincount(row, count)
        if votes.max() > best:  # the smallest of several distances, which leaves out nothing
            best, chosen = int(votes.max()), (int(starts[np.argmax(votes)]), apart)
    return chosen


def gather(
    kernel: TableMemory,
    offsets: Offsets,
    first: int,
    limit: int,
    slabs: TaskSlabs | None,
    lost: Sequence[int] = (),
) -> Roll:
    """Find the tasks of all processes, `limit` of them at most; `first` is the first of all.

    `lost` are tasks that cannot be read; others may lead to them.
    """
    link = offsets.tasks
    ahead, is_closed = along(kernel, first, link, limit)
    if len(ahead) == limit:
        remark = (
            f"the list of processes is longer than any machine has: only {limit:,} entries of it"
            " were read"
        )
        return Roll(ahead, set(ahead), True, (remark,), is_sound=True)
    if is_closed:
        places = np.array([first, *ahead], np.uint64) + np.uint64(link)
        back, _ = kernel.numbers(places + np.uint64(kernel.word))
        if (back == np.roll(places, 1)).all():
            others, remarks = _others(kernel, offsets, first, ahead, limit, None, is_broken=False)
            return Roll([*ahead, *others], set(ahead), True, remarks, is_sound=True)
    behind, _ = along(kernel, first, link, limit, backwards=True)
    led = list(dict.fromkeys([*ahead, *reversed(behind)]))
    tasks = _vouched(kernel, offsets, first, led)
    others, remarks = _others(kernel, offsets, first, tasks, limit, slabs, [*led, *lost])
    tasks += others
    tasks += _led_to(kernel, offsets, first, tasks)
    roll = _joined(kernel, offsets, first, tasks)
    return replace(roll, remarks=(*roll.remarks, *remarks))


def _vouched(kernel: TableMemory, offsets: Offsets, first: int, tasks: list[int]) -> list[int]:
    """The tasks to which two other tasks lead, or a task that they lead to."""
    if not tasks:
        return tasks
    at = np.array([first, *tasks], np.uint64)
    links = np.uint64(offsets.tasks)
    # A link may also lead to the head of another, sound list, which is not a task.
    is_task = np.isin(at, _processes_among(kernel, offsets, at)) | _are_named(kernel, offsets, at)
    sound = _are_linked(kernel, offsets, at) & is_task
    sound[0] = True
    (following, before), _ = kernel.members(at[sound], (offsets.tasks, offsets.tasks + kernel.word))
    led = np.isin(at + links, _between(following, before)) | sound
    led &= kernel.numbers(at + links)[1]
    return [task for task, is_led in zip(tasks, led[1:].tolist(), strict=True) if is_led]


def _between(following: _Addresses, before: _Addresses) -> _Addresses:
    """The places between two list_heads: one leads there forwards, the other backwards.

    `following` and `before` are the targets of each, forwards and backwards.
    """
    # A list_head that leads to the same place in both directions is not a witness.
    differ = following != before
    return np.intersect1d(following[differ], before[differ])


def _are_named(kernel: TableMemory, offsets: Offsets, tasks: _Addresses) -> _Marks:
    """Which objects are aligned to a cache line like tasks, and have a name."""
    texts, _ = kernel.read_each(tasks + np.uint64(offsets.comm), COMM_SIZE)
    named: _Marks = np.array([is_name(text.tobytes()) for text in texts], bool)
    named &= tasks % np.uint64(_CACHE_LINE) == 0
    return named


def _led_to(kernel: TableMemory, offsets: Offsets, first: int, tasks: list[int]) -> list[int]:
    """Places between two of these tasks by their links that cannot be read themselves."""
    at = np.array([first, *tasks], np.uint64) + np.uint64(offsets.tasks)
    (following, before), _ = kernel.members(at, (0, kernel.word))
    between = _between(following, before)
    between = between[~np.isin(between, at) & kernel.numbers(between)[1]]
    found: list[int] = (between - np.uint64(offsets.tasks)).tolist()
    return found


def _are_linked(kernel: TableMemory, offsets: Offsets, tasks: _Addresses) -> _Marks:
    """Which tasks are linked back by a target of their links: in the list, or as siblings."""
    linked = leads_back(kernel, tasks + np.uint64(offsets.tasks))
    if offsets.sibling is not None:
        linked |= leads_back(kernel, tasks + np.uint64(offsets.sibling))
    return linked


def leads_back(kernel: TableMemory, links: _Addresses) -> _Marks:
    """Which of these list_heads are in a list with others, by at least one direction."""
    (following, before), _ = kernel.members(links, (0, kernel.word))
    back, _ = kernel.numbers(following + np.uint64(kernel.word))
    ahead, _ = kernel.numbers(before)
    linked: _Marks = ((back == links) & (following != links)) | (
        (ahead == links) & (before != links)
    )
    return linked


def _others(
    kernel: TableMemory,
    offsets: Offsets,
    first: int,
    tasks: list[int],
    limit: int,
    slabs: TaskSlabs | None,
    led: Sequence[int] = (),
    *,
    is_broken: bool = True,
) -> tuple[list[int], tuple[str, ...]]:
    """Tasks of further processes, found in all other ways; and remarks if there are more.

    Links lead to `led`: lost tasks, too, lie in the slabs of tasks.
    """
    known = {first, *tasks}
    found: list[int] = []
    left_out: set[int] = set()

    def add(more: _Addresses) -> None:
        new = [task for task in dict.fromkeys(more.tolist()) if task not in known]
        room = max(limit - len(known), 0)
        left_out.update(new[room:])
        known.update(new[:room])
        found.extend(new[:room])

    new, rounds, is_open = [first, *tasks], 0, False
    for _ in range(_SCANS if slabs else 1):
        before = len(found)
        if slabs:  # more known tasks show better where tasks lie in slabs
            reached = np.array(list({first, *tasks, *led, *found}), np.uint64)
            add(_in_slabs(kernel, offsets, reached, slabs, known))
        new += found[before:]
        while new and rounds < _GENERATIONS:
            rounds += 1
            size = len(found)
            add(_relatives(kernel, offsets, np.array(new, np.uint64), is_broken=is_broken))
            new = found[size:]
        is_open = bool(slabs) and len(found) > before
        if new or len(found) == before:
            break
    remarks = [_MORE_RELATIVES] if new else []
    if is_open and not new:
        remarks.append(_MORE_IN_SLABS)
    if left_out:
        remarks.append(
            f"{counted(len(left_out), 'process', 'processes')} found outside the list, but left"
            " out: there are more than any machine has"
        )
    return found, tuple(remarks)


def _relatives(
    kernel: TableMemory, offsets: Offsets, tasks: _Addresses, *, is_broken: bool
) -> _Addresses:
    """Children and siblings of tasks, as far as they link back.

    If nothing is broken, neither the list of all tasks nor any of these links, one direction tells
    as much as both.
    """
    if offsets.children is None or offsets.sibling is None:
        return np.empty(0, np.uint64)
    sibling, children = np.uint64(offsets.sibling), np.uint64(offsets.children)
    links = np.concatenate((tasks + children, tasks + sibling))
    places, word = (offsets.children, offsets.sibling), kernel.word
    (parents, *targets), _ = kernel.members(tasks, (offsets.parent, *places))
    found = []
    for ahead in (0, word):
        if ahead:
            targets = [*kernel.members(tasks, [place + ahead for place in places])[0]]
        led = np.concatenate(targets)
        back, _ = kernel.numbers(led + np.uint64(word - ahead))
        found.append(led[(back == links) & (led != links)])
        if not is_broken and np.array_equal(back, links):
            break
    led = np.concatenate(found)
    # The last sibling leads to the head of the list, which is in the parent. If all relatives are
    # known already, as in a sound dump, none is read again.
    led = led[~np.isin(led, np.concatenate((links, parents + children)))]
    return _processes_among(kernel, offsets, led - sibling)


def _in_slabs(
    kernel: TableMemory,
    offsets: Offsets,
    tasks: _Addresses,
    slabs: TaskSlabs,
    known: Collection[int],
) -> _Addresses:
    """Tasks of live processes in the slabs of tasks, apart from known ones.

    `tasks` are examples; a link that leads to one of them does not make it a known task.
    """
    everywhere = slabs.places(tasks, offsets.comm + COMM_SIZE)
    links = np.concatenate((everywhere, tasks)) + np.uint64(offsets.tasks)
    is_known = np.isin(everywhere, np.array(list(known), np.uint64))
    places = _processes_among(kernel, offsets, everywhere[~is_known])
    if not len(places):
        return places
    (following, before), _ = kernel.members(places, (offsets.tasks, offsets.tasks + kernel.word))
    lives = np.isin(following, links) & np.isin(before, links)
    lives |= _are_linked(kernel, offsets, places)
    live: _Addresses = places[lives]
    return live


def _processes_among(kernel: TableMemory, offsets: Offsets, tasks: _Addresses) -> _Addresses:
    """The tasks whose pid equals their group's: neither threads nor other objects."""
    if not len(tasks):
        return tasks
    own_pid = offsets.pid if offsets.own_pid is None else offsets.own_pid
    (group, own), (known, _) = kernel.members(tasks, (offsets.pid, own_pid), 4)
    known &= (group > 0) & (group < MAX_PID) & (own == group)
    processes: _Addresses = tasks[known]
    return processes


def _joined(kernel: TableMemory, offsets: Offsets, first: int, tasks: list[int]) -> Roll:
    """Join the parts of the list by their links, and report where it is broken."""
    link = offsets.tasks
    nodes = [first, *tasks]
    at = np.array(nodes, np.uint64) + np.uint64(link)
    number = {address: node for node, address in enumerate(at.tolist())}
    (led, led_back), _ = kernel.members(at, (0, kernel.word))
    following = [number.get(address, -1) for address in led.tolist()]
    before = [number.get(address, -1) for address in led_back.tolist()]
    _forget_copies(following, before)
    order, is_whole = _ring(following, before)
    rest = sorted(set(range(1, len(nodes))) - set(order))
    listed = {nodes[node] for node in order}
    steps = [node for node in (0, *order) if before[following[node]] != node]
    if not is_whole or steps:
        own, _ = kernel.numbers(np.array(nodes, np.uint64) + np.uint64(offsets.pid), 4)
        gaps = _gaps(following, before, own.tolist())
        listed |= {
            nodes[node]
            for node in set(rest) - _led_past(rest, following, before)
            if max(following[node], before[node]) >= 0 or _is_in(int(own[node]), gaps)
        }
    remark = f"the list of processes is broken at {counted(len(steps), 'place')}"
    remark += _behind(kernel, offsets, first, [nodes[node] for node in steps])
    if is_whole:
        remark += ": it was repaired by following its links backwards"
    else:
        remark += ": some may be missing"
    if rest:
        remark += f"; {counted(len(rest), 'process', 'processes')} found in other ways"
    tasks = [nodes[node] for node in (*order, *rest)]
    return Roll(tasks, listed, is_whole, (remark,))


def _gaps(following: list[int], before: list[int], pids: list[int]) -> list[tuple[int, int]]:
    """Pairs of pids between which there may be tasks that no link leads to.

    Pids ascend in the list until they wrap around. If the successor of a task is unknown, there may
    be others up to the next task whose predecessor is unknown.
    """
    linked = {node for pair in (following, before) for node in pair if node >= 0}
    linked |= {node for node in range(len(pids)) if max(following[node], before[node]) >= 0}
    led_to = {node for node in following if node >= 0} | {
        node for node, low in enumerate(before) if low >= 0
    }
    leads = {low for low in before if low >= 0} | {
        node for node, high in enumerate(following) if high >= 0
    }
    ends = sorted(pids[node] for node in linked - leads if 0 <= pids[node] < MAX_PID)
    begins = sorted(pids[node] for node in linked - led_to if 0 <= pids[node] < MAX_PID)
    begins.append(MAX_PID)
    return [(end, begins[bisect_right(begins, end)]) for end in ends]


def _is_in(pid: int, gaps: list[tuple[int, int]]) -> bool:
    """Whether a pid is in one of these gaps, which ascend by both ends."""
    # Of the gaps that begin before the pid, the last gap ends last.
    row = bisect_left(gaps, (pid,)) - 1
    return row >= 0 and pid < gaps[row][1]


def _behind(kernel: TableMemory, offsets: Offsets, first: int, tasks: list[int]) -> str:
    """The breaks in the list for the user, named by the pids before them."""
    at = np.array(tasks[:_NAMED_BREAKS], np.uint64)
    own, known = kernel.numbers(at + np.uint64(offsets.pid), 4)
    known &= (own < MAX_PID) & ((own > 0) | (at == first))
    pids = [f"{pid}" for pid in sorted(own[known].tolist())]
    more = f" and {len(tasks) - len(pids):,} more" if len(pids) < len(tasks) else ""
    return (
        f" (behind {'pid' if len(pids) == 1 else 'pids'} {', '.join(pids)}{more})" if pids else ""
    )


def _ring(following: list[int], before: list[int]) -> tuple[list[int], bool]:
    """The list's order from the first node on; and whether it forms a ring without a gap.

    The successor of a node is its target, or a node that links back to it; a node that is both is
    preferred.
    """
    behind = defaultdict(set)
    for node, low in enumerate(before):
        behind[low].add(node)
    order, visited, node = list[int](), {-1, 0}, 0
    while True:
        likely = sorted(behind[node] - visited, key=lambda one: (one != following[node], one))
        likely += [following[node]]
        new = next((one for one in likely if one not in visited), None)
        if new is None:
            comes_round = before[0] == node or (following[node] == 0 and before[0] in visited)
            return order, comes_round
        node = new
        visited.add(node)
        order.append(node)


def _forget_copies(following: list[int], before: list[int]) -> None:
    """Remove the links between two copies of a task that lie in the places of its neighbours.

    Each leads to itself in one direction, and they lead to each other past the task itself.
    """
    for node, high in enumerate(following):
        if before[node] == node != high >= 0 and following[high] == high and before[high] == node:
            following[node] = before[high] = -1


def _led_past(rest: Sequence[int], following: list[int], before: list[int]) -> set[int]:
    """Which of these tasks the list leads past.

    Tasks that link to each other form a stretch. The neighbours of a stretch that was taken out of
    the list, by its own links, link to each other.
    """
    found, visited = set[int](), set[int]()
    for node in rest:
        if node in visited:
            continue
        stretch = [node]
        visited.add(node)
        ends = []
        for ahead, back in ((before, following), (following, before)):
            end = node
            while (other := ahead[end]) >= 0 and back[other] == end and other not in visited:
                end = other
                visited.add(end)
                stretch.append(end)
            ends.append(ahead[end])
        low, high = ends
        if low >= 0 and high >= 0 and following[low] == high and before[high] == low:
            found.update(stretch)
    return found
