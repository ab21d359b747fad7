"""The information in pages, from the number of each byte value in them.

numpy counts one byte after the other, in some 6 to 9 microseconds for each page. If the package
wasmtime is installed, a few instructions of WebAssembly (bytecount.wat), which it compiles in
milliseconds on any system, take less than 2.5 microseconds, and look up the information, too. The
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

PAGES_AT_ONCE = 64
_LANES = 4
_PAGES_OF_NUMPY = 8
"""The tables of counts of so many pages fit into a processor's nearest cache."""
_TABLE, _PAGES = 1 << 12, 1 << 15
"""Places in the memory of bytecount.wat, behind its own counts."""


def page_measure(table: Table) -> Callable[[Pages], Sums]:
    """A function that measures at most PAGES_AT_ONCE pages, for use in a single thread.

    Its result is valid until the next call.
    """
    with _IMPORTING:
        wasmtime = _wasmtime()
    if wasmtime is None:
        return measure_with_numpy(table)
    try:
        return _compiled(wasmtime, table)
    except wasmtime.WasmtimeError:  # the system forbids programs to generate code
        return measure_with_numpy(table)


def measure_with_numpy(table: Table) -> Callable[[Pages], Sums]:
    """The same with numpy only."""
    return lambda pages: table[count_with_numpy(pages)].sum(axis=1, dtype=np.uint32)


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


def _compiled(wasmtime: Any, table: Table) -> Callable[[Pages], Sums]:
    from importlib.resources import files  # imported here, since most runs count nothing

    config = wasmtime.Config()
    config.parallel_compilation = False  # threads of its own would not survive a fork
    store = wasmtime.Store(wasmtime.Engine(config))
    source = files(__package__).joinpath("bytecount.wat").read_text("utf-8")
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, source), []).exports(store)
    memory, function = exports["memory"], exports["measure"]
    contents = np.ctypeslib.as_array(memory.data_ptr(store), (memory.data_len(store),))
    contents[_TABLE : _TABLE + 4 * len(table)].view(np.uint32)[:] = table
    end = _PAGES + PAGES_AT_ONCE * PAGE_SIZE
    given = contents[_PAGES:end].reshape(PAGES_AT_ONCE, PAGE_SIZE)
    sums = contents[end : end + PAGES_AT_ONCE * 4].view(np.uint32)

    def measure(pages: Pages) -> Sums:
        given[: len(pages)] = pages
        function(store, _PAGES, _PAGES + len(pages) * PAGE_SIZE, _TABLE, end)
        return sums[: len(pages)]

    return measure
