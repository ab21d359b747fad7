"""The picture: one pixel for each page frame, as a PNG file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.opening import PAGE_SIZE, Dump
from memory_visualizer.output import GENERATOR, whole_file
from memory_visualizer.picture.colouring import Colouring
from memory_visualizer.picture.layout import arrange
from memory_visualizer.picture.legend import legend as legend_of
from memory_visualizer.picture.legend import legend_json
from memory_visualizer.picture.palette import Colour
from memory_visualizer.printable import binary_size, printable

MOST_PIXELS = 1 << 31
MOST_ENTRIES = 24
"""Entries of a legend, at most."""

_HEAD_SIZE = 4096
"""Bytes of a picture in which its first text chunks lie."""

_RUN_LENGTHS = 3
"""zlib's Z_RLE: of such pictures it makes files as small as its default does, in a third of the
time."""


@dataclass(frozen=True)
class Painting:
    """A picture as it is painted, not yet a file."""

    pixels: NDArray[np.unsignedinteger[Any]]
    """Shape (height, width): index in colours."""
    colours: tuple[Colour, ...]
    box: tuple[int, int, int, int]
    """Where the frames' pixels are: left, top, right, bottom, the latter two exclusive."""

    def image(self) -> Image.Image:
        """The picture for Pillow: in palette mode where the colours are few enough."""
        if len(self.colours) > 256:
            return Image.fromarray(np.array(self.colours, np.uint8)[self.pixels])
        image = Image.fromarray(self.pixels.astype(np.uint8, copy=False))
        image.putpalette([channel for colour in self.colours for channel in colour])
        return image

    def scaled(self, scale: int) -> "Painting":
        """The same with `scale` by `scale` pixels for each one."""
        if scale == 1:
            return self
        left, top, right, bottom = (scale * edge for edge in self.box)
        pixels = self.pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        return replace(self, pixels=pixels, box=(left, top, right, bottom))


def paint(
    colouring: Colouring,
    layout: str = "rows",
    width: int | None = None,
    dimmed: NDArray[np.bool_] | None = None,
) -> Painting:
    """Paint a pixel for each frame, in one of layout.LAYOUTS; `width` is that of rows.

    A pixel is its frame's swatch; that of a `dimmed` frame is a pale one of the same hue.
    """
    values = colouring.values
    colours = [swatch.colour for swatch in colouring.swatches]
    if dimmed is not None:
        if 2 * len(colours) > 256:
            values = values.astype(np.uint16)
        values = np.where(dimmed, values + values.dtype.type(len(colours)), values)
        colours += [_pale(colour) for colour in colours]
    pixels = arrange(values, layout, width)
    return Painting(pixels, tuple(colours), (0, 0, pixels.shape[1], pixels.shape[0]))


def picture_of(
    dump: Dump,
    colouring: Colouring,
    *,
    layout: str = "rows",
    width: int | None = None,
    scale: int = 1,
    dimmed: NDArray[np.bool_] | None = None,
    legend: bool = False,
) -> Painting:
    """Paint the whole picture of a dump, with the panel that has its `legend` or without.

    `scale` by `scale` pixels for each frame; the rest as for `paint`. BadInputError when it would
    have more than MOST_PIXELS.
    """
    picture = paint(colouring, layout, width, dimmed)
    height, row = (side * scale for side in picture.pixels.shape)
    if height * row > MOST_PIXELS:
        raise BadInputError(
            f"the picture would have {row:,} x {height:,} pixels; choose a smaller scale"
        )
    picture = picture.scaled(scale)
    if not legend:
        return picture
    from memory_visualizer.picture.panel import add_panel  # fonts take time to load

    one = "one pixel = one page" if scale == 1 else f"{scale} x {scale} pixels = one page"
    subtitle = f"{binary_size(dump.size)}, {dump.size // PAGE_SIZE:,} pages; {one} of 4 KiB"
    if colouring.name != "class":
        subtitle += f", coloured by {colouring.name}"
    if dimmed is not None:
        subtitle += "; pale = not a page of the chosen processes"
    return add_panel(
        picture,
        dump.path.name,
        subtitle,
        legend_of(colouring, MOST_ENTRIES),
        colouring.values.size,
        layout=layout,
        scale=scale,
    )


def texts_of(
    dump: Dump,
    colouring: Colouring,
    picture: Painting,
    layout: str,
    *,
    fingerprint: str | None = None,
) -> dict[str, str]:
    """The text chunks of a dump's picture (keyword to text); `fingerprint` is dump.fingerprint's.

    The first two are looked for before a picture is replaced: see output.is_own, fingerprint_in.
    """
    return {
        "Software": GENERATOR,
        **({"Fingerprint": fingerprint} if fingerprint else {}),
        **({"SHA-256": dump.sha256} if dump.sha256 else {}),
        "Source": printable(dump.path.name),
        "Colours": colouring.name,
        "Legend": legend_json(colouring),
        "Layout": layout,
        "Box": " ".join(map(str, picture.box)),
    }


def fingerprint_in(path: Path) -> str | None:
    """The fingerprint of the dump that a picture of this program is of; None where it has none."""
    with path.open("rb") as file:
        found = re.search(rb"tEXtFingerprint\0([0-9a-f]{16})", file.read(_HEAD_SIZE))
    return found[1].decode("ascii") if found else None


def write_png(
    path: Path, picture: Image.Image, texts: Mapping[str, str], *, force: bool = False
) -> None:
    """Write a picture as a PNG file with text chunks (keyword to text).

    The file appears whole or not at all: it is written beside its place and then renamed. Same
    picture and texts, same bytes. OSError when it cannot be written, or must not be replaced (see
    output.check_target).
    """
    with whole_file(path, force=force) as file:
        save_png(file, picture, texts)


def save_png(file: IO[bytes], picture: Image.Image, texts: Mapping[str, str]) -> None:
    """Write a picture as PNG into an open file; the rest as for write_png."""
    chunks = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        chunks.add_text(keyword, text)
    picture.save(file, "PNG", pnginfo=chunks, compress_type=_RUN_LENGTHS)


def _pale(colour: Colour) -> Colour:
    """The colour as it looks behind thick fog."""
    red, green, blue = (channel + (232 - channel) * 4 // 5 for channel in colour)
    return red, green, blue
