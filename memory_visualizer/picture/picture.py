"""The whole picture of a dump, with its legend or without."""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Dump
from memory_visualizer.picture.colouring import Colouring
from memory_visualizer.picture.legend import legend as legend_of
from memory_visualizer.picture.painting import Painting, paint
from memory_visualizer.printable import binary_size
from memory_visualizer.units import PAGE_SIZE

MOST_PIXELS = 1 << 31
MOST_ENTRIES = 24
"""The most entries of a legend."""


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
    """Paint the whole picture of a dump; `legend` adds the panel.

    Each frame has `scale` by `scale` pixels; the other arguments are as for `paint`. BadInputError
    if it would have more than MOST_PIXELS.
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
