"""Kernels of Linux by their years: how each describes pages and itself, as in its sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.synth.oldlayouts import Layout, read_layouts


@dataclass(frozen=True)
class Era:
    """How kernels of some years describe pages and themselves."""

    release: str
    flags: dict[str, int]
    """Numbers of page flags."""
    none: int = -1
    """page_type or _mapcount of a page without a type and without mappings."""
    buddy: int = ~0x80
    table: int | None = ~0x400
    slab: int | None = None
    """Type of slab pages; None if they have a flag."""
    huge: int | None = None
    huge_by: str = "destructor"
    """The mark of huge pages: ``destructor``, ``flag`` or ``type``."""
    has_btf: bool = True
    tells_symbols: bool = True
    """Whether VMCOREINFO tells the address of the symbol table."""
    addresses: str = "percpu"
    """The way of computing addresses: see pack_kallsyms."""
    sections: str = "array"
    """The target of SYMBOL(mem_section): the ``array``, or a ``pointer`` to it (4.15)."""
    inverts: bool = True
    masks: bool = False
    """Whether tails name their head by a mask (7.0)."""
    frozen: bool = False
    """Whether slab pages have no count (6.14)."""
    named_types: dict[str, int] = field(default_factory=dict)
    """The types' numbers in BTF."""
    lists_blocks: bool = True
    """Whether a processor's free lists hold blocks of several pages (5.13)."""
    page_size: int = 64
    """Bytes of struct page."""
    tells_names: bool = True
    """Whether VMCOREINFO tells the offset of the system's names behind their count (5.11)."""
    cache_at: int = 8
    """Offset in a slab's struct page of the address of its cache; 24 until 5.16."""
    told: tuple[str, ...] = ("lru", "private", "swapcache", "swapbacked", "hwpoison")
    """Flags whose numbers VMCOREINFO tells."""
    layout: Layout | None = None
    """Offsets of members in kernels before 4.14, which also have fixed addresses."""
    section_size: int = 32
    """Bytes of struct mem_section; 16 without CONFIG_PAGE_EXTENSION."""
    section_bits: int = 24
    """Address bits of a section: 27 in all real kernels, fewer for small dumps."""
    first_name: str = "swapper/0"
    """The name of the first task."""
    lists_threads: bool = False
    """Whether each process has a list of its threads, and tasks and workers are laid out as in 6.12
    (include/linux/sched.h, kernel/workqueue_internal.h)."""

    @property
    def places(self) -> dict[str, int]:
        """Offsets of the members of struct page."""
        if self.layout:
            page = dict(self.layout["page"])
            del page["size"]
            page.pop("slab_cache", None)
            return page
        moved = self.page_size - 64
        return {
            "flags": 0,
            "lru": 8,
            "compound_info" if self.masks else "compound_head": 8,
            "mapping": 24,
            "private": 40 + moved,
            "_mapcount": 48 + moved,
            "_refcount": 52 + moved,
        }

    @property
    def resource(self) -> Mapping[str, int]:
        """Offsets of the members of struct resource."""
        if self.layout:
            return self.layout["resource"]
        return {"start": 0, "end": 8, "name": 16, "parent": 40, "sibling": 48, "child": 56}


OLD_FLAGS = {"lru": 5, "slab": 7, "reserved": 10, "private": 11, "head": 15, "swapcache": 16}
OLD_FLAGS |= {"swapbacked": 18, "hwpoison": 22}
_MIDDLE = {"lru": 4, "slab": 9, "reserved": 12, "private": 13, "head": 16, "swapcache": 10}
_MIDDLE |= {"swapbacked": 19, "hwpoison": 23, "hugetlb": 8}
_NEW = {"lru": 5, "reserved": 11, "private": 12, "head": 6, "swapcache": 8, "swapbacked": 17}
_NEW |= {"hwpoison": 21}
_BEFORE_4_3 = {"lru": 5, "slab": 7, "reserved": 10, "private": 11, "head": 14, "tail": 15}
_BEFORE_4_3 |= {"swapcache": 16, "swapbacked": 19, "hwpoison": 23}
_BEFORE_2_6_38 = _BEFORE_4_3 | {"buddy": 19, "swapbacked": 20, "hwpoison": 24}
_HIGH = {"PG_table": 0x10000000, "PG_buddy": 0x40000000}
_PGTY = {"PGTY_buddy": 0xF0, "PGTY_table": 0xF2, "PGTY_slab": 0xF5, "PGTY_hugetlb": 0xF4}
_NUMBERS = {"buddy": 0xF0 << 24, "table": 0xF2 << 24, "slab": 0xF5 << 24, "huge": 0xF4 << 24}

