"""The kernel of a Linux dump and its page tables, found in the dump alone.

The kernel's VMCOREINFO names its top-level table. Its symbols (kallsyms) and the description of its
types (BTF), both in its memory, lead to the list of its processes. If a kernel has no BTF, the
tasks themselves show the offsets in `task_struct`, like those of `_EPROCESS` on Windows. If its
VMCOREINFO is missing or damaged, its page tables are found by their form, and its banner names the
release.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import places_of_text
from memory_visualizer.formats.base import Dump, Search, Words
from memory_visualizer.linux import btf as btf_format
from memory_visualizer.linux.armform import TopLevelSearch
from memory_visualizer.linux.armform import machines_by_form as arm64_by_form
from memory_visualizer.linux.banner import BANNER, MAX_BANNER, release_in
from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.i386form import LowMemorySearch
from memory_visualizer.linux.i386form import machines_by_form as i386_by_form
from memory_visualizer.linux.kallsyms import (
    KernelSymbols,
    image_frames,
    kernel_image,
    places_of,
    read_kallsyms,
)
from memory_visualizer.linux.machine import (
    IMAGE_END,
    Machine,
    for_release,
    machines,
    x86_64,
)
from memory_visualizer.linux.resources import Resources, read_resources
from memory_visualizer.linux.vmcoreinfo import IMAGE_BASE, MAX_SIZE, VmcoreInfo
from memory_visualizer.paging import (
    ADDRESS,
    LARGE,
    NO_EXECUTE,
    PRESENT,
    WRITE,
    X64,
    X64_5_LEVELS,
    Paging,
    is_held,
)
from memory_visualizer.paging.kernelhalf import TOUCHED
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import printable
from memory_visualizer.snapshot.system import System
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_IMAGE_FRAMES = 1 << 16
_ALIGNMENT = 0x1FFFFF
"""The image begins at a multiple of 2 MiB."""
_UTS_SIZE = 4 * 65
"""The end of the release in struct uts_namespace: a count is followed by names of 65 bytes."""
_COPIES = 8
"""How many other texts vote on each line, and how many are kept of a batch: a kernel keeps two."""
_A_LINE = b"\nSYMBOL(swapper_pg_dir)="
_FEW_LINES = 12
_SOME_FRAMES = 64
"""How many frames are tested to see whether the direct map is there."""
_TABLES_ALIKE = 1024
"""How many tables with the same last entry are compared: any of them serves."""
_ROWS_AT_ONCE = 64
"""Pages that fit into a processor's cache with what is made of them."""
_ENTRY_FLAGS = PRESENT | WRITE | LARGE | NO_EXECUTE


@dataclass(frozen=True)
class LinuxKernel:
    """A Linux kernel whose description of itself was confirmed in the dump."""

    info: VmcoreInfo
    machine: Machine
    memory: Dump
    top: int
    """Frame of its own top-level table, swapper_pg_dir."""
    kernel: TableMemory
    start: int
    """Virtual address at which its image begins."""
    symbols: dict[str, int] = field(default_factory=dict)
    btf: Btf | None = None
    remarks: tuple[str, ...] = ()
    is_lost: bool = False
    """Whether its own page tables are missing from their place."""

    @property
    def base(self) -> int:
        """Physical address of the top-level table."""
        return self.top * PAGE_SIZE

    @property
    def paging(self) -> Paging:
        """The paging of the kernel's own tables."""
        return self.machine.kernel

    @property
    def users(self) -> Paging:
        """The paging of the processes' tables."""
        return self.machine.user

    @property
    def system(self) -> System:
        """Linux, and its release."""
        return System("Linux", printable(self.info.release))

    @cached_property
    def image(self) -> tuple[int, NDArray[np.uint8]] | None:
        """The image: first virtual address, contents; see kallsyms.kernel_image."""
        return kernel_image(self.kernel, self.start)

    @cached_property
    def resources(self) -> Resources | None:
        """The kernel's map of physical addresses; None if it is not found."""
        root = self.symbols.get("iomem_resource")
        if root is None:
            return None
        size, budget = self.machine.address_bytes, self.memory.budget
        return read_resources(self.kernel, root, self.btf, size, budget)


