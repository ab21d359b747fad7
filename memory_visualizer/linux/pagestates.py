"""A Linux kernel's records of each page frame: its array of `struct page`.

Where in it a member stands, and what a flag's number is, is told by VMCOREINFO, else by BTF. Three
ways of saying a page's type followed one another, and the value by which VMCOREINFO names pages of
the buddy allocator tells which it is (include/linux/page-flags.h of the kernel):

- up to 4.17 a negative `_mapcount` of a few fixed values;
- up to 6.11 `page_type`, in the same place, in which the bit of a type is cleared;
- since then a number in the upper eight bits of `page_type`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import mark_runs
from memory_visualizer.errors import UntoldError
from memory_visualizer.formats.base import ahead
from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from memory_visualizer.paging import PhysicalMemory, frames_there
from memory_visualizer.paging.virtualmemory import VirtualMemory
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.pagemap import PageState
from memory_visualizer.units import PAGE_SIZE

_HAS_ARRAY = 2
"""In section_mem_map: SECTION_HAS_MEM_MAP."""
_MAP_FLAGS = 0xFFF
"""Bits of section_mem_map that may be flags; an array begins at a page, whatever the version."""
_ANONYMOUS, _MAPPING_KIND = 1, 3
"""In `mapping`: the lower bits tell what it points to (PAGE_MAPPING_ANON)."""
_ALWAYS_FLAGS = (1 << 18) - 1
"""Bits of `flags` that are flags in every version; higher ones may be a zone, a node or a time."""
_FRAMES_AT_ONCE = 1 << 17
_MAX_STRUCT_PAGE = 256
_SECTION_BITS = range(24, 41)
"""On x86-64 it is 27."""
_PAGES_AT_ONCE = 1 << 10
_MAX_ORDER = 20
_BARE = 0xFF
"""In the place of a state, until it is known: in use by its count, flags and type by nobody."""
_NO_TYPE = 0xFFFF_FFFF
_TYPE_BYTE = 0xFF00_0000

_USUAL_SIZE, _USUAL_SECTION_BITS = 64, 27
_SECTION_SIZES = (32, 16)
"""Of struct mem_section, with and without what CONFIG_PAGE_EXTENSION adds."""
_MEMBERS: dict[tuple[str, ...], int] = {
    ("flags",): 0,
    ("_refcount", "_count"): 52,
    ("_mapcount",): 48,
    ("mapping",): 24,
    ("compound_head", "compound_info"): 8,
    ("lru",): 8,
    ("private",): 40,
}
"""Members of struct page, by all their names, and where they stand if it has 64 bytes.

So it is on x86-64 in all versions from 4.18 on (include/linux/mm_types.h): one more witness."""
_OLD_MEMBERS = {
    8: {"flags": 0, "_refcount": 8, "_mapcount": 12, "mapping": 24, "lru": 40, "private": 16},
    28: {"flags": 0, "_refcount": 28, "_mapcount": 24, "mapping": 8, "lru": 32, "private": 48},
}
"""Likewise up to 3.0 and from then on, whatever the size, by where `_count` is told to stand."""
_COUNTS = ("_refcount", "_mapcount")
_NEAR = (~0x80 & _NO_TYPE, -128 & _NO_TYPE)
"""The oldest values for free blocks, which differ by one."""
_BUDDIES = (0xF0 << 24, ~0x4000_0000 & _NO_TYPE, *_NEAR)
"""How free blocks are marked: since 6.12, in 6.11, from 4.18 on, before."""

_Numbers = NDArray[np.uint32]
_Marks = NDArray[np.bool_]
_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True)
class PageTypes:
    """How this kernel says the type of a page that is no user's."""

    of_buddy: int
    """The value that pages of the buddy allocator have, as 32 bits; 0 where they have a flag."""

    @property
    def _is_number(self) -> bool:
        return self.of_buddy & ~_TYPE_BYTE == 0

    @property
    def _base(self) -> int:
        """Bits that are set in every type made of bits; 0 where types are values."""
        bit = ~self.of_buddy & _NO_TYPE
        if self._is_number or bit & (bit - 1):
            return 0
        return 0x8000_0000 if bit >= 1 << 23 else 0xF000_0000

    def any(self, types: _Numbers) -> _Marks:
        """Which pages have a type."""
        # As signed numbers, types lie below all counts of mappings, and -1 is none.
        limit = _TYPE_BYTE if self._is_number else _NO_TYPE
        typed: _Marks = (types >= np.uint32(0x8000_0000)) & (types < np.uint32(limit))
        return typed

    def are(self, types: _Numbers, value: int) -> _Marks:
        """Which pages have the type that VMCOREINFO names by this value."""
        value &= _NO_TYPE
        if self._is_number:
            same: _Marks = types & np.uint32(_TYPE_BYTE) == value
        elif self._base:
            bits = np.uint32(self._base | (~value & _NO_TYPE))
            same = types & bits == self._base
        else:
            same = types == value
        return same


