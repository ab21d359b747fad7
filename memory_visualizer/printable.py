"""Text that came from a dump or a file name, made safe to show; numbers made easy to read."""

import re

_READ_AS_ESCAPE = re.compile(r"\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}")


def printable(text: str) -> str:
    r"""Escape all that could steer a terminal or hide what is there.

    Control, format (bidirectional overrides among them), surrogate, private and unassigned
    characters become ``\xNN`` (ASCII), ``\uNNNN`` or ``\UNNNNNNNN``; a byte of a file name that is
    not UTF-8 becomes ``\xNN``. A backslash that would be read as a part of such an escape is
    doubled, so that no two texts look the same; those of Windows' paths stay single.

    >>> print(printable("\x1b[2J\\x1b\\temp"))
    \x1b[2J\\x1b\temp
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        _escape(character)
        if character != "\\"
        else "\\\\"
        if _is_ambiguous(text, place + 1)
        else "\\"
        for place, character in enumerate(text)
    )


def _is_ambiguous(text: str, place: int) -> bool:
    """Whether what is shown from a place on could be taken for a part of an escape."""
    is_shown = text[place : place + 1].isprintable()  # also at the end
    return not is_shown or _READ_AS_ESCAPE.match(text, place) is not None


def _escape(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def binary_size(size: int) -> str:
    """Name a number of bytes in the largest binary unit that it fills.

    >>> binary_size(1536 << 20)
    '1.5 GiB'
    """
    if size < 1024:
        return f"{size} bytes"
    exponent = min((size.bit_length() - 1) // 10, 6)
    return f"{size / 1024**exponent:.4g} {'KMGTPE'[exponent - 1]}iB"


def mebibytes(size: int) -> str:
    """A size in MiB, for columns of numbers.

    >>> [mebibytes(pages * 4096) for pages in (0, 1, 300, 1_000_000)]
    ['0 MiB', '0.004 MiB', '1.2 MiB', '3,906 MiB']
    """
    number = size / 2**20
    least = (100, 1, 0.01, 0)  # with no, one, two and three decimals
    digits = 0 if number == 0 else next(n for n, low in enumerate(least) if number >= low)
    return f"{number:,.{digits}f} MiB"


def counted(number: int, one: str, many: str = "") -> str:
    """A number and its noun: ``1 page``, ``1,024 pages``; `many` is an irregular plural."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
