"""Write the memory of a synthetic Linux machine, with kernels from 2.6.32 to the newest.

A synthetic dump has all data that a reader needs: page tables, the kernel's description of itself
(VMCOREINFO, symbols, types), its array of `struct page`, its tasks, and pages of every kind. The
truth is noted when a page gets an owner. Layouts and values are those of the kernel's sources;
offsets that differ between builds are random, and those of kernels before 4.14 are real
(oldlayouts.py). Such old kernels have no huge pages of the pool, since they do not mark these.
"""

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tests.synth.eras import ERAS, OLD_FLAGS, Era
from tests.synth.linuxclock import LinuxClock
from tests.synth.linuxfiles import FilesTruth, LinuxFiles
from tests.synth.linuxtypes import BtfWriter, as_note, pack_kallsyms, vmcoreinfo_text
from tests.synth.memory import LOW_MEMORY_FRAMES, PAGE_SIZE, Frames, PhysicalMemory

MIB = 1 << 20
_IMAGE_BASE = 0xFFFF_FFFF_8000_0000
_IMAGE_FRAMES = 1024
_USERS_OF_MEMORY = 408
_FREED = 40
"""Frames at the end of the image that the kernel has freed after its start."""
_PRESENT, _WRITE, _USER, _LARGE, _NONE, _NO_EXECUTE = 1, 2, 4, 1 << 7, 1 << 8, 1 << 63
_TOUCHED = 0x60
_ADDRESS = 0x000F_FFFF_FFFF_F000
_POISON = 0xDEAD_0000_0000_0100
_KERNEL_THREAD, _WORKER = 0x200000, 0x20
_ZOMBIE = 32

_Resource: TypeAlias = "tuple[str, int, int, list[_Resource]]"
"""Name, first and last byte, and the resources in it."""
_WORKERS_6_12 = MappingProxyType(
    {
        **{"data": 24, "full_name": 40, "current_work": 16, "task": 80, "pool": 88},
        **{"desc": 128, "rescue_wq": 160, "queue_name": 184},
    }
)
_MORE_THREADS = (
    (2, "kthreadd", 0, ""),
    (3, "kworker/0:0", _WORKER, "kworker/0:0-events_long"),
    (4, "rcu_tasks_trace", 0, "rcu_tasks_trace_kthread"),
    (5, "rcu_tasks_kthre", 0, "rcu_tasks_kthread"),
    (6, "kworker/R-very_", _WORKER, "kworker/R-very_long_queue_name"),
    (7, "kworker/R-rcu_g", _WORKER, "kworker/R-rcu_gp"),
    (8, "kworker/R-mm_pe", _WORKER, "kworker/R-mm_percpu_wq"),
    (9, "kworker/u2:0", _WORKER, "kworker/u2:0+ext4-rsv-conversion"),
    (10, "ksoftirqd/0", 0, ""),
)


@dataclass
class Task:
    """A task of the synthetic system."""

    pid: int
    ppid: int
    comm: str
    kernel_thread: bool = False
    alive: bool = True
    listed: bool = True
    leader_has_ended: bool = False
    """Whether its first thread has ended, and another thread lives on."""
    dtb: int = 0
    address: int = 0
    full_name: str = ""
    """The name in /proc/PID/comm, if it is not `comm`."""


@dataclass(frozen=True)
class LinuxTruth:
    """The truth about a synthetic image."""

    era: Era
    states: npt.NDArray[np.str_]
    """The state of each frame, by name."""
    classes: npt.NDArray[np.str_]
    zero: npt.NDArray[np.bool_]
    owners: set[tuple[int, int, int]]
    """Pid, virtual address and frame of each page that a process has."""
    tasks: tuple[Task, ...]
    top: int
    """Frame of the kernel's own top table."""
    text_frames: tuple[int, int]
    """Frames of VMCOREINFO: the plain text, and the note."""
    direct: int
    """The first address of the direct map."""
    places: dict[str, int]
    """Offsets of the members of a task."""
    trampoline: int
    """Frame of the top-level table with which other processors start."""
    files: FilesTruth | None = None
    tells_full_names: bool = False
    """Whether the full names of kernel threads can be known."""


def forge_linux(
    path: Path,
    era: str = "6.1",
    *,
    size: int = 32 * MIB,
    five_levels: bool = False,
    pti: bool = False,
    hole: bool = False,
    processes: int = 6,
    encryption: int = 0,
    data_symbols: bool = True,
    files: bool = False,
    now: int | None = None,
    seed: int = 0,
) -> LinuxTruth:
    """Write a raw dump; the truth about it is returned.

    `now` is the time of its clock, in nanoseconds since 1970; by default it has no clock.

    Without `data_symbols` the table of symbols has functions only (CONFIG_KALLSYMS_ALL).

    `hole`: a quarter of the addresses, from the middle on, is no RAM. `encryption` is the bit that
    entries of page tables have where AMD's processors encrypt memory; the dump is taken inside.
    With `files` it has files, regions and modules as well (see linuxfiles).
    """
    machine = _Machine(ERAS[era], size, five_levels, pti, hole, processes, seed)
    if files:
        machine.files = LinuxFiles(machine, era)
    if now is not None:
        machine.clock = LinuxClock(machine, now)
    machine.encryption, machine.data_symbols = encryption, data_symbols
    return machine.write(path)


@dataclass
class _Page:
    """The content of a frame's `struct page`."""

    flags: int = 0
    count: int = 1
    type: int | None = None
    mapping: int = 0
    index: int = 0
    head: int | None = None
    links: tuple[int, int] | None = None
    private: int = 0
    memory: int = 0
    """The mm_struct of a top-level table."""
    second: bool = False
    """Whether the page follows the head of a huge page."""


def _column(values: list[int]) -> npt.NDArray[np.uint64]:
    return np.array(values, np.uint64)


