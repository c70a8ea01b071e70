// Differences with their intervals as points on lines, one below the other.

import { markerStyle } from "./marks.js";
import { axis } from "./plots.js";
import { known, safe, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */
/**
 * @typedef {object} Entry  One point.
 * @property {string} label
 * @property {Group} group
 * @property {Difference} difference
 */

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {string} name  What a screen reader says.
 * @param {{ entries: Entry[], title: string, range?: Span, each: number }} what  Points from the top, the title of their
 *   axis and its range, and pixels for each point.
 * @param {(Node | string)[]} caption
 */
export function forest(sheet, parent, name, { entries, title, range, each }, ...caption) {
  const groups = [...new Set(entries.map(({ group }) => group))];
  const build = (/** @type {Look} */ look) => ({
    traces: groups.map((group) => trace(group, entries)),
    layout: {
      xaxis: axis(look, { title: { text: title }, range }),
      yaxis: axis(look, {
        tickvals: [...entries.keys()],
        ticktext: entries.map(({ label }) => safe(label)),
        range: [entries.length - 0.4, -0.6],
        showgrid: false,
      }),
      shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: look.soft, width: 1 } }],
    },
  });
  sheet.plots.add(parent, name, (title ? 70 : 50) + each * entries.length, build, ...caption);
}

/**
 * The points of one group.
 *
 * @param {Group} group
 * @param {Entry[]} entries
 */
function trace(group, entries) {
  const own = [...entries.keys()].filter((at) => entries[at].group === group && known(entries[at].difference[0]));
  const arms = own.map((at) => {
    const [mean, low, high] = entries[at].difference;
    return known(mean) && known(low) && known(high) ? [mean - low, high - mean] : [0, 0];
  });
  return {
    type: "scatter",
    mode: "markers",
    x: own.map((at) => entries[at].difference[0]),
    y: own,
    marker: markerStyle(group, 9),
    error_x: {
      type: "data",
      symmetric: false,
      arrayminus: arms.map(([below]) => below),
      array: arms.map(([, above]) => above),
      color: group.color,
    },
    hovertemplate: own.map((at) => hover(entries[at])),
  };
}

/** @param {Entry} entry */
function hover({ label, difference: [mean, low, high, over] }) {
  const interval = known(low) ? `[${written(low, 2)}, ${written(high, 2)}] over ${over}` : over;
  return `${safe(label)}: ${written(mean, 2, true)}<br>${safe(interval)}<extra></extra>`;
}
