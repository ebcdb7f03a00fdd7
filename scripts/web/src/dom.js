// Elements without markup: whatever a name or a card holds becomes a text node, never HTML.

import { renew } from "./renew.js";

// `key`: what the element stands for among its brothers, where its place does not say it.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) heed(element, name.slice(2), value);
    else if (name === "key") element.key = String(value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "selected")
      element[name] = value;
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

// What is done on an event can be another thing after the next `fill`, on the same element.
export function heed(element, name, action) {
  element.heeds ??= {};
  if (!(name in element.heeds)) element.addEventListener(name, (event) => element.heeds[name]?.(event));
  element.heeds[name] = action;
}

// Make an element hold these children, and of what it holds keep all that is alike: see `renew`.
export function fill(element, ...children) {
  return renew(element, () => append(document.createDocumentFragment(), children), heed);
}

// A name of others: its own direction, cut by the style and not here, whole in the tooltip.
export function nameOf(text, attributes = {}) {
  return h("bdi", { class: "name", title: shown(text), ...attributes }, shown(text));
}

// Control characters and marks that turn the text around them are written out.
export function shown(text) {
  return String(text).replace(
    /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}

// The same for text of several lines.
export function shownLines(text) {
  return String(text).split(/\r?\n/).map(shown).join("\n");
}

export function cut(text, length) {
  const characters = [...text];
  return characters.length <= length ? text : characters.slice(0, length - 1).join("") + "…";
}

export const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function decimals(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

export function percent(value) {
  return value === null || value === undefined ? "" : (100 * value).toFixed(1) + "%";
}

export function bytes(value) {
  if (!value) return "?";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return (value < 10 && unit ? value.toFixed(1) : Math.round(value)) + " " + units[unit];
}

export function dayText(day) {
  return day ? new Date(day * 86400000).toISOString().slice(0, 10) : "";
}

// Of answers that come in any order, only that to the latest question counts:
// `const still = turns()` before asking, `if (!still()) return` after.
export function inTurn() {
  let last = 0;
  return () => {
    const mine = ++last;
    return () => mine === last;
  };
}

export function debounced(action, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait);
  };
}

export function download(name, blob) {
  const address = URL.createObjectURL(blob);
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

let saying = 0;

// One line for all to read, at the bottom of the page and for screen readers.
export function say(text, kind = "note") {
  const place = document.getElementById("said");
  if (!place) return;
  // a new element each time: the same line said twice is read twice
  place.replaceChildren(
    h(
      "div",
      { class: "toast " + kind },
      shown(text),
      h("button", { class: "quiet", "aria-label": "Close", onclick: () => fill(place) }, "×"),
    ),
  );
  clearTimeout(saying);
  if (kind !== "error") saying = setTimeout(() => fill(place), 6000);
}
