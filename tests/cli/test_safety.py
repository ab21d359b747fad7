"""memviz takes nothing from a dump for its own, and never replaces evidence."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.synth import forge, profiles

with suppress(ImportError):  # Windows does not have it
    pass
from tests.cli.running import ENDINGS, classes_in, environment, run

HOSTILE = {
    "\x1b[2J\x1b]0;x\x07": r"\x1b[2J\x1b]0;x\x07",
    "\u202egpj.exe": r"\u202egpj.exe",
    "a\r\n   4 b": r"a\x0d\x0a   4 b",
    "=cmd()|'/c x'!A": "=cmd()|'/c x'!A",
    "<script>x(1)": "<script>x(1)",
    'a,b;"c"\t\'': r"a,b;" + '"c"' + r"\x09" + "'",
    "\\x41": r"\\x41",
    "日本.exe": "日本.exe",
}
"""Names of processes, and their forms on the screen."""


def test_hostile_names(tmp_path: Path) -> None:
    """Hostile names are escaped on the screen, in JSON and in CSV, also if they are not UTF-8."""
    names = [*HOSTILE, "not-utf-8-name"]
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], names=names)
    contents = (tmp_path / "dump").read_bytes()
    assert contents.count(b"not-utf-8-name\0") == 1
    invalid = b"\xff\xfe\xc3\x28\x80valid.exe"
    (tmp_path / "dump").write_bytes(contents.replace(b"not-utf-8-name", invalid[:14]))

    for encoding in ("utf-8", "ascii"):
        options = ["--table", "a.csv", "--json", "a.json", "--map", "a.map"]
        result = run(
            ["dump", *options],
            tmp_path,
            env=environment(PYTHONIOENCODING=encoding),
            encoding="utf-8",
        )
        assert (result.returncode, result.stderr) == (0, "")
        shown = result.stdout.splitlines()
        assert all(line.isprintable() for line in shown)
        [head] = [n for n, line in enumerate(shown) if line.split()[:2] == ["pid", "parent"]]
        place = shown[head].index("name")
        listed = [line[place:] for line in shown[head + 1 :][:14]]
        expected = [
            name if encoding == "utf-8" else name.encode("ascii", "backslashreplace").decode()
            for name in HOSTILE.values()
        ]
        assert set(expected) <= set(listed)
        assert any(re.fullmatch(r"[\\xfec380(]+valid\.ex?e?", name) for name in listed)

    text = (tmp_path / "a.json").read_text("ascii")
    assert all(line.isprintable() for line in text.splitlines())
    assert set(HOSTILE) <= {process["name"] for process in json.loads(text)["processes"]}
    table = (tmp_path / "a.csv").read_text("ascii").splitlines()
    assert all(re.fullmatch(r"[0-9a-fx, ]+|[0-9a-fx]+,[-0-9a-z, ]+", row) for row in table[1:])
    assert (tmp_path / "a.map").read_text("ascii").isascii()

    result = run(["dump", "--name", r"^\x1b\[2J"], tmp_path)
    assert "Pages of 1 process shown" in result.stdout


@pytest.mark.posix  # Windows allows no such names
def test_hostile_file_names(noise: Path, tmp_path: Path) -> None:
    """Hostile names of files are escaped on the screen, in the PNG and in JSON."""
    name = "\x1b[31m\u202e\udcff\n.raw"
    (tmp_path / name).write_bytes(noise.read_bytes())
    result = run([name, "--json", f"{name}.json", "--legend"], tmp_path)
    assert result.returncode == 3
    shown = "\\x1b[31m\\u202e\\xff\\x0a.raw"
    assert f"{shown}: raw, 32 KiB" in result.stdout
    assert f"\n{shown}.json: written\n" in result.stdout
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.info["Source"] == shown
    summary = json.loads((tmp_path / f"{name}.json").read_text("ascii"))
    assert summary["dump"] == "\x1b[31m\u202e\\xff\n.raw"


def test_the_dump_is_only_read(dump: Path, tmp_path: Path) -> None:
    """The dump is opened only for reading, and does not change."""
    before, contents = dump.stat(), dump.read_bytes()
    program = """
import os, sys
from memory_visualizer.cli.memviz import main

