// Every group as a line across all settings and one column, as plain lines that need no WebGL.

import { SEVERAL, scaleOf } from "./axes.js";
import { around, axis, channels } from "./plots.js";
import { safe, settingLines, spread, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */
/** @typedef {import("./sweeps.js").Sweep} Sweep */
/**
 * @typedef {object} Upright  One of the axes side by side.
 * @property {(group: Group) => number | null} of  Where a group lies on it, from 0 to 1.
 * @property {[at: number | null, text: string][]} marks
 */

/** Colours of lines: few traces draw fast, however many lines there are. */
const SHADES = 9;

/** Lines that are drawn thinner. */
const CROWD = 60;

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Sweep} sweep
 */
export function parallel(sheet, parent, sweep) {
  const { tried, groups, column, marked, marking } = sweep;
  const { key, title, digits } = column;
  const keys = Object.keys(tried.rulers);
  const { low, high } = tried.tops[key];
  const [from, to] = around([[low, high]], 0, 1e-9);
  const share = (/** @type {Group} */ group) => (group.values[key][0] - from) / (to - from);
  /** @type {Upright[]} */
  const axes = keys.map((setting) => upright(tried.rulers[setting], setting, groups));
  axes.push({
    of: share,
    marks: [0, 0.25, 0.5, 0.75, 1].map((at) => [at, written(from + at * (to - from), digits)]),
  });
  const shade = (/** @type {Group} */ group) => Math.max(0, Math.min(SHADES - 1, Math.floor(share(group) * SHADES)));
  const build = (/** @type {Look} */ look) => {
    const style = { width: groups.length > CROWD ? 0.7 : 1.5, opacity: marking ? 0.25 : 0.8 };
    const traces = shades(sheet.data.scales.sequential, look).map((color, index) => ({
      ...trace(
        axes,
        groups.filter((group) => shade(group) === index),
        column,
      ),
      line: { color, width: style.width },
      marker: { color, size: 4 },
      opacity: style.opacity,
    }));
    const strong = {
      ...trace(axes, groups.filter(marked), column),
      line: { color: look.ink, width: 3 },
      marker: { color: look.ink, size: 7 },
    };
    return {
      traces: [...traces, strong].filter(({ x }) => x.length),
      layout: layout(axes, [...keys.map((key) => tried.names[key]), title], look),
    };
  };
  sheet.plots.add(
    parent,
    `All settings and ${title}`,
    420,
    build,
    `All settings and ${title}: every line is one setting, yellow where ${title} is high, dark or grey where it is low`,
  );
}

/**
 * The axis of a setting.
 *
 * @param {Ruler} ruler
 * @param {string} key
 * @param {Group[]} groups
 * @returns {Upright}
 */
function upright(ruler, key, groups) {
  const { at, values } = scaleOf(ruler, key, groups);
  const [first, last] = [at(values[0]) ?? 0, at(values[values.length - 1]) ?? 0];
  const place = (/** @type {string} */ value) => {
    const position = at(value);
    if (position === null) return null;
    return first === last ? 0.5 : (position - first) / (last - first);
  };
  const named = values.length <= SEVERAL ? values : [values[0], values[values.length - 1]];
  return { of: (group) => place(group.apart[key]), marks: named.map((value) => [place(value), brief(value)]) };
}

/**
 * A long number with three digits.
 *
 * @param {string} value
 */
function brief(value) {
  return value.length > 9 && Number.isFinite(Number(value)) ? Number(value).toPrecision(3) : value;
}

/**
 * Some groups as one trace, their lines parted by gaps.
 *
 * @param {Upright[]} axes
 * @param {Group[]} groups
 * @param {Column} column
 */
function trace(axes, groups, { key, title, digits }) {
  const text = (/** @type {Group} */ group) =>
    `${settingLines(group)}<br>${title} ${spread(group.values[key], digits, group.n)}`;
  return {
    type: "scatter",
    mode: "lines+markers",
    connectgaps: false,
    x: groups.flatMap(() => [...axes.keys(), null]),
    y: groups.flatMap((group) => [...axes.map(({ of }) => of(group)), null]),
    text: groups.flatMap((group) => Array(axes.length + 1).fill(text(group))),
    hovertemplate: "%{text}<extra></extra>",
  };
}

/**
 * @param {Upright[]} axes
 * @param {string[]} titles
 * @param {Look} look
 */
function layout(axes, titles, look) {
  const line = { color: look.soft, width: 1 };
  return {
    margin: { l: 20, r: 20, t: 30, b: 10 },
    xaxis: axis(look, {
      tickvals: [...titles.keys()],
      ticktext: titles.map((title) => safe(title)),
      range: [-0.25, titles.length - 0.65],
      showgrid: false,
      showline: false,
    }),
    yaxis: axis(look, { range: [-0.06, 1.06], visible: false }),
    shapes: titles.map((_, x) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, line, layer: "below" })),
    annotations: axes.flatMap(({ marks }, x) =>
      marks.map(([y, text]) => ({
        x,
        y,
        text: safe(text),
        showarrow: false,
        xanchor: "left",
        xshift: 6,
        font: { size: 10, color: look.soft },
        bgcolor: look.paper,
        opacity: 0.85,
      })),
    ),
  };
}

/**
 * Colours of lines: those of a scale that are seen on the paper.
 *
 * @param {ColorScale} scale
 * @param {Look} look
 */
function shades(scale, look) {
  const [from, to] = channels(look.paper)[0] < 128 ? [0.3, 1] : [0, 0.8];
  return Array.from({ length: SHADES }, (_, index) => {
    const at = from + ((to - from) * index) / (SHADES - 1);
    return scale[Math.round(at * (scale.length - 1))][1];
  });
}
