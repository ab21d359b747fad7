"""Volatility 3's physical layers as dumps."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from volatility3.framework.layers import linear, physical

from memory_visualizer.arrays import merge_runs
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import BLOCK_FRAMES, BlockWork, Dump, Words
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_Result = TypeVar("_Result")
_COMPARED = 4096
"""Bytes at each end of a file that are compared with its layer."""


class _NotOpened:
    """The part of Dump that a dump inside Volatility does not support."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Not supported: Volatility opens the file."""
        raise BadInputError(f"{path} is for Volatility 3 to open")


class MappedLayer(_NotOpened, MappedDump):
    """A layer whose pages lie uncompressed in a plain file, which is mapped and not copied."""


class ReadLayer(_NotOpened, Dump):
    """A layer that has to decode its contents, such as AVML's: it is read through Volatility."""

    def __init__(self, layer: Any, path: Path, runs: NDArray[np.int64]) -> None:
        super().__init__(path, type(layer).__name__, runs)
        self._layer = layer
        # Translation layers cache the last 512 results; large results would fill the memory.
        self._read = getattr(type(layer).read, "__wrapped__", type(layer).read)

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Pass blocks to `work` one after the other, since layers do not support threads."""
        for first, count in self.runs.tolist():
            for start in range(first, first + count, BLOCK_FRAMES):
                if within is None or start in within:
                    frames = np.arange(start, min(start + BLOCK_FRAMES, first + count))
                    yield work(frames, self._words(start, frames.size))

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Read frames through the layer, neighbours together."""
        pages = np.zeros((len(frames), PAGE_SIZE // 8), np.uint64)
        inside = (frames >= 0) & (frames < self.frame_count)
        rows = np.flatnonzero(inside & self.held[np.where(inside, frames, 0)])
        rows = rows[np.argsort(frames[rows], kind="stable")]
        if not len(rows):
            return pages
        begins = np.flatnonzero(np.diff(frames[rows], prepend=-2) != 1)
        for stretch in np.split(rows, begins[1:]):
            pages[stretch] = self._words(int(frames[stretch[0]]), len(stretch))
        return pages

    def _words(self, first: int, count: int) -> Words:
        content = self._read(self._layer, first * PAGE_SIZE, count * PAGE_SIZE, pad=True)
        return np.frombuffer(content, np.uint64).reshape(count, -1)


def open_layer(layers: Mapping[str, Any], name: str) -> Dump:
    """Open the physical layer of this name.

    A plain file with uncompressed pages is mapped; otherwise the layer reads. BadInputError if the
    layer holds no page.
    """
    layer = layers[name]
    start, length, offset, file_layer = _segments(layers, layer)
    path = _plain_file(file_layer)
    if path is not None and len(start):
        with path.open("rb") as file:
            size = file_size(file)
        extents, remarks = find_extents(path, start, length, offset, file_size=size, lenient=True)
        return MappedLayer(path, type(layer).__name__, extents, remarks=remarks)
    first = -(-start // PAGE_SIZE)
    count = (start + length) // PAGE_SIZE - first
    whole = count > 0
    if not whole.any():
        raise BadInputError(f"layer {name} holds no page of memory")
    if (first + count > MAX_FRAMES).any():
        raise BadInputError(f"layer {name} goes beyond 16 TiB, where this program stops")
    location = getattr(file_layer, "location", None) or name
    runs = merge_runs(first[whole], count[whole])
    return ReadLayer(layer, Path(url2pathname(urlparse(location).path)), runs)


def _segments(
    layers: Mapping[str, Any], layer: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Any]:
    """The segments of a layer: start, length, place in the layer below; and that layer.

    The layer below is None if it does not hold the contents unchanged.
    """
    span = layer.maximum_address + 1 - layer.minimum_address
    if not hasattr(layer, "mapping"):
        row = np.array([layer.minimum_address], np.int64)
        return row, np.array([span], np.int64), row, layer
    rows = list(layer.mapping(layer.minimum_address, span, ignore_errors=True))
    numbers = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
    below = {row[4] for row in rows}
    as_it_is = isinstance(layer, linear.LinearlyMappedLayer) and len(below) == 1
    return numbers[:, 0], numbers[:, 1], numbers[:, 2], layers[below.pop()] if as_it_is else None


def _plain_file(layer: Any) -> Path | None:
    """The file behind a layer, if it has the layer's contents; Volatility also unpacks."""
    if not isinstance(layer, physical.FileLayer):
        return None
    url = urlparse(layer.location)
    path = Path(url2pathname(url.path))
    if url.scheme != "file" or not path.is_file():
        return None
    size = layer.maximum_address + 1
    with path.open("rb") as file:
        if file_size(file) != size:
            return None
        for place in (0, max(0, size - _COMPARED)):
            file.seek(place)
            content = file.read(_COMPARED)
            if content != layer.read(place, len(content)):
                return None
    return path
