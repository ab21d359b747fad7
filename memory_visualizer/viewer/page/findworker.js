// Finds strings and patterns in slices of the dump's file. It runs in a worker: a thread of its own,
// to which the page gives the file and a list of pieces (see Pieces in dumpfile.js). This script is
// separate from the page's scripts.

const CHUNK = 1 << 22, // bytes that are read at once
  READS_AHEAD = 6,
  CARRIED = 4095, // bytes before a chunk that may belong to a string or pattern in it
  SHOWN = 96, // characters of a hit
  BEFORE = 24, // characters before a pattern
  BEHIND = 56,
  EVERY_MS = 120; // between reports

const isText = new Uint8Array(256),
  asItIs = new Uint8Array(256),
  asLower = new Uint8Array(256);
for (let byte = 0; byte < 256; byte++) {
  isText[byte] = (byte >= 0x20 && byte < 0x7f) || byte === 9 ? 1 : 0;
  asItIs[byte] = byte;
  asLower[byte] = byte >= 0x41 && byte <= 0x5a ? byte + 32 : byte;
}

// Yields { bytes, frame, joined } in the order of the pieces; a few reads are in flight at once.
async function* readPieces(file, { frame, pages, place, joined }) {
  const waiting = [];
  /** @returns {Generator<{ from: number, to: number, frame: number, joined: boolean }, void>} */
  function* each() {
    for (let i = 0; i < frame.length; i++) {
      if (place[i] < 0) continue;
      const size = pages[i] * 4096;
      for (let at = 0; at < size; at += CHUNK)
        yield {
          from: place[i] + at,
          to: place[i] + Math.min(at + CHUNK, size),
          frame: frame[i] + at / 4096,
          // Nothing may lie between: a piece that cannot be read breaks the chain.
          joined: at > 0 || (joined[i] === 1 && i > 0 && place[i - 1] >= 0),
        };
    }
  }
  const parts = each();
  const read = () => {
    const { value } = parts.next();
    if (!value) return;
    const bytes = file.slice(value.from, value.to).arrayBuffer();
    bytes.catch(() => {}); // reported when its turn comes
    waiting.push({ ...value, bytes });
  };
  for (let i = 0; i < READS_AHEAD; i++) read();
  while (waiting.length) {
    const next = waiting.shift();
    const bytes = new Uint8Array(await next.bytes);
    if (bytes.length < next.to - next.from) throw new Error("The file has become shorter.");
    read();
    yield { bytes, frame: next.frame, joined: next.joined };
  }
}

// Call found(start, end, kind) for each string of a minimum length. Returns the start of the last
// string if it may continue behind the end, otherwise the end.
function eachString(data, least, more, found) {
  const size = data.length;
  let at = 0;
  while (at < size) {
    if (!isText[data[at]]) {
      at++;
      continue;
    }
    let end = at + 1;
    while (end < size && isText[data[end]]) end++;
    if (end === size && more && end - at <= CARRIED) return at;
    if (end - at >= least) found(at, end, "ASCII");
    // The last letter may be the first of a string of UTF-16.
    let wide = end - 1;
    while (wide + 1 < size && isText[data[wide]] && data[wide + 1] === 0) wide += 2;
    const goesOn = wide >= size || (wide + 1 === size && isText[data[wide]]);
    if (goesOn && more && size - (end - 1) <= CARRIED) return end - 1;
    if ((wide - (end - 1)) / 2 >= least) found(end - 1, wide, "UTF-16");
    at = Math.max(end, wide);
  }
  return size;
}

// How common a byte is in memory, roughly: the search looks for a pattern's rarest byte first.
function commonness(byte) {
  if (byte === 0) return 100;
  if (byte === 0xff || byte === 0x20) return 50;
  const letter = String.fromCharCode(asLower[byte]);
  return "etaoinsr".includes(letter) ? 10 : letter >= "a" && letter <= "z" ? 6 : 3;
}

