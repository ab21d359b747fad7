"""Files, regions and modules of a Linux kernel, read when they are asked for."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import UntoldError
from memory_visualizer.linux import filelayout, modules
from memory_visualizer.linux.dentries import Dentries
from memory_visualizer.linux.filecache import files_of
from memory_visualizer.linux.filelayout import FileLayout
from memory_visualizer.linux.kernel import LinuxKernel, with_symbols
from memory_visualizer.linux.offsets import offsets_by_btf
from memory_visualizer.linux.pagestates import PageArray
from memory_visualizer.linux.regions import Found, Regions, layout_by_btf
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.inventory import FilePages, Inventory, Module, Region
from memory_visualizer.snapshot.pagemap import PageState
from memory_visualizer.snapshot.process import Process
from memory_visualizer.units import PAGE_SIZE

_CACHE = (PageState.FILE_CACHE, PageState.SHARED_MEMORY)


class LinuxInventory(Inventory):
    """What a kernel tells of its files, its processes' regions and its modules.

    Of the kernel only what is small is kept until then: its types and symbols are read again.
    """

    def __init__(self, kernel: LinuxKernel) -> None:
        super().__init__()
        memory = TableMemory(
            kernel.memory, kernel.paging, kernel.kernel.roots, kernel.kernel.regular
        )
        self._found = replace(kernel, kernel=memory, btf=None)

    def __getstate__(self) -> dict[str, Any]:
        """A pickle has what leads to the kernel, not what was read of it."""
        kept = self._found
        memory = TableMemory(kept.memory, kept.paging, kept.kernel.roots, kept.kernel.regular)
        return {"_remarks": self._remarks, "_found": replace(kept, kernel=memory)}

    @cached_property
    def _kernel(self) -> LinuxKernel:
        """The kernel with types and symbols."""
        return with_symbols(self._found, ("modules",))

    @cached_property
    def _layout(self) -> FileLayout | None:
        types = self._kernel.btf
        layout = filelayout.by_btf(types) if types and self._kernel.kernel.word == 8 else None
        if layout is None:
            self.remark(
                "the kernel does not describe its types (BTF), or not as expected: the files of its"
                " pages are unknown"
            )
        return layout

    @cached_property
    def _dentries(self) -> Dentries | None:
        if self._layout is None:
            return None
        return Dentries(self._kernel.kernel, self._layout, self._own_space)

    @property
    def _own_space(self) -> int:
        """The first process's name space of mounts; 0 if not known."""
        types, read = self._kernel.btf, self._kernel.kernel.number
        first = self._kernel.symbols.get("init_task")
        if types is None or first is None:
            return 0
        proxy, space = types.offset("task_struct", "nsproxy"), types.offset("nsproxy", "mnt_ns")
        if proxy is None or space is None:
            return 0
        place = read(first + proxy)
        return (read(place + space) or 0) if place else 0

    @cached_property
    def _pages(self) -> PageArray | None:
        """The struct pages; None if they are not found, of which there is a remark already."""
        kernel = self._kernel
        try:
            return PageArray(
                kernel.memory,
                kernel.kernel,
                kernel.info,
                kernel.btf,
                kernel.symbols,
                kernel.machine.page_frames,
            )
        except UntoldError:
            return None

    def file_pages(self, states: NDArray[np.uint8] | None) -> FilePages | None:
        """As in Inventory."""
        layout, dentries, pages = self._layout, self._dentries, self._pages
        if states is None or layout is None or dentries is None or pages is None:
            return None
        cached = pages.cached(np.flatnonzero(np.isin(states, _CACHE)))
        found, remarks = files_of(self._kernel.kernel, layout, dentries, cached)
        self.remark(*remarks)
        self._remark_names(dentries)
        return found

    def _remark_names(self, dentries: Dentries) -> None:
        if dentries.lost:
            entries = counted(dentries.lost, "directory entry", "directory entries")
            self.remark(f"{entries} without a readable name: paths through them are unknown")
        if dentries.without_mount - {""}:
            names = ", ".join(sorted(map(printable, dentries.without_mount)))
            self.remark(
                f"no mount of a file system was found ({names}): its paths begin at its own root"
            )

    @cached_property
    def _regions(self) -> Regions | None:
        """What reads regions; None where the kernel does not tell how."""
        types = self._kernel.btf if self._kernel.kernel.word == 8 else None
        layout = layout_by_btf(types) if types else None
        offsets = offsets_by_btf(types) if types else None
        if layout is None or offsets is None:
            self.remark(
                "the kernel does not describe its types (BTF), or not as expected: the regions of"
                " its processes are unknown"
            )
            return None
        return Regions(self._kernel.kernel, layout, offsets, self._dentries)

    @cached_property
    def _regions_of(self) -> dict[tuple[int, int], Found | None]:
        """What was read of processes, by task and page table."""
        return {}

    def regions(self, process: Process) -> tuple[Region, ...] | None:
        """As in Inventory."""
        if self._regions is None or process.is_kernel_thread or not process.dtb:
            return None
        key = process.object_address, process.dtb
        if key not in self._regions_of:
            self._regions_of[key] = self._read_regions(self._regions, process)
        found = self._regions_of[key]
        return found.regions if found else None

    def _read_regions(self, regions: Regions, process: Process) -> Found | None:
        budget = self._kernel.memory.budget
        known = sum(len(found.regions) for found in self._regions_of.values() if found)
        found = regions.of(process, self._memory_of_table(process), budget.limit("region") - known)
        who = f"{printable(process.name)} ({process.pid})"
        if found is None:
            self.remark(f"the regions of {who} were not found: nothing leads to its memory")
            return None
        if found.lost:
            self.remark(
                f"the regions of {who} are not complete: {counted(found.lost, 'link')} lost"
            )
        if found.doubtful:
            many = counted(found.doubtful, "region")
            self.remark(f"{many} of {who} could not be read: not more than the addresses is known")
        return found

    def _memory_of_table(self, process: Process) -> list[int]:
        """The memory that a process's top-level table is of, by its struct page (x86)."""
        types, pages = self._kernel.btf, self._pages
        offsets = offsets_by_btf(types) if types else None
        place = offsets.space_of_table if offsets else None
        if pages is None or place is None:
            return []
        frame = np.array([process.dtb // PAGE_SIZE])
        if not 0 <= frame[0] < self._kernel.memory.frame_count:
            return []
        words: list[int] = pages.words(frame, place)[0].tolist()
        return words

    def modules(self) -> tuple[Module, ...] | None:
        """As in Inventory."""
        kernel = self._kernel
        layout = (
            modules.layout_by_btf(kernel.btf) if kernel.btf and kernel.kernel.word == 8 else None
        )
        head = kernel.symbols.get("modules")
        if layout is None or head is None:
            why = "the kernel's symbols do not name their list" if layout else "there is no BTF"
            self.remark(f"the modules of the kernel are unknown: {why}")
            return None
        found = modules.read_modules(kernel.kernel, layout, head)
        if not found.is_whole:
            self.remark(
                "the list of modules is broken, or has entries that are none: some may lack"
            )
        return found.modules
