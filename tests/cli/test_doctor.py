"""`memviz doctor` lists the parts that are present, and says which ones are missing."""

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from memory_visualizer import __version__, packages
from memory_visualizer.cli import doctor
from memory_visualizer.cli import memviz as cli
from memory_visualizer.cli.doctor import Part, examine
from tests.cli.running import run
from tests.conftest import ROOT


def parts() -> dict[str, Part]:
    return {part.name: part for part in examine()}


def test_doctor_prints_what_is_there(tmp_path: Path) -> None:
    """Each part has a line in plain words; nothing is wrong."""
    result = run(["doctor"], tmp_path)
    assert result.returncode == 0
    first, *lines = result.stdout.splitlines()
    assert first == f"memviz {__version__}"
    assert [line.split("  ")[1] for line in lines] == list(parts())
    [numpy] = [line for line in lines if line.startswith("  numpy ")]
    assert numpy.split() == ["numpy", version("numpy"), "everything"]


def test_programs_are_found_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are found on the PATH, in the checkout, or where the user says."""
    monkeypatch.setattr(doctor, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VOLATILITY", raising=False)
    assert parts()["Volatility 2"].found is None
    assert parts()["Chromium"].found is None
    own = tmp_path / ".venv-volatility2/bin/vol.py"
    own.parent.mkdir(parents=True)
    own.touch()
    assert parts()["Volatility 2"].found == str(own)
    for name in ("vol.py", "chromium"):
        (tmp_path / name).touch(mode=0o755)
    assert parts()["Volatility 2"].found == str(tmp_path / "vol.py")
    assert parts()["Chromium"].found == str(tmp_path / "chromium")
    monkeypatch.setenv("VOLATILITY", "/elsewhere/vol.py")
    assert parts()["Volatility 2"].found == "/elsewhere/vol.py"


@pytest.mark.parametrize("is_needed", [False, True])
def test_a_missing_part(
    is_needed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing part is told with a remedy; it is an error only if the program needs it."""
    missing = doctor._package("no-such-package", "something", is_needed=is_needed)
    assert missing.found is None
    monkeypatch.setattr(doctor, "examine", lambda: [missing])
    assert cli.main(["doctor"]) == (1 if is_needed else 0)
    printed = capsys.readouterr()
    remedy = f"{sys.executable} -m pip install no-such-package"
    assert f"  no-such-package  -  something: {remedy}\n" in printed.out
    assert ("missing, and needed: no-such-package" in printed.err) == is_needed


def test_a_dump_of_that_name(tmp_path: Path) -> None:
    """A dump called `doctor` can be given by a path."""
    (tmp_path / "doctor").write_bytes(bytes(4096))
    result = run(["./doctor"], tmp_path)
    assert result.returncode == 3
    assert (tmp_path / "doctor.png").exists()


def test_every_part_is_known() -> None:
    """The doctor knows all imported packages, and all extras of pyproject.toml for users."""
    imported: set[str] = set()
    for path in (ROOT / "memory_visualizer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    newer = {"compression"}  # in the standard library since Python 3.14
    others = imported - set(sys.stdlib_module_names) - {"memory_visualizer"} - newer
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
        for name, requirements in project["optional-dependencies"].items()
        if name not in ("test", "docs")
        for requirement in requirements
    }
    assert {"lzallright", "pyarrow"} <= extras
    modules = {"pillow": "PIL", "libfwnt-python": "pyfwnt", "yara-x": "yara_x"}
    known = {modules.get(name, name.partition(".")[0]) for name in parts()} | parts().keys()
    assert others | extras <= known


@pytest.mark.parametrize(
    ("marker", "remedy"),
    [
        ("pipx_metadata.json", "pipx inject memory-visualizer lzallright"),
        ("uv-receipt.toml", f"uv pip install --python {sys.executable} lzallright"),
        ("pyvenv.cfg", f"{sys.executable} -m pip install lzallright"),
    ],
)
def test_remedies_fit_the_way_of_installation(
    marker: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice for a package is to install it beside this copy of the program."""
    (tmp_path / marker).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert packages.how_to_get("lzallright") == remedy


def test_volatility_2_of_a_copy_without_the_front_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that pip installed has no visualizer.sh, so the advice names the source."""
    assert parts()["Volatility 2"].remedy.startswith(f"{ROOT}/visualizer.sh --setup")
    monkeypatch.setattr(doctor, "CHECKOUT", tmp_path)
    assert "in this program's source" in parts()["Volatility 2"].remedy
