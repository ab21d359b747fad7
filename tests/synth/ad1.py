"""AD1 images, written from Petter Bjelland's description of the format (pyad1, documentation)."""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

CHUNK = 1 << 16
_MARGIN = 512
_FILE, _FOLDER = 0, 5

Tree = Mapping[str, "bytes | Tree"]
"""Files and folders by name."""


def write_ad1(path: Path, tree: Tree, *, per_file: int = 0, level: int = 1) -> list[Path]:
    """Write an image of one file, or of files of `per_file` bytes (.ad1, .ad2, ...).

    Returns their paths. `level` is zlib's.
    """
    source = b"C:\\memory"
    out = bytearray(92 + len(source))
    struct.pack_into("<16sIII", out, 0, b"ADLOGICALIMAGE", 4, 1, CHUNK)
    struct.pack_into("<QQI4sQ", out, 28, len(out), len(out) + 27, len(source), b"AD", 92)
    out[92:] = source
    # Something about the source stands in front of the entries.
    out += bytes(8) + struct.pack("<III", 1, 0x10002, len(b"C:\\mem ")) + b"C:\\mem "
    struct.pack_into("<Q", out, 36, len(out))
    _entries(out, tree, 0, level)
    out += b"ATTRGUID".ljust(352, b"\0")
    room = per_file - _MARGIN if per_file else len(out)
    paths = []
    parts = [out[start : start + room] for start in range(0, len(out), room)]
    for number, part in enumerate(parts, 1):
        size = per_file or 1500 << 20
        head = struct.pack(
            "<16sIIIIQI", b"ADSEGMENTEDFILE", 1, 2, number, len(parts), size, _MARGIN
        )
        paths.append(path.with_name(f"{path.stem}.ad{number}"))
        paths[-1].write_bytes(head.ljust(_MARGIN, b"\0") + part)
    return paths


def _entries(out: bytearray, tree: Tree, folder: int, level: int) -> None:
    """Append all entries of a folder; each leads to the next."""
    before = None
    for name, content in tree.items():
        start = len(out)
        if before is not None:
            struct.pack_into("<Q", out, before, start)
        before = start
        is_file = isinstance(content, bytes)
        size = len(content) if isinstance(content, bytes) else 0
        letters = name.encode()
        kind = _FILE if is_file else _FOLDER
        out += struct.pack("<QQQQQII", 0, 0, 0, 0, size, kind, len(letters)) + letters
        out += struct.pack("<Q", folder)
        if isinstance(content, bytes):
            if content:
                struct.pack_into("<Q", out, start + 24, len(out))
                _chunks(out, content, level)
            struct.pack_into("<Q", out, start + 16, len(out))
            _facts(out, content)
        else:
            struct.pack_into("<Q", out, start + 16, len(out))
            _fact(out, 2, 2, b"3", is_last=True)
            if content:
                struct.pack_into("<Q", out, start + 8, len(out))
                _entries(out, content, start, level)


def _chunks(out: bytearray, content: bytes, level: int) -> None:
    """The table of chunks, with the end of the last one, and the chunks."""
    starts = range(0, len(content), CHUNK)
    chunks = [zlib.compress(content[start : start + CHUNK], level) for start in starts]
    place = len(out) + 8 * (len(chunks) + 2)
    out += struct.pack("<Q", len(chunks))
    for chunk in chunks:
        out += struct.pack("<Q", place)
        place += len(chunk)
    out += struct.pack("<Q", place) + b"".join(chunks)


def _facts(out: bytearray, content: bytes) -> None:
    """What the image tells of a file."""
    _fact(out, 2, 2, b"1")
    _fact(out, 3, 3, str(len(content)).encode())
    _fact(out, 1, 0x5001, hashlib.md5(content).hexdigest().encode())
    _fact(out, 1, 0x5002, hashlib.sha1(content).hexdigest().encode(), is_last=True)


def _fact(out: bytearray, category: int, key: int, value: bytes, *, is_last: bool = False) -> None:
    following = 0 if is_last else len(out) + 20 + len(value)
    out += struct.pack("<QIII", following, category, key, len(value)) + value
