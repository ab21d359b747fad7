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


def test_a_program_of_one_line(tmp_path: Path) -> None:
    """Its name, arguments and modules are the same; a file gets the standard output."""
    program = "import sys; print(sys.argv, __name__, sys.path[:1]); sys.exit('ended')"
    results: list[tuple[int, str, bytes]] = []
    for anew in (False, True):
        with (tmp_path / "printed").open("w+b") as file:
            done = prestarted.run(["-c", program, 1], tmp_path, anew=anew, stdout=file.fileno())
            assert done.stdout is None
            file.seek(0)
            results.append((done.returncode, done.stderr, file.read()))
    assert results[0] == results[1] == (1, "ended\n", b"['-c', '1'] __main__ ['']\n")
