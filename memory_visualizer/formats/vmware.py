"""VMware's suspended machines and snapshots: a .vmss or .vmsn file, and mostly a .vmem with it.

A .vmem is the machine's RAM in one piece. If devices take a part of the addresses (machines of 3
GiB and more), "regions" in the other file tell the physical addresses of its pages. Older versions
put the RAM into the .vmss or .vmsn itself. The format is not documented; this reader uses the facts
on which VMware's own contribution to crash (vmware_vmss.c, .h) and Volatility 2 and 3 agree.
Volatility 3's reader supports neither RAM inside, nor paddings, nor a name other than .vmem.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import magics
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.formats.paths import as_path
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

RAM_SUFFIX = ".vmem"
STATE_SUFFIXES = (".vmss", ".vmsn")

_HEADER = struct.Struct("<4sII")  # magic, version, number of groups
_GROUP = struct.Struct("<64sQQ")  # name, place in the file, size
_MAX_GROUPS, _MAX_TAGS, _MAX_REGIONS = 1024, 1 << 20, 1 << 16
_BLOCK, _COMPRESSED_BLOCK = 63, 62
_REGION = ("regionPPN", "regionSize", "regionPageNum")
"""The names of the tags that describe a region."""
_FIRST_HOLE = 3 << 30  # machines with less RAM have it in one piece


@dataclass
class _State:
    """The description of the RAM in a .vmss or .vmsn file."""

    numbers: dict[tuple[str, int], int] = field(default_factory=dict)
    """The numeric tags of the group "memory", by name and index (0 for none)."""
    ram: tuple[int, int] | None = None
    """Place and size of the RAM in this file itself."""
    is_cut: bool = False
    """Whether the file ends within the description."""

    @property
    def ram_size(self) -> int:
        """Size of the RAM in bytes by its regions; 0 if there are none."""
        ends = (offset + size for _, size, offset in self.regions())
        return max(ends, default=0) * PAGE_SIZE

    @property
    def region_count(self) -> int:
        """How many regions the file says that the RAM has."""
        return self.numbers.get(("regionsCount", 0), 0)

    def regions(self) -> list[tuple[int, ...]]:
        """Frame, size and place in the RAM, in pages, of each region that is described whole."""
        described = sorted(region for name, region in self.numbers if name == _REGION[0])
        return [
            tuple(self.numbers[name, region] for name in _REGION)
            for region in described
            if region < self.region_count
            and all((name, region) in self.numbers for name in _REGION)
        ]


class VmwareDump(MappedDump):
    """A VMware machine's RAM."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Open either of the two files; the other one lies beside it.

        BadInputError when they cannot be read or make no sense, or the RAM is missing;
        DamagedInputError, unless `lenient`, when a part of it is missing.
        """
        path = as_path(path)
        notes: list[str] = []
        state_path = path if is_state(path) else find_state(path)
        if state_path is None:
            raise BadInputError(f"{path} has no .vmss or .vmsn file beside it")
        with reading(state_path), state_path.open("rb") as file:
            state = _read_state(state_path, file, lenient=lenient)
        source, ram_offset = state_path, 0
        if state.ram is None:
            source = path if path != state_path else _find_ram(path, state)
            if source.stem.lower() != state_path.stem.lower():
                notes.append(f"{source} is used as the memory of {state_path}, since its size fits")
        with reading(source), source.open("rb") as file:
            size = file_size(file)
        ram_offset, ram_size = state.ram or (0, size)
        if state.region_count > _MAX_REGIONS:
            raise BadInputError(
                f"{state_path} says that the RAM has {state.region_count:,} regions"
            )
        if state.is_cut:
            notes.append(
                f"{state_path} ends within its description of memory: addresses of pages may be"
                " missing in it"
            )
        described = state.regions()
        if len(described) < state.region_count:
            sentence = (
                f"{state_path} says that the RAM has {state.region_count:,} regions, but describes"
                f" {len(described):,}"
            )
            report_damage(sentence, notes, lenient=lenient and bool(described))
        if state.region_count == 0 and ram_size % PAGE_SIZE:
            sentence = (
                f"{source} is not a whole number of {PAGE_SIZE:,}-byte pages, so a part is missing"
            )
            report_damage(sentence, notes, lenient=lenient)
        regions = [
            [min(value, MAX_FRAMES + 1) * PAGE_SIZE for value in region] for region in described
        ] or [[0, ram_size, 0]]
        starts, lengths, offsets = zip(*regions, strict=True)
        extents, remarks = find_extents(
            path,
            starts,
            lengths,
            [ram_offset + offset for offset in offsets],
            file_size=size,
            lenient=lenient,
        )
        return cls(path, "VMware", extents, source=source, remarks=[*notes, *remarks])


def is_state(path: Path) -> bool:
    """Tell whether a file is a .vmss or .vmsn, by its content."""
    with reading(path), path.open("rb") as file:
        return file.read(4) in magics.VMWARE


def find_state(path: Path) -> Path | None:
    """Find the .vmss or .vmsn beside a .vmem.

    It is the file with the same name, whatever the case of letters. If a file was renamed, it is
    the only file without a .vmem of its own that describes RAM of exactly this size.
    """
    beside = _beside(path)
    states = [one for suffix in STATE_SUFFIXES for one in beside if one.suffix.lower() == suffix]
    if path.suffix.lower() == RAM_SUFFIX:
        for state in states:
            if state.stem.lower() == path.stem.lower() and is_state(state):
                return state
    if not states or path.suffix.lower() in STATE_SUFFIXES:
        return None
    size = path.stat().st_size
    fitting = [one for one in states if not _has_ram(one, beside) and _described_size(one) == size]
    return fitting[0] if len(fitting) == 1 else None


def _find_ram(state_path: Path, state: _State) -> Path:
    """Find the .vmem beside a .vmss or .vmsn; as `find_state`."""
    beside = _beside(state_path)
    named = [one for one in beside if one.suffix.lower() == RAM_SUFFIX]
    for one in named:
        if one.stem.lower() == state_path.stem.lower():
            return one
    size = state.ram_size
    known = {one.stem.lower() for one in beside if one.suffix.lower() in STATE_SUFFIXES}
    fitting = [
        one
        for one in beside
        if size and one.stem.lower() not in known and one.is_file() and one.stat().st_size == size
    ]
    if len(fitting) == 1:
        return fitting[0]
    name = state_path.with_suffix(RAM_SUFFIX).name
    raise BadInputError(
        f"{state_path} tells where memory belongs, but holds none; its .vmem file is needed beside"
        f" it, under the name {name}"
    )


def _beside(path: Path) -> list[Path]:
    """The other files of a file's folder; none if the folder cannot be listed."""
    try:
        return sorted(one for one in path.parent.iterdir() if one.name != path.name)
    except OSError:
        return []


