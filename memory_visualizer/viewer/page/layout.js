// Layouts: the frame of each cell, as in memory_visualizer/picture/layout.py.

// The first frame top left, left to right, top to bottom, in the smallest square that holds all.
class Rows {
  constructor(frames) {
    this.name = "rows";
    this.frames = frames;
    let width = Math.ceil(Math.sqrt(frames));
    while ((width - 1) ** 2 >= frames) width--;
    this.width = width;
    this.height = Math.ceil(frames / width);
  }

  frameAt(x, y) {
    if (x < 0 || y < 0 || x >= this.width) return -1;
    const frame = y * this.width + x;
    return frame < this.frames ? frame : -1;
  }

  placeOf(frame) {
    return [frame % this.width, Math.floor(frame / this.width)];
  }
}

// Hilbert's curve: neighbours in memory stay neighbours. A part of the curve is the whole curve,
// mirrored at a diagonal (`swap`) or turned half round (`flip`), or both.
class Hilbert {
  constructor(frames) {
    this.name = "hilbert";
    this.frames = frames;
    let order = 0;
    while (4 ** order < frames) order++;
    this.order = order;
    this.height = 2 ** order;
    this.width = frames > 1 && frames <= 4 ** order / 2 ? this.height / 2 : this.height;
    // For tiles the square is larger. Two orders more do not move the curve.
    this.tileOrder = order + 2 * Math.ceil((18 - order) / 2);
    this.locals = [null, null, null, null];
  }

  // Distance along the curve of a square's first cell, and the curve's orientation in it (0 to 3):
  // the square has 2**low cells to a side and the cell (x, y) in it.
  descend(x, y, order, low) {
    let distance = 0,
      swap = 0,
      flip = 0;
    for (let level = order - 1; level >= low; level--) {
      const bitX = Math.floor(x / 2 ** level) & 1,
        bitY = Math.floor(y / 2 ** level) & 1;
      const right = (swap ? bitY : bitX) ^ flip,
        below = (swap ? bitX : bitY) ^ flip;
      const quarter = right ? (below ? 2 : 3) : below ? 1 : 0;
      distance = distance * 4 + quarter;
      if (right && !below) flip ^= 1;
      if (!below) swap ^= 1;
    }
    return { distance: distance * 4 ** low, turn: swap + 2 * flip };
  }

  frameAt(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return -1;
    const frame = this.descend(x, y, this.order, 0).distance;
    return frame < this.frames ? frame : -1;
  }

  placeOf(frame) {
    let x = 0,
      y = 0,
      swap = 0,
      flip = 0;
    for (let level = this.order - 1; level >= 0; level--) {
      const quarter = Math.floor(frame / 4 ** level) % 4;
      const right = quarter >= 2 ? 1 : 0,
        below = quarter === 1 || quarter === 2 ? 1 : 0;
      const bitX = (swap ? below : right) ^ flip,
        bitY = (swap ? right : below) ^ flip;
      x = x * 2 + bitX;
      y = y * 2 + bitY;
      if (right && !below) flip ^= 1;
      if (!below) swap ^= 1;
    }
    return [x, y];
  }

  // Distances within a tile by y * TILE + x, for each of the curve's four orientations.
  local(turn) {
    if (!this.locals[turn]) {
      const distances = new Uint16Array(TILE * TILE);
      for (let y = 0; y < TILE; y++) {
        for (let x = 0; x < TILE; x++) {
          const [cellX, cellY] = turn & 1 ? [y, x] : [x, y];
          const flip = turn & 2 ? TILE - 1 : 0;
          distances[y * TILE + x] = this.descend(
            flip ? flip - cellX : cellX,
            flip ? flip - cellY : cellY,
            TILE_ORDER,
            0,
          ).distance;
        }
      }
      this.locals[turn] = distances;
    }
    return this.locals[turn];
  }
}

const LAYOUTS = { rows: Rows, hilbert: Hilbert };
