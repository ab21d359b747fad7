"""The system of a dump."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """An operating system, as it names itself.

    >>> str(System("Windows", "10.0", 19041))
    'Windows 10.0.19041'
    """

    family: str
    """``Windows`` or ``Linux``."""
    version: str = ""
    """Such as ``6.1``; on Linux the release; empty if unknown."""
    build: int | None = None
    """The build, which Windows tells in KUSER_SHARED_DATA since version 10; otherwise None."""

    def __str__(self) -> str:
        build = "" if self.build is None else f".{self.build}"
        return f"{self.family} {self.version}{build}".rstrip()
