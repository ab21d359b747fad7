"""In a notebook: the picture of a snapshot, and the example notebook, run as its reader runs it."""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import memory_visualizer
from memory_visualizer.picture import notebook
from memory_visualizer.picture.colouring import COLOURINGS
from tests.synth import MIB, Truth, forge, profiles

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/first-look.ipynb"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A small Windows 10 in a file whose name is markup."""
    path = tmp_path_factory.mktemp("notebook") / '<b>"&.raw'
    return path, forge(path, profiles()["Win10x64_17763"], size=32 * MIB)


def test_shows_itself_as_its_picture(synthetic: tuple[Path, Truth]) -> None:
    """The picture has a legend, and the file's name is shown as text."""
    path, _ = synthetic
    snapshot = memory_visualizer.open(path)
    html = snapshot._repr_html_()
    [data] = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(data) == snapshot._repr_png_()
    assert "&lt;b&gt;&quot;&amp;.raw: 8,192 page frames, Windows 10.0" in html
    assert "<b>" not in html
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        shown, expected = (p.convert("RGB") for p in (picture, snapshot.image(legend=True)))
    assert shown.size == expected.size
    assert shown.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "color_by", [name for name in COLOURINGS if name not in ("state", "use", "file")]
)
def test_image(color_by: str, synthetic: tuple[Path, Truth]) -> None:
    """It is a Pillow image, with the options of the command line."""
    snapshot = memory_visualizer.open(synthetic[0])
    assert snapshot.image(color_by=color_by).size == (91, 91)
    assert snapshot.image(color_by=color_by, width=64, scale=3).size == (192, 384)
    assert snapshot.image(color_by=color_by, layout="hilbert").size == (64, 128)
    assert snapshot.image(color_by=color_by, legend=True).height > 150


def test_pixels_of_the_image(synthetic: tuple[Path, Truth]) -> None:
    """Each pixel has the colour of its page's class."""
    path, truth = synthetic
    picture = memory_visualizer.open(path).image(width=128, palette="colour-blind")
    colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    user = truth.classes(truth.alive) == "user"
    assert ((colours == (213, 94, 0)).all(axis=1) == user).all()


def test_large_pictures_are_thinned_out(
    synthetic: tuple[Path, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture has at most as many pixels as the limit allows."""
    monkeypatch.setattr(notebook, "_PIXEL_LIMIT", 5000)
    with Image.open(io.BytesIO(memory_visualizer.open(synthetic[0])._repr_png_())) as picture:
        assert 4000 < picture.width * picture.height <= 5000


@pytest.mark.peer
def test_the_example(
    synthetic: tuple[Path, Truth], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every cell runs, and its output is true."""
    path, truth = synthetic
    monkeypatch.setenv("MEMVIZ_EXAMPLE_DUMP", str(path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("", str(EXAMPLE.parent.parent))))
    document = nbformat.read(EXAMPLE, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(document, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in document.cells for output in cell.get("outputs", [])]
    shown = [output.data for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2
    text = "\n".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs
    )
    [hidden] = [process for process in truth.processes if not process.listed and not process.exited]
    assert f"{hidden.pid} {hidden.name} not in the list of active processes" in text
    classes = truth.classes(truth.alive)
    assert f"'user': {np.count_nonzero(classes == 'user')}" in text
