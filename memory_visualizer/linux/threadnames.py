"""The names of kernel threads in full, as /proc/PID/comm has them (fs/proc/array.c).

A task has only 15 letters of its name. A kernel thread leads to its struct kthread, and this leads
to a longer name (5.17), or to a worker's struct worker, which describes the worker's last work
(4.18). BTF tells the offsets; without BTF the threads show them, as long as most of them agree.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.offsets import COMM_SIZE, KERNEL_THREAD, Offsets
from memory_visualizer.paging.tablememory import TableMemory

WORKER = 0x0000_0020
"""In task_struct.flags: PF_WQ_WORKER."""
_DESCRIPTION_SIZE = 32
"""WORKER_DESC_LEN, and WQ_NAME_LEN."""
_LONGEST_NAME = 64
_RESCUER = b"kworker/R-"

_EXAMPLES = 256
"""The most tasks that vote on offsets."""
_KTHREAD_SIZE, _WORKER_SIZE = 128, 192
"""Bytes of a struct kthread and of a struct worker that are examined."""
_QUEUE_SIZE = 512
"""Bytes of a workqueue_struct that are examined."""
_CURRENT_WORK = 2
"""Words in front of current_work in struct worker, in all versions (workqueue_internal.h)."""
_TRIED_COLUMNS = 8
"""Places in a task that may seem to lead to a struct kthread."""
_FEW = 2
_MOST, _HALF = 2 / 3, 1 / 2


def name_threads(
    kernel: TableMemory,
    offsets: Offsets,
    names: list[bytes],
    threads: NDArray[np.intp],
    flags: NDArray[np.uint64],
    kthread: NDArray[np.uint64],
) -> None:
    """Give kernel threads their names in full, as /proc/PID/comm has them (fs/proc/array.c).

    `threads` are the rows of kernel threads in names, flags and struct kthreads.
    """
    is_worker = flags[threads] & np.uint64(WORKER) != 0
    workers, others = threads[is_worker], threads[~is_worker]
    places = (offsets.data, offsets.work, offsets.description, offsets.pool)
    if None not in places:
        data, work, description, pool = (np.uint64(place or 0) for place in places)
        worker, _ = kernel.numbers(kthread[workers] + data)
        works, _ = kernel.numbers(worker + work)
        pools, _ = kernel.numbers(worker + pool)
        texts, _ = kernel.read_each(worker + description, _DESCRIPTION_SIZE)
        for row, is_busy, has_pool, text in zip(
            workers.tolist(), (works != 0).tolist(), (pools != 0).tolist(), texts, strict=True
        ):
            told = text.tobytes().split(b"\0")[0]
            if told and has_pool:
                names[row] += (b"+" if is_busy else b"-") + told
    if None not in (offsets.data, offsets.rescued, offsets.queue_name):
        _name_rescuers(kernel, offsets, names, workers, kthread)
    if offsets.full_name is not None:
        place, _ = kernel.numbers(kthread[others] + np.uint64(offsets.full_name))
        texts, known = kernel.read_each(place, _LONGEST_NAME)
        known &= place != 0
        for row, text in zip(others[known].tolist(), texts[known], strict=True):
            names[row] = text.tobytes().split(b"\0")[0]


def _name_rescuers(
    kernel: TableMemory,
    offsets: Offsets,
    names: list[bytes],
    workers: NDArray[np.intp],
    kthread: NDArray[np.uint64],
) -> None:
    """Give rescuers, the workers of a single queue, its full name (kernel/workqueue.c, 6.9)."""
    workers = workers[[names[row].startswith(_RESCUER) for row in workers.tolist()]]
    worker, _ = kernel.numbers(kthread[workers] + np.uint64(offsets.data or 0))
    queue, known = kernel.numbers(worker + np.uint64(offsets.rescued or 0))
    texts, there = kernel.read_each(queue + np.uint64(offsets.queue_name or 0), _DESCRIPTION_SIZE)
    there &= known & (queue != 0)
    for row, text in zip(workers[there].tolist(), texts[there], strict=True):
        name = _RESCUER + text.tobytes().split(b"\0")[0]
        if name.startswith(names[row]):
            names[row] = name


def with_thread_names(kernel: TableMemory, offsets: Offsets, tasks: Sequence[int]) -> Offsets:
    """Add the offsets of kernel threads' full names; unchanged if the tasks do not show them."""
    if offsets.flags is None:
        return offsets
    contents, known = kernel.read_each(
        np.array(tasks[:_EXAMPLES], np.uint64), offsets.comm + COMM_SIZE
    )
    contents = contents[known]
    place = offsets.flags
    flags = contents[:, place : place + 4].copy().view("<u4")[:, 0]
    is_thread = flags & np.uint32(KERNEL_THREAD) != 0
    is_worker = flags[is_thread] & np.uint32(WORKER) != 0
    names = [comm.tobytes() for comm in contents[is_thread, offsets.comm :]]
    at = np.array(tasks[:_EXAMPLES], np.uint64)[known][is_thread]
    found = offsets
    for column, objects in _own_objects(kernel, offsets.comm, contents, is_thread):
        led, _ = kernel.read_each(objects, _KTHREAD_SIZE)
        inner = kernel.words(led)
        full_name = _find_full_name(kernel, inner[~is_worker], _of_rows(names, ~is_worker))
        worker = _find_worker(kernel, inner[is_worker], at[is_worker])
        if worker:
            workers = inner[is_worker, worker["data"] // kernel.word]
            worker |= _find_rescued(kernel, workers, _of_rows(names, is_worker))
        if full_name is None and not worker:
            continue
        found = replace(found, kthread=column, full_name=full_name, **worker)
        if worker:
            break
    return found


def _of_rows(names: list[bytes], rows: NDArray[np.bool_]) -> list[bytes]:
    return [names[row] for row in np.flatnonzero(rows).tolist()]


def _own_objects(
    kernel: TableMemory, comm: int, contents: NDArray[np.uint8], is_thread: NDArray[np.bool_]
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Offsets in a task at which most kernel threads lead to an object of their own.

    Most other tasks have nothing there, or an address of their own memory. The addresses of the
    objects are returned, too.
    """
    words = kernel.words(contents[:, : comm // kernel.word * kernel.word].copy())
    leads = words >= np.uint64(kernel.upper)
    threads = np.count_nonzero(is_thread)
    if threads < _FEW or threads == len(words):
        return
    likely = (leads[is_thread].mean(axis=0) >= _MOST) & (leads[~is_thread].mean(axis=0) < _HALF)
    tries = 0
    for column in np.flatnonzero(likely).tolist():
        objects = words[is_thread, column]
        if tries < _TRIED_COLUMNS and len(np.unique(objects)) >= _MOST * threads:
            tries += 1
            yield column * kernel.word, objects


def _find_full_name(
    kernel: TableMemory, kthreads: NDArray[np.uint64], names: list[bytes]
) -> int | None:
    """`full_name` in struct kthread: it leads to a text that continues the thread's name.

    `kthreads` are the words of struct kthreads, in rows, of threads that are not workers.
    """
    cut = [row for row, name in enumerate(names) if name.find(b"\0") == COMM_SIZE - 1]
    best, place = _FEW - 1, None
    for column in range(kthreads.shape[1]):
        texts, known = kernel.read_each(kthreads[cut, column], _LONGEST_NAME)
        fits = 0
        for row, text in zip(np.array(cut)[known].tolist(), texts[known], strict=True):
            told = text.tobytes().split(b"\0")[0]
            fits += len(told) >= COMM_SIZE and told.startswith(names[row][: COMM_SIZE - 1])
        if fits > best:
            best, place = fits, column * kernel.word
    return place


def _find_worker(
    kernel: TableMemory, kthreads: NDArray[np.uint64], tasks: NDArray[np.uint64]
) -> dict[str, int]:
    """`data` in struct kthread, and offsets in struct worker; empty if most do not agree.

    A worker's struct worker leads back to its task; the pointer to its pool follows, which is null
    in a rescuer most of the time. `kthreads` are the words of workers' struct kthreads, in rows.
    """
    word, least = kernel.word, max(_FEW, _MOST * len(tasks))
    for column in range(kthreads.shape[1] if len(tasks) else 0):
        pointers = kthreads[:, column]
        if np.mean(pointers >= np.uint64(kernel.upper)) < _MOST:
            continue
        contents, _ = kernel.read_each(pointers, _WORKER_SIZE)
        words = kernel.words(contents)
        backwards = np.count_nonzero(words[:, :-1] == tasks[:, None], axis=0)
        # Other objects lead back, too, but have no text.
        for back in np.flatnonzero(backwards >= least).tolist():
            has_pool = words[:, back + 1] != 0
            description = _find_description(contents[has_pool], (back + 2) * word)
            if description is not None:
                return {
                    "data": column * word,
                    "work": _CURRENT_WORK * word,
                    "pool": (back + 1) * word,
                    "description": description,
                }
    return {}


def _find_rescued(
    kernel: TableMemory, workers: NDArray[np.uint64], names: list[bytes]
) -> dict[str, int]:
    """`rescue_wq` in struct worker, and `name` in workqueue_struct; empty if most do not agree.

    The queue's name continues the cut name of its rescuer. `workers` are the addresses of struct
    workers.
    """
    own = [name.split(b"\0")[0] for name in names]
    rows = [row for row, name in enumerate(own) if len(name) >= len(_RESCUER) + _FEW]
    rows = [row for row in rows if own[row].startswith(_RESCUER)]
    least = max(_FEW, _MOST * len(rows))
    contents, _ = kernel.read_each(workers[rows], _WORKER_SIZE)
    words = kernel.words(contents)
    for column in range(words.shape[1]):
        if np.count_nonzero(words[:, column] >= np.uint64(kernel.upper)) < least:
            continue
        queues, _ = kernel.read_each(words[:, column], _QUEUE_SIZE)
        ends = Counter(
            queue.tobytes().find(own[row][len(_RESCUER) :])
            for row, queue in zip(rows, queues, strict=True)
        )
        del ends[-1]
        place, votes = max(ends.items(), key=lambda one: one[1], default=(0, 0))
        if votes >= least:
            return {"rescued": column * kernel.word, "queue_name": place}
    return {}


def _find_description(workers: NDArray[np.uint8], start: int) -> int | None:
    """`desc` in struct worker: a text in most workers that have worked; None if there is none."""
    best, place = 0, None
    for at in range(start, workers.shape[1] - _DESCRIPTION_SIZE, 4):
        texts = [text.tobytes().split(b"\0") for text in workers[:, at : at + _DESCRIPTION_SIZE]]
        named = sum(
            len(parts) > 1 and len(parts[0]) >= _FEW and _is_printable(parts[0]) for parts in texts
        )
        if named > best:
            best, place = named, at
    return place if best >= max(_FEW, _HALF * len(workers)) else None


def _is_printable(raw: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in raw)
