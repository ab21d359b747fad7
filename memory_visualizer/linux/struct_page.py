"""The layout of a kernel's `struct page`, and the place of their array."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import UntoldError
from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.page_types import NO_TYPE, TYPE_BYTE, Marks, Numbers, PageTypes
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from memory_visualizer.paging import PhysicalMemory
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

_HAS_ARRAY = 2
"""In section_mem_map: SECTION_HAS_MEM_MAP."""
_MAP_FLAGS = 0xFFF
"""Bits of section_mem_map that may be flags; in every version an array begins at a page."""
_ALWAYS_FLAGS = (1 << 18) - 1
"""Bits of `flags` that are flags in every version; higher ones may be a zone, a node or a time."""
_FRAMES_AT_ONCE = 1 << 17
_MAX_STRUCT_PAGE = 256
_SECTION_BITS = range(24, 41)
"""On x86-64 it is 27."""
MAX_ORDER = 20
_USUAL_SIZE = 64
_TRIED_ARRAYS = 4
"""Of different arrays that sections name, so many are compared, the most frequent first."""
_ONE_ARRAY = 3
"""If more than one section in this many names the same array, all of them belong to it."""
_SECTION_SIZES = (32, 16)
"""Sizes of struct mem_section, with and without the members of CONFIG_PAGE_EXTENSION."""
_MEMBERS: dict[tuple[str, ...], int] = {
    ("flags",): 0,
    ("_refcount", "_count"): 52,
    ("_mapcount",): 48,
    ("mapping",): 24,
    ("compound_head", "compound_info"): 8,
    ("lru",): 8,
    ("private",): 40,
}
"""Members of struct page, by all their names, and their offsets if it has 64 bytes.

These offsets hold on x86-64 in all versions from 4.18 on (include/linux/mm_types.h): one more
witness."""
_OLD_MEMBERS = {
    8: {"flags": 0, "_refcount": 8, "_mapcount": 12, "mapping": 24, "lru": 40, "private": 16},
    28: {"flags": 0, "_refcount": 28, "_mapcount": 24, "mapping": 8, "lru": 32, "private": 48},
}
"""The offsets up to 3.0, and from then on, whatever the size; by the told offset of `_count`."""
_COUNTS = ("_refcount", "_mapcount")
_NEAR = (~0x80 & NO_TYPE, -128 & NO_TYPE)
"""The oldest values for free blocks, which differ by one."""
_BUDDIES = (0xF0 << 24, ~0x4000_0000 & NO_TYPE, *_NEAR)
"""The marks of free blocks: since 6.12, in 6.11, from 4.18 on, before."""


@dataclass(frozen=True)
class _Layout:
    """The offsets in this kernel's `struct page`."""

    size: int
    flags: int
    count: int
    type: int
    mapping: int
    head: int
    """`compound_head`; before 4.3 `first_page`, in the place of `private`."""
    links: int
    """`lru`, which also links free pages."""
    private: int
    """In the first page of a free block: the block's order."""
    destructor: int | None
    """In a compound page's second `struct page`."""


@dataclass(frozen=True)
class _Flags:
    """Masks of page flags; 0 if this kernel does not have or tell the flag."""

    head: int
    slab: int
    reserved: int
    lru: int
    swap_backed: int
    swap_cache: int
    huge: int
    """In a compound page's second `flags` (6.6 to 6.8)."""
    tail: int
    """Of a compound page's later pages; 0 since 4.3, where the pointer to the head marks them."""
    buddy: int
    """Of the first page of a free block, before 2.6.38."""
    all: int


def _is_size(size: int) -> bool:
    return size in range(8, _MAX_STRUCT_PAGE + 1, 4)


def _is_bit(number: int) -> bool:
    return 0 <= number < 64


