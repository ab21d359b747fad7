"""What changed between two dumps of one machine."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import count_values
from memory_visualizer.difference.changes import (
    MAX_MOVES,
    Change,
    ChangeBit,
    OwnerMoves,
    changed_bits,
    codes_of,
    owner_moves,
)
from memory_visualizer.difference.contents import differing
from memory_visualizer.difference.kinship import Kinship, kinship
from memory_visualizer.difference.moment import FileKey, FrameColumns, KnownLead, Moment
from memory_visualizer.difference.ownersets import random_values
from memory_visualizer.difference.processes import (
    ProcessChange,
    matched,
    matched_by_name,
    process_changes,
)
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Progress
from memory_visualizer.paging import MAY_EXECUTE
from memory_visualizer.printable import counted

_FRAMES_AT_ONCE = 1 << 16
"""So many frames are compared at a time: the work on them needs some bytes for each."""
_UNKNOWN_KINSHIP = "nothing tells whether the two dumps are of one machine"


@dataclass(frozen=True)
class FileChange:
    """A file of which a dump has pages in memory."""

    path: str
    kind: str
    """As in FileObject."""
    number: int | None
    """As in FileObject."""
    pages_before: int
    pages_after: int


@dataclass(frozen=True, eq=False, repr=False)
class Difference:
    """What changed from one dump to a later one."""

    before: Moment
    after: Moment
    kinship: Kinship
    """The evidence on whether both dumps are of one machine, without a restart in between."""
    leads: tuple[KnownLead, ...]
    """The leads of the later dump, unless the earlier has one of the same kind and process; of
    kinds that are about pages, the earlier one must have as many pages."""
    processes: tuple[ProcessChange, ...]
    """The processes of both dumps, gone ones last; by name if they are not of one machine."""
    bits: NDArray[np.uint8]
    """By PFN: the ChangeBits of each frame; empty if the dumps are not of one machine."""
    codes: NDArray[np.uint8]
    """By PFN: the Change of each frame; empty if the dumps are not of one machine."""

    @property
    def is_one_machine(self) -> bool:
        """Whether the frames of the two dumps can be compared."""
        return self.kinship.is_one

    def counts(self) -> dict[Change, int]:
        """The number of frames of each change, changes without frames included."""
        counts = count_values(self.codes, len(Change))
        return {change: int(counts[change]) for change in Change}

    def bit_counts(self) -> dict[ChangeBit, int]:
        """The number of frames with each bit."""
        counts = count_values(self.bits, 256)
        kinds = np.arange(256)
        return {bit: int(counts[kinds & bit != 0].sum()) for bit in ChangeBit}

    @cached_property
    def columns(self) -> tuple[FrameColumns, FrameColumns]:
        """What was known of each frame before and after, for the frames of both dumps."""
        frames = max(len(one.columns) for one in (self.before, self.after))
        return self.before.columns.grown(frames), self.after.columns.grown(frames)

    def owner_moves(
        self, bit: ChangeBit = ChangeBit.OWNER
    ) -> list[tuple[list[int], list[int], int]]:
        """The owners before and after of the frames with a bit; most frames first.

        Owners are indices in `before.processes` and `after.processes`. At most the thousand kinds
        of moves with the most frames are listed, and `remarks` count the others.
        """
        return self._moves(bit).told

    def _moves(self, bit: ChangeBit) -> OwnerMoves:
        if bit not in self._known_moves:
            sets = self.before.sets, self.after.sets
            self._known_moves[bit] = owner_moves(self._frames_with(bit), sets)
        return self._known_moves[bit]

    def _frames_with(self, bit: ChangeBit) -> Iterator[tuple[FrameColumns, FrameColumns]]:
        """What was known before and after of the frames with a bit, some frames at a time."""
        before, after = self.columns
        for some in _pieces(len(self.bits)):
            rows = np.flatnonzero(self.bits[some] & np.uint8(bit))
            if len(rows):
                yield before.take(some).take(rows), after.take(some).take(rows)

    @cached_property
    def _known_moves(self) -> dict[ChangeBit, OwnerMoves]:
        return {}

    @cached_property
    def files(self) -> tuple[FileChange, ...] | None:
        """The files whose pages in memory became more or fewer, by path; None where unknown."""
        if self.before.files is None or self.after.files is None or not self.is_one_machine:
            return None
        return tuple(_file_changes(self.before.files, self.after.files))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the user on this comparison."""
        told = [] if self.kinship.is_known else [_UNKNOWN_KINSHIP]
        told += [
            f"the two dumps disagree on {one.what}: {one.before} and {one.after}"
            for one in self.kinship.disagreeing
            if self.is_one_machine
        ]
        moves = self._moves(ChangeBit.OWNER) if self.is_one_machine else None
        if moves and moves.kinds_left_out:
            told.append(
                f"{counted(moves.kinds_left_out, 'kind')} of owner moves left out, with"
                f" {counted(moves.frames_left_out, 'page')}: the {MAX_MOVES:,} with most pages are"
                " told"
            )
        return tuple(told)

    def __repr__(self) -> str:
        changed = int(np.count_nonzero(self.codes > Change.SAME))
        return f"<Difference: {changed:,} of {len(self.codes):,} page frames changed>"


