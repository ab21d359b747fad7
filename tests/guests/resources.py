"""The guest's /proc/iomem, its map of physical memory."""

import re
from dataclasses import dataclass

_LINE = re.compile(r"(\s*)([0-9a-f]+)-([0-9a-f]+) : (.*)")
_RAM, _IMAGE = "System RAM", "Kernel "


@dataclass(frozen=True)
class Resources:
    """Stretches of physical addresses, each by its first byte and the byte behind its last."""

    ram: list[tuple[int, int]]
    reserved: list[tuple[int, int]]
    """Reserved memory besides RAM; on arm64 it is RAM that the kernel does not allocate."""
    image: dict[str, tuple[int, int]]
    """Parts of the kernel, such as ``Kernel code``."""


def read_resources(text: str) -> Resources:
    """Read the text of /proc/iomem."""
    found = Resources([], [], {})
    for line in text.splitlines():
        if not (match := _LINE.fullmatch(line)):
            continue
        stretch = int(match[2], 16), int(match[3], 16) + 1
        if match[4].startswith(_IMAGE):
            found.image[match[4]] = stretch
        elif not match[1] and match[4] == _RAM:
            found.ram.append(stretch)
        elif not match[1] and match[4] == "reserved":
            found.reserved.append(stretch)
    return found
