"""The legend of a picture: each class with its colour, its pages and their share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memory_visualizer.pagemap import PageClass, PageMap
from memory_visualizer.palette import Colour, Palette, hex_colour
from memory_visualizer.printable import printable

if TYPE_CHECKING:
    from PIL import ImageFont

_Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"


@dataclass(frozen=True)
class LegendEntry:
    """One class of page frames in a legend."""

    page_class: PageClass
    colour: Colour
    count: int
    """Frames of the class."""
    share: float
    """Part of all frames, 0 to 1."""

    @property
    def percent(self) -> str:
        """The share to a tenth of a percent, as in ``24.1 %``."""
        return f"{100 * self.share:.1f} %"


def legend(page_map: PageMap, palette: Palette) -> list[LegendEntry]:
    """List all classes, those without frames included, in the order of PageClass."""
    total = page_map.classes.size
    return [
        LegendEntry(page_class, palette[page_class], count, count / total)
        for page_class, count in page_map.counts().items()
    ]


def legend_json(palette: Palette) -> str:
    """Write class names and colours as one JSON object, for the PNG's text chunk."""
    return json.dumps(
        {page_class.label: hex_colour(palette[page_class]) for page_class in PageClass}
    )


def legend_lines(entries: Sequence[LegendEntry], *, ansi: bool = False) -> list[str]:
    """Write the legend as text, a line for each class; `ansi` adds a swatch in true colour."""
    label_width = max(len(entry.page_class.label) for entry in entries)
    count_width = max(len(f"{entry.count:,}") for entry in entries)
    return [
        "  "
        + ("\x1b[48;2;{};{};{}m    \x1b[0m  ".format(*entry.colour) if ansi else "")
        + f"{hex_colour(entry.colour)}  {entry.page_class.label:<{label_width}}"
        + f"  {entry.count:>{count_width},}  {entry.percent:>7}"
        for entry in entries
    ]


# The panel's text is smoothed: these shades, paper to ink, follow the classes' colours in the
# picture's palette. Sixteen colours in all still make a PNG of four bits a pixel.
_PAPER, _INK, _SHADE_COUNT = (247, 247, 245), (28, 30, 34), 16 - len(PageClass)
PANEL_SHADES: list[Colour] = [
    (
        _PAPER[0] + (_INK[0] - _PAPER[0]) * n // (_SHADE_COUNT - 1),
        _PAPER[1] + (_INK[1] - _PAPER[1]) * n // (_SHADE_COUNT - 1),
        _PAPER[2] + (_INK[2] - _PAPER[2]) * n // (_SHADE_COUNT - 1),
    )
    for n in range(_SHADE_COUNT)
]
PAPER_INDEX = len(PageClass)
"""The panel's background in the picture's palette."""
LINE_INDEX = PAPER_INDEX + 3
"""The panel's hairlines in the picture's palette."""

_FULL, _MUTED, _OUTLINE = 255, 165, 110  # strengths of ink
_MIN_FONT_SIZE, _MAX_FONT_SIZE = 14, 96
_FONT_SIZES_PER_WIDTH = 64  # so that the legend of a large picture can be read with it on screen


def legend_panel(
    picture_width: int, title: str, subtitle: str, entries: Sequence[LegendEntry]
) -> NDArray[np.uint8]:
    """Draw the legend as a panel to stand below a picture.

    Returns palette indexes, shape (height, width): a class's value for its swatch, and from
    PAPER_INDEX on the PANEL_SHADES. The panel is as wide as the picture, or wider where the text
    needs it; only `title` is shortened. Both texts may hold anything: what the font does not have
    is escaped.
    """
    from PIL import ImageDraw, ImageFont  # here, since most pictures have no panel

    size = min(max(_MIN_FONT_SIZE, picture_width // _FONT_SIZES_PER_WIDTH), _MAX_FONT_SIZE)
    font, title_font = ImageFont.load_default(size), ImageFont.load_default(size * 1.3)
    subtitle = _in_font(subtitle)

    label_width = max(font.getlength(entry.page_class.label) for entry in entries)
    count_width = max(font.getlength(f"{entry.count:,}") for entry in entries)
    label_x = 1.8 * size
    count_x = label_x + label_width + 1.5 * size + count_width  # right edge, as for percent_x
    percent_x = count_x + size + font.getlength("100.0 %")

    margin, line, gap = size, 1.75 * size, 3 * size
    needed = 2 * margin + ceil(max(percent_x, font.getlength(subtitle)))
    width = max(picture_width, needed)
    inner = width - 2 * margin
    columns = min(3, int((inner + gap) // (percent_x + gap)))
    rows = ceil(len(entries) / columns)
    top = margin + 2 * line + 0.6 * size
    height = round(top + rows * line + 0.6 * margin)

    ink = Image.new("L", (width, height))
    draw = ImageDraw.Draw(ink)
    title = _shorten(_in_font(title), title_font, inner)
    draw.text((margin, margin + size), title, _FULL, title_font, "ls")
    draw.text((margin, margin + size + line), subtitle, _MUTED, font, "ls")
    swatches = []
    for n, entry in enumerate(entries):
        column, row = divmod(n, rows)
        x, baseline = margin + column * (percent_x + gap), top + row * line + size
        strength = _FULL if entry.count else _MUTED
        draw.text((x + label_x, baseline), entry.page_class.label, strength, font, "ls")
        draw.text((x + count_x, baseline), f"{entry.count:,}", strength, font, "rs")
        draw.text((x + percent_x, baseline), entry.percent, strength, font, "rs")
        left, bottom = round(x), round(baseline + 0.12 * size)
        draw.rectangle((left, bottom - size, left + size, bottom), outline=_OUTLINE)
        inside = np.s_[bottom - size + 1 : bottom, left + 1 : left + size]
        swatches.append((inside, entry.page_class))

    shade = (np.asarray(ink, dtype=np.uint16) * (_SHADE_COUNT - 1) + 127) // 255
    panel = (shade + PAPER_INDEX).astype(np.uint8)
    for inside, page_class in swatches:
        panel[inside] = page_class
    return panel


def _in_font(text: str) -> str:
    # Pillow's built-in font has ASCII and little more.
    return printable(text).encode("ascii", "backslashreplace").decode("ascii")


def _shorten(text: str, font: _Font, width: float) -> str:
    """Take out the middle of a text that is wider than `width` pixels."""
    shortened, kept = text, len(text)
    while font.getlength(shortened) > width and kept > 1:
        kept -= 1
        shortened = text[: (kept + 1) // 2] + "\N{HORIZONTAL ELLIPSIS}" + text[-(kept // 2) :]
    return shortened
