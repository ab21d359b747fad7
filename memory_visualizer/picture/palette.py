"""Colours for the classes of page frames.

In both palettes the classes form a staircase of lightness, so that they can be told apart in print
and without colour; tests/picture/test_painting.py computes their distances, also for colour
blindness.
"""

from collections.abc import Mapping
from typing import TypeAlias

from memory_visualizer.errors import UnknownNameError
from memory_visualizer.snapshot.pagemap import PageClass

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each, sRGB."""

Palette: TypeAlias = Mapping[PageClass, Colour]

DEFAULT: Palette = {
    PageClass.ABSENT: (24, 26, 30),
    PageClass.BOTH: (84, 38, 112),
    PageClass.USER: (212, 70, 45),  # this one, the next and white as in the seed's pictures
    PageClass.KERNEL: (95, 194, 205),
    PageClass.UNUSED_DATA: (233, 214, 140),
    PageClass.UNUSED_ZERO: (255, 255, 255),
    PageClass.LEFT_OUT: (81, 90, 96),
}

# Black, vermilion and sky blue are those of Okabe and Ito, "Color Universal Design" (2008). Any six
# of their colours and white are too close to one another in lightness, so violet and yellow are
# shifted until they are not.
COLOUR_BLIND: Palette = {
    PageClass.ABSENT: (0, 0, 0),
    PageClass.BOTH: (83, 43, 104),
    PageClass.USER: (213, 94, 0),
    PageClass.KERNEL: (86, 180, 233),
    PageClass.UNUSED_DATA: (238, 222, 120),
    PageClass.UNUSED_ZERO: (255, 255, 255),
    PageClass.LEFT_OUT: (70, 106, 86),
}

FOLD: Colour = (128, 133, 140)
"""The line that stands for a folded hole; it is no page's colour."""

PALETTES: Mapping[str, Palette] = {"default": DEFAULT, "colour-blind": COLOUR_BLIND}


def palette_named(name: str) -> Palette:
    """One of PALETTES by its name; UnknownNameError if there is none."""
    if name not in PALETTES:
        raise UnknownNameError("palette", name, PALETTES)
    return PALETTES[name]


def hex_colour(colour: Colour) -> str:
    """Write a colour as ``#rrggbb``.

    >>> hex_colour((95, 194, 205))
    '#5fc2cd'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


# From pale to dark, so that the order is visible without colour, too.
_RAMP: tuple[Colour, ...] = (
    (253, 244, 208),
    (250, 190, 96),
    (228, 98, 70),
    (150, 44, 110),
    (46, 16, 82),
)


def ramp(steps: int) -> list[Colour]:
    """Colours for an ordered scale, from pale to dark."""
    colours: list[Colour] = []
    for step in range(steps):
        place = step * (len(_RAMP) - 1) / max(steps - 1, 1)
        low = min(int(place), len(_RAMP) - 2)
        part = place - low
        red, green, blue = (
            round(a + (b - a) * part) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True)
        )
        colours.append((red, green, blue))
    return colours
