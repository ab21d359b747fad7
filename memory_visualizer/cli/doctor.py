"""The optional parts of the program: which are present, and how to get the others."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from memory_visualizer.cli.command import say
from memory_visualizer.packages import how_to_get, quoted
from memory_visualizer.printable import printable
from memory_visualizer.version import __version__

CHECKOUT = Path(__file__).resolve().parents[2]

FLEET = ("dask", "distributed", "cryptography")
"""The packages of the extra `fleet`, beside fsspec and pyarrow."""


@dataclass(frozen=True)
class Part:
    """A part that the program can use."""

    name: str
    purpose: str
    found: str | None
    """Its version or place; None if it is missing."""
    remedy: str
    """How to install it."""
    is_needed: bool = False
    """Whether the program does not work without it."""


def main(program: str) -> int:
    """List the optional parts that are present, and how to get the others; the exit code."""
    parts = examine()
    print(f"{program} {__version__}")
    names, places = ([getattr(part, field) or "-" for part in parts] for field in ("name", "found"))
    name_width, place_width = (max(map(len, texts)) for texts in (names, places))
    for part, name, place in zip(parts, names, places, strict=True):
        line = f"  {name:<{name_width}}  {printable(place):<{place_width}}  {part.purpose}"
        print(line if part.found else f"{line}: {part.remedy}")
    missing = [part.name for part in parts if part.is_needed and not part.found]
    if missing:
        sys.stdout.flush()
        say(program, f"missing, and needed: {', '.join(missing)}")
    return int(bool(missing))


def examine() -> list[Part]:
    """Look for all parts on this machine, without starting or changing anything."""
    return [
        *_needed_packages(),
        _package("lzallright", "kdump files with LZO"),
        _package("backports.zstd", "dumps packed by zstd, before Python 3.14"),
        _package("libfwnt-python", "hibernation files, Hyper-V's saved states"),
        _package("wasmtime", "entropy, faster"),
        _package("yara-x", "YARA rules"),
        _package("fsspec", "dumps behind URLs, memviz fleet"),
        _package("aiohttp", "dumps behind URLs of HTTP"),
        _package("pyarrow", "Parquet tables, Arrow"),
        _package("pandas", "DataFrames"),
        *(_package(name, "memviz fleet") for name in FLEET),
        _package("volatility3", "plugins3, for Volatility 3"),
        _program("Volatility 2", "visualizer.sh with a profile", _volatility2, _get_volatility2()),
        _program("Chromium", "the tests of the page", _chromium, "apt install chromium"),
    ]


def _needed_packages() -> list[Part]:
    python = ".".join(map(str, sys.version_info[:3]))
    return [
        Part("Python", "everything", python, "3.11 or later", is_needed=True),
        _package("numpy", "everything", is_needed=True),
        _package("pillow", "pictures", is_needed=True),
        _package("tqdm", "progress on a terminal", is_needed=True),
        _package("cramjam", "compressed AVML and kdump files", is_needed=True),
    ]


def _package(name: str, purpose: str, *, is_needed: bool = False) -> Part:
    try:
        found: str | None = version(name)
    except PackageNotFoundError:
        found = None
    return Part(name, purpose, found, how_to_get(name), is_needed)


def _program(name: str, purpose: str, find: Callable[[], str | None], remedy: str) -> Part:
    return Part(name, purpose, find(), remedy)


def _get_volatility2() -> str:
    script = CHECKOUT / "visualizer.sh"
    if not script.is_file():  # a copy that pip, pipx or uv installed
        return "visualizer.sh --setup, which is in this program's source"
    return f"{quoted(str(script))} --setup, which needs a Python 2.7 (pyenv install 2.7.18)"


def _volatility2() -> str | None:
    """The vol.py that visualizer.sh would use: the user's choice, the one in PATH, or its own."""
    own = CHECKOUT / ".venv-volatility2/bin/vol.py"
    return (
        os.environ.get("VOLATILITY")
        or shutil.which("vol.py")
        or (str(own) if own.is_file() else None)
    )


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")
