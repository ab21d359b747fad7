// Save pages as a tar file: the bytes, and a manifest with their places. The file is put together
// from slices of the dump, which the browser copies from disk to disk: it need not fit into memory.

const MOST_PIECES = 100000, // of a file: browsers keep a record of each
  HASHED = 1 << 26; // the most bytes with a digest, which needs all of them in memory

const zeroPages = new Blob([new Uint8Array(1 << 20)]);

// Parts of a Blob: this many bytes of zeros.
function zeroParts(size) {
  const parts = [];
  for (let left = size; left > 0; left -= zeroPages.size)
    parts.push(left < zeroPages.size ? zeroPages.slice(0, left) : zeroPages);
  return parts;
}

// The bytes of pieces, one after another. Pages that the file does not have are zeros.
function blobOf({ place, pages, dump }) {
  if (place.length > MOST_PIECES)
    throw new Error(
      `These pages lie in ${counted(place.length)} pieces of the dump; the page can save at most` +
        ` ${counted(MOST_PIECES)} at once.`,
    );
  return new Blob(
    place.flatMap((at, i) => {
      const size = pages[i] * PAGE_SIZE;
      return at < 0 ? zeroParts(size) : [dump.file.slice(at, at + size)];
    }),
  );
}

function manifestOf(pieces, about_, digest) {
  const { model, frame, pages, place, virtual } = pieces;
  let at = 0;
  const stretches = frame.map((first, i) => {
    const missing = place[i] < 0 && why(model, first);
    const stretch = {
      at,
      pages: pages[i],
      physical: hexAddress(first),
      ...(about_.process ? { virtual: hexVirtual(virtual[i]) } : {}),
      ...(missing ? { missing } : {}),
    };
    at += pages[i] * PAGE_SIZE;
    return stretch;
  });
  return {
    made_by: document.querySelector("meta[name=generator]").getAttribute("content"),
    dump: about.dump.name,
    file: pieces.dump.file.name,
    ...about_,
    pages: pieces.total,
    bytes: at,
    missing_pages: pieces.missing + pieces.packed,
    ...(about_.process && about.untold ? { addresses_not_known: about.untold } : {}),
    sha256: digest,
    stretches,
  };
}

// Why a page has no bytes in the file; "" for a page of zeros.
function why(model, frame) {
  if (!model.isHeld(frame)) return "not in the dump";
  return model.isZero(frame) ? "" : "packed in the dump's file";
}

// A file of a tar archive (POSIX ustar; larger sizes as GNU writes them).
function tarParts(name, blob) {
  const head = new Uint8Array(512);
  const put = (text, at) => head.set(new TextEncoder().encode(text), at);
  const octal = (number, digits) => number.toString(8).padStart(digits, "0");
  put(name, 0);
  put(`${octal(0o644, 7)}\0${octal(0, 7)}\0${octal(0, 7)}\0`, 100);
  if (blob.size < 8 ** 11) put(octal(blob.size, 11), 124);
  else {
    head[124] = 0x80;
    let left = BigInt(blob.size);
    for (let at = 135; left; at--, left >>= 8n) head[at] = Number(left & 255n);
  }
  put(`${octal(0, 11)}\0        0`, 136);
  put("ustar\x0000", 257);
  const sum = head.reduce((total, byte) => total + byte, 0);
  put(`${octal(sum, 6)}\0 `, 148);
  return [head, blob, new Uint8Array((512 - (blob.size % 512)) % 512)];
}

async function archiveOf(pieces, about_) {
  const bytes = blobOf(pieces);
  const digest =
    bytes.size <= HASHED && globalThis.crypto?.subtle
      ? await sha256(new Uint8Array(await bytes.arrayBuffer()))
      : null;
  const manifest = new Blob([JSON.stringify(manifestOf(pieces, about_, digest), null, 1), "\n"]);
  return new Blob([
    ...tarParts("manifest.json", manifest),
    ...tarParts("memory.bin", bytes),
    new Uint8Array(1024),
  ]);
}

class Save {
  // context: as of Find
  constructor(context) {
    this.context = context;
    this.scope = byId("save-scope");
    this.process = byId("save-process");
    this.answer = byId("save-answer");
    this.process.append(
      ...about.processes.map(({ name, pid }, index) =>
        element("option", { value: String(index) }, `${pid} ${name}`),
      ),
    );
    this.scope.addEventListener("change", () => {
      const [first] = context.chosen();
      if (first !== undefined) this.process.value = String(first);
      this.adapt();
    });
    this.process.addEventListener("change", () => this.adapt());
    byId("save").addEventListener("submit", (event) => {
      event.preventDefault();
      this.save();
    });
  }

  adapt() {
    this.process.closest("label").hidden = this.scope.value !== "process";
    this.answer.textContent = "";
  }

  // The pages to save, their entries in the manifest, and a name for the file.
  chosen() {
    const { model, dump, pinned, shown } = this.context;
    if (this.scope.value === "page") {
      if (pinned() < 0) throw new Error("No page is pinned: click one on the map.");
      return {
        pieces: new Pieces(model, dump()).add(pinned(), pinned() + 1),
        facts: { order: "physical" },
        name: `page-${hexAddress(pinned())}`,
      };
    }
    if (this.scope.value === "shown")
      return {
        pieces: new Pieces(model, dump()).addMarked(shown()),
        facts: { order: "physical" },
        name: "pages",
      };
    const process = Number(this.process.value);
    const { pid, name } = about.processes[process];
    return {
      pieces: new Pieces(model, dump()).addProcess(process),
      facts: { order: "virtual", process: { pid, name } },
      name: `pid-${pid}`,
    };
  }

  async save() {
    try {
      const { pieces, facts, name } = this.chosen();
      if (!pieces.total) throw new Error("No pages are chosen.");
      this.answer.textContent = "Putting the file together …";
      const archive = await archiveOf(pieces, facts);
      const file = `${about.dump.name.replace(/[^\w.-]+/g, "_").slice(0, 80)}-${name}.tar`;
      saveFile(file, [archive], "application/x-tar");
      this.answer.textContent = `${file}: ${amount(pieces.total)} and a manifest.${Save.lost(pieces)}`;
    } catch (error) {
      this.answer.textContent = error.message;
    }
  }

  static lost({ missing, packed }) {
    const parts = [
      missing ? `${counted(missing)} are not in the dump` : "",
      packed ? `${counted(packed)} are packed in its file` : "",
    ].filter(Boolean);
    return parts.length ? ` Of these pages, ${parts.join(", and ")}: they are zeros here.` : "";
  }
}
