"""The whole picture of a dump, with its legend or without."""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import joined_runs
from memory_visualizer.errors import BadInputError, UnknownNameError
from memory_visualizer.formats.base import Dump
from memory_visualizer.picture.colouring import Colouring
from memory_visualizer.picture.folding import HOLES, long_holes_between
from memory_visualizer.picture.legend import legend as legend_of
from memory_visualizer.picture.painting import Painting, paint
from memory_visualizer.picture.scale import Scale
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

MAX_ENTRIES = 24
"""The most entries of a legend."""


def system_texts(snapshot: Snapshot) -> dict[str, str]:
    """What a picture tells of the system in its text chunks (keyword to text)."""
    texts = {"Size": str(snapshot.dump.size)}
    if snapshot.system:
        texts["System"] = printable(str(snapshot.system))
    if snapshot.time:
        texts["Creation Time"] = f"{snapshot.time:%Y-%m-%dT%H:%M:%SZ}"
    return texts


def system_line(snapshot: Snapshot) -> str:
    """The same in one line for the panel; empty if no system was found."""
    if not snapshot.system:
        return ""
    time = f", {snapshot.time:%Y-%m-%d %H:%M:%S} UTC" if snapshot.time else ""
    return f"{snapshot.system}{time}"


def picture_of(
    dump: Dump,
    colouring: Colouring,
    *,
    layout: str = "rows",
    width: int | None = None,
    scale: int | str = 1,
    dimmed: NDArray[np.bool_] | None = None,
    legend: bool = False,
    holes: str = "draw",
    system: str = "",
) -> Painting:
    """Paint the whole picture of a dump; `legend` adds the panel.

    `scale` is the side of each frame's square of pixels, or such as ``1/16``: see scale.py. Long
    holes become what `holes`, one of folding.HOLES, says. `system` is a line for the panel. The
    other arguments are as for `paint`. BadInputError if it would have more than MAX_PIXELS;
    UnknownNameError for other words in `holes` or `layout`.
    """
    if holes not in HOLES:
        raise UnknownNameError("treatment of holes", holes, HOLES)
    if width is not None and width < 1:
        raise BadInputError(f"a width must be a whole number above 0; not {width}")
    runs = joined_runs(dump.runs, dump.left_out_runs)
    folded = long_holes_between(runs) if holes == "fold" else []
    picture = paint(colouring, layout, width, dimmed, folded, Scale.of(scale))
    if not legend:
        return picture
    from memory_visualizer.picture.panel import add_panel  # fonts take time to load

    scaled = picture.scale.described(picture.lost)
    subtitle = f"{binary_size(dump.size)}, {dump.size // PAGE_SIZE:,} pages; {scaled}"
    subtitle += picture.plan.described_folds()
    if colouring.name != "class":
        subtitle += f", coloured by {colouring.name}"
    if dimmed is not None:
        subtitle += "; pale = not a page of the chosen processes"
    return add_panel(
        picture,
        dump.path.name,
        [*filter(None, [system]), subtitle],
        legend_of(colouring, MAX_ENTRIES),
    )
