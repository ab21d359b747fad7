// The view in the URL's fragment, so that it can be shared. A fragment is checked like any
// other input: only known words and valid numbers are accepted.

const numbers = (text, below) =>
  [...new Set((text ?? "").split(","))]
    .filter((part) => /^\d{1,9}$/.test(part))
    .map(Number)
    .filter((number) => number < below);

function readLink(colourings, frames) {
  const given = new URLSearchParams(location.hash.slice(1));
  const oneOf = (name, known) =>
    [given.get(name), about.start[name], known[0]].find((word) => known.includes(word));
  const pin = /^[0-9a-f]{1,9}$/i.test(given.get("pin") ?? "") ? parseInt(given.get("pin"), 16) : -1;
  const view = (given.get("view") ?? "").split(",").map(Number);
  const colour = oneOf("color", colourings.names);
  return {
    layout: oneOf("layout", Object.keys(LAYOUTS)),
    colour,
    palette: oneOf("palette", about.palettes),
    chosen: new Set(numbers(given.get("show") ?? about.start.show, about.processes.length)),
    files: new Set(numbers(given.get("file"), about.files.length)),
    off: filters(given, colourings, colour),
    pin: pin < frames ? pin : -1,
    view:
      given.has("view") && view.length === 3 && view.every(Number.isFinite) && view[2] > 0
        ? view
        : null,
  };
}

// What each legend hides, by the name of its colouring: `off` for the one that is shown.
function filters(given, colourings, colour) {
  const off = {};
  for (const name of colourings.names) {
    const key = name === colour ? "off" : `off.${name}`;
    const indexes = numbers(given.get(key), 64);
    if (indexes.length) off[name] = new Set(indexes);
  }
  return off;
}

function writeLink(state, map) {
  const parts = [];
  if (state.layout !== about.start.layout) parts.push(`layout=${state.layout}`);
  if (state.colour !== about.start.color) parts.push(`color=${state.colour}`);
  if (state.palette !== about.start.palette) parts.push(`palette=${state.palette}`);
  const show = [...state.chosen].sort((a, b) => a - b).join(",");
  if (show !== (about.start.show ?? "")) parts.push(`show=${show}`);
  const files = [...state.files].sort((a, b) => a - b).join(",");
  if (files) parts.push(`file=${files}`);
  for (const [name, off] of Object.entries(state.off)) {
    const key = name === state.colour ? "off" : `off.${name}`;
    if (off.size) parts.push(`${key}=${[...off].sort((a, b) => a - b).join(",")}`);
  }
  if (state.pin >= 0) parts.push(`pin=${state.pin.toString(16)}`);
  if (!map.isFitted) {
    const [x, y] = map.centre;
    parts.push(`view=${x.toFixed(2)},${y.toFixed(2)},${Number(map.transform.k.toPrecision(5))}`);
  }
  const hash = parts.length ? `#${parts.join("&")}` : "";
  if (hash !== location.hash)
    history.replaceState(null, "", hash || location.pathname + location.search);
}
