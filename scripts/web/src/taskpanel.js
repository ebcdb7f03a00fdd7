// The panel of examples: dropped or pasted, ranked in the background by delta, by gradient and by measured loss.

import { json, post, upload } from "./api.js";
import { decimals, fill, h, nameOf, say, shown } from "./dom.js";
import { layoutOf, ofMap } from "./model.js";
import { set, state } from "./state.js";

const MOST_BYTES = 32 * 2 ** 20,
  SHOWN = 12;
const ORDERS = [
  { key: "cosine", name: "delta" },
  { key: "gradient", name: "gradient" },
  { key: "gain", name: "loss" },
];

export function taskPanel(app) {
  const place = h("div", { class: "stack" });
  const text = h("textarea", {
    rows: 5,
    spellcheck: "false",
    id: "examples",
    "aria-label": "Examples, a JSON object a line",
    placeholder: '{"input": "2 + 2 =", "output": "4"}\n{"input": …}',
  });
  const chooser = h("input", {
    type: "file",
    class: "hidden",
    id: "task-file",
    accept: ".jsonl,.json,.csv,.tsv,.parquet,.txt",
    onchange: (event) => {
      const [file] = event.target.files;
      if (file) send(file.name, file);
      event.target.value = "";
    },
  });
  const name = h("input", {
    type: "text",
    "aria-label": "Name of the task",
    placeholder: "name of the task",
    maxlength: 60,
    id: "task-name",
  });
  const list = h("div", { class: "stack", id: "tasks", "aria-live": "polite" });
  let whole = false;

  async function send(fileName, data) {
    if (data.size > MOST_BYTES) {
      return say(
        `${fileName} has ${(data.size / 2 ** 20).toFixed(0)} MB; the page takes task files of up to ${MOST_BYTES / 2 ** 20} MB. Give larger ones to merge-advisor plan --hub DIR --task FILE`,
        "error",
      );
    }
    try {
      const job = await upload("tasks", fileName, data, { space: app.model.space });
      set({ panel: "examples", task: job.id });
      app.follow();
    } catch (failure) {
      say(failure.message, "error");
    }
  }

  function paste() {
    const rows = text.value.trim();
    if (!rows) return say("Paste some examples first: one JSON object a line, with input and output", "error");
    return send(`${(name.value.trim() || "examples").replace(/[\\/]/g, "-")}.jsonl`, new Blob([rows + "\n"]));
  }

  function render() {
    const tasks = app.jobs.filter((job) => job.kind === "task");
    fill(list, tasks.length ? tasks.map(one) : null);
  }

  function one(job) {
    const results = app.results.get(job.id),
      here = job.space === app.model?.space;
    const head = h(
      "div",
      { class: "row" },
      h("strong", { class: "grow" }, nameOf(job.name)),
      h("span", { class: "chip " + job.state }, job.state),
      job.state === "running" && h("button", { class: "quiet stop", onclick: () => stop(job) }, "Stop"),
      job.state === "done" && results && opener(job),
    );
    if (job.state === "running") return h("section", { key: job.id }, head, progress(job));
    if (job.state === "failed")
      return h("section", { key: job.id }, head, h("p", { class: "bad", role: "alert" }, shown(job.error)));
    if (!results) return h("section", { key: job.id }, head);
    const open = state.task === job.id;
    return h(
      "section",
      { class: "task", "data-job": job.id, key: job.id },
      head,
      !here && h("p", { class: "hint" }, "It was ranked on another space."),
      open && ranking(results, here),
    );
  }

  function opener(job) {
    const open = state.task === job.id;
    return h(
      "button",
      {
        class: "link",
        key: "ranking",
        "aria-expanded": String(open),
        onclick: () => {
          set({ task: open ? "" : job.id });
          render();
        },
      },
      open ? "hide ranking" : "show ranking",
    );
  }

  async function stop(job) {
    try {
      await post("stop", { id: job.id });
      app.follow();
    } catch (failure) {
      say(failure.message, "error");
    }
  }

  // The models in the order of one measure, all three beside each other with the place that each gives them.
  function ranking(results, here) {
    const known = (value) => value !== null && value !== undefined;
    const orders = ORDERS.map(({ key, name }) => {
      const rows = results.ranks
        .filter((row) => known(row[key]))
        .sort((one, other) => other[key] - one[key] || one.number - other.number);
      return { key, name, rows, places: new Map(rows.map((row, index) => [row.number, index + 1])) };
    });
    const chosen = orders.find((order) => order.key === state.by) ?? orders[2],
      rest = orders[1].rows.filter((row) => !chosen.places.has(row.number)),
      all = [...chosen.rows, ...rest];
    const best = orders[2].rows.filter((row) => row.gain > 0).slice(0, 5);
    const value = (row, { key, places }) =>
      known(row[key])
        ? [h("span", { class: "place" }, places.get(row.number)), decimals(row[key], 3)]
        : h("span", { class: "place" }, "–");
    const below = (row, { key }) => Number(decimals(row[key], 3)) < 0;
    return [
      h(
        "p",
        { class: "hint" },
        `${results.rows.shots} shots and ${results.rows.tuning} tuning rows; ${results.rows.heldout} rows held out.`,
        here && " On the map it stands where ",
        here && (layoutOf(app.model) === "pca" ? "PCA projects its delta." : "its five nearest models lie."),
      ),
      h(
        "table",
        { class: "ranks" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", {}, "model"),
            orders.map(({ key, name }) =>
              h(
                "th",
                { class: "num", "aria-sort": key === chosen.key ? "descending" : "none" },
                h(
                  "button",
                  {
                    class: "link",
                    id: "by-" + key,
                    title: `order by ${name}`,
                    onclick: () => {
                      set({ by: key });
                      render();
                    },
                  },
                  name,
                  key === chosen.key ? " ▾" : "",
                ),
              ),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          all.slice(0, whole ? undefined : SHOWN).map((row) =>
            h(
              "tr",
              { key: row.number },
              h(
                "td",
                { class: "wide" },
                h("button", { class: "link", onclick: () => app.open(row.number) }, nameOf(row.id)),
              ),
              orders.map((order) => h("td", { class: "num" + (below(row, order) ? " warn" : "") }, value(row, order))),
            ),
          ),
        ),
      ),
      all.length > SHOWN &&
        h(
          "button",
          {
            class: "link",
            id: "ranks-all",
            onclick: () => {
              whole = !whole;
              render();
            },
          },
          whole ? `the first ${SHOWN}` : `all ${all.length} that were ranked`,
        ),
      h(
        "p",
        { class: "hint" },
        `Delta: cosine with the delta of a LoRA of the shots. Gradient: how fast the loss falls when a model is added. Loss: what it falls by, measured with the model at weight 1, from ${decimals(results.base_loss, 3)} of the base (${Math.min(results.measured, results.ranks.length)} of ${results.ranks.length} models were measured).`,
      ),
      results.notes?.length > 0 &&
        h(
          "details",
          {},
          h("summary", {}, "Notes"),
          h(
            "ul",
            {},
            results.notes.map((note) => h("li", {}, shown(note))),
          ),
        ),
      h(
        "div",
        { class: "row" },
        h(
          "button",
          {
            class: "primary",
            id: "tick-best",
            disabled: !best.length,
            onclick: () => {
              set({ picked: new Set([...state.picked, ...best.map((row) => row.number)]), panel: "selection" });
            },
          },
          best.length ? `Tick the ${best.length} that lower the loss most` : "None lowers the loss at weight 1",
        ),
      ),
    ];
  }

  const element = append(place);
  function append(target) {
    return fill(
      target,
      h(
        "div",
        { class: "drop", id: "drop" },
        h(
          "p",
          {},
          "Drop a file of examples anywhere on the page, ",
          h("button", { class: "link", onclick: () => chooser.click() }, "choose one"),
          ", or paste rows here.",
        ),
        chooser,
        text,
        h(
          "div",
          { class: "row" },
          name,
          h("button", { class: "primary", id: "rank", onclick: paste }, "Rank the models"),
        ),
        h("p", { class: "hint" }, "Rows of input and output; 40 or more are a start. They stay on this machine."),
      ),
      list,
    );
  }
  return { element, render, send };
}

export function progress(job) {
  const share = job.total > 1 ? job.done / job.total : null;
  // what counts the seconds is not read aloud each time
  return h(
    "div",
    { class: "progress", "aria-live": "off" },
    h("progress", share === null ? { "aria-label": job.what } : { value: share, max: 1, "aria-label": job.what }),
    h(
      "span",
      { class: "hint" },
      `${job.what}${job.total > 1 ? ` ${job.done} of ${job.total}` : ""} · ${Math.round(job.seconds)} s`,
    ),
  );
}

// Where a task lies on the map is asked of the map that is shown.
export async function resultsOf(job, model) {
  return (await json("job", { id: job.id, ...(job.kind === "task" ? ofMap(model) : {}) })).result;
}
