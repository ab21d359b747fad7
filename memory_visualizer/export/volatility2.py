"""The Windows profiles of Volatility 2 that fit a dump, by the dump's description of itself.

`tests/volatility2/profiletable.py` wrote the table in `volatility2profiles.json` from the profiles
of Volatility 2.6.1. KUSER_SHARED_DATA tells the version, and since Windows 10 the build; the paging
tells the kernel's bits. Nothing there tells the service pack, so several profiles may fit.
"""

import json
from functools import cache
from typing import NamedTuple

from memory_visualizer.snapshot.snapshot import Snapshot

_UNREAD_FORMATS = ("AVML", "kdump")
"""Formats that Volatility 2 cannot open, by the beginning of Dump.format."""
_BUILDS_SINCE = (10, 0)
"""Since this version KUSER_SHARED_DATA tells the build; profiles of older versions have it in their
names."""


class _Profile(NamedTuple):
    """A profile and its metadata."""

    name: str
    bits: int
    version: tuple[int, int]
    build: int


@cache
def _profiles() -> tuple[_Profile, ...]:
    from importlib.resources import files  # here, since most runs do not ask

    table = json.loads(files(__package__).joinpath("volatility2profiles.json").read_text("utf-8"))
    return tuple(
        _Profile(name, row["bits"], _version(*row["version"]), row["build"])
        for name, row in table.items()
    )


def _version(major: int, minor: int) -> tuple[int, int]:
    """The version as Windows tells it; Volatility has previews of Windows 10, which told 6.4."""
    return (10, 0) if (major, minor) == (6, 4) else (major, minor)


def profiles_for(version: tuple[int, int], build: int, bits: int) -> tuple[str, ...]:
    """The profiles for a Windows of this version and build (0: unknown), sorted by name.

    For Windows 10, the profiles of the newest build that is not newer than `build`; none for builds
    newer than all that Volatility 2 knows.
    """
    alike = [one for one in _profiles() if (one.version, one.bits) == (version, bits)]
    if version >= _BUILDS_SINCE and build:
        known = [one.build for one in alike]
        if build > max(known, default=0):
            return ()
        nearest = max((one for one in known if one <= build), default=0)
        alike = [one for one in alike if one.build == nearest]
    return tuple(one.name for one in alike)


def profiles_of(snapshot: Snapshot) -> tuple[str, ...]:
    """The profiles that fit a dump; none if Volatility 2 does not know its Windows."""
    numbers = _numbers(snapshot)
    if numbers is None or snapshot.paging is None:
        return ()
    major, minor, build = numbers
    return profiles_for((major, minor), build, 32 if snapshot.paging.address_bits == 32 else 64)


def why_unknown(snapshot: Snapshot) -> str:
    """Why Volatility 2 cannot know this dump, as the end of a sentence; empty if it may."""
    if snapshot.system is None:
        return "Windows was not found in the dump"
    if snapshot.system.family != "Windows":
        return f"the dump comes from {snapshot.system.family}, but the plugin is for Windows"
    if snapshot.dump.format.startswith(_UNREAD_FORMATS):
        return f"Volatility 2 does not read {snapshot.dump.format}"
    if _numbers(snapshot) and not profiles_of(snapshot):
        newest = max(one.build for one in _profiles())
        return (
            f"it has no profile for {snapshot.system}; it knows Windows XP to build {newest} of"
            " Windows 10"
        )
    return ""


def _numbers(snapshot: Snapshot) -> tuple[int, int, int] | None:
    """Major and minor version and build (0: unknown) of a Windows; None if unknown."""
    system = snapshot.system
    if system is None or system.family != "Windows" or not system.version:
        return None
    major, minor = map(int, system.version.split("."))
    return major, minor, system.build or 0
