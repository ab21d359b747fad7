"""VMCOREINFO: a Linux kernel's description of itself for readers of its dump.

A text of lines such as ``SYMBOL(swapper_pg_dir)=ffffffff82a10000``, described in the kernel's
Documentation/admin-guide/kdump/vmcoreinfo.rst. The kernel keeps it in pages of its own, once as it
is and once as the note of an ELF core (kernel/vmcore_info.c, before 6.9 kernel/crash_core.c). Its
place in the page is the same since 4.13, so a scan of the first bytes of each page finds it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.formats.base import Dump, Search, Visitor, Words
from memory_visualizer.units import PAGE_SIZE

IMAGE_BASE = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map of x86-64: from here on the kernel's image is mapped."""
_BEGINNINGS = [np.frombuffer(text, "<u8")[0] for text in (b"OSRELEAS", b"BUILD-ID", b"PAGESIZE")]
"""Possible beginnings of the first line, as a word."""
_NOTE_WORDS = 3
"""Words in the header of the ELF note VMCOREINFO, in front of the text."""
_MAX_PAGES = 4
"""The largest size of the text in pages; it is one page in all kernels up to 6.18."""
MAX_SIZE = _MAX_PAGES * PAGE_SIZE
_MAX_DIGITS = 20
"""The longest number of 64 bits."""
_OSRELEASE = np.frombuffer(b"OSRELEASE=", np.uint8)
_QUADS = [np.frombuffer(_OSRELEASE, "<u4", 1, shift)[0] for shift in range(4)]
"""Four consecutive 32-bit words of OSRELEASE=, one of which is aligned wherever the text lies."""
_MANY_QUADS = 512
"""A batch with more of these words was made to waste time."""
_MAX_TEXTS_IN_PART = 64
_QUADS_AT_ONCE = 1 << 16
"""As many as fit into a processor's cache."""


@dataclass(frozen=True)
class VmcoreInfo:
    """The text, and its values by kind and name.

    Any line may be damaged: callers check a value by its use, and can ask for `votes`.
    """

    release: str
    """Such as ``6.1.0-18-amd64``."""
    _text: bytes
    """The lines, with a newline before and behind each."""
    copies: tuple["VmcoreInfo", ...] = ()
    """Other texts of the same kernel, which keeps two."""
    known: Mapping[str, int] = field(default_factory=dict, compare=False, hash=False)
    """Values that were found without the text, by the beginning of the line that would tell
    them."""

    @classmethod
    def parse(cls, text: bytes) -> "VmcoreInfo | None":
        """Take the text, which a zero byte and other data may follow; None if it is none.

        Lines are parsed only when they are asked for: a dump may have many texts that are not its
        own.
        """
        lines = _lines(text)
        release = _line(lines, b"OSRELEASE")
        return cls(release.decode("latin-1"), lines) if release and b"(" in lines else None

    @classmethod
    def around(cls, text: bytes, place: int) -> "VmcoreInfo":
        """Take the text that has a line at this place, whatever its release."""
        start = text.rfind(b"\0\0", 0, place) + 2
        return cls("", _lines(text[max(start, 0) :]))

    @classmethod
    def none(cls) -> "VmcoreInfo":
        """The empty text, for a kernel without VMCOREINFO."""
        return cls("", b"\n")

    def symbol(self, name: str) -> int | None:
        """Virtual address of a symbol."""
        # Addresses are hexadecimal without a prefix; numbers are decimal, except for some with 0x.
        return _unsigned(self._value(f"SYMBOL({name})", 16))

    @property
    def is_of_another_processor(self) -> bool:
        """Whether its kernel has an address that no x86-64 kernel has."""
        return 0 < (self.symbol("swapper_pg_dir") or 0) < IMAGE_BASE

    def size(self, name: str) -> int | None:
        """Bytes of a structure."""
        return _unsigned(self._value(f"SIZE({name})"))

    def offset(self, name: str) -> int | None:
        """Offset of a member, named such as ``page.flags``."""
        return _unsigned(self._value(f"OFFSET({name})"))

    def number(self, name: str) -> int | None:
        """Any other number of 64 bits, such as that of a flag; some are negative."""
        return self._value(f"NUMBER({name})")

    def votes(self, name: str, base: int = 10) -> list[int]:
        """The values in all copies, by the beginning of the line such as ``SIZE(page)``."""
        told = [text._told(name, base) for text in (self, *self.copies)]
        return [value for value in told if value is not None]

    def symbols(self, name: str) -> list[int]:
        """The virtual addresses that the copies tell for a symbol."""
        return [value for value in self.votes(f"SYMBOL({name})", 16) if value >= 0]

    def _value(self, name: str, base: int = 10) -> int | None:
        if name in self.known:
            return self.known[name]
        votes = self.votes(name, base)
        # On a tie, the first value counts.
        return max(votes, key=votes.count) if votes else None

    def _told(self, name: str, base: int) -> int | None:
        text = _line(self._text, name.encode("ascii"))
        if text is None or len(text) > _MAX_DIGITS:
            return None
        try:
            value = int(text, 16 if text.startswith(b"0x") else base)
        except ValueError:
            return None
        return value if -(2**63) <= value < 2**64 else None

    def has_line(self, line: str) -> bool:
        """Whether one of the copies has a line."""
        raw = b"\n" + line.encode("ascii") + b"\n"
        return any(raw in text._text for text in (self, *self.copies))

    @property
    def text(self) -> bytes:
        """The lines, each with a newline behind it."""
        return self._text.strip(b"\n") + b"\n" if len(self._text) > 2 else b""

    @property
    def line_count(self) -> int:
        """Lines of the text."""
        return self._text.count(b"\n")

    def shares_with(self, other: "VmcoreInfo") -> bool:
        """Whether another text has half of its lines, too: then both are of the same kernel."""
        lines = set(self._text.split(b"\n"))
        return len(lines & set(other._text.split(b"\n"))) * 2 > len(lines)


