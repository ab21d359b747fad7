"""The appearance of a dump in which no system was found, by the contents of its pages."""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.unknown.machine import is_read, machine_of

_SAMPLE = 512
"""The number of sampled pages: enough for a share of all pages to within five percent."""
_PAGES_AT_ONCE = 256
_NEARLY_NOISE = 7.9
"""Bits per byte that compressed and encrypted pages exceed, and hardly any other pages."""


def looks_like(dump: Dump, zero: NDArray[np.bool_]) -> str:
    """Tell whether a dump is all zeros, of an unsupported machine, packed, or none of these.

    `zero` tells which frames are all zeros. Shannon's entropy is measured for a sample of pages.
    Errors as for Dump.each_block.
    """
    filled = np.flatnonzero(~zero & dump.held)
    if not filled.size:
        return "the dump is all zeros"
    machine = machine_of(dump)
    if machine and not is_read(machine):
        return f"the dump is of {machine}, which this program does not read"
    chosen = filled[np.unique(np.linspace(0, filled.size - 1, _SAMPLE).astype(np.int64))]
    bits = np.concatenate(
        [
            _bits_per_byte(dump.read_frames(chosen[start : start + _PAGES_AT_ONCE]).view(np.uint8))
            for start in range(0, chosen.size, _PAGES_AT_ONCE)
        ]
    )
    noise = bits >= _NEARLY_NOISE
    if 2 * np.count_nonzero(noise) >= bits.size:
        return (
            f"the dump looks compressed or encrypted: entropy {bits[noise].mean():.2f} in"
            f" {100 * noise.mean():.0f} % of its pages that are not zeros"
        )
    where = f" on {machine}" if machine else ""
    zeros = 1 - filled.size / np.count_nonzero(dump.held)
    return (
        f"the dump is of another system{where}, or damaged ({100 * zeros:.0f} % zeros, entropy"
        f" {bits.mean():.2f} in the rest)"
    )


def _bits_per_byte(pages: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The entropy of each page, from 0 to 8; of perfect noise 7.95."""
    counts = np.stack([np.bincount(page, minlength=256) for page in pages])
    share = np.arange(PAGE_SIZE + 1) / PAGE_SIZE
    part = -share * np.log2(np.maximum(share, 1 / PAGE_SIZE))
    bits: NDArray[np.float64] = part[counts].sum(axis=1)
    return bits
