// The dump's own file, once a user has given it to the page. Slices of it are read in place, on
// demand: the file is never copied or read as a whole, and nothing is sent anywhere.
// viewer/dumpfile.py tells where pages lie in the file.

class DumpFile {
  // `places`: stretches of frames in the file, by ascending frame: first, end, and offset in bytes.
  constructor(file, places) {
    this.file = file;
    this.places = places;
  }

  // Recognise the file; an Error with a sentence if it is not the dump of this page.
  static async open(file, model) {
    const { plain } = model;
    const known = about.file;
    if (!known) throw new Error("This page was made when the dump could not be read any more.");
    const kinds = [];
    if (plain && file.size === known.size) kinds.push(DumpFile.placesOf(plain));
    if (file.size >= known.raw && file.size % PAGE_SIZE === 0)
      kinds.push(DumpFile.placesInRaw(model));
    if (!kinds.length) throw new Error(DumpFile.sizes(file, plain));
    let fewest = Infinity;
    for (const places of kinds) {
      const found = new DumpFile(file, places);
      const different = await found.differences();
      if (different === 0) return found;
      fewest = Math.min(fewest, different);
    }
    throw new Error(
      `This is not the dump of this page: of ${known.samples.length} pages that were compared,` +
        ` ${fewest} ${fewest === 1 ? "differs" : "differ"}.`,
    );
  }

  static sizes(file, plain) {
    const size = `This is another file. It has ${counted(file.size)} bytes`;
    return plain
      ? `${size}; the dump, ${about.file.name}, has ${counted(about.file.size)}.`
      : `${size}, which no raw file of this memory has: that would be a multiple of 4,096, and at` +
          ` least ${counted(about.file.raw)}.`;
  }

  // The stretches from the page's columns, which hold differences.
  static placesOf({ gap, count, move }) {
    const first = new Float64Array(gap.length),
      end = new Float64Array(gap.length),
      offset = new Float64Array(gap.length);
    let frame = 0,
      byte = 0;
    for (let i = 0; i < gap.length; i++) {
      first[i] = frame += gap[i];
      end[i] = frame += count[i];
      offset[i] = byte += move[i] % 2 ? -(move[i] + 1) / 2 : move[i] / 2;
      byte += count[i] * PAGE_SIZE;
    }
    return { first, end, offset };
  }

  // In a raw file of the same memory, a frame has the place of its address. Other places are holes.
  static placesInRaw({ frames, isHeld }) {
    const first = [],
      end = [];
    for (let frame = 0; frame < frames; frame++) {
      if (!isHeld(frame)) continue;
      if (end[end.length - 1] === frame) end[end.length - 1]++;
      else {
        first.push(frame);
        end.push(frame + 1);
      }
    }
    return { first, end, offset: first.map((frame) => frame * PAGE_SIZE) };
  }

  // How many of the sampled pages differ. If the browser computes no digests (in a page from a web
  // server without TLS), only the size is compared.
  async differences() {
    this.isCompared = Boolean(globalThis.crypto?.subtle);
    if (!this.isCompared) return 0;
    let different = 0;
    for (const [frame, digest] of about.file.samples)
      if (this.placeOf(frame) < 0 || (await sha256(await this.read(frame))) !== digest) different++;
    return different;
  }

  // The byte at which a frame begins; -1 if the file does not have it uncompressed.
  placeOf(frame) {
    const { first, end, offset } = this.places;
    const run = lastUpTo(first, frame);
    return run < 0 || frame >= end[run] ? -1 : offset[run] + (frame - first[run]) * PAGE_SIZE;
  }

  // The bytes of a frame that has a place. An Error if the file has changed, or is gone.
  async read(frame) {
    const place = this.placeOf(frame);
    const bytes = new Uint8Array(await this.file.slice(place, place + PAGE_SIZE).arrayBuffer());
    if (bytes.length < PAGE_SIZE) throw new Error("The file has become shorter.");
    return bytes;
  }
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Pages in a given order, as pieces that lie together in the file: columns frame, pages, place
// (-1: of zeros, or missing), virtual page (0 where there is none), and whether a piece continues
// the one before in the order of addresses.
class Pieces {
  // With skipsZeros, zeros between pages of zeros have no place: a search finds nothing there.
  constructor(model, dump, { skipsZeros = false } = {}) {
    this.model = model;
    this.dump = dump;
    this.skipsZeros = skipsZeros;
    this.frame = [];
    this.pages = [];
    this.place = [];
    this.virtual = [];
    this.joined = [];
    this.packed = 0; // pages that are compressed in the file
    this.missing = 0; // pages that the dump does not hold
    this.total = 0;
  }

  // Add a stretch of frames; `virtual` is the virtual page of the first.
  add(first, end, virtual = first) {
    const { isHeld, isZero } = this.model;
    for (let frame = first; frame < end; frame++, virtual++) {
      const inZeros =
        this.skipsZeros &&
        frame > first &&
        frame + 1 < end &&
        isZero(frame - 1) &&
        isZero(frame) &&
        isZero(frame + 1);
      const place = inZeros ? -1 : this.dump.placeOf(frame);
      if (place < 0 && !isHeld(frame)) this.missing++;
      else if (place < 0 && !isZero(frame)) this.packed++;
      this.append(frame, place, virtual);
    }
    return this;
  }

  append(frame, place, virtual) {
    const last = this.frame.length - 1;
    const before = this.pages[last];
    const joined = last >= 0 && this.virtual[last] + before === virtual;
    this.total++;
    if (joined && this.frame[last] + before === frame) {
      const inFile = this.place[last];
      if (inFile < 0 ? place < 0 : place === inFile + before * PAGE_SIZE) {
        this.pages[last]++;
        return;
      }
    }
    this.frame.push(frame);
    this.pages.push(1);
    this.place.push(place);
    this.virtual.push(virtual);
    this.joined.push(joined);
  }

  // Add all frames that are marked, in the order of memory.
  addMarked(marks) {
    for (let frame = 0, end; frame < marks.length; frame = end) {
      end = frame + 1;
      if (!this.isChosen(marks, frame)) continue;
      while (end < marks.length && this.isChosen(marks, end)) end++;
      this.add(frame, end);
    }
    return this;
  }

  isChosen(marks, frame) {
    return marks[frame] && this.model.classOf(frame) !== ABSENT;
  }

  // Add the pages of a process in the order of their virtual addresses.
  addProcess(process) {
    for (const [virtual, first, end] of stretchesOf(this.model, process))
      this.add(first, end, virtual);
    return this;
  }
}

// [first virtual page, first frame, end frame] of all that a process has, by virtual address.
function stretchesOf({ owners, addresses }, process) {
  const found = [];
  owners.eachRun(owners.setsWith(new Set([process])), (first, end, virtual) =>
    found.push([virtual, first, end]),
  );
  for (let run = 0; run < addresses.frame.length; run++) {
    if (addresses.process[run] !== process) continue;
    const first = addresses.frame[run];
    found.push([addresses.virtual[run], first, first + addresses.length[run]]);
  }
  found.sort((a, b) => a[0] - b[0]);
  // The further addresses of a page include the first address.
  let end = 0;
  const apart = [];
  for (const [virtual, first, last] of found) {
    const known = Math.max(end - virtual, 0);
    if (known >= last - first) continue;
    apart.push([virtual + known, first + known, last]);
    end = virtual + last - first;
  }
  return apart;
}
