"""The errors, as exceptions whose text is a sentence for the user."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class MemoryVisualizerError(Exception):
    """Any error that this package raises by itself."""


class BadInputError(MemoryVisualizerError):
    """An input cannot be read, or is not what it should be."""


class DamagedInputError(BadInputError):
    """A part of an input is damaged; with ``lenient=True`` the rest is still read."""


class NotWholePagesError(DamagedInputError):
    """A raw file's size is not a multiple of a page: it was cut, or begins with a header."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


class OtherProcessError(MemoryVisualizerError, ValueError):
    """A process is not of the snapshot that is asked about it."""


class MissingLibraryError(MemoryVisualizerError):
    """A needed library is not installed."""


class NotMappedError(MemoryVisualizerError):
    """A virtual address is not mapped, or the dump does not hold its page."""


class UntoldError(MemoryVisualizerError):
    """A kernel does not tell enough about itself for the question."""


class UnknownNameError(MemoryVisualizerError, ValueError):
    """A name is not the name of a colouring, layout or palette."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"{name!r} is not a {kind}; choose from: {', '.join(known)}")


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn an operating system error in the block into a BadInputError that names the input."""
    try:
        yield
    except OSError as error:
        raise BadInputError(f"cannot read {name}: {error.strerror or error}") from error
