"""The progress line, with a clock that the tests set."""

import io
import subprocess
import sys

import pytest

from memory_visualizer.cli.progress import ProgressLine


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Always true."""
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which tests set."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_nothing_is_shown_in_the_first_two_seconds(clock: list[float]) -> None:
    """Tasks of less than two seconds write nothing to the terminal."""
    terminal = Terminal()
    with ProgressLine("reading", terminal) as progress:
        clock[0] += 1.9
        progress(1, 2)
    assert terminal.getvalue() == ""


def test_long_tasks_show_a_line_and_take_it_away(clock: list[float]) -> None:
    """After two seconds bytes and percent appear, at most ten times a second, then vanish."""
    terminal = Terminal()
    with ProgressLine("reading", terminal) as progress:
        clock[0] += 2.5
        progress(1 << 20, 4 << 20)
        progress(2 << 20, 4 << 20)
        clock[0] += 0.5
        progress(3 << 20, 4 << 20)
    first, second, *erased = terminal.getvalue().removeprefix("\r").split("\r")
    assert first.startswith("reading:  25%|")
    assert "1.00M/4.00M" in first
    assert second.startswith("reading:  75%|")
    assert "3.00M/4.00M" in second
    assert "".join(erased).strip() == ""


def test_the_total_may_be_unknown(clock: list[float]) -> None:
    """A total may be unknown, as for a pipe."""
    terminal = Terminal()
    with ProgressLine("reading", terminal) as progress:
        clock[0] += 2.5
        progress(3 << 20, None)
    assert "reading: 3.00MB [00:02," in terminal.getvalue()


def test_the_line_goes_when_the_task_fails(clock: list[float]) -> None:
    """The line is cleared before the sentence on a failure."""
    terminal = Terminal()
    with pytest.raises(ValueError, match="broken"), ProgressLine("reading", terminal) as progress:
        clock[0] += 3
        progress(1, 2)
        raise ValueError("broken")
    assert terminal.getvalue().endswith(" \r")


def test_only_on_a_terminal(clock: list[float]) -> None:
    """A log file gets no progress."""
    log = io.StringIO()
    with ProgressLine("reading", log) as progress:
        clock[0] += 60
        progress(1, 2)
    assert log.getvalue() == ""


def test_costs_nothing_where_nothing_is_shown() -> None:
    """The library of the progress line is not loaded if no line is shown."""
    code = """
import io, sys
from memory_visualizer.cli.progress import ProgressLine
with ProgressLine("reading", io.StringIO()) as progress:
    progress(1, 2)
assert "tqdm" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
