// Layouts: the frame of each cell, as in memory_visualizer/picture/layout.py.

// The common part of layouts; each layout adds `placeAt` and `cellOf`.
class Layout {
  constructor() {
    this.frames = 0;
    this.places = new Places(0, [], 1);
  }

  // The place of a cell; -1 outside of the picture.
  placeAt(x, y) {
    return this.places.placeOf(y + x);
  }

  // The cell of a place.
  cellOf(place) {
    return [place, 0];
  }

  // The frame in a cell; below 0 there is none.
  frameAt(x, y) {
    const place = this.placeAt(x, y);
    return place < 0 ? PADDING : this.places.frameAt(place);
  }

  // The fold whose break has a cell.
  foldAt(x, y) {
    return this.places.foldAt(this.placeAt(x, y));
  }

  // The frame in a cell; for a break, the frame before it; behind the last frame, the last one.
  frameNear(x, y) {
    const place = this.placeAt(x, y);
    const frame = place < 0 ? PADDING : this.places.frameAt(place);
    if (frame >= 0) return frame;
    const fold = this.places.foldAt(place);
    return fold ? Math.max(fold.first - 1, 0) : this.frames - 1;
  }

  // The cell of a frame.
  placeOf(frame) {
    return this.cellOf(this.places.placeOf(frame));
  }
}

// Rows from the top left, left to right, top to bottom, in the smallest square that holds all.
class Rows extends Layout {
  constructor(frames, holes = []) {
    super();
    this.name = "rows";
    this.frames = frames;
    this.width = squareWidth(frames, holes);
    this.places = new Places(frames, holes, this.width);
    this.height = Math.ceil(this.places.size / this.width);
  }

  placeAt(x, y) {
    if (x < 0 || y < 0 || x >= this.width) return -1;
    const place = y * this.width + x;
    return place < this.places.size ? place : -1;
  }

  cellOf(place) {
    return [place % this.width, Math.floor(place / this.width)];
  }
}

// Hilbert's curve: neighbours in memory stay neighbours. A part of the curve is the whole curve,
// mirrored at a diagonal (`swap`) or turned half round (`flip`), or both.
class Hilbert extends Layout {
  constructor(frames, holes = []) {
    super();
    this.name = "hilbert";
    this.frames = frames;
    const drawn = holes.reduce((left, [, count]) => left - count, frames);
    let order = 0;
    while (4 ** order < drawn) order++;
    const placed = () => new Places(frames, holes, 4 ** Math.max(0, order - BREAK_LEVELS));
    this.places = placed();
    while (this.places.size > 4 ** order) {
      order++;
      this.places = placed();
    }
    const { size } = this.places;
    this.order = order;
    this.height = 2 ** order;
    this.width = size > 1 && size <= 4 ** order / 2 ? this.height / 2 : this.height;
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

  placeAt(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return -1;
    const place = this.descend(x, y, this.order, 0).distance;
    return place < this.places.size ? place : -1;
  }

  cellOf(place) {
    let x = 0,
      y = 0,
      swap = 0,
      flip = 0;
    for (let level = this.order - 1; level >= 0; level--) {
      const quarter = Math.floor(place / 4 ** level) % 4;
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
