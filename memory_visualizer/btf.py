"""BTF, the description of its own types that a Linux kernel carries with it.

The format is that of the kernel's Documentation/bpf/btf.rst: a header, types one after another,
and the text that names point into. Read here, for what is needed is little (where a few members
of a few structures stand), and no library for it is kept up.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x9f\xeb\x01"
_HEADER = np.dtype(
    [
        ("magic", "<u2"),
        ("version", "u1"),
        ("flags", "u1"),
        ("header_size", "<u4"),
        ("types_at", "<u4"),
        ("types_size", "<u4"),
        ("text_at", "<u4"),
        ("text_size", "<u4"),
    ]
)
HEADER_SIZE = _HEADER.itemsize
MAX_SIZE = 1 << 26

_STRUCT, _UNION, _ENUM, _ENUM64 = 4, 5, 6, 19
_ARRAY, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG = 3, 8, 9, 10, 11, 18
_EXTRA_WORDS = {1: (1, 0), _ARRAY: (3, 0), _STRUCT: (0, 3), _UNION: (0, 3), _ENUM: (0, 2)} | {
    13: (0, 2),
    14: (1, 0),
    15: (0, 3),
    17: (1, 0),
    _ENUM64: (0, 3),
}
"""Words behind a type's three: of the type, and of each of its members; by its kind."""
_MAX_DEPTH = 8


def total_size(header: bytes) -> int | None:
    """Bytes from the header to the end of the text; None where it is no header."""
    fields = np.frombuffer(header[:HEADER_SIZE], _HEADER)
    if not header.startswith(MAGIC) or not len(fields):
        return None
    (_, _, _, size, types_at, types_size, text_at, text_size) = fields[0].tolist()
    if size < HEADER_SIZE or text_at < types_at + types_size:
        return None
    total = size + text_at + text_size
    return total if HEADER_SIZE < total <= MAX_SIZE else None


@dataclass(frozen=True)
class Btf:
    """The types of one kernel."""

    _words: NDArray[np.uint32]
    _text: bytes

    @classmethod
    def parse(cls, contents: bytes) -> "Btf | None":
        """Take header, types and text apart; None where they are none, or broken."""
        total = total_size(contents)
        if total is None or total > len(contents):
            return None
        _, _, _, size, types_at, types_size, text_at, text_size = np.frombuffer(
            contents[:HEADER_SIZE], _HEADER
        )[0].tolist()
        words = np.frombuffer(contents, "<u4", types_size // 4, size + types_at)
        return cls(words, contents[size + text_at : size + text_at + text_size])

    def offset(self, structure: str, *members: str) -> int | None:
        """Offset of a member in a structure, or of the first of some names that it has.

        Members of structures and unions without a name count as the structure's own.
        """
        found = self._member(structure, *members)
        return None if found is None else found[0]

    def member_size(self, structure: str, *members: str) -> int | None:
        """Bytes of a member, as far as structures, unions, enums and numbers go."""
        found = self._member(structure, *members)
        if found is None:
            return None
        at = self._resolved(found[1])
        return None if at is None else int(self._words[at + 2])

    def size(self, structure: str) -> int | None:
        """Bytes of a structure."""
        at = self._named(structure, (_STRUCT, _UNION))
        return None if at is None else int(self._words[at + 2])

    def enumerator(self, name: str) -> int | None:
        """Value of an enumeration's member, whatever the enumeration."""
        number = self._text_at(name)
        if number is None:
            return None
        words = self._words
        for at in self._kinds_at((_ENUM, _ENUM64)):
            step = 2 if words[at + 1] >> 24 & 0x1F == _ENUM else 3
            members = words[at + 3 : at + 3 + step * (int(words[at + 1]) & 0xFFFF)]
            [places] = np.nonzero(members[::step] == number)
            if len(places):
                return int(members[int(places[0]) * step + 1])
        return None

    def _member(self, structure: str, *members: str) -> tuple[int, int] | None:
        at = self._named(structure, (_STRUCT, _UNION))
        if at is None:
            return None
        for member in members:
            number = self._text_at(member)
            found = None if number is None else self._member_of(at, number, _MAX_DEPTH)
            if found:
                return found
        return None

    def _member_of(self, at: int, name: int, depth: int) -> tuple[int, int] | None:
        """Offset and type of a member, in the structure at this word."""
        words = self._words
        # With this bit a member's offset has the size of a bit field in its upper byte.
        has_bit_fields = bool(words[at + 1] >> 31)
        count = int(words[at + 1]) & 0xFFFF
        without_name = []
        for place in range(at + 3, min(at + 3 + 3 * count, len(words) - 2), 3):
            member, type_, bits = words[place : place + 3].tolist()
            offset = (bits & 0xFFFFFF if has_bit_fields else bits) // 8
            if member == name:
                return offset, type_
            if member == 0:
                without_name.append((offset, type_))
        for offset, type_ in without_name if depth else ():
            below = self._resolved(type_)
            found = None if below is None else self._member_of(below, name, depth - 1)
            if found:
                return offset + found[0], found[1]
        return None

    def _resolved(self, type_: int) -> int | None:
        """The word at which a type begins, typedefs and qualifiers followed."""
        for _ in range(_MAX_DEPTH):
            if not 0 < type_ <= len(self._starts):
                return None
            at = int(self._starts[type_ - 1])
            kind = int(self._words[at + 1]) >> 24 & 0x1F
            if kind not in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG):
                return at
            type_ = int(self._words[at + 2])
        return None

    def _named(self, name: str, kinds: tuple[int, ...]) -> int | None:
        """The word at which the type of this name begins."""
        number = self._text_at(name)
        if number is None:
            return None
        at = self._kinds_at(kinds)
        found = at[self._words[at] == number]
        return int(found[0]) if len(found) else None

    def _kinds_at(self, kinds: tuple[int, ...]) -> NDArray[np.int64]:
        return self._starts[np.isin(self._words[self._starts + 1] >> 24 & 0x1F, kinds)]

    def _text_at(self, name: str) -> int | None:
        """Where in the text a name stands."""
        place = self._text.find(b"\0" + name.encode("ascii") + b"\0")
        return None if place < 0 else place + 1

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The word at which each type begins; the first has number 1."""
        fixed, each = [3] * 32, [0] * 32
        for kind, (extra, per_member) in _EXTRA_WORDS.items():
            fixed[kind], each[kind] = 3 + extra, per_member
        words = self._words.tolist()
        starts = []
        position, end = 0, len(words) - 2
        while position < end:
            starts.append(position)
            info = words[position + 1]
            kind = info >> 24 & 0x1F
            position += fixed[kind] + each[kind] * (info & 0xFFFF)
        if position > len(words):  # cut off in the last type
            starts.pop()
        return np.array(starts, np.int64)
