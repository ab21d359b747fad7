"""The offsets of members in Windows' process objects, found in the objects themselves.

The majority of objects decides each offset, so the search needs no table of offsets for each
version, and no single object: not System, not its name, not its pid.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.processsearch import (
    BASE_NUMBER,
    PROCESS_OBJECT,
    TABLE_BASE,
    is_in,
    rank_among,
)
from memory_visualizer.windows.toplevels import EARLIEST, LATEST

OBJECT_BYTES = {32: 0x500, 64: 0xC00}
"""How many bytes of an `_EPROCESS` are read."""
MAX_PID = 1 << 24
NAME_BYTES = 15
SYSTEM_PID = 4

_VOTERS_OF_BASE = 2
_VOTERS = 512
"""How many objects decide the offsets."""
_COLUMNS_TRIED = 8
_THREAD_OBJECT = 6
"""Type in a thread's dispatcher header (KOBJECTS, wdm.h)."""
_THREAD_BYTES = 0x800
"""A thread is read so far before and behind its link in its process's list of threads."""
_THREAD_VOTERS = 64
STILL_ACTIVE = 0x103
"""ExitStatus of a process that has not ended (STATUS_PENDING, ntstatus.h)."""
_UNKNOWN_PARENT = 0.25
"""The weight of a parent that is gone, beside that of an existing, older parent."""
_HANDLES_TAG = np.frombuffer(b"Obtb", "<u4")[0]
_TAG_BEFORE = {32: 4, 64: 12}
"""Distance from the tag in a pool header to the allocation behind it, in every version."""
_HANDLES_VOTERS = 8
_POOL_TAGS = [np.frombuffer(tag, "<u4")[0] for tag in (b"Pro\xe3", b"Proc")]
_TAG_SHARE = 10
"""At least one in so many objects must have its tag at a distance for it to count."""
_TAG_DISTANCE = 0x100
"""Object headers, with the optional headers before them, are smaller."""


@dataclass(frozen=True)
class Threads:
    """Offsets by which a process leads to its threads, and a thread to its process."""

    head: int
    """Head of the list in the process object."""
    type: int
    """Distance from the beginning of a thread object to its link in that list."""
    pid: int | None = None
    """Distance from that link to the process's pid (CLIENT_ID.UniqueProcess); may be negative."""


@dataclass(frozen=True)
class Layout:
    """Offsets in `_EPROCESS`, found in the objects of one dump."""

    bits: int
    pid: int
    links: int
    """ActiveProcessLinks; in every version it follows the pid."""
    tags: tuple[int, ...] = ()
    """Possible distances from the tag of an object's pool block to the object."""
    name: int | None = None
    parent: int | None = None
    created: int | None = None
    exited: int | None = None
    status: int | None = None
    """ExitStatus."""
    shadow: int | None = None
    """UserDirectoryTableBase."""
    threads: Threads | None = None
    handles: int | None = None
    """ObjectTable, the table of handles."""
    size_byte: int | None = None
    """Third byte of the dispatcher header: the object's size in words."""
    signs: tuple[int, ...] = ()
    """Offsets of 32-bit members that are not 0 in nearly all processes."""

    @property
    def width(self) -> int:
        """Bytes of a pointer."""
        return self.bits // 8


