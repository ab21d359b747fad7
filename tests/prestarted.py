"""Runs the project's programs as people do, but without the start of Python.

Starting Python and loading numpy and the program takes three quarters of a short run. A server that
has loaded all this forks for each run: the copy gets the arguments, folder and streams, runs the
program as ``__main__``, and ends as any Python does. On a system without fork, each run starts
Python anew. If tests.elsewhere has taken fork away from the program, the server still has it.
"""

import gc
import importlib
import io
import json
import os
import pkgutil
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def without_pytest() -> dict[str, str]:
    """The variables without pytest's own: one names the test, so each would get its own server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables with which the programs run."""
    return without_pytest() | {"PYTHONPATH": str(ROOT), "NO_COLOR": ""} | dict(changes or {})


def run(
    arguments: Sequence[object],
    folder: Path | None = None,
    *,
    anew: bool = False,
    loaded: str = "memory_visualizer",
    stdout: int | None = None,
) -> "subprocess.CompletedProcess[str]":
    """As `run_in_bytes`, with text that is encoded in UTF-8."""
    done = run_in_bytes(arguments, folder, anew=anew, loaded=loaded, stdout=stdout)
    texts = (_text(octets) for octets in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def run_in_bytes(
    arguments: Sequence[object],
    folder: Path | None = None,
    *,
    anew: bool = False,
    loaded: str = "memory_visualizer",
    changes: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run Python with ``-m module …``, ``-c program …`` or ``script …``, in a folder.

    `anew`: start Python for this run in any case. `loaded`: the program's package. `changes` are
    made to the variables of `environment`; each set of variables has a server. `stdout`: a file
    that gets the standard output.
    """
    command = [sys.executable, *map(str, arguments)]
    folder = folder or Path.cwd()
    variables = environment(changes)
    if FORK and not anew:
        return _server(loaded, tuple(sorted(variables.items()))).run(command, folder, stdout)
    return subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        timeout=_TIMEOUT,
    )


def _text(octets: bytes | None) -> str | None:
    """As subprocess does it with `text`."""
    if octets is None:
        return None
    with io.TextIOWrapper(io.BytesIO(octets), encoding="utf-8") as file:
        return file.read()


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

    def run(
        self, command: list[str], folder: Path, stdout: int | None
    ) -> "subprocess.CompletedProcess[bytes]":
        """Does the same as subprocess.run that captures both outputs, or one."""
        pipes = [os.pipe() for _ in range(2 if stdout is None else 1)]
        request = json.dumps([command[1:], str(folder)]).encode()
        writing = [end for _, end in pipes]
        with Path(os.devnull).open() as nothing:
            outputs = writing if stdout is None else [stdout, *writing]
            socket.send_fds(self._here, [request], [nothing.fileno(), *outputs])
        for end in writing:
            os.close(end)
        with ThreadPoolExecutor(2) as threads:
            told = list(threads.map(_read, [reading for reading, _ in pipes]))
        code = self._here.recv(_LARGEST_REQUEST)
        if not code:
            _, said = self._process.communicate()
            raise RuntimeError(f"the server has ended: {said.decode()}")
        return subprocess.CompletedProcess(command, int(code), *[None, *told][-2:])


@cache
def _server(package: str, variables: tuple[tuple[str, str], ...]) -> _Server:
    """The server for all runs with the same variables; it ends with this process, by its socket."""
    return _Server(package, dict(variables))


def _read(pipe: int) -> bytes:
    with open(pipe, "rb") as file:
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
        _load("memory_visualizer")  # for the project's own plugins
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
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
