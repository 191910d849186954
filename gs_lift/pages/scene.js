"use strict";
// A viewer of labelled 3D Gaussians. Notation as in gs_lift: cameras look along +z with x right and y down (OpenCV);
// the rows of `axes` are right, down and forward; pixel (row, column) has its centre at (column + 0.5, row + 0.5).
// Names come from strangers: they are only ever put into textContent.

const BOX = 256, SCALE_STEP = 1 / 64, QUAT_STEPS = 2047, OPACITY_STEPS = 1023; // as in scene_page.py
const NEAR = 0.01, LOW_PASS = 0.3, ALPHA_MIN = 1 / 255, ALPHA_MAX = 0.999; // as every 3DGS rasterizer has them
const BACKGROUND = [14, 16, 20];
const ACCENT = [122, 176, 255];
const MODES = ["color", "instance", "class", "confidence", "depth"];
const MODE_NAMES = { color: "Colour", instance: "Instance", class: "Class", confidence: "Confidence", depth: "Depth" };
const ORDER_WIDTH = 2048;
const BATCH = 128; // quads of an instance: one quad alone leaves most of a GPU's lanes idle
const TEXTURE_WIDTH = 2046; // a multiple of the three texels of a Gaussian, within what WebGL2 guarantees
const SLOW_MS = 90; // a frame that takes longer is drawn at half the resolution, or a quarter, while the camera moves

const element = (id) => document.getElementById(id);
const scene = JSON.parse(element("scene").textContent);
const COUNT = scene.gaussians;

// --- Vectors ---------------------------------------------------------------------------------------------------------

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const added = (a, b, scale) => [a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2]];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const size = Math.hypot(a[0], a[1], a[2]) || 1; return a.map((one) => one / size); };

/** `vector` turned by `angle` about the unit vector `axis` (Rodrigues). */
function turned(vector, axis, angle) {
  const cos = Math.cos(angle), sin = Math.sin(angle);
  const across = cross(axis, vector), along = dot(axis, vector) * (1 - cos);
  return vector.map((one, k) => one * cos + across[k] * sin + axis[k] * along);
}

// --- Data ------------------------------------------------------------------------------------------------------------

