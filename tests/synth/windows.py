"""A whole synthetic Windows: the layout of virtual and physical memory.

The virtual layout is that of Windows Internals ("x86 address space layouts", "x64 address space
layout"); everything lies in scattered frames, as in a machine that has run for a while.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.synth.framedatabase import (
    NONPAGED_POOL_END,
    FrameDatabase,
    FrameLog,
    RecordLayout,
    RecordTruth,
    Sections,
    SectionTruth,
    driver_locked,
    stack_or_awe,
)
from tests.synth.kernel import READ_ONLY_PAGES, Kernel, ObjectTypes, Pool, Region, image_pages
from tests.synth.memory import PAGE_SIZE, Frames, PhysicalMemory
from tests.synth.profiles import Profile, profiles
from tests.synth.tables import (
    PAE,
    PROTOTYPE,
    READ_WRITE_PROTECTION,
    TRANSITION,
    USER,
    X64,
    X64_5_LEVELS,
    X86,
    AddressSpace,
    Paging,
    TableTree,
)
from tests.synth.truth import INJECTED_PAGES, KERNEL, Ledger, ModuleTruth, Process, Truth
from tests.synth.userblocks import UserBlocks
from tests.synth.vads import (
    EXECUTE_READ,
    EXECUTE_READ_WRITE,
    EXECUTE_WRITE_COPY,
    GUARD,
    IMAGE,
    LARGE_PAGES,
    NO_ACCESS,
    READ,
    READ_WRITE,
    RegionTruth,
    VadWriter,
)

MIB = 1 << 20
GIB = 1 << 30

_NAMES = [
    "System",
    "smss.exe",
    "csrss.exe",
    "wininit.exe",
    "csrss.exe",
    "winlogon.exe",
    "services.exe",
    "lsass.exe",
    "svchost.exe",
    "svchost.exe",
    "explorer.exe",
    "notepad.exe",
    "iexplore.exe",
]
_FURTHER_NAMES = ["svchost.exe", "chrome.exe", "cmd.exe", "taskmgr.exe", "conhost.exe"]


@dataclass(frozen=True)
class _Places:
    """Virtual addresses of parts of the kernel's half, and of a process."""

    image: int
    nonpaged_pool: int
    paged_pool: int
    drivers: int
    system_cache: int
    large_pages: int
    devices: int
    shared_data: int
    session: int
    hyperspace: int
    program: int
    libraries: int
    process_block: int
    stack: int
    heap: int
    system_ptes: int = 0  # these two only with a page frame database
    kernel_stacks: int = 0


_DRIVERS = (
    *("hal.dll", "disk.sys", "ndis.sys", "tcpip.sys", "Ntfs.sys", "HTTP.sys"),
    *("волк.sys", "usbhub.sys"),
)
_WITHOUT_HEADER = 3

_SHARED_DATA = 0x7FFE0000
"""Virtual address of KUSER_SHARED_DATA in every process."""

_EXPANSION_PAGES = 16
_FILES_OF_A_PAGE = 3
"""So many files have room for their objects in a page of the nonpaged pool."""
_HEAP_NAME, _STACK_NAME = "[heap]", "[stack]"
_STACK_PAGES = 0x11
_MORE_STACK = 0x60000
"""Distance of a second stack from the first, and of further heaps, and a segment, behind it."""
_MORE_HEAPS = (0x80000, 0x90000, 0xA0000)
_NARROW = "lsass.exe"
"""On 64 bits a 32-bit program."""
_NARROW_PLACES = (0xC0000, 0xE0000, 0xF0000, 0xF2000)
"""Of its stack, its heap and its two blocks, behind the first stack."""
_BLOCKS = 2 * MIB
"""Since Windows 8.1 the blocks of a process and of its threads lie in a region of this size."""
_PAGES_OF_TYPES = 4
"""For the types of objects and their names."""
_LOADER_FRAMES = 64 * MIB // PAGE_SIZE

_CONTROL_REGION = 0xFFDFF000
"""The KPCR's fixed place on Windows XP and 2003, x86."""


def _places(profile: Profile, paging: Paging) -> _Places:
    if profile.bits == 64:
        # The upper half of the kernel's address is part of what Volatility searches for.
        high = int.from_bytes(profile.kdbg_header[:4], "little") << 32
        late = profile.version >= (6, 3)
        return _Places(
            image=high + 0x02A0_0000,
            nonpaged_pool=0xFFFFE000_01800000 if late else 0xFFFFFA80_01800000,
            paged_pool=0xFFFFC000_00000000 if late else 0xFFFFF8A0_00000000,
            drivers=0xFFFFF880_01000000,
            system_cache=0xFFFFF980_00000000,
            large_pages=0xFFFFE000_40000000 if late else 0xFFFFFA80_40000000,
            devices=0xFFFFFFFF_FFD00000,
            shared_data=0xFFFFF780_00000000,
            session=0xFFFFF900_C0000000,
            hyperspace=0xFFFFF700_00000000,
            program=0x7FF6_12340000 if late else 0x1_40000000,
            libraries=0x7FF8_20000000 if late else 0x77000000,
            process_block=0x7FF_FFFDF000,
            stack=0x00200000,
            heap=0x00400000,
        )
    old = profile.version < (6, 0)
    return _Places(
        image=0x804D7000 if old else 0x82842000,
        nonpaged_pool=0x83000000 if old else 0x86000000,
        paged_pool=0xE1000000 if old else 0x88000000,
        drivers=0xF8000000 if old else 0xAA000000,
        system_cache=0xC1000000,
        large_pages=0x81000000 if old else 0x83000000,
        devices=0xFFD00000,
        shared_data=0xFFDF0000,
        session=0xBF800000,
        hyperspace=0xC0400000 if paging is X86 else 0xC0800000,
        program=0x00400000,
        libraries=0x77000000,
        process_block=0x7FFDF000,
        stack=0x00100000,
        heap=0x20000000,
    )


