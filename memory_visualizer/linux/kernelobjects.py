"""Files, regions and modules of a Linux kernel, with remarks on missing data."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import are_among
from memory_visualizer.errors import UntoldError
from memory_visualizer.linux import filelayout, layoutsbyform, modules
from memory_visualizer.linux.dentries import Dentries
from memory_visualizer.linux.filecache import files_of
from memory_visualizer.linux.filelayout import FileLayout
from memory_visualizer.linux.firsttask import find_first_task
from memory_visualizer.linux.kernel import LinuxKernel, with_types
from memory_visualizer.linux.offsets import Offsets, offsets_by_btf
from memory_visualizer.linux.offsetsbyform import offsets_by_form
from memory_visualizer.linux.pagestates import PageArray
from memory_visualizer.linux.regions import (
    Found,
    RegionLayout,
    Regions,
    gate_of,
    layout_by_btf,
)
from memory_visualizer.linux.tasklist import task_limit
from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.inventory import FilePages, Module, Region
from memory_visualizer.snapshot.pagemap import PageState
from memory_visualizer.snapshot.process import Process
from memory_visualizer.units import PAGE_SIZE

_CACHE = (PageState.FILE_CACHE, PageState.SHARED_MEMORY)
_NO_TYPES = "the kernel does not describe its types (BTF), or not as expected"
_EXAMPLES = 1 << 12
"""Cached pages by whose files places in objects are found."""


class KernelObjects:
    """Reads a kernel's files, its processes' regions, and its modules."""

    def __init__(
        self, kernel: LinuxKernel, states: NDArray[np.uint8], tasks: NDArray[np.uint64]
    ) -> None:
        """The arguments are as in LinuxInventory."""
        self._tasks = tasks
        self._states = states
        self._found = kernel
        self._told: dict[str, None] = {}
        self._refused_before = kernel.memory.budget.remarks

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on missing or doubtful data among the results so far."""
        refused = self._found.memory.budget.remarks
        return (*self._told, *(each for each in refused if each not in self._refused_before))

    def remark(self, *sentences: str) -> None:
        """Add sentences, each once."""
        self._told |= dict.fromkeys(sentences)

    @cached_property
    def _kernel(self) -> LinuxKernel:
        """The kernel with its types."""
        return with_types(self._found)

    @property
    def _is_wide(self) -> bool:
        """Whether its pointers have 64 bits; those of 32 bits are not read."""
        return self._kernel.kernel.word == 8

    @property
    def _why(self) -> str:
        """The reason why the layout of objects is unknown."""
        return _NO_TYPES if self._is_wide else "objects of a 32-bit kernel are not read"

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

    @property
    def _cache(self) -> NDArray[np.int64]:
        """The frames of the page cache."""
        return np.flatnonzero(are_among(self._states, _CACHE))

    # Files

    @cached_property
    def _layout(self) -> FileLayout | None:
        """The offsets in inodes and directory entries; None if nothing shows them."""
        kernel = self._kernel
        layout = filelayout.by_btf(kernel.btf) if kernel.btf and self._is_wide else None
        by_form = layout is None and self._is_wide and self._pages is not None
        if by_form and self._pages:
            cached = self._pages.cached(self._cache[:: len(self._cache) // _EXAMPLES + 1])
            layout = layoutsbyform.files(kernel.kernel, np.unique(cached.mapping))
        if layout is None:
            self.remark(f"{self._why}: the files of its pages are unknown")
        elif by_form:
            self.remark(
                f"{_NO_TYPES}: files were found by the structure of their objects; a path may be"
                " the one in another name space of mounts"
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
        if types is None or not first:
            return 0
        proxy, space = types.offset("task_struct", "nsproxy"), types.offset("nsproxy", "mnt_ns")
        if proxy is None or space is None:
            return 0
        place = read(first + proxy)
        return (read(place + space) or 0) if place else 0

    def file_pages(self) -> FilePages | None:
        """See Inventory."""
        layout, dentries, pages = self._layout, self._dentries, self._pages
        if layout is None or dentries is None or pages is None:
            return None
        huge = np.flatnonzero(self._states == PageState.HUGE_PAGE)
        cached = pages.cached(self._cache).with_more(pages.cached_huge(huge))
        found, remarks = files_of(self._kernel.kernel, layout, dentries, cached)
        self.remark(*remarks)
        self._remark_names(dentries)
        return found

    def _remark_names(self, dentries: Dentries) -> None:
        if dentries.lost:
            entries = counted(dentries.lost, "directory entry", "directory entries")
            self.remark(f"{entries} without a readable name: paths through them are unknown")
        if dentries.without_mount:
            names = ", ".join(sorted(printable(name) or "?" for name in dentries.without_mount))
            self.remark(
                f"no mount of a file system was found ({names}): its paths begin at its own root"
            )

    # Regions

    @cached_property
    def _offsets(self) -> Offsets | None:
        """The offsets in tasks."""
        kernel = self._kernel
        if kernel.btf and (offsets := offsets_by_btf(kernel.btf)):
            return offsets
        first = find_first_task(kernel)
        limit = task_limit(kernel.memory, kernel.kernel.word)
        return offsets_by_form(kernel, first, limit) if first else None

    @cached_property
    def _regions(self) -> Regions | None:
        """The reader of regions; None if the layout is unknown."""
        kernel, offsets = self._kernel, self._offsets
        layout = layout_by_btf(kernel.btf) if kernel.btf and self._is_wide else None
        by_form = layout is None and self._is_wide
        if by_form and offsets:
            layout = self._regions_by_form(offsets)
        if layout is None or offsets is None:
            self.remark(f"{self._why}: the regions of its processes are unknown")
            return None
        if by_form:
            self.remark(
                f"{_NO_TYPES}: regions were found by the structure of their objects; names that"
                " processes gave them are unknown"
            )
        page_bytes = kernel.machine.page_frames * PAGE_SIZE
        gate = gate_of(kernel.kernel, layout, kernel.symbols)
        return Regions(kernel.kernel, layout, offsets, self._dentries, page_bytes, gate)

    def _regions_by_form(self, offsets: Offsets) -> RegionLayout | None:
        kernel = self._kernel
        memories = layoutsbyform.memories_of(kernel.kernel, self._tasks, [offsets.mm])
        return layoutsbyform.regions(kernel.kernel, offsets.pgd, memories)

    @cached_property
    def _regions_of(self) -> dict[tuple[int, int], Found | None]:
        """The regions that were read so far, by task and page table."""
        return {}

    def regions(self, process: Process) -> tuple[Region, ...] | None:
        """See Inventory."""
        if self._regions is None or process.is_kernel_thread or not process.dtb:
            return None
        key = process.object_address, process.dtb
        if key not in self._regions_of:
            self._regions_of[key] = self._read_regions(self._regions, process)
        found = self._regions_of[key]
        return found.regions if found else None

    def _read_regions(self, regions: Regions, process: Process) -> Found | None:
        found = regions.of(process, self._memory_of_table(process))
        who = f"{printable(process.shown_name)} ({process.pid})"
        if found is None:
            self.remark(f"the regions of {who} were not found: nothing leads to its memory")
            return None
        if found.lost:
            links = counted(found.lost, "link")
            self.remark(f"the regions of {who} are not complete: {links} lost, or beyond the limit")
        if found.doubtful:
            many = counted(found.doubtful, "region")
            self.remark(f"{many} of {who} could not be read: at most the addresses are known")
        return found

    def _memory_of_table(self, process: Process) -> list[int]:
        """The mm_struct of a process's top-level table, by the table's struct page (x86)."""
        offsets, pages = self._offsets, self._pages
        place = offsets.space_of_table if offsets else None
        frame = np.array([process.dtb // PAGE_SIZE])
        if pages is None or place is None or frame[0] >= self._kernel.memory.frame_count:
            return []
        words: list[int] = pages.words(frame, place)[0].tolist()
        return words

    # Modules

    def modules(self) -> tuple[Module, ...] | None:
        """See Inventory."""
        kernel = self._kernel
        head = kernel.symbols.get("modules")
        if not self._is_wide:
            self.remark(f"{self._why}: its modules are unknown")
            return None
        if head is None:
            self.remark("the modules of the kernel are unknown: no symbol names their list")
            return None
        by_btf = modules.layout_by_btf(kernel.btf) if kernel.btf else None
        layout = by_btf or layoutsbyform.modules(kernel.kernel, head)
        if layout is None:
            self.remark(f"{_NO_TYPES}: its modules are unknown")
            return None
        if by_btf is None:
            self.remark(
                f"{_NO_TYPES}: its modules were found by the structure of their objects; from"
                " Linux 6.4 on only the part with a module's data is known"
            )
        found = modules.read_modules(kernel.kernel, layout, head)
        if not found.is_whole:
            self.remark("the list of modules is broken, or has entries that are not modules")
        return found.modules
