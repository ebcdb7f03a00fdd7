// What is known of one model beside its neighbours: scores, facts; in a page that was sent, all there is of it.

import { embedded } from "./api.js";
import { bytes, dayText, decimals, h, shown } from "./dom.js";
import { cell, num, table } from "./tables.js";

export function scores(list) {
  const row = (score) =>
    h(
      "tr",
      {},
      cell(h("bdi", {}, shown(score.task))),
      cell(shown(score.metric)),
      num(decimals(score.value)),
      num(score.lower === undefined ? "" : `${decimals(score.lower)} to ${decimals(score.upper)}`),
      num(score.rows ?? ""),
    );
  const headings = ["task", "metric", { num: "value" }, { num: "95% interval" }, { num: "rows" }];
  return h(
    "section",
    { key: "scores" },
    h("h3", {}, "Scores"),
    list.length
      ? table({}, headings, list.map(row))
      : h("p", { class: "hint" }, "None measured yet. A scored plan with this model brings some."),
  );
}

export function facts(d) {
  const lines = [
    ["also called", (d.ids ?? []).slice(1).join(", ")],
    ["base", d.base_id],
    ["modules", (d.modules ?? []).join(", ")],
    ["weights", d.size ? bytes(d.size) : ""],
    ["added", (d.added ?? "").slice(0, 10)],
    ["template", d.template],
    ["languages", (d.languages ?? []).join(", ")],
    ["data sets", (d.data_sets ?? []).join(", ")],
    ["tags", (d.tags ?? []).join(", ")],
    ["source", d.revision ? `${d.source}@${d.revision}` : d.place],
    [
      "versions",
      (d.versions ?? []).length > 1
        ? `${d.versions.length}, this is ${d.versions.findIndex((v) => v.entry === d.number) + 1}`
        : "",
    ],
    ["notes", (d.notes ?? []).join("; ")],
  ];
  return lines.filter(([, text]) => text);
}

// What a page that was sent knows of a model.
export function carried(model, index) {
  const { columns, words, near } = model,
    licence = words.licence[columns.licence[index]];
  const hits = [];
  for (let place = index * near.k; place < (index + 1) * near.k; place += 1) {
    const other = near.places[place];
    hits.push({
      number: other,
      id: model.names[other],
      cosine: near.cosines[place],
      licence: words.licence[columns.licence[other]],
    });
  }
  const scored = [...model.scores]
    .map(([name, values]) => ({ name, value: values[index] }))
    .filter((item) => !Number.isNaN(item.value))
    .map((item) => ({
      task: item.name.split(":").slice(1, -1).join(":"),
      metric: item.name.split(":").pop(),
      value: item.value,
    }));
  return [
    {
      id: model.names[index],
      number: index,
      kind: words.kind[columns.kind[index]],
      rank: columns.rank[index],
      size: columns.size[index] * 1000,
      licence: licence === "unknown" ? null : licence,
      open_licence: embedded.open[columns.licence[index]],
      card: model.cards[index],
      scores: scored,
      added: dayText(columns.added[index]),
    },
    { hits, models: model.count, exact: true, zero: false },
  ];
}
