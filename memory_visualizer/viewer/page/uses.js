// The table of pages by use and state, as the kernel records them.

class UseTable {
  // show(use): paint the pages of one use only, by its index.
  constructor(model, show) {
    this.model = model;
    this.show = show;
    const { use, state } = model.named;
    byId("uses-open").hidden = !use || !state;
    byId("uses-open").addEventListener("click", () => this.open());
  }

  // Labels of a named column, in the order of its values.
  static labels(name) {
    const { swatches } = (about.named ?? []).find(({ id }) => id === name);
    return swatches;
  }

  // Pages of each use (rows) and state (columns).
  counts(uses, states) {
    const { frames, named } = this.model;
    const counts = Array.from({ length: uses }, () => new Uint32Array(states));
    for (let frame = 0; frame < frames; frame++) counts[named.use[frame]][named.state[frame]]++;
    return counts;
  }

  open() {
    const uses = UseTable.labels("use"),
      states = UseTable.labels("state");
    const counts = this.counts(uses.length, states.length);
    const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
    const totals = states.map((_, state) => sum(counts.map((row) => row[state])));
    const columns = [...states.keys()].filter((state) => totals[state]);
    const cells = (row) => {
      const pages = sum([...row]);
      return [
        ...columns.map((state) => (row[state] ? counted(row[state]) : "")),
        counted(pages),
        `${counted((pages * PAGE_SIZE) / 1024)} KiB`,
      ].map((text) => element("td", { className: "number" }, text));
    };
    const heading = (text) => element("th", { scope: "col" }, text);
    byId("uses-head").replaceChildren(
      element(
        "tr",
        {},
        ...["Use", ...columns.map((state) => states[state]), "Pages", "Size"].map(heading),
      ),
    );
    const rows = [...uses.keys()].filter((use) => sum([...counts[use]]));
    byId("uses-rows").replaceChildren(
      ...rows.map((use) => element("tr", {}, this.name(use, uses[use]), ...cells(counts[use]))),
      element(
        "tr",
        { className: "total" },
        element("th", { scope: "row" }, "total"),
        ...cells(totals),
      ),
    );
    byId("uses").showModal();
  }

  name(use, label) {
    const choose = () => {
      byId("uses").close();
      this.show(use);
    };
    return element(
      "th",
      { scope: "row" },
      element(
        "button",
        { type: "button", title: "Show the pages of this use only", onclick: choose },
        label,
      ),
    );
  }
}
