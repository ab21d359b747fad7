"""The kinds of changes of a page frame between two dumps."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import look_up
from memory_visualizer.difference.ownersets import NOBODY, OwnerSets
from memory_visualizer.snapshot.pagemap import PageClass

if TYPE_CHECKING:
    from memory_visualizer.difference.moment import FrameColumns


class ChangeBit(IntFlag):
    """The changes of a frame; several bits may be set."""

    CONTENTS = 1
    """Its contents differ. Set with ZEROED and FILLED, too."""
    ZEROED = 2
    """It held data, and is all zeros now."""
    FILLED = 4
    """It was all zeros, and holds data now."""
    CLASS = 8
    """Its PageClass differs; both dumps hold it."""
    OWNER = 16
    """Another set of processes has it."""
    EXECUTABLE = 32
    """It became executable while its owners stayed the same."""
    ONLY_EARLIER = 64
    """The earlier dump alone holds it."""
    ONLY_LATER = 128
    """The later dump alone holds it."""


class Change(IntEnum):
    """The change of a frame in one word: the last member that applies to it.

    The order follows how much a change tells: contents change all the time, fewer pages change
    their owners, and hardly any become executable. A frame that only one dump holds cannot be
    compared at all.
    """

    ABSENT = 0
    """Neither dump holds it."""
    SAME = 1
    """Nothing changed."""
    CONTENTS = 2
    FILLED = 3
    ZEROED = 4
    CLASS = 5
    OWNER = 6
    EXECUTABLE = 7
    ONLY_EARLIER = 8
    ONLY_LATER = 9

    @property
    def label(self) -> str:
        """The change in words, as people read it."""
        return _LABELS[self]


_LABELS = {
    Change.ABSENT: "absent",
    Change.SAME: "the same",
    Change.CONTENTS: "contents changed",
    Change.FILLED: "filled",
    Change.ZEROED: "zeroed",
    Change.CLASS: "class changed",
    Change.OWNER: "owner changed",
    Change.EXECUTABLE: "became executable",
    Change.ONLY_EARLIER: "only in the earlier",
    Change.ONLY_LATER: "only in the later",
}

_ORDER = {
    ChangeBit.CONTENTS: Change.CONTENTS,
    ChangeBit.FILLED: Change.FILLED,
    ChangeBit.ZEROED: Change.ZEROED,
    ChangeBit.CLASS: Change.CLASS,
    ChangeBit.OWNER: Change.OWNER,
    ChangeBit.EXECUTABLE: Change.EXECUTABLE,
    ChangeBit.ONLY_EARLIER: Change.ONLY_EARLIER,
    ChangeBit.ONLY_LATER: Change.ONLY_LATER,
}


def _strongest(bits: int) -> Change:
    return max((word for bit, word in _ORDER.items() if bits & bit), default=Change.SAME)


CHANGE_OF = np.array([_strongest(bits) for bits in range(256)], np.uint8)
"""The Change of a frame that a dump holds, by its ChangeBits."""


def codes_of(bits: NDArray[np.uint8], held: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The Change of each frame; `held` tells which frames at least one dump holds."""
    codes = look_up(CHANGE_OF, bits)
    codes[~held & (bits == 0)] = Change.ABSENT
    return codes


