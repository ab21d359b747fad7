"""The kernel's drivers by its list of loaded modules (PsLoadedModuleList), found without symbols.

The list's head lies in the writable part of an image. Its entries (KLDR_DATA_TABLE_ENTRY, ntldr.h)
hold the base and the size of an image, and two texts. The entries themselves vote on the offset of
each member, and each entry is compared with the header of its image. If the list is broken, all of
the kernel's memory is searched for further entries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.base import ahead as in_order
from memory_visualizer.paging import is_held
from memory_visualizer.paging.linkedlist import joined_links
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.inventory import Module
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.kernelimages import LARGEST_IMAGE, Images, data_pages, image_sizes
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.ranges import Ranges

_WORDS = 16
"""Words of an entry that are examined."""
_VOTERS = 256
_FRAMES_AT_ONCE, _FRAMES_IN_PART = 512, 2048
_BELIEVED = 3 / 4
"""The share of all images that a whole list must name to end the search for other lists."""
_LONGEST_NAME = 1 << 10
"""Bytes of a path; the paths of drivers have some hundred."""
_MAX_LISTS = 64
"""The most lists, with a first entry that names an image, that are tried."""


@dataclass(frozen=True)
class EntryForm:
    """Offsets of the members of an entry, in bytes from its links."""

    base: int
    size: int
    path: int
    name: int


@dataclass(frozen=True)
class FoundModules:
    """The modules in the order of their list, and sentences on missing or doubtful data."""

    modules: tuple[Module, ...]
    remarks: tuple[str, ...] = ()


def find_modules(
    dump: Dump, kernel: KernelMemory, images: Images, lowest: int
) -> FoundModules | None:
    """Find the list and read its entries; None if nothing is found.

    `lowest` is the first address of the kernel's half.
    """
    return _Finder(dump, kernel, images, lowest).find()


class _Finder:
    """The search in one dump."""

    def __init__(self, dump: Dump, kernel: KernelMemory, images: Images, lowest: int) -> None:
        self._dump = dump
        self._kernel = kernel
        self._images = images
        self._lowest = lowest
        self._limit = dump.budget.limit("module")

    def find(self) -> FoundModules | None:
        """See find_modules."""
        entries, is_whole = self._longest_list()
        form = self._form(np.array(entries, np.uint64))
        remarks = []
        if not is_whole:
            scattered = self._scattered(form, set(entries))
            many = counted(len(scattered), "entry", "entries")
            remarks.append(
                f"the list of the kernel's modules is broken: {many} beside it"
                f" {'was' if len(scattered) == 1 else 'were'} found by their form"
            )
            entries += scattered
        self._dump.budget.note("module", len(entries) - self._limit)
        modules, doubtful = self._modules(form, np.array(entries[: self._limit], np.uint64))
        if doubtful:
            many = counted(doubtful, "module")
            remarks.append(
                f"{many} of the kernel contradict{'s' if doubtful == 1 else ''} the header of"
                f" {'its image' if doubtful == 1 else 'their images'}, or cannot be read as a whole"
            )
        return FoundModules(tuple(modules), tuple(remarks)) if modules else None

    # The list

    def _longest_list(self) -> tuple[list[int], bool]:
        """The entries of the list that names the most images, and whether it is whole."""
        best: tuple[list[int], bool] = [], False
        best_count = 0
        met: set[int] = set()
        for head in self._heads():
            if head in met:  # the list was read from another head on
                continue
            entries, is_whole = joined_links(
                self._kernel, head, lowest=self._lowest, limit=self._limit
            )
            met.update(entries)
            count = self._named_images(np.array(entries, np.uint64))
            if count > best_count:
                best, best_count = (entries, is_whole), count
            if is_whole and count >= _BELIEVED * len(self._images.start):
                break
        return best

    def _heads(self) -> Iterator[int]:
        """Addresses of links in data of images whose neighbour links back and names an image.

        Of each part of the data, links that do not name an image themselves come first: the others
        may be entries.
        """
        budget = self._dump.budget
        frames, virtual = data_pages(self._dump, self._kernel, self._images)
        held = is_held(self._dump, frames)
        frames, virtual = frames[held], virtual[held]
        likely, left = budget.limit("list of the kernel"), _MAX_LISTS
        for start in range(0, len(frames), _FRAMES_IN_PART):
            part = slice(start, start + _FRAMES_IN_PART)
            heads = self._likely_heads(frames[part], virtual[part])
            budget.refuse("list of the kernel", len(heads) - likely)
            heads, likely = heads[:likely], max(likely - len(heads), 0)
            heads = self._proven(heads)
            budget.refuse("list of modules", len(heads) - left)
            heads, left = heads[:left], max(left - len(heads), 0)
            yield from heads.tolist()

    def _likely_heads(
        self, frames: NDArray[np.int64], virtual: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Addresses in these frames, of which the addresses are given, that may hold links."""
        word, lowest = self._kernel.word, np.uint64(self._lowest)

        def look(start: int) -> NDArray[np.uint64]:
            pages = self._dump.read_frames(frames[start : start + _FRAMES_AT_ONCE])
            words = pages.view(f"<u{word}")
            # Few words are addresses of the kernel; only these need further tests.
            is_address = words >= words.dtype.type(lowest)
            is_address[:, -1] = False
            place = np.flatnonzero(is_address)
            row, column = np.divmod(place, words.shape[1])
            ahead, behind = (
                words.ravel()[place + step].astype(np.uint64, copy=False) for step in (0, 1)
            )
            own = virtual[start + row] + column.astype(np.uint64) * np.uint64(word)
            likely = (ahead != own) & (behind >= lowest)
            likely &= (ahead | behind) % np.uint64(word) == 0
            found: NDArray[np.uint64] = own[likely]
            return found

        batches = in_order(look, range(0, len(frames), _FRAMES_AT_ONCE))
        return np.concatenate([np.empty(0, np.uint64), *batches])

    def _proven(self, heads: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The heads whose neighbour links back and names an image, in the order to try them."""
        kernel, word = self._kernel, self._kernel.word
        ahead, behind = (kernel.numbers(heads + np.uint64(step))[0] for step in (0, word))
        back, _ = kernel.numbers(ahead + np.uint64(word))
        heads, ahead, behind = (column[back == heads] for column in (heads, ahead, behind))
        named = self._name_image(ahead).any(axis=1) | self._name_image(behind).any(axis=1)
        heads = heads[named]
        return heads[np.argsort(self._name_image(heads).any(axis=1), kind="stable")]

    def _words(self, entries: NDArray[np.uint64]) -> NDArray[np.uint64]:
        kernel = self._kernel
        return kernel.words(kernel.read_partly(entries, _WORDS * kernel.word))

    def _name_image(self, entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which words of entries, behind the links, hold the base of an image."""
        if not len(entries) or not len(self._images.start):
            return np.zeros((len(entries), _WORDS), bool)
        words = self._words(entries)
        starts = self._images.start
        row = np.minimum(np.searchsorted(starts, words), len(starts) - 1)
        named: NDArray[np.bool_] = starts[row] == words
        named[:, :2] = False
        return named

    def _named_images(self, entries: NDArray[np.uint64]) -> int:
        """The number of images that a list names at the same offset of its entries."""
        return int(np.count_nonzero(self._name_image(entries), axis=0).max(initial=0))

    # The form of the entries

    def _form(self, entries: NDArray[np.uint64]) -> EntryForm:
        """The offsets of the members, by the votes of entries; the usual offsets without votes.

        All known versions have words 6, 8, 9 and 11 (Volatility 2's profiles and later symbols).
        """
        word = self._kernel.word
        entries = entries[:: -(-len(entries) // _VOTERS) or 1]
        named = self._name_image(entries)
        if not named.any():
            return EntryForm(6 * word, 8 * word, 9 * word, 11 * word)
        base = int(np.argmax(np.count_nonzero(named, axis=0))) * word
        raw = self._kernel.read_partly(entries, _WORDS * word)
        numbers = raw.view("<u4")
        bases = self._words(entries)[:, base // word]
        fits = numbers == self._images.sizes(bases)[:, None].astype(np.uint32)
        fits &= np.logical_or.reduce(named, axis=1)[:, None]
        fits[:, : base // 4] = False
        size = int(np.argmax(np.count_nonzero(fits, axis=0))) * 4 if fits.any() else base + 2 * word
        texts = [
            place
            for place in range(2 * word, (_WORDS - 1) * word, word)
            if 4 * np.count_nonzero(self._are_texts(raw, place)) > len(entries)
        ]
        # Texts may be paged out: then the usual offsets are used.
        path, name = texts[:2] if len(texts) > 1 else (base + 3 * word, base + 5 * word)
        return EntryForm(base, size, path, name)

    def _are_texts(self, raw: NDArray[np.uint8], place: int) -> NDArray[np.bool_]:
        """Which entries have a counted text there (UNICODE_STRING, ntdef.h)."""
        word = self._kernel.word
        lengths = np.ascontiguousarray(raw[:, place : place + 4]).view("<u2")
        buffers = self._kernel.words(raw)[:, place // word + 1]
        likely: NDArray[np.bool_] = (lengths[:, 0] > 0) & (lengths[:, 0] % 2 == 0)
        likely &= (lengths[:, 1] >= lengths[:, 0]) & (buffers >= np.uint64(self._lowest))
        likely &= lengths[:, 0] <= _LONGEST_NAME
        first, known = self._kernel.numbers(np.where(likely, buffers, np.uint64(0)), 2)
        likely &= known & (first >= ord(" "))
        return likely

    # Entries beside the list

    def _scattered(self, form: EntryForm, known: set[int]) -> list[int]:
        """Entries outside of the list: they name an image, its size, and a text."""
        kernel, dump, word = self._kernel, self._dump, self._kernel.word
        starts = self._images.start
        if not len(starts):
            return []
        found: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        frames = kernel.all_frames()
        for at in range(0, len(frames), _FRAMES_AT_ONCE):
            some = frames[at : at + _FRAMES_AT_ONCE]
            words = dump.read_frames(some).view(f"<u{word}").ravel()
            # Below the first image, the difference wraps around.
            near = words - words.dtype.type(starts[0]) <= words.dtype.type(starts[-1] - starts[0])
            place = np.flatnonzero(near)
            values = words[place].astype(np.uint64)
            place = place[starts[np.searchsorted(starts, values)] == values]
            row, inside = np.divmod(place * word, PAGE_SIZE)
            found.append(kernel.virtual(some[row]) + inside.astype(np.uint64))
        entries = np.concatenate(found)
        entries = entries[entries >= np.uint64(self._lowest)] - np.uint64(form.base)
        entries = dump.budget.take("possible module", distinct(entries))
        entries = entries[self._are_entries(form, entries)]
        taken = set(kernel.numbers(np.array([*known], np.uint64) + np.uint64(form.base))[0])
        scattered = []
        bases, _ = kernel.numbers(entries + np.uint64(form.base))
        for entry, base in zip(entries.tolist(), bases.tolist(), strict=True):
            if entry not in known and base not in taken:
                taken.add(base)
                scattered.append(entry)
        return scattered

    def _are_entries(self, form: EntryForm, entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
        kernel = self._kernel
        if not len(entries):
            return np.zeros(0, bool)
        bases, known = kernel.numbers(entries + np.uint64(form.base))
        sizes, _ = kernel.numbers(entries + np.uint64(form.size), 4)
        fit = known & (sizes > 0)
        fit &= _whole(sizes) == self._images.sizes(bases)
        raw = kernel.read_partly(entries, _WORDS * kernel.word)
        return fit & self._are_texts(raw, form.name)

    # The modules

    def _modules(self, form: EntryForm, entries: NDArray[np.uint64]) -> tuple[list[Module], int]:
        """The modules of entries, and the number of doubtful ones.

        An image's header decides on its size; without a header, the entry does. An entry that
        contradicts the header keeps its addresses only if no other module has them.
        """
        kernel = self._kernel
        if not len(entries):
            return [], 0
        bases, known = kernel.numbers(entries + np.uint64(form.base))
        sizes = _whole(kernel.numbers(entries + np.uint64(form.size), 4)[0])
        usable = known & (bases >= np.uint64(self._lowest)) & (bases % np.uint64(PAGE_SIZE) == 0)
        headers, held = image_sizes(self._dump, kernel, np.where(usable, bases, np.uint64(0)))
        has_header = usable & (headers > 0)
        agrees = np.where(has_header, headers == sizes, ~held) & usable & (sizes > 0)
        agrees &= sizes <= LARGEST_IMAGE
        names, paths = self._texts(form.name, entries), self._texts(form.path, entries)
        size = np.where(has_header, headers, np.where(sizes <= LARGEST_IMAGE, sizes, 0))
        size[~usable] = 0
        ranges = _apart(bases, size, agrees)
        agrees &= np.isin(np.arange(len(entries)), [*ranges])
        modules: list[Module] = []
        doubtful = 0
        left = self._dump.frame_count  # modules cannot have more pages than the machine
        for row, entry in enumerate(entries.tolist()):
            name = names[row] or paths[row].rpartition("\\")[2]
            if not name and row not in ranges:
                doubtful += 1
                continue
            doubtful += not agrees[row] or not name
            frames, left = self._frames(ranges.get(row, ()), left)
            modules.append(
                Module(
                    name or f"[{int(bases[row]):#x}]",
                    ranges.get(row, ()),
                    frames,
                    paths[row],
                    entry,
                )
            )
        return modules, doubtful

    def _texts(self, place: int, entries: NDArray[np.uint64]) -> list[str]:
        """The counted text of each entry; empty if there is none."""
        texts = [""] * len(entries)
        kernel = self._kernel
        raw = kernel.read_partly(entries, _WORDS * kernel.word)
        rows = np.flatnonzero(self._are_texts(raw, place))
        buffers = kernel.words(raw)[rows, place // kernel.word + 1]
        lengths = np.ascontiguousarray(raw[rows, place : place + 2]).view("<u2")[:, 0]
        letters = kernel.read_partly(buffers, int(lengths.max(initial=0)))
        for row, text, length in zip(rows.tolist(), letters, lengths.tolist(), strict=True):
            told = text[:length].tobytes().decode("utf-16-le", "backslashreplace")
            texts[row] = told.partition("\0")[0]
        return texts

    def _frames(self, ranges: Sequence[tuple[int, int]], left: int) -> tuple[tuple[int, ...], int]:
        """The held frames behind some addresses; and the number of pages that may still follow."""
        frames: list[int] = []
        for start, end in ranges:
            pages = (end - start) // PAGE_SIZE
            self._dump.budget.refuse("page of a module", pages - left)
            pages = min(pages, max(left, 0))
            left -= pages
            addresses = np.uint64(start) + np.arange(pages, dtype=np.uint64) * np.uint64(PAGE_SIZE)
            behind = self._kernel.frames(addresses)
            frames += distinct(behind[is_held(self._dump, behind)]).tolist()
        return tuple(frames), left


def _apart(
    bases: NDArray[np.uint64], sizes: NDArray[np.int64], agrees: NDArray[np.bool_]
) -> dict[int, tuple[tuple[int, int], ...]]:
    """The addresses of each module by its row; a module that overlaps another has none.

    Modules that agree with their images come first.
    """
    taken = Ranges()
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    for row in np.argsort(~agrees, kind="stable").tolist():
        start, size = int(bases[row]), int(sizes[row])
        if size > 0 and taken.add(start, start + size):
            found[row] = ((start, start + size),)
    return found


def _whole(sizes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Sizes in whole pages."""
    return (sizes.astype(np.int64) + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
