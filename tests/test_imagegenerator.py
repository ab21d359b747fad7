"""The command line of the renderer, run as people run it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import prestarted
from tests.terminal import on_a_terminal

with suppress(ImportError):  # Windows does not have it
    import resource

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "imagegenerator.py"
PAGE = 4096

# Six frames: user, kernel, both, unused data, unused zeros, user (all zeros).
DUMP = b"u" * PAGE + b"k" * PAGE + b"b" * PAGE + b"d" * PAGE + bytes(2 * PAGE)
MAP = """\
(Virtual)   (Physical)    (Size)    (Kernel)
----------------------------------------------
0x400000    0x0           0x1000    False
0x80001000  0x1000        0x2000    True
0x402000    0x2000        0x1000    False
0x403000    0x5000        0x1000    False
"""
COLOURS = {
    "absent": (24, 26, 30),
    "both": (84, 38, 112),
    "user": (212, 70, 45),
    "kernel": (95, 194, 205),
    "unused-data": (233, 214, 140),
    "unused-zero": (255, 255, 255),
}
PAINTED = ["user", "kernel", "both", "unused-data", "unused-zero", "user"] + 3 * ["absent"]


@dataclass
class Files:
    """A folder with a dump and its map."""

    folder: Path

    @property
    def dump(self) -> Path:
        """The dump."""
        return self.folder / "dump.raw"

    @property
    def map(self) -> Path:
        """The text page map."""
        return self.folder / "dump.map"

    @property
    def png(self) -> Path:
        """The picture's path."""
        return self.folder / "out.png"

    def run(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """Run the program on the dump and the map."""
        return run([str(self.dump), str(self.map), "-o", str(self.png), *options])

    def check_failed(self, *options: str, code: int, sentence: str) -> None:
        """The program ends with that code, exactly that sentence, and no picture."""
        result = self.run(*options)
        assert result.stderr == f"imagegenerator.py: {sentence}\n"
        assert (result.returncode, result.stdout) == (code, "")
        assert not self.png.exists()
        assert not list(self.folder.glob(".*"))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The example's files."""
    files = Files(tmp_path)
    files.dump.write_bytes(DUMP)
    files.map.write_text(MAP)
    return files


def run(
    arguments: Sequence[str], program: Path = PROGRAM, stdin: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the program."""
    if stdin is None:
        return prestarted.run([program, *arguments])
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        env=prestarted.environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def painted(path: Path) -> list[str]:
    """The class of each pixel, by its colour."""
    names = {colour: name for name, colour in COLOURS.items()}
    with Image.open(path) as picture:
        return [names[tuple(pixel)] for row in np.asarray(picture.convert("RGB")) for pixel in row]


def test_picture_and_printed_legend(files: Files) -> None:
    """Each frame has its colour; standard output has counts and percentages."""
    result = files.run()
    assert (result.returncode, result.stderr) == (0, "")
    assert painted(files.png) == PAINTED
    assert result.stdout == (
        f"{files.png}: 3 x 3 pixels, one for each 4 KiB page of dump.raw (24 KiB)\n"
        "  #181a1e  absent       0      0 MiB        -\n"
        "  #542670  both         1  0.004 MiB   16.7 %\n"
        "  #d4462d  user         2  0.008 MiB   33.3 %\n"
        "  #5fc2cd  kernel       1  0.004 MiB   16.7 %\n"
        "  #e9d68c  unused-data  1  0.004 MiB   16.7 %\n"
        "  #ffffff  unused-zero  1  0.004 MiB   16.7 %\n"
    )


def test_png_and_its_text_chunks(files: Files) -> None:
    """The mode is P, other programs' chunks are there, and bytes repeat on each run."""
    files.run()
    with Image.open(files.png) as picture:
        assert picture.mode == "P"
        texts = dict(picture.info)
    assert json.loads(texts["Legend"]) == {
        name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in COLOURS.items()
    }
    assert texts["Software"].startswith("Memory Visualizer ")
    assert texts["Source"] == "dump.raw"
    assert texts["Layout"] == "rows"
    first = files.png.read_bytes()
    files.run()
    assert files.png.read_bytes() == first


def test_name_goes_to_the_images_folder(files: Files) -> None:
    """NAME means images/NAME.png beside the program; the folder is made if missing."""
    program = files.folder / "imagegenerator.py"
    shutil.copy(PROGRAM, program)
    for _ in range(2):
        assert run([str(files.dump), str(files.map), "xp.bin"], program).returncode == 0
    assert painted(files.folder / "images" / "xp.bin.png") == PAINTED


def test_map_from_standard_input(files: Files) -> None:
    """A map with the seed's decimal numbers and CRLF is read from a pipe."""
    decimal = "0 0 4096 False\r\n4096 4096 8192 True\r\n8192 8192 4096 False\r\n0 20480 4096 False"
    result = run([str(files.dump), "-", "-o", str(files.png)], stdin=decimal)
    assert (result.returncode, result.stderr) == (0, "")
    assert painted(files.png) == PAINTED


def test_width(files: Files) -> None:
    """--width sets the width; there are as many rows as needed."""
    files.run("--width", "2")
    with Image.open(files.png) as picture:
        assert picture.size == (2, 3)
    assert painted(files.png) == PAINTED[:6]


def test_drawn_legend(files: Files) -> None:
    """--legend leaves the picture at its place, and adds the legend below."""
    files.run("--legend", "--palette", "colour-blind", "--width", "2")
    with Image.open(files.png) as picture:
        assert picture.mode == "P"
        assert picture.height > 100
        left, top, right, bottom = map(int, picture.info["Box"].split())
        assert (top, right - left, bottom) == (0, 2, 3)
        assert picture.convert("RGB").getpixel((left + 1, 0)) == (86, 180, 233)
        assert json.loads(picture.info["Legend"])["kernel"] == "#56b4e9"


# Errors


def test_missing_dump(files: Files) -> None:
    """A missing dump is named, with exit code 2."""
    files.dump.unlink()
    sentence = f"cannot read {files.dump}: No such file or directory"
    files.check_failed(code=2, sentence=sentence)


def test_missing_map(files: Files) -> None:
    """A missing map is named, with exit code 2."""
    files.map.unlink()
    files.check_failed(code=2, sentence=f"cannot read {files.map}: No such file or directory")


def test_empty_dump(files: Files) -> None:
    """An empty dump is refused, lenient or not."""
    files.dump.write_bytes(b"")
    sentence = f"{files.dump} holds 0 bytes, less than one page"
    files.check_failed(code=2, sentence=sentence)
    files.check_failed("--lenient", code=2, sentence=sentence)


LENIENT = "(--lenient paints what can be painted)"


def test_partial_page(files: Files) -> None:
    """A partial page is an error, and with --lenient a note."""
    files.dump.write_bytes(DUMP + b"rest")
    sentence = f"{files.dump} is not a whole number of 4,096-byte pages: 4 bytes follow page 6"
    files.check_failed(code=2, sentence=f"{sentence} {LENIENT}")
    result = files.run("--lenient")
    assert result.returncode == 0
    assert result.stderr == (
        f"imagegenerator.py: ignored the last 4 bytes of {files.dump}, less than a whole page\n"
    )
    assert painted(files.png) == PAINTED


def test_broken_line(files: Files) -> None:
    """An error names the line; --lenient skips and counts such lines."""
    files.map.write_text(MAP.replace("0x2000        0x1000", "2000h 0x1000") + "junk\n")
    reason = "line 5: the physical address is not a number below 2**64"
    files.check_failed(code=2, sentence=f"{files.map}, {reason} {LENIENT}")
    result = files.run("--lenient")
    assert result.returncode == 0
    assert result.stderr == (
        f"imagegenerator.py: {files.map}: broken lines skipped: 2, first {reason}\n"
    )
    assert painted(files.png) == ["user", "kernel", "kernel", *PAINTED[3:]]


def test_a_map_that_is_none(files: Files) -> None:
    """--lenient is not offered if it would find no mapping."""
    files.map.write_text("Dear diary,\n")
    sentence = f"{files.map}, line 1: there are fewer than four columns"
    files.check_failed(code=2, sentence=sentence)


def test_frame_beyond_the_dump(files: Files) -> None:
    """An error names the line; --lenient cuts and counts such lines."""
    files.map.write_text(MAP.replace("0x5000        0x1000", "0x5000 0x200000"))
    reason = "line 6: the mapping reaches to 0x204fff, beyond the dump's 6 pages"
    files.check_failed(code=2, sentence=f"{files.map}, {reason} {LENIENT}")
    result = files.run("--lenient")
    assert result.returncode == 0
    assert result.stderr == (
        f"imagegenerator.py: {files.map}: mappings cut off at the dump's end: 1, first {reason}\n"
    )
    assert painted(files.png) == PAINTED


def test_map_without_rows(files: Files) -> None:
    """The dump is painted with a warning, since most likely the plugin failed."""
    files.map.write_text(MAP.split("0x", 1)[0])
    result = files.run()
    assert result.returncode == 0
    assert result.stderr == (
        f"imagegenerator.py: {files.map} has no mapping, so all pages are painted as unused\n"
    )
    assert painted(files.png)[:6] == 4 * ["unused-data"] + 2 * ["unused-zero"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dump.raw", "dump.map"], "give a NAME, or a path with -o"),
        (["dump.raw"], "the following arguments are required: MAP"),
        (["a", "b", "../c"], "NAME must be a plain file name; -o takes a path"),
        (["a", "b", ""], "NAME must be a plain file name; -o takes a path"),
        (["a", "b", "c", "--width", "0"], "must be a whole number from 1 to 65535"),
        (["a", "b", "c", "--width", "65536"], "must be a whole number from 1 to 65535"),
        (["a", "b", "c", "--width", "x"], "must be a whole number from 1 to 65535"),
        (["a", "b", "c", "--palette", "x"], "invalid choice: 'x'"),
        (["a", "b", "c", "--color-by", "use"], "unrecognized arguments: --color-by ("),
        (["--color-by", "use", "--", "a", "b", "../c"], "unrecognized arguments: --color-by ("),
        (["a", "b", "-o", "x.jpg"], "must end in .png, or be - for standard output"),
        (["a", "b", "-o", "other.raw"], "must end in .png"),
    ],
)
@pytest.mark.many
def test_usage_errors(arguments: list[str], sentence: str) -> None:
    """A usage error is explained, with exit code 2."""
    result = run(arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert result.stderr.startswith("imagegenerator.py: ")
    assert result.stderr.count("\n") == 1


def test_help() -> None:
    """Examples and exit codes are in the help."""
    result = run(["--help"])
    assert (result.returncode, result.stderr) == (0, "")
    assert "imagegenerator.py dumps/xp.raw xp.map xp" in result.stdout
    assert "130 interrupted" in result.stdout


@pytest.mark.parametrize("source", ["dump.raw", "dump.map"])
def test_inputs_are_never_overwritten(files: Files, source: str) -> None:
    """An input is not overwritten, not even under another name."""
    link = files.folder / "link.png"
    link.hardlink_to(files.folder / source)
    result = run([str(files.dump), str(files.map), "-o", str(link)])
    assert result.returncode == 2
    assert result.stderr == f"imagegenerator.py: {link} is an input and must not be replaced\n"
    assert (files.dump.read_bytes(), files.map.read_text()) == (DUMP, MAP)


def test_what_others_wrote_stays(files: Files) -> None:
    """Another program's file stays without --force; a possible dump stays even with it."""
    files.png.write_bytes(b"mine")
    result = files.run()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"imagegenerator.py: cannot write {files.png}: it exists, and this program did not write"
        " it; --force replaces it\n"
    )
    assert files.png.read_bytes() == b"mine"
    assert files.run("--force").returncode == 0
    assert painted(files.png) == PAINTED
    assert files.run("--legend").returncode == 0
    for contents in (b"EMiL" + bytes(100), bytes(1 << 20)):
        files.png.write_bytes(contents)
        assert files.run("--force").returncode == 1
        assert files.png.read_bytes() == contents


def test_another_dump_of_that_name(files: Files) -> None:
    """The other dump's picture in images/ stays without --force."""
    copy = files.folder / "checkout"
    copy.mkdir()
    shutil.copy(PROGRAM, copy)
    arguments = [str(files.dump), str(files.map), "memory"]
    assert run(arguments, copy / PROGRAM.name).returncode == 0
    first = (copy / "images/memory.png").read_bytes()
    assert run(arguments, copy / PROGRAM.name).returncode == 0
    files.dump.write_bytes(DUMP[::-1])
    result = run(arguments, copy / PROGRAM.name)
    assert result.returncode == 1
    assert "it exists and shows another dump" in result.stderr
    assert (copy / "images/memory.png").read_bytes() == first
    assert run([*arguments, "--force"], copy / PROGRAM.name).returncode == 0
    assert (copy / "images/memory.png").read_bytes() != first


@pytest.mark.parametrize("name", ["-", pytest.param("/dev/stdout", marks=pytest.mark.posix)])
def test_standard_output(files: Files, name: str) -> None:
    """Standard output has the picture only; standard error has the legend."""
    assert files.run().returncode == 0
    result = prestarted.run_in_bytes([PROGRAM, files.dump, files.map, "-o", name])
    assert result.returncode == 0
    assert result.stdout == files.png.read_bytes()
    assert b"unused-zero" in result.stderr


def test_output_folder_is_missing(files: Files) -> None:
    """A missing output folder gives exit code 1, as the input is sound."""
    path = files.folder / "nowhere" / "a.png"
    result = files.run("-o", str(path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"imagegenerator.py: cannot write {path}: its folder does not exist\n"


@pytest.mark.posix
def test_output_is_a_pipe(files: Files) -> None:
    """A pipe as output is refused, and stays."""
    os.mkfifo(files.png)
    result = files.run()
    assert result.returncode == 1
    assert result.stderr == (
        f"imagegenerator.py: cannot write {files.png}: it exists and is not a plain file\n"
    )
    assert files.png.is_fifo()


@pytest.mark.posix
def test_full_disk(files: Files) -> None:
    """The old picture stays, and no part of the new one."""
    assert files.run().returncode == 0
    old = files.png.read_bytes()
    result = subprocess.run(
        [sys.executable, str(PROGRAM), str(files.dump), str(files.map), "-o", str(files.png)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == f"imagegenerator.py: cannot write {files.png}: File too large\n"
    assert files.png.read_bytes() == old
    assert len(list(files.folder.iterdir())) == 3


def test_nobody_reads_the_legend(files: Files) -> None:
    """A closed pipe does not cause a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [PROGRAM, files.dump, files.map, "-o", files.png]
    result = prestarted.run_in_bytes(command, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, b"")
    assert painted(files.png) == PAINTED


@pytest.mark.posix
def test_interrupt(files: Files) -> None:
    """Ctrl-C gives 130, one line, and no picture."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(files.dump), "-", "-o", str(files.png)],
        # A shell may have started the tests with SIGINT ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stderr
    # The map is larger than a pipe: once it is written, the program is reading.
    process.stdin.write(b"0 0 4096 True\n" * 100_000)
    process.send_signal(signal.SIGINT)
    # A signal just before a read takes effect when the read ends, as a real Ctrl-C also ends the
    # program at the other side of the pipe.
    process.stdin.close()
    assert process.wait(60) == 130
    assert process.stderr.read() == b"imagegenerator.py: interrupted\n"
    process.stderr.close()
    assert sorted(files.folder.iterdir()) == [files.map, files.dump]


# Text from outside


def test_hostile_names(files: Files) -> None:
    """Control and bidirectional characters are escaped on the screen and in the PNG."""
    hostile = files.folder / "\x1b[31m\u202egnp\n.raw"
    files.dump.rename(hostile)
    result = run([str(hostile), str(files.map), "-o", str(files.png), "--legend"])
    shown = "\\x1b[31m\\u202egnp\\x0a.raw"
    assert f"page of {shown} (24 KiB)" in result.stdout
    with Image.open(files.png) as picture:
        assert picture.info["Source"] == shown
    hostile.unlink()
    result = run([str(hostile), str(files.map), "-o", str(files.png)])
    assert result.stderr == (
        f"imagegenerator.py: cannot read {files.folder}/{shown}: No such file or directory\n"
    )


@pytest.mark.posix
@pytest.mark.parametrize("no_color", ["", "1"])
def test_colour_on_a_terminal(files: Files, no_color: str) -> None:
    """A terminal gets swatches, unless NO_COLOR is set."""
    command = [sys.executable, str(PROGRAM), str(files.dump), str(files.map), "-o", str(files.png)]
    environment = os.environ | {"NO_COLOR": no_color}
    output = on_a_terminal(
        lambda slave: subprocess.run(command, env=environment, stdout=slave, check=True)
    )
    assert ("\x1b[48;2;95;194;205m" in output) == (not no_color)
    assert "kernel" in output