_SYMBOLS: tuple[str, ...] = (
    "init_task",
    "iomem_resource",
    "pgd_list",
    "__start_BTF",
    "__stop_BTF",
    # The clock: see clock.py.
    "tk_core",
    "timekeeper_data",
    "shadow_timekeeper",
    "_vdso_data",
    "vdso_data",
    "vdso_k_time_data",
    # Modules and special regions: see kernelobjects.py.
    "modules",
    "gate_vma",
    "vsyscall_mode",
)
_MORE_SYMBOLS = ("mem_section", "vmemmap_base", "page_offset_base")
"""Symbols that are read only if VMCOREINFO does not tell as much."""


def find_kernel(memory: Dump, texts: Sequence[VmcoreInfo]) -> LinuxKernel | None:
    """Find the kernel of one of these texts: the tables that the text names must translate."""
    for has_release in (_tells_release, _has_banner):
        for info in texts:
            for machine in machines(info):
                found = _with_tables(memory, info, machine)
                if found and (release := has_release(found)):
                    return _with_types(_with_copies(found, release, texts))
    return None


def _with_tables(memory: Dump, info: VmcoreInfo, machine: Machine) -> LinuxKernel | None:
    """Check that the kernel's top-level table is where the text says, mapped by itself."""
    table = info.symbol("swapper_pg_dir")
    first, end = machine.image
    if table is None or not first <= table < end:
        return None
    top = machine.physical(table) // PAGE_SIZE
    if not 0 <= top < memory.frame_count or not memory.held[top]:
        return None
    kernel = TableMemory(memory, machine.kernel, top)
    if machine.has_own_half:
        roots = machine.roots_at(memory, np.array([machine.physical(table)]))
        kernel = TableMemory(memory, machine.kernel, roots[0].tolist())
    if kernel.frame(table) != top:
        return None
    text = info.symbol("_stext") or 0
    start = text & ~_ALIGNMENT
    if not machine.has_own_half and first <= text < end and kernel.frame(text) >= 0:
        pass  # on ARM the image may begin at a higher address
    elif not first <= start <= table or kernel.frame(start) < 0:
        start = _image_start(kernel)
    return LinuxKernel(info, machine, memory, top, kernel, start)


def _without_tables(memory: Dump, info: VmcoreInfo, machine: Machine) -> LinuxKernel | None:
    """If the kernel's page tables are lost, take its image to be contiguous, as all images are."""
    table, start = info.symbol("swapper_pg_dir"), (info.symbol("_stext") or 0) & ~_ALIGNMENT
    if not machine.has_own_half or info.number("phys_base") is None:
        return None
    if table is None or not machine.image[0] <= start <= table:
        return None
    first = machine.physical(start) // PAGE_SIZE
    top = first + (table - start) // PAGE_SIZE
    if not 0 <= first < MAX_FRAMES:
        return None
    # In a dump that was cut, the whole image may lie behind the end.
    end = min(start + max(memory.frame_count - first, 0) * PAGE_SIZE, machine.image[1])
    kernel = TableMemory(memory, machine.kernel, top, [(start, end, first)])
    remark = "the kernel's own page tables are lost: its image was assumed to be contiguous"
    return LinuxKernel(info, machine, memory, top, kernel, start, remarks=(remark,), is_lost=True)


def _with_direct_map(found: LinuxKernel) -> LinuxKernel:
    """If the kernel's tables are lost, take its direct map to be regular, as it always is."""
    variable = found.symbols.get("page_offset_base")
    base = found.kernel.number(variable) if variable else None
    if base is None or not base >> 63 or base % (1 << 30):
        return found
    count = found.memory.frame_count
    some = np.linspace(0, count - 1, _SOME_FRAMES).astype(np.int64)
    some = some[found.memory.held[some]]
    places = some.astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(base)
    if np.count_nonzero(found.kernel.frames(places) == some) * 2 > len(some):
        return found
    kernel = found.kernel.with_regular((base, base + count * PAGE_SIZE, 0))
    remark = "page tables of the kernel's direct map are lost: the map was assumed to be regular"
    return replace(found, kernel=kernel, remarks=(*found.remarks, remark))


def _tells_release(found: LinuxKernel) -> str:
    """The release if it stands at the place of the system's names; else empty.

    In some versions (5.10 and before) a count precedes the names, and not all of them tell it.
    """
    names = found.info.symbol("init_uts_ns")
    told = found.kernel.read(names, _UTS_SIZE) if names else None
    is_there = told and found.info.release.encode("latin-1") + b"\0" in told
    return found.info.release if is_there else ""


