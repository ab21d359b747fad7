"""The structures of a synthetic Windows kernel by which tools recognise it.

The image with its exports and the record that names its symbols, the debugger data block, the
processor control region, the shared user data page, and objects in the nonpaged pool. Each
structure names the tools that search for it.
"""

import struct
import uuid
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.synth.memory import PAGE_SIZE, Frames, PhysicalMemory
from tests.synth.profiles import Profile
from tests.synth.truth import ModuleTruth, Process

IMAGE_TIME = 132_000_000_000_000_000
"""When the synthetic image was taken: 2019-04-17 18:40 UTC, as a Windows timestamp (100 ns)."""

RUNNING_TIME = 72_000_000_000
"""How long the synthetic machine has run: two hours, in 100 ns."""

INTERRUPT_TIME = 0x08
"""Offset of InterruptTime in KUSER_SHARED_DATA (ntddk.h), in every version."""
MACHINE_TYPE = 8
"""Offset in `_DBGKD_GET_VERSION64` (wdbgexts.h), in every version."""
SYSTEM_ROOT, PRODUCT_TYPE = 0x30, 0x264
"""Offsets of NtSystemRoot and NtProductType in KUSER_SHARED_DATA (ntddk.h), in every version."""
BUILD_NUMBER = 0x260
"""Offset of NtBuildNumber there, since Windows 10."""

STATUS_PENDING = 0x103
"""Exit status of a process that runs."""

_TEXT_PAGES = range(1, 16)
_CODE_PAGE, _EXPORT_PAGE, _DATA_PAGE, _IDLE_PAGE = 16, 32, 48, 56
_TYPES_PAGE = 59
_CORE_PAGES = 64
READ_ONLY_PAGES = _DATA_PAGE
"""Pages at the begin of the kernel's image that cannot be written to."""
_DEBUG_PLACE = _EXPORT_PAGE * PAGE_SIZE + 0x400
PDB_NAME = "ntkrnlmp.pdb"

_DATA = _DATA_PAGE * PAGE_SIZE
_OWN_SYMBOLS = {
    "PsActiveProcessHead": _DATA + 0x108,
    "PsLoadedModuleList": _DATA + 0x120,
    "KdVersionBlock": _DATA + 0x200,
    "PsInitialSystemProcess": _DATA + 0x250,
    "KeNumberProcessors": _DATA + 0x278,
    "KdDebuggerDataBlock": _DATA + 0x400,
}


def symbols_of(profile: Profile) -> dict[str, int]:
    """Offsets of symbols from the base of a synthetic kernel's image, by name."""
    return {**_OWN_SYMBOLS, **profile.symbols}