def _lines(text: bytes) -> bytes:
    """The text's lines; a single zero byte among them is damage, and the text goes on behind it."""
    text = text[:MAX_SIZE].split(b"\0\0", 1)[0]
    lines, *rest = text.split(b"\0")
    for part in rest:
        if not re.match(rb"[ -~]*\n?[ -~]*=[ -~]+\n", part):
            break
        lines += b"?" + part
    return b"\n" + lines + b"\n"


def _unsigned(value: int | None) -> int | None:
    return None if value is None or value < 0 else value


def _line(lines: bytes, name: bytes) -> bytes | None:
    """The value behind a name; of several lines the last, since the kernel appends."""
    place = lines.rfind(b"\n" + name + b"=")
    if place < 0:
        return None
    start = place + len(name) + 2
    return lines[start : lines.index(b"\n", start)]


_SAMPLED_WORDS = 64
"""One word in so many is sampled: half a KiB of text has a sampled word.

The text has three KiB on a machine (6.1); the shortest useful text has some 800 bytes."""
_ONES, _HIGHEST_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


_Places: TypeAlias = tuple[NDArray[np.int64], int]
"""Physical addresses of possible texts, and how many more there are."""


class VmcoreInfoSearch(Search[_Places]):
    """Finds the text during a scan of the dump."""

    def __init__(self) -> None:
        self._places: list[NDArray[np.int64]] = []
        """Physical addresses of possible texts."""
        self._left_out = 0

    @staticmethod
    def look(frames: NDArray[np.int64], words: Words) -> _Places | None:
        """Test the beginnings of frames, given with their contents."""
        places: list[NDArray[np.int64]] = []
        for word in (0, _NOTE_WORDS):
            # Copied once, since reading the first word of every page takes most of the time.
            column = words[:, word].copy()
            for beginning in _BEGINNINGS:
                if len(found := frames[column == beginning]):
                    places.append(found * PAGE_SIZE + word * 8)
        return (np.concatenate(places), 0) if places else None

    @staticmethod
    def look_everywhere(frames: NDArray[np.int64], words: Words) -> _Places | None:
        """Search all places, for dumps in which the text is not at its usual place."""
        rows = _with_text(words)
        if 2 * len(rows) < len(words):
            frames, words = frames[rows], words[rows]
        contents = words.reshape(-1).view(np.uint8)
        quads = contents.view("<u4")
        whole = np.arange(len(_OSRELEASE))
        places: list[NDArray[np.int64]] = []
        left_out = 0
        for first in range(0, len(quads), _QUADS_AT_ONCE):
            part = quads[first : first + _QUADS_AT_ONCE]
            for shift, quad in enumerate(_QUADS):
                is_quad = part == quad
                if np.count_nonzero(is_quad) > _MANY_QUADS:
                    for away, mask, value in _around(shift):
                        inside = part[1 + away : len(part) - 2 + away]
                        is_quad[1:-2] &= inside & mask == value
                start = (first + np.flatnonzero(is_quad)) * 4 - shift
                start = start[(start >= 0) & (start <= len(contents) - len(_OSRELEASE))]
                is_text = (contents[start[:, None] + whole] == _OSRELEASE).all(axis=1)
                start = start[is_text]
                left_out += max(len(start) - _MAX_TEXTS_IN_PART, 0)
                page, place = np.divmod(start[:_MAX_TEXTS_IN_PART], PAGE_SIZE)
                if len(page):
                    places.append(frames[page] * PAGE_SIZE + place)
        return (np.concatenate(places), left_out) if places else None

    def take(self, part: _Places) -> None:
        """Add the places in a block."""
        places, left_out = part
        self._places.append(places)
        self._left_out += left_out

    @property
    def everywhere(self) -> Visitor[_Places]:
        """For Dump.scan: the search at all places."""
        return Visitor(self.look_everywhere, self.take)

    def scan_everywhere(self, frames: NDArray[np.int64], words: Words) -> None:
        """Look at all places, and take at once."""
        if part := self.look_everywhere(frames, words):
            self.take(part)

    def found(self, dump: Dump) -> list[VmcoreInfo]:
        """The texts at the places found and in the dump's own notes, each once."""
        texts = [note for note in [dump.notes.get("VMCOREINFO")] if isinstance(note, bytes)]
        places = distinct(np.concatenate([np.empty(0, np.int64), *self._places]))
        places = dump.budget.take("beginning of VMCOREINFO", places)
        dump.budget.refuse("beginning of VMCOREINFO", self._left_out)
        self._left_out = 0
        for frame, at in (divmod(place, PAGE_SIZE) for place in places.tolist()):
            pages = dump.read_frames(np.arange(frame, frame + _MAX_PAGES))
            texts.append(pages.tobytes()[at:])
        return _parsed(texts)


