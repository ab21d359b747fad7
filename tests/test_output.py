"""Output files: whole or not at all, whatever comes in between."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memory_visualizer.output import check_target, whole_file


def test_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="half"), whole_file(path) as file:
        file.write(b"new")
        raise ValueError("half")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_ended_from_outside(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """A command that is told to end leaves nothing half written."""
    program = f"""
import os, signal, sys
from pathlib import Path
from memory_visualizer.command import run
from memory_visualizer.output import whole_file

def work():
    with whole_file(Path("a")) as file:
        file.write(b"half")
        os.kill(os.getpid(), {number.value})
    return 0

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
sys.exit(run("test", work))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE)
    assert result.returncode == code
    assert result.stderr == (b"test: interrupted\n" if code == 130 else b"")
    assert list(tmp_path.iterdir()) == []


def test_killed(tmp_path: Path) -> None:
    """Without a chance to tidy up: no leftover, and the old file is as it was."""
    (tmp_path / "a").write_bytes(b"old")
    program = """
import os, signal
from pathlib import Path
from memory_visualizer.output import whole_file
with whole_file(Path("a")) as file:
    file.write(b"half" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path)
    assert result.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_where_files_must_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no unnamed files: whole or not at all, still."""
    monkeypatch.setattr(os, "O_TMPFILE", os.O_CREAT | os.O_EXCL)
    path = tmp_path / "a"
    with pytest.raises(ValueError, match="half"), whole_file(path) as file:
        file.write(b"new")
        raise ValueError("half")
    assert list(tmp_path.iterdir()) == []
    with whole_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_the_users_own(tmp_path: Path) -> None:
    """As of any other new file."""
    (tmp_path / "other").touch()
    with whole_file(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_two_at_once(tmp_path: Path) -> None:
    """Each writes its own; the last one to end is there, whole."""
    path = tmp_path / "a"
    with whole_file(path) as one, whole_file(path) as other:
        one.write(b"1" * 1000)
        other.write(b"2" * 2000)
    assert path.read_bytes() == b"1" * 1000
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_is_full(tmp_path: Path) -> None:
    """A file larger than may be written: a sentence's worth of error, the old file as it was."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    program = """
import resource, signal
from pathlib import Path
from memory_visualizer.output import whole_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with whole_file(Path("a")) as file:
        file.write(b"new" * 10_000)
except OSError as error:
    print(error.filename, error.strerror)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout == "a File too large\n"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_nohup_is_heeded(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from memory_visualizer.command import run
sys.exit(run("test", lambda: os.kill(os.getpid(), signal.SIGHUP) or 7))
"""
    arguments = ["nohup", sys.executable, "-c", program]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True)
    assert result.returncode == 7


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/file")
    for contents in (b"first", b"second"):
        with whole_file(link) as file:
            file.write(contents)
        assert link.is_symlink()
        assert (tmp_path / "folder" / "file").read_bytes() == contents


def test_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a"):
            pass
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    with whole_file(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for path, error in (
        (tmp_path / "loop", errno.ELOOP),
        (tmp_path / "pipe", errno.EEXIST),
        (tmp_path, errno.EEXIST),
        (tmp_path / "nowhere" / "a", errno.ENOENT),
        (tmp_path / ("a" * 300), errno.ENAMETOOLONG),
    ):
        with pytest.raises(OSError) as caught:
            check_target(path)
        assert (caught.value.errno, caught.value.filename) == (error, str(path))
    # Root may write everywhere, so the system's answer is played.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="its folder cannot be written to"):
        check_target(tmp_path / "a")
