"""Blocks of S2, Snappy's successor (klauspost/compress, s2/README.md, "Format Extensions").

S2 is Snappy with copies that repeat the last offset. No Python package reads it. If the package
wasmtime is installed, s2.wat unpacks a block. Blocks without such copies are valid Snappy, which
cramjam reads. All other blocks are unpacked in Python, some 50 times slower.
"""

import atexit
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import cramjam
import numpy as np

MAX_BLOCK = 4 << 20
"""The largest unpacked size of a block in bytes."""

_ROOM = 5 << 20
"""Bytes for a packed block: incompressible blocks are stored unchanged."""

_Unpack = Callable[[bytes, int], bytes]
_of_thread = threading.local()


def is_fast() -> bool:
    """Whether WebAssembly unpacks blocks."""
    return _compiled() is not None


def unpack(block: bytes, length: int) -> bytes:
    """Unpack a block to `length` bytes, at most MAX_BLOCK; ValueError if it is broken."""
    if length > MAX_BLOCK or len(block) > _ROOM:
        raise ValueError(f"a block of {length:,} bytes is too large")
    compiled = _compiled()
    unpacked = compiled(block, length) if compiled else unpack_slowly(block, length)
    if len(unpacked) != length:
        raise ValueError(f"a block has {len(unpacked):,} bytes, not {length:,}")
    return unpacked


def _compiled() -> _Unpack | None:
    """The WebAssembly function of this thread; None if it is not available."""
    if not hasattr(_of_thread, "unpack"):
        parts = _module()
        _of_thread.unpack = _instance(*parts) if parts else None
    found: _Unpack | None = _of_thread.unpack
    return found


@cache
def _module() -> tuple[Any, Any, Any] | None:
    """The package, its engine, and the compiled module."""
    atexit.register(_let_go)
    try:
        import wasmtime
    except (ImportError, OSError, RuntimeError):  # wasmtime may not support the system
        return None
    from importlib.resources import files

    config = wasmtime.Config()
    config.parallel_compilation = False  # threads of its own would not survive a fork
    source = files(__package__).joinpath("s2.wat").read_text("utf-8")
    try:
        engine = wasmtime.Engine(config)
        return wasmtime, engine, wasmtime.Module(engine, source)
    except wasmtime.WasmtimeError:  # the system forbids programs to generate code
        return None


def _let_go() -> None:
    """Free the package's objects before Python unloads the package."""
    _of_thread.__dict__.clear()
    _module.cache_clear()


def _instance(wasmtime: Any, engine: Any, module: Any) -> _Unpack:
    store = wasmtime.Store(engine)
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory, function = exports["memory"], exports["unpack"]
    contents = np.ctypeslib.as_array(memory.data_ptr(store), (memory.data_len(store),))

    def unpack(block: bytes, length: int) -> bytes:
        contents[: len(block)] = np.frombuffer(block, np.uint8)
        end = function(store, 0, len(block), _ROOM, _ROOM + length)
        if not end:
            raise ValueError("a block is broken")
        unpacked: bytes = contents[_ROOM:end].tobytes()
        return unpacked

    return unpack


def unpack_slowly(block: bytes, length: int) -> bytes:
    """As `unpack`, without WebAssembly."""
    target = bytearray(length)
    try:
        # Snappy's blocks begin with their length.
        head = _varint(length)
        end = cramjam.snappy.decompress_raw_into(head + block, target)
        return bytes(target[:end])
    except cramjam.DecompressionError:
        return _unpack_elements(block, length)


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _unpack_elements(block: bytes, length: int) -> bytes:
    """Unpack literals and copies, one after the other."""
    target = bytearray()
    at = last = 0
    while at < len(block):
        tag = block[at]
        at += 1
        if not tag & 3:
            size, at = _literal_size(block, tag >> 2, at)
            piece = block[at : at + size]
            at += size
        else:
            size, offset, at = _copy(block, tag, at, last)
            last = offset
            if not 0 < offset <= len(target):
                raise ValueError("a block copies from before its beginning")
            start = len(target) - offset
            some = bytes(target[start : start + size])
            piece = (some * -(-size // len(some)))[:size] if len(some) < size else some
        if len(piece) != size or len(target) + size > length:
            raise ValueError("a block is broken")
        target += piece
    return bytes(target)


def _literal_size(block: bytes, size: int, at: int) -> tuple[int, int]:
    """Number of bytes in a literal, and their place."""
    if size < 60:
        return size + 1, at
    end = at + size - 59
    return int.from_bytes(block[at:end], "little") + 1, end


def _copy(block: bytes, tag: int, at: int, last: int) -> tuple[int, int, int]:
    """Length and offset of a copy, and the place of the next element."""
    width = 1 << (tag & 3) - 1
    offset = int.from_bytes(block[at : at + width], "little")
    at += width
    if width > 1:
        return (tag >> 2) + 1, offset, at
    offset |= (tag & 0xE0) << 3
    size = tag >> 2 & 7
    if offset or size < 5:
        return size + 4, offset or last, at
    end = at + size - 4
    more = int.from_bytes(block[at:end], "little")
    return more + (8, 260, 65540)[size - 5], last, end
