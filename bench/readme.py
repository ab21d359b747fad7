"""Tables in README.md, each between two comments with the name of its program."""

from collections.abc import Sequence
from pathlib import Path

_README = Path(__file__).resolve().parent / "README.md"


def put_table(program: str, lines: Sequence[str]) -> None:
    """Replace a program's table."""
    begin, end = f"<!-- {program}: begin -->", f"<!-- {program}: end -->"
    text = _README.read_text()
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    _README.write_text("\n".join([head + begin, *lines, end + tail]))
