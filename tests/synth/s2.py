"""S2 and Snappy streams, written from their descriptions.

The sources are Snappy's format_description.txt and framing_format.txt, and the extensions of
klauspost/compress' s2/README.md ("Format Extensions"): copies with offset 0 repeat the last offset,
and chunks may be larger.
"""

from collections.abc import Iterator

BLOCK = 1 << 20
"""Bytes in a block of s2.NewWriter."""


def literal(data: bytes) -> bytes:
    """An element: literal bytes."""
    if len(data) <= 60:
        return bytes([len(data) - 1 << 2]) + data
    size = (len(data) - 1).to_bytes(4, "little").rstrip(b"\0") or b"\0"
    return bytes([59 + len(size) << 2]) + size + data


def copy(offset: int, length: int) -> bytes:
    """An element: a copy of earlier bytes, with an offset of 1, 2 or 4 bytes."""
    if offset < 1 << 11 and 4 <= length <= 11:
        return bytes([offset >> 8 << 5 | length - 4 << 2 | 1, offset & 0xFF])
    if offset < 1 << 16 and length <= 64:
        return bytes([length - 1 << 2 | 2]) + offset.to_bytes(2, "little")
    assert length <= 64
    return bytes([length - 1 << 2 | 3]) + offset.to_bytes(4, "little")


def repeat(length: int) -> bytes:
    """An element: a copy with the last offset."""
    if length <= 8:
        return bytes([length - 4 << 2 | 1, 0])
    for code, base, width in ((5, 8, 1), (6, 260, 2), (7, 65540, 3)):
        if length - base < 1 << 8 * width:
            return bytes([code << 2 | 1, 0]) + (length - base).to_bytes(width, "little")
    raise ValueError(length)


def block(data: bytes, *, is_snappy: bool = False) -> bytes:
    """Elements for some bytes: earlier bytes are copied, and in S2 copies are repeated."""
    seen: dict[bytes, int] = {}
    elements = bytearray()
    # Snappy cannot repeat a copy, so no longer match is looked for.
    longest = 60 if is_snappy else len(data)
    at = begin = 0
    while at + 4 <= len(data):
        word = data[at : at + 4]
        place = seen.get(word)
        seen[word] = at
        if place is None:
            at += 1
            continue
        length = 4
        end = min(len(data) - at, longest)
        while length < end and data[place + length] == data[at + length]:
            length += 1
        if begin < at:
            elements += literal(data[begin:at])
        elements += copy(at - place, min(length, 60))
        if length - 60 >= 4:
            elements += repeat(length - 60)
        else:
            length = min(length, 60)
        at += length
        begin = at
    if begin < len(data):
        elements += literal(data[begin:])
    return bytes(elements)


def stream(data: bytes, size: int = BLOCK, *, is_snappy: bool = False) -> bytes:
    """A stream; with another identifier in its midst, padding, and a chunk to be skipped."""
    name = b"\xff\x06\0\0" + (b"sNaPpY" if is_snappy else b"S2sTwO")
    return name + b"".join(_chunks(data, size, name, is_snappy))


def stored_stream(data: bytes) -> bytes:
    """A quickly made stream of S2: long runs of zeros as repeated copies, all else as literals."""
    chunks = [b"\xff\x06\0\0S2sTwO"]
    for start in range(0, len(data), BLOCK):
        part = data[start : start + BLOCK]
        elements = bytearray()
        for page in range(0, len(part), 4096):
            some = part[page : page + 4096]
            if len(some) > 100 and not any(some):
                elements += literal(b"\0") + copy(1, 4) + repeat(len(some) - 5)
            else:
                elements += literal(some)
        body = bytes(4) + varint(len(part)) + elements
        chunks.append(b"\0" + len(body).to_bytes(3, "little") + body)
    return b"".join(chunks)


def _chunks(data: bytes, size: int, name: bytes, is_snappy: bool) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        part = data[start : start + size]
        packed = varint(len(part)) + block(part, is_snappy=is_snappy)
        stored = len(packed) >= len(part)
        body = masked_crc32c(part).to_bytes(4, "little") + (part if stored else packed)
        yield bytes([stored]) + len(body).to_bytes(3, "little") + body
        if start == 0:
            yield b"\xfe\x05\0\0" + bytes(5) + name + b"\x99\x02\0\0ab"


def varint(number: int) -> bytes:
    """A number as seven bits in each byte, the lowest first."""
    digits = bytearray()
    while True:
        number, low = divmod(number, 128)
        digits.append(low | (128 if number else 0))
        if not number:
            return bytes(digits)


def masked_crc32c(data: bytes) -> int:
    """The checksum of a chunk (framing_format.txt, 3)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


_TABLE = _table()