/** The bytes that scene_page.Packed.tobytes made. */
async function unpackedBytes() {
  const node = element("data"), text = atob(node.textContent);
  node.remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Gaussians as the renderer and the picking want them; see scene_page.py for the layout. */
function decoded(bytes) {
  const n = COUNT, boxes = Math.ceil(n / BOX), begin = boxes * 24;
  if (bytes.length !== begin + 32 * n) throw new Error("the file is damaged: its data have another length");
  const header = new DataView(bytes.buffer, bytes.byteOffset, begin);
  const column = (c, i) => bytes[begin + 2 * c * n + i] | (bytes[begin + (2 * c + 1) * n + i] << 8);
  const means = new Float32Array(3 * n), covariances = new Float32Array(6 * n), colors = new Uint16Array(3 * n);
  const opacities = new Float32Array(n), scores = new Uint8Array(n), ids = new Uint16Array(n);
  const q = [0, 0, 0, 0], s = [0, 0, 0];
  for (let i = 0; i < n; i++) {
    const box = 24 * Math.floor(i / BOX);
    for (let k = 0; k < 3; k++) {
      const low = header.getFloat32(box + 4 * k, true), step = header.getFloat32(box + 12 + 4 * k, true);
      means[3 * i + k] = low + step * column(k, i);
      s[k] = Math.exp(2 * SCALE_STEP * (scene.scaleLow + column(3 + k, i))); // variances
      colors[3 * i + k] = column(10 + k, i);
    }
    const largest = column(6, i);
    let left = 1;
    for (let k = 0, other = 7; k < 4; k++) {
      if (k === largest) continue;
      q[k] = (column(other++, i) / QUAT_STEPS - 0.5) * Math.SQRT2;
      left -= q[k] * q[k];
    }
    q[largest] = Math.sqrt(Math.max(left, 0));
    const [w, x, y, z] = q;
    const r = [
      1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
      2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
      2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ];
    const entry = (a, b) => r[a] * r[b] * s[0] + r[a + 1] * r[b + 1] * s[1] + r[a + 2] * r[b + 2] * s[2];
    covariances.set([entry(0, 0), entry(0, 3), entry(0, 6), entry(3, 3), entry(3, 6), entry(6, 6)], 6 * i);
    opacities[i] = column(13, i) / OPACITY_STEPS;
    scores[i] = column(14, i);
    ids[i] = column(15, i);
  }
  return { means, covariances, colors, opacities, scores, ids };
}

// --- Depth sort ------------------------------------------------------------------------------------------------------

/** A function that sorts the Gaussians by depth along `forward`, the farthest first. It runs in a worker: it is sent as
 *  text, and uses nothing from outside. Two passes of a counting sort over the bits of float32: exact, and stable. */
function makeSorter(means) {
  const n = means.length / 3, keys = new Uint32Array(n), between = new Uint32Array(n), counts = new Uint32Array(65536);
  const depth = new Float32Array(1), bits = new Uint32Array(depth.buffer);
  function pass(from, to, shift) {
    counts.fill(0);
    for (let i = 0; i < n; i++) counts[(keys[i] >>> shift) & 65535]++;
    for (let k = 0, sum = 0; k < 65536; k++) { const here = counts[k]; counts[k] = sum; sum += here; }
    for (let i = 0; i < n; i++) {
      const one = from ? from[i] : n - 1 - i; // of equal depth the later one is behind
      to[counts[(keys[one] >>> shift) & 65535]++] = one;
    }
  }
  return function (forward) {
    for (let i = 0; i < n; i++) {
      depth[0] = forward[0] * means[3 * i] + forward[1] * means[3 * i + 1] + forward[2] * means[3 * i + 2];
      const b = bits[0];
      keys[i] = b & 0x80000000 ? b : ~b & 0x7fffffff; // falling depth is rising key, over both signs
    }
    const order = new Uint32Array(n);
    pass(null, between, 0);
    pass(between, order, 16);
    return order;
  };
}

/** sort(forward) -> promise of the order; in a worker, or here where a browser allows none. */
function startSorting(means) {
  const source = `"use strict";${makeSorter};let sort;onmessage = ({ data }) => {
    if (data.means) { sort = makeSorter(data.means); return; }
    const order = sort(data.forward); postMessage(order, [order.buffer]); };`;
  const here = () => { const sort = makeSorter(means); return (forward) => Promise.resolve(sort(forward)); };
  let worker, waiting = null, fallback = null;
  try {
    worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  } catch (error) {
    return here();
  }
  worker.onmessage = ({ data }) => { const { resolve } = waiting; waiting = null; resolve(data); };
  worker.onerror = (event) => {
    event.preventDefault();
    fallback = here();
    if (waiting) fallback(waiting.forward).then(waiting.resolve);
  };
  worker.postMessage({ means });
  return (forward) => fallback ? fallback(forward) : new Promise((resolve) => {
    waiting = { forward, resolve };
    worker.postMessage({ forward });
  });
}

// --- Renderer --------------------------------------------------------------------------------------------------------

const SPLAT_VERTEX = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D order;      // the Gaussians, back to front
uniform usampler2D gaussians;  // three texels each, see Renderer
uniform sampler2D objects;     // by id: colour, and in alpha 0 = hidden, 1/2 = shown, 1 = selected
uniform mat3 axes;             // world -> camera
uniform vec3 position;
uniform vec2 focal, center, size, depths;
uniform int mode;
uniform bool antialiased;
out vec2 offset;               // from the centre, in standard deviations
flat out vec4 color;
flat out float chosen;

vec3 viridis(float t) {        // a polynomial fit by Matt Zucker (CC0)
  return vec3(0.2777273, 0.0054073, 0.3340998) + t * (vec3(0.1050930, 1.4046135, 1.3845902)
    + t * (vec3(-0.3308618, 0.2148476, 0.0950952) + t * (vec3(-4.6342305, -5.7991010, -19.3324410)
    + t * (vec3(6.2282699, 14.1799334, 56.6905526) + t * (vec3(4.7763850, -13.7451454, -65.3530326)
    + t * vec3(-5.4354559, 4.6458526, 26.3124352))))));
}

void main() {
  gl_Position = vec4(0, 0, 2, 1);  // outside
  int turn = gl_InstanceID * ${BATCH} + (gl_VertexID >> 2);
  if (turn >= ${COUNT}) return;
  int place = int(texelFetch(order, ivec2(turn % ${ORDER_WIDTH}, turn / ${ORDER_WIDTH}), 0).r) * 3;
  ivec2 texel = ivec2(place % ${TEXTURE_WIDTH}, place / ${TEXTURE_WIDTH});
  uvec4 first = texelFetch(gaussians, texel, 0), second = texelFetch(gaussians, texel + ivec2(1, 0), 0);
  uvec4 third = texelFetch(gaussians, texel + ivec2(2, 0), 0);
  int id = int(first.w & 0xffffu);
  vec4 object = texelFetch(objects, ivec2(id & 255, id >> 8), 0);
  vec3 p = axes * (uintBitsToFloat(first.xyz) - position);
  if (object.a < 0.25 || p.z < ${NEAR}) return;

  // The projection of the covariance (EWA), its slopes clamped as gsplat does.
  vec2 margin = 0.15 * size / focal;
  vec2 slope = clamp(p.xy / p.z, -(center / focal + margin), (size - center) / focal + margin);
  vec3 right = vec3(focal.x, 0, -focal.x * slope.x) / p.z, down = vec3(0, focal.y, -focal.y * slope.y) / p.z;
  vec4 c = uintBitsToFloat(second);
  vec2 d = uintBitsToFloat(third.xy);
  mat3 world = mat3(c.x, c.y, c.z, c.y, c.w, d.x, c.z, d.x, d.y);
  right = right * axes;
  down = down * axes;
  float xx = dot(right, world * right), xy = dot(right, world * down), yy = dot(down, world * down);
  float sharp = max(xx * yy - xy * xy, 0.0);
  xx += ${LOW_PASS}; yy += ${LOW_PASS};
  float determinant = xx * yy - xy * xy;
  if (!(determinant > 0.0)) return;
  vec3 rgb = vec3(third.z & 0xffffu, third.z >> 16, third.w & 0xffffu) / 255.0;
  float opacity = float(third.w >> 16) / float(${OPACITY_STEPS});
  if (antialiased) opacity *= sqrt(sharp / determinant);
  if (opacity < ${ALPHA_MIN}) return;

  // A rectangle along the principal axes, to where the opacity falls to 1/255.
  float middle = 0.5 * (xx + yy), apart = length(vec2(0.5 * (xx - yy), xy));
  float major = middle + apart, minor = max(determinant / major, ${LOW_PASS});
  float angle = apart > 1e-6 ? 0.5 * atan(2.0 * xy, xx - yy) : 0.0;
  vec2 along = vec2(cos(angle), sin(angle));
  float reach = sqrt(2.0 * log(255.0 * opacity)) + 0.01;
  offset = reach * vec2(float(gl_VertexID & 1) * 2.0 - 1.0, float(gl_VertexID & 2) - 1.0);
  vec2 pixel = focal * p.xy / p.z + center
    + offset.x * sqrt(major) * along + offset.y * sqrt(minor) * vec2(-along.y, along.x);
  gl_Position = vec4(pixel.x / size.x * 2.0 - 1.0, 1.0 - pixel.y / size.y * 2.0, 0, 1);

  float brightness = min(dot(rgb, vec3(1.0 / 3.0)), 1.0);
  if (mode == 1 || mode == 2) rgb = mix(object.rgb, vec3(brightness), 0.25);
  if (mode == 3) {
    float score = float(first.w >> 16) / 255.0;
    rgb = id == 0 ? vec3(mix(0.25, brightness, 0.25)) : mix(viridis(score), vec3(brightness), 0.15);
  }
  if (mode == 4) rgb = vec3(1.0 - 200.0 / 255.0 * clamp((p.z - depths.x) / max(depths.y - depths.x, 1e-9), 0.0, 1.0));
  color = vec4(rgb, opacity);
  chosen = object.a > 0.75 ? 1.0 : 0.0;
}`;

const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
in vec2 offset;
flat in vec4 color;
flat in float chosen;
layout(location = 0) out vec4 blended;
layout(location = 1) out vec4 selection;
void main() {
  float alpha = min(${ALPHA_MAX}, color.a * exp(-0.5 * dot(offset, offset)));
  if (alpha < ${ALPHA_MIN}) discard;
  blended = vec4(color.rgb * alpha, alpha);
  selection = vec4(chosen * alpha, 0, 0, alpha);
}`;

const SCREEN_VERTEX = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0, 1); }`;

const SCREEN_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D picture, selection;
uniform vec2 size;
uniform vec3 background, accent;
uniform float width;           // of the selected object's outline, pixels; 0 = none is selected
out vec4 color;
void main() {
  vec2 at = gl_FragCoord.xy / size;
  vec4 seen = texture(picture, at);
  color = vec4(seen.rgb + (1.0 - seen.a) * background, 1);
  if (width > 0.0) {
    float here = texture(selection, at).r, most = here;
    for (int k = 0; k < 12; k++) {
      vec2 way = vec2(cos(float(k) * 0.5236), sin(float(k) * 0.5236)) * width / size;
      most = max(most, max(texture(selection, at + way).r, texture(selection, at + 0.5 * way).r));
    }
    color.rgb = mix(color.rgb, vec3(1), 0.12 * here);
    color.rgb = mix(color.rgb, accent, smoothstep(0.3, 0.5, most) * (1.0 - smoothstep(0.3, 0.5, here)));
  }
}`;

