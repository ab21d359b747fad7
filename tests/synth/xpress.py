"""A packer for Xpress by [MS-XCA]: 2.3 (plain) and 2.1 (with a Huffman code).

It does not pack tightly: it takes the first copy that it finds, and every symbol has nine bits.
Many tests pack the same blocks, so results are kept.
"""

import functools
import struct
from collections.abc import Iterator

_MIN = 3  # bytes of a copy
_KEPT = 128


def _tokens(data: bytes, window: int, longest: int) -> Iterator[int | tuple[int, int]]:
    """Single bytes, and copies as distance and length."""
    seen: dict[bytes, int] = {}
    position = 0
    while position < len(data):
        key = data[position : position + _MIN]
        before = seen.get(key, -1)
        seen[key] = position
        if len(key) < _MIN or before < 0 or position - before > window:
            yield data[position]
            position += 1
            continue
        length = _common(data, before, position, min(len(data) - position, longest))
        yield position - before, length
        position += length


def _common(data: bytes, before: int, position: int, limit: int) -> int:
    """The number of equal bytes from two places on."""
    length, step = _MIN, 1
    while length < limit:  # growing pieces first, single bytes at the end
        step = min(step, limit - length)
        if (
            data[position + length : position + length + step]
            == data[before + length : before + length + step]
        ):
            length += step
            step *= 2
        elif step == 1:
            break
        else:
            step = 1
    return length


@functools.lru_cache(_KEPT)
def pack_plain(data: bytes) -> bytes:
    """2.3.4 of [MS-XCA]."""
    out = bytearray(4)
    flags_at, flags, used, half = 0, 0, 0, 0
    for token in _tokens(data, 8192, 1 << 32):
        if isinstance(token, int):
            out.append(token)
            flags <<= 1
        else:
            back, length = token[0], token[1] - _MIN
            out += struct.pack("<H", (back - 1) << 3 | min(length, 7))
            if length >= 7:
                rest = length - 7
                if half:
                    out[half] |= min(rest, 15) << 4
                    half = 0
                else:
                    half = len(out)
                    out.append(min(rest, 15))
                if rest >= 15:
                    if rest - 15 < 255:
                        out.append(rest - 15)
                    elif length < 1 << 16:
                        out += struct.pack("<BH", 255, length)
                    else:
                        out += struct.pack("<BHI", 255, 0, length)
            flags = flags << 1 | 1
        used += 1
        if used == 32:
            struct.pack_into("<I", out, flags_at, flags)
            flags_at, flags, used = len(out), 0, 0
            out += bytes(4)
    left = 32 - used
    struct.pack_into("<I", out, flags_at, flags << left | (1 << left) - 1)
    return bytes(out)


@functools.lru_cache(_KEPT)
def pack_huffman(data: bytes) -> bytes:
    """2.1.4.3 of [MS-XCA], of 64 KiB at most. Codes of nine bits are the symbols."""
    assert len(data) <= 1 << 16
    out = bytearray(b"\x99" * 256) + bytes(4)
    slots = [256, 258]
    word, free = 0, 16

    def write(count: int, bits: int) -> None:
        nonlocal word, free
        if free >= count:
            free -= count
            word = word << count | bits
            return
        word = (word << free | bits >> (count - free)) & 0xFFFF
        struct.pack_into("<H", out, slots.pop(0), word)
        slots.append(len(out))
        out.extend(bytes(2))
        free += 16 - count
        word = bits & ((1 << 16) - 1)

    for token in _tokens(data, (1 << 16) - 1, (1 << 16) - 1):
        if isinstance(token, int):
            write(9, token)
            continue
        back, length = token[0], token[1] - _MIN
        high = back.bit_length() - 1
        write(9, 256 | high << 4 | min(length, 15))
        if length >= 15:
            if length - 15 < 255:
                out.append(length - 15)
            else:
                out += struct.pack("<BH", 255, length)
        write(high, back - (1 << high))
    write(9, 256)  # the end
    struct.pack_into("<H", out, slots[0], word << free & 0xFFFF)
    struct.pack_into("<H", out, slots[1], 0)
    return bytes(out)
