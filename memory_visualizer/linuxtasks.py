"""The processes of a Linux kernel, walked in its own list.

Where in a task its pid and memory stand is told by BTF. Where a kernel has none, the tasks
themselves show it, as Windows' process objects do: what each of them has in the same place, and
what fits together.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.btf import Btf
from memory_visualizer.dump import PAGE_SIZE, Words
from memory_visualizer.kallsyms import kernel_image, places_of
from memory_visualizer.linux import LinuxKernel
from memory_visualizer.pagestates import PageArray
from memory_visualizer.paging import SHARED, PhysicalMemory, is_held, walk
from memory_visualizer.process import Process, unnamed
from memory_visualizer.virtualmemory import VirtualMemory

_KERNEL_THREAD = 0x0020_0000
"""In task_struct.flags: PF_KTHREAD."""
_WORKER = 0x0000_0020
"""PF_WQ_WORKER."""
_ENDED = 0x30
"""In task_struct.exit_state: EXIT_DEAD, EXIT_ZOMBIE."""
_FRAMES_OF_TASK, _MORE_TASKS = 16, 1024
_MOST_THREADS = 64
"""Ended ones that may stand in a list before one that has memory."""
_MAX_PID = 1 << 22
_TASK_SIZE = 1 << 13
"""As much of a task as is looked at."""
_LARGEST_TASK = 1 << 16
_HALF_WORDS = ("pid", "flags", "exit_state")
"""Of what is read of a task, what has 32 bits."""
_MEMORY_SIZE = 1 << 10
"""Likewise of an mm_struct."""
_TOUCHED = 0x60
"""Bits of a table's entry by which the processor notes that it was used."""
_COMM_SIZE = 16
_DESCRIPTION_SIZE = 32
"""WORKER_DESC_LEN."""
_MAX_NAME = 64
_FIRST_COMMS = (b"swapper/0\0", b"swapper\0")
_MOST_FIRST = 256
"""Places of that name that are looked at."""
_EXAMPLES = 512
"""Tasks by which offsets are found; the second of all has pid 1."""
_FEW_EXAMPLES = 64
_MOST_COLUMNS = 8
"""Places in a task that may seem to lead to its memory."""
_KERNEL_THREADS_PARENT = 2
"""The pid of kthreadd, in every version."""


@dataclass(frozen=True)
class LinuxProcesses:
    """The processes, and the top-level tables of those that have memory of their own."""

    processes: tuple[Process, ...]
    """In the order of their pids; `space` is an index in `tops`."""
    tops: NDArray[np.int64]
    """Frames, shape (n, 1)."""
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Offsets:
    """Where in task_struct and mm_struct stands what is needed."""

    tasks: int
    pid: int
    """tgid: the process's number, that of its first thread."""
    parent: int
    comm: int
    mm: int
    flags: int | None
    exit_state: int | None
    pgd: int
    """In mm_struct."""
    signal: int | None = None
    threads: int | None = None
    """Head of the list of threads, in signal_struct."""
    thread: int | None = None
    """Link in that list, in task_struct."""
    kthread: int | None = None
    """What a kernel thread has as a struct kthread."""
    full_name: int | None = None
    data: int | None = None
    """Both in struct kthread; the latter leads to a worker's struct worker."""
    work: int | None = None
    description: int | None = None
    pool: int | None = None
    """All three in struct worker."""

    @property
    def of_task(self) -> dict[str, int]:
        """Where in a task its words stand that are read."""
        places = {
            "pid": self.pid,
            "parent": self.parent,
            "comm": self.comm,
            "comm_end": self.comm + 8,
            "mm": self.mm,
            "flags": self.flags,
            "exit_state": self.exit_state,
            "signal": self.signal,
            "kthread": self.kthread,
        }
        return {name: place for name, place in places.items() if place is not None}


def find_processes(found: LinuxKernel, pages: PageArray | None) -> LinuxProcesses:
    """Walk the kernel's list of processes, threads left out, and its list of address spaces.

    A process that is in the latter only has been taken out of the former, as rootkits do. `pages`
    are the kernel's struct pages, by which address spaces are listed.
    """
    first = found.symbols.get("init_task") or _find_first_task(found)
    offsets = _offsets_by_btf(found.btf) if found.btf else None
    if offsets is None and first is not None:
        offsets = _offsets_by_form(found, first)
    if first is None or offsets is None:
        return _nameless(found, pages)
    most = most_tasks(found.memory)
    tasks, remarks = _listed(found.kernel, first, offsets.tasks, most)
    tops: dict[int, int] = {}
    processes = [one for one in _processes(found, offsets, tasks, tops) if one]
    if pages and "pgd_list" in found.symbols:
        spaces, all_of_them = pages.listed(found.symbols["pgd_list"], most)
        processes += _with_spaces(found, offsets, pages, spaces, tops)
        if not all_of_them:
            remarks += ("the list of address spaces is longer than any: not all of it was read",)
    processes.sort(key=lambda process: (process.pid, process.eprocess))
    frames = np.array(list(tops), np.int64)[:, None]
    return LinuxProcesses(tuple(processes), frames, remarks)


