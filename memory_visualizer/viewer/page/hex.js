// The bytes of a page: hexadecimal, with text beside it, a cursor, and the values at the cursor.

const ROW_BYTES = 16;

// The column of a byte in a row of hexadecimal numbers, in characters; a gap parts the two halves.
const hexColumn = (byte) => byte * 3 + (byte >= ROW_BYTES / 2 ? 1 : 0);
const asHex = (number, digits) => number.toString(16).padStart(digits, "0");
const asLetter = (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·");

class HexView {
  // follow(value): [words, act] on where a number leads, or null; step(pages): go to another page.
  constructor({ follow, step }) {
    this.follow = follow;
    this.step = step;
    this.host = byId("hex");
    this.rows = element("div", { className: "hex-rows" });
    this.marks = element("div", { className: "hex-marks", ariaHidden: "true" });
    this.host.append(this.marks, this.rows);
    this.at = byId("hex-at");
    this.bytes = null;
    this.cursor = this.anchor = 0;
    this.host.addEventListener("keydown", (event) => this.key(event));
    this.host.addEventListener("pointerdown", (event) => this.point(event, event.shiftKey));
    this.host.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.point(event, true);
    });
  }

  // Show a page; `base` is the address of its first byte, a BigInt.
  show(bytes, base) {
    this.bytes = bytes;
    const digits = Math.max(8, (base + BigInt(PAGE_SIZE)).toString(16).length);
    const rows = [];
    for (let start = 0; start < bytes.length; start += ROW_BYTES)
      rows.push(
        element(
          "div",
          { className: "hex-row" },
          element("span", { className: "at" }, asHex(base + BigInt(start), digits)),
          element("span", { className: "hex" }, ...this.pieces(start, this.hexText)),
          element("span", { className: "text" }, ...this.pieces(start, this.letters)),
        ),
      );
    this.rows.replaceChildren(...rows);
    this.digits = digits;
    this.move(0, false);
    this.host.scrollTop = 0;
  }

  // Show a sentence instead of bytes.
  empty(sentence) {
    this.bytes = null;
    this.marks.replaceChildren();
    this.rows.replaceChildren(element("p", { className: "note" }, sentence));
    this.at.replaceChildren();
  }

  hexText(bytes, start, from, to) {
    let text = "";
    for (let i = from; i < to; i++)
      text += `${i === ROW_BYTES / 2 ? " " : ""}${asHex(bytes[start + i], 2)} `;
    return text;
  }

  letters(bytes, start, from, to) {
    let text = "";
    for (let i = from; i < to; i++) text += asLetter(bytes[start + i]);
    return text;
  }

  // A row's text in spans of bytes of one kind, so that zeros step back and letters stand out.
  pieces(start, write) {
    const { bytes } = this;
    const kind = (byte) =>
      byte === 0 ? "zero" : byte >= 0x20 && byte < 0x7f ? "letter" : byte === 255 ? "ones" : "";
    const made = [];
    for (let from = 0, to; from < ROW_BYTES; from = to) {
      const here = kind(bytes[start + from]);
      for (to = from + 1; to < ROW_BYTES && kind(bytes[start + to]) === here; ) to++;
      const text = write(bytes, start, from, to);
      made.push(here ? element("span", { className: here }, text) : text);
    }
    return made;
  }

  get selection() {
    const { anchor, cursor } = this;
    return [Math.min(anchor, cursor), Math.max(anchor, cursor) + 1];
  }

  // Select some bytes and bring them into view.
  select(start, size) {
    this.anchor = Math.min(start + size, this.bytes.length) - 1;
    this.move(start, true);
    this.row.scrollIntoView({ block: "center" });
  }

  // The row of the cursor.
  get row() {
    return this.rows.children[Math.floor(this.cursor / ROW_BYTES)];
  }

  move(to, isKept) {
    this.cursor = Math.min(Math.max(to, 0), this.bytes.length - 1);
    if (!isKept) this.anchor = this.cursor;
    this.drawMarks();
    this.tell();
    this.row.scrollIntoView({ block: "nearest" });
  }

  drawMarks() {
    const [start, end] = this.selection;
    const marks = [];
    const mark = (row, from, to, className) => {
      const hex = hexColumn(from),
        text = hexColumn(to - 1) + 2 - hex;
      for (const [left, width] of [
        [`calc(${this.digits + 2 + hex} * 1ch)`, text],
        [`calc(${this.digits + 2 + 50 + from} * 1ch)`, to - from],
      ]) {
        const made = element("span", { className });
        Object.assign(made.style, {
          top: `calc(${row} * var(--row))`,
          left,
          width: `calc(${width} * 1ch)`,
        });
        marks.push(made);
      }
    };
    for (let row = Math.floor(start / ROW_BYTES); row * ROW_BYTES < end; row++) {
      const base = row * ROW_BYTES;
      mark(row, Math.max(start - base, 0), Math.min(end - base, ROW_BYTES), "selected");
    }
    const column = this.cursor % ROW_BYTES;
    mark(Math.floor(this.cursor / ROW_BYTES), column, column + 1, "cursor");
    this.marks.replaceChildren(...marks);
  }

  // The byte at a point of the window.
  point(event, isKept) {
    if (!this.bytes || event.button > 0) return;
    const box = this.rows.getBoundingClientRect();
    const letter = this.rows.querySelector(".at").getBoundingClientRect().width / this.digits;
    const height = this.rows.firstElementChild.getBoundingClientRect().height;
    const column = (event.clientX - box.left) / letter - this.digits - 2;
    const row = Math.floor((event.clientY - box.top) / height);
    const inRow =
      column >= 50
        ? Math.floor(column - 50)
        : Math.floor((column - (column >= hexColumn(ROW_BYTES / 2) ? 1 : 0)) / 3);
    if (row < 0 || row * ROW_BYTES >= this.bytes.length) return;
    event.preventDefault();
    this.host.focus();
    this.move(row * ROW_BYTES + Math.min(Math.max(inRow, 0), ROW_BYTES - 1), isKept);
  }

  key(event) {
    if (!this.bytes || event.altKey) return;
    const { key, shiftKey } = event;
    if (event.ctrlKey || event.metaKey) {
      if (key === "c" && getSelection().isCollapsed) this.copy("hex");
      else if (key === "a") this.select(0, this.bytes.length);
      else return;
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    const column = this.cursor % ROW_BYTES;
    const by = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -ROW_BYTES,
      ArrowDown: ROW_BYTES,
      PageUp: -16 * ROW_BYTES,
      PageDown: 16 * ROW_BYTES,
      Home: -column,
      End: ROW_BYTES - 1 - column,
    }[key];
    if (by !== undefined) this.move(this.cursor + by, shiftKey);
    else if (key === "[") this.step(-1);
    else if (key === "]") this.step(1);
    else if (key === "Escape") byId("map").focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Copy the selection, or the whole page if a single byte is selected.
  copy(form) {
    const [start, end] = this.selection;
    const bytes = end - start > 1 ? this.bytes.subarray(start, end) : this.bytes;
    return copyText(
      form === "hex"
        ? [...bytes].map((byte) => asHex(byte, 2)).join(" ")
        : [...bytes].map(asLetter).join(""),
    );
  }

  // The numbers, times and places that the bytes from the cursor on may stand for.
  tell() {
    const [start, end] = this.selection;
    const left = this.bytes.length - start;
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset + start, left);
    const facts = [["Offset", `0x${asHex(start, 3)}`]];
    if (end - start > 1) facts.push(["Selected", `${counted(end - start)} bytes`]);
    facts.push(["8 bits", `${view.getUint8(0)}`]);
    if (left >= 2) facts.push(["16 bits", `${view.getUint16(0, true)}`]);
    if (left >= 4) facts.push(["32 bits", `${view.getUint32(0, true)}`]);
    if (left >= 8) facts.push(["64 bits", `0x${asHex(view.getBigUint64(0, true), 1)}`]);
    const time = left >= 4 ? timeAt(view, left) : null;
    if (time) facts.push(["Time", time]);
    const made = facts.flatMap(([term, text]) => [
      element("dt", {}, term),
      element("dd", { className: "number" }, text),
    ]);
    for (const value of [
      left >= 8 ? view.getBigUint64(0, true) : 0n,
      left >= 4 ? BigInt(view.getUint32(0, true)) : 0n,
    ]) {
      const led = this.follow(value);
      if (!led) continue;
      const [words, act] = led;
      made.push(
        element("dt", {}, "Leads to"),
        element("dd", {}, element("button", { type: "button", onclick: act }, words)),
      );
      break;
    }
    this.at.replaceChildren(...made);
  }
}

// A time between 1990 and 2040 as Windows or Unix would store it; null if it is not a time.
function timeAt(view, left) {
  const shown = (milliseconds, what) => {
    const date = new Date(milliseconds);
    const year = date.getUTCFullYear();
    if (!(year >= 1990 && year < 2040)) return null;
    return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC (${what})`;
  };
  const windows =
    left >= 8
      ? shown(Number(view.getBigUint64(0, true) / 10000n) - 11644473600000, "Windows")
      : null;
  return windows ?? shown(view.getUint32(0, true) * 1000, "Unix");
}
