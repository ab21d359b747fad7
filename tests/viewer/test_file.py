"""The page's file: its size, the command that writes it, and its pictures in the documentation."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import memory_visualizer
from memory_visualizer import viewer
from memory_visualizer.cli.memviz import main
from memory_visualizer.picture.entropy import entropy
from tests.conftest import ROOT
from tests.screenshots import take
from tests.synth import MIB, forge, profiles
from tests.viewer.page import Dump

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.mark.parametrize("stretch", [1, 256])
def test_size(tmp_path: Path, stretch: int) -> None:
    """At most six bytes a mapped page and 300 KiB, even if no two frames stay together.

    The first part is for data, the second for all else, so it does not depend on the dump's size.
    """
    path = tmp_path / "dump"
    profile = profiles()["Win10x64_17763"]
    forge(path, profile, size=256 * MIB, processes=40, stretch=stretch)
    snapshot = memory_visualizer.open(path)
    # Entropies are for all pages, mapped or not, so they are only added if frames stay together.
    measured = entropy(snapshot.dump) if stretch > 1 else None
    viewer.write_page(tmp_path / "page.html", snapshot, entropy=measured)
    text = (tmp_path / "page.html").read_text()
    data = sum(map(len, re.findall('<script type="application/octet-stream".*', text)))
    assert data <= 6 * np.count_nonzero(snapshot.mapping_count)
    assert len(text.encode()) - data <= 300 * 1024


def test_command_line(
    open_page: Callable[..., "Page"], dump: Dump, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page opens as the options say; bytes repeat; the file is whole or missing."""
    out = tmp_path / "page.html"
    arguments = [str(dump.path), "-o", str(tmp_path / "a.png"), "--html"]
    visitors = ["--layout", "hilbert", "--color-by", "entropy", "--palette", "colour-blind"]
    assert main([*arguments, str(out), *visitors]) == 0
    assert f"{out}: written" in capsys.readouterr().out
    first = out.read_bytes()
    page = open_page(out)
    assert [page.input_value(f"#{name}") for name in ("layout", "color", "palette")] == [
        "hilbert",
        "entropy",
        "colour-blind",
    ]
    assert main([*arguments, str(out), *visitors]) == 0
    assert out.read_bytes() == first
    with pytest.raises(OSError, match="is not a plain file"):
        viewer.write_page(Path("/dev/null"), dump.snapshot)
    evidence = tmp_path / "dump.html"
    evidence.write_bytes(contents := dump.path.read_bytes())
    assert main([str(evidence), *arguments[1:], str(evidence)]) == 2
    assert "must not be replaced" in capsys.readouterr().err
    assert evidence.read_bytes() == contents
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "dump.html", "page.html"]


def test_pictures_of_the_page(browser: "Browser", tmp_path: Path) -> None:
    """The pictures in docs/images can be taken again, and are small enough for a document."""
    for path in take(browser, tmp_path):
        shown = ROOT / "docs/images" / path.name
        with Image.open(path) as taken, Image.open(shown) as kept:
            assert taken.size == kept.size == (1280, 800)
        assert shown.stat().st_size <= 300 * 1024
