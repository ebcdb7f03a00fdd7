// What gates have decided.

import { h, shown } from "./dom.js";

const NO_LOG = "there is none yet";

// Gates that were told of this hub, and what came of them.
export function gates(judged) {
  if (!judged.length) return null;
  const kind = (text) => (/^(passed|improves)/.test(text) ? " good" : text === "failed" ? " failed" : "");
  const made = (one) =>
    [one.added.slice(0, 16).replace("T", " "), one.cost && `${one.cost.seconds.toFixed(0)} s`]
      .filter(Boolean)
      .join(" · ");
  return h(
    "section",
    { id: "gates", class: "log" },
    h("h3", {}, "Gates, the newest first"),
    h(
      "table",
      {},
      h(
        "tbody",
        {},
        judged.map((one) =>
          h(
            "tr",
            {},
            h("td", {}, h("span", { class: "chip" + kind(one.outcome) }, shown(one.outcome))),
            h(
              "td",
              { class: "said" },
              h("bdi", {}, shown(one.model)),
              one.kind === "watch" ? " in " : " against ",
              h("bdi", {}, shown(one.against)),
              one.tasks.length > 0 && `, on ${shown(one.tasks.join(", "))}`,
              h("div", { class: "hint" }, made(one)),
            ),
          ),
        ),
      ),
    ),
  );
}

// What gate --watch has decided of models that came to a pool.
export function decisions(gate) {
  // the first is looked for by itself and need not be there; one that was named is spoken of in any case
  const told = (gate?.logs ?? []).filter(
    (log, index) => log.shown || log.unread || (log.problem && (index || log.problem !== NO_LOG)),
  );
  if (!told.length) return null;
  const several = told.length > 1;
  const row = (item) =>
    h(
      "tr",
      {},
      h("td", {}, h("span", { class: "chip" }, shown(item.kind))),
      h("td", { class: "said" }, shown(item.text), (item.at || several) && h("div", { class: "hint" }, madeAt(item))),
    );
  const madeAt = (item) =>
    [shown(item.at.slice(0, 16).replace("T", " ")), several && `log ${1 + told.indexOf(gate.logs[item.log])}`]
      .filter(Boolean)
      .join(" · ");
  const line = (log, index) =>
    h(
      "p",
      { class: "hint" + (log.problem && log.problem !== NO_LOG ? " bad" : "") },
      several ? `log ${index + 1}: ` : "from ",
      shown(log.file),
      log.problem && `: ${shown(log.problem)}`,
      log.unread > 0 && `; ${log.unread} lines could not be read`,
    );
  return h(
    "section",
    { id: "decisions", class: "log" },
    h("h3", {}, "Decisions on watched pools, the newest first"),
    h("table", {}, h("tbody", {}, gate.decisions.map(row))),
    told.map(line),
  );
}
