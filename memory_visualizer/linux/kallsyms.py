"""A Linux kernel's own symbol table (kallsyms), read from its memory.

Names are packed: each is a row of bytes that stand for pieces of text, the tokens (the kernel's
scripts/kallsyms.c). Since 6.0 VMCOREINFO tells the addresses of the table's parts. The parts are
contiguous, and can also be found by their form. A table is accepted if it gives the right address
for a symbol that is known from elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import places_of_text
from memory_visualizer.limits import Budget
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

_TOKENS = 256
_DIGITS = b"\0".join(b"%d" % digit for digit in range(10))
_LARGEST_TOKENS = 1 << 14
_LARGEST_COUNT = 1 << 20
_SYMBOLS_FOR_FRAME = 16
"""A kernel with a hundred thousand symbols needs more than 24 MiB to run."""
_LARGEST_NAMES = 1 << 24
_SHARE = 8
"""The names take at most this fraction of the memory, and the image twice as much."""
_ALIKE = 16
"""At most this fraction of all names have the same length and the same last letter."""
_MORE_ALIKE = 1024
_THING = "possible symbol table"
_BASES = 1 << 12
"""How many words with the base's value are tried; a kernel has one, and a few pointers to _text."""
_LONG = 0x80
"""Flag in the byte with a name's length: it has seven bits of it, the next byte has more (since
6.1)."""
_LONGEST_NAME = 256
"""The largest size of a packed name in bytes, with its length."""
_TRIED_MARKERS = 16
"""How many places are tried at which the markers may begin, the last ones first: markers are the
last numbers of the table. Without them the names are walked one by one, so nothing is lost."""
_NAMES_FOR_MARKER = 256
_LONGEST_TOKEN = 256
_BEGINNINGS = ("_stext", "_text")
"""Symbols at the beginning of the kernel's image, or near it."""
_TRIED_NAMES = 16
"""How many places are tried at which the names may begin, the last ones first: the names end right
before their markers."""


