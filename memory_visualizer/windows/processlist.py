"""The list of active processes, put together by the majority of its links.

A doubly linked list can be checked: the target of a forward link must link back. If it does not,
other links to the same place decide, so a damaged link, a wild link or a lost page removes no
process from the list.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.windows.kernelmemory import KernelMemory

_FORWARD, _BACK = 0, 1
_WRONG = 2
"""The doubt of an entry with a wrong link."""
_End: TypeAlias = tuple[int, int, int]
"""An entry, a direction, and the target of its link in that direction."""
_Place: TypeAlias = tuple[int, int]
"""An entry and a direction: the place of its neighbour there."""
_Word: TypeAlias = tuple[tuple[int, bool, bool, int, int, bool], _End]
"""An end, after the weight of its entry's word."""


@dataclass
class ActiveList:
    """The objects in the list, by the addresses of their links (LIST_ENTRY, winnt.h)."""

    main: set[int] = field(default_factory=set)
    """Links that are in the list, with the list's head."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Gaps in the list: the links before and behind each gap, 0 if unknown."""
    wrong: set[int] = field(default_factory=set)
    """Links, in the list or not, with other targets than confirmed neighbours demand."""
    proven: set[int] = field(default_factory=set)
    """Links, in the list or not, whose targets link back; also links to themselves."""
    left_out: int = 0
    """The number of links that were not followed, since no machine has so many processes."""


