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
    clear: HTMLButtonElement;
    color: HTMLSelectElement;
    failure: HTMLElement;
    "file-count": HTMLElement;
    "file-list": HTMLElement;
    goto: HTMLFormElement;
    "goto-answer": HTMLElement;
    "goto-kind": HTMLSelectElement;
    "goto-number": HTMLInputElement;
    "goto-process": HTMLSelectElement;
    help: HTMLDialogElement;
    "help-open": HTMLButtonElement;
    layout: HTMLSelectElement;
    "legend-all": HTMLElement;
    "legend-entries": HTMLElement;
    lit: HTMLElement;
    map: HTMLCanvasElement;
    palette: HTMLSelectElement;
    passing: HTMLElement;
    pinned: HTMLElement;
    "process-count": HTMLElement;
    "process-note": HTMLElement;
    "process-rows": HTMLElement;
    "remark-list": HTMLElement;
    remarks: HTMLElement;
    search: HTMLInputElement;
    "side-open": HTMLButtonElement;
    "side-tabs": HTMLElement;
    strip: HTMLCanvasElement;
    uses: HTMLDialogElement;
    "uses-head": HTMLElement;
    "uses-open": HTMLButtonElement;
    "uses-rows": HTMLElement;
    "zoom-fit": HTMLButtonElement;
    "zoom-in": HTMLButtonElement;
    "zoom-out": HTMLButtonElement;
  }
}
