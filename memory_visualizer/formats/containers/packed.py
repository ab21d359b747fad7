"""Dumps packed by gzip, xz, bzip2 or zstd, or by LiME itself (compress=1): unpacked to a file.

Such a stream can only be read from its beginning, and a dump is read at any place. So it is
unpacked once, to a scratch file that has no name if the system allows this, and that vanishes when
the program ends, however it ends. Zeros become holes in it and take no room. The file should not
lie in memory, as /tmp does on some systems: TMPDIR names its folder, otherwise it is /var/tmp,
otherwise the system's own.

gzip is RFC 1952, xz tukaani.org's description, bzip2 as Python has it, Zstandard RFC 8878; LiME
writes one zlib stream (RFC 1950) with a window of 2 KiB (LiME, src/deflate.c). The decompressors
are Python's own; Zstandard is that of Python 3.14, or its backport.
"""

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.files import file_size, read_into
from memory_visualizer.formats.inside import Inside
from memory_visualizer.printable import binary_size
from memory_visualizer.scratch import scratch_folder as _folder
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_READ_SIZE, _PIECE = 1 << 20, 1 << 20
_HOLE = 1 << 16
_ZEROS = bytes(_HOLE)
_RESERVE = 256 << 20
"""Bytes that stay free on the scratch file's disk, which others need, too."""
_LOOK_AT_ROOM = 64 << 20
_MEMORY = 160 << 20
"""Memory in bytes that a decompressor may use; xz -9 needs 65 MiB, zstd --ultra --long 128 MiB."""
_LIME_ZLIB = b"\x38\x8d"
"""The beginning of LiME's zlib stream: deflate, a window of 2 KiB, the default level."""


