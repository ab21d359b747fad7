"""Names of files that come from a dump, made safe to be created in a folder.

No name from a dump may lead out of this folder, mislead a reader on the screen, or be a name that
another system takes for a device, forbids or cannot store. Names that differ only in case get
distinct names.
"""

import hashlib
import re
import unicodedata

_LONGEST_PART, _LONGEST_PATH = 80, 160
"""The most letters of a part, and of all parts: Windows allows 260 with the folder's own path."""
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.I)
_FORBIDDEN = re.compile(r'[<>:"|?*\\/\x00-\x1f]')
"""By learn.microsoft.com, "Naming Files, Paths, and Namespaces"."""


class SafeNames:
    """Gives a safe path, different from all that it gave before, for each path of a dump."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, ...], str] = {}
        """Paths in use, and their kinds, by their parts without regard to case."""
        self._last: dict[tuple[str, ...], int] = {}
        """The last number that made a name unique, by its parts: a dump may repeat a name."""

    def path(self, text: str) -> tuple[str, ...]:
        r"""The parts of a path, at least one, below a folder.

        >>> SafeNames().path("/etc/../../passwd")
        ('etc', '_', '_', 'passwd')
        >>> SafeNames().path("C:\\con.txt")
        ('C_', '_con.txt')
        """
        parts = [safe_part(part) for part in re.split(r"[/\\]", text) if part] or ["_"]
        if sum(map(len, parts)) + len(parts) > _LONGEST_PATH:
            parts = ["long", _marked(parts[-1], _digest(text))]
        found: list[str] = []
        for number, part in enumerate(parts):
            kind = "folder" if number < len(parts) - 1 else "file"
            found.append(self._free(tuple(found), part, kind))
        return tuple(found)

    def _free(self, folder: tuple[str, ...], part: str, kind: str) -> str:
        """A name that is free in a folder, or that of an existing folder if a folder is wanted."""
        wanted = (kind, *map(folded, (*folder, part)))
        number = self._last.get(wanted, 1)
        while True:
            tried = part if number == 1 else _marked(part, str(number))
            key = tuple(map(folded, (*folder, tried)))
            used = self._used.get(key)
            if used is None or used == kind == "folder":
                self._used[key] = kind
                self._last[wanted] = number
                return tried
            number += 1


def safe_part(text: str) -> str:
    """A name without characters that have a meaning to a system, such as separators."""
    name = "".join(
        letter if letter.isprintable() and not _FORBIDDEN.match(letter) else "_" for letter in text
    )
    name = unicodedata.normalize("NFC", name)
    if len(name.encode()) > _LONGEST_PART:
        name = _marked(name, _digest(text))
    stripped = name.rstrip(". ")
    if len(stripped) < len(name):
        name = f"{stripped}_"
    return f"_{name}" if _RESERVED.fullmatch(name) or name.startswith("~") else name


def _marked(name: str, mark: str) -> str:
    """A name with a mark before its ending, no longer than allowed."""
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending.encode()) > _LONGEST_PART // 4:
        stem, dot, ending = name, "", ""
    room = _LONGEST_PART - len(f"~{mark}{dot}{ending}".encode())
    stem = stem.encode()[:room].decode("utf-8", "ignore")
    return f"{stem}~{mark}{dot}{ending}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def folded(name: str) -> str:
    """A name as a system that ignores case sees it."""
    return unicodedata.normalize("NFC", name.casefold())