class Renderer {
  constructor(canvas, gl, data) {
    this.gl = gl;
    this.canvas = canvas;
    // Half floats where they can be blended: of many faint layers bytes would round every one.
    this.deep = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.splats = this.program(SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.screen = this.program(SCREEN_VERTEX, SCREEN_FRAGMENT);
    this.quads = gl.createVertexArray();
    gl.bindVertexArray(this.quads);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    const corners = Array.from({ length: BATCH }, (_, k) => [0, 1, 2, 2, 1, 3].map((corner) => 4 * k + corner)).flat();
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint16Array(corners), gl.STATIC_DRAW);
    this.empty = gl.createVertexArray();
    this.order = this.texture(gl.NEAREST);
    this.orderTexels = new Uint32Array(ORDER_WIDTH * Math.ceil(COUNT / ORDER_WIDTH));
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R32UI, ORDER_WIDTH, this.orderTexels.length / ORDER_WIDTH);
    this.gaussians = this.uploaded(data);
    this.objects = this.texture(gl.NEAREST);
    this.objectPixels = new Uint8Array(256 * 256 * 4);
    this.targets = null;
    this.ordered = false;
  }

  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram(), uniforms = {};
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
      const logs = gl.getAttachedShaders(program).map((one) => gl.getShaderInfoLog(one)).join(" ");
      throw new Error(`the graphics driver refuses a shader: ${gl.getProgramInfoLog(program)} ${logs}`);
    }
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(program, i);
      uniforms[name] = gl.getUniformLocation(program, name);
    }
    return { program, uniforms };
  }

  texture(filter) {
    const gl = this.gl, texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return texture;
  }

  /** Texels x y z id+score | xx xy xz yy | yz zz red+green blue+opacity. */
  uploaded({ means, covariances, colors, opacities, scores, ids }) {
    const gl = this.gl, rows = Math.ceil((3 * COUNT) / TEXTURE_WIDTH);
    if (rows > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
      throw new Error(`${COUNT} Gaussians are more than this graphics driver holds`);
    }
    const texels = new Uint32Array(4 * TEXTURE_WIDTH * rows), floats = new Float32Array(texels.buffer);
    for (let i = 0; i < COUNT; i++) {
      const at = 12 * i;
      for (let k = 0; k < 3; k++) floats[at + k] = means[3 * i + k];
      texels[at + 3] = ids[i] | (scores[i] << 16);
      for (let k = 0; k < 6; k++) floats[at + 4 + k] = covariances[6 * i + k];
      texels[at + 10] = colors[3 * i] | (colors[3 * i + 1] << 16);
      texels[at + 11] = colors[3 * i + 2] | (Math.round(opacities[i] * OPACITY_STEPS) << 16);
    }
    const texture = this.texture(gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32UI, TEXTURE_WIDTH, rows, 0, gl.RGBA_INTEGER, gl.UNSIGNED_INT, texels);
    return texture;
  }

  /** color, alpha: of each id. */
  paintObjects(look) {
    const gl = this.gl;
    for (const [id, [color, alpha]] of look) this.objectPixels.set([...color, alpha], 4 * id);
    gl.bindTexture(gl.TEXTURE_2D, this.objects);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 256, 0, gl.RGBA, gl.UNSIGNED_BYTE, this.objectPixels);
  }

  setOrder(order) {
    const gl = this.gl, rows = this.orderTexels.length / ORDER_WIDTH;
    this.orderTexels.set(order);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ORDER_WIDTH, rows, gl.RED_INTEGER, gl.UNSIGNED_INT, this.orderTexels);
    this.ordered = true;
  }

  /** A framebuffer of that size, with the picture and how much of each pixel is of the selected object. */
  target(width, height) {
    const gl = this.gl;
    if (this.targets && this.targets.width === width && this.targets.height === height) return this.targets;
    if (this.targets) {
      gl.deleteFramebuffer(this.targets.buffer);
      gl.deleteTexture(this.targets.picture);
      gl.deleteTexture(this.targets.selection);
    }
    const buffer = gl.createFramebuffer(), made = [];
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    const build = () => [gl.COLOR_ATTACHMENT0, gl.COLOR_ATTACHMENT1].forEach((attachment, k) => {
      made[k] = made[k] || this.texture(gl.LINEAR);
      gl.bindTexture(gl.TEXTURE_2D, made[k]);
      if (this.deep) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA16F, width, height, 0, gl.RGBA, gl.HALF_FLOAT, null);
      else gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, attachment, gl.TEXTURE_2D, made[k], 0);
    });
    build();
    if (this.deep && gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) {
      this.deep = false;
      build();
    }
    this.targets = { buffer, picture: made[0], selection: made[1], width, height };
    return this.targets;
  }

  /** Bind textures to the samplers of those names. */
  use(uniforms, textures) {
    const gl = this.gl;
    Object.entries(textures).forEach(([name, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.uniform1i(uniforms[name], unit);
    });
    gl.activeTexture(gl.TEXTURE0);
  }

  draw(camera, mode, depths, anySelected, share) {
    const gl = this.gl, width = Math.max(1, Math.round(camera.width * share));
    const height = Math.max(1, Math.round(camera.height * share));
    const target = this.target(width, height), { uniforms } = this.splats;
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.buffer);
    gl.drawBuffers([gl.COLOR_ATTACHMENT0, anySelected ? gl.COLOR_ATTACHMENT1 : gl.NONE]);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.splats.program);
    this.use(uniforms, { gaussians: this.gaussians, objects: this.objects, order: this.order });
    gl.uniformMatrix3fv(uniforms.axes, true, camera.axes.flat());
    gl.uniform3fv(uniforms.position, camera.position);
    gl.uniform2f(uniforms.focal, camera.focal[0] * width / camera.width, camera.focal[1] * height / camera.height);
    gl.uniform2f(uniforms.center, camera.center[0] * width / camera.width, camera.center[1] * height / camera.height);
    gl.uniform2f(uniforms.size, width, height);
    gl.uniform2fv(uniforms.depths, depths);
    gl.uniform1i(uniforms.mode, MODES.indexOf(mode));
    gl.uniform1i(uniforms.antialiased, scene.antialiased ? 1 : 0);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.quads);
    if (this.ordered) gl.drawElementsInstanced(gl.TRIANGLES, 6 * BATCH, gl.UNSIGNED_SHORT, 0, Math.ceil(COUNT / BATCH));

    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    gl.viewport(0, 0, camera.width, camera.height);
    gl.useProgram(this.screen.program);
    this.use(this.screen.uniforms, { picture: target.picture, selection: target.selection });
    gl.uniform2f(this.screen.uniforms.size, camera.width, camera.height);
    gl.uniform3fv(this.screen.uniforms.background, BACKGROUND.map((one) => one / 255));
    gl.uniform3fv(this.screen.uniforms.accent, ACCENT.map((one) => one / 255));
    gl.uniform1f(this.screen.uniforms.width, anySelected ? 2.5 * camera.ratio : 0);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

