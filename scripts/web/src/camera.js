// From the map's -1 to 1 to pixels and back, and which point lies near a place.

export class Camera {
  constructor() {
    this.x = 0;
    this.y = 0;
    this.zoom = 1;
    this.width = 1;
    this.height = 1;
  }
  get scale() {
    return this.zoom * Math.min(this.width, this.height) * 0.46;
  }
  toScreen(x, y) {
    const scale = this.scale;
    return [this.width / 2 + (x - this.x) * scale, this.height / 2 - (y - this.y) * scale];
  }
  toMap(left, top) {
    const scale = this.scale;
    return [this.x + (left - this.width / 2) / scale, this.y - (top - this.height / 2) / scale];
  }
  pan(right, down) {
    this.x -= right / this.scale;
    this.y += down / this.scale;
    this.stay();
  }
  zoomAt(left, top, factor) {
    const [x, y] = this.toMap(left, top);
    this.zoom = Math.max(0.5, Math.min(2000, this.zoom * factor));
    const [newX, newY] = this.toMap(left, top);
    this.x += x - newX;
    this.y += y - newY;
    this.stay();
  }
  stay() {
    this.x = Math.max(-1.5, Math.min(1.5, this.x));
    this.y = Math.max(-1.5, Math.min(1.5, this.y));
  }
}

// Points sorted into squares: a look around a place reads a few of them, of a million too.
export class Squares {
  constructor(x, y) {
    this.x = x;
    this.y = y;
    const count = x.length;
    this.side = Math.max(1, Math.min(1024, Math.ceil(Math.sqrt(count / 4))));
    const cells = this.side * this.side,
      starts = new Uint32Array(cells + 1),
      own = new Uint32Array(count);
    for (let index = 0; index < count; index += 1) {
      own[index] = this.cell(x[index]) + this.side * this.cell(y[index]);
      starts[own[index] + 1] += 1;
    }
    for (let cell = 0; cell < cells; cell += 1) starts[cell + 1] += starts[cell];
    const next = starts.slice(),
      items = new Uint32Array(count);
    for (let index = 0; index < count; index += 1) items[next[own[index]]++] = index;
    this.starts = starts;
    this.items = items;
  }
  cell(value) {
    return Math.max(0, Math.min(this.side - 1, Math.floor(((value + 1) / 2) * this.side)));
  }

  // All points within a rectangle of the map.
  within(left, bottom, right, top, action) {
    const low = this.cell(left),
      high = this.cell(right);
    for (let row = this.cell(bottom); row <= this.cell(top); row += 1) {
      for (
        let place = this.starts[low + this.side * row];
        place < this.starts[high + this.side * row + 1];
        place += 1
      ) {
        const index = this.items[place];
        if (this.x[index] >= left && this.x[index] <= right && this.y[index] >= bottom && this.y[index] <= top)
          action(index);
      }
    }
  }
  nearest(x, y, reach, allowed) {
    let best = -1,
      least = reach * reach;
    this.within(x - reach, y - reach, x + reach, y + reach, (index) => {
      const away = (this.x[index] - x) ** 2 + (this.y[index] - y) ** 2;
      if (away <= least && allowed(index)) {
        least = away;
        best = index;
      }
    });
    return best;
  }
}

export function insidePolygon(path, x, y) {
  let inside = false;
  for (let one = 0, other = path.length - 1; one < path.length; other = one, one += 1) {
    const [ax, ay] = path[one],
      [bx, by] = path[other];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

// One order of chance for all: the first so many points of it stand for the rest while the map moves.
export function shuffled(count) {
  const order = new Uint32Array(count);
  for (let index = 0; index < count; index += 1) order[index] = index;
  let seed = 12345;
  for (let index = count - 1; index > 0; index -= 1) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((seed / 4294967296) * (index + 1)),
      kept = order[index];
    order[index] = order[other];
    order[other] = kept;
  }
  return order;
}
