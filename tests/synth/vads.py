"""The regions of a synthetic process: virtual address descriptors (VADs) in a balanced tree.

Each is noted when it is written. The layouts are those of Volatility 2's profiles and of symbol
files; the members are described in Windows Internals, part 1, "Virtual address descriptors".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.synth.framedatabase import SectionTruth
from tests.synth.kernel import Pool
from tests.synth.memory import PAGE_SIZE
from tests.synth.profiles import Profile

READ, EXECUTE_READ, READ_WRITE, EXECUTE_READ_WRITE, EXECUTE_WRITE_COPY = 1, 3, 4, 6, 7
NO_ACCESS = 0x18
GUARD = 0x10
"""Protections (MM_READONLY and so on); a guard page's has this bit, too."""

IMAGE, LARGE_PAGES = 2, 5
"""VadType; 0 for most regions."""


@dataclass(frozen=True)
class RegionTruth:
    """A region of a process."""

    start: int
    end: int
    """The address behind its last byte."""
    protection: int
    section: SectionTruth | None = None
    """The section that is mapped there; None for private memory."""
    kind: int = 0
    commit: int = 0
    """Pages charged."""
    first_page: int = 0
    """The first page of the section that is mapped."""
    node: int = 0
    """Virtual address of its VAD."""
    name: str = ""
    """What the process has there: ``[heap]``, ``[stack]``; empty for most."""

    @property
    def offset(self) -> int:
        """The place of its first page in the file; 0 without one."""
        named = self.section if self.section and self.section.path else None
        return named.part_of(self.first_page)[1] if named else 0

    @property
    def is_private(self) -> bool:
        """Whether no section is behind it."""
        return self.section is None