// --- Camera ----------------------------------------------------------------------------------------------------------

/** Where the viewer stands: a camera's fields, and the point that it turns about. It never rolls. */
class Eye {
  constructor(camera, up) {
    this.up = up;
    this.go(camera);
  }

  go({ position, axes, focal, center, size }) {
    this.position = [...position];
    this.axes = axes.map((row) => [...row]);
    Object.assign(this, { focal, center, size, distance: 1 });
  }

  get pivot() { return added(this.position, this.axes[2], this.distance); }

  /** The camera in pixels of a canvas: all that it saw is seen, and more at two sides. */
  fitted(width, height, ratio) {
    const scale = Math.min(width / this.size[0], height / this.size[1]);
    return {
      position: [...this.position], axes: this.axes.map((row) => [...row]), width, height, ratio,
      focal: this.focal.map((one) => one * scale),
      center: [width, height].map((one, k) => (this.center[k] - this.size[k] / 2) * scale + one / 2),
    };
  }

  /** Turn about the pivot, or where it stands; angles to the right and down. */
  turn(aside, down, inPlace = false) {
    const pivot = this.pivot, slant = Math.acos(Math.max(-1, Math.min(1, dot(this.axes[2], this.up))));
    const limited = Math.max(0.05 - slant, Math.min(Math.PI - 0.05 - slant, down));
    const rotate = (one) => turned(turned(one, this.axes[0], -limited), this.up, -aside);
    this.axes = this.axes.map(rotate).map(unit);
    if (!inPlace) this.position = added(pivot, this.axes[2], -this.distance);
  }

  /** By so many units of the world to the right, down and forward. */
  walk(right, down, forward) {
    const way = added(added(added([0, 0, 0], this.axes[0], right), this.axes[1], down), this.axes[2], forward);
    this.position = added(this.position, way, 1);
  }

  zoom(factor) {
    const pivot = this.pivot;
    this.distance = Math.min(1e9, Math.max(1e-4, this.distance * factor));
    this.position = added(pivot, this.axes[2], -this.distance);
  }

  lookAt(point, distance) {
    const forward = unit(added(point, this.position, -1));
    const right = unit(cross(forward, this.up));
    if (Math.abs(dot(forward, this.up)) < 0.999) this.axes = [right, cross(forward, right), forward];
    this.distance = distance;
    this.position = added(point, this.axes[2], -distance);
  }

  /** Another direction is up: the whole view turns about the pivot with it. */
  setUp(up) {
    const axis = cross(this.up, up), sin = Math.hypot(...axis), pivot = this.pivot;
    const angle = Math.atan2(sin, dot(this.up, up)), about = sin > 1e-6 ? unit(axis) : this.axes[2];
    this.axes = this.axes.map((row) => turned(row, about, angle));
    this.position = added(pivot, this.axes[2], -this.distance);
    this.up = up;
  }
}

// --- Picking ---------------------------------------------------------------------------------------------------------

