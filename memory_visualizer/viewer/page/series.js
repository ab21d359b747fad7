// The dumps of a series: the columns of each, and what changed from each to the next.
// viewer/changes.py describes the packing.

const SAME = 1; // of about.changes, as ABSENT; all higher codes are changes
const ALL_OWNERS = 3; // sets of up to this size are named in full

class Series {
  constructor(columns) {
    this.frames = about.dump.frames;
    this.count = about.dumps.length;
    const wide = columns.set_size.length > 0xffff ? Uint32Array : Uint16Array;
    this.pages = joined(columns, "page", this.count, this.frames, Uint8Array);
    this.sets = joined(columns, "owners", this.count, this.frames, wide);
    this.bits = about.dumps.map((_, dump) => columns[`bits_${dump}`]); // the first has none
    this.members = columns.members;
    this.setStart = new Uint32Array(columns.set_size.length + 1);
    for (let set = 0; set < columns.set_size.length; set++)
      this.setStart[set + 1] = this.setStart[set] + columns.set_size[set];
    this.show(this.count - 1, false);
  }

  // The two dumps in view: a dump and the one before it, or the last and the first.
  show(dump, all) {
    if (dump === this.dump && all === this.all) return;
    this.dump = dump;
    this.all = all;
    this.before = all ? 0 : dump - 1;
    this.after = all ? this.count - 1 : dump;
    this.codes = all ? this.strongest() : this.codesOf(dump);
  }

  get steps() {
    return about.steps;
  }

  // Whether the two dumps in view can be compared.
  get isOne() {
    return this.all ? this.steps.every(({ one }) => one) : this.steps[this.dump - 1].one;
  }

  // The change of each frame from the dump before to this one.
  codesOf(dump) {
    const bits = this.bits[dump],
      codes = new Uint8Array(this.frames),
      before = this.pages[dump - 1],
      after = this.pages[dump];
    for (let frame = 0; frame < codes.length; frame++) {
      const isThere = bits[frame] || isHeldBy(before[frame]) || isHeldBy(after[frame]);
      codes[frame] = isThere ? about.changeOf[bits[frame]] : ABSENT;
    }
    return codes;
  }

  // The strongest change of each frame over all steps.
  strongest() {
    const codes = new Uint8Array(this.frames);
    for (let dump = 1; dump < this.count; dump++) {
      if (!this.steps[dump - 1].one) continue;
      const other = this.codesOf(dump);
      for (let frame = 0; frame < codes.length; frame++)
        if (other[frame] > codes[frame]) codes[frame] = other[frame];
    }
    return codes;
  }

  // The class of a page in a dump.
  classIn(dump, frame) {
    return this.pages[dump][frame] & 7;
  }

  // Absent only if both dumps lack it.
  classOf(frame) {
    return this.classIn(this.after, frame) || this.classIn(this.before, frame);
  }

  isHeld(frame) {
    return isHeldBy(this.pages[this.after][frame]) || isHeldBy(this.pages[this.before][frame]);
  }

  // The processes in a set, by their numbers.
  membersOf(set) {
    return this.members.subarray(this.setStart[set], this.setStart[set + 1]);
  }

  // 1 for each set that has the process.
  setsWith(process) {
    const found = new Uint8Array(this.setStart.length - 1);
    for (let set = 0; set < found.length; set++)
      for (let m = this.setStart[set]; m < this.setStart[set + 1]; m++)
        if (this.members[m] === process) found[set] = 1;
    return found;
  }

  // 1 for each frame that the process has in any dump from the first to the last in view.
  framesOf(process) {
    const sets = this.setsWith(process),
      found = new Uint8Array(this.frames);
    for (let dump = this.before; dump <= this.after; dump++) {
      const of = this.sets[dump];
      for (let frame = 0; frame < found.length; frame++) found[frame] |= sets[of[frame]];
    }
    return found;
  }

  // 1 for each frame that went from one set of owners to another.
  framesOfMove(old, now) {
    const before = this.sets[this.before],
      after = this.sets[this.after],
      found = new Uint8Array(this.frames);
    for (let frame = 0; frame < found.length; frame++)
      if (before[frame] === old && after[frame] === now && this.hasMoved(frame)) found[frame] = 1;
    return found;
  }

  // The former and new owners of pages: [{ old, now, count }], most pages first.
  moves() {
    if (!this.isOne) return [];
    const before = this.sets[this.before],
      after = this.sets[this.after],
      counts = new Map();
    for (let frame = 0; frame < this.frames; frame++) {
      const old = before[frame],
        now = after[frame];
      if (old === now || !this.hasMoved(frame)) continue;
      if (!counts.has(old)) counts.set(old, new Map());
      const ofOld = counts.get(old);
      ofOld.set(now, (ofOld.get(now) ?? 0) + 1);
    }
    const rows = [...counts].flatMap(([old, ofOld]) =>
      [...ofOld].map(([now, count]) => ({ old, now, count })),
    );
    return rows.sort((a, b) => b.count - a.count);
  }

  // Whether both dumps hold a frame, so that its owners can be compared.
  hasMoved(frame) {
    return (
      this.classIn(this.before, frame) !== ABSENT && this.classIn(this.after, frame) !== ABSENT
    );
  }

  // The former and new owners in words; for large sets, the new and the missing owners.
  moveWords(old, now) {
    const from = [...this.membersOf(old)],
      to = [...this.membersOf(now)];
    if (Math.max(from.length, to.length) <= ALL_OWNERS)
      return { from: this.namesOf(old), to: this.namesOf(now) };
    const short = (set, members) =>
      members.length > ALL_OWNERS ? `${counted(members.length)} processes` : this.namesOf(set);
    const lost = from.filter((process) => !to.includes(process)),
      gained = to.filter((process) => !from.includes(process));
    const parts = [
      lost.length ? `without ${named(lost, ALL_OWNERS)}` : "",
      gained.length ? `with ${named(gained, ALL_OWNERS)}` : "",
    ];
    return { from: short(old, from), to: `${short(now, to)}, ${parts.filter(Boolean).join(", ")}` };
  }

  // The owners in a set, in words.
  namesOf(set, most = ALL_OWNERS) {
    return named([...this.membersOf(set)], most);
  }
}

const isHeldBy = (page) => (page & 7) !== ABSENT && (page & 7) !== LEFT_OUT;

function named(processes, most) {
  if (!processes.length) return "nobody";
  const names = processes.slice(0, most).map(nameOfOwner).join(", ");
  const more = processes.length - most;
  return more > 0 ? `${names} and ${counted(more)} more` : names;
}

function nameOfOwner(process) {
  const [name, pid] = about.owners[process];
  return pid < 0 ? name : `${name} (${pid})`;
}

// The columns of all dumps; each is packed as the difference from the one before it.
function joined(columns, name, count, frames, Kind) {
  const found = [];
  for (let dump = 0; dump < count; dump++) {
    const other = columns[`${name}_${dump}`],
      before = found[dump - 1],
      values = new Kind(frames);
    for (let frame = 0; frame < frames; frame++)
      values[frame] = before ? before[frame] ^ other[frame] : other[frame];
    found.push(values);
    delete columns[`${name}_${dump}`];
  }
  return found;
}

async function unpackSeries() {
  const names = Object.keys(about.columns);
  const columns = {};
  for (const name of names) columns[name] = await column(name);
  return new Series(columns);
}

// When a dump was taken, or else its name.
const timeOf = ({ time, name }) => (time ? `${time} UTC` : name);
