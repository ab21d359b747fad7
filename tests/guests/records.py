"""The guest's records of itself, as inside/collect.c writes them to the second disk."""

import re
import struct
from collections.abc import Mapping
from pathlib import Path

from tests.guests.errors import GuestError

_HEAD = struct.Struct("<4s92sQ")
_MAGIC = b"REC1"
_LAST, _LAST_IF_LOST = "END", "LOST"


def read_records(path: Path) -> dict[str, bytes]:
    """The records by their names; GuestError if the guest did not write all of them."""
    records: dict[str, bytes] = {}
    with path.open("rb") as file:
        while True:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or not head.startswith(_MAGIC):
                raise GuestError(f"{path.name}: the guest's records end after {len(records)}")
            _, name, size = _HEAD.unpack(head)
            text = name.rstrip(b"\0").decode()
            if text == _LAST_IF_LOST:
                raise GuestError("the guest's records found no room in it: more `buffer` is needed")
            if text == _LAST:
                break
            records[text] = file.read(size)
            file.seek(-(_HEAD.size + size) % 8, 1)
    if lost := timing(records).get("lost"):
        raise GuestError(f"{lost:.0f} pieces found no room in the guest: more `buffer` is needed")
    return records


def timing(records: Mapping[str, bytes]) -> dict[str, float]:
    """The numbers in the record `timing`, such as the size of a page."""
    told = re.findall(r"(\w+)=([\d.]+)", records["timing.txt"].decode())
    return {name: float(number) for name, number in told}