class StructPages:
    """The array of `struct page`, found and ready to be read."""

    def __init__(
        self,
        memory: PhysicalMemory,
        kernel: TableMemory,
        info: VmcoreInfo,
        btf: Btf | None,
        symbols: Mapping[str, int] | None = None,
        page_frames: int = 1,
    ) -> None:
        """UntoldError with a sentence if the kernel does not tell enough.

        `page_frames` is the number of 4 KiB frames in each of the kernel's pages. Internally, pages
        have the kernel's numbers; arguments and results are by frames.
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
        """The plausible value with the most votes; of several, the last witness's.

        The usual value comes first, then VMCOREINFO, any line of which may be damaged, then BTF.
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
        # The order of flags in include/linux/page-flags.h before 4.3, on 64 bits.
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
            # If BTF does not name it: in all versions it is the flag before PG_private.
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
        """Whether a flag marks the later pages of compound pages, as before 4.3."""
        info = self._info
        known = [*info.votes("OFFSET(page.compound_head)"), *info.votes("OFFSET(page._refcount)")]
        return self._btf is None and not known and bool(info.votes("OFFSET(page._count)"))

    @property
    def _destructor(self) -> int | None:
        """The destructor's number in the second struct page of a huge page (up to 6.5)."""
        own = self._btf.enumerator("HUGETLB_PAGE_DTOR") if self._btf else None
        return self._elected([*self._info.votes("NUMBER(HUGETLB_PAGE_DTOR)"), own], bool)

    def _type(self, told: str, named: str) -> int | None:
        """The value of a page's type: by VMCOREINFO, or by BTF, which names it since 6.12."""
        number = self._btf.enumerator(named) if self._btf else None
        own = number << 24 if number is not None and number < 256 else None
        votes = [vote & NO_TYPE for vote in self._info.votes(f"NUMBER({told})")]
        return self._elected([*votes, own], bool)

    def _find_types(self) -> PageTypes:
        """The encoding of types, by the told mark of free pages, or the mark that most have."""
        if self._flags.buddy:
            return PageTypes(0)
        told = [vote & NO_TYPE for vote in self._info.votes("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")]
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
        """For each of some marks, the number of pages that begin free blocks with this mark."""
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
            begins = (order < MAX_ORDER) & (aligned == 0) & (numbers[:, layout.count // 4] == 0)
            for value in values:
                kind = np.uint32(TYPE_BYTE if value & ~TYPE_BYTE == 0 else NO_TYPE)
                count[value] += int(np.count_nonzero(begins & (types & kind == value)))
        return count

    def _find_arrays(self) -> tuple[int, NDArray[np.uint64]]:
        """Frames of a section; for each, where `struct page` 0 would lie, or 0."""
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
            for each in dict.fromkeys([*bits, self._usual_section_bits]):
                arrays = self._arrays_by_sections(place, size, member or 0, each)
                if arrays is None:
                    continue
                described = int(np.count_nonzero(arrays)) << (each - self._page_bits)
                if best is None or described > 2 * best[0]:
                    best = described, 1 << (each - self._page_bits), arrays
        if best is None and (arrays := self._arrays_in_a_row()) is not None:
            best = 0, 1 << (self._usual_section_bits - self._page_bits), arrays
        if best is None:
            raise UntoldError("the kernel does not tell where its struct pages are")
        return best[1], best[2]

    @property
    def _usual_section_bits(self) -> int:
        """Address bits of a section; more for pages of 64 KiB (arch/arm64's sparsemem.h)."""
        return 29 if self._page_bits == 16 else 27

    def _arrays_by_sections(
        self, place: int, size: int, member: int, bits: int
    ) -> NDArray[np.uint64] | None:
        """The arrays by the table of sections at an address; None if it is not such a table."""
        kernel = self._kernel
        frames = 1 << (bits - self._page_bits)
        count = -(-self._page_count // frames)
        in_root = self._page_bytes // size
        roots = -(-count // in_root)
        # In 4.15, and in the symbol table, the address is that of a pointer to the table, otherwise
        # of the table itself.
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
            arrays = self._mapped_arrays(arrays, frames)
            if arrays.any():
                return arrays
        return None

    def _mapped_arrays(self, arrays: NDArray[np.uint64], frames: int) -> NDArray[np.uint64]:
        """The arrays of sections of `frames` frames each; all 0 if most of them are not mapped.

        Where all sections have one array, as in most kernels, a section that names another place is
        damaged.
        """
        present = np.flatnonzero(arrays)
        found = np.zeros_like(arrays)
        if not len(present):
            return found
        begin = (present * (frames * self._layout.size)).astype(np.uint64)

        def are_mapped(bases: NDArray[np.uint64]) -> Marks:
            places = bases + begin
            mapped: Marks = self._kernel.frames(places) >= 0
            return mapped & self._kernel.are_canonical(places)

        told = arrays[present]
        values, count = np.unique(told, return_counts=True)
        likely = values[np.argsort(-count, kind="stable")[:_TRIED_ARRAYS]]
        fitting = [are_mapped(np.full(len(present), value)) for value in likely]
        best = max(range(len(likely)), key=lambda row: np.count_nonzero(fitting[row]))
        sound = are_mapped(told)
        if _ONE_ARRAY * np.count_nonzero((told == likely[best]) & sound) > len(present):
            told = np.where(fitting[best], likely[best], told)
            sound |= fitting[best]
        if 2 * np.count_nonzero(sound) >= len(present):
            found[present] = told
        return found

    def _flat_array(self) -> tuple[int, NDArray[np.uint64]] | None:
        """The single array of a kernel without sections; told by `mem_map`.

        The array is as long as the only node's memory; other data follow.
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
        frames = 1 << (self._usual_section_bits - self._page_bits)
        return frames, np.full(-(-self._page_count // frames), base, np.uint64)

    def _arrays_in_a_row(self) -> NDArray[np.uint64] | None:
        """The arrays if all are contiguous, from the address in the kernel's variable on."""
        variable = self._symbols.get("vmemmap_base")
        base = self._kernel.number(variable) if variable else None
        if base is None or not base >> 63 or base % PAGE_SIZE:
            return None
        frames = 1 << (self._usual_section_bits - self._page_bits)
        count = -(-self._page_count // frames)
        begin = np.arange(count, dtype=np.uint64) * np.uint64(frames * self._layout.size)
        mapped = self._kernel.frames(begin + np.uint64(base)) >= 0
        return np.where(mapped, np.uint64(base), np.uint64(0)) if mapped.any() else None

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """First frame and end of sections that are read at once: neighbours in one array."""
        at_once = max(1, _FRAMES_AT_ONCE // self._section_frames)
        present = np.flatnonzero(self._arrays)
        apart = (np.diff(present) > 1) | (np.diff(self._arrays[present]) != 0)
        for group in np.split(present, np.flatnonzero(apart) + 1):
            for start in range(0, len(group), at_once):
                part = group[start : start + at_once]
                first = int(part[0]) * self._section_frames
                end = min((int(part[-1]) + 1) * self._section_frames, self._page_count)
                # A hostile dump may tell of a larger section than any kernel has.
                for at in range(first, end, _FRAMES_AT_ONCE):
                    yield at, min(at + _FRAMES_AT_ONCE, end)

    def _column(self, rows: Numbers, place: int) -> NDArray[np.uint64]:
        """A pointer-sized member of these struct pages."""
        if self._word == 4:
            return rows[:, place // 4].astype(np.uint64)
        return rows.view(np.uint64)[:, place // 8]

    def _rows(self, address: int, count: int) -> tuple[Numbers, Marks, Marks]:
        """Read `count` struct pages: as 32-bit numbers; which were read; and which are not held."""
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