def most_tasks(memory: PhysicalMemory) -> int:
    """So many processes there may be: each has stacks, tables and objects of its own."""
    return memory.frame_count // _FRAMES_OF_TASK + _MORE_TASKS


def _nameless(found: LinuxKernel, pages: PageArray | None) -> LinuxProcesses:
    """Address spaces by the kernel's half that all of them share, of tables that are in use."""
    own = found.memory.read_frames(np.array([found.top]))[0] & ~np.uint64(_TOUCHED)
    half = found.paging.entries // 2
    shared = half + np.flatnonzero(own[half:])

    def look(frames: NDArray[np.int64], words: Words) -> NDArray[np.int64]:
        rows = np.flatnonzero(words[:, -1] & ~np.uint64(_TOUCHED) == own[-1])
        tables = words[rows]
        same = tables[:, shared] & ~np.uint64(_TOUCHED) == own[shared]
        # The second table under page-table isolation has but a few of these entries.
        alike = np.count_nonzero(same, axis=1) * 2 >= len(shared)
        found: NDArray[np.int64] = frames[rows[alike & tables[:, :half].any(axis=1)]]
        return found

    tops = np.concatenate([np.empty(0, np.int64), *found.memory.each_block(look)])
    if pages:
        tops = tops[pages.are_counted(tops)]
    remarks = [
        "the list of processes was not found; address spaces are shown without their names",
    ]
    if left_out := len(tops) - len(tops := tops[: most_tasks(found.memory)]):
        remarks.append(
            f"{left_out:,} address spaces were left out: there are more than any machine has"
        )
    return LinuxProcesses(
        tuple(unnamed(frame, space) for space, frame in enumerate(tops.tolist())),
        tops[:, None],
        tuple(remarks),
    )


def _offsets_by_btf(types: Btf) -> _Offsets | None:
    def task(*names: str) -> int | None:
        return types.offset("task_struct", *names)

    tasks, pid, parent = task("tasks"), task("tgid"), task("real_parent")
    comm, mm, pgd = task("comm"), task("mm"), types.offset("mm_struct", "pgd")
    if tasks is None or pid is None or parent is None or comm is None or mm is None or pgd is None:
        return None
    if max(tasks, pid, parent, comm, mm, pgd) > _LARGEST_TASK:
        return None
    return _Offsets(
        tasks,
        pid,
        parent,
        comm,
        mm,
        flags=task("flags"),
        exit_state=task("exit_state"),
        pgd=pgd,
        signal=task("signal"),
        threads=types.offset("signal_struct", "thread_head"),
        thread=task("thread_node"),
        # Since 5.17 in a member of its own.
        kthread=task("worker_private", "set_child_tid"),
        full_name=types.offset("kthread", "full_name"),
        data=types.offset("kthread", "data"),
        work=types.offset("worker", "current_work"),
        description=types.offset("worker", "desc"),
        pool=types.offset("worker", "pool"),
    )


def _listed(
    kernel: VirtualMemory, first: int, link: int, most: int
) -> tuple[list[int], tuple[str, ...]]:
    """Addresses of the tasks in the list that the first one heads, itself left out; remarks."""
    tasks: list[int] = []
    seen = {first}
    for direction in (0, 8):
        at = first
        while True:
            following = kernel.number(at + link + direction)
            if following is None:
                break
            at = (following - link) % 2**64
            if at == first:
                return tasks, ()
            if at in seen:
                break
            if len(tasks) == most:
                remark = f"the list of processes is longer than any: {most:,} of it were read"
                return tasks, (remark,)
            seen.add(at)
            tasks.append(at)
    return tasks, ("the list of processes is broken: some may be missing",)


