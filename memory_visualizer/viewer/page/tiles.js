// The picture in tiles, painted when they come into view. A level halves the one before: a cell
// of level n stands for 2**n by 2**n frames and has the mean of their colours, so that the whole
// memory on one screen does not flicker as a choice of pixels would.

const TILE_ORDER = 8,
  TILE = 2 ** TILE_ORDER,
  MAX_LEVEL = 8;
const MAX_TILES = 512; // of 256 KiB each

class Tiles {
  constructor() {
    this.cache = new Map(); // in order of use
    this.version = 0;
    this.sums = new Float64Array(TILE * 4);
  }

  // Set the layout and the pixels from now on: a frame has the pixel of its value if it is lit,
  // and otherwise the pixel of its value in `pale`.
  show(layout, { values, lit, bright, pale }) {
    if (layout !== this.layout) this.cache.clear();
    this.layout = layout;
    this.values = values;
    this.lit = lit;
    this.bright = bright;
    this.pale = pale;
    this.version++;
  }

  // The tile: painted now if `mayPaint`, otherwise as it was painted last, or null.
  get(level, tileX, tileY, mayPaint) {
    const key = (level * 65536 + tileY) * 65536 + tileX;
    let tile = this.cache.get(key);
    if (!(tile?.version === this.version) && mayPaint()) {
      tile ??= {
        canvas: Object.assign(document.createElement("canvas"), { width: TILE, height: TILE }),
      };
      this.paint(tile.canvas, level, tileX, tileY);
      tile.version = this.version;
    }
    if (tile) {
      this.cache.delete(key);
      this.cache.set(key, tile);
      if (this.cache.size > MAX_TILES) this.cache.delete(this.cache.keys().next().value);
    }
    return tile ?? null;
  }

  paint(canvas, level, tileX, tileY) {
    const image = new ImageData(TILE, TILE);
    const pixels = new Uint32Array(image.data.buffer);
    if (this.layout.name === "hilbert") this.paintHilbert(pixels, level, tileX, tileY);
    else this.paintRows(pixels, level, tileX, tileY);
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  pixel(frame) {
    return (this.lit[frame] ? this.bright : this.pale)[this.values[frame]];
  }

  paintRows(pixels, level, tileX, tileY) {
    const { width, height, frames } = this.layout;
    const step = 2 ** level,
      firstX = tileX * TILE * step;
    const endX = Math.min(firstX + TILE * step, width);
    for (let row = 0; row < TILE; row++) {
      const firstY = (tileY * TILE + row) * step;
      if (firstY >= height) return;
      if (level === 0) {
        const start = firstY * width,
          end = Math.min(start + endX, frames);
        for (let frame = start + firstX, at = row * TILE; frame < end; frame++, at++)
          pixels[at] = this.pixel(frame);
        continue;
      }
      const sums = this.sums.fill(0);
      for (let y = firstY; y < Math.min(firstY + step, height); y++) {
        const start = y * width,
          end = Math.min(start + endX, frames);
        for (let frame = start + firstX, x = 0; frame < end; frame++, x++) {
          const pixel = this.pixel(frame),
            at = (x >> level) * 4;
          sums[at] += pixel & 255;
          sums[at + 1] += (pixel >> 8) & 255;
          sums[at + 2] += (pixel >> 16) & 255;
          sums[at + 3]++;
        }
      }
      for (let x = 0; x < TILE; x++) pixels[row * TILE + x] = mean(sums, x * 4, step * step);
    }
  }

  paintHilbert(pixels, level, tileX, tileY) {
    const { layout, sums } = this;
    const low = TILE_ORDER + level,
      side = 2 ** low;
    const { distance, turn } = layout.descend(tileX * side, tileY * side, layout.tileOrder, low);
    const local = layout.local(turn),
      each = 4 ** level;
    for (let at = 0; at < TILE * TILE; at++) {
      const first = distance + local[at] * each;
      if (first >= layout.frames) continue;
      if (level === 0) {
        pixels[at] = this.pixel(first);
        continue;
      }
      sums.fill(0, 0, 4);
      const end = Math.min(first + each, layout.frames);
      for (let frame = first; frame < end; frame++) {
        const pixel = this.pixel(frame);
        sums[0] += pixel & 255;
        sums[1] += (pixel >> 8) & 255;
        sums[2] += (pixel >> 16) & 255;
      }
      sums[3] = end - first;
      pixels[at] = mean(sums, 0, each);
    }
  }
}

// The mean colour of some pixels; it is more transparent if more of `all` are missing.
function mean(sums, at, all) {
  const count = sums[at + 3];
  if (!count) return 0;
  const alpha = Math.round((255 * count) / all);
  return (
    ((alpha << 24) |
      (Math.round(sums[at + 2] / count) << 16) |
      (Math.round(sums[at + 1] / count) << 8) |
      Math.round(sums[at] / count)) >>>
    0
  );
}
