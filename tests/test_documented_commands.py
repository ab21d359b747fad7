"""Commands in README.md and docs/ print the output below them, and snippets run."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.conftest import ROOT

pytestmark = [pytest.mark.frontdoor, pytest.mark.posix]

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REAL = "debian12.raw"
"""The name of the real guest's memory in the documents."""
SKIPPED_LINES = r"(?:.*\n)*?"


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE
    )


def commands(document: Path) -> list[tuple[str, str]]:
    """Each command of a document, and a pattern of its output.

    A line ``…`` stands for any lines.
    """
    found = []
    for block in blocks(document, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            pattern = [SKIPPED_LINES if line == "…" else re.escape(f"{line}\n") for line in lines]
            found.append((command, "".join(pattern)))
    return found


def documents_with_commands() -> list[ParameterSet]:
    """Paths of documents with commands; documents with the real guest are marked."""
    return [
        pytest.param(
            str(document.relative_to(ROOT)),
            marks=[pytest.mark.real] if any(REAL in command for command, _ in shown) else [],
        )
        for document in DOCUMENTS
        if (shown := commands(document))
    ]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump from ``./visualizer.sh --demo``."""
    path = tmp_path_factory.mktemp("demo") / "demo.raw"
    arguments = ["Win10x64_17763", str(path), "--size", "64M"]
    subprocess.run([sys.executable, "-m", "tests.synth", *arguments], cwd=ROOT, check=True)
    return path


@pytest.fixture
def demo(dump: Path, tmp_path: Path) -> Path:
    """A folder with the demo's dump, also as dumps/demo.raw."""
    (tmp_path / "dumps").mkdir()
    for name in ("demo.raw", "dumps/demo.raw"):
        (tmp_path / name).symlink_to(dump)
    return tmp_path


@pytest.fixture
def memviz(tmp_path: Path) -> dict[str, str]:
    """An environment in which this checkout's ``memviz`` is on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "memviz"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m memory_visualizer "$@"\n')
    script.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


@pytest.mark.parametrize("name", documents_with_commands())
def test_commands_print_what_is_shown(
    name: str, demo: Path, memviz: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """A document's commands run in order in a folder; the real guest's only if its dump is here."""
    shown = commands(ROOT / name)
    if any(REAL in command for command, _ in shown):
        raw, _ = request.getfixturevalue("qemu_core")
        (demo / REAL).symlink_to(raw)
    for command, pattern in shown:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=demo,
            env=memviz,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert re.fullmatch(pattern, done.stdout), f"$ {command}\n{done.stdout}"


def test_the_documents_show_enough() -> None:
    """The tests above have commands to run, whatever form documents have."""
    assert len(commands(ROOT / "README.md")) >= 5
    questions = re.findall(
        r"^## \d+\. .*\?$", (ROOT / "docs/cookbook.md").read_text(), re.MULTILINE
    )
    assert len(questions) == 19
    assert len(commands(ROOT / "docs/cookbook.md")) >= len(questions)


def test_the_librarys_chapter(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of the chapter pass as doctests on the demo's dump."""
    for package in ("pandas", "pyarrow"):
        pytest.importorskip(package)
    monkeypatch.chdir(demo)
    text = "\n".join(blocks(ROOT / "docs/library.md", "pycon"))
    test = doctest.DocTestParser().get_doctest(text, {}, "library.md", "docs/library.md", 0)
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.tries >= 10
    assert not runner.failures