@dataclass(frozen=True)
class _Layout:
    """What stands where in this kernel's `struct page`."""

    size: int
    flags: int
    count: int
    type: int
    mapping: int
    head: int
    """`compound_head`; before 4.3 `first_page`, in the place of `private`."""
    links: int
    """`lru`, by which free pages are listed as well."""
    private: int
    """In a free block's first page its order."""
    destructor: int | None
    """Of a compound page's second `struct page`."""


@dataclass(frozen=True)
class _Flags:
    """Masks of page flags; 0 where this kernel has none, or does not tell."""

    head: int
    slab: int
    reserved: int
    lru: int
    swap_backed: int
    swap_cache: int
    huge: int
    """In a compound page's second `flags` (6.6 to 6.8)."""
    tail: int
    """Of a compound page's later pages; 0 since 4.3, where what leads to the first one tells."""
    buddy: int
    """Of the first page of a free block, before 2.6.38."""
    all: int


@dataclass(frozen=True, eq=False)
class PageStates:
    """The state of each frame, and what goes beyond it."""

    states: NDArray[np.uint8]
    """PageState by PFN."""
    swap_cache: _Marks
    """Anonymous pages that the swap cache has as well."""
    remarks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """What was read of one section's frames."""

    states: NDArray[np.uint8]
    """PageState, or _BARE; of tails what their heads are is not known yet."""
    swap_cache: _Marks
    types: _Numbers
    """`page_type` or `_mapcount` of pages that are no tail of another."""
    tail: NDArray[np.int64]
    """Frames that belong to the one with the same place in `head`."""
    head: NDArray[np.int64]
    linked: NDArray[np.int64]
    """Frames whose state is _BARE, and that are in a list."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What the struct pages say by themselves, before it is known which pages are tables."""

    array: "PageArray"
    states: NDArray[np.uint8]
    """PageState by the kernel's PFN, or _BARE; of page tables and its image not yet that."""
    swap_cache: _Marks
    types: _Numbers
    """`page_type` or `_mapcount` of pages that are no tail of another."""
    tail: NDArray[np.int64]
    """Frames that belong to the one with the same place in `head`."""
    head: NDArray[np.int64]
    linked: NDArray[np.int64]
    """Frames whose state is _BARE, and that are in a list."""

    @property
    def no_tables(self) -> _Marks:
        """For each frame whether it is in a use in which no page table is."""
        return self.array._by_frame(np.isin(self.states, _NO_TABLES))


_NO_TABLES = (
    PageState.SLAB,
    PageState.FREE,
    PageState.HUGE_PAGE,
    PageState.ANONYMOUS,
    PageState.FILE_CACHE,
    PageState.SHARED_MEMORY,
)


def _is_size(size: int) -> bool:
    return size in range(8, _MAX_STRUCT_PAGE + 1, 4)


def _is_bit(number: int) -> bool:
    return 0 <= number < 64


