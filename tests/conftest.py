"""What the tests need of the machine: found or made, else skipped or, in CI, failed."""

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""What the browser's command may be called."""
NO_PYTHON = 4
"""Exit code of visualizer.sh where there is no Python to make an environment with."""


@pytest.fixture(scope="session")
def volatility2() -> Path:
    """Path of the vol.py in the project's own Python 2.7 environment, made when missing.

    Its interpreter is the `python` beside it. Skips where there is no Python 2.7, but fails if
    REQUIRE_VOLATILITY2=1.
    """
    # visualizer.sh locks its set-up, so the processes of pytest-xdist do not disturb each other.
    setup = subprocess.run(
        [ROOT / "visualizer.sh", "--setup"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if setup.returncode == NO_PYTHON:
        _do_without("REQUIRE_VOLATILITY2", setup.stderr.strip())
    if setup.returncode:
        pytest.fail(f"./visualizer.sh --setup failed:\n{setup.stderr}", pytrace=False)
    return ROOT / ".venv-volatility2/bin/vol.py"


@pytest.fixture(scope="session")
def memprocfs() -> ModuleType:
    """The module `memprocfs`.

    Skips where it or the libraries that it needs are missing, but fails if REQUIRE_MEMPROCFS=1.
    """
    try:
        return importlib.import_module("memprocfs")
    except (ImportError, OSError) as error:
        _do_without("REQUIRE_MEMPROCFS", f"no MemProcFS here: {error} (needs libusb-1.0.so.0)")


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Chromium of the system without a window, driven by Playwright.

    Skips where either is missing, but fails if REQUIRE_CHROMIUM=1.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        _do_without("REQUIRE_CHROMIUM", f"no Playwright here: {error}")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        _do_without("REQUIRE_CHROMIUM", "no Chromium here (on Debian: apt install chromium)")
    with sync_playwright() as playwright:
        # Root may not use the sandbox; what is opened here are files of our own making.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


def real_dumps() -> Path:
    """The folder of dumps of real machines, which may not be there."""
    return Path(os.environ.get("MEMVIZ_DUMPS", ROOT.parent / "shared/dumps"))


@pytest.fixture(scope="session")
def qemu_core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A real guest's memory, raw and as QEMU's ELF core."""
    stem = real_dumps() / "linux-6.1-x64-256m"
    if not stem.with_name(stem.name + ".raw.xz").exists():
        pytest.skip(f"no real dump here: MEMVIZ_DUMPS names the folder of {stem.name}.raw.xz")
    target = tmp_path_factory.mktemp("real")
    raw, core = target / "dump.raw", target / "dump.elf"
    with raw.open("wb") as file:
        subprocess.run(["xz", "-dc", f"{stem}.raw.xz"], stdout=file, check=True)
    tail = subprocess.run(["xz", "-dc", f"{stem}.elf.tail.xz"], capture_output=True, check=True)
    head = stem.with_name(stem.name + ".elf.head").read_bytes()
    core.write_bytes(head + raw.read_bytes() + tail.stdout)
    yield raw, core
    raw.unlink()
    core.unlink()


def _do_without(requirement: str, reason: str) -> NoReturn:
    if os.environ.get(requirement) == "1":
        pytest.fail(f"{requirement}=1, but: {reason}", pytrace=False)
    pytest.skip(reason)
