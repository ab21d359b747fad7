"""Hits of YARA rules in memory: where each rule matches, and who owns the page.

yara-x, by the makers of YARA, compiles the rules and scans. This module gives it memory in pieces:
each run of a process's addresses, or each run of page frames. A condition is evaluated within a
piece of at most 16 MiB. Pieces overlap, so that no match of up to 64 KiB is cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes, distinct
from memory_visualizer.errors import BadInputError, MissingLibraryError, reading
from memory_visualizer.formats.base import Progress
from memory_visualizer.leads.processpages import ProcessPages
from memory_visualizer.packages import how_to_get
from memory_visualizer.printable import counted, printable
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

PIECE_FRAMES = 4096
"""Frames of a piece: 16 MiB."""
TAIL_FRAMES = 16
"""Frames behind a piece that are scanned with it (its tail)."""
MAX_OF_RULE, MAX_HITS = 1000, 100_000
"""The most hits of a rule, and of all rules, that are kept; all others are counted."""
_MAX_IN_PIECE = 10_000
"""The most matches of a pattern in a piece that are counted."""
_MAX_PAGES = 1 << 22
"""The most pages with hits that are kept; a page counts once for each rule."""
_SECONDS = 30
"""Timeout for a piece; sound rules take some hundredths of a second."""
_MAX_TIMEOUTS = 4
"""After this many timeouts the scan ends."""


class RulesError(BadInputError):
    """Rules do not compile; `details` has the lines of the compiler's message."""

    def __init__(self, path: Path, details: str) -> None:
        super().__init__(f"{path} does not compile")
        self.details = details


