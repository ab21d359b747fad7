"""--lenient is offered if it helps, and only then: damaged files of every format."""

import contextlib
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.cli import memviz
from memory_visualizer.errors import DamagedInputError
from memory_visualizer.formats.opening import open_dump
from tests.conftest import random_cases
from tests.fuzz.cases import MUTATIONS
from tests.fuzz.readers import places_of, small_memory
from tests.fuzz.seeds import WRITERS

_OFFER = "(--lenient "
_FILES = random_cases(28)
"""The number of damaged files for each format."""
_LEAST = random_cases(200)


@pytest.mark.fuzz
@pytest.mark.long
def test_the_offer() -> None:
    """With the offer, --lenient paints pages; if a damaged file has none, no offer is made."""
    offered: Counter[str] = Counter()
    refused = 0
    for name in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dump.001"
            WRITERS[name](path, small_memory())
            sound = path.read_bytes()
            for number in range(_FILES):
                mutation = list(MUTATIONS)[number % len(MUTATIONS)]
                data = bytearray(sound)
                rng = np.random.default_rng([17, number])
                MUTATIONS[mutation](rng, data, places_of(sound))
                path.write_bytes(data)
                case = f"{name}, {mutation}, number {number}"
                code, said, _ = _memviz(path)
                if code != 2:
                    continue
                lenient, _, pages = _memviz(path, "--lenient")
                if _OFFER in said:
                    offered[name] += 1
                    assert lenient in (0, 3), case
                    assert pages > 0, case
                elif _is_damaged(path):
                    refused += 1
                    assert lenient == 2, case
    assert sum(offered.values()) >= _LEAST, offered
    assert refused > 0
    assert len(offered) > len(WRITERS) // 2, offered


def _memviz(path: Path, *options: str) -> tuple[int, str, int]:
    """Exit code, messages, and the number of pages in the summary."""
    printed, said = io.StringIO(), io.StringIO()
    summary = path.with_name("a.json")
    command = [str(path), "-o", str(path.with_name("a.png")), "--json", str(summary), *options]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        code = memviz.main([*command, "--force"])
    if code == 2:
        return code, said.getvalue(), 0
    classes = json.loads(summary.read_text())["classes"]
    held = sum(count for name, count in classes.items() if name not in ("absent", "left-out"))
    return code, said.getvalue(), held


def _is_damaged(path: Path) -> bool:
    """Whether the error is one after which --lenient may be offered."""
    try:
        open_dump(path).zero_frames()
    except DamagedInputError:
        return True
    except Exception:
        return False
    return False
