"""The tests that start no other programs, and run wherever Python does: ``python -m tests.fast``.

Arguments go to pytest. On Linux, ``-p tests.elsewhere`` runs them as on Windows.
"""

import sys
from pathlib import Path

MODULES = (
    *("cli/test_progress", "export/test_tables", "export/test_textmap", "formats/test_opening"),
    *("paging/test_paging", "picture/test_bytecount", "picture/test_colouring"),
    *("picture/test_layout", "picture/test_painting", "snapshot/test_pagemap", "test_printable"),
    "viewer/test_data",
)
OF_FORMATS = (
    "test_all_that_was_written",
    "test_pages_at_any_byte_of_the_file",
    "test_only_what_is_asked_for_is_copied",
    "test_dump_that_gets_shorter",
)
"""Of tests/formats/test_formats.py; others start programs, or take long."""
POSIX_ONLY = ("pipe_as_dump", "symbolic_link", "fifo")
"""What Windows does not have, as the tests of it are named."""


def arguments() -> list[str]:
    """What pytest is to be told."""
    folder = Path(__file__).resolve().parent
    modules = [str(folder / f"{name}.py") for name in MODULES]
    formats = [f"{folder / 'formats/test_formats.py'}::{name}" for name in OF_FORMATS]
    chosen = f"not ({' or '.join(POSIX_ONLY)})"
    return ["-q", "-p", "no:cacheprovider", "-k", chosen, *modules, *formats]


if __name__ == "__main__":
    import pytest

    sys.exit(pytest.main([*sys.argv[1:], *arguments()]))
