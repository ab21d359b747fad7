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
  return {
    layout: oneOf("layout", Object.keys(LAYOUTS)),
    colour: oneOf("color", colourings.names),
    palette: oneOf("palette", Object.keys(about.palettes)),
    chosen: new Set(numbers(given.get("show") ?? about.start.show, about.processes.length)),
    files: new Set(numbers(given.get("file"), about.files.length)),
    off: new Set(numbers(given.get("off"), 64)),
    pin: pin < frames ? pin : -1,
    view:
      given.has("view") && view.length === 3 && view.every(Number.isFinite) && view[2] > 0
        ? view
        : null,
  };
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
  if (state.off.size) parts.push(`off=${[...state.off].sort((a, b) => a - b).join(",")}`);
  if (state.pin >= 0) parts.push(`pin=${state.pin.toString(16)}`);
  if (!map.isFitted) {
    const [x, y] = map.centre;
    parts.push(`view=${x.toFixed(2)},${y.toFixed(2)},${Number(map.transform.k.toPrecision(5))}`);
  }
  const hash = parts.length ? `#${parts.join("&")}` : "";
  if (hash !== location.hash)
    history.replaceState(null, "", hash || location.pathname + location.search);
}
