"""Data with which the HTML page reads the dump's own file, once a user gives it to the page.

The page can read two files: the dump, as far as its pages lie there uncompressed, and a raw file of
the same memory, which `memviz convert` writes from any dump. It recognises both by their size and
by digests of some pages. Few pages are digested here, so that this costs nothing.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import mark_runs
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Dump, PlainPages
from memory_visualizer.formats.files import file_size
from memory_visualizer.printable import printable
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

_SAMPLES = 16
"""Pages whose digests are in the page."""
_SEEN = 1 << 12
"""Pages among which these are chosen."""


_Columns = dict[str, NDArray[Any]]


def about_file(snapshot: Snapshot) -> tuple[dict[str, Any] | None, _Columns]:
    """Facts on the dump's file for the page, and the columns of the pages' places.

    ``raw``: the least size in bytes of a raw file of the same memory. ``samples``: PFN and SHA-256
    of some pages. If pages lie uncompressed in a file, ``name`` and ``size`` tell the file,
    ``packed`` the number of other pages except zeros, and the columns the stretches of the file, by
    ascending PFN: ``plain_gap`` (frames between the end of the stretch before and this one),
    ``plain_count`` (frames), ``plain_move`` (bytes from the end of the stretch before to this one:
    even numbers are twice a distance forwards, odd numbers twice a distance backwards, less one).

    None if the dump cannot be read any more.
    """
    dump = snapshot.dump
    try:
        plain = dump.plain_pages()
        about: dict[str, Any] = {
            "raw": int(dump.runs[-1].sum()) * PAGE_SIZE,
            "samples": _samples(dump, plain, snapshot.zero),
        }
        if plain is None:
            return about, {}
        with plain.file.open("rb") as file:
            about |= {"name": printable(plain.file.name), "size": file_size(file)}
        about["packed"] = _packed(dump, plain, snapshot.zero)
    except (BadInputError, OSError, ValueError):  # moved away, or closed
        return None, {}
    return about, _columns(plain)


def _samples(
    dump: Dump, plain: PlainPages | None, zero: NDArray[np.bool_]
) -> list[tuple[int, str]]:
    """PFN and digest of pages at even distances; pages of zeros only if there are no others."""
    first, count = dump.runs.T if plain is None else (plain.first, plain.count)
    end = np.cumsum(count)
    total = int(end[-1])
    number = np.linspace(0, total - 1, min(_SEEN, total)).astype(np.int64)
    run = np.searchsorted(end, number, side="right")
    frames = first[run] + number - (end - count)[run]
    with_data = frames[~zero[frames]]
    frames = _evenly(with_data if len(with_data) else frames, _SAMPLES)
    pages = dump.read_frames(frames)
    return [
        (frame, hashlib.sha256(page.tobytes()).hexdigest())
        for frame, page in zip(frames.tolist(), pages, strict=True)
    ]


def _packed(dump: Dump, plain: PlainPages, zero: NDArray[np.bool_]) -> int:
    """The number of held frames with data that are not among the plain ones."""
    if int(plain.count.sum()) == dump.size // PAGE_SIZE:
        return 0
    is_plain = np.zeros(dump.frame_count, np.bool_)
    mark_runs(is_plain, plain.first, plain.count)
    return int(np.count_nonzero(dump.held & ~zero & ~is_plain))


def _evenly(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the numbers, at even distances."""
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers)))
    return numbers[places.astype(np.intp)]


def _columns(plain: PlainPages) -> _Columns:
    """The stretches as differences: small numbers for a common dump, which compress well."""
    end = plain.first + plain.count
    end_in_file = plain.offset + plain.count * PAGE_SIZE
    move = plain.offset - np.append(0, end_in_file[:-1])
    return {
        "plain_gap": plain.first - np.append(0, end[:-1]),
        "plain_count": plain.count,
        "plain_move": np.where(move < 0, -2 * move - 1, 2 * move),
    }
