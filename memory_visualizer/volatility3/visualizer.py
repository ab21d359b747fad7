"""Inside Volatility 3: its layers as dumps, its address spaces as this package's mappings.

The plugins (`plugins3`) supply processes and layers; this module does the work. Mappings follow the
rules of Volatility's own layers (framework/layers/intel.py), so that the rows agree with `memmap`.
In three points these are fewer than the tables have:

- a table whose entries are all equal counts as empty (Windows 10 fills unused space with such
  tables),
- a large page counts only if the dump holds all of its frames,
- pages in a page file are left out by both, unless Volatility was given the page file: then only
  Volatility has them.

In one point they are fewer than Volatility's: tables of the kernel that serve at several addresses
are listed at the lowest address. Listing all addresses makes `memmap` run for days.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from volatility3.framework import exceptions, interfaces, renderers
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import linear, physical
from volatility3.framework.renderers import format_hints

from memory_visualizer.arrays import mark_runs, merge_runs
from memory_visualizer.errors import BadInputError, MemoryVisualizerError
from memory_visualizer.formats.base import BLOCK_FRAMES, BlockWork, Dump, Words
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.linux.system import of_linux
from memory_visualizer.linux.tasks import LinuxProcesses
from memory_visualizer.paging import (
    PAE,
    PAE_POINTER_RESERVED,
    PRESENT,
    PROTOTYPE,
    SHARED,
    TRANSITION,
    X64,
    X64_5_LEVELS,
    X86,
    Architecture,
    Mappings,
    Paging,
    PhysicalMemory,
    as_linux_has_it,
    as_windows_has_it,
    merge_kernel,
    tables_of,
    walk,
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
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_ROWS_AT_ONCE = 65_536
_COMPARED = 4096  # bytes


class _NotOpened:
    """The part of Dump that a dump inside Volatility does not support."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Not supported: Volatility opens the file."""
        raise BadInputError(f"{path} is for Volatility 3 to open")


class MappedLayer(_NotOpened, MappedDump):
    """A layer whose pages lie uncompressed in a plain file, which is mapped and not copied."""


