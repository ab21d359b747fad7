"""Which dumps a fleet has: words of a command line become files and URLs with unique names.

A name is the end of the path, with as many folders as make it unique. So the same words give the
same names in each run, and a new dump changes the name of another dump only if both paths end
alike.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.export.safenames import folded, safe_part
from memory_visualizer.formats import notdumps, vmware
from memory_visualizer.formats.containers import split
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.opening import is_dump, is_split
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.remote import listed
from memory_visualizer.formats.urls import is_url, is_web, local_name, printable_url, secrets_of
from memory_visualizer.printable import counted
from memory_visualizer.units import PAGE_SIZE

_MAX_FOLDERS = 8
"""The most folders in a name; names that are still equal get a mark."""
_FURTHER_PART = re.compile(r"\.([els]x?)(?!01)([0-9]{2}|[a-z]{2})|\.(ad)(?!1$)([0-9]{1,2})", re.I)
"""Endings of the further files of an E01 or AD1 image."""


@dataclass(frozen=True)
class Source:
    """A dump of a fleet."""

    url: str
    """What `memory_visualizer.open` takes: an absolute path, or a URL without credentials."""
    name: str
    """Unique in a run, and safe as the name of a folder."""


@dataclass(frozen=True)
class _Found:
    """A dump before it has a name."""

    url: str
    depth: int = 1
    """Components at the end of its path that the name has at least."""
    parts: tuple[str, ...] = field(init=False)
    """All components of its path."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.url.split("://", 1)[1]) if is_url(self.url) else Path(self.url)
        parts = [unquote(part) if is_web(self.url) else part for part in path.parts]
        object.__setattr__(self, "parts", tuple(parts))


def expand(
    words: Sequence[str],
    *,
    without: Path | None = None,
    remark: Callable[[str], None] = lambda _: None,
) -> list[Source]:
    """The dumps that words mean, in the order of the words, each once.

    A word is a file, a folder (with all that is below it, apart from hidden files and what is below
    `without`), a glob, ``@`` and a file with a word in each line, or a URL: of a file, of a folder
    if it ends in ``/``, or a glob. Further parts of an image belong to its first part. `remark` is
    told about files of folders and globs that are evidently not dumps.

    BadInputError for a folder or glob without a dump, a list that cannot be read, or a URL with
    credentials, which must not travel with the work. A single missing file is kept: it fails when
    it is opened.
    """
    found: dict[str, _Found] = {}
    for word in _lines(words):
        for one in _meant(word, without, remark):
            found.setdefault(one.url, one)
    firsts = _without_further_parts(list(found.values()))
    if not firsts:
        raise BadInputError("no dump is named")
    names = _names(firsts)
    return [Source(one.url, name) for one, name in zip(firsts, names, strict=True)]


def _lines(words: Iterable[str]) -> Iterator[str]:
    """The words, and the words in the files that ``@`` names; lines with ``#`` are comments."""
    for word in words:
        if not word.startswith("@"):
            yield word
            continue
        path = Path(word[1:])
        with reading(path):
            text = path.read_bytes()
        try:
            lines = text.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise BadInputError(f"{path} is not a list of dumps: it is not UTF-8") from error
        yield from (
            line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
        )


def _meant(word: str, without: Path | None, remark: Callable[[str], None]) -> list[_Found]:
    """The dumps that a word means."""
    if is_url(word):
        return _at_url(word)
    name = local_name(word)
    path = _absolute(name)
    if path.is_dir():
        files, root = sorted(_below(path, without)), path
    elif not os.path.lexists(path) and has_magic(name):
        matches = map(_absolute, glob(name, recursive=True))  # noqa: PTH207 - names may be absolute
        files = sorted(match for match in matches if match.is_file())
        root = _fixed_part(path)
    else:
        return [_Found(str(path))]
    dumps = _dumps_among(files, word, remark)
    if not dumps:
        raise BadInputError(f"{word} has no file that may be a dump")
    return [_Found(str(one), len(one.parts) - len(root.parts)) for one in dumps]


def _absolute(name: str) -> Path:
    """An absolute path without ``..``, in which links stay links."""
    return Path(os.path.abspath(name))  # noqa: PTH100 - Path.resolve follows links


