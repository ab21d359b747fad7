"""The front door, and the pictures that it paints."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

NEEDS = [
    pytest.mark.frontdoor,
    pytest.mark.skipif(
        not hasattr(signal, "SIGHUP"), reason="the front door is for systems with a shell"
    ),
]
"""The marks of all tests of the front door."""

SCRIPT = ROOT / "visualizer.sh"
BANNER = "Volatility Foundation Volatility Framework 2.6.1"
MAP = """\
(Virtual)   (Physical)    (Size)    (Kernel)
----------------------------------------------
0x80400000  0x1000        0x1000    True
0x400000    0x2000        0x1000    False
"""
PICTURE = b"\x89PNG\r\n\x1a\n a picture of an earlier run"


class House:
    """A folder for one test's dumps, temporary files and environment."""

    def __init__(self, folder: Path) -> None:
        """Make the folder's parts."""
        self.folder = folder
        self.script = SCRIPT
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.environment = os.environ | {"TMPDIR": str(self.temporary)}
        self.environment.pop("VOLATILITY", None)

    def start(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start the front door."""
        return subprocess.Popen(
            [self.script, *arguments],
            cwd=cwd or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_signals,
        )

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, code: int = 0
    ) -> tuple[str, str]:
        """Run the front door, check its exit code, return both outputs."""
        process = self.start(*arguments, cwd=cwd)
        printed, said = process.communicate()
        assert process.returncode == code, said
        assert not list(self.temporary.iterdir())
        return printed, said

    def dump(self, name: str = "small.raw") -> Path:
        """Write a dump of four pages: zeros, kernel, user, and unmapped data."""
        path = self.folder / name
        path.write_bytes(bytes(4096) + b"k" * 4096 + b"u" * 4096 + b"d" * 4096)
        return path

    def fake_volatility(self, body: str = "cat the.map", name: str = "fake vol.py") -> Path:
        """Write a stand-in for Volatility: a shell script that notes its arguments.

        Its body runs in this folder.
        """
        (self.folder / "the.map").write_text(MAP)
        path = self.folder / name
        path.write_text(
            f"#!/usr/bin/env bash\necho '{BANNER}' >&2\n[[ $1 != -h ]] || exit\n"
            f'cd "$(dirname "$0")"\nprintf "%s\\n" "$@" >called\n{body}\n'
        )
        path.chmod(0o755)
        return path

    def called(self) -> list[str] | None:
        """The arguments of the stand-in; None if it did not run."""
        called = self.folder / "called"
        return called.read_text().splitlines() if called.exists() else None


def heed_signals() -> None:
    """Restore the signals that nohup, or a shell with the tests in the background, ignores."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def commands(said: str) -> list[list[str]]:
    """The printed commands that can be copied, as words."""
    return [shlex.split(line) for line in said.splitlines() if line.startswith("  ")]


def wait_for_text(path: Path, text: str = "\n", seconds: float = 120) -> str:
    """Wait until a file holds the text, and return all of it."""
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, path
        time.sleep(0.02)
    return path.read_text().strip()
