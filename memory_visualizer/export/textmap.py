"""The text page map: what the Volatility 2 plugin prints, a line for each mapping.

    (Virtual)   (Physical)    (Size)    (Kernel)
    ----------------------------------------------
    0x80400000  0x400000      0x1000    True

A number is ``0x`` and up to 16 hexadecimal digits, or up to 20 decimal ones, below 2**64. Spaces
and tabs separate the columns; everything behind the fourth is ignored. Lines that begin with
``(Virtual)`` or ``--`` and empty lines may stand anywhere, so maps can be joined with cat.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import mark_runs
from memory_visualizer.errors import DamagedInputError, reading
from memory_visualizer.formats.base import Progress
from memory_visualizer.units import PAGE_SIZE

_BLOCK_BYTES = 1 << 20  # the arrays of one block's lines then fit the processor's cache
_MAX_DIGITS = {10: 20, 16: 16}
_MAX_TOKEN = 2 + max(_MAX_DIGITS.values())
_MAX_NUMBER = np.uint64(2**64 - 1)

_DIGIT = np.full(256, 255, dtype=np.uint8)  # a digit's value by its character; 255: no digit
_DIGIT[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = range(16)
_DIGIT[np.frombuffer(b"ABCDEF", dtype=np.uint8)] = range(10, 16)


@dataclass(frozen=True, eq=False)
class Rows:
    """Mappings, a column each."""

    line: NDArray[np.int64]
    """Line number in the file, the first is 1."""
    virtual: NDArray[np.uint64]
    physical: NDArray[np.uint64]
    """Address of the first byte; a multiple of PAGE_SIZE."""
    size: NDArray[np.uint64]
    """Bytes; a positive multiple of PAGE_SIZE."""
    kernel: NDArray[np.bool_]
    """Supervisor mapping (True) or user mapping (False)."""


@dataclass(frozen=True)
class Fault:
    """Lines with something wrong."""

    line: int
    """Number of the first such line."""
    reason: str
    """The fault of the first such line, a phrase with subject and verb."""
    count: int
    """The number of such lines."""


@dataclass(frozen=True, eq=False)
class MappedFrames:
    """The frames of a dump that a text page map lists."""

    user: NDArray[np.bool_]
    """By PFN: a user mapping reaches the frame."""
    kernel: NDArray[np.bool_]
    """By PFN: a supervisor mapping reaches the frame."""
    row_count: int
    broken: Fault | None
    """Lines that are not rows; they were skipped."""
    beyond: Fault | None
    """Rows that extend beyond the dump's last frame; they were cut off there."""


