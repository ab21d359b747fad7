// The page of a difference: its state and keys, and the connections between its parts.

const UNLIT_FOG = 0.86; // over a change that is not chosen, and the class of an unchanged page
const VIEWS = ["change", "before", "after"];

// What happened to processes, in the order of the list.
const PROCESS_WORDS = [
  "came",
  "went",
  "came and went",
  "unlinked",
  "renamed",
  "odd",
  "grew",
  "shrank",
];

// The part of the state that the address of the page has. It is checked like any other input.
function readChangeLink(model) {
  const given = new URLSearchParams(location.hash.slice(1));
  const oneOf = (name, known) =>
    [given.get(name), about.start[name], known[0]].find((word) => known.includes(word));
  const dump = /^\d{1,6}$/.test(given.get("dump") ?? "") ? Number(given.get("dump")) - 1 : -1;
  const isKnown = dump >= 1 && dump < model.count;
  const pin = /^[0-9a-f]{1,9}$/i.test(given.get("pin") ?? "") ? parseInt(given.get("pin"), 16) : -1;
  return {
    layout: oneOf("layout", Object.keys(LAYOUTS)),
    palette: oneOf("palette", about.palettes),
    view: oneOf("view", VIEWS),
    dump: isKnown ? dump : 1,
    all: model.count > 2 && (given.get("all") === "1" || !isKnown),
    off: new Set(numbers(given.get("off"), about.changes.length)),
    pin: pin < model.frames ? pin : -1,
    mark: null,
  };
}

function writeChangeLink({ layout, palette, view, dump, all, off, pin }) {
  const parts = [all ? "all=1" : `dump=${dump + 1}`];
  if (layout !== about.start.layout) parts.push(`layout=${layout}`);
  if (palette !== about.start.palette) parts.push(`palette=${palette}`);
  if (view !== VIEWS[0]) parts.push(`view=${view}`);
  if (off.size) parts.push(`off=${[...off].sort((a, b) => a - b).join(",")}`);
  if (pin >= 0) parts.push(`pin=${pin.toString(16)}`);
  history.replaceState(null, "", `#${parts.join("&")}`);
}

// The colours of the map: of changes, or of the classes in one of the two dumps.
class ChangeColours {
  constructor(model) {
    this.model = model;
  }

  // What the legend shows.
  colouring(palette) {
    const colours = schemeOf(palette).change;
    return {
      values: this.model.codes,
      colours: Uint32Array.from(colours, pixelOf),
      entries: about.changes.map((label, value) => ({
        label,
        colour: colours[value],
        first: value,
        last: value,
      })),
    };
  }

  // What the tiles paint.
  painted({ view, palette }, shades, fog, hole) {
    const { model } = this;
    const scheme = schemeOf(palette);
    if (view === "change") {
      const bright = scheme.change.map(pixelOf);
      const pale = bright.map((pixel, code) =>
        code > SAME ? mixed(pixel, fog, UNLIT_FOG) : pixel,
      );
      return { values: model.codes, shades, bright, pale, hole };
    }
    const page = model.pages[view === "before" ? model.before : model.after];
    const bright = scheme.class.map(pixelOf);
    const pale = bright.map((pixel) => mixed(pixel, fog, UNLIT_FOG));
    return { values: page.map((facts) => facts & 7), shades, bright, pale, hole };
  }

  // How each frame is painted; and how it would be if the legend hid and paled nothing.
  shades({ off, view }, lit) {
    const { codes, frames, isOne } = this.model;
    const base = new Uint8Array(frames).fill(LIT),
      shades = new Uint8Array(frames);
    for (let frame = 0; frame < frames; frame++) {
      const isChosen = !lit || lit[frame];
      if (!isChosen) base[frame] = PALE;
      const isLit = isChosen && (codes[frame] > SAME || (!isOne && view !== "change"));
      shades[frame] = off.has(codes[frame]) ? HIDDEN : isLit ? LIT : PALE;
    }
    return { base, shades };
  }
}

