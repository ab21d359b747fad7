"""Pictures of the changes between dumps: one for all, or one for each dump of an animation."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from memory_visualizer.arrays import look_up
from memory_visualizer.difference.changes import Change
from memory_visualizer.difference.moment import Moment
from memory_visualizer.errors import UnknownNameError
from memory_visualizer.output import GENERATOR
from memory_visualizer.picture.colouring import Colouring, Swatch
from memory_visualizer.picture.legend import legend, legend_json
from memory_visualizer.picture.painting import Painting, paint, pale
from memory_visualizer.picture.palette import PALETTES, Colour
from memory_visualizer.picture.panel import SHADES, add_panel, in_font, shortened
from memory_visualizer.picture.png import scale_text
from memory_visualizer.picture.scale import Scale
from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.pagemap import PageClass

DEFAULT: Mapping[Change, Colour] = {
    Change.ABSENT: (24, 26, 30),
    Change.SAME: (188, 190, 194),
    Change.CONTENTS: (96, 178, 224),
    Change.FILLED: (246, 206, 70),
    Change.ZEROED: (255, 255, 255),
    Change.CLASS: (60, 160, 90),
    Change.OWNER: (48, 80, 176),
    Change.EXECUTABLE: (236, 36, 50),
    Change.ONLY_EARLIER: (150, 84, 140),
    Change.ONLY_LATER: (84, 24, 100),
}

# Black, sky blue, yellow and vermilion are those of Okabe and Ito, "Color Universal Design" (2008);
# green, blue and purple are shifted until no two colours are alike for any eyes.
COLOUR_BLIND: Mapping[Change, Colour] = {
    Change.ABSENT: (0, 0, 0),
    Change.SAME: (190, 190, 190),
    Change.CONTENTS: (86, 180, 233),
    Change.FILLED: (240, 228, 66),
    Change.ZEROED: (255, 255, 255),
    Change.CLASS: (0, 124, 90),
    Change.OWNER: (0, 72, 170),
    Change.EXECUTABLE: (213, 94, 0),
    Change.ONLY_EARLIER: (190, 110, 160),
    Change.ONLY_LATER: (96, 30, 96),
}

CHANGE_PALETTES = {"default": DEFAULT, "colour-blind": COLOUR_BLIND}
"""By the names of PALETTES."""

DARK_CHANGES: Mapping[str, Mapping[Change, Colour]] = {
    "default": {
        **DEFAULT,
        Change.ABSENT: (0, 0, 0),
        Change.SAME: (52, 56, 64),
        Change.CLASS: (63, 149, 73),
        Change.OWNER: (70, 104, 222),
        Change.ONLY_LATER: (172, 204, 218),
    },
    "colour-blind": {
        **COLOUR_BLIND,
        Change.SAME: (56, 56, 60),
        Change.CLASS: (0, 140, 100),
        Change.OWNER: (40, 100, 235),
        Change.ONLY_EARLIER: (170, 90, 150),
        Change.ONLY_LATER: (233, 164, 187),
    },
}
"""The same on a dark page: unchanged pages are dark, and changed pages are bright."""


def by_change(codes: NDArray[np.uint8], palette: str = "default") -> Colouring:
    """Colour frames by their Change, which is also the index of the swatch.

    UnknownNameError if `palette` is not one of PALETTES.
    """
    if palette not in CHANGE_PALETTES:
        raise UnknownNameError("palette", palette, CHANGE_PALETTES)
    colours = CHANGE_PALETTES[palette]
    return Colouring(
        "change", codes, tuple(Swatch(change.label, colours[change]) for change in Change)
    )


def picture_of_changes(
    codes: NDArray[np.uint8],
    title: str,
    *,
    layout: str = "rows",
    width: int | None = None,
    scale: int | str = 1,
    palette: str = "default",
    with_legend: bool = True,
    holes: Sequence[tuple[int, int]] = (),
) -> Painting:
    """Paint the Change of each frame; `title` stands above the legend; `holes` are folded.

    The other arguments and errors are as for picture.picture_of.
    """
    colouring = by_change(codes, palette)
    picture = paint(colouring, layout, width, None, holes, Scale.of(scale))
    if not with_legend:
        return picture
    subtitle = f"{counted(len(codes), 'page frame')}; {picture.scale.described(picture.lost)}"
    subtitle += f"; the strongest change of each page{picture.plan.described_folds()}"
    return add_panel(picture, title, [subtitle], legend(colouring))


def change_texts(
    codes: NDArray[np.uint8], names: Sequence[str], palette: str, picture: Painting
) -> dict[str, str]:
    """The text chunks of such a picture, as by png.texts_of; `names` are the dumps' names."""
    return {
        "Software": GENERATOR,
        "Source": printable(" > ".join(names)),
        "Colours": "change",
        "Legend": legend_json(by_change(codes, palette)),
        "Layout": picture.plan.described(),
        "Box": " ".join(map(str, picture.box)),
        **scale_text(picture),
    }


