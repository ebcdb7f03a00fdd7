// The map as PNG and SVG, the models shown as CSV.

import { dayText, download, shown } from "./dom.js";
import { drawDensity } from "./density.js";
import { css, pens } from "./palette.js";
import { layoutOf } from "./model.js";
import { state } from "./state.js";

const MOST_IN_SVG = 60000;

export function savePng(app, name) {
  const { scene } = app,
    canvas = document.createElement("canvas");
  canvas.width = scene.points.width;
  canvas.height = scene.points.height;
  const context = canvas.getContext("2d");
  context.fillStyle = pens().map;
  context.fillRect(0, 0, canvas.width, canvas.height);
  scene.moving = false;
  scene.draw(); // what WebGL has drawn is there until the next picture only
  for (const layer of [scene.under, scene.points, scene.over]) context.drawImage(layer, 0, 0);
  return new Promise((done) =>
    canvas.toBlob((blob) => {
      download(`${name}.png`, blob);
      done(blob);
    }),
  );
}

const escaped = (text) =>
  shown(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

export function saveSvg(app, name) {
  const { scene, model } = app,
    { camera } = scene,
    look = scene.look(),
    parts = [];
  const inView = [];
  for (const index of scene.order) {
    const [left, top] = camera.toScreen(scene.x[index], scene.y[index]);
    if (left > -9 && top > -9 && left < camera.width + 9 && top < camera.height + 9) inView.push([index, left, top]);
    if (inView.length >= MOST_IN_SVG) break;
  }
  const groups = new Map();
  for (const [index, left, top] of inView) {
    const key = scene.shown[index] ? scene.codes[index] : -1;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(`M${left.toFixed(1)} ${top.toFixed(1)}h0`);
  }
  const cut = inView.length >= MOST_IN_SVG;
  parts.push(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${camera.width}" height="${camera.height}" viewBox="0 0 ${camera.width} ${camera.height}" font-family="system-ui, sans-serif" font-size="12">`,
  );
  parts.push(
    `<desc>${escaped(app.hub.name)}, ${layoutOf(model).toUpperCase()}, coloured by ${escaped(state.colour)}${cut ? `; ${MOST_IN_SVG} of the points, chosen by chance` : ""}</desc>`,
  );
  parts.push(`<rect width="100%" height="100%" fill="${pens().map}"/>`);
  if (state.density && scene.density) {
    const picture = document.createElement("canvas");
    picture.width = camera.width;
    picture.height = camera.height;
    drawDensity(picture.getContext("2d"), scene.density, camera);
    parts.push(`<image width="${camera.width}" height="${camera.height}" href="${picture.toDataURL()}"/>`);
  }
  const { ghost, ink } = pens(),
    breadth = document.createElement("canvas").getContext("2d");
  breadth.font = "600 12px system-ui, sans-serif";
  // a line of no length with round ends is a point: a path for each colour, not an element for each model
  for (const [key, places] of groups) {
    const colour = key < 0 ? css(ghost.slice(0, 3).map((value) => Math.round(255 * value))) : css(scene.palette[key]);
    parts.push(
      `<path d="${places.join("")}" stroke="${colour}" stroke-opacity="${key < 0 ? 0.15 : look.alpha}" stroke-width="${look.size.toFixed(1)}" stroke-linecap="round" fill="none"/>`,
    );
  }
  if (state.labels && state.colour === "cluster") {
    for (const item of scene.marks.labels) {
      const [middle, top] = camera.toScreen(item.x, item.y),
        half = breadth.measureText(shown(item.text)).width / 2 + 6;
      // as on the map: not cut by the edge of the picture
      const within = middle >= 0 && middle <= camera.width,
        left = within ? Math.max(half, Math.min(camera.width - half, middle)) : middle;
      parts.push(
        `<text x="${left.toFixed(1)}" y="${top.toFixed(1)}" text-anchor="middle" font-weight="600" fill="${ink}">${escaped(item.text)}</text>`,
      );
    }
  }
  const named = scene.inView(60);
  if (state.labels && named.length <= 60 && model.names) {
    for (const index of named) {
      const [left, top] = camera.toScreen(scene.x[index], scene.y[index]);
      parts.push(
        `<text x="${(left + look.size / 2 + 4).toFixed(1)}" y="${(top + 4).toFixed(1)}" fill="${ink}">${escaped(model.names[index])}</text>`,
      );
    }
  }
  for (const task of scene.marks.tasks) {
    const place = task[layoutOf(model)];
    if (!place) continue;
    const [left, top] = camera.toScreen(...place);
    parts.push(
      `<text x="${left.toFixed(1)}" y="${top.toFixed(1)}" font-weight="700" fill="${ink}">◆ ${escaped(task.name)}</text>`,
    );
  }
  parts.push("</svg>");
  download(`${name}.svg`, new Blob([parts.join("\n")], { type: "image/svg+xml" }));
}

// A cell that a spreadsheet takes for text: a name of others must not become a formula.
function cell(value) {
  const text = String(value);
  const safe = /^[=+\-@\t\r]/.test(text) && !/^-?\d+(\.\d+)?(e-?\d+)?$/.test(text) ? "'" + text : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function saveCsv(app, name) {
  const { model, scene } = app,
    { columns, words } = model;
  const scores = [...model.scores.keys()];
  const lines = [
    [
      "id",
      "kind",
      "rank",
      "licence",
      "added",
      "kilobytes",
      "cluster",
      "pca_x",
      "pca_y",
      "umap_x",
      "umap_y",
      ...scores.map((key) => key.slice(6)),
    ]
      .map(cell)
      .join(","),
  ];
  for (let index = 0; index < model.count; index += 1) {
    if (!scene.shown[index]) continue;
    const { layout } = model;
    lines.push(
      [
        model.names?.[index] ?? model.entry[index],
        words.kind[columns.kind[index]],
        columns.rank[index],
        words.licence[columns.licence[index]],
        dayText(columns.added[index]),
        columns.size[index],
        layout ? layout.clusters[layout.cluster[index]] : "",
        model.pcaX[index].toFixed(5),
        model.pcaY[index].toFixed(5),
        layout?.umapX ? layout.umapX[index].toFixed(5) : "",
        layout?.umapY ? layout.umapY[index].toFixed(5) : "",
        ...scores.map((key) => (Number.isNaN(model.scores.get(key)[index]) ? "" : model.scores.get(key)[index])),
      ]
        .map(cell)
        .join(","),
    );
  }
  download(`${name}.csv`, new Blob(["\ufeff" + lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
}
