"""BTF, a Linux kernel's description of its own types.

The format is that of the kernel's Documentation/bpf/btf.rst: a header, types one after another, and
the text that names point into. This module reads it, because little is needed (the offsets of a few
members of a few structures) and no library for it is maintained.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import follow
from memory_visualizer.limits import Budget

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
MAX_SIZE = 1 << 25

_STRUCT, _UNION, _ENUM, _ENUM64 = 4, 5, 6, 19
_ARRAY, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG = 3, 8, 9, 10, 11, 18
_EXTRA_WORDS = {1: (1, 0), _ARRAY: (3, 0), _STRUCT: (0, 3), _UNION: (0, 3), _ENUM: (0, 2)} | {
    13: (0, 2),
    14: (1, 0),
    15: (0, 3),
    17: (1, 0),
    _ENUM64: (0, 3),
}
"""By a type's kind: words that follow its first three words, for the type and for each member."""
_MAX_DEPTH = 32
"""Nested typedefs and qualifiers that are followed: the kernel itself refuses more
(MAX_RESOLVE_DEPTH in kernel/bpf/btf.c)."""
_MAX_TYPES = 0xFFFFF
"""BTF_MAX_TYPE in include/uapi/linux/btf.h."""
_WORDS_AT_ONCE = 1 << 16
_NO_MEMBERS = np.empty((0, 2), np.int64)


def total_size(header: bytes) -> int | None:
    """Bytes from the header to the end of the text; None if it is not a header."""
    if not header.startswith(MAGIC) or len(header) < HEADER_SIZE:
        return None
    fields = np.frombuffer(header[:HEADER_SIZE], _HEADER)
    (_, _, _, size, types_at, types_size, text_at, text_size) = fields[0].tolist()
    if size < HEADER_SIZE or text_at < types_at + types_size:
        return None
    total = size + text_at + text_size
    return total if HEADER_SIZE < total <= MAX_SIZE else None


