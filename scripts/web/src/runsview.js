// Runs of the hub: the list, the report of one, two or three side by side.

import { json } from "./api.js";
import { sideBySide } from "./comparison.js";
import { fill, h, inTurn, nameOf, say, shown } from "./dom.js";
import { decisions, gates } from "./gatelog.js";
import { runReport, verdict } from "./runreport.js";
import { set, state } from "./state.js";
import { cell, num, table, wide } from "./tables.js";

const NARROW = matchMedia("(max-width: 820px)");

export function runsView(app) {
  const place = h("main", { class: "runs", id: "runs", tabindex: "-1" });
  let gate = null,
    runs = null,
    took = [],
    judged = [],
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
      ({ runs, took, judged } = listed);
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

  async function change(changes) {
    set(changes);
    await open();
    // where it stands below the list, whoever chose it is taken there
    if (NARROW.matches && state.runs.length !== 1)
      document.getElementById("report")?.scrollIntoView({ block: "start" });
  }

  // What runs and gates took together, and what their alternatives would have.
  function costs() {
    if (!took.length) return null;
    return h(
      "section",
      { id: "took" },
      h("h3", {}, "What they took, and what else would have"),
      took.map((line) => h("p", { class: "hint" }, shown(line))),
    );
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
          gates(judged),
          costs(),
          decisions(gate),
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
        table(
          {},
          ["compare", "run", "task", "verdict", "made", { num: "took" }],
          runs.map((run) =>
            h(
              "tr",
              { key: run.run, class: run.run === state.run && !several ? "current" : "" },
              cell(
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
              wide(
                run.here
                  ? h("button", { class: "link", onclick: () => change({ run: run.run, runs: [] }) }, nameOf(run.name))
                  : h("span", {}, nameOf(run.name), h("span", { class: "hint" }, " (folder gone)")),
              ),
              cell(h("bdi", {}, shown(run.tasks.join(", ")))),
              cell(verdict(run.verdict)),
              cell(run.added.slice(0, 16).replace("T", " ")),
              num(run.cost ? `${run.cost.seconds.toFixed(0)} s` : ""),
            ),
          ),
        ),
        h("p", { class: "hint" }, "Tick two or three to see them side by side."),
        gates(judged),
        costs(),
        decisions(gate),
      ),
      h("section", { class: "report", id: "report" }, several ? sideBySide(comparison, render) : runReport(report)),
    );
  }

  return { element: place, load, render };
}
