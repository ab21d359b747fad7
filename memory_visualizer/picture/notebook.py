"""A snapshot in a notebook: the picture with its legend."""

import base64
import io
from html import escape

from PIL import Image

from memory_visualizer.printable import printable
from memory_visualizer.snapshot.snapshot import Snapshot

_PIXEL_LIMIT = 1 << 24
"""A notebook contains its pictures: larger ones (of 64 GiB and more) are thinned out."""


def html(snapshot: Snapshot, picture: Image.Image) -> str:
    """The picture of a snapshot as HTML, with a description of the dump as alternative text."""
    data = base64.b64encode(png(picture)).decode("ascii")
    name = escape(printable(snapshot.dump.path.name))
    system = escape(printable(str(snapshot.system or "no known system")))
    text = f"{name}: {snapshot.classes.size:,} page frames, {system}"
    return (
        f'<img src="data:image/png;base64,{data}" alt="{text}" title="{text}"'
        ' style="max-width: 100%; image-rendering: pixelated">'
    )


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file, thinned out if it is too large for a notebook."""
    pixels = picture.width * picture.height
    if pixels > _PIXEL_LIMIT:
        part = (_PIXEL_LIMIT / pixels) ** 0.5
        size = (max(1, int(picture.width * part)), max(1, int(picture.height * part)))
        picture = picture.resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
