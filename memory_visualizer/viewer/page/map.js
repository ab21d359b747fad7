// The map: pan and zoom (d3-zoom), drawing, and the frame under a point.

const MAX_SCALE = 96; // the most screen pixels for a page
const WHOLE_FROM = 8; // from this size, in pixels, pages have a whole number of pixels
const MARGIN = 24; // on each side, with everything in view
const MARK_GAP = 42; // the least pixels from one mark at the left edge to the next
const LABEL_ROOM = 96; // and from one at the top or the bottom to the next
const BORDERS_FROM = 8,
  NUMBERS_FROM = 56; // for pages of at least so many pixels
const PAINT_MS = 14; // for painting tiles within a frame of the screen

class MapView {
  constructor(canvas, theme) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.theme = theme;
    this.tiles = new Tiles();
    this.pinned = -1;
    this.hovered = -1;
    this.pointer = null; // the mouse's place in the window while it points at the map
    this.crosshair = false;
    /** @type {(frame: number) => string} */
    this.describe = () => ""; // a short description of a frame, if there is room
    this.listeners = { view: [], hover: [], pick: [] };
    this.selection = d3.select(canvas);
    this.zoom = d3
      .zoom()
      .clickDistance(4)
      .extent(() => [
        [0, 0],
        [this.width, this.height],
      ])
      .on("zoom", ({ transform }) => {
        this.transform = transform;
        this.redraw();
        this.emit("view");
      });
    this.transform = d3.zoomIdentity;
    this.width = this.height = 1;
    this.selection.call(this.zoom);
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") this.hover(event);
    });
    canvas.addEventListener("pointerleave", () => this.pointAt(null));
    canvas.addEventListener("pointerup", (event) => {
      this.released = event;
    });
    canvas.addEventListener("click", (event) =>
      this.emit("pick", this.frameUnder(this.exact(event))),
    );
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  on(name, listener) {
    this.listeners[name].push(listener);
  }

  emit(name, ...details) {
    for (const listener of this.listeners[name]) listener(...details);
  }

  show(layout, colouring) {
    const changed = layout !== this.layout;
    this.layout = layout;
    this.tiles.show(layout, colouring);
    if (changed) this.limit();
    this.redraw();
  }

  // The scale at which everything fits: whole pixels if pages are large.
  get fitScale() {
    const scale = Math.min(
      (this.width - 2 * MARGIN) / this.layout.width,
      (this.height - 2 * MARGIN) / this.layout.height,
    );
    return scale > WHOLE_FROM ? Math.min(Math.floor(scale), MAX_SCALE) : Math.max(scale, 0.001);
  }

  limit() {
    const { width, height } = this.layout;
    const margin = 40 / this.fitScale;
    this.zoom.scaleExtent([this.fitScale * 0.8, MAX_SCALE]).translateExtent([
      [-margin, -margin],
      [width + margin, height + margin],
    ]);
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const ratio = window.devicePixelRatio || 1;
    const wasFitted = this.layout && this.isFitted;
    const centre = this.layout && this.centre;
    this.ratio = ratio;
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    if (!this.layout) return;
    this.limit();
    if (wasFitted) this.fit();
    else this.goTo(...centre, this.transform.k);
    this.draw(); // at once: a resized canvas is blank
  }

  get isFitted() {
    return this.transform.k === this.fittedTo;
  }

  fit(smooth = false) {
    this.fittedTo = this.fitScale;
    this.goTo(this.layout.width / 2, this.layout.height / 2, this.fittedTo, smooth);
  }

  // The cell in the middle of the window, as fractions.
  get centre() {
    return this.transform.invert([this.width / 2, this.height / 2]);
  }

  goTo(x, y, scale, smooth = false) {
    x = Math.min(Math.max(x, 0), this.layout.width);
    y = Math.min(Math.max(y, 0), this.layout.height);
    scale = Math.min(Math.max(scale, this.fitScale * 0.8), MAX_SCALE);
    const target = d3.zoomIdentity
      .translate(this.width / 2, this.height / 2)
      .scale(scale)
      .translate(-x, -y);
    this.moving(smooth).call(this.zoom.transform, target);
  }

  moving(smooth) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    return smooth && !still
      ? this.selection.transition().duration(350)
      : this.selection.interrupt();
  }

  panBy(x, y) {
    this.moving(false).call(this.zoom.translateBy, x / this.transform.k, y / this.transform.k);
  }

  zoomBy(factor) {
    this.moving(false).call(this.zoom.scaleBy, factor);
  }

  // Bring a frame to the middle, large enough to be seen.
  goToFrame(frame, smooth, scale = Math.max(this.transform.k, 24)) {
    const [x, y] = this.layout.placeOf(frame);
    this.goTo(x + 0.5, y + 0.5, scale, smooth);
  }

  // The frame that is painted at a place of the canvas, in CSS pixels.
  frameAtPoint(x, y) {
    if (!this.layout) return -1;
    const { level, transform } = this;
    const blocks = [this.blockAt(x, transform.x), this.blockAt(y, transform.y)];
    const cells = transform.invert([x, y]).map(Math.floor);
    const step = 2 ** level;
    // Edges are drawn at whole pixels, so a cell outside of the block is the block's neighbour.
    const inside = blocks.map((block, axis) =>
      Math.min(Math.max(cells[axis], block * step), (block + 1) * step - 1),
    );
    return this.tiles.shownIn(level, ...blocks, ...inside);
  }

  // The level of the tiles that are drawn: its blocks take one to two pixels, or are single pages.
  get level() {
    const scale = this.transform.k * this.ratio;
    return Math.min(Math.max(Math.ceil(Math.log2(1 / scale)), 0), MAX_LEVEL);
  }

  // The block that the screen's pixel at a place shows, along one axis. As `draw` does: a tile's
  // edges lie on whole pixels, and a pixel has the colour of the block at its middle.
  blockAt(place, origin) {
    const pixel = Math.floor(place * this.ratio);
    const side = TILE * 2 ** this.level * this.transform.k * this.ratio;
    const edge = (tile) => Math.round(origin * this.ratio + tile * side);
    let tile = Math.floor((pixel + 0.5 - origin * this.ratio) / side);
    if (pixel < edge(tile)) tile--;
    else if (pixel >= edge(tile + 1)) tile++;
    const from = edge(tile);
    return tile * TILE + Math.floor(((pixel + 0.5 - from) * TILE) / (edge(tile + 1) - from));
  }

  frameUnder({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return this.frameAtPoint(clientX - box.left, clientY - box.top);
  }

  // A click's place is rounded to whole pixels; the release of the button before it is not.
  exact(click) {
    const { released } = this;
    const isSame =
      released &&
      Math.abs(released.clientX - click.clientX) <= 1 &&
      Math.abs(released.clientY - click.clientY) <= 1;
    return isSame ? released : click;
  }

  hover(event) {
    this.crosshair = false;
    this.pointAt(event.buttons ? null : { clientX: event.clientX, clientY: event.clientY });
  }

  pointAt(place) {
    this.pointer = place;
    if (this.look()) this.redraw();
  }

  // Report the frame or the fold under the pointer; returns whether the frame has changed.
  look() {
    const frame = this.pointer && this.layout ? this.frameUnder(this.pointer) : -1;
    const before = this.hovered;
    this.hovered = frame;
    const fold =
      this.pointer && this.layout && frame < 0 ? this.foldUnder(this.pointer) : undefined;
    this.emit("hover", frame, this.pointer, fold);
    return frame !== before;
  }

  foldUnder({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const cell = this.transform.invert([clientX - box.left, clientY - box.top]).map(Math.floor);
    return this.layout.foldAt(...cell);
  }

  // The page's place in the window: left, top, size, in CSS pixels.
  boxOf(frame) {
    const [x, y] = this.layout.placeOf(frame);
    const [left, top] = this.transform.apply([x, y]);
    return { left, top, size: this.transform.k };
  }

  // Cells in view: left, top, right, bottom, the last two not included.
  get visible() {
    const [left, top] = this.transform.invert([0, 0]);
    const [right, bottom] = this.transform.invert([this.width, this.height]);
    return [
      Math.max(Math.floor(left), 0),
      Math.max(Math.floor(top), 0),
      Math.min(Math.ceil(right), this.layout.width),
      Math.min(Math.ceil(bottom), this.layout.height),
    ];
  }

  redraw() {
    this.scheduled ??= requestAnimationFrame(() => {
      this.scheduled = undefined;
      this.draw();
    });
  }

  draw() {
    if (!this.layout || !this.ratio) return;
    this.look(); // the map may have moved under the pointer
    const { context, ratio, theme } = this;
    const scale = this.transform.k * ratio;
    const originX = this.transform.x * ratio,
      originY = this.transform.y * ratio;
    const placeX = (x) => Math.round(originX + x * scale);
    const placeY = (y) => Math.round(originY + y * scale);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);

    const { level } = this;
    const side = TILE * 2 ** level;
    const [left, top, right, bottom] = this.visible;
    context.imageSmoothingEnabled = false;
    const begin = performance.now();
    let painted = 0,
      waiting = false;
    const mayPaint = () => {
      // At least one, so that slow machines finish, too.
      if (painted && performance.now() - begin > PAINT_MS) {
        waiting = true;
        return false;
      }
      painted++;
      return true;
    };
    for (let y = Math.floor(top / side); y * side < bottom; y++) {
      for (let x = Math.floor(left / side); x * side < right; x++) {
        const tile = this.tiles.get(level, x, y, mayPaint);
        if (!tile) continue;
        const toX = placeX(x * side),
          toY = placeY(y * side);
        context.drawImage(
          tile.canvas,
          toX,
          toY,
          placeX((x + 1) * side) - toX,
          placeY((y + 1) * side) - toY,
        );
      }
    }
    if (this.transform.k >= BORDERS_FROM) this.drawBorders(placeX, placeY);
    if (this.transform.k >= NUMBERS_FROM) this.drawNumbers(placeX, placeY);
    this.drawEdge(placeX, placeY);
    this.drawMarks(placeX, placeY);
    if (this.hovered >= 0 && this.transform.k >= 3) this.drawRing(this.hovered, theme.hover, 1);
    if (this.pinned >= 0) this.drawRing(this.pinned, theme.accent, 2.5);
    if (this.crosshair) this.drawCrosshair();
    this.settled = !waiting;
    if (waiting) this.redraw();
  }

  // The marks at an edge of the map, as in the picture's legend: [row or column, label]. In rows,
  // round addresses at the left; along Hilbert's curve, which goes from the left top down, to the
  // right, and up, each stands for a square that is one stretch of memory, and tells its lowest
  // address.
  marks(edge = "left") {
    const { layout } = this;
    const [left, top, right, bottom] = this.visible;
    const isSide = edge === "left" || edge === "right";
    const gap = Math.ceil((isSide ? MARK_GAP : LABEL_ROOM) / this.transform.k);
    const marks = [];
    if (layout.name === "hilbert") {
      const side = 2 ** Math.ceil(Math.log2(gap));
      const [from, to] = isSide ? [top, bottom] : [left, right];
      for (let at = Math.floor(from / side) * side; at < to; at += side) {
        const x = isSide ? (edge === "left" ? 0 : layout.width - 1) : at;
        const y = isSide ? at : edge === "top" ? 0 : layout.height - 1;
        const { distance } = layout.descend(x, y, layout.order, 0);
        const frame = layout.places.frameAt(distance - (distance % side ** 2));
        if (frame >= 0) marks.push([at, hexAddress(frame)]);
      }
      return marks;
    }
    if (edge !== "left") return marks;
    const breaks = layout.places.folds.map(({ first, line, count }) => [
      Math.floor(line / layout.width),
      `${hexAddress(first)} ${bytesInWords(count * PAGE_SIZE)} absent`,
    ]);
    const step = 2 ** Math.ceil(Math.log2(gap * layout.width));
    const begin = Math.ceil(layout.frameNear(0, top) / step) * step;
    for (let frame = begin; frame < layout.frames; frame += step) {
      const [x, y] = layout.placeOf(frame);
      if (y > bottom) break;
      const isFree = breaks.every(([row]) => Math.abs(row - y) >= gap);
      if (isFree && layout.frameAt(x, y) === frame) marks.push([y, hexAddress(frame)]);
    }
    return [...marks, ...breaks].sort(([a], [b]) => a - b);
  }

  // Labels stand beside their marks, or below the previous label. Labels without room are left out.
  drawMarks(placeX, placeY) {
    const { context, ratio, theme, layout, canvas } = this;
    const line = Math.max(1, Math.round(ratio)),
      tick = 5 * ratio,
      room = 90 * ratio;
    const [left, top, right, bottom] = [
      placeX(0),
      placeY(0),
      placeX(layout.width),
      placeY(layout.height),
    ];
    context.font = `${Math.round(11 * ratio)}px ${theme.mono}`;
    context.textBaseline = "top";
    context.fillStyle = theme.soft;
    const sides = [
      ["left", left - tick - ratio, left - 9 * ratio, left >= room],
      ["right", right + ratio, right + 9 * ratio, canvas.width - right >= room],
    ];
    for (const [edge, at, from, fits] of sides) {
      if (!fits) continue;
      context.textAlign = edge === "left" ? "right" : "left";
      let free = -Infinity;
      for (const [row, label] of this.marks(edge)) {
        const y = placeY(row);
        context.fillRect(at, y, tick, line);
        free = Math.max(y, free);
        context.fillText(label, from, free);
        free += 13 * ratio;
      }
    }
    context.textAlign = "left";
    const levels = [
      ["top", top - tick - ratio, top - 17 * ratio, top >= 18 * ratio],
      ["bottom", bottom + ratio, bottom + 7 * ratio, canvas.height - bottom >= 19 * ratio],
    ];
    for (const [edge, at, from, fits] of levels) {
      if (!fits) continue;
      for (const [column, label] of this.marks(edge)) {
        context.fillRect(placeX(column), at, line, tick);
        context.fillText(label, placeX(column) + 4 * ratio, from);
      }
    }
  }

  drawBorders(placeX, placeY) {
    const { context, theme } = this;
    const [left, top, right, bottom] = this.visible;
    const line = Math.max(1, Math.round(this.ratio * Math.min(this.transform.k / 24, 1.5)));
    context.globalAlpha = Math.min((this.transform.k - BORDERS_FROM + 2) / 12, 1);
    context.fillStyle = theme.canvas;
    const x0 = placeX(left),
      y0 = placeY(top),
      x1 = placeX(right),
      y1 = placeY(bottom);
    for (let x = left; x <= right; x++) context.fillRect(placeX(x), y0, line, y1 - y0);
    for (let y = top; y <= bottom; y++) context.fillRect(x0, placeY(y), x1 - x0, line);
    context.globalAlpha = 1;
  }

  drawNumbers(placeX, placeY) {
    const { context, ratio, tiles } = this;
    const [left, top, right, bottom] = this.visible;
    context.font = `${Math.round(10 * ratio)}px ${this.theme.mono}`;
    context.textBaseline = "top";
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const frame = this.layout.frameAt(x, y);
        if (frame < 0) continue;
        const pixel = tiles.pixel(frame);
        const light =
          0.3 * (pixel & 255) + 0.59 * ((pixel >> 8) & 255) + 0.11 * ((pixel >> 16) & 255);
        context.fillStyle = light > 140 ? "rgb(0 0 0 / 62%)" : "rgb(255 255 255 / 75%)";
        const atX = placeX(x) + 5 * ratio,
          atY = placeY(y) + 5 * ratio;
        context.fillText(frame.toString(16), atX, atY);
        const letters = Math.floor((this.transform.k - 8) / 6.1);
        context.fillText(this.describe(frame).slice(0, letters), atX, atY + 14 * ratio);
      }
    }
  }

  drawEdge(placeX, placeY) {
    const { context, layout, ratio } = this;
    const x = placeX(0),
      y = placeY(0);
    const line = Math.max(1, Math.round(ratio));
    context.strokeStyle = this.theme.line;
    context.lineWidth = line;
    context.strokeRect(
      x - line / 2,
      y - line / 2,
      placeX(layout.width) - x + line,
      placeY(layout.height) - y + line,
    );
  }

  drawRing(frame, colour, width) {
    const { context, ratio } = this;
    const { left, top, size } = this.boxOf(frame);
    const grow = Math.max((10 - size) / 2, 0) + 1; // the ring of a small page is larger
    const place = [
      (left - grow) * ratio,
      (top - grow) * ratio,
      (size + 2 * grow) * ratio,
      (size + 2 * grow) * ratio,
    ];
    for (const [stroke, line] of [
      [this.theme.canvas, width + 2],
      [colour, width],
    ]) {
      context.strokeStyle = stroke;
      context.lineWidth = line * ratio;
      context.strokeRect(...place);
    }
  }

  drawCrosshair() {
    const { context, ratio } = this;
    const x = this.canvas.width / 2,
      y = this.canvas.height / 2,
      arm = 9 * ratio;
    for (const [stroke, line] of [
      [this.theme.canvas, 4],
      [this.theme.accent, 1.5],
    ]) {
      context.strokeStyle = stroke;
      context.lineWidth = line * ratio;
      context.beginPath();
      context.moveTo(x - arm, y);
      context.lineTo(x + arm, y);
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
      context.stroke();
    }
  }
}

// The buttons around a map, which each page with one has.
function connectButtons(map) {
  byId("zoom-in").addEventListener("click", () => map.zoomBy(2));
  byId("zoom-out").addEventListener("click", () => map.zoomBy(0.5));
  byId("zoom-fit").addEventListener("click", () => map.fit(true));
  byId("skip").addEventListener("click", () => map.canvas.focus());
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("side-open").addEventListener("click", () => {
    const isOpen = document.body.classList.toggle("side-shown");
    byId("side-open").setAttribute("aria-expanded", String(isOpen));
  });
}
