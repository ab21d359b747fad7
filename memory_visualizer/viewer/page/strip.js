// The overview strip: the classes along physical memory as stacked bars, and the view's place.

const BAR = 3; // pixels for each bar
// From the bottom: user, both, kernel, data, zeros, left out, absent.
const STACK = [2, 1, 3, 4, 5, 6, 0];

class Strip {
  constructor(canvas, model, map, theme) {
    this.canvas = canvas;
    this.model = model;
    this.map = map;
    this.theme = theme;
    this.stack = STACK;
    this.kinds = STACK.length;
    this.isRelative = false; // whether the fullest bar is as high as the strip
    this.kindOf = (frame) => model.page[frame] & 7;
    this.off = new Set();
    let dragging = false;
    canvas.addEventListener("pointerdown", (event) => {
      dragging = true;
      canvas.setPointerCapture(event.pointerId);
      this.goTo(event);
    });
    canvas.addEventListener("pointermove", (event) => dragging && this.goTo(event));
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, () => {
        dragging = false;
      });
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.resize()).observe(canvas);
    map.on("view", () => this.redraw());
  }

  goTo(event) {
    const box = this.canvas.getBoundingClientRect();
    const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    this.centreOnPlace(Math.floor(part * this.places.size));
  }

  centreOnPlace(place) {
    const { places } = this;
    const near = Math.min(Math.max(place, 0), places.size - 1);
    const fold = places.foldAt(near);
    this.centreOn(fold ? fold.first - 1 : places.frameAt(near));
  }

  centreOn(frame) {
    const { map, model } = this;
    frame = Math.min(Math.max(frame, 0), model.frames - 1);
    const [x, y] = map.layout.placeOf(frame);
    // A view of the whole memory cannot move: zoom in until the view is a part of it.
    map.goTo(x + 0.5, y + 0.5, Math.max(map.transform.k, map.fitScale * 4));
  }

  key(event) {
    const steps = {
      ArrowLeft: -1 / 64,
      ArrowRight: 1 / 64,
      ArrowDown: -1 / 64,
      ArrowUp: 1 / 64,
      PageDown: -1 / 8,
      PageUp: 1 / 8,
      Home: -1,
      End: 1,
    };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const { places } = this;
    const step = Math.round(steps[event.key] * places.size);
    this.centreOnPlace(places.placeOf(this.frame) + step);
  }

  // The frame in the middle of the map.
  get frame() {
    const { layout } = this.map;
    const [x, y] = this.map.centre;
    const cell = [
      [x, layout.width],
      [y, layout.height],
    ].map(([at, size]) => Math.min(Math.max(Math.floor(at), 0), size - 1));
    return layout.frameNear(...cell);
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(box.width * this.ratio);
    this.canvas.height = Math.round(box.height * this.ratio);
    const drawn = about.folds.reduce((left, [, count]) => left - count, this.model.frames);
    this.bars = Math.min(Math.max(Math.floor(box.width / BAR), 1), drawn);
    this.places = new Places(this.model.frames, about.folds, Math.ceil(drawn / this.bars));
    this.count();
    this.bare = null;
    this.draw();
  }

  count() {
    const { frames } = this.model;
    const { order } = this.places;
    const counts = new Uint32Array(this.bars * this.kinds);
    this.counts = counts;
    for (let bar = 0; bar < this.bars; bar++) {
      const end = this.edge(bar + 1);
      const first = bar * this.kinds;
      for (let place = this.edge(bar); place < end; place++) {
        const frame = order ? order[place] : place;
        if (frame >= 0) counts[first + this.kindOf(frame)]++;
      }
    }
    this.canvas.setAttribute("aria-valuemax", frames - 1);
  }

  // Count again, if frames have other kinds than before.
  recount() {
    if (!this.places) return; // it has no size yet
    this.count();
    this.bare = null;
    this.redraw();
  }

  edge(bar) {
    return Math.floor((bar * this.places.size) / this.bars);
  }

  show(palette, off, colours = schemeOf(palette).class) {
    this.colours = colours;
    this.off = off;
    this.bare = null;
    this.redraw();
  }

  redraw() {
    this.scheduled ??= requestAnimationFrame(() => {
      this.scheduled = undefined;
      this.draw();
    });
  }

  left(bar) {
    return Math.round((bar * this.canvas.width) / this.bars);
  }

  get full() {
    return this.canvas.height - Math.round(6 * this.ratio);
  }

  // The bars, which change less often than the view.
  drawBars() {
    const { full } = this;
    const { fullest } = this;
    const bare = Object.assign(document.createElement("canvas"), {
      width: this.canvas.width,
      height: full,
    });
    const context = bare.getContext("2d");
    for (let bar = 0; bar < this.bars; bar++) {
      const places = this.edge(bar + 1) - this.edge(bar),
        all = this.isRelative ? fullest : places;
      let below = 0;
      if (this.places.foldAt(this.edge(bar) + Math.floor(places / 2))) this.drawBreak(context, bar);
      for (const value of this.stack) {
        const count = this.counts[bar * this.kinds + value];
        const from = full - Math.round((full * below) / all);
        below += count;
        const to = full - Math.round((full * below) / all);
        if (!count || this.off.has(value)) continue;
        context.fillStyle = this.colours[value];
        context.fillRect(this.left(bar), to, this.left(bar + 1) - this.left(bar), from - to);
      }
    }
    return bare;
  }

  // The most frames that a bar shows.
  get fullest() {
    let most = 1;
    for (let bar = 0; bar < this.bars; bar++) {
      let shown = 0;
      for (const value of this.stack) shown += this.counts[bar * this.kinds + value];
      most = Math.max(most, shown);
    }
    return most;
  }

  // A dashed line upwards.
  drawBreak(context, bar) {
    context.fillStyle = about.fold;
    const dash = Math.round(3 * this.ratio);
    for (let y = 0; y < this.full; y += 2 * dash)
      context.fillRect(this.left(bar), y, Math.max(this.left(bar + 1) - this.left(bar), 1), dash);
  }

  draw() {
    if (!this.counts || !this.map.layout || !this.colours) return;
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    const { full, theme } = this,
      mark = height - full - this.ratio;
    this.bare ??= this.drawBars();
    context.clearRect(0, 0, width, height);
    context.drawImage(this.bare, 0, 0);
    const seen = this.seen();
    for (let bar = 0, end; bar < this.bars; bar = end) {
      end = bar + 1;
      while (end < this.bars && seen[end] === seen[bar]) end++;
      const x = this.left(bar),
        wide = this.left(end) - x;
      context.fillStyle = seen[bar] ? theme.accent : theme.veil;
      if (seen[bar]) context.fillRect(x, full + this.ratio, wide, mark);
      else context.fillRect(x, 0, wide, full);
    }
    this.telling ??= setTimeout(() => this.tell(), 120);
  }

  // For screen readers: after a delay, not in each frame of a movement.
  tell() {
    this.telling = undefined;
    const { frame } = this;
    this.canvas.setAttribute("aria-valuenow", frame);
    this.canvas.setAttribute("aria-valuetext", `around ${hexAddress(frame)}`);
  }

  // 1 for each bar with a frame in view.
  seen() {
    const {
      layout,
      visible: [left, top, right, bottom],
    } = this.map;
    const seen = new Uint8Array(this.bars);
    const barOf = (frame) =>
      Math.min(
        Math.floor((this.places.placeOf(frame) * this.bars) / this.places.size),
        this.bars - 1,
      );
    if (right <= left || bottom <= top) return seen;
    if (layout.name === "rows") {
      const [first, last] = [
        barOf(layout.frameNear(left, top)),
        barOf(layout.frameNear(right - 1, bottom - 1)),
      ];
      return seen.fill(1, first, last + 1);
    }
    // The curve leaves the view and returns: test enough cells to meet each bar.
    const stepX = Math.max((right - left) / 48, 1),
      stepY = Math.max((bottom - top) / 48, 1);
    for (let y = top; y < bottom; y += stepY) {
      for (let x = left; x < right; x += stepX) {
        const frame = layout.frameAt(Math.floor(x), Math.floor(y));
        if (frame >= 0) seen[barOf(frame)] = 1;
      }
    }
    return seen;
  }
}
