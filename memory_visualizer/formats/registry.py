"""The readers of dumps and containers, by the bytes with which their files begin."""

from memory_visualizer.formats import magics

FORMATS = {
    magics.LIME: "lime.LimeDump",
    magics.AVML: "avml.AvmlDump",
    magics.ELF: "elf.ElfDump",
    magics.CRASH_32: "crash.CrashDump",
    magics.CRASH_64: "crash.CrashDump",
    magics.KDUMP: "kdump.KdumpDump",
    magics.DISKDUMP: "kdump.KdumpDump",
    **dict.fromkeys(magics.VMWARE, "vmware.VmwareDump"),
    **dict.fromkeys(magics.HIBERNATION, "hibernation.HibernationDump"),
    magics.QEMU: "qemu.QemuDump",
    magics.LIBVIRT: "qemu.QemuDump",
    magics.LIBVIRT_PART: "qemu.QemuDump",
    magics.HYPERV: "hyperv.HypervDump",
}
"""By the bytes with which the file begins: module and class, imported when such a file is met."""

CONTAINERS = {
    magics.FLATTENED: "containers.flattened.Flattened",
    magics.EWF: "containers.ewf.EwfImage",
    magics.AD1: "containers.ad1.Ad1Image",
    magics.VMA: "containers.vma.VmaState",
    magics.SNAPPY: "containers.snappy.SnappyStream",
    magics.S2: "containers.snappy.SnappyStream",
}
"""The same for containers, which hold a dump of any format: see formats/inside.py."""
_ET_CORE = b"\4"
"""The type of an ELF file that is a core (elf.h), in either order of bytes."""


def is_memory(head: bytes) -> bool:
    """Whether a file with this beginning is a dump in a format that only holds memory."""
    is_program = head.startswith(magics.ELF) and _ET_CORE not in (head[16:17], head[17:18])
    return head.startswith(tuple(FORMATS)) and not is_program
