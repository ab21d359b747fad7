// The picture in tiles, painted when they come into view. A cell of level n stands for a block of
// 2**n by 2**n frames and has the colour that most of them have: so all colours are in the legend.
// Lit frames outvote pale frames, however few they are, and pale frames outvote hidden ones: a single
// page of a chosen process is seen in a map of a whole machine.

const TILE_ORDER = 8,
  TILE = 2 ** TILE_ORDER,
  MAX_LEVEL = 8;
const FOLD_PIXEL = pixelOf(about.fold); // of a break's line
const MAX_TILES = 512; // of 256 KiB each

// How a frame is painted.
const HIDDEN = 0,
  PALE = 1,
  LIT = 2;

class Tiles {
  constructor() {
    this.cache = new Map(); // in order of use
    this.version = 0;
  }

  // Set the layout and the pixels from now on: by the value of a frame, and by how it is painted,
  // its `shade`.
  show(layout, { values, shades, bright, pale, hole }) {
    if (layout !== this.layout) this.cache.clear();
    this.layout = layout;
    this.values = values;
    this.shades = shades;
    this.pixels = [new Uint32Array(bright.length).fill(hole), pale, bright];
    this.order = layout.places.order;
    this.size = layout.places.size;
    this.votes = new Votes(values, shades, this.order, bright.length);
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
    if (frame < 0) return frame === DASH ? FOLD_PIXEL : 0;
    return this.pixels[this.shades[frame]][this.values[frame]];
  }

  // The frame whose colour a block has, by the block's number from the left and the top: the frame
  // at a cell in it if it has that colour, otherwise the first one that has; -1 if there is none.
  shownIn(level, blockX, blockY, cellX, cellY) {
    const at = this.layout.frameAt(cellX, cellY);
    if (level === 0) return at;
    const found = this.elected(level, blockX, blockY);
    return at >= 0 && found >= 0 && this.pixel(at) === this.pixel(found) ? at : found;
  }

  // The first frame of a block that has the block's colour; -1 if the block is empty.
  elected(level, blockX, blockY) {
    const { layout, votes } = this;
    votes.begin();
    if (layout.name === "hilbert") {
      const side = 2 ** level;
      const { distance } = layout.descend(blockX * side, blockY * side, layout.tileOrder, level);
      votes.count(distance, Math.min(distance + side * side, this.size));
    } else {
      const { width, height } = layout,
        step = 2 ** level;
      const left = blockX * step,
        right = Math.min(left + step, width),
        end = Math.min((blockY + 1) * step, height);
      for (let y = blockY * step; y < end; y++)
        votes.count(y * width + left, Math.min(y * width + right, this.size));
    }
    return votes.winner;
  }

  paintRows(pixels, level, tileX, tileY) {
    const { width, height } = this.layout;
    const { order, size } = this;
    const step = 2 ** level,
      firstX = tileX * TILE * step;
    const endX = Math.min(firstX + TILE * step, width);
    for (let row = 0; row < TILE; row++) {
      const firstY = (tileY * TILE + row) * step;
      if (firstY >= height) return;
      if (level === 0) {
        const start = firstY * width,
          end = Math.min(start + endX, size);
        for (let place = start + firstX, at = row * TILE; place < end; place++, at++)
          pixels[at] = this.pixel(order ? order[place] : place);
        continue;
      }
      const blocks = Math.ceil((endX - firstX) / step);
      for (let x = 0; x < blocks; x++)
        pixels[row * TILE + x] = this.pixel(
          this.elected(level, tileX * TILE + x, tileY * TILE + row),
        );
    }
  }

  paintHilbert(pixels, level, tileX, tileY) {
    const { layout, votes, order, size } = this;
    const low = TILE_ORDER + level,
      side = 2 ** low;
    const { distance, turn } = layout.descend(tileX * side, tileY * side, layout.tileOrder, low);
    const local = layout.local(turn),
      each = 4 ** level;
    for (let at = 0; at < TILE * TILE; at++) {
      const first = distance + local[at] * each;
      if (first >= size) continue;
      if (level === 0) {
        pixels[at] = this.pixel(order ? order[first] : first);
        continue;
      }
      votes.begin();
      votes.count(first, Math.min(first + each, size));
      pixels[at] = this.pixel(votes.winner);
    }
  }
}

// An election among the frames of a block: the value that most frames of the best shade have; on a
// tie, the value of the first frame. A break always wins, so that its line is seen.
class Votes {
  constructor(values, shades, order, many) {
    this.values = values;
    this.shades = shades;
    this.order = order;
    this.counts = new Uint32Array(many * 3);
    this.firsts = new Uint32Array(many * 3); // the first frame with each value and shade
    this.met = []; // the values and shades that have votes
    this.isBreak = false;
  }

  begin() {
    for (const kind of this.met) this.counts[kind] = 0;
    this.met.length = 0;
    this.isBreak = false;
  }

  // Places from `first` on.
  count(first, end) {
    const { values, shades, order, counts, firsts, met } = this;
    for (let place = first; place < end; place++) {
      const frame = order ? order[place] : place;
      if (frame < 0) {
        if (frame === DASH || frame === GAP) this.isBreak = true;
        continue;
      }
      const kind = values[frame] * 3 + shades[frame];
      if (counts[kind]++ === 0) {
        firsts[kind] = frame;
        met.push(kind);
      }
    }
  }

  // A frame; or DASH, or another number below 0 where there is none.
  get winner() {
    const { counts, firsts, met } = this;
    if (this.isBreak) return DASH;
    let best = -1;
    for (const kind of met)
      if (best < 0 || kind % 3 > best % 3 || (kind % 3 === best % 3 && counts[kind] > counts[best]))
        best = kind;
    return best < 0 ? PADDING : firsts[best];
  }
}
