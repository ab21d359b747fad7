"""The site of docs/: each link leads somewhere, and no page loads anything from elsewhere."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memory_visualizer
from tests.conftest import ROOT

pytestmark = [pytest.mark.packaging, pytest.mark.posix]

PAGES = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a link or an anchor that leads nowhere fails the build."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy2(ROOT / "zensical.toml", folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("docs", "memory_visualizer"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run(
        [zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert not built.returncode, built.stdout + built.stderr
    return folder / "site"


def files_in(nav: Any) -> Iterator[Path]:
    """The pages that a navigation names, at any depth."""
    if isinstance(nav, str):
        yield Path(nav)
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from files_in(part)


def test_each_page_is_in_the_navigation(site: Path) -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(files_in(nav)) == PAGES
    for page in PAGES:
        assert (site / page.with_suffix(".html")).exists(), page


def test_the_reference_has_every_public_name(site: Path) -> None:
    """Each public name is there with its docstring."""
    reference = (site / "api.html").read_text()
    named = set(re.findall(r'id="memory_visualizer\.(\w+)"', reference))
    assert set(memory_visualizer.__all__) - {"__version__"} <= named
    assert "Read a memory dump" in reference


def test_pictures_are_there(site: Path) -> None:
    """Each picture of a page exists."""
    shown = 0
    for page in site.rglob("*.html"):
        for source in re.findall(r'<img [^>]*src="([^"]+)"', page.read_text()):
            assert (page.parent / source).exists(), (page, source)
            shown += 1
    assert shown >= 10


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture is on another host, which would learn of the reader."""
    loading = (
        r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*\bhref="(?:https?:)?//'
    )
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert "<script" in text
        assert not re.findall(loading, text), page
