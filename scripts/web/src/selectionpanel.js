// The panel of ticked models: list them, plan with them, follow the plan.

import { embedded, HubChanged, json, post } from "./api.js";
import { fill, h, nameOf, number, say, shown } from "./dom.js";
import { ofMap } from "./model.js";
import { set, state, ticksLeftOut, toggle } from "./state.js";
import { progress } from "./taskpanel.js";

const LISTED = 200;

export function selectionPanel(app) {
  const place = h("div", { class: "stack" });
  let choices = null,
    task = "",
    asked = { k: "", strategy: "", adaptation: "" };

  async function load() {
    if (embedded || choices) return;
    try {
      choices = await json("choices");
      render();
    } catch {
      choices = null;
    }
  }

  async function plan() {
    try {
      const models = [...state.picked];
      await post("plans", { task: task || ready()[0]?.id, models, options: asked }, ofMap(app.model));
      app.follow();
    } catch (failure) {
      say(failure instanceof HubChanged ? "The hub has changed; look at the ticks and plan again" : failure.message, "error");
    }
  }

  const ready = () => app.jobs.filter((job) => job.kind === "task" && job.state === "done");

  function render() {
    const { model } = app;
    if (!model) return;
    const entries = [...state.picked];
    const list = h(
      "table",
      {},
      h(
        "tbody",
        {},
        entries.slice(0, LISTED).map((entry) => {
          const index = model.places.get(entry);
          return h(
            "tr",
            { key: entry },
            h(
              "td",
              { class: "wide" },
              index === undefined
                ? `#${entry}, not on this map`
                : h(
                    "button",
                    { class: "link", onclick: () => app.open(entry) },
                    nameOf(model.names?.[index] ?? "#" + entry),
                  ),
            ),
            h(
              "td",
              {},
              index !== undefined &&
                h("span", { class: "hint" }, shown(model.words.licence[model.columns.licence[index]])),
            ),
            h(
              "td",
              {},
              h(
                "button",
                {
                  class: "quiet",
                  "aria-label": `untick ${shown(model.names?.[index] ?? entry)}`,
                  onclick: () => toggle("picked", entry),
                },
                "×",
              ),
            ),
          );
        }),
      ),
    );
    fill(
      place,
      entries.length
        ? h(
            "section",
            { key: "ticked" },
            h(
              "div",
              { class: "row" },
              h("strong", { class: "grow", id: "picked-count" }, `${number.format(entries.length)} ticked`),
              h("button", { class: "quiet", onclick: () => set({ picked: new Set() }) }, "Untick all"),
            ),
            list,
            entries.length > LISTED &&
              h(
                "p",
                { class: "hint" },
                `The first ${LISTED} are listed.`,
                !embedded && ticksLeftOut() && " They are too many for a link to this view, which leaves them out.",
              ),
          )
        : h(
            "div",
            { class: "empty" },
            h("p", {}, "No models ticked."),
            h(
              "p",
              { class: "hint" },
              "Draw around some with the lasso (L, or Shift and drag), or tick them one by one (Space, or Ctrl and click).",
            ),
          ),
      !embedded && entries.length > 0 && planning(entries),
      !embedded && plans(),
    );
  }

  function planning(entries) {
    const tasks = ready();
    if (!tasks.length) {
      return h(
        "section",
        { key: "planning" },
        h("h3", {}, "Plan with these"),
        h(
          "p",
          { class: "hint" },
          "A plan needs examples of your task. ",
          h("button", { class: "link", onclick: () => set({ panel: "examples" }) }, "Drop some"),
          " first.",
        ),
      );
    }
    const select = (label, key, values, usual) =>
      h(
        "label",
        { class: "field" },
        h("span", {}, label),
        h(
          "select",
          {
            onchange: (event) => {
              asked = { ...asked, [key]: event.target.value };
            },
          },
          (values ?? []).map((value) => h("option", { value, selected: (asked[key] || usual) === value }, value)),
        ),
      );
    return h(
      "section",
      { key: "planning" },
      h("h3", {}, "Plan with these"),
      h(
        "label",
        { class: "field" },
        h("span", {}, "Examples"),
        h(
          "select",
          {
            id: "plan-task",
            onchange: (event) => {
              task = event.target.value;
            },
          },
          tasks.map((job) => h("option", { value: job.id, selected: task === job.id }, shown(job.name))),
        ),
      ),
      choices &&
        h(
          "details",
          {},
          h("summary", {}, "Settings"),
          h(
            "label",
            { class: "field" },
            h("span", {}, "Members at most"),
            h("input", {
              type: "number",
              min: 1,
              max: entries.length,
              value: asked.k || Math.min(choices.k, entries.length),
              onchange: (event) => {
                asked = { ...asked, k: Number(event.target.value) || "" };
              },
            }),
          ),
          select("Strategy", "strategy", choices.strategies, choices.strategy),
          select("Adaptation", "adaptation", choices.adaptations, choices.adaptation),
        ),
      h("button", { class: "primary", id: "plan", onclick: plan }, `Plan with these ${entries.length}`),
    );
  }

  function plans() {
    const jobs = app.jobs.filter((job) => job.kind === "plan");
    if (!jobs.length) return null;
    return h(
      "section",
      { id: "plans", "aria-live": "polite" },
      h("h3", {}, "Plans"),
      jobs.map((job) =>
        h(
          "div",
          { class: "job", key: job.id },
          h(
            "div",
            { class: "row" },
            h("strong", { class: "grow" }, nameOf(job.name)),
            h("span", { class: "chip " + job.state }, job.state),
            job.state === "running" &&
              h(
                "button",
                {
                  class: "quiet stop",
                  onclick: () =>
                    post("stop", { id: job.id }).then(app.follow, (failure) => say(failure.message, "error")),
                },
                "Stop",
              ),
          ),
          job.state === "running" && progress(job),
          job.state === "failed" && h("p", { class: "bad", role: "alert" }, shown(job.error)),
          job.state === "done" && finished(job),
        ),
      ),
    );
  }

  function finished(job) {
    const result = app.results.get(job.id);
    if (!result) return null;
    return h(
      "p",
      {},
      "verdict: ",
      h("strong", { class: "verdict" }, result.verdict || "none, nothing was scored"),
      " ",
      result.note
        ? h("span", { class: "hint" }, shown(result.note))
        : h("button", { class: "link", onclick: () => app.openRun(result.folder) }, "open the report"),
    );
  }
  return { element: place, load, render };
}
