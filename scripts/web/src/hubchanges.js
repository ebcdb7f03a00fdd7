// Another process changes the hub while the page is open: it is noticed, and what stands on the page is loaded again.

import { HubChanged, json } from "./api.js";
import { number, say } from "./dom.js";
import { rescore } from "./following.js";
import { loadHub, ofMap, spaceToShow } from "./model.js";
import { set, state } from "./state.js";

const WAIT = 1500,
  // a hub that models are added to changes again and again
  TRIES = 5;

// Another process has changed the hub: what stands by its place is loaded again; what is chosen, and the view, stay.
export async function reload(app, stale) {
  // an answer to a question that was asked before it was loaded again
  if (app.reloading || (stale && app.model && stale !== app.model.state)) return;
  app.reloading = true;
  say("The hub has changed; the map is being loaded again");
  try {
    for (let turn = 1; ; turn += 1) {
      try {
        app.hub = await loadHub();
        const lost = await app.openSpace(spaceToShow(app.hub), false, app.model);
        say(`The hub has changed; the map was loaded again${lost ? "; " + lost : ""}`);
        break;
      } catch (failure) {
        if (!(failure instanceof HubChanged) || turn === TRIES) throw failure;
        await new Promise((done) => setTimeout(done, WAIT));
      }
    }
  } catch (failure) {
    say(
      failure instanceof HubChanged
        ? "The hub keeps changing; load the page again once nothing is added to it"
        : `The hub has changed, and the map cannot be loaded again: ${failure.message}`,
      "error",
    );
  } finally {
    app.reloading = false;
  }
  app.follow();
}

// What is chosen by model, carried to a map that was loaded again: by its number, else by its id. What is lost is said.
export function carry(app, before) {
  const { model } = app,
    entries = new Map(model.names.map((name, index) => [name, model.entry[index]]));
  const now = (entry) =>
    model.places.has(entry) || !before.places.has(entry)
      ? entry
      : entries.get(before.names?.[before.places.get(entry)]);
  const picked = [...state.picked].map(now).filter((entry) => entry !== undefined),
    lost = [];
  if (picked.length < state.picked.size)
    lost.push(`${number.format(state.picked.size - picked.length)} ticked models are not in it any more`);
  state.picked = new Set(picked);
  if (state.model !== null && now(state.model) === undefined) {
    lost.push("the model that was open is not in it any more");
    state.model = null;
  } else if (state.model !== null) state.model = now(state.model);
  const current = before.entry[app.scene.current];
  app.scene.current = current === undefined ? -1 : (model.places.get(now(current)) ?? -1);
  set({}); // the address
  return lost.join("; ");
}

// Whether the hub, or a gate's log, is still what it was: one number, asked for now and then while the page is seen. Only
// where it is another does the server read anything.
export async function look(app) {
  if (!app.model || app.reloading || app.looking || document.visibilityState !== "visible") return;
  app.looking = true;
  try {
    const { version } = await json("version");
    if (version === app.hub.version) return;
    if (state.view === "runs") await app.runs.load();
    // where models came or went all is loaded again by what this question is answered with
    await json("state", ofMap(app.model));
    await rescore(app);
  } catch {
    /* it is asked again; whoever asks for something is told why there is no answer */
  } finally {
    app.looking = false;
  }
}