class PageArray:
    """The array of `struct page`, found and ready to be read."""

    def __init__(
        self,
        memory: PhysicalMemory,
        kernel: VirtualMemory,
        info: VmcoreInfo,
        btf: Btf | None,
        symbols: Mapping[str, int] | None = None,
        page_frames: int = 1,
    ) -> None:
        """UntoldError with a sentence where the kernel does not tell enough.

        `page_frames` are the frames of 4 KiB of each page that the kernel counts. Inside, pages are
        numbered as by the kernel; all that is asked and answered is by frames.
        """
        self._memory = memory
        self.page_frames = page_frames
        self._page_count = -(-memory.frame_count // page_frames)
        self._page_bytes = PAGE_SIZE * page_frames
        self._page_bits = self._page_bytes.bit_length() - 1
        self._kernel = kernel
        self._word = kernel.word
        self._info = info
        self._btf = btf
        self._symbols = symbols or {}
        self._layout = self._find_layout()
        self._slab = self._type("PAGE_SLAB_MAPCOUNT_VALUE", "PGTY_slab")
        self._hugetlb = self._type("PAGE_HUGETLB_MAPCOUNT_VALUE", "PGTY_hugetlb")
        self._flags = self._find_flags()
        if not (self._flags.lru or self._flags.head or self._flags.slab):
            raise UntoldError("the kernel does not tell the meaning of its page flags")
        self._section_frames, self._arrays = self._find_arrays()
        self.types = self._find_types()

    def _find_layout(self) -> _Layout:
        count_at = self._elected(
            [*self._info.votes("OFFSET(page._count)")], _OLD_MEMBERS.__contains__
        )
        old = _OLD_MEMBERS.get(-1 if count_at is None else count_at)
        usual_size = None if old or self._word != 8 else _USUAL_SIZE
        sizes = [usual_size, *self._info.votes("SIZE(page)"), self._size("page")]
        size = self._elected(sizes, _is_size)
        if size is None:
            raise UntoldError("the kernel does not tell the size of its struct page")
        places: list[int] = []
        for names, newest in _MEMBERS.items():
            usual = newest if size == _USUAL_SIZE and self._word == 8 else None
            if old:
                usual = old["private"] if names[0] == "compound_head" else old.get(names[0])
            told = [vote for name in names for vote in self._info.votes(f"OFFSET(page.{name})")]
            own = self._btf.offset("page", *names) if self._btf else None
            step = 4 if names[0] in _COUNTS else self._word
            end = size - self._word * (names[0] == "lru")
            place = self._elected(
                [usual, *told, own],
                lambda vote, step=step, end=end: vote in range(0, end, step),  # type: ignore[misc]
            )
            if place is None:
                raise UntoldError(
                    f"the kernel does not tell the offset of {names[0]} in struct page"
                )
            places.append(place)
        destructor = self._info.offset("page.compound_dtor")
        if destructor is None and self._btf:
            destructor = self._btf.offset("page", "compound_dtor")
        flags, count, type_, mapping, head, links, private = places
        return _Layout(
            size,
            flags,
            count,
            type_,
            mapping,
            head,
            links,
            private,
            destructor if destructor in range(size) else None,
        )

    def _size(self, structure: str) -> int | None:
        return self._btf.size(structure) if self._btf else None

    def _elected(self, votes: list[int | None], may_be: Callable[[int], bool]) -> int | None:
        """The value that most tell, of those that may be; of as many the last one's.

        What is usual comes first, then the text, any line of which may be damaged, then BTF.
        """
        likely = [vote for vote in votes if vote is not None and may_be(vote)]
        return max(likely[::-1], key=likely.count) if likely else None

    def _find_flags(self) -> _Flags:
        def mask(name: str) -> int:
            own = self._btf.enumerator(name) if self._btf else None
            number = self._elected([*self._info.votes(f"NUMBER({name})"), own], _is_bit)
            return 1 << number if number is not None else 0

        private = mask("PG_private")
        count = self._btf.enumerator("__NR_PAGEFLAGS") if self._btf else None
        poisoned = mask("PG_hwpoison")
        buddy, swap_cache = mask("PG_buddy"), mask("PG_swapcache")
        # As they follow one another in include/linux/page-flags.h before 4.3, on 64 bits.
        is_old = self._has_tails_flag
        old_slab, old_head, old_tail, old_swap_backed = (
            (mask("PG_lru") << 2, swap_cache >> 2, swap_cache >> 1, buddy << 1 or swap_cache << 3)
            if is_old
            else (0, 0, 0, 0)
        )
        every = (1 << count) - 1 if count and count < 64 else _ALWAYS_FLAGS
        heads = self._info.votes("NUMBER(PG_head_mask)")
        head = self._elected(
            [*heads, mask("PG_head") or old_head or None], lambda vote: bool(vote % 2**64)
        )
        return _Flags(
            head=(head or 0) % 2**64,
            slab=0 if self._slab is not None else mask("PG_slab") or old_slab,
            # In all versions the flag before PG_private, should BTF not name it.
            reserved=(mask("PG_reserved") if self._btf else 0) or private >> 1,
            lru=mask("PG_lru"),
            swap_backed=mask("PG_swapbacked") or old_swap_backed,
            swap_cache=swap_cache,
            huge=mask("PG_hugetlb") if self._hugetlb is None and not self._destructor else 0,
            tail=old_tail,
            buddy=buddy,
            all=every & ~poisoned,
        )

    @property
    def _has_tails_flag(self) -> bool:
        """Whether a flag tells the later pages of compound ones, as before 4.3."""
        info = self._info
        known = [*info.votes("OFFSET(page.compound_head)"), *info.votes("OFFSET(page._refcount)")]
        return self._btf is None and not known and bool(info.votes("OFFSET(page._count)"))

    @property
    def _destructor(self) -> int | None:
        """What the second struct page of a huge page has (up to 6.5)."""
        own = self._btf.enumerator("HUGETLB_PAGE_DTOR") if self._btf else None
        return self._elected([*self._info.votes("NUMBER(HUGETLB_PAGE_DTOR)"), own], bool)

    def _type(self, told: str, named: str) -> int | None:
        """The value of a page's type: by VMCOREINFO, or by BTF, which names it since 6.12."""
        number = self._btf.enumerator(named) if self._btf else None
        own = number << 24 if number is not None and number < 256 else None
        votes = [vote & _NO_TYPE for vote in self._info.votes(f"NUMBER({told})")]
        return self._elected([*votes, own], bool)

    def _find_types(self) -> PageTypes:
        """How free pages are marked: by what is told, if pages are marked so, else by what is."""
        if self._flags.buddy:
            return PageTypes(0)
        told = [vote & _NO_TYPE for vote in self._info.votes("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")]
        if own := self._type("PAGE_BUDDY_MAPCOUNT_VALUE", "PGTY_buddy"):
            told.append(own)
        if len(set(told)) == 1 and told[0] in _BUDDIES and (self._btf or told[0] not in _NEAR):
            return PageTypes(told[0])
        count = self._in_buddy([*told, *_BUDDIES])
        best = max(count, key=lambda value: count[value])
        if not count[best] and not told:
            raise UntoldError("VMCOREINFO does not tell how free pages are marked")
        return PageTypes(best)

    def _in_buddy(self, values: list[int]) -> dict[int, int]:
        """How many pages begin free blocks, if these are marked by each of some values."""
        layout = self._layout
        count = dict.fromkeys(values, 0)
        for first, end in self._stretches():
            base = int(self._arrays[first // self._section_frames])
            rows, _, _ = self._rows((base + first * layout.size) % 2**64, end - first)
            numbers = rows
            types = np.ascontiguousarray(numbers[:, layout.type // 4])
            order = self._column(rows, layout.private)
            frames = np.arange(first, end, dtype=np.uint64)
            aligned = frames & ((np.uint64(1) << np.minimum(order, np.uint64(32))) - np.uint64(1))
            begins = (order < _MAX_ORDER) & (aligned == 0) & (numbers[:, layout.count // 4] == 0)
            for value in values:
                kind = np.uint32(_TYPE_BYTE if value & ~_TYPE_BYTE == 0 else _NO_TYPE)
                count[value] += int(np.count_nonzero(begins & (types & kind == value)))
        return count

    def _find_arrays(self) -> tuple[int, NDArray[np.uint64]]:
        """Frames of a section; and for each, where the `struct page` of frame 0 would be, or 0."""
        info = self._info
        bits = [vote for vote in info.votes("NUMBER(SECTION_SIZE_BITS)") if vote in _SECTION_BITS]
        sizes = [*info.votes("SIZE(mem_section)"), self._size("mem_section"), *_SECTION_SIZES]
        sizes = [size for size in sizes if size in range(8, self._page_bytes + 1, 8)]
        own = self._btf.offset("mem_section", "section_mem_map") if self._btf else None
        member = self._elected(
            [0, *info.votes("OFFSET(mem_section.section_mem_map)"), own],
            lambda vote: vote in range(0, max(_SECTION_SIZES), 8),
        )
        if flat := self._flat_array():
            return flat
        tables = info.symbols("mem_section")
        if "mem_section" in self._symbols:
            tables.append(self._symbols["mem_section"])
        best: tuple[int, int, NDArray[np.uint64]] | None = None
        for place, size in product(dict.fromkeys(tables), dict.fromkeys(filter(None, sizes))):
            for each in dict.fromkeys([*bits, _USUAL_SECTION_BITS]):
                arrays = self._arrays_by_sections(place, size, member or 0, each)
                if arrays is None:
                    continue
                described = int(np.count_nonzero(arrays)) << (each - self._page_bits)
                if best is None or described > 2 * best[0]:
                    best = described, 1 << (each - self._page_bits), arrays
        if best is None and (arrays := self._arrays_in_a_row()) is not None:
            best = 0, 1 << (_USUAL_SECTION_BITS - self._page_bits), arrays
        if best is None:
            raise UntoldError("the kernel does not tell where its struct pages are")
        return best[1], best[2]

    def _arrays_by_sections(
        self, place: int, size: int, member: int, bits: int
    ) -> NDArray[np.uint64] | None:
        """The arrays by the table of sections at an address; None where that is none."""
        kernel = self._kernel
        frames = 1 << (bits - self._page_bits)
        count = -(-self._page_count // frames)
        in_root = self._page_bytes // size
        roots = -(-count // in_root)
        # In 4.15, and by the table of symbols, it is that of a pointer to the table, else of the
        # table itself.
        for table in (place, kernel.number(place)):
            pointers = kernel.read(table, roots * 8) if table else None
            if pointers is None:
                continue
            arrays = np.zeros(roots * in_root, np.uint64)
            for root, address in enumerate(np.frombuffer(pointers, "<u8").tolist()):
                sections = kernel.read(address, in_root * size) if address >> 63 else None
                if sections:
                    words = np.frombuffer(sections, "<u8")[: in_root * (size // 8)]
                    words = words.reshape(in_root, -1)
                    arrays[root * in_root : (root + 1) * in_root] = words[:, member // 8]
            arrays = np.where(arrays & np.uint64(_HAS_ARRAY), arrays & ~np.uint64(_MAP_FLAGS), 0)
            arrays = arrays[:count]
            present = np.flatnonzero(arrays)
            first = present[:1].astype(np.uint64)
            offset = first * np.uint64(frames * self._layout.size)
            if len(present) and (kernel.frames(arrays[present[:1]] + offset) >= 0).all():
                return arrays
        return None

    def _flat_array(self) -> tuple[int, NDArray[np.uint64]] | None:
        """The one array of a kernel that has no sections; told by `mem_map`.

        It is as long as the only node's memory; what lies behind it is something else.
        """
        places = [self._kernel.number(place) for place in self._info.symbols("mem_map")]
        base = next((place for place in places if place), None)
        node, span = self._info.symbol("contig_page_data"), "pglist_data.node_spanned_pages"
        start_at, size_at = self._info.offset("pglist_data.node_start_pfn"), self._info.offset(span)
        if base is None or node is None or start_at is None or size_at is None:
            return None
        start, size = self._kernel.number(node + start_at), self._kernel.number(node + size_at)
        if start is None or size is None:
            return None
        self._page_count = min(self._page_count, start + size)
        frames = 1 << (_USUAL_SECTION_BITS - self._page_bits)
        return frames, np.full(-(-self._page_count // frames), base, np.uint64)

    def _arrays_in_a_row(self) -> NDArray[np.uint64] | None:
        """The arrays where all lie one behind the other, from where the kernel's variable says."""
        variable = self._symbols.get("vmemmap_base")
        base = self._kernel.number(variable) if variable else None
        if base is None or not base >> 63 or base % PAGE_SIZE:
            return None
        frames = 1 << (_USUAL_SECTION_BITS - self._page_bits)
        count = -(-self._page_count // frames)
        begin = np.arange(count, dtype=np.uint64) * np.uint64(frames * self._layout.size)
        mapped = self._kernel.frames(begin + np.uint64(base)) >= 0
        return np.where(mapped, np.uint64(base), np.uint64(0)) if mapped.any() else None

    def listed(self, head: int, limit: int) -> tuple[list[int], bool]:
        """Frames of the pages in a list by their `lru`, in its order; and whether that is all.

        No more than `limit` are followed, from both ends where the list is broken.
        """
        listed, is_whole, is_all = self._followed(head, limit, 0)
        if not is_whole and is_all:
            others, _, is_all = self._followed(head, limit - len(listed), 1)
            listed += [frame for frame in others[::-1] if frame not in set(listed)]
        return listed, is_all

    def _followed(self, head: int, limit: int, direction: int) -> tuple[list[int], bool, bool]:
        """Frames of pages in a list in one direction; whether it came round, and was not cut."""
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
        """A word of the `struct page` of each of these frames, 0 where it cannot be read."""
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
        """The slabs that objects in these frames are in, and all slabs of the same cache.

        Both by their first frames; the former one for each of `frames`. Which word of a slab's
        struct page leads to its cache shows in these: it is the one that most of them have alike.
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
            # The links of a page that is in no list are poison, which leads nowhere.
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
        """Which of these frames somebody holds on to."""
        words, _ = self.words(frames, self._layout.count // self._word * self._word)
        shift = np.uint64(self._layout.count % self._word * 8)
        counted: NDArray[np.bool_] = words >> shift & np.uint64(0xFFFF_FFFF) != 0
        return counted

    def survey(self) -> "Survey":
        """Read all struct pages."""
        count = self._page_count
        states = np.full(count, PageState.ABSENT, np.uint8)
        swap_cache = np.zeros(count, bool)
        types = np.full(count, _NO_TYPE, np.uint32)
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
        # A tail belongs to its head, which may lie in another section.
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
        is_ram: _Marks | None,
        tables: _Marks,
        leaf_tables: _Marks,
    ) -> PageStates:
        """Find the state of each frame.

        `image` are the frames of the kernel's image; `is_ram` tells for each frame whether it is
        RAM (None: nobody knows), `tables` whether it is known to be a page table, `leaf_tables`
        whether it is one of the lowest level of a process.
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
            states[~is_ram] = PageState.ABSENT
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

    def _by_page(self, marks: _Marks) -> _Marks:
        """Which of the kernel's pages have a frame that is marked."""
        frames = self._page_count * self.page_frames
        if self.page_frames == 1:
            return marks[:frames]
        grouped = np.pad(marks[:frames], (0, max(frames - len(marks), 0)))
        grouped = grouped.reshape(-1, self.page_frames)
        found: _Marks = np.logical_or.reduce(grouped, axis=1)
        return found

    def _by_frame(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """What is true of pages, for each of their frames; 0 for those that have no struct page."""
        count = self._memory.frame_count
        if self.page_frames == 1 and len(values) == count:
            return values
        found = np.repeat(values, self.page_frames)[:count]
        return np.pad(found, (0, count - len(found)))

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """First frame, and end, of sections that are read at once: neighbours in one array."""
        at_once = max(1, _FRAMES_AT_ONCE // self._section_frames)
        present = np.flatnonzero(self._arrays)
        apart = (np.diff(present) > 1) | (np.diff(self._arrays[present]) != 0)
        for group in np.split(present, np.flatnonzero(apart) + 1):
            for start in range(0, len(group), at_once):
                part = group[start : start + at_once]
                first = int(part[0]) * self._section_frames
                end = min((int(part[-1]) + 1) * self._section_frames, self._page_count)
                for at in range(first, end, _FRAMES_AT_ONCE):  # larger sections than there are
                    yield at, min(at + _FRAMES_AT_ONCE, end)

    def _mark_bare(self, states: NDArray[np.uint8], listed: NDArray[np.int64]) -> None:
        """Tell bare pages on lists of free pages from those behind the first of an allocation.

        A block of pages that was given out together, but not as a compound page, has its count in
        the first page only. A block on a processor's list of free pages is linked by its first
        page only. So a bare page that is not linked is what the one is that leads its block.
        """
        # By the state, as a damaged dump has tails of bare pages, too.
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
        self, states: NDArray[np.uint8], types: _Numbers, tables: _Marks, leaf_tables: _Marks
    ) -> None:
        """Mark page tables: those that were met, and those that have the type of such."""
        states[tables & (states == PageState.KERNEL_OTHER)] = PageState.PAGE_TABLE
        value = None
        if self._btf and (number := self._btf.enumerator("PGTY_table")) is not None:
            value = number << 24
        else:
            # The kernel does not tell the type's number, but these are of it, if of any.
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
        """Read the struct pages of some frames of one section, which has some."""
        base = int(self._arrays[first // self._section_frames])
        layout, flag = self._layout, self._flags
        rows, known, missing = self._rows((base + first * layout.size) % 2**64, count)
        flags = self._column(rows, layout.flags)
        mapping = self._column(rows, layout.mapping)
        compound = self._column(rows, layout.head)
        numbers = rows
        uses = numbers[:, layout.count // 4]
        types = np.ascontiguousarray(numbers[:, layout.type // 4])

        def has(mask: int) -> _Marks:
            marks: _Marks = flags & np.uint64(mask) != 0
            return marks

        # A huge page's later struct pages may be its first ones, shown again (HVO): with the flag
        # of a head, but behind it a tail that belongs to another.
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
        free = self._in_free_blocks(rows, buddy)
        anonymous = mapping & np.uint64(_MAPPING_KIND) == _ANONYMOUS
        anonymous |= mapping & np.uint64(_MAPPING_KIND) == _MAPPING_KIND  # merged by KSM
        # A page of perf's ring has a mapping as well, but is on no list of such, nor marked.
        cache = (mapping != 0) & (mapping & np.uint64(_MAPPING_KIND) == 0) & has(flag.all)
        cache |= has(flag.lru)
        swap_backed = has(flag.swap_backed)
        conditions: list[tuple[_Marks, int]] = [
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
        types[is_tail | ~known | slab] = _NO_TYPE
        [bare_rows] = np.nonzero(states == _BARE)
        return _Part(
            states,
            swap_cache,
            types,
            tail + first,
            head,
            bare_rows[self._is_listed(base, first, rows, bare_rows)] + first,
        )

    def _in_free_blocks(self, rows: _Numbers, buddy: _Marks) -> _Marks:
        """Which pages are in the blocks that begin with these pages of the buddy allocator."""
        [begin] = np.nonzero(buddy)
        order = self._column(rows[begin], self._layout.private)
        believable = order < _MAX_ORDER
        begin, order = begin[believable], order[believable]
        pages = np.int64(1) << order.astype(np.int64)
        free = buddy.copy()
        mark_runs(free, begin, np.minimum(pages, len(rows) - begin))
        return free

    def _is_listed(
        self, base: int, first: int, rows: _Numbers, chosen: NDArray[np.int64]
    ) -> _Marks:
        """Which of these rows are in a list: what they link to links back."""
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
        pages = budget.take("page of lists", pages, budget.limit("page of lists"))
        for start in range(0, len(pages), _PAGES_AT_ONCE):
            contents = self._memory.read_frames(pages[start : start + _PAGES_AT_ONCE])
            contents = self._kernel.words(contents.view(np.uint8))
            read = np.flatnonzero((row >= start) & (row < start + len(contents)))
            linked[read] = contents[row[read] - start, place[read]]
        listed = np.zeros(len(chosen), bool)
        listed[maybe] = linked == links[maybe]
        return listed

    def _column(self, rows: _Numbers, place: int) -> NDArray[np.uint64]:
        """What stands in rows of struct pages at one place, as large as a pointer."""
        if self._word == 4:
            return rows[:, place // 4].astype(np.uint64)
        return rows.view(np.uint64)[:, place // 8]

    def _rows(self, address: int, count: int) -> tuple[_Numbers, _Marks, _Marks]:
        """Read `count` struct pages: numbers of 32 bits, which are there, and which not held."""
        size = self._layout.size
        first = address // PAGE_SIZE
        last = (address + count * size - 1) // PAGE_SIZE
        pages = np.arange(last + 1 - first, dtype=np.uint64) + np.uint64(first)
        frames = self._kernel.frames(pages * np.uint64(PAGE_SIZE))
        mapped = frames >= 0
        held = mapped & (frames < self._memory.frame_count)
        held[held] = self._memory.held[frames[held]]
        contents = self._memory.read_frames(np.where(held, frames, self._memory.frame_count))
        start = address % PAGE_SIZE
        octets = contents.reshape(-1).view(np.uint8)[start : start + count * size]
        begin = start + np.arange(count) * size
        low, high = begin // PAGE_SIZE, (begin + size - 1) // PAGE_SIZE
        known = held[low] & held[high]
        missing = mapped[low] & mapped[high] & ~known
        return octets.view(np.uint32).reshape(count, -1), known, missing

    def _huge(self, rows: _Numbers, heads: _Marks, typed: _Marks, types: _Numbers) -> _Marks:
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
    """Where the head's `struct page` is, by a tail's own address and its `compound_head`.

    That is a pointer with the lowest bit set, or in the newest kernels a mask for the tail's own
    address: ones down to some bit, as no pointer looks.
    """
    value = compound & ~np.uint64(1)
    lowest = (~value + np.uint64(1)) & value
    is_mask = (value != 0) & (value + lowest == 0)
    return np.where(is_mask, own & value, value)


def _joined(batches: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *batches])
