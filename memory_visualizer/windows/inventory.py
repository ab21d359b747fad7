"""The files, regions and modules of a Windows dump, read on demand."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.framerecords import FrameRecords
from memory_visualizer.snapshot.inventory import FilePages, Inventory, Module, Region
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.kernelmemory import KernelMemory

if TYPE_CHECKING:
    from memory_visualizer.windows.kernelimages import Images
    from memory_visualizer.windows.modules import FoundModules
    from memory_visualizer.windows.regions import Found
    from memory_visualizer.windows.selfmap import SelfMap


class WindowsInventory(Inventory):
    """Keeps a snapshot, and reads the kernel's memory through it on demand.

    The modules that read are also imported on demand, since most runs do not need them.
    """

    def __init__(self, snapshot: Snapshot, tops: NDArray[np.int64]) -> None:
        """`snapshot` has neither records nor an inventory.

        `tops` are the frames of its processes' top-level tables, shape (n, frames); -1 if unknown.
        """
        self._snapshot = snapshot
        self._tops = tops
        self._told: dict[str, None] = {}
        self._refused_before = snapshot.dump.budget.remarks

    def __reduce__(self) -> tuple[type["WindowsInventory"], tuple[Snapshot, NDArray[np.int64]]]:
        return WindowsInventory, (self._snapshot, self._tops)

    @cached_property
    def kernel(self) -> KernelMemory:
        """The kernel's memory."""
        snapshot = self._snapshot
        kernel = KernelMemory(snapshot.dump, snapshot.mappings.take(~snapshot.mappings.is_user))
        if snapshot.paging is not None and snapshot.paging.address_bits == 32:
            kernel.word = 4
        return kernel

    @cached_property
    def self_map(self) -> "SelfMap | None":
        """The window through which Windows sees its page tables; None if no table shows it."""
        from memory_visualizer.windows.selfmap import SelfMap

        paging = self._snapshot.paging
        return SelfMap.of(self._snapshot.dump, paging, self._tops) if paging else None

    @property
    def remarks(self) -> Sequence[str]:
        """As in Inventory."""
        refused = self._snapshot.dump.budget.remarks
        return (*self._told, *(each for each in refused if each not in self._refused_before))

    def release(self) -> None:
        """Give back the memory of columns that are made again when they are asked for."""
        vars(self).pop("kernel", None)

    def remark(self, *sentences: str) -> None:
        """Add sentences, each once."""
        self._told |= dict.fromkeys(sentences)

    def file_pages(self, records: FrameRecords | None) -> FilePages | None:
        """As in Inventory."""
        if records is None or records.sections is None:
            return None
        from memory_visualizer.windows.sectionpages import file_pages

        pages, remarks = file_pages(self._snapshot.dump.budget, self.kernel, records.sections)
        self.remark(*remarks)
        return pages

    def regions(self, process: Process) -> tuple[Region, ...] | None:
        """As in Inventory; the regions of all processes are read at once."""
        if self._regions is None:
            return None
        found = self._regions[self._snapshot.index_of(process)]
        who = f"{printable(process.shown_name)} ({process.pid})"
        if found.regions is None and process.is_alive:
            self.remark(f"the regions of {who} were not found: its process object is not readable")
        if found.lost:
            links = counted(found.lost, "link")
            self.remark(f"the regions of {who} are not complete: {links} lost, or beyond the limit")
        if found.doubtful:
            many = counted(found.doubtful, "region")
            self.remark(f"{many} of {who} left out: they contradict the others around them")
        return found.regions

    @cached_property
    def _regions(self) -> "list[Found] | None":
        """The regions of each process, by its index; None if their form is not found."""
        from memory_visualizer.windows.regions import Surroundings, read_regions

        snapshot, self_map = self._snapshot, self.self_map
        found = None
        if self_map is not None:
            around = Surroundings(
                snapshot.mappings.take(snapshot.mappings.is_user),
                self_map.paging.entry_bytes,
                self_map.kernel_begin,
                self_map.user_end // PAGE_SIZE,
                snapshot.system.build or 0 if snapshot.system else 0,
            )
            objects = [process.object_address for process in snapshot.processes]
            found = read_regions(self.kernel, np.array(objects, np.uint64), around)
        if found is None:
            self.remark(
                "the regions of the processes are unknown: no tree of their addresses was found"
            )
        return found

    def modules(self) -> tuple[Module, ...] | None:
        """As in Inventory."""
        found = self._modules
        if found is None:
            self.remark("the modules of the kernel are unknown: no list of them was found")
            return None
        self.remark(*found.remarks)
        return found.modules

    def unlisted_modules(self) -> tuple[Module, ...]:
        """As in Inventory: images that may be executed, by their headers and rights."""
        found = self._modules
        if found is None:
            return ()
        from memory_visualizer.windows.kernelimages import unlisted_images

        listed = [part for module in found.modules for part in module.ranges]
        images = unlisted_images(self.kernel, self._images, listed)
        return tuple(
            Module("", ((start, end),), tuple(frames.tolist())) for start, end, frames in images
        )

    @cached_property
    def images(self) -> "Images":
        """The kernel's images by their headers, and by its list of modules."""
        modules = self._modules.modules if self._modules else ()
        return self._images.with_ranges([part for module in modules for part in module.ranges])

    @cached_property
    def _images(self) -> "Images":
        """The images by their headers alone."""
        from memory_visualizer.windows.kernelimages import Images, kernel_images

        if self.self_map is None:
            return Images(np.empty(0, np.uint64), np.empty(0, np.uint64))
        return kernel_images(self._snapshot.dump, self.kernel, self.self_map)

    @cached_property
    def _modules(self) -> "FoundModules | None":
        from memory_visualizer.windows.modules import find_modules  # as most runs do not ask

        if self.self_map is None:
            return None
        lowest = self.self_map.kernel_begin
        return find_modules(self._snapshot.dump, self.kernel, self._images, lowest)
