"""Split images: a file in parts of one size, named .001, .002 and so on, or from .000 on.

FTK Imager, dcfldd, split and others write them. A part has no header, so names and sizes decide:
all parts except the last have the same size. The parts are read as one file of any format.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.files import read_into
from memory_visualizer.formats.inside import Inside, is_content, keep_open
from memory_visualizer.printable import counted

_DIGITS = 3
_MAX_NAMED = 3


class SplitImage(Inside):
    """All parts of an image, one after another."""

    name = "split image"

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """Open all parts, given one at `path`, for which `is_part` is true.

        BadInputError when a part cannot be read; DamagedInputError, unless `lenient`, when parts
        are missing or too short. `lenient` leaves out their bytes.
        """
        sizes = _parts(path)
        self._path, self._size = path, _common_size(sizes)
        first, last = _first(sizes), max(sizes)
        self._files: dict[int, BinaryIO] = {}
        missing: list[tuple[int, int]] = []
        faults: list[str] = []
        for number in range(first, last + 1):
            part = _name(path, number)
            there = sizes.get(number, 0)
            start = (number - first) * self._size
            if number in sizes:
                with reading(part):
                    self._files[number - first] = keep_open(self, part)
            if number == last:
                self.size = start + min(there, self._size)
            elif there != self._size:
                if there < self._size:
                    missing.append((start + there, start + self._size))
                faults.append(_fault(part, there, self._size))
        if faults:
            if len(faults) > _MAX_NAMED:
                faults[_MAX_NAMED:] = [f"and {len(faults) - _MAX_NAMED:,} more"]
            sentence = f"{path} is one part of a split image: {'; '.join(faults)}"
            if not lenient:
                raise DamagedInputError(sentence)
            self.remarks = (sentence,)
            self.missing = np.array(missing, np.int64).reshape(-1, 2)
        self.remarks = (
            *self.remarks,
            f"{_name(path, first)} to {_name(path, last).name} were read as a split image of"
            f" {counted(last - first + 1, 'part')}; to read a part alone, give it another name",
        )

    def read_into(self, target: memoryview, offset: int) -> None:
        """Read these bytes from their parts."""
        done = 0
        while done < len(target):
            number, begin = divmod(offset + done, self._size)
            piece = target[done : done + self._size - begin]
            file = self._files.get(number)
            read = read_into(file, piece, begin) if file else 0
            if read < len(piece):
                self._fill(piece[read:], offset + done + read)
            done += len(piece)

    def _fill(self, target: memoryview, offset: int) -> None:
        """Fill known gaps with zeros; BadInputError for other missing bytes."""
        starts, ends = self.missing.T
        if not ((starts <= offset) & (offset + len(target) <= ends)).any():
            raise BadInputError(f"{self._path} got shorter while it was read")
        target[:] = bytes(len(target))


def is_part(path: Path) -> bool:
    """Whether a file is a part of a split image, by the names and sizes of the files beside it."""
    if is_content(path) or _number(path) is None:
        return False
    sizes = _parts(path)
    if len(sizes) < 2:
        return False
    last, common = max(sizes), _common_size(sizes)
    own = sizes.get(_number(path) or 0, 0)
    fits = own <= common if _number(path) == last else own == common
    # More parts are present than missing.
    return own > 0 and fits and 2 * len(sizes) > last - _first(sizes) + 1


def parts_unseen(path: Path) -> str | None:
    """A sentence on a file that is named as a part, if the others cannot be looked for."""
    if is_content(path) or _number(path) is None or _parts(path):
        return None
    return (
        f"{path} was read alone, though it is named as a part of a split image: the files beside it"
        " cannot be listed"
    )


def are_parts(paths: Sequence[Path]) -> bool:
    """Whether all files are parts of one split image."""
    return all(map(is_part, paths)) and len({path.with_suffix("") for path in paths}) == 1


def neighbours(path: Path) -> list[Path]:
    """A part of a split image, and the parts next to it that exist."""
    number = _number(path) or 0
    return [_name(path, near) for near in (number - 1, number, number + 1) if near in _parts(path)]


def _number(path: Path) -> int | None:
    """The number of a part, by its name."""
    digits = path.suffix[1:]
    is_number = len(digits) == _DIGITS and digits.isascii() and digits.isdecimal()
    return int(digits) if is_number else None


def _name(path: Path, number: int) -> Path:
    return path.with_suffix(f".{number:0{_DIGITS}}")


def _parts(path: Path) -> dict[int, int]:
    """The sizes of the existing parts, by number; also of parts that may not be read."""
    sizes = {}
    try:
        for other in path.parent.glob(f"*.{'[0-9]' * _DIGITS}"):
            number = _number(other)
            if number is not None and other.stem == path.stem and other.is_file():
                sizes[number] = other.stat().st_size
    except OSError:  # the folder cannot be listed
        pass
    return sizes


def _first(sizes: dict[int, int]) -> int:
    """The first number of the names, 0 or 1."""
    return min(1, *sizes)


def _common_size(sizes: dict[int, int]) -> int:
    """The size of most parts; the last may be smaller."""
    whole = [size for number, size in sizes.items() if number != max(sizes)]
    return max(Counter(whole).items(), key=lambda item: (item[1], item[0]))[0]


def _fault(part: Path, size: int, common: int) -> str:
    if not size:
        return f"{part.name} is missing"
    return f"{part.name} has {size:,} bytes, and others have {common:,}"
