"""The offsets of the needed members in a Linux kernel's tasks, as its BTF tells them."""

from dataclasses import dataclass

from memory_visualizer.linux.btf import Btf
from memory_visualizer.paging.tablememory import TableMemory

MAX_PID = 1 << 22
"""PID_MAX_LIMIT of 64-bit kernels."""
KERNEL_THREAD = 0x0020_0000
"""In task_struct.flags: PF_KTHREAD."""
KERNEL_THREADS_PARENT = 2
"""The pid of kthreadd, in every version."""
COMM_SIZE = 16
FIRST_COMMS = (b"swapper/0\0", b"swapper\0")
"""Names of the first task of all, with and without its processor's number."""
_LARGEST_TASK = 1 << 16
"""Bytes; no structure of any kernel is larger."""
PID_SIZE = 1 << 8
"""How many bytes of a struct pid are read."""


@dataclass(frozen=True)
class Offsets:
    """Offsets in task_struct, unless another structure is named."""

    tasks: int
    pid: int
    """tgid: the process's number, that of its first thread."""
    parent: int
    """real_parent."""
    comm: int
    mm: int
    flags: int | None
    exit_state: int | None
    pgd: int
    """In mm_struct."""
    own_pid: int | None = None
    """pid: the thread's own number; in the first thread it equals tgid."""
    tracer: int | None = None
    """parent: the task that is told of its end; real_parent unless the task is traced."""
    active_mm: int | None = None
    children: int | None = None
    sibling: int | None = None
    leader: int | None = None
    """group_leader."""
    pid_struct: int | None = None
    """The pointer to its struct pid."""
    number: int | None = None
    """In struct pid: the number in the initial pid namespace."""
    signal: int | None = None
    threads: int | None = None
    """In signal_struct: head of the list of threads."""
    thread: int | None = None
    """Link in that list, in task_struct."""
    group: int | None = None
    """thread_group, which links the threads of a process without a head of the list (up to 6.6), or
    `thread` where the place of the list's head is not known."""
    kthread: int | None = None
    """The pointer to a kernel thread's struct kthread."""
    full_name: int | None = None
    data: int | None = None
    """In struct kthread, like the one before; `data` leads to a worker's struct worker."""
    work: int | None = None
    description: int | None = None
    pool: int | None = None
    rescued: int | None = None
    """In struct worker, like the three before; `rescued` leads to a rescuer's queue."""
    queue_name: int | None = None
    """In workqueue_struct."""
    owner: int | None = None
    """In mm_struct: the task that owns it."""
    users: int | None = None
    """In mm_struct: how many tasks use it."""
    space_of_table: int | None = None
    """In the struct page of a top-level table: the pointer to the mm_struct."""

    @property
    def of_task(self) -> dict[str, int]:
        """The offsets of the words of a task that are read, by name."""
        places = {
            "pid": self.pid,
            "own_pid": self.own_pid,
            "parent": self.parent,
            "tracer": self.tracer,
            "comm": self.comm,
            "comm_end": self.comm + 8,
            "mm": self.mm,
            "active_mm": self.active_mm,
            "flags": self.flags,
            "exit_state": self.exit_state,
            "signal": self.signal,
            "kthread": self.kthread,
            "pid_struct": self.pid_struct,
        }
        return {name: place for name, place in places.items() if place is not None}


def offsets_by_btf(types: Btf) -> Offsets | None:
    """Offsets by the kernel's BTF; None if it lacks a needed member.

    An offset beyond the largest plausible structure is ignored: that word of BTF is damaged.
    """

    def place(structure: str, *names: str) -> int | None:
        offset = types.offset(structure, *names)
        return None if offset is None or offset > _LARGEST_TASK else offset

    def task(*names: str) -> int | None:
        return place("task_struct", *names)

    tasks, pid, parent = task("tasks"), task("tgid"), task("real_parent")
    comm, mm, pgd = task("comm"), task("mm"), place("mm_struct", "pgd")
    if tasks is None or pid is None or parent is None or comm is None or mm is None or pgd is None:
        return None
    number = _number_by_btf(types)
    return Offsets(
        tasks,
        pid,
        parent,
        comm,
        mm,
        flags=task("flags"),
        exit_state=task("exit_state"),
        pgd=pgd,
        own_pid=task("pid"),
        tracer=task("parent"),
        active_mm=task("active_mm"),
        children=task("children"),
        sibling=task("sibling"),
        leader=task("group_leader"),
        pid_struct=task("thread_pid") if number is not None else None,
        number=number,
        signal=task("signal"),
        threads=place("signal_struct", "thread_head"),
        thread=task("thread_node"),
        # Since 5.17 the pointer has a member of its own.
        kthread=task("worker_private", "set_child_tid"),
        full_name=place("kthread", "full_name"),
        data=place("kthread", "data"),
        work=place("worker", "current_work"),
        description=place("worker", "desc"),
        pool=place("worker", "pool"),
        rescued=place("worker", "rescue_wq"),
        queue_name=place("workqueue_struct", "name"),
        owner=place("mm_struct", "owner"),
        users=place("mm_struct", "mm_users"),
        space_of_table=place("page", "pt_mm") or place("ptdesc", "pt_mm"),
    )


def _number_by_btf(types: Btf) -> int | None:
    """The offset in struct pid of the number in the initial pid namespace."""
    numbers, number = types.offset("pid", "numbers"), types.offset("upid", "nr") or 0
    if numbers is None or numbers + number + 4 > PID_SIZE:
        return None
    return numbers + number


def along(
    kernel: TableMemory, first: int, link: int, limit: int, *, backwards: bool = False
) -> tuple[list[int], bool]:
    """The objects of a list through the `list_head` at `link` in each, without the first object.

    Ends at an unreadable object, or at an object that comes again; the second result tells whether
    this was the first object. At most `limit` objects are followed.
    """
    found: list[int] = []
    at, seen = first, {first}
    while len(found) < limit:
        following = kernel.number(at + link + kernel.word * backwards)
        if following is None:
            return found, False
        at = (following - link) % 2**64
        if at in seen:
            return found, at == first
        seen.add(at)
        found.append(at)
    return found, False


def is_name(comm: bytes) -> bool:
    """Whether 16 bytes look like the name of most tasks."""
    name = comm.split(b"\0")[0]
    return 0 < len(name) < COMM_SIZE and all(byte >= 0x20 for byte in name)
