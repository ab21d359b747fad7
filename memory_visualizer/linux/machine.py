"""The architecture of a Linux kernel, as its VMCOREINFO tells it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.vmcoreinfo import IMAGE_BASE, VmcoreInfo
from memory_visualizer.paging import (
    ACCESSED,
    ADDRESS,
    PAE,
    PAE_POINTER_RESERVED,
    PRESENT,
    X64,
    X64_5_LEVELS,
    X86,
    Architecture,
    Arm64,
    Paging,
    PhysicalMemory,
    arm64,
    as_linux_has_it,
    as_linux_on_arm64_has_it,
)
from memory_visualizer.units import PAGE_SIZE

IMAGE_END = 0xFFFF_FFFF_C000_0000
"""The end of the addresses that a randomly moved kernel (KASLR) may have."""
_UPPER = 1 << 63
_LAST_GIGABYTE = 0xC000_0000
_POINTERS_SIZE = 32
_RESERVED = PAE_POINTER_RESERVED & ~ACCESSED
"""The accessed bit is excepted: emulated processors (QEMU's) set it in pointers."""
_PAGE_BITS = (12, 14, 16)
_ADDRESS_BITS = range(36, 53)
_T1SZ = ("TCR_EL1_T1SZ", "tcr_el1_t1sz")


@dataclass(frozen=True)
class Machine:
    """The place of a kernel in memory, and the paging of the kernel and its processes."""

    kernel: Paging
    """The paging of the kernel's own tables."""
    user: Paging
    """The paging of the processes' tables; the same if these have the kernel's half, too."""
    offset: int
    """Virtual minus physical addresses of the image."""
    image: tuple[int, int]
    """The range of addresses in which the image lies: first address and end."""

    @property
    def direct_map(self) -> int | None:
        """The first address of the direct map, if it is fixed; otherwise None."""
        return _LAST_GIGABYTE if self.kernel.address_bits == 32 else None

    @property
    def address_bytes(self) -> int:
        """Bytes of a physical address in the kernel's own structures."""
        return 4 if self.kernel.architecture is X86 else 8

    @property
    def root_alignment(self) -> int:
        """The alignment of processes' top-level tables in bytes."""
        is_pae = self.user.architecture is PAE
        return _POINTERS_SIZE if is_pae else self.user.architecture.root_bytes

    def roots_at(self, memory: PhysicalMemory, bases: NDArray[np.int64]) -> NDArray[np.int64]:
        """The roots of address spaces by their physical addresses, shape (n, top_frames).

        Under PAE the four pointers there lead to directories; -1 for a pointer that does not.
        """
        if self.user.architecture is not PAE:
            return self.user.architecture.roots_at(bases)
        pages = memory.read_frames(bases // PAGE_SIZE)
        place = bases[:, None] % PAGE_SIZE // 8 + np.arange(4)
        pointers = np.take_along_axis(pages, np.minimum(place, 511), axis=1)
        roots = ((pointers & np.uint64(ADDRESS)) >> np.uint64(12)).astype(np.int64)
        sound = pointers & np.uint64(PRESENT | _RESERVED) == PRESENT
        return np.where(sound, roots, -1)

    @property
    def page_frames(self) -> int:
        """Frames of 4 KiB in each of the kernel's pages."""
        return self.user.architecture.page_frames

    @property
    def has_own_half(self) -> bool:
        """Whether the processes' tables have the kernel's half as well."""
        return self.kernel is self.user

    def physical(self, address: int) -> int:
        """The physical address of a virtual address in the image."""
        return address - self.offset


def x86_64(architecture: Architecture, phys_base: int = 0, encryption: int = 0) -> Machine:
    """An x86-64 machine, with four or five levels."""
    paging = as_linux_has_it(architecture, encryption)
    return Machine(paging, paging, IMAGE_BASE - phys_base, (IMAGE_BASE, IMAGE_END))


def _i386(info: VmcoreInfo) -> list[Machine]:
    """Possible 32-bit machines; the kernel has the last gigabyte of addresses, as usual."""
    ways = [PAE, X86] if info.has_line("CONFIG_X86_PAE=y") else [X86, PAE]
    return [i386_machine(architecture) for architecture in ways]


def i386_machine(architecture: Architecture) -> Machine:
    """A machine of 32 bits, with PAE or without."""
    paging = as_linux_has_it(architecture)
    return Machine(paging, paging, _LAST_GIGABYTE, (_LAST_GIGABYTE, 1 << 32))


def machines(info: VmcoreInfo) -> list[Machine]:
    """Possible machines of the kernel of this text, the likeliest first."""
    if info.number("kimage_voffset") is not None:
        return _arm64(info)
    if 0 < (info.symbol("swapper_pg_dir") or 0) < 1 << 32:
        return _i386(info)
    base, encryption = info.number("phys_base") or 0, info.number("sme_mask") or 0
    found = [x86_64(architecture, base, encryption) for architecture in (X64, X64_5_LEVELS)]
    return found[::-1] if info.number("pgtable_l5_enabled") else found


def _arm64(info: VmcoreInfo) -> list[Machine]:
    """The address bits are the bits in use, or those that the kernel was built for.

    With pages of 64 KiB, all tables have the form of the latter; otherwise levels are left out if
    the processor has fewer bits (arch/arm64/kernel/cpufeature.c).
    """
    page_bits = max(info.votes("PAGESIZE"), default=4096).bit_length() - 1
    unused = next((size for name in _T1SZ if (size := info.number(name)) is not None), None)
    built = info.number("VA_BITS")
    used = built if unused is None or page_bits == 16 else 64 - unused
    offset = (info.number("kimage_voffset") or 0) % 2**64
    found = []
    for bits in dict.fromkeys([used, built]):
        if bits not in _ADDRESS_BITS or page_bits not in _PAGE_BITS:
            continue
        assert bits is not None
        found.append(for_release(arm64_machine(page_bits, bits, offset), info.release))
    return found


def arm64_machine(page_bits: int, address_bits: int, offset: int) -> Machine:
    """A 64-bit ARM machine with a recent kernel; `offset` as in Machine."""
    large = address_bits == 52 and page_bits != 16
    kernel, user = (
        as_linux_on_arm64_has_it(arm64(page_bits, address_bits, upper=is_upper, large=large))
        for is_upper in (True, False)
    )
    return Machine(kernel, user, offset, (_UPPER, 2**64))


def for_release(machine: Machine, release: str) -> Machine:
    """The same machine with a kernel of this release, such as ``6.1.0-9-arm64``."""
    half = machine.user.architecture
    numbers = [int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal()]
    if not isinstance(half, Arm64) or numbers >= [6, 10]:
        return machine
    return replace(machine, user=as_linux_on_arm64_has_it(half, is_before_6_10=True))
