"""The work of the plugins for Volatility 3 (`plugins3`), which supply processes and layers."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from volatility3.framework import exceptions, interfaces, renderers
from volatility3.framework.configuration import requirements
from volatility3.framework.renderers import format_hints

from memory_visualizer.errors import MemoryVisualizerError
from memory_visualizer.formats.base import Dump
from memory_visualizer.linux.system import of_linux
from memory_visualizer.linux.tasks import LinuxProcesses
from memory_visualizer.paging import (
    SHARED,
    Mappings,
    Paging,
    as_linux_has_it,
    as_windows_has_it,
    tables_of,
)
from memory_visualizer.picture.colouring import by_class
from memory_visualizer.picture.palette import DEFAULT
from memory_visualizer.picture.picture import picture_of
from memory_visualizer.picture.png import save_png, texts_of
from memory_visualizer.printable import printable
from memory_visualizer.snapshot.build import of_mappings
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.process import FoundProcess, Process
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.snapshot.system import System
from memory_visualizer.volatility3.layers import open_layer
from memory_visualizer.volatility3.mappings import (
    architecture_of,
    kernel_pages,
    read_mappings,
    runs,
    shared_kernel_pages,
    table_base,
    top_levels,
)

_logger = logging.getLogger(__name__)

_SWITCHES = {
    "pages": "List mappings of pages instead of processes",
    "every-mapping": "With pages: repeat the kernel's mappings for each process",
    "png": "Write a picture with a pixel for each page frame",
    "html": "Write an HTML page that shows the owners of each page frame",
}
"""The plugins' options that are on or off, with their help."""


def options() -> list[Any]:
    """The options of the plugins, beside their requirements."""
    return [
        requirements.ListRequirement(
            name="pid",
            element_type=int,
            description="Process IDs to include (all other processes are left out, or pale)",
            optional=True,
        ),
        *(
            requirements.BooleanRequirement(
                name=name, description=description, default=False, optional=True
            )
            for name, description in _SWITCHES.items()
        ),
    ]


