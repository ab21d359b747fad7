// A list with a search, sorting, and rows to choose; and tabs.

const MOST_ITEMS = 1000; // rows that are made; a search finds the others

/**
 * A column: its title, the value that it is sorted by, and what a row shows (text or an element).
 * `down`: largest first. `grows`: it takes the room that is left.
 * @typedef {{ title: string, hint?: string, value: (item: any) => any,
 *   cell?: (item: any) => any, down?: boolean, grows?: boolean }} ListColumn
 */

/**
 * Columns for an item's number of pages and for their size.
 * @param {string} hint
 * @param {(item: any) => number} value
 */
const pagesColumns = (hint, value = ({ pages }) => pages) => [
  { title: "Pages", value, down: true, hint },
  {
    title: "MiB",
    value,
    cell: (item) => element("span", { className: "size" }, inMebibytes(value(item))),
    down: true,
    hint: `${hint}, in MiB`,
  },
];

class ItemList {
  /**
   * @param {HTMLElement} host an empty element
   * @param {{ label: string, placeholder: string, columns: ListColumn[],
   *   text: (item: any) => string, choose: (item: any) => void,
   *   isChosen?: (item: any) => boolean, title?: (item: any) => string,
   *   none?: string, sort?: number | null }} options
   *   text(item) is searched. A click or Enter calls choose(item). With
   *   isChosen, rows are switches. sort is the number of the first column to sort by; null keeps
   *   the order of the items.
   */
  constructor(host, options) {
    this.options = options;
    this.items = [];
    this.sort = options.sort === undefined ? 0 : options.sort;
    this.down = options.columns[this.sort]?.down ?? false;
    this.search = element("input", {
      type: "search",
      placeholder: options.placeholder,
      "aria-label": `Search: ${options.label}`,
      spellcheck: false,
      autocomplete: "off",
      oninput: () => this.draw(),
    });
    this.heads = options.columns.map(({ title, hint, grows }, column) =>
      element(
        "th",
        { scope: "col", className: grows ? "grows" : "" },
        element(
          "button",
          { type: "button", title: hint ?? "", onclick: () => this.sortBy(column) },
          title,
        ),
      ),
    );
    this.body = element("tbody", { onkeydown: (event) => this.key(event) });
    this.note = element("p", { className: "note", role: "status" });
    host.classList.add("item-list");
    host.append(
      element("div", { className: "searching" }, this.search),
      element(
        "div",
        { className: "list-scroll" },
        element(
          "table",
          { "aria-label": options.label },
          element("thead", {}, element("tr", {}, ...this.heads)),
          this.body,
        ),
        this.note,
      ),
    );
  }

  // Show other items, or the same ones again after a choice.
  show(items = this.items) {
    this.items = items;
    this.draw();
  }

  sortBy(column) {
    this.down = column === this.sort ? !this.down : (this.options.columns[column].down ?? false);
    this.sort = column;
    this.draw();
  }

  // The items that have all words of the search, in the order of the list.
  matches() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { text, columns } = this.options;
    const found = words.length
      ? this.items.filter((item) => {
          const where = text(item).toLowerCase();
          return words.every((word) => where.includes(word));
        })
      : [...this.items];
    if (this.sort === null) return found;
    const { value } = columns[this.sort];
    const sign = this.down ? -1 : 1;
    return found
      .map((item) => ({ item, key: value(item) }))
      .sort((a, b) => sign * (a.key < b.key ? -1 : a.key > b.key ? 1 : 0))
      .map(({ item }) => item);
  }

  draw() {
    const focused = this.buttons().indexOf(document.activeElement);
    const found = this.matches();
    const hidden = found.length - MOST_ITEMS;
    this.body.replaceChildren(
      ...found.slice(0, MOST_ITEMS).map((item, row) => this.row(item, row === 0)),
    );
    this.note.textContent =
      hidden > 0
        ? `and ${counted(hidden)} more: search to find them`
        : found.length
          ? ""
          : (this.options.none ?? "Nothing matches.");
    for (const [column, head] of this.heads.entries())
      head.setAttribute(
        "aria-sort",
        column === this.sort ? (this.down ? "descending" : "ascending") : "none",
      );
    if (focused >= 0) this.focus(focused);
  }

  row(item, isFirst) {
    const { columns, choose, isChosen, title } = this.options;
    const chosen = isChosen?.(item);
    const cells = columns.map(({ value, cell, grows }, column) => {
      const content = cell ? cell(item) : value(item);
      const shown = typeof content === "number" ? counted(content) : content;
      const className = grows ? "grows" : typeof content === "number" ? "number" : "";
      if (column) return element("td", { className }, shown);
      // The first cell has the row's button: the others belong to its target, too.
      const button = element("button", { type: "button", tabIndex: isFirst ? 0 : -1 }, shown);
      if (isChosen) button.setAttribute("aria-pressed", String(chosen));
      return element("td", { className }, button);
    });
    return element(
      "tr",
      {
        className: chosen ? "chosen" : "",
        title: title?.(item) ?? "",
        onclick: ({ currentTarget }) => {
          this.hold(currentTarget.querySelector("button"));
          choose(item);
        },
      },
      ...cells,
    );
  }

  /** @returns {any[]} */
  buttons() {
    return [...this.body.querySelectorAll("button")];
  }

  // Tab leads to one row of the list, and arrows to the others.
  hold(button) {
    for (const other of this.buttons()) other.tabIndex = other === button ? 0 : -1;
    button?.focus({ preventScroll: true });
  }

  focus(row) {
    const buttons = this.buttons();
    const button = buttons[Math.min(Math.max(row, 0), buttons.length - 1)];
    this.hold(button);
    button?.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const buttons = this.buttons();
    const row = buttons.indexOf(event.target);
    const to = { ArrowDown: row + 1, ArrowUp: row - 1, Home: 0, End: buttons.length - 1 }[
      event.key
    ];
    if (to === undefined || row < 0) return;
    event.preventDefault();
    event.stopPropagation();
    this.focus(to);
  }
}

// Tabs over panels, whose names are their data-tab; only the chosen panel is shown. Arrows lead
// from tab to tab. A single panel needs no tab.
class Tabs {
  constructor(host) {
    this.host = host;
    this.tabs = new Map(); // id of the panel: its button
    host.setAttribute("role", "tablist");
    host.addEventListener("keydown", (event) => this.key(event));
  }

  /** @param {string} id */
  add(id) {
    const panel = document.getElementById(id);
    const tab = element(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${id}`,
        "aria-controls": id,
        onclick: () => this.show(id),
      },
      panel.dataset.tab,
    );
    this.tabs.set(id, tab);
    this.host.append(tab);
    this.host.hidden = this.tabs.size < 2;
    if (!this.host.hidden)
      for (const [other, { id: label }] of this.tabs) {
        const shown = document.getElementById(other);
        shown.setAttribute("role", "tabpanel");
        shown.setAttribute("aria-labelledby", label);
      }
    this.show(this.shown ?? id);
  }

  show(id) {
    this.shown = id;
    for (const [other, tab] of this.tabs) {
      tab.setAttribute("aria-selected", String(other === id));
      tab.tabIndex = other === id ? 0 : -1;
      document.getElementById(other).hidden = other !== id;
    }
  }

  key(event) {
    const ids = [...this.tabs.keys()];
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const id = ids[(ids.indexOf(this.shown) + step + ids.length) % ids.length];
    this.show(id);
    this.tabs.get(id).focus();
  }
}
