// Elements, and numbers in readable form. Text always stays text: nothing in the page turns it into
// markup, and the page's policy would prevent it.

/**
 * An element with properties and children; children are elements or text.
 * @returns {any}
 */
function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * @template {keyof PageElements} Id
 * @param {Id} id
 * @returns {PageElements[Id]}
 */
const byId = (id) => /** @type {any} */ (document.getElementById(id));

// A name from the dump, isolated so that right-to-left letters do not turn the text around it.
const nameElement = (name) => element("bdi", { className: "name" }, name);

function swatchElement(colour) {
  const swatch = element("span", { className: "swatch" });
  if (colour) swatch.style.backgroundColor = colour;
  else swatch.classList.add("many");
  return swatch;
}

const counted = (number) => number.toLocaleString("en");
const amount = (pages) =>
  `${counted(pages)} ${pages === 1 ? "page" : "pages"} (${bytesInWords(pages * PAGE_SIZE)})`;

// Pages in MiB, for columns of numbers: with the unit, and without.
const mebibytes = (pages) => `${inMebibytes(pages)} MiB`;
const inMebibytes = (pages) => {
  const size = (pages * PAGE_SIZE) / 2 ** 20;
  const least = [100, 1, 0.01, 0]; // with no, one, two and three decimals
  const digits = size === 0 ? 0 : least.findIndex((low) => size >= low);
  return rounded(size, digits);
};

// As Python rounds, so that the page tells what the summary and the pictures tell.
const rounded = (number, digits) =>
  number.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    roundingMode: "halfEven",
  });

// Bytes in the largest unit that does not hide their number, such as "1.5 MiB".
function bytesInWords(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit++) bytes /= 1024;
  return `${bytes.toLocaleString("en", { maximumFractionDigits: bytes < 10 ? 1 : 0 })} ${units[unit]}`;
}

const hexAddress = (frame) => `0x${(frame * PAGE_SIZE).toString(16)}`;
const hexSector = (sector) => `0x${(sector * 512).toString(16)}`;
const hexVirtual = (page) => `0x${(BigInt(page) << 12n).toString(16)}`;

function percent(part, all) {
  if (!part) return "0 %";
  const share = 100 * (part / all);
  return share < 0.05 ? "< 0.1 %" : `${rounded(share, 1)} %`;
}

const kernelIndex = () => about.processes.length;
const ownerName = (process) =>
  process === kernelIndex() ? "kernel, for all" : about.processes[process].name;

// Text of a dump as a value of CSV: quoted, and never a spreadsheet's formula.
function csvCell(text) {
  const safe = /^[=+\-@]/.test(text) ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// Offer a file as a download: the browser asks for a folder, or takes its usual one.
function saveFile(name, parts, type) {
  const address = URL.createObjectURL(new Blob(parts, { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// The last part of a path. A path that begins with neither "/" nor "[" is of Windows; in other
// paths, "\\" is a part of a name.
const nameInPath = (path) => path.slice(path.lastIndexOf(/^[/[]/.test(path) ? "/" : "\\") + 1);

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // the browser is old, or does not allow this for files
    const area = element("textarea", { value: text, className: "unseen" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// The style's colours for everything but pages in the map and the strip.
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    canvas: value("canvas"),
    fog: value("fog"),
    line: value("edge"),
    soft: value("soft"),
    accent: value("accent"),
    hover: value("ink"),
    veil: value("veil"),
    mono: value("mono"),
  };
}
