"""The regions of a Linux process: its memory descriptor (mm_struct) and vm_area_structs.

Since 6.1 a maple tree holds them by their addresses; before, they are in a list and in a red-black
tree. Names are given as the kernel gives them in /proc/PID/maps (fs/proc/task_mmu.c).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.dentries import Dentries, Path
from memory_visualizer.linux.mapletree import read_tree
from memory_visualizer.linux.offsets import Offsets
from memory_visualizer.linux.taskmemory import memory_of_threads
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.snapshot.process import Process
from memory_visualizer.units import PAGE_SIZE

_READ, _WRITE, _EXECUTE, _MAY_SHARE = 1, 2, 4, 0x80
"""Of vm_flags (include/linux/mm.h)."""
_NAME_SIZE = 96
"""Bytes of a name that are read; those that processes give have up to 80."""
_USER_END = 1 << 63
_LARGEST = 1 << 13
"""The largest offset of a member in these structures; all offsets are multiples of a word."""
_GATE, _NO_GATE = 0xFFFF_FFFF_FF60_0000, 2
"""VSYSCALL_ADDR, and the value of vsyscall_mode that turns it off (vsyscall_64.c)."""
_NARROW_END = 1 << 32
"""A process of 32 bits has no addresses beyond this, and no vsyscall page."""
_MORE_PER_PROCESS = 1 << 17
"""Twice the default of vm.max_map_count."""


@dataclass(frozen=True)
class RegionLayout:
    """Offsets in mm_struct, vm_area_struct and struct file, by the kernel's own names."""

    pgd: int
    tree: int | None
    """Offset of the maple tree's root in mm_struct; None before 6.1."""
    mmap: int | None
    mm_rb: int | None
    start_brk: int | None
    brk: int | None
    start_stack: int | None
    vm_start: int
    vm_end: int
    vm_flags: int
    vm_mm: int
    vm_file: int
    vm_pgoff: int
    vm_ops: int
    vm_private_data: int
    vm_next: int | None
    vm_rb: int | None
    anon_name: int | None
    """A name that the process gave to a region without a file."""
    names_shared: bool
    """Whether regions of shared memory have such names, too (6.2)."""
    anon_text: int
    """Offset of the text in the target of `anon_name`."""
    f_mnt: int
    f_dentry: int

    @property
    def vma_size(self) -> int:
        """Bytes of a vm_area_struct that are read."""
        told = [self.vm_start, self.vm_end, self.vm_flags, self.vm_mm, self.vm_file, self.vm_pgoff]
        told += [self.vm_ops, self.vm_private_data]
        others = [place for place in (self.vm_next, self.anon_name) if place is not None]
        tree = [] if self.vm_rb is None else [self.vm_rb + 16]
        return max(*told, *others, *tree) + 8


def layout_by_btf(types: Btf) -> RegionLayout | None:
    """Offsets by the kernel's description of its types; None if it lacks a needed member.

    An offset that no kernel has counts as missing.
    """

    def place(structure: str, *names: str) -> int | None:
        offset = types.offset(structure, *names)
        return None if offset is None or offset > _LARGEST or offset % 8 else offset

    tree, root = place("mm_struct", "mm_mt"), place("maple_tree", "ma_root")
    needed = {
        "pgd": place("mm_struct", "pgd"),
        "vm_flags": place("vm_area_struct", "vm_flags", "__vm_flags", "flags"),
    }
    for member in ("start", "end", "mm", "file", "pgoff", "ops", "private_data"):
        needed[f"vm_{member}"] = place("vm_area_struct", f"vm_{member}")
    path, mount, dentry = place("file", "f_path"), place("path", "mnt"), place("path", "dentry")
    known = {name: offset for name, offset in needed.items() if offset is not None}
    if len(known) < len(needed) or path is None or mount is None or dentry is None:
        return None
    anon_name, shared = place("vm_area_struct", "anon_name"), place("vm_area_struct", "shared")
    found = RegionLayout(
        **known,
        mmap=place("mm_struct", "mmap"),
        mm_rb=place("mm_struct", "mm_rb"),
        start_brk=place("mm_struct", "start_brk"),
        brk=place("mm_struct", "brk"),
        tree=None if tree is None or root is None else tree + root,
        start_stack=place("mm_struct", "start_stack"),
        vm_next=place("vm_area_struct", "vm_next"),
        vm_rb=place("vm_area_struct", "vm_rb"),
        anon_name=anon_name,
        names_shared=anon_name is not None and anon_name != shared,
        anon_text=types.offset("anon_vma_name", "name") or 0,
        f_mnt=path + mount,
        f_dentry=path + dentry,
    )
    return found if found.tree is not None or found.mmap is not None else None


@dataclass(frozen=True)
class Found:
    """The regions of a process, and counts of doubtful ones."""

    regions: tuple[Region, ...]
    lost: int
    """Nodes of the tree, or links of the list, that lead nowhere."""
    doubtful: int
    """Regions with known addresses only."""


