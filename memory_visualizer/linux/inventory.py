"""Files, regions and modules of a Linux kernel, read when they are asked for."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import UntoldError
from memory_visualizer.linux import filelayout
from memory_visualizer.linux.dentries import Dentries
from memory_visualizer.linux.filecache import files_of
from memory_visualizer.linux.filelayout import FileLayout
from memory_visualizer.linux.kernel import LinuxKernel, with_symbols
from memory_visualizer.linux.pagestates import PageArray
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.inventory import FilePages, Inventory, Module, Region
from memory_visualizer.snapshot.pagemap import PageState
from memory_visualizer.snapshot.process import Process

_CACHE = (PageState.FILE_CACHE, PageState.SHARED_MEMORY)


class LinuxInventory(Inventory):
    """What a kernel tells of its files, its processes' regions and its modules.

    Of the kernel only what is small is kept until then: its types and symbols are read again.
    """

    def __init__(self, kernel: LinuxKernel) -> None:
        super().__init__()
        memory = TableMemory(kernel.memory, kernel.paging, kernel.kernel.roots, kernel.kernel.regular)
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

    def file_pages(self, states: NDArray[np.uint8] | None) -> FilePages | None:
        """As in Inventory."""
        kernel, layout, dentries = self._kernel, self._layout, self._dentries
        if states is None or layout is None or dentries is None:
            return None
        try:
            pages = PageArray(
                kernel.memory,
                kernel.kernel,
                kernel.info,
                kernel.btf,
                kernel.symbols,
                kernel.machine.page_frames,
            )
        except UntoldError:  # of which there is a remark already
            return None
        cached = pages.cached(np.flatnonzero(np.isin(states, _CACHE)))
        found, remarks = files_of(kernel.kernel, layout, dentries, cached)
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

    def regions(self, process: Process) -> tuple[Region, ...] | None:
        """As in Inventory."""
        return None

    def modules(self) -> tuple[Module, ...] | None:
        """As in Inventory."""
        return None
