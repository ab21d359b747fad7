// Which pages are lit. Processes, files, and a mark (pages that a search or a list found) are
// choices; a page is lit if every choice includes it. Entries of any legend that are switched off
// hide their pages, whatever the map is coloured by.

class Lights {
  // change(parts of the state): drop a choice; step(1 or -1): to the next or the previous lit page;
  // save(): the lit pages as a table.
  constructor(model, colourings, { change, step, save }) {
    this.model = model;
    this.colourings = colourings;
    this.change = change;
    this.step = step;
    this.save = save;
    this.all = new Uint8Array(model.frames).fill(1);
  }

  // 1 for each lit frame. Do not change it.
  frames({ chosen, files, mark }) {
    const choices = [];
    if (chosen.size) choices.push(this.ofProcesses(chosen));
    if (files.size) choices.push(this.ofFiles(files));
    if (mark) choices.push(mark.frames);
    if (choices.length < 2) return choices[0] ?? this.all;
    const lit = choices[0].slice();
    for (const other of choices.slice(1))
      for (let frame = 0; frame < lit.length; frame++) lit[frame] &= other[frame];
    return lit;
  }

  // How each frame is painted; and how it would be if the legend of one colouring hid nothing.
  shades({ off, colour, palette }, lit) {
    const base = lit.map((isLit) => (isLit ? LIT : PALE));
    for (const name of Object.keys(off)) if (name !== colour) this.hide(base, name, off, palette);
    const shades = base.slice();
    this.hide(shades, colour, off, palette);
    return { base, shades };
  }

  hide(shades, name, off, palette) {
    if (!off[name]?.size) return;
    const { values, colours, entries } = this.colourings.get(name, palette);
    const isOff = new Uint8Array(colours.length);
    for (const index of off[name])
      if (entries[index]) isOff.fill(1, entries[index].first, entries[index].last + 1);
    for (let frame = 0; frame < shades.length; frame++)
      if (isOff[values[frame]]) shades[frame] = HIDDEN;
  }

  ofProcesses(chosen) {
    const { owners, frames } = this.model;
    const lit = new Uint8Array(frames);
    owners.eachRun(owners.setsWith(chosen), (first, end) => lit.fill(1, first, end));
    return lit;
  }

  ofFiles(files) {
    const { fileOf, frames } = this.model;
    const lit = new Uint8Array(frames);
    for (let frame = 0; frame < frames; frame++) lit[frame] = files.has(fileOf[frame] - 1) ? 1 : 0;
    return lit;
  }

  // Show over the map the choices, and how many pages are lit.
  show(state, shades) {
    const { chosen, files, mark, off } = state;
    const choices = [
      chosen.size
        ? [several(chosen, ownerName, "processes"), () => this.change({ chosen: new Set() })]
        : null,
      files.size
        ? [
            several(files, (file) => nameInPath(about.files[file]), "files"),
            () => this.clear("files"),
          ]
        : null,
      mark ? [mark.label, () => this.change({ mark: null })] : null,
      ...Object.keys(off)
        .filter((name) => off[name].size)
        .map((name) => [
          this.filterLabel(name, state),
          () => this.change({ off: { ...off, [name]: new Set() } }),
        ]),
    ].filter((choice) => choice !== null);
    const bar = byId("lit");
    bar.hidden = choices.length === 0;
    let pages = 0;
    for (let frame = 0; frame < shades.length; frame++)
      if (shades[frame] === LIT && this.model.classOf(frame) !== ABSENT) pages++;
    this.nameScope(choices, pages);
    if (bar.hidden) return;
    const focused = bar.contains(document.activeElement) ? document.activeElement.id : null;
    const button = (id, title, text, act) =>
      element(
        "button",
        { type: "button", id, title, "aria-label": title, disabled: !pages, onclick: act },
        text,
      );
    bar.replaceChildren(
      element("span", { className: "number", role: "status" }, `${amount(pages)} lit:`),
      ...choices.map(([label, drop]) => this.chip(label, drop)),
      element(
        "span",
        { className: "steps" },
        button("previous", "Previous lit page (p)", "‹", () => this.step(-1)),
        button("next", "Next lit page (n)", "›", () => this.step(1)),
        button("export", "CSV of the lit pages", "CSV", () => this.save()),
      ),
    );
    if (focused) document.getElementById(focused)?.focus();
  }

  // Say in the lists of pages to search and to save what is lit.
  nameScope(choices, pages) {
    const labels = choices.map(([label]) => label.slice(0, 40)).join(", ");
    const text = labels
      ? `what is lit: ${labels} (${counted(pages)} pages)`
      : "what is lit: everything, as nothing is chosen in the legend or a list";
    for (const option of document.querySelectorAll("option[value=shown]"))
      option.textContent = text;
  }

  // A filter in words: what is shown if that is a single kind of page, otherwise how many kinds.
  filterLabel(name, { off, palette }) {
    const { entries } = this.colourings.get(name, palette);
    const shown = entries.filter((entry, index) => !off[name].has(index) && entry.count);
    const title = this.colourings.title(name);
    return shown.length === 1
      ? `${title}: ${shown[0].label}`
      : `${title}: ${shown.length} of ${entries.filter(({ count }) => count).length}`;
  }

  clear(name) {
    this.change({ [name]: new Set() });
  }

  chip(label, drop) {
    return element(
      "button",
      { type: "button", className: "chip", title: `No longer only ${label}`, onclick: drop },
      nameElement(label),
      element("span", { ariaHidden: "true" }, " ×"),
    );
  }
}

// One chosen thing by its name, several by their number.
function several(chosen, nameOf, noun) {
  const [first] = chosen;
  return chosen.size === 1 ? nameOf(first) : `${counted(chosen.size)} ${noun}`;
}