def _has_banner(found: LinuxKernel) -> str:
    """The release by the kernel's banner; empty if there is none."""
    banner = _find_banner(found)
    return banner[1] if banner else ""


def _find_banner(found: LinuxKernel) -> tuple[int, str] | None:
    """The virtual address of the kernel's banner, and the release that it tells."""
    return next(_banners(found), None)


def _banners(found: LinuxKernel) -> Iterator[tuple[int, str]]:
    """Address and release of each banner: newer kernels have several."""
    if found.image is None:
        return
    start, contents = found.image
    for place in places_of(BANNER, contents, found.memory.budget, "banner of Linux"):
        if release := release_in(contents[place : place + MAX_BANNER].tobytes()):
            yield start + place, release


def _image_start(kernel: TableMemory) -> int:
    """The first address at which the kernel's image is mapped; 0 if there is none."""
    pages = np.arange(IMAGE_BASE, IMAGE_END, _ALIGNMENT + 1, dtype=np.uint64)
    mapped = np.flatnonzero(kernel.frames(pages) >= 0)
    return int(pages[mapped[0]]) if len(mapped) else 0


def _with_copies(found: LinuxKernel, release: str, texts: Sequence[VmcoreInfo]) -> LinuxKernel:
    """Add the kernel's other texts, which reveal damage to a line of one text."""
    copies = tuple(
        text for text in texts if text is not found.info and text.shares_with(found.info)
    )
    return replace(found, info=replace(found.info, release=release, copies=copies[:_COPIES]))


_Tables: TypeAlias = tuple[Any, Any, list[tuple[NDArray[np.int64], Words]]]
"""What LowMemorySearch and TopLevelSearch found; and frames of tables, with their last entries."""


class TopTableSearch(Search[_Tables]):
    """Finds possible top-level tables of a Linux kernel during a scan of the dump.

    All of them have the same last entry, which leads to the kernel's image only.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[NDArray[np.int64], Words]] = []
        self.low_memory = LowMemorySearch()
        """Tables of 32-bit kernels."""
        self.arm64 = TopLevelSearch()
        """Top levels on 64-bit ARM."""

    def look(self, frames: NDArray[np.int64], words: Words) -> _Tables | None:
        """Test the last entries of frames, given with their contents; also for other machines."""
        batches = []
        last = words[:, -1].copy()
        rows = np.flatnonzero(last & np.uint64(_ENTRY_FLAGS) == np.uint64(PRESENT | WRITE))
        for some in np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE)):
            tables = some[np.count_nonzero(words[some], axis=1) < words.shape[1] // 2]
            if len(tables):
                batches.append((frames[tables], last[tables] & ~np.uint64(TOUCHED)))
        others = (self.low_memory.look(frames, words), self.arm64.look(frames, words))
        return (*others, batches) if batches or others != (None, None) else None

    def take(self, part: _Tables) -> None:
        """Add the tables in a block."""
        low_memory, arm64, batches = part
        if low_memory is not None:
            self.low_memory.take(low_memory)
        if arm64 is not None:
            self.arm64.take(arm64)
        self._batches += batches

    def groups(self, memory: Dump) -> Iterator[tuple[int, int, int, int]]:
        """For each last entry: the entry, the number of its tables, the best table, and its score.

        The best table has the most entries for the kernel. The kernel's own table has no user half;
        if it is lost, any other serves as well. With page-table isolation, user mode's tables form
        a group of their own, with few entries.
        """
        frames = np.concatenate([np.empty(0, np.int64), *(part[0] for part in self._batches)])
        last = np.concatenate([np.empty(0, np.uint64), *(part[1] for part in self._batches)])
        values, group, count = np.unique(last, return_inverse=True, return_counts=True)
        kinds = memory.budget.take("kind of top-level table", np.argsort(-count))
        for number in kinds.tolist():
            alike = frames[group == number][:_TABLES_ALIKE]
            tables = memory.read_frames(alike)
            half = tables.shape[1] // 2
            score = np.count_nonzero(tables[:, half:], axis=1) * 2
            score -= np.count_nonzero(tables[:, :half], axis=1) > 0
            best = int(np.argmax(score))
            yield int(values[number]), int(count[number]), int(alike[best]), int(score[best])

    def found(self, memory: Dump) -> list[tuple[int, bool]]:
        """Frames of kernels' top-level tables, and whether each is the top of five levels."""
        found = []
        for entry, count, best, score in self.groups(memory):
            levels = _levels_above_image(memory, entry)
            if levels is not None:
                found.append((levels == 5, score, count, best))
        return [(frame, is_five) for is_five, _, _, frame in sorted(found, reverse=True)]