opened = set()
def watch(event, arguments):
    named = event == "open" and not isinstance(arguments[0], int)
    if named and os.fspath(arguments[0]) == sys.argv[1]:
        opened.add((arguments[1], arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
    elif event.startswith(("os.", "shutil.")) and sys.argv[1] in arguments:
        opened.add(event)
sys.addaudithook(watch)
code = main([sys.argv[1], "--table", "a.npz", "--json", "a.json", "--map", "a.map"])
assert opened and all(mode in ("r", "rb", None) and not flags for mode, flags in opened), opened
sys.exit(code)
"""
    result = run([dump], tmp_path, program=["-c", program])
    assert (result.returncode, result.stderr) == (0, "")
    after = dump.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert dump.read_bytes() == contents


@pytest.mark.parametrize(("option", "ending"), ENDINGS.items())
@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.many
def test_the_dump_is_never_replaced(
    force: list[str], option: str, ending: str, noise: Path, tmp_path: Path
) -> None:
    """No output replaces the dump, not even under another name."""
    (tmp_path / f"dump{ending}").write_bytes(noise.read_bytes())
    (tmp_path / f"link{ending}").symlink_to(f"dump{ending}")
    result = run([f"dump{ending}", option, f"link{ending}", *force], tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"memviz: link{ending} is an input and must not be replaced\n"
    assert (tmp_path / f"dump{ending}").read_bytes() == noise.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_lies_beside_the_dump_is_never_replaced(
    force: list[str], noise: Path, tmp_path: Path
) -> None:
    """Neither file of a VMware dump is replaced."""
    (tmp_path / "a.vmem").write_bytes(noise.read_bytes())
    (tmp_path / "a.vmss").write_bytes(b"state")
    (tmp_path / "a.json").symlink_to("a.vmss")
    result = run(["a.vmem", "--json", "a.json", *force], tmp_path)
    assert result.returncode == 2
    assert result.stderr == "memviz: a.json is an input and must not be replaced\n"
    assert (tmp_path / "a.vmss").read_bytes() == b"state"


@pytest.mark.parametrize("option", ENDINGS)
def test_two_dumps_where_one_is_meant(option: str, dump: Path, noise: Path, tmp_path: Path) -> None:
    """`memviz --html *.raw`, where the shell puts a dump in the place of the output, is refused."""
    for name, source in (("a.raw", dump), ("b.raw", noise)):
        (tmp_path / name).write_bytes(source.read_bytes())
        (tmp_path / name).chmod(0o444)
    for more in ([], ["--force"]):
        result = run([option, "a.raw", "b.raw", *more], tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"argument {option}" in result.stderr
        assert re.search(r": must end in .*; not a\.raw \(", result.stderr)
        assert result.stderr.count("\n") == 1
    assert (tmp_path / "a.raw").read_bytes() == dump.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("option", "ending"), ENDINGS.items())
@pytest.mark.many
def test_what_others_wrote_stays(option: str, ending: str, noise: Path, tmp_path: Path) -> None:
    """Another program's file stays without --force; this program's own outputs are replaced."""
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"mine")
    result = run([noise, option, path.name], tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"memviz: cannot write a{ending}: it exists, and this program did not write it; --force"
        " replaces it\n"
    )
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]
    assert run([noise, option, path.name, "--force"], tmp_path).returncode == 3
    first = path.read_bytes()
    assert first != b"mine"
    assert run([noise, option, path.name], tmp_path).returncode == 3
    assert path.read_bytes() == first


def test_dumps_of_one_name(dump: Path, noise: Path, tmp_path: Path) -> None:
    """Dumps of one name in two folders: the second picture does not replace the first."""
    for folder, source in (("a", dump), ("b", noise)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "memory.raw").write_bytes(source.read_bytes())
    assert run(["a/memory.raw"], tmp_path).returncode == 0
    first = (tmp_path / "memory.raw.png").read_bytes()
    result = run(["b/memory.raw"], tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "memviz: cannot write memory.raw.png: it exists and shows another dump; -o names another"
        " file, --force replaces it\n"
    )
    assert (tmp_path / "memory.raw.png").read_bytes() == first
    assert run(["a/memory.raw", "--legend"], tmp_path).returncode == 0  # the same dump again
    assert run(["b/memory.raw", "--force"], tmp_path).returncode == 3
    assert classes_in(tmp_path / "memory.raw.png", 8)[0] == "unused-data"
