"""The picture's pixels: one for each page frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memory_visualizer.picture.colouring import Colouring
from memory_visualizer.picture.folding import Plan, plan
from memory_visualizer.picture.palette import FOLD, Colour


@dataclass(frozen=True, eq=False)
class Painting:
    """A painted picture, not yet a file."""

    pixels: NDArray[np.unsignedinteger[Any]]
    """Shape (height, width): index in colours."""
    colours: tuple[Colour, ...]
    box: tuple[int, int, int, int]
    """The rectangle of the frames' pixels: left, top, right, bottom, the latter two exclusive."""
    plan: Plan
    """The order of the pixels in it."""

    def image(self) -> Image.Image:
        """The picture for Pillow, in palette mode if the colours are few enough."""
        if len(self.colours) > 256:
            return Image.fromarray(np.array(self.colours, np.uint8)[self.pixels])
        image = Image.fromarray(self.pixels.astype(np.uint8, copy=False))
        image.putpalette([channel for colour in self.colours for channel in colour])
        return image

    def scaled(self, scale: int) -> "Painting":
        """The same picture with `scale` by `scale` pixels for each pixel."""
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
    holes: Sequence[tuple[int, int]] = (),
) -> Painting:
    """Paint a pixel for each frame, in one of layout.LAYOUTS; `width` is that of rows.

    A pixel has the colour of its frame's swatch; for a `dimmed` frame, a pale colour of the same
    hue. `holes` are folded: see folding.plan.
    """
    planned = plan(colouring.values.size, layout, width, holes)
    values = colouring.values
    colours = [swatch.colour for swatch in colouring.swatches]
    if dimmed is not None:
        if 2 * len(colours) > 256:
            values = values.astype(np.uint16)
        values = np.where(dimmed, values + values.dtype.type(len(colours)), values)
        colours += [pale(colour) for colour in colours]
    if holes:
        if len(colours) > np.iinfo(values.dtype).max:
            values = values.astype(np.uint16)
        colours.append(FOLD)
    pixels = planned.pixels(values, len(colours) - 1)
    return Painting(pixels, tuple(colours), (0, 0, pixels.shape[1], pixels.shape[0]), planned)


def pale(colour: Colour) -> Colour:
    """The colour as seen through thick fog."""
    red, green, blue = (channel + (232 - channel) * 4 // 5 for channel in colour)
    return red, green, blue
