"""Files on other machines, read by ranges through fsspec and never as a whole.

fsspec knows the protocols and finds the credentials (environment, configuration files, netrc). Its
own caches serve one sequential reader; here several threads read, some of them single pages all
over the file. So this module has a cache of its own: blocks of all files, within a budget of bytes.
Nearby ranges share a request; several requests are in flight at once; and a file that is read
sequentially is read ahead, so that the throughput of the network counts and not its latency.
"""

import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, MissingLibraryError
from memory_visualizer.formats.inside import Inside
from memory_visualizer.formats.urls import (
    check_chain,
    is_web,
    printable_url,
    scheme_of,
    scrubbed,
)
from memory_visualizer.packages import how_to_get
from memory_visualizer.printable import counted

_Result = TypeVar("_Result")

BUDGET = 256 << 20
"""Bytes that the blocks of all files may take, requested blocks included."""
BLOCK = 16 << 10
"""Bytes of a block. With smaller blocks, more scattered pages fit into the cache, but a scan takes
more processor time: 0.9 s for each 256 MiB, and 1.25 s with blocks of one page."""
_GAP = 6
"""Unwanted blocks between two wanted blocks that are read along: they take less time than a further
request."""
_REQUEST = 4 << 20
"""The most bytes of a request."""
_AT_ONCE = 16
"""Requests in flight at once."""
_AHEAD = 32 << 20
"""The most bytes of read-ahead for a sequential reader."""
_STREAM = 1 << 20
"""Bytes that a reader goes forward before read-ahead begins."""
_NEAR = 8 << 20
"""The distance in bytes up to which threads count as one sequential reader."""
_STREAMS = 4
"""The most sequential readers that are told apart."""
_PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each retry of a failed request."""
_PATIENCE = 45.0
"""Seconds after which a failed request is not retried."""
_CHECK_AFTER = 5.0
"""Seconds between two checks that the file is still the same."""
_SILENCE = 30
"""Timeout: seconds without an answer after which a request to an HTTP server has failed."""
_MAX_LISTED = 100_000

_MARKS = (
    *("ETag", "etag", "Content-MD5", "md5Hash", "checksum", "generation", "VersionId"),
    *("LastModified", "Last-Modified", "last_modified", "mtime", "modified", "updated", "created"),
)
"""Properties that a file system tells, and that change with a file's contents (not by a read)."""
_PACKAGES = {
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("sftp", "ssh"), "sshfs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "adl", "az"), "adlfs"),
    "smb": "smbprotocol",
}
"""By scheme: the package that fsspec needs."""
_STATUS = {
    401: "the server asks for credentials, which are missing or wrong",
    403: "the server refuses access",
    404: "it does not exist",
    410: "it does not exist any more",
}
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError)
"""Errors that a retry would not change."""
_TRANSIENT = (408, 425, 429)
"""Statuses of HTTP below 500 after which a retry makes sense."""


