"""The needs of the tests: each is found or made; otherwise a test is skipped or, in CI, failed."""

import gc
import importlib
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""Possible names of the browser's command."""
NO_PYTHON = 4
"""Exit code of visualizer.sh if no Python can make the environment."""

settings.register_profile(
    "no test measures time", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no test measures time")

# Failures of these checks, which several modules of tests share, then tell their values.
for _name in ("tests.cli.running", "tests.formats.checks", "tests.frontdoor.house"):
    pytest.register_assert_rewrite(_name)

MARKED_BY_FIXTURE = {
    "browser": "browser",
    "drgn": "peer",
    "memprocfs": "peer",
    "oldest_volatility3": "peer",
    "qemu_core": "real",
    "symbol_files": "peer",
    "volatility2": "peer",
    "volatility3": "peer",
}
"""The mark of each test that uses one of these fixtures; other tests have marks of their own.
pyproject.toml explains the marks.
"""
SLOW = ("peer", "browser", "frontdoor", "fuzz", "packaging", "real")
"""The marks that --fast leaves out."""
_EVERY = 4
"""One case in so many is taken of a test that is marked `many` with --one-in-four."""
_FAST_TAKES_LESS = 2
"""By this factor --fast takes still fewer cases."""
_SHARE = "MEMVIZ_ONE_RANDOM_CASE_IN"
_Case = TypeVar("_Case")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the project's own options."""
    group = parser.getgroup("memory visualizer")
    group.addoption(
        "--one-in-four",
        action="store_true",
        help="of a test that is marked `many`, take one case in four; of Volatility 2's profiles,"
        " one of each version; of random cases, a quarter",
    )
    group.addoption(
        "--fast",
        action="store_true",
        help=f"leave out {', '.join(SLOW)}; take half as many cases as --one-in-four, unless that"
        " is given, too",
    )


def takes_all(config: pytest.Config) -> bool:
    """Whether all cases of all tests are wanted."""
    return not (config.getoption("--fast") or config.getoption("--one-in-four"))


def pytest_configure(config: pytest.Config) -> None:
    """Set a smaller number of random cases, unless a number is given; test modules read it."""
    if not takes_all(config):
        os.environ.setdefault("FUZZ_CASES", "25")
        os.environ.setdefault("MEMVIZ_LAW", "6")
        os.environ.setdefault(_SHARE, "4")


def random_cases(number: int) -> int:
    """So many random cases, or a quarter of them with --fast or --one-in-four."""
    return -(-number // int(os.environ.get(_SHARE, "1")))


def some(cases: Sequence[_Case]) -> Sequence[_Case]:
    """All of a test's many alike cases, or one in four with --fast or --one-in-four."""
    return cases[:: int(os.environ.get(_SHARE, "1"))]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and leave out tests that the options do not choose."""
    skipped = pytest.mark.skip(reason="this system has nothing of the kind")
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKED_BY_FIXTURE:
                item.add_marker(MARKED_BY_FIXTURE[fixture])
        if item.get_closest_marker("posix") and not IS_POSIX:
            item.add_marker(skipped)
    left_out: set[pytest.Item] = set()
    if config.getoption("--fast"):
        left_out = {item for item in items if any(map(item.get_closest_marker, SLOW))}
    if not takes_all(config):
        factor = 1 if config.getoption("--one-in-four") else _FAST_TAKES_LESS
        left_out |= _most_cases([item for item in items if item not in left_out], factor)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Exempt all modules and tests from garbage collection, which would visit them each time.

    Nor does it look through a test's own objects as often as usual.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _most_cases(items: list[pytest.Item], factor: int) -> set[pytest.Item]:
    """The left-out cases of tests that are marked `many`, or `many(n)`: one in `factor` * n stays.

    The case that stays moves on from group to group, so that not only a row or a column of a table
    of cases stays. By the test's name another case is the first, so that of short lists, often of
    the same systems, not always the same one stays.
    """
    cases: dict[tuple[str, int], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("many"):
            every = factor * (mark.args[0] if mark.args else _EVERY)
            cases[item.nodeid.partition("[")[0], every].append(item)
    left_out = set()
    for (name, every), of_one in cases.items():
        first = zlib.crc32(name.encode()) % min(every, len(of_one))
        for number, item in enumerate(of_one):
            if (number + number // every) % every != first:
                left_out.add(item)
    return left_out


IS_POSIX = sys.platform in ("linux", "darwin")
"""False if tests.elsewhere has taken away the functions that Windows does not have."""


@pytest.fixture(scope="session")
def volatility2() -> Path:
    """Path of the vol.py in the project's own Python 2.7 environment, which is made if missing.

    Its interpreter is the `python` beside it. Skips without Python 2.7, but fails if
    REQUIRE_VOLATILITY2=1.
    """
    # visualizer.sh locks its set-up, so the processes of pytest-xdist do not disturb each other.
    setup = subprocess.run(
        [ROOT / "visualizer.sh", "--setup"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if setup.returncode == NO_PYTHON:
        do_without("REQUIRE_VOLATILITY2", setup.stderr.strip())
    if setup.returncode:
        pytest.fail(f"./visualizer.sh --setup failed:\n{setup.stderr}", pytrace=False)
    return ROOT / ".venv-volatility2/bin/vol.py"


@pytest.fixture(scope="session")
def memprocfs() -> ModuleType:
    """The module `memprocfs`.

    Skips if it or its libraries are missing, but fails if REQUIRE_MEMPROCFS=1.
    """
    return _of_memprocfs("memprocfs")


@pytest.fixture(scope="session")
def leechcore() -> ModuleType:
    """The module `leechcorepyc`, with which MemProcFS reads dumps: skips and fails like it."""
    return _of_memprocfs("leechcorepyc")


def _of_memprocfs(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        do_without("REQUIRE_MEMPROCFS", f"no {name} here: {error} (needs libusb-1.0.so.0)")


@pytest.fixture(scope="session")
def drgn() -> ModuleType:
    """The module `drgn`. Skips if it is missing, but fails if REQUIRE_DRGN=1."""
    try:
        return importlib.import_module("drgn")
    except ImportError as error:
        do_without("REQUIRE_DRGN", f"no drgn here: {error}")


def newest_volatility3() -> Path:
    """Path of the `vol` of the test tools."""
    return Path(sys.executable).with_name("vol")


@pytest.fixture(scope="session")
def volatility3() -> Path:
    """Path of the newest Volatility 3's `vol`, which the test tools bring."""
    return newest_volatility3()


@pytest.fixture(scope="session")
def oldest_volatility3() -> Path:
    """Path of the `vol` of the oldest Volatility 3 for which the plugins are made.

    It has an environment of its own, which is made if missing. Skips if that fails, but fails if
    REQUIRE_VOLATILITY3=1.
    """
    plugin = (ROOT / "plugins3/windows/memoryvisualizer.py").read_text()
    stated = re.search(r"_required_framework_version = \((\d+), (\d+), (\d+)\)", plugin)
    assert stated
    wanted = f"volatility3=={'.'.join(stated.groups())}"
    environment = ROOT / ".venv-volatility3-oldest"
    ready = environment / ".ready"
    state = f"{environment}\n{wanted}\n{(ROOT / 'pyproject.toml').read_text()}"
    import fcntl  # imported here, since Windows has no such module

    with (ROOT / ".venv-volatility3-oldest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the processes of pytest-xdist makes it
        if not ready.exists() or ready.read_text() != state:
            python = environment / "bin/python"
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
            pip += ["--disable-pip-version-check", "--no-compile"]
            for command in (
                [sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)],
                [*pip, wanted, "--editable", str(ROOT)],
            ):
                made = subprocess.run(command, capture_output=True, text=True, check=False)
                if made.returncode:
                    reason = f"no {wanted} here: {made.stderr.strip()[-500:]}"
                    do_without("REQUIRE_VOLATILITY3", reason)
            ready.write_text(state)
    return environment / "bin/vol"


@pytest.fixture(scope="session")
def symbol_files() -> Path:
    """The folder with symbol files of real kernels, for Volatility 3's option ``-s``.

    MEMVIZ_ISF names it; the default is beside the checkout. Skips if there is no such folder.
    """
    folder = Path(os.environ.get("MEMVIZ_ISF", ROOT.parent / "shared/isf"))
    if not any(folder.glob("*/**/*.json.xz")):
        pytest.skip(f"no symbol files of real kernels in {folder} (MEMVIZ_ISF names the folder)")
    return folder


@pytest.fixture(scope="session")
def playwright() -> Iterator["Playwright"]:
    """The module that drives browsers. Skips if it is missing, but fails if REQUIRE_CHROMIUM=1."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        do_without("REQUIRE_CHROMIUM", f"no Playwright here: {error}")
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
def chromium(playwright: "Playwright") -> Iterator["Browser"]:
    """The system's Chromium, without a window.

    Skips if it is missing, but fails if REQUIRE_CHROMIUM=1.
    """
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        do_without("REQUIRE_CHROMIUM", "no Chromium here (on Debian: apt install chromium)")
    # Root may not use the sandbox; the tests open only files of their own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=path, args=arguments)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def firefox(
    playwright: "Playwright", tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Browser"]:
    """The system's Firefox, without a window.

    Skips if it is missing, but fails if REQUIRE_FIREFOX=1.
    """
    try:
        from tests.viewer.firefox import CHANNEL, PREFERENCES, command, write_starter
    except ImportError as error:
        do_without("REQUIRE_FIREFOX", f"Playwright cannot drive Firefox here: {error}")
    if command() is None:
        do_without("REQUIRE_FIREFOX", "no Firefox here (on Debian: apt install firefox-esr)")
    starter = write_starter(tmp_path_factory.mktemp("firefox") / "firefox")
    browser = playwright.firefox.launch(
        executable_path=starter, channel=CHANNEL, firefox_user_prefs=PREFERENCES, timeout=240_000
    )
    yield browser
    browser.close()


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> "Browser":
    """Chromium, or each browser in turn for a test that is marked `both_browsers`."""
    found: Browser = request.getfixturevalue(getattr(request, "param", "chromium"))
    return found


both_browsers = pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)


def real_dumps() -> Path:
    """The folder of dumps of real machines, which may be missing."""
    return Path(os.environ.get("MEMVIZ_DUMPS", ROOT.parent / "shared/dumps"))


@pytest.fixture(scope="session")
def qemu_core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A real guest's memory, raw and as QEMU's ELF core."""
    stem = real_dumps() / "linux-6.1-x64-256m"
    if not stem.with_name(stem.name + ".raw.xz").exists():
        pytest.skip(f"no real dump here: MEMVIZ_DUMPS names the folder of {stem.name}.raw.xz")
    target = tmp_path_factory.mktemp("real")
    raw, core = target / "dump.raw", target / "dump.elf"
    with raw.open("wb") as file:
        subprocess.run(["xz", "-dc", f"{stem}.raw.xz"], stdout=file, check=True)
    tail = subprocess.run(["xz", "-dc", f"{stem}.elf.tail.xz"], capture_output=True, check=True)
    head = stem.with_name(stem.name + ".elf.head").read_bytes()
    core.write_bytes(head + raw.read_bytes() + tail.stdout)
    yield raw, core
    raw.unlink()
    core.unlink()


def do_without(requirement: str, reason: str) -> NoReturn:
    """Skip a test, or fail it if the environment requires the missing part."""
    if os.environ.get(requirement) == "1":
        pytest.fail(f"{requirement}=1, but: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def strace() -> str:
    """Path of strace. Skips if it is missing, but fails if REQUIRE_STRACE=1."""
    path = shutil.which("strace")
    if path is None:
        do_without("REQUIRE_STRACE", "no strace here, which shows how files are opened")
    return path
