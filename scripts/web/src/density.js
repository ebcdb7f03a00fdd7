// How many shown points lie where: counted in squares, smoothed, drawn under the points.

import { css, pens } from "./palette.js";

const SIDE = 160;

export function makeDensity(x, y, shown) {
  let counts = new Float32Array(SIDE * SIDE);
  for (let index = 0; index < x.length; index += 1) {
    if (!shown[index]) continue;
    const column = Math.min(SIDE - 1, Math.max(0, Math.floor(((x[index] + 1.1) / 2.2) * SIDE)));
    const row = Math.min(SIDE - 1, Math.max(0, Math.floor(((1.1 - y[index]) / 2.2) * SIDE)));
    counts[row * SIDE + column] += 1;
  }
  for (let turn = 0; turn < 3; turn += 1) counts = smoothed(smoothed(counts, 1), SIDE);
  const most = counts.reduce((one, other) => Math.max(one, other), 0) || 1;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d"),
    picture = context.createImageData(SIDE, SIDE);
  const [red, green, blue] = pens().dense;
  for (let index = 0; index < counts.length; index += 1) {
    // in bands, so that equal shades can be followed by the eye
    const share = Math.floor(Math.sqrt(counts[index] / most) * 8) / 8;
    picture.data.set([red, green, blue, Math.round(share * 120)], index * 4);
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

function smoothed(counts, step) {
  const found = new Float32Array(counts.length),
    reach = 2;
  for (let row = 0; row < SIDE; row += 1) {
    for (let column = 0; column < SIDE; column += 1) {
      let sum = 0;
      for (let away = -reach; away <= reach; away += 1) {
        const at = step === 1 ? column + away : row + away;
        if (at >= 0 && at < SIDE) sum += counts[step === 1 ? row * SIDE + at : at * SIDE + column];
      }
      found[row * SIDE + column] = sum / (2 * reach + 1);
    }
  }
  return found;
}

export function drawDensity(context, picture, camera) {
  const [left, top] = camera.toScreen(-1.1, 1.1),
    side = 2.2 * camera.scale;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, left, top, side, side);
}

export { css };