// Call found(start, end, kind) for each place of a pattern. The table `same` has been applied to
// `bytes`.
function eachPattern(data, { bytes, same, kind }, found) {
  const costs = bytes.map(commonness);
  const anchor = costs.indexOf(Math.min(...costs));
  // The possible bytes at the rarest place, and the next place of each: finding a byte is fastest.
  const wanted = [...same.keys()].filter((byte) => same[byte] === bytes[anchor]);
  const places = wanted.map((byte) => data.indexOf(byte, anchor));
  let free = 0;
  for (;;) {
    let which = -1;
    for (let i = 0; i < places.length; i++)
      if (places[i] >= 0 && (which < 0 || places[i] < places[which])) which = i;
    if (which < 0) return;
    const start = places[which] - anchor,
      end = start + bytes.length;
    if (end > data.length) return;
    places[which] = data.indexOf(wanted[which], places[which] + 1);
    if (start < free) continue;
    let i = 0;
    while (i < bytes.length && same[data[start + i]] === bytes[i]) i++;
    if (i < bytes.length) continue;
    found(start, end, kind);
    free = end;
  }
}

const letters = (data, start, end, step) => {
  let text = "";
  for (let i = start; i < end && text.length < SHOWN; i += step)
    text += isText[data[i]] && data[i] !== 9 ? String.fromCharCode(data[i]) : "·";
  return text;
};

// A hit as text, with the text before and behind a pattern.
function shownText(data, start, end, kind, isString) {
  const step = kind === "UTF-16" ? 2 : 1;
  const text = letters(data, start, end, step);
  if (isString) return { before: "", text, after: "" };
  const from = Math.max(start - BEFORE * step, start % step);
  const to = Math.min(end + BEHIND * step, data.length);
  return { before: letters(data, from, start, step), text, after: letters(data, end, to, step) };
}

class Finder {
  constructor({ strings, patterns, most }) {
    this.least = strings?.least;
    this.patterns = (patterns ?? []).map(({ bytes, isFolded, kind }) => {
      const same = isFolded ? asLower : asItIs;
      return { bytes: bytes.map((byte) => same[byte]), same, kind };
    });
    this.most = most;
    this.overlap = Math.max(0, ...this.patterns.map(({ bytes }) => bytes.length - 1));
    this.total = 0;
    this.done = 0;
    this.reset();
    this.carry = new Uint8Array(0);
    this.origin = 0; // byte of memory at which the carried bytes begin
  }

  reset() {
    this.hits = [];
    this.frames = new Set();
  }

  // Search a chunk; `more`: whether the next one continues it.
  search({ bytes, frame, joined }, more) {
    const carried = joined ? this.carry.length : 0;
    let data = bytes;
    if (carried) {
      data = new Uint8Array(carried + bytes.length);
      data.set(this.carry);
      data.set(bytes, carried);
    }
    const address = (at) => (at < carried ? this.origin + at : frame * 4096 + at - carried);
    const found = (start, end, kind) => {
      this.total++;
      const from = address(start);
      this.frames.add(Math.floor(from / 4096));
      this.frames.add(Math.floor(address(end - 1) / 4096));
      if (this.total <= this.most)
        this.hits.push({
          address: from,
          size: end - start,
          kind,
          ...shownText(data, start, end, kind, Boolean(this.least)),
        });
    };
    let keep = data.length;
    const known = this.hits.length;
    if (this.least) keep = eachString(data, this.least, more, found);
    else {
      for (const pattern of this.patterns) {
        // A hit within the carried bytes was found before.
        const before = carried - Math.min(carried, pattern.bytes.length - 1);
        eachPattern(before ? data.subarray(before) : data, pattern, (start, end, kind) =>
          found(start + before, end + before, kind),
        );
      }
      // The patterns were searched one after another: sort their hits.
      const here = this.hits.splice(known).sort((a, b) => a.address - b.address);
      this.hits = this.hits.concat(here);
      keep = Math.max(data.length - this.overlap, 0);
    }
    this.origin = address(keep);
    this.carry = data.slice(keep);
    this.done += bytes.length;
  }

  report(isLast) {
    const { total, done } = this;
    self.postMessage({
      total,
      done,
      hits: this.hits,
      frames: Uint32Array.from(this.frames),
      isLast,
    });
    this.reset();
  }
}

async function runSearch(/** @type {any} */ { file, pieces, strings, patterns, most }) {
  const finder = new Finder({ strings, patterns, most });
  let before = null,
    reported = performance.now();
  for await (const chunk of readPieces(file, pieces)) {
    if (before) finder.search(before, chunk.joined);
    before = chunk;
    if (performance.now() - reported > EVERY_MS) {
      finder.report(false);
      reported = performance.now();
    }
  }
  if (before) finder.search(before, false);
  finder.report(true);
}

self.onmessage = ({ data }) =>
  runSearch(data).catch((error) => self.postMessage({ error: error.message }));
