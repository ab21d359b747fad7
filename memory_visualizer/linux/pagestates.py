"""A Linux kernel's records of each page frame: its array of `struct page`.

VMCOREINFO or BTF tell the offsets of its members and the numbers of the flags. The kernel's
encoding of a page's type changed twice, and the value by which VMCOREINFO names pages of the buddy
allocator tells the encoding (include/linux/page-flags.h of the kernel):

- up to 4.17 a negative `_mapcount` of a few fixed values;
- up to 6.11 `page_type`, in the same place, in which the bit of a type is cleared;
- since then a number in the upper eight bits of `page_type`.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct, mark_runs
from memory_visualizer.formats.base import ahead, numbers_in
from memory_visualizer.linux.page_types import NO_TYPE, Marks, Numbers
from memory_visualizer.linux.resources import without_memory
from memory_visualizer.linux.struct_page import MAX_ORDER, StructPages
from memory_visualizer.paging import frames_there
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.pagemap import PageState
from memory_visualizer.units import PAGE_SIZE

_ANONYMOUS, _MAPPING_KIND = 1, 3
"""In `mapping`: the lower bits tell the kind of its target (PAGE_MAPPING_ANON)."""
_FRAMES_AT_ONCE = 1 << 17
_PAGES_AT_ONCE = 1 << 10
_FRAMES_OF_CACHE_AT_ONCE = 1 << 15
_SMALLEST_HUGE = 16
"""Pages of the smallest huge page (ARM's contiguous entries); a huge page begins at a multiple."""
_BARE = 0xFF
"""In place of a state that is not known yet: count, flags and type show no use."""
_Value = TypeVar("_Value", bound=np.generic)
_NO_TABLES = (
    PageState.SLAB,
    PageState.FREE,
    PageState.HUGE_PAGE,
    PageState.ANONYMOUS,
    PageState.FILE_CACHE,
    PageState.SHARED_MEMORY,
)


@dataclass(frozen=True, eq=False)
class PageStates:
    """The state of each frame, and further facts."""

    states: NDArray[np.uint8]
    """PageState by PFN."""
    swap_cache: Marks
    """Anonymous pages that are also in the swap cache."""
    remarks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """The struct pages of one section, as read."""

    states: NDArray[np.uint8]
    """PageState, or _BARE; tails do not have the state of their heads yet."""
    swap_cache: Marks
    types: Numbers
    """`page_type` or `_mapcount` of pages that are no tail of another."""
    tail: NDArray[np.int64]
    """Frames that belong to the one with the same place in `head`."""
    head: NDArray[np.int64]
    linked: NDArray[np.int64]
    """Frames whose state is _BARE, and that are in a list."""


@dataclass(frozen=True, eq=False)
class Survey:
    """The result of the struct pages alone, before it is known which pages are tables."""

    array: "PageArray"
    states: NDArray[np.uint8]
    """PageState by the kernel's PFN, or _BARE; page tables and image are not told apart yet."""
    swap_cache: Marks
    types: Numbers
    """`page_type` or `_mapcount` of pages that are no tail of another."""
    tail: NDArray[np.int64]
    """Frames that belong to the one with the same place in `head`."""
    head: NDArray[np.int64]
    linked: NDArray[np.int64]
    """Frames whose state is _BARE, and that are in a list."""

    @property
    def no_tables(self) -> Marks:
        """For each frame, whether its state rules out a page table."""
        return self.array._by_frame(np.isin(self.states, _NO_TABLES))


@dataclass(frozen=True, eq=False)
class CachedPages:
    """Frames of the page cache, a row for each."""

    frame: NDArray[np.int64]
    mapping: NDArray[np.uint64]
    """Address of the address_space that it is a page of."""
    offset: NDArray[np.int64]
    """Bytes from the beginning of that to the frame."""

    def with_more(self, others: "CachedPages") -> "CachedPages":
        """These and others."""
        return CachedPages(
            np.concatenate((self.frame, others.frame)),
            np.concatenate((self.mapping, others.mapping)),
            np.concatenate((self.offset, others.offset)),
        )


class PageArray(StructPages):
    """The kernel's array of `struct page`, which tells the state of each frame."""

    def cached(self, frames: NDArray[np.int64]) -> CachedPages:
        """The pages of the page cache among these frames.

        The first page of a large folio tells for all of its pages.
        """
        found = [self._cached(part) for part in _in_parts(frames, _FRAMES_OF_CACHE_AT_ONCE)]
        columns = zip(*((part.frame, part.mapping, part.offset) for part in found), strict=True)
        frame, mapping, offset = (np.concatenate(parts) for parts in columns)
        return CachedPages(frame, mapping, offset)

    def _cached(self, frames: NDArray[np.int64]) -> CachedPages:
        layout = self._layout
        pages, row = np.unique(frames // self.page_frames, return_inverse=True)
        base = self._arrays[pages // self._section_frames]
        own = base + (pages * layout.size).astype(np.uint64)
        raw, _ = self._kernel.read_each(own, layout.size)
        numbers = raw.view("<u4")
        compound = self._column(numbers, layout.head)
        is_tail = compound & np.uint64(1) != 0
        head = np.where(is_tail, _head_address(own, compound), own)
        again, _ = self._kernel.read_each(head[is_tail], layout.size)
        numbers[is_tail] = again.view("<u4")
        behind = (own - head) // np.uint64(layout.size)
        mapping = self._column(numbers, layout.mapping)
        # `index` stands directly behind `mapping` since 3.0 (include/linux/mm_types.h).
        index = self._column(numbers, layout.mapping + self._word) + behind
        is_file = (mapping & np.uint64(_MAPPING_KIND) == 0) & (
            mapping >= np.uint64(self._kernel.upper)
        )
        is_file &= (index < np.uint64(1 << 51)) & (behind < np.uint64(1 << MAX_ORDER))
        inside = frames % self.page_frames * PAGE_SIZE
        offset = index.view(np.int64)[row] * self._page_bytes + inside
        chosen = is_file[row]
        return CachedPages(frames[chosen], mapping[row][chosen], offset[chosen])

    def cached_huge(self, frames: NDArray[np.int64]) -> CachedPages:
        """The pages of hugetlbfs among these frames of huge pages: memfd, SYSV and mounted files.

        A huge page's first struct page tells. Until 6.6 `index` counts huge pages, and later pages
        of the usual size, in multiples of the huge page's size: the majority decides which it is.
        """
        pages = distinct(frames // self.page_frames)
        heads, count = self._huge_heads(pages[pages % _SMALLEST_HUGE == 0])
        layout = self._layout
        base = self._arrays[heads // self._section_frames]
        raw, _ = self._kernel.read_each(base + (heads * layout.size).astype(np.uint64), layout.size)
        numbers = raw.view("<u4")
        mapping = self._column(numbers, layout.mapping)
        index = self._column(numbers, layout.mapping + self._word)
        is_file = mapping & np.uint64(_MAPPING_KIND) == 0
        is_file &= (mapping >= np.uint64(self._kernel.upper)) & (index < np.uint64(1 << 32))
        heads, count, mapping = heads[is_file], count[is_file], mapping[is_file]
        first = index[is_file].astype(np.int64)
        whole = np.count_nonzero(first[first > 0] % count[first > 0] == 0)
        if 2 * whole < np.count_nonzero(first):
            first *= count
        behind = numbers_in(np.stack((np.zeros_like(count), count * self.page_frames), axis=1))
        row = np.repeat(np.arange(len(heads)), count * self.page_frames)
        frame = heads[row] * self.page_frames + behind
        offset = first[row] * self._page_bytes + behind * PAGE_SIZE
        given = np.isin(frame, frames)
        return CachedPages(frame[given], mapping[row][given], offset[given])

    def _huge_heads(self, pages: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first page of the huge page around each of these pages, and its number of pages.

        `pages` are multiples of _SMALLEST_HUGE. A later struct page may be the first one, mapped
        again (HVO), so the struct page behind each tells.
        """
        layout = self._layout
        base = self._arrays[pages // self._section_frames]
        behind = base + ((pages + 1) * layout.size).astype(np.uint64)
        raw, _ = self._kernel.read_each(behind, layout.size)
        compound = self._column(raw.view("<u4"), layout.head)
        inside = (_head_address(behind, compound) - base).view(np.int64)
        head = inside // layout.size
        sound = (compound & np.uint64(1) != 0) & (inside % layout.size == 0)
        sound &= (head >= 0) & (head <= pages) & (pages - head < 1 << MAX_ORDER)
        heads, count = np.unique(head[sound], return_counts=True)
        return heads, count * _SMALLEST_HUGE

    def listed(self, head: int, limit: int) -> tuple[list[int], bool]:
        """Frames of the pages in a list by their `lru`, in its order; and whether these are all.

        At most `limit` pages are followed, from both ends if the list is broken.
        """
        listed, is_whole, is_all = self._followed(head, limit, 0)
        if not is_whole and is_all:
            others, _, is_all = self._followed(head, limit - len(listed), 1)
            known = set(listed)
            listed += [frame for frame in others[::-1] if frame not in known]
        return listed, is_all

    def _followed(self, head: int, limit: int, direction: int) -> tuple[list[int], bool, bool]:
        """Frames in a list in one direction; whether it is a ring; whether all were followed."""
        layout, frames = self._layout, self._section_frames
        present = np.flatnonzero(self._arrays)
        begin = self._arrays[present] + (present * (frames * layout.size)).astype(np.uint64)
        order = np.argsort(begin)
        present, begins = present[order].tolist(), begin[order].tolist()
        count, links, size = self._page_count, layout.links, layout.size
        listed: list[int] = []
        at, seen = self._kernel.number(head + direction * self._word), {head}
        while at and at not in seen:
            if len(seen) > limit:
                return listed, False, False
            seen.add(at)
            row = bisect_right(begins, at - links) - 1
            if row >= 0:
                inside, rest = divmod(at - links - begins[row], size)
                frame = present[row] * frames + inside
                if not rest and inside < frames and frame < count:
                    listed.append(frame * self.page_frames)
            at = self._kernel.number(at + direction * self._word)
        return listed, at == head, True

    def words(
        self, frames: NDArray[np.int64], place: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """A word of the `struct page` of each frame, 0 where unreadable; and where readable."""
        pages = frames // self.page_frames
        base = self._arrays[pages // self._section_frames]
        offset = (pages * self._layout.size + place).astype(np.uint64)
        words, known = self._kernel.numbers(base + offset)
        known &= base != 0
        words[~known] = 0
        return words, known

    def in_same_cache(
        self, frames: NDArray[np.int64], survey: "Survey"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The slabs that contain objects in these frames, and all slabs of the same cache.

        Both are given by their first frames; the former for each of `frames`. The word of a slab's
        struct page that most slabs share leads to the cache.
        """
        first = np.arange(self._page_count)
        first[survey.tail] = survey.head
        frames = frames // self.page_frames
        slabs = np.flatnonzero((survey.states == PageState.SLAB) & (first == np.arange(len(first))))
        own = first[np.clip(frames, 0, len(first) - 1)]
        own = own[survey.states[own] == PageState.SLAB]
        if not len(own):
            return first[frames] * self.page_frames, own
        best, same = 0.0, np.empty(0, np.int64)
        distinct = np.unique(own)
        for place in range(self._word, self._layout.size, self._word):
            words, _ = self.words(distinct * self.page_frames, place)
            values, count = np.unique(words, return_counts=True)
            value, share = values[np.argmax(count)], count.max() / len(words)
            # The links of a page outside of all lists are poison, which leads nowhere.
            if (
                share > best
                and value >= np.uint64(self._kernel.upper)
                and self._kernel.frame(int(value)) >= 0
            ):
                of_all, _ = self.words(slabs * self.page_frames, place)
                best, same = share, slabs[of_all == value]
        same = same if best > 1 / 2 else np.empty(0, np.int64)
        return first[frames] * self.page_frames, same * self.page_frames

    def are_counted(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these frames have a reference count above 0."""
        words, _ = self.words(frames, self._layout.count // self._word * self._word)
        shift = np.uint64(self._layout.count % self._word * 8)
        counted: NDArray[np.bool_] = words >> shift & np.uint64(0xFFFF_FFFF) != 0
        return counted

    def survey(self) -> "Survey":
        """Read all struct pages."""
        count = self._page_count
        states = np.full(count, PageState.ABSENT, np.uint8)
        swap_cache = np.zeros(count, bool)
        types = np.full(count, NO_TYPE, np.uint32)
        batches: list[_Part] = []

        def scan(stretch: tuple[int, int]) -> None:
            first, end = stretch
            part = self._part(first, end - first)
            states[first:end] = part.states
            swap_cache[first:end] = part.swap_cache
            types[first:end] = part.types
            batches.append(part)

        for _ in ahead(scan, self._stretches()):
            pass
        # A tail takes the state of its head, which may lie in another section.
        tail, head = (
            _joined([part.tail for part in batches]),
            _joined([part.head for part in batches]),
        )
        inside = (head >= 0) & (head < count)
        tail, head = tail[inside], head[inside]
        states[tail], swap_cache[tail] = states[head], swap_cache[head]
        linked = _joined([part.linked for part in batches])
        return Survey(self, states, swap_cache, types, tail, head, linked)

    def finish(
        self,
        survey: "Survey",
        image: NDArray[np.int64],
        is_ram: Marks | None,
        tables: Marks,
        leaf_tables: Marks,
    ) -> PageStates:
        """Determine the state of each frame.

        `image` are the frames of the kernel's image; `is_ram` tells for each frame whether it is
        RAM (None: unknown), `tables` whether it is known to be a page table, `leaf_tables` whether
        it is one of the lowest level of a process.
        """
        states = survey.states.copy()
        inner = image[(image >= 0) & (image < self._page_count * self.page_frames)]
        inner = np.unique(inner // self.page_frames) if self.page_frames > 1 else inner
        is_table, is_leaf = self._by_page(tables), self._by_page(leaf_tables)
        states[inner[states[inner] == PageState.RESERVED]] = PageState.KERNEL_IMAGE
        self._mark_tables(states, survey.types, is_table, is_leaf)
        # Under page-table isolation the second half of a top table is a tail (6.18 and later).
        of_table = states[survey.head] == PageState.PAGE_TABLE
        of_table &= states[survey.tail] == PageState.KERNEL_OTHER
        states[survey.tail[of_table]] = PageState.PAGE_TABLE
        self._mark_bare(states, survey.linked)
        states, swap_cache = self._by_frame(states), self._by_frame(survey.swap_cache)
        remarks = []
        if is_ram is not None:
            is_device = without_memory(states, is_ram)
            states[is_device] = PageState.ABSENT
            if wrong := np.count_nonzero(~is_ram & ~is_device):
                remarks.append(
                    f"{counted(int(wrong), 'page')} of memory, by the kernel's records (struct"
                    " page), in places where its map of resources has none: the map is damaged"
                )
        states[~frames_there(self._memory)] = PageState.ABSENT
        if unknown := np.count_nonzero(states == PageState.UNKNOWN):
            remarks.append(
                "the dump lacks the kernel's records (struct page) of"
                f" {counted(int(unknown), 'page')}: such a page counts as used only where it is"
                " mapped"
            )
        if not self._flags.slab and self._slab is None:
            remarks.append(
                "this kernel does not tell which pages are slab; they count as kernel other"
            )
        return PageStates(states, swap_cache, tuple(remarks))

    def _by_page(self, marks: Marks) -> Marks:
        """Which of the kernel's pages have a marked frame."""
        frames = self._page_count * self.page_frames
        if self.page_frames == 1:
            return marks[:frames]
        grouped = np.pad(marks[:frames], (0, max(frames - len(marks), 0)))
        grouped = grouped.reshape(-1, self.page_frames)
        found: Marks = np.logical_or.reduce(grouped, axis=1)
        return found

    def _by_frame(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """Values of pages, for each of their frames; 0 for frames without a struct page."""
        count = self._memory.frame_count
        if self.page_frames == 1 and len(values) == count:
            return values
        found = np.repeat(values, self.page_frames)[:count]
        return np.pad(found, (0, count - len(found)))

    def _mark_bare(self, states: NDArray[np.uint8], listed: NDArray[np.int64]) -> None:
        """Tell bare pages on lists of free pages from later pages of an allocation.

        A block that was allocated together, but not as a compound page, has its count in the first
        page only. A block on a processor's list of free pages is linked by its first page only. So
        a bare page that is not linked has the state of the first page of its block.
        """
        # The state is tested again, since bare pages may have tails in a damaged dump.
        bare = np.flatnonzero(states == _BARE)
        linked = bare[np.isin(bare, listed)]
        states[linked] = PageState.FREE
        rest = bare[states[bare] == _BARE]
        if not len(rest):
            return
        begins = np.flatnonzero(np.diff(rest, prepend=-2) != 1)
        leader = np.repeat(rest[begins] - 1, np.diff(begins, append=len(rest)))
        # Blocks are aligned to their size.
        together = (leader > 0) & (rest - leader < (leader & -leader))
        state = states[np.maximum(leader, 0)]
        together &= np.isin(leader, linked) | (state == PageState.PAGE_TABLE)
        states[rest] = np.where(together, state, PageState.KERNEL_OTHER)

    def _mark_tables(
        self, states: NDArray[np.uint8], types: Numbers, tables: Marks, leaf_tables: Marks
    ) -> None:
        """Mark page tables: frames that the walk met, and frames with the type of page tables."""
        states[tables & (states == PageState.KERNEL_OTHER)] = PageState.PAGE_TABLE
        value = None
        if self._btf and (number := self._btf.enumerator("PGTY_table")) is not None:
            value = number << 24
        else:
            # The kernel does not tell the number of this type, but the tables that were met have
            # it.
            met = types[leaf_tables & (states == PageState.PAGE_TABLE)]
            met = met[self.types.any(met)]
            if len(met):
                values, count = np.unique(met, return_counts=True)
                value = int(values[np.argmax(count)])
        if value is not None:
            others = np.flatnonzero(states == PageState.KERNEL_OTHER)
            others = others[self.types.any(types[others]) & self.types.are(types[others], value)]
            states[others] = PageState.PAGE_TABLE

    def _part(self, first: int, count: int) -> _Part:
        """Read the struct pages of some frames of one section."""
        base = int(self._arrays[first // self._section_frames])
        layout, flag = self._layout, self._flags
        rows, known, missing = self._rows((base + first * layout.size) % 2**64, count)
        flags = self._column(rows, layout.flags)
        # Debugging kernels fill records that they have not made yet with ones.
        unmade = flags == (1 << 8 * self._word) - 1
        known, missing = known & ~unmade, missing | unmade
        mapping = self._column(rows, layout.mapping)
        compound = self._column(rows, layout.head)
        numbers = rows
        uses = numbers[:, layout.count // 4]
        types = np.ascontiguousarray(numbers[:, layout.type // 4])

        def has(mask: int) -> Marks:
            marks: Marks = flags & np.uint64(mask) != 0
            return marks

        # A huge page's later struct pages may be its first struct pages, mapped again (HVO): these
        # have the flag of a head, but the tail behind belongs to another head.
        is_tail = has(flag.tail) if flag.tail else compound & np.uint64(1) != 0
        named = compound.copy()
        [apparent] = np.nonzero(has(flag.head) & ~is_tail & (flag.tail == 0))
        apparent = apparent[apparent + 1 < count]
        follower = compound[apparent + 1]
        named[apparent] = follower
        own = np.uint64(base) + (apparent + first).astype(np.uint64) * np.uint64(layout.size)
        again = (follower & np.uint64(1) != 0) & (_head_address(own, follower) != own)
        is_tail[apparent[again]] = True
        is_tail &= known
        [tail] = np.nonzero(is_tail)
        addresses = np.uint64(base) + (tail + first).astype(np.uint64) * np.uint64(layout.size)
        offset = (_head_address(addresses, named[tail]) - np.uint64(base)).view(np.int64)
        head = np.where(offset % layout.size == 0, offset // layout.size, -1)

        kinds = self.types
        typed = kinds.any(types) & ~has(flag.slab)
        slab = has(flag.slab)
        if self._slab is not None:
            slab |= typed & kinds.are(types, self._slab)
        huge = self._huge(rows, has(flag.head), typed, types)
        buddy = typed & kinds.are(types, kinds.of_buddy) | has(flag.buddy)
        buddy &= known & ~is_tail
        bare = ~typed & (uses == 0) & (flags & np.uint64(flag.all) == 0) & ~is_tail
        free = self._in_free_blocks(first, rows, buddy, bare)
        anonymous = mapping & np.uint64(_MAPPING_KIND) == _ANONYMOUS
        anonymous |= mapping & np.uint64(_MAPPING_KIND) == _MAPPING_KIND  # merged by KSM
        # A page of perf's ring has a mapping as well, but is not on the LRU, and has no flag.
        cache = (mapping != 0) & (mapping & np.uint64(_MAPPING_KIND) == 0) & has(flag.all)
        cache |= has(flag.lru)
        swap_backed = has(flag.swap_backed)
        conditions: list[tuple[Marks, int]] = [
            (~known, PageState.ABSENT),
            (slab, PageState.SLAB),
            (huge, PageState.HUGE_PAGE),
            (has(flag.reserved), PageState.RESERVED),
            (free, PageState.FREE),
            (bare, _BARE),
            (typed, PageState.KERNEL_OTHER),
            (anonymous, PageState.ANONYMOUS),
            (cache & swap_backed, PageState.SHARED_MEMORY),
            (cache, PageState.FILE_CACHE),
        ]
        states = np.full(count, PageState.KERNEL_OTHER, np.uint8)
        for marks, state in reversed(conditions):
            states[marks] = state
        states[missing] = PageState.UNKNOWN
        swap_cache = anonymous & has(flag.swap_cache) & swap_backed & known
        types[is_tail | ~known | slab] = NO_TYPE
        [bare_rows] = np.nonzero(states == _BARE)
        return _Part(
            states,
            swap_cache,
            types,
            tail + first,
            head,
            bare_rows[self._is_listed(base, first, rows, bare_rows)] + first,
        )

    def _in_free_blocks(self, first: int, rows: Numbers, buddy: Marks, bare: Marks) -> Marks:
        """Which pages lie in the blocks that begin with these pages of the buddy allocator.

        `first` is the number of the first row's page. A block is aligned to its size, and no page
        in it is in use (`bare`). So a wrong order costs at most its own block.
        """
        [begin] = np.nonzero(buddy)
        order = self._column(rows[begin], self._layout.private)
        believable = order < MAX_ORDER
        begin, order = begin[believable], order[believable]
        pages = np.int64(1) << order.astype(np.int64)
        inside = np.minimum(pages, len(rows) - begin)
        unused = np.append(0, np.cumsum(bare))
        fits = (begin + first) % pages == 0
        # The first page has a type, and is not bare.
        fits &= 2 * (unused[begin + inside] - unused[begin] + 1) > inside
        free = buddy.copy()
        mark_runs(free, begin[fits], inside[fits])
        return free & (bare | buddy)

    def _is_listed(self, base: int, first: int, rows: Numbers, chosen: NDArray[np.int64]) -> Marks:
        """Which of these rows are in a list: the targets of their links link back."""
        layout = self._layout
        links = (chosen + first).astype(np.uint64) * np.uint64(layout.size)
        links += np.uint64(base + layout.links)
        following = self._column(rows[chosen], layout.links)
        upper = np.uint64(self._kernel.upper)
        maybe = np.flatnonzero((following != links) & (following >= upper))
        back = following[maybe] + np.uint64(self._word)
        frames = self._kernel.frames(back)
        inside = (frames >= 0) & (back % np.uint64(self._word) == 0)
        maybe, back, frames = maybe[inside], back[inside], frames[inside]
        pages, row = np.unique(frames, return_inverse=True)
        place = (back % np.uint64(PAGE_SIZE)).astype(np.int64) // self._word
        linked = np.zeros(len(maybe), np.uint64)
        budget = self._memory.budget
        pages = budget.take("page of lists", pages)
        for start in range(0, len(pages), _PAGES_AT_ONCE):
            contents = self._memory.read_frames(pages[start : start + _PAGES_AT_ONCE])
            contents = self._kernel.words(contents.view(np.uint8))
            read = np.flatnonzero((row >= start) & (row < start + len(contents)))
            linked[read] = contents[row[read] - start, place[read]]
        listed = np.zeros(len(chosen), bool)
        listed[maybe] = linked == links[maybe]
        return listed

    def _huge(self, rows: Numbers, heads: Marks, typed: Marks, types: Numbers) -> Marks:
        """Which pages are heads of huge pages."""
        layout = self._layout
        if self._hugetlb is not None:
            return typed & self.types.are(types, self._hugetlb)
        huge = np.zeros(len(rows), bool)
        [head] = np.nonzero(heads[:-1])
        if self._flags.huge:
            flags = self._column(rows[head + 1], layout.flags)
            huge[head] = flags & np.uint64(self._flags.huge) != 0
            return huge
        if self._destructor is not None and layout.destructor is not None:
            huge[head] = rows.view(np.uint8)[head + 1, layout.destructor] == self._destructor
        return huge


def _head_address(own: NDArray[np.uint64], compound: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Addresses of the heads' struct pages, from the tails' addresses and `compound_head`.

    `compound_head` is a pointer with the lowest bit set, or in the newest kernels a mask for the
    tail's own address: all bits above some bit, unlike any pointer.
    """
    value = compound & ~np.uint64(1)
    lowest = (~value + np.uint64(1)) & value
    is_mask = (value != 0) & (value + lowest == 0)
    return np.where(is_mask, own & value, value)


def _in_parts(frames: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Some frames in parts of a size, one part at least."""
    return [frames[at : at + size] for at in range(0, max(len(frames), 1), size)]


def _joined(batches: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *batches])
