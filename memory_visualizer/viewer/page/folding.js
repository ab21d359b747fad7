// Folds: long holes take a thin break instead of a cell for each absent frame, as in
// memory_visualizer/picture/folding.py. The places of a layout are its cells in their order.

const PADDING = -1, // places of a break: empty, a dash of its line, a gap of its line
  DASH = -2,
  GAP = -3;
const BREAK_LEVELS = 4; // along Hilbert's curve a break's line is one of 16 by 16 squares

class Places {
  // `step`: breaks end at its multiples, and the line of a break has this many places.
  constructor(frames, holes, step) {
    this.frames = frames;
    this.folds = [];
    let frame = 0,
      place = 0;
    for (const [first, count] of holes) {
      const start = place + first - frame;
      const line = Math.ceil(start / step) * step;
      this.folds.push({ first, count, place: start, line, end: line + step });
      frame = first + count;
      place = line + step;
    }
    this.size = place + frames - frame;
  }

  // The places behind the last frame, in the form of a fold.
  get end() {
    const { frames, size } = this;
    return { first: frames, count: 0, place: size, line: size, end: size };
  }

  // The frame or the part of a break at each place; null without folds, when places are frames.
  get order() {
    if (!this.folds.length) return null;
    if (!this.made) {
      this.made = new Int32Array(this.size).fill(PADDING);
      let frame = 0,
        place = 0;
      for (const fold of [...this.folds, this.end]) {
        while (frame < fold.first) this.made[place++] = frame++;
        for (let at = fold.line; at < fold.end; at++)
          this.made[at] = ((at - fold.line) >> 1) % 2 ? GAP : DASH;
        frame += fold.count;
        place = fold.end;
      }
    }
    return this.made;
  }

  // The frame at a place; below 0 there is none.
  frameAt(place) {
    if (place >= this.size) return PADDING;
    return this.order ? this.order[place] : place;
  }

  // The fold whose break has a place.
  foldAt(place) {
    return this.folds.find((fold) => fold.place <= place && place < fold.end);
  }

  // The place of a frame; a frame that is folded has the place of its break.
  placeOf(frame) {
    let moved = frame;
    for (const fold of this.folds) {
      if (frame < fold.first) break;
      const end = fold.first + fold.count;
      if (frame < end) return fold.line;
      moved = frame - end + fold.end;
    }
    return moved;
  }
}

// The width of the smallest square of rows that holds all places.
function squareWidth(frames, holes) {
  const fits = (side) => {
    let rows = holes.length,
      frame = 0;
    for (const [first, count] of [...holes, [frames, 0]]) {
      rows += Math.ceil((first - frame) / side);
      frame = first + count;
    }
    return rows <= side;
  };
  let low = 1,
    high = Math.max(frames, 1);
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}
