"""The picture of a dump as a file, in one call for all who write it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.opening import fingerprint
from memory_visualizer.picture.colouring import Colouring
from memory_visualizer.picture.painting import Painting
from memory_visualizer.picture.picture import picture_of, system_line, system_texts
from memory_visualizer.picture.png import texts_of, write_png
from memory_visualizer.snapshot.snapshot import Snapshot


def paint_file(
    path: Path,
    dump: Dump,
    colouring: Colouring,
    *,
    layout: str = "rows",
    width: int | None = None,
    scale: int | str = 1,
    dimmed: NDArray[np.bool_] | None = None,
    legend: bool = False,
    holes: str = "draw",
    snapshot: Snapshot | None = None,
    force: bool = False,
) -> Painting:
    """Paint a dump and write the PNG, which tells the system and the time of `snapshot`.

    `force` and OSError are as for png.write_png, the other arguments and BadInputError as for
    picture.picture_of. Returns the painted picture.
    """
    picture = picture_of(
        dump,
        colouring,
        layout=layout,
        width=width,
        scale=scale,
        dimmed=dimmed,
        legend=legend,
        holes=holes,
        system=system_line(snapshot) if snapshot else "",
    )
    system = system_texts(snapshot) if snapshot else {}
    texts = texts_of(dump, colouring, picture, fingerprint=fingerprint(dump.path), system=system)
    write_png(path, picture.image(), texts, force=force)
    return picture
