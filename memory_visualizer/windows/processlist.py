"""The list of active processes, put together by the majority of its links.

A doubly linked list can be checked: the target of a forward link must link back. If it does not,
other links to the same place decide, so a damaged link, a wild link or a lost page removes no
process from the list.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.windows.kernelmemory import KernelMemory

_FORWARD, _BACK = 0, 1
_End: TypeAlias = tuple[int, int, int]
"""An entry, a direction, and the target of its link in that direction."""


@dataclass
class ActiveList:
    """The objects in the list, by the addresses of their links (LIST_ENTRY, winnt.h)."""

    main: set[int] = field(default_factory=set)
    """Links that are in the list, with the list's head."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Gaps in the list: the links before and behind each gap, 0 if unknown."""
    wrong: set[int] = field(default_factory=set)
    """Links, in the list or not, with other targets than their neighbours demand."""
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
    main = chain.largest(is_process)
    chain.join_led_to(main)
    chain.join_others(main)
    for part in _lost_parts(chain, main, credible):
        main |= part
    chain.join_led_to(main)
    return ActiveList(main, chain.gaps(main), chain.wrong(), chain.proven, links.left_out)


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
                self.proven |= {entry, forward}
                if entry != forward:  # otherwise other entries, if any, tell its place
                    self._connect(entry, forward)

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

    def join_led_to(self, main: set[int]) -> None:
        """Decide open ends by the links of the list's own entries, first within the list.

        Targets of the list's links are added to `main`, and so are entries that link to an entry of
        the list whose own link is useless. Each end is visited a few times at most.
        """
        claims: dict[tuple[int, int], list[int]] = defaultdict(list)
        for entry, direction, target in self.open_ends(self.links.keys() - main):
            claims[target, 1 - direction].append(entry)
        inside, outside = deque(self.open_ends(main)), deque[_End]()
        claimed: deque[_End] = deque()
        while inside or outside or claimed:
            queue = inside or outside or claimed
            end = queue.popleft()
            entry, direction, target = end
            if target not in self.links:
                for other in sorted(
                    claims.pop((entry, direction), ()), key=self._weight, reverse=True
                ):
                    claimed.append((other, 1 - direction, entry))
                continue
            if not self._is_free(end):
                continue
            if queue is inside and target not in main:
                outside.append(end)
                continue
            # The list consists of whole parts, so each end's part is in it, or outside.
            added: set[int] = set()
            for part in (self._part_of[one] for one in (entry, target) if one not in main):
                added |= part
            self._decide(end)
            main |= added
            inside.extend(self.open_ends(added))

    def join_others(self, main: set[int]) -> None:
        """Decide places outside of the list: neighbours tell those of entries with wild links."""
        for entry, direction, target in self.open_ends(self.links.keys() - main):
            if target in main or target not in self.links or entry == target:
                continue
            answer = self.links[target][1 - direction]
            if answer not in self.links and self._is_free((entry, direction, target)):
                self._decide((entry, direction, target))

    def _weight(self, entry: int) -> tuple[int, bool]:
        """The weight of an entry: larger parts and sure originals weigh more."""
        return len(self._part_of[entry]), entry in self._credible

    def _is_free(self, end: _End) -> bool:
        """Whether the places at both ends are still open."""
        entry, direction, target = end
        here, there = (self.next, self.previous)[:: 1 if direction == _FORWARD else -1]
        return entry not in here and target not in there

    def _decide(self, end: _End) -> None:
        entry, direction, target = end
        self._connect(*((entry, target) if direction == _FORWARD else (target, entry)))

    def gaps(self, main: set[int]) -> list[tuple[int, int]]:
        """The gaps in the list: the entries before and behind, paired by their targets."""
        ends = self.open_ends(main)
        behind = {target: entry for entry, direction, target in ends if direction == _BACK}
        gaps = []
        for entry, direction, target in ends:
            if direction == _FORWARD:
                gaps.append((entry, behind.pop(target, 0)))
        return gaps + [(0, entry) for entry in behind.values()]

    def wrong(self) -> set[int]:
        """Entries whose own links differ from the decision."""
        return {
            entry
            for entry, (forward, back) in self.links.items()
            if self.next.get(entry, forward) != forward or self.previous.get(entry, back) != back
        }


def _lost_parts(chain: _Chain, main: set[int], credible: Collection[int]) -> Iterator[set[int]]:
    """Parts that lost or altered memory separates from the rest of the list.

    Their ends lead to places without an entry, and so do ends of the list. An object that was
    unlinked points to itself, to its old neighbours, which are in the list, or to null: so a single
    object with null links does not count as a part.
    """

    def is_dead(end: _End) -> bool:
        return end[2] not in chain.links

    if not any(map(is_dead, chain.open_ends(main))):
        return
    for part in chain.parts():
        ends = chain.open_ends(part)
        sure = sum(entry in credible for entry in part)
        if (
            not part & main
            and ends
            and all(map(is_dead, ends))
            and (len(part) > 1 or any(target > 0 for *_, target in ends))
            and 2 * sure >= len(part)
        ):
            yield part
