"""The front door as people run it: from a synthetic dump to its picture."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import ROOT, takes_all
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.profiles import builds
from tests.synth.truth import INJECTED_PAGES

if not hasattr(signal, "SIGHUP"):
    pytest.skip("the front door is for systems with a shell", allow_module_level=True)

pytestmark = pytest.mark.frontdoor

SCRIPT = ROOT / "visualizer.sh"
BANNER = "Volatility Foundation Volatility Framework 2.6.1"
MAP = """\
(Virtual)   (Physical)    (Size)    (Kernel)
----------------------------------------------
0x80400000  0x1000        0x1000    True
0x400000    0x2000        0x1000    False
"""
PICTURE = b"\x89PNG\r\n\x1a\n a picture of an earlier run"


class House:
    """A folder for one test's dumps, temporary files and environment."""

    def __init__(self, folder: Path) -> None:
        """Make the folder's parts."""
        self.folder = folder
        self.script = SCRIPT
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.environment = os.environ | {"TMPDIR": str(self.temporary)}
        self.environment.pop("VOLATILITY", None)

    def start(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start the front door."""
        return subprocess.Popen(
            [self.script, *arguments],
            cwd=cwd or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_signals,
        )

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, code: int = 0
    ) -> tuple[str, str]:
        """Run the front door, check its exit code, return both outputs."""
        process = self.start(*arguments, cwd=cwd)
        printed, said = process.communicate()
        assert process.returncode == code, said
        assert not list(self.temporary.iterdir())
        return printed, said

    def dump(self, name: str = "small.raw") -> Path:
        """Write a dump of four pages: zeros, kernel, user, and unmapped data."""
        path = self.folder / name
        path.write_bytes(bytes(4096) + b"k" * 4096 + b"u" * 4096 + b"d" * 4096)
        return path

    def fake_volatility(self, body: str = "cat the.map", name: str = "fake vol.py") -> Path:
        """Write a stand-in for Volatility: a shell script that notes its arguments.

        Its body runs in this folder.
        """
        (self.folder / "the.map").write_text(MAP)
        path = self.folder / name
        path.write_text(
            f"#!/usr/bin/env bash\necho '{BANNER}' >&2\n[[ $1 != -h ]] || exit\n"
            f'cd "$(dirname "$0")"\nprintf "%s\\n" "$@" >called\n{body}\n'
        )
        path.chmod(0o755)
        return path

    def called(self) -> list[str] | None:
        """The arguments of the stand-in; None if it did not run."""
        called = self.folder / "called"
        return called.read_text().splitlines() if called.exists() else None


def heed_signals() -> None:
    """Restore the signals that nohup, or a shell with the tests in the background, ignores."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A new House."""
    return House(tmp_path)


@pytest.fixture
def fake(house: House) -> House:
    """A House in which VOLATILITY is a stand-in that prints a map."""
    house.environment["VOLATILITY"] = str(house.fake_volatility())
    return house


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Path]:
    """A path in the checkout's images/ for a dump of the same name without .png."""
    path = ROOT / "images" / f"{tmp_path.parent.name}-{tmp_path.name}.raw.png"
    yield path
    path.unlink(missing_ok=True)


def pixels(picture: Path) -> NDArray[np.str_]:
    """Read the class of each frame's pixel by the picture's own legend."""
    with Image.open(picture) as image:
        legend: Mapping[str, str] = json.loads(image.info["Legend"])
        left, top, right, bottom = map(int, image.info["Box"].split())
        inside = image.convert("RGB").crop((left, top, right, bottom))
        colours = np.asarray(inside).reshape(-1, 3).astype(np.uint32)
    codes = colours @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    names = np.full(codes.shape, "no colour of the legend")
    for name, colour in legend.items():
        names[codes == int(colour[1:], 16)] = name
    return names


def assert_painted_truly(picture: Path, truth: Truth, owners: list[int] | None = None) -> None:
    """Compare every pixel with its page's truth, as seen from these processes.

    The default is the processes in the list, which Volatility finds.
    """
    expected = truth.classes(truth.listed if owners is None else owners)
    painted = pixels(picture)[: truth.frames]
    wrong = np.flatnonzero(painted != expected)
    examples = [(int(n), str(painted[n]), str(expected[n])) for n in wrong[:5]]
    assert not examples, f"{wrong.size} of {truth.frames} pages, such as {examples}"


# ---- From a dump to its picture


FIRST_OF_FAMILY = {profile.family: name for name, profile in reversed(list(profiles().items()))}
SIZES = {
    name: 32 * MIB if name == FIRST_OF_FAMILY[profile.family] else 16 * MIB
    for name, profile in profiles().items()
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test with `windows_profile` all profiles, or the first of each family."""
    if "windows_profile" in metafunc.fixturenames:
        names = profiles() if takes_all(metafunc.config) else FIRST_OF_FAMILY.values()
        metafunc.parametrize("windows_profile", names)


@pytest.mark.usefixtures("volatility2")
def test_paints_each_page_as_it_is(house: House, windows_profile: str) -> None:
    """Every pixel is true on all 58 profiles; the first of each family has twice the size."""
    dump, picture = house.folder / "a dump.raw", house.folder / "a picture.png"
    truth = forge(dump, profiles()[windows_profile], size=SIZES[windows_profile])
    house.run(dump.name, windows_profile, "-o", picture.name)
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


# ---- Without a profile


@pytest.fixture
def windows7(house: House) -> tuple[Path, Truth]:
    """A Windows 7 in a file whose name needs quotes, and its truth."""
    dump = house.folder / "a dump.raw"
    return dump, forge(dump, profiles()["Win7SP1x86"], size=16 * MIB, processes=4)


FITTING = ["Win7SP0x86", "Win7SP1x86", "Win7SP1x86_23418", "Win7SP1x86_24000"]
"""The profiles with its version and bits."""


def suggestion(*names: str) -> str:
    """The output of imageinfo, as a shell command."""
    return f"echo '          Suggested Profile(s) : {', '.join(names)} (Instantiated with x)'"


def commands(said: str) -> list[list[str]]:
    """The printed commands that can be copied, as words."""
    return [shlex.split(line) for line in said.splitlines() if line.startswith("  ")]


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


# ---- Errors


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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_run_leaves_nothing_behind(
    fake: House, published: Path, number: signal.Signals, code: int
) -> None:
    """Neither picture, temporary file nor process remains."""
    fake.fake_volatility("echo $$ >pid; exec sleep 60")
    process = fake.start(fake.dump(published.stem), "WinXPSP2x86")
    pid = wait_for_text(fake.folder / "pid")
    process.send_signal(number)  # only to the script, which must end its step
    _, said = process.communicate(timeout=10)
    assert process.returncode == code
    assert "interrupted" in said
    assert not published.exists()
    assert not list(fake.temporary.iterdir())
    assert not Path("/proc", pid).exists()


def wait_for_text(path: Path, text: str = "\n", seconds: float = 120) -> str:
    """Wait until a file holds the text, and return all of it."""
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, path
        time.sleep(0.02)
    return path.read_text().strip()


# ---- Which Volatility


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


# ---- The project's own environments


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
