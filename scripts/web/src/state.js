// What is shown, in one place; the address holds all of it that another person needs to see the same.

const listeners = new Map();

export const state = {
  view: "map",
  panel: "model",
  space: null,
  layout: "pca",
  colour: "cluster",
  density: false,
  labels: true,
  model: null,
  picked: new Set(),
  x: 0,
  y: 0,
  zoom: 1,
  words: "",
  wanted: "",
  licences: new Set(),
  kinds: new Set(),
  clusters: new Set(),
  ranks: null,
  task: null,
  by: "gain",
  runs: [],
  run: null,
  differ: false,
};

export function on(names, action) {
  for (const name of names.split(" ")) {
    if (!listeners.has(name)) listeners.set(name, new Set());
    listeners.get(name).add(action);
  }
}

export function set(changes) {
  const actions = new Set();
  for (const [name, value] of Object.entries(changes)) {
    if (state[name] === value && !(value instanceof Set)) continue;
    state[name] = value;
    for (const action of listeners.get(name) ?? []) actions.add(action);
  }
  for (const action of actions) action();
  keep();
}

export function toggle(name, value) {
  const next = new Set(state[name]);
  if (!next.delete(value)) next.add(value);
  set({ [name]: next });
}

const SETS = ["licences", "kinds", "clusters"];
const PLAIN = { view: "map", panel: "model", layout: "pca", colour: "cluster", words: "", wanted: "", by: "gain" };
// Characters of ticks in an address, and models that one may tick: the address may be anyone's.
const LONGEST = 6000,
  MOST_PICKED = 1000000;
let timer = 0;

// Numbers as they stand in an address: 3,7-12; what was drawn around was often added together.
function rangesOf(numbers) {
  const parts = [];
  let first = null,
    last = null;
  for (const value of Float64Array.from(numbers).sort()) {
    if (value === last + 1 && first !== null) last = value;
    else {
      if (first !== null) parts.push(first === last ? first : `${first}-${last}`);
      first = last = value;
    }
  }
  if (first !== null) parts.push(first === last ? first : `${first}-${last}`);
  return parts.join(",");
}

function numbersOf(text) {
  const found = new Set();
  for (const part of text.split(",")) {
    const ends = /^(\d{1,15})(?:-(\d{1,15}))?$/.exec(part);
    if (!ends) continue;
    const last = Number(ends[2] ?? ends[1]);
    for (let value = Number(ends[1]); value <= last && found.size < MOST_PICKED; value += 1) found.add(value);
  }
  return found;
}

// Whether there are more ticks than an address holds; whoever copies it is told.
export function ticksLeftOut() {
  return rangesOf(state.picked).length > LONGEST;
}

export function address() {
  const found = new URLSearchParams();
  if (state.space !== null) found.set("space", state.space);
  for (const [name, usual] of Object.entries(PLAIN)) if (state[name] !== usual) found.set(name, state[name]);
  if (state.density) found.set("density", "1");
  if (!state.labels) found.set("labels", "0");
  if (state.model !== null) found.set("model", state.model);
  if (state.ranks) found.set("ranks", state.ranks.join("-"));
  for (const name of SETS) {
    if (state[name].size) found.set(name, [...state[name]].map(encodeURIComponent).join(","));
  }
  const picked = rangesOf(state.picked);
  if (picked && picked.length <= LONGEST) found.set("picked", picked);
  if (state.task) found.set("task", state.task);
  if (state.differ) found.set("differ", "1");
  if (state.runs.length) found.set("runs", state.runs.join(","));
  if (state.run !== null) found.set("run", state.run);
  if (state.zoom !== 1 || state.x || state.y) {
    found.set("at", [state.x.toFixed(4), state.y.toFixed(4), state.zoom.toFixed(3)].join(","));
  }
  return found.toString();
}

function keep() {
  clearTimeout(timer);
  // browsers refuse more than so many changes a second
  timer = setTimeout(() => {
    try {
      history.replaceState(null, "", location.pathname + location.search + "#" + address());
    } catch {
      /* as a file */
    }
  }, 300);
}

export function restore() {
  const found = new URLSearchParams(location.hash.slice(1));
  const whole = (name) => (/^\d{1,15}$/.test(found.get(name) ?? "") ? Number(found.get(name)) : null);
  for (const name of Object.keys(PLAIN)) if (found.has(name)) state[name] = found.get(name);
  if (!["map", "runs"].includes(state.view)) state.view = "map";
  if (!["pca", "umap"].includes(state.layout)) state.layout = "pca";
  state.space = whole("space");
  state.model = whole("model");
  const named = (text) => /^[0-9a-f]{16}$/.test(text);
  state.task = /^[0-9a-f]{12}$/.test(found.get("task") ?? "") ? found.get("task") : null;
  state.differ = found.get("differ") === "1";
  state.picked = numbersOf(found.get("picked") ?? "");
  state.run = named(found.get("run") ?? "") ? found.get("run") : null;
  state.density = found.get("density") === "1";
  state.labels = found.get("labels") !== "0";
  const ranks = (found.get("ranks") ?? "").split("-").map(Number);
  if (ranks.length === 2 && ranks.every(Number.isFinite)) state.ranks = ranks;
  for (const name of SETS) {
    const values = (found.get(name) ?? "")
      .split(",")
      .filter(Boolean)
      .map((value) => {
        try {
          return decodeURIComponent(value);
        } catch {
          return null;
        }
      });
    state[name] = new Set(values.filter((value) => value !== null));
  }
  state.runs = (found.get("runs") ?? "")
    .split(",")
    .filter(named)
    .slice(0, 3);
  const at = (found.get("at") ?? "").split(",").map(Number);
  if (at.length === 3 && at.every(Number.isFinite)) {
    state.x = Math.max(-2, Math.min(2, at[0]));
    state.y = Math.max(-2, Math.min(2, at[1]));
    state.zoom = Math.max(0.5, Math.min(2000, at[2]));
  }
}
