"""The symbol table that a Linux kernel carries with it (kallsyms), read from its memory.

Names are packed: each is a row of bytes that stand for pieces of text, the tokens (the kernel's
scripts/kallsyms.c). Since 6.0 VMCOREINFO tells where the parts of the table lie; they lie one
behind the other, and show themselves by their form. A table is believed if it knows the address of
something that is known without it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

_TOKENS = 256
_DIGITS = b"\0".join(b"%d" % digit for digit in range(10))
_MAX_TOKENS_SIZE = 1 << 14
_MAX_SYMBOLS = 1 << 20
_SYMBOLS_FOR_FRAME = 16
"""A kernel with a hundred thousand symbols needs more than 24 MiB to run."""
_MAX_BYTES = 1 << 24
_MAX_SHARE = 8
"""So small a part of the memory at least are the names, and twice as much the image."""
_ALIKE = 16
"""So small a part of all names at least are as long as another, and end with the same letter."""
_MORE_ALIKE = 1024
_MOST_INDEXES, _MOST_BASES = 32, 4096
"""Places that are tried, where a kernel has one, or few."""
_LONG = 0x80
"""In the byte that tells a name's length: seven bits of it, the next byte has more (since 6.1)."""
_MOST_LETTERS = 256
"""Bytes of one packed name, its length included."""
_MOST_MARKERS = 16
"""So many places where markers may begin are looked at."""
_NAMES_FOR_MARKER = 256
_LONGEST_TOKEN = 256
_BEGINNINGS = ("_stext", "_text")
"""Symbols that stand where the kernel's image begins, or near it."""
_MOST_NAMES = 16
"""Places that are tried, where the names may begin."""