def few_of_each_base(
    kernel: KernelMemory, bits: int, objects: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The first objects of each table base.

    Each process has a base of its own, but copies, and data that resemble a process, have not.
    """
    base = numbers_at(kernel, objects, TABLE_BASE[bits], bits // 8) & ~np.uint64(BASE_NUMBER)
    return objects[rank_among(base) < _VOTERS_OF_BASE]


def find_links(kernel: KernelMemory, bits: int, objects: NDArray[np.uint64]) -> Layout | None:
    """Find the offsets of pid and links; None if the objects do not show them.

    The target of a link must link back, and must be a process, too. Targets are read from memory,
    so the neighbours need not be among `objects`. If all links are destroyed, numbers that look
    like pids and are followed by pointers decide.
    """
    objects = _voters(objects)
    width = bits // 8
    words = _words(kernel, objects, bits)
    pids, forward, back = words[:, :-2], words[:, 1:-1], words[:, 2:]
    space = kernel_space(bits)
    linked = are_pids(pids) & (forward >= space) & (back >= space)
    best, best_score = None, 0
    for column in np.argsort(-_distinct(pids, linked), kind="stable")[:_COLUMNS_TRIED].tolist():
        rows = np.flatnonzero(linked[:, column])
        links = (column + 1) * width
        pair = forward[rows, column], back[rows, column]
        proven = _lead_back(kernel, bits, objects[rows], links, *pair)
        score = len(distinct(pids[rows[proven], column]))
        if score > best_score:
            best, best_score = links, score
    if best is None:
        best = _looks_like_links(pids, forward, back, bits)
    return None if best is None else Layout(bits, best - width, best, find_tags(kernel, objects))


def _looks_like_links(
    pids: NDArray[np.uint64], forward: NDArray[np.uint64], back: NDArray[np.uint64], bits: int
) -> int | None:
    """The offset of different pids in most objects, followed by two pointers or nulls.

    For dumps that lost all links, or the targets of the links.
    """
    space = kernel_space(bits)
    linked = are_pids(pids) & (forward >= space) & (back >= space)
    loose = are_pids(pids) & ((forward >= space) | (forward == 0)) & ((back >= space) | (back == 0))
    for chosen in (linked, loose):
        count = _distinct(pids, chosen)
        count[TABLE_BASE[bits] // (bits // 8)] = 0  # differs in each object, but is not a pid
        if 4 * count.max(initial=0) >= max(3 * len(pids), 12):
            return (int(np.argmax(count)) + 1) * (bits // 8)
    return None


def kernel_space(bits: int) -> np.uint64:
    """The first address of the kernel's half of virtual memory."""
    return np.uint64(1 << 31 if bits == 32 else 0xFFFF8000_00000000)


def _voters(objects: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """An even sample of the objects if there are too many."""
    step = -(-len(objects) // _VOTERS)
    return objects[:: max(step, 1)]


def _words(kernel: KernelMemory, objects: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    contents = kernel.read_partly(objects, OBJECT_BYTES[bits])
    return contents.view(f"<u{bits // 8}").astype(np.uint64, copy=False)


def are_pids(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which numbers can be pids: on Windows these are multiples of 4."""
    plausible: NDArray[np.bool_] = (values > 0) & (values < MAX_PID) & (values & np.uint64(3) == 0)
    return plausible


def is_pid(number: int) -> bool:
    """Whether Windows gives such pids."""
    return 0 < number < MAX_PID and number % 4 == 0


def _distinct(values: NDArray[np.uint64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many different values each column has among the chosen ones."""
    count = np.zeros(values.shape[1], np.int64)
    for column in np.flatnonzero(chosen.any(axis=0)):
        count[column] = len(distinct(values[chosen[:, column], column]))
    return count


def _lead_back(
    kernel: KernelMemory,
    bits: int,
    objects: NDArray[np.uint64],
    links: int,
    forward: NDArray[np.uint64],
    back: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Which objects have a neighbour that leads back to them and looks like a process."""
    width = bits // 8
    own = objects + np.uint64(links)
    found = np.zeros(len(objects), bool)
    # If the headers of most objects are altered, headers say nothing about neighbours either.
    headers = kernel.read_partly(objects, 1)[:, 0] == PROCESS_OBJECT
    have_headers = 2 * np.count_nonzero(headers) >= len(objects)
    own_pids = _numbers(kernel, own - np.uint64(width), width)
    for target, offset in ((forward, width), (back, 0)):
        returned = _numbers(kernel, target + np.uint64(offset), width)
        neighbour = target - np.uint64(links)
        pids = _numbers(kernel, target - np.uint64(width), width)
        proven = (returned == own) & (target != own) & are_pids(pids) & (pids != own_pids)
        if have_headers:
            proven &= kernel.read_partly(neighbour, 1)[:, 0] == PROCESS_OBJECT
        found |= proven
    return found


def _numbers(kernel: KernelMemory, addresses: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    raw = kernel.read_partly(addresses, width)
    return raw.copy().view(f"<u{width}").astype(np.uint64)[:, 0]


def numbers_at(
    kernel: KernelMemory, objects: NDArray[np.uint64], offset: int, width: int
) -> NDArray[np.uint64]:
    """A member of each object as a number; 0 where nothing is mapped."""
    return _numbers(kernel, objects + np.uint64(offset % 2**64), width)


def with_fields(layout: Layout, kernel: KernelMemory, objects: NDArray[np.uint64]) -> Layout:
    """Find all other offsets, by objects that surely are processes."""
    objects = _voters(objects)
    contents = kernel.read_partly(objects, OBJECT_BYTES[layout.bits])
    words = contents.view(f"<u{layout.width}").astype(np.uint64, copy=False)
    pids = words[:, layout.pid // layout.width]
    sizes, count = np.unique(contents[:, 2], return_counts=True)
    signalled: NDArray[np.bool_] = np.logical_or.reduce(contents[:, 4:8] != 0, axis=1)
    status = _find_status(contents)
    ended = signalled if status is None else signalled & ~_is_active(contents, status)
    created = _find_created(contents, layout.pid)
    layout = replace(
        layout,
        name=_find_name(contents),
        created=created,
        exited=None if created is None else _find_exited(contents, created, ended),
        status=status,
        threads=_find_threads(kernel, layout, objects, words),
        handles=_find_handles(kernel, layout, objects[~ended], words[~ended]),
        size_byte=int(sizes[np.argmax(count)]) if len(sizes) else None,
    )
    layout = replace(layout, signs=_find_signs(contents, ended, layout))
    return replace(layout, parent=_find_parent(layout, contents, words, pids))


def are_names(texts: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows of 16 bytes are names: a few printable characters, then zeros; shape (…, 16)."""
    text = texts[..., :NAME_BYTES]
    printable = (text >= 0x20) & (text != 0x7F)
    length = np.where((text == 0).any(axis=-1), np.argmax(text == 0, axis=-1), NAME_BYTES)
    within = np.arange(NAME_BYTES) < length[..., None]
    plausible: NDArray[np.bool_] = (length >= 2) & (printable | ~within).all(axis=-1)
    return plausible


def _find_name(contents: NDArray[np.uint8]) -> int | None:
    """The first offset at which most objects have a name; longer names weigh more."""
    columns = (contents.shape[1] - 16) // 4
    score = np.zeros(columns)
    first, second = contents[:, : 4 * columns : 4], contents[:, 1 : 4 * columns : 4]
    begins = np.count_nonzero((first > 0x20) & (second >= 0x20), axis=0)
    for column in np.flatnonzero(2 * begins >= len(contents)).tolist():
        texts = contents[:, column * 4 : column * 4 + 16]
        named = are_names(texts)
        if 2 * np.count_nonzero(named) < len(texts):
            continue
        is_long = texts[named, 5] != 0
        is_ascii = (texts[named] < 0x7F).all(axis=1)
        score[column] = np.count_nonzero(named) + np.count_nonzero(is_long & is_ascii)
    best = score.max(initial=0)
    return int(np.flatnonzero(score >= 0.9 * best)[0]) * 4 if best else None


def are_times(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which numbers are plausible timestamps of Windows."""
    plausible: NDArray[np.bool_] = (values > EARLIEST) & (values < LATEST)
    return plausible


def _find_created(contents: NDArray[np.uint8], pid: int) -> int | None:
    """CreateTime: the earliest timestamp in many objects, or the nearest to the pid."""
    times = contents.view("<u8")
    is_time = are_times(times)
    count = np.count_nonzero(is_time, axis=0)
    if 3 * count.max(initial=0) < len(contents):
        return None
    columns = np.flatnonzero(4 * count >= 3 * count.max())
    everywhere = is_time[:, columns].all(axis=1)
    if everywhere.any():
        ordered = np.sort(times[everywhere][:, columns].astype(np.float64), axis=0)
        # Twice the median; np.median would load numpy.ma.
        middle = ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
        columns = columns[middle == middle.min()]
    return int(columns[np.argmin(np.abs(columns * 8 - pid))]) * 8


def _find_exited(contents: NDArray[np.uint8], created: int, ended: NDArray[np.bool_]) -> int | None:
    """ExitTime: a timestamp after the creation in processes that ended, 0 in others."""
    times = contents.view("<u8")
    start = times[:, created // 8]
    is_time = are_times(times) & (times >= start[:, None])
    agrees = np.count_nonzero(np.where(ended[:, None], is_time, times == 0), axis=0)
    told = np.count_nonzero(is_time & ended[:, None], axis=0)
    # If no process has ended, one in the midst of its exit tells; ExitTime follows CreateTime until
    # 8.1.
    behind = slice(created // 8 + 1, created // 8 + 2)  # empty behind the last word
    told[behind] = np.maximum(told[behind], np.count_nonzero(is_time[:, behind], axis=0))
    right = np.flatnonzero((told > 0) & (2 * agrees >= len(contents)))
    right = right[right != created // 8]
    if not len(right):
        return None
    order = np.lexsort((np.abs(right * 8 - created), -agrees[right]))
    return int(right[order[0]]) * 8


def _is_active(contents: NDArray[np.uint8], status: int) -> NDArray[np.bool_]:
    active: NDArray[np.bool_] = contents.view("<u4")[:, status // 4] == STILL_ACTIVE
    return active


def _find_status(contents: NDArray[np.uint8]) -> int | None:
    """ExitStatus: the offset at which at least half of the objects say that they have not ended."""
    count = np.count_nonzero(contents.view("<u4") == STILL_ACTIVE, axis=0)
    best = int(np.argmax(count))
    return best * 4 if count[best] >= max(1, len(contents) / 4) else None


def _find_threads(
    kernel: KernelMemory, layout: Layout, objects: NDArray[np.uint64], words: NDArray[np.uint64]
) -> Threads | None:
    """The list whose entries lie in threads, and the offset of the process's pid in these."""
    width = layout.width
    step = max(1, len(objects) // _THREAD_VOTERS)
    objects, words = objects[::step], words[::step]
    if not len(objects):
        return None
    forward, back = words[:, :-1], words[:, 1:]
    own = objects[:, None] + np.arange(words.shape[1] - 1, dtype=np.uint64) * np.uint64(width)
    space = kernel_space(layout.bits)
    like = (forward >= space) & (back >= space) & (forward != own)
    best, best_score = None, 0
    columns = np.argsort(-np.count_nonzero(like, axis=0), kind="stable")
    for column in columns[: 4 * _COLUMNS_TRIED].tolist():
        if column * width in (layout.links, layout.pid):
            continue
        rows = np.flatnonzero(like[:, column])
        if 2 * len(rows) < len(objects):
            break
        link = forward[rows, column]
        rows = rows[_numbers(kernel, link + np.uint64(width), width) == own[rows, column]]
        if 2 * len(rows) < len(objects):
            continue
        link = forward[rows, column]
        around = kernel.read_partly(link - np.uint64(_THREAD_BYTES), 2 * _THREAD_BYTES)
        distance = _common_distance(around, link, width)
        if distance is None:
            continue
        score = len(rows)
        if score > best_score:
            pids = words[rows, layout.pid // width]
            best = Threads(column * width, distance, _find_pid_of(around, pids, width))
            best_score = score
    return best


def _common_distance(around: NDArray[np.uint8], link: NDArray[np.uint64], width: int) -> int | None:
    """The distance from thread objects to most links: a thread's first byte tells its type."""
    distances = np.arange(0, _THREAD_BYTES, 4)
    is_thread = around[:, _THREAD_BYTES - distances] == _THREAD_OBJECT
    aligned = (link[:, None] - distances.astype(np.uint64)) % np.uint64(2 * width) == 0
    count = np.count_nonzero(is_thread & aligned, axis=0)
    best = int(np.argmax(count))
    return int(distances[best]) if count[best] > len(link) // 2 else None


def _find_pid_of(around: NDArray[np.uint8], pids: NDArray[np.uint64], width: int) -> int | None:
    """The distance from a thread's link to the pid of its process, by most threads."""
    words = around.view(f"<u{width}").astype(np.uint64, copy=False)
    count = np.count_nonzero((words == pids[:, None]) & (pids[:, None] > 0), axis=0)
    best = int(np.argmax(count))
    return best * width - _THREAD_BYTES if 4 * count[best] >= 3 * len(pids) else None


def _find_handles(
    kernel: KernelMemory, layout: Layout, objects: NDArray[np.uint64], words: NDArray[np.uint64]
) -> int | None:
    """ObjectTable: the offset at which most running processes name a table of handles.

    Pool blocks with the tag of such tables are not rare, but no other member leads to one.
    """
    step = -(-len(objects) // _HANDLES_VOTERS)
    words = words[:: max(step, 1)]
    like = (words >= kernel_space(layout.bits)) & (words % np.uint64(2 * layout.width) == 0)
    columns = np.flatnonzero(2 * np.count_nonzero(like, axis=0) > len(words))
    row, column = np.nonzero(like[:, columns])
    tagged = lead_to_handles(kernel, layout.bits, words[row, columns[column]])
    count = np.bincount(column[tagged], minlength=len(columns))
    if not len(count) or 2 * count.max() <= len(words):
        return None
    return int(columns[np.argmax(count)]) * layout.width


def lead_to_handles(
    kernel: KernelMemory, bits: int, tables: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Which addresses lead to tables of handles, by the tag before them."""
    tags = _numbers(kernel, tables - np.uint64(_TAG_BEFORE[bits]), 4)
    is_table: NDArray[np.bool_] = tags == _HANDLES_TAG
    return is_table


def _find_signs(
    contents: NDArray[np.uint8], ended: NDArray[np.bool_], layout: Layout
) -> tuple[int, ...]:
    """Offsets of members that are 0 in hardly any process, unless it starts."""
    numbers = contents.view("<u4")[~ended]
    if len(numbers) < 3:
        return ()
    filled = np.count_nonzero(numbers, axis=0)
    places = np.flatnonzero(filled >= len(numbers) - max(1, len(numbers) // 20)) * 4
    own = {*range(TABLE_BASE[layout.bits] + 8), *range(layout.pid, layout.links + 2 * layout.width)}
    return tuple(place for place in places.tolist() if place not in own)


def _find_parent(
    layout: Layout,
    contents: NDArray[np.uint8],
    words: NDArray[np.uint64],
    pids: NDArray[np.uint64],
) -> int | None:
    """The offset that most often holds the pid of another, older process.

    System has 0 there, and a plausible pid of System's weighs much against a member; but System's
    object may be damaged as any other. A member with the same number everywhere is something else.
    """
    voters = np.flatnonzero(are_pids(pids))
    if not len(voters):
        return None
    order = voters[np.argsort(pids[voters], kind="stable")]
    known = pids[order]
    created = np.zeros(len(pids), np.uint64)
    if layout.created is not None:
        created = contents.view("<u8")[:, layout.created // 8]
    values, own = words[voters], pids[voters]
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    parent = order[place]
    hits = (known[place] == values) & (created[parent] <= created[voters][:, None])
    hits |= values == SYSTEM_PID  # the parent's object may be lost
    hits &= values != own[:, None]
    wrong = (values >= MAX_PID) | (values & np.uint64(3) != 0)
    system = np.where(values == 0, 1.0, np.where(wrong, 0.0, -len(voters) / 4))
    score = hits.sum(axis=0) - 1.0 * wrong.sum(axis=0)
    unknown = are_pids(values) & (values != own[:, None])
    # Several processes share a parent; a number that differs in each process is something else.
    siblings = unknown.sum(axis=0) - _distinct(values, unknown)
    score += _UNKNOWN_PARENT * siblings
    if (own == SYSTEM_PID).any():
        score += system[own == SYSTEM_PID].max(axis=0)  # all of them but one are damaged
    best, best_score = None, 0.0
    taken = {TABLE_BASE[layout.bits], layout.pid, layout.links, layout.links + layout.width}
    for column in np.argsort(-score, kind="stable")[:_COLUMNS_TRIED].tolist():
        if score[column] <= best_score or column * layout.width in taken:
            continue
        told = values[are_pids(values[:, column]), column]
        if len(voters) > 3 and len(distinct(told)) < 2:
            continue
        best, best_score = column * layout.width, float(score[column])
    return best


def with_shadow(
    layout: Layout, kernel: KernelMemory, objects: NDArray[np.uint64], shadows: dict[int, int]
) -> Layout:
    """Find the offset at which the objects name second tables, if they do."""
    words = _words(kernel, _voters(objects), layout.bits)
    known = np.sort(np.array(list(shadows), np.uint64))
    hits = np.count_nonzero(is_in(words & ~np.uint64(0xFFF), known), axis=0)
    if not hits.any():
        return layout
    return replace(layout, shadow=int(np.argmax(hits)) * layout.width)


def find_tags(kernel: KernelMemory, objects: NDArray[np.uint64]) -> tuple[int, ...]:
    """The distances from the pool block's tag to process objects that more than a few show.

    Optional headers, which not all objects have, may lie in between.
    """
    objects = _voters(objects)
    count = np.count_nonzero(_tags_before(kernel, objects), axis=0)
    usual = np.flatnonzero(_TAG_SHARE * count >= max(len(objects), 1))
    return tuple((_TAG_DISTANCE - usual * 4).tolist())


def have_pool_tag(
    kernel: KernelMemory, objects: NDArray[np.uint64], distances: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which objects have the tag of a process's pool block at one of these distances."""
    places = (_TAG_DISTANCE - np.array(distances, np.int64)) // 4
    tagged: NDArray[np.bool_] = np.logical_or.reduce(
        _tags_before(kernel, objects)[:, places], axis=1
    )
    return tagged


def _tags_before(kernel: KernelMemory, objects: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """The places before each object with the tag ``Proc``, until Windows 7 with the top bit set."""
    before = (
        kernel.read_partly(objects - np.uint64(_TAG_DISTANCE), _TAG_DISTANCE).copy().view("<u4")
    )
    tags: NDArray[np.bool_] = np.logical_or.reduce([before == tag for tag in _POOL_TAGS])
    return tags
