"""Split images: parts of equal size, .001 and so on, are read as one file."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.cli import memviz
from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import PIECES, check, check_without, frames_of, memory
from tests.synth import containers

CONTENTS = memory(200, 1) + bytes(64 * PAGE_SIZE) + memory(25, 2)


def cut(path: Path, contents: bytes, size: int, *, first: int = 1) -> list[Path]:
    """Write the parts, as `split -d -a 3 -b SIZE` does."""
    parts = []
    for number, start in enumerate(range(0, len(contents), size), first):
        parts.append(path.with_suffix(f".{number:03}"))
        parts[-1].write_bytes(contents[start : start + size])
    return parts


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("size", [64 * PAGE_SIZE, 100_001, len(CONTENTS) - 1, len(CONTENTS) // 17])
@pytest.mark.many
def test_raw(tmp_path: Path, first: int, size: int) -> None:
    """Any part opens the image; a page may lie across two parts."""
    parts = cut(tmp_path / "memory.dd", CONTENTS, size, first=first)
    (tmp_path / "memory.txt").write_text("a log")
    (tmp_path / "other.007").write_bytes(b"x")
    for path in {parts[0], parts[1], parts[-1]}:
        for lenient in (False, True):
            dump = open_dump(path, lenient=lenient)
            assert dump.format == "raw (split image)"
            check(dump, frames_of([(0, CONTENTS)]))
            assert dump.remarks == (
                f"{parts[0]} to {parts[-1].name} were read as a split image of {len(parts)} parts;"
                " to read a part alone, give it another name",
            )


def test_all_parts_given(tmp_path: Path) -> None:
    """Parts may be given in any order."""
    parts = cut(tmp_path / "memory", CONTENTS, 64 * PAGE_SIZE)
    check(open_dump(parts[::-1]), frames_of([(0, CONTENTS)]))
    other = tmp_path / "other"
    other.write_bytes(CONTENTS)
    with pytest.raises(BadInputError, match="is not part of a split kdump file"):
        open_dump([*parts, other])


@pytest.mark.parametrize("name", ["lime", "elf", "crash", "kdump", "avml", "gzip"])
def test_any_format(tmp_path: Path, name: str) -> None:
    """The joined contents tell the format."""
    raw = tmp_path / "raw"
    containers.WRITERS["lime" if name == "gzip" else name](raw, PIECES)
    if name == "gzip":
        raw.write_bytes(gzip.compress(raw.read_bytes()))
    parts = cut(tmp_path / "memory", raw.read_bytes(), 150_000)
    dump = open_dump(parts[0])
    assert dump.format == f"{open_dump(raw).format} (split image)"
    check(dump, frames_of(PIECES))


@pytest.mark.parametrize("lost", [1, 3])
def test_a_missing_part(tmp_path: Path, lost: int) -> None:
    """A missing part is named; lenient leaves out its frames, and other parts keep their places."""
    parts = cut(tmp_path / "memory", CONTENTS, 50 * PAGE_SIZE)
    parts[lost - 1].unlink()
    with pytest.raises(DamagedInputError) as caught:
        open_dump(parts[1])
    said = f"{parts[1]} is one part of a split image: memory.{lost:03} is missing"
    assert str(caught.value) == said
    dump = open_dump(parts[1], lenient=True)
    assert dump.remarks[0] == said
    gone = range((lost - 1) * 50, lost * 50)
    check_without(dump, frames_of([(0, CONTENTS)]), gone)


def test_a_short_part(tmp_path: Path) -> None:
    """A short part costs the frames that it lacks."""
    parts = cut(tmp_path / "memory", CONTENTS, 50 * PAGE_SIZE)
    parts[1].write_bytes(parts[1].read_bytes()[: 20 * PAGE_SIZE + 5])
    with pytest.raises(DamagedInputError, match=r"memory\.002 has 81,925 bytes, and others have"):
        open_dump(parts[0])
    dump = open_dump(parts[0], lenient=True)
    check_without(dump, frames_of([(0, CONTENTS)]), range(70, 100))
    parts[1].write_bytes(bytes(60 * PAGE_SIZE))
    with pytest.raises(DamagedInputError, match=r"memory\.002 has 245,760 bytes"):
        open_dump(parts[0])
    assert open_dump(parts[0], lenient=True).held.all()


def test_many_missing_parts(tmp_path: Path) -> None:
    """Three missing parts are named, the others counted; a part with most missing is read alone."""
    parts = cut(tmp_path / "memory", bytes(21 * PAGE_SIZE), PAGE_SIZE)
    for part in parts[2:16:2]:
        part.unlink()
    with pytest.raises(DamagedInputError) as caught:
        open_dump(parts[0])
    assert str(caught.value).endswith(
        "memory.003 is missing; memory.005 is missing; memory.007 is missing; and 4 more"
    )
    for part in parts[1:20]:
        part.unlink(missing_ok=True)
    assert open_dump(parts[0]).format == "raw"


def test_what_is_no_split_image(tmp_path: Path) -> None:
    """A lone file, a file of another size, and a series of LiME dumps are not split images."""
    lone, larger, longer = (tmp_path / name for name in ("a.001", "a.002", "b.0001"))
    lone.write_bytes(bytes(PAGE_SIZE))
    assert open_dump(lone).format == "raw"
    larger.write_bytes(bytes(2 * PAGE_SIZE))
    assert open_dump(larger).format == "raw"
    longer.write_bytes(bytes(PAGE_SIZE))
    assert open_dump(longer).format == "raw"
    for number in (1, 2, 3):
        containers.write_lime(tmp_path / f"series.{number:03}", PIECES)
    for number in (1, 2, 3):
        check(open_dump(tmp_path / f"series.{number:03}"), frames_of(PIECES))


def test_a_folder_named_as_a_part(tmp_path: Path) -> None:
    """Such a folder is not a part, though two parts lie beside it."""
    cut(tmp_path / "memory", CONTENTS[: 128 * PAGE_SIZE], 64 * PAGE_SIZE)
    folder = tmp_path / "memory.003"
    folder.mkdir()
    with pytest.raises(BadInputError, match=r"memory\.003"):
        open_dump(folder)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary tells the parts, and `--lenient` is offered if a part is missing."""
    noise = np.random.default_rng(1).bytes(40 * PAGE_SIZE)
    parts = cut(tmp_path / "memory", noise, 10 * PAGE_SIZE)
    command = [str(parts[0]), "-o", str(tmp_path / "a.png")]
    assert memviz.main(command) == 3  # the noise has no system
    assert "memory.004 were read as a split image of 4 parts" in "".join(capsys.readouterr())
    assert memviz.main([*command, "--force", "--hash"]) == 2  # it would be the hash of one part
    assert "--hash covers a single file" in capsys.readouterr().err
    parts[1].unlink()
    assert memviz.main([*command, "--force"]) == 2
    assert "memory.002 is missing (--lenient " in capsys.readouterr().err
    assert memviz.main([*command, "--force", "--lenient"]) == 3
