// The report of a run: verdict, scores, members, files.

import { file } from "./api.js";
import { bytes, decimals, download, h, nameOf, percent, say, shown } from "./dom.js";
import { state } from "./state.js";
import { cell, num, table, wide } from "./tables.js";

export function runReport(report) {
  if (state.run === null) return h("div", { class: "empty" }, h("p", {}, "Choose a run."));
  if (!report) return h("p", { class: "hint" }, "…");
  if (report.error) return h("p", { class: "bad" }, shown(report.error));
  const r = report;
  return [
    h("h2", { id: "run-title", tabindex: "-1" }, nameOf(r.name)),
    h(
      "div",
      { class: "verdictbox" },
      h(
        "div",
        {},
        verdict(r.verdict),
        " ",
        h(
          "span",
          { class: "hint" },
          `${shown(r.tasks.join(", "))} · ${shown(r.base)} · ${shown(r.strategy)}${r.adaptation ? " · " + shown(r.adaptation) : ""}`,
        ),
      ),
      r.reason && h("p", {}, shown(r.reason)),
    ),
    ...r.scores.map(scoreTable),
    h("h3", {}, "Members"),
    h(
      "div",
      { class: "scroll" },
      table(
        {},
        ["role", "member", ...["weight", "similarity", "gain", "conflict / overlap"].map((text) => ({ num: text }))],
        r.members.map((member) =>
          h(
            "tr",
            {},
            cell(member.role),
            wide(nameOf(member.id)),
            num(decimals(member.weight)),
            num(decimals(member.similarity)),
            num(decimals(member.gain)),
            num(
              member.interference
                ? `${decimals(member.interference.sign_conflict, 2)} / ${decimals(member.interference.overlap, 2)}`
                : "",
            ),
          ),
        ),
      ),
    ),
    h("p", { class: "hint" }, shown(r.stopped)),
    r.notes.length > 0 &&
      h(
        "details",
        {},
        h("summary", {}, `${r.notes.length} notes`),
        h(
          "ul",
          {},
          r.notes.map((note) => h("li", {}, shown(note))),
        ),
      ),
    h("h3", {}, "Files"),
    h(
      "ul",
      { class: "files", id: "files" },
      r.files.map((item) =>
        h(
          "li",
          {},
          h("button", { class: "link", onclick: () => fetchFile(item.name) }, nameOf(item.name)),
          h("span", { class: "hint" }, " " + bytes(item.size)),
        ),
      ),
    ),
    h("p", { class: "hint" }, `in ${shown(r.folder)} · ${cost(r)}`),
  ];
}

function cost(r) {
  const seconds = Object.values(r.seconds).reduce((one, other) => one + other, 0);
  const forwards = Object.values(r.forwards).reduce((one, other) => one + other, 0);
  return `planning took ${seconds.toFixed(0)} s and ${new Intl.NumberFormat("en").format(forwards)} nominal forward passes`;
}

async function fetchFile(name) {
  try {
    download(name.replaceAll("/", "-"), await file("run-file", { run: state.run, name }));
  } catch (failure) {
    say(failure.message, "error");
  }
}

function scoreTable(score) {
  const plain = ["accuracy", "exact_match"].includes(score.metric);
  const text = (value) => (plain ? percent(value) : decimals(value));
  const sign = (value) => (value > 0 ? "+" : "") + (plain ? (100 * value).toFixed(1) : decimals(value));
  return h(
    "section",
    {},
    h("h3", {}, `${shown(score.task)}: ${shown(score.metric)} on ${score.rows} held-out rows`),
    h(
      "div",
      { class: "scroll" },
      table(
        { class: "score" },
        ["model", ...["score", "merge minus it", "95% interval", "won", "lost", "loss"].map((text) => ({ num: text }))],
        score.models.map((model) =>
          h(
            "tr",
            { class: model.label === "merge" ? "current" : "" },
            wide(nameOf(model.label)),
            num(text(model.metrics[score.metric])),
            model.compared
              ? [
                  num(sign(model.compared.difference)),
                  num(`${sign(model.compared.lower)} to ${sign(model.compared.upper)}`),
                  num(model.compared.won),
                  num(model.compared.lost),
                ]
              : [cell(), cell(), cell(), cell()],
            num(decimals(model.metrics.loss)),
          ),
        ),
      ),
    ),
    h("p", { class: "hint" }, shown(score.evaluator)),
    score.notes.map((note) => h("p", { class: "hint" }, shown(note))),
  );
}

export function verdict(text) {
  return text
    ? h("strong", { class: "verdict v-" + text.replace(/[^a-z-]/g, "") }, text)
    : h("span", { class: "hint" }, "not scored");
}
