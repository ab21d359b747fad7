"""The profiles of Volatility 2 that fit a dump: Volatility's own table, and synthetic dumps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import memory_visualizer
from memory_visualizer.export.volatility2 import profiles_for, profiles_of, why_unknown
from memory_visualizer.snapshot.system import System
from tests.conftest import ROOT, takes_all
from tests.synth import MIB, forge, profiles
from tests.synth.profiles import builds
from tests.volatility2program import volatility

TABLE = ROOT / "memory_visualizer/export/volatility2profiles.json"


@pytest.mark.long
def test_the_table_is_volatilitys_own(volatility2: Path, pytestconfig: pytest.Config) -> None:
    """The table is byte for byte the output of the script in tests/volatility2."""
    if not takes_all(pytestconfig):
        pytest.skip("Volatility 2 takes ten seconds to load all profiles: tests/run --all does so")
    readme, plugins = ROOT / "README.md", "tests/volatility2"
    done = volatility(volatility2, readme, "WinXPSP2x86", "profiletable", plugins=plugins)
    assert done.returncode == 0, done.stderr
    assert done.stdout == TABLE.read_text()


def test_the_table_is_whole() -> None:
    """The table has all profiles of synthetic dumps, which were read in another way."""
    table = json.loads(TABLE.read_text())
    assert {name: (row["bits"], *row["version"], row["build"]) for name, row in table.items()} == {
        name: (one.bits, *one.version, one.build) for name, one in profiles().items()
    }


@pytest.mark.parametrize("name", profiles())
@pytest.mark.many
def test_the_profile_itself_fits(name: str, tmp_path: Path) -> None:
    """The dump's own profile fits; all that fit have the same version, build and bits."""
    forge(tmp_path / "dump", profiles()[name], size=16 * MIB, processes=3)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    found = profiles_of(snapshot)
    assert name in found
    assert why_unknown(snapshot) == ""
    for other in map(profiles().get, found):
        assert other
        assert (other.version, other.bits) == (profiles()[name].version, profiles()[name].bits)
        if other.version == (6, 4):
            assert other.build == profiles()[name].build


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (17763, ("Win10x64_17763",)),
        (14393, ("Win10x64_14393", "Win2016x64_14393")),
        (17000, ("Win10x64_16299",)),
        (9926, ("Win10x64",)),
        (17764, ()),
        (22631, ()),
    ],
)
def test_builds_between(build: int, expected: tuple[str, ...]) -> None:
    """The newest known build that is not newer fits; builds newer than all have no profile."""
    assert profiles_for((10, 0), build, 64) == expected


def test_what_volatility_2_cannot_know(tmp_path: Path) -> None:
    """A reason is given, for the front door to print."""
    name = next(name for name, one in builds().items() if one.build > 17763)
    forge(tmp_path / "dump", builds()[name], size=16 * MIB, processes=3)
    newer = memory_visualizer.open(tmp_path / "dump")
    assert profiles_of(newer) == ()
    assert why_unknown(newer).startswith(
        f"it has no profile for Windows 10.0.{builds()[name].build}"
    )
    assert why_unknown(replace(newer, system=System("Linux", "6.1.0"))).startswith(
        "the dump comes from Linux"
    )
    assert why_unknown(replace(newer, system=None)) == "Windows was not found in the dump"
    assert "no profile for Windows 5.0" in why_unknown(
        replace(newer, system=System("Windows", "5.0"))
    )
    known = replace(newer, system=System("Windows", "6.1"))
    assert why_unknown(known) == ""
    known.dump.format = "AVML"
    assert why_unknown(known) == "Volatility 2 does not read AVML"
    # If the version cannot be read, Volatility may still know it.
    unread = replace(known, system=System("Windows"))
    unread.dump.format = "raw"
    assert (profiles_of(unread), why_unknown(unread)) == ((), "")
