// The panel on the left: colours and their legend, filters, layout, what a picture in two dimensions cannot show, files.

import { embedded } from "./api.js";
import { debounced, decimals, fill, h, number, percent, shown } from "./dom.js";
import { layoutOf } from "./model.js";
import { css, FIRST_STEP, OTHER, STEPS } from "./palette.js";
import { set, state, toggle } from "./state.js";

const LISTED = 12;

export function viewPanel(app) {
  const place = h("div", { class: "stack" });
  let all = false;

  const wanted = debounced((text) => app.useFilter(text), 350);

  function render() {
    const { model, hub, legend } = app;
    if (!model) return fill(place);
    const scored = hub.scored.filter((item) => item.models);
    const colours = [
      ["cluster", "cluster"],
      ["base", "base"],
      ["licence", "licence"],
      ["kind", "kind"],
      ["rank", "rank"],
      ["added", "date added"],
    ];
    const space = hub.spaces.find((item) => item.number === model.space);
    return fill(
      place,
      hub.spaces.length > 1 &&
        section(
          "Space",
          h(
            "select",
            { "aria-label": "Space", id: "space", onchange: (event) => app.openSpace(Number(event.target.value)) },
            hub.spaces.map((item) =>
              h(
                "option",
                { value: item.number, selected: item.number === model.space },
                `${shown(item.base)} · ${shown(item.embedding)} · ${number.format(item.models)}`,
              ),
            ),
          ),
          h(
            "p",
            { class: "hint" },
            "Deltas of different bases or embeddings cannot be compared, so each has a map of its own.",
          ),
        ),
      section(
        "Colour by",
        h(
          "select",
          { "aria-label": "Colour by", id: "colour", onchange: (event) => app.useColour(event.target.value) },
          colours.map(([value, text]) => h("option", { value, selected: state.colour === value }, text)),
          scored.length &&
            h(
              "optgroup",
              { label: "score on" },
              scored.map(({ task, metric, models }) => {
                const value = `score:${task}:${metric}`;
                return h(
                  "option",
                  { value, selected: state.colour === value },
                  `${shown(task)} · ${shown(metric)} (${number.format(models)})`,
                );
              }),
            ),
        ),
        legendOf(legend),
      ),
      section(
        "Filter",
        rankFields(model),
        h(
          "label",
          { class: "field" },
          h("span", {}, "Licence"),
          h(
            "select",
            {
              "aria-label": "Licence",
              onchange: (event) => {
                set({ licences: new Set(event.target.value === "" ? [] : [event.target.value]) });
              },
            },
            h("option", { value: "" }, state.licences.size > 1 ? `${state.licences.size} chosen in the legend` : "any"),
            model.words.licence
              .slice(0, 200)
              .map((word) =>
                h(
                  "option",
                  { value: word, selected: state.licences.size === 1 && state.licences.has(word) },
                  shown(word),
                ),
              ),
          ),
        ),
        !embedded &&
          h(
            "label",
            { class: "field" },
            h("span", {}, "Terms"),
            h("input", {
              type: "text",
              value: state.wanted,
              spellcheck: "false",
              placeholder: "rank<=16",
              "aria-describedby": "wanted-says",
              id: "wanted",
              oninput: (event) => wanted(event.target.value),
            }),
          ),
        !embedded &&
          h(
            "p",
            { class: "hint", id: "wanted-says" },
            app.filterError
              ? h("span", { class: "bad" }, shown(app.filterError))
              : "As of hub search --filter: tag, module, data_set, source, size, added …",
          ),
        filtered() && h("button", { onclick: () => app.clearFilters() }, `Show all ${number.format(model.count)}`),
      ),
      section(
        "Map",
        h(
          "div",
          { class: "choices", role: "group", "aria-label": "Layout" },
          ["pca", "umap"].map((name) =>
            h(
              "button",
              {
                "aria-pressed": String(state.layout === name),
                id: "layout-" + name,
                // a chosen one can be left by keyboard, whether or not it is there
                disabled: name === "umap" && !model.layout?.umapX && state.layout !== "umap",
                onclick: () => set({ layout: name }),
              },
              name.toUpperCase(),
            ),
          ),
        ),
        layoutSays(model, app.laying),
        h(
          "label",
          { class: "check" },
          h("input", {
            type: "checkbox",
            id: "density",
            checked: state.density,
            onchange: (event) => set({ density: event.target.checked }),
          }),
          "Density",
        ),
        h(
          "label",
          { class: "check" },
          h("input", {
            type: "checkbox",
            id: "labels",
            checked: state.labels,
            onchange: (event) => set({ labels: event.target.checked }),
          }),
          "Names on the map",
        ),
      ),
      section(
        "Save",
        h(
          "div",
          { class: "row" },
          h("button", { id: "save-png", onclick: () => app.save("png") }, "PNG"),
          h("button", { id: "save-svg", onclick: () => app.save("svg") }, "SVG"),
          h("button", { id: "save-csv", onclick: () => app.save("csv") }, "CSV"),
          !embedded && h("button", { id: "copy-link", onclick: () => app.copyLink() }, "Copy link"),
        ),
        h(
          "p",
          { class: "hint" },
          embedded
            ? "Pictures are of what is in view; CSV lists the models shown."
            : "Pictures are of what is in view; CSV lists the models shown. The link shows this very view, as long as this server runs; started with --port and --token-file, the next one as well.",
        ),
      ),
      h(
        "p",
        { class: "hint" },
        `${shown(space?.base ?? "")} · ${model.dim} dimensions · drawn by ${app.scene.painter.kind}`,
      ),
    );
  }

  function filtered() {
    return state.licences.size || state.kinds.size || state.clusters.size || state.ranks || state.wanted || state.words;
  }

  function rankFields(model) {
    let low = Infinity,
      high = 0;
    for (const rank of model.columns.rank) {
      if (rank < low) low = rank;
      if (rank > high) high = rank;
    }
    if (!model.count || low === high) return null;
    const [from, to] = state.ranks ?? [low, high];
    const change = (values) => set({ ranks: values[0] <= low && values[1] >= high ? null : values });
    const input = (value, text, action) =>
      h("input", {
        type: "number",
        min: low,
        max: high,
        value,
        "aria-label": text,
        onchange: (event) => action(Math.max(0, Math.min(65535, Math.round(Number(event.target.value) || 0)))),
      });
    return h(
      "div",
      { class: "field" },
      h("span", {}, "Rank"),
      h(
        "span",
        { class: "row" },
        input(from, "Lowest rank", (value) => change([value, to])),
        "to",
        input(to, "Highest rank", (value) => change([from, value])),
      ),
    );
  }

  // Deltas of two bases cannot be compared: each has a map of its own, which its line opens.
  function bases() {
    const line = (space) =>
      h(
        "button",
        {
          class: "item",
          key: space.number,
          "aria-pressed": String(space.number === app.model.space),
          onclick: () => space.number !== app.model.space && app.openSpace(space.number),
        },
        h("span", {
          class: "dot",
          style: { background: css(app.scene.palette[space.number === app.model.space ? 0 : OTHER]) },
        }),
        h("bdi", { class: "name", title: shown(space.base) }, shown(space.base)),
        h("span", { class: "count" }, number.format(space.models)),
      );
    return h(
      "div",
      { class: "legend" },
      app.hub.spaces.map(line),
      h(
        "p",
        { class: "hint" },
        "Deltas of two bases cannot be compared: each base has a map of its own. Press one to see it.",
      ),
    );
  }

  function legendOf(legend) {
    if (state.colour === "base") return bases();
    if (!legend) return null;
    if (legend.range) {
      const ramp = Array.from({ length: 9 }, (_, index) =>
        css(app.scene.palette[FIRST_STEP + Math.round((index / 8) * (STEPS - 1))]),
      );
      return h(
        "div",
        { class: "ramp" },
        h("div", { class: "bar", style: { background: `linear-gradient(to right, ${ramp.join(", ")})` } }),
        h("div", { class: "ends" }, h("span", {}, legend.range.low), h("span", {}, legend.range.high)),
        legend.missing > 0 && h("p", { class: "hint" }, `${number.format(legend.missing)} ${legend.without}, in grey`),
      );
    }
    if (state.colour === "cluster" && !app.model.layout)
      return h("p", { class: "hint" }, app.laying || "clusters are being found …");
    const items = all ? legend.items : legend.items.slice(0, LISTED);
    return h(
      "div",
      { class: "legend" },
      items.map((item) =>
        h(
          "button",
          {
            class: "item",
            key: item.key,
            "aria-pressed": String(state[legend.filter].has(item.key)),
            title: shown(item.word),
            onclick: () => toggle(legend.filter, item.key),
          },
          h("span", { class: "dot", style: { background: css(app.scene.palette[item.code]) } }),
          h("bdi", { class: "name" }, shown(item.word)),
          h("span", { class: "count" }, number.format(item.count)),
        ),
      ),
      legend.items.length > LISTED &&
        h(
          "button",
          {
            class: "quiet",
            key: "more or fewer",
            onclick: () => {
              all = !all;
              render();
            },
          },
          all ? "fewer" : `${legend.items.length - LISTED} more`,
        ),
      legend.more > 0 &&
        h(
          "p",
          { class: "hint" },
          `The eight largest have colours of their own; ${legend.more} share grey. Press one to see it alone.`,
        ),
      state.colour === "cluster" && app.model.layout && h("p", { class: "hint" }, silhouetteSays(app.model.layout)),
    );
  }
  return { element: place, render };
}

