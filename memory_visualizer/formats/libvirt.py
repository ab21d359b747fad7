"""libvirt's saved machines (`virsh save`): a header, a text, and QEMU's migration stream.

The header is that of libvirt's src/qemu/qemu_saveimage.h. The stream may be packed as a whole, by
gzip, bzip2, xz or zstd, and `PackedSave` unpacks it; lzop is recognised, but not unpacked.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.formats import magics
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.files import file_size, read_into
from memory_visualizer.formats.inside import Inside, keep_open

HEADER_SIZE = 92

_HEADER = "16s5I"  # magic, version, bytes of the text, was running, packing, cookie
_VERSIONS = range(1, 4)
_LZOP = 4
_PACKED = {1: "gzip", 2: "bzip2", 3: "xz", 5: "zstd", _LZOP: "lzop"}


@dataclass(frozen=True)
class Header:
    """The needed fields of the header."""

    start: int
    """Byte of the file at which the stream begins."""
    packed: str
    """The packing; empty if the stream is not packed."""
    is_part: bool
    """Whether libvirt did not finish saving."""


def header_of(head: bytes) -> Header | None:
    """Read the header of a saved machine from a file's first bytes; None in any other file."""
    if len(head) < HEADER_SIZE or not head.startswith((magics.LIBVIRT, magics.LIBVIRT_PART)):
        return None
    for order in "<>":  # the byte order of the host
        magic, version, size, _, packing, _ = struct.unpack_from(order + _HEADER, head)
        if version in _VERSIONS:
            return Header(
                HEADER_SIZE + size, _PACKED.get(packing, ""), magic == magics.LIBVIRT_PART
            )
    return None


class PackedSave(Inside):
    """The packed stream behind the header and the text."""

    name = "libvirt save"

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """BadInputError when the file cannot be read, or its packing is not supported."""
        with reading(path):
            self._file = keep_open(self, path)
            header = header_of(self._file.read(HEADER_SIZE))
            if header is None:
                raise BadInputError(f"{path} is not a machine saved by libvirt")
            self.size = max(0, file_size(self._file) - header.start)
        self._path, self._start = path, header.start
        if header.packed == _PACKED[_LZOP]:
            raise BadInputError(
                f"{path} is a machine saved by libvirt and packed with lzop; unpack the part after"
                f" its first {header.start:,} bytes (tail -c +{header.start + 1} FILE | lzop -dc):"
                " it is a dump"
            )
        if not self.size:
            raise BadInputError(f"{path} ends within its header")

    def read_into(self, target: memoryview, offset: int) -> None:
        """Read the file behind its header."""
        if read_into(self._file, target, self._start + offset) < len(target):
            raise BadInputError(f"{self._path} got shorter while it was read")


def is_packed(head: bytes) -> bool:
    """Whether a file with this beginning is a saved machine with a packed stream."""
    header = header_of(head)
    return header is not None and bool(header.packed)
