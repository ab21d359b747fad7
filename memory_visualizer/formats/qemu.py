"""QEMU's migration stream: of `migrate` into a file, of libvirt's `virsh save`, of Proxmox.

The format is that of QEMU's migration/savevm.c and ram.c (version 3 of the stream, 4 of the memory,
since 2010): sections, of which "ram" comes in many parts, with eight bytes before each page. A page
is stored unchanged, as a single repeated byte, packed with zlib, or as the difference from its last
state (XBZRLE); its last state counts. With the capability mapped-ram, as in libvirt's format
"sparse", pages have places of their own, and bitmaps tell which are present.

The stream holds blocks of memory by name. It does not tell their physical addresses, but names the
machine's type: see qemulayout.py. libvirt puts a header before the stream: see libvirt.py.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import runs_without
from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import libvirt, magics
from memory_visualizer.formats.base import NO_RUNS, runs_of
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.files import read_at
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.placed import FILLED, SPECIAL, PlacedDump
from memory_visualizer.formats.qemulayout import Part, frames_of, layout_of
from memory_visualizer.formats.qemustream import (
    XBZRLE,
    Contents,
    CutError,
    Stream,
    read_stream,
)
from memory_visualizer.formats.reach import last_of_each
from memory_visualizer.units import PAGE_SIZE

_TWO_BYTES = 0x80
"""From here on, a byte is the lower half of a length in two bytes."""


@dataclass(frozen=True)
class _Made:
    """The components of a page: a base page, and its changes."""

    base: int
    """The place of the base as in `PlacedDump`; if it is SPECIAL, `packed` has it."""
    packed: tuple[int, int]
    """Byte of the file and size of a page packed with zlib."""
    changes: Sequence[tuple[int, int]]
    """Byte of the file and size of each piece of XBZRLE."""


class QemuDump(PlacedDump):
    """The memory in a migration stream."""

    _made: Sequence[_Made] = ()

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Find all pages.

        BadInputError when the file cannot be read or holds no memory; DamagedInputError, unless
        `lenient`, when a part is missing or broken.
        """
        path = as_path(path)
        remarks: list[str] = []
        contents = Contents()
        with reading(path), path.open("rb", buffering=0) as file:
            start, format_ = _begin(path, file, lenient, remarks)
            reader = Stream(path, file, start)
            complete = False
            try:
                read_stream(reader, contents)
                complete = True
            except CutError:
                at = f"byte {reader.position:,}"
                if not contents.page:
                    raise BadInputError(f"{path} ends before the machine's memory") from None
                what = f"ends too early, at {at}" if reader.at_end() else f"is invalid at {at}"
                report_damage(
                    f"{path}, a QEMU stream, {what}",
                    remarks,
                    lenient=lenient,
                    then="the part before it was read",
                )
            parts = layout_of(path, file, contents, remarks)
        frame, row = frames_of(contents, parts)
        frame, place, made = _last_states(path, contents, frame, row, lenient, remarks)
        left_out = _left_out(parts, frame) if complete else NO_RUNS
        dump = cls(path, format_, frame, place, left_out=left_out, remarks=remarks)
        dump._made = made
        return dump._without_broken_pages() if lenient and made else dump

    def _special(self, file: FileIO, number: int) -> bytes:
        made = self._made[number]
        if made.base <= SPECIAL:
            page = bytearray(self._unzipped(file, *made.packed))
        elif made.base >= 0:
            page = bytearray(self._read(file, PAGE_SIZE, made.base))
        else:
            page = bytearray([FILLED - made.base]) * PAGE_SIZE
        for at, size in made.changes:
            if not _change(page, self._read(file, size, at)):
                raise DamagedInputError(f"{self.path}: a change at byte {at:,} is invalid")
        return bytes(page)

    def _unzipped(self, file: FileIO, at: int, size: int) -> bytes:
        packed = self._read(file, size, at)
        try:
            page = zlib.decompressobj().decompress(packed, PAGE_SIZE)
        except zlib.error:
            page = b""
        if len(page) != PAGE_SIZE:
            raise DamagedInputError(f"{self.path}: the page at byte {at:,} cannot be unpacked")
        return page

    def _without_broken_pages(self) -> Self:
        """Make all pages that have to be made; leave out broken ones."""
        sound = np.ones(len(self._made), np.bool_)
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for number in range(sound.size):
                try:
                    self._special(file, number)
                except DamagedInputError:
                    sound[number] = False
        if sound.all():
            return self
        special = self._place <= SPECIAL
        kept = ~special
        kept[special] = sound[SPECIAL - self._place[special]]
        lost = f"{np.count_nonzero(~sound):,} broken pages of {self.path} were left out"
        remarks = [*self.remarks, lost]
        if not kept.any():
            raise BadInputError(f"{self.path} holds no page of memory that can be read")
        dump = type(self)(
            self.path,
            self.format,
            self._frame[kept],
            self._place[kept],
            left_out=self.left_out_runs,
            remarks=remarks,
        )
        dump._made = self._made
        return dump.instead_of(self)


