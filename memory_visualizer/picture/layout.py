"""Layouts: the place of each page frame's pixel in a picture."""

from math import isqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import UnknownNameError

LAYOUTS = ("rows", "hilbert")

_Number = TypeVar("_Number", bound=np.generic)


def arrange(
    values: NDArray[_Number], layout: str, width: int | None = None, *, beyond: int = 0
) -> NDArray[_Number]:
    """Lay out one value for each frame as a picture, shape (height, width).

    Pixels behind the last frame get the value `beyond`. `width` is for rows only. UnknownNameError
    if `layout` is not one of LAYOUTS.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    if layout == "hilbert":
        return arrange_hilbert(values, beyond=beyond)
    return arrange_rows(values, width, beyond=beyond)


def arrange_rows(
    values: NDArray[_Number], width: int | None = None, *, beyond: int = 0
) -> NDArray[_Number]:
    """Lay out in rows: the first frame top left, left to right, top to bottom.

    Without `width`, the picture is the smallest square that holds all; with it, as high as needed.

    >>> arrange_rows(np.arange(5), width=3, beyond=9)
    array([[0, 1, 2],
           [3, 4, 9]])
    """
    if width is None:
        width = height = isqrt(values.size - 1) + 1
    else:
        height = -(-values.size // width)
    pixels = np.full(height * width, beyond, dtype=values.dtype)
    pixels[: values.size] = values
    return pixels.reshape(height, width)


def arrange_hilbert(values: NDArray[_Number], *, beyond: int = 0) -> NDArray[_Number]:
    """Lay out along Hilbert's curve, on which neighbours in memory stay neighbours.

    (D. Hilbert, "Über die stetige Abbildung einer Linie auf ein Flächenstück", 1891.) The curve
    begins top left, goes down first, and would end at the top right of a square whose side is a
    power of two; the right half is left out if it has no frame.

    >>> arrange_hilbert(np.arange(16))
    array([[ 0,  1, 14, 15],
           [ 3,  2, 13, 12],
           [ 4,  7,  8, 11],
           [ 5,  6,  9, 10]])
    """
    order = curve_order(values.size)
    padded = np.full(4**order, beyond, dtype=values.dtype)
    padded[: values.size] = values
    blocks = padded.reshape(-1, 1, 1)
    # Four pieces of the curve form a piece of twice the side; all pieces of a size are made at
    # once.
    for _ in range(order):
        side = blocks.shape[1]
        first, second, third, fourth = np.moveaxis(blocks.reshape(-1, 4, side, side), 1, 0)
        blocks = np.empty((len(first), 2 * side, 2 * side), values.dtype)
        blocks[:, :side, :side] = first.transpose(0, 2, 1)
        blocks[:, side:, :side] = second
        blocks[:, side:, side:] = third
        blocks[:, :side, side:] = fourth[:, ::-1, ::-1].transpose(0, 2, 1)
    pixels: NDArray[_Number] = blocks[0]
    if 1 < values.size <= padded.size // 2:
        pixels = np.ascontiguousarray(pixels[:, : pixels.shape[1] // 2])
    return pixels


def shape_of(size: int, layout: str, width: int | None = None) -> tuple[int, int]:
    """The height and width of the picture that `arrange` makes of so many values, at least one."""
    if layout == "hilbert":
        side = 1 << curve_order(size)
        return side, side // 2 if 1 < size <= side * side // 2 else side
    side = isqrt(size - 1) + 1
    return (-(-size // width), width) if width else (side, side)


def curve_order(size: int) -> int:
    """The order of the smallest curve with so many pixels; its side has 2**order."""
    return ((size - 1).bit_length() + 1) // 2


def hilbert_frames(x: NDArray[np.int64], y: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """The PFN at each pixel of a whole square with a side of 2**order pixels."""
    frame = np.zeros(x.shape, np.int64)
    for level in reversed(range(order)):
        side = 1 << level
        right, low = (x & side) != 0, (y & side) != 0
        frame += side * side * np.where(right, np.where(low, 2, 3), np.where(low, 1, 0))
        x, y = x & (side - 1), y & (side - 1)
        turned = right & ~low
        x, y = np.where(turned, side - 1 - x, x), np.where(turned, side - 1 - y, y)
        x, y = np.where(low, x, y), np.where(low, y, x)
    return frame
