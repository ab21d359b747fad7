// The gallery: the dumps that pass the filters and the search, as pictures or as a table.

const state = {
  order: "name",
  down: false,
  table: false,
  filters: [],
  text: "",
  kind: "",
  measure: "",
  least: "",
  most: "",
};
let answer = { found: [], count: 0, inDump: new Map() }; // of the search for names
/** @type {Match | null} */
let match = null; // the chosen name among these

const plural = (number, one, many) => `${counted(number)} ${number === 1 ? one : many}`;
const whenTaken = (dump) => (dump.time ? `${dump.time.slice(0, 16).replace("T", " ")} UTC` : "");
const systemOf = (dump) => (dump.done ? dump.system || "no system found" : "failed");

// -- one dump -----------------------------------------------------------------------------------

function link(dump, kind, ...children) {
  const target = dump.links[kind];
  if (!target) return element("span", {}, ...children);
  return element("a", { href: target.split("/").map(encodeURIComponent).join("/") }, ...children);
}

function badges(dump) {
  const kinds = Object.entries(dump.leads);
  const told = kinds.map(
    ([kind, count]) => `${counted(count)} × ${kind}: ${about.leadKinds[kind]}`,
  );
  return [
    dump.unlinked &&
      element(
        "span",
        { className: "badge warn", title: about.leadKinds["unlinked process"] },
        plural(dump.unlinked, "unlinked process", "unlinked processes"),
      ),
    dump.leadCount &&
      element(
        "span",
        { className: "badge", title: told.join("\n") },
        plural(dump.leadCount, "lead", "leads"),
      ),
    dump.remarks &&
      element(
        "span",
        { className: "badge quiet", title: "Sentences on missing or doubtful data" },
        plural(dump.remarks, "remark", "remarks"),
      ),
  ].filter(Boolean);
}

// The shares of the classes as one bar.
function shares(dump) {
  const held = Object.entries(dump.classes).filter(([label, pages]) => pages && label !== "absent");
  const all = held.reduce((sum, [, pages]) => sum + pages, 0);
  const words = held.map(([label, pages]) => `${label} ${percent(pages, all)}`).join(", ");
  const bar = element("div", {
    className: "shares",
    role: "img",
    "aria-label": words,
    title: words,
  });
  for (const [label, pages] of held) {
    const part = element("span", {});
    part.style.flexGrow = String(pages / all);
    part.style.background = `var(--class-${Object.keys(about.colours.light).indexOf(label)})`;
    bar.append(part);
  }
  return bar;
}

// What the search found in this dump.
function hitLine(dump) {
  if (match) {
    const isUnlinked = match.unlinked.includes(dump.number);
    return element(
      "p",
      { className: isUnlinked ? "hit warn" : "hit" },
      `${match.kind} `,
      element("bdi", {}, match.name),
      isUnlinked ? " is unlinked here" : " is here",
    );
  }
  const count = answer.inDump.get(dump.number);
  return count
    ? element("p", { className: "hit" }, plural(count, "name matches", "names match"))
    : null;
}

function card(dump) {
  const picture = dump.links.thumbnail
    ? element("img", { src: dump.links.thumbnail, alt: "", loading: "lazy", decoding: "async" })
    : element("span", { className: "no-picture" }, dump.done ? "no picture" : "failed");
  const facts = [
    bytesInWords(dump.done ? dump.bytes : dump.size),
    dump.done ? plural(dump.processes, "process", "processes") : "",
    whenTaken(dump),
  ];
  const frame = link(dump, "page", picture);
  frame.classList.add("frame");
  if (frame.localName === "a") frame.setAttribute("aria-label", `Open ${dump.name}`);
  return element(
    "li",
    { className: dump.done ? "card" : "card failed" },
    frame,
    element(
      "div",
      { className: "text" },
      element("h2", { title: dump.source }, link(dump, "page", element("bdi", {}, dump.name))),
      element("p", { className: "system" }, element("bdi", {}, systemOf(dump))),
      element("p", { className: "facts" }, facts.filter(Boolean).join(" · ")),
      dump.sentence
        ? element("p", { className: "sentence" }, element("bdi", {}, dump.sentence))
        : null,
      dump.done ? shares(dump) : null,
      hitLine(dump),
      element("p", { className: "badges" }, ...badges(dump)),
      dump.done
        ? element(
            "p",
            { className: "links" },
            link(dump, "page", "page"),
            link(dump, "picture", "picture"),
            link(dump, "summary", "summary"),
          )
        : null,
    ),
  );
}

/** @type {[string, (dump: any) => any][]} */
const COLUMNS = [
  ["name", (dump) => link(dump, "page", element("bdi", {}, dump.name))],
  ["system", (dump) => element("bdi", { title: dump.sentence }, dump.sentence || systemOf(dump))],
  ["time", whenTaken],
  ["bytes", (dump) => (dump.done ? bytesInWords(dump.bytes) : "")],
  ["processes", (dump) => (dump.done ? counted(dump.processes) : "")],
  ["unlinked", (dump) => (dump.unlinked ? counted(dump.unlinked) : "")],
  ["leads", (dump) => (dump.leadCount ? counted(dump.leadCount) : "")],
  ["remarks", (dump) => (dump.remarks ? counted(dump.remarks) : "")],
];