class Links:
    """Links that were read, and how they belong together."""

    def __init__(self, kernel: KernelMemory, width: int, limit: int) -> None:
        """A link has `width` bytes; at most `limit` entries of lists are read."""
        self._kernel, self._width, self._limit = kernel, width, limit
        self.of: dict[int, tuple[int, int]] = {}
        """The targets of each entry's forward and back link."""
        self.left_out = 0
        self._read: dict[int, tuple[int, int]] = {}

    def read(self, entry: int) -> tuple[int, int]:
        """Forward and back link of an entry, 0 where nothing is mapped."""
        if entry in self._read:
            return self._read[entry]
        number = self._kernel.number
        width = self._width
        return number(entry, width) or 0, number(entry + width, width) or 0

    def _read_all(self, entries: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Read many links at once, which is faster; shape (n, 2)."""
        raw = self._kernel.read_partly(entries, 2 * self._width)
        links = raw.view(f"<u{self._width}").astype(np.uint64)
        self._read.update(zip(entries.tolist(), map(tuple, links.tolist()), strict=True))
        return links

    def follow(self, seeds: NDArray[np.uint64], is_process: Callable[[int], bool]) -> None:
        """Read these entries and all entries that they lead to.

        An entry that links back belongs to the list. Another entry is taken if `is_process` says
        that it looks like a process, since its own links may be damaged.
        """
        waiting = [entry for entry in seeds.tolist() if entry not in self.of]
        self._read_all(distinct(self._read_all(np.array(waiting, np.uint64)).ravel()))
        while waiting:
            entry = waiting.pop()
            if entry in self.of:
                continue
            if len(self.of) >= self._limit:
                self.left_out += 1
                continue
            self.of[entry] = links = self.read(entry)
            for direction, target in enumerate(links):
                if target <= 0 or target in self.of:
                    continue
                leads_back = self.read(target)[1 - direction] == entry
                if leads_back or is_process(target):
                    waiting.append(target)


def find_list(
    links: Links, is_process: Callable[[int], bool], credible: Collection[int]
) -> ActiveList:
    """Find the list among links that were followed: the largest connected part.

    Another part is joined to the list if a link of the list leads to it and no other entry has that
    place, or if the list is broken and the part's ends lead into lost memory. `credible` are
    entries of objects that surely are processes: only these are joined for the latter reason.
    """
    chain = _Chain(links.of, credible)
    chain.decide()
    main = chain.largest(is_process)
    for part in _lost_parts(chain, main, credible):
        main |= part
    return ActiveList(main, chain.gaps(main), chain.wrong, chain.proven, links.left_out)


class _Chain:
    """The order of entries, as far as it is decided."""

    def __init__(self, links: dict[int, tuple[int, int]], credible: Collection[int]) -> None:
        self.links = links
        self._credible = credible
        self.next: dict[int, int] = {}
        self.previous: dict[int, int] = {}
        self._part_of = {entry: {entry} for entry in links}
        self.proven = set[int]()
        for entry, (forward, _) in links.items():
            if forward in links and links[forward][_BACK] == entry:
                if self._is_half(entry) and self._is_half(forward):
                    continue  # copies of the entry between them
                self.proven |= {entry, forward}
                if entry != forward:  # otherwise other entries, if any, tell its place
                    self._connect(entry, forward)
        self._sizes = {entry: len(part) for entry, part in self._part_of.items()}
        self.refuted = {entry for entry in links if self._is_refuted(entry)}
        """Entries whose links tell nothing, since they are those of another entry, or old. Their
        neighbours may tell their places."""
        self._led_to = Counter(to for one, _, to in self.open_ends(links) if self._sizes[one] > 1)
        self.wrong = set[int]()
        """Entries whose own links differ from the decision, by the word of confirmed entries."""
        self.doubtful = set[_Place]()
        """Places that were decided by the word of entries that no neighbour confirms."""

    def _is_half(self, entry: int) -> bool:
        """Whether only one link leads to the entry itself: a copy over the entry's neighbour."""
        return self.links[entry].count(entry) == 1

    def _is_refuted(self, entry: int) -> bool:
        """Whether no neighbour confirms an entry, and its links do not lead to a place for it.

        Two neighbours that confirm each other leave no place between them.
        """
        forward, back = self.links[entry]
        is_taken = forward in self.previous and back in self.next
        return self._sizes[entry] == 1 and (is_taken or len({entry, forward, back}) < 3)

    def _connect(self, entry: int, following: int) -> None:
        self.next[entry], self.previous[following] = following, entry
        part, other = self._part_of[entry], self._part_of[following]
        if part is not other:
            small, large = sorted((part, other), key=len)
            large |= small
            for one in small:
                self._part_of[one] = large

    def parts(self) -> list[set[int]]:
        """The connected parts, the largest first."""
        by_identity = {id(part): part for part in self._part_of.values()}
        return sorted(by_identity.values(), key=lambda part: (-len(part), min(part)))

    def largest(self, is_process: Callable[[int], bool]) -> set[int]:
        """The part with the most processes."""
        best: set[int] = set()
        most = 0
        for part in self.parts():
            if len(part) <= most:
                break
            if (count := sum(map(is_process, part))) > most:
                best, most = set(part), count
        return best

    def open_ends(self, part: Collection[int]) -> list[_End]:
        """Links of a part whose targets are not decided."""
        return [
            (entry, direction, self.links[entry][direction])
            for entry in sorted(part)
            for direction, decided in ((_FORWARD, self.next), (_BACK, self.previous))
            if entry not in decided
        ]

    def decide(self) -> None:
        """Decide open ends by the words of entries, the weightiest first.

        Words are an entry's own links, and others' links to it.
        """
        waiting = [self._word(end) for end in self.open_ends(self.links)]
        heapify(waiting)
        while waiting:
            weight, end = heappop(waiting)
            if not self._is_free(end):
                continue
            word = self._word(end)
            if word[0] > weight:  # the entry proved wrong meanwhile
                heappush(waiting, word)
                continue
            entry, direction, target = end
            doubt, *_ = weight
            if doubt and self._part_of[entry] is self._part_of[target]:
                continue  # it would make a ring apart from the list
            self._connect(*((entry, target) if direction == _FORWARD else (target, entry)))
            if doubt:
                self.doubtful |= {(entry, direction), (target, 1 - direction)}
            elif self.links[target][1 - direction] != entry:
                self.wrong.add(target)

    def _word(self, end: _End) -> _Word:
        """Put an end in order, the weightiest first.

        The word of an entry that a neighbour confirms weighs most, and that of an entry with a
        wrong link least. Of equal ones, a word that the target does not contradict comes first,
        then the word on a confirmed entry, that of the longest part of the list, that on the
        longest part, and that of a sure original.
        """
        entry, direction, target = end
        answer = self.links[target][1 - direction] if self._sizes.get(target, 1) > 1 else 0
        weight = (
            self.doubt(entry),
            self._is_confirmed(answer),
            not self._is_confirmed(target),
            -self._sizes[entry],
            -self._sizes.get(target, 1),
            entry not in self._credible,
        )
        return weight, end

    def _is_confirmed(self, entry: int) -> bool:
        """Whether a neighbour confirms the entry, or two confirmed entries lead to it."""
        return self._sizes.get(entry, 0) > 1 or (entry in self.links and self._led_to[entry] > 1)

    def doubt(self, entry: int) -> int:
        """0 if a neighbour confirms the entry, _WRONG if a decision contradicts it, else 1."""
        if self._sizes[entry] > 1:
            return 0
        return _WRONG if entry in self.refuted or any(self._contradictions(entry)) else 1

    def is_surely_wrong(self, entry: int) -> bool:
        """Whether words of confirmed entries contradict an entry that no neighbour confirms."""
        return self.doubt(entry) == _WRONG and (
            entry in self.refuted or not self.doubtful.issuperset(self._contradictions(entry))
        )

    def _contradictions(self, entry: int) -> Iterator[_Place]:
        """Places at the entry, and at its targets, that are decided against the entry's links."""
        for direction, target in enumerate(self.links[entry]):
            here, there = self._decided(direction)
            if here.get(entry, target) != target:
                yield entry, direction
            if there.get(target, entry) != entry:
                yield target, 1 - direction

    def _decided(self, direction: int) -> tuple[dict[int, int], dict[int, int]]:
        """The decided neighbours in a direction, and in the opposite direction."""
        both = self.next, self.previous
        return both if direction == _FORWARD else both[::-1]

    def _is_free(self, end: _End) -> bool:
        """Whether the entry has a word, and the places at both ends are still open."""
        entry, direction, target = end
        if target not in self.links or target == entry or entry in self.refuted:
            return False
        here, there = self._decided(direction)
        return entry not in here and target not in there

    def gaps(self, main: set[int]) -> list[tuple[int, int]]:
        """The gaps in the list: the entries before and behind, paired by their targets."""
        ends = self.open_ends(main)
        behind = {target: entry for entry, direction, target in ends if direction == _BACK}
        gaps = []
        for entry, direction, target in ends:
            if direction == _FORWARD:
                gaps.append((entry, behind.pop(target, 0)))
        return gaps + [(0, entry) for entry in behind.values()]


def _lost_parts(chain: _Chain, main: set[int], credible: Collection[int]) -> Iterator[set[int]]:
    """Parts that lost or altered memory separates from the rest of the list.

    Their ends lead to places without an entry, and so do ends of the list. An object that was
    unlinked points to itself, to its old neighbours, which are in the list, or to null: so a single
    object with null links does not count as a part.
    """

    def is_dead(end: _End) -> bool:
        entry, direction, target = end
        is_lost = target not in chain.links or (target, 1 - direction) in chain.doubtful
        return is_lost or chain.doubt(entry) == _WRONG

    if not any(map(is_dead, chain.open_ends(main))):
        return
    for part in chain.parts():
        ends = chain.open_ends(part)
        sure = sum(entry in credible and not chain.is_surely_wrong(entry) for entry in part)
        others = sum(entry not in credible and chain.doubt(entry) < _WRONG for entry in part)
        if (
            not part & main
            and ends
            and all(map(is_dead, ends))
            and (len(part) > 1 or any(target > 0 for *_, target in ends))
            and sure >= max(others, 1)
        ):
            yield part
