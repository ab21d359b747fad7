"""The class of each page, read back from a picture, and compared with the truth."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.synth import Truth


def pixels(picture: Path) -> NDArray[np.str_]:
    """Read the class of each frame's pixel by the picture's own legend."""
    with Image.open(picture) as image:
        legend: Mapping[str, str] = json.loads(image.info["Legend"])
        left, top, right, bottom = map(int, image.info["Box"].split())
        inside = image.convert("RGB").crop((left, top, right, bottom))
        colours = np.asarray(inside).reshape(-1, 3).astype(np.uint32)
    codes = colours @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    names = np.full(codes.shape, "no colour of the legend")
    for name, colour in legend.items():
        names[codes == int(colour[1:], 16)] = name
    return names


def assert_painted_truly(picture: Path, truth: Truth, owners: list[int] | None = None) -> None:
    """Compare every pixel with its page's truth, as seen from these processes.

    The default is the processes in the list, which Volatility finds.
    """
    expected = truth.classes(truth.listed if owners is None else owners)
    painted = pixels(picture)[: truth.frames]
    wrong = np.flatnonzero(painted != expected)
    examples = [(int(n), str(painted[n]), str(expected[n])) for n in wrong[:5]]
    assert not examples, f"{wrong.size} of {truth.frames} pages, such as {examples}"
