"""Run memviz, and read the pictures that it paints."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from memory_visualizer.snapshot.pagemap import PageClass
from tests import prestarted
from tests.synth import Truth
from tests.synth.memory import PAGE_SIZE

with suppress(ImportError):  # Windows does not have it
    pass

ROOT = Path(__file__).resolve().parents[2]
LABELS = [page_class.label for page_class in PageClass]
WIDTH = 91
"""Width of the picture of 32 MiB: the smallest square that holds 8,192 pages."""
MEMVIZ = ("-m", "memory_visualizer")
ENDINGS = {"-o": ".png", "--html": ".html", "--table": ".csv", "--json": ".json", "--map": ".map"}
"""A file name's ending for each output."""


def run(
    arguments: Sequence[object],
    folder: Path,
    *,
    program: Sequence[str] = MEMVIZ,
    **options: Any,
) -> "subprocess.CompletedProcess[str]":
    """Run memviz, or a Python program that calls it, in a folder.

    With any options of subprocess, except a file or pipe as `stdout`, Python is started.
    """
    stdout: Any = options.get("stdout")
    number: int | None = stdout.fileno() if hasattr(stdout, "fileno") else stdout
    is_file = number is not None and number >= 0 and not os.isatty(number)
    if not options or (is_file and len(options) == 1):
        return prestarted.run([*program, *arguments], folder, stdout=number)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=folder,
        text=True,
        timeout=60,
        **({"env": environment()} | pipes | options),
    )


def environment(**changes: str) -> dict[str, str]:
    """The environment in which the program runs."""
    return prestarted.environment() | changes


def indexes(path: Path) -> npt.NDArray[np.uint8]:
    """Each pixel's index in the palette: the value of its class, which dimming raises."""
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture).ravel()


def colours(path: Path) -> npt.NDArray[np.uint8]:
    """Each pixel's colour, shape (height, width, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def classes_in(path: Path, frames: int) -> list[str]:
    """The class of each frame by its pixel; pixels behind the last frame are absent."""
    pixels = indexes(path)
    assert (pixels[frames:] == PageClass.ABSENT).all()
    return [LABELS[pixel] for pixel in pixels[:frames]]


def pages_of(truth: Truth, chosen: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Whether one of these processes has each frame."""
    owned = np.zeros(truth.frames, bool)
    for note in truth.mappings[np.isin(truth.mappings["owner"], list(chosen))]:
        owned[note["frame"] : note["frame"] + note["size"] // PAGE_SIZE] = True
    return owned
