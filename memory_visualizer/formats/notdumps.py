"""Files that are not readable dumps: their kinds, and the tools that make dumps from them.

The first bytes of a file decide, by each format's description or tool. A raw dump may begin with
anything, so a file that shares only a few bytes with such a format is examined more closely.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal

HEAD_SIZE = 4096
"""How many bytes from a file's beginning suffice to decide."""

_PACKED = {
    b"\x1f\x9d\x90": ("compress", "gzip -dk"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -d"),
    b"\x02\x21\x4c\x18": ("lz4", "lz4 -d"),
    b"\x89LZO\0\r\n\x1a\n": ("LZO", "lzop -d"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"),
    b"Rar!\x1a\x07": ("RAR", "unrar x, or 7z x"),
    b"MSCF\0\0\0\0": ("a Windows cabinet", "cabextract, or 7z x"),
}
"""By first bytes: the packing, and the command that unpacks it."""

_SAVED = "a saved machine; dump its memory"
_XEN = "a machine that Xen saved; dump the memory within the guest (LiME, AVML, WinPmem)"
_OLD_HYPERV = (
    "one of the two files (.bin, .vsv) of a machine that Hyper-V saved before Windows Server 2016;"
    " Microsoft's vm2dmp makes a dump of both"
)
_DISK = "of a disk, not of memory; dump the running machine's memory"
_SADUMP = "a dump by Fujitsu's sadump; convert it with makedumpfile"
_CONTAINERS = {
    b"\x7fVirtualBox SavedState": f"{_SAVED} (VBoxManage debugvm NAME dumpvmcore)",
    b"LinuxGuestRecord": _XEN,
    b"Xen saved domain": _XEN,
    b"\xff\xff\xff\xff\xff\xff\xff\xffFNEX": _XEN,
    b"\xff\xff\xff\xff\xff\xff\xff\xffXENF": _XEN,
    b"EVF2\r\n\x81\0": "an EnCase image (Ex01); export the raw dump inside it with EnCase",
    b"LVF\x09\r\n\xff\0": "a logical EnCase image (L01); export the raw dump inside it with EnCase",
    b"LEF2\r\n\x81\0": "a logical EnCase image (Lx01); export the raw dump inside it with EnCase",
    b"ADCRYPT\0": "an encrypted AD1 image; export the dump inside it with FTK Imager",
    b"HPAK": "a dump by HBGary's FDPro; extract its memory with Volatility 2's hpakextract",
    b"AFF10\r\n\0": "an AFF image; export the raw dump inside it (affconvert)",
    b"MDMP": "the minidump of a process, not the memory of a machine",
    b"\xa8\x19\x01\x73\x61\x8f\x23\xed": "an LKCD dump; crash or libkdumpfile reads it",
    b"\xed\x23\x8f\x61\x73\x01\x19\xa8": "an LKCD dump; crash or libkdumpfile reads it",
    b"sadump\0\0": _SADUMP,
    b"QFI\xfb": f"an image (qcow2) {_DISK}",
    b"KDMV": f"an image (VMDK) {_DISK}",
    b"COWD": f"an image (VMDK) {_DISK}",
    b"# Disk DescriptorFile": f"a description (VMDK) {_DISK}",
    b"<<< ": f"an image (VDI) {_DISK}",
    b"vhdxfile": f"an image (VHDX) {_DISK}",
    b"conectix": f"an image (VHD) {_DISK}",
}
"""By first bytes: the kind of file, and the advice to the user."""

_OTHERS = {
    b"\x89PNG\r\n\x1a\n": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"PAR1": "a Parquet table",
}

_MACH_O: Mapping[bytes, Literal["little", "big"]] = {
    b"\xcf\xfa\xed\xfe": "little",
    b"\xce\xfa\xed\xfe": "little",
    b"\xfe\xed\xfa\xcf": "big",
    b"\xfe\xed\xfa\xce": "big",
}
"""By first bytes: the byte order of the file."""
_MACH_O_CORE = 4  # MH_CORE of mach-o/loader.h
_MORE_THAN_A_PROGRAM = 16 << 20
"""The most bytes that follow a program: signatures, installers. A raw dump may begin like a
program, if the kernel lies at its start, but is larger."""


def what_it_is(file: BinaryIO, path: Path, size: int) -> str | None:
    """The kind of a file that no reader can take, to follow "PATH is"; None if it may be a dump.

    `size` is the file's, in bytes.
    """
    file.seek(0)
    head = file.read(HEAD_SIZE)
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return f"{what}, not a dump"
    if said := begins_as(head):
        return said
    for scan in (_program, _mach_o):
        if said := scan(head, size):
            return said
    if _is_sadump_medium(file, head):
        return _SADUMP
    if known := by_name(path.name.lower()):
        return known
    if path.suffix.lower() == ".bin" and path.with_suffix(".vsv").is_file():
        return _OLD_HYPERV
    if _is_text(head) and all(_is_text(part) for part in _samples(file, size)):
        return "a text file, not a dump"
    return None


def begins_as(head: bytes) -> str | None:
    """The kind of a file by its first HEAD_SIZE bytes, if these alone decide."""
    for magic, (name, tool) in _PACKED.items():
        if head.startswith(magic):
            return f"packed with {name}; unpack it first ({tool})"
    for magic, what in _CONTAINERS.items():
        if head.startswith(magic) and (magic != b"<<< " or head[0x40:0x44] == b"\x7f\x10\xda\xbe"):
            return what
    if head[257:262] == b"ustar":
        return "packed with tar; unpack it first (tar xf)"
    if head[512:520] == b"EFI PART":
        return f"an image {_DISK}"
    if head[4086:4096] in (b"SWAPSPACE2", b"S1SUSPEND\0"):
        return "a swap file or partition of Linux, not a dump"
    return None


def by_name(name: str) -> str | None:
    """The kind of a file by its name alone, in lower case."""
    if name.endswith(".zdmp"):  # no description tells the first bytes of such files
        return "a compressed crash dump by DumpIt; unpack it first (Z2Dmp of Comae's toolkit)"
    if name == "hiberfil.sys":
        return "a hibernation file of Windows that was cleared, as after a resume"
    if name.endswith(".vsv"):
        return f"{_OLD_HYPERV}, the file without the memory"
    if name in ("pagefile.sys", "swapfile.sys"):
        return "a page file of Windows: pages that were not in memory"
    return None


def _program(head: bytes, size: int) -> str | None:
    """A Windows program (Microsoft's PE format): "MZ", and "PE" where its header says."""
    if not head.startswith(b"MZ"):
        return None
    at = int.from_bytes(head[0x3C:0x40], "little")
    if head[at : at + 4] != b"PE\0\0":
        return None
    in_memory = int.from_bytes(head[at + 80 : at + 84], "little")  # SizeOfImage
    if size > in_memory + _MORE_THAN_A_PROGRAM:
        return None
    return "a program or library of Windows, not a dump"


def _mach_o(head: bytes, _: int) -> str | None:
    if head[:4] not in _MACH_O:
        return None
    kind = int.from_bytes(head[12:16], _MACH_O[head[:4]])
    if kind == _MACH_O_CORE:
        return "a Mach-O core of macOS; Volatility 2 reads such a core (imagecopy makes it raw)"
    return "a program or library of macOS, not a dump"


def _is_sadump_medium(file: BinaryIO, head: bytes) -> bool:
    """Whether a file is sadump's media backup: a short header, a page before the dump's."""
    if any(head[64:]) or len(head) < HEAD_SIZE:
        return False
    file.seek(HEAD_SIZE)
    return file.read(12) == b"sadump\0\0\1\0\0\0"


def _samples(file: BinaryIO, size: int) -> list[bytes]:
    """A few more pieces of a file, including its end."""
    places = (size // 2, max(0, size - HEAD_SIZE))
    pieces = []
    for place in places:
        file.seek(place)
        pieces.append(file.read(HEAD_SIZE))
    return pieces


def _is_text(piece: bytes) -> bool:
    """Whether these bytes are text, as UTF-8 or as one byte for each character."""
    if any(byte < 0x20 and byte not in b"\t\n\r\f\x1b" for byte in piece):
        return False
    if b" " not in piece and b"\n" not in piece:
        return False
    letters = sum(0x20 <= byte < 0x7F or byte in b"\t\n\r" for byte in piece)
    return letters * 10 >= len(piece) * 7
