"""Whose address spaces a Linux dump holds, found in the dump alone.

The kernel's own VMCOREINFO names its top-level table; its symbols (kallsyms) and the description of
its types (BTF), both in its memory, lead to the list of its processes. Where a kernel has no BTF,
the offsets in `task_struct` are found in the tasks themselves, as those of `_EPROCESS` are on
Windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memory_visualizer import btf as btf_format
from memory_visualizer.btf import Btf
from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.kallsyms import image_frames, kernel_image, read_kallsyms
from memory_visualizer.paging import (
    X64,
    X64_5_LEVELS,
    Paging,
    PhysicalMemory,
    as_linux_has_it,
)
from memory_visualizer.process import Process
from memory_visualizer.virtualmemory import VirtualMemory
from memory_visualizer.vmcoreinfo import VmcoreInfo

_IMAGE_BASE = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map: from here on the kernel's image is mapped."""
_UTS_RELEASE = 2 * 65
"""Offset of the release in struct new_utsname: behind two names of 65 bytes."""

_KERNEL_THREAD = 0x0020_0000
"""In task_struct.flags: PF_KTHREAD."""
_ENDED = 0x30
"""In task_struct.exit_state: EXIT_DEAD, EXIT_ZOMBIE."""
_MAX_TASKS = 1 << 22
"""More than Linux allows (PID_MAX_LIMIT)."""
_MAX_TASK_SIZE = 1 << 16
_MAX_PID = 1 << 22
_COMM_SIZE = 16

_RAM, _IMAGE = b"System RAM", b"Kernel "
_MAX_RESOURCES = 1 << 16


@dataclass(frozen=True)
class LinuxKernel:
    """A Linux kernel whose own word of itself holds good in the dump."""

    info: VmcoreInfo
    paging: Paging
    memory: PhysicalMemory
    top: int
    """Frame of its own top-level table, swapper_pg_dir."""
    kernel: VirtualMemory
    symbols: dict[str, int] = field(default_factory=dict)
    btf: Btf | None = None
    remarks: tuple[str, ...] = ()

    @property
    def system(self) -> str:
        """Such as ``Linux 6.1.0-18-amd64``."""
        return f"Linux {self.info.release}"


_SYMBOLS = ("init_task", "iomem_resource", "__start_BTF", "__stop_BTF")


def find_kernel(memory: PhysicalMemory, texts: Sequence[VmcoreInfo]) -> LinuxKernel | None:
    """Find the kernel that one of these texts is of: the tables that it names translate."""
    for info in texts:
        for paging in _pagings(info):
            found = _with_tables(memory, info, paging)
            if found:
                return _with_types(found)
    return None


def _pagings(info: VmcoreInfo) -> list[Paging]:
    encryption = info.number("sme_mask") or 0
    pagings = [as_linux_has_it(paging, encryption) for paging in (X64, X64_5_LEVELS)]
    return pagings[::-1] if info.number("pgtable_l5_enabled") else pagings


def _with_tables(memory: PhysicalMemory, info: VmcoreInfo, paging: Paging) -> LinuxKernel | None:
    """Check that the kernel's image lies where the text says, its release in it."""
    table = info.symbol("swapper_pg_dir")
    names = info.symbol("init_uts_ns")
    if table is None or names is None or table < _IMAGE_BASE:
        return None
    top = (table - _IMAGE_BASE + (info.number("phys_base") or 0)) // PAGE_SIZE
    if not 0 <= top < memory.frame_count or not memory.held[top]:
        return None
    kernel = VirtualMemory(memory, paging, top)
    if kernel.frame(table) != top:
        return None
    at = names + (info.offset("uts_namespace.name") or 0) + _UTS_RELEASE
    release = kernel.read(at, 65)
    if release is None or release.split(b"\0")[0].decode("latin-1") != info.release:
        return None
    return LinuxKernel(info, paging, memory, top, kernel)


def _with_types(found: LinuxKernel) -> LinuxKernel:
    """Add symbols and types, as far as there are any."""
    remarks = []
    table = read_kallsyms(found.kernel, found.info)
    symbols = table.find(_SYMBOLS) if table else {}
    if table is None:
        remarks.append("the kernel's table of symbols was not found")
    types = _read_btf(found, symbols)
    if types is None:
        remarks.append(
            "the kernel does not describe its types (BTF); its processes were found by their form"
        )
    return LinuxKernel(
        found.info,
        found.paging,
        found.memory,
        found.top,
        found.kernel,
        symbols,
        types,
        tuple(remarks),
    )


