"""Palettes: colours for the classes of page frames, for processes, rights and ordered scales.

In all palettes the classes form a staircase of lightness, so that they can be told apart in print
and without colour; tests/picture/test_painting.py computes their distances, also for colour
blindness.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from memory_visualizer.errors import UnknownNameError
from memory_visualizer.snapshot.pagemap import PageClass

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each, sRGB."""


@dataclass(frozen=True)
class Greys:
    """Greys for pages that belong to no process, where colours stand for processes or rights."""

    several: Colour
    """Pages of several processes."""
    kernel: Colour
    data: Colour
    zeros: Colour
    """Zeros, and other pages without anything to tell."""


@dataclass(frozen=True)
class Palette(Mapping[PageClass, Colour]):
    """The colours of all colourings; as a mapping, the colours of the classes."""

    name: str
    classes: Mapping[PageClass, Colour]
    greys: Greys
    sequence: tuple[Colour, ...]
    """Of processes or files by their size, the largest first."""
    unlinked: tuple[Colour, ...]
    """Of processes that were taken out of the system's list; far from all of `sequence`."""
    scale: tuple[Colour, ...]
    """Stops of an ordered scale, from little to much."""
    user_rights: Mapping[str, Colour]
    """Readable pages are calm, writable pages stronger, code has another hue, and writable code
    shines."""
    kernel_rights: Mapping[str, Colour]

    def __getitem__(self, page_class: PageClass) -> Colour:
        return self.classes[page_class]

    def __iter__(self) -> Iterator[PageClass]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def paper(self, colour: Colour) -> Colour:
        """The colour itself; on a dark page, that of zeros in place of one near white."""
        is_dark = max(self.greys.zeros) < _NEAR_WHITE
        return self.greys.zeros if is_dark and min(colour) >= _NEAR_WHITE else colour

    def ramp(self, steps: int, first: float = 0.0) -> list[Colour]:
        """Colours for an ordered scale; the first one is at this part of the scale."""
        colours: list[Colour] = []
        for step in range(steps):
            part = first + (1 - first) * step / max(steps - 1, 1)
            place = part * (len(self.scale) - 1)
            low = min(int(place), len(self.scale) - 2)
            colours.append(_between(self.scale[low], self.scale[low + 1], place - low))
        return colours


def _between(one: Colour, other: Colour, part: float) -> Colour:
    """A colour between two, nearer to the other the larger the part, 0 to 1."""
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


_NEAR_WHITE = 240

_LIGHT = Greys((70, 72, 78), (168, 176, 184), (222, 222, 216), (255, 255, 255))
_DARK = Greys((178, 182, 188), (84, 92, 100), (62, 62, 58), (38, 42, 50))

# Any two of these, of _UNLINKED and of the greys are at least 12 apart (CIEDE2000): each colour of
# a grid of sRGB was taken that is farthest from all before it.
_SEQUENCE: tuple[Colour, ...] = (
    (30, 120, 195), (225, 240, 0), (60, 75, 0), (255, 90, 0), (135, 15, 75), (255, 210, 255),
    (0, 255, 255), (0, 165, 75), (165, 135, 45), (15, 0, 225), (120, 60, 15), (150, 105, 180),
    (255, 210, 165), (0, 135, 135), (225, 120, 135), (150, 195, 255), (135, 255, 165),
    (210, 0, 30), (75, 60, 105), (165, 180, 135), (15, 180, 210), (255, 150, 0), (105, 120, 75),
    (0, 195, 165), (150, 90, 90), (0, 75, 120), (90, 90, 255), (180, 150, 255), (240, 195, 45),
    (105, 210, 0), (165, 120, 90), (120, 150, 0), (120, 90, 0), (255, 180, 165), (0, 105, 45),
    (135, 15, 30), (195, 135, 180), (120, 135, 180), (225, 225, 150), (180, 90, 0),
)  # fmt: skip

# The first APART_FOR_ALL are at least 12 apart also for eyes that are blind to red or green, and 10
# for eyes blind to blue, mostly by their lightness: they are the set from a grid of sRGB whose
# nearest two are farthest apart. The others were added one by one, each the farthest for these eyes
# from all colours before it, among the colours that are 12 from all of these for other eyes.
APART_FOR_ALL = 20
_SEQUENCE_COLOUR_BLIND: tuple[Colour, ...] = (
    (165, 180, 255), (45, 30, 0), (210, 150, 0), (45, 0, 180), (240, 255, 210), (0, 0, 30),
    (90, 150, 135), (135, 90, 135), (90, 120, 0), (150, 135, 180), (180, 195, 165), (90, 45, 255),
    (60, 75, 0), (240, 210, 240), (90, 120, 255), (255, 255, 0), (75, 60, 90), (45, 0, 90),
    (150, 135, 90), (255, 195, 120), (105, 75, 75), (195, 165, 180), (75, 30, 45), (120, 105, 75),
    (30, 0, 0), (210, 255, 240), (90, 75, 165), (240, 150, 120), (225, 120, 150), (45, 120, 180),
    (240, 195, 0), (0, 60, 120), (165, 15, 45), (240, 30, 30), (165, 105, 105), (150, 240, 165),
    (120, 180, 210), (120, 210, 210), (120, 120, 135), (225, 255, 135),
)  # fmt: skip

