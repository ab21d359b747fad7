"""The frame of a picture: addresses on its left, title and legend below it.

It is separate from painting.py, since most pictures have no panel and fonts take time to load.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from memory_visualizer.picture.folding import BREAK_LEVELS, Fold, Plan
from memory_visualizer.picture.layout import hilbert_frames
from memory_visualizer.picture.legend import LegendEntry
from memory_visualizer.picture.painting import Painting
from memory_visualizer.picture.palette import Colour
from memory_visualizer.printable import printable

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Text is smoothed: these shades, from paper to ink, follow the picture's colours. With the six
# classes there are 16 colours in all, which still fit a PNG with four bits for each pixel.
_PAPER, _INK, _SHADE_COUNT = (247, 247, 245), (28, 30, 34), 10
SHADES: tuple[Colour, ...] = tuple(
    (
        _PAPER[0] + (_INK[0] - _PAPER[0]) * n // (_SHADE_COUNT - 1),
        _PAPER[1] + (_INK[1] - _PAPER[1]) * n // (_SHADE_COUNT - 1),
        _PAPER[2] + (_INK[2] - _PAPER[2]) * n // (_SHADE_COUNT - 1),
    )
    for n in range(_SHADE_COUNT)
)

_FULL, _MUTED, _OUTLINE = 255, 165, 110  # strengths of ink
_MIN_FONT_SIZE, _MAX_FONT_SIZE = 14, 96
_FONT_SIZES_PER_WIDTH = 64
"""So the legend is readable when the whole of a large picture is on screen."""


def add_panel(
    picture: Painting,
    title: str,
    subtitles: Sequence[str],
    entries: Sequence[LegendEntry],
) -> Painting:
    """Draw title and legend below a picture, and physical addresses on its left.

    The picture's own pixels stay unchanged, at the top right; the panel's colours, SHADES, follow
    the picture's. Texts may contain anything: characters that the font lacks are escaped; a long
    title is shortened.
    """
    height, width = picture.pixels.shape
    size = min(max(_MIN_FONT_SIZE, width // _FONT_SIZES_PER_WIDTH), _MAX_FONT_SIZE)
    side = picture.scale.side
    marks = ticks(picture.plan, (height // side, width // side), side, size)
    left = _ruler(marks, height, size)
    below, swatches = _legend_panel(left.shape[1] + width, size, title, subtitles, entries)

    ink = np.zeros((height + below.shape[0], below.shape[1]), np.uint8)
    ink[:height, : left.shape[1]] = left
    ink[height:] = below
    # Hairlines surround the picture, since its white and the paper are hard to tell apart.
    right = left.shape[1] + width
    ink[height, left.shape[1] : right + 1] = _OUTLINE
    ink[:height, right : right + 1] = _OUTLINE
    if left.shape[1]:
        ink[: height + 1, left.shape[1] - 1] = _OUTLINE

    colours = [*picture.colours, *SHADES]
    shade = (ink.astype(np.uint16) * (_SHADE_COUNT - 1) + 127) // 255 + len(picture.colours)
    pixels: NDArray[np.unsignedinteger[Any]] = shade
    if len(colours) <= 256:
        pixels = shade.astype(np.uint8)
    pixels[:height, left.shape[1] : right] = picture.pixels
    for (top, bottom, start, end), colour in swatches:
        pixels[height + top : height + bottom, start:end] = colours.index(colour)
    return replace(
        picture, pixels=pixels, colours=tuple(colours), box=(left.shape[1], 0, right, height)
    )


def ticks(plan: Plan, shape: tuple[int, int], scale: int, font_size: int) -> list[tuple[int, str]]:
    """The marks on the left: row of pixels, and label.

    `shape` is the picture's height and width in frames. A label is a physical address; in the
    layout `rows` it is round, and its frame lies in the row. Along Hilbert's curve the marks divide
    the picture's left edge into squares, each of which is one stretch of memory: the label is the
    lowest address in the square. A folded hole has its address and its size.
    """
    height, width = shape
    gap = ceil(3 * font_size / scale)  # the least number of rows between two marks
    if height <= gap:
        return []
    if plan.layout == "hilbert":
        return _marks_on_curve(plan, height, 1 << (gap - 1).bit_length(), scale)
    step = 1 << (gap * width - 1).bit_length()
    frame = np.arange(0, plan.frame_count, step)
    row = plan.place_of(frame) // width
    folded = plan.frame_at(plan.place_of(frame)) != frame
    breaks = [(fold.line // width, _fold_label(fold, plan.unit)) for fold in plan.folds]
    marks = [
        (at, f"{pfn * plan.unit:#x}")
        for at, pfn in zip(row[~folded].tolist(), frame[~folded].tolist(), strict=True)
        if all(abs(at - other) >= gap for other, _ in breaks)
    ]
    return [(at * scale, label) for at, label in sorted([*marks, *breaks])]


def _marks_on_curve(plan: Plan, height: int, side: int, scale: int) -> list[tuple[int, str]]:
    """The marks of squares with this side, a power of two, along the left edge, and of folds."""
    row = np.arange(0, height, side, dtype=np.int64)
    order = (height - 1).bit_length()
    first = hilbert_frames(np.zeros_like(row), row, order) // (side * side) * (side * side)
    frame = plan.frame_at(first)
    tops = _tops_on_curve(plan, order)
    labels = [_fold_label(fold, plan.unit) for fold in plan.folds]
    breaks = list(zip(tops, labels, strict=True))
    marks = [
        (at, f"{pfn * plan.unit:#x}")
        for at, pfn in zip(row.tolist(), frame.tolist(), strict=True)
        if pfn >= 0 and all(abs(at - other) >= side for other, _ in breaks)
    ]
    return [(at * scale, label) for at, label in sorted([*marks, *breaks])]


def _tops_on_curve(plan: Plan, order: int) -> list[int]:
    """The topmost row of each break's line, which is one square."""
    if not plan.folds:
        return []
    coarse = min(order, BREAK_LEVELS)
    y, x = np.indices((1 << coarse, 1 << coarse), np.int64)
    top = np.empty(1 << 2 * coarse, np.int64)
    top[hilbert_frames(x, y, coarse)] = y << (order - coarse)
    line = np.array([fold.line for fold in plan.folds])
    tops: list[int] = top[line >> 2 * (order - coarse)].tolist()
    return tops


