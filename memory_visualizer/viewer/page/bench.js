// The workbench below the map: opening the dump, the bytes of the pinned page, search, saving.

class Bench {
  // state(): the page's state; shown(): a mark of the lit pages that no legend hides;
  // translate(virtual page, process): the frame behind it, or -1; pin(frame): pin a frame and bring
  // it into view; light(mark): light the pages of a mark.
  constructor(model, { state, shown, translate, pin, light }) {
    this.model = model;
    this.state = state;
    this.translate = translate;
    this.pin = pin;
    this.dump = null;
    this.turn = 0;
    this.host = byId("bench");
    this.opener = byId("bench-open");
    this.intro = byId("bench-intro");
    this.input = byId("bench-file");
    this.hex = new HexView({ follow: (value) => this.follow(value), step: (by) => this.step(by) });
    const context = {
      model,
      dump: () => this.dump,
      pinned: () => state().pin,
      chosen: () => state().chosen,
      shown,
    };
    this.find = new Find({ context, light, go: (frame, at, size) => this.go(frame, at, size) });
    this.save = new Save(context);
    this.tabs = new Tabs(byId("bench-tabs"));
    for (const id of ["bench-page", "bench-find", "bench-save"]) this.tabs.add(id);
    this.order = byId("hex-order");
    this.buttons = [byId("hex-back"), byId("hex-on"), byId("hex-copy"), byId("hex-copy-text")];
    this.order.addEventListener("change", () => this.showPage());
    this.opener.addEventListener("click", () => this.toggle());
    byId("bench-close").addEventListener("click", () => this.toggle(false));
    byId("bench-choose").addEventListener("click", () => this.input.click());
    this.input.addEventListener("change", () => this.open(this.input.files[0]));
    byId("hex-back").addEventListener("click", () => this.step(-1));
    byId("hex-on").addEventListener("click", () => this.step(1));
    byId("hex-copy").addEventListener("click", () => this.copy("hex"));
    byId("hex-copy-text").addEventListener("click", () => this.copy("text"));
    this.explain();
    this.acceptDrops();
    this.acceptSizes();
  }

  // What can be opened.
  explain() {
    const { file } = about;
    const convert = element("code", {}, "memviz convert DUMP -o OUT.raw");
    const raw = [convert, " writes a raw file of the same memory"];
    let what = [
      "This page was made when the dump could not be read any more, so it cannot know it.",
    ];
    if (file?.name) {
      what = ["Choose ", element("strong", {}, file.name), ", or drop it on the map."];
      if (file.packed)
        what.push(` ${amount(file.packed)} are packed in it: `, ...raw, ", which shows all.");
    } else if (file)
      what = ["In this dump, pages are packed. ", ...raw, ": choose it, or drop it on the map."];
    byId("bench-what").replaceChildren(...what);
    byId("bench-choose").disabled = !file;
  }

  toggle(isOpen = this.host.hidden) {
    this.host.hidden = !isOpen;
    this.opener.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.showPage();
  }

  // Keys of the whole page: b for the bytes, f for the search. Returns whether it was one.
  key(key) {
    if (key === "b") {
      this.toggle(true);
      if (this.dump) this.tabs.show("bench-page");
      (this.dump ? this.hex.host : byId("bench-choose")).focus();
    } else if (key === "f") {
      this.toggle(true);
      if (this.dump) this.tabs.show("bench-find");
      (this.dump ? this.find.text : byId("bench-choose")).focus();
    } else return false;
    return true;
  }

  async open(file) {
    if (!file) return;
    this.toggle(true);
    this.say(`Comparing ${file.name} with this page …`);
    try {
      this.dump = await DumpFile.open(file, this.model);
    } catch (error) {
      this.say(error.message, true);
      return;
    }
    this.say("");
    this.intro.hidden = true;
    byId("bench-body").hidden = false;
    this.opener.textContent = "Bytes";
    const note = this.dump.isCompared
      ? ""
      : " (compared by its size only: this browser computes no digests here)";
    byId("bench-name").textContent = `${file.name}${note}, read in place; nothing is sent`;
    this.showPage();
  }

  say(sentence, isFault = false) {
    const said = byId("bench-said");
    said.textContent = sentence;
    said.classList.toggle("fault", isFault);
  }

