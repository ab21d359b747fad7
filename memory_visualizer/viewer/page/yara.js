// The hits of YARA rules. Choosing a hit pins its page, and lights all pages with hits of its rule.

class YaraHits {
  // choose(mark or null, frame to pin or -1)
  constructor(model, tabs, choose) {
    if (!about.yara) return;
    const { rules, hits } = about.yara;
    this.rules = rules;
    this.fileOf = model.fileOf;
    this.list = new ItemList(byId("yara-list"), {
      label: "hits",
      placeholder: "Search rule, address, process, file",
      columns: [
        {
          title: "Rule",
          value: ({ number }) => number,
          cell: (hit) => this.told(hit),
          grows: true,
        },
        { title: "Address", value: ({ physical }) => physical, cell: YaraHits.place },
      ],
      text: (hit) => this.text(hit),
      title: (hit) => this.text(hit),
      none: "No rule matches.",
      choose: (hit) => choose(this.mark(hit.rule), hit.frame),
    });
    this.items = hits.map(
      ([rule, pattern, frame, offset, length, process, virtual, owners], number) => ({
        ...{ number, rule, pattern, frame, offset, length, process, virtual, owners },
        physical: frame * PAGE_SIZE + offset,
      }),
    );
    tabs.add("yara");
    const all = rules.reduce((sum, { count }) => sum + count, 0);
    const more = rules.every(({ exact }) => exact) ? "" : "more than ";
    byId("yara-count").textContent = `${more}${counted(all)}`;
    this.list.show(this.items);
  }

  nameOf({ rule, pattern }) {
    return `${this.rules[rule].name} ${pattern}`.trim();
  }

  ownerOf({ process, owners, virtual }) {
    if (process < 0) return "no process";
    const others = owners > 1 ? ` and ${counted(owners - 1)} more` : "";
    return `${ownerName(process)}${others} at ${virtual}`;
  }

  pathOf({ frame }) {
    const file = this.fileOf?.[frame];
    return file ? about.files[file - 1] : "";
  }

  // All facts of a hit; the offset is in the page.
  text(hit) {
    const { rule, offset, length } = hit;
    const where = `offset ${YaraHits.hexadecimal(offset)}, ${counted(length)} bytes`;
    const parts = [this.nameOf(hit), this.rules[rule].file, YaraHits.place(hit), where];
    return [...parts, this.ownerOf(hit), this.pathOf(hit)].filter(Boolean).join(" \u00b7 ");
  }

  told(hit) {
    return element(
      "span",
      {},
      element("b", {}, this.nameOf(hit)),
      " ",
      element("bdi", {}, this.ownerOf(hit)),
      " ",
      element("bdi", { className: "folder" }, this.pathOf(hit)),
    );
  }

  static hexadecimal(number) {
    return `0x${number.toString(16)}`;
  }

  static place({ physical }) {
    return YaraHits.hexadecimal(physical);
  }

  // The pages with hits of a rule, as a choice of pages to be lit.
  mark(rule) {
    const { name, runs } = this.rules[rule];
    const frames = new Uint8Array(about.dump.frames);
    for (const [first, count] of runs) frames.fill(1, first, first + count);
    return { label: `YARA ${name}`, frames };
  }
}
