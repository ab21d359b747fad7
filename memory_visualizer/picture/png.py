"""The picture as a PNG file, with its text chunks."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

from PIL import Image, PngImagePlugin

from memory_visualizer.formats.base import Dump
from memory_visualizer.output import GENERATOR, whole_file
from memory_visualizer.picture.colouring import Colouring
from memory_visualizer.picture.legend import legend_json
from memory_visualizer.picture.painting import Painting
from memory_visualizer.printable import printable

_HEAD_SIZE = 4096
"""A picture's first text chunks lie in so many bytes."""

_RUN_LENGTHS = 3
"""zlib's Z_RLE: for such pictures its files are as small as by default, in a third of the time."""


def texts_of(
    dump: Dump,
    colouring: Colouring,
    picture: Painting,
    *,
    fingerprint: str | None = None,
    system: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The text chunks of a dump's picture (keyword to text); `fingerprint` is dump.fingerprint's.

    `system` is of picture.system_texts. The first two are read before a picture is replaced: see
    output.is_own, fingerprint_in.
    """
    return {
        "Software": GENERATOR,
        **({"Fingerprint": fingerprint} if fingerprint else {}),
        **({"SHA-256": dump.sha256} if dump.sha256 else {}),
        "Source": printable(dump.path.name),
        **system,
        "Colours": colouring.name,
        "Legend": legend_json(colouring),
        "Layout": picture.plan.described(),
        "Box": " ".join(map(str, picture.box)),
        **scale_text(picture),
    }


def scale_text(picture: Painting) -> dict[str, str]:
    """The text chunk of a picture in which a pixel stands for several pages."""
    if picture.scale.pages == 1:
        return {}
    return {"Scale": f"{picture.scale}: {picture.scale.described(picture.lost)}"}


def fingerprint_in(path: Path) -> str | None:
    """The fingerprint of the dump in a picture of this program; None if it has none."""
    with path.open("rb") as file:
        found = re.search(rb"tEXtFingerprint\0([0-9a-f]{16})", file.read(_HEAD_SIZE))
    return found[1].decode("ascii") if found else None


def write_png(
    path: Path, picture: Image.Image, texts: Mapping[str, str], *, force: bool = False
) -> None:
    """Write a picture as a PNG file with text chunks (keyword to text).

    The file appears whole or not at all: it is written beside its place and then renamed. The same
    picture and texts make the same bytes. OSError when it cannot be written, or must not be
    replaced (see output.check_target).
    """
    with whole_file(path, force=force) as file:
        save_png(file, picture, texts)


def save_png(file: IO[bytes], picture: Image.Image, texts: Mapping[str, str]) -> None:
    """Write a picture as PNG into an open file; the rest as for write_png."""
    chunks = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        chunks.add_text(keyword, text)
    picture.save(file, "PNG", pnginfo=chunks, compress_type=_RUN_LENGTHS)