def _number(value: int, size: int) -> bytes:
    """As much of a number as has room in `size` bytes."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


class _Tables:
    """Page tables under construction."""

    def __init__(self, machine: "_Machine", top: int, at: int = 0) -> None:
        """`top` is the frame of the top-level table; `at` its place there."""
        self.top, self.base = top, top * PAGE_SIZE + at
        self.frames: list[list[int]] = [[top], *([] for _ in machine.shifts[1:])]
        """The tables of each level."""
        self._machine = machine
        self._known: dict[tuple[int, int], int] = {}

    def map(self, virtual: int, entry: int, shift: int = 12) -> None:
        machine = self._machine
        size = machine.entry_size
        table = self.base
        virtual &= (1 << machine.shifts[0] + (9 if size == 8 else 10)) - 1
        for number, level in enumerate(machine.shifts):
            place = table + (virtual >> level) % (PAGE_SIZE // size) * size
            if level == shift:
                assert not any(machine.peek(place, size))
                machine.poke(place, machine.entry(entry | machine.encryption))
                return
            table = self.table_for(number, virtual, place) * PAGE_SIZE

    def table_for(self, number: int, virtual: int, place: int) -> int:
        """The table below level `number` for an address: made where the entry at `place` is new."""
        machine = self._machine
        key = (number, virtual >> machine.shifts[number])
        if key not in self._known:
            self._known[key] = machine.new_table(self)
            self.frames[number + 1].append(self._known[key])
            flags = _PRESENT | machine.flags_above(number)
            flags &= ~_USER if self is getattr(machine, "kernel", None) else -1
            below = self._known[key] << 12 | flags
            machine.poke(place, machine.entry(below | machine.encryption))
        return self._known[key]


class _Machine:
    pointer = 8
    """Bytes of an address."""
    entry_size = 8
    """Bytes of an entry of a page table."""
    large_shift = 21
    heap, copies, library, huge_at = 0x5500 << 32, 0x6000 << 32, 0x7F00 << 32, 0x7E00 << 32
    """Where processes have pages: their own, those after fork, shared ones, and large ones."""
    heap_pages = 1 << 20
    """Among so many pages the first of the heap is drawn."""
    swapped_behind = 1 << 30
    low_end: int | None = None
    """The frame behind those that the kernel maps; None where it maps all."""
    kthread: Mapping[str, int] = MappingProxyType(
        {
            **{"data": 24, "full_name": 40, "current_work": 32, "pool": 40, "rescue_wq": 48},
            **{"desc": 64, "queue_name": 32},
        }
    )
    """Where members stand in struct kthread, struct worker and workqueue_struct."""
    threads: tuple[tuple[int, str, int, str], ...] = (
        (2, "kthreadd", 0, ""),
        (3, "kworker/0:0", _WORKER, "kworker/0:0-events_long"),
        (4, "rcu_tasks_trace", 0, "rcu_tasks_trace_kthread"),
        (5, "ksoftirqd/0", 0, ""),
        (6, "kworker/R-very_", _WORKER, "kworker/R-very_long_queue_name"),
    )
    """Kernel threads: pid, name in the task, flags, full name."""

    def __init__(
        self,
        era: Era,
        size: int,
        five_levels: bool,
        pti: bool,
        hole: bool,
        processes: int,
        seed: int,
    ) -> None:
        self.era, self.pti, self.process_count = era, pti, processes
        self.rng = np.random.default_rng(seed)
        self.frames = size // PAGE_SIZE
        self.memory = PhysicalMemory(self.frames, self.rng, stretch=16)
        self.shifts: tuple[int, ...] = (48, 39, 30, 21, 12) if five_levels else (39, 30, 21, 12)
        chance = int(self.rng.integers(1, 64)) << 30
        self.direct = (0xFF11 << 48 if five_levels else 0xFFFF_8880 << 32) + chance
        self.vmemmap = (0xFFD4 << 48 if five_levels else 0xFFFF_EA00 << 32) + chance
        self.states = np.full(self.frames, "", dtype="U16")
        self.pages: dict[int, _Page] = {}
        self.user: set[tuple[int, int, int]] = set()
        self.tasks: list[Task] = []
        self.user_tables: list[tuple[_Tables, int | None]] = []
        self.encryption, self.data_symbols = 0, True
        self.files: LinuxFiles | None = None
        self.huge: Frames | None = None
        """A huge page of the pool that a process has."""
        self.clock: LinuxClock | None = None
        self.cached: list[Frames] = []
        """Frames of shared memory, a library, the cache and tmpfs."""
        self.spaces: list[int] = []
        self.section_bits = era.section_bits
        self.resource = era.resource
        if era.layout:  # the places are fixed
            self.direct, self.vmemmap = 0xFFFF_8800 << 32, 0xFFFF_EA00 << 32
        self.caches: dict[str, int] = {}
        self.pid_structs: list[int] = []
        """Places in slabs of struct pids that are not yet in use."""
        self.signals: dict[int, int] = {}
        """The list of threads in the signal_struct of each first thread, by addresses."""
        if era.lists_threads:
            self.kthread, self.threads = _WORKERS_6_12, _MORE_THREADS
        self.leaders: list[tuple[Task, int]] = []
        """First threads of processes, and the address of each one's parent."""
        low = np.arange(LOW_MEMORY_FRAMES)
        self.states[low] = "reserved"
        self.states[0] = "absent"
        self.states[0x9F:] = "absent"
        self.states[LOW_MEMORY_FRAMES:] = ""
        self.hole: Frames = np.empty(0, np.int64)
        if hole:
            quarter = self.frames // 4
            self.hole = np.arange(2 * quarter, 3 * quarter)
            self.memory.reserve(self.hole)
            self.states[self.hole] = "absent"
        for frame in low.tolist():
            self.pages[frame] = _Page(flags=self.flag("reserved"))

    def write(self, path: Path) -> LinuxTruth:
        era, memory = self.era, self.memory
        # Contiguous memory comes first, while there is room.
        self.image = self.run(_IMAGE_FRAMES)
        large = 1 << self.large_shift - 12
        self.large = [memory.allocate_run(large) for _ in range(4)]
        self.array = self._array(-(-self.frames * era.page_size // PAGE_SIZE))
        self.give(self.array, "reserved", flags=self.flag("reserved"))
        self._make_kernel()
        self._make_tasks()
        self._make_processes()
        self._make_others()
        if self.files:
            self._make_files(self.files)
        self._tell()
        self._share_kernel_half()
        self._free_the_rest()
        self._write_array()
        zero = memory.zeros()
        memory.write(path)
        return LinuxTruth(
            era,
            self.states,
            self._classes(zero),
            zero,
            self.user,
            tuple(sorted(self.tasks, key=lambda task: task.pid)),
            self.top,
            self.text_frames,
            self.direct,
            self.task,
            self.trampoline,
            self.files.truth if self.files else None,
            era.has_btf or "task" in self.kthread,
        )

    def _array(self, count: int) -> Frames:
        """Frames for the array of struct pages."""
        return self.memory.allocate(count)

    def _some(self, count: int) -> Frames:
        """Frames from everywhere in the memory that the kernel maps."""
        return self.memory.allocate(count)

    def entry(self, value: int) -> bytes:
        """An entry of a page table."""
        return _number(value, self.entry_size)

    def flags_above(self, level: int) -> int:
        """What entries have that lead to a table, by the number of their level."""
        return _WRITE | _TOUCHED | _USER

    def run(self, count: int) -> Frames:
        """Frames in a row that the kernel maps."""
        return self.memory.allocate_run(count, below=self.low_end)

    def _make_files(self, files: LinuxFiles) -> None:
        files.make(*self.cached)
        if self.huge is not None:
            files.make_huge(self.huge)
        files.make_modules()
        # Those that were taken out of the list, too, but in the order in which they were made.
        for number, mm in enumerate(self.spaces):
            pid = 1 if number == 0 else 100 + number * 7
            files.make_regions(pid, mm, {at: frame for who, at, frame in self.user if who == pid})

    # The building blocks of all else

    def flag(self, *names: str) -> int:
        found = 0
        for name in names:
            found |= 1 << self.era.flags[name]
        return found

    def poke(self, physical: int, contents: bytes) -> None:
        while contents:
            frame, at = divmod(physical, PAGE_SIZE)
            part = contents[: PAGE_SIZE - at]
            self.memory.page(frame)[at : at + len(part)] = part
            physical, contents = physical + len(part), contents[len(part) :]

    def peek(self, physical: int, size: int) -> bytes:
        frame, at = divmod(physical, PAGE_SIZE)
        return bytes(self.memory.page(frame)[at : at + size])

    def put(self, virtual: int, contents: bytes) -> None:
        """Write at an address of the image or of the direct map."""
        if virtual >= _IMAGE_BASE:
            self.poke(virtual - _IMAGE_BASE + self.phys_base, contents)
        else:
            self.poke(virtual - self.direct, contents)

    def word(self, virtual: int, *values: int) -> None:
        size = self.pointer
        self.put(virtual, b"".join(_number(value, size) for value in values))

    def give(
        self,
        frames: Frames,
        state: str,
        *,
        flags: int = 0,
        count: int = 1,
        type: int | None = None,  # noqa: A002
        mapping: int = 0,
        compound: bool = False,
    ) -> Frames:
        """Note the use of these frames; in a compound page they follow the first frame."""
        self.states[frames] = state
        for number, frame in enumerate(frames.tolist()):
            page = _Page(flags, count, type, mapping)
            if compound and number == 0:
                page.flags |= self.flag("head")
            elif compound:
                page = _Page(count=0, head=int(frames[0]), mapping=0x400)
            self.pages[frame] = page
        return frames

    def new_table(self, tables: _Tables) -> int:
        [frame] = self.give(self.memory.allocate(), "page table").tolist()
        return int(frame)

    def direct_address(self, frame: int) -> int:
        return self.direct + frame * PAGE_SIZE

    # The kernel

    def _make_kernel(self) -> None:
        memory = self.memory
        image = self.image
        self.give(image, "kernel image", flags=self.flag("reserved"))
        memory.fill_with_noise(image[:300])
        self.text = self._image_begin()
        self.phys_base = int(image[0]) * PAGE_SIZE - (self.text - _IMAGE_BASE)
        self.top = int(image[320])
        self.kernel = _Tables(self, self.top)
        self._map_kernel()
        self._name_things()

    def _image_begin(self) -> int:
        """The virtual address of the image, drawn by chance."""
        chance = int(self.rng.integers(8, 200)) << 21
        if self.era.layout:  # it lies where it is mapped, and does not tell another place
            return _IMAGE_BASE + int(self.image[0]) * PAGE_SIZE
        return _IMAGE_BASE + chance

    def _map_kernel(self) -> None:
        """Map the image, all memory in a row, and the array of struct pages."""
        image, kernel = self.image, _PRESENT | _WRITE | _TOUCHED
        for frame in image[::512].tolist():
            virtual = self.text + (frame - int(image[0])) * PAGE_SIZE
            self.kernel.map(virtual, frame << 12 | kernel | _LARGE, 21)
        for frame in range(0, self.frames, 512):
            self.kernel.map(
                self.direct_address(frame), frame << 12 | kernel | _LARGE | _NO_EXECUTE, 21
            )
        for number, frame in enumerate(self.array.tolist()):
            virtual = self.vmemmap + number * PAGE_SIZE
            first = number * PAGE_SIZE // self.era.page_size
            last = (number * PAGE_SIZE + PAGE_SIZE - 1) // self.era.page_size
            # The array of a missing section is not mapped.
            if not (np.isin(first, self.hole) and np.isin(last, self.hole)):
                self.kernel.map(virtual, frame << 12 | kernel | _NO_EXECUTE)

    def _name_things(self) -> None:
        """Place in the image what has a symbol, the names of the system, and the resources."""
        self.bump = self.text + 330 * PAGE_SIZE
        self.symbols = {
            "_stext": self.text,
            "_text": self.text,
            "swapper_pg_dir": self.image_address(self.top),
            "init_uts_ns": self.reserve_image(512),
            "init_task": self.reserve_image(16 * 1024),
            "iomem_resource": self.reserve_image(64),
            "pgd_list": self.reserve_image(64),
            "linux_banner": self.reserve_image(256),
            "mem_section": self.reserve_image(64),
            "vmemmap_base": self.reserve_image(64),
        }
        if self.files:
            self.symbols["modules"] = self.reserve_image(64)
        if self.clock:
            self.clock.name()
        self.symbols |= {f"filler_{n:04x}": self.text + n * 64 + 1 for n in range(1500)}
        name = b"Linux".ljust(65, b"\0") + b"(none)".ljust(65, b"\0") + self.era.release.encode()
        banner = f"Linux version {self.era.release} (builder@host) (gcc 12) #1 SMP"
        self.put(self.symbols["linux_banner"], banner.encode())
        self.word(self.symbols["vmemmap_base"], self.vmemmap)
        self.uts_offset = int(self.rng.integers(0, 3)) * 4 if self.era.tells_names else 4
        self.put(self.symbols["init_uts_ns"] + self.uts_offset, name)
        self._make_resources()

    def image_address(self, frame: int) -> int:
        return self.text + (frame - int(self.image[0])) * PAGE_SIZE

    def reserve_image(self, size: int) -> int:
        at = self.bump
        self.bump += -(-size // 64) * 64
        assert self.bump < self.image_address(int(self.image[-_FREED - 4]))
        return at

    def _make_resources(self) -> None:
        first = int(self.image[0]) * PAGE_SIZE
        end = self.frames * PAGE_SIZE - 1
        image: list[_Resource] = [
            ("Kernel code", first, first + 300 * PAGE_SIZE - 1, []),
            ("Kernel data", first + 300 * PAGE_SIZE, first + 900 * PAGE_SIZE + 77, []),
            ("Kernel bss", first + 901 * PAGE_SIZE, first + _IMAGE_FRAMES * PAGE_SIZE - 1, []),
        ]
        ranges = [(LOW_MEMORY_FRAMES * PAGE_SIZE, end)]
        if len(self.hole):
            start, stop = int(self.hole[0]) * PAGE_SIZE, (int(self.hole[-1]) + 1) * PAGE_SIZE
            ranges = [(ranges[0][0], start - 1), (stop, end)]
        listed: list[_Resource] = [
            ("Reserved", 0, PAGE_SIZE - 1, []),
            ("System RAM", PAGE_SIZE, 0x9FBFF, []),
            ("Reserved", 0x9FC00, 0x9FFFF, []),
            ("PCI Bus 0000:00", 0xA0000, 0xBFFFF, []),
            *(
                ("System RAM", low, high, image if low <= first < high else [])
                for low, high in ranges
            ),
        ]
        self._put_resources(self.symbols["iomem_resource"], listed)

    def _put_resources(self, parent: int, children: "list[_Resource]") -> None:
        places = self.resource
        link = parent + places["child"]
        for name, start, end, below in children:
            resource, text = self.reserve_image(64), self.reserve_image(32)
            self.put(text, name.encode() + b"\0")
            self.word(link, resource)
            width = places["end"]
            self.put(resource, start.to_bytes(width, "little") + end.to_bytes(width, "little"))
            self.word(resource + places["name"], text)
            self.word(resource + places["parent"], parent)
            self._put_resources(resource, below)
            link = resource + places["sibling"]

    # Tasks

    def _make_tasks(self) -> None:
        names = ["tasks", "mm", "exit_state", "pid", "real_parent", "thread_pid", "pid_links"]
        names += ["worker_private", "thread_node", "signal", "comm"]
        places = np.cumsum(self.rng.integers(8, 30, len(names))) * 8 + 160
        self.task = dict(zip(names, places.tolist(), strict=True))
        self.task["flags"] = 44
        parents = ["parent", "children", "sibling", "group_leader"]
        for name, distance in zip(parents, (8, 16, 32, 48), strict=True):
            self.task[name] = self.task["real_parent"] + distance
        # active_mm follows it, and tgid follows the pid.
        self.task |= {"active_mm": self.task["mm"] + 8, "tgid": self.task["pid"] + 4}
        if self.era.lists_threads:
            near = self.task["group_leader"]
            self.task |= {
                "thread_pid": near + 40,
                "pid_links": near + 48,
                "thread_node": near + 112,
            }
        self.pgd_offset = int(self.rng.integers(4, 20)) * 8
        # Offsets of the lists of tasks and of the number in struct pid; the distance of tasks'
        # links to it, and the link that first threads use.
        self.pid_tasks, self.pid_number, self.pid_step, self.pid_kind = 16, 96, 16, 1
        if layout := self.era.layout:
            self.task = {name: at for name, at in layout["task_struct"].items() if name != "size"}
            self.task["pid_links"] = self.task.pop("pids")
            self.task["thread_pid"] = self.task["pid_links"] + layout["pid_link"]["pid"]
            self.pgd_offset = layout["mm_struct"]["pgd"]
            self.pid_tasks, self.pid_number = layout["pid"]["tasks"], layout["pid"]["numbers"]
            self.pid_step, self.pid_kind = layout["pid_link"]["size"], 0
        self._list_threads()

    def _list_threads(self) -> None:
        """The first task, and kernel threads."""
        self.listed: list[int] = [self.symbols["init_task"]]
        first = Task(0, 0, self.era.first_name, kernel_thread=True)
        first.address = self.symbols["init_task"]
        self._fill_task(first, 0)
        self.address_of = {0: first.address}
        for pid, comm, flags, name in self.threads:
            task = Task(pid, 2 if pid > 2 else 0, comm, kernel_thread=True, full_name=name)
            self.add_task(task, 0, flags=flags)

    def object(self, order: int = 0, cache: str = "") -> int:
        """Address of a new slab of one or several pages."""
        run = self.run(1 << order)
        self.give_slab(run)
        if cache:
            if cache not in self.caches:
                self.caches[cache] = self.object()
            page = self.pages[int(run[0])]
            if self.era.cache_at == self.era.places["mapping"]:
                page.mapping = self.caches[cache]
            elif self.era.cache_at == self.era.places["private"]:
                page.private = self.caches[cache]
            else:
                page.links = (self.caches[cache], 0)
        return self.direct_address(int(run[0]))

    def pid_struct(self) -> int:
        """Address of a new struct pid; a page has 32."""
        if not self.pid_structs:
            page = self.object(cache="pid")
            self.pid_structs = [page + number * 128 for number in range(32)]
        return self.pid_structs.pop(0)

    def give_slab(self, run: Frames) -> None:
        era = self.era
        self.give(
            run,
            "slab",
            flags=self.flag("slab") if era.slab is None else 0,
            count=0 if era.frozen else 1,
            type=era.slab if era.slab is not None else int(self.rng.integers(0, 1 << 31)),
            mapping=int(self.rng.integers(0, 1 << 40)),
            compound=len(run) > 1,
        )

    def add_task(
        self,
        task: Task,
        mm: int,
        *,
        flags: int = 0,
        listed: bool = True,
        state: int = 0,
        leader: Task | None = None,
    ) -> None:
        task.address = self.object(1, "task_struct")
        self.address_of.setdefault(task.pid, task.address)
        self._fill_task(task, mm, flags=flags, state=state, leader=leader)
        if listed:
            self.listed.append(task.address)
            self.tasks.append(task)

    def _fill_task(
        self, task: Task, mm: int, *, flags: int = 0, state: int = 0, leader: Task | None = None
    ) -> None:
        at, places = task.address, self.task
        flags |= 0x400000 | (_KERNEL_THREAD if task.kernel_thread else 0)
        self.put(at + places["flags"], struct.pack("<I", flags))
        self.word(at + places["mm"], mm, mm or (0 if task.pid else self.direct + 0x5000))
        self.put(at + places["exit_state"], struct.pack("<I", state))
        # A thread has a number of its own, which is no process's.
        own = task.pid + 1 if leader else task.pid
        self.put(at + places["pid"], struct.pack("<II", own, task.pid))
        parent = task.address if task.pid == 0 else self.address_of[task.ppid]
        empty = [at + places["children"]] * 2 + [at + places["sibling"]] * 2
        first = leader.address if leader else at
        self.word(at + places["real_parent"], parent, parent, *empty, first)
        if leader is None:
            self.leaders.append((task, parent))
        if task.pid:
            number = self.pid_struct()
            self.word(at + places["thread_pid"], number)
            kind = 0 if leader else self.pid_kind
            link = at + places["pid_links"] + self.pid_step * kind
            self.word(number + self.pid_tasks + self.pointer * kind, link)
            self.put(number + self.pid_number, struct.pack("<I", own))
        self.put(at + places["comm"], task.comm.encode().ljust(16, b"\0"))
        if "thread_group" in places:
            self.word(at + places["thread_group"], *[at + places["thread_group"]] * 2)
        if self.era.lists_threads and leader is None:
            signal, node = self.object(cache="signal_cache"), at + places["thread_node"]
            self.word(at + places["signal"], signal)
            self.signals[at] = head = signal + 16
            self.word(node, head, head)
            self.word(head, node, node)
        if task.kernel_thread and task.pid and "worker_private" in places:
            self._fill_kthread(task, at, flags)

    def _fill_kthread(self, task: Task, at: int, flags: int) -> None:
        inner = self.kthread
        thread, worker, name = self.object(), self.object(), self.object()
        self.word(at + self.task["worker_private"], thread)
        self.word(thread + inner["data"], worker)
        if flags & _WORKER and "task" in inner:
            self.word(worker + inner["task"], at)
        if task.full_name.startswith("kworker/R-"):  # a worker for a single queue
            self.word(worker + inner["rescue_wq"], name)
            queue = task.full_name.removeprefix("kworker/R-")
            self.put(name + inner["queue_name"], queue.encode())
        elif flags & _WORKER and task.comm.startswith("kworker/"):
            self.word(worker + inner["pool"], name)
            description = task.full_name.removeprefix(task.comm)
            # In front of it stands + if there is work, else -.
            self.word(worker + inner["current_work"], name if description[:1] == "+" else 0)
            self.put(worker + inner["desc"], description[1:].encode())
        elif task.full_name:
            self.word(thread + inner["full_name"], name)
            self.put(name, task.full_name.encode())

    # Processes

    def new_space(self) -> tuple[_Tables, int]:
        """Tables of a new process, and its mm_struct."""
        count = 2 if self.pti else 1
        roots = self.run(count)
        self.give(roots, "page table")
        if self.pti and self.era.masks:  # both are one compound page (6.18)
            self.give(roots, "page table", compound=True, type=self.era.table)
        elif self.pti:
            self.pages[int(roots[1])] = _Page(count=0, links=(_POISON, _POISON + 0x22))
        tables = _Tables(self, int(roots[0]))
        self.user_tables.append((tables, int(roots[1]) if self.pti else None))
        return tables, self._new_mm(tables)

    def _new_mm(self, tables: _Tables) -> int:
        mm = self.object(cache="mm_struct")
        self.word(mm + self.pgd_offset, self.direct + tables.base)
        self.word(mm + _USERS_OF_MEMORY, 1)
        self.spaces.append(mm)
        return mm

    def _make_processes(self) -> None:
        rng, memory = self.rng, self.memory
        shared = self.give(
            memory.allocate(9),
            "shared memory",
            flags=self.flag("lru", "swapbacked"),
            mapping=self.direct + 0x7000,
        )
        library = self.give(
            memory.allocate(30), "file cache", flags=self.flag("lru"), mapping=self.direct + 0x8000
        )
        data = self.give(memory.allocate(1), "kernel other")
        self.cached = [shared, library]
        memory.fill_with_noise(np.concatenate([shared, library]))
        vdso, zeros = int(self.image[310]), int(self.image[311])
        memory.fill_with_noise(self.image[310:311])
        parent: list[tuple[int, int]] = []
        for number in range(self.process_count):
            pid = 1 if number == 0 else 100 + number * 7
            task = Task(pid, 0 if pid == 1 else 1, "init" if pid == 1 else f"worker é{number}"[:15])
            tables, mm = self.new_space()
            task.dtb = tables.base
            at = self.heap + int(rng.integers(0, self.heap_pages)) * PAGE_SIZE
            anonymous = memory.allocate(int(rng.integers(20, 60)))
            self.give_anonymous(anonymous)
            for frame in anonymous.tolist():
                self.map_user(tables, task, at, frame)
                at += PAGE_SIZE
            for frame, virtual in parent:  # as after fork
                self.map_user(tables, task, virtual, frame, write=False)
            parent = [(int(frame), self.copies + n * 4096) for n, frame in enumerate(anonymous)]
            at = self.library
            for frame in [*shared.tolist(), *library.tolist(), vdso, zeros, *data.tolist()]:
                self.map_user(tables, task, at, frame, write=False)
                at += PAGE_SIZE
            at += 64 * PAGE_SIZE
            self._map_protected(tables, task, at)
            # Swapped-out pages are not present, and not pages of the process.
            swapped = int(rng.integers(1, 1 << 30)) << 14
            tables.map(at + self.swapped_behind, swapped)
            if number == 1:
                self._map_huge(tables, task, self.huge_at)
            state, listed_mm = 0, mm
            if number == 3:  # its first thread has ended, another lives on
                state, listed_mm, task.leader_has_ended = _ZOMBIE, 0, True
            self.add_task(task, listed_mm, state=state, listed=number != 4)
            self.word(mm + 400, task.address)
            if number == 3:
                self._add_thread(task, mm)
            if number == 4:  # taken out of the list
                task.listed = False
                self.tasks.append(task)
        gone = Task(99, 1, "gone", alive=False)
        self.add_task(gone, 0, state=_ZOMBIE)
        self._chain_tasks()
        self._list_children()
        self._list_spaces()

    def _chain_tasks(self) -> None:
        """Link the tasks of the list."""
        pids = {task.address: task.pid for task in self.tasks}
        self.listed.sort(key=lambda address: pids.get(address, 0))  # as they were made
        for at, following in zip(self.listed, self.listed[1:] + self.listed[:1], strict=True):
            link = self.task["tasks"]
            self.word(at + link, following + link)
            self.word(following + link + self.pointer, at + link)

    def _list_children(self) -> None:
        """Link the children of each process, with the process that was taken out of the list."""
        children: dict[int, list[int]] = {}
        for task, parent in self.leaders:
            if task.pid:
                children.setdefault(parent, []).append(task.address + self.task["sibling"])
        for parent, links in children.items():
            head = parent + self.task["children"]
            for at, following in zip([head, *links], [*links, head], strict=True):
                self.word(at, following)
                self.word(following + self.pointer, at)

    def _list_spaces(self) -> None:
        """Link the top tables of all processes, as the kernel does (arch/x86/mm/pgtable.c)."""
        head = self.symbols["pgd_list"]
        roots = [tables.top for tables, _ in self.user_tables]
        links = [head, *(self.link_of(top) for top in roots)]
        self.word(head, links[1], links[-1])
        for number, (top, mm) in enumerate(zip(roots, self.spaces, strict=True), 1):
            page = self.pages[top]
            page.links = (links[(number + 1) % len(links)], links[number - 1])
            page.memory = mm

    def give_anonymous(self, frames: Frames, *, compound: bool = False) -> None:
        self.give(
            frames,
            "anonymous",
            flags=self.flag("lru", "swapbacked"),
            type=0,
            mapping=self.direct + 0x9001,
            compound=compound,
        )
        self.memory.fill_with_noise(frames)

    def map_user(
        self, tables: _Tables, task: Task, virtual: int, frame: int, *, write: bool = True
    ) -> None:
        entry = frame << 12 | _PRESENT | _USER | _TOUCHED | (_WRITE if write else 0) | _NO_EXECUTE
        tables.map(virtual, entry)
        self.user.add((task.pid, virtual, frame))

    def _map_protected(self, tables: _Tables, task: Task, virtual: int) -> None:
        """Pages of PROT_NONE, including a large page."""
        frames = self.memory.allocate(5)
        self.give_anonymous(frames)
        for frame in frames.tolist():
            tables.map(virtual, self.protected(frame))
            self.user.add((task.pid, virtual, frame))
            virtual += PAGE_SIZE
        if task.pid == 1:
            run = self.large.pop()
            self.give_anonymous(run, compound=True)
            shift = self.large_shift
            virtual = (virtual >> shift) + 1 << shift
            tables.map(virtual, self.protected(int(run[0])) | _LARGE, shift)
            self.user |= {(task.pid, virtual + n * 4096, int(f)) for n, f in enumerate(run)}

    def protected(self, frame: int) -> int:
        address = frame << 12
        if self.era.inverts:
            address ^= _ADDRESS & ~self.encryption
        return address | _NONE | 0x20

    def _map_huge(self, tables: _Tables, task: Task, virtual: int) -> None:
        """A transparent huge page, and a huge page of the pool."""
        for state in ("anonymous", "huge page") if self.era.layout is None else ("anonymous",):
            run = self.large.pop()
            if state == "anonymous":
                self.give_anonymous(run, compound=True)
            else:
                self.give_huge(run, count=1, mapping=self.direct + 0xA000)
                self.huge = run
            entry = int(run[0]) << 12 | _PRESENT | _USER | _WRITE | _TOUCHED | _LARGE | _NO_EXECUTE
            tables.map(virtual, entry, self.large_shift)
            self.user |= {(task.pid, virtual + n * 4096, int(f)) for n, f in enumerate(run)}
            virtual += 1 << self.large_shift

    def give_huge(self, run: Frames, *, count: int, mapping: int) -> None:
        self.give(run, "huge page", count=count, type=self.era.huge, mapping=mapping, compound=True)
        self.pages[int(run[1])].second = True

    def _add_thread(self, leader: Task, mm: int) -> None:
        thread = Task(leader.pid, leader.ppid, "thread")
        self.add_task(thread, mm, listed=False, leader=leader)
        if "thread_group" in self.task:  # they are linked with one another
            node = self.task["thread_group"]
            links = [leader.address + node, thread.address + node]
            for at, following in zip(links, links[::-1], strict=True):
                self.word(at, following, following)
            return
        signal = self.signals[leader.address] - 16 if self.signals else self.object()
        node, head = self.task["thread_node"], self.signals.get(leader.address, signal + 48)
        links = [head, leader.address + node, thread.address + node]
        for at, following in zip(links, links[1:] + links[:1], strict=True):
            self.word(at, following)
            self.word(following + self.pointer, at)
        for task in (leader, thread):
            self.word(task.address + self.task["signal"], signal)

    # All other pages

    def _make_others(self) -> None:
        memory, rng = self.memory, self.rng
        cache = memory.allocate(200)
        self.give(cache, "file cache", flags=self.flag("lru"), mapping=self.direct + 0xB000)
        memory.fill_with_noise(cache[:150])
        files = memory.allocate(20)
        flags = self.flag("lru", "swapbacked")
        self.give(files, "shared memory", flags=flags, mapping=self.direct + 0xC000)
        self.cached += [cache, files]
        # Old pages of a boot loader or a file, which contain VMCOREINFO's text at its usual place.
        false = vmcoreinfo_text(self.era.release, {"SYMBOL(swapper_pg_dir)": self.text + 0x5000})
        self.poke(int(cache[0]) * PAGE_SIZE, false)
        self.poke(int(cache[1]) * PAGE_SIZE, as_note(b"OSRELEASE=\xff\xfe=\n=\n"))
        self.swap_cache = memory.allocate(7)
        self.give(
            self.swap_cache,
            "anonymous",
            flags=self.flag("swapcache", "swapbacked", "lru"),
            mapping=self.direct + 0xD001,
        )
        self.give(memory.allocate(5), "anonymous", mapping=self.direct + 0xD001)
        for order in (0, 0, 1, 3, 3):
            self.give_slab(self.run(1 << order))
        for order in (0, 2, 4):  # stacks and the like: only the first page has a count
            run = memory.allocate_run(1 << order)
            self.give(run, "kernel other")
            memory.fill_with_noise(run)
            for frame in run[1:].tolist():
                own = self.link_of(frame)
                links = (own, own) if order == 2 else (_POISON, _POISON + 0x22)
                self.pages[frame] = _Page(count=0, links=links)
        self.give(memory.allocate_run(4), "kernel other", compound=True)
        if self.era.layout is None:
            self.pool = self.large.pop()
            self.give_huge(self.pool, count=0, mapping=0)
        for run in self.large:
            self.give(run, "kernel other", compound=True)
        if self.era.table is not None:  # a page table that no walk reaches
            waiting = memory.allocate(1)
            self.give(waiting, "page table", type=self.era.table)
        self.give(self.image[-_FREED:], "free")
        # A ring that perf shares with a process has a mapping, but belongs to no file.
        self.give(memory.allocate(3), "kernel other", mapping=self.direct + 0xE000)
        [self.trampoline] = self.give(memory.allocate(), "kernel other").tolist()
        poisoned = memory.allocate(2)
        self.give(poisoned, "kernel other", flags=self.flag("hwpoison"))
        rng.shuffle(poisoned)

    def array_address(self, frame: int) -> int:
        return self.vmemmap + frame * self.era.page_size

    def link_of(self, frame: int) -> int:
        """Address of a frame's links in its struct page."""
        return self.array_address(frame) + self.era.places["lru"]

    def _tell(self) -> None:
        """Write symbols, types and VMCOREINFO."""
        era, task = self.era, self.task
        if era.has_btf:
            types = BtfWriter()
            number = types.number("long unsigned int", 8)
            types.noise(number)
            of_memory = [("pgd", self.pgd_offset), ("owner", 400), ("mm_users", _USERS_OF_MEMORY)]
            of_memory += self.files.of_memory if self.files else []
            inner = types.structure("", of_memory, number, 1024)
            moved = era.page_size - 64
            members = [("flags", 0), ("pt_mm", 32), ("_mapcount", 48 + moved)]
            members += [("lru", 8), ("mapping", 24), ("private", 40 + moved)]
            members += [("_refcount", 52 + moved)]
            members += [("compound_info" if era.masks else "compound_head", 8)]
            if era.huge_by == "destructor":
                members += [("compound_dtor", 16)]
                types.enumeration("compound_dtor_id", {"HUGETLB_PAGE_DTOR": 2})
            types.structure("page", members, number, era.page_size)
            types.structure("mm_struct", [("", 0)], inner, 1024)
            kept = [(name, place) for name, place in task.items() if name != "active_mm"]
            kept += self.files.of_task if self.files else []
            types.structure("task_struct", kept, number, 4096)
            types.structure("signal_struct", [("thread_head", 48)], number, 256)
            types.structure("kthread", [("data", 24), ("full_name", 40)], number, 64)
            types.structure("pid", [("numbers", 96)], number, 128)
            types.structure("upid", [("nr", 0), ("ns", 8)], number, 16)
            worker = [("current_work", 32), ("pool", 40), ("rescue_wq", 48), ("desc", 64)]
            types.structure("workqueue_struct", [("name", 32)], number, 128)
            types.structure("worker", worker, number, 128)
            if self.files:
                self.files.describe(types, number)
            if self.clock:
                self.clock.describe(types, number)
            flags = {f"PG_{name}": bit for name, bit in era.flags.items()}
            types.enumeration("pageflags", flags | {"__NR_PAGEFLAGS": 24})
            if era.named_types:
                types.enumeration("pagetype", era.named_types)
            contents = types.finish()
            start = self.reserve_image(len(contents))
            self.put(start, contents)
            self.symbols |= {"__start_BTF": start, "__stop_BTF": start + len(contents)}
        start = self.reserve_image(64) + 64
        start = -(-start // 64) * 64
        symbols = self.symbols
        if not self.data_symbols:
            symbols = {name: at for name, at in symbols.items() if at < self.text + 300 * PAGE_SIZE}
        table = pack_kallsyms(symbols, self.text, start, way=era.addresses, pointer=self.pointer)
        self.reserve_image(len(table.blob) + 128)
        self.put(start, table.blob)
        if not era.tells_symbols:
            table.parts.clear()
        self._make_sections()
        lines = self._lines(table.parts)
        text = vmcoreinfo_text(era.release, lines)
        frames = self.give(self._some(2), "kernel other")
        self.poke(int(frames[0]) * PAGE_SIZE, text)
        self.poke(int(frames[1]) * PAGE_SIZE, as_note(text))
        self.text_frames = int(frames[0]), int(frames[1])

    def _make_sections(self) -> None:
        in_section = 1 << self.section_bits - 12
        root = self.object()
        for section in range(-(-self.frames // in_section)):
            if not np.isin(section * in_section, self.hole):
                self.word(root + section * self.era.section_size, self.vmemmap | 0xF)
        self.roots = self.reserve_image(64)
        self.word(self.roots, root)
        # The symbol table has a pointer, or in 4.14 the table itself.
        self.word(self.symbols["mem_section"], self.roots)
        if self.era.sections == "pointer":
            pointer = self.reserve_image(64)
            self.word(pointer, self.roots)
            self.roots = pointer

    def _lines(self, parts: dict[str, int]) -> dict[str, int | str]:
        era = self.era
        lines: dict[str, int | str] = {
            "SYMBOL(init_uts_ns)": self.symbols["init_uts_ns"],
            "SYMBOL(swapper_pg_dir)": self.symbols["swapper_pg_dir"],
            "SYMBOL(_stext)": self.text,
            "SYMBOL(mem_section)": self.roots,
            "LENGTH(mem_section)": 2048,
            "SIZE(mem_section)": era.section_size,
            "OFFSET(mem_section.section_mem_map)": 0,
            "SIZE(page)": era.page_size,
        }
        self.places = era.places
        if era.layout:
            return lines | self._old_lines()
        lines["NUMBER(SECTION_SIZE_BITS)"] = self.section_bits
        if era.tells_names:
            lines["OFFSET(uts_namespace.name)"] = self.uts_offset
        lines |= {f"OFFSET(page.{name})": place for name, place in self.places.items()}
        lines |= {f"NUMBER(PG_{name})": era.flags[name] for name in era.told}
        lines["NUMBER(PG_head_mask)"] = self.flag("head")
        lines["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"] = era.buddy
        if era.slab is None:
            lines["NUMBER(PG_slab)"] = era.flags["slab"]
        else:
            lines["NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)"] = era.slab
        if era.huge_by == "type":
            assert era.huge is not None
            lines["NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)"] = era.huge
        elif era.huge_by == "flag":
            lines["NUMBER(PG_hugetlb)"] = era.flags["hugetlb"]
        else:
            lines |= {"NUMBER(HUGETLB_PAGE_DTOR)": 2, "OFFSET(page.compound_dtor)": 16}
        lines |= {f"SYMBOL(kallsyms_{part})": place for part, place in parts.items()}
        if self.encryption:
            lines["NUMBER(sme_mask)"] = self.encryption
        lines |= {"NUMBER(phys_base)": self.phys_base, "KERNELOFFSET": self.text - _IMAGE_BASE}
        if self.era.release[:4] not in ("4.14", "4.15"):
            lines["NUMBER(pgtable_l5_enabled)"] = int(len(self.shifts) == 5)
        return lines

    def _old_lines(self) -> dict[str, int | str]:
        """The lines of kernels before 4.14, as in 2.6.32-504.el6 and 3.16.4."""
        era = self.era
        told = ["flags", "_count", "mapping", "lru", "private"]
        told += ["_mapcount"] if "buddy" not in era.flags else []
        lines: dict[str, int | str] = {f"OFFSET(page.{name})": self.places[name] for name in told}
        lines |= {f"NUMBER(PG_{name})": era.flags[name] for name in era.told}
        if "buddy" not in era.flags:
            lines["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"] = era.buddy
        return lines

    def _share_kernel_half(self) -> None:
        """Copy the kernel's half to each process; with isolation, user mode gets a part."""
        half = self.peek(self.top * PAGE_SIZE + 2048, 2048)
        # The table with which other processors start maps memory to itself, without rights for
        # users.
        own = np.frombuffer(half, "<u8")
        self.poke(self.trampoline * PAGE_SIZE, own[own != 0][:1].tobytes())
        self.poke(self.trampoline * PAGE_SIZE + 2048, half)
        for tables, second in self.user_tables:
            self.poke(tables.top * PAGE_SIZE + 2048, half)
            for frame in [*tables.frames[-1], *tables.frames[-2]]:
                if frame != tables.top:
                    self.pages[frame].type = self.era.table
            if second is None:
                continue
            own = np.frombuffer(self.peek(tables.top * PAGE_SIZE, 2048), "<u8")
            self.poke(second * PAGE_SIZE, own.tobytes() + bytes(2040) + half[-8:])
            # No execution of user pages by the kernel's table.
            barred = np.where(own, own | np.uint64(_NO_EXECUTE), own)
            self.poke(tables.top * PAGE_SIZE, barred.tobytes())

    def _free_the_rest(self) -> None:
        memory = self.memory
        listed = [int(frame) for frame in memory.allocate(23)]
        blocks = [(frame, 0) for frame in listed]
        if self.era.lists_blocks:
            blocks += [(int(memory.allocate_run(2)[0]), 1), (int(memory.allocate_run(8)[0]), 3)]
        head = self.object()
        anchor = [head, *(self.link_of(frame) for frame, _ in blocks)]
        self.word(head, anchor[1], anchor[-1])
        for number, (frame, order) in enumerate(blocks, 1):
            block = frame + np.arange(1 << order)
            self.states[block] = "free"
            links = (anchor[(number + 1) % len(anchor)], anchor[number - 1])
            self.pages[frame] = _Page(count=0, links=links)
            for tail in block[1:].tolist():
                self.pages[tail] = _Page(count=0, links=(_POISON, _POISON + 0x22))
            memory.fill_with_noise(block)
        # The freed part of the image is in the buddy allocator, too.
        free = np.union1d(memory.free_frames, self.image[-_FREED:])
        memory.fill_free_frames(0.4)
        self._describe_free(free)

    def _describe_free(self, free: Frames) -> None:
        """Give these frames to the buddy allocator, in blocks as large as possible."""
        gaps = np.flatnonzero(np.diff(free) != 1)
        starts = free[np.concatenate(([0], gaps + 1))].tolist()
        ends = free[np.concatenate((gaps, [len(free) - 1]))].tolist()
        for at, last in zip(starts, ends, strict=True):
            end = last + 1
            while at < end:
                order = min((at & -at).bit_length() - 1, (end - at).bit_length() - 1, 10)
                self.states[at : at + (1 << order)] = "free"
                tail = _Page(count=0, links=(_POISON, _POISON + 0x22))
                self.pages.update(dict.fromkeys(range(at, at + (1 << order)), tail))
                self.pages[at] = _Page(count=0, type=self.era.buddy, private=order)
                if "buddy" in self.era.flags:
                    self.pages[at] = _Page(self.flag("buddy"), count=0, private=order)
                at += 1 << order

    @cached_property
    def _upper(self) -> int:
        """Upper bits that all flags of struct pages have."""
        return int(self.rng.integers(0, 1 << 20)) << 40

    def _write_array(self) -> None:
        """All struct pages at once, column by column: there are thousands."""
        era, places = self.era, self.places
        pages, frames = list(self.pages.values()), np.array(list(self.pages), np.int64)
        rows = np.zeros((len(pages), era.page_size), np.uint8)
        words, numbers = rows.view("<u8"), rows.view("<u4")
        self._tails = Counter(page.head for page in pages)
        words[:, 0] = _column([page.flags | self._upper for page in pages])
        words[:, 0] |= (frames % 3).astype(np.uint64) << np.uint64(54)
        lru, on_list = self.flag("lru"), (self.direct + 0x40, self.direct + 0x80)
        links = [
            on_list if page.flags & lru else page.links or (_POISON, _POISON + 0x22)
            for page in pages
        ]
        for number in range(2):
            words[:, places["lru"] // 8 + number] = _column([pair[number] for pair in links])
        words[:, places["mapping"] // 8] = _column([page.mapping for page in pages])
        words[:, places["private"] // 8] = _column([page.private for page in pages])
        if era.layout is None:
            words[:, 4] = _column([page.memory or page.index for page in pages])
        types = [(era.none if page.type is None else page.type) % 2**32 for page in pages]
        numbers[:, places["_mapcount"] // 4] = types
        count = "_count" if era.layout else "_refcount"
        numbers[:, places[count] // 4] = [page.count for page in pages]
        for row, page in zip(words, pages, strict=True):
            if page.head is not None and era.layout:
                row[0] |= np.uint64(self.flag("tail"))
                row[places["first_page"] // 8] = self.array_address(page.head)
            elif page.head is not None:
                row[1] = self._named_head(page.head) | 1
                row[2] = 0
        second = [number for number, page in enumerate(pages) if page.second]
        if era.huge_by == "destructor":
            rows[second, 16] = 2
        elif era.huge_by == "flag":
            words[second, 0] |= np.uint64(self.flag("hugetlb"))
        array = np.zeros((self.frames, era.page_size), np.uint8)
        array[frames] = rows
        raw = array.tobytes()
        for number, frame in enumerate(self.array.tolist()):
            self.poke(frame * PAGE_SIZE, raw[number * PAGE_SIZE : (number + 1) * PAGE_SIZE])
        if era.page_size == 64 and era.flags is not OLD_FLAGS and not (era.masks or era.layout):
            self._show_again()

    def _named_head(self, head: int) -> int:
        if not self.era.masks:
            return self.array_address(head)
        return -(self._tails[head] + 1) * self.era.page_size % 2**64

    def _show_again(self) -> None:
        """Map all struct pages of the pool's huge pages to their first pages (HVO)."""
        for run in (self.pool, *([self.huge] if self.huge is not None else [])):
            first = int(run[0]) * 64 // PAGE_SIZE
            for number in range(first + 1, first + 8):
                virtual = self.vmemmap + number * PAGE_SIZE
                self._repoint(virtual, int(self.array[first]))

    def _repoint(self, virtual: int, frame: int) -> None:
        virtual &= (1 << self.shifts[0] + 9) - 1
        table = self.top
        for level in self.shifts:
            place = table * PAGE_SIZE + (virtual >> level) % 512 * 8
            [entry] = struct.unpack("<Q", self.peek(place, 8))
            table = (entry & _ADDRESS & ~self.encryption) >> 12
        self.poke(place, struct.pack("<Q", entry & ~(_ADDRESS & ~self.encryption) | frame << 12))

    def _classes(self, zero: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
        mapped = np.zeros(self.frames, bool)
        mapped[[frame for _, _, frame in self.user]] = True
        kernel = ("slab", "page table", "kernel image", "reserved", "kernel other")
        used = np.isin(self.states, kernel)
        used |= ~mapped & np.isin(self.states, ("huge page", "anonymous"))
        used[self.swap_cache] = False
        return np.select(
            [self.states == "absent", mapped & used, mapped, used, zero],
            ["absent", "both", "user", "kernel", "unused-zero"],
            "unused-data",
        )
