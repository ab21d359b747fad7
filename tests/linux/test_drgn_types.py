"""drgn's opinion of a real guest's processes and page frames, with all of the kernel's types.

drgn reads DWARF, and Debian's debug package of a kernel has hundreds of megabytes. The guest's own
BTF describes the same types: pahole writes them as C, and gcc compiles this C with debug
information. drgn's helpers then read tasks and pages as in any kernel with symbols. Memory
Visualizer takes no part, not even in finding the BTF.
"""

import importlib
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import memory_visualizer
from memory_visualizer import PageState, Snapshot
from tests.conftest import do_without
from tests.linux.test_drgn import opened, symbols, vmcoreinfo

_VARIABLES = {
    "__per_cpu_offset": "unsigned long [1]",
    "init_mm": "struct mm_struct",
    "init_pid_ns": "struct pid_namespace",
    "node_data": "struct pglist_data *[1]",
}
"""Variables of the kernel that the helpers read, with their types, which BTF lacks."""
_TYPED, _BUDDY, _TABLE = 0xF000_0000, 0x80, 0x200
"""PAGE_TYPE_BASE, PG_buddy and PG_table (include/linux/page-flags.h of 6.1). They are macros, which
BTF lacks; a page has a type if the type's bit is clear.
"""
_ANONYMOUS = 1
"""PAGE_MAPPING_ANON, also a macro."""
_SECTIONS = (
    ("_text", "_etext"),
    ("__start_rodata", "__end_rodata"),
    ("_sdata", "_edata"),
    ("__bss_start", "__bss_stop"),
)
"""Symbols at both ends of each section of the image."""
_EXPECTED = (
    PageState.FREE,
    PageState.SLAB,
    PageState.PAGE_TABLE,
    PageState.ANONYMOUS,
    PageState.FILE_CACHE,
    PageState.SHARED_MEMORY,
    PageState.KERNEL_IMAGE,
)
"""States in which this guest has hundreds of pages."""


