"""Addresses of dumps on other machines: which texts are URLs, and how they are shown.

A URL may hold credentials: a password, or a signature in its query. They are used, and appear in
no output: whatever is shown, written or pickled is `printable_url`.
"""

import os
import re
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

from memory_visualizer.errors import BadInputError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://.")
"""A scheme has two letters or more: a single letter is a drive of Windows."""
_WEB = ("http", "https")
_HARMLESS = {"generation", "snapshot", "version", "versionid"}
"""Keys of a query that name a version of a file. The values of all others may be secrets."""
_LOCAL = re.compile(r"(?:file|local)://(?:localhost(?=/))?", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a name of a dump is the URL of a file that is reached through a network.

    False if a file of this machine has this name, and for each ``file://`` URL.
    """
    return bool(_URL.match(text)) and not _LOCAL.match(text) and not os.path.lexists(text)


def local_name(text: str) -> str:
    """The path in a ``file://`` URL; any other text stays as it is."""
    return text if os.path.lexists(text) else _LOCAL.sub("", text, count=1)


def scheme_of(url: str) -> str:
    """A URL's scheme in lower case, such as ``s3``."""
    return url.split("://", 1)[0].lower()


def is_web(url: str) -> bool:
    """Whether the scheme is HTTP or HTTPS, where user name and query may be secrets."""
    return scheme_of(url) in _WEB


def printable_url(url: str) -> str:
    """A URL without its credentials.

    >>> printable_url("https://me:secret@host/x.raw?versionId=3&X-Amz-Signature=ab12")
    'https://host/x.raw?versionId=3'
    >>> printable_url("sftp://me:secret@host/x.raw")
    'sftp://me@host/x.raw'
    """
    scheme, rest = url.split("://", 1)
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    # A user name alone may be part of the address, as in abfs://container@account.
    place = host if is_web(url) else f"{user.partition(':')[0]}{at}{host}"
    path, query = _parted(path, is_web(url))
    kept = [(key, value) for key, value in _queried(query) if key.lower() in _HARMLESS]
    path += f"?{urlencode(kept)}" if kept else ""
    return f"{scheme}://{place}{slash}{path}"


def _parted(path: str, is_of_web: bool) -> tuple[str, str]:
    """Path and query. Outside HTTP, the name of a file may contain ``?`` and ``#``."""
    if is_of_web:
        path = path.partition("#")[0]
    path, _, query = path.partition("?")
    return (
        (path, query) if is_of_web or "=" in query else (f"{path}?{query}" if query else path, "")
    )


def bare_url(url: str) -> str:
    """A URL without credentials and query, so that it ends in the file's name."""
    scheme, rest = printable_url(url).split("://", 1)
    return f"{scheme}://{_parted(rest, is_web(url))[0]}"


def sibling_of(url: str, name: str) -> str:
    """The URL of another file in the same folder, with the same password but without a query."""
    scheme, rest = url.split("://", 1)
    return f"{scheme}://{_parted(rest, is_web(url))[0].rpartition('/')[0]}/{name}"


def folder_of(url: str) -> str:
    """The URL of a file's folder, which ends in a slash."""
    return sibling_of(url, "")


def secrets_of(url: str) -> list[str]:
    """The parts of a URL that no output may show, the longest first; empty if there are none."""
    if printable_url(url) == url:
        return []
    place = url.split("://", 1)[1].partition("/")[0]
    user, _, password = place.rpartition("@")[0].partition(":")
    found = [url, place.rpartition("@")[0], password]
    rest, _, fragment = url.partition("#") if is_web(url) else (url, "", "")
    query = _parted(rest, is_web(url))[1]
    hidden = [text for key, text in _queried(query) if key.lower() not in _HARMLESS]
    found += [query, fragment, *hidden, *map(quote, hidden), *map(quote_plus, hidden)]
    found += [user] if is_web(url) else []
    return sorted(filter(None, set(found)), key=lambda text: (-len(text), text))


def scrubbed(text: str, url: str) -> str:
    """A text, such as another library's error, without the credentials of a URL."""
    for secret in secrets_of(url):
        text = text.replace(secret, printable_url(url) if secret == url else "…")
    return text


def check_chain(url: str) -> None:
    """BadInputError for a chain of fsspec, such as ``zip://x::s3://y``, which may copy files."""
    if "::" in url:
        raise BadInputError(
            f"{printable_url(url)} has ::, by which fsspec chains file systems, which may copy"
            " whole files; give the URL of the file alone"
        )


def _queried(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)
