"""The picture of a page map: one pixel for each page frame, as a PNG file."""

import errno
import os
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from memory_visualizer.legend import LINE_INDEX, PANEL_SHADES, PAPER_INDEX
from memory_visualizer.pagemap import PageClass, PageMap
from memory_visualizer.palette import Colour, Palette


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


def paint(page_map: PageMap, palette: Palette, width: int | None = None) -> Image.Image:
    """Paint the page map in rows (see layout_rows) as a picture in palette mode.

    A pixel's value is its frame's PageClass.
    """
    return _palette_image(layout_rows(page_map.classes, width), _class_colours(palette))


def add_panel(picture: Image.Image, panel: NDArray[np.uint8], palette: Palette) -> Image.Image:
    """Put a panel from legend.legend_panel below a picture, whose own pixels stay as they are."""
    panel_height, width = panel.shape
    canvas = np.full((picture.height + panel_height, width), PAPER_INDEX, dtype=np.uint8)
    canvas[picture.height :] = panel
    # Hairlines round the picture, as its white and the paper are hard to tell apart.
    canvas[picture.height, : picture.width + 1] = LINE_INDEX
    canvas[: picture.height, picture.width : picture.width + 1] = LINE_INDEX
    canvas[: picture.height, : picture.width] = picture
    return _palette_image(canvas, _class_colours(palette) + PANEL_SHADES)


def write_png(path: Path, picture: Image.Image, texts: Mapping[str, str]) -> None:
    """Write a picture as a PNG file with text chunks (keyword to text).

    The file appears whole or not at all: it is written beside its place and then renamed. Same
    picture and texts, same bytes. OSError when it cannot be written.
    """
    check_target(path)
    path = path.resolve()  # a symbolic link stays one
    chunks = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        chunks.add_text(keyword, text)
    part = path.with_name(f".memory-visualizer-{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            picture.save(file, "PNG", pnginfo=chunks)
        part.replace(path)
    except OSError as error:  # name the file that was asked for, not the one beside it
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Raise OSError when a file at `path` could surely not be written.

    For whoever wants to know before the work is done. A renamed file would take the place of a
    device or a pipe, so these are refused.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is there and is not a plain file", str(path))


def _class_colours(palette: Palette) -> list[Colour]:
    return [palette[page_class] for page_class in PageClass]


def _palette_image(indexes: NDArray[np.uint8], colours: Sequence[Colour]) -> Image.Image:
    picture = Image.fromarray(indexes)
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture
