// What gallery.html has, by its id.
interface PageElements {
  "as-cards": HTMLButtonElement;
  "as-table": HTMLButtonElement;
  cards: HTMLElement;
  clear: HTMLButtonElement;
  count: HTMLElement;
  facts: HTMLElement;
  filters: HTMLElement;
  heads: HTMLElement;
  least: HTMLInputElement;
  legend: HTMLElement;
  "match-count": HTMLElement;
  "match-list": HTMLElement;
  matches: HTMLElement;
  measure: HTMLSelectElement;
  most: HTMLInputElement;
  none: HTMLElement;
  rows: HTMLElement;
  search: HTMLInputElement;
  "search-kind": HTMLSelectElement;
  searching: HTMLFormElement;
  sort: HTMLSelectElement;
  table: HTMLElement;
  turn: HTMLButtonElement;
}
