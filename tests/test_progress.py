"""The progress line, with a clock of the test's own."""

import io

import pytest

from memory_visualizer.progress import ProgressLine


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which tests set."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_nothing_is_shown_in_the_first_two_seconds(clock: list[float]) -> None:
    """Short tasks leave the terminal alone."""
    terminal = Terminal()
    with ProgressLine("reading", terminal) as progress:
        clock[0] = 1.9
        progress(1, 2)
    assert terminal.getvalue() == ""


def test_long_tasks_show_a_line_and_take_it_away(clock: list[float]) -> None:
    """Bytes and percent after two seconds, not more often than ten times a second."""
    terminal = Terminal()
    with ProgressLine("reading", terminal) as progress:
        clock[0] = 2.5
        progress(1 << 20, 4 << 20)
        progress(2 << 20, 4 << 20)
        clock[0] = 3.0
        progress(3 << 20, None)
    erase = "\r\x1b[K"
    assert terminal.getvalue() == (
        f"{erase}reading: 1 MiB of 4 MiB  25 %{erase}reading: 3 MiB{erase}"
    )


def test_only_on_a_terminal(clock: list[float]) -> None:
    """A log file gets no progress."""
    log = io.StringIO()
    with ProgressLine("reading", log) as progress:
        clock[0] = 60
        progress(1, 2)
    assert log.getvalue() == ""