/** What the pixel at x, y (of the camera, with fractions) shows: the Gaussians that it is blended of, front to back. */
function blendedAt(data, isShown, camera, x, y) {
  const { means, covariances, opacities, ids } = data, [right, down, forward] = camera.axes, eye = camera.position;
  const [fx, fy] = camera.focal, [cx, cy] = camera.center, hits = [];
  const low = [-(cx + 0.15 * camera.width) / fx, -(cy + 0.15 * camera.height) / fy]; // slopes, as in the shader
  const high = [(1.15 * camera.width - cx) / fx, (1.15 * camera.height - cy) / fy];
  for (let i = 0; i < COUNT; i++) {
    if (!isShown[ids[i]]) continue;
    const a = means[3 * i] - eye[0], b = means[3 * i + 1] - eye[1], c = means[3 * i + 2] - eye[2];
    const z = forward[0] * a + forward[1] * b + forward[2] * c;
    if (!(z >= NEAR)) continue;
    const px = (right[0] * a + right[1] * b + right[2] * c) / z, py = (down[0] * a + down[1] * b + down[2] * c) / z;
    const dx = x - (fx * px + cx), dy = y - (fy * py + cy);
    const sx = Math.max(low[0], Math.min(high[0], px)), sy = Math.max(low[1], Math.min(high[1], py));
    const u0 = fx / z * (right[0] - sx * forward[0]), v0 = fy / z * (down[0] - sy * forward[0]);
    const u1 = fx / z * (right[1] - sx * forward[1]), v1 = fy / z * (down[1] - sy * forward[1]);
    const u2 = fx / z * (right[2] - sx * forward[2]), v2 = fy / z * (down[2] - sy * forward[2]);
    const k = 6 * i, c0 = covariances[k], c1 = covariances[k + 1], c2 = covariances[k + 2];
    const c3 = covariances[k + 3], c4 = covariances[k + 4], c5 = covariances[k + 5];
    const w0 = c0 * u0 + c1 * u1 + c2 * u2, w1 = c1 * u0 + c3 * u1 + c4 * u2, w2 = c2 * u0 + c4 * u1 + c5 * u2;
    let xx = u0 * w0 + u1 * w1 + u2 * w2;
    if (dx * dx > 12 * (xx + LOW_PASS)) continue; // beyond 3.33 standard deviations nothing reaches 1/255
    const xy = v0 * w0 + v1 * w1 + v2 * w2;
    let yy = c0 * v0 * v0 + c3 * v1 * v1 + c5 * v2 * v2 + 2 * (c1 * v0 * v1 + c2 * v0 * v2 + c4 * v1 * v2);
    const sharp = Math.max(xx * yy - xy * xy, 0);
    xx += LOW_PASS;
    yy += LOW_PASS;
    const determinant = xx * yy - xy * xy;
    if (!(determinant > 0)) continue;
    const opacity = scene.antialiased ? opacities[i] * Math.sqrt(sharp / determinant) : opacities[i];
    const power = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (2 * determinant);
    const alpha = Math.min(ALPHA_MAX, opacity * Math.exp(-power));
    if (alpha >= ALPHA_MIN) hits.push({ id: ids[i], z, alpha });
  }
  hits.sort((one, other) => one.z - other.z);
  let left = 1;
  for (const hit of hits) { hit.weight = left * hit.alpha; left *= 1 - hit.alpha; }
  return hits;
}

/** The object that a pixel shows most of, 0 where it shows more of none than of all of them; and how far its surface
 *  is: where half of what the pixel shows of it is in front. null where there is nothing. */
function hitOf(hits) {
  const weights = new Map();
  let total = 0;
  for (const { id, weight } of hits) { weights.set(id, (weights.get(id) || 0) + weight); total += weight; }
  if (total < 0.05) return null;
  const none = weights.get(0) || 0;
  let id = 0;
  if (total - none > none) for (const [one, weight] of weights) if (one && (!id || weight > weights.get(id))) id = one;
  const weight = weights.get(id);
  let sum = 0;
  for (const hit of hits) {
    if (hit.id === id) sum += hit.weight;
    if (2 * sum >= weight) return { id, weight, depth: hit.z };
  }
  return null;
}

// --- The page --------------------------------------------------------------------------------------------------------