def read_mapped_frames(
    stream: BinaryIO,
    name: str,
    frame_count: int,
    *,
    lenient: bool = False,
    progress: Progress | None = None,
    total_bytes: int | None = None,
) -> MappedFrames:
    """Read the text page map of a dump that has `frame_count` frames.

    Errors call the map `name`; `total_bytes` is only passed to `progress`. The memory in use
    depends on the number of frames, not on the length of the map. BadInputError when the map cannot
    be read; DamagedInputError, unless `lenient`, for the first line that is broken or extends
    beyond the dump.
    """
    user = np.zeros(frame_count, dtype=np.bool_)
    kernel = np.zeros(frame_count, dtype=np.bool_)
    row_count = done_bytes = 0
    next_line = 1
    all_broken: Fault | None = None
    all_beyond: Fault | None = None
    with reading(name):
        for block in _whole_lines(stream):
            rows, broken = parse_lines(block, next_line)
            first = (rows.physical // PAGE_SIZE).astype(np.int64)
            end = first + (rows.size // PAGE_SIZE).astype(np.int64)
            beyond = _beyond(rows, end, frame_count)
            faults = [fault for fault in (broken, beyond) if fault]
            if faults and not lenient:
                fault = min(faults, key=lambda fault: fault.line)
                raise DamagedInputError(f"{name}, line {fault.line}: {fault.reason}")
            all_broken = _join(all_broken, broken)
            all_beyond = _join(all_beyond, beyond)
            count = np.minimum(end, frame_count) - first
            for marks, chosen in ((kernel, rows.kernel), (user, ~rows.kernel)):
                inside = chosen & (count > 0)
                mark_runs(marks, first[inside], count[inside])
            row_count += rows.line.size
            next_line += block.count(b"\n")
            done_bytes += len(block)
            if progress:
                progress(done_bytes, total_bytes)
    return MappedFrames(user, kernel, row_count, all_broken, all_beyond)


def parse_lines(block: bytes, first_line: int = 1) -> tuple[Rows, Fault | None]:
    """Parse whole lines of a text page map; the last one may lack its newline.

    `first_line` is the number of the block's first line. Returns the rows, and the fault of the
    lines that are neither rows, headers, rules nor empty (None: no such line).
    """
    # With a blank before and a newline and some blanks after, every token has both its edges, and
    # reading a whole number's length ahead never leaves the array.
    text = np.frombuffer(b" " + block + b"\n" + b" " * _MAX_TOKEN, dtype=np.uint8)
    newline = text == ord("\n")
    solid = ~(newline | (text == ord(" ")) | (text == ord("\t")) | (text == ord("\r")))
    edges = np.flatnonzero(solid[1:] != solid[:-1]) + 1
    # Three empty tokens at the end ensure that the last line has four tokens, too.
    nowhere = np.full(3, len(block) + 1)
    starts = np.concatenate((edges[0::2], nowhere))
    ends = np.concatenate((edges[1::2], nowhere))

    line_starts = np.concatenate(([0], np.flatnonzero(newline)))
    first_token = np.searchsorted(edges[0::2], line_starts)
    token_count = np.diff(first_token, append=edges.size // 2)
    filled = np.flatnonzero(token_count)  # lines that are not empty
    first_token = first_token[filled]

    columns = [(starts[first_token + n], ends[first_token + n]) for n in range(4)]
    (virtual, is_virtual), (physical, is_physical), (size, is_size) = (
        _numbers(text, *column) for column in columns[:3]
    )
    kernel = _is_word(text, *columns[3], b"True")
    checks = (
        (token_count[filled] >= 4, "there are fewer than four columns"),
        (is_virtual, "the virtual address is not a number below 2**64"),
        (is_physical, "the physical address is not a number below 2**64"),
        (is_size, "the size is not a number below 2**64"),
        (physical % PAGE_SIZE == 0, f"the physical address is not a multiple of {PAGE_SIZE}"),
        (
            (size % PAGE_SIZE == 0) & (size > 0),
            f"the size is not a positive multiple of {PAGE_SIZE}",
        ),
        (
            kernel | _is_word(text, *columns[3], b"False"),
            "the fourth column is neither True nor False",
        ),
    )
    good = np.logical_and.reduce([passed for passed, _ in checks])
    bad = np.flatnonzero(~good)
    begin = columns[0][0][bad]
    bad = bad[~(_begins(text, begin, b"(Virtual)") | _begins(text, begin, b"--"))]

    line = first_line + filled
    fault = None
    if bad.size:
        reason = next(reason for passed, reason in checks if not passed[bad[0]])
        fault = Fault(int(line[bad[0]]), reason, bad.size)
    return Rows(line[good], virtual[good], physical[good], size[good], kernel[good]), fault


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Split the stream into blocks of whole lines.

    A line longer than a block loses its middle, which lies far beyond its fourth column.
    """
    rest = b""
    while chunk := stream.read(_BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield rest + chunk[:cut]
            rest = chunk[cut:]
        elif len(rest) < _BLOCK_BYTES:
            rest += chunk
    if rest:
        yield rest


def _numbers(
    text: NDArray[np.uint8], start: NDArray[np.intp], end: NDArray[np.intp]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Read the tokens ``text[start:end]`` as numbers; returns values, and which are valid."""
    hexadecimal = (text[start] == ord("0")) & (text[start + 1] | 0x20 == ord("x"))
    start = start + 2 * hexadecimal
    width = end - start
    base = np.where(hexadecimal, np.uint64(16), np.uint64(10))
    valid = (width > 0) & (width <= np.where(hexadecimal, _MAX_DIGITS[16], _MAX_DIGITS[10]))
    value = np.zeros(start.size, dtype=np.uint64)
    for column in range(min(int(width.max(initial=0)), _MAX_DIGITS[10])):
        inside = column < width
        digit = _DIGIT[text[start + column]].astype(np.uint64)
        fits = digit < base
        if column == _MAX_DIGITS[10] - 1:  # only the last decimal digit can exceed 64 bits
            fits &= value <= (_MAX_NUMBER - digit) // np.uint64(10)
        valid &= fits | ~inside
        value = np.where(inside, value * base + digit, value)
    return value, valid


def _is_word(
    text: NDArray[np.uint8], start: NDArray[np.intp], end: NDArray[np.intp], word: bytes
) -> NDArray[np.bool_]:
    matches: NDArray[np.bool_] = (end - start == len(word)) & _begins(text, start, word)
    return matches


def _begins(text: NDArray[np.uint8], start: NDArray[np.intp], word: bytes) -> NDArray[np.bool_]:
    matches: NDArray[np.bool_] = np.logical_and.reduce(
        [text[start + n] == byte for n, byte in enumerate(word)]
    )
    return matches


def _beyond(rows: Rows, end: NDArray[np.int64], frame_count: int) -> Fault | None:
    beyond = np.flatnonzero(end > frame_count)
    if beyond.size == 0:
        return None
    last_byte = int(end[beyond[0]]) * PAGE_SIZE - 1
    reason = f"the mapping reaches to {last_byte:#x}, beyond the dump's {frame_count:,} pages"
    return Fault(int(rows.line[beyond[0]]), reason, beyond.size)


def _join(earlier: Fault | None, later: Fault | None) -> Fault | None:
    if earlier and later:
        return replace(earlier, count=earlier.count + later.count)
    return earlier or later
