"""Decide which objects are processes, and which are stale copies or only resemble a process.

The list of active processes is one witness; header, base, pool block, and pid with name are others.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.processlayout import (
    Layout,
    are_pids,
    few_of_each_base,
    have_pool_tag,
    is_pid,
    with_fields,
    with_shadow,
)
from memory_visualizer.windows.processlist import ActiveList, Links, find_list
from memory_visualizer.windows.processobject import Object, ObjectReader
from memory_visualizer.windows.processsearch import (
    BASE_NUMBER,
    PROCESS_OBJECT,
    TABLE_BASE,
    TableBases,
    is_in,
)

_LIST_FACTOR = 2
"""How many entries of the list are read for each possible process: some have ended."""
_RIGHTS = 7
"""How many of the reasons for owning an address space, the first ones, are strong."""
_CLAIMANTS = 8
"""How many listed processes share an address space that they claim with equal right."""
_FEW_CLUES = 2
"""With so many of four clues, an object's links are followed."""
_SURE_CLUES = 3
"""With so many of four clues, an object surely is a process."""


@dataclass(frozen=True)
class Objects:
    """All objects that may be processes, and the list of processes."""

    layout: Layout
    list: ActiveList
    found: dict[int, Object]
    """The objects, by the addresses of their links."""
    followed: Links
    looks: dict[int, bool]
    """Whether the object at each address of links that was met looks like a process."""

    @property
    def links(self) -> dict[int, tuple[int, int]]:
        """The targets of each entry's forward and back link."""
        return self.followed.of

    @classmethod
    def read(
        cls,
        kernel: KernelMemory,
        layout: Layout,
        seeds: NDArray[np.uint64],
        bases: TableBases,
        shadows: dict[int, int],
        in_use: set[int],
        before: "Objects | None" = None,
    ) -> "Objects":
        """Follow the links of the seeds, and read all objects that are found.

        `before` are objects read earlier by the same pids and links: these links are not followed
        again.
        """
        offset, width = layout.links, layout.width
        links, known = (before.followed, before.looks) if before else (None, dict[int, bool]())
        if links is None:
            links = Links(kernel, width, _LIST_FACTOR * kernel.memory.budget.limit("address space"))

        entries = seeds + np.uint64(offset)
        visitors = _clues(kernel, layout, seeds, bases) >= _FEW_CLUES
        known.update(zip(entries.tolist(), visitors.tolist(), strict=True))

        def is_process(entry: int) -> bool:
            if entry not in known:
                known[entry] = _looks_like_process(kernel, layout, entry - offset, bases)
            return known[entry]

        links.follow(entries, is_process)
        active = find_list(links, is_process, ())
        everything = np.array(sorted({*filter(is_process, links.of)}), np.uint64)
        everything = everything - np.uint64(offset)
        linked = np.array(list(active.main | active.proven), np.uint64) - np.uint64(offset)
        is_linked = is_in(everything, np.sort(linked))
        others = everything[~is_linked]
        others = others[_clues(kernel, layout, others, bases) >= _SURE_CLUES]
        voters = np.concatenate((everything[is_linked], others))
        voters = np.sort(
            few_of_each_base(kernel, layout.bits, voters if len(voters) > 1 else seeds)
        )
        layout = with_fields(layout, kernel, voters)
        if shadows:
            layout = with_shadow(layout, kernel, voters, shadows)
        rows = ObjectReader(kernel, layout, bases, shadows, in_use).read(everything)
        found = {one.address + offset: one for one in _each_once(rows, active.main, offset)}
        credible = _credible(found, active)
        return cls(layout, find_list(links, is_process, credible), found, links, known)


def _credible(found: dict[int, Object], active: ActiveList) -> set[int]:
    """Links of objects that surely are processes; only the best object of each base counts.

    The threads of a copy, unlike those of the original, do not lead back to it.
    """
    best: dict[int, int] = {}
    credible = set()
    for entry, one in sorted(
        found.items(),
        key=lambda row: (
            row[1].has_threads is not True,
            row[0] not in active.proven,
            -row[1].clues,
            row[0] not in active.main,
            row[0],
        ),
    ):
        if one.clues < _SURE_CLUES:
            continue
        if one.space is None:
            credible.add(entry)
        else:
            best.setdefault(one.space, entry)
    return credible | set(best.values())


def _clues(
    kernel: KernelMemory, layout: Layout, objects: NDArray[np.uint64], bases: TableBases
) -> NDArray[np.int8]:
    """How many of four clues each object has: header, base, pool block, pid."""
    places = (0, TABLE_BASE[layout.bits], layout.pid)
    (header, base, pids), _ = kernel.members(objects, places, layout.width)
    base &= ~np.uint64(BASE_NUMBER)
    bases.learn(base)
    clues: NDArray[np.int8] = (header & np.uint64(0xFF) == PROCESS_OBJECT).astype(np.int8)
    clues += is_in(base, bases.known)
    clues += have_pool_tag(kernel, objects, layout.tags)
    clues += are_pids(pids)
    return clues


