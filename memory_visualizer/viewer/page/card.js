// The facts on a page: beside the pointer, and pinned.

const OWNERS_IN_PASSING = 6,
  OWNERS_PINNED = 200;

class Card {
  constructor(model, colourings, map, choose) {
    this.model = model;
    this.colourings = colourings;
    this.map = map;
    this.choose = choose;
    this.passing = byId("passing");
    this.pinned = byId("pinned");
    map.on("hover", (frame, place, fold) => this.pass(frame, place, fold));
  }

  // The facts on a frame: [term, description] pairs; a description is text.
  facts(frame) {
    const { model, colourings } = this;
    if (model.classOf(frame) === ABSENT) return [];
    const isHeld = model.classOf(frame) !== LEFT_OUT;
    const facts = isHeld ? [["Contents", model.isZero(frame) ? "all zeros" : "data"]] : [];
    if (model.entropy && isHeld)
      facts.push([
        "Entropy",
        `${((model.entropy[frame] * 8) / ENTROPY_STEPS).toFixed(2)} bits per byte`,
      ]);
    const protection = about.swatches.protection[colourings.valueAt("protection", frame)][0];
    facts.push(["Protection", protection]);
    for (const { id, title, swatches } of about.named ?? [])
      if (id !== "file") facts.push([title, swatches[model.named[id][frame]][0]]);
    if (model.fileOf?.[frame]) {
      facts.push(["File", about.files[model.fileOf[frame] - 1]]);
      if (model.fileSector[frame])
        facts.push(["Offset in file", hexSector(model.fileSector[frame] - 1)]);
    }
    const module = model.modules.of(frame);
    if (module) facts.push(["Module", module]);
    if (model.priority?.[frame]) facts.push(["Priority", String(model.priority[frame] - 1)]);
    if (model.lastOwner?.[frame]) {
      const process = model.lastOwner[frame] - 1;
      facts.push(["Last owner", `${ownerName(process)} (${about.processes[process].pid})`]);
    }
    if (model.finding?.[frame]) facts.push(["Contradiction", about.findings[model.finding[frame]]]);
    facts.push(["Mappings", counted(model.mappingsOf(frame))]);
    return facts;
  }

  foldBody({ first, count }) {
    const range = `${hexAddress(first)} to ${hexAddress(first + count)}`;
    return [
      element(
        "div",
        { className: "address" },
        element("span", { className: "number physical" }, range),
      ),
      element("p", {}, `${amount(count)}: no memory`),
      element("p", { className: "note" }, "A long hole, drawn as a thin break."),
    ];
  }

  body(frame, palette, most, isPinned) {
    const { model } = this;
    const pageClass = model.classOf(frame);
    const copy = (what, text) =>
      isPinned
        ? element("button", {
            className: "copy",
            type: "button",
            "aria-label": `Copy ${what}`,
            title: `Copy ${what}`,
            onclick: async ({ currentTarget }) => {
              await copyText(text);
              currentTarget.classList.add("done");
              setTimeout(() => currentTarget.classList.remove("done"), 1200);
            },
          })
        : null;
    const rows = [
      element(
        "div",
        { className: "address" },
        element("span", { className: "number physical" }, hexAddress(frame)),
        copy("physical address", hexAddress(frame)),
      ),
      element(
        "div",
        { className: "class" },
        swatchElement(about.palettes[palette][pageClass]),
        element("span", { className: "label" }, about.classes[pageClass]),
        element(
          "span",
          { className: "pfn" },
          "PFN ",
          element("span", { className: "number" }, `0x${frame.toString(16)}`),
          ` (${counted(frame)})`,
        ),
      ),
    ];
    if (pageClass === ABSENT)
      rows.push(element("p", { className: "note" }, "The dump does not hold this page."));
    if (pageClass === LEFT_OUT)
      rows.push(
        element(
          "p",
          { className: "note" },
          "The machine has this page. The dump leaves it out, or it cannot be read.",
        ),
      );
    rows.push(
      element(
        "dl",
        {},
        ...this.facts(frame).flatMap(([term, description]) => [
          element("dt", {}, term),
          element("dd", {}, description),
        ]),
      ),
    );
    const owners = model.owners.of(frame);
    if (owners.length) {
      rows.push(
        element(
          "ul",
          { className: "owners" },
          ...owners.slice(0, most).map((owner) => this.ownerRow(owner, isPinned, copy)),
        ),
      );
      if (owners.length > most)
        rows.push(
          element(
            "p",
            { className: "note" },
            `and ${counted(owners.length - most)} more${isPinned ? "" : " (click to pin)"}`,
          ),
        );
    }
    rows.push(...this.otherAddresses(frame, owners, isPinned, copy));
    return rows;
  }

