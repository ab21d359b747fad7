"""Runs Volatility 2 for tests, from a server that has loaded it, or as a person does."""

import json
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.prestarted import ROOT, without_pytest


def volatility(
    vol: Path,
    dump: Path,
    profile: str,
    *arguments: str | Path,
    plugins: str | Path = "plugins",
    anew: bool = False,
) -> "subprocess.CompletedProcess[str]":
    """Run vol.py in the checkout, from a server that has loaded Volatility.

    `anew`: start it as a person would, which takes a second more.
    """
    options: list[str | Path] = [f"--plugins={plugins}", "-f", dump, f"--profile={profile}"]
    return run(vol.parent / "python", vol, *options, *arguments, anew=anew)


def run(
    python: Path, script: Path, *arguments: str | Path, anew: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run a script in the checkout, with the modules and plugins of Volatility 2 in memory."""
    command = list(map(str, [script, *arguments]))
    variables = without_pytest()
    if not anew:
        return _server(python, tuple(sorted(variables.items()))).run(command)
    return subprocess.run(
        [str(python), *command],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class _Server:
    """The process that forks (tests/volatility2/prestarted.py), from the side of the tests."""

    def __init__(self, python: Path, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [python, ROOT / "tests/volatility2/prestarted.py"],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        """Does the same as subprocess.run that captures both outputs."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests and answers
        with tempfile.TemporaryDirectory() as folder:
            # Python 2.7 cannot be sent open files.
            outputs = [Path(folder, name) for name in ("stdout", "stderr")]
            with suppress(BrokenPipeError):  # told below
                print(json.dumps([*map(str, outputs), *command]), file=requests, flush=True)
            code = answers.readline()
            if not code:
                _, said = self._process.communicate()
                raise RuntimeError(f"the server has ended: {said}")
            told = [output.read_text() for output in outputs]
        return subprocess.CompletedProcess(command, int(code), *told)


@cache
def _server(python: Path, variables: tuple[tuple[str, str], ...]) -> _Server:
    """The server for all runs with the same variables; it ends with this process, by its pipe."""
    return _Server(python, dict(variables))
