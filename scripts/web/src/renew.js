// New contents for an element in place of old ones, of which all that is alike stays: the element that has the focus,
// the caret in it, an open <details>, what was scrolled to. Panels are described anew whenever anything changes, every
// second while a plan runs; who types or walks through them by keyboard must not notice.

const REACHED =
  "button:not([disabled]), select:not([disabled]), input:not([disabled]), textarea:not([disabled]), summary, a[href], " +
  '[tabindex]:not([tabindex="-1"])';
const TYPED = new Set(["text", "search", "number"]);

export function renew(element, described, heed) {
  const held = document.activeElement,
    within = held !== element && element.contains(held);
  const at = within ? reached(element).indexOf(held) : -1,
    caret = within ? caretOf(held) : null;
  matchChildren(element, described(), heed);
  if (within && document.activeElement !== held) regain(element, held, at, caret);
  return element;
}

// All that the Tab key reaches in an element, in its order.
export function reached(element) {
  return [...element.querySelectorAll(REACHED)].filter((item) => item.getClientRects().length);
}

// The focus goes to what now stands where the focused element stood; else to the panel, which the next Tab enters.
function regain(element, held, at, caret) {
  if (held.isConnected) {
    held.focus({ preventScroll: true });
    if (caret) held.setSelectionRange(...caret);
  }
  if (held.isConnected && document.activeElement === held) return;
  if (!element.getClientRects().length) return;
  const items = reached(element);
  const next = items[Math.min(Math.max(at, 0), items.length - 1)] ?? element.closest("[tabindex]");
  (next ?? document.getElementById("map"))?.focus({ preventScroll: true });
}

function caretOf(element) {
  try {
    return element.selectionStart === null || element.selectionStart === undefined
      ? null
      : [element.selectionStart, element.selectionEnd, element.selectionDirection];
  } catch {
    return null;
  }
}

const keyOf = (node) => node.key ?? (node.id || undefined);

function alike(one, other) {
  return (
    one.nodeType === other.nodeType &&
    one.nodeName === other.nodeName &&
    keyOf(one) === keyOf(other) &&
    one.type === other.type
  );
}

function matchChildren(old, wanted, heed) {
  const before = [...old.childNodes],
    keyed = new Map(before.filter((node) => keyOf(node) !== undefined).map((node) => [keyOf(node), node]));
  const free = before.filter((node) => keyOf(node) === undefined),
    kept = new Set(),
    pairs = [];
  let from = 0;
  for (const want of [...wanted.childNodes]) {
    let found;
    if (keyOf(want) !== undefined) found = keyed.get(keyOf(want));
    else {
      const place = free.findIndex((node, index) => index >= from && alike(node, want));
      if (place >= 0) {
        found = free[place];
        from = place + 1;
      }
    }
    if (found && (kept.has(found) || !alike(found, want))) found = undefined;
    if (found) kept.add(found);
    pairs.push([found, want]);
  }
  for (const node of before) if (!kept.has(node)) node.remove();
  let next = old.firstChild;
  for (const [found, want] of pairs) {
    if (!found) old.insertBefore(want, next);
    else {
      // an element that is moved loses the focus: those in place already are not touched
      if (found === next) next = next.nextSibling;
      else old.insertBefore(found, next);
      match(found, want, heed);
    }
  }
}

function match(old, want, heed) {
  if (old === want) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== want.data) old.data = want.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // whether it is open is the reader's own doing
    if (name !== "style" && name !== "open" && !want.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of [...want.attributes]) {
    if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.cssText !== want.style.cssText) old.style.cssText = want.style.cssText;
  for (const name of Object.keys(old.heeds ?? {})) if (!want.heeds?.[name]) old.heeds[name] = undefined;
  for (const [name, action] of Object.entries(want.heeds ?? {})) heed(old, name, action);
  matchChildren(old, want, heed);
  if (old.nodeName === "INPUT") {
    if (old.checked !== want.checked) old.checked = want.checked;
    const typing = old === document.activeElement && TYPED.has(old.type);
    if (!typing && old.value !== want.value) old.value = want.value;
  } else if (old.nodeName === "SELECT" && old.value !== want.value) old.value = want.value;
}
