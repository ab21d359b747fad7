"""AFF4 containers, written from the AFF4 Standard, and the draft that older WinPmem wrote."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import cramjam

from tests.synth.containers import Pieces

VOLUME = "aff4://685e15cc-d0fb-4dbc-ba47-48117fc77044"
_OTHER = "aff4://c215ba20-5648-4209-a793-1f918c723610"


def _deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


COMPRESSIONS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "none": ("", bytes),
    "zlib": ("https://www.ietf.org/rfc/rfc1950.txt", zlib.compress),
    "deflate": ("https://tools.ietf.org/html/rfc1951", _deflate),
    "snappy": (
        "http://code.google.com/p/snappy/",
        lambda data: bytes(cramjam.snappy.compress_raw(data)),
    ),
    "lz4": (
        "https://code.google.com/p/lz4/",
        lambda data: bytes(cramjam.lz4.compress_block(data, store_size=False)),
    ),
}


def write_aff4(
    path: Path,
    pieces: Pieces,
    *,
    compression: str = "snappy",
    chunk: int = 32768,
    in_bevy: int = 4,
    draft: bool = False,
    own_name: bool = False,
    filled: Pieces = (),
    not_read: Pieces = (),
) -> None:
    """A map of physical memory, whose pieces follow one another in one stream of chunks.

    `filled` are pieces of a repeated byte, which the map leads to a symbolic stream; `not_read` are
    pieces that could not be read. `own_name` gives the stream a name that does not begin with the
    volume's. `draft` writes the format's draft, with its names and its indexes.
    """
    method, pack = COMPRESSIONS[compression]
    memory, data = (
        f"{VOLUME}/PhysicalMemory",
        _OTHER if own_name else f"{VOLUME}/PhysicalMemory/data",
    )
    contents = b"".join(piece for _, piece in pieces)
    names = [data]
    entries = b""
    offset = 0
    for address, piece in pieces:
        entries += struct.pack("<QQQI", address, len(piece), offset, 0)
        offset += len(piece)
    for address, piece in filled:
        stream = (
            "aff4:Zero"
            if not any(piece)
            else f"http://aff4.org/Schema#SymbolicStream{piece[0]:02X}"
        )
        names += [stream] if stream not in names else []
        entries += struct.pack("<QQQI", address, len(piece), address, names.index(stream))
    for address, piece in not_read:
        names += ["aff4:UnreadableData"] if "aff4:UnreadableData" not in names else []
        entries += struct.pack("<QQQI", address, len(piece), 0, len(names) - 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = VOLUME.encode()
        archive.writestr("container.description", VOLUME)
        archive.writestr("version.txt", "major=1\nminor=0\ntool=tests\n")
        folder = quote(data, safe="") if own_name else "PhysicalMemory/data"
        for bevy, start in enumerate(range(0, len(contents), chunk * in_bevy)):
            part = contents[start : start + chunk * in_bevy]
            _write_bevy(archive, f"{folder}/{bevy:08d}", part, chunk, pack, draft=draft)
        archive.writestr("PhysicalMemory/map", entries)
        archive.writestr("PhysicalMemory/idx", "\n".join(names) + "\n")
        turtle = _draft if draft else _standard
        text = turtle(memory, data, len(contents), chunk, in_bevy, method)
        archive.writestr("information.turtle", text, zipfile.ZIP_DEFLATED)


def _write_bevy(
    archive: zipfile.ZipFile,
    name: str,
    data: bytes,
    chunk: int,
    pack: Callable[[bytes], bytes],
    *,
    draft: bool,
) -> None:
    bevy, index = bytearray(), b""
    for start in range(0, len(data), chunk):
        part = data[start : start + chunk].ljust(chunk, b"\0")  # the last chunk is padded
        packed = pack(part)
        packed = packed if len(packed) < chunk - 16 else part
        index += (
            struct.pack("<I", len(bevy)) if draft else struct.pack("<QI", len(bevy), len(packed))
        )
        bevy += packed
    archive.writestr(name, bytes(bevy))
    archive.writestr(f"{name}/index" if draft else f"{name}.index", index, zipfile.ZIP_DEFLATED)


def _standard(memory: str, data: str, size: int, chunk: int, in_bevy: int, method: str) -> str:
    packed = f"    aff4:compressionMethod <{method}> ;\n" if method else ""
    return f"""@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix aff4: <http://aff4.org/Schema#> .
@prefix memory: <http://aff4.org/Schema#memory/> .

# made by nobody; see "above"
<{VOLUME}>
    a aff4:ZipVolume ;
    aff4:contains <{memory}> , <{data}> .

<{memory}>
    a aff4:Map , aff4:ContiguousImage ;
    aff4:category memory:physical ;
    aff4:notes \"\"\"says "hello". twice;\"\"\" ;
    aff4:stored <{VOLUME}> .

<{data}>
    rdf:type aff4:ImageStream ;
    aff4:chunkSize "{chunk}"^^xsd:int ;
    aff4:chunksInSegment "{in_bevy}"^^xsd:int ;
{packed}    aff4:size "{size}"^^xsd:long .
"""


def _draft(memory: str, data: str, size: int, chunk: int, in_bevy: int, method: str) -> str:
    relative = memory.removeprefix(VOLUME)
    return f"""@base <{VOLUME}> .
@prefix aff4: <http://aff4.org/Schema#> .
@prefix memory: <http://aff4.org/Schema#memory/> .

<{relative}>
    aff4:category memory:physical;
    a aff4:map.

<{data}> a aff4:image; aff4:chunk_size {chunk}; aff4:chunks_per_segment {in_bevy};
    aff4:compression <{method or "http://aff4.org/Schema#compression/stored"}>;
    aff4:stream_size {size} .
"""