def _has_ram(state_path: Path, beside: Sequence[Path]) -> bool:
    return any(
        one.suffix.lower() == RAM_SUFFIX and one.stem.lower() == state_path.stem.lower()
        for one in beside
    )


def _described_size(state_path: Path) -> int:
    """Size in bytes of the RAM in another file, by its regions; 0 if it is not told."""
    try:
        if not state_path.is_file() or not is_state(state_path):
            return 0
        with state_path.open("rb") as file:
            state = _read_state(state_path, file, lenient=False)
    except (BadInputError, OSError):
        return 0
    return 0 if state.ram else state.ram_size


def missing_state(path: Path, size: int) -> str | None:
    """A sentence that a .vmem alone may not suffice; None if it does."""
    if path.suffix.lower() == RAM_SUFFIX and size > _FIRST_HOLE:
        return (
            f"{path} is read as raw, but for a machine with more than 3 GiB the .vmss or .vmsn file"
            " is needed beside it: pages above 3 GiB are at wrong addresses without it"
        )
    return None


def _read_state(path: Path, file: BinaryIO, *, lenient: bool) -> _State:
    cut = DamagedInputError(f"{path} is cut off or broken: its description of memory does not end")
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise cut
    magic, _, group_count = _HEADER.unpack(header)
    groups = file.read(min(group_count, _MAX_GROUPS) * _GROUP.size)
    groups = groups[: len(groups) // _GROUP.size * _GROUP.size]
    places = {name.rstrip(b"\0"): place for name, place, _ in _GROUP.iter_unpack(groups)}
    if b"memory" not in places and group_count > _MAX_GROUPS:
        raise BadInputError(
            f"{path} claims {group_count:,} groups of state, and the first {_MAX_GROUPS:,} are"
            " without the memory"
        )
    if b"memory" not in places:
        raise BadInputError(
            f"{path} is a VMware file without the memory: the snapshot leaves it out, or the"
            " machine was off"
        )
    position = places[b"memory"]
    size = file_size(file)
    state = _State()
    wide = struct.Struct("<II" if magic[0] & 0xF == 0 else "<QQ")
    for _ in range(_MAX_TAGS):
        if position > size - 2:
            if lenient and state.ram:
                state.is_cut = True
                return state
            raise cut
        # Flags (number of indices, size of the value), length of the name, name, indices, value.
        file.seek(position)
        tag = file.read(2 + 255 + 3 * 4 + wide.size + 2)
        if tag[:2] == b"\0\0":
            return state
        flags, name_size = tag[:2]
        at = 2 + name_size + (flags >> 6) * 4
        index = int.from_bytes(tag[2 + name_size : min(6 + name_size, at)], "little")
        name = tag[2 : 2 + name_size].decode("latin-1")
        value_size = flags & 0x3F
        if value_size < _COMPRESSED_BLOCK:
            state.numbers[name, index] = int.from_bytes(tag[at : at + value_size][:8], "little")
            position += at + value_size
            continue
        if at + wide.size + 2 > len(tag):
            raise cut
        # A block: bytes in the file and in memory, bytes of padding, padding, data.
        stored, _ = wide.unpack_from(tag, at)
        data = at + wide.size
        data += 2 + int.from_bytes(tag[data : data + 2], "little")
        if name == "Memory":
            if value_size == _COMPRESSED_BLOCK:
                raise BadInputError(f"{path} holds compressed RAM, which this program cannot read")
            state.ram = position + data, stored
        position += data + stored
    raise BadInputError(f"{path} has too many entries about the memory: more than {_MAX_TAGS:,}")
