// The leads: pages to look at first. Choosing a lead lights its pages, and shows the first of them.

class Leads {
  // choose(mark or null, its first frame or -1)
  constructor(tabs, choose) {
    const { kinds, complete, found } = about.leads;
    this.shown = null;
    if (!found.length) return;
    this.list = new ItemList(byId("lead-list"), {
      label: "leads",
      placeholder: "Search leads",
      columns: [
        { title: "Lead", value: ({ number }) => number, cell: Leads.told, grows: true },
        ...pagesColumns("Pages of the lead"),
      ],
      text: ({ kind, reason }) => `${kind} ${reason}`,
      title: ({ kind }) => kinds[kind],
      isChosen: (lead) => lead.number === this.shown,
      choose: (lead) => {
        if (lead.number === this.shown) choose(null, -1);
        else choose(Leads.mark(lead), lead.runs[0]?.[0] ?? -1);
      },
    });
    this.items = found.map((lead, number) => ({ ...lead, number }));
    tabs.add("leads");
    byId("lead-count").textContent = counted(found.length);
    byId("lead-note").hidden = complete;
  }

  static told({ kind, reason }) {
    return element(
      "span",
      {},
      element("strong", {}, capital(kind)),
      " ",
      element("bdi", {}, reason),
    );
  }

  // The pages of a lead, as a choice of pages to be lit.
  static mark({ kind, runs, number }) {
    const frames = new Uint8Array(about.dump.frames);
    for (const [first, count] of runs) frames.fill(1, first, first + count);
    return { label: kind, frames, lead: number };
  }

  show(mark) {
    this.shown = mark?.lead ?? null;
    this.list?.show(this.items);
  }
}