def forge(
    path: Path,
    profile: Profile,
    *,
    size: int = 32 * MIB,
    processes: int = 12,
    seed: int = 0,
    pae: bool | None = None,
    kernel_pages: int | None = None,
    user_pages: int | None = None,
    free_data: float = 0.5,
    names: Sequence[str] = (),
    five_levels: bool = False,
    shadow_tables: bool = False,
    holes: Sequence[tuple[int, int]] = (),
    stretch: int = 1,
    database: bool = False,
    objects: bool = False,
    files: int = 0,
    unlisted: str = "",
) -> Truth:
    """Write a raw dump of a Windows of this version to `path` and return the truth about it.

    `size` in bytes, a whole number of pages, from 16 MiB on. `processes` live processes are in the
    list; one more was taken out of it, one has exited, and of one only tables are left. The process
    notepad.exe, if there is one, has injected code. `kernel_pages` and `user_pages` are the
    approximate numbers of 4 KiB pages that the kernel and each process map, by default suitable for
    the size. A share `free_data` of the free frames holds old data. Processes get `names` before
    the common names. Frames are allocated singly from all over the memory, or in stretches of up to
    `stretch`.

    `five_levels` chooses paging with 57-bit addresses. With `shadow_tables` a process has a second
    top table for user mode, as with KVA shadowing since 2018. `holes` (first frame, frames) are no
    memory; the raw dump holds zeros there. With `database` the kernel has its page frame database,
    and sections of files; with `objects` it has these, several drivers in its list of modules, and
    the regions of its processes; the driver `unlisted` was taken out of the list. So many more
    `files` have 50 pages each in memory. The same arguments make the same bytes.
    """
    builder = _Builder(profile, size, seed, pae, five_levels, shadow_tables, holes, stretch)
    if database or objects:
        builder.keep_records(holes)
    if objects:
        builder.keep_objects()
    builder.more_files = files
    builder.unlisted = unlisted
    builder.build(processes, kernel_pages, user_pages, free_data, names)
    builder.memory.write(path)
    return Truth(
        profile=profile.name,
        paging=builder.paging.name,
        zero=builder.memory.zeros(),
        mappings=builder.ledger.mappings(),
        processes=tuple(builder.processes),
        records=builder.records(),
        modules=tuple(builder.modules),
        regions=builder.regions,
    )


