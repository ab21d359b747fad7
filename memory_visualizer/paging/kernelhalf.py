"""The kernel's half of top-level page tables, which all address spaces of a system share."""

import numpy as np
from numpy.typing import NDArray

TOUCHED = 0x60
"""The bits by which the processor notes that an entry was used (SDM 4.8): they may differ."""
MOST_ENTRIES = 192
"""In each half of a 64-bit top-level table; the tools that know real ones demand 64 empty ones."""


def share_entries(
    tables: NDArray[np.uint64],
    common: NDArray[np.uint64],
    weight: NDArray[np.integer] | None = None,
) -> NDArray[np.bool_]:
    """Which tables, shape (n, entries), have at least half of some entries, shape (entries,).

    An entry counts by its `weight`; by default those that are not 0 count alike.
    """
    if weight is None:
        weight = (common != 0).astype(np.int64)
    mask = ~np.uint64(TOUCHED)
    agrees = (tables & mask == common & mask) @ weight
    alike: NDArray[np.bool_] = (agrees > 0) & (2 * agrees >= weight.sum())
    return alike
