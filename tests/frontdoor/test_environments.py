"""The Pythons and the Volatility that the front door uses, finds or makes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.frontdoor.house import NEEDS, PICTURE, House, commands, wait_for_text
from tests.painted import assert_painted_truly, pixels
from tests.synth import MIB, forge, profiles
from tests.synth.truth import INJECTED_PAGES

pytestmark = NEEDS


def test_volatility_of_the_environment(house: House) -> None:
    """The path is relative to the current folder."""
    house.environment["VOLATILITY"] = house.fake_volatility().name
    house.run(house.dump(), "WinXPSP2x86", "-o", "x.png")
    assert house.called() == [
        f"--plugins={ROOT}/plugins",
        f"--filename={house.folder}/small.raw",
        "--profile=WinXPSP2x86",
        "memoryvisualizer",
    ]


def test_volatility_may_be_a_command_with_arguments(house: House) -> None:
    """It may be an interpreter with a script."""
    house.fake_volatility(name="fake.py")
    house.environment["VOLATILITY"] = f"bash {house.folder}/fake.py --cache"
    house.run(house.dump(), "WinXPSP2x86", "-o", "x.png")
    assert (house.called() or [""])[0] == "--cache"


def test_volatility_may_be_a_script_for_another_python(house: House, volatility2: Path) -> None:
    """As in the source archive: not executable, or for a `python` that is Python 3 or missing."""
    script = house.folder / "my vol.py"
    script.write_text("#!/usr/bin/env python3\n" + volatility2.read_text().partition("\n")[2])
    house.environment["VOLATILITY"] = str(script)
    truth = forge(house.folder / "x.raw", profiles()["WinXPSP2x86"], size=16 * MIB)
    for mode in (0o644, 0o755):
        script.chmod(mode)
        _, said = house.run("x.raw", "WinXPSP2x86", "-o", "x.png")
        assert f"({script})" in said
        assert_painted_truly(house.folder / "x.png", truth)


def test_volatility_that_is_not_there_is_told(house: House) -> None:
    """A missing Volatility is an error, and no other replaces it."""
    house.environment["VOLATILITY"] = "no such command"
    _, said = house.run(house.dump(), "WinXPSP2x86", code=2)
    assert r"VOLATILITY is neither a file nor a command: no\ such\ command" in said


def test_volatility_on_the_path(house: House) -> None:
    """Volatility on the PATH is used without making an environment."""
    house.fake_volatility(name="vol.py")
    house.environment["PATH"] = f"{house.folder}:{os.environ['PATH']}"
    house.run(house.dump(), "WinXPSP2x86", "-o", "x.png")
    assert house.called()


@pytest.mark.parametrize(
    "body", ["echo Volatility 3 Framework 2.26.0", "echo 'pyenv: vol.py: command not found'"]
)
def test_a_vol_py_on_the_path_that_is_no_volatility_2_is_passed_over(
    house: House, volatility2: Path, body: str
) -> None:
    """Volatility 3, or pyenv's stub for an inactive version, is not used."""
    script = house.folder / "vol.py"
    script.write_text(f"#!/bin/sh\n{body}\nexit 1\n")
    script.chmod(0o755)
    house.environment["PATH"] = f"{house.folder}:{os.environ['PATH']}"
    _, said = house.run(house.dump(), "WinXPSP2x86", code=1)
    assert f"({volatility2})" in said


def copy_checkout(target: Path) -> Path:
    """Copy the files that the front door needs, without environments; return the copy's script."""
    target.mkdir()
    for name in (
        "visualizer.sh",
        "environments.sh",
        "requirements.txt",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "imagegenerator.py",
    ):
        shutil.copy2(ROOT / name, target)
    for name in ("memory_visualizer", "plugins", "tests"):
        ignored = shutil.ignore_patterns("*.pyc", "__pycache__")
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    return target / "visualizer.sh"


def hide_pythons(house: House, *commands: str) -> None:
    """Leave on the PATH only the script's needs and these commands."""
    tools = ["bash", "cat", "cksum", "cmp", "dirname", "env", "flock", "grep", "head"]
    tools += ["mkdir", "mktemp", "readlink", "rm", "sed", "wc"]
    binaries = house.folder / "bin"
    binaries.mkdir()
    for tool in (*tools, *commands):
        found = shutil.which(tool)
        assert found, tool
        (binaries / tool).symlink_to(found)
    house.environment["PATH"] = str(binaries)
    house.environment["HOME"] = house.environment["PYENV_ROOT"] = str(house.folder / "nowhere")


@pytest.fixture
def fresh(house: House) -> House:
    """A machine with Python 3 but without Python 2.7, and a fresh clone of the checkout."""
    house.script = copy_checkout(house.folder / "a check out")
    hide_pythons(house)
    (house.folder / "bin/python3").symlink_to(sys.executable)
    return house


