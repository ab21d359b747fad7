"""What a process of Windows itself knows of its memory: its blocks, its heaps, its stacks.

The layouts are those of Volatility 2's profiles and of symbol files. Windows Internals, part 1,
"Process and thread internals" (PEB, TEB), and part 2, "Heap manager", tell what the members mean.
"""

from collections.abc import Callable, Sequence

from tests.synth.memory import PAGE_SIZE
from tests.synth.profiles import Profile

_HEAP, _SEGMENT = 0xEEFFEEFF, 0xFFEEFFEE
"""HEAP_SIGNATURE and HEAP_SEGMENT_SIGNATURE."""


class UserBlocks:
    """Writes the blocks of one process."""

    def __init__(self, profile: Profile, block: int, write: Callable[[int, bytes], None]) -> None:
        """`block` is the address of the process's block; `write` writes at a virtual address."""
        self._profile = profile
        self._block = block
        self._write = write
        self.thread_size = (2 if profile.bits == 64 else 1) * PAGE_SIZE
        """Bytes between the blocks of two threads."""

    def process(self, heaps: Sequence[int], array: int) -> None:
        """The heaps in the process's block (_PEB), the first as its default; `array` lists all."""
        self._set(self._block, "_PEB", "ProcessHeap", heaps[0])
        self._set(self._block, "_PEB", "ProcessHeaps", array)
        at = self._block + self._profile.offset("_PEB", "NumberOfHeaps")
        count, most = (value.to_bytes(4, "little") for value in (len(heaps), 512))
        self._write(at, count + most)
        for number, heap in enumerate(heaps):
            self._pointer(array + number * self._profile.pointer_size, heap)

    def thread(self, at: int, base: int, limit: int) -> None:
        """A thread's block (_TEB) with the bounds of its stack, which grows down from `base`."""
        own = at + self._profile.offset("_TEB", "NtTib")
        for member, value in (("Self", at), ("StackBase", base), ("StackLimit", limit)):
            self._set(own, "_NT_TIB", member, value)
        self._set(at, "_TEB", "ProcessEnvironmentBlock", self._block)

    def heap(self, at: int) -> None:
        """The begin of a heap; since Vista it is its first segment, too."""
        at_signature = at + self._profile.offset("_HEAP", "Signature")
        self._write(at_signature, _HEAP.to_bytes(4, "little"))
        if self._profile.has("_HEAP", "SegmentSignature"):
            self.segment(at, at)

    def segment(self, at: int, heap: int) -> None:
        """The begin of a further segment of a heap."""
        structure = "_HEAP_SEGMENT"
        later = self._profile.has(structure, "SegmentSignature")
        place = self._profile.offset(structure, "SegmentSignature" if later else "Signature")
        self._write(at + place, _SEGMENT.to_bytes(4, "little"))
        self._set(at, structure, "Heap", heap)

    def _set(self, at: int, structure: str, member: str, value: int) -> None:
        self._pointer(at + self._profile.offset(structure, member), value)

    def _pointer(self, at: int, value: int) -> None:
        self._write(at, value.to_bytes(self._profile.pointer_size, "little"))