@dataclass(frozen=True, eq=False)
class KernelSymbols:
    """The table, ready to be asked."""

    tokens: list[bytes]
    names: NDArray[np.uint8]
    """The packed names, one after another: length, tokens."""
    offsets: NDArray[np.int32]
    """What each symbol's address is reckoned from."""
    place: int
    """Virtual address of `offsets`."""
    base: int
    """What `offsets` are relative to; 0 where they are to themselves."""
    shift: int
    """Of the ways in which addresses are reckoned (see _addresses) the one that is right."""

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """Virtual addresses of those symbols that there are."""
        found = {}
        for name in names:
            index = self._index(name.encode("ascii"))
            if index is not None:
                found[name] = _addresses(self.offsets[index], self.place + 4 * index, self.base)[
                    self.shift
                ]
        return found

    def _index(self, name: bytes) -> int | None:
        """Number of a symbol; the first, where several have the name."""
        starts, lengths, decoded = self._layout
        maybe = np.flatnonzero(decoded == len(name) + 1)
        ends_well = np.array([token[-1:] == name[-1:] for token in self.tokens])
        last = np.minimum(starts[maybe] + lengths[maybe], len(self.names)) - 1
        maybe = maybe[ends_well[self.names[last]]]
        # Where more are alike than ever, they were made to be compared.
        maybe = maybe[: len(decoded) // _ALIKE + _MORE_ALIKE]
        # All are compared token by token, together. The first letter is the symbol's type.
        fits = np.zeros((len(name) + 2, len(self.tokens)), bool)
        for number, token in enumerate(self.tokens):
            fits[0, number] = token and name.startswith(token[1:])
            place = name.find(token)
            while token and place >= 0:
                fits[place + 1, number] = True
                place = name.find(token, place + 1)
        letters = np.array([len(token) for token in self.tokens], np.int64)
        reached, at = starts[maybe], np.zeros(len(maybe), np.int64)
        while len(maybe):
            if (done := np.flatnonzero(at == len(name) + 1)).size:
                return int(maybe[done[0]])
            packed = self.names[reached]
            right = fits[at, packed]
            maybe, reached = maybe[right], reached[right] + 1
            at = at[right] + letters[packed[right]]
        return None

    @cached_property
    def _layout(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        """Of each symbol: where its tokens begin, how many, and letters when unpacked."""
        starts, lengths = _names_in(self.names.tobytes(), len(self.offsets))
        letters = np.array([len(token) for token in self.tokens], np.int32)[self.names]
        before = np.zeros(len(letters) + 1, np.int32)
        np.cumsum(letters, dtype=np.int32, out=before[1:])
        return starts, lengths, before[starts + lengths] - before[starts]


def _names_in(names: bytes, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Walk the packed names: where each one's tokens begin, and how many there are."""
    octets = np.frombuffer(names, np.uint8)
    begin = _begins_by_markers(octets, count)
    if begin is None:
        begin = np.array(_begins(names, count), np.int64)
    is_long = octets[begin] >= _LONG
    lengths = octets[begin].astype(np.int64) & (_LONG - 1)
    lengths[is_long] |= octets[begin[is_long] + 1].astype(np.int64) << 7
    return begin + 1 + is_long, lengths


def _begins_by_markers(octets: NDArray[np.uint8], count: int) -> NDArray[np.int64] | None:
    """Where each name begins, by the markers behind them, of which each 256th name has one.

    From all markers the names are walked together, which is faster than one by one. None where
    the markers are not found, or a walk does not end where the next one begins.
    """
    numbers = octets[: len(octets) // 4 * 4].view("<u4")
    markers = -(-count // _NAMES_FOR_MARKER)
    first = np.flatnonzero(numbers[: max(len(numbers) - markers, 0)] == 0)
    following = numbers[first + 1] if len(first) else first
    likely = (following > _NAMES_FOR_MARKER) & (following <= _NAMES_FOR_MARKER * _MOST_LETTERS)
    for place in first[likely][-_MOST_MARKERS:][::-1].tolist():
        at = numbers[place : place + markers].astype(np.int64)
        if markers < 2 or at[-1] >= place * 4 or (np.diff(at) <= 0).any():
            continue
        begin = np.empty((_NAMES_FOR_MARKER, markers), np.int64)
        for row in begin:
            row[:] = at
            length = octets.take(at, mode="clip").astype(np.int64)
            is_long = length >= _LONG
            if is_long.any():
                more = octets.take(at + 1, mode="clip").astype(np.int64) << 7
                length = np.where(is_long, (length & (_LONG - 1) | more) + 1, length)
            at = at + length + 1
        if (at[:-1] == begin[0, 1:]).all():
            begins: NDArray[np.int64] = begin.T.ravel()[:count]
            end = begins[-1] + 1 + int(octets[min(begins[-1], len(octets) - 1)])
            return begins if end <= len(octets) else None
    return None


def _begins(names: bytes, count: int) -> list[int]:
    """Where each name begins, walked one by one."""
    begins: list[int] = []
    position, end = 0, len(names) - 1
    for _ in range(count):
        if position >= end:
            break
        begins.append(position)
        length = names[position]
        if length >= _LONG:
            length = (length & (_LONG - 1) | names[position + 1] << 7) + 1
        position += length + 1
    if begins and position > len(names):
        begins.pop()
    return begins


def _addresses(offset: np.int32, place: int, base: int) -> list[int]:
    """A symbol's address, by each way in which a kernel may have stored it.

    Relative to the lowest symbol, as an unsigned number; so where negative, else absolute
    (CONFIG_KALLSYMS_ABSOLUTE_PERCPU); relative to the offset's own place (newest kernels);
    absolute, of which `offset` is the lower half (up to 4.5): all lie in the uppermost 2 GiB.
    """
    number = int(offset)
    return [
        base + (number & 0xFFFFFFFF),
        base - 1 - number if number < 0 else number,
        place + number,
        number % 2**64,
    ]


def read_kallsyms(
    kernel: TableMemory,
    info: VmcoreInfo,
    known: Mapping[str, Sequence[int]],
    image: Callable[[], tuple[int, NDArray[np.uint8]] | None],
) -> KernelSymbols | None:
    """Read the table by VMCOREINFO, else find it in the kernel's image.

    `known` are symbols with the addresses of which one is the symbol's; None where no table knows
    one of them.
    """
    table = _by_vmcoreinfo(kernel, info)
    if table and (found := _with_shift(table, known)):
        return found
    contents = image()
    for by_form in (_by_form, _by_markers, _by_addresses) if contents else ():
        assert contents
        table = by_form(kernel, *contents)
        if table and (found := _with_shift(table, known)):
            return found
    return None


def _with_shift(table: KernelSymbols, known: Mapping[str, Sequence[int]]) -> KernelSymbols | None:
    """The table with the way of reckoning addresses by which one of the known ones comes out.

    The image's beginning counts only where no other is in the table, as in one without data: it
    comes out wherever zeros are taken for the table.
    """
    met = False
    for name, addresses in sorted(known.items(), key=lambda item: item[0] in _BEGINNINGS):
        index = table._index(name.encode("ascii"))
        if index is None or (met and name in _BEGINNINGS):
            continue
        met = True
        ways = _addresses(table.offsets[index], table.place + 4 * index, table.base)
        if right := [number for number, address in enumerate(ways) if address in addresses]:
            found = replace(table, shift=right[0])
            found.__dict__["_layout"] = table._layout  # known already, and dear
            return found
    return None


def _by_vmcoreinfo(kernel: TableMemory, info: VmcoreInfo) -> KernelSymbols | None:
    parts = ("names", "num_syms", "token_table", "token_index", "offsets")
    places = [info.symbol(f"kallsyms_{part}") for part in parts]
    if None in places:
        return None
    names, count_at, table, index, offsets = (place or 0 for place in places)
    base_at = info.symbol("kallsyms_relative_base")
    count = kernel.number(count_at, 4) or 0
    base = (kernel.number(base_at) if base_at else 0) or 0
    if not 0 < count <= _most_symbols(kernel):
        return None
    if not 0 < table - names <= _most_bytes(kernel):
        return None
    raw_table, raw_index = kernel.read(table, 1 << 15), kernel.read(index, 2 * _TOKENS)
    if raw_table is None or raw_index is None:
        return None
    tokens = _tokens(raw_table, np.frombuffer(raw_index, "<u2"))
    if tokens is None:
        return None
    return KernelSymbols(
        tokens,
        kernel.read_far(names, table - names),
        kernel.read_far(offsets, 4 * count).view("<i4"),
        offsets,
        base,
        0,
    )


def _tokens(table: bytes, index: NDArray[np.uint16]) -> list[bytes] | None:
    starts = index.tolist()
    if any(low >= high for low, high in pairwise(starts)) or starts[-1] >= len(table):
        return None
    ends = [table.find(b"\0", start) for start in starts]
    return [
        table[start : end if end >= 0 else None] for start, end in zip(starts, ends, strict=True)
    ]


def _most_symbols(kernel: TableMemory) -> int:
    return min(_MAX_SYMBOLS, _SYMBOLS_FOR_FRAME * kernel.frame_count)


def _most_bytes(kernel: TableMemory) -> int:
    return min(_MAX_BYTES, kernel.frame_count * PAGE_SIZE // _MAX_SHARE)


def _by_form(kernel: TableMemory, start: int, contents: NDArray[np.uint8]) -> KernelSymbols | None:
    """Find the table in a kernel before 6.4, of which the image is given.

    There lie, each aligned to 8 bytes: an offset for each symbol, the base that they are relative
    to, the number of symbols, the names, markers, the tokens' text, and where in it each begins.
    """
    words = contents[: len(contents) // 8 * 8].view("<u8")
    # The base is the lowest symbol's address, _text, where the image begins.
    text = np.uint64(start)
    bases = np.flatnonzero(words[:-1] == text)[:_MOST_BASES]
    counts = words[bases + 1].astype(np.int64) & 0xFFFFFFFF
    offsets = bases * 8 - -(-counts * 4 // 8) * 8
    likely = (counts > 1000) & (counts <= _most_symbols(kernel)) & (offsets >= 0)
    bases, counts, offsets = bases[likely], counts[likely], offsets[likely]
    for table_at, _, tokens in _token_tables(contents):
        names = bases * 8 + 16
        fit = np.flatnonzero((names < table_at) & (names >= table_at - _most_bytes(kernel)))
        for which in fit[:1].tolist():
            names_at, offsets_at = int(names[which]), int(offsets[which])
            return KernelSymbols(
                tokens,
                contents[names_at:table_at],
                contents[offsets_at : offsets_at + 4 * int(counts[which])].view("<i4"),
                start + offsets_at,
                int(text),
                0,
            )
    return None


def _by_markers(
    kernel: TableMemory, start: int, contents: NDArray[np.uint8]
) -> KernelSymbols | None:
    """Find the table in a kernel since 6.4, of which the image is given.

    There lie, each aligned to 8 bytes, in the newest to 4: the number of symbols, the names, where
    every 256th name begins, the tokens' text, where in it each begins, the offsets, and in most
    versions what they are relative to.
    """
    for table_at, index_at, tokens in _token_tables(contents):
        found = _names_before(contents, table_at)
        if found is None:
            continue
        names_at, count = found
        offsets_at = index_at + 2 * _TOKENS
        base_at = offsets_at + -(-4 * count // 8) * 8
        if count > _most_symbols(kernel) or base_at + 8 > len(contents):
            continue
        return KernelSymbols(
            tokens,
            contents[names_at:table_at],
            contents[offsets_at : offsets_at + 4 * count].view("<i4"),
            start + offsets_at,
            int(contents[base_at : base_at + 8].view("<u8")[0]),
            0,
        )
    return None


def _by_addresses(
    kernel: TableMemory, start: int, contents: NDArray[np.uint8]
) -> KernelSymbols | None:
    """Find the table in a kernel before 4.6, of which the image is given.

    There lie, each aligned to 8 bytes: an address for each symbol, the number of symbols, the
    names, markers of 8 bytes, the tokens' text, and where in it each begins.
    """
    for table_at, _, tokens in _token_tables(contents):
        found = _names_before(contents, table_at, 8)
        if found is None:
            continue
        names_at, count = found
        addresses_at = names_at - 8 - 8 * count
        if count > _most_symbols(kernel) or addresses_at < 0:
            continue
        halves = contents[addresses_at : names_at - 8].view("<i4")
        # Where each half lies plays no part: it is no offset.
        return KernelSymbols(tokens, contents[names_at:table_at], halves[::2].copy(), start, 0, 0)
    return None


def _names_before(
    contents: NDArray[np.uint8], table_at: int, width: int = 4
) -> tuple[int, int] | None:
    """Where the names begin whose markers end at a place, and how many there are.

    A marker has `width` bytes: 4, and 8 up to 4.19.
    """
    low = max(table_at - width * (_MAX_SYMBOLS // _NAMES_FOR_MARKER + 2), 0) // width * width
    if (table_at - low) % width:
        return None
    # Such as could be in a table; of 8 bytes that are none, the upper ones may be anything.
    numbers = contents[low:table_at].view(f"<u{width}")
    markers = np.minimum(numbers, np.uint32(_MAX_BYTES)).astype(np.int64)
    if len(markers) and not markers[-1]:
        markers = markers[:-1]  # to a multiple of 8
    falls = np.flatnonzero(np.diff(markers) <= 0)
    first = int(falls[-1]) + 1 if len(falls) else 0
    if len(markers) - first < 2 or markers[first]:
        return None
    end, last, count = low + width * first, int(markers[-1]), len(markers) - first
    # Behind the last marker are names of at most 256 bytes, each.
    begin = max(end - last - _NAMES_FOR_MARKER * 256 - 8, 0) // 4 * 4
    words = contents[begin : max(end - last, begin) // 4 * 4].view("<u4")
    likely = np.flatnonzero(
        (words > (count - 1) * _NAMES_FOR_MARKER) & (words <= count * _NAMES_FOR_MARKER)
    )
    tries = [
        (begin + 4 * word + size, int(words[word])) for word in likely.tolist() for size in (8, 4)
    ]
    for names_at, number in tries[::-1][:_MOST_NAMES]:
        starts, lengths = _names_in(contents[names_at:table_at].tobytes(), number)
        at_marker = (starts - 1 - (lengths >= _LONG))[::_NAMES_FOR_MARKER]
        if len(starts) == number and (at_marker == markers[first:]).all():
            return names_at, number
    return None


def _token_tables(contents: NDArray[np.uint8]) -> Iterator[tuple[int, int, list[bytes]]]:
    """Where tokens may lie: their text, the index of it, and the tokens."""
    for index_at in _token_indexes(contents):
        index = contents[index_at : index_at + 2 * _TOKENS].view("<u2")
        # The text ends less than 8 bytes before the index, with the last token.
        low = index_at - int(index[-1]) - 64
        last = contents[max(low, 0) : index_at].tobytes().rstrip(b"\0")
        end_of_text = max(low, 0) + len(last) + 1
        tail = last.rsplit(b"\0", 1)[-1]
        table_at = end_of_text - 1 - len(tail) - int(index[-1])
        if table_at < 0 or table_at % 4:
            continue
        tokens = _tokens(contents[table_at:index_at].tobytes(), index)
        if tokens is not None:
            yield table_at, index_at, tokens


def _token_indexes(contents: NDArray[np.uint8]) -> list[int]:
    """Where the index of the tokens may begin: 256 ascending small numbers, the first one 0.

    It lies behind the tokens, among which are the digits one after the other.
    """
    found: list[int] = []
    for digits in places_of(_DIGITS, contents, _MOST_INDEXES):
        start = digits // 8 * 8
        numbers = contents[start : start + _MAX_TOKENS_SIZE].view("<u2")
        at = np.arange(0, len(numbers) - _TOKENS, 2)
        at = at[numbers[at] == 0]
        for place in range(1, _TOKENS if len(at) else 0):
            step = numbers[at + place].astype(np.int64) - numbers[at + place - 1]
            at = at[(step >= 2) & (step <= _LONGEST_TOKEN)]
        found += (start + at * 2).tolist()
    return sorted(set(found))[:_MOST_INDEXES]


def places_of(text: bytes, contents: NDArray[np.uint8], limit: int) -> list[int]:
    """The first places, so many at most, where a text stands; they do not overlap."""
    found: list[int] = []
    for start in range(0, len(contents), _SEARCHED_AT_ONCE):
        part = contents[start : start + _SEARCHED_AT_ONCE + len(text) - 1].tobytes()
        place = part.find(text)
        while place >= 0:
            found.append(start + place)
            if len(found) == limit:
                return found
            place = part.find(text, place + len(text))
    return found


def kernel_image(kernel: TableMemory, start: int) -> tuple[int, NDArray[np.uint8]] | None:
    """The kernel as it lies in its own memory: first virtual address, contents; gaps are zeros.

    `start` is an address in its first 2 MiB. No more of it than could be a kernel for so much
    memory.
    """
    pages = image_frames(kernel, start)[
        : min(_MAX_CONTENTS // PAGE_SIZE, 2 * kernel.frame_count // _MAX_SHARE)
    ]
    mapped = np.flatnonzero(pages >= 0)
    if not len(mapped):
        return None
    start &= ~_ALIGNMENT
    return start, kernel.read_far(start, (int(mapped[-1]) + 1) * PAGE_SIZE)


def image_frames(kernel: TableMemory, start: int) -> NDArray[np.int64]:
    """The frame behind each page of the kernel's image, from its first one on; -1 in gaps."""
    start &= ~_ALIGNMENT
    size = min(_MAX_IMAGE, 2**64 - start)
    pages = np.arange(size // PAGE_SIZE, dtype=np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(start)
    return kernel.frames(pages)


_ALIGNMENT = 0x1FFFFF
"""The image begins at a multiple of 2 MiB."""
_MAX_IMAGE = 1 << 28
"""Bytes that a kernel may have, modules apart."""
_MAX_CONTENTS = 1 << 26
"""Bytes of it that are searched."""
_SEARCHED_AT_ONCE = 1 << 20
