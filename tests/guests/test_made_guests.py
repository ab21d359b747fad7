"""The guests that were made on this machine, held against the words of their own kernels."""

import os
from pathlib import Path

import pytest

from tests.guests.__main__ import GUESTS
from tests.guests.compare import compare_dump, report
from tests.guests.make import Folder

pytestmark = pytest.mark.real


def made_guests() -> list[Folder]:
    """Those with their /proc/PID/maps, in the folder that MEMVIZ_GUESTS names, or in the usual."""
    place = Path(os.environ.get("MEMVIZ_GUESTS", GUESTS))
    folders = [Folder(path.parent) for path in sorted(place.glob("*/maps"))]
    return [folder for folder in folders if folder.memory("raw").exists()]


def test_made_guests(tmp_path: Path) -> None:
    """Frames, owners and regions; names of workers change while a guest is saved."""
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
