"""The front door says what is wrong, and leaves nothing half."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.frontdoor.house import NEEDS, PICTURE, House, wait_for_text
from tests.painted import pixels
from tests.synth import MIB

pytestmark = NEEDS


@pytest.mark.usefixtures("volatility2")
def test_unknown_profile_is_told_by_volatility(house: House) -> None:
    """Volatility's own message and exit code appear."""
    _, said = house.run(house.dump(), "Win7SP9", "-o", "x.png", code=1)
    assert "Invalid profile Win7SP9 selected" in said
    assert not (house.folder / "x.png").exists()


@pytest.mark.usefixtures("volatility2")
def test_a_file_that_is_no_dump_is_told_by_volatility(house: House) -> None:
    """The plugin's sentence appears."""
    dump = house.folder / "noise.raw"
    dump.write_bytes(np.random.default_rng(0).bytes(MIB))
    _, said = house.run(dump, "WinXPSP2x86", "-o", "x.png", code=1)
    assert "No Windows like WinXPSP2x86 in this dump" in said
    assert not (house.folder / "x.png").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no such dump.raw", "WinXPSP2x86"], r"there is no file no\ such\ dump.raw"),
        (["", "WinXPSP2x86"], "there is no file ''"),
        (["tmp", "WinXPSP2x86"], "tmp is a folder; give a dump file in it"),
        (["--legend", "small.raw"], "give the dump first"),
        (["small.raw", "WinXPSP2x86", "x"], "only options may follow DUMP and PROFILE"),
        (["small.raw", "WinXPSP2x86", "--colour"], "unrecognized arguments: --colour"),
        (["small.raw", "WinXPSP2x86", "--color-by", "use"], "unrecognized arguments: --color-by"),
        (["small.raw", "WinXPSP2x86", "--width", "none"], "argument --width"),
        (["small.raw", "WinXPSP2x86", "-o"], "argument -o/--output: expected one argument"),
        (["small.raw", "WinXPSP2x86", "-o", "x.jpg"], "must end in .png"),
        (["small.raw", "WinXPSP2x86", "-o", "small.raw"], "must end in .png"),
        (["small.raw", "WinXPSP2x86", "--no-imageinfo"], "unrecognized arguments: --no-imageinfo"),
        (["small.raw", "--unheard-of"], "unrecognized arguments: --unheard-of"),
        (["small.raw", "--no-imageinfo", "-o", "x.raw"], "must end in .png"),
        (["--demo", "--unheard-of"], "unrecognized arguments: --unheard-of"),
        (["pipe", "WinXPSP2x86"], "pipe is a pipe or a device; save the memory as a file first"),
        (["pipe"], "pipe is a pipe or a device; save the memory as a file first"),
    ],
)
def test_bad_usage_is_told_before_volatility_runs(
    fake: House, arguments: list[str], sentence: str
) -> None:
    """One sentence comes before Volatility's minutes, and no file is written or removed."""
    fake.dump()
    os.mkfifo(fake.folder / "pipe")
    (fake.folder / "x.png").write_bytes(PICTURE)
    printed, said = fake.run(*arguments, code=2)
    assert sentence in said
    assert said.count("\n") == 1
    assert not printed
    assert fake.called() is None
    assert (fake.folder / "x.png").read_bytes() == PICTURE


@pytest.mark.parametrize("profile", [[], ["WinXPSP2x86"]])
def test_an_output_that_cannot_be_is_told_before_volatility_runs(
    fake: House, profile: list[str]
) -> None:
    """A missing folder and another program's file are told first."""
    fake.dump()
    (fake.folder / "x.png").write_bytes(b"mine")
    for path, sentence in (
        ("no/x.png", "no/x.png: its folder does not exist"),
        ("x.png", "x.png: it exists, and this program did not write it; --force replaces it"),
    ):
        _, said = fake.run("small.raw", *profile, "-o", path, code=1)
        assert sentence in said
    assert (fake.folder / "x.png").read_bytes() == b"mine"
    assert fake.called() is None


def test_force(fake: House) -> None:
    """--force replaces another program's file, but no dump."""
    fake.dump()
    picture = fake.folder / "x.png"
    picture.write_bytes(b"mine")
    fake.run("small.raw", "WinXPSP2x86", "-o", picture, "--force")
    assert pixels(picture)[1] == "kernel"
    picture.write_bytes(b"PAGEDU64" + bytes(4096))
    _, said = fake.run("small.raw", "WinXPSP2x86", "-o", picture, "--force", code=1)
    assert "begins like a dump" in said
    assert picture.read_bytes() == b"PAGEDU64" + bytes(4096)


FAILURES = {
    "Volatility fails": ("cat the.map; echo Oh no >&2; exit 7", 7, "Oh no"),
    "Volatility prints no map": ("echo Oh no", 1, "Oh no"),
    "Volatility prints an empty map": ("head -n 2 the.map", 1, "found no mapped page"),
    "the renderer fails": ("cat the.map; echo 0x0 0x5000 0x1000 True", 2, "beyond the dump"),
}


@pytest.mark.parametrize(("body", "code", "sentence"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("options", [[], ["-o", "x.png"], ["-ox.png"], ["--outp=x.png"]])
@pytest.mark.many
def test_a_failed_step_ends_the_run_and_says_so(
    fake: House, published: Path, options: list[str], body: str, code: int, sentence: str
) -> None:
    """Half a picture is removed; an earlier run's picture stays, and a sentence says so."""
    dump = fake.dump(published.stem)
    picture = fake.folder / "x.png" if options else published
    good = (fake.folder / "called", fake.folder / "the.map")
    for earlier in (False, True):
        if earlier:
            fake.fake_volatility()
            fake.run(dump, "WinXPSP2x86", *options)
        before = picture.read_bytes() if earlier else None
        for path in good:
            path.unlink(missing_ok=True)
        fake.fake_volatility(body)
        _, said = fake.run(dump, "WinXPSP2x86", *options, code=code)
        assert sentence in said
        assert "no picture was made" in said
        assert ("comes from an earlier run" in said) == earlier
        assert (picture.read_bytes() if picture.exists() else None) == before


def test_what_volatility_says_amid_the_map_reaches_the_person(fake: House) -> None:
    """Its messages reach the person, and do not disturb the renderer."""
    noise = "*** Failed to import volatility.plugins.malware.apihooks (NameError: distorm3)"
    fake.fake_volatility(f"echo '{noise}'; cat the.map")
    _, said = fake.run(fake.dump(), "WinXPSP2x86", "-o", "x.png")
    assert noise in said
    assert pixels(fake.folder / "x.png")[1] == "kernel"


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interrupted_run_leaves_nothing_behind(
    fake: House, published: Path, name: str, code: int
) -> None:
    """Neither picture, temporary file nor process remains."""
    fake.fake_volatility("echo $$ >pid; exec sleep 60")
    process = fake.start(fake.dump(published.stem), "WinXPSP2x86")
    pid = wait_for_text(fake.folder / "pid")
    # Only to the script, which must end its step.
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=10)
    assert process.returncode == code
    assert "interrupted" in said
    assert not published.exists()
    assert not list(fake.temporary.iterdir())
    assert not Path("/proc", pid).exists()