def _begin(path: Path, file: FileIO, lenient: bool, remarks: list[str]) -> tuple[int, str]:
    """The place of the stream, and the format's name."""
    head = read_at(file, libvirt.HEADER_SIZE, 0)
    if head.startswith(magics.QEMU):
        return 0, "QEMU migration stream"
    header = libvirt.header_of(head)
    if header is None or read_at(file, len(magics.QEMU), header.start) != magics.QEMU:
        raise BadInputError(f"{path} is a machine saved by libvirt, but without QEMU's stream")
    if header.is_part:
        sentence = f"{path} is a machine that libvirt did not finish saving"
        report_damage(sentence, remarks, lenient=lenient)
    return header.start, "libvirt save"


def _change(page: bytearray, changes: bytes) -> bool:
    """Apply XBZRLE's changes (QEMU, docs/xbzrle.txt); returns whether this was possible.

    Lengths of equal and of changed bytes alternate, each in one or two bytes (LEB128); the changed
    bytes follow their length. There may be thousands in a page, so no function is called for each.
    """
    at = position = 0
    try:
        while position < len(changes):
            equal = changes[position]
            position += 1
            if equal >= _TWO_BYTES:
                equal = equal - _TWO_BYTES | changes[position] << 7
                position += 1
            length = changes[position]
            position += 1
            if length >= _TWO_BYTES:
                length = length - _TWO_BYTES | changes[position] << 7
                position += 1
            at += equal
            end = at + length
            piece = changes[position : position + length]
            if len(piece) < length or end > PAGE_SIZE:
                return False
            page[at:end] = piece
            position += length
            at = end
    except IndexError:  # the last length is broken
        return False
    return True


def _left_out(parts: Sequence[Part], frame: NDArray[np.int64]) -> NDArray[np.int64]:
    """RAM that QEMU did not send because the guest reported it as free; as Dump.runs."""
    ram = np.array(sorted((part.frame, part.count) for part in parts), np.int64)
    return runs_without(ram, runs_of(frame))


def _last_states(
    path: Path,
    contents: Contents,
    frame: NDArray[np.int64],
    row: NDArray[np.intp],
    lenient: bool,
    remarks: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[_Made]]:
    """The last state of each frame: PFN, place, and the pages that have to be made."""
    last = last_of_each(path, frame, lenient=lenient, remarks=remarks)
    place = np.frombuffer(contents.place, np.int64)[row]
    made: list[_Made] = []
    places = place[last]
    [special] = np.nonzero(places <= SPECIAL)
    if special.size:
        order = np.argsort(frame, kind="stable")  # the states of a frame are neighbours
        ends = np.searchsorted(frame[order], frame[last[special]], side="right")
        for number, end in zip(special.tolist(), ends.tolist(), strict=True):
            pfn, at, changes = frame[last[number]], end - 1, []
            while at >= 0 and frame[order[at]] == pfn:
                state = int(place[order[at]])
                kind, begin, size = (
                    contents.packed[SPECIAL - state] if state <= SPECIAL else (0, 0, 0)
                )
                if kind != XBZRLE:
                    break
                changes.append((begin, size))
                at -= 1
            else:
                state, begin, size = FILLED, 0, 0  # a page that was not sent before was all zeros
            places[number] = SPECIAL - len(made)
            made.append(_Made(state, (begin, size), changes[::-1]))
    return frame[last], places, made
