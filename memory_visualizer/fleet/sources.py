"""The dumps of a fleet, by the words that name them."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory_visualizer.errors import BadInputError
from memory_visualizer.export.safenames import SafeNames


@dataclass(frozen=True)
class Source:
    """A dump that is to be analysed."""

    url: str
    """What memory_visualizer.open accepts: a path."""
    name: str
    """Its name in the run: no other dump has it, and it is safe as a folder's name."""


def expand(words: Sequence[str]) -> list[Source]:
    """The dumps that some words name: files, folders (each file in them) and glob patterns.

    The same words give the same names in each run. BadInputError if a word names no file.
    """
    paths = sorted({path for word in words for path in _files(word)})
    names = SafeNames()
    return [Source(str(path), _safe(names, path.name)) for path in paths]


def _files(word: str) -> Iterator[Path]:
    path = Path(word)
    found: Iterable[Path] = [path]
    if path.is_dir():
        found = path.iterdir()
    elif not path.exists():
        found = map(Path, glob.glob(word, recursive=True))  # noqa: PTH207 - a whole path
    files = [one.absolute() for one in found if not one.is_dir()]
    if not files:
        raise BadInputError(f"{word} names no file")
    yield from files


def _safe(names: SafeNames, text: str) -> str:
    """A name that readers of partitions take for text: it has a letter, and no %, = or /."""
    text = "".join("_" if letter in "%=/" else letter for letter in text)
    return names.path(text if any(map(str.isalpha, text)) else f"{text}_")[0]
