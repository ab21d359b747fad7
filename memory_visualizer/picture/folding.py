"""Folds: long holes take a thin break in a picture instead of a pixel for each absent frame.

Otherwise a machine of 256 MiB with firmware below 4 GiB would be a black picture with a thin
coloured strip. The page does the same: viewer/page/folding.js.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import UnknownNameError
from memory_visualizer.picture.layout import LAYOUTS, arrange, curve_order, shape_of
from memory_visualizer.printable import binary_size, counted
from memory_visualizer.units import PAGE_SIZE

HOLES = ("fold", "draw")
"""The ways to show long holes."""

_SHORTEST = 4096
"""16 MiB: shorter holes, such as that below 1 MiB, are drawn."""
_ROWS = 4
"""A hole of fewer rows of the picture is not worth a break."""
_DASH = 2
"""Pixels of a dash, and of the gap behind it."""
BREAK_LEVELS = 4
"""Along Hilbert's curve a break's line is a square of this order: one of 16 by 16."""

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Fold:
    """A hole that is folded, and its break in the picture."""

    first: int
    """PFN of the first absent frame."""
    count: int
    """Absent frames."""
    place: int
    """The break's first place in the order of the pixels."""
    line: int
    """The first place of the part that is drawn as a line; the places before it are empty."""
    end: int
    """The place behind the break."""