_4_14 = Era(
    "4.14.0-1-generic",
    OLD_FLAGS,
    buddy=-128,
    table=None,
    has_btf=False,
    tells_symbols=False,
    inverts=False,
    lists_blocks=False,
    tells_names=False,
    cache_at=24,
)
_LAYOUTS = read_layouts()
_3_10 = replace(
    _4_14,
    release="3.10.0-862.el7.x86_64",
    flags=_BEFORE_4_3,
    addresses="absolute",
    layout=_LAYOUTS["3.10"],
    section_bits=27,
    told=("lru", "private", "swapcache", "slab", "hwpoison"),
    cache_at=48,
)
_6_12 = Era(
    "6.12.6-arch1-1",
    _NEW,
    huge_by="type",
    addresses="base",
    named_types=_PGTY,
    buddy=0xF0 << 24,
    table=0xF2 << 24,
    slab=0xF5 << 24,
    huge=0xF4 << 24,
)
ERAS = {
    "2.6.32": replace(
        _3_10,
        release="2.6.32-504.el6.x86_64",
        flags=_BEFORE_2_6_38,
        layout=_LAYOUTS["2.6.32"],
        page_size=_LAYOUTS["2.6.32"]["page"]["size"],
        told=("lru", "private", "swapcache", "buddy", "hwpoison"),
        cache_at=40,
        first_name="swapper",
    ),
    "3.10": _3_10,
    "3.16": replace(
        _3_10,
        release="3.16.0-4-amd64",
        layout=_LAYOUTS["3.16"],
        page_size=_LAYOUTS["3.16"]["page"]["size"],
    ),
    "4.14": _4_14,
    "4.14-plain": replace(_4_14, release="4.14.0-1-plain", section_size=16, section_bits=27),
    "4.15": replace(_4_14, release="4.15.0-20-generic", sections="pointer"),
    "4.19": replace(_4_14, release="4.19.0-5-amd64", buddy=~0x80, table=~0x400, inverts=True),
    "5.10": Era(
        "5.10.0-8-amd64",
        _MIDDLE,
        table=~0x200,
        tells_symbols=False,
        lists_blocks=False,
        tells_names=False,
        cache_at=24,
    ),
    "6.1": Era("6.1.0-9-amd64", _MIDDLE, table=~0x200),
    "6.1-large": Era("6.1.0-9-debug", _MIDDLE, table=~0x200, page_size=80),
    "6.6": Era("6.6.8-arch1-1", _MIDDLE, table=~0x200, huge_by="flag"),
    "6.9": Era("6.9.3", _MIDDLE, table=~0x200, huge_by="type", huge=~0x800),
    "6.10": Era("6.10.1", _MIDDLE, table=~0x200, huge_by="type", huge=~0x800, slab=~0x1000),
    "6.11": Era(
        "6.11.0",
        _NEW,
        buddy=~0x40000000,
        table=~0x10000000,
        slab=~0x02000000,
        huge=~0x04000000,
        huge_by="type",
        named_types=_HIGH,
    ),
    "6.12": _6_12,
    # Without a description of its types; its sections are as without CONFIG_PAGE_EXTENSION.
    "6.12-plain": replace(
        _6_12, release="6.12.117-64k", has_btf=False, section_size=16, lists_threads=True
    ),
    "6.14": replace(_6_12, release="6.14.0-rc7", frozen=True),
    "7.0": replace(_6_12, release="7.0.0", frozen=True, masks=True, addresses="self"),
}
