"""Wheel and sdist are complete, and install a `memviz` that works anywhere."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from memory_visualizer import __version__
from tests.conftest import ROOT
from tests.synth import MIB, forge, profiles

pytestmark = pytest.mark.packaging


def files(package: Path) -> set[Path]:
    """All files of a package except compiled ones."""
    found = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return {path for path in found if "__pycache__" not in path.parts}


def build(folder: Path) -> tuple[Path, Path]:
    """Make an sdist, and a wheel from it; returns the wheel and the sdist."""
    sources = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "memory_visualizer", sources / "memory_visualizer", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, sources)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, sources],
        check=True,
        capture_output=True,
    )
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def assert_licences_are_there(wheel: Path, sdist: Path) -> None:
    """Both have the package's licence and those of bundled parts."""
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive_:
        in_sdist = {name.split("/", 1)[1] for name in archive_.getnames() if "/" in name}
    vendor = ROOT / "memory_visualizer/viewer/vendor"
    licences = {str(path.relative_to(ROOT)) for path in vendor.glob("LICENSE*")}
    assert licences
    assert licences | {"LICENSE"} <= in_sdist
    assert licences <= in_wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel)


def test_the_wheel_gives_memviz(tmp_path: Path) -> None:
    """The wheel's memviz works in an environment without this checkout; all parts are there."""
    wheel, sdist = build(tmp_path / "built")
    assert_licences_are_there(wheel, sdist)
    environment = tmp_path / "environment"
    python = environment / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", wheel], cwd=tmp_path, check=True)

    [installed] = environment.glob("lib/python3.*/site-packages/memory_visualizer")
    assert files(installed) == files(ROOT / "memory_visualizer")
    memviz = environment / "bin/memviz"
    version = subprocess.run([memviz, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"memviz {__version__}\n"
    forge(tmp_path / "x.raw", profiles()["Win7SP1x64"], size=16 * MIB)
    subprocess.run([memviz, "x.raw"], cwd=tmp_path, capture_output=True, check=True)
    with Image.open(tmp_path / "x.raw.png") as image:
        assert image.size == (64, 64)
