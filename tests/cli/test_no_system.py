"""memviz on dumps without a known system."""

import json
import re
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.synth import forge, profiles
from tests.synth.containers import write_kdump
from tests.synth.memory import PAGE_SIZE
from tests.unknown.test_machine import elf

with suppress(ImportError):  # Windows does not have it
    pass
from tests.cli.running import ROOT, classes_in, run


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zeros", "the dump is all zeros"),
        ("noise", r"looks compressed or encrypted: entropy 7\.9[56] in 100 % of its pages"),
        ("half noise", r"looks compressed or encrypted: entropy 7\.9[56] in 100 % of its pages"),
        ("packed", "looks compressed or encrypted: entropy 7.9"),
        (
            "program",
            r"of another system, or damaged \(50 % zeros, entropy [456]\.\d\d in the rest\)",
        ),
    ],
)
@pytest.mark.many
def test_what_a_dump_without_a_system_looks_like(kind: str, words: str, tmp_path: Path) -> None:
    """Without a system, pages of zeros, of noise and of other data get different colours."""
    rng = np.random.default_rng(0)
    code = b"".join(
        path.read_bytes() for path in sorted((ROOT / "memory_visualizer").rglob("*.py"))
    )
    contents = {
        "zeros": bytes(64 * PAGE_SIZE),
        "noise": rng.bytes(64 * PAGE_SIZE),
        "half noise": rng.bytes(64 * PAGE_SIZE) + bytes(256 * PAGE_SIZE),
        "packed": b"\0" + zlib.compress(rng.bytes(2000) * 200 + code, 9),
        "program": bytes(64 * PAGE_SIZE) + (code * 9)[: 64 * PAGE_SIZE],
    }[kind]
    (tmp_path / "dump").write_bytes(
        contents.ljust(-(-len(contents) // PAGE_SIZE) * PAGE_SIZE, b"\0")
    )
    result = run(["dump"], tmp_path)
    assert result.returncode == 3
    assert re.search(words, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


def test_a_machine_that_is_not_read(tmp_path: Path) -> None:
    """The architecture of an unread machine is named; zeros and data are painted."""
    (tmp_path / "core").write_bytes(elf(">", 64, 22))
    result = run(["core", "-o", "core.png"], tmp_path)
    assert result.returncode == 3
    assert (
        "the dump is of IBM Z, which this program does not read; only zeros and data"
        in result.stderr
    )
    assert (tmp_path / "core.png").exists()


@pytest.mark.parametrize(
    ("machine", "name"), [(b"s390x", "IBM Z"), (b"ppc64", "64-bit PowerPC"), (b"ppc", "PowerPC")]
)
def test_a_big_endian_kdump_file(machine: bytes, name: str, tmp_path: Path) -> None:
    """The header of a big-endian kdump file tells the machine; zeros and data are painted."""
    contents = bytes(4 * PAGE_SIZE) + b"data" * PAGE_SIZE
    bits = 32 if machine == b"ppc" else 64
    write_kdump(tmp_path / "dump", [(0, contents)], order=">", machine=machine, bits=bits)
    result = run(["dump", "-o", "dump.png"], tmp_path)
    assert result.returncode == 3
    sentence = f"the dump is of {name}, which this program does not read; only zeros and data"
    assert sentence in result.stderr
    expected = 4 * ["unused-zero"] + 4 * ["unused-data"]
    assert classes_in(tmp_path / "dump.png", 8) == expected


def test_a_machine_without_no_execute(tmp_path: Path) -> None:
    """Without the no-execute bit every page is executable, so the right to execute is not told."""
    forge(tmp_path / "dump", profiles()["WinXPSP2x86"], pae=False)
    result = run(["dump"], tmp_path)
    assert result.returncode == 0
    assert "write and execute" not in result.stdout


def test_no_windows(noise: Path, tmp_path: Path) -> None:
    """A dump without Windows is painted with a sentence, all outputs, and exit code 3."""
    options = ["--table", "a.csv", "--json", "a.json", "--map", "a.map"]
    result = run([noise, *options], tmp_path)
    assert result.returncode == 3
    assert re.fullmatch(
        r"memviz: neither Windows nor Linux was found: the dump looks compressed or encrypted:"
        r" entropy 7\.9[56] in 100 % of its pages that are not zeros; only zeros and data are"
        r" distinguished\n",
        result.stderr,
    )
    assert (
        "noise.raw: raw, 32 KiB, 8 pages in 1 run\nNeither Windows nor Linux found\n"
        in result.stdout
    )
    assert "processes" not in result.stdout
    expected = 4 * ["unused-data"] + 4 * ["unused-zero"]
    assert classes_in(tmp_path / "noise.raw.png", 8) == expected
    assert json.loads((tmp_path / "a.json").read_text())["os"] is None
    assert len(list(tmp_path.iterdir())) == 4


def test_no_windows_and_a_choice(noise: Path, tmp_path: Path) -> None:
    """Without processes none can be chosen, and no page is dimmed."""
    result = run([noise, "--name", "lsass"], tmp_path)
    assert result.returncode == 3
    assert classes_in(tmp_path / "noise.raw.png", 8)[0] == "unused-data"
