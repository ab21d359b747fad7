"""Xpress, the compression of Windows' hibernation files and Hyper-V's saved states.

The format is that of Microsoft's [MS-XCA]: LZ77 "plain" (2.4), and with a Huffman code (2.2).
libfwnt unpacks it; its Python package ``libfwnt-python`` is imported when it is needed. This module
also unpacks plain Xpress itself, much slower: if libfwnt is missing, and for copies longer than the
32 KiB that libfwnt accepts (20260602), as in pages of zeros.
"""

import struct
from collections.abc import Callable
from functools import cache

from memory_visualizer.errors import BadInputError, DamagedInputError

MAX_SIZE = 1 << 16
"""The largest unpacked size of a block in hibernation files, in bytes."""

_Library = Callable[[bytes, int], bytes]


def unpack_plain(data: bytes, size: int) -> bytes:
    """Unpack plain Xpress to `size` bytes; DamagedInputError if it is broken."""
    library = _library("lzxpress_decompress")
    if library and size <= MAX_SIZE:  # libfwnt does not know the longest form of lengths
        try:
            return _exactly(library(data, size), size)
        except OSError as error:
            if "tuple size" not in str(error):
                raise DamagedInputError("broken Xpress") from error
    return _unpack_plain(data, size)


def unpack_huffman(data: bytes, size: int) -> bytes:
    """Unpack Xpress with a Huffman code to `size` bytes, at most MAX_SIZE.

    DamagedInputError if it is broken; BadInputError if libfwnt is not installed.
    """
    library = _library("lzxpress_huffman_decompress")
    if library is None:
        raise BadInputError(
            "it is compressed with Xpress Huffman; to read it, install the Python package"
            " libfwnt-python"
        )
    try:
        return _exactly(library(data, size), size)
    except OSError as error:
        raise DamagedInputError("broken Xpress Huffman") from error


@cache
def _library(name: str) -> _Library | None:
    try:
        import pyfwnt
    except ImportError:
        return None
    found: _Library = getattr(pyfwnt, name)
    return found


def _exactly(unpacked: bytes, size: int) -> bytes:
    if len(unpacked) != size:
        raise DamagedInputError(f"Xpress data of {len(unpacked):,} bytes instead of {size:,}")
    return unpacked


def _unpack_plain(data: bytes, size: int) -> bytes:
    target = bytearray()
    try:
        _unpack_into(data, target, size)
    except (IndexError, struct.error) as error:
        raise DamagedInputError("broken Xpress: it ends too early") from error
    return bytes(target)


def _unpack_into(data: bytes, target: bytearray, size: int) -> None:
    """Fill `target`; IndexError or struct.error if the data end before."""
    position = 0
    half = -1  # place of a byte whose upper half is a length that was not used yet
    while len(target) < size:
        (flags,) = struct.unpack_from("<I", data, position)
        position += 4
        for bit in range(31, -1, -1):
            if not flags >> bit & 1:
                target.append(data[position])
                position += 1
            else:
                (word,) = struct.unpack_from("<H", data, position)
                position += 2
                back, length = (word >> 3) + 1, word & 7
                if length == 7:
                    if half < 0:
                        half = position
                        length += data[position] & 0xF
                        position += 1
                    else:
                        length += data[half] >> 4
                        half = -1
                    if length == 7 + 15:
                        length, position = _long_length(data, position)
                _copy(target, back, length + 3, size)
            if len(target) == size:
                return


def _long_length(data: bytes, position: int) -> tuple[int, int]:
    """A length with bytes of its own, and the end of these bytes."""
    length = data[position]
    position += 1
    if length < 0xFF:
        return length + 7 + 15, position
    (length,) = struct.unpack_from("<H", data, position)
    position += 2
    if length == 0:
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
    if length < 7 + 15:
        raise DamagedInputError("broken Xpress: a length is too small")
    return length, position


def _copy(target: bytearray, back: int, length: int, size: int) -> None:
    """Append `length` bytes from `back` bytes before the end; source and copy may overlap."""
    begin = len(target) - back
    if begin < 0 or len(target) + length > size:
        raise DamagedInputError("broken Xpress: a copy leads out of the block")
    piece = target[begin : begin + length]
    target += (piece * (-(-length // back)))[:length] if length > back else piece