def _below(folder: Path, without: Path | None) -> Iterator[Path]:
    """The files below a folder that are not hidden; links to folders are not followed."""
    left_out = without and os.path.realpath(without)
    for at, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(at, name)) != left_out
        ]
        yield from (Path(at, name) for name in files if not name.startswith("."))


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before the first that has a wildcard."""
    above = [one for one in pattern.parents if not has_magic(str(one))]
    return above[0]


def _dumps_among(files: Sequence[Path], word: str, remark: Callable[[str], None]) -> list[Path]:
    """The files that may be dumps; the others are counted."""
    kinds = {path: _of_another_kind(path) for path in files}
    others = [f"{path.name} ({kind})" for path, kind in kinds.items() if kind]
    if others:
        count = counted(len(others), "file is", "files are")
        remark(f"{word}: {count} evidently not dumps and skipped; the first is {others[0]}")
    return [path for path, kind in kinds.items() if not kind]


def _of_another_kind(path: Path) -> str:
    """The kind of a file that is evidently not a dump; empty for all other files.

    Unreadable and packed files are passed on: the error that opens them says more.
    """
    try:
        if not path.is_file():
            return "a device or pipe"
        with path.open("rb", buffering=0) as file:
            size, head = file_size(file), file.read(notdumps.HEAD_SIZE)
            if size < PAGE_SIZE:
                return counted(size, "byte")
            said = None if is_dump(head) else notdumps.what_it_is(file, path, size)
    except OSError:
        return ""
    kind, separator, _ = (said or "").partition(", not a dump")
    return kind if separator else ""


def _at_url(word: str) -> list[_Found]:
    """The dumps behind a URL."""
    if secrets_of(word):
        raise BadInputError(
            f"{printable_url(word)} was given with credentials or a query, which are not handed to"
            " other processes; a fleet takes them from the environment of its workers"
        )
    # In HTTP "?" begins a query.
    is_pattern = any(letter in word for letter in ("*[" if is_web(word) else "*?["))
    if not word.endswith("/") and not is_pattern:
        return [_Found(word)]
    root = word.rstrip("/") if not is_pattern else re.split(r"/[^/]*[*?\[]", word, maxsplit=1)[0]
    depth = len(_Found(root).parts)
    files = sorted(url for url, size in listed(word) if size is None or size >= PAGE_SIZE)
    found = [_Found(url) for url in files]
    shown = [one for one in found if not any(part.startswith(".") for part in one.parts[depth:])]
    if not shown:
        raise BadInputError(f"{word} has no file that may be a dump")
    return [_Found(one.url, len(one.parts) - depth) for one in shown]


def _without_further_parts(found: Sequence[_Found]) -> list[_Found]:
    """Leave out the files that are read together with another file of the list."""
    names = {folded(one.url) for one in found}
    return [one for one in found if not _belongs_to_another(one.url, names)]


def _belongs_to_another(url: str, names: set[str]) -> bool:
    """Whether a file is a further part or a description of another file."""
    ending = PurePosixPath(url).suffix
    stem = url.removesuffix(ending)
    if ending.lower() in vmware.STATE_SUFFIXES:
        return folded(stem + vmware.RAM_SUFFIX) in names
    if match := _FURTHER_PART.fullmatch(ending):
        first = f".{match[1]}01" if match[1] else f".{match[3]}1"
        return folded(stem + first) in names
    number = ending[1:]
    if len(number) != 3 or not (number.isascii() and number.isdecimal()) or number == "000":
        return False
    if folded(f"{stem}.{int(number) - 1:03}") not in names:
        return False
    try:
        path = as_path(url)
        return split.is_part(path) and is_split(path)
    except BadInputError:
        return False


def _names(found: Sequence[_Found]) -> list[str]:
    """A unique name for each, with as few folders as possible."""
    depth = [min(one.depth, len(one.parts)) for one in found]
    for _ in range(_MAX_FOLDERS):
        alike = [
            row
            for rows in _groups(map(_name, found, depth)).values()
            for row in rows
            if len(rows) > 1 and depth[row] < len(found[row].parts)
        ]
        if not alike:
            break
        for row in alike:
            depth[row] += 1
    names = list(map(_name, found, depth))
    for rows in _groups(names).values():
        for row in rows if len(rows) > 1 else ():
            mark = sha256(found[row].url.encode("utf-8", "surrogatepass")).hexdigest()[:12]
            names[row] = safe_part(f"{mark}_{names[row]}")
    return names


def _name(found: _Found, depth: int) -> str:
    """The last components of a path, as one name."""
    text = "_".join(part.strip("/\\") for part in found.parts[-depth:])
    # Readers of a Parquet dataset take %41 in a folder's name for A, and digits for a number.
    text = "".join("_" if letter in "%=" else letter for letter in text).lstrip(".")
    return safe_part(text if any(map(str.isalpha, text)) else f"{text}_")


def _groups(names: Iterable[str]) -> dict[str, list[int]]:
    """The rows of each name, without regard to case."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        groups[folded(name)].append(row)
    return groups