// The lists of a step.
class ChangeLists {
  // choose(mark): light pages, or none
  constructor(model, choose) {
    this.model = model;
    this.chosen = null;
    const isChosen = (item) => item.key === this.chosen?.key;
    const toggle = (item, frames) =>
      choose(isChosen(item) ? null : { key: item.key, label: item.label, frames });
    this.processes = new ItemList(byId("process-list"), {
      label: "Processes that changed",
      placeholder: "Search name, pid or change",
      columns: [
        {
          title: "Process",
          value: ({ label }) => label.toLowerCase(),
          cell: processCell,
          grows: true,
        },
        {
          title: "Change",
          value: ({ word }) => PROCESS_WORDS.indexOf(word),
          cell: ({ word }) => word,
        },
        ...pagesColumns("Pages in user mode now", ({ after }) => after),
        {
          title: "±",
          hint: "Pages more or fewer than before",
          value: ({ after, before }) => Math.abs(after - before),
          cell: ({ after, before }) => signed(after - before),
          down: true,
        },
      ],
      sort: 1,
      text: ({ label, word, more }) => `${label} ${word} ${more}`,
      title: ({ before, after, more }) =>
        `${mebibytes(before)} before, ${mebibytes(after)} now${more ? `; ${more}` : ""}`,
      isChosen,
      choose: (item) => toggle(item, () => model.framesOf(item.owner)),
      none: "No process changed.",
    });
    this.moves = new ItemList(byId("move-list"), {
      label: "Pages with other owners",
      placeholder: "Search owners",
      columns: [
        {
          title: "From",
          value: ({ from }) => from.toLowerCase(),
          cell: ({ from }) => nameElement(from),
          grows: true,
        },
        {
          title: "To",
          value: ({ to }) => to.toLowerCase(),
          cell: ({ to }) => nameElement(to),
          grows: true,
        },
        ...pagesColumns("Pages that moved", ({ count }) => count),
      ],
      sort: 2,
      text: ({ from, to }) => `${from} ${to}`,
      title: ({ from, to, count }) => `${from} → ${to}: ${amount(count)}`,
      isChosen,
      choose: (item) => toggle(item, () => model.framesOfMove(item.old, item.now)),
      none: "No page has other owners.",
    });
    this.files = new ItemList(byId("file-list"), {
      label: "Files with more or fewer pages in memory",
      placeholder: "Search path",
      columns: [
        {
          title: "File",
          value: ({ path }) => path,
          cell: ({ path }) => nameElement(path),
          grows: true,
        },
        { title: "Before", value: ({ before }) => before, down: true },
        { title: "Now", value: ({ after }) => after, down: true },
      ],
      sort: null,
      text: ({ path }) => path,
      title: ({ path }) => path,
      choose: () => {},
      none: "No file has more or fewer pages.",
    });
    this.leads = new ItemList(byId("lead-list"), {
      label: "New leads",
      placeholder: "Search leads",
      columns: [
        {
          title: "Lead",
          value: ({ kind }) => kind,
          cell: ({ kind, reason }) => nameElement(`${kind}: ${reason}`),
          grows: true,
        },
        ...pagesColumns("Pages of the lead"),
      ],
      sort: null,
      text: ({ kind, reason }) => `${kind} ${reason}`,
      title: ({ reason }) => reason,
      choose: () => {},
      none: "No new leads.",
    });
    const tabs = new Tabs(byId("side-tabs"));
    for (const id of ["process-panel", "move-panel", "file-panel", "lead-panel"])
      if (id !== "file-panel" || about.steps.some(({ knowsFiles }) => knowsFiles)) tabs.add(id);
    tabs.show("process-panel");
  }

  // The steps that are looked at.
  get steps() {
    return this.model.all ? about.steps : [about.steps[this.model.dump - 1]];
  }

  // Show what is in the steps.
  fill() {
    const { model, steps } = this;
    const several = steps.length > 1;
    const processes = steps.flatMap(({ processes }, n) =>
      processes.map(([owner, word, before, after, more]) => ({
        ...{ key: `process ${owner}`, owner, word, before, after },
        more: several ? [shortTime(n + 1), more].filter(Boolean).join("; ") : more,
        label: nameOfOwner(owner),
      })),
    );
    this.processes.show(processes);
    const moves = model.moves().map(({ old, now, count }) => ({
      ...{ key: `move ${model.before} ${model.after} ${old} ${now}`, old, now, count },
      ...model.moveWords(old, now),
      label: `${model.namesOf(old, 1)} → ${model.namesOf(now, 1)}`,
    }));
    this.moves.show(moves);
    const files = steps.flatMap(({ files }) =>
      files.map(([path, before, after]) => ({ path, before, after })),
    );
    this.files.show(files);
    const leads = steps.flatMap(({ leads }) =>
      leads.map(([kind, reason, pages]) => ({ kind, reason, pages })),
    );
    this.leads.show(leads);
    const tally = new Map();
    for (const { word } of processes) tally.set(word, (tally.get(word) ?? 0) + 1);
    byId("process-count").textContent = PROCESS_WORDS.filter((word) => tally.has(word))
      .map((word) => `${counted(tally.get(word))} ${word}`)
      .join(", ");
    const moved = moves.reduce((sum, { count }) => sum + count, 0);
    byId("move-count").textContent = moved ? amount(moved) : "";
    byId("file-count").textContent = files.length ? counted(files.length) : "";
    byId("lead-count").textContent = leads.length ? counted(leads.length) : "";
    const remarks = [...about.remarks, ...steps.flatMap((step) => step.remarks)];
    byId("remarks").hidden = remarks.length === 0;
    byId("remark-list").replaceChildren(...remarks.map((remark) => element("li", {}, remark)));
  }

