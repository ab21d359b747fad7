// The search: names of processes, files and modules, and in which dumps they occur.

const KINDS = { process: "process", file: "file", module: "module" };
const MOST_MATCHES = 200; // the most names that are listed; a longer text finds the others

let names = null; // by kind; unpacked at the first search

async function readNames() {
  if (!names) {
    const text = new TextDecoder().decode(await column("names"));
    names ??= JSON.parse(text);
    for (const kind of Object.values(names))
      kind.lower = kind.names.map((name) => name.toLowerCase());
  }
  return names;
}

/**
 * A name, and the numbers of the dumps in which it occurs, and in which a process of this name is
 * unlinked.
 * @typedef {{ kind: string, name: string, dumps: number[], unlinked: number[] }} Match
 */

/**
 * The names with a text in them: names that begin with it come first, then unlinked processes, then
 * names in few dumps. `inDump` tells how many of all `count` names each dump has.
 * @returns {Promise<{ found: Match[], count: number, inDump: Map<number, number> }>}
 */
async function matches(text, asked) {
  const all = await readNames();
  const first = [];
  const others = [];
  for (const kind of Object.keys(KINDS)) {
    if (asked && asked !== kind) continue;
    const { names: texts, lower, group, dumps: everywhere, unlinked } = all[kind];
    for (let number = 0; number < texts.length; number++) {
      const at = lower[number].indexOf(text);
      if (at < 0) continue;
      const startsHere = at === 0 || "/\\".includes(lower[number][at - 1]);
      (startsHere ? first : others).push({
        kind,
        name: texts[number],
        dumps: everywhere[group[number]],
        unlinked: unlinked[group[number]],
      });
    }
  }
  const byRarity = (one, other) =>
    other.unlinked.length - one.unlinked.length || one.dumps.length - other.dumps.length;
  const found = [...first.sort(byRarity), ...others.sort(byRarity)];
  const inDump = new Map();
  for (const { dumps: everywhere } of found)
    for (const number of everywhere) inDump.set(number, (inDump.get(number) ?? 0) + 1);
  return { found: found.slice(0, MOST_MATCHES), count: found.length, inDump };
}
