"""`pip install .` gives a `memviz` that works, wherever it is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from memory_visualizer import __version__
from tests.conftest import ROOT
from tests.forge import MIB, forge, profiles


def files(package: Path) -> set[Path]:
    """All files of a package but compiled ones."""
    found = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return {path for path in found if "__pycache__" not in path.parts}


def test_pip_install_gives_memviz(tmp_path: Path) -> None:
    """With all parts of the package, in an environment that knows nothing of this checkout."""
    sources, environment = tmp_path / "sources", tmp_path / "environment"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, sources)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "memory_visualizer", sources / "memory_visualizer", ignore=ignored)
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
    subprocess.run([*pip, "install", "--quiet", "--no-compile", sources], cwd=tmp_path, check=True)

    [installed] = environment.glob("lib/python3.*/site-packages/memory_visualizer")
    assert files(installed) == files(ROOT / "memory_visualizer")
    memviz = environment / "bin/memviz"
    version = subprocess.run([memviz, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"memviz {__version__}\n"
    forge(tmp_path / "x.raw", profiles()["Win7SP1x64"], size=16 * MIB)
    subprocess.run([memviz, "x.raw"], cwd=tmp_path, capture_output=True, check=True)
    with Image.open(tmp_path / "x.raw.png") as image:
        assert image.size == (64, 64)
