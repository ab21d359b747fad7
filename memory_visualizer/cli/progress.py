"""A line on the terminal with the progress of a long task."""

import sys
from types import TracebackType
from typing import Any, Self, TextIO

_SILENT_SECONDS = 2.0


class ProgressLine:
    """Shows progress in bytes, only on a terminal, and only for tasks of more than two seconds.

    Use it as a context manager and as the `progress` argument of the functions that take one; the
    line is erased at the end.
    """

    def __init__(self, task: str, stream: TextIO | None = None) -> None:
        self._task = task
        self._stream = stream or sys.stderr
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            from tqdm import tqdm  # imported here, since most runs in scripts show nothing

            self._bar = tqdm(
                desc=self._task,
                delay=_SILENT_SECONDS,
                leave=False,
                file=self._stream,
                dynamic_ncols=True,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
            )
        return self

    def __call__(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are done (None: the total is unknown)."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
