"""The processes of a Linux kernel, walked in its own list.

Where in a task its pid and memory stand is told by BTF. Where a kernel has none, the tasks
themselves show it, as Windows' process objects do: what each of them has in the same place, and
what fits together.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.btf import Btf
from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.kallsyms import kernel_image
from memory_visualizer.linux import LinuxKernel
from memory_visualizer.pagestates import PageArray
from memory_visualizer.paging import walk
from memory_visualizer.process import Process, unnamed
from memory_visualizer.virtualmemory import VirtualMemory

_KERNEL_THREAD = 0x0020_0000
"""In task_struct.flags: PF_KTHREAD."""
_WORKER = 0x0000_0020
"""PF_WQ_WORKER."""
_ENDED = 0x30
"""In task_struct.exit_state: EXIT_DEAD, EXIT_ZOMBIE."""
_MAX_TASKS = 1 << 22
"""More than Linux allows (PID_MAX_LIMIT)."""
_MAX_PID = 1 << 22
_TASK_SIZE = 1 << 14
"""As much of a task as is looked at."""
_MEMORY_SIZE = 1 << 10
"""Likewise of an mm_struct."""
_COMM_SIZE = 16
_DESCRIPTION_SIZE = 32
"""WORKER_DESC_LEN."""
_MAX_NAME = 64
_FIRST_COMMS = (b"swapper/0\0", b"swapper\0")
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
    def size(self) -> int:
        """Bytes of a task that are read."""
        places = [self.tasks, self.pid, self.parent, self.comm, self.mm]
        others = (self.flags, self.exit_state, self.signal, self.kthread)
        return max(*places, *(place for place in others if place is not None)) + _COMM_SIZE


def find_processes(found: LinuxKernel, pages: PageArray | None) -> LinuxProcesses:
    """Walk the kernel's list of processes, threads left out, and its list of address spaces.

    A process that is in the latter only has been taken out of the former, as rootkits do. `pages`
    are the kernel's struct pages, by which address spaces are listed.
    """
    first = found.symbols.get("init_task") or _find_first_task(found)
    if first is None:
        return _none("the kernel's first task was not found; no process is known")
    offsets = _offsets_by_btf(found.btf) if found.btf else None
    if offsets is None:
        offsets = _offsets_by_form(found, first)
    if offsets is None:
        return _none("where a task keeps its pid and memory was not found; no process is known")
    tasks, remark = _listed(found.kernel, first, offsets.tasks)
    tops: dict[int, int] = {}
    processes = []
    for task in tasks:
        process = _process(found, offsets, task, tops)
        if process:
            processes.append(process)
    spaces = (
        pages.listed(found.symbols["pgd_list"]) if pages and "pgd_list" in found.symbols else ()
    )
    for frame in spaces:
        if pages and frame not in tops and found.memory.held[frame]:
            processes = _with_space(found, offsets, processes, pages, frame, tops)
    processes.sort(key=lambda process: (process.pid, process.eprocess))
    frames = np.array(list(tops), np.int64)[:, None]
    return LinuxProcesses(tuple(processes), frames, (remark,) if remark else ())


def _none(remark: str) -> LinuxProcesses:
    return LinuxProcesses((), np.empty((0, 1), np.int64), (remark,))


def _offsets_by_btf(types: Btf) -> _Offsets | None:
    def task(*names: str) -> int | None:
        return types.offset("task_struct", *names)

    tasks, pid, parent = task("tasks"), task("tgid"), task("real_parent")
    comm, mm, pgd = task("comm"), task("mm"), types.offset("mm_struct", "pgd")
    if tasks is None or pid is None or parent is None or comm is None or mm is None or pgd is None:
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


def _listed(kernel: VirtualMemory, first: int, link: int) -> tuple[list[int], str]:
    """Addresses of the tasks in the list that the first one heads, itself left out; a remark."""
    tasks: list[int] = []
    seen = {first}
    for direction in (0, 8):
        at = first
        while len(seen) < _MAX_TASKS:
            following = kernel.number(at + link + direction)
            if following is None:
                break
            at = (following - link) % 2**64
            if at == first:
                return tasks, ""
            if at in seen:
                break
            seen.add(at)
            tasks.append(at)
    return tasks, "the list of processes is broken: some may be missing"


def _process(
    found: LinuxKernel, offsets: _Offsets, task: int, tops: dict[int, int]
) -> Process | None:
    kernel = found.kernel
    raw = kernel.read(task, offsets.size)
    if raw is None:
        return None

    def number(place: int, size: int) -> int:
        return int.from_bytes(raw[place : place + size], "little")

    pid = number(offsets.pid, 4)
    parent = kernel.number(number(offsets.parent, 8) + offsets.pid, 4)
    flags = number(offsets.flags, 4) if offsets.flags is not None else 0
    mm = number(offsets.mm, 8)
    is_thread = bool(flags & _KERNEL_THREAD) if offsets.flags is not None else not mm
    if offsets.exit_state is None:
        ended = not mm and not is_thread
    else:
        ended = bool(number(offsets.exit_state, 4) & _ENDED)
    if ended and not mm:
        mm = _memory_of_threads(kernel, offsets, number(offsets.signal or 0, 8))
    # A kernel thread may borrow a process's memory for a while.
    top = None if is_thread else _top_of(found, offsets, mm)
    if top is not None:
        tops.setdefault(top, len(tops))
    name = raw[offsets.comm : offsets.comm + _COMM_SIZE].split(b"\0")[0]
    if is_thread and offsets.kthread is not None:
        name = _thread_name(kernel, offsets, name, flags, number(offsets.kthread, 8))
    return Process(
        pid=pid,
        ppid=parent or 0,
        name=name.decode("utf-8", "backslashreplace"),
        dtb=(top or 0) * PAGE_SIZE,
        eprocess=task,
        created=0,
        exited=0,
        # One whose first thread has ended lives on in the others.
        is_alive=not ended or top is not None,
        is_listed=True,
        space=None if top is None else tops[top],
        is_kernel_thread=is_thread,
    )


def _with_space(
    found: LinuxKernel,
    offsets: _Offsets,
    processes: list[Process],
    pages: PageArray,
    frame: int,
    tops: dict[int, int],
) -> list[Process]:
    """Add the process of an address space that none of them has, by its top-level table.

    The table's `struct page` leads to the mm_struct, and that to its owner, where BTF says how. If
    this is a known process (its first thread has ended), it gets the space back.
    """
    walked = walk(found.memory, found.paging, np.array([[frame]]), own_only=True)
    if not any(part.is_user.any() for part in walked):
        return processes  # one that is about to go, or the kernel's own
    space = tops.setdefault(frame, len(tops))
    types, kernel = found.btf, found.kernel
    place = types.offset("page", "pt_mm") or types.offset("ptdesc", "pt_mm") if types else None
    owner = types.offset("mm_struct", "owner") if types else None
    mm = pages.word(frame, place) if place is not None else None
    task = kernel.number(mm + owner) if mm and owner is not None else None
    if mm and task and kernel.number(task + offsets.mm) == mm:
        process = _process(found, offsets, task, tops)
        if process and process.space == space and not process.is_kernel_thread:
            return [*processes, replace(process, is_listed=False)]
    return [*processes, unnamed(frame, space)]


def _top_of(found: LinuxKernel, offsets: _Offsets, mm: int) -> int | None:
    """Frame of the top-level table of an address space, by its mm_struct."""
    pgd = found.kernel.number(mm + offsets.pgd) if mm else None
    frame = found.kernel.frame(pgd) if pgd else -1
    if 0 <= frame < found.memory.frame_count and found.memory.held[frame]:
        return frame
    return None


def _thread_name(
    kernel: VirtualMemory, offsets: _Offsets, comm: bytes, flags: int, kthread: int
) -> bytes:
    """A kernel thread's name in full, as /proc/PID/comm has it (fs/proc/array.c)."""
    of_worker = (offsets.data, offsets.work, offsets.description, offsets.pool)
    if flags & _WORKER and None not in of_worker:
        worker = kernel.number(kthread + (offsets.data or 0)) or 0
        work = kernel.number(worker + (offsets.work or 0))
        text = kernel.read(worker + (offsets.description or 0), _DESCRIPTION_SIZE) or b""
        description = text.split(b"\0")[0]
        if not description or not kernel.number(worker + (offsets.pool or 0)):
            return comm
        return comm + (b"+" if work else b"-") + description
    if not flags & _WORKER and offsets.full_name is not None:
        place = kernel.number(kthread + offsets.full_name)
        name = kernel.read(place, _MAX_NAME) if place else None
        if name:
            return name.split(b"\0")[0]
    return comm


