// Two or three runs side by side, and the rows that each won and lost.

import { decimals, h, nameOf, shown, shownLines } from "./dom.js";
import { verdict } from "./runreport.js";
import { set, state } from "./state.js";

const LOWER_IS_BETTER = new Set(["loss", "choices"]);

export function sideBySide(comparison, render) {
  if (!comparison) return h("p", { class: "hint" }, "…");
  if (comparison.error) return h("p", { class: "bad" }, shown(comparison.error));
  const { runs: heads, tasks, note } = comparison;
  return [
    h("h2", {}, "Side by side"),
    h(
      "div",
      { class: "scroll" },
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
    ),
    note && h("p", { class: "hint" }, shown(note)),
    tasks.map((task) => rowsOf(task, heads, render)),
  ];
}

function rowsOf(task, heads, render) {
  const better = (value, other) => (LOWER_IS_BETTER.has(task.metric) ? value < other : value > other);
  const told = task.rows.filter((row) => new Set(row.values).size > 1),
    rows = state.differ && told.length ? told : task.rows;
  return [
    h("h3", {}, `Rows of ${shown(task.task)}`),
    task.note && h("p", { class: "hint" }, shown(task.note)),
    told.length
      ? h(
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
          `only the ${told.length} that tell${told.length === 1 ? "s" : ""} them apart`,
        )
      : h("p", { class: "hint" }, "No row tells them apart."),
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
