// The same points without WebGL: round ones while they are few, else written straight into the picture's pixels.

const FEW = 4000;

export class CanvasPoints {
  constructor(canvas) {
    this.kind = "Canvas 2D";
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.count = 0;
  }
  setPlaces(x, y, order) {
    this.x = x;
    this.y = y;
    this.order = order;
    this.count = x.length;
  }
  setLooks(codes, shown) {
    this.codes = codes;
    this.shown = shown;
  }
  setPalette(colours) {
    this.colours = colours;
  }
  finish() {}

  draw(camera, look, most) {
    const { width, height } = this.canvas,
      context = this.context;
    context.clearRect(0, 0, width, height);
    if (!this.count || !this.codes) return;
    if (this.count <= FEW) this.drawRound(camera, look);
    else this.drawPixels(camera, look, most, context, width, height);
  }

  drawRound(camera, look) {
    const context = this.context,
      ratio = look.ratio,
      radius = (look.size * ratio) / 2;
    for (const seen of look.ghosts ? [0, 1] : [1]) {
      for (let place = 0; place < this.count; place += 1) {
        const index = this.order[place];
        if (this.shown[index] !== seen) continue;
        const [left, top] = camera.toScreen(this.x[index], this.y[index]);
        const [red, green, blue] = seen
          ? this.colours[this.codes[index]]
          : look.ghost.slice(0, 3).map((part) => part * 255);
        context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${seen ? look.alpha : look.ghost[3]})`;
        context.beginPath();
        context.arc(left * ratio, top * ratio, seen ? radius : radius * 0.6, 0, 7);
        context.fill();
      }
    }
  }

  drawPixels(camera, look, most, context, width, height) {
    const picture = context.createImageData(width, height),
      pixels = new Uint32Array(picture.data.buffer);
    const ratio = look.ratio,
      scale = camera.scale * ratio,
      side = Math.max(1, Math.round(look.size * ratio * 0.85));
    const left = width / 2 - camera.x * scale,
      top = height / 2 + camera.y * scale,
      back = side >> 1;
    const solid = Math.round(255 * Math.min(1, look.alpha + 0.15));
    const packedColours = this.colours.map(
      ([red, green, blue]) => ((solid << 24) | (blue << 16) | (green << 8) | red) >>> 0,
    );
    const [red, green, blue, alpha] = look.ghost.map((part) => Math.round(part * 255));
    const ghost = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    const until = Math.min(this.count, most);
    for (const seen of look.ghosts ? [0, 1] : [1]) {
      for (let place = 0; place < until; place += 1) {
        const index = this.order[place];
        if (this.shown[index] !== seen) continue;
        const column = Math.round(left + this.x[index] * scale) - back,
          row = Math.round(top - this.y[index] * scale) - back;
        if (column < 0 || row < 0 || column + side > width || row + side > height) continue;
        const colour = seen ? packedColours[this.codes[index]] : ghost;
        for (let down = 0; down < side; down += 1) {
          const start = (row + down) * width + column;
          for (let right = 0; right < side; right += 1) pixels[start + right] = colour;
        }
      }
    }
    context.putImageData(picture, 0, 0);
  }
}