function section(title, ...children) {
  return h("section", { key: title }, h("h3", {}, title), ...children);
}

function namedFrom({ clusters, unnamed }) {
  if (!unnamed) return "Named from names, tags and cards.";
  if (unnamed === clusters.length)
    return "They are only numbered: no words of names, tags and cards tell them apart.";
  return `Named from names, tags and cards; ${unnamed} that no words tell apart ${unnamed === 1 ? "is" : "are"} only numbered.`;
}

function silhouetteSays(layout) {
  const { silhouette, clusters } = layout;
  if (silhouette === null) return "One cluster: nothing tells these models apart enough.";
  const how =
    silhouette >= 0.5
      ? "well apart"
      : silhouette >= 0.25
        ? "apart, with some overlap"
        : "hardly apart: do not lean on them";
  return `${clusters.length} clusters by k-means in the true space, silhouette ${decimals(silhouette, 2)}: ${how}. ${namedFrom(layout)}`;
}

function layoutSays(model, laying) {
  const { layout } = model,
    kind = layoutOf(model),
    lines = [];
  if (state.layout !== kind) lines.push("UMAP was chosen; this is PCA until UMAP is there.");
  if (kind === "pca")
    lines.push(`PCA shows ${percent(model.explained[0] + model.explained[1])} of the variance.`);
  const trust = kind === "pca" ? layout?.trustPca : layout?.trustUmap;
  if (layout && kind === "umap") lines.push(layout.note + ".");
  if (trust !== null && trust !== undefined)
    lines.push(`Trustworthiness ${decimals(trust, 2)} (1: all neighbours on the map are true ones).`);
  if (laying) lines.push(laying);
  else if (layout && !layout.umapX) lines.push(`No UMAP: ${layout.note}.`);
  lines.push(
    kind === "pca"
      ? "Models that differ in other directions lie on top of each other here."
      : "Distances between groups, and their sizes, mean nothing here.",
  );
  lines.push("Neighbours listed on the right are the true ones.");
  return h("p", { class: "hint", id: "layout-says" }, lines.join(" "));
}
