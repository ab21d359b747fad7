// Strings and patterns in the bytes of pages: the search runs in a worker, and can be stopped.

const MOST_HITS = 20000, // kept for the list; all are counted, and light their pages
  LONGEST_PATTERN = 1024,
  LIGHT_MS = 900; // between two paintings of the map while a search runs

class Find {
  // context: { model, dump(): DumpFile or null, pinned(): frame, chosen(): processes,
  // shown(): marks of the pages that are lit and not switched off }; light(mark): light pages;
  // go(frame, offset, size): show a hit.
  constructor({ context, light, go }) {
    this.context = context;
    this.light = light;
    this.go = go;
    this.form = byId("find");
    this.kind = byId("find-kind");
    this.text = byId("find-text");
    this.least = byId("find-least");
    this.scope = byId("find-scope");
    this.button = byId("find-start");
    this.progress = byId("find-progress");
    this.answer = byId("find-answer");
    this.list = new ItemList(byId("hits"), {
      label: "hits",
      placeholder: "Search among the hits",
      columns: [
        { title: "Address", value: ({ address }) => address, cell: Find.address },
        { title: "Text", value: ({ text }) => text, cell: Find.content, grows: true },
        { title: "As", value: ({ kind }) => kind },
        { title: "Owner", value: (hit) => this.owner(hit) },
      ],
      sort: null,
      none: "No hit.",
      text: (hit) =>
        `0x${hit.address.toString(16)} ${hit.before}${hit.text}${hit.after} ${this.owner(hit)}`,
      choose: ({ address, size }) =>
        this.go(Math.floor(address / PAGE_SIZE), address % PAGE_SIZE, size),
    });
    this.kind.addEventListener("change", () => this.adapt());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.worker) this.stop();
      else this.start();
    });
    this.adapt();
  }

  static address({ address }) {
    return element("span", { className: "number virtual" }, `0x${address.toString(16)}`);
  }

  static content({ before, text, after }) {
    const mark = before || after ? element("mark", {}, text) : text;
    return element("bdi", { className: "virtual" }, before, mark, after);
  }

  owner({ address }) {
    return whose(this.context.model, Math.floor(address / PAGE_SIZE));
  }

  adapt() {
    const isStrings = this.kind.value === "strings";
    this.text.hidden = isStrings;
    this.least.closest("label").hidden = !isStrings;
    byId("find-case").closest("label").hidden = this.kind.value !== "text";
    this.text.placeholder = this.kind.value === "bytes" ? "4d 5a 90 00" : "password";
    this.answer.textContent = "";
  }

  // The query for the worker; an Error with a sentence if it is not valid.
  wanted() {
    const text = this.text.value;
    if (this.kind.value === "strings") {
      const least = Number(this.least.value);
      if (!(Number.isInteger(least) && least >= 3 && least <= 1000))
        throw new Error("Strings have between 3 and 1,000 characters at least.");
      return { strings: { least }, label: `strings of ${least} or more` };
    }
    if (!text.trim()) throw new Error("Nothing to search for.");
    const patterns = this.kind.value === "bytes" ? [bytesPattern(text)] : this.textPatterns(text);
    if (patterns.some(({ bytes }) => bytes.length > LONGEST_PATTERN))
      throw new Error(`A pattern has at most ${counted(LONGEST_PATTERN)} bytes.`);
    return { patterns, label: this.kind.value === "bytes" ? text.trim() : `“${text}”` };
  }

  textPatterns(text) {
    const isFolded = !byId("find-case").checked;
    const wide = [];
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      wide.push(unit & 255, unit >> 8);
    }
    return [
      { kind: "ASCII", bytes: [...new TextEncoder().encode(text)], isFolded },
      { kind: "UTF-16", bytes: wide, isFolded },
    ];
  }

  // The pages to search, and their name.
  pieces({ patterns }) {
    const { model, dump, pinned, chosen, shown } = this.context;
    // Every match is shorter than a page, and has other bytes than zeros.
    const skipsZeros = !patterns?.some(({ bytes }) => bytes.every((byte) => byte === 0));
    const pieces = new Pieces(model, dump(), { skipsZeros });
    switch (this.scope.value) {
      case "page": {
        if (pinned() < 0) throw new Error("No page is pinned: click one on the map.");
        return pieces.add(pinned(), pinned() + 1);
      }
      case "processes": {
        if (!chosen().size) throw new Error("No process is chosen: choose some in the list.");
        for (const process of chosen()) pieces.addProcess(process);
        return pieces;
      }
      case "shown":
        return pieces.addMarked(shown());
      default:
        return pieces.add(0, model.frames);
    }
  }

  start() {
    let wanted, pieces;
    try {
      wanted = this.wanted();
      pieces = this.pieces(wanted);
    } catch (error) {
      this.answer.textContent = error.message;
      return;
    }
    this.hits = [];
    this.frames = new Uint8Array(this.context.model.frames);
    this.pages = 0;
    this.total = 0;
    this.packed = pieces.packed;
    this.label = wanted.label;
    this.size = 0;
    for (let i = 0; i < pieces.frame.length; i++)
      if (pieces.place[i] >= 0) this.size += pieces.pages[i] * PAGE_SIZE;
    this.lightAt = performance.now() + LIGHT_MS;
    this.light(null);
    this.list.show([]);
    this.begin();
    this.worker = makeWorker();
    this.worker.onmessage = ({ data }) => this.told(data);
    this.worker.onerror = () => this.end("The search failed: its worker did not start.");
    const { frame, pages, place, joined } = pieces;
    this.worker.postMessage({
      file: this.context.dump().file,
      pieces: {
        frame: Float64Array.from(frame),
        pages: Float64Array.from(pages),
        place: Float64Array.from(place),
        joined: Uint8Array.from(joined, Number),
      },
      strings: wanted.strings,
      patterns: wanted.patterns,
      most: MOST_HITS,
    });
  }

  begin() {
    this.button.textContent = "Stop";
    this.progress.hidden = false;
    this.progress.value = 0;
    this.answer.textContent = "Searching …";
  }

  told({ error, hits, frames, total, done, isLast }) {
    if (error) {
      this.end(`The search ended early: ${error}`);
      return;
    }
    this.hits.push(...hits);
    for (const frame of frames) {
      if (!this.frames[frame]) this.pages++;
      this.frames[frame] = 1;
    }
    this.total = total;
    this.progress.value = this.size ? done / this.size : 1;
    this.answer.textContent = `${this.summary()} in ${bytesInWords(done)} of ${bytesInWords(this.size)} …`;
    if (isLast) this.end("");
    else if (performance.now() > this.lightAt) {
      this.lightAt = performance.now() + LIGHT_MS;
      this.show();
    }
  }

  summary() {
    const { total, pages } = this;
    const hits = `${counted(total)} ${total === 1 ? "hit" : "hits"} in ${amount(pages)}`;
    return total > MOST_HITS ? `${hits}; the first ${counted(MOST_HITS)} are listed` : hits;
  }

  show() {
    this.list.show(this.hits);
    if (this.pages) this.light({ label: this.label, frames: this.frames.slice() });
  }

  stop() {
    this.end(`Stopped at ${Math.round(100 * this.progress.value)} %: ${this.summary()}.`);
  }

  end(sentence) {
    this.worker?.terminate();
    this.worker = null;
    this.button.textContent = "Find";
    this.progress.hidden = true;
    const packed = this.packed
      ? ` ${amount(this.packed)} are packed in the file, and were not searched.`
      : "";
    this.answer.textContent = `${sentence || `${this.summary()}.`}${packed}`;
    this.show();
  }
}