def _memory_of_threads(kernel: VirtualMemory, offsets: _Offsets, signal: int) -> int:
    """The memory of a process whose first thread has ended: that of any other; 0 if of none."""
    if not signal or offsets.threads is None or offsets.thread is None:
        return 0
    head = signal + offsets.threads
    at, seen = kernel.number(head), {head}
    while at and at not in seen and len(seen) < _MAX_TASKS:
        seen.add(at)
        mm = kernel.number(at - offsets.thread + offsets.mm)
        if mm:
            return mm
        at = kernel.number(at)
    return 0


def _find_first_task(found: LinuxKernel) -> int | None:
    """The first task by its name, in the kernel's image; needs BTF."""
    comm = found.btf.offset("task_struct", "comm") if found.btf else None
    tasks = found.btf.offset("task_struct", "tasks") if found.btf else None
    image = kernel_image(found.kernel, found.info)
    if comm is None or tasks is None or image is None:
        return None
    start, contents = image
    text = contents.tobytes()
    for name in _FIRST_COMMS:
        place = text.find(name)
        while place >= 0:
            task = start + place - comm
            following = found.kernel.number(task + tasks)
            if following and found.kernel.number(following + 8) == task + tasks:
                return task
            place = text.find(name, place + 1)
    return None


def _offsets_by_form(found: LinuxKernel, first: int) -> _Offsets | None:
    """Find the offsets in the tasks; None where these do not show them."""
    kernel = found.kernel
    raw = kernel.read_far(first, _TASK_SIZE).tobytes()
    comm = next((raw.find(name) for name in _FIRST_COMMS if name in raw), -1)
    if comm < 0:
        return None
    for link in range(0, comm, 8):
        tasks = _linked_tasks(kernel, first, link, comm)
        if len(tasks) > 1:
            break
    else:
        return None
    everyone = [first, *tasks]
    contents = np.stack([kernel.read_far(task, comm + _COMM_SIZE) for task in everyone])
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


