"""Make up the memory of a Linux machine of 32 bits, with and without PAE, with high memory.

Layouts are those of Debian's kernels 6.1.0-50-686 and 6.1.0-50-686-pae, by their debugging
information (oldlayouts.py). As there the kernel has the last gigabyte of addresses, in which it
maps low memory in a row, and of high memory but single pages; one array has all struct pages; and
no types are described. Under PAE the four pointers of a process are a small object in a slab, and
all processes share the table of the kernel's gigabyte (arch/x86/mm/pgtable.c, SHARED_KERNEL_PMD).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.synth.eras import ERAS
from tests.synth.linux import (
    _LARGE,
    _NO_EXECUTE,
    _POISON,
    _PRESENT,
    _TOUCHED,
    _WORKER,
    _WRITE,
    MIB,
    LinuxTruth,
    _Machine,
    _Page,
    _Tables,
)
from tests.synth.linuxclock import LinuxClock
from tests.synth.memory import PAGE_SIZE, Frames
from tests.synth.oldlayouts import read_layouts

_LAST_GIGABYTE = 0xC000_0000
_HIGH_PLACE = 0xFFC0_0000
"""Where single pages of high memory are mapped (kmap)."""
_ZONE_SHIFT = 30
_DMA, _NORMAL, _HIGH = range(3)
_DMA_FRAMES = 16 * MIB // PAGE_SIZE
_CODE = 300
"""Frames of the kernel's code, at the begin of its image."""
_POINTERS_SIZE = 32
_USER_GIGABYTES = 3


def forge_linux_on_i386(
    path: Path,
    *,
    pae: bool = True,
    size: int = 64 * MIB,
    low: int = 48 * MIB,
    hole: bool = False,
    now: int | None = None,
    seed: int = 0,
) -> LinuxTruth:
    """Write a raw dump; the truth about it is returned.

    What lies behind `low` is high memory (the kernel's option ``highmem=``); `hole` and `now` are
    as in forge_linux.
    """
    machine = _I386Machine(pae, size, low, hole, seed)
    if now is not None:
        machine.clock = LinuxClock(machine, now)
    return machine.write(path)


