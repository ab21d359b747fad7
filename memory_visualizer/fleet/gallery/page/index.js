// The dumps: their facts, their order, and which are shown.

const dumps = about.dumps.map((dump, number) => ({
  ...dump,
  number,
  leadCount: Object.values(dump.leads).reduce((sum, count) => sum + count, 0),
}));

// The keys by which dumps are sorted; numbers begin with the largest.
const ORDERS = {
  name: { title: "name", of: (dump) => dump.name },
  system: { title: "system", of: (dump) => dump.system },
  time: { title: "time", of: (dump) => dump.time, down: true },
  bytes: { title: "memory", of: (dump) => dump.bytes, down: true },
  processes: { title: "processes", of: (dump) => dump.processes, down: true },
  unlinked: { title: "unlinked", of: (dump) => dump.unlinked, down: true },
  leads: { title: "leads", of: (dump) => dump.leadCount, down: true },
  remarks: { title: "remarks", of: (dump) => dump.remarks, down: true },
};

// Filters: a dump must pass at least one of the chosen filters in each group.
const FILTERS = [
  { id: "windows", group: "system", title: "Windows", holds: (dump) => dump.family === "Windows" },
  { id: "linux", group: "system", title: "Linux", holds: (dump) => dump.family === "Linux" },
  {
    id: "unknown",
    group: "system",
    title: "no system found",
    holds: (dump) => dump.done && !dump.family,
  },
  { id: "failed", group: "system", title: "failed", holds: (dump) => !dump.done },
  { id: "unlinked", group: "odd", title: "unlinked processes", holds: (dump) => dump.unlinked > 0 },
  { id: "leads", group: "leads", title: "leads", holds: (dump) => dump.leadCount > 0 },
];

const byName = new Intl.Collator("en", { numeric: true });

function compared(one, other) {
  return typeof one === "string" ? byName.compare(one, other) : one - other;
}

// The dumps in an order; dumps without the value come last in both directions.
function sorted(some, order, down) {
  const { of } = ORDERS[order];
  const lacks = (dump) => of(dump) === "" || (!dump.done && order !== "name");
  return some.toSorted(
    (one, other) =>
      Number(lacks(one)) - Number(lacks(other)) ||
      (down ? -1 : 1) * compared(of(one), of(other)) ||
      byName.compare(one.name, other.name),
  );
}

function passes(dump, chosen) {
  const groups = new Set(chosen.map((filter) => filter.group));
  return [...groups].every((group) =>
    chosen.some((filter) => filter.group === group && filter.holds(dump)),
  );
}

// Measures of which a range may be asked for: the unit of its ends, and the value of a dump in it.
const MEASURES = {
  bytes: { title: "memory, MiB", of: (dump) => dump.bytes / 2 ** 20 },
  time: { title: "time, UTC", of: (dump) => dump.time, isText: true },
  processes: { title: "processes", of: (dump) => dump.processes },
  unlinked: { title: "unlinked", of: (dump) => dump.unlinked },
  leads: { title: "leads", of: (dump) => dump.leadCount },
  remarks: { title: "remarks", of: (dump) => dump.remarks },
};

// A time as it is typed, such as "2026-11-20 10", as the beginning of one in ISO 8601.
const asTime = (text) => text.trim().replace(" ", "T");

/**
 * Whether a dump is within a range, ends included; an empty end, or one that is not a number, is
 * open. Failed dumps, and dumps without a time, are in no range that has an end.
 */
function isWithin(dump, measure, least, most) {
  const { of, isText } = MEASURES[measure];
  const value = of(dump);
  if (isText) {
    const [from, to] = [asTime(least), asTime(most)];
    if (!from && !to) return true;
    // "2026-11" as the end means all of November.
    return value !== "" && value >= from && (!to || value.slice(0, to.length) <= to);
  }
  const [from, to] = [least, most].map((text) => (text.trim() ? Number(text) : Number.NaN));
  if (Number.isNaN(from) && Number.isNaN(to)) return true;
  return dump.done && !(value < from) && !(value > to);
}
