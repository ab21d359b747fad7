// Which pages are lit. Processes, files, and a mark (pages that a search or a list found) each
// choose pages; a page is lit if every choice that was made has it.

class Lights {
  // change(parts of the state): drop a choice.
  constructor(model, change) {
    this.model = model;
    this.change = change;
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

  // Say over the map what is chosen, and how many pages are lit.
  show({ chosen, files, mark }, lit) {
    const choices = [
      chosen.size
        ? [several(chosen, ownerName, "processes"), () => this.change({ chosen: new Set() })]
        : null,
      files.size
        ? [several(files, (file) => about.files[file], "files"), () => this.clear("files")]
        : null,
      mark ? [mark.label, () => this.change({ mark: null })] : null,
    ].filter((choice) => choice !== null);
    const bar = byId("lit");
    bar.hidden = choices.length === 0;
    if (bar.hidden) return;
    let pages = 0;
    for (let frame = 0; frame < lit.length; frame++)
      if (lit[frame] && this.model.classOf(frame) !== ABSENT) pages++;
    bar.replaceChildren(
      element("span", { className: "number", role: "status" }, `${amount(pages)} lit:`),
      ...choices.map(([label, drop]) => this.chip(label, drop)),
    );
  }

  clear(name) {
    this.change({ [name]: new Set() });
  }

  chip(label, drop) {
    return element(
      "button",
      { type: "button", title: `No longer only ${label}`, onclick: drop },
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
