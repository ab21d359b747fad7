"""Files, regions and modules of a Linux kernel, read on demand."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.kernel import LinuxKernel
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.snapshot.framerecords import FrameRecords
from memory_visualizer.snapshot.inventory import FilePages, Inventory, Module, Region
from memory_visualizer.snapshot.process import Process

if TYPE_CHECKING:
    from memory_visualizer.linux.kernelobjects import KernelObjects


class LinuxInventory(Inventory):
    """Keeps the small parts of a kernel; its types and symbols are read again when needed.

    A pickle has the data that leads to the kernel, but not the results.
    """

    modules_cost_little = True

    def __init__(
        self, kernel: LinuxKernel, states: NDArray[np.uint8], tasks: NDArray[np.uint64]
    ) -> None:
        """`states` is the PageState of each frame, `tasks` are addresses of some processes' tasks.

        These show the form of their regions if the kernel does not describe it.
        """
        read = kernel.kernel
        memory = TableMemory(kernel.memory, kernel.paging, read.roots, read.regular)
        self._kernel = replace(kernel, kernel=memory, btf=None)
        self._states = states
        self._tasks = tasks

    def __reduce__(self) -> tuple[Any, ...]:
        read = self._kernel.kernel
        memory = TableMemory(read.memory, self._kernel.paging, read.roots, read.regular)
        return LinuxInventory, (replace(self._kernel, kernel=memory), self._states, self._tasks)

    @cached_property
    def _objects(self) -> "KernelObjects":
        from memory_visualizer.linux.kernelobjects import KernelObjects  # as most runs do not ask

        return KernelObjects(self._kernel, self._states, self._tasks)

    @property
    def remarks(self) -> Sequence[str]:
        """As in Inventory."""
        return self._objects.remarks if "_objects" in vars(self) else ()

    def file_pages(self, _: FrameRecords | None) -> FilePages | None:
        """As in Inventory."""
        return self._objects.file_pages()

    def regions(self, process: Process) -> tuple[Region, ...] | None:
        """As in Inventory."""
        return self._objects.regions(process)

    def modules(self) -> tuple[Module, ...] | None:
        """As in Inventory."""
        return self._objects.modules()
