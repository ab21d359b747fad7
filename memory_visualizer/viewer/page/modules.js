// Modules of the kernel, and regions of processes: viewer/inventory.py describes the columns.

class Modules {
  constructor(columns) {
    const { module_gap: gap = [], module_count: count = [], module_of: of = [] } = columns;
    this.first = new Float64Array(gap.length);
    this.end = new Float64Array(gap.length);
    this.which = of;
    for (let run = 0, frame = 0; run < gap.length; run++) {
      this.first[run] = frame += gap[run];
      this.end[run] = frame += count[run];
    }
  }

  // The name of the module that a frame belongs to; undefined for most.
  of(frame) {
    const run = lastUpTo(this.first, frame);
    return run >= 0 && frame < this.end[run] ? about.modules[this.which[run]] : undefined;
  }

  // Pages of each module.
  pages() {
    const pages = new Uint32Array(about.modules.length);
    for (const [run, module] of this.which.entries())
      pages[module] += this.end[run] - this.first[run];
    return pages;
  }

  // 1 for each frame of a module.
  frames(module, all) {
    const marks = new Uint8Array(all);
    for (const [run, other] of this.which.entries())
      if (other === module) marks.fill(1, this.first[run], this.end[run]);
    return marks;
  }
}

class Regions {
  constructor(columns) {
    const { region_count: count = [], region_gap: gap = [], region_pages: pages = [] } = columns;
    this.text = columns.region_text;
    this.start = new Float64Array(gap.length); // pages
    this.end = new Float64Array(gap.length);
    this.edges = new Uint32Array(count.length + 1); // the regions of a process
    for (let process = 0, row = 0; process < count.length; process++) {
      let page = 0;
      for (let n = count[process]; n > 0; n--, row++) {
        this.start[row] = page += gap[row];
        this.end[row] = page += pages[row];
      }
      this.edges[process + 1] = row;
    }
  }

  // { text, start, end } of the region that has a page of a process's addresses, or undefined.
  of(process, page) {
    if (process + 1 >= this.edges.length) return undefined;
    const low = this.edges[process];
    const row = low + lastUpTo(this.start.subarray(low, this.edges[process + 1]), page);
    if (row < low || page >= this.end[row]) return undefined;
    return { text: about.regions[this.text[row]], start: this.start[row], end: this.end[row] };
  }
}

// The index of the last of some ascending numbers that is not above `number`; -1 if there is none.
function lastUpTo(numbers, number) {
  let low = 0,
    high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= number) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// The list of modules: a click on a module lights its pages.
class ModuleList {
  constructor(model, tabs, light) {
    const pages = model.modules.pages();
    if (!pages.length) return;
    this.lit = null;
    this.list = new ItemList(byId("module-list"), {
      label: "modules",
      placeholder: "Search name",
      columns: [
        {
          title: "Module",
          value: ({ name }) => name.toLowerCase(),
          cell: ({ name }) => nameElement(name),
          grows: true,
        },
        ...pagesColumns("Pages in memory"),
      ],
      text: ({ name }) => name,
      isChosen: ({ name, index }) => this.mark?.label === name && this.lit === index,
      choose: ({ name, index }) => {
        const isLit = this.mark?.label === name && this.lit === index;
        this.lit = index;
        light(isLit ? null : { label: name, frames: model.modules.frames(index, model.frames) });
      },
    });
    this.items = about.modules.map((name, index) => ({ name, index, pages: pages[index] }));
    tabs.add("modules");
    byId("module-count").textContent = counted(pages.length);
  }

  // Another mark is lit, or none.
  show(mark) {
    this.mark = mark;
    this.list?.show(this.items);
  }
}

// The regions of the chosen process: a click on a region lights its pages.
class RegionList {
  constructor(model, tabs, light) {
    this.model = model;
    if (!about.regions.length) return;
    this.list = new ItemList(byId("region-list"), {
      label: "regions",
      placeholder: "Search region",
      columns: [
        { title: "Address", value: ({ start }) => start, cell: RegionList.address },
        { title: "Region", value: ({ text }) => text, cell: RegionList.words, grows: true },
        ...pagesColumns("Pages in memory"),
      ],
      text: ({ start, text }) => `${hexVirtual(start)} ${text}`,
      title: ({ start, end, text }) => `${hexVirtual(start)} to ${hexVirtual(end)}: ${text}`,
      isChosen: ({ row }) => this.mark?.region === row,
      choose: (region) => light(this.mark?.region === region.row ? null : this.markOf(region)),
    });
    tabs.add("regions");
  }

  static address({ start }) {
    return element("span", { className: "number virtual" }, hexVirtual(start));
  }

  static words({ text }) {
    return element("bdi", {}, text);
  }

  // The regions of a process, with the number of its pages in each.
  of(process) {
    const { regions } = this.model;
    this.stretches = stretchesOf(this.model, process);
    const items = [];
    for (let row = regions.edges[process]; row < regions.edges[process + 1]; row++) {
      const start = regions.start[row],
        end = regions.end[row];
      items.push({ row, start, end, text: about.regions[regions.text[row]], pages: 0 });
    }
    const starts = items.map(({ start }) => start);
    for (const [virtual, first, end] of this.stretches)
      for (let at = lastUpTo(starts, virtual); at < items.length; at++) {
        if (at < 0) continue;
        const item = items[at];
        if (item.start >= virtual + end - first) break;
        const to = Math.min(item.end, virtual + end - first);
        item.pages += Math.max(to - Math.max(item.start, virtual), 0);
      }
    return items;
  }

  markOf({ row, start, end, text }) {
    const frames = new Uint8Array(this.model.frames);
    for (const [virtual, first, last] of this.stretches) {
      const from = Math.max(start, virtual),
        to = Math.min(end, virtual + last - first);
      if (from < to) frames.fill(1, first + from - virtual, first + to - virtual);
    }
    return { label: `${hexVirtual(start)} ${text}`, frames, region: row };
  }

  show(chosen, mark) {
    if (!this.list) return;
    this.mark = mark;
    const [process] = chosen;
    const isOne = chosen.size === 1;
    this.list.options.none = isOne ? "Nothing matches." : "Choose one process to see its regions.";
    if (isOne && process !== this.process) this.items = this.of(process);
    this.process = isOne ? process : undefined;
    this.list.show(isOne ? this.items : []);
    byId("region-count").textContent = isOne
      ? `${ownerName(process)} · ${counted(this.items.length)}`
      : "";
  }
}
