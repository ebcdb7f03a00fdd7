// The page: puts its parts together, loads a hub, and keeps what is shown in step with what was asked for.

import { embedded, HubChanged, onChanged } from "./api.js";
import { clearFilters, search, useColour, useFilter } from "./choosing.js";
import { fill, h, inTurn, nameOf, number, say, shown } from "./dom.js";
import { follow } from "./following.js";
import { buildFrame } from "./frame.js";
import { look, reload } from "./hubchanges.js";
import { helpDialog, listen } from "./keys.js";
import { listPanel } from "./listpanel.js";
import {
  clusterLabels,
  coloured,
  FEWEST_LETTERS,
  layoutOf,
  loadHub,
  shownModels,
  spaceToShow,
  usePlaces,
} from "./model.js";
import { modelPanel } from "./modelpanel.js";
import { openSpace } from "./opening.js";
import { isDark } from "./palette.js";
import { runsView } from "./runsview.js";
import { saveCsv, savePng, saveSvg } from "./saving.js";
import { Scene } from "./scene.js";
import { selectionPanel } from "./selectionpanel.js";
import { address, on, restore, set, state, ticksLeftOut } from "./state.js";
import { taskPanel } from "./taskpanel.js";
import { viewPanel } from "./viewpanel.js";

// Between two looks at whether the hub is still the one on the page.
const LOOK = 15000;

class App {
  constructor() {
    this.state = state;
    this.hub = null;
    this.model = null;
    this.jobs = [];
    this.results = new Map();
    this.laying = "";
    this.filterError = "";
    this.reloading = false;
    for (const name of ["opening", "filtering", "searching", "colouring", "following"]) this[name] = inTurn();
    onChanged((stale) => reload(this, stale));
    this.scene = new Scene({
      first: () => {
        performance.mark("first-picture");
        document.documentElement.dataset.ready = "map";
      },
      clicked: (index, add) => this.clicked(index, add),
      hovered: (index) => this.hovered(index),
      lassoed: (indexes, less) => this.lassoed(indexes, less),
      lassoing: (value) => this.lassoButton?.setAttribute("aria-pressed", String(value)),
    });
    this.scene.current = -1;
    this.panels = {
      view: viewPanel(this),
      model: modelPanel(this),
      examples: taskPanel(this),
      selection: selectionPanel(this),
      list: listPanel(this),
    };
    this.runs = runsView(this);
    this.dialog = helpDialog();
    buildFrame(this);
    this.watch();
    listen(this);
  }

