"""The kernel's half of top-level page tables, which all address spaces of a system share."""

import numpy as np
from numpy.typing import NDArray

TOUCHED = 0x60
"""The bits by which the processor records that an entry was used (SDM 4.8): these may differ."""
MAX_ENTRIES = 192
"""The most entries in each half of a 64-bit top-level table. Tools for real dumps demand 64 empty
entries."""


def share_entries(
    tables: NDArray[np.uint64],
    common: NDArray[np.uint64],
    weight: NDArray[np.integer] | None = None,
) -> NDArray[np.bool_]:
    """Which tables, shape (n, entries), have at least half of the common entries.

    `common` has the shape (entries,). An entry counts by its `weight`; by default all entries that
    are not 0 count the same.
    """
    if weight is None:
        weight = (common != 0).astype(np.int64)
    mask = ~np.uint64(TOUCHED)
    agrees = (tables & mask == common & mask) @ weight
    alike: NDArray[np.bool_] = (agrees > 0) & (2 * agrees >= weight.sum())
    return alike
