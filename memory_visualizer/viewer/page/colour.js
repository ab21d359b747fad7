// Colourings: a value for each frame, a colour and a label for each value. The rules are those of
// memory_visualizer/picture/colouring.py, which also gives the colours.

const MAY_USER = 1,
  MAY_WRITE = 2,
  MAY_EXECUTE = 4;
const FIRST_PROCESS = 6; // smaller values do not stand for a process
const MAPPING_BINS = [1, 2, 3, 5, 9, 17, 33, 65]; // the smallest number of mappings in each bin
const ENTROPY_BINS = 16,
  ENTROPY_STEPS = 255;

// Pixels as in ImageData on all current machines: little-endian.
function pixelOf(hex) {
  const number = parseInt(hex.slice(1), 16);
  return (0xff000000 | ((number & 0xff) << 16) | (number & 0xff00) | (number >> 16)) >>> 0;
}

function mixed(pixel, other, share) {
  let result = 0xff000000;
  for (const shift of [0, 8, 16]) {
    const a = (pixel >> shift) & 255,
      b = (other >> shift) & 255;
    result |= Math.round(a + (b - a) * share) << shift;
  }
  return result >>> 0;
}

// The colours of a palette by colouring and value: on a dark screen, absent pages are dark.
function schemeOf(palette) {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;
  return about.schemes[isDark ? "dark" : "light"][palette];
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

class Colourings {
  constructor(model) {
    this.model = model;
    this.cache = new Map();
    this.rules = {};
    this.names = ["class", ...Object.keys(about.swatches), ...Object.keys(model.named)];
    this.titles = Object.fromEntries((about.named ?? []).map(({ id, title }) => [id, title]));
  }

  title(name) {
    return this.titles[name] ?? capital(name);
  }

  // { values, colours (pixels by value), entries: [{ label, colour, first, last, count }] };
  // an entry of the legend stands for the values from `first` to `last`.
  get(name, palette) {
    let found = this.cache.get(name);
    if (!found) {
      found = { values: this.valuesOf(name) };
      const labels = this.swatches(name, palette);
      const extra = name === "process" ? about.processes.length : 0;
      const counts = new Uint32Array(labels.length + extra);
      for (const value of found.values) counts[value]++;
      found.counts = counts;
      this.cache.set(name, found);
    }
    const swatches = this.swatches(name, palette);
    const entries = swatches.map(([label, colour], value) => ({
      label,
      colour,
      first: value,
      last: value,
      count: found.counts[value],
    }));
    const colours = swatches.map(([, colour]) => pixelOf(colour));
    if (name === "process") {
      colours.push(...schemeOf(palette).process.slice(FIRST_PROCESS).map(pixelOf));
      let count = 0;
      for (let value = FIRST_PROCESS; value < colours.length; value++) count += found.counts[value];
      entries.push({
        label: "one process alone",
        colour: null,
        count,
        first: FIRST_PROCESS,
        last: Math.max(colours.length - 1, FIRST_PROCESS),
      });
    }
    return { name, values: found.values, colours: Uint32Array.from(colours), entries };
  }

  // The value of a single frame.
  valueAt(name, frame) {
    if (this.model.named[name]) return this.model.named[name][frame];
    this.rules[name] ??= this[name]();
    return this.rules[name](frame);
  }

  // [label, colour] by value; for processes, only the values that are not processes.
  swatches(name, palette) {
    const colours = schemeOf(palette)[name];
    const labels =
      name === "class"
        ? about.classes
        : (about.named.find(({ id }) => id === name)?.swatches ?? about.swatches[name]);
    return labels.map((label, value) => [label, colours[value]]);
  }

  valuesOf(name) {
    const { frames, page, named } = this.model;
    if (named[name]) return named[name];
    if (name === "process") return this.byProcess();
    const values = new Uint8Array(frames);
    const valueOfFrame = {
      class: (frame) => page[frame] & 7,
      protection: this.protection(),
      entropy: this.entropy(),
      mappings: this.mappings(),
    }[name];
    for (let frame = 0; frame < frames; frame++) values[frame] = valueOfFrame(frame);
    return values;
  }

  byProcess() {
    const { frames, page, owners } = this.model;
    const base = [0, 1, 1, 2, 3, 4, 5]; // by class
    const values =
      about.processes.length > 60000 ? new Uint32Array(frames) : new Uint16Array(frames);
    for (let frame = 0; frame < frames; frame++) values[frame] = base[page[frame] & 7];
    const users = new Uint8Array(frames); // 0, 1, or 2 for more
    owners.eachRun(owners.setUser, (first, end, _, set) => {
      const size = owners.setSize(set),
        process = owners.members[owners.setStart[set]];
      for (let frame = first; frame < end; frame++) {
        if (users[frame] === 0 && size === 1) values[frame] = FIRST_PROCESS + process;
        else values[frame] = base[page[frame] & 7];
        users[frame] = 1;
      }
    });
    return values;
  }

  protection() {
    const { page, mappingsOf } = this.model;
    // By class: absent, user's from 3, kernel's from 7, unused, left out.
    const kinds = [0, 3, 3, 7, 2, 2, 11];
    return (frame) => {
      const kind = kinds[page[frame] & 7];
      if (kind < 3 || kind === 11) return kind;
      return mappingsOf(frame) > 0 ? kind + (page[frame] >> 5) : 1;
    };
  }

  entropy() {
    const { page, entropy } = this.model;
    return (frame) => {
      if ((page[frame] & 7) === ABSENT) return 0;
      if ((page[frame] & 7) === LEFT_OUT) return ENTROPY_BINS + 2;
      if (page[frame] & 8) return 1;
      return (
        2 + Math.min(Math.floor((entropy[frame] * ENTROPY_BINS) / ENTROPY_STEPS), ENTROPY_BINS - 1)
      );
    };
  }

  mappings() {
    const { page, mappingsOf } = this.model;
    const bins = new Uint8Array(66);
    for (let count = 1; count < 66; count++)
      bins[count] = MAPPING_BINS.filter((least) => least <= count).length;
    return (frame) => {
      if ((page[frame] & 7) === ABSENT) return 0;
      return 1 + bins[Math.min(mappingsOf(frame), 65)];
    };
  }
}
