"""The table of symbols that a Linux kernel carries with it, read from its memory.

Names are packed: each is a row of bytes that stand for pieces of text, the tokens (the kernel's
scripts/kallsyms.c). Since 6.0 VMCOREINFO tells where the parts of the table lie; in older kernels
they lie one behind the other and show themselves by their form.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.virtualmemory import VirtualMemory
from memory_visualizer.vmcoreinfo import VmcoreInfo

_TOKENS = 256
_MAX_SYMBOLS = 1 << 22
_MAX_BYTES = 1 << 26
_LONG = 0x80
"""In the byte that tells a name's length: seven bits of it, the next byte has more (since 6.1)."""
_KNOWN = "init_uts_ns"
"""A symbol whose address VMCOREINFO tells as well."""


@dataclass(frozen=True)
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
        for number in maybe[ends_well[self.names[last]]].tolist():
            packed = self.names[starts[number] : starts[number] + lengths[number]].tolist()
            # The first letter is the symbol's type.
            if b"".join(self.tokens[token] for token in packed)[1:] == name:
                return int(number)
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
    starts: list[int] = []
    lengths: list[int] = []
    position, end = 0, len(names) - 1
    while len(starts) < count and position < end:
        length = names[position]
        position += 1
        if length & _LONG:
            length = length & (_LONG - 1) | names[position] << 7
            position += 1
        starts.append(position)
        lengths.append(length)
        position += length
    while starts and starts[-1] + lengths[-1] > len(names):
        del starts[-1], lengths[-1]
    return np.array(starts, np.int64), np.array(lengths, np.int64)


def _addresses(offset: np.int32, place: int, base: int) -> list[int]:
    """A symbol's address, by each way in which a kernel may have stored it.

    Relative to the lowest symbol, as an unsigned number; so where negative, else absolute
    (CONFIG_KALLSYMS_ABSOLUTE_PERCPU); relative to the offset's own place (newest kernels).
    """
    number = int(offset)
    return [
        base + (number & 0xFFFFFFFF),
        base - 1 - number if number < 0 else number,
        place + number,
    ]


def read_kallsyms(kernel: VirtualMemory, info: VmcoreInfo) -> KernelSymbols | None:
    """Read the table by VMCOREINFO, else find it; None where it is not there or makes no sense."""
    table = _by_vmcoreinfo(kernel, info) or _by_form(kernel, info)
    known = info.symbol(_KNOWN)
    if table is None or known is None:
        return None
    index = table._index(_KNOWN.encode("ascii"))
    if index is None:
        return None
    ways = _addresses(table.offsets[index], table.place + 4 * index, table.base)
    if known not in ways:
        return None
    found = replace(table, shift=ways.index(known))
    found.__dict__["_layout"] = table._layout  # known already, and dear
    return found


def _by_vmcoreinfo(kernel: VirtualMemory, info: VmcoreInfo) -> KernelSymbols | None:
    parts = ("names", "num_syms", "token_table", "token_index", "offsets")
    places = [info.symbol(f"kallsyms_{part}") for part in parts]
    if None in places:
        return None
    names, count_at, table, index, offsets = (place or 0 for place in places)
    base_at = info.symbol("kallsyms_relative_base")
    count = kernel.number(count_at, 4) or 0
    base = kernel.number(base_at) if base_at else 0
    if base is None or not 0 < count <= _MAX_SYMBOLS or not 0 < table - names <= _MAX_BYTES:
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
    return [table[start:].split(b"\0", 1)[0] for start in starts]


def _by_form(kernel: VirtualMemory, info: VmcoreInfo) -> KernelSymbols | None:
    """Find the table in a kernel before 6.0.

    There lie, each aligned to 8 bytes: an offset for each symbol, the base that they are relative
    to, the number of symbols, the names, markers, the tokens' text, and where in it each begins.
    """
    image = kernel_image(kernel, info)
    if image is None:
        return None
    start, contents = image
    words = contents[: len(contents) // 8 * 8].view("<u8")
    for index_at in _token_indexes(contents):
        index = contents[index_at : index_at + 2 * _TOKENS].view("<u2")
        # The text ends less than 8 bytes before the index, with the last token.
        low = index_at - int(index[-1]) - 64
        last = contents[max(low, 0) : index_at].tobytes().rstrip(b"\0")
        end_of_text = max(low, 0) + len(last) + 1
        tail = last.rsplit(b"\0", 1)[-1]
        table_at = end_of_text - 1 - len(tail) - int(index[-1])
        if table_at < 0 or table_at % 8:
            continue
        tokens = _tokens(contents[table_at:index_at].tobytes(), index)
        if tokens is None:
            continue
        # The base is the lowest symbol's address, _text, which is aligned to 2 MiB.
        text = np.uint64((info.symbol("_stext") or 0) & ~0x1FFFFF)
        for base_word in np.flatnonzero(words[: table_at // 8] == text).tolist():
            count = int(words[base_word + 1]) & 0xFFFFFFFF
            names_at = base_word * 8 + 16
            offsets_at = base_word * 8 - -(-count * 4 // 8) * 8
            if not 1000 < count <= _MAX_SYMBOLS or offsets_at < 0 or names_at >= table_at:
                continue
            return KernelSymbols(
                tokens,
                contents[names_at:table_at],
                contents[offsets_at : offsets_at + 4 * count].view("<i4"),
                start + offsets_at,
                int(text),
                0,
            )
    return None


def _token_indexes(contents: NDArray[np.uint8]) -> list[int]:
    """Where 256 ascending small numbers begin with 0, at a multiple of 8 bytes."""
    numbers = contents[: len(contents) // 8 * 8].view("<u2")
    at = np.arange(0, len(numbers) - _TOKENS, 4)
    at = at[numbers[at] == 0]
    for place in range(1, _TOKENS):
        step = numbers[at + place].astype(np.int64) - numbers[at + place - 1]
        at = at[(step >= 2) & (step <= 64)]
    return [int(place) * 2 for place in at]


def kernel_image(kernel: VirtualMemory, info: VmcoreInfo) -> tuple[int, NDArray[np.uint8]] | None:
    """The kernel as it lies in its own memory: first virtual address, contents; gaps are zeros."""
    start = (info.symbol("_stext") or 0) & ~0x1FFFFF
    pages = image_frames(kernel, info)
    mapped = np.flatnonzero(pages >= 0)
    if not len(mapped):
        return None
    return start, kernel.read_far(start, (int(mapped[-1]) + 1) * 4096)


def image_frames(kernel: VirtualMemory, info: VmcoreInfo) -> NDArray[np.int64]:
    """The frame behind each page of the kernel's image, from its first one on; -1 in gaps."""
    start = info.symbol("_stext")
    if start is None:
        return np.empty(0, np.int64)
    start &= ~0x1FFFFF
    size = min(_MAX_IMAGE, 2**64 - start)
    pages = np.arange(size // 4096, dtype=np.uint64) * np.uint64(4096) + np.uint64(start)
    return kernel.frames(pages)


_MAX_IMAGE = 1 << 28
"""Bytes that a kernel may have, modules apart."""
