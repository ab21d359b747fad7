"""Columns of pyarrow, made from numpy's memory.

``pyarrow.array`` would do the same, but if pandas is installed it loads pandas to ask whether the
values are of pandas: 30 MiB of memory and a third of a second.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray


def numbers(values: NDArray[Any], *, none: NDArray[np.bool_] | None = None) -> Any:
    """An array of numbers or truth values; null where `none` is true. It shares their memory."""
    import pyarrow as pa

    type_ = pa.from_numpy_dtype(values.dtype)
    data = np.packbits(values, bitorder="little") if values.dtype == bool else values
    known = None if none is None else pa.py_buffer(np.packbits(~none, bitorder="little"))
    buffers = [known, pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(type_, len(values), buffers)


def texts(values: Sequence[str]) -> Any:
    """An array of texts."""
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    ends = np.array([0, *accumulate(map(len, encoded))], np.int32)
    data = pa.py_buffer(b"".join(encoded))
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), data)


def words(
    codes: NDArray[np.integer[Any]],
    labels: Sequence[str],
    *,
    none: NDArray[np.bool_] | None = None,
) -> Any:
    """An array of texts, each given as its place in `labels`; null where `none` is true."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(numbers(codes, none=none), texts(labels))


def lists(ends: NDArray[np.int32], values: NDArray[Any]) -> Any:
    """An array of lists: list N has the values from ends[N] to ends[N + 1]."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(numbers(ends), numbers(values))
