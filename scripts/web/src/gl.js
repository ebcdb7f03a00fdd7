// Points by WebGL: one draw call, whatever their number. Written here, since regl (which regl-scatterplot draws by)
// makes its functions out of text, and the page's policy lets no text become code.

const VERTEX = `
attribute float a_x; attribute float a_y; attribute float a_colour; attribute float a_shown;
uniform vec2 u_shift; uniform vec2 u_scale; uniform float u_size; uniform float u_ghost;
varying float v_colour; varying float v_shown;
void main() {
  gl_Position = vec4((vec2(a_x, a_y) - u_shift) * u_scale, 0.0, 1.0);
  gl_PointSize = a_shown > 0.5 ? u_size : max(1.0, u_size * 0.6);
  if (a_shown < 0.5 && u_ghost < 0.5) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  v_colour = a_colour; v_shown = a_shown;
}`;
const FRAGMENT = `
precision mediump float;
uniform sampler2D u_palette; uniform float u_alpha; uniform float u_edge; uniform vec4 u_ghostly;
varying float v_colour; varying float v_shown;
void main() {
  float away = length(gl_PointCoord - 0.5) * 2.0;
  float cover = 1.0 - smoothstep(1.0 - u_edge, 1.0, away);
  if (cover <= 0.0) discard;
  vec4 colour = v_shown > 0.5 ? vec4(texture2D(u_palette, vec2((v_colour + 0.5) / 256.0, 0.5)).rgb, u_alpha) : u_ghostly;
  gl_FragColor = vec4(colour.rgb * colour.a * cover, colour.a * cover);
}`;

export class GlPoints {
  // None where there is no WebGL, or only one that the processor's cores pretend: plain canvas is quicker than that.
  static make(canvas, forced) {
    const settings = { alpha: true, antialias: false, depth: false, premultipliedAlpha: true };
    const gl = canvas.getContext("webgl2", settings) ?? canvas.getContext("webgl", settings);
    if (!gl) return null;
    const told = gl.getExtension("WEBGL_debug_renderer_info");
    const by = told ? String(gl.getParameter(told.UNMASKED_RENDERER_WEBGL)) : "";
    if (!forced && /swiftshader|llvmpipe|software|basic render/i.test(by)) return null;
    try {
      return new GlPoints(canvas, gl);
    } catch {
      return null;
    }
  }

  constructor(canvas, gl) {
    this.kind = "WebGL";
    this.canvas = canvas;
    this.gl = gl;
    this.count = 0;
    this.lost = false;
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.lost = true;
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.lost = false;
      this.setUp();
      this.onrestored?.();
    });
    this.setUp();
  }

  setUp() {
    const gl = this.gl,
      program = gl.createProgram();
    for (const [type, text] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader) ?? "");
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) ?? "");
    this.program = program;
    this.places = {};
    for (const name of ["u_shift", "u_scale", "u_size", "u_ghost", "u_palette", "u_alpha", "u_edge", "u_ghostly"]) {
      this.places[name] = gl.getUniformLocation(program, name);
    }
    this.buffers = {};
    for (const name of ["a_x", "a_y", "a_colour", "a_shown"]) this.buffers[name] = gl.createBuffer();
    this.texture = gl.createTexture();
  }

  fill(name, data) {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffers[name]);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, data, this.gl.DYNAMIC_DRAW);
  }

  setPlaces(x, y, order) {
    const count = x.length,
      ownX = new Float32Array(count),
      ownY = new Float32Array(count);
    for (let place = 0; place < count; place += 1) {
      ownX[place] = x[order[place]];
      ownY[place] = y[order[place]];
    }
    this.order = order;
    this.count = count;
    this.fill("a_x", ownX);
    this.fill("a_y", ownY);
  }

  setLooks(codes, shown) {
    const colours = new Uint8Array(this.count),
      seen = new Uint8Array(this.count);
    for (let place = 0; place < this.count; place += 1) {
      colours[place] = codes[this.order[place]];
      seen[place] = shown[this.order[place]];
    }
    this.fill("a_colour", colours);
    this.fill("a_shown", seen);
  }

  setPalette(colours) {
    const gl = this.gl,
      data = new Uint8Array(256 * 4);
    colours.forEach(([red, green, blue], index) => data.set([red, green, blue, 255], index * 4));
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, data);
    for (const [name, value] of [
      [gl.TEXTURE_MIN_FILTER, gl.NEAREST],
      [gl.TEXTURE_MAG_FILTER, gl.NEAREST],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
      [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
    ])
      gl.texParameteri(gl.TEXTURE_2D, name, value);
  }

  draw(camera, look, most) {
    if (this.lost) return;
    const gl = this.gl,
      { width, height } = this.canvas;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.count) return;
    gl.useProgram(this.program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    for (const [name, type, fitted] of [
      ["a_x", gl.FLOAT, false],
      ["a_y", gl.FLOAT, false],
      ["a_colour", gl.UNSIGNED_BYTE, false],
      ["a_shown", gl.UNSIGNED_BYTE, false],
    ]) {
      const place = gl.getAttribLocation(this.program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 1, type, fitted, 0, 0);
    }
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.uniform1i(this.places.u_palette, 0);
    gl.uniform2f(this.places.u_shift, camera.x, camera.y);
    gl.uniform2f(this.places.u_scale, (2 * camera.scale) / camera.width, (2 * camera.scale) / camera.height);
    gl.uniform1f(this.places.u_size, look.size * look.ratio);
    gl.uniform1f(this.places.u_alpha, look.alpha);
    gl.uniform1f(this.places.u_edge, Math.min(1, 2.4 / (look.size * look.ratio)));
    gl.uniform1f(this.places.u_ghost, look.ghosts ? 1 : 0);
    gl.uniform4f(this.places.u_ghostly, ...look.ghost);
    gl.drawArrays(gl.POINTS, 0, Math.min(this.count, most));
  }

  finish() {
    this.gl.finish();
  }
}