@dataclass(frozen=True)
class Hit:
    """A place where a pattern of a rule matches."""

    rule: int
    """Index in Hits.rules."""
    pattern: str
    """Name of the pattern, such as ``$a``; empty for a rule that matches without a pattern."""
    frame: int
    offset: int
    """Offset of the first byte in its page."""
    length: int
    """Bytes."""
    process: int = -1
    """Index in Snapshot.processes: the process in which it was found, or else the first process
    that has the page. -1 if no process has it."""
    virtual: int | None = None
    """Virtual address of the first byte in this process."""
    owners: int = 0
    """How many processes have the page."""

    @property
    def physical(self) -> int:
        """Physical address of the first byte."""
        return self.frame * PAGE_SIZE + self.offset


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule with hits."""

    name: str
    file: str
    """Name of the file with the rule."""
    count: int
    """The number of hits, including hits that are not kept."""
    is_exact: bool
    """Whether `count` is exact; otherwise there are more."""
    frames: NDArray[np.int64]
    """The page frames with bytes of hits, ascending."""


@dataclass(frozen=True, eq=False)
class Hits:
    """The hits of rules in memory."""

    rules: tuple[Rule, ...]
    """The rules with hits, by file and name."""
    found: tuple[Hit, ...]
    """In the order of the scan: by physical address, or by process and virtual address."""
    scanned: int
    """Bytes that were scanned; pages that several processes share count for each."""
    remarks: tuple[str, ...] = ()
    """Sentences on what was left out."""

    @property
    def frames(self) -> NDArray[np.int64]:
        """The page frames with bytes of any hit, ascending."""
        return distinct(np.concatenate([np.empty(0, np.int64), *(r.frames for r in self.rules)]))


class Rules:
    """Compiled rules."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Compile the rules in some files, each in a namespace of its own.

        BadInputError if a file cannot be read; RulesError if it does not compile;
        MissingLibraryError if yara-x is not installed.
        """
        yara_x = _library()
        compiler = yara_x.Compiler()
        self._names: list[str] = []
        for number, path in enumerate(paths):
            with reading(path):
                contents = path.read_bytes()
            try:
                text = contents.decode("utf-8")
            except UnicodeDecodeError:
                raise BadInputError(f"{path} has no YARA rules: it is not UTF-8 text") from None
            compiler.new_namespace(str(number))
            compiler.add_include_dir(str(path.absolute().parent))
            try:
                compiler.add_source(text, path.name)
            except yara_x.CompileError as error:
                raise RulesError(path, str(error)) from None
            self._names.append(path.name)
        self._rules = compiler.build()

    def scanner(self) -> Any:
        """A new scanner with these rules, for the thread that makes it."""
        scanner = _library().Scanner(self._rules)
        scanner.max_matches_per_pattern(_MAX_IN_PIECE)
        scanner.set_timeout(_SECONDS)
        return scanner

    def file_of(self, namespace: str) -> str:
        """The name of the file whose rules are in a namespace."""
        return self._names[int(namespace)]


def _library() -> Any:
    try:
        import yara_x
    except ImportError:
        raise MissingLibraryError(
            f"YARA rules need yara-x, which is not installed: {how_to_get('yara-x')}"
        ) from None
    return yara_x


@dataclass(frozen=True, eq=False)
class _Piece:
    """Pages that follow one another, physically or in a process."""

    frames: NDArray[np.int64]
    """The pages, including the tail."""
    own: int
    """The number of pages without the tail, which is the beginning of the next piece."""
    process: int = -1
    virtual: int | None = None
    """Address of the first page."""


def find_hits(
    snapshot: Snapshot,
    rules: Rules,
    chosen: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Hits:
    """Scan the memory of the chosen processes, by index in Snapshot.processes, or the whole dump.

    Pages of processes are scanned in the order of virtual addresses, a whole dump in the order of
    physical addresses; pieces with only zeros are skipped. `progress` is told bytes of memory.
    Errors as for Dump.read_frames.
    """
    pages = ProcessPages(snapshot)
    pieces = _physical(snapshot) if chosen is None else _of_processes(pages, chosen)
    total = snapshot.dump.size if chosen is None else None
    scan = _Scan(snapshot, rules)
    for piece in pieces:
        if not snapshot.zero[piece.frames].all():
            scan.add(piece)
        scan.done += piece.own * PAGE_SIZE
        if progress:
            progress(scan.done, total)
        if scan.timeouts == _MAX_TIMEOUTS:
            break
    return scan.result(total)


def _physical(snapshot: Snapshot) -> Iterator[_Piece]:
    for first, count in snapshot.dump.runs.tolist():
        end = first + count
        for start in range(first, end, PIECE_FRAMES):
            own = min(PIECE_FRAMES, end - start)
            yield _Piece(np.arange(start, min(start + own + TAIL_FRAMES, end)), own)


def _of_processes(pages: ProcessPages, chosen: Iterable[int]) -> Iterator[_Piece]:
    for index in chosen:
        mine = pages.of(index)
        for begin, end in mine.stretches:
            stretch = mine.between(begin, end)
            for start in range(0, len(stretch.frame), PIECE_FRAMES):
                frames = stretch.frame[start : start + PIECE_FRAMES + TAIL_FRAMES]
                own = min(PIECE_FRAMES, len(stretch.frame) - start)
                yield _Piece(frames, own, index, int(stretch.virtual[start]))


class _RuleCount:
    """The counts of a rule during a scan."""

    def __init__(self) -> None:
        self.count = 0
        self.kept = 0
        self.is_exact = True
        self.frames: list[NDArray[np.int64]] = []


class _Scan:
    """Collects the hits in one piece after the other."""

    def __init__(self, snapshot: Snapshot, rules: Rules) -> None:
        self._snapshot = snapshot
        self._rules = rules
        self._scanner = rules.scanner()
        self._timeout: type[Exception] = _library().TimeoutError
        self._counts: dict[tuple[str, str], _RuleCount] = {}
        self._found: list[tuple[tuple[str, str], Hit]] = []
        self._room = _MAX_PAGES
        self._lost_pages = 0
        self.timeouts = 0
        self.done = 0
        """Bytes."""

    def add(self, piece: _Piece) -> None:
        """Scan a piece."""
        contents = self._snapshot.dump.read_frames(piece.frames).tobytes()
        try:
            matching = self._scanner.scan(contents).matching_rules
        except self._timeout:
            self.timeouts += 1
            return
        for rule in matching:
            key = self._rules.file_of(rule.namespace), rule.identifier
            matches = [(one.identifier, one.matches) for one in rule.patterns]
            if any(found for _, found in matches):
                for pattern, found in matches:
                    self._add(piece, key, pattern, found)
            else:
                self._count(piece, key, "", np.zeros((1, 2), np.int64), is_exact=True)

    def _add(self, piece: _Piece, key: tuple[str, str], pattern: str, found: Any) -> None:
        """Add the matches of a pattern, except for matches that the next piece has, too."""
        if not found:
            return
        places = np.array([(match.offset, match.length) for match in found], np.int64)
        is_exact = len(places) < _MAX_IN_PIECE
        places = places[places[:, 0] < piece.own * PAGE_SIZE]
        self._count(piece, key, pattern, places, is_exact=is_exact)

    def _count(
        self,
        piece: _Piece,
        key: tuple[str, str],
        pattern: str,
        places: NDArray[np.int64],
        *,
        is_exact: bool,
    ) -> None:
        """Count hits, given by offset and length, and keep the first of them."""
        if not len(places):
            return
        known = self._counts.setdefault(key, _RuleCount())
        known.count += len(places)
        known.is_exact &= is_exact
        pages = _pages_of(places)
        frames = piece.frames[pages[pages < len(piece.frames)]]
        self._lost_pages += max(len(frames) - self._room, 0)
        known.frames.append(frames[: self._room])
        self._room -= len(known.frames[-1])
        room = max(min(MAX_OF_RULE - known.kept, MAX_HITS - len(self._found)), 0)
        for offset, length in places[:room].tolist():
            page, inside = divmod(offset, PAGE_SIZE)
            virtual = None if piece.virtual is None else piece.virtual + offset
            hit = Hit(0, pattern, int(piece.frames[page]), inside, length, piece.process, virtual)
            self._found.append((key, hit))
            known.kept += 1

    def result(self, total: int | None) -> Hits:
        """All hits, with the owners of their pages."""
        keys = sorted(self._counts)
        rules = [
            Rule(
                printable(name),
                printable(file),
                known.count,
                known.is_exact,
                distinct(np.concatenate([np.empty(0, np.int64), *known.frames])),
            )
            for file, name in keys
            for known in [self._counts[file, name]]
        ]
        number = {key: index for index, key in enumerate(keys)}
        found = [replace(hit, rule=number[key]) for key, hit in self._found]
        remarks = tuple(self._remarks(total))
        return Hits(tuple(rules), tuple(_with_owners(self._snapshot, found)), self.done, remarks)

    def _remarks(self, total: int | None) -> Iterator[str]:
        hits = sum(known.count for known in self._counts.values())
        if hits > len(self._found):
            exact = all(known.is_exact for known in self._counts.values())
            yield (
                f"YARA: of {'' if exact else 'more than '}{counted(hits, 'hit')}, the first"
                f" {len(self._found):,} are listed, at most {MAX_OF_RULE:,} of each rule"
            )
        if self._lost_pages:
            yield f"YARA: {counted(self._lost_pages, 'page')} with hits are not shown: too many"
        if self.timeouts:
            words = (
                f"YARA: {counted(self.timeouts, 'piece')} of up to 16 MiB took longer than"
                f" {_SECONDS} s and {'was' if self.timeouts == 1 else 'were'} left out"
            )
            if self.timeouts == _MAX_TIMEOUTS:
                words += f"; the scan ended after {counted(self.done, 'byte')}"
                words += f" of {total:,}" if total else ""
            yield words


def _pages_of(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pages of hits, by number in a piece, from the first to the last byte of each hit."""
    first = places[:, 0] // PAGE_SIZE
    last = (places[:, 0] + np.maximum(places[:, 1], 1) - 1) // PAGE_SIZE
    count = last - first + 1
    if (count == 1).all():
        return distinct(first)
    before = np.cumsum(count) - count
    return distinct(np.arange(count.sum()) + np.repeat(first - before, count))


