"""Two hundred small dumps of many kinds, ten of them broken, with the truth about each."""

import functools
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memory_visualizer.units import PAGE_SIZE
from tests.synth import MIB, builds, containers, forge, profiles
from tests.synth.containers import Pieces
from tests.synth.linux import forge_linux

SOUND, BROKEN = 190, 10
_PAGES = 24
"""The number of pages in a dump without a system."""


@dataclass(frozen=True)
class Expected:
    """The truth about a dump."""

    system: str | None = None
    """None without a system."""
    processes: frozenset[str] = frozenset()
    """Names of live processes, in the system's list or not; no threads of the kernel."""
    frames: int = 0
    """The number of frames that the dump holds."""
    is_broken: bool = False


Writer = Callable[[Path, Pieces], object]


def _gzipped(path: Path, pieces: Pieces) -> None:
    containers.write_lime(path, pieces)
    path.write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))


FORMATS: Mapping[str, Writer] = {
    "raw": containers.write_raw,
    "lime": containers.write_lime,
    "avml": containers.write_avml,
    "elf": containers.write_elf,
    "dmp": containers.write_crash,
    "kdump": containers.write_kdump,
    "flat": functools.partial(containers.write_kdump, flattened=True),
    "gz": _gzipped,
}


def _windows(profile: str, *, objects: bool = False) -> Callable[[Path], Expected]:
    def write(path: Path) -> Expected:
        kind = builds()[profile] if profile in builds() else profiles()[profile]
        truth = forge(path, kind, size=16 * MIB, processes=3, objects=objects)
        name = "Windows " + ".".join(map(str, kind.version))
        if kind.version == (6, 4):  # the name that Volatility gives it
            name = f"Windows 10.0.{kind.build}"
        alive = {one.name for one in truth.processes if one.eprocess and not one.exited}
        return Expected(name, frozenset(alive), 16 * MIB // PAGE_SIZE)

    return write


def _linux(path: Path) -> Expected:
    truth = forge_linux(path, processes=3, files=True)
    return Expected(
        f"Linux {truth.era.release}",
        frozenset(task.comm for task in truth.tasks if task.alive and not task.kernel_thread),
        32 * MIB // PAGE_SIZE,
    )


SYSTEMS: Mapping[str, Callable[[Path], Expected]] = {
    "xp": _windows("WinXPSP2x86"),
    "win7": _windows("Win7SP1x64"),
    "win10": _windows("Win10x64_17763", objects=True),
    "linux": _linux,
}


def write_systems(folder: Path) -> dict[str, Expected]:
    """Write a raw dump of each system; returns the truth about each by its file's name."""
    return {f"{name}.raw": write(folder / f"{name}.raw") for name, write in SYSTEMS.items()}


def write_many(folder: Path) -> dict[str, Expected]:
    """Write all dumps into an existing folder; returns the truth about each by its file's name."""
    expected = write_systems(folder)
    for name in list(expected):  # a copy of each system in another format
        contents = (folder / name).read_bytes()
        other = Path(name).with_suffix(".lime").name
        containers.write_lime(folder / other, [(0, contents)])
        expected[other] = expected[name]
    for number in range(SOUND - len(expected)):
        ending, write = list(FORMATS.items())[number % len(FORMATS)]
        name = f"noise{number}.{ending}"
        write(folder / name, [(0x1000, _noise(number))])
        held = _PAGES + (ending == "raw")  # a raw dump has page 0, too
        expected[name] = Expected(frames=held)
    for name, contents in _broken(folder).items():
        (folder / name).write_bytes(contents)
        expected[name] = Expected(is_broken=True)
    assert len(expected) == SOUND + BROKEN
    return expected


def _noise(seed: int) -> bytes:
    """Pages, of which one third holds only zeros."""
    pages = np.random.default_rng(seed).integers(256, size=(_PAGES, PAGE_SIZE), dtype=np.uint8)
    pages[::3] = 0
    return pages.tobytes()


def _broken(folder: Path) -> dict[str, bytes]:
    """Files that hold no whole dump, by name."""
    cut = {
        f"cut.{ending}": (folder / f"noise{number}.{ending}").read_bytes()[:-5000]
        for number, ending in enumerate(FORMATS)
        if ending not in ("raw", "gz")
    }
    packed = (folder / "noise7.gz").read_bytes()
    return {
        **cut,
        "cut.raw": _noise(999)[:-100],
        "cut.gz": packed[: len(packed) // 2],
        "empty.raw": b"",
        "picture.raw": b"\x89PNG\r\n\x1a\n" + _noise(998),
    }
