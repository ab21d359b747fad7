"""The front door without a profile: memviz paints, and imageinfo is asked."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.frontdoor.house import NEEDS, SCRIPT, House, commands, wait_for_text
from tests.painted import assert_painted_truly, pixels
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.profiles import builds

pytestmark = NEEDS


FITTING = ["Win7SP0x86", "Win7SP1x86", "Win7SP1x86_23418", "Win7SP1x86_24000"]
"""The profiles with its version and bits."""


def suggestion(*names: str) -> str:
    """The output of imageinfo, as a shell command."""
    return f"echo '          Suggested Profile(s) : {', '.join(names)} (Instantiated with x)'"


@pytest.mark.usefixtures("volatility2")
def test_without_profile_memviz_paints_and_imageinfo_is_asked(
    house: House, windows7: tuple[Path, Truth]
) -> None:
    """Picture and page come first, then commands, imageinfo's output, and a comparison of both."""
    dump, truth = windows7
    printed, said = house.run(dump, "--legend", "-o", "a picture.png")
    assert_painted_truly(house.folder / "a picture.png", truth, truth.alive)
    page = (house.folder / "a picture.html").read_text()
    assert 'content="Memory Visualizer ' in page
    assert printed.index("Windows 6.1 (7 or") < printed.index("Suggested Profile(s) : ")
    assert commands(said) == [
        [str(SCRIPT), str(dump), name, "--legend", "-o", "a picture.png"] for name in FITTING
    ]
    told = re.search(r"Suggested Profile\(s\) : (.*)", printed)
    assert told
    assert set(told[1].split(", ")) == set(FITTING)
    assert f"imageinfo and memviz name the same profiles: {told[1]}.\n" in said
    assert "there the pages of 1 unlinked process show as unused.\n" in said


def test_without_profile_the_picture_is_named_after_the_dump(
    fake: House, published: Path, windows7: tuple[Path, Truth]
) -> None:
    """Picture and page have the dump's name, in images/ of the checkout."""
    dump = windows7[0].rename(fake.folder / published.stem)
    page = published.with_suffix(".html")
    try:
        printed, _ = fake.run(dump, "--no-imageinfo")
        assert_painted_truly(published, windows7[1], windows7[1].alive)
        assert f"{page}: written" in printed
        assert fake.called() is None
        # Another dump of that name neither replaces nor removes them.
        before = published.read_bytes()
        (fake.folder / "other").mkdir()
        other = fake.folder / "other" / dump.name
        forge(other, profiles()["WinXPSP2x86"], size=16 * MIB, processes=3)
        _, said = fake.run(other, code=1)
        assert f"{published}: it exists and shows another dump" in said
        assert published.read_bytes() == before
        _, said = fake.run(other, "WinXPSP2x86", code=1)
        assert f"{published}: it exists and shows another dump" in said
        assert (published.read_bytes(), fake.called()) == (before, None)
    finally:
        page.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (FITTING, f"imageinfo and memviz name the same profiles: {', '.join(FITTING)}."),
        (
            ["WinXPSP2x86", *FITTING[:2]],
            "imageinfo suggests WinXPSP2x86, Win7SP0x86, Win7SP1x86; memviz"
            f" {', '.join(FITTING)}; both: Win7SP0x86, Win7SP1x86.",
        ),
        (
            ["WinXPSP2x86"],
            f"imageinfo suggests WinXPSP2x86; memviz {', '.join(FITTING)}; both: none.",
        ),
        (["No suggestion"], f"imageinfo suggests no profile; memviz: {', '.join(FITTING)}."),
    ],
)
def test_imageinfo_is_compared_with_memviz(
    house: House, windows7: tuple[Path, Truth], names: list[str], sentence: str
) -> None:
    """One line compares both."""
    house.environment["VOLATILITY"] = str(house.fake_volatility(suggestion(*names)))
    printed, said = house.run(windows7[0], "-o", "x.png")
    assert "Suggested Profile(s) : " in printed
    assert said.splitlines()[-1] == sentence
    assert house.called() == [f"--filename={windows7[0]}", "imageinfo"]


