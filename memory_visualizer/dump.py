"""Open a dump of physical memory, in whatever format its file is; the file's content decides.

    dump = open_dump("memory.lime")
    for result in dump.each_block(look):  # look(frames, words) is called in threads
        ...

What a dump can do is written at `Dump`. How a format lies in a file is known to its own module in
`formats` only.
"""

from importlib import import_module
from pathlib import Path

from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.formats import vmware
from memory_visualizer.formats.base import (
    BLOCK_FRAMES,
    MAX_FRAMES,
    PAGE_SIZE,
    Dump,
    Progress,
    Words,
)
from memory_visualizer.formats.raw import RawDump

__all__ = [
    "BLOCK_FRAMES",
    "MAX_FRAMES",
    "PAGE_SIZE",
    "Dump",
    "Progress",
    "RawDump",
    "Words",
    "open_dump",
]

_FORMATS = {
    b"EMiL": "lime.LimeDump",
    b"AVML": "avml.AvmlDump",
    b"\x7fELF": "elf.ElfDump",
    b"PAGEDUMP": "crash.CrashDump",
    b"PAGEDU64": "crash.CrashDump",
    b"KDUMP   ": "kdump.KdumpDump",
    b"makedumpfile": "kdump.KdumpDump",
    **dict.fromkeys(vmware.MAGICS, "vmware.VmwareDump"),
}
"""By the bytes with which the file begins: module and class, imported when such a file is met."""

_PACKED = {
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"(\xb5/\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}
_UNREAD = {
    b"LibvirtQemudSave": "a saved machine; dump its memory (virsh dump --memory-only --format elf)",
    b"QEVM": "a saved machine; dump its memory (dump-guest-memory in QEMU's monitor)",
    b"\x7fVirtualBox SavedState": "a saved machine; dump its memory (VBoxManage debugvm)",
    b"EVF\x09\r\n\xff\0": "an EnCase image; export the raw dump that is in it",
    b"MDMP": "the minidump of a process, not the memory of a machine",
    b"HIBR": "a hibernation file; convert it to a raw dump first",
    b"hibr": "a hibernation file; convert it to a raw dump first",
}
_HEAD_SIZE = 32


def open_dump(path: str | Path, *, lenient: bool = False) -> Dump:
    """Open a dump; what no other format claims is raw.

    BadInputError when the file cannot be read or is no dump that can be; DamagedInputError when a
    part of it is missing or broken, where `lenient` takes what is there and says so in `remarks`.
    """
    path = Path(path)
    with reading(path), path.open("rb", buffering=0) as file:
        head = file.read(_HEAD_SIZE) if file.seekable() else b""
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            raise BadInputError(f"{path} is packed with {name}; unpack it first")
    for magic, what in _UNREAD.items():
        if head.startswith(magic):
            raise BadInputError(f"{path} is {what}")
    for magic, format_ in _FORMATS.items():
        if head.startswith(magic):
            module, name = format_.split(".")
            reader = getattr(import_module(f"memory_visualizer.formats.{module}"), name)
            opened: Dump = reader.open(path, lenient=lenient)
            return opened
    if vmware.find_state(path):
        return vmware.VmwareDump.open(path, lenient=lenient)
    dump = RawDump.open(path, lenient=lenient)
    if remark := vmware.missing_state(path, dump.size):
        dump.remarks = (*dump.remarks, remark)
    return dump