  show(mark) {
    this.chosen = mark;
    this.processes.show();
    this.moves.show();
  }
}

const processCell = ({ label, more }) =>
  element(
    "span",
    {},
    nameElement(label),
    more ? element("span", { className: "folder" }, more) : null,
  );
const signed = (number) => (number > 0 ? `+${counted(number)}` : counted(number).replace("-", "−"));

async function startChanges() {
  const model = await unpackSeries();
  const theme = readTheme();
  const map = new MapView(byId("map"), theme);
  const colours = new ChangeColours(model);
  const layouts = {};
  let shades = new Uint8Array(model.frames);
  let state = readChangeLink(model);
  map.describe = (frame) => about.changes[model.codes[frame]];

  const legend = new Legend((off) => update({ off }));
  const lists = new ChangeLists(model, (mark) => update({ mark }));
  const card = new HistoryCard(model, null, map, null);
  const strip = new Strip(byId("strip"), model, map, theme);
  strip.kinds = about.changes.length;
  strip.stack = [...about.changes.keys()].filter((code) => code > SAME).reverse();
  strip.isRelative = true; // few pages change
  strip.kindOf = (frame) => model.codes[frame];
  const timeline = new Timeline(model, (changes) => update(changes));
  const goTo = new GoTo(model, (frame) => {
    update({ pin: frame });
    map.goToFrame(frame, true);
  });

  function paint() {
    const fog = pixelOf(theme.fog),
      hole = pixelOf(theme.canvas);
    const found = colours.shades(state, state.mark?.frames());
    ({ shades } = found);
    layouts[state.layout] ??= new LAYOUTS[state.layout](model.frames, about.folds);
    map.show(layouts[state.layout], colours.painted(state, shades, fog, hole));
    legend.show(colours.colouring(state.palette), state.off, found.base, model);
    legend.note(model.isOne ? "" : notCompared(model));
    byId("classes").hidden = state.view === "change";
    byId("class-entries").replaceChildren(
      ...about.classes.map((label, value) =>
        element("li", {}, swatchElement(schemeOf(state.palette).class[value]), label),
      ),
    );
    strip.show(state.palette, state.off, schemeOf(state.palette).change);
    strip.recount();
    bar();
  }

  // What is lit, over the map.
  function bar() {
    let pages = 0;
    for (let frame = 0; frame < shades.length; frame++)
      if (shades[frame] === LIT && model.classOf(frame) !== ABSENT) pages++;
    const focused = byId("lit").contains(document.activeElement) ? document.activeElement.id : null;
    const button = (id, title, text, direction) =>
      element(
        "button",
        {
          ...{ type: "button", id, title, "aria-label": title, disabled: !pages },
          onclick: () => next(direction),
        },
        text,
      );
    byId("lit").hidden = false;
    byId("lit").replaceChildren(
      element("span", { className: "number", role: "status" }, `${amount(pages)} lit`),
      state.mark
        ? element(
            "button",
            {
              type: "button",
              title: `No longer only ${state.mark.label}`,
              onclick: () => update({ mark: null }),
            },
            nameElement(state.mark.label),
            element("span", { ariaHidden: "true" }, " ×"),
          )
        : "",
      button("previous", "Previous lit page (p)", "‹", -1),
      button("next", "Next lit page (n)", "›", 1),
    );
    if (focused) document.getElementById(focused)?.focus();
  }

  function next(direction) {
    const { frames } = model;
    const from = state.pin >= 0 ? state.pin : direction > 0 ? -1 : frames;
    for (let n = 1; n <= frames; n++) {
      const frame = (from + direction * n + 2 * frames) % frames;
      if (shades[frame] === LIT && model.classOf(frame) !== ABSENT) return showPage(frame);
    }
    return undefined;
  }

  // Change parts of the state, and update the page.
  function update(changes) {
    const before = state,
      isFirst = !map.layout;
    state = { ...state, ...changes };
    const isOther = isFirst || state.dump !== before.dump || state.all !== before.all;
    if (isOther) {
      model.show(state.dump, state.all);
      if (state.mark?.key.startsWith("move ")) state.mark = null; // of another step
      lists.fill();
    }
    byId("layout").value = state.layout;
    byId("palette").value = state.palette;
    const centre = isFirst ? -1 : strip.frame,
      wasFitted = isFirst || map.isFitted;
    timeline.show(state);
    card.shown = null;
    card.pin(state.pin, state.palette, () => update({ pin: -1 }));
    if (
      isOther ||
      ["layout", "palette", "view", "off", "mark"].some((key) => state[key] !== before[key])
    )
      paint();
    if (isFirst || state.mark !== before.mark) lists.show(state.mark);
    if (state.layout !== before.layout) {
      if (wasFitted) map.fit();
      else map.goToFrame(state.pin >= 0 ? state.pin : centre, false, map.transform.k);
    }
    map.pinned = state.pin;
    map.redraw();
    writeChangeLink(state);
  }

  // Pin a page, and move the map only if it is out of view.
  function showPage(frame) {
    update({ pin: frame });
    const { left, top, size } = map.boxOf(frame);
    if (left < 0 || top < 0 || left + size > map.width || top + size > map.height)
      map.goToFrame(frame, false, map.transform.k);
  }

  function stepPin(x, y) {
    const from = state.pin >= 0 ? map.layout.placeOf(state.pin) : map.centre.map(Math.floor);
    const frame = map.layout.frameAt(from[0] + x, from[1] + y);
    const fold = map.layout.foldAt(from[0] + x, from[1] + y);
    if (fold) showPage(x + y > 0 ? fold.first + fold.count : Math.max(fold.first - 1, 0));
    else if (frame >= 0) showPage(frame);
  }

  /** @type {("layout" | "palette")[]} */
  const selects = ["layout", "palette"];
  for (const name of selects) {
    const select = byId(name);
    const known = name === "layout" ? Object.keys(LAYOUTS) : about.palettes;
    select.replaceChildren(...known.map((value) => element("option", { value }, capital(value))));
    select.addEventListener("change", () => update({ [name]: select.value }));
  }
  map.on("pick", (frame) => update({ pin: frame === state.pin ? -1 : frame }));
  connectButtons(map);
  addEventListener("hashchange", () => update(readChangeLink(model)));
  for (const medium of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(medium).addEventListener("change", () => {
      Object.assign(theme, readTheme());
      paint();
      card.shown = null;
      card.pin(state.pin, state.palette, () => update({ pin: -1 }));
      map.draw(); // at once, since printing does not wait
      strip.draw();
    });
  }

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const acts = {
    "+": () => map.zoomBy(1.5),
    "=": () => map.zoomBy(1.5),
    "-": () => map.zoomBy(1 / 1.5),
    Home: () => map.fit(true),
    Escape: () => update({ pin: -1 }),
    "[": () => timeline.step(-1),
    "]": () => timeline.step(1),
    c: () => update({ view: "change" }),
    n: () => next(1),
    p: () => next(-1),
    g: () => goTo.focus(),
    "?": () => byId("help").showModal(),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const { target, key } = event;
    const isTyping =
      target instanceof Element && target.matches("select, textarea, [type=search], #goto-number");
    if (isTyping) {
      if (key === "Escape") map.canvas.focus();
      return;
    }
    const onMap = target === document.body || target === map.canvas;
    const isSlider = target === byId("time");
    if (key in arrows && onMap) {
      const [x, y] = arrows[key];
      map.crosshair = true;
      if (event.shiftKey) stepPin(x, y);
      else map.panBy(-x * 90, -y * 90);
    } else if (key === "Enter" && onMap) {
      map.crosshair = true;
      update({ pin: map.frameAtPoint(map.width / 2, map.height / 2) });
    } else if (key === "x") {
      if (!event.repeat) timeline.flip();
    } else if (key in acts && !(isSlider && key === "Home")) acts[key]();
    else return;
    event.preventDefault();
  });
  addEventListener("keyup", ({ key }) => key === "x" && timeline.release());
  addEventListener("blur", () => timeline.release());

  map.resize();
  update({});
  map.resize();
  if (state.pin >= 0) map.goToFrame(state.pin, false);
  else map.fit();
  document.body.classList.remove("loading");
  // For tests, and for users of the console.
  window.memviz = {
    about,
    model,
    map,
    get state() {
      return state;
    },
    get shades() {
      return shades;
    },
  };
}

// Why frames of two dumps are not compared.
function notCompared({ all, dump }) {
  const step = all ? about.steps.find(({ one }) => !one) : about.steps[dump - 1];
  return `Not of one machine without a restart, so pages are not compared: ${step.why}`;
}

startChanges().catch((error) => {
  document.body.classList.add("failed");
  byId("failure").textContent =
    typeof DecompressionStream === "undefined"
      ? "This browser is too old for this page: it cannot unpack compressed data."
      : `The page's data cannot be unpacked (${error.message}).`;
  throw error;
});
