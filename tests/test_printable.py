"""Text made safe to show."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_visualizer.printable import binary_size, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain dump é 漢字 (1).raw", "plain dump é 漢字 (1).raw"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("two\nlines\r\t\0", "two\\x0alines\\x0d\\x09\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066\u200b\u2028\x85", "\\u2066\\u200b\\u2028\\u0085"),
        ("byte \udcff", "byte \\xff"),
        ("\U000e0041", "\\U000e0041"),
        ("back\\x1bslash", "back\\\\x1bslash"),
        ("C:\\Users\\new.txt", "C:\\Users\\new.txt"),
        ("a\\\\b\\\x1b\\", r"a\\\b\\\x1b" + "\\"),
        ("a\\\\b\\\x1b\\", "a\\\\\\b\\\\\\x1b\\"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """Each kind of unsafe character is escaped in its form."""
    assert printable(text) == shown


@given(st.text(st.characters()), st.text(st.characters()))
def test_printable_is_safe_and_unambiguous(one: str, other: str) -> None:
    """Only visible characters and spaces are left, and different texts stay different."""
    assert all(unicodedata.category(c)[0] not in "CZ" or c == " " for c in printable(one))
    assert (printable(one) == printable(other)) == (one == other)


@given(st.text(st.sampled_from("\\xuU01b\x1b\x00\u202e\U000e0041")))
def test_what_is_shown_tells_the_text(text: str) -> None:
    """The escapes give the text back, by the docstring's rules, whatever is next to them."""
    escape = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")

    def meant(found: re.Match[str]) -> str:
        return "\\" if found[1] == "\\" else chr(int(found[1][1:], 16))

    assert escape.sub(meant, printable(text)) == text


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (4096, "4 KiB"),
        (32 << 20, "32 MiB"),
        (1 << 30, "1 GiB"),
        (3 << 29, "1.5 GiB"),
        (133_955_584, "127.8 MiB"),
        ((1 << 30) - 4096, "1024 MiB"),
        (1 << 75, "3.277e+04 EiB"),
    ],
)
def test_binary_size(size: int, shown: str) -> None:
    """The unit is the largest that gives at least 1."""
    assert binary_size(size) == shown