def _file_changes(
    before: Mapping[FileKey, int], after: Mapping[FileKey, int]
) -> Iterator[FileChange]:
    keys = sorted(before.keys() | after.keys(), key=lambda key: (key[0], key[1], key[2] or 0))
    for key in keys:
        counts = before.get(key, 0), after.get(key, 0)
        if counts[0] != counts[1]:
            yield FileChange(*key, *counts)


def compare(before: Moment, after: Moment, progress: Progress | None = None) -> Difference:
    """What changed from one dump to a later one; `progress` and errors as for Dump.scan.

    If they are not of one machine, only what makes sense is compared: processes by their names, and
    what each dump tells by itself.
    """
    pairs = matched(before.processes, after.processes)
    kin = kinship(before, after, len(_named(pairs, before)))
    if not kin.is_one:
        pairs = matched_by_name(before.processes, after.processes)
    pages = before.pages, after.pages
    found = Difference(
        before,
        after,
        kin,
        _new_leads(before, after, pairs) if kin.is_one else (),
        process_changes(before.processes, after.processes, pages, pairs),
        np.empty(0, np.uint8),
        np.empty(0, np.uint8),
    )
    return _with_frames(found, pairs, progress) if kin.is_one else found


def _new_leads(
    before: Moment, after: Moment, pairs: Sequence[tuple[int, int]]
) -> tuple[KnownLead, ...]:
    later: dict[int | None, int | None] = {None: None, **dict(pairs)}
    known: Counter[tuple[str, int | None]] = Counter()
    told = known.copy()
    for lead in before.leads:
        known[lead.kind, later.get(lead.process, -1)] += lead.pages
    for lead in after.leads:
        told[lead.kind, lead.process] += lead.pages
    grown = {key for key in told if key[0] in _ABOUT_PAGES and told[key] > known[key]}
    return tuple(
        lead
        for lead in after.leads
        if (key := (lead.kind, lead.process)) not in known or key in grown
    )


_ABOUT_PAGES = ("packed code", "writable code", "records disagree")
"""Leads about single pages: more of them are news, even if there were some before."""


def _named(pairs: Sequence[tuple[int, int]], before: Moment) -> list[tuple[int, int]]:
    return [pair for pair in pairs if before.processes[pair[0]].object_address]


def _with_frames(
    found: Difference, pairs: Sequence[tuple[int, int]], progress: Progress | None
) -> Difference:
    """The same with each frame compared."""
    columns = found.columns
    count = len(columns[0])
    wanted = np.zeros(count, np.bool_)
    for some in _pieces(count):
        before, after = (each.take(some) for each in columns)
        wanted[some] = before.held & ~before.zero & after.held & ~after.zero
    differs = differing(found.before.dump, found.after.dump, wanted, progress)
    values = _identities(len(found.before.processes), len(found.after.processes), pairs)
    sums = found.before.sets.sums(values[0]), found.after.sets.sums(values[1])
    bits, codes = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    for some in _pieces(count):
        before, after = (each.take(some) for each in columns)
        bits[some] = changed_bits(before, after, differs[some], sums, MAY_EXECUTE)
        codes[some] = codes_of(bits[some], before.held | after.held)
    return replace(found, bits=bits, codes=codes)


def _pieces(count: int) -> Iterator[slice]:
    """So many frames, some at a time."""
    for start in range(0, count, _FRAMES_AT_ONCE):
        yield slice(start, min(start + _FRAMES_AT_ONCE, count))


def _identities(
    before: int, after: int, pairs: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """A number for each process of both dumps: the same for the same process."""
    values = random_values(before + after)
    first, second = values[:before], values[before:]
    if pairs:
        old, new = np.array(pairs, np.int64).T
        second[new] = first[old]
    return first, second


def in_order(moments: Sequence[Moment]) -> tuple[list[Moment], list[str]]:
    """The dumps by the clock of their systems, and sentences on what the clocks do not tell.

    A dump without a clock keeps its place, and dumps with the same time keep their order: a remark
    names them.
    """
    timed = [number for number, one in enumerate(moments) if one.time]
    by_clock = sorted(timed, key=lambda number: (moments[number].time, number))
    order = list(range(len(moments)))
    for place, number in zip(timed, by_clock, strict=True):
        order[place] = number
    remarks = []
    if len(timed) < len(moments):
        names = ", ".join(one.name for one in moments if not one.time)
        remarks.append(f"in the order that was given, since they do not tell their time: {names}")
    times = Counter(one.time for one in moments if one.time)
    if same := [one.name for one in moments if one.time and times[one.time] > 1]:
        remarks.append(
            f"in the order that was given, since their clocks tell the same time: {', '.join(same)}"
        )
    if order != sorted(order):
        names = ", ".join(moments[number].name for number in order)
        remarks.append(f"the dumps are compared in the order of their clocks: {names}")
    return [moments[number] for number in order], remarks


def compare_series(
    moments: Sequence[Moment], progress: Progress | None = None
) -> Iterator[Difference]:
    """What changed from each dump to the next; the order is as given.

    BadInputError if there are fewer than two. The columns of only two dumps are unpacked at a time.
    """
    if len(moments) < 2:
        raise BadInputError("a comparison needs two dumps or more")
    before = moments[0].unpacked()
    for _, following in pairwise(moments):
        after = following.unpacked()
        yield compare(before, after, progress)
        before = after