@dataclass(frozen=True, eq=False)
class Btf:
    """The types of one kernel."""

    _words: NDArray[np.uint32]
    _text: bytes
    _places: dict[str, int] = field(default_factory=dict)
    """Names that were searched for, and their places in the text; -1 if missing."""
    _known: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Results of _members_of, by the names of structures."""
    _budget: Budget = field(default_factory=lambda: Budget(0))

    @classmethod
    def parse(cls, contents: NDArray[np.uint8], budget: Budget | None = None) -> "Btf | None":
        """Split the blob into header, types and text; None if it is not BTF, or broken.

        `budget` notes what is not read later.
        """
        header = contents[:HEADER_SIZE].tobytes()
        total = total_size(header)
        if total is None or total > len(contents):
            return None
        (_, _, _, size, types_at, types_size, text_at, text_size) = np.frombuffer(header, _HEADER)[
            0
        ].tolist()
        # Both are copied, so that the rest of the contents can be freed.
        words = contents[size + types_at :][: types_size // 4 * 4].copy().view("<u4")
        text = contents[size + text_at :][:text_size].tobytes()
        return cls(words, text, _budget=budget or Budget(0))

    def offset(self, structure: str, *members: str) -> int | None:
        """Offset of a member in a structure; of several names, the first that the structure has.

        Members of unnamed inner structures and unions count as the structure's own.
        """
        if structure not in self._known:
            at = self._named(structure, (_STRUCT, _UNION))
            self._known[structure] = self._members_of(at) if at is not None else _NO_MEMBERS
        names, offsets = self._known[structure].T
        for member in members:
            number = self._text_at(member)
            found = np.flatnonzero(names == (-1 if number is None else number))
            if len(found):
                return int(offsets[found[0]])
        return None

    def size(self, structure: str) -> int | None:
        """Bytes of a structure."""
        at = self._named(structure, (_STRUCT, _UNION))
        return None if at is None else int(self._words[at + 2])

    def enumerator(self, name: str) -> int | None:
        """Value of a member of any enumeration."""
        number = self._text_at(name)
        if number is None:
            return None
        words, starts = self._words, self._starts
        if not len(starts):
            return None
        place = np.flatnonzero(words[:-1] == number)
        place = place[place >= starts[0]]
        at = starts[np.searchsorted(starts, place, side="right") - 1]
        kind = words[at + 1] >> 24 & 0x1F
        # Does the word stand in place of a member's name?
        fits = np.zeros(len(place), bool)
        for enumeration in (_ENUM, _ENUM64):
            inside = (place - at - 3) % _EXTRA_WORDS[enumeration][1] == 0
            fits |= (kind == enumeration) & (place >= at + 3) & inside
        found = np.flatnonzero(fits)
        return int(words[place[found[0]] + 1]) if len(found) else None

    def _members_of(self, at: int) -> NDArray[np.int64]:
        """Place of the name, and offset, of each member of the structure at this word.

        First its own members, then those of unnamed structures in it, each structure once.
        """
        words = self._words
        limit, refused = self._budget.limit("unnamed part of a kernel type"), 0
        parts, seen = [], {at}
        waiting = [(at, 0)]
        while waiting:
            at, before = waiting.pop()
            count = min(int(words[at + 1]) & 0xFFFF, (len(words) - at - 3) // 3)
            members = words[at + 3 : at + 3 + 3 * count].reshape(-1, 3).astype(np.int64)
            members = np.stack((members[:, 0], members[:, 2], members[:, 1]), axis=1)
            # With this bit a member's offset has the size of a bit field in its upper byte.
            if words[at + 1] >> 31:
                members[:, 1] &= 0xFFFFFF
            members[:, 1] = members[:, 1] // 8 + before
            has_name = members[:, 0] != 0
            parts.append(members[has_name, :2])
            below = []
            for _, offset, type_ in members[~has_name][:limit].tolist():
                inner = self._resolved(type_)
                if inner is None or inner in seen:
                    continue
                if len(seen) > limit:
                    refused += 1
                    continue
                seen.add(inner)
                below.append((inner, offset))
            refused += max(int(np.count_nonzero(~has_name)) - limit, 0)
            waiting += below[::-1]
        self._budget.note("unnamed part of a kernel type", refused)
        return np.concatenate(parts)

    def _resolved(self, type_: int) -> int | None:
        """The word at which a type begins, behind its typedefs and qualifiers."""
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
        at = self._starts[self._names == number]
        found = np.flatnonzero(np.isin(self._words[at + 1] >> 24 & 0x1F, kinds))
        return int(at[found[0]]) if len(found) else None

    def _text_at(self, name: str) -> int | None:
        """Place of a name in the text."""
        if name not in self._places:
            self._places[name] = self._text.find(b"\0" + name.encode("ascii") + b"\0")
        place = self._places[name]
        return None if place < 0 else place + 1

    @cached_property
    def _names(self) -> NDArray[np.uint32]:
        """Place in the text of each type's name."""
        return self._words[self._starts]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The word at which each type begins; the first has number 1."""
        steps = _steps(self._words)
        starts = follow(steps, _MAX_TYPES)
        # Is the last type cut off?
        if len(starts) and starts[-1] + steps[starts[-1]] > len(self._words):
            starts = starts[:-1]
        return starts


def _steps(words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """For each word, the number of words of a type that would begin there."""
    fixed, each = bytearray([3] * 256), bytearray(256)
    for kind, (extra, per_member) in _EXTRA_WORDS.items():
        for flag in range(0, 256, 0x20):
            fixed[flag | kind], each[flag | kind] = 3 + extra, per_member
    infos = words[1:-1]
    steps = np.empty(len(infos), np.int32)
    for start in range(0, len(steps), _WORDS_AT_ONCE):
        part = infos[start : start + _WORDS_AT_ONCE]
        kinds = part.view(np.uint8)[3::4].tobytes()
        step = np.frombuffer(kinds.translate(each), np.uint8).astype(np.int32)
        step *= part.view(np.uint16)[::2]
        step += np.frombuffer(kinds.translate(fixed), np.uint8)
        steps[start : start + len(step)] = step
    return steps
