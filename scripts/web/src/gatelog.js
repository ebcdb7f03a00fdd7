// What gates have decided.

import { h, nameOf, shown } from "./dom.js";

const NO_LOG = "there is none yet";

// Gates that were told of this hub, and what came of them.
export function gates(judged) {
  if (!judged.length) return null;
  const outcome = (text) =>
    h("span", { class: `chip ${text === "passed" ? "good" : text === "failed" ? "failed" : ""}` }, shown(text));
  return h(
    "section",
    { id: "gates" },
    h("h3", {}, "Gates, the newest first"),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["judged", "against", "outcome", "made", "took"].map((text, index) =>
            h("th", { class: index > 3 ? "num" : "" }, text),
          ),
        ),
      ),
      h(
        "tbody",
        {},
        judged.map((one) =>
          h(
            "tr",
            {},
            h("td", { class: "wide" }, nameOf(one.model)),
            h("td", { class: "wide" }, nameOf(one.against)),
            h("td", {}, outcome(one.outcome)),
            h("td", {}, one.added.slice(0, 16).replace("T", " ")),
            h("td", { class: "num" }, one.cost ? `${one.cost.seconds.toFixed(0)} s` : ""),
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
    { id: "decisions" },
    h("h3", {}, "Decisions of the gate, the newest first"),
    h("table", {}, h("tbody", {}, gate.decisions.map(row))),
    told.map(line),
  );
}