def _processes(
    found: LinuxKernel, offsets: _Offsets, tasks: list[int], tops: dict[int, int]
) -> list[Process | None]:
    """The process of each task, None where it cannot be read.

    Top-level tables that are not yet in `tops` are added. All tasks are read together, as they
    may be many.
    """
    kernel = found.kernel
    places = offsets.of_task
    names = list(places)
    at = np.array(tasks, np.uint64)[:, None] + np.array(list(places.values()), np.uint64)
    read, known = kernel.numbers(at.ravel())
    words = read.reshape(at.shape)
    whole = np.logical_and.reduce(known.reshape(at.shape), axis=1)

    def column(name: str) -> NDArray[np.uint64]:
        if name not in places:
            return np.zeros(len(tasks), np.uint64)
        values = words[:, names.index(name)].copy()
        if name in _HALF_WORDS:
            values &= np.uint64(0xFFFF_FFFF)
        return values

    pids, flags, mm = column("pid"), column("flags"), column("mm")
    parents, _ = kernel.numbers(column("parent") + np.uint64(offsets.pid), 4)
    is_thread: NDArray[np.bool_] = mm == 0
    if offsets.flags is not None:
        is_thread = flags & np.uint64(_KERNEL_THREAD) != 0
    if offsets.exit_state is None:
        ended = (mm == 0) & ~is_thread
    else:
        ended = column("exit_state") & np.uint64(_ENDED) != 0
    lost = np.flatnonzero(whole & ended & (mm == 0))
    mm[lost] = _memory_of_threads(kernel, offsets, column("signal")[lost], most_tasks(found.memory))
    # A kernel thread may borrow a process's memory for a while.
    frames = _tops_of(found, offsets, np.where(is_thread, np.uint64(0), mm))
    texts = words[:, [names.index("comm"), names.index("comm_end")]].copy().view(np.uint8)
    comms = [text.tobytes().split(b"\0")[0] for text in texts]
    if offsets.kthread is not None:
        threads = np.flatnonzero(whole & is_thread)
        _name_threads(kernel, offsets, comms, threads, flags, column("kthread"))
    processes: list[Process | None] = []
    for row, (task, pid, parent, frame, comm) in enumerate(
        zip(tasks, pids.tolist(), parents.tolist(), frames.tolist(), comms, strict=True)
    ):
        if not whole[row]:
            processes.append(None)
            continue
        if frame >= 0:
            tops.setdefault(frame, len(tops))
        process = Process(
            pid=pid,
            ppid=parent,
            name=comm.decode("utf-8", "backslashreplace"),
            dtb=max(frame, 0) * PAGE_SIZE,
            eprocess=task,
            created=0,
            exited=0,
            # One whose first thread has ended lives on in the others.
            is_alive=not ended[row] or frame >= 0,
            is_listed=True,
            space=None if frame < 0 else tops[frame],
            is_kernel_thread=bool(is_thread[row]),
        )
        processes.append(process)
    return processes


def _with_spaces(
    found: LinuxKernel,
    offsets: _Offsets,
    pages: PageArray,
    listed: list[int],
    tops: dict[int, int],
) -> list[Process]:
    """The processes of those address spaces that are not in `tops`, by their top-level tables.

    The table's `struct page` leads to the mm_struct, and that to its owner, where BTF says how. If
    this is a known process (its first thread has ended), it gets the space back.
    """
    frames = np.array([frame for frame in dict.fromkeys(listed) if frame not in tops], np.int64)
    frames = frames[found.memory.held[frames]]
    has_user = np.zeros(len(frames), bool)
    for part in walk(found.memory, found.paging, frames[:, None], own_only=True):
        has_user[part.space[part.is_user & (part.space != SHARED)]] = True
    frames = frames[has_user]  # the others are about to go, or the kernel's own
    for frame in frames.tolist():
        tops.setdefault(frame, len(tops))
    types, kernel = found.btf, found.kernel
    place = types.offset("page", "pt_mm") or types.offset("ptdesc", "pt_mm") if types else None
    owner = types.offset("mm_struct", "owner") if types else None
    owners: list[Process | None] = [None] * len(frames)
    if place is not None and owner is not None:
        mm, _ = pages.words(frames, place)
        tasks, _ = kernel.numbers(mm + np.uint64(owner))
        back, _ = kernel.numbers(tasks + np.uint64(offsets.mm))
        owned = np.flatnonzero((mm != 0) & (tasks != 0) & (back == mm))
        known = _processes(found, offsets, tasks[owned].tolist(), tops)
        for row, process in zip(owned.tolist(), known, strict=True):
            owners[row] = process
    processes = []
    for frame, process in zip(frames.tolist(), owners, strict=True):
        if process and process.space == tops[frame] and not process.is_kernel_thread:
            processes.append(replace(process, is_listed=False))
        else:
            processes.append(unnamed(frame, tops[frame]))
    return processes


