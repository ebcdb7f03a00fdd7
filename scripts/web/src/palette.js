// Colours that people with any kind of colour vision tell apart (Okabe and Ito's, lightened for dark pages), and one
// sequence from little to much (cividis). Every category is also named: in the legend, and on the map.

const LIGHT = ["#0072b2", "#d98c00", "#009e73", "#c2649a", "#3a9fd8", "#d55e00", "#6b5f00", "#5b3a8e"];
const DARK = ["#56b4e9", "#e69f00", "#2fbf93", "#e39bc4", "#f0e442", "#ff8a5c", "#9db1ff", "#c9b27c"];
const CIVIDIS = [
  "#00224e",
  "#123570",
  "#3b496c",
  "#575d6d",
  "#707173",
  "#8a8678",
  "#a59c74",
  "#c3b369",
  "#e1cc55",
  "#fee838",
];
export const CATEGORIES = 8;
export const OTHER = CATEGORIES,
  MISSING = CATEGORIES + 1,
  FIRST_STEP = 16,
  STEPS = 64;

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// What is drawn on the map beside its points, on light and on dark ground.
const PENS = {
  light: {
    ink: "#14181f", map: "#ffffff", ground: "rgba(255, 255, 255, 0.88)", mark: "#8a5a00", within: "rgba(138, 90, 0, 0.10)",
    ghost: [0.35, 0.38, 0.42, 0.14], dense: [40, 84, 160], faint: 0.15,
  },
  dark: {
    ink: "#eef1f6", map: "#11141a", ground: "rgba(17, 20, 26, 0.86)", mark: "#ffd166", within: "rgba(255, 209, 102, 0.14)",
    ghost: [0.6, 0.64, 0.7, 0.16], dense: [122, 162, 255], faint: 0.2,
  },
};

export function pens() {
  return PENS[isDark() ? "dark" : "light"];
}

export function rgb(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

function between(share) {
  const at = Math.max(0, Math.min(1, share)) * (CIVIDIS.length - 1),
    low = Math.floor(at);
  const one = rgb(CIVIDIS[low]),
    other = rgb(CIVIDIS[Math.min(low + 1, CIVIDIS.length - 1)]);
  return one.map((value, index) => Math.round(value + (other[index] - value) * (at - low)));
}

// 256 colours: categories, other, missing, then the sequence.
export function makePalette() {
  const dark = isDark(),
    colours = [];
  for (const hex of dark ? DARK : LIGHT) colours.push(rgb(hex));
  colours.push(dark ? [140, 144, 152] : [120, 124, 130]);
  colours.push(dark ? [92, 96, 104] : [176, 180, 186]);
  while (colours.length < FIRST_STEP) colours.push([128, 128, 128]);
  // the ends that the page's own ground would swallow are left out
  for (let step = 0; step < STEPS; step += 1) {
    const share = step / (STEPS - 1);
    colours.push(between(dark ? 0.22 + 0.78 * share : 0.88 * share));
  }
  while (colours.length < 256) colours.push([128, 128, 128]);
  return colours;
}

export function css([red, green, blue], alpha = 1) {
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}

// Numbers as steps of the sequence, with the ends of what they mean.
export function steps(values, chosen = null) {
  let low = Infinity,
    high = -Infinity;
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index];
    if (Number.isNaN(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (chosen) [low, high] = chosen;
  const codes = new Uint8Array(values.length).fill(MISSING),
    reach = high - low || 1;
  let missing = 0;
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index];
    if (Number.isNaN(value)) missing += 1;
    else codes[index] = FIRST_STEP + Math.round(Math.max(0, Math.min(1, (value - low) / reach)) * (STEPS - 1));
  }
  return { codes, low, high, missing };
}
