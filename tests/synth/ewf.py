"""E01 images, written from Joachim Metz' description of the format (libewf, documentation)."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

_SECTOR, _CHUNK_SECTORS = 512, 64
CHUNK = _SECTOR * _CHUNK_SECTORS
_DESCRIPTOR = 76


def write_e01(
    path: Path,
    data: bytes,
    *,
    per_file: int = 1 << 30,
    level: int = -1,
    errors: Sequence[tuple[int, int]] = (),
) -> list[Path]:
    """Write an image of one or several files (.E01, .E02, ...); returns their paths.

    `per_file` is the number of chunks in each file, `level` is zlib's. Incompressible chunks are
    stored with a checksum.
    `errors` are first and number of sectors that could not be read.
    """
    padded = data + bytes(-len(data) % _SECTOR)
    chunks = [padded[start : start + CHUNK] for start in range(0, len(padded), CHUNK)]
    parts = [chunks[start : start + per_file] for start in range(0, len(chunks), per_file)]
    paths = []
    for number, part in enumerate(parts, 1):
        paths.append(path.with_suffix(f".E{number:02}"))
        volume = _volume(len(chunks), len(padded) // _SECTOR)
        is_last = number == len(parts)
        told = errors if is_last else ()
        paths[-1].write_bytes(_file(number, part, volume, level, told, is_last=is_last))
    return paths


def _file(
    number: int,
    chunks: Sequence[bytes],
    volume: bytes,
    level: int,
    errors: Sequence[tuple[int, int]],
    *,
    is_last: bool,
) -> bytes:
    contents = bytearray(b"EVF\x09\r\n\xff\0" + struct.pack("<BHH", 1, number, 0))
    if number == 1:
        header = zlib.compress(b"1\nmain\nc\tn\ta\te\tt\n1\t1\tmemory\tnobody\t\n\n")
        _section(contents, b"header", header)
        _section(contents, b"header", header)
        _section(contents, b"volume", volume)
    else:
        _section(contents, b"data", volume)
    base = len(contents)
    sectors = bytearray()
    entries = []
    for chunk in chunks:
        packed = zlib.compress(chunk, level)
        place = _DESCRIPTOR + len(sectors)
        if len(packed) < len(chunk):
            sectors += packed
            place |= 1 << 31
        else:
            sectors += chunk + struct.pack("<I", zlib.adler32(chunk))
        entries.append(place)
    _section(contents, b"sectors", bytes(sectors))
    table = struct.pack("<I4xQ4x", len(entries), base)
    table += struct.pack("<I", zlib.adler32(table))
    rows = struct.pack(f"<{len(entries)}I", *entries)
    for name in (b"table", b"table2"):
        _section(contents, name, table + rows + struct.pack("<I", zlib.adler32(rows)))
    if errors:
        head = struct.pack("<I512x", len(errors))
        told = b"".join(struct.pack("<II", *error) for error in errors)
        sums = (struct.pack("<I", zlib.adler32(some)) for some in (head, told))
        _section(contents, b"error2", head + next(sums) + told + next(sums))
    _section(contents, b"done" if is_last else b"next", b"", ends=True)
    return bytes(contents)


def _section(contents: bytearray, name: bytes, data: bytes, *, ends: bool = False) -> None:
    """Append a section; the last section of a file leads to itself."""
    size = 0 if ends else _DESCRIPTOR + len(data)
    descriptor = struct.pack("<16sQQ40x", name, len(contents) + size, size)
    contents += descriptor + struct.pack("<I", zlib.adler32(descriptor)) + data


def _volume(chunks: int, sectors: int) -> bytes:
    """The section with the sizes."""
    fields = struct.pack("<B3xIIIQ12xB3x12xB3xI4x16s963x5x", 1, chunks, _CHUNK_SECTORS, _SECTOR,
                         sectors, 1, 1, 64, b"memory")  # fmt: skip
    return fields + struct.pack("<I", zlib.adler32(fields))
