// The page: puts its parts together, loads a hub, and keeps what is shown in step with what was asked for.

import { embedded, HubChanged, json, onChanged, packed } from "./api.js";
import { debounced, fill, h, inTurn, nameOf, number, say, shown } from "./dom.js";
import { helpDialog, listen } from "./keys.js";
import { listPanel } from "./listpanel.js";
import {
  clusterLabels,
  coloured,
  FEWEST_LETTERS,
  layoutOf,
  loadHub,
  loadModel,
  loadScores,
  ofMap,
  positions,
  setLayout,
  shownModels,
  usePlaces,
} from "./model.js";
import { modelPanel } from "./modelpanel.js";
import { isDark } from "./palette.js";
import { runsView } from "./runsview.js";
import { saveCsv, savePng, saveSvg } from "./saving.js";
import { Scene } from "./scene.js";
import { selectionPanel } from "./selectionpanel.js";
import { address, on, restore, set, state, ticksLeftOut } from "./state.js";
import { resultsOf, taskPanel } from "./taskpanel.js";
import { viewPanel } from "./viewpanel.js";

const POLL = 700,
  WAIT = 1500,
  // a hub that models are added to changes again and again
  TRIES = 5;

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
    onChanged((stale) => this.reload(stale));
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
    this.build();
    this.watch();
    listen(this);
  }

  build() {
    const search = debounced((text) => this.search(text), 120),
      searched = embedded && embedded.cards_cut === 0 ? "Search names" : "Search names and cards";
    this.searchField = h("input", {
      type: "search",
      id: "search",
      placeholder: searched + "  /",
      "aria-label": searched,
      value: state.words,
      oninput: (event) => search(event.target.value),
    });
    this.count = h("span", { class: "hint", id: "count", role: "status" });
    this.status = h("div", { class: "status", id: "status", "aria-live": "polite" });
    this.title = h("h1", {}, "Navigator");
    this.viewTabs = h(
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
    this.panelNames = names.map(([name]) => name);
    this.tabs = h(
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
            onkeydown: (event) => this.stepTab(event, name),
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
        this.panels[name].element,
      );
    this.lassoButton = h(
      "button",
      {
        id: "lasso",
        "aria-pressed": "false",
        title: "Draw around models (L)",
        onclick: () => this.scene.setLassoing(!this.scene.lassoing),
      },
      "Lasso",
    );
    const zoom = (factor) => () => {
      this.scene.camera.zoomAt(this.scene.camera.width / 2, this.scene.camera.height / 2, factor);
      this.scene.moved();
    };
    this.stage = h(
      "section",
      { class: "stage", "aria-label": "Map" },
      this.scene.element,
      h(
        "div",
        { class: "tools", role: "toolbar", "aria-label": "Map tools" },
        this.lassoButton,
        h("button", { "aria-label": "Zoom in", title: "Zoom in (+)", onclick: zoom(1.5) }, "+"),
        h("button", { "aria-label": "Zoom out", title: "Zoom out (-)", onclick: zoom(1 / 1.5) }, "−"),
        h("button", { title: "Show all (0)", id: "fit", onclick: () => this.scene.fit() }, "All"),
      ),
      this.status,
    );
    this.aside = h("aside", { class: "left", "aria-label": "View" }, panel("view"));
    this.right = h(
      "aside",
      { class: "right", "aria-label": "Panels" },
      this.tabs,
      ...this.panelNames.slice(1).map(panel),
    );
    this.mapView = h("main", { class: "mapview" }, this.aside, this.stage, this.right);
    fill(
      document.getElementById("app"),
      h(
        "header",
        {},
        this.title,
        this.count,
        h("span", { class: "grow" }),
        this.searchField,
        !embedded && this.viewTabs,
        h(
          "button",
          {
            class: "quiet",
            "aria-label": "Light or dark",
            title: "Light or dark",
            id: "theme",
            onclick: () => this.theme(),
          },
          "◐",
        ),
        h("button", { class: "quiet", "aria-label": "Keys", title: "Keys (?)", onclick: () => this.help() }, "?"),
      ),
      this.mapView,
      this.runs.element,
      h("div", { id: "said", role: "alert" }),
      h("div", { id: "announced", class: "hidden", "aria-live": "polite" }),
      this.dialog,
      h("div", { id: "dropping", "aria-hidden": "true" }, h("p", {}, "Drop your examples")),
    );
    this.listenForFiles();
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
    // who comes back from where models were added must not look at an old map
    if (!embedded) addEventListener("focus", () => this.model && json("state", ofMap(this.model)).catch(() => {}));
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
      await this.openSpace(this.spaceToShow(), false);
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

  spaceToShow() {
    const known = this.hub.spaces.some((space) => space.number === state.space && space.models);
    return known
      ? state.space
      : this.hub.spaces.reduce((one, other) => (other.models > one.models ? other : one)).number;
  }

  // Another process has changed the hub: what stands by its place is loaded again; what is chosen, and the view, stay.
  async reload(stale) {
    // an answer to a question that was asked before it was loaded again
    if (this.reloading || (stale && this.model && stale !== this.model.state)) return;
    this.reloading = true;
    say("The hub has changed; the map is being loaded again");
    try {
      for (let turn = 1; ; turn += 1) {
        try {
          this.hub = await loadHub();
          const lost = await this.openSpace(this.spaceToShow(), false, this.model);
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
      this.reloading = false;
    }
    this.follow();
  }

  // What is chosen by model, carried to a map that was loaded again: by its number, else by its id. What is lost is said.
  carry(before) {
    const { model } = this,
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
    const current = before.entry[this.scene.current];
    this.scene.current = current === undefined ? -1 : (model.places.get(now(current)) ?? -1);
    set({}); // the address
    return lost.join("; ");
  }

  // What is lost of what was chosen on the map `before`, in words.
  async openSpace(space, anew = true, before = null) {
    const still = this.opening();
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
      this.scene.fit();
    }
    const model = await loadModel(space);
    if (before) model.names = await json("names", ofMap(model));
    if (!still()) return "";
    state.space = space;
    this.model = model;
    this.laying = "";
    const lost = before ? this.carry(before) : "";
    this.scene.hovered = -1;
    Object.assign(this.scene.marks, { chosen: -1, neighbours: [], tasks: [], picked: [] });
    this.scene.palette.length && this.repaint(false);
    if (state.colour.startsWith("score:") && !this.model.scores.has(state.colour))
      await this.useColour(state.colour, false);
    if (embedded && state.layout === "umap") usePlaces(this.model);
    this.scene.setModel(this.model);
    this.refilter();
    this.recolour();
    this.relabel();
    this.repick();
    this.panels.selection.load();
    if (state.wanted) await this.useFilter(state.wanted);
    if (!embedded) {
      model.names ??= await json("names", ofMap(model));
      if (!still()) return "";
      await this.search(state.words);
      this.refilter();
      this.pollLayout(model);
    }
    await this.panels.model.load();
    if (!still()) return "";
    this.renderAll();
    if (this.jobs.length) this.follow();
    document.documentElement.dataset.names = "ready";
    return lost;
  }

  // Clusters and UMAP come when they are ready; until then the map is PCA's.
  async pollLayout(model) {
    try {
      const found = await packed("layout", ofMap(model));
      if (model !== this.model) return;
      const job = found.waiting ?? found.said.job;
      const failed = job?.state === "failed" || job?.state === "stopped";
      this.laying = !job
        ? ""
        : failed
          ? `There will be no UMAP: ${job.error || job.state}.`
          : `${job.what[0].toUpperCase()}${job.what.slice(1)}${job.total > 1 ? `, step ${Math.min(job.done + 1, job.total)} of ${job.total}` : ""} …`;
      if (!found.waiting && (!model.layout || !job)) {
        setLayout(model, found);
        document.documentElement.dataset.layout = job ? "clusters" : "ready";
        if (layoutOf(model) === "umap") {
          usePlaces(model);
          this.scene.setPlaces(model.x, model.y);
        }
        this.refilter();
        this.recolour();
        this.relabel();
        this.renderAll();
        if (this.jobs.length) this.follow(); // tasks have a place on it now
      } else this.panels.view.render();
      if (job && !failed) setTimeout(() => this.pollLayout(model), WAIT);
    } catch (failure) {
      if (failure instanceof HubChanged || model !== this.model) return;
      this.laying = failure.message;
      this.panels.view.render();
    }
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

  async search(text) {
    const words = text.trim(),
      still = this.searching(),
      { model } = this;
    if (model) model.found = null;
    set({ words });
    if (!words || !model || embedded || words.length < FEWEST_LETTERS) return;
    try {
      const { found, cut } = await positions("find", { text: words }, model);
      if (!still() || model !== this.model) return;
      model.found = found;
      model.foundCut = cut;
      this.refilter();
    } catch {
      /* names are searched all the same */
    }
  }

  async useFilter(text) {
    const { model } = this,
      still = this.filtering();
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
    if (!still() || model !== this.model) return;
    model.wanted = found;
    this.filterError = error;
    set({ wanted: text });
    this.refilter();
    this.panels.view.render();
  }

  async useColour(colour, paint = true) {
    const still = this.colouring();
    if (colour.startsWith("score:")) {
      const item = this.hub.scored.find(({ task, metric }) => `score:${task}:${metric}` === colour);
      if (!item) {
        state.colour = "cluster";
        return;
      }
      try {
        await loadScores(this.model, item.task, item.metric);
      } catch (failure) {
        if (!(failure instanceof HubChanged)) say(failure.message, "error");
        return;
      }
    }
    if (paint && still()) set({ colour });
  }

  clearFilters() {
    this.filtering(); // no answer that is still to come counts
    this.searching();
    this.model.wanted = this.model.found = null;
    this.filterError = "";
    this.searchField.value = "";
    set({ licences: new Set(), kinds: new Set(), clusters: new Set(), ranks: null, words: "", wanted: "" });
    this.refilter();
  }

  // Jobs are asked about as long as one runs; what they found is fetched once.
  async follow() {
    clearTimeout(this.polling);
    const still = this.following();
    try {
      const jobs = await json("jobs");
      for (const job of jobs) {
        const placing = job.kind === "task" ? `${this.model.state} ${Boolean(this.model.layout?.umapX)}` : "";
        if (job.state === "done" && this.results.get(job.id)?.placing !== placing)
          this.results.set(job.id, { ...(await resultsOf(job, this.model)), placing });
      }
      if (!still()) return;
      const before = new Map(this.jobs.map((job) => [job.id, job.state]));
      this.jobs = jobs;
      if (jobs.some((job) => job.kind === "plan" && job.state === "done" && before.get(job.id) === "running"))
        this.rescore();
      for (const job of jobs) {
        if (job.state === "failed" && before.get(job.id) === "running") say(`${job.name}: ${job.error}`, "error");
        if (job.state === "done" && before.get(job.id) === "running")
          say(
            job.kind === "plan"
              ? `${job.name}: verdict ${this.results.get(job.id).verdict || "none"}`
              : `${job.name}: the models are ranked`,
          );
      }
    } catch (failure) {
      if (!(failure instanceof HubChanged)) say(failure.message, "error");
      return;
    }
    this.showTask();
    this.scene.marks.tasks = this.jobs
      .filter((job) => job.kind === "task" && job.state === "done" && job.space === this.model?.space)
      .map((job) => ({ name: job.name, ...this.results.get(job.id) }));
    this.scene.redraw();
    this.panels.examples.render();
    this.panels.selection.render();
    if (this.jobs.some((job) => job.state === "running")) this.polling = setTimeout(() => this.follow(), POLL);
  }

  // The ranking that is open, which the address names: the newest one, unless another was chosen or all closed.
  showTask() {
    const tasks = this.jobs.filter((job) => job.kind === "task");
    if (state.task && !tasks.some((job) => job.id === state.task)) {
      say("The ranking that the link names is gone with the server that made it; drop the examples again", "error");
      set({ task: null });
    }
    if (state.task === null) {
      const newest = tasks.find((job) => job.state === "done");
      if (newest) set({ task: newest.id });
    }
  }

  // A plan has left scores in the hub.
  async rescore() {
    try {
      this.hub = await loadHub();
      this.model.scores.clear();
      if (state.colour.startsWith("score:")) {
        await this.useColour(state.colour, false);
        this.recolour();
      }
      this.panels.view.render();
    } catch {
      /* they are there when the page is loaded again */
    }
  }

  openRun(folder) {
    this.wantedFolder = folder;
    set({ view: "runs", runs: [] });
  }

  listenForFiles() {
    const veil = document.getElementById("dropping");
    let depth = 0;
    if (embedded) return;
    const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    addEventListener("dragenter", (event) => {
      if (files(event)) {
        depth += 1;
        veil.classList.add("shown");
      }
    });
    addEventListener("dragleave", () => {
      depth = Math.max(0, depth - 1);
      if (!depth) veil.classList.remove("shown");
    });
    addEventListener("dragover", (event) => {
      if (files(event)) event.preventDefault();
    });
    addEventListener("drop", (event) => {
      depth = 0;
      veil.classList.remove("shown");
      const [file] = event.dataTransfer?.files ?? [];
      if (!file) return;
      event.preventDefault();
      this.panels.examples.send(file.name, file);
    });
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
