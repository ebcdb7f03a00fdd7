// The models that the map shows as a list: the same by keyboard, screen reader, or on a small screen.

import { fill, h, nameOf, number, shown } from "./dom.js";
import { state, toggle } from "./state.js";

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
      h(
        "table",
        { id: "list" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", {}, h("span", { class: "hidden" }, "tick")),
            h("th", {}, "model"),
            h("th", { class: "num" }, "rank"),
            h("th", {}, "licence"),
          ),
        ),
        h(
          "tbody",
          {},
          found.map((index) => {
            const entry = model.entry[index];
            return h(
              "tr",
              { key: entry },
              h(
                "td",
                {},
                h("input", {
                  type: "checkbox",
                  checked: state.picked.has(entry),
                  "aria-label": `tick ${shown(model.names[index])}`,
                  onchange: () => toggle("picked", entry),
                }),
              ),
              h(
                "td",
                { class: "wide" },
                h("button", { class: "link", onclick: () => app.open(entry) }, nameOf(model.names[index])),
              ),
              h("td", { class: "num" }, model.columns.rank[index] || ""),
              h("td", {}, h("span", { class: "hint" }, shown(model.words.licence[model.columns.licence[index]]))),
            );
          }),
        ),
      ),
    );
  }
  return { element: place, render };
}
