"""The index as one HTML file, with the packed data for the page's script."""

import html
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from memory_visualizer.fleet.gallery.data import Names
from memory_visualizer.leads import LEADS
from memory_visualizer.picture.palette import DARK, PALETTES, Palette, hex_colour
from memory_visualizer.printable import counted
from memory_visualizer.viewer.data import Column
from memory_visualizer.viewer.htmlfile import file_of


def document(dumps: Sequence[Mapping[str, Any]], names: Mapping[str, Names]) -> str:
    """The text of the index. `dumps` and `names` are those of gallery.data, by kind."""
    about = {
        "dumps": dumps,
        "leadKinds": LEADS,
        "colours": {kind: _colours(one["default"]) for kind, one in _SCHEMES.items()},
        "leftOut": {kind: found.left_out for kind, found in names.items() if found.left_out},
    }
    return file_of(
        "gallery.html",
        scripts=("dom", "columns", "index", "search", "gallery"),
        styles=("gallery.css",),
        about=about,
        columns={"names": _packed({kind: _grouped(found) for kind, found in names.items()})},
        parts={"title": html.escape(f"{counted(len(dumps), 'memory dump')}")},
        folder=files(__package__) / "page",
        libraries=(),
        # A page that was opened from disk has no origin of its own.
        images="'self' file: data:",
    )


_SCHEMES = {"light": PALETTES, "dark": DARK}


def _colours(palette: Palette) -> dict[str, str]:
    return {one.label: hex_colour(colour) for one, colour in palette.items()}


def _grouped(found: Names) -> dict[str, Any]:
    """Names with the number of their group; all names of a group occur in the same dumps.

    Groups save room: many names, such as those of a system's own files, occur in the same dumps.
    """
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    of_name = [
        groups.setdefault((tuple(everywhere), tuple(unlinked)), len(groups))
        for everywhere, unlinked in zip(found.dumps, found.unlinked, strict=True)
    ]
    return {
        "names": found.names,
        "group": of_name,
        "dumps": [everywhere for everywhere, _ in groups],
        "unlinked": [unlinked for _, unlinked in groups],
    }


def _packed(values: Any) -> Column:
    """JSON as a column of bytes."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return Column(len(text), 1, zlib.compress(text))