def gate_of(kernel: TableMemory, layout: RegionLayout, symbols: Mapping[str, int]) -> Region | None:
    """The page ``[vsyscall]`` of x86-64: not an area of a process, but in the maps of all.

    None if it is turned off, or the kernel's symbols do not name it.
    """
    area, mode = symbols.get("gate_vma"), symbols.get("vsyscall_mode")
    if area is None or mode is None or kernel.number(mode, 4) in (None, _NO_GATE):
        return None
    places = (layout.vm_start, layout.vm_end, layout.vm_flags)
    start, end, flags = (kernel.number(area + place) or 0 for place in places)
    if (start, end) != (_GATE, _GATE + PAGE_SIZE):
        return None
    rights = _protection(flags)
    return Region(start, end, rights, is_private=True, name="[vsyscall]", is_special=True)


class Regions:
    """Reads the regions of processes."""

    def __init__(
        self,
        kernel: TableMemory,
        layout: RegionLayout,
        offsets: Offsets,
        dentries: Dentries | None,
        page_bytes: int,
        gate: Region | None = None,
    ) -> None:
        """`page_bytes` is the size of the kernel's pages; `gate` as gate_of tells it."""
        self._kernel = kernel
        self._layout = layout
        self._offsets = offsets
        self._dentries = dentries
        self._page_bytes = page_bytes
        self._gate = gate
        self._left = kernel.memory.budget.limit("region")
        """Regions and nodes of trees that may still be read, of all processes."""
        self._mount_inside = 0
        if dentries and dentries.layout.mount:
            self._mount_inside = dentries.layout.mount.vfsmount

    def of(self, process: Process, more_memory: Sequence[int]) -> Found | None:
        """The regions of a process; None if its memory is not known.

        `more_memory` are addresses of mm_structs that may be its own, beside those in its task.
        """
        mm = self._memory(process, more_memory)
        if mm is None:
            return None
        # A process with very many regions leaves as much to the processes behind it.
        limit = max(min(self._left // 2, _MORE_PER_PROCESS), 0)
        layout = self._layout
        if layout.tree is not None:
            tree = read_tree(self._kernel, self._kernel.number(mm + layout.tree) or 0, limit)
            self._left -= len(tree.rows) + tree.nodes
            areas = np.array([entry for _, _, entry in tree.rows], np.uint64)
            bounds = [(first, last + 1) for first, last, _ in tree.rows]
            return self._made(mm, areas, bounds, tree.lost)
        areas, lost = self._listed(mm, limit)
        return self._made(mm, areas, None, lost)

    def _memory(self, process: Process, more: Sequence[int]) -> int | None:
        """The mm_struct of a process: the one that leads to its page tables."""
        kernel, offsets = self._kernel, self._offsets
        candidates: list[int] = []
        if task := process.object_address:
            places = [offsets.mm, offsets.active_mm]
            candidates = [kernel.number(task + place) or 0 for place in places if place is not None]
            if not candidates[0]:  # its first thread has ended
                signal = 0
                if offsets.signal is not None:
                    signal = kernel.number(task + offsets.signal) or 0
                at = np.array([task], np.uint64), np.array([signal], np.uint64)
                candidates += memory_of_threads(kernel, offsets, *at, 0).tolist()
        for mm in [*candidates, *more]:
            table = kernel.number(mm + self._layout.pgd) if mm >= kernel.upper else None
            if table and kernel.physical(np.array([table], np.uint64))[0] == process.dtb:
                return mm
        return None

    def _listed(self, mm: int, limit: int) -> tuple[NDArray[np.uint64], int]:
        """The areas of a process before 6.1, by its list and by its tree."""
        kernel, layout = self._kernel, self._layout
        found: dict[int, None] = {}
        lost = 0
        at = kernel.number(mm + (layout.mmap or 0))
        while at and at not in found:
            if at < kernel.upper or len(found) >= limit:
                lost += 1
                break
            found[at] = None
            at = kernel.number(at + (layout.vm_next or 0)) if layout.vm_next is not None else 0
        lost += at is None or bool(at and at in found)
        if layout.mm_rb is not None and layout.vm_rb is not None:
            waiting = [kernel.number(mm + layout.mm_rb) or 0]
            seen = set[int]()
            while waiting:
                node = waiting.pop()
                if node < kernel.upper or node in seen:
                    continue
                if len(seen) >= limit:
                    lost += 1
                    break
                seen.add(node)
                found.setdefault(node - layout.vm_rb)
                # rb_right and rb_left, behind the parent (include/linux/rbtree_types.h).
                waiting += [kernel.number(node + 8) or 0, kernel.number(node + 16) or 0]
        self._left -= len(found)
        return np.array(list(found), np.uint64), int(lost)

    def _made(
        self,
        mm: int,
        areas: NDArray[np.uint64],
        bounds: list[tuple[int, int]] | None,
        lost: int,
    ) -> Found:
        """The regions of these areas.

        If the tree tells the bounds, an area with other bounds, or of another process, is not
        believed.
        """
        kernel, layout = self._kernel, self._layout
        raw, known = kernel.read_each(areas, layout.vma_size)
        words = kernel.words(raw)

        def column(place: int) -> list[int]:
            told: list[int] = words[:, place // 8].tolist()
            return told

        starts, ends = column(layout.vm_start), column(layout.vm_end)
        own = known & (words[:, layout.vm_mm // 8] == np.uint64(mm))
        files = column(layout.vm_file)
        paths, inodes = self._paths(files)
        names = self._names(words)
        flags, offsets = column(layout.vm_flags), column(layout.vm_pgoff)
        heap, stack = self._heap_and_stack(mm)
        regions = []
        doubtful = 0
        for row in range(len(areas)):
            start, end = (starts[row], ends[row]) if bounds is None else bounds[row]
            is_sound = bool(own[row]) and (starts[row], ends[row]) == (start, end)
            if not 0 <= start < end <= _USER_END or (bounds is None and not is_sound):
                doubtful += 1
                continue
            if not is_sound:
                doubtful += 1
                regions.append(Region(start, end, "", is_private=False))
                continue
            path = paths.get(files[row])
            name, is_special = names[row]
            if not files[row] and not name:
                name = _usual_name(start, end, heap, stack)
            regions.append(
                Region(
                    start,
                    end,
                    _protection(flags[row]),
                    is_private=not flags[row] & _MAY_SHARE,
                    name=name,
                    file=path.text if path else ("[lost]" if files[row] else ""),
                    file_object=inodes.get(files[row], 0),
                    offset=offsets[row] * self._page_bytes % 2**64 if files[row] else 0,
                    is_deleted=bool(path and path.is_deleted),
                    is_special=is_special,
                )
            )
        regions.sort(key=lambda region: (region.start, region.end))
        if self._gate and any(region.end > _NARROW_END for region in regions):
            regions.append(self._gate)
        return Found(tuple(regions), lost, doubtful)

    def _paths(self, files: list[int]) -> tuple[dict[int, Path | None], dict[int, int]]:
        """The paths and the inodes of some open files, by the addresses of their struct file."""
        dentries, layout = self._dentries, self._layout
        distinct = [file for file in dict.fromkeys(files) if file]
        if dentries is None or not distinct:
            return {}, {}
        at = np.array(distinct, np.uint64)
        mounts, _ = self._kernel.numbers(at + np.uint64(layout.f_mnt))
        entries, _ = self._kernel.numbers(at + np.uint64(layout.f_dentry))
        dentries.read(entries)
        paths = {
            file: dentries.path(entry, max(mount - self._mount_inside, 0))
            for file, entry, mount in zip(distinct, entries.tolist(), mounts.tolist(), strict=True)
        }
        known = zip(distinct, map(dentries.get, entries.tolist()), strict=True)
        return paths, {file: entry.inode for file, entry in known if entry}

    def _names(self, words: NDArray[np.uint64]) -> list[tuple[str, bool]]:
        """The own name of each area, and whether the system gave it.

        A mapping of the kernel's own (install_special_mapping) leads to its name, in brackets.
        """
        layout = self._layout
        without_file = words[:, layout.vm_file // 8] == 0
        special = without_file & (words[:, layout.vm_ops // 8] != 0)
        places = np.where(special, words[:, layout.vm_private_data // 8], np.uint64(0))
        texts, _ = self._kernel.numbers(places)
        names = [(text if text.startswith("[") else "", True) for text in self._texts(texts)]
        if layout.anon_name is not None:
            given = words[:, layout.anon_name // 8].copy()
            if not layout.names_shared:
                given[~without_file] = 0
            given[given != 0] += np.uint64(layout.anon_text)
            for row, text in enumerate(self._texts(given)):
                if text:
                    kind = "anon" if without_file[row] else "anon_shmem"
                    names[row] = f"[{kind}:{text}]", False
        return [(name, is_special and bool(name)) for name, is_special in names]

    def _texts(self, places: NDArray[np.uint64]) -> list[str]:
        """The texts at some addresses; empty where there is none."""
        found = [""] * len(places)
        rows = np.flatnonzero(places >= np.uint64(self._kernel.upper))
        raw = self._kernel.read_partly(places[rows], _NAME_SIZE)
        for row, text in zip(rows.tolist(), raw, strict=True):
            found[row] = text.tobytes().split(b"\0")[0].decode("utf-8", "backslashreplace")
        return found

    def _heap_and_stack(self, mm: int) -> tuple[tuple[int, int], int]:
        """First and last address of the heap (start_brk, brk), and where the stack began."""
        layout = self._layout
        places = (layout.start_brk, layout.brk, layout.start_stack)
        start, end, stack = (
            0 if place is None else self._kernel.number(mm + place) or 0 for place in places
        )
        return (start, end), stack


def _usual_name(start: int, end: int, heap: tuple[int, int], stack: int) -> str:
    """The name of a region without a file, by its place."""
    if start < heap[1] and end > heap[0]:
        return "[heap]"
    return "[stack]" if start <= stack <= end and stack else ""


def _protection(flags: int) -> str:
    rights = zip((_READ, _WRITE, _EXECUTE), "rwx", strict=True)
    return "".join(letter if flags & bit else "-" for bit, letter in rights)
