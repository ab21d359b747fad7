// The unpacked columns of the file, grouped by subject.

const ABSENT = 0,
  LEFT_OUT = 6;

// The owners of pages. Rows are not stored one by one: a frame leads to its stretches, and a
// stretch to the set of processes that have it.
class Owners {
  constructor(frames, columns) {
    this.runFrame = columns.run_frame;
    this.runLength = columns.run_length;
    const runs = this.runFrame.length;
    this.runSet = new Uint32Array(runs);
    this.runVirtual = new Float64Array(runs); // in pages: 52 bits, which a double holds exactly
    this.setUser = columns.set_user;
    this.setRuns = columns.set_runs;
    const space = 2 ** 52;
    for (let set = 0, run = 0; set < this.setRuns.length; set++) {
      for (let n = this.setRuns[set], end = 0; n > 0; n--, run++) {
        this.runSet[run] = set;
        this.runVirtual[run] = (end + columns.run_gap[run]) % space;
        end = this.runVirtual[run] + this.runLength[run];
      }
    }
    this.members = columns.members;
    this.setStart = new Uint32Array(this.setRuns.length + 1);
    for (let set = 0; set < this.setRuns.length; set++)
      this.setStart[set + 1] = this.setStart[set] + columns.set_size[set];

    // The stretches of each frame, sorted by counting.
    const start = new Uint32Array(frames + 1);
    this.start = start;
    this.holders = new Uint32Array(frames);
    for (let run = 0; run < runs; run++) {
      const first = this.runFrame[run],
        end = first + this.runLength[run];
      const size = this.setSize(this.runSet[run]);
      for (let frame = first; frame < end; frame++) {
        start[frame + 1]++;
        this.holders[frame] += size;
      }
    }
    for (let frame = 0; frame < frames; frame++) start[frame + 1] += start[frame];
    this.runs = new Uint32Array(start[frames]);
    // Filled from the end, so that `start` is right again afterwards without a copy.
    for (let run = 0; run < runs; run++) {
      const first = this.runFrame[run],
        end = first + this.runLength[run];
      for (let frame = first; frame < end; frame++) this.runs[--start[frame + 1]] = run;
    }
    for (let frame = 0; frame < frames; frame++) start[frame] = start[frame + 1];
    start[frames] = this.runs.length;
  }

  setSize(set) {
    return this.setStart[set + 1] - this.setStart[set];
  }

  // The owners of a frame: process (the kernel's index is the number of processes), virtual
  // page, and whether user mode may use it there; by process.
  of(frame) {
    const found = [];
    for (let i = this.start[frame]; i < this.start[frame + 1]; i++) {
      const run = this.runs[i],
        set = this.runSet[run];
      const virtual = this.runVirtual[run] + frame - this.runFrame[run];
      for (let m = this.setStart[set]; m < this.setStart[set + 1]; m++)
        found.push({ process: this.members[m], virtual, user: this.setUser[set] === 1 });
    }
    return found.sort((a, b) => a.process - b.process || a.virtual - b.virtual);
  }

  // 1 for each set that has one of the processes.
  setsWith(processes) {
    const sets = new Uint8Array(this.setRuns.length);
    for (let set = 0; set < sets.length; set++)
      for (let m = this.setStart[set]; m < this.setStart[set + 1]; m++)
        if (processes.has(this.members[m])) sets[set] = 1;
    return sets;
  }

  // Call visit(firstFrame, endFrame, firstVirtualPage, set) for each stretch of these sets.
  eachRun(sets, visit) {
    for (let run = 0; run < this.runFrame.length; run++) {
      if (!sets[this.runSet[run]]) continue;
      const first = this.runFrame[run];
      visit(first, first + this.runLength[run], this.runVirtual[run], this.runSet[run]);
    }
  }
}

// Further addresses of pages, as runs: frames behind successive addresses of a process, or of the
// kernel.
class Addresses {
  constructor(columns) {
    this.frame = columns.also_frame;
    this.length = columns.also_length;
    this.process = new Uint32Array(this.frame.length);
    this.virtual = new Float64Array(this.frame.length);
    const space = 2 ** 52;
    for (let process = 0, run = 0; process < columns.also_count.length; process++) {
      for (let n = columns.also_count[process], end = 0; n > 0; n--, run++) {
        this.process[run] = process;
        this.virtual[run] = (end + columns.also_gap[run]) % space;
        end = this.virtual[run] + this.length[run];
      }
    }
  }

  // [{ process, virtual }] by process: the addresses of a frame that are not among its owners.
  of(frame, owners) {
    const known = new Set(owners.map(({ process, virtual }) => `${process} ${virtual}`));
    const found = [];
    for (let run = 0; run < this.frame.length; run++) {
      const inside = frame - this.frame[run];
      if (inside < 0 || inside >= this.length[run]) continue;
      const process = this.process[run],
        virtual = this.virtual[run] + inside;
      if (!known.has(`${process} ${virtual}`)) found.push({ process, virtual });
    }
    return found;
  }

  // The frame behind a page of a process, or of the kernel; -1 if there is none.
  translate(process, page) {
    for (let run = 0; run < this.frame.length; run++) {
      const inside = page - this.virtual[run];
      if (this.process[run] === process && inside >= 0 && inside < this.length[run])
        return this.frame[run] + inside;
    }
    return -1;
  }
}

async function unpack() {
  const names = Object.keys(about.columns);
  const unpacked = await Promise.all(names.map(column));
  const columns = Object.fromEntries(names.map((name, i) => [name, unpacked[i]]));
  const frames = about.dump.frames;
  const owners = new Owners(frames, columns);
  // Mappings beyond the first in each process.
  const further = columns.further;
  return {
    frames,
    owners,
    addresses: new Addresses(columns),
    page: columns.page,
    entropy: columns.entropy,
    fileOf: columns.file_of,
    fileSector: columns.file_sector,
    lastOwner: columns.last_owner,
    priority: columns.priority,
    finding: columns.finding,
    modules: new Modules(columns),
    regions: new Regions(columns),
    plain: columns.plain_gap && {
      gap: columns.plain_gap,
      count: columns.plain_count,
      move: columns.plain_move,
    },
    named: Object.fromEntries((about.named ?? []).map(({ id }) => [id, columns[id]])),
    classOf: (frame) => columns.page[frame] & 7,
    isHeld: (frame) =>
      (columns.page[frame] & 7) !== ABSENT && (columns.page[frame] & 7) !== LEFT_OUT,
    isZero: (frame) => (columns.page[frame] & 8) !== 0,
    accessOf: (frame) => columns.page[frame] >> 4,
    mappingsOf: (frame) => owners.holders[frame] + further[frame],
  };
}
