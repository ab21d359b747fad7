"""Builders for a Linux kernel's description of itself: symbols, types, VMCOREINFO.

Written from scripts/kallsyms.c, Documentation/bpf/btf.rst and kernel/vmcore_info.c of the kernel.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import TypeAlias

Members: TypeAlias = Sequence[tuple[str, int]]
"""Names and offsets in bytes."""

_TOKENS = [bytes([code]) if 0x20 < code < 0x7F else b"" for code in range(256)]
_PAIRS = [b"in", b"it", b"ta", b"sk", b"_s", b"te", b"xt", b"re", b"so", b"ur", b"ce", b"un"]


def _all_tokens() -> list[bytes]:
    """Tokens: letters for themselves, pieces of names for all other bytes; none is empty."""
    tokens = list(_TOKENS)
    pieces = iter(_PAIRS + [b"%02x_filler" % number for number in range(256)])
    return [token or next(pieces) for token in tokens]


@cache
def _longest_token() -> tuple[re.Pattern[bytes], dict[bytes, int]]:
    """A pattern for the longest token at a place, and the number of each token."""
    tokens = _all_tokens()
    by_length = sorted(range(256), key=lambda code: -len(tokens[code]))
    pattern = re.compile(b"|".join(re.escape(tokens[code]) for code in by_length))
    return pattern, {tokens[code]: code for code in reversed(by_length)}


@cache
def _packed_name(name: str) -> bytes:
    """The number of tokens, and the tokens; all kernels have much the same names."""
    pattern, code_of = _longest_token()
    packed = [code_of[token] for token in pattern.findall(b"D" + name.encode())]
    length = len(packed)
    return bytes([length] if length < 0x80 else [length & 0x7F | 0x80, length >> 7]) + bytes(packed)


@dataclass
class Kallsyms:
    """The packed table, and the places of its parts in `blob`."""

    blob: bytes
    parts: dict[str, int]


def pack_kallsyms(
    symbols: Mapping[str, int], base: int, place: int, *, way: str, pointer: int = 8
) -> Kallsyms:
    """Pack symbols like a kernel at virtual address `base`.

    `place` is the blob's virtual address. `way` is the way of computing addresses: ``base``
    (relative to it), ``percpu`` (negative, as CONFIG_KALLSYMS_ABSOLUTE_PERCPU has it), ``self``
    (relative to the offset's own place; such kernels have the offsets last), or ``absolute``
    (addresses of 8 bytes, and markers as wide; up to 4.5). `pointer` are the bytes of an address.
    """
    ordered = sorted(symbols.items(), key=lambda item: item[1])
    names, marks = bytearray(), []
    for number, (name, _) in enumerate(ordered):
        if number % 256 == 0:
            marks.append(len(names))
        names += _packed_name(name)
    tokens = [token + b"\0" for token in _all_tokens()]
    text = b"".join(tokens)
    index = struct.pack("<256H", *accumulate(map(len, tokens[:-1]), initial=0))
    markers = struct.pack(f"<{len(marks)}{'Q' if way == 'absolute' else 'I'}", *marks)
    count = len(ordered).to_bytes(pointer, "little")
    sections = {
        "offsets": bytes(4 * len(ordered)),
        "relative_base": base.to_bytes(pointer, "little"),
        "num_syms": count,
        "names": bytes(names),
        "markers": markers,
        "token_table": text,
        "token_index": index,
    }
    if way == "absolute":
        del sections["relative_base"]
        addresses = [address for _, address in ordered]
        sections["offsets"] = struct.pack(f"<{len(addresses)}Q", *addresses)
    if way == "self":
        del sections["relative_base"]
        sections["offsets"] = sections.pop("offsets")
    parts, blob = {}, b""
    for part, contents in sections.items():
        parts[part] = place + len(blob)
        blob += contents + bytes(-len(contents) % pointer)
    if way == "absolute":
        return Kallsyms(blob, parts)
    offsets = b""
    for number, (_, address) in enumerate(ordered):
        value = {
            "base": address - base,
            "percpu": base - 1 - address,
            "self": address - (parts["offsets"] + 4 * number),
        }[way]
        offsets += struct.pack("<I", value & 0xFFFFFFFF)
    at = parts["offsets"] - place
    return Kallsyms(blob[:at] + offsets + blob[at + len(offsets) :], parts)


@dataclass
class BtfWriter:
    """BTF, type by type."""

    _text: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    _places: dict[str, int] = field(default_factory=lambda: {"": 0})
    _types: bytearray = field(default_factory=bytearray)
    _count: int = 0

    def _name(self, name: str) -> int:
        """Place of a name in the text, which has each name once."""
        if name not in self._places:
            self._places[name] = len(self._text)
            self._text += name.encode() + b"\0"
        return self._places[name]

    def _add(self, name: str, kind: int, members: int, size_or_type: int, extra: bytes) -> int:
        info = kind << 24 | members
        self._types += struct.pack("<III", self._name(name), info, size_or_type) + extra
        self._count += 1
        return self._count

    def number(self, name: str, size: int) -> int:
        """An integer type; returns its number."""
        return self._add(name, 1, 0, size, struct.pack("<I", size * 8))

    def noise(self, number: int) -> None:
        """Types of all other kinds, whose records have various lengths."""
        self._add("", 2, 0, number, b"")  # pointer
        self._add("", 3, 0, 0, struct.pack("<III", number, number, 7))  # array
        self._add("list_head_t", 8, 0, number, b"")  # typedef
        self._add("", 13, 2, 0, struct.pack("<IIII", 0, number, 0, number))  # function prototype
        self._add("some_function", 12, 0, self._count, b"")
        self._add("some_variable", 14, 0, number, struct.pack("<I", 1))
        self._add(".data..percpu", 15, 1, 8, struct.pack("<III", self._count, 0, 8))
        self._add("float", 16, 0, 4, b"")
        self._add("a_tag", 17, 0, number, struct.pack("<i", -1))
        self._add("enum64", 19, 1, 8, struct.pack("<III", self._name("E_64"), 1, 1))

    def structure(self, name: str, members: Members, member_type: int, size: int) -> int:
        """A structure; without a name, an inner structure of others."""
        extra = b"".join(
            struct.pack("<III", self._name(member), member_type, offset * 8)
            for member, offset in members
        )
        return self._add(name, 4, len(members), size, extra)

    def enumeration(self, name: str, values: Mapping[str, int]) -> int:
        """An enumeration."""
        extra = b"".join(struct.pack("<IQ", self._name(n), v)[:8] for n, v in values.items())
        return self._add(name, 6, len(values), 4, extra)

    def finish(self) -> bytes:
        """The whole blob, with its header."""
        sizes = (0, len(self._types), len(self._types), len(self._text))
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + self._types + self._text


def vmcoreinfo_text(release: str, lines: Mapping[str, int | str]) -> bytes:
    """The text; symbols and KERNELOFFSET are hexadecimal, everything else decimal."""
    text = f"OSRELEASE={release}\nPAGESIZE=4096\n"
    for name, value in lines.items():
        hexadecimal = name.startswith("SYMBOL") or name == "KERNELOFFSET"
        text += f"{name}={value:x}\n" if hexadecimal else f"{name}={value}\n"
    return text.encode()


def as_note(text: bytes) -> bytes:
    """The text as a note of an ELF core (Elf64_Nhdr)."""
    return struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text