  // The addresses beside the first in each process, and those that only the kernel's tables tell.
  otherAddresses(frame, owners, isPinned, copy) {
    const { model } = this;
    const others = model.addresses.of(frame, owners);
    const count = Math.max(others.length, model.mappingsOf(frame) - owners.length);
    if (!count) return [];
    const shown = others.slice(0, isPinned ? OWNERS_PINNED : OWNERS_IN_PASSING);
    const left = count - shown.length;
    const ending = isPinned ? "that this page does not list" : "(click to pin)";
    return [
      element("p", { className: "note also" }, owners.length ? "Also at" : "At"),
      element(
        "ul",
        { className: "also" },
        ...shown.map(({ process, virtual }) => {
          const address = hexVirtual(virtual);
          return element(
            "li",
            {},
            nameElement(ownerName(process)),
            element("span", { className: "number virtual" }, address),
            copy(`virtual address in ${ownerName(process)}`, address),
          );
        }),
      ),
      left ? element("p", { className: "note" }, `and ${counted(left)} more ${ending}`) : null,
    ].filter((part) => part !== null);
  }

  ownerRow({ process, virtual, user }, isPinned, copy) {
    const address = hexVirtual(virtual);
    const isKernel = process === kernelIndex();
    const known = about.processes[process];
    const region = this.model.regions.of(process, virtual);
    let name = nameElement(ownerName(process));
    if (isPinned && !isKernel)
      name = element(
        "button",
        {
          type: "button",
          className: "choose",
          title: "Light up this process's pages",
          onclick: () => this.choose(process),
        },
        name,
      );
    return element(
      "li",
      {},
      name,
      element("span", { className: "pid" }, isKernel ? "" : `pid ${known.pid}`),
      known?.state
        ? element("span", { className: `badge ${known.state.replace(" ", "-")}` }, known.state)
        : null,
      known?.anomalies.length
        ? element("span", { className: "badge odd", title: known.anomalies.join("; ") }, ODD)
        : null,
      element("span", { className: "number virtual" }, address),
      user || isKernel ? null : element("span", { className: "note" }, "kernel mode"),
      copy(`virtual address in ${ownerName(process)}`, address),
      region
        ? element(
            "span",
            {
              className: "region",
              title: `${hexVirtual(region.start)} to ${hexVirtual(region.end)}`,
            },
            element("bdi", {}, region.text),
          )
        : null,
    );
  }

  // Show the facts on a frame, or else on a fold, beside a place of the window.
  pass(frame, place, fold) {
    const { passing, map } = this;
    passing.hidden = frame < 0 && !fold;
    if (passing.hidden) return;
    const shown = `${fold ? fold.first : frame} ${Boolean(fold)} ${this.palette}`;
    if (shown !== this.shown)
      passing.replaceChildren(
        ...(fold ? this.foldBody(fold) : this.body(frame, this.palette, OWNERS_IN_PASSING)),
      );
    this.shown = shown;
    const box = map.canvas.getBoundingClientRect();
    const x = place.clientX - box.left,
      y = place.clientY - box.top;
    const { offsetWidth: width, offsetHeight: height } = passing;
    const left = x + 18 + width > box.width ? x - 18 - width : x + 18;
    const top = Math.min(Math.max(y - 20, 8), box.height - height - 8);
    passing.style.transform = `translate(${Math.max(left, 8)}px, ${Math.max(top, 8)}px)`;
  }

  pin(frame, palette, unpin) {
    this.palette = palette;
    this.pinned.hidden = frame < 0;
    if (frame < 0) return;
    this.pinned.replaceChildren(
      element(
        "button",
        {
          className: "close",
          type: "button",
          "aria-label": "Unpin",
          title: "Unpin (Esc)",
          onclick: unpin,
        },
        "×",
      ),
      ...this.body(frame, palette, OWNERS_PINNED, true),
    );
  }
}
