// What stands on top of the points: names, the chosen model and its neighbours, ticked models, tasks, the lasso.

import { cut, shown } from "./dom.js";
import { layoutOf } from "./model.js";
import { css, pens, rgb } from "./palette.js";
import { state } from "./state.js";

const NAMES_UP_TO = 48,
  EDGE = 6,
  FONT = "12px system-ui, sans-serif";

export function drawMarks(context, scene, look) {
  const { camera, model } = scene,
    { ink, ground, mark, within, faint } = pens();
  const at = (index) => camera.toScreen(scene.x[index], scene.y[index]);
  const taken = [];
  const chosen = scene.marks.chosen ?? -1;

  // true neighbours: lines, however far away the map puts them
  if (chosen >= 0) {
    context.lineWidth = 1.2;
    for (const { index, cosine } of scene.marks.neighbours) {
      const [fromX, fromY] = at(chosen),
        [toX, toY] = at(index);
      context.strokeStyle = css(rgb(ink), faint + 0.5 * Math.max(0, cosine));
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.lineTo(toX, toY);
      context.stroke();
    }
    for (const { index } of scene.marks.neighbours) ring(context, at(index), look.size / 2 + 3, ink, 1.2);
  }
  const ticked = scene.marks.picked ?? [];
  for (const index of ticked.length > 5000 ? ticked.slice(0, 5000) : ticked) {
    ring(context, at(index), look.size / 2 + 2.5, mark, 2);
  }
  if (chosen >= 0) {
    ring(context, at(chosen), look.size / 2 + 4, ground, 5);
    ring(context, at(chosen), look.size / 2 + 4, ink, 2.4);
  }
  for (const task of scene.marks.tasks) {
    const place = task[layoutOf(model)];
    if (!place) continue;
    const [left, top] = camera.toScreen(...place);
    diamond(context, left, top, 9, mark, ground);
    label(context, cut(shown(task.name), 32), left + 13, top, { ink, ground, bold: true, taken, force: true });
  }
  const apart = taken.slice();
  context.font = FONT;
  // while they are few, no name covers another model
  const few = state.labels && model.names && !scene.moving ? scene.inView(NAMES_UP_TO) : [];
  if (few.length <= NAMES_UP_TO) {
    for (const index of few) {
      const [left, top] = at(index),
        reach = look.size / 2;
      taken.push([left - reach, top - reach, left + reach, top + reach]);
    }
  }
  // names of clusters make way for it
  if (chosen >= 0) nameBeside(context, scene, chosen, look, { ink, ground, taken, apart, force: true, bold: true });
  if (state.labels && state.colour === "cluster") {
    for (const item of scene.marks.labels) {
      const [left, top] = camera.toScreen(item.x, item.y);
      for (const down of [0, -18, 18, -36, 36]) {
        if (
          label(context, cut(shown(item.text), 34), left, top + down, {
            ink,
            ground,
            bold: true,
            centred: true,
            inside: camera,
            taken,
            dot: css(scene.palette[item.code]),
          })
        )
          break;
      }
    }
  }
  if (scene.hovered >= 0 && scene.hovered !== chosen) nameBeside(context, scene, scene.hovered, look, { ink, ground, taken, force: true });
  if (scene.current >= 0 && document.activeElement === scene.element) {
    square(context, at(scene.current), look.size / 2 + 7, ink);
    if (scene.current !== chosen) nameBeside(context, scene, scene.current, look, { ink, ground, taken, force: true });
  }
  if (few.length <= NAMES_UP_TO) {
    const named = [chosen, scene.hovered];
    for (const index of few) {
      if (!named.includes(index)) nameBeside(context, scene, index, look, { ink, ground, taken });
    }
  }
  if (scene.lasso?.length > 1) {
    context.beginPath();
    scene.lasso.forEach(([x, y], index) => context[index ? "lineTo" : "moveTo"](...camera.toScreen(x, y)));
    context.closePath();
    context.fillStyle = within;
    context.fill();
    context.setLineDash([5, 4]);
    context.lineWidth = 1.5;
    context.strokeStyle = mark;
    context.stroke();
    context.setLineDash([]);
  }
}

function ring(context, [left, top], radius, colour, width) {
  context.beginPath();
  context.arc(left, top, radius, 0, 7);
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.stroke();
}

function square(context, [left, top], reach, colour) {
  context.lineWidth = 1.5;
  context.strokeStyle = colour;
  context.setLineDash([3, 3]);
  context.strokeRect(left - reach, top - reach, 2 * reach, 2 * reach);
  context.setLineDash([]);
}

function diamond(context, left, top, reach, colour, ground) {
  context.beginPath();
  context.moveTo(left, top - reach);
  context.lineTo(left + reach, top);
  context.lineTo(left, top + reach);
  context.lineTo(left - reach, top);
  context.closePath();
  context.lineWidth = 4;
  context.strokeStyle = ground;
  context.stroke();
  context.fillStyle = colour;
  context.fill();
}

// To the right of its point, else to the left; where it must not cover the names in `apart`, a line lower or higher.
function nameBeside(context, scene, index, look, how) {
  const name = scene.model.names?.[index];
  if (name === undefined) return;
  const [left, top] = scene.camera.toScreen(scene.x[index], scene.y[index]),
    away = look.size / 2 + (how.force ? 11 : 6); // beyond the ring or frame around what is open or pointed at
  const text = cut(shown(name), 36);
  const beside = (down, more) =>
    label(context, text, left + away, top + down, { ...how, ...more, most: scene.camera.width }) ||
    label(context, text, left - away, top + down, { ...how, ...more, ended: true });
  if (!how.apart?.length) beside(0);
  else if (![0, 18, -18].some((down) => beside(down))) beside(0, { apart: [] });
}

// A text where no other stands yet; names of any direction keep to their own box.
function label(context, text, left, top, how) {
  const { ink, ground, bold, centred, ended, dot, taken, apart = [], force, inside, most = Infinity } = how;
  context.font = bold ? "600 " + FONT : FONT;
  context.direction = "ltr";
  const width = context.measureText(text).width + (dot ? 14 : 0),
    height = 16;
  let start = centred ? left - width / 2 : ended ? left - width : left;
  // what belongs into the picture is not cut by its edge
  if (inside && left >= 0 && left <= inside.width) start = Math.max(EDGE, Math.min(inside.width - width - EDGE, start));
  const box = [start - 3, top - height / 2, start + width + 3, top + height / 2];
  if (box[2] > most || (ended && box[0] < 0)) return false;
  const covers = (other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1];
  if ((force ? apart : taken).some(covers)) return false;
  taken.push(box);
  context.fillStyle = ground;
  context.beginPath();
  context.roundRect(box[0], box[1], box[2] - box[0], height, 4);
  context.fill();
  if (dot) {
    context.fillStyle = dot;
    context.beginPath();
    context.arc(start + 5, top, 4, 0, 7);
    context.fill();
  }
  context.fillStyle = ink;
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.fillText(text, start + (dot ? 14 : 0), top + 0.5);
  return true;
}
