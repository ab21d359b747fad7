"""The system of a dump."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """An operating system, as it says of itself.

    >>> str(System("Windows", "10.0", 19041))
    'Windows 10.0.19041'
    """

    family: str
    """``Windows`` or ``Linux``."""
    version: str = ""
    """Such as ``6.1``, of Linux its release; nothing where it is not known."""
    build: int | None = None
    """Of Windows since 10, which tells it in KUSER_SHARED_DATA."""

    def __str__(self) -> str:
        build = "" if self.build is None else f".{self.build}"
        return f"{self.family} {self.version}{build}".rstrip()
