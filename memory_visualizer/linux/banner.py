"""Banners of Linux kernels, for dumps without the kernel's page tables: they name the release.

The kernel's banner is an array of characters at a multiple of 8 bytes, such as ``Linux version
6.1.0-18-amd64 (…`` (linux_banner in init/version-timestamp.c).
"""

import re
from collections import Counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.formats.base import Dump, Search, Words
from memory_visualizer.units import PAGE_SIZE

BANNER = b"Linux version "
MAX_BANNER = len(BANNER) + 65
"""The most bytes of a banner that are read for the release and the blank behind it."""
_RELEASE = re.compile(rb"[1-9][0-9]?\.[0-9]+[!-~]*(?= )")
_BEGINNING = np.frombuffer(BANNER, "<u8", 1)[0]
_KEPT_OF_BATCH = 64
"""The most banners that are kept of a batch; release() notes the others."""


_Places: TypeAlias = tuple[NDArray[np.int64], int]
"""Physical addresses of banners, and how many more there are."""


class BannerSearch(Search[_Places]):
    """Finds banners during a scan of the dump."""

    def __init__(self) -> None:
        self._places: list[NDArray[np.int64]] = []
        """Physical addresses."""
        self._left_out = 0

    @staticmethod
    def look(frames: NDArray[np.int64], words: Words) -> _Places | None:
        """Search frames, given with their contents."""
        found = np.flatnonzero(words == _BEGINNING)
        if not len(found):
            return None
        row, column = np.divmod(found[:_KEPT_OF_BATCH], words.shape[1])
        return frames[row] * PAGE_SIZE + column * 8, len(found) - len(row)

    def take(self, part: _Places) -> None:
        """Add the banners of a block."""
        places, left_out = part
        self._places.append(places)
        self._left_out += left_out

    def release(self, dump: Dump) -> str:
        """The release, such as ``6.1.0-18-amd64``, that most banners tell; empty if there is none.

        Errors as for Dump.each_block.
        """
        places = distinct(np.concatenate([np.empty(0, np.int64), *self._places]))
        limit = dump.budget.limit("banner of Linux")
        dump.budget.note("banner of Linux", len(places) - limit + self._left_out)
        places = places[:limit]
        votes = Counter(_release_at(dump, place) for place in places.tolist())
        del votes[""]
        return max(votes, key=lambda release: votes[release], default="")


def release_in(text: bytes) -> str:
    """The release that the banner at the beginning of a text tells; empty if there is no banner."""
    if not text.startswith(BANNER):
        return ""
    found = _RELEASE.match(text[:MAX_BANNER], len(BANNER))
    return found[0].decode("ascii") if found else ""


def _release_at(dump: Dump, place: int) -> str:
    frame, inside = divmod(place, PAGE_SIZE)
    return release_in(dump.read_frames(np.array([frame, frame + 1])).tobytes()[inside:])
