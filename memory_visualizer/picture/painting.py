"""The picture's pixels: one for each page frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memory_visualizer.errors import BadInputError
from memory_visualizer.picture.colouring import Colouring
from memory_visualizer.picture.folding import Plan, coarser, plan
from memory_visualizer.picture.palette import FOLD, Colour
from memory_visualizer.picture.scale import Scale, majority

MAX_PIXELS = 1 << 31
_FULL_SIZE = Scale()


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
    scale: Scale = _FULL_SIZE
    lost: float = 0.0
    """The share of the frames that have another colour than their pixel: see scale.py."""

    def image(self) -> Image.Image:
        """The picture for Pillow, in palette mode if the colours are few enough."""
        if len(self.colours) > 256:
            return Image.fromarray(np.array(self.colours, np.uint8)[self.pixels])
        image = Image.fromarray(self.pixels.astype(np.uint8, copy=False))
        image.putpalette([channel for colour in self.colours for channel in colour])
        return image

    def enlarged(self, side: int) -> "Painting":
        """The same picture with `side` by `side` pixels for each pixel."""
        if side == 1:
            return self
        left, top, right, bottom = (side * edge for edge in self.box)
        pixels = self.pixels.repeat(side, axis=0).repeat(side, axis=1)
        return replace(self, pixels=pixels, box=(left, top, right, bottom))


def paint(
    colouring: Colouring,
    layout: str = "rows",
    width: int | None = None,
    dimmed: NDArray[np.bool_] | None = None,
    holes: Sequence[tuple[int, int]] = (),
    scale: Scale = _FULL_SIZE,
) -> Painting:
    """Paint a pixel for each frame, in one of layout.LAYOUTS; `width` is that of rows in pixels.

    A pixel has the colour of its frame's swatch; for a `dimmed` frame, a pale colour of the same
    hue. `holes` are folded: see folding.plan. At another `scale`, a frame is a square of pixels, or
    a pixel has the colour of most of its frames. BadInputError if there would be more than
    MAX_PIXELS.
    """
    frames = colouring.values.size
    holes = coarser(holes, frames, scale.pages)
    planned = plan(-(-frames // scale.pages), layout, width, holes)
    planned = replace(planned, unit=scale.unit)
    _check_size(planned, scale)
    values = colouring.values
    colours = [swatch.colour for swatch in colouring.swatches]
    if dimmed is not None:
        if 2 * len(colours) > 256:
            values = values.astype(np.uint16)
        values = np.where(dimmed, values + values.dtype.type(len(colours)), values)
        colours += [pale(colour) for colour in colours]
    lost = 0.0
    if scale.pages > 1:
        # A frame that is dimmed has the value of its swatch, plus the number of all swatches.
        is_absent = np.arange(len(colours)) % len(colouring.swatches) == 0
        values, lost = majority(values, scale.pages, is_absent)
    if holes:
        if len(colours) > np.iinfo(values.dtype).max:
            values = values.astype(np.uint16)
        colours.append(FOLD)
    pixels = planned.pixels(values, len(colours) - 1)
    box = (0, 0, pixels.shape[1], pixels.shape[0])
    return Painting(pixels, tuple(colours), box, planned, scale, lost).enlarged(scale.side)


def _check_size(planned: Plan, scale: Scale) -> None:
    """Raise BadInputError if a picture would be too large."""
    height, width = planned.shape
    if height * width * scale.side**2 <= MAX_PIXELS:
        return
    smaller = [Scale(side) for side in range(scale.side - 1, 0, -1)]
    smaller += [Scale(part=1 << power) for power in range(1, 7)]
    pages = height * width * scale.pages
    fitting = [one for one in smaller if pages * one.side**2 <= MAX_PIXELS * one.pages]
    advice = f"such as --scale {fitting[0]}" if fitting else "or fold holes"
    raise BadInputError(
        f"the picture would have {width * scale.side:,} x {height * scale.side:,} pixels; choose a"
        f" smaller scale, {advice}"
    )


def pale(colour: Colour) -> Colour:
    """A pale colour of the same hue."""
    red, green, blue = (channel + (232 - channel) * 4 // 5 for channel in colour)
    return red, green, blue
