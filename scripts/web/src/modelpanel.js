// The panel of one model: what its card says, scores, true neighbours, what merging with them costs.

import { embedded, json } from "./api.js";
import { decimals, fill, h, inTurn, nameOf, number, shown, shownLines } from "./dom.js";
import { mapRank, ofMap } from "./model.js";
import { carried, facts, scores } from "./modelfacts.js";
import { set, state, toggle } from "./state.js";
import { cell, num, table, tickCell, tickHeading, wide } from "./tables.js";

const NEIGHBOURS = 10,
  READING = "reading weights …";

export function modelPanel(app) {
  const place = h("div", { class: "stack" });
  let details = null,
    found = null,
    free = null,
    costs = null,
    error = "";
  const turn = inTurn(),
    costing = inTurn();
  const placeOf = (entry) => app.model.places.get(entry) ?? null;

  async function load() {
    const still = turn(),
      number = state.model;
    costing();
    details = found = free = costs = null;
    error = "";
    app.scene.marks.neighbours = [];
    app.scene.marks.chosen = number === null ? -1 : (app.model?.places.get(number) ?? -1);
    app.scene.redraw();
    render();
    if (number === null || !app.model) {
      document.documentElement.dataset.model = "";
      return;
    }
    const map = ofMap(app.model);
    let answer = null;
    try {
      answer = embedded
        ? carried(app.model, number)
        : await Promise.all([json("model", { ...map, number }), json("neighbours", { ...map, number, k: NEIGHBOURS })]);
    } catch (failure) {
      if (still()) error = failure.message;
    }
    if (!still()) return;
    [details, found] = answer ?? [null, null];
    app.scene.marks.neighbours = (found?.hits ?? [])
      .filter((hit) => placeOf(hit.number) !== null)
      .map((hit) => ({ index: placeOf(hit.number), cosine: hit.cosine }));
    app.scene.redraw();
    render();
    document.documentElement.dataset.model = details ? String(number) : "";
    if (embedded || !details) return;
    let open = null;
    try {
      open = await json("neighbours", { ...map, number, k: 5, open: 1 });
    } catch {
      /* the list is left out */
    }
    if (!still()) return;
    free = open;
    render();
  }

  // Scores and card as they are now; what else stands there stays.
  async function refresh() {
    const number = state.model;
    if (embedded || number === null || !details) return;
    const answer = await json("model", { ...ofMap(app.model), number });
    if (state.model !== number || !details) return;
    details = answer;
    render();
  }

  async function compare() {
    if (costs === READING) return;
    const still = costing(),
      others = found.hits.map((hit) => hit.number).join(",");
    costs = READING;
    render();
    let answer;
    try {
      answer = await json("costs", { ...ofMap(app.model), number: state.model, others });
    } catch (failure) {
      answer = failure.message;
    }
    if (!still()) return;
    costs = answer;
    render();
  }

  function render() {
    if (state.model === null) {
      return fill(
        place,
        h(
          "div",
          { class: "empty" },
          h("p", {}, "Click a point, or search for a name."),
          h(
            "p",
            { class: "hint" },
            "You see its card and scores, its neighbours by the cosine of the deltas themselves, and what merging with them would cost.",
          ),
        ),
      );
    }
    if (error) return fill(place, h("div", { class: "empty" }, h("p", { class: "bad" }, shown(error))));
    if (!details) return fill(place, h("p", { class: "hint" }, "…"));
    const d = details,
      ticked = state.picked.has(state.model);
    return fill(
      place,
      h(
        "div",
        {},
        h(
          "div",
          { class: "heading" },
          h("h2", { class: "title" }, nameOf(d.id)),
          h(
            "button",
            { class: "quiet", "aria-label": "Close", title: "Close", onclick: () => set({ model: null }) },
            "×",
          ),
        ),
        h(
          "div",
          { class: "chips" },
          h("span", { class: "chip" }, d.kind),
          d.rank > 0 && h("span", { class: "chip" }, `rank ${d.rank}`),
          h("span", { class: "chip" + (d.open_licence ? " good" : "") }, shown(d.licence ?? "no licence stated")),
          d.here === false && h("span", { class: "chip warn" }, "folder gone"),
        ),
      ),
      h(
        "div",
        { class: "row" },
        h(
          "button",
          { class: ticked ? "on" : "primary", id: "tick", onclick: () => toggle("picked", state.model) },
          ticked ? "Ticked ✓" : embedded ? "Tick" : "Tick for a plan",
        ),
        placeOf(state.model) !== null &&
          h(
            "button",
            {
              onclick: () =>
                app.scene.fit([placeOf(state.model), ...app.scene.marks.neighbours.map((item) => item.index)]),
            },
            "Zoom to neighbours",
          ),
      ),
      d.card ? h("div", { class: "card", dir: "auto" }, shownLines(d.card)) : h("p", { class: "hint" }, "No card."),
      neighbours(),
      !embedded && freely(d),
      scores(d.scores ?? []),
      h(
        "section",
        {},
        h("h3", {}, "Facts"),
        h(
          "dl",
          { class: "facts" },
          facts(d).map(([term, text]) => [h("dt", {}, term), h("dd", {}, h("bdi", {}, shown(text)))]),
        ),
      ),
    );
  }

  function neighbours() {
    if (!found) return null;
    const costed = Boolean(costs) && typeof costs === "object";
    const rows = found.hits.map((hit) => {
      const cost = costed ? costs[hit.number] : null;
      const own = placeOf(state.model),
        other = placeOf(hit.number);
      const far = own === null || other === null ? null : mapRank(app.model, own, other);
      return h(
        "tr",
        { key: hit.number },
        tickCell(hit.number, hit.id),
        wide(link(hit)),
        num(
          // where there are more columns the names need its room
          !costed &&
            h(
              "span",
              { class: "meter", "aria-hidden": "true" },
              h("i", { style: { width: `${Math.max(0, hit.cosine) * 100}%` } }),
            ),
          decimals(hit.cosine, 3),
        ),
        h(
          "td",
          { class: "num" + (far > 3 * NEIGHBOURS ? " warn" : ""), title: "its place among the neighbours on the map" },
          far ?? "",
        ),
        cost &&
          (typeof cost === "string"
            ? h("td", { colspan: 2, class: "hint" }, shown(cost))
            : [num(decimals(cost.sign_conflict, 2)), num(decimals(cost.overlap, 2))]),
      );
    });
    return h(
      "section",
      { key: "neighbours" },
      h("h3", {}, "True neighbours"),
      found.zero &&
        h(
          "p",
          { class: "hint warn" },
          "Its delta is zero: it does not change the base, and is as like one model as another.",
        ),
      table(
        { id: "neighbours" },
        [
          tickHeading(),
          "model",
          { num: "cosine" },
          { num: "on map" },
          costed && { num: "conflict" },
          costed && { num: "overlap" },
        ],
        rows,
      ),
      h(
        "p",
        { class: "hint" },
        `${found.exact ? "All" : "By an index, of"} ${number.format(found.models)} models compared. “On map”: its place among the neighbours the map shows; far above its place here, the map lies.`,
      ),
      !embedded &&
        !costed &&
        h(
          "button",
          { id: "costs", "aria-disabled": String(costs === READING), onclick: compare },
          "What would merging cost?",
        ),
      typeof costs === "string" &&
        h("p", { class: costs.startsWith("reading") ? "hint" : "hint bad", role: "status" }, shown(costs)),
      costed &&
        h(
          "p",
          { class: "hint" },
          "Conflict: share of the other's change whose sign is opposed to this model's. Overlap: how much they change the same directions (unrelated: near 0). From their weights, at weight 1.",
        ),
    );
  }

  function freely(d) {
    if (!free) return null;
    if (!free.hits.length)
      return h(
        "section",
        { key: "freely" },
        h("h3", {}, "Similar but freely licensed"),
        h("p", { class: "hint" }, "No other model here states a common open licence."),
      );
    return h(
      "section",
      { key: "freely" },
      h("h3", {}, "Similar but freely licensed"),
      table(
        { id: "freely" },
        [],
        free.hits.map((hit) =>
          h(
            "tr",
            { key: hit.number },
            tickCell(hit.number, hit.id),
            wide(link(hit)),
            cell(h("span", { class: "chip good" }, shown(hit.licence))),
            num(decimals(hit.cosine, 3)),
          ),
        ),
      ),
      d.open_licence && h("p", { class: "hint" }, "This model's own licence is a common open one, too."),
    );
  }

  function link(hit) {
    return h(
      "button",
      {
        class: "link",
        onclick: () => app.open(hit.number),
        onmouseenter: () => app.scene.hover(placeOf(hit.number) ?? -1),
        onmouseleave: () => app.scene.hover(-1),
      },
      nameOf(hit.id),
    );
  }
  return { element: place, load, refresh, render };
}
