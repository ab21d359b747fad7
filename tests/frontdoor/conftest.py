"""Fixtures of the tests of the front door."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.frontdoor.house import House
from tests.synth import MIB, Truth, forge, profiles


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


@pytest.fixture
def windows7(house: House) -> tuple[Path, Truth]:
    """A Windows 7 in a file whose name needs quotes, and its truth."""
    dump = house.folder / "a dump.raw"
    return dump, forge(dump, profiles()["Win7SP1x86"], size=16 * MIB, processes=4)