def long_holes(there: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The holes that are folded: PFN of the first absent frame, and number of frames.

    `there` tells for each PFN whether the machine has the frame.
    """
    edges = np.flatnonzero(np.diff(there, prepend=True, append=True))
    return _long(edges[::2], np.diff(edges)[::2], there.size)


def long_holes_between(runs: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The same by the runs of frames that the machine has, ascending; as Dump.runs."""
    first = np.append(0, runs.sum(axis=1)[:-1])
    return _long(first, runs[:, 0] - first, int(runs[-1].sum()))


def _long(
    first: NDArray[np.int64], count: NDArray[np.int64], frame_count: int
) -> list[tuple[int, int]]:
    """The holes that are folded."""
    shortest = max(_SHORTEST, _ROWS * (isqrt(max(frame_count - 1, 0)) + 1))
    return [
        (start, frames)
        for start, frames in zip(first.tolist(), count.tolist(), strict=True)
        if frames >= shortest
    ]


def coarser(
    holes: Sequence[tuple[int, int]], frame_count: int, pages: int
) -> list[tuple[int, int]]:
    """The holes in pixels (first, and number), for a picture in which a pixel stands for pages.

    Pixels with only some pages in a hole do not belong to the hole.
    """
    if pages == 1:
        return list(holes)
    shortest = _ROWS * (isqrt(-(-frame_count // pages) - 1) + 1)
    edges = [(-(-first // pages), (first + count) // pages) for first, count in holes]
    return [(first, end - first) for first, end in edges if end - first >= shortest]


@dataclass(frozen=True)
class Plan:
    """The order of the pixels in a picture: frames, and breaks between them.

    If each pixel stands for several pages, a frame here means such a group of pages, numbered from
    0 on.
    """

    frame_count: int
    layout: str
    width: int | None
    """Pixels in a row; None if the layout itself decides."""
    is_square: bool
    """Whether rows are added until the picture is as high as it is wide."""
    folds: tuple[Fold, ...]
    """By their frames."""
    size: int
    """The number of places, for drawn frames and for breaks."""
    unit: int = PAGE_SIZE
    """Bytes of memory for each frame."""

    @property
    def shape(self) -> tuple[int, int]:
        """The picture's height and width."""
        if self.is_square and self.width:
            return self.width, self.width
        return shape_of(self.size, self.layout, self.width)

    def pixels(self, values: NDArray[_Number], line: int, beyond: int = 0) -> NDArray[_Number]:
        """Arrange values by PFN as a picture, shape (height, width); see order, layout.arrange."""
        pixels = arrange(self.order(values, line, beyond), self.layout, self.width, beyond=beyond)
        if not (self.is_square and self.width):
            return pixels
        square = np.full((self.width, self.width), beyond, pixels.dtype)
        square[: len(pixels)] = pixels
        return square

    def order(self, values: NDArray[_Number], line: int, beyond: int = 0) -> NDArray[_Number]:
        """Values by place, from values by PFN; a break's line is dashed with the value `line`."""
        if not self.folds:
            return values
        ordered = np.full(self.size, beyond, values.dtype)
        frame = place = 0
        for fold in self.folds:
            ordered[place : place + fold.first - frame] = values[frame : fold.first]
            dashes = np.arange(fold.end - fold.line) // _DASH % 2 == 0
            ordered[fold.line : fold.end][dashes] = line
            frame, place = fold.first + fold.count, fold.end
        ordered[place:] = values[frame:]
        return ordered

    def place_of(self, frame: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each frame; for a folded frame, the place of its break."""
        place = frame.copy()
        for fold in self.folds:
            end = fold.first + fold.count
            inside = (frame >= fold.first) & (frame < end)
            place[inside] = fold.line
            behind = frame >= end
            place[behind] = frame[behind] - end + fold.end
        return place

    def frame_at(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The PFN at each place; -1 in a break, and behind the last frame."""
        frame = place.copy()
        for fold in self.folds:
            behind = place >= fold.end
            frame[behind] = place[behind] - fold.end + fold.first + fold.count
            frame[(place >= fold.place) & (place < fold.end)] = -1
        frame[frame >= self.frame_count] = -1
        return frame

    def described_folds(self) -> str:
        """The folds in words, for a title; empty if there are none."""
        if not self.folds:
            return ""
        size = binary_size(sum(fold.count for fold in self.folds) * self.unit)
        return f"; dashed = {counted(len(self.folds), 'hole')}, {size}"

    def described(self) -> str:
        """The layout and its folds, for the picture's text chunk.

        Each fold is written with its first address, its bytes, and the places of its break.
        """
        folds = [
            f"fold {fold.first * self.unit:#x} {fold.count * self.unit:#x}"
            f" {fold.place} {fold.end - fold.place}"
            for fold in self.folds
        ]
        return "; ".join([self.layout, *folds])


def plan(
    frame_count: int,
    layout: str,
    width: int | None = None,
    holes: Sequence[tuple[int, int]] = (),
) -> Plan:
    """The order of a picture's pixels; `holes` are folded, as long_holes gives them.

    In rows each stretch of memory begins at the left: a break fills the rest of a row, and another
    row. The default width is that of the smallest square that holds all places. Along Hilbert's
    curve a break ends at the end of a square with a sixteenth of the picture's side.
    UnknownNameError if `layout` is not one of LAYOUTS.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    if not holes:
        return Plan(frame_count, layout, width, False, (), frame_count)
    drawn = frame_count - sum(count for _, count in holes)
    if layout == "hilbert":
        order = curve_order(drawn)
        while (found := _folded(frame_count, holes, _step_on_curve(order)))[1] > 4**order:
            order += 1
        return Plan(frame_count, layout, None, False, *found)
    if width is not None:
        return Plan(frame_count, layout, width, False, *_folded(frame_count, holes, width))
    width = _square(frame_count, holes)
    return Plan(frame_count, layout, width, True, *_folded(frame_count, holes, width))


def _step_on_curve(order: int) -> int:
    return 1 << 2 * max(0, order - BREAK_LEVELS)


def _square(frame_count: int, holes: Sequence[tuple[int, int]]) -> int:
    """The side of the smallest square of rows that holds all."""
    first, count = np.array(holes, np.int64).T
    stretches = np.append(first, frame_count) - np.append(0, first + count)

    def fits(side: int) -> bool:
        return int(np.sum(-(-stretches // side))) + len(first) <= side

    # The wider the rows, the fewer there are; with a width of all frames they surely fit.
    return bisect_left(range(1, frame_count + 1), True, key=fits) + 1


def _folded(
    frame_count: int, holes: Sequence[tuple[int, int]], step: int
) -> tuple[tuple[Fold, ...], int]:
    """Folds whose breaks end at multiples of `step`, with a line of that many places at the end."""
    folds = []
    frame = place = 0
    for first, count in holes:
        start = place + first - frame
        line = -(-start // step) * step
        folds.append(Fold(first, count, start, line, line + step))
        frame, place = first + count, line + step
    return tuple(folds), place + frame_count - frame
