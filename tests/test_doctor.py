"""`memviz doctor`: what is there is found, what is not is said to be missing."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from memory_visualizer import __version__, cli, doctor
from memory_visualizer.doctor import Part, examine


def parts() -> dict[str, Part]:
    return {part.name: part for part in examine()}


def test_doctor_prints_what_is_there() -> None:
    """A line for each part, in the words of a person; nothing is wrong."""
    result = subprocess.run(
        [sys.executable, "-m", "memory_visualizer", "doctor"],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *lines = result.stdout.splitlines()
    assert first == f"memviz {__version__}"
    assert [line.split("  ")[1] for line in lines] == list(parts())
    [numpy] = [line for line in lines if line.startswith("  numpy ")]
    assert numpy.split() == ["numpy", version("numpy"), "everything"]


def test_programs_are_found_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the PATH, in the checkout, or where the user says."""
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
    """With the way to get it; an error only where nothing works without it."""
    missing = doctor._package("no-such-package", "something", is_needed=is_needed)
    assert missing.found is None
    monkeypatch.setattr(doctor, "examine", lambda: [missing])
    assert cli.main(["doctor"]) == (1 if is_needed else 0)
    printed = capsys.readouterr()
    assert "  no-such-package  -  something: pip install no-such-package\n" in printed.out
    assert ("missing, and needed: no-such-package" in printed.err) == is_needed


def test_a_dump_of_that_name(tmp_path: Path) -> None:
    """It can be given by a path."""
    (tmp_path / "doctor").write_bytes(bytes(4096))
    result = subprocess.run(
        [sys.executable, "-m", "memory_visualizer", "./doctor"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 3
    assert (tmp_path / "doctor.png").exists()
