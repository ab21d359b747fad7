"""AFF4 containers of physical memory, as WinPmem, Velociraptor and others write them.

The AFF4 Standard (aff4/Standard, version 1.0a): a zip file with streams in it. An image stream is
cut into chunks, each packed by itself, and groups of chunks form segments ("bevies") with an index
beside each; a map assigns parts of streams to physical addresses. information.turtle describes each
stream. The earlier draft, which older WinPmem wrote, has other names, and indexes with only the
places of chunks. This module reads AFF4 itself, since the only Python library for it (pyaff4) can
no longer be installed.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import magics
from memory_visualizer.formats.base import NO_RUNS
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.inside import ChunkedInside, InsidePath, keep_open
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.reach import near_frames, near_left_out
from memory_visualizer.printable import counted
from memory_visualizer.units import MAX_RUNS, PAGE_SIZE

_LOCAL_HEADER = struct.Struct("<26xHH")
"""Header of a file in a zip: bytes of its name and of the extra field, which precede its
contents."""
_END = struct.Struct("<4s6xHII")
"""The end of a zip: files, bytes of the directory, its place."""
_MAX_END = _END.size + 2 + 65535
_MAX_DIRECTORY = 16 << 20
_MAX_TEXT, _MAX_INDEX, _MAX_MAP = 2 << 20, 16 << 20, 16 << 20
_MAX_CHUNK = 16 << 20
_SMALLEST_CHUNK = 16
"""The least number of bytes that a chunk takes in the file, with its place in an index."""
_ENTRY = np.dtype([("address", "<u8"), ("length", "<u8"), ("offset", "<u8"), ("target", "<u4")])
_INDEX = np.dtype([("offset", "<u8"), ("size", "<u4")])
_FILLED = re.compile(r"(aff4:|http://aff4\.org/Schema#)(Zero|SymbolicStream([0-9A-Fa-f]{2}))")
"""A stream that repeats a single byte."""
_NOT_READ = re.compile(r"(aff4:|http://aff4\.org/Schema#)Un(known|readable)Data")
_FILLED_LIMIT = 1 << 33
_FILLED_FOR_EACH = 1024
"""Limit of a map for bytes of such streams: a constant, plus a factor of all other bytes."""

_Facts = Mapping[str, Mapping[str, Sequence[str]]]
"""The content of information.turtle: values by subject and property."""


def is_container(file: BinaryIO, head: bytes) -> bool:
    """Whether a file with this beginning is AFF4, by its first names or the zip's comment."""
    if not head.startswith(magics.ZIP):
        return False
    return b"aff4" in head.lower() or _end(file)[1].startswith(b"aff4://")


def _end(file: BinaryIO) -> tuple[bytes, bytes]:
    """The record at the end of a zip file, and the comment behind it."""
    size = file_size(file)
    tail = read_at(file, min(size, _MAX_END), max(0, size - _MAX_END))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _END.size + 2:
        return b"", b""
    return tail[at : at + _END.size], tail[at + _END.size + 2 :]


class Aff4Dump(MappedDump):
    """The physical memory in an AFF4 container."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Read the container's description, the map, and the indexes of the chunks.

        BadInputError when the file cannot be read or holds no memory; DamagedInputError, unless
        `lenient`, when a part of it is missing or broken. `lenient` unpacks all chunks and leaves
        out broken ones.
        """
        path = as_path(path)
        volume = _Volume(path)
        facts = _facts(volume.text("information.turtle"))
        urn, is_map = _memory(path, volume, facts)
        remarks: list[str] = []
        entries, targets = _map(volume, urn, remarks) if is_map else _whole(facts, urn)
        inside, offsets, left_out = _place(
            path, volume, facts, entries, targets, remarks, lenient=lenient
        )
        there = offsets >= 0
        extents, more = find_extents(
            InsidePath.of(path, inside),
            entries["address"][there],
            entries["length"][there],
            offsets[there],
            file_size=inside.size,
            lenient=lenient,
        )
        limit = near_frames(int(extents.count.sum()) * PAGE_SIZE)
        left_out, beyond = near_left_out(path, left_out, limit)
        return cls(
            InsidePath.of(path, inside),
            "AFF4",
            extents,
            left_out=left_out,
            remarks=[*remarks, *inside.remarks, *more, *beyond],
        )