  acceptDrops() {
    const target = document.querySelector("main");
    const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    // Elsewhere in the page, too, a dropped file must not replace the page.
    addEventListener("dragover", (event) => {
      if (!isFile(event)) return;
      event.preventDefault();
      target.classList.add("dropping");
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) target.classList.remove("dropping");
    });
    addEventListener("drop", (event) => {
      target.classList.remove("dropping");
      if (!isFile(event)) return;
      event.preventDefault();
      if (about.file) this.open(event.dataTransfer.files[0]);
      else this.toggle(true);
    });
  }

  // The height of the bench, by pointer and by keys.
  acceptSizes() {
    const handle = byId("bench-size");
    const set = (height) => {
      const most = innerHeight - 160;
      const pixels = Math.round(Math.min(Math.max(height, 140), Math.max(most, 140)));
      this.host.style.height = `${pixels}px`;
      handle.setAttribute("aria-valuenow", String(pixels));
    };
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId))
        set(this.host.getBoundingClientRect().bottom - event.clientY);
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 24, ArrowDown: -24 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      set(this.host.offsetHeight + by);
    });
  }

  // Show the pinned page, and afterwards select bytes of it: start and size.
  async showPage(selected) {
    if (this.host.hidden || !this.dump) return;
    const frame = this.state().pin;
    const turn = ++this.turn; // a later call makes this one void
    const virtual = this.owners(frame);
    byId("hex-title").textContent =
      frame < 0 ? "No page is pinned" : `${hexAddress(frame)} · ${this.words(frame)}`;
    for (const button of this.buttons) button.disabled = frame < 0;
    let bytes;
    try {
      bytes = await this.bytesOf(frame);
    } catch (error) {
      if (turn === this.turn) this.hex.empty(error.message);
      return;
    }
    if (turn !== this.turn) return;
    this.hex.show(bytes, (virtual ?? BigInt(frame)) << 12n);
    if (selected) this.hex.select(...selected);
  }

  words(frame) {
    const words = new Set([about.classes[this.model.classOf(frame)], whose(this.model, frame)]);
    return [...words].join(" · ");
  }

  // Offer the addresses of the pinned page; returns the virtual page that is chosen, if one is.
  owners(frame) {
    const before = this.order.value;
    const owners = frame < 0 ? [] : this.model.owners.of(frame).slice(0, OWNERS_PINNED);
    this.order.replaceChildren(
      element("option", { value: "physical" }, "physical"),
      ...owners.map(({ process, virtual }) =>
        element(
          "option",
          { value: String(process) },
          process === kernelIndex()
            ? `kernel ${hexVirtual(virtual)}`
            : `${about.processes[process].pid} ${ownerName(process)} ${hexVirtual(virtual)}`,
        ),
      ),
    );
    const owner = owners.find(({ process }) => String(process) === before);
    this.order.value = owner ? before : "physical";
    return owner ? BigInt(owner.virtual) : null;
  }

  async bytesOf(frame) {
    const { model, dump } = this;
    if (frame < 0) throw new Error("Click a page on the map to see its bytes.");
    // A raw file also has bytes where the machine has no memory.
    if (dump.placeOf(frame) >= 0) return dump.read(frame);
    if (!model.isHeld(frame)) throw new Error("The dump does not hold this page.");
    if (model.isZero(frame)) return new Uint8Array(PAGE_SIZE);
    throw new Error(
      "This page is packed in the dump's file. memviz convert DUMP -o OUT.raw writes a raw file," +
        " which this page can open, too.",
    );
  }

  // Go to the next or the previous page, of memory or of the address space that is chosen.
  step(by) {
    const frame = this.state().pin;
    if (frame < 0) return;
    const process = this.order.value;
    if (process === "physical") {
      const next = frame + by;
      if (next >= 0 && next < this.model.frames) this.pin(next);
      return;
    }
    const owner = this.model.owners.of(frame).find((one) => String(one.process) === process);
    const next = owner && neighbourOf(this.model, owner, by);
    if (next === null || next === undefined) return;
    this.pin(next);
  }

  // Show a hit: its page, and its bytes selected.
  go(frame, at, size) {
    this.pin(frame);
    this.tabs.show("bench-page");
    this.showPage([at, size]);
    this.hex.host.focus();
  }

  // Where a number would lead as a virtual address, in the eyes of the pinned page's owners.
  follow(value) {
    if (value < 0x10000n) return null;
    const { owners } = this.model;
    const page = Number(value >> 12n);
    for (const { process } of owners.of(this.state().pin).slice(0, 4)) {
      const frame = this.translate(page, process);
      if (frame < 0) continue;
      const at = Number(value & 0xfffn);
      return [`0x${value.toString(16)} in ${ownerName(process)}`, () => this.go(frame, at, 1)];
    }
    return null;
  }

  async copy(form) {
    if (this.hex.bytes) await this.hex.copy(form);
  }
}

// The frame of the page that follows, or comes before, in an owner's address space; null at its end.
function neighbourOf(model, { process, virtual }, by) {
  const stretches = stretchesOf(model, process);
  const row = stretches.findIndex(
    ([start, first, end]) => start <= virtual && virtual < start + end - first,
  );
  const [start, first, end] = stretches[row];
  const at = virtual - start + by;
  if (at >= 0 && at < end - first) return first + at;
  const other = stretches[row + by];
  if (!other) return null;
  return by > 0 ? other[1] : other[2] - 1;
}