def test_only_what_goes_with_a_profile_is_carried_on(
    fake: House, windows7: tuple[Path, Truth]
) -> None:
    """Commands do not repeat options of memviz alone, nor their values."""
    options = ["--json", "a.json", "--width=64", "--color-by", "process", "--lenient", "--hash"]
    _, said = fake.run(windows7[0], *options, "-ox.png", "--no-imageinfo")
    assert [words[3:] for words in commands(said)] == [["--width=64", "--lenient", "-ox.png"]] * 4
    assert (fake.folder / "a.json").exists()


def test_standard_output_stays_alone(fake: House, windows7: tuple[Path, Truth]) -> None:
    """Standard output has the picture only; imageinfo's output goes elsewhere."""
    fake.fake_volatility(suggestion("Win7SP1x86"))
    printed, said = fake.run(windows7[0], "--json", "-", "-o", "x.png")
    assert json.loads(printed)["volatility2_profiles"] == FITTING
    assert "Suggested Profile(s)" in said


def test_imageinfo_that_fails_loses_nothing(house: House, windows7: tuple[Path, Truth]) -> None:
    """Its output is shown, its exit code is used, and picture and page are there."""
    house.environment["VOLATILITY"] = str(house.fake_volatility("echo Oh no; exit 9"))
    printed, said = house.run(windows7[0], "-o", "x.png", code=9)
    assert "Oh no" in printed
    assert "imageinfo failed (exit code 9); the picture and the page are done" in said
    assert_painted_truly(house.folder / "x.png", windows7[1], windows7[1].alive)
    assert len(commands(said)) == len(FITTING)


def test_imageinfo_that_is_interrupted_loses_nothing(
    fake: House, windows7: tuple[Path, Truth]
) -> None:
    """After Ctrl-C picture and page are there, and the process of imageinfo ends, too."""
    fake.fake_volatility("echo $$ >pid; exec sleep 60")
    process = fake.start(windows7[0], "-o", "x.png")
    pid = wait_for_text(fake.folder / "pid")
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said.endswith("interrupted; the picture and the page are done\n")
    assert "Windows 6.1" in printed
    assert len(commands(said)) == len(FITTING)
    assert_painted_truly(fake.folder / "x.png", windows7[1], windows7[1].alive)
    assert (fake.folder / "x.html").exists()
    assert not list(fake.temporary.iterdir())
    assert not Path("/proc", pid).exists()


def test_volatility_is_not_asked_of_noise(fake: House) -> None:
    """One sentence gives the reason; zeros and data are still painted."""
    _, said = fake.run(fake.dump(), "-o", "x.png", code=3)
    assert "Volatility 2 is not run: Windows was not found in the dump.\n" in said
    assert "neither Windows nor Linux was found" in said
    assert fake.called() is None
    assert pixels(fake.folder / "x.png").tolist() == ["unused-zero", *["unused-data"] * 3]


def test_volatility_is_not_asked_of_a_newer_windows(fake: House) -> None:
    name = next(name for name, one in builds().items() if one.build > 17763)
    truth = forge(fake.folder / "new.raw", builds()[name], size=16 * MIB, processes=3)
    _, said = fake.run("new.raw", "-o", "x.png")
    assert f"it has no profile for Windows 10.0.{builds()[name].build}" in said
    assert fake.called() is None
    assert_painted_truly(fake.folder / "x.png", truth, truth.alive)


def test_volatility_is_not_asked_of_linux(fake: House, qemu_core: tuple[Path, Path]) -> None:
    """A real guest's dump gets a picture and a sentence."""
    printed, said = fake.run(qemu_core[0], "-o", "x.png")
    assert "Volatility 2 is not run: the dump comes from Linux" in said
    assert "Linux 6.1.0" in printed
    assert fake.called() is None