class RemoteFile(Inside):
    """A file behind a URL."""

    name = "remote file"

    def __init__(self, url: str) -> None:
        """Ask for the file's size, and whether ranges of it can be read.

        BadInputError if it cannot be read, or only as a whole; MissingLibraryError.
        """
        self._url = url
        self.shown = printable_url(url)
        self._system, self._path = _file_system(url)
        self._info = self._told()
        self.size = int(self._info["size"])
        self._number = next(_numbers)
        self._zero = bytearray(-(-self.size // BLOCK // 8) + 1)
        self._reading, self._following = threading.Lock(), threading.Lock()
        self._streams: list[_Stream] = []
        self._checked = time.monotonic()
        self._file = self._guarded(self._open)
        weakref.finalize(self, _cache.gone.append, self._number)
        if is_web(url) and self.size:
            self._fetch(self.size - 1, self.size)

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` from byte `offset` on, and read ahead if reading is sequential.

        BadInputError, also if the file changed.
        """
        self._ask_ahead(offset, len(target))
        for start in range(0, len(target), _REQUEST):
            self._copy(target[start : start + _REQUEST], offset + start)

    def ask(self, offset: NDArray[np.int64], size: NDArray[np.int64] | int) -> None:
        """As in `Inside`: all requests are sent at once, and `read_into` waits for them."""
        most = BUDGET // BLOCK // 2
        first = offset // BLOCK
        spans = np.clip((offset + size - 1) // BLOCK - first + 1, 0, most)
        kept = (np.cumsum(spans) <= most) & (offset >= 0)
        numbers = np.unique(np.repeat(first[kept], spans[kept]) + _steps(spans[kept]))
        _cache.take(self, numbers[numbers <= (self.size - 1) // BLOCK].tolist())

    @property
    def asks_at_once(self) -> int:
        """As in `Inside`: few enough that no block is dropped before it is read."""
        return BUDGET // BLOCK // 4

    def check(self) -> None:
        """Raise BadInputError if the file is not the same as when it was opened."""
        now = self._told()
        for mark in ("size", *_MARKS):
            if now.get(mark) != self._info.get(mark):
                raise self._changed(mark)
        self._checked = time.monotonic()

    def _copy(self, target: memoryview, offset: int) -> None:
        """Fill `target` from blocks; all missing ones are requested before one is awaited."""
        end = offset + len(target)
        held, coming = _cache.take(self, range(offset // BLOCK, -(-end // BLOCK)))
        place = offset
        while place < end:
            number, begin = divmod(place, BLOCK)
            block = held[number] if number in held else coming[number].result()[number]
            piece = block[begin : begin + end - place]
            target[place - offset : place - offset + len(piece)] = piece
            place += len(piece)

    def _ask_ahead(self, offset: int, size: int) -> None:
        """Read ahead, if the last reads went forward through the file."""
        with self._following:
            stream = next((one for one in self._streams if one.is_near(offset)), None)
            if stream is None:
                stream = _Stream(offset // BLOCK * BLOCK, offset // BLOCK * BLOCK)
            else:
                self._streams.remove(stream)
            self._streams = [stream, *self._streams[: _STREAMS - 1]]
            start, end = stream.follow(offset, size, self.size)
        if end > start:
            _cache.take(self, range(start // BLOCK, -(-end // BLOCK)))

    def fetch_blocks(self, first: int, count: int) -> memoryview:
        """Read `count` blocks from number `first` on; the last may be shorter. See `read_into`."""
        start = first * BLOCK
        data = self._fetch(start, min(start + count * BLOCK, self.size))
        if time.monotonic() - self._checked > _CHECK_AFTER:
            self._checked = time.monotonic()
            self.check()
        return memoryview(data)

    def is_zero(self, number: int) -> bool:
        """Whether a block is known to be all zeros, since it was read before."""
        return bool(self._zero[number // 8] >> number % 8 & 1)

    def note_zero(self, number: int) -> None:
        """Take note of a block of zeros; the cache's lock is held."""
        self._zero[number // 8] |= 1 << number % 8

    def _fetch(self, start: int, end: int) -> bytes:
        """Read a range in one request, with a few retries if it fails."""

        def read() -> bytes:
            data = self._read(start, end)
            if len(data) != end - start:
                self.check()
                raise _ShortAnswerError(
                    f"{len(data):,} bytes came where {end - start:,} were asked for"
                )
            return data

        return self._guarded(read)

    def _read(self, start: int, end: int) -> bytes:
        """Read a range; errors are as the file system raises them."""
        if self._system.async_impl and hasattr(self._file, "_fetch_range"):
            return bytes(self._file._fetch_range(start, end))
        with self._reading:  # other file systems may have one connection for all
            self._file.seek(start)
            return bytes(self._file.read(end - start))

    def _open(self) -> Any:
        """Open the file without fsspec's own cache."""
        if not is_web(self._url):
            return self._system.open(self._path, "rb", cache_type="none")
        if self._info.get("partial") is False:
            raise _NoRangesError
        return self._system.open(
            self._path, "rb", cache_type="none", size=self.size, headers=_condition(self._info)
        )

    def _told(self) -> Mapping[str, Any]:
        """What the file system tells of the file now; BadInputError."""
        info = self._guarded(lambda: _info(self._system, self._path))
        if info.get("type") == "directory":
            raise BadInputError(f"{self.shown} is a folder; give the URL of a file")
        if info.get("size") is None:
            raise BadInputError(
                f"{self.shown} cannot be read by ranges: its server does not tell its size"
            )
        return info

    def _guarded(self, work: Callable[[], _Result]) -> _Result:
        """The result of `work`, which is retried after a pause if the network fails."""
        tried, began = 0, time.monotonic()
        while True:
            try:
                return work()
            except BadInputError:
                raise
            except Exception as error:
                sentence = self._final(error)
                tried += 1
                is_last = tried > len(_PAUSES) or time.monotonic() - began > _PATIENCE
                if sentence is None and is_last:
                    sentence = f"{explained(error, self._url)} (tried {counted(tried, 'time')})"
            # Outside the except block: a chained error might show the credentials in its text.
            if sentence is not None:
                raise BadInputError(f"cannot read {self.shown}: {sentence}")
            time.sleep(_PAUSES[tried - 1])

    def _final(self, error: BaseException) -> str | None:
        """A sentence on an error that a retry would not change; None for other errors."""
        if _has_changed(error):
            raise self._changed("ETag") from None
        if isinstance(error, _NoRangesError) or "range requests" in str(error):
            return "its server does not send parts of files, so all of it would have to be copied"
        status = _status(error)
        if status is not None:
            is_final = 400 <= status < 500 and status not in _TRANSIENT
            return explained(error, self._url) if is_final else None
        # fsspec calls any fault of an HTTP server a missing file.
        if isinstance(error, _FINAL) and (error.__cause__ is None or not is_web(self._url)):
            return explained(error, self._url)
        return None

    def _changed(self, mark: str) -> BadInputError:
        return BadInputError(f"{self.shown} changed while it was read: its {mark} is different")


class _NoRangesError(Exception):
    """A server refuses ranges."""


class _ShortAnswerError(Exception):
    """A range came incomplete."""


@dataclass
class _Stream:
    """A reader that may go forward through a file. All numbers are bytes, at borders of blocks."""

    start: int
    end: int
    """The end of its reads."""
    read: int = 0
    """Bytes of the blocks from `start` on that it has read."""
    asked: int = 0
    """The end of its read-ahead."""

    def is_near(self, offset: int) -> bool:
        """Whether a read may belong to this reader."""
        return self.end - _NEAR <= offset <= self.end + _NEAR

    def follow(self, offset: int, size: int, file_size: int) -> tuple[int, int]:
        """Take note of a read; returns the start and end of the range to read ahead."""
        start, end = offset // BLOCK * BLOCK, -(-(offset + size) // BLOCK) * BLOCK
        self.read += max(0, end - max(start, self.end))
        self.end = max(self.end, end)
        if 2 * self.read < self.end - self.start:  # scattered reads
            self.start, self.end, self.read = start, end, end - start
        if self.read < _STREAM:
            return 0, 0
        # The read-ahead grows with the distance read, in whole requests.
        upto = self.end + min(self.read, _AHEAD, BUDGET // 4)
        upto = upto // _REQUEST * _REQUEST if upto < file_size else file_size
        begin = max(self.end, self.asked)
        if begin >= upto:
            return 0, 0
        self.asked = upto
        return begin, upto


class _Cache:
    """Blocks of all files: the most recently used ones, and those in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], memoryview] = OrderedDict()
        self._coming: dict[tuple[int, int], Future[dict[int, memoryview]]] = {}
        self.gone: deque[int] = deque()
        """Numbers of files that no longer exist. The garbage collector adds them, at any time and
        in any thread, so adding must not take a lock."""
        self.most = 0
        """The highest number of blocks so far, for tests of the budget."""

    def take(
        self, file: RemoteFile, numbers: Iterable[int]
    ) -> tuple[dict[int, memoryview], dict[int, "Future[dict[int, memoryview]]"]]:
        """The blocks with these ascending numbers: those in the cache, and those in flight.

        Missing blocks are requested.
        """
        held: dict[int, memoryview] = {}
        coming: dict[int, Future[dict[int, memoryview]]] = {}
        missing: list[int] = []
        with self._lock:
            self._forget_gone()
            for number in numbers:
                key = file._number, number
                if file.is_zero(number):
                    held[number] = _ZEROS
                elif (block := self._held.get(key)) is not None:
                    self._held.move_to_end(key)
                    held[number] = block
                elif (future := self._coming.get(key)) is not None:
                    coming[number] = future
                else:
                    missing.append(number)
            for first, size in self._requests(file._number, missing):
                future = _pool().submit(self._fetch, file, first, size)
                for number in range(first, first + size):
                    self._coming[file._number, number] = future
                    coming[number] = future
            self._make_room()
        return held, coming

    def _requests(self, file: int, missing: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Join missing blocks to requests: the first block of each, and the number of blocks."""
        most = _REQUEST // BLOCK
        first = last = -1
        for number in missing:
            between = range(last + 1, number)
            joins = first >= 0 and number - first < most and len(between) <= _GAP
            if joins and not any(self._is_known(file, one) for one in between):
                last = number
                continue
            if first >= 0:
                yield first, last - first + 1
            first = last = number
        if first >= 0:
            yield first, last - first + 1

    def _is_known(self, file: int, number: int) -> bool:
        return (file, number) in self._held or (file, number) in self._coming

    def _fetch(self, file: RemoteFile, first: int, size: int) -> dict[int, memoryview]:
        """Read blocks in one request, and keep them."""
        keys = [(file._number, number) for number in range(first, first + size)]
        try:
            data = file.fetch_blocks(first, size)
            blocks = {
                number: memoryview(bytes(data[start : start + BLOCK]))
                for start, (_, number) in zip(count(0, BLOCK), keys, strict=False)
            }
        except BaseException:
            with self._lock:
                for key in keys:
                    self._coming.pop(key, None)
            raise
        with self._lock:
            for key in keys:
                # A file that is gone by now keeps no blocks.
                if self._coming.pop(key, None) is None:
                    continue
                if _ZEROS[: len(blocks[key[1]])] == blocks[key[1]]:
                    file.note_zero(key[1])  # it takes no room, and is never read again
                else:
                    self._held[key] = blocks[key[1]]
            self._make_room()
        return blocks

    def _make_room(self) -> None:
        """Drop the least recently used blocks; the caller holds the lock."""
        room = max(BUDGET // BLOCK - len(self._coming), 0)
        while len(self._held) > room:
            self._held.popitem(last=False)
        self.most = max(self.most, len(self._held) + len(self._coming))

    def _forget_gone(self) -> None:
        """Drop the blocks of files that are gone; the caller holds the lock."""
        gone = {self.gone.popleft() for _ in range(len(self.gone))}
        for blocks in (self._held, self._coming) if gone else ():
            for key in [key for key in blocks if key[0] in gone]:
                del blocks[key]


_ZEROS = memoryview(bytes(BLOCK))
_cache = _Cache()
_numbers = count()


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads that wait for answers."""
    return ThreadPoolExecutor(_AT_ONCE, "ranges")


def listed(url: str) -> list[tuple[str, int | None]]:
    """The files below a folder, or those that match a pattern, each with its size if it is told.

    BadInputError when the server cannot be asked, or tells too many; MissingLibraryError.
    """
    system, path = _file_system(url)
    bare = url.rstrip("/")
    prefix = bare.removesuffix(path.rstrip("/"))
    try:
        if url.endswith("/"):
            found = system.find(path, detail=True)
        else:
            found = system.glob(path, detail=True)
    except Exception as error:
        raise BadInputError(f"cannot list {printable_url(url)}: {explained(error, url)}") from None
    if len(found) > _MAX_LISTED:
        raise BadInputError(
            f"{printable_url(url)} has {len(found):,} files; the limit is {_MAX_LISTED:,}"
        )
    return [
        (f"{prefix}{name}", info.get("size"))
        for name, info in found.items()
        if info.get("type") != "directory" and not name.endswith("/")
    ]


def beside(url: str) -> list[tuple[str, int | None]]:
    """The files of a folder, given its URL, with their sizes; OSError if it cannot be listed."""
    if is_web(url):
        raise OSError("a web server has no folders")
    system, path = _file_system(url)
    prefix = url.rstrip("/").removesuffix(path.rstrip("/"))
    try:
        found = system.ls(path, detail=True)
    except Exception as error:
        raise OSError(explained(error, url)) from None
    return [
        (f"{prefix}{info['name']}", info.get("size")) for info in found if info["type"] == "file"
    ]


def size_of(url: str) -> int:
    """A file's size in bytes; OSError if it cannot be asked for, BadInputError."""
    system, path = _file_system(url)
    try:
        info = _info(system, path)
    except Exception as error:
        raise OSError(explained(error, url)) from None
    if info.get("type") == "directory" or info.get("size") is None:
        raise OSError("it is not a file")
    return int(info["size"])


def _info(system: Any, path: str) -> Mapping[str, Any]:
    """The properties of a file, asked anew and not from the file system's cache."""
    system.invalidate_cache(path)
    info: Mapping[str, Any] = system.info(path)
    return info


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the file's path there.

    MissingLibraryError; BadInputError when the scheme is unknown or the server cannot be reached.
    """
    check_chain(url)
    shown = printable_url(url)
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingLibraryError(
            f"{shown} is a file on another machine, which is read through fsspec:"
            f" {how_to_get(_needed(url))}"
        ) from error
    try:
        system, path = url_to_fs(url, **_options(url))
    except ImportError:
        raise MissingLibraryError(
            f"{shown} is read through a package that is missing: {how_to_get(_needed(url))}"
        ) from None
    except Exception as error:
        raise BadInputError(f"cannot read {shown}: {explained(error, url)}") from None
    return system, str(path)


def _steps(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``range(count)`` for each count, one after another."""
    ends = np.cumsum(counts)
    steps: NDArray[np.int64] = np.arange(int(ends[-1]) if len(ends) else 0)
    return steps - np.repeat(ends - counts, counts)


def _needed(url: str) -> str:
    """The packages for a URL."""
    package = _PACKAGES.get(scheme_of(url))
    return f"fsspec {package}" if package else "fsspec"


def _options(url: str) -> dict[str, Any]:
    """Options for a file system, in addition to fsspec's configuration.

    An HTTP client also uses netrc and proxies, and has a timeout.
    """
    if not is_web(url):
        return {}
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    silence = ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    told = {**conf.get("http", {}), **conf.get("https", {})}.get("client_kwargs", {})
    return {"client_kwargs": {"trust_env": True, "timeout": silence, **told}}


def _condition(info: Mapping[str, Any]) -> dict[str, str]:
    """Headers by which a server refuses a range of a file that changed (RFC 9110, 13.1)."""
    tag, date = info.get("ETag"), info.get("Last-Modified")
    if tag and not tag.startswith("W/"):
        return {"If-Match": tag}
    return {"If-Unmodified-Since": date} if date else {}


def explained(error: BaseException, url: str) -> str:
    """An error of another library as the end of a sentence, without credentials."""
    status = _status(error)
    if status is not None:
        return _STATUS.get(status, f"the server answers with status {status}")
    chain = list(_causes(error))
    if any(isinstance(one, TimeoutError) for one in chain):
        return "the server does not answer in time"
    last = chain[-1] if is_web(url) else error
    if isinstance(last, FileNotFoundError):
        return "it does not exist"
    if isinstance(last, PermissionError):
        return "the server refuses access"
    text = " ".join(scrubbed(str(last), url).split())
    return text or type(last).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The status of an HTTP server's answer, if it is the reason of an error."""
    for one in _causes(error):
        status = getattr(one, "status", None)
        if isinstance(status, int) and status >= 300:
            return status
    return None


def _has_changed(error: BaseException) -> bool:
    """Whether a server refused a range because the file has changed."""
    names = {type(one).__name__ for one in _causes(error)}
    return _status(error) == 412 or "FileExpired" in names