class _Volume:
    """The zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            self.file = keep_open(self, path)
            record, comment = _end(self.file)
            fault = DamagedInputError(f"{path}, an AFF4 container, ends too early")
            if not record:
                raise fault
            _, count, size, _ = _END.unpack(record)
            if size > _MAX_DIRECTORY or (size == 0xFFFFFFFF or count == 0xFFFF):
                size = self._size_of_directory()
            if size > _MAX_DIRECTORY:
                raise BadInputError(f"{path} has a directory of {size:,} bytes, which is too large")
            try:
                with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                    self._members = {info.filename: info for info in archive.infolist()}
            except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                raise DamagedInputError(f"{path}, an AFF4 container, is broken: {error}") from error
        described = self.data("container.description", _MAX_TEXT) or b""
        urn = described if described.startswith(b"aff4://") else comment
        self.urn = urn.split(b"\0")[0].decode("utf-8", "replace").strip()

    def _size_of_directory(self) -> int:
        """Bytes of the directory of a large zip file (ZIP64)."""
        size = file_size(self.file)
        tail = read_at(self.file, min(size, _MAX_END + 100), max(0, size - _MAX_END - 100))
        at = tail.rfind(b"PK\x06\x06")
        return int.from_bytes(tail[at + 40 : at + 48], "little") if at >= 0 else 0

    def member(self, urn: str, name: str = "") -> zipfile.ZipInfo | None:
        """Find a member by the names of the stream and the member."""
        for stream in self._names(urn):
            if found := self._members.get(f"{stream}/{name}" if name else stream):
                return found
        return None

    def _names(self, urn: str) -> Iterator[str]:
        """Possible names of a stream in the zip (AFF4 Standard, 5.1 and 5.2)."""
        if self.urn and urn.startswith(self.urn):
            relative = urn[len(self.urn) :].strip("/")
            yield relative
            yield quote(relative, safe="/")
            yield relative.replace("/", "%2F")
        scheme, _, rest = urn.partition("://")
        host, _, path = rest.partition("/")
        escaped = quote(f"{scheme}://{host}", safe="")
        yield f"{escaped}/{path}".rstrip("/")
        yield quote(urn, safe="")

    def data(self, name: str, limit: int) -> bytes | None:
        """The contents of a member, None if missing; DamagedInputError if they are broken."""
        info = self._members.get(name)
        return None if info is None else self.contents(info, limit)

    def contents(self, info: zipfile.ZipInfo, limit: int) -> bytes:
        """The contents of a small member; DamagedInputError if they are broken."""
        place, size = self.place(info)
        fault = f"{self.path}: {info.filename[:80]!r}, a part of the AFF4 container,"
        if max(info.file_size, size) > limit:
            raise BadInputError(f"{fault} has {info.file_size:,} bytes, which is too many")
        with reading(self.path):
            raw = read_at(self.file, size, place)
        try:
            if info.compress_type == zipfile.ZIP_DEFLATED:
                raw = zlib.decompressobj(-15).decompress(raw, info.file_size + 1)
        except zlib.error as error:
            raise DamagedInputError(f"{fault} is broken: {error}") from error
        if len(raw) != info.file_size or zlib.crc32(raw) != info.CRC:
            raise DamagedInputError(f"{fault} is cut off or broken")
        return raw

    def place(self, info: zipfile.ZipInfo) -> tuple[int, int]:
        """Place and size in the file of a member's contents."""
        header = b""
        if info.header_offset >= 0:  # a broken directory may place them before the file
            with reading(self.path):
                header = read_at(self.file, _LOCAL_HEADER.size, info.header_offset)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(magics.ZIP):
            raise DamagedInputError(
                f"{self.path}: {info.filename[:80]!r} is not where the AFF4 container says"
            )
        return info.header_offset + 30 + sum(_LOCAL_HEADER.unpack(header)), info.compress_size

    def text(self, name: str) -> str:
        """The text of a member."""
        data = self.data(name, _MAX_TEXT)
        if data is None:
            raise BadInputError(f"{self.path}, an AFF4 container, has no {name}")
        return data.decode("utf-8", "replace")

    def names(self) -> list[str]:
        """The names of all members."""
        return list(self._members)


