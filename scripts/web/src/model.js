// The models of a space by position: places, columns, names, clusters; what is shown, and in which colour.

import { embedded, fromBase64, json, packed, unpack } from "./api.js";
import { dayText } from "./dom.js";
import { CATEGORIES, MISSING, OTHER, steps } from "./palette.js";
import { state } from "./state.js";

export const FEWEST_LETTERS = 3;

export async function loadHub() {
  return embedded ? embedded.hub : json("hub");
}

const fine = (values) => Float32Array.from(values, (value) => value / 32767.5 - 1);

export async function loadModel(space) {
  const { said, arrays } = embedded ? unpack(fromBase64(embedded.packed)) : await packed("map", { space });
  const model = {
    space: said.space,
    count: said.models,
    dim: said.dim,
    words: said.words,
    explained: said.explained,
    state: said.state,
    columns: arrays,
    layout: null,
    names: null,
    lower: null,
    scores: new Map(),
    found: null,
    wanted: null,
  };
  model.x = model.pcaX = embedded ? fine(arrays.x) : arrays.x;
  model.y = model.pcaY = embedded ? fine(arrays.y) : arrays.y;
  model.entry = arrays.entry ?? Uint32Array.from({ length: model.count }, (_, index) => index);
  model.places = new Map();
  for (let index = 0; index < model.count; index += 1) model.places.set(model.entry[index], index);
  if (embedded) {
    model.names = embedded.names;
    model.cards = embedded.cards;
    model.near = { places: arrays.nearest, cosines: fine(arrays.cosine), k: said.neighbours };
    setLayout(model, {
      said,
      arrays: { ...arrays, umap_x: arrays.umap_x && fine(arrays.umap_x), umap_y: arrays.umap_y && fine(arrays.umap_y) },
    });
    embedded.hub.scored.forEach(({ task, metric }, index) =>
      model.scores.set(`score:${task}:${metric}`, arrays[`score_${index}`]),
    );
  }
  return model;
}

// What every question about a map says of it: the server answers for this state of the hub alone.
export const ofMap = (model) => ({ space: model.space, state: model.state });

export function setLayout(model, { said, arrays }) {
  model.layout = {
    clusters: said.clusters,
    unnamed: said.unnamed,
    silhouette: said.silhouette,
    trustPca: said.trust_pca,
    trustUmap: said.trust_umap,
    note: said.note,
    cluster: arrays.cluster,
    umapX: arrays.umap_x,
    umapY: arrays.umap_y,
  };
}

// Which layout is shown: the chosen one, once it is there.
export function layoutOf(model) {
  return state.layout === "umap" && model.layout?.umapX ? "umap" : "pca";
}

export function usePlaces(model) {
  const umap = layoutOf(model) === "umap";
  model.x = umap ? model.layout.umapX : model.pcaX;
  model.y = umap ? model.layout.umapY : model.pcaY;
}

// One byte a model: shown or not.
export function shownModels(model) {
  const { columns, words } = model,
    shown = new Uint8Array(model.count).fill(1);
  const only = (codes, kept) => {
    for (let index = 0; index < shown.length; index += 1) if (!kept[codes[index]]) shown[index] = 0;
  };
  const chosen = (names, all) => all.map((word) => names.has(word));
  if (state.licences.size) only(columns.licence, chosen(state.licences, words.licence));
  if (state.kinds.size) only(columns.kind, chosen(state.kinds, words.kind));
  if (state.clusters.size && model.layout)
    only(
      model.layout.cluster,
      chosen(state.clusters, model.layout.clusters),
    );
  if (state.ranks) {
    const [low, high] = state.ranks;
    for (let index = 0; index < shown.length; index += 1) {
      if (columns.rank[index] < low || columns.rank[index] > high) shown[index] = 0;
    }
  }
  if (model.wanted) for (let index = 0; index < shown.length; index += 1) if (!model.wanted[index]) shown[index] = 0;
  if (state.words && model.names) {
    model.lower ??= model.names.map((name) => name.toLowerCase());
    const words = state.words.toLowerCase();
    const found = embedded ? inCards(model, words) : model.found;
    for (let index = 0; index < shown.length; index += 1) {
      if (shown[index] && !model.lower[index].includes(words) && !found?.[index]) shown[index] = 0;
    }
  }
  return shown;
}

