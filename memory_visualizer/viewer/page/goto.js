// Go to a physical address, a PFN, or a virtual address of a process.

class GoTo {
  constructor(model, go) {
    this.model = model;
    this.go = go;
    this.form = byId("goto");
    this.kind = byId("goto-kind");
    this.number = byId("goto-number");
    this.process = byId("goto-process");
    this.answer = byId("goto-answer");
    this.process.append(
      element("option", { value: String(kernelIndex()) }, "kernel"),
      ...about.processes.map(({ name, pid }, index) =>
        element("option", { value: String(index) }, `${pid} ${name}`),
      ),
    );
    this.kind.addEventListener("change", () => this.adapt());
    // Any further action clears the answer.
    for (const action of ["pointerdown", "keydown", "wheel", "input"])
      addEventListener(action, () => this.say(""), { capture: true, passive: true });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.say(this.submit());
    });
    this.adapt();
  }

  adapt() {
    this.process.hidden = this.kind.value !== "virtual";
    this.number.placeholder = { physical: "0x1a2b000", pfn: "6699 or 0x1a2b", virtual: "0x7ff6…" }[
      this.kind.value
    ];
    this.say("");
  }

  say(text) {
    if (this.answer.textContent !== text) this.answer.textContent = text;
  }

  // Addresses are hexadecimal with and without 0x, as in debuggers; hexadecimal PFNs need 0x.
  parse() {
    const text = this.number.value.trim().replace(/[_`,]/g, "");
    const isHex = this.kind.value !== "pfn" || /^0x/i.test(text);
    const digits = text.replace(/^0x/i, "");
    if (!(isHex ? /^[0-9a-f]{1,16}$/i : /^[0-9]{1,15}$/).test(digits)) return null;
    return BigInt(isHex ? `0x${digits}` : digits);
  }

  submit() {
    const number = this.parse();
    if (number === null) return "That is not a number.";
    const { frames } = this.model;
    const page = this.kind.value === "pfn" ? number : number >> 12n;
    if (this.kind.value === "virtual") {
      const frame = this.translate(Number(page), Number(this.process.value));
      if (frame < 0) return "That process has no page of the dump at this address.";
      this.go(frame);
    } else if (page < BigInt(frames)) {
      this.go(Number(page));
    } else {
      return `The memory ends before ${hexAddress(frames)}.`;
    }
    return "";
  }

  translate(page, process) {
    const { owners, addresses, frames } = this.model;
    let found = -1;
    owners.eachRun(owners.setsWith(new Set([process, kernelIndex()])), (first, end, virtual) => {
      if (virtual <= page && page < virtual + end - first) found = first + page - virtual;
    });
    for (const space of [process, kernelIndex()])
      if (found < 0) found = addresses.translate(space, page);
    return found < frames ? found : -1;
  }

  focus() {
    this.number.focus();
    this.number.select();
  }
}
