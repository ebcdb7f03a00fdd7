// What stands on the page from the start: head, map, panels, tabs.

import { embedded } from "./api.js";
import { debounced, fill, h } from "./dom.js";
import { listenForFiles } from "./dropping.js";
import { set, state } from "./state.js";

export function buildFrame(app) {
  const search = debounced((text) => app.search(text), 120),
    searched = embedded && embedded.cards_cut === 0 ? "Search names" : "Search names and cards";
  app.searchField = h("input", {
    type: "search",
    id: "search",
    placeholder: searched + "  /",
    "aria-label": searched,
    value: state.words,
    oninput: (event) => search(event.target.value),
  });
  app.count = h("span", { class: "hint", id: "count", role: "status" });
  app.status = h("div", { class: "status", id: "status", "aria-live": "polite" });
  app.title = h("h1", {}, "Navigator");
  app.viewTabs = h(
    "nav",
    { class: "choices", "aria-label": "Views" },
    ["map", "runs"].map((view) =>
      h("button", { id: "view-" + view, onclick: () => set({ view }) }, view === "map" ? "Map" : "Runs"),
    ),
  );
  const names = [
    ["view", "View"],
    ["model", "Model"],
    ["examples", "Examples"],
    ["selection", "Selection"],
    ["list", "List"],
  ].filter(([name]) => !embedded || name !== "examples");
  app.panelNames = names.map(([name]) => name);
  app.tabs = h(
    "div",
    { class: "tabs", role: "tablist", "aria-label": "Panels" },
    names.map(([name, text]) =>
      h(
        "button",
        {
          role: "tab",
          id: "tab-" + name,
          class: name === "view" ? "narrow" : "",
          "aria-controls": "panel-" + name,
          onclick: () => set({ panel: name }),
          onkeydown: (event) => app.stepTab(event, name),
        },
        text,
        name === "selection" && h("span", { class: "badge", id: "badge" }),
      ),
    ),
  );
  const panel = (name) =>
    h(
      "div",
      { role: "tabpanel", id: "panel-" + name, "aria-labelledby": "tab-" + name, class: "panel", tabindex: "-1" },
      app.panels[name].element,
    );
  app.lassoButton = h(
    "button",
    {
      id: "lasso",
      "aria-pressed": "false",
      title: "Draw around models (L)",
      onclick: () => app.scene.setLassoing(!app.scene.lassoing),
    },
    "Lasso",
  );
  const zoom = (factor) => () => {
    app.scene.camera.zoomAt(app.scene.camera.width / 2, app.scene.camera.height / 2, factor);
    app.scene.moved();
  };
  app.stage = h(
    "section",
    { class: "stage", "aria-label": "Map" },
    app.scene.element,
    h(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "Map tools" },
      app.lassoButton,
      h("button", { "aria-label": "Zoom in", title: "Zoom in (+)", onclick: zoom(1.5) }, "+"),
      h("button", { "aria-label": "Zoom out", title: "Zoom out (-)", onclick: zoom(1 / 1.5) }, "−"),
      h("button", { title: "Show all (0)", id: "fit", onclick: () => app.scene.fit() }, "All"),
    ),
    app.status,
  );
  app.aside = h("aside", { class: "left", "aria-label": "View" }, panel("view"));
  app.right = h("aside", { class: "right", "aria-label": "Panels" }, app.tabs, ...app.panelNames.slice(1).map(panel));
  app.mapView = h("main", { class: "mapview" }, app.aside, app.stage, app.right);
  fill(
    document.getElementById("app"),
    h(
      "header",
      {},
      app.title,
      app.count,
      h("span", { class: "grow" }),
      app.searchField,
      !embedded && app.viewTabs,
      h(
        "button",
        {
          class: "quiet",
          "aria-label": "Light or dark",
          title: "Light or dark",
          id: "theme",
          onclick: () => app.theme(),
        },
        "◐",
      ),
      h("button", { class: "quiet", "aria-label": "Keys", title: "Keys (?)", onclick: () => app.help() }, "?"),
    ),
    app.mapView,
    app.runs.element,
    h("div", { id: "said", role: "alert" }),
    h("div", { id: "announced", class: "hidden", "aria-live": "polite" }),
    app.dialog,
    h("div", { id: "dropping", "aria-hidden": "true" }, h("p", {}, "Drop your examples")),
  );
  listenForFiles((name, file) => app.panels.examples.send(name, file));
}
