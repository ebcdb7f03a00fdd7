// Opening the map of a space: its models, what was chosen before, and the layout that comes later.

import { embedded, HubChanged, json, packed } from "./api.js";
import { carry } from "./hubchanges.js";
import { layoutOf, loadModel, ofMap, setLayout, usePlaces } from "./model.js";
import { set, state } from "./state.js";

const WAIT = 1500;

// What is lost of what was chosen on the map `before`, in words.
export async function openSpace(app, space, anew = true, before = null) {
  const still = app.opening();
  if (anew) {
    set({
      model: null,
      picked: new Set(),
      clusters: new Set(),
      licences: new Set(),
      kinds: new Set(),
      ranks: null,
      layout: "pca",
    });
    app.scene.fit();
  }
  const model = await loadModel(space);
  if (before) model.names = await json("names", ofMap(model));
  if (!still()) return "";
  state.space = space;
  app.model = model;
  app.laying = "";
  const lost = before ? carry(app, before) : "";
  app.scene.hovered = -1;
  Object.assign(app.scene.marks, { chosen: -1, neighbours: [], tasks: [], picked: [] });
  app.scene.palette.length && app.repaint(false);
  if (state.colour.startsWith("score:") && !app.model.scores.has(state.colour))
    await app.useColour(state.colour, false);
  if (embedded && state.layout === "umap") usePlaces(app.model);
  app.scene.setModel(app.model);
  app.refilter();
  app.recolour();
  app.relabel();
  app.repick();
  app.panels.selection.load();
  if (state.wanted) await app.useFilter(state.wanted);
  if (!embedded) {
    model.names ??= await json("names", ofMap(model));
    if (!still()) return "";
    await app.search(state.words);
    app.refilter();
    pollLayout(app, model);
  }
  await app.panels.model.load();
  if (!still()) return "";
  app.renderAll();
  if (app.jobs.length) app.follow();
  document.documentElement.dataset.names = "ready";
  return lost;
}

// Clusters and UMAP come when they are ready; until then the map is PCA's.
async function pollLayout(app, model) {
  try {
    const found = await packed("layout", ofMap(model));
    if (model !== app.model) return;
    const job = found.waiting ?? found.said.job;
    const failed = job?.state === "failed" || job?.state === "stopped";
    app.laying = !job
      ? ""
      : failed
        ? `There will be no UMAP: ${job.error || job.state}.`
        : `${job.what[0].toUpperCase()}${job.what.slice(1)}${job.total > 1 ? `, step ${Math.min(job.done + 1, job.total)} of ${job.total}` : ""} …`;
    if (!found.waiting && (!model.layout || !job)) {
      setLayout(model, found);
      document.documentElement.dataset.layout = job ? "clusters" : "ready";
      if (layoutOf(model) === "umap") {
        usePlaces(model);
        app.scene.setPlaces(model.x, model.y);
      }
      app.refilter();
      app.recolour();
      app.relabel();
      app.renderAll();
      if (app.jobs.length) app.follow(); // tasks have a place on it now
    } else app.panels.view.render();
    if (job && !failed) setTimeout(() => pollLayout(app, model), WAIT);
  } catch (failure) {
    if (failure instanceof HubChanged || model !== app.model) return;
    app.laying = failure.message;
    app.panels.view.render();
  }
}
