"""The documentation is true: examples run, the reference builds, help is as printed."""

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
    """The doctests of all modules pass."""
    finder, runner, attempted = doctest.DocTestFinder(), doctest.DocTestRunner(), 0
    for name in MODULES:
        for docstring in finder.find(importlib.import_module(name), name):
            if docstring.examples:  # each run asks for the times of all files that were imported
                result = runner.run(docstring)
                assert not result.failed, docstring.name
                attempted += result.attempted
    assert attempted >= 5


@pytest.mark.packaging
@pytest.mark.long
def test_pages_of_the_library(tmp_path: Path) -> None:
    """There is a page for each module, and pdoc does not warn."""
    named = [name for name in MODULES if not brought_along(name)]
    # To colour the source takes half of the time.
    pdoc = [sys.executable, "-m", "pdoc", "--no-show-source", "memory_visualizer"]
    result = subprocess.run(
        [*pdoc, *named, "-o", tmp_path],
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
    """Whether pdoc makes a module's page with its package's, as the package does not hide it."""
    package, _, own = name.rpartition(".")
    public = getattr(importlib.import_module(package), "__all__", None)
    return package != "memory_visualizer" and (public is None or own in public)


def test_help_in_the_chapter_on_memviz() -> None:
    """The help in docs/using.md equals that of `memviz --help`."""
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
    """The files that documents link to exist."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text())
    for target in targets:
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_the_readme_is_short() -> None:
    """It has at most 150 lines; the rest belongs in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_one_version() -> None:
    """Program, CHANGELOG.md's first release and CITATION.cff have the same version."""
    changed = re.search(r"^## (\S+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changed
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert changed[1] == memory_visualizer.__version__
    assert f"version: {changed[1]}" in citation
    assert f"date-released: {changed[2]}" in citation
