// Tables of one shape: a line of headings, where there is one, above rows of cells.

import { h, shown } from "./dom.js";
import { state, toggle } from "./state.js";

// A heading is a text or an element, `{ num }` one above numbers, a `th` one that is whole; what is false is left out.
export function table(attributes, headings, rows) {
  const heading = (one) => {
    if (one?.nodeName === "TH") return one;
    return one?.num === undefined ? h("th", {}, one) : h("th", { class: "num" }, one.num);
  };
  return h(
    "table",
    attributes,
    headings.length > 0 && h("thead", {}, h("tr", {}, headings.filter((one) => one !== false).map(heading))),
    h("tbody", {}, rows),
  );
}

export function cell(...held) {
  return h("td", {}, ...held);
}

export function num(...held) {
  return h("td", { class: "num" }, ...held);
}

export function wide(...held) {
  return h("td", { class: "wide" }, ...held);
}

// What stands above boxes that tick models.
export function tickHeading() {
  return h("span", { class: "hidden" }, "tick");
}

// The box that ticks a model, in its cell.
export function tickCell(entry, name) {
  return cell(
    h("input", {
      type: "checkbox",
      checked: state.picked.has(entry),
      "aria-label": `tick ${shown(name)}`,
      onchange: () => toggle("picked", entry),
    }),
  );
}
