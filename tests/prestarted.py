"""Runs the project's programs as people do, but without the start of Python.

Starting Python and loading numpy and the program takes three quarters of a short run. A server that
has loaded all this forks for each run: the copy gets the arguments, folder and streams, runs the
program as ``__main__``, and ends as any Python does. On a system without fork, each run starts
Python anew. If tests.elsewhere has taken fork away from the program, the server still has it.
"""

import gc
import importlib
import json
import os
import pkgutil
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

from tests.elsewhere import FORK

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT = 60
"""Seconds that a run may take."""
_LARGEST_REQUEST = 1 << 20


def environment() -> dict[str, str]:
    """The variables with which the programs run.

    pytest's own are left out: one of them names the test, so each test would get its own server.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return own | {"PYTHONPATH": str(ROOT), "NO_COLOR": ""}


def run(
    arguments: Sequence[object],
    folder: Path | None = None,
    *,
    anew: bool = False,
    loaded: str = "memory_visualizer",
) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments, ``-m module …`` or ``script …``, in a folder.

    `anew`: start Python for this run in any case. `loaded`: the program's package.
    """
    command = [sys.executable, *map(str, arguments)]
    folder = folder or Path.cwd()
    variables = environment()
    if FORK and not anew:
        return _server(loaded, tuple(sorted(variables.items()))).run(command, folder)
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=_TIMEOUT
    )


class _Server:
    """The process that forks, from the side of the tests."""

    def __init__(self, package: str, variables: dict[str, str]) -> None:
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._here.settimeout(_TIMEOUT)
        with there:
            # The outputs are pipes, like those of the runs.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.prestarted", package, str(there.fileno())],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[there.fileno()],
            )

    def run(self, command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
        """Does the same as subprocess.run that captures both outputs."""
        pipes = [os.pipe(), os.pipe()]
        request = json.dumps([command[1:], str(folder)]).encode()
        with Path(os.devnull).open() as nothing:
            streams = [nothing.fileno(), *(writing for _, writing in pipes)]
            socket.send_fds(self._here, [request], streams)
        for _, writing in pipes:
            os.close(writing)
        with ThreadPoolExecutor(2) as threads:
            stdout, stderr = threads.map(_read, [reading for reading, _ in pipes])
        code = self._here.recv(_LARGEST_REQUEST)
        if not code:
            _, said = self._process.communicate()
            raise RuntimeError(f"the server has ended: {said.decode()}")
        return subprocess.CompletedProcess(command, int(code), stdout, stderr)


@cache
def _server(package: str, variables: tuple[tuple[str, str], ...]) -> _Server:
    """The server for all runs with the same variables; it ends with this process, by its socket."""
    return _Server(package, dict(variables))


def _read(pipe: int) -> str:
    with open(pipe, encoding="utf-8") as file:
        return file.read()


def _serve(package: str, number: int) -> None:
    """Fork for each request; the copies return from here and become the program."""
    assert FORK
    _load(package)
    gc.freeze()
    with socket.socket(fileno=number) as connection:
        while True:
            request, streams, *_ = socket.recv_fds(connection, _LARGEST_REQUEST, 3)
            if not request:
                return
            process = FORK()
            if not process:
                connection.close()
                arguments, folder = json.loads(request)
                _become(arguments, folder, streams)
                return
            for stream in streams:
                os.close(stream)
            _, status = os.waitpid(process, 0)
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())


_APART = re.compile(
    r"memory_visualizer\.volatility3|volatility3(\.framework)?\.plugins|volatility3.*volshell"
    r"|.*\.__main__"
)
"""Modules that are not loaded in advance."""


def _load(package: str) -> None:
    """Load the modules that the program uses."""
    import PIL.Image

    PIL.Image.preinit()
    found = importlib.import_module(package)
    if package == "volatility3":
        # Some plugins are loaded with the framework, which then knows the folders of all.
        importlib.import_module("volatility3.plugins").__path__.insert(0, str(ROOT / "plugins3"))
    _load_package(found)


def _load_package(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not _APART.fullmatch(module.name):
            with suppress(ImportError):  # a module that may be missing; the program tells it
                loaded = importlib.import_module(module.name)
                if module.ispkg:
                    _load_package(loaded)


def _become(arguments: list[str], folder: str, streams: list[int]) -> None:
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.chdir(folder)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