  watch() {
    on("licences kinds clusters ranks words", () => this.refilter());
    on("licences kinds clusters ranks words wanted layout density labels colour", () => this.panels.view.render());
    on("layout", () => {
      usePlaces(this.model);
      this.scene.setPlaces(this.model.x, this.model.y);
      this.relabel();
      this.panels.model.render();
      this.panels.examples.render();
    });
    on("colour", () => this.recolour());
    on("density labels", () => this.scene.redraw());
    on("model", () => this.panels.model.load());
    on("picked", () => this.repick());
    on("panel view", () => this.arrange());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.repaint());
    addEventListener("hashchange", () => location.reload());
    if (embedded) return;
    // who comes back from where models were added must not look at an old map; who stays sees it soon
    addEventListener("focus", () => look(this));
    document.addEventListener("visibilitychange", () => look(this));
    setInterval(() => look(this), LOOK);
  }

  async start() {
    restore();
    this.scene.camera.x = state.x;
    this.scene.camera.y = state.y;
    this.scene.camera.zoom = state.zoom;
    this.searchField.value = state.words;
    try {
      const kept = localStorage.getItem("theme");
      if (kept) document.documentElement.dataset.theme = kept;
    } catch {
      /* no storage: the system's own */
    }
    this.arrange();
    try {
      this.hub = await loadHub();
      fill(this.title, nameOf(this.hub.name));
      document.title = `${shown(this.hub.name)} · Navigator`;
      await this.openSpace(spaceToShow(this.hub), false);
    } catch (failure) {
      if (failure instanceof HubChanged) return;
      this.stage.replaceChildren(
        h(
          "div",
          { class: "empty" },
          h("h2", {}, "The map cannot be shown"),
          h("p", { class: "bad", role: "alert" }, shown(failure.message)),
          h("button", { onclick: () => location.reload() }, "Try again"),
        ),
      );
      return;
    }
    if (!embedded) this.follow();
  }

  openSpace(space, anew, before) {
    return openSpace(this, space, anew, before);
  }

  refilter() {
    if (!this.model) return;
    const seen = shownModels(this.model);
    if (this.codes) this.scene.setLooks(this.codes, seen);
    this.seen = seen;
    let total = 0;
    for (const value of seen) total += value;
    fill(
      this.count,
      total === this.model.count
        ? `${number.format(total)} models`
        : `${number.format(total)} of ${number.format(this.model.count)} models` +
            (this.model.found && this.model.foundCut ? "; of cards, those that fit the words best" : "") +
            (state.words.length >= FEWEST_LETTERS && embedded?.cards_cut
              ? `; of cards, the first ${embedded.cards_cut} characters are searched`
              : ""),
    );
    fill(
      this.status,
      total === 0 && this.model.count
        ? h(
            "div",
            { class: "notice" },
            "No model fits. ",
            h("button", { class: "link", onclick: () => this.clearFilters() }, "Show all"),
          )
        : null,
    );
    this.relabel();
    if (state.panel === "list") this.panels.list.render();
  }

  recolour() {
    if (!this.model) return;
    const found = coloured(this.model);
    this.codes = found.codes;
    this.legend = found;
    this.scene.setLooks(found.codes, this.seen);
    this.panels.view.render();
  }

  relabel() {
    if (this.model && this.seen) {
      this.scene.marks.labels = clusterLabels(this.model, this.seen);
      this.scene.redraw();
    }
  }

  repick() {
    const places = this.model
      ? [...state.picked].map((entry) => this.model.places.get(entry)).filter((index) => index !== undefined)
      : [];
    this.scene.marks.picked = places;
    fill(document.getElementById("badge"), state.picked.size ? number.format(state.picked.size) : null);
    this.scene.redraw();
    this.panels.selection.render();
    this.panels.model.render();
    if (state.panel === "list") this.panels.list.render();
  }

  repaint(all = true) {
    this.scene.refill();
    if (all && this.model) {
      this.recolour();
      this.renderAll();
    }
  }

  renderAll() {
    for (const name of ["view", ...this.panelNames]) this.panels[name].render();
  }

  arrange() {
    const held = document.activeElement;
    this.mapView.hidden = state.view !== "map";
    this.runs.element.hidden = state.view !== "runs" || Boolean(embedded);
    for (const view of ["map", "runs"])
      document.getElementById("view-" + view)?.setAttribute("aria-pressed", String(state.view === view));
    if (!this.panelNames.includes(state.panel)) state.panel = "model";
    for (const name of this.panelNames) {
      const tab = document.getElementById("tab-" + name),
        chosen = state.panel === name;
      tab?.setAttribute("aria-selected", String(chosen));
      tab?.setAttribute("tabindex", chosen ? "0" : "-1");
      document.getElementById("panel-" + name)?.classList.toggle("chosen", chosen);
    }
    document.documentElement.dataset.panel = state.panel;
    if (this.model && state.panel !== "view") this.panels[state.panel].render();
    if (state.view === "runs" && !embedded) this.runs.load();
    // where what has the focus is hidden now, it goes to what is shown in its stead
    if (held && held !== document.body && !held.getClientRects().length) {
      const shownNow = state.view === "runs" ? this.runs.element : document.getElementById("panel-" + state.panel);
      shownNow.focus({ preventScroll: true });
    }
  }

  showPanel(index) {
    if (this.panelNames[index]) {
      set({ panel: this.panelNames[index] });
      document.getElementById("tab-" + this.panelNames[index]).focus();
    }
  }

  stepTab(event, name) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const names = this.panelNames.filter(
      (other) => getComputedStyle(document.getElementById("tab-" + other)).display !== "none",
    );
    this.showPanel(this.panelNames.indexOf(names[(names.indexOf(name) + by + names.length) % names.length]));
  }

  clicked(index, add) {
    this.scene.current = index;
    if (index < 0) return add ? undefined : set({ model: null });
    const entry = this.model.entry[index];
    if (!add) return this.open(entry);
    const next = new Set(state.picked);
    if (!next.delete(entry)) next.add(entry);
    return set({ picked: next });
  }

  open(entry) {
    const index = this.model.places.get(entry);
    set({ model: entry, panel: "model", view: "map" });
    if (index !== undefined) {
      this.scene.current = index;
      this.scene.show(index);
    }
  }

  search(text) {
    return search(this, text);
  }

  useFilter(text) {
    return useFilter(this, text);
  }

  useColour(colour, paint) {
    return useColour(this, colour, paint);
  }

  clearFilters() {
    clearFilters(this);
  }

  follow() {
    return follow(this);
  }

  hovered(index) {
    document.getElementById("map").title = index >= 0 && this.model.names ? shown(this.model.names[index]) : "";
  }

  lassoed(indexes, less) {
    const next = new Set(state.picked);
    for (const index of indexes) {
      if (less) next.delete(this.model.entry[index]);
      else next.add(this.model.entry[index]);
    }
    set({ picked: next, panel: "selection" });
    this.announce(-1, `${number.format(next.size)} models ticked`);
  }

  announce(index, text) {
    fill(
      document.getElementById("announced"),
      text ??
        `${shown(this.model.names?.[index] ?? "")}, ${shown(this.model.words.licence[this.model.columns.licence[index]])}`,
    );
  }

  openRun(folder) {
    this.wantedFolder = folder;
    set({ view: "runs", runs: [] });
  }

  async save(kind) {
    const name = `${this.hub.name.replace(/[^\w.-]+/g, "-") || "hub"}-${layoutOf(this.model)}`;
    await { png: savePng, svg: saveSvg, csv: saveCsv }[kind](this, name);
  }

  async copyLink() {
    const text = location.href.split("#")[0] + "#" + address();
    const less = ticksLeftOut() ? `; the ${number.format(state.picked.size)} ticks are too many for it and left out` : "";
    try {
      await navigator.clipboard.writeText(text);
      say(`The link is copied${less}; it holds the token, so give it to yourself alone`);
    } catch {
      say(text + less);
    }
  }

  theme() {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", document.documentElement.dataset.theme);
    } catch {
      /* for this time only */
    }
    this.repaint();
  }

  help() {
    if (!this.dialog.open) this.dialog.showModal();
  }
}

const app = new App();
app.start();
// for tests, and for whoever looks into the page
window.navigatorPage = app;
