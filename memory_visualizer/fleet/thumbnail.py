"""A small picture of a dump, in which each pixel has the colour of most frames behind it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from memory_visualizer.output import GENERATOR
from memory_visualizer.picture.painting import Painting
from memory_visualizer.picture.png import write_png

LARGEST = 256
"""Pixels of the longer side."""


def write_thumbnail(path: Path, picture: Painting, *, force: bool = False) -> None:
    """Write a picture as PNG of at most LARGEST by LARGEST pixels. OSError as for write_png."""
    write_png(path, small(picture).image(), {"Software": GENERATOR}, force=force)


def small(picture: Painting) -> Painting:
    """The picture with one pixel for each square of pixels, by majority.

    Of equally frequent colours, the first of the palette is taken. Colours are never mixed: a
    blend of two classes could be the colour of a third.
    """
    height, width = picture.pixels.shape
    side = -(-max(height, width) // LARGEST)
    if side <= 1:
        return picture
    column = np.arange(width) // side
    colours = len(picture.colours)
    rows = []
    for top in range(0, height, side):
        band = picture.pixels[top : top + side]
        votes = np.bincount(
            (column * colours + band).ravel(), minlength=(int(column[-1]) + 1) * colours
        )
        rows.append(votes.reshape(-1, colours).argmax(axis=1))
    pixels = np.array(rows, picture.pixels.dtype)
    return replace(picture, pixels=pixels, box=(0, 0, pixels.shape[1], pixels.shape[0]))