_TOKENS = re.compile(
    r"""
    <(?P<urn>[^<>\s]*)>?
    | "{3}(?P<long>.*?)(?:"{3}|\Z)
    | "(?P<text>(?:[^"\\]|\\.)*)(?:"|\Z)
    | (?P<comment>\#[^\n]*)
    | (?P<mark>\^\^|[;,])
    | (?P<word>[^\s;,<>"^]+)
    """,
    re.VERBOSE | re.DOTALL,
)
"""A token that is not closed extends to the end, so that no text is read twice."""


def _facts(text: str) -> _Facts:
    """Read RDF's Turtle (w3.org/TR/turtle), as far as AFF4 uses it; the rest is skipped."""
    facts: dict[str, dict[str, list[str]]] = {}
    prefixes: dict[str, str] = {}
    base = ""

    def full(kind: str, value: str) -> str:
        if kind == "urn":
            return value if ":" in value else base.rstrip("/") + "/" + value.lstrip("/")
        if kind == "word" and ":" in value:
            prefix, _, name = value.partition(":")
            return prefixes.get(prefix, f"{prefix}:") + name
        return value

    for statement in _statements(text):
        if statement[0][1] in ("@prefix", "PREFIX") and len(statement) >= 3:
            prefixes[statement[1][1].partition(":")[0]] = statement[2][1]
            continue
        if statement[0][1] in ("@base", "BASE") and len(statement) >= 2:
            base = statement[1][1]
            continue
        of_subject = facts.setdefault(full(*statement[0]), {})
        key, is_type = "", False
        for kind, value in statement[1:]:
            if kind == "mark":
                is_type = value == "^^"
                key = "" if value == ";" else key
            elif is_type:  # the type or language of a literal
                is_type = False
            elif not key:
                word = full(kind, value)
                key = "type" if word == "a" else re.split(r"[#/]", word)[-1]
            else:
                of_subject.setdefault(key, []).append(full(kind, value))
    return facts


def _statements(text: str) -> Iterator[list[tuple[str, str]]]:
    """Each statement's tokens, as kind and value."""
    statement: list[tuple[str, str]] = []
    for match in _TOKENS.finditer(text):
        kind, value = match.lastgroup or "", match.group(match.lastgroup or 0)
        ends = kind == "word" and value.endswith(".")
        if ends:
            value = value[:-1]
        if kind != "comment" and (value or not ends) and (statement or kind != "mark"):
            statement.append((kind, value))
        if ends:
            if statement:
                yield statement
            statement = []
    if statement:
        yield statement


def _memory(path: Path, volume: _Volume, facts: _Facts) -> tuple[str, bool]:
    """The stream of physical memory, and whether it is a map."""
    maps = [urn for urn in facts if volume.member(urn, "map")]
    streams = [urn for urn, of in facts.items() if "chunkSize" in of or "chunk_size" in of]
    named = [
        urn
        for urn, of in facts.items()
        if any("memory" in value and value.endswith("physical") for value in of.get("category", ()))
    ]
    named += [urn for urn in facts if urn.endswith("/PhysicalMemory")]
    images = [value for of in facts.values() for value in of.get("dataStream", ())]
    for urn in (*named, *images, *maps):
        if urn in maps:
            return urn, True
    for urn in (*named, *images, *streams):
        if urn in streams:
            return urn, False
    held = ", ".join(name[:40] for name in volume.names()[:5])
    raise BadInputError(f"{path}, an AFF4 container, holds no image of memory, but {held}")


