"""The documentation is true: examples run, pages are made of the docstrings, help is as printed."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memory_visualizer

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("bench", "docs", "dumps", "images")
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("*.md"),
        *(p for folder in FOLDERS for p in ROOT.glob(f"{folder}/**/*.md")),
    )
]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(memory_visualizer.__path__, "memory_visualizer.")
    if not module.name.endswith("__main__")
)


def test_examples_in_docstrings() -> None:
    """All doctests of all modules."""
    attempted = 0
    for name in MODULES:
        result = doctest.testmod(importlib.import_module(name))
        assert not result.failed, name
        attempted += result.attempted
    assert attempted >= 5


@pytest.mark.packaging
@pytest.mark.long
def test_pages_of_the_library(tmp_path: Path) -> None:
    """There is one for each module, and they are made without a warning."""
    named = [name for name in MODULES if not brought_along(name)]
    result = subprocess.run(
        [sys.executable, "-m", "pdoc", "memory_visualizer", *named, "-o", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "Warn" not in result.stderr
    pages = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.html")}
    assert {Path(*name.split(".")) for name in MODULES} <= pages
    first = (tmp_path / "memory_visualizer.html").read_text()
    assert "The owners of pages in long form" in first


def brought_along(name: str) -> bool:
    """Whether pdoc makes a module's page for its package's sake: if that does not leave it out."""
    package, _, own = name.rpartition(".")
    public = getattr(importlib.import_module(package), "__all__", None)
    return package != "memory_visualizer" and (public is None or own in public)


def test_help_in_the_chapter_on_memviz() -> None:
    """docs/using.md shows what `memviz --help` prints, to the letter."""
    result = subprocess.run(
        [sys.executable, "-m", "memory_visualizer", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    [shown] = re.findall(
        r"<!-- memviz --help -->\n\n((?:(?:    .*)?\n)+)", (ROOT / "docs/using.md").read_text()
    )
    lines = [line.removeprefix("    ") for line in shown.rstrip("\n").splitlines()]
    if sys.version_info >= (3, 13):
        pytest.skip("argparse lays its help out in another way since Python 3.13")
    assert lines == result.stdout.rstrip("\n").splitlines()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """Files that the documents point to are there."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text())
    for target in targets:
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_the_readme_is_short() -> None:
    """What does not fit into it has a page in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_one_version() -> None:
    """The program's, that of the first release in CHANGELOG.md, and that to be cited."""
    changed = re.search(r"^## (\S+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changed
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert changed[1] == memory_visualizer.__version__
    assert f"version: {changed[1]}" in citation
    assert f"date-released: {changed[2]}" in citation