@pytest.fixture(scope="module")
def guest(
    drgn: ModuleType, qemu_core: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The guest as drgn opens it, with the kernel's types and the variables above."""
    if not (shutil.which("gcc") and shutil.which("pahole")):
        do_without("REQUIRE_PAHOLE", "no gcc and pahole here (on Debian: apt install gcc dwarves)")
    raw, core = qemu_core
    program = opened(drgn, core, vmcoreinfo(raw.read_bytes()))
    symbols(program)
    compiled = _compiled_types(program, tmp_path_factory.mktemp("types"))
    program.extra_module("types", create=True).try_file(compiled, force=True)
    flags = {flag.name: flag.value for flag in program.type("enum pageflags").enumerators}

    def find(program: Any, name: str, _: Any, __: str | None) -> Any:
        if name in _VARIABLES:
            type_ = program.type(_VARIABLES[name])
            return drgn.Object(program, type_, address=program.symbol(name).address)
        if name == "vmemmap":
            base = program.read_u64(program.symbol("vmemmap_base").address)
            return drgn.Object(program, "struct page *", base)
        return drgn.Object(program, "enum pageflags", flags[name]) if name in flags else None

    program.register_object_finder("variables", find, enable_index=0)
    return program


def _compiled_types(program: Any, folder: Path) -> Path:
    """An object file whose debug information has the types of the kernel's BTF."""
    begin, end = (program.symbol(f"__{side}_BTF").address for side in ("start", "stop"))
    blob, source, compiled = (folder / f"types.{suffix}" for suffix in ("btf", "c", "o"))
    blob.write_bytes(program.read(begin, end - begin))
    with source.open("w") as file:
        # With --compile pahole leaves out enumerations that no structure uses: they are named.
        for options in (["--compile"], ["-C", "pageflags,migratetype"]):
            command = ["pahole", *options, "-F", "btf", str(blob)]
            subprocess.run(command, stdout=file, check=True)
        # gcc writes debug information only if there is an object or a function.
        file.write("\nstruct task_struct *keep_debug_information;\n")
    keep_all = "-fno-eliminate-unused-debug-types"
    subprocess.run(["gcc", "-g", "-w", "-c", keep_all, source, "-o", compiled], check=True)
    return compiled


@pytest.fixture(scope="module")
def snapshot(qemu_core: tuple[Path, Path]) -> Snapshot:
    """The same guest in Memory Visualizer."""
    return memory_visualizer.open(qemu_core[1])


def test_processes(guest: Any, snapshot: Snapshot) -> None:
    """Each thread group has the same pid, parent, name, object and page tables.

    drgn has only `comm` of a kernel's worker, which is the beginning of the full name
    (`kworker/0:1-events`).
    """
    helpers = importlib.import_module("drgn.helpers.linux")
    read = {}
    for task in helpers.for_each_task(guest):
        if task.pid.value_() != task.tgid.value_():
            continue
        top = 0
        if task.mm:
            top = helpers.follow_phys(guest["init_mm"].address_of_(), task.mm.pgd).value_()
        parent, name = task.real_parent.tgid.value_(), task.comm.string_().decode()
        read[task.pid.value_()] = (parent, top, task.value_(), name)
    assert len(read) > 80
    assert {process.pid for process in snapshot.processes} == set(read)
    for process in snapshot.processes:
        *others, name = read[process.pid]
        assert others == [process.ppid, process.dtb, process.object_address]
        assert process.name == name or (process.is_kernel_thread and process.name.startswith(name))


def test_page_flags(guest: Any, snapshot: Snapshot) -> None:
    """Each frame has the state that its flags, its type and the lists of free pages tell."""
    assert snapshot.states is not None
    read = _states_by_flags(guest, _frame_count(guest))
    read[_on_lists(guest)] = PageState.FREE
    image = _image(guest, len(read))
    read[image & (read == PageState.RESERVED)] = PageState.KERNEL_IMAGE
    found = snapshot.states[: len(read)].copy()
    # The firmware's tables are reserved, but not RAM in the kernel's map of resources.
    read[(read == PageState.RESERVED) & (found == PageState.ABSENT)] = PageState.ABSENT
    # In 6.1 upper tables have no type of their own: no flag tells them from other kernel pages.
    found[(read == PageState.KERNEL_OTHER) & (found == PageState.PAGE_TABLE)] = (
        PageState.KERNEL_OTHER
    )
    np.testing.assert_array_equal(found, read)
    count = np.bincount(read, minlength=len(PageState))
    assert (count[list(_EXPECTED)] > 100).all()


def _image(guest: Any, count: int) -> NDArray[np.bool_]:
    """Frames of the kernel's code, constants, data and bss, as /proc/iomem shows them.

    The boundaries are those of setup_arch (arch/x86/kernel/setup.c).
    """
    pages = importlib.import_module("drgn.helpers.linux.mm")
    kernel = guest["init_mm"].address_of_()
    image = np.zeros(count, bool)
    for begin, end in _SECTIONS:
        places = (guest.symbol(begin).address, guest.symbol(end).address - 1)
        first, last = (pages.follow_pfn(kernel, place).value_() for place in places)
        image[first : last + 1] = True
    return image


def _frame_count(guest: Any) -> int:
    """Frames of the guest's only node, holes included."""
    node = guest["node_data"][0]
    return int(node.node_start_pfn + node.node_spanned_pages)


def _states_by_flags(guest: Any, count: int) -> NDArray[np.uint8]:
    """The state of each frame by drgn's helpers."""
    pages = importlib.import_module("drgn.helpers.linux.mm")

    def state(page: Any, own: Any) -> PageState:
        head = pages.compound_head(page)
        if pages.PageSlab(head):
            return PageState.SLAB
        if pages.PageReserved(page):
            return PageState.RESERVED
        if own.page_type.value_() & (_TYPED | _TABLE) == _TYPED:
            return PageState.PAGE_TABLE
        if head.mapping.value_() & _ANONYMOUS:
            return PageState.ANONYMOUS
        if pages.PageLRU(head):
            return PageState.SHARED_MEMORY if pages.PageSwapBacked(head) else PageState.FILE_CACHE
        return PageState.KERNEL_OTHER

    states = np.zeros(count, np.uint8)
    free_until = 0
    for frame in range(count):
        page = pages.pfn_to_page(guest, frame)
        own = page[0].read_()
        if own.page_type.value_() & (_TYPED | _BUDDY) == _TYPED:
            free_until = frame + (1 << own.private.value_())
        states[frame] = PageState.FREE if frame < free_until else state(page, own)
    return states


def _on_lists(guest: Any) -> list[int]:
    """Frames on the processor's lists of free pages: a list for each order and kind."""
    helpers = importlib.import_module("drgn.helpers.linux")
    kinds = {kind.name: kind.value for kind in guest.type("enum migratetype").enumerators}
    frames: list[int] = []
    for zone in guest["node_data"][0].node_zones:
        listed: list[int] = []
        sets = helpers.per_cpu_ptr(zone.per_cpu_pageset, 0)
        for index, head in enumerate(sets.lists):
            size = 1 << index // kinds["MIGRATE_PCPTYPES"]
            for page in helpers.list_for_each_entry("struct page", head.address_of_(), "pcp_list"):
                first = helpers.page_to_pfn(page).value_()
                listed += range(first, first + size)
        assert len(listed) == sets.count.value_()
        frames += listed
    return frames
