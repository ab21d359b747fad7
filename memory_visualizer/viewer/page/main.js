// The page's state and keys, and the connections between its parts.

const PAINTED = ["layout", "colour", "palette", "chosen", "files", "mark", "off"];
const HOW_ENTROPY = "entropy?"; // a choice that tells how to get the colouring
const FOG = 0.86; // its strength over pages that are not lit

async function start() {
  const model = await unpack();
  const colourings = new Colourings(model);
  const theme = readTheme();
  const map = new MapView(byId("map"), theme);
  const layouts = {};
  map.describe = (frame) => {
    const { owners } = model;
    if (owners.start[frame] === owners.start[frame + 1]) return "";
    const names = new Set(owners.of(frame).map(({ process }) => process));
    const [first] = names;
    if (names.size > 1) return `${names.size} owners`;
    return first === kernelIndex() ? "kernel" : ownerName(first);
  };
  let state = { ...readLink(colourings, model.frames), mark: null };
  let linkTimer;

  const litPages = new LitPages(model, colourings, (frame) => showPage(frame));
  const lights = new Lights(model, colourings, {
    change: (changes) => update(changes),
    step: (direction) => litPages.step(state.pin, direction),
    save: () => litPages.save(),
  });
  byId("remarks").hidden = about.remarks.length === 0;
  byId("remark-list").append(...about.remarks.map((remark) => element("li", {}, remark)));
  const legend = new Legend((off) => update({ off: { ...state.off, [state.colour]: off } }));
  new UseTable(model, (use) => {
    const others = new Set(colourings.swatches("use", state.palette).keys());
    others.delete(use);
    update({ colour: "use", off: { ...state.off, use: others } });
  });
  const choose = (chosen) => update({ chosen });
  const processes = new Processes(choose);
  const tabs = new Tabs(byId("side-tabs"));
  tabs.add("processes");
  const leads = new Leads(tabs, (mark, first) => {
    update({ mark });
    if (first >= 0) map.goToFrame(first, true);
  });
  const files = new Files(model, tabs, (chosen) => update({ files: chosen }));
  const modules = new ModuleList(model, tabs, (mark) => update({ mark }));
  const regions = new RegionList(model, tabs, (mark) => update({ mark }));
  new YaraHits(model, tabs, (mark, pin) => {
    update({ mark, pin });
    map.goToFrame(pin, true);
  });
  const card = new Card(model, colourings, map, (process) => choose(new Set([process])));
  const strip = new Strip(byId("strip"), model, map, theme);
  const goTo = new GoTo(model, (frame) => {
    update({ pin: frame });
    map.goToFrame(frame, true);
  });

  const bench = new Bench(model, {
    state: () => state,
    shown: () => litPages.shades.map((shade) => (shade === LIT ? 1 : 0)),
    translate: (page, process) => goTo.translate(page, process),
    pin: (frame) => showPage(frame),
    light: (mark) => update({ mark }),
  });

  function paint() {
    const colouring = colourings.get(state.colour, state.palette);
    const fog = pixelOf(theme.fog),
      hole = pixelOf(theme.canvas);
    const bright = colouring.colours.slice();
    const pale = colouring.colours.map((pixel) => mixed(pixel, fog, FOG));
    const lit = lights.frames(state);
    const { base, shades } = lights.shades(state, lit);
    layouts[state.layout] ??= new LAYOUTS[state.layout](model.frames, about.folds);
    const layout = layouts[state.layout];
    map.pinned = state.pin;
    map.show(layout, { values: colouring.values, shades, bright, pale, hole });
    litPages.shades = shades;
    lights.show(state, shades);
    legend.note(
      state.palette !== "default" && about.forAll.includes(state.colour)
        ? "These colours differ for all eyes as they are; the palette does not change them."
        : state.palette !== "default" && ["process", "file"].includes(state.colour)
          ? `The ${about.apart} largest have colours that are apart for all eyes. Choose others to light their pages.`
          : "",
    );
    legend.show(colouring, state.off[state.colour] ?? new Set(), base, model);
    strip.show(state.palette, state.off.class ?? new Set());
  }

  // Change parts of the state, and update the page.
  function update(changes) {
    const before = state,
      isFirst = !map.layout;
    state = { ...state, ...changes };
    byId("layout").value = state.layout;
    byId("color").value = state.colour;
    byId("palette").value = state.palette;
    const centre = isFirst ? -1 : strip.frame,
      wasFitted = isFirst || map.isFitted;
    card.pin(state.pin, state.palette, () => update({ pin: -1 }));
    if (PAINTED.some((key) => state[key] !== before[key]) || isFirst) paint();
    if (state.chosen !== before.chosen || state.palette !== before.palette || isFirst)
      processes.show(state.chosen, state.palette);
    if (state.files !== before.files || isFirst) files.show(state.files);
    if (state.mark !== before.mark || isFirst) modules.show(state.mark);
    if (state.mark !== before.mark || isFirst) leads.show(state.mark);
    if (state.chosen !== before.chosen || state.mark !== before.mark || isFirst)
      regions.show(state.chosen, state.mark);
    if (state.layout !== before.layout) {
      if (wasFitted) map.fit();
      else map.goToFrame(state.pin >= 0 ? state.pin : centre, false, map.transform.k);
    }
    map.pinned = state.pin;
    map.redraw();
    if (state.pin !== before.pin) bench.showPage();
    link();
  }

  function link() {
    clearTimeout(linkTimer);
    linkTimer = setTimeout(() => writeLink(state, map), 250);
  }

  function follow() {
    clearTimeout(linkTimer);
    const given = readLink(colourings, model.frames);
    update(given);
    if (given.view) map.goTo(...given.view);
    else if (given.pin >= 0) map.goToFrame(given.pin, true);
    else map.fit();
  }

  /** @type {("layout" | "color" | "palette")[]} */
  const selects = ["layout", "color", "palette"];
  for (const name of selects) {
    const select = byId(name);
    const choices = {
      layout: Object.keys(LAYOUTS).map((id) => [id, capital(id)]),
      color: [
        ...colourings.names.map((id) => [id, colourings.title(id)]),
        ...(model.entropy ? [] : [[HOW_ENTROPY, "Entropy: not measured"]]),
      ],
      palette: about.palettes.map((id) => [id, capital(id)]),
    }[name];
    select.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
    select.addEventListener("change", () => {
      if (select.value !== HOW_ENTROPY) {
        update({ [name === "color" ? "colour" : name]: select.value });
        return;
      }
      select.value = state.colour;
      goTo.say(
        "Entropy was not measured for this page. memviz DUMP --color-by entropy --html PAGE does.",
      );
    });
  }

  map.on("view", link);
  map.on("pick", (frame) => update({ pin: frame === state.pin ? -1 : frame }));
  connectButtons(map);
  addEventListener("hashchange", follow);
  for (const medium of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(medium).addEventListener("change", () => {
      Object.assign(theme, readTheme());
      paint();
      processes.show(state.chosen, state.palette);
      card.pin(state.pin, state.palette, () => update({ pin: -1 }));
      map.draw(); // at once, since printing does not wait
      strip.draw();
    });
  }

  function stepPin(x, y) {
    const from = state.pin >= 0 ? map.layout.placeOf(state.pin) : map.centre.map(Math.floor);
    const frame = map.layout.frameAt(from[0] + x, from[1] + y);
    const fold = map.layout.foldAt(from[0] + x, from[1] + y);
    if (fold) showPage(x + y > 0 ? fold.first + fold.count : Math.max(fold.first - 1, 0));
    else if (frame >= 0) showPage(frame);
  }

  // Pin a page, and move the map only if it is out of view.
  function showPage(frame) {
    update({ pin: frame });
    const box = map.boxOf(frame);
    if (
      box.left < 0 ||
      box.top < 0 ||
      box.left + box.size > map.width ||
      box.top + box.size > map.height
    )
      map.goToFrame(frame, false, map.transform.k);
  }

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (byId("help").open || byId("uses").open) return;
    const { target, key } = event;
    if (
      target instanceof Element &&
      target.matches("select, textarea, input:not([type=checkbox])")
    ) {
      if (key === "Escape") map.canvas.focus();
      return;
    }
    const onMap = target === document.body || target === map.canvas;
    if (key in arrows && onMap) {
      const [x, y] = arrows[key];
      map.crosshair = true;
      if (event.shiftKey) stepPin(x, y);
      else map.panBy(-x * 90, -y * 90);
    } else if (key === "Enter" && onMap) {
      map.crosshair = true;
      update({ pin: map.frameAtPoint(map.width / 2, map.height / 2) });
    } else if (key === "+" || key === "=") map.zoomBy(1.5);
    else if (key === "-") map.zoomBy(1 / 1.5);
    else if (key === "Home") map.fit(true);
    else if (key === "Escape") update({ pin: -1 });
    else if (key === "/") {
      document.body.classList.add("side-shown");
      byId("search").focus();
    } else if (key === "g") goTo.focus();
    else if (key === "n" && !byId("lit").hidden) litPages.step(state.pin, 1);
    else if (key === "p" && !byId("lit").hidden) litPages.step(state.pin, -1);
    else if (key === "?") byId("help").showModal();
    else if (!bench.key(key)) return;
    event.preventDefault();
  });

  map.resize();
  update({});
  map.resize();
  if (state.view) map.goTo(...state.view);
  else if (state.pin >= 0) map.goToFrame(state.pin, false);
  else map.fit();
  document.body.classList.remove("loading");
  // For tests, and for users of the console.
  window.memviz = {
    about,
    model,
    map,
    colourings,
    bench,
    LAYOUTS,
    get state() {
      return state;
    },
  };
}

start().catch((error) => {
  document.body.classList.add("failed");
  byId("failure").textContent =
    typeof DecompressionStream === "undefined"
      ? "This browser is too old for this page: it cannot unpack compressed data."
      : `The page's data cannot be unpacked (${error.message}).`;
  throw error;
});
