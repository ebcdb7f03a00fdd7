// What the keyboard does, and the list of it.

import { h } from "./dom.js";
import { set, state, toggle } from "./state.js";

const KEYS = [
  ["/", "search"],
  ["arrows", "move the map"],
  ["+ and -", "zoom"],
  ["0", "show all of the map"],
  ["N and P", "next and previous model in view"],
  ["Enter", "open the model under the mark"],
  ["Space", "tick or untick it"],
  ["A", "tick all models in view"],
  ["L", "lasso: draw around models (also Shift and drag)"],
  ["D", "density"],
  ["1 to 5", "panels"],
  ["Esc", "leave the lasso, close"],
  ["?", "this list"],
];
const STEP = 60;

export function listen(app) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "Escape") return escape(app, event.target);
    if (typing) return undefined;
    if (event.key === "/") {
      event.preventDefault();
      document.getElementById("search").focus();
      return undefined;
    }
    if (event.key === "?") return app.help();
    if (state.view === "map" && /^[1-5]$/.test(event.key)) return app.showPanel(Number(event.key) - 1);
    return document.activeElement === app.scene.element ? onMap(app, event) : undefined;
  });
}

function escape(app, target) {
  if (app.dialog.open) return app.dialog.close();
  if (app.scene.lassoing) return app.scene.setLassoing(false);
  if (target.id === "search") {
    target.value = "";
    app.search("");
    return app.scene.element.focus();
  }
  return set({ model: null });
}

function onMap(app, event) {
  const { scene } = app,
    { camera } = scene,
    middle = [camera.width / 2, camera.height / 2];
  const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  if (moves[event.key]) camera.pan(...moves[event.key]);
  else if (event.key === "+" || event.key === "=") camera.zoomAt(...middle, 1.4);
  else if (event.key === "-") camera.zoomAt(...middle, 1 / 1.4);
  else if (event.key === "0") {
    event.preventDefault();
    return scene.fit();
  } else if (event.key === "n" || event.key === "p") step(app, event.key === "n" ? 1 : -1);
  else if (event.key === "Enter" && scene.current >= 0) app.open(app.model.entry[scene.current]);
  else if (event.key === " " && scene.current >= 0) toggle("picked", app.model.entry[scene.current]);
  else if (event.key === "l") scene.setLassoing(!scene.lassoing);
  else if (event.key === "d") set({ density: !state.density });
  else if (event.key === "a") app.lassoed(scene.inView(Infinity), false);
  else return undefined;
  event.preventDefault();
  return scene.moved();
}

// From model to model, the nearest to the middle first; the mark stays in view.
function step(app, by) {
  const { scene } = app;
  if (!scene.walk || scene.walkFor !== scene.shown || scene.walkX !== scene.x) {
    scene.walk = scene.inView(5000);
    scene.walkFor = scene.shown;
    scene.walkX = scene.x;
  }
  if (!scene.walk.length) return;
  const at = scene.walk.indexOf(scene.current);
  scene.current = scene.walk[(at + by + scene.walk.length) % scene.walk.length] ?? scene.walk[0];
  scene.show(scene.current);
  app.announce(scene.current);
}

export function helpDialog() {
  const dialog = h(
    "dialog",
    { "aria-label": "Keys" },
    h("h2", {}, "Keys"),
    h(
      "dl",
      { class: "facts" },
      KEYS.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]),
    ),
    h("button", { class: "primary", onclick: () => dialog.close() }, "Close"),
  );
  return dialog;
}