class _Zlib:
    """zlib's decompressor with the interface of Python's others."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self.needs_input = not self._stream.unconsumed_tail and len(piece) < max_length
        return piece

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found] # Python 3.14
    except ImportError:
        from backports import zstd
    return zstd.ZstdDecompressor()


_Maker = Callable[[], Any]
_KINDS: dict[str, tuple[re.Pattern[bytes], _Maker]] = {
    "gzip": (re.compile(rb"\x1f\x8b\x08[\0-\x1f]"), lambda: _Zlib(31)),
    "xz": (re.compile(rb"\xfd7zXZ\0"), _xz),
    "bzip2": (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), _bzip2),
    "zstd": (re.compile(rb"\x28\xb5\x2f\xfd"), _zstd),
}
"""By name: a pattern for the beginning of such files, and a function that makes a decompressor."""
_PADDING = {"gzip": b"\0", "xz": b"\0"}
"""Padding that may follow the last stream, as on a tape."""


def kind_of(head: bytes) -> str | None:
    """The packing of a file by its first bytes (4 KiB), if it is one of these."""
    for name, (begin, _) in _KINDS.items():
        if begin.match(head):
            return name
    return "zlib" if _is_limes(head) else None


def _is_limes(head: bytes) -> bool:
    """Whether this is LiME's zlib stream: it has LiME's parameters, or contains a LiME dump."""
    if len(head) < 2 or head[0] & 15 != 8 or int.from_bytes(head[:2], "big") % 31 or head[1] & 32:
        return False
    try:
        begin = zlib.decompressobj().decompress(head, PAGE_SIZE)
    except zlib.error:
        return False
    return begin[:4] == b"EMiL" or (head[:2] == _LIME_ZLIB and len(begin) >= 64)


class Unpacked(Inside):
    """The content of a packed file, in a scratch file."""

    is_unpacked_first = True

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """Unpack the whole file; `progress` is told the packed bytes.

        BadInputError when the file cannot be read or the scratch file not be written;
        DamagedInputError, unless `lenient`, when it is cut off or broken: `lenient` keeps the bytes
        before the fault.
        """
        self._path = path
        with reading(path), path.open("rb", buffering=0) as file:
            name = kind_of(file.read(PAGE_SIZE))
            if not name:
                raise BadInputError(f"{path} is packed in an unknown way")
            self.name = name
            make = _KINDS[name][1] if name in _KINDS else lambda: _Zlib(15)
            self._scratch = _Scratch(path)
            pieces = _unpack(path, file, name, make, progress)
            try:
                for piece in pieces:
                    self._scratch.write(piece)
            except DamagedInputError as error:
                if not lenient or not self._scratch.size:
                    raise
                self.remarks = (f"{error}; the part before it was read",)
        self._scratch.finish()
        self.size = self._scratch.size
        if not self.size:
            raise BadInputError(f"{path} is packed, but holds nothing")
        self.remarks = (*self.remarks, self._scratch.remark(name))

    def read_into(self, target: memoryview, offset: int) -> None:
        """Read the scratch file."""
        if read_into(self._scratch.file, target, offset) < len(target):
            raise BadInputError(f"the scratch file of {self._path} got shorter while it was read")

    def open(self) -> BinaryIO:
        """Open the scratch file once more, so that it can be mapped."""
        again = Path(f"/proc/self/fd/{self._scratch.file.fileno()}")
        if again.exists():
            return again.open("rb", buffering=0)
        return super().open()


def _unpack(
    path: Path, file: BinaryIO, name: str, make: _Maker, progress: Progress | None
) -> Iterator[bytes]:
    """Unpack one stream after the other, in pieces of at most a megabyte."""
    try:
        stream = make()
    except ImportError as error:
        raise BadInputError(
            f"{path} is packed with {name}; to read it, install the Python package backports.zstd"
        ) from error
    total = file_size(file)
    file.seek(0)
    done = 0
    data = b""
    while True:
        if not data and stream.needs_input:
            data = file.read(_READ_SIZE)
            done += len(data)
            if not data:
                raise DamagedInputError(f"{path} ends too early: a {name} stream is cut off")
            if progress:
                progress(done, total)
        try:
            piece = stream.decompress(data, _PIECE)
        except Exception as error:  # each decompressor has exceptions of its own
            raise DamagedInputError(f"{path} cannot be unpacked: {error}") from error
        data = b""
        if piece:
            yield piece
        if stream.eof:
            rest = stream.unused_data or file.read(_READ_SIZE)
            done += len(rest) if not stream.unused_data else 0
            while rest and not rest.strip(_PADDING.get(name, b"")) and name in _PADDING:
                rest = file.read(_READ_SIZE)
            if not rest:
                return
            data, stream = rest, make()


class _Scratch:
    """A file that lives as long as this object, and in which zeros are holes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = _folder()
        self.size = 0
        self._written = 0
        self._until_look = 0
        try:
            self.file: BinaryIO = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115
        except OSError as error:
            raise self._cannot(error) from error

    def write(self, piece: bytes) -> None:
        """Append a piece; BadInputError if there is no room."""
        for start in range(0, len(piece), _HOLE):
            part = piece[start : start + _HOLE]
            if part != _ZEROS[: len(part)]:
                self._write_at(part, self.size)
            self.size += len(part)
        if self.size > MAX_FRAMES * PAGE_SIZE:
            raise BadInputError(f"{self._path} holds more than 16 TiB, where this program stops")

    def _write_at(self, part: bytes, place: int) -> None:
        self._written += len(part)
        self._until_look -= len(part)
        if self._until_look < 0:
            free = shutil.disk_usage(self._folder).free
            if free < _RESERVE + _LOOK_AT_ROOM:
                raise BadInputError(
                    f"{self._path} has to be unpacked, but there is no room for it in"
                    f" {self._folder}: after {binary_size(self._written)}, {binary_size(free)} are"
                    " free; set TMPDIR to a folder with more room"
                )
            self._until_look = _LOOK_AT_ROOM
        try:
            self.file.seek(place)
            while part:
                part = part[self.file.write(part) :]
        except OSError as error:
            raise self._cannot(error) from error

    def finish(self) -> None:
        """Set the file's size to the sum of all pieces."""
        try:
            self.file.truncate(self.size)
        except OSError as error:
            raise self._cannot(error) from error

    def remark(self, name: str) -> str:
        """The remark on the room that the file takes."""
        taken = os.fstat(self.file.fileno())
        room = getattr(taken, "st_blocks", self.size // 512) * 512
        return (
            f"{self._path} was unpacked ({name}): {binary_size(self.size)}, of which a scratch file"
            f" in {self._folder} holds {binary_size(room)} until the program ends"
        )

    def _cannot(self, error: OSError) -> BadInputError:
        return BadInputError(
            f"{self._path} has to be unpacked, but no scratch file can be written in {self._folder}"
            f" ({error.strerror or error}); set TMPDIR to another folder"
        )
