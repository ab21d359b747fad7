"""Paint a map in the seed project's way, for comparison: seedpainter.py DUMP MAP PNG.

It works line by line and pixel by pixel, in plain Python; the last line of a page wins.
"""

import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"True": (95, 194, 205), "False": (212, 70, 45)}


def main() -> None:
    """Paint one map."""
    dump, page_map, output = map(Path, sys.argv[1:])
    frames = dump.stat().st_size // 4096
    side = math.ceil(math.sqrt(frames))
    picture = np.full((side, side, 3), 255, dtype=np.uint8)
    rows = [line.split() for line in page_map.read_text().splitlines()[1:]]
    for _, physical, size, kernel in rows:
        first = int(physical) // 4096
        for frame in range(first, first + int(size) // 4096):
            if frame < frames:
                y, x = divmod(frame, side)
                for channel in range(3):
                    picture[y][x][channel] = COLOURS[kernel][channel]
    Image.fromarray(picture).save(output)


if __name__ == "__main__":
    main()
