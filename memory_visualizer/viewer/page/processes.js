// The list of processes: sorting, search, and choice.

const MOST_ROWS = 1000;
const NUMBERS = new Set(["private", "shared", "size"]); // columns that start with the largest
const ODD = "odd";
const THREAD = "kernel thread"; // of Linux; has no pages, so only a search shows it

class Processes {
  constructor(choose) {
    this.choose = choose; // choose(indexes of processes)
    this.chosen = new Set();
    this.colours = []; // of the processes
    this.lead = ""; // the box that Tab leads to
    this.sort = "pid";
    this.down = false;
    this.body = byId("process-rows");
    this.search = byId("search");
    this.note = byId("process-note");
    this.clear = byId("clear");
    this.search.addEventListener("input", () => this.draw());
    this.search.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !this.search.value) return;
      this.choose(new Set(this.matches()));
    });
    this.clear.addEventListener("click", () => this.choose(new Set()));
    for (const button of this.buttons())
      button.addEventListener("click", () => this.sortBy(button.dataset.sort));
    this.body.addEventListener("change", ({ target }) => {
      if (!(target instanceof HTMLInputElement)) return;
      const changed = new Set(this.chosen);
      const index = Number(target.value);
      this.lead = target.value;
      if (!changed.delete(index)) changed.add(index);
      this.choose(changed);
    });
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.heading();
  }

  /** @returns {NodeListOf<HTMLElement>} */
  buttons() {
    return document.querySelectorAll("#processes th button");
  }

  sortBy(column) {
    // Numbers start with the largest, names with A; a second click reverses the order.
    this.down = column === this.sort ? !this.down : NUMBERS.has(column);
    this.sort = column;
    this.draw();
  }

  heading() {
    const all = about.processes;
    const count = (state) => all.filter((process) => process.state === state).length;
    const usual = all.length - count(THREAD);
    const parts = [usual ? counted(usual) : "none found"];
    for (const state of ["unlinked", "starting", "ending", "exited", THREAD]) {
      const number = count(state);
      if (number)
        parts.push(" · ", this.finder(state, number, state === THREAD && number > 1 ? "s" : ""));
    }
    const odd = all.filter(({ anomalies }) => anomalies.length).length;
    if (odd) parts.push(" · ", this.finder(ODD, odd, ""));
    byId("process-count").append(...parts);
  }

  // A button that searches the processes of one kind; a second click shows all again.
  finder(kind, number, ending) {
    return element(
      "button",
      {
        type: "button",
        className: kind.replace(" ", "-"),
        title: `Search ${kind} processes`,
        onclick: () => {
          this.search.value = this.search.value === kind ? "" : kind;
          this.draw();
        },
      },
      `${counted(number)} ${kind}${ending}`,
    );
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const boxes = [...this.body.querySelectorAll("input")];
    const next = boxes[boxes.indexOf(event.target) + step];
    if (!next) return;
    this.lead = next.value;
    this.leadOneBox();
    next.focus();
  }

  // The key Tab leads to one box of the list, and arrows to the others.
  leadOneBox() {
    const boxes = [...this.body.querySelectorAll("input")];
    const lead = boxes.find(({ value }) => value === this.lead) ?? boxes[0];
    for (const box of boxes) box.tabIndex = box === lead ? 0 : -1;
  }

  // Indexes of the processes that match the search: by a part of the name, the state or an
  // anomaly, or by the pid.
  matches() {
    const words = this.search.value.toLowerCase().trim();
    const found = [...about.processes.keys()].filter((index) => {
      const { name, pid, state, anomalies } = about.processes[index];
      if (!words) return state !== THREAD;
      return (
        name.toLowerCase().includes(words) ||
        String(pid) === words ||
        state?.startsWith(words) ||
        (words === ODD && anomalies.length > 0) ||
        anomalies.some((word) => word.includes(words))
      );
    });
    const key = {
      name: (process) => process.name.toLowerCase(),
      pid: (process) => process.pid,
      private: (process) => process.private,
      shared: (process) => process.shared,
      size: (process) => process.private + process.shared,
    }[this.sort];
    const keys = about.processes.map(key);
    const sign = this.down ? -1 : 1;
    return found.sort(
      (a, b) => sign * (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : 0) || a - b,
    );
  }

  show(chosen, palette) {
    this.chosen = chosen;
    this.colours = schemeOf(palette).process.slice(FIRST_PROCESS);
    this.draw();
  }

  draw() {
    const active = document.activeElement;
    const isBox = active instanceof HTMLInputElement && this.body.contains(active);
    const focused = isBox ? active.value : null;
    const found = this.matches();
    this.body.replaceChildren(...found.slice(0, MOST_ROWS).map((index) => this.row(index)));
    this.leadOneBox();
    const hidden = found.length - MOST_ROWS;
    this.note.textContent =
      hidden > 0
        ? `and ${counted(hidden)} more: search to find them`
        : found.length || !about.processes.length
          ? ""
          : "No process matches.";
    this.clear.hidden = this.chosen.size === 0;
    this.clear.textContent = `Clear ${this.chosen.size}`;
    for (const button of this.buttons()) {
      const here = button.dataset.sort === this.sort;
      button
        .closest("th")
        .setAttribute("aria-sort", here ? (this.down ? "descending" : "ascending") : "none");
    }
    if (focused !== null)
      [...this.body.querySelectorAll("input")].find(({ value }) => value === focused)?.focus();
  }

  row(index) {
    const { name, pid, ppid, state, private: mine, shared, anomalies } = about.processes[index];
    const isChosen = this.chosen.has(index);
    const unknown = state === "unknown";
    const label = element(
      "label",
      {},
      element("input", { type: "checkbox", value: String(index), checked: isChosen }),
      swatchElement(this.colours[index]),
      element(
        "span",
        { className: "named" },
        nameElement(name),
        state ? element("span", { className: `badge ${state.replace(" ", "-")}` }, state) : null,
        anomalies.length
          ? element("span", { className: "badge odd", title: anomalies.join("; ") }, ODD)
          : null,
      ),
    );
    return element(
      "tr",
      { className: `${isChosen ? "chosen" : ""} ${state.replace(" ", "-")}` },
      element("td", { title: unknown ? "" : `${name} (parent ${ppid})` }, label),
      element("td", { className: "number" }, unknown ? "?" : String(pid)),
      element("td", { className: "number" }, counted(mine)),
      element("td", { className: "number" }, counted(shared)),
      element("td", { className: "number" }, inMebibytes(mine + shared)),
    );
  }
}
