// The slider over time, the switch between before and after, and their texts.

const LETTER_WIDTH = 7, // of a label below the slider
  LABEL_GAP = 20,
  THUMB = 16, // of the slider's handle
  HOLD_MS = 300; // a key that was held this long flips back

class Timeline {
  // change(parts of the state)
  constructor(model, change) {
    this.model = model;
    this.change = change;
    this.slider = byId("time");
    this.all = byId("all");
    this.views = [...document.querySelectorAll("#views input")].map(
      (view) => /** @type {HTMLInputElement} */ (view),
    );
    this.slider.min = "1";
    this.slider.max = String(model.count - 1);
    this.slider.disabled = model.count < 3;
    byId("all-label").hidden = model.count < 3;
    this.slider.addEventListener("input", () =>
      change({ dump: Number(this.slider.value), all: false }),
    );
    this.all.addEventListener("change", () => change({ all: this.all.checked }));
    byId("earlier").addEventListener("click", () => this.step(-1));
    byId("later").addEventListener("click", () => this.step(1));
    for (const view of this.views)
      view.addEventListener("change", () => change({ view: view.value }));
    new ResizeObserver(() => this.label()).observe(byId("times"));
  }

  step(direction) {
    const dump = Math.min(Math.max(this.model.dump + direction, 1), this.model.count - 1);
    this.change({ dump, all: false });
  }

  show({ dump, all, view }) {
    this.state = { dump, all, view };
    this.slider.value = String(dump);
    this.all.checked = all;
    for (const one of this.views) one.checked = one.value === view;
    byId("earlier").disabled = !all && dump <= 1;
    byId("later").disabled = !all && dump >= this.model.count - 1;
    const { before, after, count } = this.model;
    const [old, now] = [about.dumps[before], about.dumps[after]];
    const said = all
      ? `All ${counted(count)} dumps: the strongest change of each page from ${timeOf(old)} to ${timeOf(now)}`
      : `Dump ${counted(dump + 1)} of ${counted(count)}: ${now.name}, ${now.time ? timeOf(now) : "time not known"}, beside ${old.name}, ${old.time ? timeOf(old) : "time not known"}`;
    byId("time-said").textContent = said;
    byId("time-said").title = said;
    this.slider.setAttribute("aria-valuetext", said);
    this.label();
  }

  // Times below the slider: the first, the last, and as many others as fit between.
  label() {
    if (!this.state) return;
    const { count } = this.model;
    const width = byId("times").clientWidth;
    const steps = count - 2;
    const longest = Math.max(...about.dumps.map((_, dump) => shortTime(dump).length));
    const room = Math.floor(width / (longest * LETTER_WIDTH + LABEL_GAP));
    const many = Math.max(Math.min(room, count - 1), 1);
    const dumps = new Set();
    for (let n = 0; n < many; n++) dumps.add(1 + Math.round((steps * n) / Math.max(many - 1, 1)));
    byId("time-labels").replaceChildren(
      ...[...dumps].map((dump) => {
        const part = (dump - 1) / Math.max(steps, 1);
        const className = [
          dump === 1 ? "first" : dump === count - 1 ? "last" : "",
          dump === this.state.dump && !this.state.all ? "now" : "",
        ].join(" ");
        const label = element("span", { className }, shortTime(dump));
        if (part === 0) label.style.left = "0";
        else if (part === 1) label.style.left = "100%";
        else label.style.left = `${THUMB / 2 + part * (width - THUMB)}px`;
        return label;
      }),
    );
  }

  // The key that flips between before and after: a short press flips, a long one only shows.
  flip() {
    this.held = { view: this.state.view, since: performance.now() };
    this.change({ view: this.state.view === "before" ? "after" : "before" });
  }

  release() {
    const { held } = this;
    this.held = undefined;
    if (held && performance.now() - held.since > HOLD_MS) this.change({ view: held.view });
  }
}
