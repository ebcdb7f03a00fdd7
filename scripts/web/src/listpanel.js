// The models that the map shows as a list: the same by keyboard, screen reader, or on a small screen.

import { fill, h, nameOf, number, shown } from "./dom.js";
import { cell, num, table, tickCell, tickHeading, wide } from "./tables.js";

const LISTED = 150;

export function listPanel(app) {
  const place = h("div", { class: "stack" });

  function render() {
    const { model, scene } = app;
    if (!model?.names || !scene.shown) return fill(place, h("p", { class: "hint" }, "…"));
    const found = [];
    let total = 0;
    for (let index = 0; index < model.count; index += 1) {
      if (!scene.shown[index]) continue;
      total += 1;
      if (found.length < LISTED) found.push(index);
    }
    if (!total)
      return fill(
        place,
        h(
          "div",
          { class: "empty" },
          h("p", {}, "No model fits."),
          h("button", { onclick: () => app.clearFilters() }, "Show all"),
        ),
      );
    return fill(
      place,
      h(
        "p",
        { class: "hint" },
        `${number.format(total)} models shown${total > LISTED ? `, the first ${LISTED} listed; search or filter for others` : ""}.`,
      ),
      table(
        { id: "list" },
        [tickHeading(), "model", { num: "rank" }, "licence"],
        found.map((index) => {
          const entry = model.entry[index];
          return h(
            "tr",
            { key: entry },
            tickCell(entry, model.names[index]),
            wide(h("button", { class: "link", onclick: () => app.open(entry) }, nameOf(model.names[index]))),
            num(model.columns.rank[index] || ""),
            cell(h("span", { class: "hint" }, shown(model.words.licence[model.columns.licence[index]]))),
          );
        }),
      ),
    );
  }
  return { element: place, render };
}
