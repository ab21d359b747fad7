// The legend: colours with meanings and numbers of pages, and switches that hide pages.

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
    const steps = { ArrowDown: 2, ArrowUp: -2, ArrowRight: 1, ArrowLeft: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    const controls = this.controls();
    controls[controls.indexOf(event.target) + steps[event.key]]?.focus();
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

  // `base` tells how frames would be painted if this legend hid none: it counts the lit ones.
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
    this.list.replaceChildren(
      ...colouring.entries.flatMap((entry, index) => {
        // Most dumps leave no pages out, and need no entry for them.
        if (entry.label === "left-out" && !entry.count) return [];
        let count = 0;
        for (let value = entry.first; value <= entry.last && value < counts.length; value++)
          count += counts[value];
        const isHeld = entry.label !== "absent" && entry.label !== "left-out";
        const box = element("input", {
          type: "checkbox",
          checked: !off.has(index),
          id: `entry-${index}`,
          onchange: () => {
            const changed = new Set(off);
            if (!changed.delete(index)) changed.add(index);
            this.toggle(changed);
          },
        });
        const others = new Set(colouring.entries.keys());
        others.delete(index);
        return element(
          "li",
          { className: count ? "" : "empty" },
          element(
            "label",
            {},
            box,
            swatchElement(entry.colour),
            element("span", { className: "label" }, entry.label),
            element("span", { className: "number count" }, counted(count)),
            element("span", { className: "number size" }, mebibytes(count)),
            element("span", { className: "number share" }, isHeld ? percent(count, held) : "–"),
          ),
          element(
            "button",
            {
              type: "button",
              className: "only",
              "aria-label": `Only ${entry.label}`,
              id: `only-${index}`,
              onclick: () => this.toggle(others),
            },
            "only",
          ),
        );
      }),
    );
    this.leadTo(document.getElementById(this.lead));
    if (focused) document.getElementById(focused)?.focus();
  }
}
