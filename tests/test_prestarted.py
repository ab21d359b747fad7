"""Runs by a copy of the server equal runs by a new Python."""

from pathlib import Path

import pytest

from tests import prestarted

PROGRAM = """
import os, sys
print(sys.argv, os.getcwd(), __name__, __file__, sys.platform, hasattr(os, "pread"), sys.flags)
print(repr(sys.stdin.read()), sys.stdout.encoding)
print("said", file=sys.stderr)
sys.exit(3)
"""


def test_as_if_started(tmp_path: Path) -> None:
    """Arguments, folder, streams, exit code and system are the same, also as on Windows."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    forked, started = (
        prestarted.run([program, "Ω", "a b"], tmp_path, anew=anew) for anew in (False, True)
    )
    assert (started.returncode, started.stderr) == (3, "said\n")
    assert (forked.returncode, forked.stdout, forked.stderr) == (3, started.stdout, "said\n")
    assert repr(["Ω", "a b"])[1:] in forked.stdout


@pytest.mark.posix
def test_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server serves all tests, though pytest sets a variable for each."""
    program = tmp_path / "program.py"
    program.write_text("import os; print(os.getppid())", encoding="utf-8")
    servers = set()
    for test in ("a", "b"):
        monkeypatch.setenv("PYTEST_CURRENT_TEST", test)
        servers.add(prestarted.run([program], tmp_path).stdout)
    assert len(servers) == 1
