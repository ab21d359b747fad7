"""A line on the terminal that says how far a long task has come."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from memory_visualizer.printable import binary_size

_SILENT_SECONDS = 2.0
_REDRAW_SECONDS = 0.1
_ERASE_LINE = "\r\x1b[K"


class ProgressLine:
    """Shows progress in bytes, on a terminal only, and only of what takes more than two seconds.

    Use it as a context manager and as the `progress` argument of the functions that take one; the
    line is erased at the end.
    """

    def __init__(self, task: str, stream: TextIO | None = None) -> None:
        self._task = task
        self._stream = stream or sys.stderr
        self._next_draw = time.monotonic() + _SILENT_SECONDS
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int | None) -> None:
        """Show that `done` bytes are done, of `total` (None: nobody knows of how many)."""
        now = time.monotonic()
        if now < self._next_draw or not self._stream.isatty():
            return
        self._next_draw = now + _REDRAW_SECONDS
        self._drawn = True
        amount = f"{binary_size(done)} of {binary_size(total)}" if total else binary_size(done)
        percent = f"  {100 * done // total} %" if total else ""
        self._stream.write(f"{_ERASE_LINE}{self._task}: {amount}{percent}")
        self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._drawn:
            self._stream.write(_ERASE_LINE)
            self._stream.flush()
