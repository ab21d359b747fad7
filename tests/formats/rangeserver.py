"""An HTTP server on the loopback address that serves ranges of files, and records the requests."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

PATIENCE = 10
"""Seconds."""
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Store:
    """The files of the server, its behaviour, and the requests that it got."""

    files: dict[str, Path] = field(default_factory=dict)
    """By path of a URL, such as ``/x.raw``."""
    ranges: bool = True
    tags: bool = True
    """Whether it sends an ETag, and refuses ranges if the ETag in the request is another."""
    refuse: Callable[[str, int], int] = lambda path, number: 0
    """The status of a failing request by its path and number from 0; 0 lets it succeed."""
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, start and end of each answered range."""
    heads: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    """The headers of each request."""
    at_once: int = 0
    """The largest number of requests under way at once."""
    pause: float = 0
    """Seconds before each answer, as on a slow line."""
    wait_for: int = 0
    """Answers wait until so many requests are under way, but at most PATIENCE."""
    address: str = ""
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sent(self) -> int:
        """Bytes of all ranges."""
        return sum(end - start for _, start, end in self.asked)

    def url(self, name: str) -> str:
        """A file's URL."""
        return f"{self.address}/{name}"

    @contextmanager
    def counted(self) -> Iterator[int]:
        """Count a request while it is under way; gives its number."""
        with self._lock:
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
            number = self.heads + len(self.asked)
        try:
            yield number
        finally:
            with self._lock:
                self._under_way -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        with self.store.counted() as number:
            self.store.heads += 1
            self._answer(number, body=False)

    def do_GET(self) -> None:
        with self.store.counted() as number:
            time.sleep(self.store.pause)
            end = time.monotonic() + PATIENCE
            while self.store.at_once < self.store.wait_for and time.monotonic() < end:
                time.sleep(0.01)
            self._answer(number, body=True)

    def _answer(self, number: int, *, body: bool) -> None:
        store, name = self.store, self.path.partition("?")[0]
        store.headers.append(dict(self.headers.items()))
        path = store.files.get(name)
        status = store.refuse(self.path, number) if path else 404
        if not path or status:
            self._head(status, 0)
            return
        with path.open("rb") as file:
            size = file.seek(0, 2)
            tag = f'"{hashlib.sha256(f"{path.stat().st_mtime_ns} {size}".encode()).hexdigest()}"'
            wanted = self.headers.get("If-Match")
            if store.tags and wanted not in (None, tag):
                self._head(412, 0)
                return
            extra = {"Last-Modified": formatdate(path.stat().st_mtime, usegmt=True)}
            if store.tags:
                extra["ETag"] = tag
            told = _RANGE.fullmatch(self.headers.get("Range", "")) if store.ranges else None
            start, end = (int(told[1]), min(int(told[2]) + 1, size)) if told else (0, size)
            if told:
                extra["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            if store.ranges:
                extra["Accept-Ranges"] = "bytes"
            if body:  # noted before the answer: a client may refuse by the answer's first line
                store.asked.append((name, start, end))
            self._head(206 if told else 200, end - start, extra)
            if body:
                self._send(file, start, end)

    def _head(self, status: int, size: int, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (extra or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _send(self, file: IO[bytes], start: int, end: int) -> None:
        file.seek(start)
        try:
            while start < end and (piece := file.read(min(end - start, 1 << 20))):
                self.wfile.write(piece)
                start += len(piece)
        except (BrokenPipeError, ConnectionResetError):  # the client needs no more
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: a client that needs no more closes its connection."""


@contextmanager
def serving() -> Iterator[Store]:
    """Run a server during the block."""
    store = Store()
    handler = type("Handler", (_Handler,), {"store": store})
    server = _Server(("127.0.0.1", 0), handler)
    store.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
