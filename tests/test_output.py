"""Output files are written whole or not at all, despite any interruption."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import memory_visualizer
from memory_visualizer import output, viewer
from memory_visualizer.export import tables as export
from memory_visualizer.export.summary import write_json
from memory_visualizer.output import (
    GENERATOR,
    LARGEST_REPLACED,
    STANDARD_OUTPUT,
    check_target,
    is_own,
    whole_file,
)
from memory_visualizer.picture.colouring import by_class
from memory_visualizer.picture.palette import DEFAULT
from memory_visualizer.picture.picture import picture_of
from memory_visualizer.picture.png import texts_of, write_png
from memory_visualizer.snapshot.snapshot import Snapshot
from tests import prestarted
from tests.synth import MIB, containers, forge, profiles

OLD = f'{{\n  "generator": "{GENERATOR}"\n}}\n'.encode()
"""Contents of an output of this program, which may be replaced."""


def test_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(OLD)
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == OLD
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(OLD)
    with pytest.raises(ValueError, match="half"), whole_file(path) as file:
        file.write(b"new")
        raise ValueError("half")
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.posix
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_ended_from_outside(name: str, code: int, tmp_path: Path) -> None:
    """A terminated command leaves no half-written file."""
    program = f"""
import os, signal, sys
from pathlib import Path
from memory_visualizer.cli.command import run
from memory_visualizer.output import whole_file

def work():
    with whole_file(Path("a")) as file:
        file.write(b"half")
        os.kill(os.getpid(), signal.{name})
    return 0

# A shell may have these ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(run("test", work))
"""
    result = prestarted.run_in_bytes(["-c", program], tmp_path)
    assert result.returncode == code
    assert result.stderr == (b"test: interrupted\n" if code == 130 else b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.posix
def test_killed(tmp_path: Path) -> None:
    """A killed command leaves no extra file, and the old file stays."""
    (tmp_path / "a").write_bytes(OLD)
    program = """