@dataclass(frozen=True, eq=False)
class KernelSymbols:
    """The symbol table, ready for queries."""

    tokens: list[bytes]
    names: NDArray[np.uint8]
    """The packed names, one after another: length, tokens."""
    offsets: NDArray[np.int32]
    """The number from which each symbol's address is computed."""
    place: int
    """Virtual address of `offsets`."""
    base: int
    """The address that `offsets` are relative to; 0 if each is relative to its own place."""
    shift: int
    """Index of this kernel's way of computing addresses, among those of _addresses."""

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """Virtual addresses of these symbols, as far as the table has them."""
        found = {}
        for name in names:
            index = self._index(name.encode("ascii"))
            if index is not None:
                found[name] = _addresses(self.offsets[index], self.place + 4 * index, self.base)[
                    self.shift
                ]
        return found

    def _index(self, name: bytes) -> int | None:
        """Number of a symbol; of several with the same name, the first."""
        starts, lengths, decoded = self._layout
        letters, last_letter = self._letters
        maybe = np.flatnonzero(decoded == len(name) + 1)
        last = np.minimum(starts[maybe] + lengths[maybe], len(self.names)) - 1
        maybe = maybe[last_letter[self.names[last]] == (name[-1] if name else -1)]
        # More names are alike than in any kernel: they were made to waste time.
        maybe = maybe[: len(decoded) // _ALIKE + _MORE_ALIKE]
        # All candidates are compared together, token by token. The first letter is the symbol's
        # type.
        fits = np.zeros((len(name) + 2, len(self.tokens)), bool)
        whole, behind_type = self._numbers
        for end in range(len(name) + 1):
            fits[0, behind_type.get(name[:end], [])] = True
            for start in range(end):
                if numbers := whole.get(name[start:end]):
                    fits[start + 1, numbers] = True
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
    def _letters(self) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """The number of letters of each token, and its last letter; -1 for a token without any."""
        last = [token[-1] if token else -1 for token in self.tokens]
        return np.array(list(map(len, self.tokens)), np.int64), np.array(last, np.int16)

    @cached_property
    def _numbers(self) -> tuple[Mapping[bytes, list[int]], Mapping[bytes, list[int]]]:
        """The numbers of tokens by their letters, and by their letters behind the first one."""
        whole: dict[bytes, list[int]] = {}
        behind_first: dict[bytes, list[int]] = {}
        for number, token in enumerate(self.tokens):
            if token:
                whole.setdefault(token, []).append(number)
                behind_first.setdefault(token[1:], []).append(number)
        return whole, behind_first

    @cached_property
    def _layout(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        """For each symbol: place of its tokens, their number, and letters when unpacked."""
        starts, lengths = _names_in(self.names.tobytes(), len(self.offsets))
        letters = np.array([len(token) for token in self.tokens], np.int32)[self.names]
        before = np.zeros(len(letters) + 1, np.int32)
        np.cumsum(letters, dtype=np.int32, out=before[1:])
        return starts, lengths, before[starts + lengths] - before[starts]


def _names_in(names: bytes, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Walk the packed names; return place and number of each name's tokens."""
    octets = np.frombuffer(names, np.uint8)
    begin = _begins_by_markers(octets, count)
    if begin is None:
        begin = np.array(_begins(names, count), np.int64)
    is_long = octets[begin] >= _LONG
    lengths = octets[begin].astype(np.int64) & (_LONG - 1)
    lengths[is_long] |= octets[begin[is_long] + 1].astype(np.int64) << 7
    return begin + 1 + is_long, lengths


def _begins_by_markers(octets: NDArray[np.uint8], count: int) -> NDArray[np.int64] | None:
    """Places of all names, by the markers behind them; each 256th name has a marker.

    The names are walked from all markers together, which is faster than one by one. None if the
    markers are not found, or a walk does not end where the next begins.
    """
    numbers = octets[: len(octets) // 4 * 4].view("<u4")
    markers = -(-count // _NAMES_FOR_MARKER)
    first = np.flatnonzero(numbers[: max(len(numbers) - markers, 0)] == 0)
    following = numbers[first + 1] if len(first) else first
    likely = (following > _NAMES_FOR_MARKER) & (following <= _NAMES_FOR_MARKER * _LONGEST_NAME)
    for place in first[likely][-_TRIED_MARKERS:][::-1].tolist():
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
    """Places of all names, walked one by one."""
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
    """The possible addresses of a symbol, by each way in which kernels store addresses.

    The ways: relative to the lowest symbol, as an unsigned number; relative if negative, otherwise
    absolute (CONFIG_KALLSYMS_ABSOLUTE_PERCPU); relative to the offset's own place (newest kernels);
    absolute, with `offset` as the lower half (up to 4.5), since all symbols lie in the uppermost 2
    GiB.
    """
    number = int(offset)
    return [
        base + (number & 0xFFFFFFFF),
        base - 1 - number if number < 0 else number,
        place + number,
        number % 2**64,
    ]


_TokenTable: TypeAlias = tuple[int, int, list[bytes]]
"""Places of the tokens' text and of its index, and the tokens."""


def read_kallsyms(
    kernel: TableMemory,
    info: VmcoreInfo,
    known: Mapping[str, Sequence[int]],
    image: Callable[[], tuple[int, NDArray[np.uint8]] | None],
) -> KernelSymbols | None:
    """Read the table by VMCOREINFO, or find it in the kernel's image.

    `known` are symbols, each with addresses of which one is right; None if no table confirms any.
    """
    table = _by_vmcoreinfo(kernel, info)
    if table and (found := _with_shift(table, known)):
        return found
    if (found_image := image()) is None:
        return None
    start, contents = found_image
    tables = list(_token_tables(contents, kernel.memory.budget))
    for by_form in (_by_form, _by_markers, _by_addresses):
        table = by_form(kernel, start, contents, tables)
        if table and (found := _with_shift(table, known)):
            return found
    return None


def _with_shift(table: KernelSymbols, known: Mapping[str, Sequence[int]]) -> KernelSymbols | None:
    """The table with the way of computing addresses that yields a known address.

    The beginning of the image counts only if the table has no other known symbol, as a table
    without data: zeros read as a table yield it, too.
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
            found.__dict__["_layout"] = table._layout  # known already, and costly to find
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
    return min(_LARGEST_COUNT, _SYMBOLS_FOR_FRAME * kernel.frame_count)


def _most_bytes(kernel: TableMemory) -> int:
    return min(_LARGEST_NAMES, kernel.frame_count * PAGE_SIZE // _SHARE)


def _by_form(
    kernel: TableMemory, start: int, contents: NDArray[np.uint8], tables: Sequence[_TokenTable]
) -> KernelSymbols | None:
    """Find the table in the image of a kernel before 6.4.

    Its parts, each aligned to 8 bytes: an offset for each symbol, the base of the offsets, the
    number of symbols, the names, markers, the tokens' text, and each token's place in the text.
    """
    words = contents[: len(contents) // 8 * 8].view("<u8")
    # The base is the address of the lowest symbol, _text, at the beginning of the image.
    text = np.uint64(start)
    bases = kernel.memory.budget.take(_THING, np.flatnonzero(words[:-1] == text), _BASES)
    counts = words[bases + 1].astype(np.int64) & 0xFFFFFFFF
    offsets = bases * 8 - -(-counts * 4 // 8) * 8
    likely = (counts > 1000) & (counts <= _most_symbols(kernel)) & (offsets >= 0)
    bases, counts, offsets = bases[likely], counts[likely], offsets[likely]
    for table_at, _, tokens in tables:
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
    kernel: TableMemory, start: int, contents: NDArray[np.uint8], tables: Sequence[_TokenTable]
) -> KernelSymbols | None:
    """Find the table in the image of a kernel since 6.4.

    Its parts, each aligned to 8 bytes, in the newest kernels to 4: the number of symbols, the
    names, the place of every 256th name, the tokens' text, each token's place in the text, the
    offsets, and in most versions their base.
    """
    for table_at, index_at, tokens in tables:
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
    kernel: TableMemory, start: int, contents: NDArray[np.uint8], tables: Sequence[_TokenTable]
) -> KernelSymbols | None:
    """Find the table in the image of a kernel before 4.6.

    Its parts, each aligned to 8 bytes: an address for each symbol, the number of symbols, the
    names, markers of 8 bytes, the tokens' text, and each token's place in the text.
    """
    for table_at, _, tokens in tables:
        found = _names_before(contents, table_at, 8)
        if found is None:
            continue
        names_at, count = found
        addresses_at = names_at - 8 - 8 * count
        if count > _most_symbols(kernel) or addresses_at < 0:
            continue
        halves = contents[addresses_at : names_at - 8].view("<i4")
        # The place does not matter here: these are not offsets.
        return KernelSymbols(tokens, contents[names_at:table_at], halves[::2].copy(), start, 0, 0)
    return None


def _names_before(
    contents: NDArray[np.uint8], table_at: int, width: int = 4
) -> tuple[int, int] | None:
    """Place and number of the names whose markers end at a place.

    A marker has `width` bytes: 4, and 8 up to 4.19.
    """
    low = max(table_at - width * (_LARGEST_COUNT // _NAMES_FOR_MARKER + 2), 0) // width * width
    if (table_at - low) % width:
        return None
    # Numbers that could be in a table; if these are not 8-byte markers, the upper halves may be
    # anything.
    numbers = contents[low:table_at].view(f"<u{width}")
    markers = np.minimum(numbers, np.uint32(_LARGEST_NAMES)).astype(np.int64)
    if len(markers) and not markers[-1]:
        markers = markers[:-1]  # padding
    falls = np.flatnonzero(np.diff(markers) <= 0)
    first = int(falls[-1]) + 1 if len(falls) else 0
    if len(markers) - first < 2 or markers[first]:
        return None
    end, last, count = low + width * first, int(markers[-1]), len(markers) - first
    # Behind the last marker there are at most 256 names, of at most 256 bytes each.
    begin = max(end - last - _NAMES_FOR_MARKER * 256 - 8, 0) // 4 * 4
    words = contents[begin : max(end - last, begin) // 4 * 4].view("<u4")
    likely = np.flatnonzero(
        (words > (count - 1) * _NAMES_FOR_MARKER) & (words <= count * _NAMES_FOR_MARKER)
    )
    tries = [
        (begin + 4 * word + size, int(words[word])) for word in likely.tolist() for size in (8, 4)
    ]
    for names_at, number in tries[::-1][:_TRIED_NAMES]:
        starts, lengths = _names_in(contents[names_at:table_at].tobytes(), number)
        at_marker = (starts - 1 - (lengths >= _LONG))[::_NAMES_FOR_MARKER]
        if len(starts) == number and (at_marker == markers[first:]).all():
            return names_at, number
    return None


def _token_tables(contents: NDArray[np.uint8], budget: Budget) -> Iterator[_TokenTable]:
    """Possible places of the tokens' text and of its index, and the tokens."""
    for index_at in _token_indexes(contents, budget):
        index = contents[index_at : index_at + 2 * _TOKENS].view("<u2")
        # The text ends with the last token, less than 8 bytes before the index.
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


def _token_indexes(contents: NDArray[np.uint8], budget: Budget) -> list[int]:
    """Possible places of the tokens' index: 256 ascending small numbers, the first of them 0.

    The index follows the tokens, which include the digits one after the other.
    """
    found: list[int] = []
    for digits in places_of(_DIGITS, contents, budget, _THING):
        start = digits // 8 * 8
        numbers = contents[start : start + _LARGEST_TOKENS].view("<u2")
        at = np.arange(0, len(numbers) - _TOKENS, 2)
        at = at[numbers[at] == 0]
        for place in range(1, _TOKENS if len(at) else 0):
            step = numbers[at + place].astype(np.int64) - numbers[at + place - 1]
            at = at[(step >= 2) & (step <= _LONGEST_TOKEN)]
        found += (start + at * 2).tolist()
    return budget.take(_THING, sorted(set(found)))


def places_of(text: bytes, contents: NDArray[np.uint8], budget: Budget, thing: str) -> list[int]:
    """The first places of a text, which do not overlap; the budget limits and notes the others."""
    limit, found, left_out, start = budget.limit(thing), list[int](), 0, 0
    if len(text) >= _LONG_TEXT:  # this way is much faster, but counts no others
        places = places_of_text(text, contents, limit)
        found = _apart(places, len(text))
        start = found[-1] + len(text) if len(places) == limit else len(contents)
    for first in range(start, len(contents), _SEARCHED_AT_ONCE):
        part = contents[first : first + _SEARCHED_AT_ONCE + len(text) - 1].tobytes()
        place = part.find(text)
        while place >= 0 and len(found) < limit:
            found.append(first + place)
            place = part.find(text, place + len(text))
        left_out += part.count(text, place) if place >= 0 else 0
    budget.note(thing, left_out)
    return found


def _apart(places: list[int], size: int) -> list[int]:
    """Ascending places without those that begin within a text of this size before them."""
    apart: list[int] = []
    for place in places:
        if not apart or place >= apart[-1] + size:
            apart.append(place)
    return apart


def kernel_image(kernel: TableMemory, start: int) -> tuple[int, NDArray[np.uint8]] | None:
    """The kernel's image in its own memory: first virtual address, contents; gaps are zeros.

    `start` is an address in its first 2 MiB. The length is limited to a plausible kernel for this
    much memory.
    """
    limit = min(_SEARCHED_BYTES, 2 * kernel.frame_count * PAGE_SIZE // _SHARE)
    pages = image_frames(kernel, start, limit)
    mapped = np.flatnonzero(pages >= 0)
    if not len(mapped):
        return None
    start &= ~_ALIGNMENT
    return start, kernel.read_far(start, (int(mapped[-1]) + 1) * PAGE_SIZE)


def image_frames(kernel: TableMemory, start: int, limit: int | None = None) -> NDArray[np.int64]:
    """The frame behind each page of the kernel's image, from the first page on; -1 in gaps.

    `limit` is a number of bytes.
    """
    start &= ~_ALIGNMENT
    size = min(_LARGEST_IMAGE if limit is None else limit, 2**64 - start)
    pages = np.arange(size // PAGE_SIZE, dtype=np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(start)
    return kernel.frames(pages)


_ALIGNMENT = 0x1FFFFF
"""The image begins at a multiple of 2 MiB."""
_LARGEST_IMAGE = 1 << 28
"""The largest size of a kernel in bytes, without modules."""
_SEARCHED_BYTES = 1 << 26
"""Bytes of the kernel that are searched."""
_LONG_TEXT = 8
_SEARCHED_AT_ONCE = 1 << 20