def changed_bits(
    before: "FrameColumns",
    after: "FrameColumns",
    differs: NDArray[np.bool_],
    sums: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    executable: int,
) -> NDArray[np.uint8]:
    """The ChangeBits of some frames.

    `differs` tells which frames with data in both dumps have other data. `sums` has a number for
    each set of owners, equal in both dumps for equal owners. `executable` is the bit of a right.
    """
    held = before.held, after.held
    both = held[0] & held[1]
    classes, zero = (before.classes, after.classes), (before.zero, after.zero)
    unused = _is_unused(classes[0]), _is_unused(classes[1])
    bits = np.zeros(len(differs), np.uint8)

    def mark(frames: NDArray[np.bool_], bit: int) -> None:
        bits[frames] |= np.uint8(bit)

    mark(differs, ChangeBit.CONTENTS)
    mark(both & zero[1] & ~zero[0], ChangeBit.CONTENTS | ChangeBit.ZEROED)
    mark(both & zero[0] & ~zero[1], ChangeBit.CONTENTS | ChangeBit.FILLED)
    # The class of a page without owners follows its contents, whose change is told already.
    mark(both & (classes[0] != classes[1]) & ~(unused[0] & unused[1]), ChangeBit.CLASS)
    there = (classes[0] != PageClass.ABSENT) & (classes[1] != PageClass.ABSENT)
    other = there & (sums[0][before.owners] != sums[1][after.owners])
    mark(other, ChangeBit.OWNER)
    used = there & _is_mapped(before) & _is_mapped(after)
    more = (before.access & executable == 0) & (after.access & executable != 0)
    mark(used & more & ~other, ChangeBit.EXECUTABLE)
    mark(held[0] & ~held[1], ChangeBit.ONLY_EARLIER)
    mark(held[1] & ~held[0], ChangeBit.ONLY_LATER)
    return bits


def _is_mapped(columns: "FrameColumns") -> NDArray[np.bool_]:
    """Which frames are in use; of frames that a dump leaves out, owners and rights tell."""
    mapped: NDArray[np.bool_] = (columns.owners != NOBODY) | (columns.access != 0)
    return np.where(columns.held, ~_is_unused(columns.classes), mapped)


def _is_unused(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    unused: NDArray[np.bool_] = (classes == PageClass.UNUSED_DATA) | (
        classes == PageClass.UNUSED_ZERO
    )
    return unused


@dataclass(frozen=True)
class OwnerMoves:
    """From whom to whom page frames went."""

    told: list[tuple[list[int], list[int], int]]
    """The owners before and after, and how many frames; most frames first. Owners are indices of
    processes."""
    kinds_left_out: int
    """The number of kinds of moves that are left out."""
    frames_left_out: int
    """The frames of the kinds that are left out."""


def owner_moves(
    pieces: Iterable[tuple["FrameColumns", "FrameColumns"]], sets: tuple[OwnerSets, OwnerSets]
) -> OwnerMoves:
    """The moves of frames that changed their owners.

    `pieces` are what is known of these frames before and after, some frames at a time.
    """
    pairs, counts = _counted(
        before.owners.astype(np.uint64) << np.uint64(32) | after.owners for before, after in pieces
    )
    order = np.argsort(-counts, kind="stable")[:MAX_MOVES]
    told = [
        (sets[0].members(pair >> 32), sets[1].members(pair & 0xFFFF_FFFF), count)
        for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]
    left_out = int(counts.sum()) - int(counts[order].sum())
    return OwnerMoves(told, len(pairs) - len(told), left_out)


def _counted(
    pieces: Iterable[NDArray[np.uint64]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct numbers of all pieces, ascending, and how often each comes.

    The numbers of all frames together would take more memory than the columns that they are from.
    """
    parts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
    known = waiting = 0
    for piece in pieces:
        parts.append(np.unique(piece, return_counts=True))
        waiting += len(parts[-1][0])
        if waiting > max(known, _NUMBERS_AT_ONCE):  # so that few numbers are sorted again and again
            parts = [_joined(parts)]
            known, waiting = len(parts[0][0]), 0
    return _joined(parts)


_NUMBERS_AT_ONCE = 1 << 16


def _joined(
    parts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct numbers of all parts, and the sum of each one's counts."""
    nothing = np.empty(0, np.uint64), np.empty(0, np.int64)
    numbers, counts = (np.concatenate(each) for each in zip(nothing, *parts, strict=True))
    distinct, row = np.unique(numbers, return_inverse=True)
    total = np.zeros(len(distinct), np.int64)
    np.add.at(total, row, counts)
    return distinct, total


MAX_MOVES = 1000
"""The most kinds of moves that are told: people can look at a few."""
