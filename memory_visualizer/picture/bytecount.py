"""The information in pages, from the number of each byte value in them.

numpy counts one byte after the other, in some 6 to 9 microseconds for each page. If the package
wasmtime is installed, a few instructions of WebAssembly (bytecount.wat), which it compiles in
milliseconds on any system, take less than 2 microseconds, and look up the information, too. The
results are equal, since all numbers are whole.
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
Table: TypeAlias = NDArray[np.uint32]
"""The number that a byte value adds to a page's sum, by its count, shape (PAGE_SIZE + 1,)."""
Sums: TypeAlias = NDArray[np.integer[Any]]
"""The sum of each page, shape (n,), below 2**32."""
Measure: TypeAlias = Callable[[Pages, NDArray[np.intp]], Sums]
"""Gives the sums of chosen pages, told by their rows: one to PAGES_AT_ONCE. For use in a single
thread; the sums are valid until the next call."""

PAGES_AT_ONCE = 256
"""A call of WebAssembly takes 10 to 40 microseconds, but these pages must fit into the second cache
of a processor."""
_LANES = 4
_PAGES_OF_NUMPY = 8
"""The tables of counts of so many pages fit into a processor's nearest cache."""
_TABLE, _SUMS, _PAGES = 0x1000, 0x6000, 0x8000
"""Places in the memory of bytecount.wat."""


def page_measure(table: Table) -> Measure:
    """A function that measures pages, for the thread that calls it."""
    with _IMPORTING:
        wasmtime = _wasmtime()
    if wasmtime is None:
        return measure_with_numpy(table)
    try:
        return _compiled(wasmtime, table)
    except wasmtime.WasmtimeError:  # the system forbids programs to generate code
        return measure_with_numpy(table)


def measure_with_numpy(table: Table) -> Measure:
    """The same with numpy only."""
    return lambda pages, rows: table[count_with_numpy(pages[rows])].sum(axis=1, dtype=np.uint32)


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


def _compiled(wasmtime: Any, table: Table) -> Measure:
    from importlib.resources import files  # imported here, since most runs count nothing

    config = wasmtime.Config()
    config.parallel_compilation = False  # threads of its own would not survive a fork
    store = wasmtime.Store(wasmtime.Engine(config))
    source = files(__package__).joinpath("bytecount.wat").read_text("utf-8")
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, source), []).exports(store)
    memory, function = exports["memory"], exports["measure"]
    contents = np.ctypeslib.as_array(memory.data_ptr(store), (memory.data_len(store),))
    contents[_TABLE : _TABLE + 4 * len(table)].view(np.uint32)[:] = table
    sums = contents[_SUMS : _SUMS + 4 * PAGES_AT_ONCE].view(np.uint32)
    room = contents[_PAGES : _PAGES + PAGES_AT_ONCE * PAGE_SIZE].reshape(-1, PAGE_SIZE)

    def measure(pages: Pages, rows: NDArray[np.intp]) -> Sums:
        # Rows are in range; if numpy had to tell, it would copy them once more.
        np.take(pages, rows, axis=0, out=room[: len(rows)], mode="clip")
        function(store, len(rows))
        return sums[: len(rows)]

    return measure