class VadWriter:
    """Writes the trees of one Windows version."""

    def __init__(
        self, profile: Profile, pool: Pool, entry_size: int, write: Callable[[int, bytes], None]
    ) -> None:
        """`write` writes at a virtual address of the kernel's data."""
        self._profile = profile
        self._pool = pool
        self._entry_size = entry_size
        self._write = write
        self._word = profile.pointer_size

    def tree(self, process: int, regions: Sequence[RegionTruth]) -> tuple[RegionTruth, ...]:
        """Write the regions of a process, whose object is at `process`, and link its root."""
        placed = [
            replace(region, node=self._node(region))
            for region in sorted(regions, key=lambda region: region.start)
        ]
        at = process + self._profile.offset("_EPROCESS", "VadRoot")
        is_table = self._profile.vad_root == "_MM_AVL_TABLE"
        root, depth = self._link([region.node for region in placed], at if is_table else 0)
        if not is_table:
            # Behind it stand a hint and, since Windows 8.1, the number of nodes.
            counted = () if self._profile.vad_root == "pointer" else (len(placed),)
            for number, value in enumerate((root, placed[-1].node if placed else 0, *counted)):
                self._pointer(at + number * self._word, value)
            return tuple(placed)
        table = self._profile.offset
        base = at + table("_MM_AVL_TABLE", "BalancedRoot")
        parent, left, right = self._links
        self._pointer(base + parent, base)
        self._pointer(base + left, 0)
        self._pointer(base + right, root)
        self._pointer(at + table("_MM_AVL_TABLE", "DepthOfTree"), len(placed) << 8 | depth)
        hint = placed[-1].node if placed else 0
        self._pointer(at + table("_MM_AVL_TABLE", "NodeHint"), hint)
        return tuple(placed)

    @property
    def _links(self) -> tuple[int, int, int]:
        """Where the links to the parent, to the left and to the right stand in a node."""
        offset, has = self._profile.offset, self._profile.has
        short = "_MMVAD_SHORT"
        if not has(short, "VadNode"):
            parent = offset(short, "Parent") if has(short, "Parent") else offset(short, "u1")
            return parent, offset(short, "LeftChild"), offset(short, "RightChild")
        begin = offset(short, "VadNode")
        if self._profile.vad_root == "_MM_AVL_TABLE":
            names, node = ("u1", "LeftChild", "RightChild"), "_MM_AVL_NODE"
        else:
            names, node = ("ParentValue", "Left", "Right"), "_RTL_BALANCED_NODE"
        parent, left, right = (begin + offset(node, name) for name in names)
        return parent, left, right

    def _link(self, nodes: Sequence[int], parent: int) -> tuple[int, int]:
        """Link some nodes to a tree below `parent`; returns the root and its height."""
        if not nodes:
            return 0, 0
        middle = len(nodes) // 2
        node = nodes[middle]
        below = (nodes[:middle], nodes[middle + 1 :])
        (left, depth), (right, other) = (self._link(some, node) for some in below)
        # All but Windows XP keep there which side is deeper (1 and 3 of two bits).
        balance = 0 if self._profile.vad_root == "pointer" else (other - depth) & 3
        for place, value in zip(self._links, (parent | balance, left, right), strict=True):
            self._pointer(node + place, value)
        return node, 1 + max(depth, other)

    def _node(self, region: RegionTruth) -> int:
        """Write a VAD without its links; returns its address."""
        profile, short = self._profile, "_MMVAD_SHORT"
        tag = b"VadS" if region.is_private else b"Vad "
        size = profile.size(short if region.is_private else "_MMVAD")
        node = self._pool.allocate(size, tag)
        first, last = region.start // PAGE_SIZE, region.end // PAGE_SIZE - 1
        place = profile.offset(short, "StartingVpn"), profile.offset(short, "EndingVpn")
        width = abs(place[1] - place[0])
        for name, at, number in (
            ("StartingVpnHigh", place[0], first),
            ("EndingVpnHigh", place[1], last),
        ):
            kept = number & ((1 << 8 * width) - 1)
            self._write(node + at, kept.to_bytes(width, "little"))
            if profile.has(short, name):
                high = node + profile.offset(short, name)
                self._write(high, (number >> 32).to_bytes(1, "little"))
        self._flags(node, region)
        if region.section:
            self._section(node, region, region.section)
        return node

    def _flags(self, node: int, region: RegionTruth) -> None:
        fields = self._profile.bit_fields
        xp_kind = {IMAGE: "ImageMap", LARGE_PAGES: "LargePages"}.get(region.kind, "")
        values = {
            "CommitCharge": region.commit,
            "MemCommit": int(region.is_private and region.commit > 0),
            "PrivateMemory": int(region.is_private),
            "Protection": region.protection,
            "VadType": region.kind,
            xp_kind: 1,
        }
        word = self._word if self._word == 8 and self._profile.version < (6, 2) else 4
        for member, structure, size in (("u", "_MMVAD_FLAGS", word), ("u1", "_MMVAD_FLAGS1", 4)):
            number = 0
            for name, (byte, first, end) in fields.get(structure, {}).items():
                value = values.get(name, 0) & ((1 << (end - first)) - 1)
                number |= value << 8 * byte + first
            if structure in fields:
                at = node + self._profile.offset("_MMVAD_SHORT", member)
                self._write(at, number.to_bytes(size, "little"))
        if self._profile.has("_MMVAD_SHORT", "CommitChargeHigh"):
            at = node + self._profile.offset("_MMVAD_SHORT", "CommitChargeHigh")
            self._write(at, (region.commit >> 31).to_bytes(1, "little"))

    def _section(self, node: int, region: RegionTruth, section: SectionTruth) -> None:
        profile, structure = self._profile, "_MMVAD"
        pages = (region.end - region.start) // PAGE_SIZE
        number, _ = section.part_of(region.first_page)
        if profile.has(structure, "Subsection"):
            name, value = "Subsection", section.subsections[number]
        else:
            name, value = "ControlArea", section.control_area
        self._pointer(node + profile.offset(structure, name), value)
        first = section.prototypes + region.first_page * self._entry_size
        at = node + profile.offset(structure, "FirstPrototypePte")
        self._pointer(at, first)
        at = node + profile.offset(structure, "LastContiguousPte")
        self._pointer(at, first + (pages - 1) * self._entry_size)

    def _pointer(self, at: int, value: int) -> None:
        self._write(at, value.to_bytes(self._word, "little"))
