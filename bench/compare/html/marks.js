// Markers and dashes of groups: in pictures, and beside their names.

import { make, row } from "./elements.js";

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];

/** Paths of the symbols in a box of 30 by 12. @type {Record<string, string>} */
const SHAPES = {
  circle: "M15 2a4 4 0 1 0 .01 0Z",
  square: "M11 2h8v8h-8Z",
  diamond: "M15 1l5 5-5 5-5-5Z",
  "triangle-up": "M15 1l5 9h-10Z",
  "triangle-down": "M15 11l5-9h-10Z",
  cross: "M13 1h4v3h3v4h-3v3h-4v-3h-3v-4h3Z",
};

/** @type {Record<string, string>} */
const STROKES = { solid: "none", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "9 3", longdashdot: "9 2 2 2" };

/** @param {Style} style */
export function symbol(style) {
  return SYMBOLS[style.variant % SYMBOLS.length];
}

/** @param {Style} style */
function dash(style) {
  const patterns = style.bound ? [...DASHES.slice(1), "longdashdot"] : DASHES;
  return patterns[style.variant % patterns.length];
}

/**
 * @param {Style} style
 * @param {number} width
 */
export function lineStyle(style, width = 2) {
  return { color: style.color, dash: dash(style), width };
}

/**
 * @param {Style} style
 * @param {number} size
 */
export function markerStyle(style, size = 7) {
  return { color: style.color, symbol: symbol(style), size };
}

/**
 * A small picture of a group's line and marker.
 *
 * @param {Style} style
 */
export function swatch(style) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  /** @type {(attributes: Record<string, string | number>) => void} */
  const path = (attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
    svg.append(node);
  };
  svg.setAttribute("viewBox", "0 0 30 12");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  path({ d: "M0 6h30", stroke: style.color, "stroke-width": 2, "stroke-dasharray": STROKES[dash(style)] });
  if (!style.bound) path({ d: SHAPES[symbol(style)], fill: style.color });
  return svg;
}

/**
 * A row of a table about a group; those of bounds stand below a rule.
 *
 * @param {Group} group
 * @param {HTMLElement[]} cells
 * @param {(Node | string)[]} more  What follows its name.
 */
export function groupRow(group, cells, ...more) {
  const line = row([swatch(group), group.short, ...more], cells);
  if (group.bound) line.className = "bound";
  return line;
}

/** @param {Group[]} groups */
export function legend(groups) {
  return make("ul", { class: "legend" }, ...groups.map((group) => make("li", {}, swatch(group), group.short)));
}
