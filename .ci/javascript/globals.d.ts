// What the page's scripts find beside themselves: the parts of D3 that are in the file.
import * as drag from "d3-drag";
import * as selection from "d3-selection";
import * as transition from "d3-transition";
import * as zoom from "d3-zoom";

declare global {
  const d3: typeof drag & typeof selection & typeof transition & typeof zoom;
  interface Window {
    memviz: unknown;
  }

  /** What page.html has, by its id. */
  interface PageElements {
    "bench-body": HTMLElement;
    "bench-choose": HTMLButtonElement;
    "bench-close": HTMLElement;
    "bench-file": HTMLInputElement;
    "bench-intro": HTMLElement;
    "bench-name": HTMLElement;
    "bench-open": HTMLElement;
    "bench-said": HTMLElement;
    "bench-size": HTMLElement;
    "bench-tabs": HTMLElement;
    "bench-what": HTMLElement;
    bench: HTMLElement;
    clear: HTMLButtonElement;
    color: HTMLSelectElement;
    failure: HTMLElement;
    "file-count": HTMLElement;
    "file-list": HTMLElement;
    "find-answer": HTMLElement;
    "find-case": HTMLInputElement;
    "find-kind": HTMLSelectElement;
    "find-least": HTMLInputElement;
    "find-progress": HTMLProgressElement;
    "find-scope": HTMLSelectElement;
    "find-start": HTMLButtonElement;
    "find-text": HTMLInputElement;
    find: HTMLFormElement;
    "goto-answer": HTMLElement;
    "goto-kind": HTMLSelectElement;
    "goto-number": HTMLInputElement;
    "goto-process": HTMLSelectElement;
    goto: HTMLFormElement;
    "help-open": HTMLButtonElement;
    help: HTMLDialogElement;
    "hex-at": HTMLElement;
    "hex-back": HTMLButtonElement;
    "hex-copy-text": HTMLButtonElement;
    "hex-copy": HTMLButtonElement;
    "hex-on": HTMLButtonElement;
    "hex-order": HTMLSelectElement;
    "hex-title": HTMLElement;
    hex: HTMLElement;
    hits: HTMLElement;
    layout: HTMLSelectElement;
    "lead-count": HTMLElement;
    "lead-list": HTMLElement;
    "lead-note": HTMLElement;
    "legend-all": HTMLElement;
    "legend-entries": HTMLElement;
    "legend-note": HTMLElement;
    lit: HTMLElement;
    map: HTMLCanvasElement;
    "module-count": HTMLElement;
    "module-list": HTMLElement;
    palette: HTMLSelectElement;
    passing: HTMLElement;
    pinned: HTMLElement;
    "process-count": HTMLElement;
    "process-note": HTMLElement;
    "process-rows": HTMLElement;
    "region-count": HTMLElement;
    "region-list": HTMLElement;
    "remark-list": HTMLElement;
    remarks: HTMLElement;
    "save-answer": HTMLElement;
    "save-process": HTMLSelectElement;
    "save-scope": HTMLSelectElement;
    save: HTMLFormElement;
    search: HTMLInputElement;
    "side-open": HTMLButtonElement;
    skip: HTMLButtonElement;
    "side-tabs": HTMLElement;
    strip: HTMLCanvasElement;
    "uses-head": HTMLElement;
    "uses-open": HTMLButtonElement;
    "uses-rows": HTMLElement;
    uses: HTMLDialogElement;
    worker: HTMLElement;
    "yara-count": HTMLElement;
    "yara-list": HTMLElement;
    "zoom-fit": HTMLButtonElement;
    "zoom-in": HTMLButtonElement;
    "zoom-out": HTMLButtonElement;
  }

  /** What changes.html has beside these. */
  interface PageElements {
    all: HTMLInputElement;
    "all-label": HTMLElement;
    "class-entries": HTMLElement;
    classes: HTMLElement;
    earlier: HTMLButtonElement;
    later: HTMLButtonElement;
    "move-count": HTMLElement;
    "move-list": HTMLElement;
    "process-list": HTMLElement;
    time: HTMLInputElement;
    "time-labels": HTMLElement;
    "time-said": HTMLElement;
    times: HTMLElement;
  }
}