class _Builder:
    """Lays out one synthetic image, part by part."""

    def __init__(
        self,
        profile: Profile,
        size: int,
        seed: int,
        pae: bool | None,
        five_levels: bool,
        shadow_tables: bool,
        holes: Sequence[tuple[int, int]],
        stretch: int,
    ) -> None:
        if size % PAGE_SIZE or size < 16 * MIB:
            raise ValueError("the size must be a whole number of pages, 16 MiB or more")
        if pae is False and profile.bits == 32 and not profile.may_lack_pae:
            raise ValueError(f"{profile.name} always has PAE")
        self.profile = profile
        self.rng = np.random.default_rng(seed)
        with_pae = profile.usually_has_pae if pae is None else pae
        wide = X64_5_LEVELS if five_levels else X64
        self.paging = wide if profile.bits == 64 else PAE if with_pae else X86
        self.places = _places(profile, self.paging)
        if five_levels:  # parts that differ between processes need top-level entries of their own
            self.places = replace(
                self.places, session=0xFFF20000_00000000, hyperspace=0xFFEE0000_00000000
            )
        if profile.randomises_self_map:
            self.paging = self._with_random_self_map()
        if profile.marks_transition:
            self.paging = replace(self.paging, transition_mark=1 << 45)
        self.memory = PhysicalMemory(size // PAGE_SIZE, self.rng, stretch)
        for first, count in holes:
            self.memory.reserve(np.arange(first, first + count))
        self._shadow_tables = shadow_tables
        self.more_files = 0
        self.unlisted = ""
        self._log: FrameLog | None = None
        self._database: FrameDatabase | None = None
        self.sections: Sections | None = None
        self._database_place = self._next_prototype = 0
        self._has_objects = False
        self.modules: list[ModuleTruth] = []
        self.regions: dict[int, tuple[RegionTruth, ...]] = {}
        self._asked_for: list[RegionTruth] = []
        """The regions of the process that is being made."""
        self.ledger = Ledger(self.memory.frames)
        self.processes: list[Process] = []
        self._spaces: list[AddressSpace] = []
        self._kernel_tree = self._tree(KERNEL)

    # -- the page frame database --------------------------------------------------------

    def keep_records(self, holes: Sequence[tuple[int, int]]) -> None:
        """Let the kernel have a page frame database, in which all is noted from now on."""
        self._log = FrameLog(self.memory.frames, self.rng)
        self._no_memory = [np.arange(first, first + count) for first, count in holes]
        self.ledger.log = self._log
        self._database_place = self._database_base()
        ptes, stacks = self._system_ptes()
        self.places = replace(self.places, system_ptes=ptes, kernel_stacks=stacks)
        if (
            self.places.nonpaged_pool >> 32 == self._database_place >> 32
            and self.profile.bits == 64
        ):
            # Behind the database, as far as that may reach.
            behind = self._database_place + 8 * GIB
            self.places = replace(self.places, nonpaged_pool=behind)

    def keep_objects(self) -> None:
        """Let the kernel have modules, and the processes regions."""
        self._has_objects = True

    def _database_base(self) -> int:
        """Where the database begins (MemProcFS, mm_pfn.c): on 64 bits at a fixed place until 2016.

        Then at any multiple of 4 GiB. On 32 bits wherever there is a place.
        """
        if self.profile.bits == 32:
            return 0x9C00_0000
        if not self.profile.randomises_self_map:
            return 0xFFFFFA80_00000000
        shift = self.paging.shifts[0]
        taken = {(place >> shift) & 0x1FF for place in vars(self.places).values()}
        free = [i for i in range(0x100, 0x1FF) if i not in {*taken, self.paging.self_index}]
        index = int(self.rng.choice(free))
        room = 1 << (shift - 32)  # multiples of 4 GiB
        place = index << shift | int(self.rng.integers(min(room, 64))) << 32
        return self.paging.canonical(place)

    def _system_ptes(self) -> tuple[int, int]:
        """Where system PTEs and kernel stacks lie: behind drivers until parts are for one use."""
        if self.profile.bits == 32:
            behind = self.places.drivers + 32 * MIB
            return behind + MIB, behind
        if self.profile.version < (6, 3):
            return self.places.drivers + 257 * MIB, self.places.drivers + 256 * MIB
        shift = self.paging.shifts[0]
        used = (*vars(self.places).values(), self._database_place)
        taken = {self.paging.self_index, *((place >> shift) & 0x1FF for place in used)}
        ptes, stacks = [index for index in range(0x1A0, 0x1C0) if index not in taken][:2]
        return self.paging.canonical(ptes << shift), self.paging.canonical(stacks << shift)

    def _map_database(self) -> None:
        if self._log is None:
            return
        layout = RecordLayout.of(self.profile, self.paging.entry_size)
        self._database = FrameDatabase(self.memory, layout, self._database_place)
        self._kernel_tree.map(self._database.base, self._database.frames, user=False)
        self._next_prototype = self.places.paged_pool + GIB
        if self.profile.bits == 32:
            self._next_prototype = self.places.paged_pool + 64 * MIB
        pools = [self._pool]
        if self.paging is X86 and self.profile.version < (6, 0):
            # The nonpaged pool of these versions goes on at the end of the kernel's addresses.
            start = NONPAGED_POOL_END - _EXPANSION_PAGES * PAGE_SIZE
            region = Region(self.memory, start, self.memory.allocate(_EXPANSION_PAGES))
            self._kernel_tree.map(start, region.frames, user=False, use="nonpaged pool")
            pools.append(Pool(region, self.profile))
        cookie = int(self.rng.integers(1, 256)) if "ObHeaderCookie" in self.profile.symbols else 0
        types = ObjectTypes(self.profile, self.kernel.image, self._pool, cookie)
        self.sections = Sections(
            self._log, self.profile, self.paging.entry_size, pools, self._more_paged_pool, types
        )

    def _tell_types(self) -> None:
        """SystemVaType: a byte for each part of the kernel's half, by _MI_SYSTEM_VA_TYPE."""
        if not self.profile.tells_system_types or self.paging.address_bits != 48:
            return
        late = self.profile.build >= 19041  # see tests/synth/builds.py for where this is from
        stacks = 14 if late else 15 if self.profile.build >= 16299 else 9
        places = self.places
        types = bytearray(256)
        for place, kind in (
            (self._database_place, 4),
            (places.hyperspace, 2),
            (places.image, 3),
            (places.nonpaged_pool, 5),
            (places.paged_pool, 6),
            (places.system_cache, 8),
            (places.system_ptes, 9),
            (places.drivers, 12),
            (places.kernel_stacks, stacks),
            (places.session, 1),
            (places.devices, 10),
        ):
            types[place >> 39 & 0xFF] = kind
        self.kernel.write_system_types(bytes(types))

    def _more_paged_pool(self, pages: int) -> Region:
        region = Region(self.memory, self._next_prototype, self.memory.allocate(pages))
        self._kernel_tree.map(region.base, region.frames, user=False, use="paged pool")
        self._next_prototype = region.end
        return region

    def _section(
        self, frames: Frames, use: str, name: str, state: str = "active", **more: Any
    ) -> SectionTruth | None:
        """Note that a file or shared memory stands behind these frames."""
        if self.sections is None:
            return None
        return self.sections.make(frames, use, state=state, name=name, **more)

    def _region(self, start: int, pages: int, protection: int, **more: Any) -> None:
        """Note a region of the process that is being made."""
        if self._has_objects:
            region = RegionTruth(start, start + pages * PAGE_SIZE, protection, **more)
            self._asked_for.append(region)

    def _regions(self, owner: int, process: Process) -> None:
        """Write the regions of a process that was made; one that has exited has none."""
        if not self._has_objects:
            return
        regions = [] if process.exited else self._asked_for
        self._asked_for = []
        writer = VadWriter(self.profile, self._pool, self.paging.entry_size, self.kernel.write)
        placed = writer.tree(process.eprocess, regions)
        if regions:
            self.regions[owner] = placed

    def _further_states(self) -> None:
        """What else the database may say, of frames that no process has."""
        log = self._log
        if log is None:
            return
        for number in range(self.more_files):
            use, state = ("mapped file", "image")[number % 2], ("active", "standby")[number % 3 > 0]
            self._section(self._take(50), use, rf"\folder{number % 37}\file{number}.dat", state)
        stacks = self._take(3)
        self._kernel_tree.map(self.places.kernel_stacks, stacks, user=False, use="kernel stack")
        stack_or_awe(log, stacks, "is_stack")
        views = self._take(5)
        self._kernel_tree.map(self.places.system_ptes, views, user=False, use="system PTE")
        self._section(self._take(6), "mapped file", r"\pagefile-less.log", "modified")
        self._section(self._take(3), "metafile", r"\$LogFile", "modified no write")
        self._section(self._take(2), "mapped file", r"\$Recycle.Bin\old.txt", "standby")
        self._section(self._take(2), "mapped file", r"\reading.dat", "transition")
        self._section(self._take(2), "mapped file", r"\sparse.db", "modified", offset=3 << 30)
        deleted, huge = r"\temporary.tmp", r"\huge.vhdx"
        self._section(self._take(3), "mapped file", deleted, "modified", is_deleted=True)
        self._section(self._take(2), "mapped file", huge, "standby", offset=5 << 44 | 7 << 12)
        self._section(self._take(4), "shareable", "", "modified")
        log.note(self._take(2), "unused", 0, 0, state="bad")
        driver_locked(log, self._take(6))
        awe = self._take(4)
        log.note(awe, "AWE", 0xFFFF_FFFF_FFFF_F800, (1 << 57) - 1)
        stack_or_awe(log, awe, "is_awe")

    def records(self) -> RecordTruth | None:
        """What is true of the page frame database."""
        found = self._database
        if found is None or self._log is None:
            return None
        sections = tuple(self.sections.made) if self.sections else ()
        return RecordTruth(found.base, found.layout.size, found.frames, self._log.records, sections)

    def _with_random_self_map(self) -> Paging:
        shift = self.paging.shifts[0]
        taken = {(place >> shift) & 0x1FF for place in vars(self.places).values()}
        free = [index for index in range(0x100, 0x1FF) if index not in taken]
        return replace(self.paging, self_index=int(self.rng.choice(free)))

    def _tree(self, owner: int, ledger: Ledger | None = None) -> TableTree:
        return TableTree(self.memory, ledger or self.ledger, self.paging, owner)

    def build(
        self,
        processes: int,
        kernel_pages: int | None,
        user_pages: int | None,
        free_data: float,
        names: Sequence[str],
    ) -> None:
        """Lay out everything."""
        frames = len(self.memory.free_frames)
        if kernel_pages is None:
            kernel_pages = frames // 10
        if user_pages is None:
            user_pages = max(24, frames // 4 // (processes + 2))
        # Contiguous frames come first, while there are any.
        if self.paging is PAE or self.profile.randomises_self_map:
            self._first_run = self._first_top_level()
        self._large_pages()
        self._low_memory()
        self._kernel_image_and_pool(processes)
        self._map_database()
        self._kernel_data(kernel_pages)
        self._shadow_code()
        self._devices()
        sessions = [self._session_tree() for _ in range(2)]
        self._libraries = self._take(max(8, user_pages // 3), zeros=0.05)
        library = "\\Windows\\System32\\kernel32.dll"
        self._library = self._section(self._libraries, "image", library)
        self._trap_frames = self._take(16)
        self._section(self._trap_frames, "mapped file", "\\Users\\all\\notes.txt", "standby")
        self._further_states()
        self._all_processes(processes, user_pages, sessions, names)
        self.kernel.chain_processes()
        for space in self._spaces:
            space.finish()
        self._left_over(free_data)
        if self._database is not None and self._log is not None:
            self._tell_types()
            has_priority = "Priority" in self._database.layout.members
            self._log.finish(self.memory, self._no_memory, has_priority=has_priority)
            self._database.write(self._log)

    def _take(self, count: int, *, zeros: float = 0.0) -> Frames:
        """Frames filled with noise, except a share of zeros."""
        frames = self.memory.allocate(count)
        self.memory.fill_with_noise(frames[self.rng.random(count) >= zeros])
        return frames

    # -- the kernel's half --------------------------------------------------------------

    @property
    def _large_page(self) -> int:
        return 1 << self.paging.shifts[-2]

    def _large_pages(self) -> None:
        """Large pages of the kernel, half of them empty."""
        # The largest page comes first, while there is room.
        huge = self.paging.address_bits > 32
        room = len(self.memory.free_frames) * PAGE_SIZE
        self._user_huge_page = self._large_run(GIB) if huge and room >= 3 * GIB else None
        frames = self._large_run(self._large_page)
        self._kernel_tree.map(
            self.places.large_pages, frames[:1], user=False, size=self._large_page
        )
        self._user_large_page = (
            self._large_run(self._large_page) if self.memory.frames >= 8192 else None
        )
        # If memory ends within a large page, the kernel maps the whole page.
        whole = self.memory.frames * PAGE_SIZE // self._large_page * self._large_page // PAGE_SIZE
        if whole < self.memory.frames:
            rest = np.arange(whole, self.memory.frames)
            self.memory.reserve(rest)
            self._kernel_tree.map(
                self.places.large_pages + 4 * self._large_page,
                rest[:1],
                user=False,
                size=self._large_page,
            )

    def _large_run(self, size: int) -> Frames:
        frames = self.memory.allocate_run(size // PAGE_SIZE)
        self.memory.fill_with_noise(frames[: min(len(frames) // 2, 1024)])
        return frames

    def _low_memory(self) -> None:
        """The first megabyte: only its first page is mapped, and some pages hold data."""
        self.memory.fill_with_noise(np.array([*range(0x9F, 0xA0), *range(0xC0, 0xD0)]))
        self.memory.fill_with_noise(np.arange(0xF0, 0x100))
        self.memory.page(0)[:16] = b"\x53\xff\x00\xf0" * 4  # interrupt vectors

    def _kernel_image_and_pool(self, processes: int) -> None:
        places, tree = self.places, self._kernel_tree
        # The boot loader puts the kernel low in memory.
        pages = np.array(image_pages(self.profile))
        low = [self.memory.allocate_run(1, below=_LOADER_FRAMES) for _ in pages]
        frames = np.full(pages[-1] + 1, -1, np.int64)
        frames[pages] = np.concatenate(low)
        image = Region(self.memory, places.image, frames)
        header, body = frames[:1], frames[1:READ_ONLY_PAGES]
        driver = "driver image"
        tree.map(places.image, header, user=False, use=driver)
        second = places.image + PAGE_SIZE
        tree.map(second, body, user=False, write=False, execute=True, use=driver)
        data = pages[READ_ONLY_PAGES:]
        for stretch in np.split(data, np.flatnonzero(np.diff(data) != 1) + 1):
            start = places.image + int(stretch[0]) * PAGE_SIZE
            tree.map(start, frames[stretch], user=False, use=driver)
        self._shared_frame = self.memory.allocate()
        tree.map(places.shared_data, self._shared_frame, user=False)
        control_region = None
        if self.profile.bits == 32 and self.profile.version < (6, 0):
            control_region = Region(self.memory, _CONTROL_REGION, self.memory.allocate())
            tree.map(_CONTROL_REGION, control_region.frames, user=False)
        pool_pages = 24 + (4 if self._log is None else 6) * (processes + 3)
        pool_pages += -(-self.more_files // _FILES_OF_A_PAGE)
        pool_pages += self._has_objects * (8 + 2 * (processes + 3))
        has_types = self._log is not None and "ObTypeIndexTable" in self.profile.symbols
        pool_pages += _PAGES_OF_TYPES * has_types
        pool_frames = self.memory.allocate(pool_pages)
        pool_region = Region(self.memory, places.nonpaged_pool, pool_frames)
        tree.map(places.nonpaged_pool, pool_frames, user=False, use="nonpaged pool")
        self._pool = Pool(pool_region, self.profile)
        # PAE: each process's four page directories are named by 32 bytes in the kernel's pool.
        self._directory_pointers = places.nonpaged_pool + (len(pool_frames) - 1) * PAGE_SIZE
        self.kernel = Kernel(self.profile, image, self._pool, control_region)
        self.kernel.write_image(self.rng)
        self.kernel.write_shared_data(Region(self.memory, places.shared_data, self._shared_frame))

    def _kernel_data(self, pages: int) -> None:
        places, tree = self.places, self._kernel_tree
        paged, drivers = pages * 7 // 10, pages * 2 // 10
        tree.map(places.paged_pool, self._take(paged, zeros=0.1), user=False, use="paged pool")
        code = self._take(drivers, zeros=0.1)
        if self._has_objects:
            self._drivers(code)
        else:
            if self._log is not None:
                self._driver_header(code, len(code))
                end = places.drivers + len(code) * PAGE_SIZE
                path = f"\\SystemRoot\\System32\\drivers\\{_DRIVERS[0]}"
                self.kernel.write_modules([ModuleTruth(path, places.drivers, end, code)])
            tree.map(places.drivers, code, user=False, execute=True, use="driver image")
        cache = self._take(pages - paged - drivers, zeros=0.02)
        present, trimmed = np.array_split(cache, 2)
        self._cached = self._section(present, "mapped file", "\\Windows\\cached.dat")
        tree.map(places.system_cache, present, user=False)
        after = places.system_cache + len(present) * PAGE_SIZE
        tree.map(after, trimmed, user=False, transition=True)
        # The user bit at the last level alone does not let user mode in.
        beyond = after + (len(trimmed) + 64) * PAGE_SIZE
        tree.map(beyond, self._take(3), user=True, user_above=False)
        tree.map(beyond + 8 * PAGE_SIZE, np.zeros(1, np.int64), user=False)

    def _drivers(self, code: Frames) -> None:
        """Several drivers, some directly behind one another, some without a part of their pages."""
        at = self.places.drivers
        for number, frames in enumerate(np.array_split(code, len(_DRIVERS))):
            # What a driver needs only at its start is dropped: its last pages.
            dropped = 3 * (number % 2)
            pages = len(frames) + dropped
            self._driver_header(frames, pages)
            # Of one driver, the header is not in memory; the kernel's list tells of it.
            first = int(number == _WITHOUT_HEADER)
            place = at + first * PAGE_SIZE
            kept = frames[first:]
            self._kernel_tree.map(place, kept, user=False, execute=True, use="driver image")
            path = f"\\SystemRoot\\System32\\drivers\\{_DRIVERS[number]}"
            self.modules.append(ModuleTruth(path, at, at + pages * PAGE_SIZE, kept))
            at += pages * PAGE_SIZE
            at += 16 * PAGE_SIZE * (number > 1)
        self.modules = self.kernel.write_modules(self.modules, self.unlisted)

    def _driver_header(self, frames: Frames, pages: int) -> None:
        """The headers of a driver's image of so many pages (PE/COFF specification)."""
        page = self.memory.page(int(frames[0]))
        page[:] = bytes(PAGE_SIZE)
        page[:2], page[0x3C:0x40] = b"MZ", (0x80).to_bytes(4, "little")
        page[0x80:0x84] = b"PE\0\0"
        wide = self.profile.bits == 64
        page[0x84:0x86] = (0x8664 if wide else 0x14C).to_bytes(2, "little")
        page[0x98:0x9A] = (0x20B if wide else 0x10B).to_bytes(2, "little")
        size = pages * PAGE_SIZE
        page[0x98 + 56 : 0x98 + 60] = size.to_bytes(4, "little")

    def _shadow_code(self) -> None:
        """The kernel's entry code from user mode: the only kernel code that shadows map."""
        self._shadow_tree = self._tree(KERNEL)
        if self._shadow_tables:
            code = self._take(3)
            place = self.places.image + GIB
            self._shadow_tree.map(place, code, user=False, write=False, execute=True)

    def _devices(self) -> None:
        """Device memory: entries that point past the end of the dump, the last by one page."""
        end = self.memory.frames
        registers = np.array([end, end + 1, end + 0x1234, 0xFEC00, 0xFEE00])
        outside = registers[registers >= end]
        self._kernel_tree.map(self.places.devices, outside, user=False)
        if self.paging.address_bits > 32:
            window = np.array([0x10_0000_0000 // PAGE_SIZE])
            self._kernel_tree.map(self.places.large_pages + 64 * GIB, window, user=False, size=GIB)

    def _session_tree(self) -> TableTree:
        tree = self._tree(KERNEL)
        frames = self._take(12, zeros=0.1)
        tree.map(self.places.session, frames, user=False, use="session")
        return tree

    # -- the processes --------------------------------------------------------------------

    def _all_processes(
        self,
        count: int,
        user_pages: int,
        sessions: Sequence[TableTree],
        given_names: Sequence[str],
    ) -> None:
        session_objects = [self._session_object(number) for number in range(len(sessions))]
        # MemProcFS wants smss.exe as the second process.
        names = [*_NAMES[:2], *given_names, *_NAMES[2:]]
        while len(names) < count:
            names.append(_FURTHER_NAMES[len(names) % len(_FURTHER_NAMES)])
        live = [Process(4 + 4 * 37 * i, 4, name) for i, name in enumerate(names[:count])]
        for i, process in enumerate(live):
            process.ppid = 0 if i == 0 else 4 if i == 1 else live[1].pid
            process.session = None if i < 2 else min(1, i // 4)
        ghost = Process(4 * 901, 4, "rootkit.exe", session=1, listed=False)
        dead = Process(4 * 902, 4, "setup.exe", session=1, exited=True)
        # The hidden and the exited process lie somewhere among the others.
        order = [*live]
        order.insert(int(self.rng.integers(3, count)) if count > 3 else count, ghost)
        order.insert(int(self.rng.integers(3, count)) if count > 3 else count, dead)
        self.processes = order
        shared = self._take(6)
        self._shared = self._section(shared, "shareable", "")
        for owner, process in enumerate(order):
            pages = max(8, user_pages // 8) if owner < 2 else user_pages
            session = process.session
            trees = [] if session is None else [sessions[session]]
            session_object = 0 if session is None else session_objects[session]
            self._process(owner, process, pages, shared, trees, session_object)
        self._idle()
        self._gone(user_pages)

    def _session_object(self, number: int) -> int:
        at = self._pool.allocate(0x40, b"MmSe")
        self._pool.region.write(
            at + self.profile.offset("_MM_SESSION_SPACE", "SessionId"),
            number.to_bytes(4, "little"),
        )
        return at

    def _process(
        self,
        owner: int,
        process: Process,
        pages: int,
        shared: Frames,
        trees: Sequence[TableTree],
        session: int,
    ) -> None:
        # The pages of an exited process are free again: the truth does not list them.
        ledger = Ledger(self.memory.frames) if process.exited else self.ledger
        tree = self._tree(owner, ledger)
        space = self._address_space(owner, ledger, [self._kernel_tree, *trees, tree])
        process.dtb = self._table_base(owner, space)
        if owner == 0:
            self._low_stub(process.dtb)
        elif self._shadow_tables:
            space.bars_user_code = True
            shadow = self._address_space(owner, ledger, [self._shadow_tree, tree])
            process.shadow_dtb = int(shadow.frames[0]) * PAGE_SIZE | 1
        tree.map(self.places.hyperspace, self._take(2), user=False)
        self._user_half(tree, process, pages, shared)
        if process.pid % 5 == 0:
            self._large_user_pages(tree)
        image, block = (0, 0) if owner == 0 else (self.places.program, self.places.process_block)
        self.kernel.write_process(process, block, image, session)
        self._regions(owner, process)

    def _address_space(
        self, owner: int, ledger: Ledger, trees: Sequence[TableTree]
    ) -> AddressSpace:
        if owner == 0:
            early = self.paging is PAE or self.profile.randomises_self_map
            frames = self._first_run if early else self._first_top_level()
            if self.paging is PAE:
                pointers, frames = frames[:1], frames[1:5]
                self._kernel_tree.map(self._directory_pointers + PAGE_SIZE, pointers, user=False)
        else:
            frames = self.memory.allocate(self.paging.top_frames)
        space = AddressSpace(self.memory, ledger, self.paging, owner, frames)
        space.trees.extend(trees)
        self._spaces.append(space)
        return space

    def _first_top_level(self) -> Frames:
        """Frames for the System process's top level, in the boot loader's place.

        Tools search for it there. Volatility 3 (automagic/windows.py) searches a narrow range for a
        64-bit kernel with a random self-map, and for PAE four consecutive directories behind the
        page with their pointers.
        """
        if self.paging is PAE:
            return self.memory.allocate_run(8, below=16 * MIB // PAGE_SIZE)
        if self.profile.randomises_self_map:
            return self.memory.allocate_run(1, above=0x150, below=0x151)
        return self.memory.allocate_run(1, below=16 * MIB // PAGE_SIZE)

    def _table_base(self, number: int, space: AddressSpace) -> int:
        """The value of CR3 for this space."""
        if self.paging is not PAE:
            # Since 2018 the low bits hold a process-context identifier (SDM 4.10.1).
            identifier = 2 if self.profile.bits == 64 and self.profile.build >= 17134 else 0
            return int(space.frames[0]) * PAGE_SIZE | identifier
        entries = [int(frame) * PAGE_SIZE | 1 for frame in space.frames]
        pointers = b"".join(entry.to_bytes(8, "little") for entry in entries)
        if number == 0:
            first = int(self._first_run[0])
            self.memory.page(first)[: len(pointers)] = pointers
            return first * PAGE_SIZE
        pool, at = self._pool.region, self._directory_pointers + 32 * number
        pool.write(at, pointers)
        return pool.physical(at)

    def _user_half(self, tree: TableTree, process: Process, pages: int, shared: Frames) -> None:
        places = self.places
        program, heap = max(4, pages // 6), max(8, pages // 2)
        text = self._take(program)
        self.memory.page(int(text[0]))[:2] = b"MZ"
        file = None
        if not process.exited:
            file = self._section(text, "image", f"\\Program Files\\{process.name}")
        tree.map(places.program, text, user=True, write=False, execute=True)
        data = places.program + program * PAGE_SIZE
        own = "process private"
        tree.map(data, self._take(max(2, program // 4), zeros=0.3), user=True, use=own)
        end, first_of_heap = self._heap(tree, places.heap, heap)
        tree.map(places.stack, self._take(3, zeros=0.3), user=True, use=own)
        used = self._libraries[: max(4, min(len(self._libraries), pages))]
        tree.map(places.libraries, used, user=True, write=False, execute=True)
        own_copies = places.libraries + (len(self._libraries) + 4) * PAGE_SIZE
        copies = self._take(2)
        tree.map(own_copies, copies, user=True, use=own)
        # Shared memory at different addresses in different processes, in one of them twice.
        tree.map(places.stack + MIB + (process.pid % 7) * PAGE_SIZE, shared, user=True)
        tree.map(places.stack + MIB + 0x20 * PAGE_SIZE, shared[:2], user=True, write=False)
        tree.map(_SHARED_DATA, self._shared_frame, user=True, write=False)
        if process.name == "notepad.exe":
            self._inject(tree, process)
        if process.name != "System":
            block = self.memory.allocate()
            page = self.memory.page(int(block[0]))
            page[8:16] = b"\xff" * 8
            self._version_in(page)
            tree.map(places.process_block, block, user=True, use=own)
            if self._has_objects and not process.exited:
                there = {places.heap: first_of_heap, own_copies: int(copies[0])}
                self._user_blocks(tree, {**there, places.process_block: int(block[0])})
                if self.profile.bits == 64 and process.name == _NARROW:
                    self._narrow_blocks(tree)
        # A supervisor page among user pages.
        barred = self._take(1)
        tree.map(places.stack + 0x10000, barred, user=False, user_above=True, use=own)
        in_image = program + max(2, program // 4)
        copied = {"kind": IMAGE, "section": file, "commit": 2}
        self._region(places.program, in_image, EXECUTE_WRITE_COPY, **copied)
        named = {"name": _HEAP_NAME} if process.name != "System" else {}
        pages = (end - places.heap) // PAGE_SIZE
        self._region(places.heap, pages, READ_WRITE, commit=heap, **named)
        self._usual_regions(process)

    def _usual_regions(self, process: Process) -> None:
        """Regions that each process has, some of them without any page in memory."""
        places = self.places
        library = {"kind": IMAGE, "section": self._library, "commit": 3}
        self._region(places.libraries, len(self._libraries) + 6, EXECUTE_WRITE_COPY, **library)
        named = {"name": _STACK_NAME} if process.name != "System" else {}
        self._region(places.stack, _STACK_PAGES, READ_WRITE, commit=4, **named)
        self._region(places.stack + 0x20000, 1, GUARD | READ_WRITE, commit=1)
        self._region(_SHARED_DATA, 1, READ, commit=1)
        views = places.stack + MIB
        at = views + (process.pid % 7) * PAGE_SIZE
        self._region(at, 6, READ_WRITE, section=self._shared)
        self._region(views + 0x20 * PAGE_SIZE, 2, READ, section=self._shared)
        if self._cached:
            behind = self._cached.parts[0][0] + 1 if len(self._cached.parts) > 1 else 0
            at = views + 0x40 * PAGE_SIZE
            self._region(at, 2, READ, section=self._cached, first_page=behind)
        if process.name == "explorer.exe":
            self._region(views + 0x50 * PAGE_SIZE, 6, EXECUTE_READ, section=self._shared)
        self._region(views + 0x60 * PAGE_SIZE, 0x20, NO_ACCESS)

    def _user_blocks(self, tree: TableTree, known: dict[int, int]) -> None:
        """What a process knows of its heaps and stacks; some of both, with their regions.

        `known` are frames of pages that are mapped already, by virtual address.
        """
        places, own = self.places, "process private"
        frames = dict(known)

        def page(virtual: int, pages: int = 1) -> None:
            more = self._take(pages)
            tree.map(virtual, more, user=True, use=own)
            frames.update(
                zip(
                    range(virtual, virtual + pages * PAGE_SIZE, PAGE_SIZE),
                    more.tolist(),
                    strict=True,
                )
            )

        def write(virtual: int, data: bytes) -> None:
            at = virtual % PAGE_SIZE
            self.memory.page(frames[virtual - at])[at : at + len(data)] = data

        blocks = UserBlocks(self.profile, places.process_block, write)
        second, third, segment = (places.stack + at for at in _MORE_HEAPS)
        [array] = [at for at in known if at not in (places.heap, places.process_block)]
        for heap, pages, present in ((second, 8, 1), (third, 16, 0), (segment, 16, 3)):
            if present:
                page(heap, present)
            self._region(heap, pages, READ_WRITE, commit=pages, name=_HEAP_NAME)
        blocks.process([places.heap, second, third], array + 0x180)
        blocks.heap(places.heap)
        blocks.heap(second)
        blocks.segment(segment, places.heap)
        stacks = [places.stack, places.stack + _MORE_STACK]
        page(stacks[1] + (_STACK_PAGES - 2) * PAGE_SIZE, 2)
        self._region(stacks[1], _STACK_PAGES, READ_WRITE, commit=2, name=_STACK_NAME)
        together = self.profile.bits == 64 and self.profile.version >= (6, 3)
        for number, stack in enumerate(stacks, 1):
            at, end = (
                places.process_block - number * blocks.thread_size,
                stack + _STACK_PAGES * PAGE_SIZE,
            )
            page(at)
            blocks.thread(at, end, end - 2 * PAGE_SIZE)
            if not together:
                self._region(at, blocks.thread_size // PAGE_SIZE, READ_WRITE, commit=1)
        if together:  # in the process's block and those of threads lie in one region
            start = places.process_block // _BLOCKS * _BLOCKS
            self._region(start, _BLOCKS // PAGE_SIZE, READ_WRITE, commit=3)
        else:
            self._region(places.process_block, 1, READ_WRITE, commit=1)

    def _narrow_blocks(self, tree: TableTree) -> None:
        """Blocks, a stack and a heap of the 32-bit program in a 64-bit process (WOW64)."""
        stack, heap, block, thread = (self.places.stack + at for at in _NARROW_PLACES)
        end = stack + _STACK_PAGES * PAGE_SIZE
        frames = {}
        for at in (end - PAGE_SIZE, heap, block, thread):
            page = self._take(1)
            tree.map(at, page, user=True, use="process private")
            frames[at] = int(page[0])

        def write(virtual: int, data: bytes) -> None:
            at = virtual % PAGE_SIZE
            self.memory.page(frames[virtual - at])[at : at + len(data)] = data

        like = next(
            one
            for one in profiles().values()
            if one.bits == 32 and one.version == self.profile.version
        )
        blocks = UserBlocks(like, block, write)
        blocks.process([heap], block + 0x800)
        blocks.heap(heap)
        blocks.thread(thread, end, end - PAGE_SIZE)
        self._region(stack, _STACK_PAGES, READ_WRITE, commit=1, name=_STACK_NAME)
        self._region(heap, 8, READ_WRITE, commit=1, name=_HEAP_NAME)
        self._region(block, 1, READ_WRITE, commit=1)
        self._region(thread, 2, READ_WRITE, commit=1)

    def _inject(self, tree: TableTree, process: Process) -> None:
        """Injected code in a process: pages that may be written and executed."""
        code = self._take(INJECTED_PAGES)
        self.memory.page(int(code[0]))[:2] = b"MZ"
        process.injected = self.places.stack + 0x40000
        own = "process private"
        tree.map(process.injected, code, user=True, execute=True, use=own)
        self._region(process.injected, INJECTED_PAGES, EXECUTE_READ_WRITE, commit=INJECTED_PAGES)

    def _version_in(self, process_block: bytearray) -> None:
        """OSMajorVersion, OSMinorVersion and OSBuildNumber of a PEB (winternl.h, ntpsapi.h)."""
        major, minor = self.profile.version
        at = 0x118 if self.profile.bits == 64 else 0xA4
        version = (10, 0) if (major, minor) == (6, 4) else (major, minor)
        for i, number in enumerate(version):
            process_block[at + 4 * i : at + 4 * i + 4] = number.to_bytes(4, "little")
        build = self.profile.build or 2600
        process_block[at + 8 : at + 10] = build.to_bytes(2, "little")

    def _heap(self, tree: TableTree, start: int, pages: int) -> tuple[int, int]:
        """Private memory, in pieces: present, trimmed, and with gaps between them.

        Returns its end, and the frame of its first page.

        The entries that map nothing still name frames: free pages with data, so that a reader that
        takes them for present is found out.
        """
        frames = self._take(pages, zeros=0.25)
        at, first = start, int(frames[0])
        while len(frames):
            piece = int(self.rng.integers(1, 40))
            head, frames = frames[:piece], frames[piece:]
            trimmed = self.rng.random() < 0.2
            own = "process private"
            tree.map(at, head, user=True, transition=trimmed, write=True, use=own)
            at += len(head) * PAGE_SIZE
            at += self._absent_entries(tree, at)
        return at, first

    def _absent_entries(self, tree: TableTree, at: int) -> int:
        """Write a few entries that map nothing; return their size in bytes."""
        traps = self.rng.choice(self._trap_frames, 4).astype(np.uint64) << np.uint64(12)
        demand_zero = np.full(4, READ_WRITE_PROTECTION | USER, np.uint64)
        paged_out = traps | np.uint64(READ_WRITE_PROTECTION | USER | 1 << 1)
        prototype = traps | np.uint64(PROTOTYPE | READ_WRITE_PROTECTION | USER)
        prototype_in_transition = prototype | np.uint64(TRANSITION)
        kinds = [demand_zero, paged_out, prototype, prototype_in_transition]
        values = kinds[int(self.rng.integers(len(kinds)))][: int(self.rng.integers(1, 5))]
        if self.paging is X86:
            values &= np.uint64(0xFFFFFFFF)
        tree.write_raw(at, values, user=True)
        return len(values) * PAGE_SIZE

    def _large_user_pages(self, tree: TableTree) -> None:
        """Large pages, which the first process gets."""
        if self._user_large_page is not None:
            at = 0x10000000 if self.profile.bits == 32 else 0x20_00000000
            frames, use = self._user_large_page[:1], "large page"
            tree.map(at, frames, user=True, size=self._large_page, use=use)
            pages = self._large_page // PAGE_SIZE
            self._region(at, pages, READ_WRITE, kind=LARGE_PAGES, commit=pages)
            self._user_large_page = None
        if self._user_huge_page is not None:
            frames, use = self._user_huge_page[:1], "large page"
            tree.map(0x30_00000000, frames, user=True, size=GIB, use=use)
            pages = GIB // PAGE_SIZE
            self._region(0x30_00000000, pages, READ_WRITE, kind=LARGE_PAGES, commit=pages)
            self._user_huge_page = None

    def _idle(self) -> None:
        """The Idle process, in no list and with System's tables. Volatility begins with it."""
        idle = Process(0, 0, "Idle", dtb=self.processes[0].dtb, listed=False)
        self.kernel.write_process(idle, 0, 0, 0)
        self._regions(-1, idle)

    def _gone(self, pages: int) -> None:
        """The tables of a process of which nothing else is left, in frames that are free again."""
        ledger = Ledger(self.memory.frames)
        owner = len(self.processes)
        tree = self._tree(owner, ledger)
        space = self._address_space(owner, ledger, [self._kernel_tree, tree])
        self._table_base(owner, space)
        self._heap(tree, self.places.heap, max(8, pages // 4))

    def _low_stub(self, dtb: int) -> None:
        """The start-up block of x64 in low memory, by which MemProcFS finds the page tables.

        vmmwininit.c, FindValidate: a jump, at +0x70 an address in the kernel, at +0xa0 CR3.
        """
        if self.profile.bits == 64:
            stub = self.memory.page(0x13)
            stub[0:8] = (0x00000001_000600E9 | 0x4D00).to_bytes(8, "little")
            stub[0x70:0x78] = (self.places.image + 0x5000).to_bytes(8, "little")
            stub[0xA0:0xA8] = (dtb & ~0xFFF).to_bytes(8, "little")

    def _left_over(self, data: float) -> None:
        """Free memory: some of it still holds old data, one page only in its last byte."""
        self.memory.fill_free_frames(data)
        free = self.memory.free_frames
        last_byte = free[len(free) // 2]
        page = self.memory.page(int(last_byte))
        page[-1] = 1