// A short description of a page: its owner, the file behind it, or its class.
function whose(model, frame) {
  const names = new Set(
    model.owners
      .of(frame)
      .map(({ process }) => (process === kernelIndex() ? "kernel" : ownerName(process))),
  );
  const [first] = names;
  if (names.size) return names.size > 1 ? `${names.size} owners` : first;
  const path = about.files[(model.fileOf?.[frame] ?? 0) - 1];
  return path ? nameInPath(path) : about.classes[model.classOf(frame)];
}

// A pattern of hexadecimal bytes, with or without blanks.
function bytesPattern(text) {
  const parts = text.split(/[\s,]+/).filter(Boolean);
  if (!parts.every((part) => /^(0x)?([0-9a-f]{2})+$/i.test(part)))
    throw new Error("Bytes are pairs of hexadecimal digits, such as 4d 5a.");
  const pairs = parts.flatMap((part) => part.replace(/^0x/i, "").match(/../g));
  return { kind: "bytes", bytes: pairs.map((pair) => parseInt(pair, 16)), isFolded: false };
}

// The worker's script is in the page. If a browser guards addresses of scripts (Trusted Types), the
// page's policy allows only this name.
let workerUrl;
function makeWorker() {
  if (!workerUrl) {
    const script = new Blob([byId("worker").textContent], { type: "text/javascript" });
    const address = URL.createObjectURL(script);
    const guard = /** @type {any} */ (globalThis).trustedTypes?.createPolicy("memviz-worker", {
      createScriptURL: () => address,
    });
    workerUrl = guard ? guard.createScriptURL("") : address;
  }
  return new Worker(workerUrl);
}
