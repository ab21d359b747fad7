// The history of a page: beside the pointer, and pinned.

const STEPS_IN_PASSING = 8,
  STEPS_PINNED = 400;

class HistoryCard extends Card {
  // The rows: { dump, until, code, words }; dumps in which nothing changed are one row.
  rows(frame) {
    const { model } = this;
    const first = this.classWords(0, frame);
    const rows = [{ dump: 0, until: 0, code: -1, words: `${first}, ${this.ownersIn(0, frame)}` }];
    for (let dump = 1; dump < model.count; dump++) {
      const code = this.codeAt(dump, frame);
      const last = rows.at(-1);
      if (code <= SAME && last.code === code) last.until = dump;
      else rows.push({ dump, until: dump, code, words: this.words(dump, frame, code) });
    }
    return rows;
  }

  // -2 where two dumps are not compared.
  codeAt(dump, frame) {
    const { model } = this;
    if (!model.steps[dump - 1].one) return -2;
    const bits = model.bits[dump][frame];
    const isThere =
      bits || isHeldBy(model.pages[dump - 1][frame]) || isHeldBy(model.pages[dump][frame]);
    return isThere ? about.changeOf[bits] : ABSENT;
  }

  classWords(dump, frame) {
    return about.classes[this.model.classIn(dump, frame)];
  }

  ownersIn(dump, frame) {
    return this.model.namesOf(this.model.sets[dump][frame]);
  }

  // All changes of a step, in words.
  words(dump, frame, code) {
    if (code === -2) return `not compared: ${this.classWords(dump, frame)}`;
    if (code <= SAME) return about.changes[code];
    const { bits } = about;
    const set = this.model.bits[dump][frame];
    const { sets } = this.model;
    const { from, to } = this.model.moveWords(sets[dump - 1][frame], sets[dump][frame]);
    const words = [];
    if (set & bits.ONLY_EARLIER) words.push("absent now");
    if (set & bits.ONLY_LATER) words.push("absent before");
    if (set & bits.EXECUTABLE) words.push("became executable");
    if (set & bits.OWNER) words.push(`owner: ${from} → ${to}`);
    if (set & bits.CLASS)
      words.push(`class: ${this.classWords(dump - 1, frame)} → ${this.classWords(dump, frame)}`);
    if (set & bits.ZEROED) words.push("zeroed");
    else if (set & bits.FILLED) words.push("filled");
    else if (set & bits.CONTENTS) words.push("contents changed");
    return words.join("; ");
  }

  body(frame, palette, _most, isPinned) {
    const rows = this.rows(frame);
    const shown = isPinned ? rows.slice(0, STEPS_PINNED) : this.nearest(rows);
    const left = rows.length - shown.length;
    const colours = schemeOf(palette).change;
    return [
      element(
        "div",
        { className: "address" },
        element("span", { className: "number physical" }, hexAddress(frame)),
        element("span", { className: "pfn" }, `PFN 0x${frame.toString(16)}`),
      ),
      element("ol", { className: "history" }, ...shown.map((row) => this.row(row, colours))),
      left > 0
        ? element(
            "p",
            { className: "note" },
            `and ${counted(left)} more${isPinned ? "" : " (click to pin)"}`,
          )
        : null,
    ].filter((part) => part !== null);
  }

  // The rows around the dump that is looked at.
  nearest(rows) {
    const now = rows.findIndex(({ until }) => until >= this.model.dump);
    const start = Math.max(Math.min(now - STEPS_IN_PASSING + 2, rows.length - STEPS_IN_PASSING), 0);
    return rows.slice(start, start + STEPS_IN_PASSING);
  }

  row({ dump, until, code, words }, colours) {
    const { model } = this;
    const isNow = !model.all && dump <= model.dump && model.dump <= until && model.dump > 0;
    const when = until > dump ? `${shortTime(dump)} – ${shortTime(until)}` : shortTime(dump);
    const item = element(
      "li",
      { className: isNow ? "now" : "" },
      element("span", { className: "when" }, when),
      code >= 0 ? swatchElement(colours[code]) : element("span"),
      element("span", { className: "what" }, element("bdi", {}, words)),
    );
    if (isNow) item.setAttribute("aria-current", "step");
    return item;
  }
}

// The time of a dump without the date where all have the same; without a time, its number.
function shortTime(dump) {
  const { time } = about.dumps[dump];
  if (!time) return `dump ${dump + 1}`;
  const days = new Set(about.dumps.map((one) => one.time.slice(0, 10)));
  return days.size > 1 ? time.slice(5) : time.slice(11);
}
