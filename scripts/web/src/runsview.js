// Runs of the hub: the list, the report of one, two or three side by side.

import { file, json } from "./api.js";
import { bytes, decimals, download, fill, h, inTurn, nameOf, percent, say, shown, shownLines } from "./dom.js";
import { set, state } from "./state.js";

const NO_LOG = "there is none yet";
const LOWER_IS_BETTER = new Set(["loss", "choices"]);

export function runsView(app) {
  const place = h("main", { class: "runs", id: "runs", tabindex: "-1" });
  let gate = null,
    runs = null,
    took = [],
    error = "",
    report = null,
    comparison = null,
    shownRun = null,
    shownPair = "";
  const loading = inTurn(),
    reading = inTurn(),
    comparing = inTurn();

  async function load() {
    const still = loading();
    try {
      const [listed, decided] = await Promise.all([json("runs"), json("decisions")]);
      if (!still()) return;
      ({ runs, took } = listed);
      gate = decided;
      error = "";
    } catch (failure) {
      if (!still()) return;
      error = failure.message;
    }
    state.runs = state.runs.filter((name) => runs?.some((run) => run.run === name));
    const wanted = app.wantedFolder;
    app.wantedFolder = null;
    const found = wanted && runs?.find((run) => run.folder === wanted);
    if (found) set({ run: found.run });
    await open();
    if (found) document.getElementById("run-title")?.focus();
  }

  // What is asked for stands in `state`; an answer that comes after another was asked for is dropped.
  async function open() {
    render();
    await Promise.all([openRun(), openPair()]);
  }

  async function openRun() {
    const { run } = state;
    if (run === null || shownRun === run) return;
    const still = reading();
    report = null;
    shownRun = run;
    render();
    const answer = await json("run", { run }).catch((failure) => ({ error: failure.message }));
    if (!still()) return;
    report = answer;
    render();
  }

  async function openPair() {
    const pair = state.runs.length > 1 ? state.runs.join(",") : "";
    if (shownPair === pair) return;
    const still = comparing();
    comparison = null;
    shownPair = pair;
    render();
    if (!pair) return;
    const answer = await json("compare", { runs: pair }).catch((failure) => ({ error: failure.message }));
    if (!still()) return;
    comparison = answer;
    render();
  }

  function change(changes) {
    set(changes);
    return open();
  }

  function render() {
    if (error) return fill(place, h("p", { class: "bad" }, shown(error)));
    if (!runs) return fill(place, h("p", { class: "hint" }, "…"));
    if (!runs.length) {
      return fill(
        place,
        h(
          "div",
          { class: "empty" },
          h("h2", {}, "No runs yet"),
          h("p", {}, "Tick models on the map and plan with them, or "),
          h("code", {}, "merge-advisor plan --task examples.jsonl --hub DIR"),
          h("p", {}, "Every run planned from this hub is listed here."),
          decisions(),
        ),
      );
    }
    const several = state.runs.length > 1;
    return fill(
      place,
      h(
        "section",
        { class: "runlist" },
        h("h2", {}, "Runs"),
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", {}, "compare"),
              h("th", {}, "run"),
              h("th", {}, "task"),
              h("th", {}, "verdict"),
              h("th", {}, "made"),
              h("th", { class: "num" }, "took"),
            ),
          ),
          h(
            "tbody",
            {},
            runs.map((run) =>
              h(
                "tr",
                { key: run.run, class: run.run === state.run && !several ? "current" : "" },
                h(
                  "td",
                  {},
                  h("input", {
                    type: "checkbox",
                    checked: state.runs.includes(run.run),
                    disabled: !run.here,
                    "aria-label": `compare ${shown(run.name)}`,
                    onchange: (event) => {
                      const kept = state.runs.filter((name) => name !== run.run);
                      if (event.target.checked && kept.length >= 3) {
                        event.target.checked = false;
                        return say("Three runs are compared at most; take one out first", "error");
                      }
                      return change({ runs: event.target.checked ? [...kept, run.run] : kept });
                    },
                  }),
                ),
                h(
                  "td",
                  { class: "wide" },
                  run.here
                    ? h(
                        "button",
                        { class: "link", onclick: () => change({ run: run.run, runs: [] }) },
                        nameOf(run.name),
                      )
                    : h("span", {}, nameOf(run.name), h("span", { class: "hint" }, " (folder gone)")),
                ),
                h("td", {}, h("bdi", {}, shown(run.tasks.join(", ")))),
                h("td", {}, verdict(run.verdict)),
                h("td", {}, run.added.slice(0, 16).replace("T", " ")),
                h("td", { class: "num" }, run.cost ? `${run.cost.seconds.toFixed(0)} s` : ""),
              ),
            ),
          ),
        ),
        h("p", { class: "hint" }, "Tick two or three to see them side by side."),
        h(
          "div",
          { id: "took" },
          took.map((line) => h("p", { class: "hint" }, shown(line))),
        ),
        decisions(),
      ),
      h("section", { class: "report", id: "report" }, several ? compared() : reported()),
    );
  }

  // What gate --watch has decided of models that came to a pool.
  function decisions() {
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
        h(
          "td",
          { class: "said" },
          shown(item.text),
          (item.at || several) && h("div", { class: "hint" }, madeAt(item)),
        ),
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

  function reported() {
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
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["role", "member", "weight", "similarity", "gain", "conflict / overlap"].map((text, index) =>
              h("th", { class: index > 1 ? "num" : "" }, text),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          r.members.map((member) =>
            h(
              "tr",
              {},
              h("td", {}, member.role),
              h("td", { class: "wide" }, nameOf(member.id)),
              h("td", { class: "num" }, decimals(member.weight)),
              h("td", { class: "num" }, decimals(member.similarity)),
              h("td", { class: "num" }, decimals(member.gain)),
              h(
                "td",
                { class: "num" },
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
    return `it took ${seconds.toFixed(0)} s and ${new Intl.NumberFormat("en").format(forwards)} nominal forward passes`;
  }

  async function fetchFile(name) {
    try {
      download(name.replaceAll("/", "-"), await file("run-file", { run: state.run, name }));
    } catch (failure) {
      say(failure.message, "error");
    }
  }

  function compared() {
    if (!comparison) return h("p", { class: "hint" }, "…");
    if (comparison.error) return h("p", { class: "bad" }, shown(comparison.error));
    const { runs: heads, tasks, note } = comparison;
    return [
      h("h2", {}, "Side by side"),
      h(
        "table",
        { class: "compare" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", {}),
            heads.map((head) => h("th", {}, nameOf(head.name))),
          ),
        ),
        h(
          "tbody",
          {},
          h(
            "tr",
            {},
            h("th", {}, "verdict"),
            heads.map((head) => h("td", {}, verdict(head.verdict))),
          ),
          h(
            "tr",
            {},
            h("th", {}, "strategy"),
            heads.map((head) => h("td", {}, shown(head.strategy))),
          ),
          h(
            "tr",
            {},
            h("th", {}, "adaptation"),
            heads.map((head) => h("td", {}, shown(head.adaptation ?? "none"))),
          ),
          h(
            "tr",
            {},
            h("th", {}, "members"),
            heads.map((head) =>
              h(
                "td",
                {},
                head.members.map((member) =>
                  h("div", {}, nameOf(member.id), " ", h("span", { class: "hint" }, decimals(member.weight, 2))),
                ),
              ),
            ),
          ),
          tasks.map((task) => [
            h(
              "tr",
              {},
              h("th", {}, `${shown(task.task)}: ${shown(task.metric)}`),
              task.means.map((value) => h("td", { class: "num" }, decimals(value))),
            ),
            h(
              "tr",
              {},
              h("th", {}, "rows won / lost against the first"),
              task.won.map((won, index) => h("td", { class: "num" }, index ? `${won} / ${task.lost[index]}` : "")),
            ),
          ]),
        ),
      ),
      note && h("p", { class: "hint" }, shown(note)),
      tasks.map((task) => rowsOf(task, heads)),
    ];
  }

  function rowsOf(task, heads) {
    const better = (value, other) => (LOWER_IS_BETTER.has(task.metric) ? value < other : value > other);
    const told = task.rows.filter((row) => new Set(row.values).size > 1),
      rows = state.differ ? told : task.rows;
    return [
      h("h3", {}, `Rows of ${shown(task.task)}`),
      task.note && h("p", { class: "hint" }, shown(task.note)),
      h(
        "label",
        { class: "check" },
        h("input", {
          type: "checkbox",
          class: "differ",
          checked: state.differ,
          onchange: (event) => {
            set({ differ: event.target.checked });
            render();
          },
        }),
        `only the ${told.length} that tell them apart`,
      ),
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "rows" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", {}, "input"),
              h("th", {}, "wanted"),
              heads.map((head) => h("th", {}, nameOf(head.name))),
            ),
          ),
          h(
            "tbody",
            {},
            rows.map((row) =>
              h(
                "tr",
                {},
                h("td", { dir: "auto", class: "text" }, shownLines(row.input)),
                h("td", { dir: "auto", class: "text" }, shownLines(row.wanted)),
                row.values.map((value, index) =>
                  h(
                    "td",
                    {
                      dir: "auto",
                      class:
                        "text " +
                        (index && better(value, row.values[0])
                          ? "won"
                          : index && better(row.values[0], value)
                            ? "lost"
                            : ""),
                    },
                    index > 0 && value !== row.values[0]
                      ? h("span", { class: "sign" }, better(value, row.values[0]) ? "won " : "lost ")
                      : null,
                    shownLines(row.outputs[index] || ""),
                    " ",
                    h("span", { class: "hint" }, decimals(value, 2)),
                  ),
                ),
              ),
            ),
          ),
        ),
      ),
      task.total > task.rows.length &&
        h(
          "p",
          { class: "hint" },
          `${task.rows.length} of ${task.total} rows are listed, those that tell the runs apart first.`,
        ),
    ];
  }
  return { element: place, load, render };
}