class Page {
  constructor(data, renderer) {
    this.data = data;
    this.renderer = renderer;
    this.canvas = renderer.canvas;
    this.objects = new Map(scene.objects.map((one) => [one.id, one]));
    this.hidden = new Set(); // ids; 0 = what belongs to no object
    this.selected = 0;
    this.mode = "color";
    this.eye = new Eye(scene.start, unit(scene.up));
    Object.assign(this, this.measured());
    this.sort = startSorting(data.means);
    this.sorting = false;
    this.sortedFor = null;
    this.dirty = true;
    this.share = 1; // of the canvas's resolution, while it moves
    this.lastFrame = 0;
    this.lastWheel = -Infinity;
    this.measuring = 0;
    this.held = new Set();
    this.waiting = [];
    this.rows = new Map();
    this.buildModes();
    this.buildList();
    this.buildCameras();
    this.listen();
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * this.ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * this.ratio));
    this.findPivot();
    this.restyle();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
    requestAnimationFrame((now) => this.frame(now));
  }

  get ratio() { return Math.min(window.devicePixelRatio || 1, 2); }
  get camera() { return this.eye.fitted(this.canvas.width, this.canvas.height, this.ratio); }

  /** Median of the Gaussians of objects (of all, where there are none), and the median distance from it: what a step of
   *  walking is measured by. */
  measured() {
    const { means, ids } = this.data, stride = Math.max(1, Math.floor(COUNT / 20000)), points = [];
    for (let i = 0; i < COUNT; i += stride) {
      if (ids[i] || !this.objects.size) points.push([means[3 * i], means[3 * i + 1], means[3 * i + 2]]);
    }
    if (!points.length) points.push([means[0], means[1], means[2]]);
    const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    const center = [0, 1, 2].map((k) => median(points.map((one) => one[k])));
    return { center, extent: median(points.map((one) => Math.hypot(...added(one, center, -1)))) || 1 };
  }

  /** Turn about what the middle of the picture shows; of a splat without cameras, about the middle of its objects. */
  findPivot() {
    const { camera, center, extent } = this, found = this.hit(camera.width / 2, camera.height / 2);
    this.eye.distance = found ? found.depth : 2 * extent;
    const ahead = dot(camera.axes[2], added(center, camera.position, -1));
    if (!scene.cameras.length && ahead > 0) this.eye.distance = ahead;
  }

  hit(x, y) {
    const shown = new Uint8Array(65536);
    for (const id of [0, ...this.objects.keys()]) shown[id] = this.hidden.has(id) ? 0 : 1;
    return hitOf(blendedAt(this.data, shown, this.camera, x, y));
  }

  /** What is at x, y in CSS pixels of the canvas: the centre of the pixel that they lie in. */
  pick(x, y) {
    return this.hit(this.pixelOf(x), this.pixelOf(y));
  }

  pixelOf(css) { return Math.floor(css * this.ratio) + 0.5; }

  // Drawing: nothing is drawn while nothing changes.

  redraw() { this.dirty = true; }

  frame(now) {
    requestAnimationFrame((later) => this.frame(later));
    const passed = this.lastFrame ? now - this.lastFrame : 16;
    this.lastFrame = now;
    this.walkByKeys(Math.min(passed, 100) / 1000);
    this.count(now);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * this.ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * this.ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
      this.dirty = true;
    }
    const dragging = this.canvas.classList.contains("dragging"), wheeling = now - this.lastWheel < 200;
    const moving = this.held.size > 0 || dragging || wheeling;
    if (!moving && this.share < 1) { this.share = 1; this.dirty = true; }
    else if (moving && this.drewBefore && passed > SLOW_MS) this.share = passed > 4 * SLOW_MS ? 0.25 : 0.5;
    this.drewBefore = this.dirty || this.measuring > 0;
    if (this.drewBefore) this.draw();
    if (!this.dirty && !this.sorting && this.renderer.ordered) for (const resolve of this.waiting.splice(0)) resolve();
  }

  draw() {
    this.dirty = false;
    const camera = this.camera;
    this.order(camera.axes[2]);
    const depths = this.mode === "depth" ? this.depthLimits(camera) : [0, 1];
    this.renderer.draw(camera, this.mode, depths, this.selected > 0, this.share);
    if (this.mode === "depth") this.showRamp(depths.map((one) => one.toPrecision(3)));
  }

  order(forward) {
    if (this.sorting || (this.sortedFor && forward.every((one, k) => one === this.sortedFor[k]))) return;
    this.sorting = true;
    this.sort(forward).then((order) => {
      this.sorting = false;
      this.sortedFor = forward;
      this.renderer.setOrder(order);
      this.redraw();
    });
  }

  /** The depths between which most of what is in the picture lies. */
  depthLimits(camera) {
    const { means, opacities, ids } = this.data, stride = Math.max(1, Math.floor(COUNT / 20000)), found = [];
    for (let i = 0; i < COUNT; i += stride) {
      if (opacities[i] < 0.3 || this.hidden.has(ids[i])) continue;
      const apart = [0, 1, 2].map((k) => means[3 * i + k] - camera.position[k]), z = dot(camera.axes[2], apart);
      if (z < NEAR) continue;
      const x = camera.focal[0] * dot(camera.axes[0], apart) / z + camera.center[0];
      const y = camera.focal[1] * dot(camera.axes[1], apart) / z + camera.center[1];
      if (x >= 0 && x < camera.width && y >= 0 && y < camera.height) found.push(z);
    }
    found.sort((a, b) => a - b);
    return found.length ? [found[Math.floor(0.01 * found.length)], found[Math.floor(0.98 * found.length)]] : [0, 1];
  }

  /** Settled: sorted for where the eye is now, and drawn. */
  settled() {
    this.redraw();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  count(now) {
    if (!this.measuring) return;
    this.frames++;
    if (now - this.measuring < 1500) return;
    const rate = 1000 * (this.frames - 1) / (now - this.measuring);
    element("fps").textContent = `${rate.toFixed(rate < 10 ? 1 : 0)} fps`;
    this.measuring = 0;
  }

  // What is shown.

  colorOf(id) {
    const object = this.objects.get(id);
    if (!object || (this.mode === "class" && object.class < 0)) return scene.grey;
    return this.mode === "class" ? scene.classes[object.class].color : object.color;
  }

  restyle() {
    const look = [];
    for (const id of [0, ...this.objects.keys()]) {
      const row = this.rows.get(id), gone = this.hidden.has(id);
      look.push([id, [this.colorOf(id), gone ? 0 : id && id === this.selected ? 255 : 128]]);
      if (!row) continue;
      row.classList.toggle("gone", gone);
      row.setAttribute("aria-selected", String(id > 0 && id === this.selected));
      row.querySelector(".swatch").style.background = `rgb(${this.colorOf(id).join()})`;
      const eye = row.querySelector(".eye");
      eye.textContent = gone ? "\u25cb" : "\u25cf";
      eye.title = gone ? "Show" : "Hide";
      eye.setAttribute("aria-label", eye.title);
    }
    this.renderer.paintObjects(look);
    for (const name of ["isolate", "hide", "focus"]) element(name).disabled = !this.selected;
    element("show-all").disabled = this.hidden.size === 0;
    const number = (value) => value.toLocaleString("en");
    const seen = [...this.objects.keys()].filter((id) => !this.hidden.has(id)).length;
    const objects = seen === this.objects.size ? number(seen) : `${number(seen)} of ${number(this.objects.size)}`;
    element("status").textContent = `${number(COUNT)} Gaussians, ${objects} objects`;
    this.redraw();
  }

  setMode(mode) {
    this.mode = mode;
    for (const button of element("modes").children) button.setAttribute("aria-pressed", String(button.value === mode));
    element("ramp").hidden = mode !== "confidence" && mode !== "depth";
    element("ramp").className = mode;
    if (mode === "confidence") this.showRamp(["0", "1"]);
    this.restyle();
  }

  showRamp([low, high]) {
    element("ramp-low").textContent = low;
    element("ramp-high").textContent = high;
  }

  select(id, scroll = false) {
    this.selected = this.objects.has(id) ? id : 0;
    this.restyle();
    if (scroll && this.selected) this.rows.get(id).scrollIntoView({ block: "nearest" });
  }

  setHidden(id, hide) {
    if (hide) this.hidden.add(id);
    else this.hidden.delete(id);
    this.restyle();
  }

  isolate() {
    if (!this.selected) return;
    this.hidden = new Set([0, ...this.objects.keys()].filter((id) => id !== this.selected));
    this.restyle();
  }

  showAll() {
    this.hidden.clear();
    this.restyle();
  }

  /** The selected object in the middle, as large as it fits. */
  focus() {
    if (!this.selected) return;
    const { means, ids } = this.data, points = [];
    for (let i = 0; i < COUNT; i++) {
      if (ids[i] === this.selected) points.push([means[3 * i], means[3 * i + 1], means[3 * i + 2]]);
    }
    const sorted = [0, 1, 2].map((k) => points.map((one) => one[k]).sort((a, b) => a - b));
    const at = (share) => sorted.map((one) => one[Math.floor(share * (one.length - 1))]);
    const low = at(0.02), high = at(0.98), center = added(low, high, 1).map((one) => one / 2);
    const radius = Math.max(Math.hypot(...added(high, low, -1)) / 2, 1e-3 * this.extent);
    const fill = 2 * Math.max(this.eye.focal[0] / this.eye.size[0], this.eye.focal[1] / this.eye.size[1]);
    this.eye.lookAt(center, 1.5 * radius * Math.max(fill, 1));
    this.redraw();
  }

  goTo(camera) {
    this.eye.go(camera);
    this.findPivot();
    this.redraw();
  }

  // Controls.

  buildModes() {
    for (const mode of MODES) {
      const button = document.createElement("button");
      button.value = mode;
      button.textContent = MODE_NAMES[mode];
      button.title = `Key ${MODES.indexOf(mode) + 1}`;
      button.setAttribute("aria-pressed", String(mode === this.mode));
      button.addEventListener("click", () => this.setMode(mode));
      element("modes").append(button);
    }
  }

  buildList() {
    const made = (tag, name, text, parent) => {
      const node = document.createElement(tag);
      if (name) node.className = name;
      if (text !== null) node.textContent = text;
      parent.append(node);
      return node;
    };
    const rest = scene.none ? [{ id: 0, name: "everything else", class: -1, count: scene.none, score: null }] : [];
    for (const { id, name, class: place, count, score } of [...scene.objects, ...rest]) {
      const row = made("div", "object", null, element("list"));
      row.tabIndex = 0;
      row.setAttribute("role", "option");
      row.dataset.id = String(id);
      made("span", "swatch", null, row);
      const kind = place < 0 ? "" : scene.classes[place].name;
      const title = made("span", "title", `${id || ""}  ${name || kind || "object"}`, row);
      if (name && kind) made("small", "", kind, title);
      title.title = title.textContent;
      const facts = made("span", "facts", score === null ? "" : score.toFixed(2), row);
      facts.title = score === null ? `${count} Gaussians` : `score ${score.toFixed(3)}, ${count} Gaussians`;
      made("br", "", null, facts);
      facts.append(count.toLocaleString("en"));
      const eye = made("button", "eye", null, row);
      eye.addEventListener("click", (event) => { event.stopPropagation(); this.setHidden(id, !this.hidden.has(id)); });
      eye.addEventListener("keydown", (event) => event.stopPropagation());
      row.addEventListener("click", () => this.select(id === this.selected ? 0 : id)); // 0 selects nothing
      row.addEventListener("dblclick", () => { this.select(id); this.focus(); });
      row.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        row.click();
      });
      row.words = `${name || ""} ${kind}`.toLowerCase();
      this.rows.set(id, row);
    }
    const nothing = made("p", "", scene.objects.length ? "No object like that." : "No objects.", element("list"));
    nothing.hidden = scene.objects.length > 0;
    element("filter").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [id, row] of this.rows) {
        row.hidden = !words.every((word) => String(id).startsWith(word) || row.words.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      nothing.hidden = shown > 0;
    });
    element("isolate").addEventListener("click", () => this.isolate());
    element("hide").addEventListener("click", () => this.selected && this.setHidden(this.selected, true));
    element("focus").addEventListener("click", () => this.focus());
    element("show-all").addEventListener("click", () => this.showAll());
    element("help-open").addEventListener("click", () => element("help").showModal());
    element("fps").addEventListener("click", () => { this.frames = 0; this.measuring = performance.now(); });
  }

  buildCameras() {
    const option = (text, value, parent) => {
      const node = document.createElement("option");
      node.textContent = text;
      node.value = value;
      parent.append(node);
    };
    scene.cameras.forEach(({ name }, number) => option(name, String(number), element("camera")));
    element("cameras").hidden = scene.cameras.length === 0;
    element("camera").addEventListener("change", (event) => this.goTo(scene.cameras[Number(event.target.value)]));
    element("camera-before").addEventListener("click", () => this.nextCamera(-1));
    element("camera-after").addEventListener("click", () => this.nextCamera(1));
    if (scene.cameras.length) return;
    const ups = { x: [1, 0, 0], "-x": [-1, 0, 0], y: [0, 1, 0], "-y": [0, -1, 0], z: [0, 0, 1], "-z": [0, 0, -1] };
    for (const name of Object.keys(ups)) option(name, name, element("up"));
    element("up").value = Object.keys(ups).find((name) => dot(ups[name], this.eye.up) > 0.9) || "-y";
    element("up").addEventListener("change", (event) => { this.eye.setUp(ups[event.target.value]); this.redraw(); });
    element("ups").hidden = false;
  }

  nextCamera(step) {
    const count = scene.cameras.length;
    if (!count) return;
    const number = (element("camera").selectedIndex + step + count) % count;
    element("camera").selectedIndex = number;
    this.goTo(scene.cameras[number]);
  }

  restart() {
    if (scene.cameras.length) element("camera").selectedIndex = 0;
    const up = this.eye.up;
    this.eye.up = unit(scene.up);
    this.goTo(scene.start);
    if (dot(up, this.eye.up) < 0.9999) this.eye.setUp(up);
  }

  listen() {
    const canvas = this.canvas, pointers = new Map();
    let travelled = 0, most = 0, button = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
      if (pointers.size === 0) { travelled = 0; most = 0; button = event.shiftKey ? 2 : event.button; }
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      most = Math.max(most, pointers.size);
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY], dx = now[0] - before[0], dy = now[1] - before[1];
      travelled += Math.hypot(dx, dy);
      if (travelled <= 4 && most === 1) return;
      canvas.classList.add("dragging");
      const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      pointers.set(event.pointerId, now);
      const focal = this.camera.focal[1] / this.ratio, size = canvas.clientHeight;
      if (others.length) {
        const [other] = others, apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
        this.eye.zoom(apart(before) / apart(now));
        this.eye.walk(-dx / 2 * this.eye.distance / focal, -dy / 2 * this.eye.distance / focal, 0);
      } else if (button !== 0) {
        this.eye.walk(-dx * this.eye.distance / focal, -dy * this.eye.distance / focal, 0);
      } else if (most === 1) {
        this.eye.turn(dx / size * Math.PI, dy / size * Math.PI);
      }
      this.redraw();
    });
    const released = (event) => {
      if (!pointers.delete(event.pointerId)) return;
      if (pointers.size === 0) canvas.classList.remove("dragging");
      if (event.type === "pointerup" && travelled <= 4 && most === 1 && button === 0) {
        const { left, top } = canvas.getBoundingClientRect();
        const found = this.pick(event.clientX - left, event.clientY - top);
        this.select(found ? found.id : 0, true);
      }
    };
    canvas.addEventListener("pointerup", released);
    canvas.addEventListener("pointercancel", released);
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      const x = this.pixelOf(event.clientX - left), y = this.pixelOf(event.clientY - top);
      const camera = this.camera, found = this.hit(x, y);
      if (!found) return;
      const ray = [(x - camera.center[0]) / camera.focal[0], (y - camera.center[1]) / camera.focal[1], 1];
      const way = ray.reduce((sum, one, k) => added(sum, camera.axes[k], one * found.depth), [0, 0, 0]);
      this.eye.lookAt(added(camera.position, way, 1), Math.hypot(...way));
      this.redraw();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.lastWheel = this.lastFrame;
      const lines = [1, 30, 400][event.deltaMode] || 1; // of pixels, lines, pages
      this.eye.zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY * lines)) * 0.0015));
      this.redraw();
    }, { passive: false });
    window.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("keyup", (event) => this.held.delete(event.code));
    window.addEventListener("blur", () => this.held.clear());
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      say("The graphics driver stopped. Load the page again.");
    });
  }

  key(event) {
    const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey || element("help").open) return;
    const at = Number(event.key) - 1;
    if (MODES[at]) this.setMode(MODES[at]);
    else if (event.key === "[" || event.key === "]") this.nextCamera(event.key === "[" ? -1 : 1);
    else if (event.key === "?") element("help").showModal();
    else if (event.code === "KeyI") this.isolate();
    else if (event.code === "KeyH") element("hide").click();
    else if (event.code === "KeyU") this.showAll();
    else if (event.code === "KeyF") this.focus();
    else if (event.code === "KeyR") this.restart();
    else if (event.key === "Escape") this.select(0);
    else if (/^(Key[WASDQE]|Arrow\w+)$/.test(event.code)) {
      if (event.code.startsWith("Arrow") && event.target !== this.canvas && event.target !== document.body) return;
      this.held.add(event.code);
    } else return;
    event.preventDefault();
  }

  walkByKeys(seconds) {
    if (!this.held.size) return;
    const axis = (plus, minus) => (this.held.has(plus) ? 1 : 0) - (this.held.has(minus) ? 1 : 0);
    const step = 0.8 * this.extent * seconds;
    this.eye.walk(step * axis("KeyD", "KeyA"), step * axis("KeyQ", "KeyE"), step * axis("KeyW", "KeyS"));
    this.eye.turn(-seconds * axis("ArrowRight", "ArrowLeft"), -seconds * axis("ArrowDown", "ArrowUp"), true);
    this.redraw();
  }
}