def _looks_like_process(
    kernel: KernelMemory, layout: Layout, address: int, bases: TableBases
) -> bool:
    """Whether the _clues of one object suffice to follow its links; fast for a single object."""
    address %= 2**64
    if address % (2 * layout.width):  # allocations of the pool are aligned so
        return False
    clues = int(kernel.number(address, 1) == PROCESS_OBJECT)
    clues += (
        kernel.number(address + TABLE_BASE[layout.bits], layout.width) or 0
    ) & ~BASE_NUMBER in bases
    clues += is_pid(kernel.number(address + layout.pid, layout.width) or 0)
    if clues == _FEW_CLUES - 1:
        objects = np.array([address], np.uint64)
        clues += bool(have_pool_tag(kernel, objects, layout.tags)[0])
    return clues >= _FEW_CLUES


def _each_once(objects: Iterable[Object], main: set[int], links: int) -> list[Object]:
    """Each object once, even if several addresses lead to it: the address in the list counts."""
    by_place: dict[int, Object] = {}
    for one in objects:
        known = by_place.get(one.physical)
        if known is None or (one.address + links in main and known.address + links not in main):
            by_place[one.physical] = one
    return list(by_place.values())


@dataclass(frozen=True)
class Judged:
    """The verdict: which objects are processes, and which only resemble one."""

    objects: Objects
    processes: list[Object]
    copies: list[Object]
    owners: dict[int, Object]
    """The owner of each address space that an object leads to, by the index of the space."""
    others: dict[int, list[Object]]
    """The other claimants of each address space that listed processes claim with equal right, at
    most _CLAIMANTS with the owner."""
    is_list_known: bool
    """Whether most processes are in a list at all; otherwise no process counts as unlisted."""

    def has_tables(self, one: Object) -> bool:
        """Whether the object owns the address space to which it leads, perhaps among others."""
        if one.space is None:
            return False
        claimants = (self.owners[one.space], *self.others.get(one.space, ()))
        return any(one is claimant for claimant in claimants)

    def is_listed(self, one: Object) -> bool:
        """Whether the object is in the list, or there is no known list."""
        return not self.is_list_known or self._entry(one) in self.objects.list.main

    def _entry(self, one: Object) -> int:
        return one.address + self.objects.layout.links

    def own_links(self, one: Object) -> tuple[int, int]:
        """The targets of the object's own links."""
        return self.objects.links.get(self._entry(one), (0, 0))

    def are_links_wrong(self, one: Object) -> bool:
        """Whether a link of the object leads to an entry that does not lead back, or to nothing."""
        entry = self._entry(one)
        if entry in self.objects.list.wrong or 0 in self.own_links(one):
            return True
        if entry in self.objects.list.main:
            return False
        return any(target not in self.objects.links for target in self.own_links(one))


def judge(objects: Objects, fits: Callable[[Object], bool]) -> Judged:
    """Tell processes from their copies, and from objects that only resemble a process.

    `fits` tells whether the two tables that an object names belong to one process.

    An object that is in no list and leads to no tables is a process if it has not ended and its own
    links or threads lead back to it, as a copy's do not.
    """
    main, offset = objects.list.main, objects.layout.links
    listed, others = [], []
    for entry, one in objects.found.items():
        if entry in main and one.clues >= 2:
            listed.append(one)
        elif entry not in main and one.clues >= _SURE_CLUES:
            others.append(one)
    is_list_known = len(listed) > 1 and 3 * len(listed) >= len(others)

    claims = Counter(one.space for one in (*listed, *others))

    def rank(one: Object) -> tuple[bool, bool, bool, bool, int, bool, bool, int, int]:
        """The sort key: the object with the smallest key is the best owner of an address space."""
        entry = one.address + offset
        return (
            one.pid == 0,
            one.has_threads is False,
            entry not in objects.list.proven,
            entry not in main,
            -one.clues,
            one.has_ended,
            claims[one.space] > 1 and not fits(one),
            one.created or 0,
            one.address,
        )

    owners: dict[int, Object] = {}
    for one in sorted((*listed, *others), key=rank):
        if one.space is not None:
            owners.setdefault(one.space, one)
    with_equal_right: dict[int, list[Object]] = {}
    room = len(owners)  # each claimant costs as much as a process of its own
    for one in sorted(listed, key=rank):
        if one.space is None or one is (first := owners[one.space]):
            continue
        same = with_equal_right.setdefault(one.space, [])
        if room and len(same) < _CLAIMANTS - 1 and rank(one)[:_RIGHTS] == rank(first)[:_RIGHTS]:
            same.append(one)
            room -= 1
    processes, copies = [*listed], []
    pids = {one.pid for one in listed}
    for one in others:
        owner = None if one.space is None else owners[one.space]
        if one.pid == 0 and owner is not one:
            continue  # Idle has System's tables, and is not a process
        is_original = one.address + offset in objects.list.proven or one.has_threads is True
        lacks_tables = owner is None and is_original and not one.has_ended
        if owner is one or (lacks_tables and one.pid not in pids):
            processes.append(one)
        else:
            copies.append(one)
    return Judged(objects, processes, copies, owners, with_equal_right, is_list_known)