def _with_owners(snapshot: Snapshot, hits: list[Hit]) -> list[Hit]:
    """The hits, with the number of processes that have the page, and the first such process."""
    has_hits = np.zeros(snapshot.classes.size, bool)
    has_hits[[hit.frame for hit in hits]] = True
    known: dict[int, tuple[int, int, int]] = {}
    for _, owners in snapshot.owners_by_frame() if hits else ():
        rows = np.flatnonzero(has_hits[owners.frame])
        if not len(rows):
            continue
        frame = owners.frame[rows]
        begins = np.flatnonzero(changes(frame))
        numbers = np.diff(np.append(begins, len(rows)))
        firsts = rows[begins]
        columns = (frame[begins], owners.process[firsts], owners.virtual[firsts], numbers)
        for pfn, *of_frame in zip(*(column.tolist() for column in columns), strict=True):
            known[pfn] = of_frame[0], of_frame[1], of_frame[2]
    found = []
    for hit in hits:
        process, virtual, number = known.get(hit.frame, (-1, 0, 0))
        if hit.process >= 0:
            found.append(replace(hit, owners=max(number, 1)))
        elif process >= 0:
            found.append(replace(hit, process=process, virtual=virtual + hit.offset, owners=number))
        else:
            found.append(hit)
    return found
