// The legend: colours with meanings and numbers of pages, and switches that hide pages.

const PER_BYTE = "bits per byte"; // the end of the labels of a scale's steps

class Legend {
  constructor(toggle) {
    this.list = byId("legend-entries");
    this.all = byId("legend-all");
    this.toggle = toggle; // toggle(indexes that are off)
    this.lead = ""; // the switch that Tab leads to, by its id; arrows lead to the others
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focusin", ({ target }) => {
      if (target instanceof HTMLElement) this.leadTo(target);
    });
    this.all.addEventListener("click", () => this.toggle(new Set()));
  }

  // Up and down: to the next entry; right and left: from its switch to "only", and back.
  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const isAcross = event.key === "ArrowRight" || event.key === "ArrowLeft";
    const isOnly = event.target.matches(".only");
    const controls = this.controls().filter(
      (control) => isAcross || control.matches(".only") === isOnly,
    );
    controls[controls.indexOf(event.target) + step]?.focus();
  }

  /** @returns {HTMLElement[]} */
  controls() {
    return [...this.list.querySelectorAll("input, .only")].map(
      (control) => /** @type {HTMLElement} */ (control),
    );
  }

  leadTo(control) {
    const controls = this.controls();
    const lead = control ?? controls[0];
    if (!lead) return;
    this.lead = lead.id;
    for (const other of controls) other.tabIndex = other === lead ? 0 : -1;
  }

  // `base` tells how frames would be painted if this legend hid none: the legend counts lit frames.
  show(colouring, off, base, model) {
    this.all.hidden = off.size === 0;
    const counts = new Uint32Array(colouring.colours.length);
    let held = 0;
    for (let frame = 0; frame < base.length; frame++) {
      if (base[frame] !== LIT) continue;
      counts[colouring.values[frame]]++;
      if (model.isHeld(frame)) held++;
    }
    const focused = this.list.contains(document.activeElement) ? document.activeElement.id : null;
    // Most dumps leave no pages out, and need no entry for them; and each system has other uses.
    const isSparse = colouring.name === "use";
    const rows = [...colouring.entries.entries()]
      .filter(([, entry]) => entry.count || !(isSparse || entry.label === "left-out"))
      .map(([index, entry]) => {
        let count = 0;
        for (let value = entry.first; value <= entry.last && value < counts.length; value++)
          count += counts[value];
        const isHeld = entry.label !== "absent" && entry.label !== "left-out";
        return { index, entry, count, share: isHeld ? percent(count, held) : "–" };
      });
    const steps = rows.filter(({ entry }) => entry.label.endsWith(PER_BYTE));
    const others = rows.filter((row) => !steps.includes(row));
    const indexes = [...colouring.entries.keys()];
    this.list.replaceChildren(
      ...others.map((row) => this.row(row, off, indexes)),
      ...(steps.length ? [this.scale(steps, off)] : []),
    );
    this.leadTo(document.getElementById(this.lead));
    if (focused) document.getElementById(focused)?.focus();
  }

  box(index, off) {
    return element("input", {
      type: "checkbox",
      checked: !off.has(index),
      id: `entry-${index}`,
      onchange: () => {
        const changed = new Set(off);
        if (!changed.delete(index)) changed.add(index);
        this.toggle(changed);
      },
    });
  }

  numbers({ count, share }) {
    return [
      element("span", { className: "number count" }, counted(count)),
      element("span", { className: "number size" }, mebibytes(count)),
      element("span", { className: "number share" }, share),
    ];
  }

  row(row, off, indexes) {
    const { index, entry, count } = row;
    return element(
      "li",
      { className: count ? "" : "empty" },
      element(
        "label",
        {},
        this.box(index, off),
        swatchElement(entry.colour),
        element("span", { className: "label" }, entry.label),
        ...this.numbers(row),
      ),
      element(
        "button",
        {
          type: "button",
          className: "only",
          "aria-label": `Only ${entry.label}`,
          id: `only-${index}`,
          onclick: () => this.toggle(new Set(indexes.filter((other) => other !== index))),
        },
        "only",
      ),
    );
  }

  // A bar of colours from little to much; each step is a switch.
  scale(steps, off) {
    const bar = steps.map((row) => {
      const { index, entry } = row;
      const step = element(
        "label",
        {
          className: off.has(index) ? "step off" : "step",
          title: `${entry.label}: ${amount(row.count)}, ${row.share}`,
        },
        this.box(index, off),
        element("span", { className: "clipped" }, entry.label, " ", ...this.numbers(row)),
      );
      step.style.backgroundColor = entry.colour;
      return step;
    });
    return element(
      "li",
      { className: "scale" },
      element("div", { className: "steps-of-scale" }, ...bar),
      element(
        "div",
        { className: "ends-of-scale", ariaHidden: "true" },
        ...["0", "2", "4", "6", "8 bits per byte"].map((text) => element("span", {}, text)),
      ),
    );
  }

  // A sentence on the colours.
  note(text) {
    const note = byId("legend-note");
    note.textContent = text;
    note.hidden = !text;
  }
}
