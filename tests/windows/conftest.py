"""Dumps that tests of Windows share."""

import pytest

from tests.windows.dumps import Originals


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    """Dumps with modules and regions, each written once."""
    return Originals(tmp_path_factory.mktemp("windows"))
