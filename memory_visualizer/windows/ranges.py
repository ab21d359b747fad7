"""Stretches of addresses that do not overlap, added one by one."""

from bisect import bisect_right


class Ranges:
    """Stretches of addresses, each from its first address to its end (not included)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> bool:
        """Add a stretch unless it overlaps another; returns whether it was added."""
        at = bisect_right(self._starts, start)
        before = at > 0 and self._ends[at - 1] > start
        behind = at < len(self._starts) and self._starts[at] < end
        if before or behind:
            return False
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        return True