function row(dump) {
  const isHit = match?.unlinked.includes(dump.number) || (!match && dump.unlinked > 0);
  return element(
    "tr",
    { className: dump.done ? (isHit ? "warn" : "") : "failed" },
    ...COLUMNS.map(([, cell]) => element("td", {}, cell(dump))),
  );
}

// -- all dumps ----------------------------------------------------------------------------------

function shown() {
  const text = state.text.trim().toLowerCase();
  const seeksDumps = state.kind === "" || state.kind === "dump";
  const isNamed = (dump) =>
    seeksDumps && `${dump.name}\n${dump.source}\n${dump.system}`.toLowerCase().includes(text);
  const isFound = (dump) =>
    match ? match.dumps.includes(dump.number) : isNamed(dump) || answer.inDump.has(dump.number);
  const { measure, least, most } = state;
  const some = dumps.filter(
    (dump) =>
      passes(dump, state.filters) &&
      (!measure || isWithin(dump, measure, least, most)) &&
      (!text || isFound(dump)),
  );
  return sorted(some, state.order, state.down);
}

function draw() {
  const some = shown();
  byId("cards").hidden = state.table;
  byId("table").hidden = !state.table;
  byId("cards").replaceChildren(...(state.table ? [] : some.map(card)));
  byId("rows").replaceChildren(...(state.table ? some.map(row) : []));
  byId("none").hidden = some.length > 0;
  const memory = some.reduce((sum, dump) => sum + dump.bytes, 0);
  byId("count").textContent =
    some.length === dumps.length
      ? `All ${plural(dumps.length, "dump", "dumps")}, ${bytesInWords(memory)} of memory`
      : `${counted(some.length)} of ${plural(dumps.length, "dump", "dumps")}, ${bytesInWords(memory)} of memory`;
  byId("turn").textContent = state.down ? "↓" : "↑";
  byId("as-cards").setAttribute("aria-pressed", String(!state.table));
  byId("as-table").setAttribute("aria-pressed", String(state.table));
  byId("sort").value = state.order;
  for (const head of byId("heads").querySelectorAll("th")) {
    const isIt = head.dataset.order === state.order;
    if (isIt) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  for (const button of byId("filters").querySelectorAll("button")) {
    const isOn = state.filters.some((filter) => filter.id === button.dataset.filter);
    button.setAttribute("aria-pressed", String(isOn));
  }
  keepInAddress();
}

function sortBy(order) {
  state.down = order === state.order ? !state.down : Boolean(ORDERS[order].down);
  state.order = order;
  draw();
}

// -- the search ---------------------------------------------------------------------------------

async function search() {
  const text = state.text.trim().toLowerCase();
  const asksNames = text.length > 1 && state.kind !== "dump";
  const next = asksNames
    ? await matches(text, state.kind)
    : { found: [], count: 0, inDump: new Map() };
  if (text !== state.text.trim().toLowerCase()) return; // the user went on typing
  answer = next;
  match = null;
  drawMatches(asksNames);
  draw();
}

function drawMatches(asksNames) {
  byId("matches").hidden = !asksNames;
  const left = Object.entries(about.leftOut)
    .filter(([kind]) => state.kind === "" || state.kind === kind)
    .map(([kind, count]) => `${counted(count)} names of the kind ${kind} are in the datasets only`);
  const more = answer.count > MOST_MATCHES ? `; the first ${MOST_MATCHES} are listed` : "";
  byId("match-count").textContent = [
    `${plural(answer.count, "name", "names")}${more}`,
    ...left,
  ].join("; ");
  byId("match-list").replaceChildren(...answer.found.map(matchButton));
}

function matchButton(one) {
  const where =
    one.dumps.length === dumps.length
      ? "in all dumps"
      : `in ${plural(one.dumps.length, "dump", "dumps")}`;
  const button = element(
    "button",
    { type: "button", "aria-pressed": "false" },
    element("span", { className: "badge quiet" }, one.kind),
    element("bdi", { className: "name" }, one.name),
    element("span", { className: "note" }, where),
    one.unlinked.length
      ? element("span", { className: "badge warn" }, `unlinked in ${counted(one.unlinked.length)}`)
      : null,
  );
  button.addEventListener("click", () => {
    match = match === one ? null : one;
    for (const other of byId("match-list").querySelectorAll("button"))
      other.setAttribute("aria-pressed", String(match !== null && other === button));
    draw();
  });
  return element("li", {}, button);
}

// -- the address keeps the view -----------------------------------------------------------------

function keepInAddress() {
  const words = new URLSearchParams();
  if (state.text) words.set("q", state.text);
  if (state.kind) words.set("in", state.kind);
  if (state.order !== "name" || state.down)
    words.set("sort", state.down ? `-${state.order}` : state.order);
  if (state.filters.length) words.set("only", state.filters.map((one) => one.id).join(","));
  if (state.measure) words.set("range", [state.measure, state.least, state.most].join("~"));
  if (state.table) words.set("view", "table");
  const hash = words.size ? `#${words}` : "";
  if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname);
}

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const sort = words.get("sort") ?? "name";
  const order = sort.replace(/^-/, "");
  state.text = words.get("q") ?? "";
  state.kind = [...byId("search-kind").options].some((one) => one.value === words.get("in"))
    ? words.get("in")
    : "";
  state.order = order in ORDERS ? order : "name";
  state.down = sort.startsWith("-");
  const only = (words.get("only") ?? "").split(",");
  state.filters = FILTERS.filter((filter) => only.includes(filter.id));
  const [measure, least, most] = (words.get("range") ?? "").split("~");
  setRange(measure in MEASURES ? measure : "", least ?? "", most ?? "");
  state.table = words.get("view") === "table";
  byId("search").value = state.text;
  byId("search-kind").value = state.kind;
}