import os, signal
from pathlib import Path
from memory_visualizer.output import whole_file
with whole_file(Path("a")) as file:
    file.write(b"half" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = prestarted.run(["-c", program], tmp_path)
    assert result.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert (tmp_path / "a").read_bytes() == OLD


@pytest.mark.posix
def test_where_files_must_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without unnamed files in the file system, files are still written whole or not at all."""
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
    """Permissions are those of any other new file."""
    (tmp_path / "other").touch()
    with whole_file(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_two_at_once(tmp_path: Path) -> None:
    """Each writes its own whole file; the last one to finish stays."""
    path = tmp_path / "a"
    with whole_file(path) as one, whole_file(path) as other:
        one.write(OLD + b"1" * 1000)
        other.write(OLD + b"2" * 2000)
    assert path.read_bytes() == OLD + b"1" * 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.posix
def test_the_disk_is_full(tmp_path: Path) -> None:
    """A file beyond the size limit is an error with the file's name, and the old file stays."""
    path = tmp_path / "a"
    path.write_bytes(OLD)
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
    result = prestarted.run(["-c", program], tmp_path)
    assert result.stdout == "a File too large\n"
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.posix
def test_nohup_is_heeded(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from memory_visualizer.cli.command import run
sys.exit(run("test", lambda: os.kill(os.getpid(), signal.SIGHUP) or 7))
"""
    arguments = ["nohup", sys.executable, "-c", program]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True)
    assert result.returncode == 7


@pytest.mark.posix
def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/file")
    for contents in (OLD + b"first", OLD + b"second"):
        with whole_file(link) as file:
            file.write(contents)
        assert link.is_symlink()
        assert (tmp_path / "folder" / "file").read_bytes() == contents


@pytest.mark.posix
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


@pytest.mark.posix
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
    # Root may write everywhere, so the test plays the system's answer.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="its folder cannot be written to"):
        check_target(tmp_path / "a")


# Files that may be replaced


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    path = tmp_path_factory.mktemp("dump") / "win7.raw"
    forge(path, profiles()["Win7SP1x64"], size=16 * MIB, processes=3)
    return memory_visualizer.open(path)


OWN = ("a.png", "a.html", "a.json", "a.csv", "a.npz", "a.parquet", "a.map")


def write_own(path: Path, snapshot: Snapshot, *, force: bool = False) -> None:
    """Write an output of the kind that the path's ending tells."""
    if path.suffix == ".png":
        colouring = by_class(snapshot, DEFAULT)
        picture = picture_of(snapshot.dump, colouring)
        texts = texts_of(snapshot.dump, colouring, picture)
        write_png(path, picture.image(), texts, force=force)
    elif path.suffix == ".html":
        viewer.write_page(path, snapshot, force=force)
    elif path.suffix == ".json":
        write_json(path, snapshot, force=force)
    elif path.suffix == ".map":
        export.write_text_map(path, snapshot, force=force)
    else:
        if path.suffix == ".parquet":
            pytest.importorskip("pyarrow")
        export.write_table(path, snapshot, force=force)


def write_foreign(path: Path) -> None:
    """Write a sound file of such a kind, as other programs do."""
    if path.suffix == ".png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("Software", "Another Visualizer 1")
        chunks.add_text("Comment", "Memory Visualizer 1")
        Image.new("P", (8, 8)).save(path, pnginfo=chunks)
    elif path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, pfn=np.arange(9), generator=np.array("Another"))
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        table = pa.table({"pfn": [1, 2]}).replace_schema_metadata({"generator": "Another"})
        pyarrow.parquet.write_table(table, path)
    else:
        texts = {
            ".html": '<!DOCTYPE html>\n<meta name="generator" content="Another">\n'
            '<p>&lt;meta name="generator" content="Memory Visualizer 1"&gt;</p>\n',
            ".json": '{\n  "dump": "a",\n  "generator": "Memory Visualizer 1"\n}\n',
            ".csv": "pfn,physical,class\n0,0x0,kernel\n",
            ".map": "# notes on\n(Virtual)   (Physical)    (Size)    (Kernel)\n------\n",
        }
        path.write_text(texts[path.suffix])


@pytest.mark.parametrize("name", OWN)
def test_what_this_program_wrote_is_replaced(name: str, snapshot: Snapshot, tmp_path: Path) -> None:
    """The mark in each kind of file tells it, whatever its name."""
    write_own(tmp_path / name, snapshot)
    assert is_own(tmp_path / name)
    check_target(tmp_path / name)
    for other in OWN:
        (tmp_path / name).replace(tmp_path / other)
        write_own(tmp_path / name, snapshot)
        write_own(tmp_path / other, snapshot)


@pytest.mark.parametrize("name", OWN)
def test_what_another_program_wrote_is_not(name: str, snapshot: Snapshot, tmp_path: Path) -> None:
    """Another program's file stays even if it names this program; --force replaces it."""
    path = tmp_path / name
    write_foreign(path)
    before = path.read_bytes()
    assert not is_own(path)
    with pytest.raises(FileExistsError, match="this program did not write it; --force replaces it"):
        write_own(path, snapshot)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write_own(path, snapshot, force=True)
    assert is_own(path)


def test_an_empty_file_is_no_evidence(snapshot: Snapshot, tmp_path: Path) -> None:
    """An empty file, as mktemp makes it, is replaced."""
    (tmp_path / "a.json").touch()
    write_own(tmp_path / "a.json", snapshot)
    assert json.loads((tmp_path / "a.json").read_text())


@pytest.mark.parametrize("format_", [name for name in containers.WRITERS if name != "raw"])
def test_a_dump_is_never_replaced(format_: str, tmp_path: Path) -> None:
    """A small dump of any format stays, whatever its name."""
    path = tmp_path / "a.csv"
    containers.WRITERS[format_](path, [(0, bytes(4096) + b"x" * 4096)])
    before = path.read_bytes()
    for force in (False, True):
        with pytest.raises(FileExistsError), whole_file(path, force=force):
            raise AssertionError("it was too late")
    assert path.read_bytes() == before


@pytest.mark.parametrize("begin", [b"QFI\xfb", b"hibr", b"EVF\t\r\n\xff\0", b"\x1f\x8b\x08\0"])
def test_what_holds_dumps_is_never_replaced(begin: bytes, tmp_path: Path) -> None:
    """Containers that this program cannot read stay, too."""
    path = tmp_path / "a.csv"
    path.write_bytes(begin + b" and more")
    with pytest.raises(FileExistsError, match="which --force never replaces"):
        check_target(path, force=True)


def test_raw_dumps_are_never_replaced(tmp_path: Path) -> None:
    """Raw dumps have no magic, so their sizes tell them."""
    path = tmp_path / "a.csv"
    for size, refused in (
        (1 << 20, True),
        ((1 << 20) + 1, False),
        (4096, False),
        (LARGEST_REPLACED + 1, True),
    ):
        with path.open("wb") as file:
            file.truncate(size)
            file.write(b"x")
        if refused:
            with pytest.raises(FileExistsError):
                check_target(path, force=True)
        else:
            check_target(path, force=True)


def test_a_file_that_appears_meanwhile(tmp_path: Path) -> None:
    """A file that appears between the check and the end of writing stays."""
    path = tmp_path / "a.json"
    with pytest.raises(FileExistsError, match="it exists"), whole_file(path) as file:
        file.write(OLD)
        path.write_bytes(b"a colleague's")
    assert path.read_bytes() == b"a colleague's"
    assert list(tmp_path.iterdir()) == [path]


# Other systems


@pytest.mark.posix
@pytest.mark.parametrize("missing", ["O_TMPFILE", "/proc"])
def test_without_what_only_linux_has(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Linux' functions, a temporary file with a name is renamed."""
    if missing == "O_TMPFILE":
        monkeypatch.delattr(os, "O_TMPFILE")
    else:
        monkeypatch.setattr(output, "_DESCRIPTORS", tmp_path / "nowhere")
    path = tmp_path / "a"
    for contents in (OLD, OLD + b"more"):
        with whole_file(path) as file:
            file.write(contents)
        assert path.read_bytes() == contents
    with pytest.raises(ValueError, match="half"), whole_file(path) as file:
        raise ValueError("half")
    assert path.read_bytes() == OLD + b"more"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.posix
def test_without_signals_of_unix(tmp_path: Path) -> None:
    """Windows has neither SIGHUP nor SIGBUS, and no C library under that name."""
    program = """
import ctypes, signal, sys
from memory_visualizer.cli.command import run
del signal.SIGHUP, signal.SIGBUS
ctypes.CDLL = None
sys.platform = "win32"
sys.exit(run("test", lambda: 7))
"""
    result = prestarted.run(["-c", program], tmp_path)
    assert (result.returncode, result.stderr) == (7, "")


@pytest.mark.parametrize(
    "name",
    ["nul", "CON.png", "com1.json", "a:b.png", "a?.png", "a ", "a.", "LPT9 .txt", "a\x01.png"],
)
def test_names_that_windows_forbids(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a sentence refuses them; elsewhere they are ordinary names."""
    monkeypatch.setattr(output, "_is_windows", False)
    check_target(tmp_path / name)
    monkeypatch.setattr(output, "_is_windows", True)
    with pytest.raises(OSError, match="Windows does not allow this file name"):
        check_target(tmp_path / name)
    for allowed in ("console.png", "a.nul", "win7.raw.png", ".png"):
        check_target(tmp_path / allowed)


def test_standard_output(tmp_path: Path) -> None:
    """Output goes there at once, after earlier prints."""
    program = """
import sys
from memory_visualizer.output import STANDARD_OUTPUT, whole_file
print("before", end=" ")
with whole_file(STANDARD_OUTPUT) as file:
    file.write(b"bytes \\xff")
print(" after")
"""
    command = ["-c", program]
    result = prestarted.run_in_bytes(command, tmp_path)
    assert result.stdout == b"before bytes \xff after\n"
    with (tmp_path / "file").open("wb") as file:
        assert not prestarted.run(command, tmp_path, stdout=file.fileno()).returncode
    assert (tmp_path / "file").read_bytes() == b"before bytes \xff after\n"
    assert check_target(STANDARD_OUTPUT) == STANDARD_OUTPUT
