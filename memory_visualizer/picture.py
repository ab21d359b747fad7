"""The picture of a page map: one pixel for each page frame, as a PNG file."""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from memory_visualizer.legend import LINE_INDEX, PANEL_SHADES, PAPER_INDEX
from memory_visualizer.output import whole_file
from memory_visualizer.pagemap import PageClass, PageMap
from memory_visualizer.palette import Colour, Palette

_RUN_LENGTHS = 3
"""zlib's Z_RLE: of such pictures it makes files as small as its default does, in a third of the
time."""

DIMMED_INDEX = PAPER_INDEX + len(PANEL_SHADES)
"""Where the pale classes begin in a picture's palette."""


def layout_rows(classes: NDArray[np.uint8], width: int | None = None) -> NDArray[np.uint8]:
    """Lay the frames out in rows: the first top left, left to right, top to bottom.

    Returns shape (height, `width`), height just enough for all frames; without a width the
    smallest square that holds them. What is left after the last frame is PageClass.ABSENT.
    """
    if width is None:
        width = height = isqrt(classes.size - 1) + 1
    else:
        height = -(-classes.size // width)
    pixels = np.full(height * width, PageClass.ABSENT, dtype=np.uint8)
    pixels[: classes.size] = classes
    return pixels.reshape(height, width)


def paint(
    page_map: PageMap,
    palette: Palette,
    width: int | None = None,
    dimmed: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Paint the page map in rows (see layout_rows) as a picture in palette mode.

    A pixel's value is its frame's PageClass; that of a `dimmed` frame is DIMMED_INDEX more.
    """
    values = page_map.classes
    if dimmed is not None:
        values = np.where(dimmed, values + np.uint8(DIMMED_INDEX), values)
    return _palette_image(layout_rows(values, width), palette)


def add_panel(picture: Image.Image, panel: NDArray[np.uint8], palette: Palette) -> Image.Image:
    """Put a panel from legend.legend_panel below a picture, whose own pixels stay as they are."""
    panel_height, width = panel.shape
    canvas = np.full((picture.height + panel_height, width), PAPER_INDEX, dtype=np.uint8)
    canvas[picture.height :] = panel
    # Hairlines round the picture, as its white and the paper are hard to tell apart.
    canvas[picture.height, : picture.width + 1] = LINE_INDEX
    canvas[: picture.height, picture.width : picture.width + 1] = LINE_INDEX
    canvas[: picture.height, : picture.width] = picture
    return _palette_image(canvas, palette)


def write_png(path: Path, picture: Image.Image, texts: Mapping[str, str]) -> None:
    """Write a picture as a PNG file with text chunks (keyword to text).

    The file appears whole or not at all: it is written beside its place and then renamed. Same
    picture and texts, same bytes. OSError when it cannot be written.
    """
    with whole_file(path) as file:
        save_png(file, picture, texts)


def save_png(file: IO[bytes], picture: Image.Image, texts: Mapping[str, str]) -> None:
    """Write a picture as PNG into an open file; the rest as for write_png."""
    chunks = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        chunks.add_text(keyword, text)
    picture.save(file, "PNG", pnginfo=chunks, compress_type=_RUN_LENGTHS)


def _palette_image(indexes: NDArray[np.uint8], palette: Palette) -> Image.Image:
    """A picture of palette indexes: classes, then the panel's shades, then dimmed classes.

    Colours after the last that is used are left out.
    """
    classes = [palette[page_class] for page_class in PageClass]
    colours = [*classes, *PANEL_SHADES, *map(_pale, classes)][: int(indexes.max()) + 1]
    colours += classes[len(colours) :]
    picture = Image.fromarray(indexes)
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture


def _pale(colour: Colour) -> Colour:
    """The colour as it looks behind thick fog."""
    red, green, blue = (channel + (232 - channel) * 4 // 5 for channel in colour)
    return red, green, blue