def _map(volume: _Volume, urn: str, remarks: list[str]) -> tuple[NDArray[np.void], list[str]]:
    """A map's entries, and the streams that they lead to."""
    member, index = volume.member(urn, "map"), volume.member(urn, "idx")
    if member is None or index is None:
        raise DamagedInputError(
            f"{volume.path}, an AFF4 container, has no list of its map's streams"
        )
    raw = volume.contents(member, _MAX_MAP)
    entries = np.frombuffer(raw[: len(raw) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY).copy()
    if rest := len(raw) % _ENTRY.itemsize:
        remarks.append(
            f"{volume.path} has a map with {counted(rest, 'byte')} behind its last whole entry,"
            " which were ignored"
        )
    return entries, volume.contents(index, _MAX_TEXT).decode("utf-8", "replace").split("\n")


def _whole(facts: _Facts, urn: str) -> tuple[NDArray[np.void], list[str]]:
    """The same for a stream without a map: the whole stream, from address 0 on."""
    size = _number(facts[urn], "size", "stream_size")
    return np.array([(0, size, 0, 0)], _ENTRY), [urn]


def _number(of: Mapping[str, Sequence[str]], *names: str) -> int:
    """A number under one of these names; 0 if there is none."""
    for name in names:
        for value in of.get(name, ()):
            if value.isdecimal() and len(value) < 20:
                return int(value)
    return 0


def _place(
    path: Path,
    volume: _Volume,
    facts: _Facts,
    entries: NDArray[np.void],
    targets: Sequence[str],
    remarks: list[str],
    *,
    lenient: bool,
) -> tuple["_Streams", NDArray[np.int64], NDArray[np.int64]]:
    """All streams of a map as one; each entry's place in it, -1 if missing; left-out frames.

    Entries are cut where their streams end.
    """
    streams = _Streams(path, volume)
    offsets = np.full(len(entries), -1, np.int64)
    numbers = np.unique(entries["target"]).tolist()
    used = [number for number in numbers if number < len(targets)]
    filled: dict[int, NDArray[np.bool_]] = {}
    left_out = NO_RUNS
    missing = [f"number {number}" for number in numbers if number >= len(targets)]
    overrun = 0
    for number in used:
        rows = entries["target"] == number
        urn = targets[number].strip()
        if match := _FILLED.fullmatch(urn):
            byte = int(match[3] or "0", 16)
            filled[byte] = filled.get(byte, np.zeros(len(entries), np.bool_)) | rows
        elif _NOT_READ.fullmatch(urn):
            left_out = np.concatenate((left_out, _frames(entries[rows])))
        elif urn in facts and (size := streams.add(urn, facts[urn])):
            begin = streams.end - size
            room = np.uint64(size) - np.minimum(entries["offset"][rows], np.uint64(size))
            overrun += int((entries["length"][rows] > room).sum())
            entries["length"][rows] = np.minimum(entries["length"][rows], room)
            inside = rows & (entries["length"] > 0)
            offsets[inside] = begin + entries["offset"][inside].astype(np.int64)
        else:
            missing.append(urn)
    for byte, rows in sorted(filled.items(), reverse=True):
        lengths = np.minimum(entries["length"][rows], np.uint64(1 << 44)).astype(np.int64)
        offsets[rows] = streams.fill(byte, int(lengths.sum())) + np.cumsum(lengths) - lengths
    if missing:
        sentence = f"{path}, an AFF4 container, lacks a stream of its map, {missing[0][:100]!r}"
        if not lenient or (offsets < 0).all():
            raise DamagedInputError(sentence)
        more = f", and {len(missing) - 1:,} more of its streams" if len(missing) > 1 else ""
        remarks.append(f"{sentence}{more}; the memory in it was left out")
    if overrun:
        sentence = f"{path}, an AFF4 container, has a map that leads behind the end of a stream"
        if not lenient or (offsets < 0).all():
            raise DamagedInputError(sentence)
        remarks.append(f"{sentence} in {counted(overrun, 'entry', 'entries')}; these were cut")
    streams.finish(lenient=lenient)
    return streams, offsets, left_out[np.argsort(left_out[:, 0], kind="stable")]


def _frames(entries: NDArray[np.void]) -> NDArray[np.int64]:
    """The whole frames of some entries, as `Dump.runs`."""
    limit = np.uint64(1 << 50)
    start = np.minimum(entries["address"], limit).astype(np.int64)
    end = start + np.minimum(entries["length"], limit).astype(np.int64)
    first = -(-start // PAGE_SIZE)
    count = end // PAGE_SIZE - first
    return np.stack((first[count > 0], count[count > 0]), axis=1)


@dataclass(frozen=True)
class _Stream:
    """The packing of a stream's chunks."""

    chunk_size: int
    unpack: Callable[[bytes, int], bytes] | None


class _Streams(ChunkedInside):
    """All chunks of some image streams, one after the other, and stretches of a repeated byte."""

    def __init__(self, path: Path, volume: _Volume) -> None:
        self.name = "AFF4"
        self.end = 0
        self._filled: list[tuple[int, int, int]] = []
        self._volume = volume
        self._container = path
        self._parts: list[NDArray[np.int64]] = []
        self._count = 0
        self._limit = min(MAX_RUNS, 1024 + file_size(volume.file) // _SMALLEST_CHUNK)
        self._streams: list[_Stream] = []

    def add(self, urn: str, of: Mapping[str, Sequence[str]]) -> int:
        """Add a stream; returns its size, 0 if it is not an image stream."""
        size = _number(of, "size", "stream_size")
        chunk = _number(of, "chunkSize", "chunk_size")
        in_bevy = _number(of, "chunksInSegment", "chunks_per_segment") or 1024
        if not size or not chunk:
            return 0
        fault = f"{self._container}: the stream {urn[:100]!r}, in the AFF4 container,"
        chunks = -(-size // chunk)
        self._count += chunks
        if chunk > _MAX_CHUNK or self._count > self._limit or chunks // in_bevy > self._limit:
            raise BadInputError(
                f"{fault} says that it has {size:,} bytes in chunks of {chunk:,}, for which the"
                " container is too small"
            )
        methods = [*of.get("compressionMethod", ()), *of.get("compression", ())]
        self._streams.append(_Stream(chunk, _unpacker(fault, methods[0] if methods else "")))
        for bevy, first in enumerate(range(0, chunks, in_bevy)):
            count = min(in_bevy, chunks - first)
            rows = self._bevy(urn, bevy, count, chunk)
            start = self.end + (first + np.arange(count)) * chunk
            stream = np.full(count, len(self._streams) - 1)
            self._parts.append(np.column_stack((start, rows, stream)))
        self.end += size
        return size

    def _bevy(self, urn: str, bevy: int, count: int, chunk: int) -> NDArray[np.int64]:
        """Place and size of the chunks of a bevy; -1 and 0 for missing chunks."""
        rows = np.full((count, 2), (-1, 0), np.int64)
        volume = self._volume
        member = volume.member(urn, f"{bevy:08d}")
        index = volume.member(urn, f"{bevy:08d}.index")
        old = volume.member(urn, f"{bevy:08d}/index")
        found = index or old
        if member is None or found is None or member.compress_type != zipfile.ZIP_STORED:
            return rows
        try:
            place, size = volume.place(member)
            raw = volume.contents(found, _MAX_INDEX)
        except DamagedInputError:
            return rows
        if index:
            entries = np.frombuffer(raw[: len(raw) // 12 * 12], _INDEX)
            start, length = entries["offset"], entries["size"].astype(np.int64)
            start = np.minimum(start, np.uint64(1 << 50)).astype(np.int64)
        else:
            start = np.frombuffer(raw[: len(raw) // 4 * 4], "<u4").astype(np.int64)
            if len(start) and start[0]:  # some indexes begin with the end of the first chunk
                start = np.concatenate(([0], start[:-1]))
            length = np.diff(start, append=size)
        sound = (length > 0) & (length <= 2 * chunk) & (start + length <= size)
        known = min(count, len(start))
        rows[:known][sound[:known]] = np.column_stack((start + place, length))[:known][
            sound[:known]
        ]
        return rows

    def fill(self, byte: int, length: int) -> int:
        """Add a stretch of a repeated byte behind all streams; returns its place. Zeros come last.

        BadInputError if it is longer than a machine's memory can be.
        """
        begin = self._filled[-1][1] if self._filled else self.end
        if begin + length > _FILLED_LIMIT + (1 + _FILLED_FOR_EACH) * self.end:
            raise BadInputError(
                f"{self._container} has a map that repeats one byte {length:,} times"
            )
        self._filled.append((begin, begin + length, byte))
        return begin

    def finish(self, *, lenient: bool) -> None:
        """Prepare for reading, after everything was added."""
        rows = np.concatenate(self._parts) if self._parts else np.zeros((0, 4), np.int64)
        self._chunks: NDArray[np.int64] = rows
        super().__init__(self._container, rows[:, 0], self.end)
        self.size = self._filled[-1][1] if self._filled else self.end
        lost = int(np.count_nonzero(rows[:, 1] < 0))
        if lost and not lenient:
            raise DamagedInputError(
                f"{self._container}, an AFF4 container, is incomplete: {lost:,} chunks are missing"
            )
        if lenient:
            self.leave_out_broken()

    def unpack(self, number: int, length: int) -> bytes:
        """Unpack a chunk."""
        _, place, size, stream = self._chunks[number].tolist()
        if place < 0:
            raise DamagedInputError(f"{self.path} lacks a chunk")
        raw = read_at(self._file, size, place)
        if len(raw) < size:
            raise BadInputError(f"{self.path} got shorter while it was read")
        way = self._streams[stream]
        if size == way.chunk_size or way.unpack is None:
            return raw[:length]
        try:
            return bytes(way.unpack(raw, way.chunk_size)[:length])
        except Exception as error:  # each library has exceptions of its own
            raise DamagedInputError(
                f"{self.path}: the chunk at byte {place:,} cannot be unpacked: {error}"
            ) from error

    def read_into(self, target: memoryview, offset: int) -> None:
        """Read the streams, and the stretches behind them."""
        there = max(0, min(len(target), self.end - offset))
        if there:
            super().read_into(target[:there], offset)
        for begin, end, byte in self._filled:
            start, stop = max(begin - offset, there), min(end - offset, len(target))
            if start < stop:
                target[start:stop] = bytes([byte]) * (stop - start)

    def data(self, position: int) -> tuple[int, int]:
        """The next stretch that is not a stretch of zeros."""
        end = self.size
        if self._filled and self._filled[-1][2] == 0:
            end = self._filled[-1][0]
        return (position, end) if position < end else (self.size, self.size)


def _unpacker(fault: str, method: str) -> Callable[[bytes, int], bytes] | None:
    """The function that unpacks chunks of this packing (AFF4 Standard, 3.3; pyaff4, lexicon.py)."""
    if not method or method.endswith(("stored", "NullCompressor")):
        return None
    if "rfc1950" in method or "rfc1951" in method:
        bits = 15 if "rfc1950" in method else -15
        return lambda data, limit: zlib.decompressobj(bits).decompress(data, limit)
    import cramjam

    if "snappy" in method:
        return lambda data, limit: _limited(cramjam.snappy.decompress_raw_into, data, limit)
    if "lz4" in method:
        return lambda data, limit: _limited(cramjam.lz4.decompress_block_into, data, limit)
    raise BadInputError(f"{fault} uses an unknown compression: {method[:80]!r}")


def _limited(unpack: Callable[[bytes, bytearray], int], data: bytes, limit: int) -> bytes:
    """Unpack at most as many bytes as a chunk has."""
    room = bytearray(limit)
    return bytes(room[: unpack(data, room)])
