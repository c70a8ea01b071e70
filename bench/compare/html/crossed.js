// A column over two settings of a method.

import { scaleOf } from "./axes.js";
import { axis } from "./plots.js";
import { known, many, safe, settingLines, spread, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */
/** @typedef {import("./sweeps.js").Sweep} Sweep */
/** @typedef {import("./axes.js").Scale} Scale */

/** Values of a setting that get a row or a column of cells each. */
const MOST = 24;

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Sweep} sweep
 */
export function crossed(sheet, parent, sweep) {
  const { tried, groups, first, second } = sweep;
  const [across, up] = [first, second].map((key) => scaleOf(tried.rulers[key], key, groups));
  const draw = across.values.length > MOST || up.values.length > MOST ? strewn : cells;
  draw(sheet, parent, sweep, across, up);
}

/**
 * A cell for each pair of values: the mean over the groups that have both.
 *
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Sweep} sweep
 * @param {Scale} across
 * @param {Scale} up
 */
function cells(sheet, parent, { groups, column, first, second }, across, up) {
  const { key, title, digits, less } = column;
  const members = up.values.map((row) =>
    across.values.map((one) => groups.filter(({ apart }) => apart[first] === one && apart[second] === row)),
  );
  const means = members.map((line) => line.map((few) => mean(few.map(({ values }) => values[key][0]))));
  const several = members.flat().some((few) => few.length > 1);
  const [columns, rows] = [[...across.values.keys()], [...up.values.keys()]];
  const build = (/** @type {Look} */ look, /** @type {number} */ width) => ({
    traces: [
      {
        type: "heatmap",
        z: means,
        x: columns,
        y: rows,
        colorscale: sheet.data.scales.sequential,
        reversescale: less,
        text: means.map((line) => line.map((value) => (known(value) ? written(value, Math.min(digits, 1)) : ""))),
        texttemplate: width / columns.length > 45 ? "%{text}" : undefined,
        xgap: 1,
        ygap: 1,
        hoverongaps: false,
        colorbar: colorBar(title),
        customdata: members.map((line) => line.map((few) => many(few.length, "setting"))),
        hovertemplate: "%{x}, %{y}: %{text} (%{customdata})<extra></extra>",
      },
    ],
    layout: {
      xaxis: axis(look, {
        title: { text: safe(first) },
        tickvals: columns,
        ticktext: across.values.map(safe),
        showgrid: false,
      }),
      yaxis: axis(look, {
        title: { text: safe(second) },
        tickvals: rows,
        ticktext: up.values.map(safe),
        showgrid: false,
      }),
    },
  });
  const caption = several ? ["A cell is the mean over the other settings tried with these two."] : [];
  sheet.plots.add(parent, `${title} over ${first} and ${second}`, 130 + 34 * rows.length, build, ...caption);
}

/** @param {number[]} values */
function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

/** @param {string} title */
function colorBar(title) {
  return { thickness: 10, title: { text: title, font: { size: 11 } }, outlinewidth: 0 };
}

/**
 * A point for each group, where a setting has too many values for cells.
 *
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Sweep} sweep
 * @param {Scale} across
 * @param {Scale} up
 */
function strewn(sheet, parent, { groups, column, first, second }, across, up) {
  const { key, title, digits, less } = column;
  const build = (/** @type {Look} */ look) => ({
    traces: [
      {
        type: "scatter",
        mode: "markers",
        x: groups.map(({ apart }) => across.at(apart[first])),
        y: groups.map(({ apart }) => up.at(apart[second])),
        marker: {
          size: 10,
          color: groups.map(({ values }) => values[key][0]),
          colorscale: sheet.data.scales.sequential,
          reversescale: less,
          showscale: true,
          line: { width: 0.5, color: look.soft },
          colorbar: colorBar(title),
        },
        hovertemplate: groups.map(
          (group) => `${settingLines(group)}<br>${title} ${spread(group.values[key], digits, group.n)}<extra></extra>`,
        ),
      },
    ],
    layout: {
      xaxis: axis(look, { title: { text: safe(first) }, ...across.ticks }),
      yaxis: axis(look, { title: { text: safe(second) }, ...up.ticks }),
    },
  });
  sheet.plots.add(parent, `${title} over ${first} and ${second}`, 420, build);
}
