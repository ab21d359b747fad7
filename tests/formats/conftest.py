"""Fixtures of the tests of formats."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path for a test's dump; its name says nothing, except that VMware's files need .vmem."""
    return tmp_path / "dump.vmem"
