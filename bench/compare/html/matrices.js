// Accuracy matrices, or their differences to that of one group, on one colour scale.

import { controls, make, select, soft } from "./elements.js";
import { swatch } from "./marks.js";
import { axis } from "./plots.js";
import { known, safe, WORDS, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */
/** @typedef {{ low: number, high: number, colors: ColorScale, sign: boolean }} Scale */

/** Points of the smallest difference that a scale shows. */
const SMALLEST = 0.1;

/** @param {Sheet} sheet */
export function matrices(sheet) {
  if (!sheet.measured) return;
  const { groups, baselines } = sheet.field;
  const node = sheet.panel("matrices", "Accuracy matrices");
  const body = make("div");
  /** @type {number | null} */
  let baseline = null;
  const choice = select(
    "Show",
    [["", "accuracy"], ...baselines.map((index) => pair(index, `difference to ${groups[index].short}`))],
    "",
    (value) => {
      baseline = value === "" ? null : Number(value);
      update();
    },
  );
  node.append(controls(choice), body);
  const update = () => draw(sheet, body, baseline);
  sheet.follow(update);
}

/**
 * @param {number} value
 * @param {string} text
 * @returns {[number, string]}
 */
function pair(value, text) {
  return [value, text];
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} body
 * @param {number | null} baseline
 */
function draw(sheet, body, baseline) {
  sheet.plots.clear(body);
  const { groups } = sheet.field;
  const base = baseline === null ? null : groups[baseline];
  const drawn = groups.flatMap((group, index) =>
    group.mean && sheet.shows(index) && index !== baseline ? [{ group, index, mean: group.mean }] : [],
  );
  const scale = scaleOf(
    sheet,
    baseline,
    drawn.map(({ index }) => index),
  );
  const grid = make("div", { class: "grid wide" });
  body.append(bar(scale), grid);
  for (const { group, mean } of drawn) heatmap(sheet, grid, group, base ? minus(mean, base.mean) : mean, scale);
  if (!drawn.length) body.append(make("p", {}, "Nothing is chosen but the baseline."));
  body.append(soft(WORDS[sheet.field.kind].matrix));
}

/**
 * The scale of all accuracies, or one about zero that holds the differences of the drawn groups.
 *
 * @param {Sheet} sheet
 * @param {number | null} baseline
 * @param {number[]} drawn
 * @returns {Scale}
 */
function scaleOf({ data, field }, baseline, drawn) {
  if (baseline === null) {
    const [low, high] = field.accuracies ?? [0, 100];
    return { low, high, colors: data.scales.sequential, sign: false };
  }
  const most = Math.max(SMALLEST, ...drawn.map((index) => field.contrasts[baseline][index]?.[4] ?? 0));
  return { low: -most, high: most, colors: data.scales.diverging, sign: true };
}

/**
 * A matrix minus another; cells that one of them lacks are left open.
 *
 * @param {Matrix} matrix
 * @param {Matrix | null} other
 * @returns {Matrix}
 */
function minus(matrix, other) {
  return matrix.map((line, row) =>
    line.map((value, column) => {
      const base = other?.[row][column];
      return known(value) && known(base) ? value - base : null;
    }),
  );
}

/**
 * What the colours stand for.
 *
 * @param {Scale} scale
 */
function bar({ low, high, colors, sign }) {
  const gradient = colors.map(([at, color]) => `${color} ${100 * at}%`).join(",");
  return make(
    "div",
    { class: "scale" },
    written(low, 1, sign),
    make("i", { style: `background:linear-gradient(90deg,${gradient})` }),
    written(high, 1, sign),
    sign ? " points: red is worse, blue is better" : " %",
  );
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Group} group
 * @param {Matrix} cells
 * @param {Scale} scale
 */
function heatmap({ plots, field }, parent, group, cells, { low, high, colors, sign }) {
  const columns = field.sets.map((_, index) => index);
  const rows = field.states.map((_, index) => index);
  const build = (/** @type {Look} */ look, /** @type {number} */ width) => {
    const size = Math.min(12, (width - 90) / columns.length / 2.9); // the numbers must fit their cells
    return {
      traces: [
        {
          type: "heatmap",
          z: cells,
          zmin: low,
          zmax: high,
          colorscale: colors,
          showscale: false,
          xgap: 1,
          ygap: 1,
          hoverongaps: false,
          text: cells.map((line) => line.map((value) => (known(value) ? written(value, 1, sign) : ""))),
          texttemplate: size >= 6 ? "%{text}" : undefined,
          textfont: { size },
          customdata: cells.map((line, row) => line.map((_, column) => plusMinus(group, row, column))),
          hovertemplate: "%{x} after %{y}: %{text}%{customdata}<extra></extra>",
          x: columns,
          y: rows,
        },
      ],
      layout: {
        margin: { l: 10, r: 4, t: 26, b: 10 },
        xaxis: axis(look, {
          tickvals: columns,
          ticktext: field.sets.map(safe),
          showgrid: false,
          autotickangles: [0, -45, -90],
        }),
        yaxis: axis(look, {
          tickvals: rows,
          ticktext: field.states.map(safe),
          showgrid: false,
          autorange: "reversed",
        }),
        shapes: columns.slice(0, field.tasks.length).map((column) => ({
          type: "rect",
          x0: column - 0.5,
          x1: column + 0.5,
          y0: column + 0.5,
          y1: column + 1.5,
          line: { color: look.ink, width: 1.5 },
        })),
      },
    };
  };
  const height = 26 * rows.length + 85;
  plots.add(parent, `Accuracy matrix of ${group.short}`, height, build, swatch(group), group.short);
}

/**
 * The standard error of a cell, where there is one.
 *
 * @param {Group} group
 * @param {number} row
 * @param {number} column
 */
export function plusMinus(group, row, column) {
  const value = group.error?.[row][column];
  return known(value) ? ` ± ${written(value, 2)}` : "";
}