def _tops_of(found: LinuxKernel, offsets: _Offsets, mm: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Frames of the top-level tables of address spaces, by their mm_structs; -1 where none is."""
    frames = np.full(len(mm), -1, np.int64)
    rows = np.flatnonzero(mm)
    pgd, _ = found.kernel.numbers(mm[rows] + np.uint64(offsets.pgd))
    rows, pgd = rows[pgd != 0], pgd[pgd != 0]
    frames[rows] = found.kernel.frames(pgd)
    frames[~is_held(found.memory, frames)] = -1
    return frames


def _name_threads(
    kernel: VirtualMemory,
    offsets: _Offsets,
    names: list[bytes],
    threads: NDArray[np.intp],
    flags: NDArray[np.uint64],
    kthread: NDArray[np.uint64],
) -> None:
    """Give kernel threads their names in full, as /proc/PID/comm has them (fs/proc/array.c).

    `threads` are the rows of them; names, flags and their struct kthread stand in these rows.
    """
    is_worker = flags[threads] & np.uint64(_WORKER) != 0
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
    if offsets.full_name is not None:
        place, _ = kernel.numbers(kthread[others] + np.uint64(offsets.full_name))
        texts, known = kernel.read_each(place, _MAX_NAME)
        known &= place != 0
        for row, text in zip(others[known].tolist(), texts[known], strict=True):
            names[row] = text.tobytes().split(b"\0")[0]


def _memory_of_threads(
    kernel: VirtualMemory, offsets: _Offsets, signals: NDArray[np.uint64], most: int
) -> NDArray[np.uint64]:
    """The memory of processes whose first threads have ended: that of any other; 0 if of none.

    Each has a struct signal that lists its threads. No more than `most` threads are looked at
    beside two of each process: threads that have ended, but for the first, are out of the list.
    """
    memory = np.zeros(len(signals), np.uint64)
    if offsets.threads is None or offsets.thread is None:
        return memory
    to_mm = np.uint64((offsets.mm - offsets.thread) % 2**64)
    head = signals + np.uint64(offsets.threads)
    at, _ = kernel.numbers(head)
    at[signals == 0] = 0
    room = most + 2 * len(signals)
    for _ in range(_MOST_THREADS):
        rows = np.flatnonzero((at != 0) & (at != head) & (memory == 0))[:room]
        if not len(rows):
            break
        room -= len(rows)
        memory[rows], _ = kernel.numbers(at[rows] + to_mm)
        at[rows], _ = kernel.numbers(at[rows])
    return memory


def _find_first_task(found: LinuxKernel) -> int | None:
    """The first task by its name, in the kernel's image; needs BTF."""
    comm = found.btf.offset("task_struct", "comm") if found.btf else None
    tasks = found.btf.offset("task_struct", "tasks") if found.btf else None
    image = kernel_image(found.kernel, found.info)
    if comm is None or tasks is None or image is None:
        return None
    start, contents = image
    for name in _FIRST_COMMS:
        for place in places_of(name, contents, _MOST_FIRST):
            task = start + place - comm
            following = found.kernel.number(task + tasks)
            if following and found.kernel.number(following + 8) == task + tasks:
                return task
    return None


def _offsets_by_form(found: LinuxKernel, first: int) -> _Offsets | None:
    """Find the offsets in the tasks; None where these do not show them."""
    kernel = found.kernel
    raw = kernel.read_far(first, _TASK_SIZE).tobytes()
    comm = next((raw.find(name) for name in _FIRST_COMMS if name in raw), -1)
    if comm < 0:
        return None
    room = 2 * most_tasks(found.memory)
    for link in range(0, comm, 8):
        tasks, is_whole = _linked_tasks(kernel, first, link, comm, room)
        if is_whole and len(tasks) > 1:
            break
        room -= len(tasks)
    else:
        return None
    everyone = [first, *tasks]
    examples = everyone[:_EXAMPLES]
    contents = np.stack([kernel.read_far(task, comm + _COMM_SIZE) for task in examples])
    words = contents[:, : comm // 8 * 8].copy().view("<u8")
    numbers = contents[:, : comm // 4 * 4].copy().view("<u4")
    memory = _find_memory(found, words, link // 8 + 2)
    pid = _find_pids(numbers, link // 4)
    if memory is None or pid is None:
        return None
    parent = _find_parents(words, np.array(everyone, np.uint64), pid // 8 + 1)
    if parent is None:
        return None
    mm, pgd = memory
    return _Offsets(
        link,
        pid,
        parent,
        comm,
        mm,
        flags=_find_flags(kernel, numbers, words[:, parent // 8], pid),
        exit_state=None,
        pgd=pgd,
    )


def _linked_tasks(
    kernel: VirtualMemory, first: int, link: int, comm: int, most: int
) -> tuple[list[int], bool]:
    """The tasks in the list by the pointers at an offset; and whether it is such a list."""
    tasks: list[int] = []
    at = first
    while len(tasks) < most:
        following = kernel.number(at + link)
        if following is None or kernel.number(following + 8) != at + link:
            break
        at = following - link
        if at == first:
            return tasks, True
        name = (kernel.read(at + comm, _COMM_SIZE) or b"\xff").split(b"\0")[0]
        if not name or len(name) == _COMM_SIZE or any(byte < 0x20 for byte in name):
            break
        tasks.append(at)
    return tasks, False


def _find_memory(
    found: LinuxKernel, words: NDArray[np.uint64], start: int
) -> tuple[int, int] | None:
    """`mm`, and `pgd` in what it leads to.

    It is nothing, as in the first task, or the same as `active_mm` behind it.
    """
    tries = 0
    for column in range(start, words.shape[1] - 1):
        mm = words[:, column]
        used = mm > 0
        if used[0] or not used.any() or (mm[used] != words[used, column + 1]).any():
            continue
        if (mm[used] >> np.uint64(63) == 1).all():
            pgd = _find_tables(found, np.unique(mm[used][:_FEW_EXAMPLES]))
            if pgd is not None:
                return column * 8, pgd
            tries += 1
            if tries == _MOST_COLUMNS:
                break
    return None


def _find_pids(numbers: NDArray[np.uint32], start: int) -> int | None:
    """`tgid`, which is the same as `pid` before it in all first threads."""
    for column in range(start, numbers.shape[1] - 1):
        pids = numbers[:, column]
        if (
            pids[0] == 0
            and (pids == 1).any()
            and (pids < _MAX_PID).all()
            and (numbers[:, column + 1] == pids).all()
            and len(np.unique(pids)) == len(pids)
        ):
            return (column + 1) * 4
    return None


def _find_parents(words: NDArray[np.uint64], tasks: NDArray[np.uint64], start: int) -> int | None:
    """`real_parent`: a task, for the first one itself; few have a thread as parent."""
    ordered = np.sort(tasks)
    for column in range(start, words.shape[1]):
        parents = words[:, column]
        if parents[0] != tasks[0]:
            continue
        place = np.minimum(np.searchsorted(ordered, parents), len(ordered) - 1)
        if np.count_nonzero(ordered[place] == parents) * 10 >= len(parents) * 9:
            return column * 8
    return None


def _find_flags(
    kernel: VirtualMemory,
    numbers: NDArray[np.uint32],
    parents: NDArray[np.uint64],
    pid: int,
) -> int | None:
    """`flags`: those of kernel threads, which are kthreadd's children, tell so."""
    own = numbers[:, pid // 4]
    above = [kernel.number(parent + pid, 4) or 0 for parent in parents.tolist()]
    expected = (own == _KERNEL_THREADS_PARENT) | (np.array(above) == _KERNEL_THREADS_PARENT)
    expected[0] = True
    for column in range(min(64, numbers.shape[1])):
        told = numbers[:, column] & np.uint32(_KERNEL_THREAD) != 0
        if (told == expected).all():
            return column * 4
    return None


def _find_tables(found: LinuxKernel, spaces: NDArray[np.uint64]) -> int | None:
    """`pgd`: leads to a table that shares the kernel's uppermost entry."""
    top = found.memory.read_frames(np.array([found.top]))[0, -1]
    contents = np.stack(
        [found.kernel.read_far(mm, _MEMORY_SIZE).copy().view("<u8") for mm in spaces.tolist()]
    )
    for column in range(contents.shape[1]):
        pointers = contents[:, column]
        if (pointers % np.uint64(PAGE_SIZE)).any() or not pointers.all():
            continue
        frames = found.kernel.frames(pointers)
        inside = (frames >= 0) & (frames < found.memory.frame_count)
        if inside.all() and (found.memory.read_frames(frames)[:, -1] == top).all():
            return column * 8
    return None
