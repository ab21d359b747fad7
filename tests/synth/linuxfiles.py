"""Files, mounts, regions and modules of a synthetic Linux machine, with the truth about them.

Written from the kernel's sources (fs/dcache.c, fs/namespace.c, mm/filemap.c, mm/mmap.c,
lib/maple_tree.c, kernel/module), with the layouts of real kernels (filelayouts.py). The truth is
noted when something is written.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.synth.filelayouts import SIZE, Layout, read_layouts
from tests.synth.linuxtypes import BtfWriter
from tests.synth.memory import PAGE_SIZE, Frames

if TYPE_CHECKING:
    from tests.synth.linux import _Machine

LAYOUT_OF_ERA = {"5.10": "5.10", "6.1": "6.1", "6.1-large": "6.1", "6.12": "6.12", "7.0": "7.3"}
"""Eras with files, and whose layout they have."""
_MODULES = 0xFFFF_FFFF_C000_0000
_LAST = 2**64 - 1
_READ, _WRITE, _EXEC, _SHARED, _MAY_SHARE = 1, 2, 4, 8, 0x80
_MM = {"mmap": 0, "mm_rb": 8, "start_brk": 608, "brk": 616, "start_stack": 624, "mm_mt": 704}
"""Places in mm_struct, which the tests choose: the real ones meet those chosen already."""
_NSPROXY = 3400
_GARBAGE = 0xDEAD_BEEF_0000_0000
_STALE_SLOTS = 2
"""Slots behind the last one in use that still lead to areas of before."""


@dataclass(frozen=True)
class FileTruth:
    """What is true of one file."""

    path: str
    kind: str
    is_deleted: bool
    size: int
    file_system: str
    device: str
    number: int


@dataclass(frozen=True)
class RegionTruth:
    """What is true of one region."""

    start: int
    end: int
    protection: str
    is_private: bool
    name: str = ""
    file: str = ""
    offset: int | None = 0
    is_deleted: bool = False


@dataclass
class FilesTruth:
    """What is true of all of them."""

    pages: dict[int, tuple[FileTruth | None, int]] = field(default_factory=dict)
    """By frame: the file (None where nothing leads to one), and the offset in it."""
    regions: dict[int, list[RegionTruth]] = field(default_factory=dict)
    """By pid."""
    modules: list[tuple[str, tuple[tuple[int, int], ...], tuple[int, ...]]] = field(
        default_factory=list
    )
    """Name, ranges and frames, in the order of the list."""
    inodes: dict[str, int] = field(default_factory=dict)
    """Virtual addresses by path; so for the two below."""
    dentries: dict[str, int] = field(default_factory=dict)
    areas: dict[tuple[int, int], int] = field(default_factory=dict)
    """Of vm_area_structs, by pid and start."""
    module_links: list[tuple[int, int]] = field(default_factory=list)
    """Of modules, the address of the links in the list, and where the direct map has them."""
    mounted: list[int] = field(default_factory=list)
    """Mounts that lie on a folder of another one."""


@dataclass
class _System:
    """A file system."""

    address: int
    name: str
    device: tuple[int, int]
    root: int = 0
    mounts: list[int] = field(default_factory=list)
    numbers: int = 10


@dataclass
class _File:
    truth: FileTruth
    mapping: int
    dentry: int
    mount: int
    pages: dict[int, int] = field(default_factory=dict)
    """Frames by page number."""


class LinuxFiles:
    """Writes them into a machine under construction."""

    def __init__(self, machine: "_Machine", era: str) -> None:
        self.machine = machine
        self.era = LAYOUT_OF_ERA[era]
        self.layout: Layout = read_layouts()[LAYOUT_OF_ERA[era]]
        self.truth = FilesTruth()
        self._room: tuple[int, int] = (0, 0)
        self._open: dict[tuple[int, int], int] = {}
        self._loaded: dict[int, int] = {}
        """Frames of modules by their virtual addresses."""
        self._paths: dict[int, str] = {}
        """Of folders, by their dentries: as the first process sees them."""

    # Objects

    def _object(self, structure: str | int, align: int = 64) -> int:
        """A new object of a slab: by structure, or of so many bytes."""
        size = self.layout[structure][SIZE] if isinstance(structure, str) else structure
        at, end = self._room
        at = -(-at // align) * align
        if at + size > end:
            at = self.machine.object(2)
            end = at + 4 * PAGE_SIZE
        self._room = at + size, end
        return at

    def _set(self, structure: str, at: int, width: int = 8, /, **members: int) -> None:
        for name, value in members.items():
            number = (value % 2 ** (8 * width)).to_bytes(width, "little")
            self.machine.put(at + self.layout[structure][name], number)

    def _text(self, text: bytes) -> int:
        at = self._object(len(text) + 1, 8)
        self.machine.put(at, text + b"\0")
        return at

    # File systems and mounts

    def _system(self, name: str, device: tuple[int, int]) -> _System:
        system = _System(self._object("super_block"), name, device)
        kind = self._object(72)
        self.machine.word(kind, self._text(name.encode()))
        self._set("super_block", system.address, 4, s_dev=device[0] << 20 | device[1])
        system.root = self._dentry(system, 0, b"/", 0)
        self._set("super_block", system.address, s_type=kind, s_root=system.root)
        return system

    def _mount(self, system: _System, root: int, parent: int, point: int, space: int) -> int:
        """A mount; one without a parent is its own."""
        mount = self._object("mount")
        self._set("mount", mount, mnt_parent=parent or mount, mnt_mountpoint=point or root)
        self._set("mount", mount, mnt_ns=space)
        inside = mount + self.layout["mount"]["mnt"]
        self._set("vfsmount", inside, mnt_root=root, mnt_sb=system.address)
        system.mounts.append(mount)
        if parent:
            self.truth.mounted.append(mount)
        return mount

    def _link_mounts(self, system: _System) -> None:
        """List the mounts of a file system, newest way (6.18) or older."""
        head = system.address + self.layout["super_block"]["s_mounts"]
        if "mnt_next_for_sb" in self.layout["mount"]:
            link = self.layout["mount"]["mnt_next_for_sb"]
            for at, following in zip(
                [head, *(mount + link for mount in system.mounts)],
                [*system.mounts, 0],
                strict=True,
            ):
                self.machine.word(at, following)
            return
        link = self.layout["mount"]["mnt_instance"]
        links = [head, *(mount + link for mount in system.mounts)]
        self._link(links)

    def _link(self, links: Sequence[int]) -> None:
        """Make a ring of list_heads."""
        for at, following in zip(links, [*links[1:], links[0]], strict=True):
            self.machine.word(at, following)
            self.machine.word(following + 8, at)

    # Names and files

    def _dentry(
        self, system: _System, parent: int, name: bytes, inode: int, *, hashed: bool = True
    ) -> int:
        dentry = self._object("dentry")
        places = self.layout["dentry"]
        inline = dentry + places.get("d_iname", places.get("d_shortname", 0))
        text = inline if len(name) < 32 else self._text(name)
        self.machine.put(text, name + b"\0")
        own = {"d_parent": parent or dentry, "d_inode": inode, "d_sb": system.address}
        self._set("dentry", dentry, **own)
        name_at = dentry + places["d_name"]
        self.machine.put(name_at, struct.pack("<II", 0x1234_5678, len(name)))
        self.machine.word(name_at + self.layout["qstr"]["name"], text)
        # In a chain of the table of hashes: next and what leads to this one.
        self.machine.word(dentry + places["d_hash"], 0, self.machine.direct if hashed else 0)
        return dentry

    def _folder(self, system: _System, parent: int, name: str, path: str) -> int:
        dentry = self._dentry(system, parent, name.encode(), self._object("inode"))
        self._paths[dentry] = path
        self.truth.dentries[path] = dentry
        return dentry

    def _file(
        self,
        system: _System,
        folder: int,
        name: str,
        path: str,
        size: int,
        *,
        mount: int = 0,
        deleted: bool = False,
        kind: str = "file",
        mode: int = 0o100644,
        names: Sequence[bytes] = (),
    ) -> _File:
        """A file; `names` are further names of its inode, which are no longer in their folder."""
        system.numbers += 1
        inode = self._object("inode")
        mapping = inode + self.layout["inode"]["i_data"]
        links = 0 if deleted else 1
        self._set("inode", inode, 2, i_mode=mode)
        self._set("inode", inode, 4, i_nlink=links, i_rdev=0)
        own = {"i_sb": system.address, "i_mapping": mapping, "i_ino": system.numbers}
        self._set("inode", inode, **own, i_size=size)
        self._set("address_space", mapping, host=inode)
        dentry = self._dentry(system, folder, name.encode(), inode, hashed=not deleted)
        others = [self._dentry(system, folder, each, inode, hashed=False) for each in names]
        places = self.layout["dentry"]
        alias = places.get("d_alias", places.get("d_u", 0))
        link = inode + self.layout["inode"]["i_dentry"]
        for each in [*others, dentry]:  # a list without an end: next, and what leads here
            self.machine.word(link, each + alias)
            self.machine.word(each + alias + 8, link)
            link = each + alias
        device = f"{system.device[0]}:{system.device[1]}"
        truth = FileTruth(path, kind, deleted, size, system.name, device, system.numbers)
        self.truth.inodes[path], self.truth.dentries[path] = inode, dentry
        return _File(truth, mapping, dentry, mount)

    def _put_pages(
        self, file: _File, frames: Frames, first: int = 0, *, folio: bool = False
    ) -> None:
        """Let frames hold successive pages of a file; a folio's later pages are its tails."""
        for number, frame in enumerate(frames.tolist()):
            page = self.machine.pages[frame]
            page.mapping = file.mapping if not folio or number == 0 else 0xDEAD_0000_0000_0400
            page.index = first + number if not folio or number == 0 else _GARBAGE >> 12
            file.pages[first + number] = frame
            self.truth.pages[frame] = file.truth, (first + number) * PAGE_SIZE

    def make(self, shared: Frames, library: Frames, cache: Frames, tmpfs: Frames) -> None:
        """Make file systems and files, and give these frames, which are cached already, to them."""
        machine = self.machine
        space, other_space = self._object(128), self._object(128)
        root = self._system("ext4", (254, 0))
        data = self._system("xfs", (254, 16))
        run = self._system("tmpfs", (0, 22))
        inner = self._system("tmpfs", (0, 1))  # the kernel's own, mounted nowhere
        devices = self._system("bdev", (0, 3))
        top = self._mount(root, root.root, 0, 0, space)
        mnt = self._folder(root, root.root, "mnt", "/mnt")
        point = self._folder(root, mnt, "data", "/mnt/data")
        var = self._folder(root, root.root, "run", "/run")
        # Another name space's mount of the same comes first in the list, and a part of it as well.
        elsewhere = self._mount(root, root.root, 0, 0, other_space)
        deep = self._folder(data, data.root, "deep", "/mnt/data/deep")
        self._mount(data, deep, elsewhere, mnt, other_space)
        data_mount = self._mount(data, data.root, top, point, space)
        run_mount = self._mount(run, run.root, top, var, space)
        self._mount(inner, inner.root, 0, 0, -22)
        root.mounts.reverse()
        for system in (root, data, run, inner, devices):
            self._link_mounts(system)
        proxy = self._object("nsproxy")
        self._set("nsproxy", proxy, mnt_ns=space)
        machine.word(machine.symbols["init_task"] + _NSPROXY, proxy)

        library_folder = self._folder(root, root.root, "lib", "/lib")
        long_name = "a name that does not fit into the entry itself é.so"
        text = f"/lib/{long_name}"
        size = len(library) * PAGE_SIZE - 100
        self.library = self._file(root, library_folder, long_name, text, size, mount=top)
        self._put_pages(self.library, library)
        self.zero = self._file(
            inner, 0, "dev/zero", "/dev/zero", 9 * PAGE_SIZE, deleted=True, kind="shared memory"
        )
        self._put_pages(self.zero, shared)
        log = self._file(
            *(root, root.root, "gone.log", "/gone.log", 50 * PAGE_SIZE), deleted=True, mount=top
        )
        self._put_pages(log, cache[:50], 3)
        linked = self._file(
            *(data, deep, "two\nlines", "/mnt/data/deep/two\nlines", 4170 * PAGE_SIZE),
            names=(b"old", b"older"),
        )
        self._put_pages(linked, cache[50:120], 1 << 12)
        # A file that has lost its name, and pages whose address_space leads nowhere.
        nameless = self._file(root, root.root, "x", "[inode 13 of ext4 on 254:0]", 4096)
        self._set("inode", self.truth.inodes[nameless.truth.path], i_dentry=0)
        self._put_pages(nameless, cache[120:121])
        device = self._file(
            *(devices, 0, "", "[block device 254:0]", 1 << 30), kind="block device", mode=0o60600
        )
        inode = self.truth.inodes[device.truth.path]
        self._set("inode", inode, i_dentry=0)
        self._set("inode", inode, 4, i_rdev=254 << 20)
        self._put_pages(device, cache[121:130], 100)
        for frame in cache[130:140].tolist():
            self.truth.pages[frame] = None, 0
        rest = self._file(root, mnt, "rest.bin", "/mnt/rest.bin", 60 * PAGE_SIZE)
        self._put_pages(rest, cache[140:])
        small = self._file(run, run.root, "small", "/run/small", 999, mount=run_mount)
        self._put_pages(small, tmpfs[:10])
        memfd = self._file(
            *(inner, 0, "memfd:name", "/memfd:name", 10 * PAGE_SIZE),
            deleted=True,
            kind="shared memory",
        )
        self._put_pages(memfd, tmpfs[10:])
        folio = machine.memory.allocate_run(16)
        machine.give(folio, "file cache", flags=machine.flag("lru"), compound=True)
        machine.memory.fill_with_noise(folio)
        large = self._file(
            *(data, data.root, "large", "/mnt/data/large", 99 * PAGE_SIZE), mount=data_mount
        )
        self._put_pages(large, folio, 32, folio=True)

    def make_huge(self, run: Frames) -> None:
        """A memfd of huge pages, whose fourth page is this one; later pages tell nothing.

        Until 6.6 its index counts huge pages (include/linux/pagemap.h, basepage_index).
        """
        system = self._system("hugetlbfs", (0, 15))
        self._mount(system, system.root, 0, 0, -22)
        self._link_mounts(system)
        file = self._file(
            *(system, 0, "memfd:huge", "/memfd:huge", 9 * len(run) * PAGE_SIZE),
            deleted=True,
            kind="shared memory",
        )
        head = self.machine.pages[int(run[0])]
        in_pages = tuple(map(int, self.era.split(".")[:2])) >= (6, 7)
        head.mapping, head.index = file.mapping, 3 * (len(run) if in_pages else 1)
        for number, frame in enumerate(run.tolist()):
            self.truth.pages[frame] = file.truth, (3 * len(run) + number) * PAGE_SIZE

    def _open_file(self, file: _File) -> int:
        """A struct file of a file."""
        key = file.dentry, file.mount
        if key not in self._open:
            opened = self._object("file")
            path = opened + self.layout["file"]["f_path"]
            inside = file.mount + self.layout["mount"]["mnt"] if file.mount else 0
            self._set("path", path, mnt=inside, dentry=file.dentry)
            self._set("file", opened, f_inode=self.truth.inodes[file.truth.path])
            self._open[key] = opened
        return self._open[key]

    # Regions

    def make_regions(self, pid: int, mm: int, virtual: dict[int, int]) -> None:
        """Make the regions of a process whose frames are given by their addresses."""
        areas = self._areas_of(virtual)
        heap = next(area for area in areas if area[0].protection == "rw-" and not area[0].file)[0]
        start, size = 0x7FFC_0000_0000, 33 * PAGE_SIZE
        areas.append((RegionTruth(start, start + size, "rw-", True, "[stack]"), None, 0))
        begin = 0x7FFD_0000_0000
        areas.append((RegionTruth(begin, begin + 8192, "r-x", True, "[vdso]"), None, 0))
        code = 0x6500_0000_0000
        areas.append((RegionTruth(code, code + 4096, "rwx", True), None, 0))
        for number in range(40):
            at = 0x6600_0000_0000 + number * 3 * PAGE_SIZE
            areas.append((RegionTruth(at, at + PAGE_SIZE, "---", True), None, 0))
        if "anon_name" in self.layout["vm_area_struct"]:
            at = 0x6700_0000_0000
            name = "[anon:a name given]"
            areas.append((RegionTruth(at, at + PAGE_SIZE, "rw-", True, name), None, 0))
        named = []
        for region, file, first in areas:
            if region.start == heap.start:
                region = RegionTruth(region.start, region.end, "rw-", True, "[heap]")
            named.append((region, file, first))
        named.sort(key=lambda area: area[0].start)
        code_at, top = 0x40_0000, start + size
        self.machine.word(mm + _MM["start_brk"] - 32, *[code_at, code_at + 4096] * 2)
        stack = (top - 5000, top - 4900, top - 4800, top - 4700, top - 300)
        self.machine.word(mm + _MM["start_brk"], heap.start, heap.end - 100, *stack)
        objects = [self._area(pid, mm, *area) for area in named]
        bounds = [(region.start, region.end) for region, _, _ in named]
        if "ma_root" in self.layout.get("maple_tree", {}):
            root = self._tree(objects, bounds)
            self.machine.word(mm + _MM["mm_mt"] + self.layout["maple_tree"]["ma_root"], root)
        else:
            self._list_areas(mm, objects)
        self.truth.regions[pid] = [region for region, _, _ in named]

    def _areas_of(self, virtual: dict[int, int]) -> list[tuple[RegionTruth, _File | None, int]]:
        """The regions that some present pages need, each with its file and first page number."""
        file_of = {
            frame: (file, number)
            for file in (self.library, self.zero)
            for number, frame in file.pages.items()
        }
        found: list[tuple[RegionTruth, _File | None, int]] = []
        previous: tuple[int, _File | None, int] | None = None
        for address in sorted(virtual):
            file, number = file_of.get(virtual[address], (None, 0))
            follows = previous and (address, file) == (previous[0] + PAGE_SIZE, previous[1])
            if follows and (file is None or (previous and number == previous[2] + 1)):
                region, _, first = found.pop()
                begin = region.start
            else:
                begin, first = address, number
            is_zero = file is self.zero
            found.append(
                (
                    RegionTruth(
                        begin,
                        address + PAGE_SIZE,
                        "r-x" if file is self.library else "rw-",
                        not is_zero,
                        "",
                        file.truth.path if file else "",
                        first * PAGE_SIZE if file else 0,
                        is_zero,
                    ),
                    file,
                    first,
                )
            )
            previous = address, file, number
        return found

    def _area(self, pid: int, mm: int, region: RegionTruth, file: _File | None, first: int) -> int:
        """A vm_area_struct."""
        area = self._object("vm_area_struct")
        rights = zip((_READ, _WRITE, _EXEC), "rwx", strict=True)
        flags = sum(bit for bit, letter in rights if letter in region.protection)
        flags |= 0 if region.is_private else _SHARED | _MAY_SHARE
        number = first if file else region.start // PAGE_SIZE
        own = {"vm_start": region.start, "vm_end": region.end, "vm_mm": mm, "vm_flags": flags}
        self._set("vm_area_struct", area, **own, vm_pgoff=number)
        if file:
            self._set("vm_area_struct", area, vm_file=self._open_file(file))
        elif region.name == "[vdso]":
            special = self._object(40)
            self.machine.word(special, self._text(b"[vdso]"))
            symbols = self.machine.symbols
            self._set("vm_area_struct", area, vm_private_data=special, vm_ops=symbols["_stext"])
        elif region.name.startswith("[anon:"):
            given = self._object(128)
            text = region.name.removeprefix("[anon:").removesuffix("]").encode()
            self.machine.put(given + self.layout["anon_vma_name"]["name"], text + b"\0")
            self._set("vm_area_struct", area, anon_name=given)
        self.truth.areas[pid, region.start] = area
        return area

    def _list_areas(self, mm: int, areas: Sequence[int]) -> None:
        """The list of areas by address, and a tree that is as good as a red-black one to read."""
        places = self.layout["vm_area_struct"]
        self.machine.word(mm + _MM["mmap"], areas[0])
        for area, following in zip(areas, [*areas[1:], 0], strict=True):
            self.machine.word(area + places["vm_next"], following)

        def tree(some: Sequence[int]) -> int:
            if not some:
                return 0
            middle = len(some) // 2
            node = some[middle] + places["vm_rb"]
            self.machine.word(node, 1, tree(some[middle + 1 :]), tree(some[:middle]))
            return node

        self.machine.word(mm + _MM["mm_rb"], tree(areas))

    def _tree(self, areas: Sequence[int], bounds: Sequence[tuple[int, int]]) -> int:
        """A maple tree of ranges; what leads to its root."""
        entries: list[tuple[int, int]] = []
        at = 0
        for area, (start, end) in zip(areas, bounds, strict=True):
            if start > at:
                entries.append((start - 1, 0))
            entries.append((end - 1, area))
            at = end
        entries.append((_LAST, 0))
        leaves = [self._node(1, 15, entries[n : n + 13]) for n in range(0, len(entries), 13)]
        ends = [entries[min(n + 13, len(entries)) - 1][0] for n in range(0, len(entries), 13)]
        level = list(zip(ends, leaves, strict=True))
        while len(level) > 1:
            groups = [level[n : n + 9] for n in range(0, len(level), 9)]
            level = [(group[-1][0], self._node(3, 9, group)) for group in groups]
        return level[0][1] | 2

    def _node(self, kind: int, pivots: int, entries: Sequence[tuple[int, int]]) -> int:
        """A node by the last index and the content of each slot; what leads to it."""
        node = self._object(256, 256)
        assert len(entries) <= pivots
        words = [0] * 32
        words[1 : 1 + len(entries)] = [last for last, _ in entries]
        slots = 1 + pivots
        words[slots : slots + len(entries)] = [content for _, content in entries]
        # What stood in further slots once is still there.
        for stale in range(_STALE_SLOTS):
            if entries[0][1] or kind == 1:
                words[slots + len(entries) + stale] = entries[-1][1] or self.machine.direct
        self.machine.word(node, *words)
        return node | kind << 3 | 4

    # Modules

    def make_modules(self) -> None:
        """Make three modules, in a list, the newest first."""
        machine, layout = self.machine, self.layout["module"]
        at = _MODULES
        links = [machine.symbols["modules"]]
        for name, counts in (("first_module", (3, 2)), ("second", (9, 4)), ("é", (1, 1))):
            parts = counts if "mem" in layout else counts[:1]
            ranges, frames = [], list[int]()
            for pages in parts:
                begin = at
                own = machine.give(machine.memory.allocate(pages), "kernel other")
                machine.memory.fill_with_noise(own)
                for frame in own.tolist():
                    machine.kernel.map(at, frame << 12 | 0x63)
                    self._loaded[at] = frame
                    at += PAGE_SIZE
                at += PAGE_SIZE
                ranges.append((begin, begin + pages * PAGE_SIZE - 64))
                frames += own.tolist()
            # What describes a module lies in its own data.
            module = ranges[-1][0] + 256
            self._put_module(module, name, ranges)
            self.truth.modules.append((name, tuple(ranges), tuple(sorted(frames))))
            links.append(module + layout["list"])
            self.truth.module_links.append((links[-1], self._seen(links[-1])))
        for link, following in zip(links, [*links[1:], links[0]], strict=True):
            machine.word(self._seen(link), following)
            machine.word(self._seen(following) + 8, link)

    def _seen(self, address: int) -> int:
        """Where the direct map has what lies at an address of a module; others as they are."""
        frame = self._loaded.get(address & ~(PAGE_SIZE - 1))
        return (
            address if frame is None else self.machine.direct_address(frame) + address % PAGE_SIZE
        )

    def _put_module(self, module: int, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        """Write a struct module."""
        layout, at = self.layout["module"], self._seen(module)
        self.machine.put(at, bytes(layout[SIZE]))
        self.machine.put(at + layout["name"], name.encode() + b"\0")
        kind = "module_memory" if "mem" in layout else "module_layout"
        place = layout["mem" if "mem" in layout else "core_layout"]
        for number, (begin, end) in enumerate(ranges):
            part = at + place + number * self.layout[kind][SIZE]
            self._set(kind, part, base=begin)
            self._set(kind, part, 4, size=end - begin)

    def describe(self, types: BtfWriter, number: int) -> None:
        """Add the structures to the kernel's description of its types."""
        for name, members in self.layout.items():
            told = [(member, at) for member, at in members.items() if member != SIZE]
            types.structure(name, told, number, members[SIZE])

    @property
    def of_memory(self) -> list[tuple[str, int]]:
        """Members of mm_struct."""
        has_tree = "maple_tree" in self.layout
        without = ("mmap", "mm_rb") if has_tree else ("mm_mt",)
        return [(name, place) for name, place in _MM.items() if name not in without]

    @property
    def of_task(self) -> list[tuple[str, int]]:
        """Members of task_struct."""
        return [("nsproxy", _NSPROXY)]
