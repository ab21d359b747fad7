"""The legend of a picture as text: each colour with its meaning, its pages, size and share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from memory_visualizer.picture.colouring import Colouring, Swatch
from memory_visualizer.picture.palette import Colour, hex_colour
from memory_visualizer.printable import mebibytes, printable
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.units import PAGE_SIZE

_LEFT_OUT = PageClass.LEFT_OUT.label


@dataclass(frozen=True)
class LegendEntry:
    """One colour in a legend."""

    label: str
    """The meaning of the colour; may contain anything, such as the name of a process."""
    colour: Colour | None
    """None if the entry stands for several colours."""
    count: int
    """The number of frames with this colour."""
    share: float | None
    """The share of the frames that the dump holds, 0 to 1; None for frames that it does not."""

    @property
    def percent(self) -> str:
        """The share to a tenth of a percent, as in ``24.1 %``."""
        return "-" if self.share is None else f"{100 * self.share:.1f} %"

    @property
    def size(self) -> str:
        """The size of the frames, as in ``1.5 MiB``."""
        return mebibytes(self.count * PAGE_SIZE)


def legend(colouring: Colouring, limit: int | None = None) -> list[LegendEntry]:
    """The colours in their order; also colours without frames, except left-out.

    If there are more than `limit`, the general colours and the colours with the most frames are
    kept, and one more entry stands for all others.
    """
    swatches = _swatches(colouring)
    total = max(sum(count for swatch, count in swatches if _is_held(colouring, swatch)), 1)
    entries = [
        LegendEntry(
            swatch.label,
            swatch.colour,
            count,
            count / total if _is_held(colouring, swatch) else None,
        )
        for swatch, count in swatches
    ]
    if limit is None or len(entries) <= limit:
        return entries
    by_weight = sorted(
        range(len(entries)), key=lambda n: (n >= colouring.general, -entries[n].count)
    )
    kept = set(by_weight[: limit - 1])
    rest = [entry for n, entry in enumerate(entries) if n not in kept]
    count = sum(entry.count for entry in rest)
    return [entry for n, entry in enumerate(entries) if n in kept] + [
        LegendEntry(f"{len(rest):,} others", None, count, count / total)
    ]


def _is_held(colouring: Colouring, swatch: Swatch) -> bool:
    """Whether the dump holds the frames of a swatch: they are neither absent nor left out."""
    return swatch is not colouring.swatches[0] and swatch.label != _LEFT_OUT


def legend_json(colouring: Colouring) -> str:
    """Write labels and colours as one JSON object, for the PNG's text chunk."""
    return json.dumps(
        {swatch.label: hex_colour(swatch.colour) for swatch, _ in _swatches(colouring)}
    )


def _swatches(colouring: Colouring) -> list[tuple[Swatch, int]]:
    """The swatches with their frames; left-out only if the dump leaves frames out."""
    counted = zip(colouring.swatches, colouring.counts(), strict=True)
    return [
        (swatch, count)
        for swatch, count in counted
        if count or not (colouring.is_sparse or swatch.label == _LEFT_OUT)
    ]


def legend_lines(entries: Sequence[LegendEntry], *, ansi: bool = False) -> list[str]:
    """Write the legend as text, a line for each entry; `ansi` adds a swatch in true colour."""
    labels = [printable(entry.label) for entry in entries]
    label_width = max(map(len, labels))
    count_width = max(len(f"{entry.count:,}") for entry in entries)
    size_width = max(len(entry.size) for entry in entries)
    return [
        "  "
        + (_ansi_swatch(entry.colour) if ansi else "")
        + f"{hex_colour(entry.colour) if entry.colour else '':<7}  {label:<{label_width}}"
        + f"  {entry.count:>{count_width},}  {entry.size:>{size_width}}  {entry.percent:>7}"
        for entry, label in zip(entries, labels, strict=True)
    ]


def _ansi_swatch(colour: Colour | None) -> str:
    return "\x1b[48;2;{};{};{}m    \x1b[0m  ".format(*colour) if colour else " " * 6