def _fold_label(fold: Fold, unit: int) -> str:
    size = fold.count * unit / 2**20
    words = f"{size:.0f} MiB" if size < 1000 else f"{size / 1024:.1f} GiB"
    return f"{fold.first * unit:#x} {words} absent"


def _ruler(marks: list[tuple[int, str]], height: int, size: int) -> NDArray[np.uint8]:
    """The ink of the addresses on the left, shape (height, some width).

    A label hangs below its mark, or below the label before it. One that finds no room above the
    picture's end is left out; its mark stays.
    """
    if not marks:
        return np.zeros((height, 0), np.uint8)
    font = ImageFont.load_default(size)
    labels = [label for _, label in marks]
    text_width = ceil(max(font.getlength(label) for label in labels))
    mark = max(4, size // 2)
    width = size // 2 + text_width + size // 3 + mark
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    line, free = ceil(1.2 * size), 0
    for row, label in marks:
        draw.line((width - mark, row, width, row), fill=_OUTLINE)
        top = max(min(row, height - line), free)
        if top + line <= height:
            draw.text((width - mark - size // 3, top), label, _MUTED, font, "ra")
            free = top + line
    return np.asarray(image)


def _legend_panel(
    picture_width: int,
    size: int,
    title: str,
    subtitles: Sequence[str],
    entries: Sequence[LegendEntry],
) -> tuple[NDArray[np.uint8], list[tuple[tuple[int, int, int, int], Colour]]]:
    """The ink of title and legend, shape (height, width), and the swatches to be filled.

    The panel is as wide as the picture, or wider if the text needs it.
    """
    font, title_font = ImageFont.load_default(size), ImageFont.load_default(size * 1.3)
    subtitles = [shortened(in_font(text), font, 72 * size) for text in subtitles]
    labels = [shortened(in_font(entry.label), font, 24 * size) for entry in entries]

    label_width = max(font.getlength(label) for label in labels)
    count_width = max(font.getlength(f"{entry.count:,}") for entry in entries)
    label_x = 1.8 * size
    count_x = label_x + label_width + 1.5 * size + count_width  # right edge, as for those below
    size_x = count_x + size + max(font.getlength(entry.size) for entry in entries)
    percent_x = size_x + size + font.getlength("100.0 %")

    margin, line, gap = size, 1.75 * size, 1.5 * size  # the least gap between columns
    needed = 2 * margin + ceil(max(percent_x, *map(font.getlength, subtitles)))
    width = max(picture_width + 1, needed)
    inner = width - 2 * margin
    columns = min(3, int((inner + gap) // (percent_x + gap)))
    rows = ceil(len(entries) / columns)
    gap = min(3 * size, (inner - columns * percent_x) / max(columns - 1, 1))
    top = margin + (1 + len(subtitles)) * line + 0.6 * size
    height = round(top + rows * line + 0.6 * margin)

    ink = Image.new("L", (width, height))
    draw = ImageDraw.Draw(ink)
    title = shortened(in_font(title), title_font, inner)
    draw.text((margin, margin + size), title, _FULL, title_font, "ls")
    for number, text in enumerate(subtitles, 1):
        draw.text((margin, margin + size + number * line), text, _MUTED, font, "ls")
    swatches = []
    for n, (entry, label) in enumerate(zip(entries, labels, strict=True)):
        column, row = divmod(n, rows)
        x, baseline = margin + column * (percent_x + gap), top + row * line + size
        strength = _FULL if entry.count else _MUTED
        draw.text((x + label_x, baseline), label, strength, font, "ls")
        draw.text((x + count_x, baseline), f"{entry.count:,}", strength, font, "rs")
        draw.text((x + size_x, baseline), entry.size, strength, font, "rs")
        draw.text((x + percent_x, baseline), entry.percent, strength, font, "rs")
        if entry.colour is None:
            continue
        left, bottom = round(x), round(baseline + 0.12 * size)
        draw.rectangle((left, bottom - size, left + size, bottom), outline=_OUTLINE)
        inside = (bottom - size + 1, bottom, left + 1, left + size)
        swatches.append((inside, entry.colour))
    return np.asarray(ink), swatches


def in_font(text: str) -> str:
    """A text as Pillow's built-in font can show it, which has ASCII and little more."""
    return printable(text).encode("ascii", "backslashreplace").decode("ascii")


def shortened(text: str, font: _Font, width: float) -> str:
    """Take out the middle of a text that is wider than `width` pixels."""
    short, kept = text, len(text)
    while font.getlength(short) > width and kept > 1:
        kept -= 1
        short = text[: (kept + 1) // 2] + "\N{HORIZONTAL ELLIPSIS}" + text[-(kept // 2) :]
    return short
