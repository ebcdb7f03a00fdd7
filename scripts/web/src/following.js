// Rankings and plans that run beside the page.

import { HubChanged, json } from "./api.js";
import { say } from "./dom.js";
import { loadHub } from "./model.js";
import { set, state } from "./state.js";
import { resultsOf } from "./taskpanel.js";

const POLL = 700;

// Jobs are asked about as long as one runs; what they found is fetched once.
export async function follow(app) {
  clearTimeout(app.polling);
  const still = app.following();
  try {
    const jobs = await json("jobs");
    for (const job of jobs) {
      const placing = job.kind === "task" ? `${app.model.state} ${Boolean(app.model.layout?.umapX)}` : "";
      if (job.state === "done" && app.results.get(job.id)?.placing !== placing)
        app.results.set(job.id, { ...(await resultsOf(job, app.model)), placing });
    }
    if (!still()) return;
    const before = new Map(app.jobs.map((job) => [job.id, job.state]));
    app.jobs = jobs;
    if (jobs.some((job) => job.kind === "plan" && job.state === "done" && before.get(job.id) === "running"))
      rescore(app);
    for (const job of jobs) {
      if (job.state === "failed" && before.get(job.id) === "running") say(`${job.name}: ${job.error}`, "error");
      if (job.state === "done" && before.get(job.id) === "running")
        say(
          job.kind === "plan"
            ? `${job.name}: verdict ${app.results.get(job.id).verdict || "none"}`
            : `${job.name}: the models are ranked`,
        );
    }
  } catch (failure) {
    if (!(failure instanceof HubChanged)) say(failure.message, "error");
    return;
  }
  showTask(app);
  app.scene.marks.tasks = app.jobs
    .filter((job) => job.kind === "task" && job.state === "done" && job.space === app.model?.space)
    .map((job) => ({ name: job.name, ...app.results.get(job.id) }));
  app.scene.redraw();
  app.panels.examples.render();
  app.panels.selection.render();
  if (app.jobs.some((job) => job.state === "running")) app.polling = setTimeout(() => follow(app), POLL);
}

// The ranking that is open, which the address names: the newest one, unless another was chosen or all closed.
function showTask(app) {
  const tasks = app.jobs.filter((job) => job.kind === "task");
  if (state.task && !tasks.some((job) => job.id === state.task)) {
    say("The ranking that the link names is gone with the server that made it; drop the examples again", "error");
    set({ task: null });
  }
  if (state.task === null) {
    const newest = tasks.find((job) => job.state === "done");
    if (newest) set({ task: newest.id });
  }
}

// A plan has left scores in the hub, or another process something else that moves no model.
export async function rescore(app) {
  try {
    app.hub = await loadHub();
    app.model.scores.clear();
    if (state.colour.startsWith("score:")) {
      await app.useColour(state.colour, false);
      app.recolour();
    }
    app.panels.view.render();
    await app.panels.model.refresh();
  } catch {
    /* they are there when the page is loaded again */
  }
}