function verdict(text) {
  return text
    ? h("strong", { class: "verdict v-" + text.replace(/[^a-z-]/g, "") }, text)
    : h("span", { class: "hint" }, "not scored");
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
      "table",
      { class: "score" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["model", "score", "merge minus it", "95% interval", "won", "lost", "loss"].map((name, index) =>
            h("th", { class: index ? "num" : "" }, name),
          ),
        ),
      ),
      h(
        "tbody",
        {},
        score.models.map((model) =>
          h(
            "tr",
            { class: model.label === "merge" ? "current" : "" },
            h("td", { class: "wide" }, nameOf(model.label)),
            h("td", { class: "num" }, text(model.metrics[score.metric])),
            model.compared
              ? [
                  h("td", { class: "num" }, sign(model.compared.difference)),
                  h("td", { class: "num" }, `${sign(model.compared.lower)} to ${sign(model.compared.upper)}`),
                  h("td", { class: "num" }, model.compared.won),
                  h("td", { class: "num" }, model.compared.lost),
                ]
              : [h("td", {}), h("td", {}), h("td", {}), h("td", {})],
            h("td", { class: "num" }, decimals(model.metrics.loss)),
          ),
        ),
      ),
    ),
    h("p", { class: "hint" }, shown(score.evaluator)),
    score.notes.map((note) => h("p", { class: "hint" }, shown(note))),
  );
}
