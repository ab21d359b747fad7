"""The guests on this machine, compared with the records of their own kernels."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

import memory_visualizer
from tests.guests.__main__ import GUESTS
from tests.guests.compare import compare_dump, report
from tests.guests.make import Folder

pytestmark = pytest.mark.real

_MAX_LAG = 15
"""Seconds by which an emulated guest on a busy machine may be late."""


def made_guests() -> list[Folder]:
    """The guests with their /proc/PID/maps, in the folder MEMVIZ_GUESTS or in the usual one."""
    place = Path(os.environ.get("MEMVIZ_GUESTS", GUESTS))
    folders = [Folder(path.parent) for path in sorted(place.glob("*/maps"))]
    return [folder for folder in folders if folder.memory("raw").exists()]


def test_a_later_dump_of_a_guest() -> None:
    """The later dump is as much older as the host says, by the guest's clock, which QEMU set."""
    guests = [guest for guest in made_guests() if guest.later.exists()]
    if not guests:
        pytest.skip("no guest with a later dump here: python -m tests.guests make NAME --again 90")
    for guest in guests:
        found = memory_visualizer.diff(guest.later, guest.memory("raw"))
        assert (found.before.name, found.after.name) == (guest.memory("raw").name, guest.later.name)
        assert found.is_one_machine
        assert found.remarks == ()
        stops = [float(line) for line in guest.stops.read_text().split()]
        for one, stop in zip((found.before, found.after), stops, strict=True):
            assert one.time is not None
            assert abs(one.time.timestamp() - stop) < _MAX_LAG
        assert found.before.booted is not None
        assert found.after.booted is not None
        assert abs(found.after.booted - found.before.booted) < timedelta(seconds=1)


def test_made_guests(tmp_path: Path) -> None:
    """Frames, owners and regions agree; names of workers may change while a guest is saved."""
    guests = made_guests()
    if not guests:
        pytest.skip("no guest here: python -m tests.guests make NAME makes one")
    for guest in guests:
        result = compare_dump(guest.truth, guest.maps, guest.memory("raw"), tmp_path / guest.name)
        told, words = result.comparison, "\n".join(report(result))
        assert told.per_cent >= 99.9, words
        assert told.owners_missing == 0, words
        assert told.regions == told.regions_right > 0, words
        assert "region extra" not in told.faults, words