class _I386Machine(_Machine):
    pointer = 4
    heap, copies, library, huge_at = 0x0900_0000, 0x5000_0000, 0x7000_0000, 0x6000_0000
    heap_pages = 1 << 12
    swapped_behind = 1 << 28
    threads = (
        (2, "kthreadd", 0, ""),
        (3, "kworker/0:0", _WORKER, "kworker/0:0-events_long"),
        (4, "rcu_tasks_trace", 0, "rcu_tasks_trace_kthread"),
        (5, "rcu_tasks_kthre", 0, "rcu_tasks_kthread"),
        (6, "kworker/u2:0", _WORKER, "kworker/u2:0+ext4-rsv-conversion"),
        (7, "ksoftirqd/0", 0, ""),
        (8, "kworker/0:1H", _WORKER, ""),  # it has not worked yet
        (9, "kworker/0:1", _WORKER, "kworker/0:1-mm_percpu_wq"),
        (10, "mm_percpu_wq", _WORKER, ""),  # there for one queue, without a pool
        (11, "rcu_tasks_rude_", 0, "rcu_tasks_rude_kthread"),
    )

    def __init__(self, pae: bool, size: int, low: int, hole: bool, seed: int) -> None:
        flavour = "686-pae" if pae else "686"
        self.layout = read_layouts()[f"6.1-{flavour}"]
        era = replace(
            ERAS["6.1"],
            release=f"6.1.0-50-{flavour}",
            has_btf=False,
            addresses="base",
            inverts=pae,
            page_size=self.layout["page"]["size"],
        )
        super().__init__(era, size, False, False, hole, 6, seed)
        self.pae, self.low_end = pae, low // PAGE_SIZE
        self.shifts = (30, 21, 12) if pae else (22, 12)
        self.entry_size, self.large_shift = (8, 21) if pae else (4, 22)
        self.direct = _LAST_GIGABYTE
        self.resource = self.layout["resource"]
        self.kthread = {**self.layout["kthread"], **self.layout["worker"]}
        self.pointers: list[int] = []
        """Places for the pointers of processes that are not yet in use."""
        for frame in self.hole.tolist():  # the one array describes it, too
            self.pages[frame] = _Page(flags=self.flag("reserved"))

    # Memory

    def _array(self, count: int) -> Frames:
        frames = self.run(count)
        self.vmemmap = self.direct_address(int(frames[0]))
        return frames

    def _some(self, count: int) -> Frames:
        return np.concatenate([self.run(1) for _ in range(count)])

    def put(self, virtual: int, contents: bytes) -> None:
        """Write at an address of low memory, where the image lies as well."""
        assert self.low_end and self.direct <= virtual < self.direct_address(self.low_end)
        self.poke(virtual - self.direct, contents)

    def flags_above(self, level: int) -> int:
        """In the four pointers most bits must be zero."""
        return 0 if self.pae and level == 0 else super().flags_above(level)

    def new_table(self, tables: _Tables) -> int:
        """A process's may lie in high memory (CONFIG_HIGHPTE), the kernel's not."""
        if tables is not getattr(self, "kernel", None):
            return super().new_table(tables)
        [frame] = self.give(self.run(1), "page table").tolist()
        return int(frame)

    def link_of(self, frame: int) -> int:
        """As in _Machine."""
        return self.array_address(frame) + self.layout["page"]["lru"]

    # The kernel

    def _image_begin(self) -> int:
        """It lies in the row of low memory, wherever it was moved to."""
        return self.direct_address(int(self.image[0]))

    def _map_kernel(self) -> None:
        """Map low memory in a row by large pages, but its begin and the image by single ones.

        The kernel cannot write to its code.
        """
        kernel, large = _PRESENT | _WRITE | _TOUCHED, 1 << self.large_shift - 12
        assert self.low_end
        for frame in range(0, self.low_end, large):
            if np.isin(frame, self.hole):
                continue
            if frame and not np.isin(frame, self.image):
                entry = frame << 12 | kernel | _LARGE
                self.kernel.map(self.direct_address(frame), entry, self.large_shift)
                continue
            for page in range(frame, frame + large):
                flags = kernel & ~_WRITE if np.isin(page, self.image[:_CODE]) else kernel
                self.kernel.map(self.direct_address(page), page << 12 | flags)
        if self.low_end < self.frames:
            high = self.frames - 1
            self.kernel.map(_HIGH_PLACE, high << 12 | kernel | _NO_EXECUTE)

    def _name_things(self) -> None:
        super()._name_things()
        node, size = self.layout["pglist_data"], self.layout["pglist_data"]["size"]
        del self.symbols["vmemmap_base"], self.symbols["mem_section"]
        array, data = self.reserve_image(64), self.reserve_image(size)
        self.symbols |= {"mem_map": array, "contig_page_data": data}
        self.word(array, self.vmemmap)
        self.word(data + node["node_start_pfn"], 0)
        self.word(data + node["node_spanned_pages"], self.frames)

    def _make_tasks(self) -> None:
        layout = self.layout
        self.task = {name: at for name, at in layout["task_struct"].items() if name != "size"}
        self.pgd_offset = layout["mm_struct"]["pgd"]
        self.pid_tasks, self.pid_number = layout["pid"]["tasks"], layout["pid"]["numbers"]
        self.pid_step, self.pid_kind = 2 * self.pointer, 1
        self._list_threads()

    # Processes

    def new_space(self) -> tuple[_Tables, int]:
        """As in _Machine."""
        if not self.pae:
            return super().new_space()
        if not self.pointers:
            page = self.object(cache="pgd_cache") - self.direct
            self.pointers = list(range(page, page + PAGE_SIZE, _POINTERS_SIZE))[3::5]
        frame, at = divmod(self.pointers.pop(0), PAGE_SIZE)
        tables = _Tables(self, frame, at)
        for gigabyte in range(_USER_GIGABYTES):  # they have their tables from the start
            tables.table_for(0, gigabyte << 30, tables.base + gigabyte * self.entry_size)
        self.user_tables.append((tables, None))
        return tables, self._new_mm(tables)

    def _list_spaces(self) -> None:
        """With a shared table of the kernel's gigabyte no process is in the list."""
        if self.pae:
            head = self.symbols["pgd_list"]
            self.word(head, head, head)
        else:
            super()._list_spaces()

    def _share_kernel_half(self) -> None:
        begin = _USER_GIGABYTES * (1 << 30 >> self.shifts[0]) * self.entry_size
        size = (4 - _USER_GIGABYTES) * (1 << 30 >> self.shifts[0]) * self.entry_size
        own = self.peek(self.top * PAGE_SIZE + begin, size)
        for tables, _ in self.user_tables:
            self.poke(tables.base + begin, own)
            for frame in [*tables.frames[-1], *tables.frames[-2]]:
                if frame != tables.top:
                    self.pages[frame].type = self.era.table

    # What the kernel tells

    def _make_sections(self) -> None:
        """There are none."""

    def _lines(self, parts: dict[str, int]) -> dict[str, int | str]:
        """As Debian's kernels tell it, which were looked at."""
        era, page, node = self.era, self.layout["page"], self.layout["pglist_data"]
        lines: dict[str, int | str] = {"OFFSET(uts_namespace.name)": self.uts_offset}
        symbols = ("init_uts_ns", "swapper_pg_dir", "_stext", "mem_map", "contig_page_data")
        lines |= {f"SYMBOL({name})": self.symbols[name] for name in symbols}
        lines |= {"SIZE(page)": page["size"], "SIZE(pglist_data)": node["size"]}
        lines |= {f"OFFSET(page.{name})": at for name, at in page.items() if name != "size"}
        lines |= {f"OFFSET(pglist_data.{name})": at for name, at in node.items() if name != "size"}
        lines |= {f"NUMBER(PG_{name})": era.flags[name] for name in (*era.told, "slab")}
        lines |= {"NUMBER(PG_head_mask)": self.flag("head"), "NUMBER(HUGETLB_PAGE_DTOR)": 2}
        lines["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"] = era.buddy
        lines |= {f"SYMBOL(kallsyms_{part})": place for part, place in parts.items()}
        return lines | {"CONFIG_X86_PAE": "y"} if self.pae else lines

    def _write_array(self) -> None:
        page_at = self.layout["page"]
        array = np.zeros((self.frames, self.era.page_size), np.uint8)
        numbers = array.view("<u4")
        pages, frames = list(self.pages.values()), list(self.pages)
        lru, on_list = self.flag("lru"), (self.direct + 0x40, self.direct + 0x80)
        links = [
            (self.array_address(page.head) | 1, 0)
            if page.head is not None
            else on_list
            if page.flags & lru
            else page.links or (_POISON, _POISON + 0x22)
            for page in pages
        ]
        told = {
            "flags": [
                page.flags | self._zone(frame) << _ZONE_SHIFT for frame, page in self.pages.items()
            ],
            "mapping": [page.mapping for page in pages],
            "private": [page.private for page in pages],
            "_mapcount": [self.era.none if page.type is None else page.type for page in pages],
            "_refcount": [page.count for page in pages],
        }
        for name, values in told.items():
            numbers[frames, page_at[name] // 4] = [value % 2**32 for value in values]
        for number in range(2):
            place = page_at["lru"] // 4 + number
            numbers[frames, place] = [pair[number] % 2**32 for pair in links]
        second = [frame for frame, page in self.pages.items() if page.second]
        array[second, page_at["compound_dtor"]] = 2
        self.poke(int(self.array[0]) * PAGE_SIZE, array.tobytes())

    def _zone(self, frame: int) -> int:
        assert self.low_end
        return _DMA if frame < _DMA_FRAMES else _NORMAL if frame < self.low_end else _HIGH