def _linked_tasks(kernel: VirtualMemory, first: int, link: int, comm: int) -> list[int]:
    """The tasks in the list by the pointers at an offset; none where it is no such list."""
    tasks: list[int] = []
    at = first
    while len(tasks) < _MAX_TASKS:
        following = kernel.number(at + link)
        if following is None or kernel.number(following + 8) != at + link:
            return []
        at = following - link
        if at == first:
            return tasks
        name = (kernel.read(at + comm, _COMM_SIZE) or b"\xff").split(b"\0")[0]
        if not name or len(name) == _COMM_SIZE or any(byte < 0x20 for byte in name):
            return []
        tasks.append(at)
    return []


def _find_memory(
    found: LinuxKernel, words: NDArray[np.uint64], start: int
) -> tuple[int, int] | None:
    """`mm`, and `pgd` in what it leads to.

    It is nothing, as in the first task, or the same as `active_mm` behind it.
    """
    for column in range(start, words.shape[1] - 1):
        mm = words[:, column]
        used = mm > 0
        if used[0] or not used.any() or (mm[used] != words[used, column + 1]).any():
            continue
        if (mm[used] >> np.uint64(63) == 1).all():
            pgd = _find_tables(found, np.unique(mm[used]))
            if pgd is not None:
                return column * 8, pgd
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
    for column in range(start, words.shape[1]):
        known = np.isin(words[:, column], tasks)
        if words[0, column] == tasks[0] and np.count_nonzero(known) * 10 >= len(tasks) * 9:
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
