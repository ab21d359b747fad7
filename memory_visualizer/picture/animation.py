"""Animations: WebP, animated PNG or GIF, one picture for each dump."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from memory_visualizer.errors import BadInputError
from memory_visualizer.output import GENERATOR, whole_file

MILLISECONDS = 1500
"""How long each picture is shown."""
MAX_PIXELS = 1 << 24
"""The most pixels of a picture, since players keep all pictures in memory."""

_MARK = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="{GENERATOR}"/>'.encode()
"""XMP of WebP files (XMP specification, part 1), at the end of the file."""


def write_animation(path: Path, frames: Iterable[Image.Image], *, force: bool = False) -> None:
    """Write pictures of the same size, one after another, in the format of the file's ending.

    For WebP the pictures are taken one by one; for the other formats Pillow keeps all of them, or
    their differences. The file appears whole or not at all, and repeats for ever. BadInputError if
    a picture is too large; OSError as for output.whole_file.
    """
    pictures = iter(frames)
    [first] = islice(pictures, 1)
    width, height = first.size
    if width * height > MAX_PIXELS:
        raise BadInputError(
            f"the animation would have {width:,} x {height:,} pixels, but the limit is"
            f" {MAX_PIXELS:,} in all; choose a smaller --scale, such as 1/2"
        )
    with whole_file(path, force=force) as file:
        more: Iterable[Image.Image] = pictures
        options: dict[str, Any] = {"duration": MILLISECONDS, "loop": 0}
        kind = path.suffix.lower()
        if kind == ".webp":
            options |= {"lossless": True, "quality": 50, "method": 2, "xmp": _MARK}
        elif kind == ".gif":
            options |= {"comment": GENERATOR.encode()}
        else:
            more = [*pictures]  # Pillow's writer goes through them twice
            options |= {"pnginfo": _text()}
        name = {".webp": "WEBP", ".gif": "GIF"}.get(kind, "PNG")
        first.save(file, name, save_all=True, append_images=more, **options)


def _text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", GENERATOR)
    return text