class ReadLayer(_NotOpened, Dump):
    """A layer that has to decode its contents, such as AVML's: it is read through Volatility."""

    def __init__(self, layer: Any, path: Path, runs: NDArray[np.int64]) -> None:
        super().__init__(path, type(layer).__name__, runs)
        self._layer = layer
        # Translation layers cache the last 512 results; large results would fill the memory.
        self._read = getattr(type(layer).read, "__wrapped__", type(layer).read)

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Pass blocks to `work` one after the other, since layers do not support threads."""
        for first, count in self.runs.tolist():
            for start in range(first, first + count, BLOCK_FRAMES):
                if within is None or start in within:
                    frames = np.arange(start, min(start + BLOCK_FRAMES, first + count))
                    yield work(frames, self._words(start, frames.size))

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Read frames through the layer, neighbours together."""
        pages = np.zeros((len(frames), PAGE_SIZE // 8), np.uint64)
        inside = (frames >= 0) & (frames < self.frame_count)
        rows = np.flatnonzero(inside & self.held[np.where(inside, frames, 0)])
        rows = rows[np.argsort(frames[rows], kind="stable")]
        if not len(rows):
            return pages
        begins = np.flatnonzero(np.diff(frames[rows], prepend=-2) != 1)
        for stretch in np.split(rows, begins[1:]):
            pages[stretch] = self._words(int(frames[stretch[0]]), len(stretch))
        return pages

    def _words(self, first: int, count: int) -> Words:
        content = self._read(self._layer, first * PAGE_SIZE, count * PAGE_SIZE, pad=True)
        return np.frombuffer(content, np.uint64).reshape(count, -1)


def open_layer(layers: Mapping[str, Any], name: str) -> Dump:
    """Open the physical layer of this name.

    A plain file with uncompressed pages is mapped; otherwise the layer reads. BadInputError if the
    layer holds no page.
    """
    layer = layers[name]
    start, length, offset, file_layer = _segments(layers, layer)
    path = _plain_file(file_layer)
    if path is not None and len(start):
        with path.open("rb") as file:
            size = file_size(file)
        extents, remarks = find_extents(path, start, length, offset, file_size=size, lenient=True)
        return MappedLayer(path, type(layer).__name__, extents, remarks=remarks)
    first = -(-start // PAGE_SIZE)
    count = (start + length) // PAGE_SIZE - first
    whole = count > 0
    if not whole.any():
        raise BadInputError(f"layer {name} holds no page of memory")
    if (first + count > MAX_FRAMES).any():
        raise BadInputError(f"layer {name} goes beyond 16 TiB, where this program stops")
    location = getattr(file_layer, "location", None) or name
    runs = merge_runs(first[whole], count[whole])
    return ReadLayer(layer, Path(url2pathname(urlparse(location).path)), runs)


def _segments(
    layers: Mapping[str, Any], layer: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Any]:
    """The segments of a layer: start, length, place in the layer below; and that layer.

    The layer below is None if it does not hold the contents unchanged.
    """
    span = layer.maximum_address + 1 - layer.minimum_address
    if not hasattr(layer, "mapping"):
        row = np.array([layer.minimum_address], np.int64)
        return row, np.array([span], np.int64), row, layer
    rows = list(layer.mapping(layer.minimum_address, span, ignore_errors=True))
    numbers = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
    below = {row[4] for row in rows}
    as_it_is = isinstance(layer, linear.LinearlyMappedLayer) and len(below) == 1
    return numbers[:, 0], numbers[:, 1], numbers[:, 2], layers[below.pop()] if as_it_is else None


def _plain_file(layer: Any) -> Path | None:
    """The file behind a layer, if it has the layer's contents; Volatility also unpacks."""
    if not isinstance(layer, physical.FileLayer):
        return None
    url = urlparse(layer.location)
    path = Path(url2pathname(url.path))
    if url.scheme != "file" or not path.is_file():
        return None
    size = layer.maximum_address + 1
    with path.open("rb") as file:
        if file_size(file) != size:
            return None
        for place in (0, max(0, size - _COMPARED)):
            file.seek(place)
            content = file.read(_COMPARED)
            if content != layer.read(place, len(content)):
                return None
    return path


class _Tables:
    """Physical memory in which Volatility's layers see page tables."""

    def __init__(self, dump: Dump, paging: Paging) -> None:
        self._dump = dump
        self._halves = paging.entry_bytes == 4
        self.frame_count = dump.frame_count
        self.held = dump.held
        self.budget = dump.budget

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Contents of frames; all zeros if a table's entries are all equal."""
        words = self._dump.read_frames(frames)
        same = (words == words[:, :1]).all(axis=1)
        if self._halves:
            same &= words[:, 0] & np.uint64(0xFFFFFFFF) == words[:, 0] >> np.uint64(32)
        words[same] = 0
        return words


def architecture_of(layer: Any) -> Architecture:
    """The paging of a translation layer of Volatility (framework/layers/intel.py)."""
    ways = {2: X86, 3: PAE, 4: X64, 5: X64_5_LEVELS}
    return ways[len(layer.structure)]


def top_levels(dump: Dump, paging: Paging, bases: Sequence[int]) -> NDArray[np.int64]:
    """Frames of the top levels, as for `paging.walk`, from values of CR3."""
    table = np.array(bases, np.int64).reshape(-1, 1)
    if paging.architecture is not PAE:
        return table // PAGE_SIZE
    pointers = dump.read_frames(table[:, 0] // PAGE_SIZE)
    place = table % PAGE_SIZE // 32 * 4 + np.arange(4)
    entries = np.take_along_axis(pointers, place, axis=1)
    roots = (entries >> np.uint64(12) & np.uint64(0xFFFFFFF)).astype(np.int64)
    leads = entries & np.uint64(PRESENT | PAE_POINTER_RESERVED) == PRESENT
    leads |= entries & np.uint64(TRANSITION | PROTOTYPE) == TRANSITION
    roots[~leads] = -1
    return roots


def read_mappings(dump: Dump, paging: Paging, bases: Sequence[int]) -> Mappings:
    """All mappings of some address spaces, given by their values of CR3.

    `space` is the number of the base, or SHARED.
    """
    memory: PhysicalMemory = _Tables(dump, paging)
    found = Mappings.join(list(walk(memory, paging, top_levels(dump, paging, bases))))
    found = found.take(_wholly_held(dump, found))
    return merge_kernel(found)


def _wholly_held(dump: Dump, mappings: Mappings) -> NDArray[np.bool_]:
    whole: NDArray[np.bool_] = (
        mappings.count == 1
    )  # the walk left out frames of these pages that are not held
    large = np.flatnonzero(~whole)
    if len(large):
        before = np.concatenate(([0], np.cumsum(dump.held)))
        first = mappings.pfn[large]
        end = np.minimum(first + mappings.count[large], dump.frame_count)
        whole[large] = before[end] - before[first] == mappings.count[large]
    return whole


def shared_kernel_pages(snapshot: Snapshot) -> int:
    """The number of pages that the kernel has for several processes."""
    return _pages(snapshot, ~snapshot.mappings.is_user & (snapshot.mappings.space == SHARED))


def kernel_pages(snapshot: Snapshot) -> list[int]:
    """For each process, the pages that the kernel has for it alone, such as page tables."""
    rows = snapshot.mappings
    own = rows.take(~rows.is_user & (rows.space != SHARED))
    row, _, frame = snapshot.pages_of(own)
    holder = np.unique(own.space[row] * np.int64(snapshot.classes.size) + frame)
    count = np.bincount(holder // snapshot.classes.size, minlength=len(snapshot.processes))
    return [int(number) for number in count]


def _pages(snapshot: Snapshot, chosen: NDArray[np.bool_]) -> int:
    """The number of pages that some mappings lead to."""
    rows = snapshot.mappings.take(chosen)
    marks = np.zeros(snapshot.classes.size, bool)
    mark_runs(marks, rows.pfn, rows.count)
    return int(np.count_nonzero(marks))


def runs(mappings: Mappings, paging: Paging) -> Iterator[tuple[int, int, int, int, bool]]:
    """Mappings in Volatility's form: space, virtual, physical, size in bytes, user mode.

    Neighbours in virtual and physical memory form one row. Like Volatility's, addresses have only
    the bits that are translated. Rows are in the order of the spaces, SHARED first.
    """
    order = np.lexsort((mappings.virtual, mappings.space))
    rows = mappings.take(order)
    user = rows.is_user
    pages = rows.count.astype(np.uint64) * np.uint64(PAGE_SIZE)
    joins = (
        (rows.space[1:] == rows.space[:-1])
        & (rows.virtual[1:] == rows.virtual[:-1] + pages[:-1])
        & (rows.pfn[1:] == rows.pfn[:-1] + rows.count[:-1])
        & (user[1:] == user[:-1])
    )
    starts = np.flatnonzero(np.concatenate((np.ones(min(len(user), 1), bool), ~joins)))
    translated = np.uint64((1 << paging.address_bits) - 1)
    size = np.add.reduceat(pages, starts) if len(starts) else pages
    for first in range(0, len(starts), _ROWS_AT_ONCE):
        part = starts[first : first + _ROWS_AT_ONCE]
        yield from zip(
            rows.space[part].tolist(),
            (rows.virtual[part] & translated).tolist(),
            (rows.pfn[part] * PAGE_SIZE).tolist(),
            size[first : first + _ROWS_AT_ONCE].tolist(),
            user[part].tolist(),
            strict=True,
        )


def options() -> list[Any]:
    """The options of the plugins, beside their requirements."""
    return [
        requirements.ListRequirement(
            name="pid",
            element_type=int,
            description="Process IDs to include (all other processes are left out, or pale)",
            optional=True,
        ),
        requirements.BooleanRequirement(
            name="pages",
            description="List mappings of pages instead of processes",
            default=False,
            optional=True,
        ),
        requirements.BooleanRequirement(
            name="every-mapping",
            description="With pages: repeat the kernel's mappings for each process",
            default=False,
            optional=True,
        ),
        requirements.BooleanRequirement(
            name="png",
            description="Write a picture with a pixel for each page frame",
            default=False,
            optional=True,
        ),
        requirements.BooleanRequirement(
            name="html",
            description="Write an HTML page that shows the owners of each page frame",
            default=False,
            optional=True,
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
        mappings = read_mappings(self._dump, self._paging, bases)
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

    @cached_property
    def _snapshot(self) -> Snapshot:
        """The snapshot of all processes, even if few are asked for: sharing depends on all."""
        dump = self._dump
        self._say(0, "Reading page tables")
        bases = [process.dtb for process in self._processes]
        mappings = read_mappings(dump, self._paging, bases)
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


def table_base(layer: Any) -> int:
    """The physical address of a translation layer's top-level table, or of PAE's pointers."""
    return architecture_of(layer).base_address(int(layer.config["page_map_offset"]))


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
