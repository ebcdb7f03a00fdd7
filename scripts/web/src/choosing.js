// Which models are shown and in which colours, where the server has to be asked for it.

import { embedded, HubChanged } from "./api.js";
import { say } from "./dom.js";
import { FEWEST_LETTERS, loadScores, positions } from "./model.js";
import { set, state } from "./state.js";

export async function search(app, text) {
  const words = text.trim(),
    still = app.searching(),
    { model } = app;
  if (model) model.found = null;
  set({ words });
  if (!words || !model || embedded || words.length < FEWEST_LETTERS) return;
  try {
    const { found, cut } = await positions("find", { text: words }, model);
    if (!still() || model !== app.model) return;
    model.found = found;
    model.foundCut = cut;
    app.refilter();
  } catch {
    /* names are searched all the same */
  }
}

export async function useFilter(app, text) {
  const { model } = app,
    still = app.filtering();
  let found = null,
    error = "";
  try {
    if (text.trim()) ({ found } = await positions("filter", { wanted: text }, model));
  } catch (failure) {
    if (failure instanceof HubChanged) {
      state.wanted = text; // it is asked again of the map that is being loaded
      return;
    }
    error = failure.message;
  }
  // a slow answer to what was written before
  if (!still() || model !== app.model) return;
  model.wanted = found;
  app.filterError = error;
  set({ wanted: text });
  app.refilter();
  app.panels.view.render();
}

export async function useColour(app, colour, paint = true) {
  const still = app.colouring();
  if (colour.startsWith("score:")) {
    const item = app.hub.scored.find(({ task, metric }) => `score:${task}:${metric}` === colour);
    if (!item) {
      state.colour = "cluster";
      return;
    }
    try {
      await loadScores(app.model, item.task, item.metric);
    } catch (failure) {
      if (!(failure instanceof HubChanged)) say(failure.message, "error");
      return;
    }
  }
  if (paint && still()) set({ colour });
}

export function clearFilters(app) {
  app.filtering(); // no answer that is still to come counts
  app.searching();
  app.model.wanted = app.model.found = null;
  app.filterError = "";
  app.searchField.value = "";
  set({ licences: new Set(), kinds: new Set(), clusters: new Set(), ranks: null, words: "", wanted: "" });
  app.refilter();
}