_UNLINKED: tuple[Colour, ...] = (
    (255, 0, 150), (135, 0, 135), (255, 135, 255), (210, 0, 225), (210, 0, 90), (195, 0, 135),
)  # fmt: skip

DEFAULT = Palette(
    name="default",
    classes={
        PageClass.ABSENT: (24, 26, 30),
        PageClass.BOTH: (84, 38, 112),
        # Red, cyan and white are those of this program's first version.
        PageClass.USER: (212, 70, 45),
        PageClass.KERNEL: (95, 194, 205),
        PageClass.UNUSED_DATA: (233, 214, 140),
        PageClass.UNUSED_ZERO: (255, 255, 255),
        PageClass.LEFT_OUT: (81, 90, 96),
    },
    greys=_LIGHT,
    sequence=_SEQUENCE,
    unlinked=_UNLINKED,
    # From pale to dark, so that the order is visible without colour, too.
    scale=((253, 244, 208), (250, 190, 96), (228, 98, 70), (150, 44, 110), (46, 16, 82)),
    user_rights={
        "r--": (244, 196, 160),
        "rw-": (214, 116, 52),
        "r-x": (122, 62, 160),
        "rwx": (255, 0, 110),
    },
    kernel_rights={
        "r--": (176, 214, 222),
        "rw-": (74, 150, 176),
        "r-x": (34, 66, 140),
        "rwx": (140, 0, 60),
    },
)

# Black, vermilion and sky blue are those of Okabe and Ito, "Color Universal Design" (2008). Any six
# of their colours and white are too close to one another in lightness, so violet and yellow are
# shifted until they are not.
COLOUR_BLIND = Palette(
    name="colour-blind",
    classes={
        PageClass.ABSENT: (0, 0, 0),
        PageClass.BOTH: (83, 43, 104),
        PageClass.USER: (213, 94, 0),
        PageClass.KERNEL: (86, 180, 233),
        PageClass.UNUSED_DATA: (238, 222, 120),
        PageClass.UNUSED_ZERO: (255, 255, 255),
        PageClass.LEFT_OUT: (70, 106, 86),
    },
    greys=_LIGHT,
    sequence=_SEQUENCE_COLOUR_BLIND,
    unlinked=_UNLINKED,
    # From yellow over grey to blue, as cividis (Nunez, Anderton, Renslow 2018).
    scale=((254, 232, 56), (203, 186, 105), (148, 142, 119), (86, 92, 108), (0, 32, 81)),
    user_rights={
        "r--": (240, 228, 66),
        "rw-": (230, 159, 0),
        "r-x": (120, 62, 20),
        "rwx": (255, 0, 160),
    },
    kernel_rights={
        "r--": (180, 218, 242),
        "rw-": (86, 160, 220),
        "r-x": (0, 60, 130),
        "rwx": (90, 0, 90),
    },
)

FOLD: Colour = (128, 133, 140)
"""The line that stands for a folded hole; it is no page's colour."""

PALETTES: Mapping[str, Palette] = {"default": DEFAULT, "colour-blind": COLOUR_BLIND}

NOT_FOR_STATES = (
    "the palette colour-blind does not change the colours of states and uses, which differ for all"
    " eyes as they are"
)
FOR_THE_LARGEST = (
    f"the {APART_FOR_ALL} largest processes have colours that are apart for all eyes; --pid and"
    " --name show others alone"
)
"""What the palette colour-blind offers where colours stand for processes."""
COLOURED_FOR_ALL = ("state", "use")
"""Colourings whose colours were chosen for all eyes, in one palette."""


def _on_dark(palette: Palette, **classes: Colour) -> Palette:
    """The palette on a dark page: zeros are dark, and ordered scales go from dark to pale."""
    changed = {PageClass[name]: colour for name, colour in classes.items()}
    return replace(
        palette,
        classes={**palette.classes, **changed},
        greys=_DARK,
        scale=palette.scale[::-1],
    )


DARK: Mapping[str, Palette] = {
    "default": _on_dark(
        DEFAULT,
        ABSENT=(0, 0, 0),
        UNUSED_ZERO=(38, 42, 50),
        UNUSED_DATA=(176, 158, 92),
        BOTH=(154, 92, 196),
        LEFT_OUT=(96, 106, 112),
    ),
    "colour-blind": _on_dark(
        COLOUR_BLIND,
        UNUSED_ZERO=(38, 42, 50),
        UNUSED_DATA=(196, 182, 96),
        BOTH=(132, 76, 160),
        LEFT_OUT=(92, 110, 108),
    ),
}
"""The palettes for the page in dark mode; kernel and user keep their colours."""


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
