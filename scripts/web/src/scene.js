// The map itself: three layers of canvas, what the pointer and the keyboard do to them, and what is drawn on top.

import { Camera, Squares, insidePolygon, shuffled } from "./camera.js";
import { CanvasPoints } from "./canvas.js";
import { drawDensity, makeDensity } from "./density.js";
import { h } from "./dom.js";
import { GlPoints } from "./gl.js";
import { drawMarks } from "./marks.js";
import { makePalette, pens } from "./palette.js";
import { state, set } from "./state.js";

const FEWEST = 20000,
  FIRST = 250000,
  REACH = 14,
  DRAG = 4,
  EDGE = 40,
  SLOW = 24;

export class Scene {
  constructor(actions) {
    this.actions = actions;
    this.camera = new Camera();
    this.under = h("canvas", { "aria-hidden": "true" });
    this.points = h("canvas", { "aria-hidden": "true" });
    this.over = h("canvas", { "aria-hidden": "true" });
    this.element = h(
      "div",
      {
        class: "map",
        tabindex: "0",
        role: "application",
        id: "map",
        "aria-label":
          "Map of the models. Arrow keys move, plus and minus zoom, N and P go from model to model, Enter opens one, " +
          "Space ticks it, L draws around models, question mark lists all keys.",
      },
      this.under,
      this.points,
      this.over,
    );
    const forced = new URLSearchParams(location.search).get("draw");
    this.painter =
      forced === "2d"
        ? new CanvasPoints(this.points)
        : (GlPoints.make(this.points, forced === "gl") ?? this.plainPainter());
    this.painter.onrestored = () => this.refill();
    this.most = FIRST;
    this.hovered = -1;
    this.lasso = null;
    this.lassoing = false;
    this.marks = { tasks: [], neighbours: [], labels: [] };
    this.palette = makePalette();
    this.painter.setPalette(this.palette);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.element);
  }

  // A canvas that has been asked for WebGL gives no 2D any more.
  plainPainter() {
    const canvas = h("canvas", { "aria-hidden": "true" });
    this.points.replaceWith(canvas);
    this.points = canvas;
    return new CanvasPoints(canvas);
  }

  setModel(model) {
    this.model = model;
    this.order = shuffled(model.count);
    this.setPlaces(model.x, model.y);
  }

  setPlaces(x, y) {
    this.x = x;
    this.y = y;
    this.squares = null;
    this.density = null;
    this.painter.setPlaces(x, y, this.order);
    this.redraw();
  }

  setLooks(codes, shown) {
    this.codes = codes;
    this.shown = shown;
    this.density = null;
    this.painter.setLooks(codes, shown);
    this.redraw();
  }

  refill() {
    this.palette = makePalette();
    this.painter.setPalette(this.palette);
    this.density = null;
    if (this.x) this.painter.setPlaces(this.x, this.y, this.order);
    if (this.codes) this.painter.setLooks(this.codes, this.shown);
    this.redraw();
  }

  look() {
    const count = this.model?.count ?? 0,
      ratio = this.ratio;
    const few = count < 300 ? 11 : count < 3000 ? 7 : count < 30000 ? 4 : count < 300000 ? 2.6 : 1.6;
    const size = Math.min(16, few * Math.min(3, 1 + Math.log2(Math.max(1, this.camera.zoom)) * 0.35));
    return {
      size,
      ratio,
      alpha: count > 30000 ? 0.7 : 0.9,
      ghosts: true,
      ghost: pens().ghost,
    };
  }

  resize() {
    const box = this.element.getBoundingClientRect();
    if (!box.width || !box.height) return;
    this.ratio = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.under, this.points, this.over]) {
      canvas.width = Math.round(box.width * this.ratio);
      canvas.height = Math.round(box.height * this.ratio);
    }
    this.camera.width = box.width;
    this.camera.height = box.height;
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  moved() {
    this.moving = true;
    clearTimeout(this.resting);
    this.resting = setTimeout(() => {
      this.moving = false;
      set({ x: this.camera.x, y: this.camera.y, zoom: this.camera.zoom });
      this.redraw();
    }, 160);
    this.redraw();
  }

  // While it moves, only as many points as are drawn in time; all of them once it rests.
  paced(took) {
    const count = this.model.count;
    if (took > 2 * SLOW) this.most = Math.max(FEWEST, Math.min(this.most, count) / 2);
    else if (took < SLOW && this.most < count) this.most *= 1.25;
  }

  draw() {
    if (!this.model || !this.codes || this.camera.width < 2) return;
    const look = this.look();
    if (this.moving) {
      const start = performance.now();
      requestAnimationFrame(() => this.paced(performance.now() - start));
    }
    this.painter.draw(this.camera, look, this.moving ? this.most : Infinity);
    const under = this.under.getContext("2d");
    under.setTransform(1, 0, 0, 1, 0, 0);
    under.clearRect(0, 0, this.under.width, this.under.height);
    if (state.density) {
      this.density ??= makeDensity(this.x, this.y, this.shown);
      under.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      drawDensity(under, this.density, this.camera);
    }
    this.drawOver(look);
    this.frames = (this.frames ?? 0) + 1;
    if (this.frames === 1) this.actions.first();
  }

  drawOver(look) {
    const over = this.over.getContext("2d");
    over.setTransform(1, 0, 0, 1, 0, 0);
    over.clearRect(0, 0, this.over.width, this.over.height);
    over.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    drawMarks(over, this, look);
  }

  listen() {
    const element = this.element;
    element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const [left, top] = this.at(event);
        const lines = event.deltaMode === 1 ? 16 : 1;
        this.camera.zoomAt(left, top, Math.exp(-event.deltaY * lines * 0.0018));
        this.moved();
      },
      { passive: false },
    );
    this.fingers = new Map();
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, (event) => this.up(event));
    element.addEventListener("pointerleave", () => this.hover(-1));
    element.addEventListener("dblclick", (event) => {
      const [left, top] = this.at(event);
      this.camera.zoomAt(left, top, event.shiftKey ? 0.5 : 2);
      this.moved();
    });
  }

  at(event) {
    const box = this.element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (event.button > 0) return;
    this.element.focus({ preventScroll: true });
    this.element.setPointerCapture(event.pointerId);
    const place = this.at(event);
    this.fingers.set(event.pointerId, place);
    this.start = place;
    this.dragged = false;
    if (this.fingers.size === 1 && (this.lassoing || event.shiftKey)) this.lasso = [this.camera.toMap(...place)];
  }

  move(event) {
    const place = this.at(event),
      before = this.fingers.get(event.pointerId);
    if (!before) {
      this.hover(this.near(...place));
      return;
    }
    if (Math.hypot(place[0] - this.start[0], place[1] - this.start[1]) > DRAG) this.dragged = true;
    if (this.fingers.size === 2) {
      const [one, other] = [...this.fingers.keys()].map((id) => this.fingers.get(id));
      const apart = Math.hypot(one[0] - other[0], one[1] - other[1]);
      this.fingers.set(event.pointerId, place);
      const [newOne, newOther] = [...this.fingers.values()];
      const now = Math.hypot(newOne[0] - newOther[0], newOne[1] - newOther[1]);
      this.camera.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
      this.camera.zoomAt((newOne[0] + newOther[0]) / 2, (newOne[1] + newOther[1]) / 2, now / (apart || 1));
      this.lasso = null;
      this.moved();
      return;
    }
    this.fingers.set(event.pointerId, place);
    if (this.lasso) {
      this.lasso.push(this.camera.toMap(...place));
      this.redraw();
    } else if (this.dragged) {
      this.camera.pan(place[0] - before[0], place[1] - before[1]);
      this.moved();
    }
  }

  up(event) {
    const place = this.at(event);
    if (!this.fingers.delete(event.pointerId)) return;
    if (this.lasso) {
      const path = this.lasso;
      this.lasso = null;
      if (this.dragged && path.length > 2) {
        this.actions.lassoed(this.inside(path), event.altKey);
        this.setLassoing(false);
      }
      this.redraw();
      if (this.dragged) return;
    }
    if (event.type === "pointerup" && !this.dragged) {
      const index = this.near(...place);
      this.actions.clicked(index, event.ctrlKey || event.metaKey);
    }
  }

  setLassoing(value) {
    this.lassoing = value;
    this.element.classList.toggle("lassoing", value);
    this.actions.lassoing?.(value);
  }

  inside(path) {
    const xs = path.map(([x]) => x),
      ys = path.map(([, y]) => y),
      found = [];
    this.squaresNow().within(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys), (index) => {
      if (this.shown[index] && insidePolygon(path, this.x[index], this.y[index])) found.push(index);
    });
    return found;
  }

  squaresNow() {
    return (this.squares ??= new Squares(this.x, this.y));
  }

  near(left, top) {
    if (!this.model || !this.shown) return -1;
    const [x, y] = this.camera.toMap(left, top);
    return this.squaresNow().nearest(x, y, REACH / this.camera.scale, (index) => this.shown[index] === 1);
  }

  // Shown points in view, in the order of their distance to the middle.
  inView(most) {
    const [left, top] = this.camera.toMap(0, 0),
      [right, bottom] = this.camera.toMap(this.camera.width, this.camera.height);
    const found = [];
    this.squaresNow().within(left, bottom, right, top, (index) => {
      if (this.shown[index]) found.push(index);
    });
    if (found.length > 200000) found.length = 200000;
    const away = (index) => (this.x[index] - this.camera.x) ** 2 + (this.y[index] - this.camera.y) ** 2;
    return found.length > most ? found : found.sort((one, other) => away(one) - away(other));
  }

  hover(index) {
    if (index === this.hovered) return;
    this.hovered = index;
    this.element.style.cursor = this.lassoing ? "crosshair" : index >= 0 ? "pointer" : "grab";
    this.actions.hovered(index);
    this.redraw();
  }

  fit(indexes = null) {
    if (!indexes) {
      Object.assign(this.camera, { x: 0, y: 0, zoom: 1 });
    } else if (indexes.length) {
      let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
      for (const index of indexes) {
        left = Math.min(left, this.x[index]);
        right = Math.max(right, this.x[index]);
        bottom = Math.min(bottom, this.y[index]);
        top = Math.max(top, this.y[index]);
      }
      const reach = Math.max(right - left, top - bottom, 0.02);
      Object.assign(this.camera, { x: (left + right) / 2, y: (bottom + top) / 2, zoom: Math.min(60, 1.7 / reach) });
    }
    this.moved();
  }

  // No farther than it takes for a point to be in view: what is around it stays there.
  show(index) {
    const { camera } = this,
      [left, top] = camera.toScreen(this.x[index], this.y[index]);
    const into = (at, size) => Math.max(0, EDGE - at) - Math.max(0, at - (size - EDGE));
    const right = into(left, camera.width),
      down = into(top, camera.height);
    if (!right && !down) return this.redraw();
    camera.pan(right, down);
    return this.moved();
  }
}
