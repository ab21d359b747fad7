"""Physical memory under construction: the frames in use and their contents."""

import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE_SIZE = 4096
LOW_MEMORY_FRAMES = 256
"""The first megabyte, which firmware and real-mode code use."""

Frames = npt.NDArray[np.int64]
"""Page frame numbers."""

_NOISE_PAGES = 61  # prime, so that neighbouring frames differ whatever their stride
_BLOCK_FRAMES = 256
_ZEROS = bytes(PAGE_SIZE)


class OutOfMemoryError(Exception):
    """The image is too small for its contents."""


class PhysicalMemory:
    """Frames that are allocated in scattered order and filled with zeros, noise or given bytes.

    Stretches of up to `stretch` consecutive frames stay together.

    Only pages with given bytes are kept in memory; noise is made while the image is written, so
    that an image of many GiB needs little memory.
    """

    def __init__(self, frames: int, rng: np.random.Generator, stretch: int = 1) -> None:
        self.frames = frames
        self._rng = rng
        self._stretch = stretch
        self._taken = np.zeros(frames, dtype=bool)
        self._taken[:LOW_MEMORY_FRAMES] = True
        self._order: Frames | None = None
        self._next = 0
        self._noise = np.zeros(frames, dtype=bool)
        self._pages: dict[int, bytearray] = {}

    def allocate(self, count: int = 1) -> Frames:
        """Take `count` free frames from all over the memory."""
        if self._order is None:
            self._order = self._scattered(self.free_frames)
        taken: list[Frames] = []
        missing = count
        while missing:
            if self._next >= len(self._order):
                raise OutOfMemoryError(f"{self.frames} frames are too few")
            candidates = self._order[self._next : self._next + missing]
            self._next += len(candidates)
            free = candidates[~self._taken[candidates]]
            self._take(free)
            taken.append(free)
            missing -= len(free)
        return np.concatenate(taken) if taken else np.empty(0, np.int64)

    def _scattered(self, frames: Frames) -> Frames:
        """These frames in random order, except that stretches stay together."""
        if self._stretch == 1:
            return self._rng.permutation(frames)
        # Lengths are evenly distributed by their logarithm.
        lengths = self._stretch ** self._rng.random(len(frames))
        ends = np.cumsum(lengths.astype(np.int64))
        starts = np.concatenate(([0], ends[ends < len(frames)]))
        order = self._rng.permutation(len(starts))
        sizes = np.diff(starts, append=len(frames))[order]
        moved = starts[order] - (np.cumsum(sizes) - sizes)
        order_of_frames: Frames = np.arange(len(frames)) + np.repeat(moved, sizes)
        return frames[order_of_frames]

    def fill_free_frames(self, share: float) -> None:
        """Fill this share of the free frames with old data."""
        free = self._scattered(self.free_frames)
        self.fill_with_noise(free[: round(share * len(free))])

    def allocate_run(self, count: int, *, above: int = 0, below: int | None = None) -> Frames:
        """Take `count` contiguous frames, aligned to `count`, from `above` on and below `below`."""
        end = min(self.frames, below or self.frames) // count * count
        starts = np.flatnonzero(~self._taken[:end].reshape(-1, count).any(axis=1)) * count
        starts = starts[starts >= above]
        if not len(starts):
            raise OutOfMemoryError(f"no {count} frames in a row are free")
        run = np.arange(count, dtype=np.int64) + int(self._rng.choice(starts))
        self._take(run)
        return run

    def _take(self, frames: Frames) -> None:
        """Frames that were given back lose the bytes that they still have."""
        self._taken[frames] = True
        for frame in self._pages.keys() & set(frames.tolist()):
            del self._pages[frame]

    def reserve(self, frames: Frames) -> None:
        """Exclude these frames from allocation."""
        self._taken[frames] = True

    @property
    def free_frames(self) -> Frames:
        """The frames that were not allocated."""
        return np.flatnonzero(~self._taken)

    def fill_with_noise(self, frames: Frames) -> None:
        """Fill these frames with arbitrary data, never all zeros."""
        self._noise[frames] = True
        for frame in self._pages.keys() & set(frames.tolist()):
            del self._pages[frame]

    def page(self, frame: int) -> bytearray:
        """The 4096 writable bytes of a frame; zeros at first."""
        return self._pages.setdefault(int(frame), bytearray(PAGE_SIZE))

    def contents(self, frame: int) -> bytes:
        """The 4096 bytes of a frame."""
        if frame in self._pages:
            return bytes(self._pages[frame])
        return self.noise(frame) if self._noise[frame] else bytes(PAGE_SIZE)

    def noise(self, frame: int) -> bytes:
        """The noise of a frame, whether or not it holds it."""
        number = (frame + 1).to_bytes(8, "little")
        return number + self._noise_pages[frame % _NOISE_PAGES, 8:].tobytes()

    def noisy(self) -> npt.NDArray[np.bool_]:
        """Which frames hold noise, unless they have given bytes."""
        return self._noise.copy()

    def given(self) -> dict[int, bytes]:
        """The contents of the frames with given bytes."""
        return {frame: bytes(page) for frame, page in self._pages.items()}

    def put(self, frame: int, contents: bytes) -> None:
        """Give a frame other contents, whatever it held."""
        self.page(frame)[:] = contents

    def free(self, frames: Frames) -> None:
        """Give frames back, with their contents; they may be taken again."""
        self._taken[frames] = False
        self._order, self._next = None, 0

    def zeros(self) -> npt.NDArray[np.bool_]:
        """For each frame whether it holds only zeros."""
        zero = ~self._noise
        for frame, page in self._pages.items():
            zero[frame] = page == _ZEROS
        return zero

    def write(self, path: Path) -> None:
        """Write the image as a raw dump: byte N is physical address N."""
        filled = self._noise.copy()
        filled[list(self._pages)] = True
        pages = np.concatenate((self._noise_pages, np.zeros((1, PAGE_SIZE), np.uint8)))
        # One place for the contents of each block: new memory would cost more than the contents.
        room = np.empty((_BLOCK_FRAMES, PAGE_SIZE), np.uint8)
        with path.open("wb", buffering=0) as file:
            for start in range(0, self.frames, _BLOCK_FRAMES):
                block = filled[start : start + _BLOCK_FRAMES]
                if not block.any():
                    continue
                if 4 * np.count_nonzero(block) > len(block):
                    block = np.ones_like(block)
                frames = np.flatnonzero(block) + start
                self._fill(room[: len(frames)], frames, pages)
                # Skipped bytes become a hole in the file and read as zeros.
                breaks = np.flatnonzero(np.diff(frames, prepend=-2, append=-2) != 1).tolist()
                for first, end in pairwise(breaks):
                    file.seek(int(frames[first]) * PAGE_SIZE)
                    file.write(room[first:end].data)
            file.truncate(self.frames * PAGE_SIZE)

    def _fill(
        self, room: npt.NDArray[np.uint8], frames: Frames, pages: npt.NDArray[np.uint8]
    ) -> None:
        """Put the contents of frames into `room`; `pages` are those of noise, then one of zeros."""
        noisy = self._noise[frames]
        kinds = np.where(noisy, frames % _NOISE_PAGES, _NOISE_PAGES)
        np.take(pages, kinds, axis=0, out=room, mode="clip")
        # Every page of noise contains its number, so that no two pages are equal.
        room[noisy, :8] = (frames[noisy] + 1).astype("<u8")[:, None].view(np.uint8)
        contents = room.reshape(-1).data
        for row, frame in enumerate(frames.tolist()):
            if page := self._pages.get(frame):
                contents[row * PAGE_SIZE : (row + 1) * PAGE_SIZE] = page

    @functools.cached_property
    def _noise_pages(self) -> npt.NDArray[np.uint8]:
        """Pages of differing density: from nearly empty to incompressible."""
        pages = self._rng.integers(0, 256, (_NOISE_PAGES, PAGE_SIZE), dtype=np.uint8)
        fill = self._rng.random((_NOISE_PAGES, 1))
        pages[self._rng.random((_NOISE_PAGES, PAGE_SIZE)) > fill] = 0
        return pages
