"""Records of file formats: NumPy's structured types, with the names that a format gives its fields.

All fields are named, even unused ones, so that no offsets need to be given.
"""

from typing import Any, TypeAlias

import numpy as np

RecordType: TypeAlias = np.dtype[np.void]


def read_record(type_: RecordType, data: bytes) -> dict[str, Any]:
    """The fields of a record at the beginning of `data`, by name.

    Numbers are Python's, which do not wrap around. Fields behind the end of `data` are 0.
    """
    [record] = np.frombuffer(data[: type_.itemsize].ljust(type_.itemsize, b"\0"), type_).tolist()
    return dict(zip(type_.names or (), record, strict=True))


def end_of(type_: RecordType, name: str) -> int:
    """Bytes of a record up to the end of a field."""
    assert type_.fields is not None
    field = type_.fields[name]
    return field[1] + field[0].itemsize
