"""Takes functions away from Python, until it has no more than Windows' Python has.

    python -X warn_default_encoding -m tests.elsewhere memviz DUMP      a command
    python -m pytest -p tests.elsewhere tests/formats/test_formats.py           tests

Names of `os`, `signal` and `mmap`, modules, the C library by ``ctypes.CDLL(None)``, and ``/proc``
are taken away if Windows' Python lacks them (library reference, "Availability"). mmap takes no
flags; an open file cannot be renamed; names that Windows forbids cannot be made; a text file
without an encoding is an error. Paths stay paths of this system.
"""

import ctypes
import errno
import mmap
import multiprocessing.pool  # a module that is loaded before keeps all its functions
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = str(ROOT / "memory_visualizer")
STARTED = ROOT / "tests/started"
LOADED_BEFORE = (multiprocessing.pool, shutil, subprocess)
FORK: Callable[[], int] | None = getattr(os, "fork", None)
"""tests.prestarted uses it; the program cannot reach it here."""

OF_OS = (
    *("O_CLOEXEC", "O_DIRECT", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH", "O_SYNC"),
    *("O_TMPFILE", "SEEK_DATA", "SEEK_HOLE", "chown", "chroot", "copy_file_range", "fork"),
    *("getloadavg", "getpgid", "killpg", "memfd_create", "mkfifo", "mknod"),
    *("posix_fadvise", "posix_fallocate", "pread", "preadv", "pwrite", "pwritev"),
    *("sched_getaffinity", "sendfile", "setsid", "splice", "statvfs", "sysconf", "wait4"),
)
OF_SIGNAL = ("SIGALRM", "SIGBUS", "SIGHUP", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm")
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")

_OF_LINUX = ("/proc/", "/dev/", "/sys/")
_FORBIDDEN = re.compile(r'.*[<>:"|?*\x00-\x1f\\]|.*[. ]$|(con|nul|prn|aux|com\d|lpt\d)(\.|$)', re.I)


class _Mmap(mmap.mmap):
    """As on Windows: a name in the place of flags, no advice, and no protection but `access`."""

    def __new__(
        cls,
        fileno: int,
        length: int,
        tagname: str | None = None,
        access: int = mmap.ACCESS_DEFAULT,
        offset: int = 0,
    ) -> "_Mmap":
        del tagname
        return super().__new__(cls, fileno, length, access=access, offset=offset)

    @property
    def madvise(self) -> Any:
        raise AttributeError("Windows' mmap has no madvise")


def environment(path: str | None = None) -> dict[str, str]:
    """Variables that make a started Python as poor; `path` is its PYTHONPATH."""
    folders = [str(STARTED), str(ROOT), *filter(None, [path])]
    return {"PYTHONPATH": os.pathsep.join(folders), "PYTHONWARNDEFAULTENCODING": "1"}


class _Started(subprocess.Popen[Any]):
    """Start commands of the tests with a Python that is as poor."""

    def __init__(
        self, args: Any, *arguments: Any, env: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        env = dict(os.environ if env is None else env)
        words = [args] if isinstance(args, str | Path) else list(args)
        # The processes of pytest-xdist are exempt: they load this module as a plugin.
        if not any("sys.stdin.readline" in str(word) for word in words):
            env |= environment(env.get("PYTHONPATH"))
        super().__init__(args, *arguments, env=env, **more)  # type: ignore[call-overload]


class _Library(ctypes.CDLL):
    """As on Windows: every library needs a name."""

    def __init__(self, name: str | None, *arguments: Any, **more: Any) -> None:
        if name is None:
            raise TypeError("expected str, bytes or os.PathLike object, not NoneType")
        super().__init__(name, *arguments, **more)


def leave() -> None:
    """Take everything away."""
    setattr(shutil, "disk_usage", partial(_disk_usage, os.statvfs))  # noqa: B010
    setattr(shutil, "_USE_CP_SENDFILE", False)  # noqa: B010
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in [name for name in vars(mmap) if re.match("MADV_|MAP_|PROT_", name)]:
        delattr(mmap, name)
    setattr(mmap, "mmap", _Mmap)  # noqa: B010 - a type checker lets nobody do so
    ctypes.CDLL = _Library  # type: ignore[misc]
    setattr(subprocess, "Popen", _Started)  # noqa: B010
    setattr(tempfile, "_O_TMPFILE_WORKS", False)  # noqa: B010
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    sysconfig.get_config_vars()  # shutil reads a file that is named by the platform
    sys.platform = "elsewhere"
    for name in ("rename", "replace"):
        setattr(os, name, _refusing_open_files(getattr(os, name)))
    setattr(os, "stat", partial(_stat, os.stat))  # noqa: B010
    sys.addaudithook(_audit)
    warnings.filterwarnings("error", category=EncodingWarning, module=r"memory_visualizer\b")
    from memory_visualizer import output

    if hasattr(output, "_is_windows"):
        output._is_windows = True


def _disk_usage(statvfs: Callable[..., os.statvfs_result], path: Any) -> Any:
    """The result of shutil's function, which Windows has, too, by other means."""
    told = statvfs(path)
    total, free = told.f_blocks * told.f_frsize, told.f_bavail * told.f_frsize
    return shutil._ntuple_diskusage(total, total - free, free)


def _refusing_open_files(rename: Callable[..., None]) -> Callable[..., None]:
    """A function that renames as Windows does: neither file may be open."""

    def checked(source: Any, target: Any, **more: Any) -> None:
        for path in (source, target):
            if os.path.realpath(path) in _open_files():
                raise PermissionError(errno.EACCES, "it is open", str(path))
        rename(source, target, **more)

    return checked


def _open_files() -> set[str]:
    """Files that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue  # the folder itself, which is closed by now
    return found


def _stat(stat: Callable[..., os.stat_result], path: Any, **more: Any) -> os.stat_result:
    """As on Windows: such files do not exist."""
    if isinstance(path, str | os.PathLike) and _is_of_the_package():
        _refuse_what_is_not_there(os.fspath(path))
    return stat(path, **more)


def _refuse_what_is_not_there(path: str | bytes) -> None:
    if isinstance(path, str) and path.startswith(_OF_LINUX) and path != os.devnull:
        raise FileNotFoundError(errno.ENOENT, "Windows has no such file", path)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse files that Windows does not have, and names that it forbids."""
    if event != "open" or not isinstance(arguments[0], str) or not _is_of_the_package():
        return
    path, _, flags = arguments
    _refuse_what_is_not_there(path)
    if flags & os.O_CREAT and path != os.devnull and _FORBIDDEN.match(Path(path).name):
        raise OSError(errno.EINVAL, "Windows allows no such name", path)


def _is_of_the_package() -> bool:
    """Whether the program itself opens a file, perhaps through pathlib, and not a test."""
    frame = sys._getframe(1).f_back
    while frame and "/lib/python" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """With --one-in-four, leave out three in four of the tests of contents."""
    if config.getoption("--one-in-four"):
        left_out = {item for item in items if _OF_CONTENTS.match(item.nodeid) and not _stays(item)}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


_OF_CONTENTS = re.compile(
    r"tests/(difference|leads|linux|paging|snapshot|unknown|windows|test_(displaced|synth)\.py)"
)
"""Tests of what a dump holds: they meet the system only where they open a file, as others do."""


def _stays(item: Any) -> bool:
    """One test in four, by its name."""
    return zlib.crc32(item.nodeid.encode()) % 4 == 0


def pytest_load_initial_conftests() -> None:
    """As a plugin of pytest: run before any module of the project is loaded."""
    import hypothesis  # noqa: F401 - it is not broken if it is loaded before

    leave()
