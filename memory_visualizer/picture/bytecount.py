"""The number of each byte value in each page.

numpy counts one byte after the other, in some 6 to 9 microseconds for each page. If the package
wasmtime is installed, a few instructions of WebAssembly (bytecount.wat), which it compiles in
milliseconds on any system, take 2.5 microseconds. The results are equal.
"""

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.units import PAGE_SIZE

Pages: TypeAlias = NDArray[np.uint8]
"""The bytes of n pages, shape (n, PAGE_SIZE)."""
Counts: TypeAlias = NDArray[np.integer[Any]]
"""Shape (n, 256): how often each value occurs in each page."""

PAGES_AT_ONCE = 64
_LANES = 4
_PAGES_OF_NUMPY = 8
"""The tables of counts of so many pages fit into a processor's nearest cache."""
_TABLES = 4096
"""Bytes that bytecount.wat uses at the beginning of its memory."""


def byte_counter() -> Callable[[Pages], Counts]:
    """A function that counts at most PAGES_AT_ONCE pages, for use in a single thread.

    Its result is valid until the next call.
    """
    with _IMPORTING:
        wasmtime = _wasmtime()
    if wasmtime is None:
        return count_with_numpy
    try:
        return _compiled(wasmtime)
    except wasmtime.WasmtimeError:  # the system forbids programs to generate code
        return count_with_numpy


_IMPORTING = Lock()


@cache
def _wasmtime() -> Any:
    """The package, if it is installed and works here; otherwise None.

    It is imported only once, by one thread: a failed import leaves a part of the package behind,
    which the next import would take for the whole.
    """
    try:
        import wasmtime
    except (ImportError, OSError, RuntimeError):  # wasmtime may not support the system
        return None
    return wasmtime


def count_with_numpy(pages: Pages) -> Counts:
    """Count with numpy only."""
    # Neighbouring bytes are counted in separate tables, which are added up: in a row of equal
    # bytes, such as zeros, each count would have to wait for the last.
    lane = np.arange(PAGE_SIZE) % _LANES
    table = (np.arange(_PAGES_OF_NUMPY)[:, None] * _LANES + lane) * 256
    tables = table.astype(np.uint16)
    batches = []
    for start in range(0, len(pages), _PAGES_OF_NUMPY):
        some = pages[start : start + _PAGES_OF_NUMPY]
        values = (some + tables[: len(some)]).ravel()
        counts = np.bincount(values, minlength=len(some) * _LANES * 256)
        batches.append(counts.reshape(-1, _LANES, 256).sum(axis=1))
    return np.concatenate(batches)


def _compiled(wasmtime: Any) -> Callable[[Pages], Counts]:
    from importlib.resources import files  # imported here, since most runs count nothing

    config = wasmtime.Config()
    config.parallel_compilation = False  # threads of its own would not survive a fork
    store = wasmtime.Store(wasmtime.Engine(config))
    source = files(__package__).joinpath("bytecount.wat").read_text("utf-8")
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, source), []).exports(store)
    memory, function = exports["memory"], exports["count"]
    contents = np.ctypeslib.as_array(memory.data_ptr(store), (memory.data_len(store),))
    end = _TABLES + PAGES_AT_ONCE * PAGE_SIZE
    given = contents[_TABLES:end].reshape(PAGES_AT_ONCE, PAGE_SIZE)
    counts = contents[end : end + PAGES_AT_ONCE * 1024].view(np.uint32).reshape(-1, 256)

    def count(pages: Pages) -> Counts:
        given[: len(pages)] = pages
        function(store, _TABLES, _TABLES + len(pages) * PAGE_SIZE, end)
        return counts[: len(pages)]

    return count