// In a page that was sent: the models whose card has every word, from three letters on.
function inCards(model, words) {
  const each = words.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  if (words.length < FEWEST_LETTERS || !each.length) return null;
  if (model.searched?.words !== words) {
    model.lowerCards ??= model.cards.map((card) => card.toLowerCase());
    const found = Uint8Array.from(model.lowerCards, (card) => (each.every((word) => card.includes(word)) ? 1 : 0));
    model.searched = { words, found };
  }
  return model.searched.found;
}

// Codes into the palette, and what the legend says of them.
export function coloured(model) {
  const colour = state.colour;
  if (colour === "cluster" && model.layout) {
    return categories(model.layout.cluster, model.layout.clusters, "clusters", (index) => model.layout.clusters[index]);
  }
  if (colour === "licence")
    return categories(model.columns.licence, model.words.licence, "licences", (index) => model.words.licence[index]);
  if (colour === "kind")
    return categories(model.columns.kind, model.words.kind, "kinds", (index) => model.words.kind[index]);
  if (colour === "rank")
    return numbers(
      Float32Array.from(model.columns.rank, (rank) => (rank ? Math.log2(rank) : NaN)),
      (value) => String(Math.round(2 ** value)),
      "no rank",
    );
  if (colour === "added")
    return numbers(
      Float32Array.from(model.columns.added, (day) => day || NaN),
      (value) => dayText(Math.round(value)),
      "no date",
    );
  if (model.scores.has(colour)) return numbers(model.scores.get(colour), (value) => value.toFixed(3), "not scored");
  return { codes: new Uint8Array(model.count).fill(colour === "cluster" ? OTHER : 0), items: [] };
}

function categories(values, words, filter, key) {
  const codes = new Uint8Array(values.length),
    counts = new Uint32Array(words.length);
  for (let index = 0; index < values.length; index += 1) {
    counts[values[index]] += 1;
    codes[index] = Math.min(values[index], OTHER);
  }
  const unknown = words.indexOf("unknown");
  if (unknown >= 0)
    for (let index = 0; index < values.length; index += 1) if (values[index] === unknown) codes[index] = MISSING;
  const items = words.map((word, index) => ({
    word,
    count: counts[index],
    key: key(index),
    code: index === unknown ? MISSING : Math.min(index, OTHER),
  }));
  return { codes, items: items.filter((item) => item.count), filter, more: Math.max(0, items.length - CATEGORIES) };
}

function numbers(values, text, without) {
  const found = steps(values);
  const range = found.low <= found.high ? { low: text(found.low), high: text(found.high) } : null;
  return { codes: found.codes, items: [], range, missing: found.missing, without };
}

export async function loadScores(model, task, metric) {
  const name = `score:${task}:${metric}`;
  if (!model.scores.has(name)) {
    model.scores.set(name, (await packed("scores", { ...ofMap(model), task, metric })).arrays.value);
  }
  return name;
}

export async function positions(path, parameters, model) {
  const { said, arrays } = await packed(path, { ...ofMap(model), ...parameters });
  const found = new Uint8Array(model.count);
  for (const place of arrays.position) found[place] = 1;
  return { found, cut: said.cut };
}

// Where the map puts a neighbour, counted from the nearest: what it makes of the true order.
export function mapRank(model, from, to) {
  const reach = (model.x[to] - model.x[from]) ** 2 + (model.y[to] - model.y[from]) ** 2;
  let nearer = 0;
  for (let index = 0; index < model.count; index += 1) {
    if (index !== from && (model.x[index] - model.x[from]) ** 2 + (model.y[index] - model.y[from]) ** 2 < reach)
      nearer += 1;
  }
  return nearer + 1;
}

export function clusterLabels(model, shown) {
  if (!model.layout) return [];
  const sums = model.layout.clusters.map(() => [0, 0, 0]);
  for (let index = 0; index < model.count; index += 1) {
    if (!shown[index]) continue;
    const sum = sums[model.layout.cluster[index]];
    sum[0] += model.x[index];
    sum[1] += model.y[index];
    sum[2] += 1;
  }
  return model.layout.clusters
    .map((text, index) => ({
      text,
      code: Math.min(index, OTHER),
      count: sums[index][2],
      x: sums[index][0] / sums[index][2],
      y: sums[index][1] / sums[index][2],
    }))
    .filter((item) => item.count);
}

// The space whose map is shown first: the one asked for, else the one with most models.
export function spaceToShow(hub) {
  const known = hub.spaces.some((space) => space.number === state.space && space.models);
  return known ? state.space : hub.spaces.reduce((one, other) => (other.models > one.models ? other : one)).number;
}