def _levels_above_image(memory: Dump, entry: int) -> int | None:
    """The number of levels of a tree with this last entry; None if it leads to no image.

    Below the top, all entries except the last ones are empty: the image lies in the last 2 GiB.
    """
    for levels in (4, 5):
        frame = np.array([(entry & ADDRESS) // PAGE_SIZE])
        if not is_held(memory, frame)[0]:
            return None
        [table] = memory.read_frames(frame)
        if table[:-2].any():
            return None
        if table[-2] & np.uint64(PRESENT | LARGE) == PRESENT:
            return levels
        entry = int(table[-1])
        if not entry & PRESENT:
            return None
    return None


def find_kernel_by_form(
    memory: Dump, texts: Sequence[VmcoreInfo], tables: TopTableSearch
) -> LinuxKernel | None:
    """Find a kernel by its page tables if its VMCOREINFO is missing or damaged.

    The memory that the tables lead to is a kernel if its banner stands there.
    """
    for found in _by_form(memory, tables):
        start = found.start
        banner = _find_banner(found) if start else None
        if banner is None:
            continue
        place, release = banner
        found = replace(found, machine=for_release(found.machine, release))
        texts = [*texts, *_texts_anywhere(memory)]
        same = [text for text in texts if _is_of(text, release, start)]
        known = {"SYMBOL(linux_banner)": place}
        info = replace(same[0] if same else found.info, release=release, known=known)
        remark = (
            "the kernel's VMCOREINFO is damaged: a value from it is used only if other evidence"
            " confirms it"
            if same
            else "the kernel's VMCOREINFO was not found: the kernel was recognised by its page"
            " tables and banner, and values that only VMCOREINFO gives are unknown"
        )
        found = replace(found, info=info, remarks=(remark,))
        return _with_own_table(_with_types(_with_copies(found, release, same)))
    return _by_text_and_tables(memory, texts, tables)


def _by_form(memory: Dump, tables: TopTableSearch) -> Iterator[LinuxKernel]:
    """Possible kernels, by the page tables of all architectures."""

    def with_top(machine: Machine, top: int, start: int | None) -> LinuxKernel:
        kernel = TableMemory(memory, machine.kernel, top)
        start = _image_start(kernel) if start is None else start
        return LinuxKernel(VmcoreInfo.none(), machine, memory, top, kernel, start)

    for top, is_five in tables.found(memory):
        yield with_top(x86_64(X64_5_LEVELS if is_five else X64), top, None)
    for top, machine, start in arm64_by_form(memory, tables.arm64):
        yield with_top(machine, top, start)
    for top, machine, kernel, start in i386_by_form(memory, tables.low_memory):
        yield LinuxKernel(VmcoreInfo.none(), machine, memory, top, kernel, start)


def _by_text_and_tables(
    memory: Dump, texts: Sequence[VmcoreInfo], tables: TopTableSearch
) -> LinuxKernel | None:
    """Find a kernel whose image is mostly lost, as in a dump that was cut.

    Several tables must lead to a lost frame that, by the text, belongs to the image.
    """
    for info in texts:
        for machine in machines(info):
            lost = _without_tables(memory, info, machine)
            if lost is None or info.line_count < _FEW_LINES:
                continue
            first = machine.physical(lost.start) // PAGE_SIZE
            for entry, count, best, _ in tables.groups(memory):
                frame = (entry & ADDRESS) // PAGE_SIZE
                is_lost = not is_held(memory, np.array([frame]))[0]
                if count > 1 and is_lost and first <= frame < first + _IMAGE_FRAMES:
                    kernel = TableMemory(memory, machine.kernel, best, lost.kernel.regular)
                    found = replace(lost, top=best, kernel=kernel)
                    return _with_types(_with_copies(found, info.release, texts))
            if _tells_release(lost):
                return _with_types(_with_copies(lost, info.release, texts))
    return None


def _texts_anywhere(memory: Dump) -> list[VmcoreInfo]:
    """Texts whose first line, by which texts are usually found, is damaged."""

    def scan(frames: NDArray[np.int64], words: Words) -> list[VmcoreInfo]:
        contents = words.reshape(-1).view(np.uint8)
        texts = []
        for place in places_of_text(_A_LINE, contents, _COPIES):
            start = place // PAGE_SIZE * PAGE_SIZE
            text = contents[start : start + MAX_SIZE].tobytes()
            texts.append(VmcoreInfo.around(text, place - start))
        return texts

    found = [text for texts in memory.each_block(scan) for text in texts]
    return memory.budget.take("text of VMCOREINFO", list(dict.fromkeys(found)))


def _is_of(text: VmcoreInfo, release: str, start: int) -> bool:
    """Whether a text seems to belong to this kernel, and has more than a few lines."""
    if text.line_count < _FEW_LINES:
        return False
    return text.release == release or start in [
        place & ~_ALIGNMENT for place in text.symbols("_stext")
    ]


def _with_own_table(found: LinuxKernel) -> LinuxKernel:
    """Use the kernel's own top-level table, if its symbols tell the place."""
    place = found.symbols.get("swapper_pg_dir") or found.symbols.get("init_top_pgt")
    top = found.kernel.frame(place) if place else -1
    if top < 0 or top == found.top or not found.memory.held[top]:
        return found
    kernel = TableMemory(found.memory, found.paging, top)
    return replace(found, top=top, kernel=kernel) if kernel.frame(place or 0) == top else found


def with_types(found: LinuxKernel) -> LinuxKernel:
    """Read the types again, which are not kept."""
    found = replace(found)  # so that the image is kept no longer than it is needed here
    return replace(found, btf=_read_btf(found, found.symbols))


def _symbol_table(found: LinuxKernel) -> KernelSymbols | None:
    # Not every kernel's symbol table has data, but all have functions, which begin at _stext.
    named = ("init_uts_ns", "swapper_pg_dir", "_stext")
    told = {name: found.info.symbols(name) for name in named}
    known = {name: places[:1] for name, places in told.items() if places}
    if not known:
        known = {"linux_banner": [place for place, _ in _banners(found)]}
        known |= {"_text": [found.start & ~_ALIGNMENT], "_stext": [found.start]}
    return read_kallsyms(found.kernel, found.info, known, lambda: found.image)


def _with_types(found: LinuxKernel) -> LinuxKernel:
    """Add the kernel's symbols and types, as far as it has any."""
    remarks = [*found.remarks]
    table = _symbol_table(found)
    wanted = _SYMBOLS
    if found.info.known:
        wanted = (*wanted, "swapper_pg_dir", "init_top_pgt")
    if not any(found.kernel.frame(place) >= 0 for place in found.info.symbols("mem_section")):
        wanted = (*wanted, *_MORE_SYMBOLS)
    symbols = table.find(wanted) if table else {}
    if table is None:
        remarks.append("the kernel's symbol table was not found")
    types = _read_btf(found, symbols)
    return _with_direct_map(replace(found, symbols=symbols, btf=types, remarks=tuple(remarks)))


def _read_btf(found: LinuxKernel, symbols: dict[str, int]) -> Btf | None:
    budget = found.memory.budget
    limit = min(btf_format.MAX_SIZE, budget.limit("byte of kernel types"))
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if start and stop and 0 < stop - start <= limit:
        types = Btf.parse(found.kernel.read_far(start, stop - start), budget)
        if types:
            return types
    elif start and stop:
        budget.note("byte of kernel types", stop - start - limit)
    if symbols and not (start or stop):  # such a kernel has no BTF
        return None
    image = found.image
    if image is None:
        return None
    for place in places_of(btf_format.MAGIC, image[1], budget, "possible beginning of BTF"):
        if types := Btf.parse(image[1][place : place + limit], budget):
            return types
    return None


def frames_of_image(found: LinuxKernel) -> NDArray[np.int64]:
    """The frames that are mapped in place of the kernel's image, with some gaps."""
    frames = image_frames(found.kernel, found.start)
    return frames[frames >= 0]