def _read_btf(found: LinuxKernel, symbols: dict[str, int]) -> Btf | None:
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if start and stop and 0 < stop - start <= btf_format.MAX_SIZE:
        return Btf.parse(found.kernel.read_far(start, stop - start).tobytes())
    if symbols:  # a kernel with symbols, but not these, has none
        return None
    image = kernel_image(found.kernel, found.info)
    if image is None:
        return None
    contents = image[1].tobytes()
    place = contents.find(btf_format.MAGIC)
    while place >= 0:
        if types := Btf.parse(contents[place : place + btf_format.MAX_SIZE]):
            return types
        place = contents.find(btf_format.MAGIC, place + 1)
    return None


@dataclass(frozen=True)
class Resources:
    """What the kernel takes physical addresses for, as /proc/iomem has it."""

    is_ram: NDArray[np.bool_]
    """For each frame whether all of it is RAM."""
    image: NDArray[np.int64]
    """Frames of the kernel's image."""


def read_resources(found: LinuxKernel) -> Resources | None:
    """Read the kernel's list of resources; None where it is not found."""
    root = found.symbols.get("iomem_resource")
    if root is None:
        return None
    is_ram = np.zeros(found.memory.frame_count, bool)
    image = np.zeros(found.memory.frame_count, bool)
    for name, start, end, below in _resources(found, root):
        if not name.startswith(_RAM):
            continue
        # A frame of which only a part is RAM is no page to the kernel.
        is_ram[-(-start // PAGE_SIZE) : (end + 1) // PAGE_SIZE] = True
        for inner, first, last, _ in _resources(found, below):
            if inner.startswith(_IMAGE):
                image[first // PAGE_SIZE : last // PAGE_SIZE + 1] = True
    return Resources(is_ram, np.flatnonzero(image)) if is_ram.any() else None


def _resources(found: LinuxKernel, parent: int) -> Iterator[tuple[bytes, int, int, int]]:
    """The resources below one: how the name begins, first and last byte, address of its own."""

    def offset(name: str, usual: int) -> int:
        place = found.btf.offset("resource", name) if found.btf else None
        return usual if place is None else place

    # As it stands in struct resource since 4.6.
    start_at, end_at, name_at = offset("start", 0), offset("end", 8), offset("name", 16)
    sibling_at, child_at = offset("sibling", 48), offset("child", 56)
    read = found.kernel.number
    at, seen = read(parent + child_at), set[int]()
    while at and at not in seen and len(seen) < _MAX_RESOURCES:
        seen.add(at)
        start, end, name = read(at + start_at), read(at + end_at), read(at + name_at)
        if start is None or end is None or name is None:
            return
        yield found.kernel.read(name, len(_RAM)) or b"", start, end, at
        at = read(at + sibling_at)


def frames_of_image(found: LinuxKernel) -> NDArray[np.int64]:
    """The frames that are mapped where the kernel's image is, some gaps in it included."""
    frames = image_frames(found.kernel, found.info)
    return frames[frames >= 0]


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

    @property
    def size(self) -> int:
        """Bytes of a task that are read."""
        places = [self.tasks, self.pid, self.parent, self.comm, self.mm]
        places += [place for place in (self.flags, self.exit_state, self.signal) if place]
        return max(places) + _COMM_SIZE


def find_processes(found: LinuxKernel) -> LinuxProcesses:
    """Walk the kernel's list of processes; threads are no processes."""
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
    if max(tasks, pid, parent, comm, mm) > _MAX_TASK_SIZE:
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
    flags = number(offsets.flags, 4) if offsets.flags is not None else None
    mm = number(offsets.mm, 8)
    # A kernel thread may borrow a process's memory for a while.
    is_thread = bool(flags & _KERNEL_THREAD) if flags is not None else not mm
    ended = offsets.exit_state is not None and bool(number(offsets.exit_state, 4) & _ENDED)
    if ended and not mm:
        mm = _memory_of_threads(kernel, offsets, number(offsets.signal or 0, 8))
    top = None
    if mm and not is_thread:
        pgd = kernel.number(mm + offsets.pgd)
        frame = kernel.frame(pgd) if pgd else -1
        if 0 <= frame < found.memory.frame_count and found.memory.held[frame]:
            top = frame
    if top is not None:
        tops.setdefault(top, len(tops))
    comm = raw[offsets.comm : offsets.comm + _COMM_SIZE].split(b"\0")[0]
    return Process(
        pid=pid,
        ppid=parent or 0,
        name=comm.decode("utf-8", "backslashreplace"),
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
    return None


def _offsets_by_form(found: LinuxKernel, first: int) -> _Offsets | None:
    return None