class Visualizer:
    """The work of the plugins, once they know the processes."""

    def __init__(
        self, plugin: Any, layer: Any, processes: Sequence[Process], system: System | None
    ) -> None:
        """`layer` is the kernel's translation layer, `system` the value of Snapshot.system."""
        self._plugin = plugin
        self._layer = layer
        self._system = system
        self._pids = set(plugin.config.get("pid") or ())
        # The memory of an exited process is free, and its tables may have new owners by now.
        shown = (p for p in processes if p.dtb and (p.is_alive or p.pid in self._pids))
        by_pid = sorted(shown, key=lambda process: process.pid)
        self._processes = [replace(process, has_tables=True) for process in by_pid]
        self._listed = processes
        for pid in sorted(self._pids - {process.pid for process in processes}):
            _logger.warning("There is no process %d in the list", pid)

    def grid(self) -> Any:
        """The rows, made on demand."""
        number, address = int, format_hints.Hex
        if self._plugin.config["pages"]:
            columns = [("PID", number), ("Process", str), ("Virtual", address)]
            columns += [("Physical", address), ("Size", address), ("Mode", str)]
            return renderers.TreeGrid(columns, self._guarded(self._mapping_rows()))
        columns = [("PID", number), ("Process", str), ("Private", number), ("Shared", number)]
        columns += [("Kernel", number), ("DTB", address), ("File output", str)]
        return renderers.TreeGrid(columns, self._guarded(self._process_rows()))

    def _guarded(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The rows for a TreeGrid; errors become those that Volatility shows."""
        try:
            for row in rows:
                yield 0, row
        except MemoryVisualizerError as error:
            name = self._layer.config["memory_layer"]
            raise exceptions.LayerException(name, str(error)) from error

    def _process_rows(self) -> Iterator[tuple[Any, ...]]:
        written = ", ".join(self._write_files()) or "Disabled"
        snapshot = self._snapshot
        base = format_hints.Hex(table_base(self._layer))
        common, own = self._kernel_pages()
        absent = renderers.NotApplicableValue()
        yield absent, "kernel", 0, 0, common, base, written
        pages = {
            process.object_address: (*counts, kernel)
            for process, counts, kernel in zip(
                snapshot.processes,
                snapshot.pages_of_processes().tolist(),
                own,
                strict=False,
            )
        }
        for process in self._listed:
            if not self._pids or process.pid in self._pids:
                private, shared, kernel = pages.get(process.object_address, (0, 0, 0))
                base = format_hints.Hex(process.dtb) if process.dtb else absent
                name = printable(process.name)
                yield process.pid, name, private, shared, kernel, base, "Disabled"

    def _kernel_pages(self) -> tuple[int, list[int]]:
        """The pages that the kernel has for several processes, and for each process alone."""
        return shared_kernel_pages(self._snapshot), kernel_pages(self._snapshot)

    def _mapping_rows(self) -> Iterator[tuple[Any, ...]]:
        self._write_files()
        spaces = {process.object_address: process for process in self._processes}
        listed = [spaces[p.object_address] for p in self._listed if p.object_address in spaces]
        chosen = [p for p in listed if not self._pids or p.pid in self._pids]
        if self._plugin.config["every-mapping"]:
            for process in chosen:
                yield from self._rows_of([process])
        else:
            yield from self._rows_of(chosen)

    def _rows_of(self, processes: Sequence[Process]) -> Iterator[tuple[Any, ...]]:
        bases = [process.dtb for process in processes]
        names: dict[int, tuple[Any, str]] = {
            number: (process.pid, printable(process.name))
            for number, process in enumerate(processes)
        }
        names[SHARED] = renderers.NotApplicableValue(), "kernel"
        address = format_hints.Hex
        mappings = self._read_mappings(bases)
        for space, virtual, physical_address, size, user in runs(mappings, self._paging):
            yield (
                *names[space],
                address(virtual),
                address(physical_address),
                address(size),
                "user" if user else "kernel",
            )

    # -- the facts on the dump ---------------------------------------------------------

    @cached_property
    def _dump(self) -> Dump:
        context = self._plugin.context
        dump = open_layer(context.layers, self._layer.config["memory_layer"])
        for remark in dump.remarks:
            _logger.warning("%s", remark)
        return dump

    @cached_property
    def _paging(self) -> Paging:
        return as_windows_has_it(architecture_of(self._layer))

    def _read_mappings(self, bases: Sequence[int]) -> Mappings:
        mappings, remarks = read_mappings(self._dump, self._paging, bases)
        for remark in remarks:
            _logger.warning("%s", remark)
        return mappings

    @cached_property
    def _snapshot(self) -> Snapshot:
        """The snapshot of all processes, even if few are asked for: sharing depends on all."""
        dump = self._dump
        self._say(0, "Reading page tables")
        bases = [process.dtb for process in self._processes]
        mappings = self._read_mappings(bases)
        self._say(100, "Reading page tables")
        return of_mappings(
            dump,
            self._zero(),
            mappings,
            system=self._system,
            paging=self._paging,
            processes=tuple(self._processes),
            kernel_dtb=table_base(self._layer),
        )

    def _zero(self) -> NDArray[np.bool_]:
        """The frames of zeros, if the picture should show them; finding them reads all memory."""
        if not self._plugin.config["png"] and not self._plugin.config["html"]:
            return np.zeros(self._dump.frame_count, bool)
        task = "Looking for pages of zeros"
        return self._dump.zero_frames(
            lambda done, total: self._say(100 * done / (total or 1), task)
        )

    def _say(self, percent: float, task: str) -> None:
        self._plugin._progress_callback(percent, task)

    # -- files -----------------------------------------------------------------------------

    def _write_files(self) -> list[str]:
        """Write the requested files through the plugin's file handler; return the names."""
        written = []
        if self._plugin.config["png"]:
            written.append(self._write("png", _picture(self._snapshot, self._dimmed())))
        if self._plugin.config["html"]:
            written.append(self._write("html", _page(self._snapshot)))
        return written

    def _write(self, ending: str, content: bytes) -> str:
        name = f"{self._dump.path.name}.{ending}"
        handler = self._plugin.open(interfaces.plugins.FileHandlerInterface.sanitize_filename(name))
        with handler as file:
            file.write(content)
        return str(handler.preferred_filename)

    def _dimmed(self) -> NDArray[np.bool_] | None:
        """The frames that the chosen processes do not have; None without a choice."""
        if not self._pids:
            return None
        chosen = [n for n, process in enumerate(self._processes) if process.pid in self._pids]
        return self._snapshot.pages_of_others(chosen)


class LinuxVisualizer(Visualizer):
    """The same for Linux, where struct pages tell the pages that the kernel uses."""

    @cached_property
    def _paging(self) -> Paging:
        return as_linux_has_it(architecture_of(self._layer))

    @cached_property
    def _snapshot(self) -> Snapshot:
        dump = self._dump
        self._say(0, "Reading page tables")
        bases = [process.dtb for process in self._processes]
        roots = top_levels(dump, self._paging, bases)
        processes = tuple(FoundProcess.of(process, n) for n, process in enumerate(self._processes))
        found = LinuxProcesses(processes, roots, ())
        snapshot = of_linux(dump, self._zero(), found, self._paging)
        for remark in snapshot.remarks:
            _logger.warning("%s", remark)
        self._say(100, "Reading page tables")
        return snapshot

    def _kernel_pages(self) -> tuple[int, list[int]]:
        """The pages in use by the kernel, with all page tables; and each process's tables."""
        counts = self._snapshot.counts()
        used = counts[PageClass.KERNEL] + counts[PageClass.BOTH]
        return used, [self._own_tables(process.dtb) for process in self._processes]

    def _own_tables(self, base: int) -> int:
        roots = top_levels(self._dump, self._paging, [base])
        tables, _ = tables_of(self._dump, self._paging, roots, own_only=True)
        return int(np.count_nonzero(tables))


def _picture(snapshot: Snapshot, dimmed: NDArray[np.bool_] | None) -> bytes:
    """The picture as PNG, as `memviz` makes it without options."""
    colouring = by_class(snapshot, DEFAULT)
    picture = picture_of(snapshot.dump, colouring, dimmed=dimmed)
    file = BytesIO()
    save_png(file, picture.image(), texts_of(snapshot.dump, colouring, picture))
    return file.getvalue()


def _page(snapshot: Snapshot) -> bytes:
    """The page, as `memviz` makes it without options."""
    from memory_visualizer.viewer import page  # imported here, since most runs write no page

    start = {"layout": "rows", "color": "class", "palette": "default"}
    return page(snapshot, None, start).encode("utf-8")