function say(text) {
  element("message").textContent = text;
  element("message").hidden = false;
}

async function start() {
  const canvas = element("canvas");
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old to unpack the scene (it lacks DecompressionStream). "
      + "Chrome 80, Firefox 113 or Safari 16.4, or later, opens this page.");
  }
  const wanted = { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" };
  const gl = canvas.getContext("webgl2", wanted);
  if (!gl) {
    throw new Error("This browser shows no 3D pictures (it lacks WebGL2, or it is switched off). "
      + "Try another one, or switch on hardware acceleration.");
  }
  const data = decoded(await unpackedBytes());
  const page = new Page(data, new Renderer(canvas, gl, data));
  await page.settled();
  element("message").hidden = true;
  return page;
}

// For programs that look at the page; they can read all of it, and change nothing.
{
  let page = null;
  const started = start();
  window.gslift = Object.freeze({
    ready: started.then((one) => { page = one; }),
    settled: () => page.settled(),
    pick: (x, y) => page.pick(x, y),
    get camera() { return page.camera; },
    get selected() { return page.selected; },
    get hidden() { return [...page.hidden]; },
    get mode() { return page.mode; },
    gaussian: (i) => ({
      mean: [...page.data.means.slice(3 * i, 3 * i + 3)],
      covariance: [...page.data.covariances.slice(6 * i, 6 * i + 6)],
      color: [...page.data.colors.slice(3 * i, 3 * i + 3)].map((one) => one / 255),
      opacity: page.data.opacities[i], score: page.data.scores[i] / 255, id: page.data.ids[i],
    }),
  });
  window.gslift.ready.catch((error) => say(error.message));
}
