"""A cache of unpacked pieces of a file."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

CACHE_SIZE = 32 << 20
"""Bytes of unpacked pieces that are cached for each file."""

_Piece = TypeVar("_Piece")


class PieceCache(Generic[_Piece]):
    """The most recently used pieces by number; several threads may use it at once."""

    def __init__(self, size_of: Callable[[_Piece], int]) -> None:
        """`size_of` tells the bytes of a piece."""
        self._size_of = size_of
        self._pieces: OrderedDict[int, _Piece] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, number: int, unpack: Callable[[int], _Piece]) -> _Piece:
        """A piece, which `unpack` makes if it is not cached.

        Two threads that need the same piece at the same time may both make it.
        """
        with self._lock:
            if (found := self._pieces.get(number)) is not None:
                self._pieces.move_to_end(number)
                return found
        piece = unpack(number)
        with self._lock:
            if number not in self._pieces:
                self._pieces[number] = piece
                self._size += self._size_of(piece)
            while self._size > CACHE_SIZE and len(self._pieces) > 1:
                self._size -= self._size_of(self._pieces.popitem(last=False)[1])
        return piece