// The range of a measure that is shown; without a measure, its ends are hidden.
function setRange(measure, least = "", most = "") {
  Object.assign(state, { measure, least, most });
  byId("measure").value = measure;
  byId("least").value = least;
  byId("most").value = most;
  byId("least").hidden = byId("most").hidden = !measure;
}

// -- beginning ----------------------------------------------------------------------------------

function prepare() {
  const done = dumps.filter((dump) => dump.done);
  const memory = done.reduce((sum, dump) => sum + dump.bytes, 0);
  const failed = dumps.length - done.length;
  byId("facts").textContent = [
    `${bytesInWords(memory)} of memory`,
    plural(done.filter((dump) => dump.unlinked).length, "dump", "dumps").concat(
      " with unlinked processes",
    ),
    ...(failed ? [`${counted(failed)} failed`] : []),
  ].join(" · ");
  byId("sort").append(
    ...Object.entries(ORDERS).map(([id, { title }]) => element("option", { value: id }, title)),
  );
  byId("heads").append(
    ...COLUMNS.map(([id]) => {
      const head = element(
        "th",
        { scope: "col" },
        element("button", { type: "button", onclick: () => sortBy(id) }, ORDERS[id].title),
      );
      head.dataset.order = id;
      return head;
    }),
  );
  for (const filter of FILTERS) {
    const count = dumps.filter(filter.holds).length;
    if (!count) continue;
    const button = element(
      "button",
      { type: "button" },
      `${filter.title} `,
      element("span", {}, counted(count)),
    );
    button.dataset.filter = filter.id;
    button.addEventListener("click", () => {
      const isOn = state.filters.includes(filter);
      state.filters = isOn
        ? state.filters.filter((one) => one !== filter)
        : [...state.filters, filter];
      draw();
    });
    byId("filters").append(button);
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => paintClasses(dark.matches));
  paintClasses(dark.matches);
  byId("search").addEventListener("input", () => {
    state.text = byId("search").value;
    search();
  });
  byId("search-kind").addEventListener("change", () => {
    state.kind = byId("search-kind").value;
    search();
  });
  byId("searching").addEventListener("submit", (event) => event.preventDefault());
  byId("sort").addEventListener("change", () => {
    state.order = byId("sort").value;
    state.down = Boolean(ORDERS[state.order].down);
    draw();
  });
  byId("measure").append(
    ...Object.entries(MEASURES).map(([id, { title }]) => element("option", { value: id }, title)),
  );
  byId("measure").addEventListener("change", () => {
    setRange(byId("measure").value);
    draw();
  });
  for (const id of /** @type {("least" | "most")[]} */ (["least", "most"]))
    byId(id).addEventListener("input", () => {
      state[id] = byId(id).value;
      draw();
    });
  byId("turn").addEventListener("click", () => sortBy(state.order));
  for (const [id, table] of /** @type {[any, boolean][]} */ ([
    ["as-cards", false],
    ["as-table", true],
  ]))
    byId(id).addEventListener("click", () => {
      state.table = table;
      draw();
    });
  byId("clear").addEventListener("click", () => {
    state.filters = [];
    setRange("");
    state.text = byId("search").value = "";
    search();
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = /** @type {HTMLElement} */ (event.target).matches("input, select");
    if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    byId("search").focus();
  });
  window.addEventListener("hashchange", () => {
    readAddress();
    search();
  });
}

// The colours of the classes, in the bars and in the legend.
function paintClasses(isDark) {
  const colours = about.colours[isDark ? "dark" : "light"];
  const seen = new Set(
    dumps.flatMap((dump) => Object.keys(dump.classes).filter((one) => dump.classes[one])),
  );
  const entries = Object.entries(colours).map(([label, colour], number) => {
    document.documentElement.style.setProperty(`--class-${number}`, colour);
    return [label, colour];
  });
  byId("legend").replaceChildren(
    ...entries
      .filter(([label]) => seen.has(label) && label !== "absent")
      .map(([label, colour]) => element("li", {}, swatchElement(colour), label)),
  );
}

prepare();
readAddress();
search();
