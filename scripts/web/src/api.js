// What the page asks of its server; or, in a page that was sent, what it carries itself.

const holder = document.getElementById("embedded");
export const embedded = holder ? JSON.parse(holder.textContent) : null;
const token = new URLSearchParams(location.search).get("token") ?? "";

// The server says that the hub is another one than when this map was loaded: nothing of the answer would fit it.
export class HubChanged extends Error {}
let changed = null;
export function onChanged(action) {
  changed = action;
}

async function ask(path, parameters = {}, options = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(given).toString();
  let answer;
  try {
    answer = await fetch(`api/${path}${query ? "?" + query : ""}`, {
      ...options,
      headers: { "x-navigator-token": token, ...options.headers },
    });
  } catch {
    throw new Error("the server does not answer; is `merge-advisor explore` still running?");
  }
  if (!answer.ok) {
    let line = `the server answered ${answer.status}`,
      told = null;
    try {
      told = await answer.json();
      line = told.error ?? line;
    } catch {
      /* no JSON: the number has to do */
    }
    if (!told?.changed) throw new Error(line);
    changed?.(parameters.state);
    throw new HubChanged(line);
  }
  return answer;
}

export async function json(path, parameters) {
  return (await ask(path, parameters)).json();
}

export async function packed(path, parameters) {
  const answer = await ask(path, parameters);
  if ((answer.headers.get("content-type") ?? "").startsWith("application/json"))
    return { waiting: await answer.json() };
  return unpack(await answer.arrayBuffer());
}

export async function post(path, body, parameters = {}) {
  return (
    await ask(path, parameters, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "content-type": "application/json" },
    })
  ).json();
}

export async function upload(path, name, data, parameters) {
  return (
    await ask(path, parameters, {
      method: "POST",
      body: data,
      headers: {
        "content-type": "application/octet-stream",
        "x-file-name": encodeURIComponent(name),
      },
    })
  ).json();
}

export async function file(path, parameters) {
  return (await ask(path, parameters)).blob();
}

const TYPES = { float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int32: Int32Array };

export function unpack(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, false) !== 0x4d414558) throw new Error("the server sent something else than arrays");
  const length = view.getUint32(4, true);
  const said = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, place] of Object.entries(said.arrays)) {
    arrays[name] = new TYPES[place.type](buffer, 8 + length + place.offset, place.length);
  }
  return { said, arrays };
}

export function fromBase64(text) {
  const raw = atob(text);
  const data = new Uint8Array(raw.length);
  for (let index = 0; index < raw.length; index += 1) data[index] = raw.charCodeAt(index);
  return data.buffer;
}