def image_pages(profile: Profile) -> list[int]:
    """Pages of the kernel's image that are in memory, ascending; the others are paged out.

    A real kernel is larger than a synthetic one: only its pages with symbols are present.
    """
    further = {address // PAGE_SIZE for address in symbols_of(profile).values()}
    return sorted(further.union(range(_CORE_PAGES)))


class Region:
    """Virtual pages of the kernel with known frames, written by address.

    Pages with the frame -1 are not in memory.
    """

    def __init__(self, memory: PhysicalMemory, base: int, frames: Frames) -> None:
        self.base = base
        self.end = base + len(frames) * PAGE_SIZE
        self.frames = frames
        self._memory = memory

    def write(self, virtual: int, data: bytes) -> None:
        """Write within one page."""
        page, at = divmod(virtual - self.base, PAGE_SIZE)
        if at + len(data) > PAGE_SIZE:
            raise ValueError(f"{len(data)} bytes at {virtual:#x} cross a page border")
        if self.frames[page] < 0:
            raise ValueError(f"the page at {virtual:#x} is not in memory")
        self._memory.page(int(self.frames[page]))[at : at + len(data)] = data

    def physical(self, virtual: int) -> int:
        """The physical address behind a virtual one."""
        page, at = divmod(virtual - self.base, PAGE_SIZE)
        return int(self.frames[page]) * PAGE_SIZE + at


class Pool:
    """Consecutive objects in a region; no object crosses a page boundary."""

    def __init__(self, region: Region, profile: Profile) -> None:
        self.region = region
        self._header_size = profile.size("_POOL_HEADER")
        self._tag_offset = profile.offset("_POOL_HEADER", "PoolTag")
        self._unit = profile.pointer_size * 2
        self._next = region.base

    def allocate(self, size: int, tag: bytes) -> int:
        """Virtual address of `size` bytes of zeros behind a pool header with this tag."""
        blocks = -(-(self._header_size + size) // self._unit)
        if self._next % PAGE_SIZE + blocks * self._unit > PAGE_SIZE:
            self._next = (self._next // PAGE_SIZE + 1) * PAGE_SIZE
        header = self._next
        self._next += blocks * self._unit
        if self._next > self.region.end:
            raise ValueError("the pool is too small")
        # Both headers have the size in the third byte: in the 32-bit header above 4 bits of flags,
        # in the 64-bit header alone.
        self.region.write(header + 2, bytes([blocks & 0xFF]))
        self.region.write(header + self._tag_offset, tag)
        return header + self._header_size


OBJECT_TYPES = (
    *("Type", "Directory", "SymbolicLink", "Token", "Job", "Process", "Thread", "Partition"),
    *("UserApcReserve", "IoCompletionReserve", "ActivityReference", "PsSiloContextPaged"),
    *("PsSiloContextNonPaged", "DebugObject", "Event", "Mutant", "Callback", "Semaphore"),
    *("Timer", "IRTimer", "Profile", "KeyedEvent", "WindowStation", "Desktop", "Composition"),
    *("RawInputManager", "CoreMessaging", "ActivationObject", "TpWorkerFactory", "Adapter"),
    *("Controller", "Device", "Driver", "IoCompletion", "WaitCompletionPacket", "File"),
)
"""Types of objects in the order in which Windows 10 makes them; later types are left out."""
_FIRST_TYPE = 2
"""In front of the types, ObTypeIndexTable has a zero and MmBadPointer, which leads to no page."""
_FILE_TYPE_OF_7 = 28
"""The number of the type of file objects in Windows 7, by which Volatility 2 knows them."""


class ObjectTypes:
    """The numbers that tell the types of objects in their headers.

    Windows 10 keeps them encoded ("Windows 10 object headers", codemachine.com; Volatility 3's
    ``windows.handles``): the header's byte is the number, combined by exclusive or with the second
    byte of the header's address and with a byte that is chosen when the system starts.
    """

    def __init__(self, profile: Profile, image: Region, pool: "Pool", cookie: int) -> None:
        """Write the table of types, if the profile tells where the real kernel has it."""
        self._profile = profile
        self._cookie = cookie
        self.are_known = "ObTypeIndexTable" in profile.symbols
        if self.are_known:
            image.write(image.base + profile.symbols["ObHeaderCookie"], bytes([cookie]))
            self._write_table(image.base + profile.symbols["ObTypeIndexTable"], image, pool)

    def byte(self, header: int, name: str) -> int:
        """TypeIndex in the object header at an address; 0 if this version's numbers are unknown."""
        if self._profile.version == (6, 1) and name == "File":
            return _FILE_TYPE_OF_7
        if not self.are_known:
            return 0
        number = _FIRST_TYPE + OBJECT_TYPES.index(name)
        return number ^ self._cookie ^ header >> 8 & 0xFF

    def _write_table(self, table: int, image: Region, pool: "Pool") -> None:
        profile, structure = self._profile, "_OBJECT_TYPE"
        body = profile.offset("_OBJECT_HEADER", "Body")
        image.write(table + 8, struct.pack("<Q", image.base - PAGE_SIZE))
        for number, name in enumerate(OBJECT_TYPES, _FIRST_TYPE):
            header = pool.allocate(body + profile.size(structure), b"ObjT")
            type_byte = bytes([self.byte(header, "Type")])
            pool.region.write(header + profile.offset("_OBJECT_HEADER", "PointerCount"), b"\1")
            pool.region.write(header + profile.offset("_OBJECT_HEADER", "TypeIndex"), type_byte)
            at, text = header + body, name.encode("utf-16-le")
            buffer = pool.allocate(len(text) + 2, b"ObNm")
            pool.region.write(buffer, text)
            string = struct.pack("<HHIQ", len(text), len(text) + 2, 0, buffer)
            pool.region.write(at + profile.offset(structure, "Name"), string)
            pool.region.write(at + profile.offset(structure, "Index"), bytes([number]))
            pool.region.write(at + profile.offset(structure, "Key"), name[:4].encode())
            image.write(table + 8 * number, struct.pack("<Q", at))


class Kernel:
    """Writes the structures of one Windows version."""

    def __init__(
        self, profile: Profile, image: Region, pool: Pool, control_region: Region | None
    ) -> None:
        self.profile = profile
        self.image = image
        self._pool = pool
        self._regions = [image, pool.region, *([control_region] if control_region else [])]
        self._pointer = "<I" if profile.bits == 32 else "<Q"
        data = image.base + _DATA
        at = {name: image.base + place for name, place in symbols_of(profile).items()}
        self.process_list = at["PsActiveProcessHead"]
        self._module_list = at["PsLoadedModuleList"]
        self._debugger_list = data + 0x140
        self._build_lab = data + 0x160
        self._service_pack = data + 0x1A0
        self._processor_blocks = data + 0x1B0
        self._version_block = at["KdVersionBlock"]
        self._debugger_block_pointer = data + 0x240
        self._initial_system_process = at["PsInitialSystemProcess"]
        self._block_encoded = data + 0x260
        self._wait_never = data + 0x268
        self._wait_always = data + 0x270
        self._number_of_processors = at["KeNumberProcessors"]
        self._debugger_block = at["KdDebuggerDataBlock"]
        self._control_region = control_region.base if control_region else data + PAGE_SIZE
        self._processes: list[Process] = []
        self._kernel_entry = 0

    # -- the image ---------------------------------------------------------------------

    def write_image(self, rng: np.random.Generator) -> None:
        """Write all of the kernel's image, and the processor control region."""
        for page in _TEXT_PAGES:
            self.image.write(self.image.base + page * PAGE_SIZE, rng.bytes(PAGE_SIZE))
        self._write_headers()
        self._write_exports()
        self._write_debug_record()
        self.image.write(self._number_of_processors, struct.pack("<I", 1))
        self._write_empty_list(self._module_list)
        self._write_module()
        build = f"{self.profile.build}.forged.{self.profile.name}"[:31]
        self.image.write(self._build_lab, build.encode())
        service_pack = struct.pack("<I", self.profile.service_pack << 8)
        self.image.write(self._service_pack, service_pack)
        self._write_control_region()
        self._write_version_block()
        self._write_debugger_block(rng)

    def write_system_types(self, types: bytes) -> None:
        """Write SystemVaType, across the border of two pages."""
        at = self.image.base + _TYPES_PAGE * PAGE_SIZE - 0x80
        self.image.write(at, types[:0x80])
        self.image.write(at + 0x80, types[0x80:])

    def _write_headers(self) -> None:
        """DOS and PE headers.

        MemProcFS knows the kernel by its section POOLCODE (vmmwininit.c, FindNtosScan).
        """
        wide = self.profile.bits == 64
        sections = [
            (b".text", len(_TEXT_PAGES), 1, 0x6800_0020),
            (b"POOLCODE", 1, _CODE_PAGE, 0x6800_0020),
            (b".edata", 1, _EXPORT_PAGE, 0x4000_0040),
            (b".data", len(self.image.frames) - _DATA_PAGE, _DATA_PAGE, 0xC800_0040),
        ]
        machine, optional_size = (0x8664, 0xF0) if wide else (0x14C, 0xE0)
        header = bytearray(b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0xF0))
        header = header.ljust(0xF0, b"\0")
        header += b"PE\0\0" + struct.pack(
            "<HHIIIHH", machine, len(sections), 0x4A5BC600, 0, 0, optional_size, 0x22
        )
        optional = bytearray(optional_size)
        struct.pack_into("<H", optional, 0, 0x20B if wide else 0x10B)
        struct.pack_into("<Q" if wide else "<I", optional, 24 if wide else 28, self.image.base)
        struct.pack_into("<II", optional, 32, PAGE_SIZE, 0x200)
        struct.pack_into("<HH", optional, 40, *self._windows_version)
        struct.pack_into("<II", optional, 56, self.image.end - self.image.base, PAGE_SIZE)
        directories = 108 if wide else 92
        struct.pack_into("<III", optional, directories, 16, _EXPORT_PAGE * PAGE_SIZE, 0x200)
        struct.pack_into("<II", optional, directories + 4 + 6 * 8, _DEBUG_PLACE, 28)
        header += optional
        for name, pages, first, flags in sections:
            size, start = pages * PAGE_SIZE, first * PAGE_SIZE
            header += name.ljust(8, b"\0")
            header += struct.pack("<IIIIIIHHI", size, start, size, start, 0, 0, 0, 0, flags)
        self.image.write(self.image.base, bytes(header))

    def _write_exports(self) -> None:
        """The export directory (PE format, "The .edata Section"): names, each with its place."""
        start, names = _EXPORT_PAGE * PAGE_SIZE, (b"PsInitialSystemProcess", b"PsLoadedModuleList")
        targets = [at - self.image.base for at in (self._initial_system_process, self._module_list)]
        first = start + 0xA0
        places = [first, first + len(names[0]) + 1]
        # Functions, names and ordinals at 0x40, 0x48 and 0x50; the module's name at 0x80.
        numbers = (start + 0x80, 1, 2, 2, start + 0x40, start + 0x48, start + 0x50)
        table = bytearray(struct.pack("<IIHHIIIIIII", 0, 0, 0, 0, *numbers).ljust(0x40, b"\0"))
        table += struct.pack("<IIIIHH", *targets, *places, 0, 1)
        table = table.ljust(0x80, b"\0") + b"ntoskrnl.exe".ljust(0x20, b"\0")
        table += b"\0".join((*names, b""))
        self.image.write(self.image.base + start, bytes(table))

    def _write_debug_record(self) -> None:
        """The debug directory and the CodeView record, which name the kernel's symbols.

        IMAGE_DEBUG_DIRECTORY (winnt.h); `RSDS`, GUID, age and file name, by which Volatility 3
        finds the kernel and its symbols (automagic/pdbscan.py).
        """
        guid, age = self.profile.pdb.split("-")
        record = b"RSDS" + uuid.UUID(guid).bytes_le + struct.pack("<I", int(age))
        record += PDB_NAME.encode() + b"\0"
        at = _DEBUG_PLACE + 0x40
        directory = struct.pack("<IIHHIIII", 0, 0x4A5BC600, 0, 0, 2, len(record), at, at)
        self.image.write(self.image.base + _DEBUG_PLACE, directory)
        self.image.write(self.image.base + at, record)

    def _write_module(self) -> None:
        """The kernel itself, as the first loaded module."""
        image = self.image
        self._kernel_entry = self._module_entry("ntoskrnl.exe", image.base, image.end)
        self._link(self._module_list, [self._kernel_entry])

    def write_modules(
        self, drivers: Sequence[ModuleTruth], unlisted: str = ""
    ) -> list[ModuleTruth]:
        """Write the list of modules: the kernel, and these drivers; returns all with entries.

        The driver with the name `unlisted` has an entry, but is not in the list.
        """
        image = self.image
        kernel = ModuleTruth("ntoskrnl.exe", image.base, image.end, image.frames[image.frames >= 0])
        modules = [replace(kernel, entry=self._kernel_entry)]
        for one in drivers:
            entry = self._module_entry(one.path, one.start, one.end)
            modules.append(replace(one, entry=entry))
        listed = [module.entry for module in modules if module.name != unlisted]
        self._link(self._module_list, listed)
        return modules

    def _module_entry(self, path: str, start: int, end: int) -> int:
        """An entry of the list of modules (KLDR_DATA_TABLE_ENTRY); returns its address."""
        structure = "_LDR_DATA_TABLE_ENTRY"
        entry = self._pool.allocate(self.profile.size(structure), b"MmLd")
        self._set(entry, structure, "DllBase", start)
        self._set(entry, structure, "EntryPoint", start + 0x1000)
        at = entry + self.profile.offset(structure, "SizeOfImage")
        self._pool.region.write(at, struct.pack("<I", end - start))
        text = path.encode("utf-16-le")
        name = path.rpartition("\\")[2].encode("utf-16-le")
        buffer = self._pool.allocate(len(text) + 2, b"MmLn")
        self._pool.region.write(buffer, text)
        for member, length in (("FullDllName", len(text)), ("BaseDllName", len(name))):
            place = buffer + len(text) - length
            at = entry + self.profile.offset(structure, member)
            self._pool.region.write(at, self._unicode_string(length, place))
        return entry

    def _write_control_region(self) -> None:
        """The first processor's KPCR, with the members that `imageinfo` reads."""
        profile, region = self.profile, self._control_region
        block_member = "PrcbData" if profile.bits == 32 else "Prcb"
        block = region + profile.offset("_KPCR", block_member)
        own, current = ("SelfPcr", "Prcb") if profile.bits == 32 else ("Self", "CurrentPrcb")
        self._set(region, "_KPCR", own, region)
        self._set(region, "_KPCR", current, block)
        self._set(region, "_KPCR", "KdVersionBlock", self._version_block)
        self.image.write(self._processor_blocks, self._pack(block))

    def _write_version_block(self) -> None:
        structure = "_DBGKD_GET_VERSION64"
        for member, value, form in [
            ("MajorVersion", 15, "<H"),
            ("MinorVersion", self.profile.build & 0xFFFF, "<H"),
            ("MachineType", 0x8664 if self.profile.bits == 64 else 0x14C, "<H"),
            ("KernBase", self._extended(self.image.base), "<Q"),
            ("PsLoadedModuleList", self._extended(self._module_list), "<Q"),
            ("DebuggerDataList", self._extended(self._debugger_block_pointer), "<Q"),
        ]:
            at = self._version_block
            at += (
                MACHINE_TYPE if member == "MachineType" else self.profile.offset(structure, member)
            )
            self.image.write(at, struct.pack(form, value))
        self.image.write(self._debugger_block_pointer, self._pack(self._debugger_block))

    def _write_debugger_block(self, rng: np.random.Generator) -> None:
        """KDDEBUGGER_DATA64 (wdbgexts.h), as Volatility's kdbgscan expects it."""
        block = bytearray(self.profile.kdbg_size)
        links = self._pack(self._debugger_list) * 2
        block[: len(links)] = links
        block[16:24] = b"KDBG" + struct.pack("<I", len(block))
        for at, value in {
            0x18: self.image.base,
            0x48: self._module_list,
            0x50: self.process_list,
            0x208: self._build_lab,
            0x218: self._processor_blocks,
            0x268: self._service_pack,
        }.items():
            struct.pack_into("<Q", block, at, self._extended(value))
        if not block[:22].endswith(self.profile.kdbg_header):
            raise ValueError(f"the kernel's base {self.image.base:#x} does not fit the profile")
        if self.profile.encodes_kdbg:
            never, always = (int.from_bytes(rng.bytes(8), "little") for _ in range(2))
            self.image.write(self._wait_never, struct.pack("<Q", never))
            self.image.write(self._wait_always, struct.pack("<Q", always))
            self.image.write(self._block_encoded, b"\1")
            self._write_copy_data_block()
            # Volatility decodes the size of the longest block, whatever the version.
            plain = bytes(block.ljust(0x380, b"\0"))
            block[:] = encode_debugger_block(plain, never, always, self._block_encoded)
        self.image.write(self._debugger_block, bytes(block))

    def _write_copy_data_block(self) -> None:
        """KdCopyDataBlock: the code by which Volatility finds the keys of the encoded block.

        Its instructions name, relative to themselves: KdpDataBlockEncoded, KdDebuggerDataBlock,
        KiWaitNever and KiWaitAlways; and the block's size in quadwords and in bytes.
        """
        at = self.image.base + _CODE_PAGE * PAGE_SIZE + 0x300
        code = b""

        def relative(opcode: str, target: int, immediate: bytes = b"") -> bytes:
            start = bytes.fromhex(opcode)
            end = at + len(code) + len(start) + 4 + len(immediate)
            return start + struct.pack("<i", target - end) + immediate

        size = self.profile.kdbg_size
        code += relative("803d", self._block_encoded, b"\0")  # cmp byte [rip+…], 0
        code += relative("488d15", self._debugger_block)  # lea rdx, [rip+…]
        code += b"\xb9" + struct.pack("<I", size // 8)  # mov ecx, quadwords
        code += b"\x41\xb8" + struct.pack("<I", size)  # mov r8d, bytes
        code += relative("4c8b15", self._wait_never)  # mov r10, [rip+…]
        code += relative("4c8b1d", self._wait_always)  # mov r11, [rip+…]
        code += bytes.fromhex("480fca c3")  # bswap rdx; ret
        self.image.write(at, code)

    # -- the shared page and the processes ----------------------------------------------

    def write_shared_data(self, page: Region) -> None:
        """KUSER_SHARED_DATA, the page that the kernel and all processes map."""
        structure = "_KUSER_SHARED_DATA"
        high = IMAGE_TIME >> 32
        time = struct.pack("<IiI", IMAGE_TIME & 0xFFFFFFFF, high, high)
        page.write(page.base + self.profile.offset(structure, "SystemTime"), time)
        page.write(page.base + INTERRUPT_TIME, struct.pack("<Q", RUNNING_TIME))
        version = struct.pack("<II", *self._windows_version)
        page.write(page.base + self.profile.offset(structure, "NtMajorVersion"), version)
        if self._windows_version >= (10, 0):  # earlier versions have another member there
            page.write(page.base + BUILD_NUMBER, struct.pack("<I", self.profile.build))
        page.write(page.base + SYSTEM_ROOT, r"C:\Windows".encode("utf-16-le"))
        page.write(page.base + PRODUCT_TYPE, struct.pack("<I", 1))

    def write_process(self, process: Process, peb: int, image_base: int, session: int) -> None:
        """Write a process object and the structures that belong to it; chain_processes links it.

        Fields that MemProcFS searches for (vmmwin.c, OffsetLocator): SignalState 0 while it
        lives, ExitStatus before VadRoot, `Obtb` before the handle table, the image's path.
        """
        object_header = 0x40 + self.profile.offset("_OBJECT_HEADER", "Body")
        size = object_header + max(self.profile.size("_EPROCESS"), 0x800)
        if process.name == "Idle":  # KiInitialProcess is part of the kernel's image
            at = self.image.base + _IDLE_PAGE * PAGE_SIZE + object_header
        else:
            at = self._pool.allocate(size, b"Pro\xe3") + object_header
        process.eprocess = at
        write = self._home(at).write
        write(at - object_header + 0x40, self._pack(3))  # the object's reference count
        write(at, self.profile.process_signature + struct.pack("<I", process.exited))
        self._set(at, "_KPROCESS", "DirectoryTableBase", process.dtb)
        if process.shadow_dtb:
            self._set(at, "_KPROCESS", "UserDirectoryTableBase", process.shadow_dtb)
        self._set(at, "_EPROCESS", "UniqueProcessId", process.pid)
        self._set(at, "_EPROCESS", "InheritedFromUniqueProcessId", process.ppid)
        name = process.name.encode()[:15].ljust(16, b"\0")
        write(at + self.profile.offset("_EPROCESS", "ImageFileName"), name)
        started = 0 if process.pid <= 4 else IMAGE_TIME - 36_000_000_000 + process.pid
        self._set_time(at, "CreateTime", started)
        self._set_time(at, "ExitTime", IMAGE_TIME - 600_000_000 if process.exited else 0)
        self._set(at, "_EPROCESS", "Peb", peb)
        self._set(at, "_EPROCESS", "SectionBaseAddress", image_base)
        self._set(at, "_EPROCESS", "Session", session)
        status = 0 if process.exited else STATUS_PENDING
        status_at = at + self.profile.offset("_EPROCESS", "ExitStatus")
        write(status_at, struct.pack("<I", status))
        threads = struct.pack("<I", 0 if process.exited else 1)
        write(at + self.profile.offset("_EPROCESS", "ActiveThreads"), threads)
        vad = self._pool.allocate(0x40, b"Vadl")
        vad_at = at + self.profile.offset("_EPROCESS", "VadRoot")
        write(vad_at, self._pack(vad))
        if vad_at < status_at:  # MemProcFS then knows the root by its copy, VadHint
            write(vad_at + 2 * self.profile.pointer_size, self._pack(vad))
        if not process.exited:  # Windows frees it when the process ends
            handles = self._pool.allocate(self.profile.size("_HANDLE_TABLE"), b"Obtb")
            self._set(at, "_EPROCESS", "ObjectTable", handles)
        self._write_path(at, process)
        self._write_thread(at, process)
        self._processes.append(process)
        if process.name == "System":
            self.image.write(self._initial_system_process, self._pack(at))

    def end_process(self, process: Process) -> None:
        """Write into the object of a process what its end changes, as in write_process."""
        at = process.eprocess
        write = self._home(at).write
        write(at, self.profile.process_signature + struct.pack("<I", 1))
        self._set_time(at, "ExitTime", IMAGE_TIME - 600_000_000)
        write(at + self.profile.offset("_EPROCESS", "ExitStatus"), bytes(4))
        write(at + self.profile.offset("_EPROCESS", "ActiveThreads"), bytes(4))
        self._set(at, "_EPROCESS", "ObjectTable", 0)

    def _write_path(self, at: int, process: Process) -> None:
        name = self._pool.allocate(0x100, b"SeOn")
        text = b""
        if process.pid > 4:
            path = rf"\Device\HarddiskVolume1\Windows\System32\{process.name}"
            text = path.encode("utf-16-le")
        start = name + 2 * self.profile.pointer_size
        self._pool.region.write(name, self._unicode_string(len(text), start) + text)
        self._set(at, "_EPROCESS", "SeAuditProcessCreationInfo", name)

    def _write_thread(self, at: int, process: Process) -> None:
        """One thread, through which Volatility finds a process by its physical address."""
        profile = self.profile
        thread = self._pool.allocate(profile.size("_ETHREAD"), b"Thr\xe5")
        self._pool.region.write(thread, b"\x06")
        if profile.has("_KTHREAD", "Process"):
            self._set(thread, "_KTHREAD", "Process", at)
        if profile.has("_ETHREAD", "ThreadsProcess"):
            self._set(thread, "_ETHREAD", "ThreadsProcess", at)
        identity = self._pack(process.pid) + self._pack(process.pid + 1000)
        self._pool.region.write(thread + profile.offset("_ETHREAD", "Cid"), identity)
        for head_of, member_of in (("_EPROCESS", "_ETHREAD"), ("_KPROCESS", "_KTHREAD")):
            head = at + profile.offset(head_of, "ThreadListHead")
            entry = thread + profile.offset(member_of, "ThreadListEntry")
            self._link_addresses(head, [entry])

    def chain_processes(self) -> None:
        """Link the processes that are in the list, in the order in which they were written."""
        self._link(
            self.process_list,
            [p.eprocess for p in self._processes if p.listed],
            self.profile.offset("_EPROCESS", "ActiveProcessLinks"),
        )
        for process in self._processes:
            if not process.listed:  # a process taken out of the list points to itself
                own = process.eprocess + self.profile.offset("_EPROCESS", "ActiveProcessLinks")
                self._write_empty_list(own)

    def write(self, virtual: int, data: bytes) -> None:
        """Write within a page of the kernel's data."""
        self._home(virtual).write(virtual, data)

    # -- helpers ---------------------------------------------------------------------------

    @property
    def _windows_version(self) -> tuple[int, int]:
        """The version in Windows' own counting: 10.0 for Volatility's 6.4."""
        return (10, 0) if self.profile.version == (6, 4) else self.profile.version

    def _extended(self, virtual: int) -> int:
        """A sign-extended 32-bit kernel address, as in KDBG and the version block."""
        wide = self.profile.bits == 64 or not virtual
        return virtual if wide else virtual | 0xFFFFFFFF_00000000

    def _pack(self, value: int) -> bytes:
        return struct.pack(self._pointer, value)

    def _unicode_string(self, length: int, buffer: int) -> bytes:
        head = struct.pack("<HH", length, length + 2 if length else 0)
        return head.ljust(self.profile.pointer_size, b"\0") + self._pack(buffer)

    def _home(self, virtual: int) -> Region:
        """The region of an address."""
        return next(r for r in self._regions if r.base <= virtual < r.end)

    def _set(self, at: int, structure: str, member: str, value: int) -> None:
        self._home(at).write(at + self.profile.offset(structure, member), self._pack(value))

    def _set_time(self, at: int, member: str, value: int) -> None:
        self._home(at).write(
            at + self.profile.offset("_EPROCESS", member), struct.pack("<Q", value)
        )

    def _link(self, head: int, objects: Sequence[int], offset: int = 0) -> None:
        self._link_addresses(head, [address + offset for address in objects])

    def _link_addresses(self, head: int, entries: Sequence[int]) -> None:
        """Make a doubly linked list (LIST_ENTRY) of the entries, and of its head."""
        ring = [head, *entries]
        for previous, entry, following in zip(
            [ring[-1], *ring], ring, [*ring[1:], ring[0]], strict=False
        ):
            self._home(entry).write(entry, self._pack(following) + self._pack(previous))

    def _write_empty_list(self, head: int) -> None:
        self._link_addresses(head, [])


def encode_debugger_block(block: bytes, never: int, always: int, encoded_at: int) -> bytes:
    """Encode KDBG like 64-bit Windows 8 and later: the reverse of KdCopyDataBlock."""
    mask = (1 << 64) - 1
    turn = never & 63
    encoded = b""
    for (word,) in struct.iter_unpack("<Q", block):
        word = int.from_bytes((word ^ always).to_bytes(8, "little"), "big") ^ encoded_at
        word = (word >> turn | word << (64 - turn)) & mask
        encoded += struct.pack("<Q", word ^ never)
    return encoded