def _with_text(words: Words) -> NDArray[np.intp]:
    """Pages in which the text may begin: it is long enough to fill a sampled word."""
    sample = words[:, ::_SAMPLED_WORDS]
    # Is a sampled word all letters, that is, has it no byte that is 0 or above 127?
    is_text = (((sample - _ONES) | sample) & _HIGHEST_BITS == 0).any(axis=1)
    is_text[:-1] |= is_text[1:].copy()  # the text may begin at the end of the page before
    is_text[-1:] = True
    return np.flatnonzero(is_text)


def _around(shift: int) -> Iterator[tuple[int, np.uint32, np.uint32]]:
    """Masks and values of the words around the four bytes of the text from `shift` on.

    Each word comes with its distance from these four bytes.
    """
    for away in (-1, 1, 2):
        places = range(shift + 4 * away, shift + 4 * away + 4)
        told = [0 <= place < len(_OSRELEASE) for place in places]
        mask = bytes(0xFF if known else 0 for known in told)
        value = bytes(
            _OSRELEASE[place] if known else 0 for place, known in zip(places, told, strict=True)
        )
        yield away, np.frombuffer(mask, "<u4")[0], np.frombuffer(value, "<u4")[0]


def _parsed(texts: Iterable[bytes]) -> list[VmcoreInfo]:
    """The valid texts, each once."""
    return list(dict.fromkeys(filter(None, map(VmcoreInfo.parse, texts))))
