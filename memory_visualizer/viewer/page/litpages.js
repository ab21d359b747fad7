// The lit pages one after the other, and as a table.

const ROWS_AT_ONCE = 10_000; // of CSV

class LitPages {
  // go(frame): show a page.
  constructor(model, colourings, go) {
    this.model = model;
    this.colourings = colourings;
    this.go = go;
    this.shades = new Uint8Array(model.frames);
  }

  isLit(frame) {
    return this.shades[frame] === LIT && this.model.classOf(frame) !== ABSENT;
  }

  // Go to the next lit page (`direction` 1) or the previous one (-1), round the end of memory.
  step(from, direction) {
    const { frames } = this.model;
    const start = from >= 0 ? from : direction > 0 ? -1 : frames;
    for (let n = 1; n <= frames; n++) {
      const frame = (start + direction * n + 2 * frames) % frames;
      if (this.isLit(frame)) return this.go(frame);
    }
    return undefined;
  }

  save() {
    const stem = about.dump.name.replace(/[^\w.-]+/g, "_");
    saveFile(`${stem}.pages.csv`, [...this.csv()], "text/csv");
  }

  // The table in pieces of text.
  *csv() {
    const { model, colourings } = this;
    const words = ["protection", ...(about.named ?? []).map(({ id }) => id)].filter(
      (name) => name !== "file",
    );
    const labels = words.map((name) =>
      colourings.swatches(name, "default").map(([label]) => label),
    );
    const hasFiles = Boolean(model.fileOf);
    const titles = ["pfn", "physical", "class", "zero", ...words, "mappings", "owners"];
    if (hasFiles) titles.push("file", "file_offset");
    let rows = [titles.join(",")];
    for (let frame = 0; frame < model.frames; frame++) {
      if (!this.isLit(frame)) continue;
      const cells = [
        frame,
        hexAddress(frame),
        about.classes[model.classOf(frame)],
        model.isZero(frame) ? "True" : "False",
        ...words.map((name, n) => labels[n][colourings.valueAt(name, frame)]),
        model.mappingsOf(frame),
        csvCell(this.ownersOf(frame)),
      ];
      if (hasFiles && model.fileOf[frame])
        cells.push(
          csvCell(about.files[model.fileOf[frame] - 1]),
          hexAddress(model.filePage[frame]),
        );
      else if (hasFiles) cells.push("", "");
      rows.push(cells.join(","));
      if (rows.length < ROWS_AT_ONCE) continue;
      yield `${rows.join("\n")}\n`;
      rows = [];
    }
    yield `${rows.join("\n")}\n`;
  }

  // Such as "System (4) 0xfffff80000001000; lsass.exe (500) 0x10000".
  ownersOf(frame) {
    return this.model.owners
      .of(frame)
      .map(({ process, virtual }) => {
        const pid = process === kernelIndex() ? "" : ` (${about.processes[process].pid})`;
        return `${ownerName(process)}${pid} ${hexVirtual(virtual)}`;
      })
      .join("; ");
  }
}
