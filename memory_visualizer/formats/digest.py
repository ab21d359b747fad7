"""The SHA-256 of a dump's file, which identifies the file wherever it goes.

A scan visits blocks of a dump in several threads, not all of them and not in the order of the file.
So a thread of its own reads the file again, from beginning to end, during the scan. If both keep
pace, the system's cache serves both, and the disk is read once. The cost is a processor for the
time of SHA-256 (0.5 to 2 GB/s).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from memory_visualizer.errors import reading

_CHUNK = 1 << 20


class FileHash:
    """Computes a file's SHA-256 in a thread during the `with` block; `wait` returns it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._done = 0
        self._error: OSError | None = None
        self._stop = Event()
        self._thread = Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, progress: Callable[[int, int | None], None] | None = None) -> str:
        """The digest in hexadecimal; BadInputError when the file cannot be read."""
        with reading(self._path):
            total = self._path.stat().st_size or None
            while self._thread.is_alive():
                self._thread.join(0.1)
                if progress:
                    progress(self._done, total)
            if self._error:
                raise self._error
        return self._digest.hexdigest()

    def _read(self) -> None:
        buffer = memoryview(bytearray(_CHUNK))
        try:
            with self._path.open("rb", buffering=0) as file:
                while not self._stop.is_set() and (count := file.readinto(buffer)):
                    self._digest.update(buffer[:count])
                    self._done += count
        except OSError as error:
            self._error = error