@pytest.fixture
def without_volatility(fresh: House) -> House:
    """The same with .venv ready, which is in truth the Python that runs this test."""
    checkout = fresh.script.parent
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    sums = []
    for name in ("requirements.txt", "pyproject.toml"):
        with (checkout / name).open() as file:
            sums.append(subprocess.check_output(["cksum"], stdin=file, text=True))
    (checkout / ".venv/.ready").write_text(f"{checkout}\n{''.join(sums)}")
    return fresh


def test_demo_needs_nothing_but_python_3(fresh: House) -> None:
    """The README's first command paints each pixel truly, and names the hidden process."""
    checkout = fresh.script.parent
    printed, said = fresh.run("--demo")
    with np.load(checkout / "dumps/demo.raw.truth.npz") as truth:
        expected = truth["class_of_all_live"]
    picture = checkout / "images/demo.raw.png"
    assert (pixels(picture) == expected).all()
    with Image.open(picture) as image:
        assert image.height > int(image.info["Box"].split()[3]) + 50  # the legend
    assert str(picture) in printed
    assert "Windows 10.0.17763 (10 or Server 2016 to 2022)" in printed
    assert re.search("unlinked +rootkit.exe", printed)
    assert (
        f"{INJECTED_PAGES} private pages that user mode may write and execute: notepad" in printed
    )
    assert f"{checkout}/images/demo.raw.html: written" in printed
    assert "<!DOCTYPE html>" in (checkout / "images/demo.raw.html").read_text()
    assert re.findall(r"^\[(\d/\d)\]", said, re.MULTILINE) == ["1/2", "2/2"]
    assert not (checkout / ".venv-volatility2").exists()

    _, said = fresh.run("--demo", "--width=256", "--palette", "colour-blind", "-o", "again.png")
    assert (pixels(fresh.folder / "again.png") == expected).all()
    assert len(said.splitlines()) == 3

    # memviz is in the same environment, and knows that it is installed there.
    memviz = checkout / ".venv/bin/memviz"
    result = subprocess.run(
        [memviz, checkout / "dumps/demo.raw", "--pid", "1632", "-o", "notepad.png"],
        cwd=fresh.folder,
        env=fresh.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Pages of 1 process shown, others pale\n" in result.stdout
    assert re.search(r"\nPages of 1 process\n +pid .*\n +1632 .* notepad\.exe\n", result.stdout)
    shown = subprocess.run([memviz, "doctor"], capture_output=True, text=True, check=True).stdout
    assert f"{checkout}/.venv/bin/python" in shown.replace('"', "")
    assert f'"{checkout}/visualizer.sh" --setup' in shown


def test_setup_without_python_2_7_says_how_to_get_one(fresh: House) -> None:
    """One sentence comes before any set-up."""
    printed, said = fresh.run("--setup", code=4)
    assert said.startswith("visualizer.sh: Volatility 2 needs Python 2.7, and there is none here")
    assert "pyenv install 2.7.18" in said
    assert "VOLATILITY" in said
    assert len(said.splitlines()) == 1
    assert not printed
    assert not (fresh.script.parent / ".venv").exists()


@pytest.mark.parametrize("profile", [[], ["WinXPSP2x86"]])  # the stand-in is not
def test_without_volatility_2_memviz_paints_the_dump(
    without_volatility: House, profile: list[str]
) -> None:
    """A sentence gives the reason; no program in the current folder is run."""
    house, checkout = without_volatility, without_volatility.script.parent
    (house.folder / "memory_visualizer").mkdir()
    for trap in ("numpy.py", "memory_visualizer/__init__.py", "memory_visualizer/__main__.py"):
        (house.folder / trap).write_text("raise SystemExit(99)")
    dump = house.folder / "a dump.raw"
    truth = forge(dump, profiles()["Win10x64_17763"], size=16 * MIB)
    printed, said = house.run(dump.name, *profile)
    assert_painted_truly(checkout / "images/a dump.raw.png", truth, truth.alive)
    assert f"{checkout}/images/a dump.raw.png" in printed
    assert "rootkit.exe" in printed
    assert "Volatility 2 needs Python 2.7, and there is none here" in said
    assert "pyenv install 2.7.18" in said
    if profile:
        assert len(said.splitlines()) == 1
        assert "memviz paints the dump, and needs no profile for it" in said
    else:
        assert commands(said) == [[str(house.script), dump.name, "Win10x64_17763"]]


def test_without_volatility_2_options_reach_memviz(without_volatility: House) -> None:
    """Options of the renderer and of memviz reach memviz."""
    house = without_volatility
    dump, picture = house.folder / "-a dump.raw", house.folder / "a picture.png"
    forge(dump, profiles()["Win7SP1x86"], size=16 * MIB)
    options = ["--width", "32", "--palette=colour-blind", "--lenient", "--name", "^lsass"]
    house.run(f"./{dump.name}", *options, "--json=a summary.json", "-o", picture.name)
    with Image.open(picture) as image:
        assert image.size == (32, 128)
        assert json.loads(image.info["Legend"])["kernel"] == "#56b4e9"
    assert json.loads((house.folder / "a summary.json").read_text())
    assert not list((house.script.parent / "images").iterdir())


def test_without_volatility_2_a_dump_without_windows(without_volatility: House) -> None:
    """Zeros and data are painted, with an exit code of its own."""
    dump = without_volatility.dump()
    _, said = without_volatility.run(dump, "-o", "x.png", code=3)
    data = ["unused-data"] * 3
    assert pixels(without_volatility.folder / "x.png").tolist() == ["unused-zero", *data]
    assert "neither Windows nor Linux was found" in said


@pytest.mark.parametrize("profile", [[], ["WinXPSP2x86"]])
@pytest.mark.parametrize("option", ["--colour", "--width=none"])
def test_without_volatility_2_a_failure_leaves_all_as_it_is(
    without_volatility: House, profile: list[str], option: str
) -> None:
    """Earlier pictures stay, and a sentence tells the fault."""
    picture = without_volatility.script.parent / "images/small.raw.png"
    picture.parent.mkdir()
    picture.write_bytes(PICTURE)
    _, said = without_volatility.run(without_volatility.dump(), *profile, option, code=2)
    assert option.partition("=")[0] in said
    assert said.count("\n") == 1
    assert picture.read_bytes() == PICTURE


def test_a_given_volatility_that_cannot_start_without_python_2_7(without_volatility: House) -> None:
    """It is a script from the archive, not executable."""
    house = without_volatility
    script = house.fake_volatility(name="vol.py")
    script.chmod(0o644)
    house.environment["VOLATILITY"] = str(script)
    _, said = house.run(house.dump(), "WinXPSP2x86", "-o", "x.png", code=3)
    assert "Volatility 2 needs Python 2.7" in said
    assert house.called() is None


def test_a_volatility_that_cannot_be_set_up(without_volatility: House) -> None:
    """Python 2.7 cannot make an environment; memviz still paints."""
    house = without_volatility
    python2 = house.folder / "bin/python2.7"
    python2.write_text(f"#!/bin/sh\n[ $# = 2 ] && [ $1 = -c ] && echo '{python2}'\n")
    python2.chmod(0o755)
    _, said = house.run(house.dump(), "WinXPSP2x86", "-o", "x.png", code=3)
    assert f"could not make .venv-volatility2 with {python2}" in said
    assert "Volatility 2 could not be set up, as told above" in said
    assert "memviz paints the dump" in said
    assert (house.folder / "x.png").exists()


@pytest.mark.parametrize("arguments", [["small.raw", "WinXPSP2x86"], ["small.raw"], ["--demo"]])
@pytest.mark.parametrize("volatility", [True, False])
def test_without_python_3_one_sentence_says_how_to_get_one(
    fresh: House, arguments: list[str], volatility: bool
) -> None:
    """The sentence names the needed version, with and without a Volatility."""
    fresh.dump()
    if volatility:
        fresh.environment["VOLATILITY"] = str(fresh.fake_volatility())
    (fresh.folder / "bin/python3").unlink()
    _, said = fresh.run(*arguments, code=4)
    assert "needs Python 3.11 or later" in said
    assert len(said.splitlines()) == 1


@pytest.mark.usefixtures("volatility2")  # so that compiled parts are in pip's cache
@pytest.mark.long
def test_environments_are_made_by_themselves_even_after_an_interruption(house: House) -> None:
    """Two runs at once make them in a path with spaces; they are made once, and updated later."""
    house.script = copy_checkout(house.folder / "a check out")
    house.environment["PIP_NO_COMPILE"] = "1"  # most of what is installed here is never used
    checkout = house.script.parent
    for environment in (checkout / ".venv", checkout / ".venv-volatility2"):
        process = house.start("--setup")
        wait_for_text(environment / ".ready", "unfinished")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for leftover in house.temporary.iterdir():  # SIGKILL leaves no time to tidy up
        shutil.rmtree(leftover)

    truth = forge(house.folder / "x.raw", profiles()["Win10x64_17763"], size=16 * MIB)
    both = [house.start("x.raw", "Win10x64_17763", "-o", f"{n}.png") for n in range(2)]
    said = "".join(process.communicate()[1] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert said.count("Making Volatility's Python 2.7 environment") == 1
    for n in range(2):
        assert_painted_truly(house.folder / f"{n}.png", truth)

    _, said = house.run("--setup")
    assert said == "All is set up.\n"
    with (checkout / "requirements.txt").open("a") as requirements:
        requirements.write("# changed\n")
    _, said = house.run("--setup")
    assert said.count("Installing what requirements.txt names") == 2
    assert "Making" not in said


def test_requirements_are_pinned_for_both_pythons() -> None:
    """Each line has one version for one Python."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(
        re.fullmatch(r"[\w-]+==[\d.]+ ; python_version [<>=]+ \"[\d.]+\"", p) for p in pinned
    )
    assert {p.partition(" ; ")[2] for p in pinned} == {
        'python_version >= "3.11"',
        'python_version < "3"',
    }