# Frames of an animation

_FONT_SIZE = 14
_LEAST_WIDTH = 420
"""So that the texts have room below the picture of a small dump."""


def frame_of(
    moment: Moment,
    codes: NDArray[np.uint8] | None,
    number: str,
    frame_count: int,
    *,
    layout: str = "rows",
    width: int | None = None,
    scale: int | str = 1,
    palette: str = "default",
    holes: Sequence[tuple[int, int]] = (),
) -> Image.Image:
    """A picture of a dump in a series: its classes are pale, and the changes before it bright.

    `codes` are the Changes since the dump before, None for the first dump; `number` stands before
    its time. All frames of an animation have the same `frame_count`, and the same `holes` that are
    folded, and so the same size.
    """
    classes = moment.columns.grown(frame_count).classes
    own = PALETTES[palette]
    swatches = [Swatch(change.label, CHANGE_PALETTES[palette][change]) for change in _LIT]
    pales = [Swatch(one.label, pale(own[one]) if one else own[one]) for one in PageClass]
    values = classes
    if codes is not None:
        lit = np.pad(codes, (0, frame_count - len(codes)))
        values = np.where(lit > Change.SAME, look_up(_LIT_VALUE, lit), classes)
    colouring = Colouring("change", values, (*pales, *swatches))
    picture = paint(colouring, layout, width, None, holes, Scale.of(scale))
    time = f"{moment.time:%Y-%m-%d %H:%M:%S} UTC" if moment.time else "time not known"
    return _captioned(picture, f"{number}  {time}  {moment.name}", swatches)


_LIT = [change for change in Change if change > Change.SAME]
_LIT_VALUE = np.array(
    [len(PageClass) + _LIT.index(change) if change in _LIT else 0 for change in Change], np.uint8
)


def _captioned(picture: Painting, text: str, swatches: Sequence[Swatch]) -> Image.Image:
    """The picture with a line of text and the meaning of the bright colours below it."""
    font = ImageFont.load_default(_FONT_SIZE)
    height, row = picture.pixels.shape
    width = max(row, _LEAST_WIDTH)
    each = 2 * _FONT_SIZE + max(round(font.getlength(one.label)) for one in swatches)
    columns = max(1, (width - _FONT_SIZE) // each)
    line = round(1.6 * _FONT_SIZE)
    lines = 1 + -(-len(swatches) // columns)
    image = Image.new("RGB", (width, height + lines * line + _FONT_SIZE), SHADES[0])
    image.paste(picture.image().convert("RGB"), ((width - row) // 2, 0))
    draw = ImageDraw.Draw(image)
    top = height + _FONT_SIZE // 2
    told = shortened(in_font(text), font, width - 2 * _FONT_SIZE)
    draw.text((_FONT_SIZE, top + _FONT_SIZE), told, SHADES[-1], font, "ls")
    for place, swatch in enumerate(swatches):
        at, below = divmod(place, lines - 1)
        x, y = _FONT_SIZE + at * each, top + (1 + below) * line
        draw.rectangle((x, y + 2, x + 10, y + 12), swatch.colour, SHADES[4])
        draw.text((x + 16, y + _FONT_SIZE - 2), swatch.label, SHADES[-1], font, "ls")
    return image
