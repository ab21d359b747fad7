"""The front door as people run it: from a synthetic dump to its picture."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.frontdoor.house import NEEDS, House
from tests.painted import assert_painted_truly, pixels
from tests.synth import MIB, forge, profiles

pytestmark = NEEDS


FIRST_OF_FAMILY = {profile.family: name for name, profile in reversed(list(profiles().items()))}


@pytest.mark.parametrize("name", FIRST_OF_FAMILY.values())
@pytest.mark.usefixtures("volatility2")
def test_paints_each_page_as_it_is(house: House, name: str) -> None:
    """Every pixel is true; tests/test_volatility2.py paints the maps of all 58 profiles."""
    dump, picture = house.folder / "a dump.raw", house.folder / "a picture.png"
    truth = forge(dump, profiles()[name], size=32 * MIB)
    house.run(dump.name, name, "-o", picture.name)
    assert_painted_truly(picture, truth)


@pytest.mark.parametrize(
    "name", [name for name in FIRST_OF_FAMILY.values() if profiles()[name].may_lack_pae]
)
@pytest.mark.usefixtures("volatility2")
def test_paints_each_page_in_the_other_paging_mode_too(house: House, name: str) -> None:
    """The first of each family with PAE where it was rare, and without it where it was usual."""
    profile = profiles()[name]
    dump, picture = house.folder / "a dump.raw", house.folder / "a picture.png"
    truth = forge(dump, profile, size=16 * MIB, pae=not profile.usually_has_pae)
    house.run(dump, name, f"--output={picture}")
    assert_painted_truly(picture, truth)


def test_picture_is_named_after_the_dump_with_its_ending(fake: House, published: Path) -> None:
    """Without -o the picture is in images/ of the checkout, wherever the command runs."""
    dump = fake.dump(published.stem)
    printed, said = fake.run(dump, "WinXPSP2x86")
    assert pixels(published).tolist() == ["unused-zero", "kernel", "user", "unused-data"]
    assert str(published) in printed
    assert re.findall(r"^\[(\d/\d)\]", said, re.MULTILINE) == ["1/2", "2/2"]
    assert said.splitlines()[-1] == (
        "Volatility 2 follows the list of processes, so a hidden one's pages show as unused;"
        " without a profile memviz finds these, too."
    )


def test_spaces_and_other_odd_characters_in_paths(fake: House) -> None:
    """Folders, dump and picture may have such names, also names like options or patterns."""
    folder = fake.folder / "a folder é" / "$HOME 'x' %41"
    folder.mkdir(parents=True)
    dump = fake.dump().rename(folder / "-a *dump\\.raw")
    fake.run(f"./{dump.name}", "WinXPSP2x86", "-o", "-a picture.png", cwd=folder)
    assert pixels(folder / "-a picture.png")[1] == "kernel"


def test_options_reach_the_renderer(fake: House) -> None:
    """The renderer gets each option, in each of its forms."""
    dump = fake.dump()
    fake.run(dump, "WinXPSP2x86", "--width", "4", "--palette=colour-blind", "-owide.png")
    with Image.open(fake.folder / "wide.png") as image:
        assert image.size == (4, 1)
        assert json.loads(image.info["Legend"])["kernel"] == "#56b4e9"


def test_usage_tells_the_options_of_the_renderer(house: House) -> None:
    """The usage has all options but --version; memviz, which may paint instead, takes them, too."""
    told, _ = house.run("--help")
    renderer, memviz = (
        subprocess.run(
            [sys.executable, *command, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for command in (["imagegenerator.py"], ["-m", "memory_visualizer"])
    )
    usage, options, substitutes = (
        set(re.findall(r"^ +(-o|--[a-z]+)", text, re.MULTILINE))
        for text in (told, renderer, memviz)
    )
    options.remove("--version")
    assert options
    assert options <= usage
    assert options <= substitutes


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["x.raw", "WinXPSP2x86", "--help"]])
def test_help_prints_usage_and_examples(house: House, arguments: list[str]) -> None:
    """The options for help work at any place."""
    printed, said = house.run(*arguments)
    assert "usage: ./visualizer.sh DUMP PROFILE" in printed
    assert "examples:" in printed
    assert not said


def test_no_argument_prints_the_usage(house: House) -> None:
    """The usage is an error then, since no work was done."""
    assert "usage: ./visualizer.sh DUMP PROFILE" in house.run(code=2)[1]
