// Panel in numbers: what is best, and how far all others lie from a baseline.

import { controls, heading, make, row, select, soft, table } from "./elements.js";
import { markerStyle, swatch } from "./marks.js";
import { axis } from "./plots.js";
import { known, safe, spread, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */

/** @param {Sheet} sheet */
export function answers(sheet) {
  const { data, field, column } = sheet;
  const node = sheet.panel("short", "In short");
  for (const note of field.notes) node.append(make("p", { class: "note" }, `Note: ${note}`));
  const list = node.appendChild(make("ul", { class: "answers" }));
  for (const key of data.headlines) {
    if (!field.winners[key]) continue;
    const winners = field.winners[key].map((index) => field.groups[index]);
    const names = winners.length ? winners.map((group) => group.short).join(", ") : "no difference";
    const [first] = winners;
    const number = first ? spread(first.values[key], column[key].digits, first.n) : "all have the same mean";
    list.append(answer(`Highest ${column[key].title}`, names, number));
  }
  if (known(field.fastest)) {
    const group = field.groups[field.fastest];
    list.append(answer("Fastest that trains", group.short, `${spread(group.values.seconds, 1, group.n)} s`));
  }
  node.append(
    soft(
      "Transfer: accuracy on tasks before they are learned. Average: over all stages and tasks. Last: after the last task. ",
      "A mean with ± is over seeds, ± is its standard error.",
    ),
  );
  if (field.groups.length > 1) against(sheet, node);
}

/**
 * @param {string} question
 * @param {string} names
 * @param {string} number
 */
function answer(question, names, number) {
  return make("li", {}, question, make("b", {}, names), make("span", { class: "soft" }, number));
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} node
 */
function against(sheet, node) {
  const { field } = sheet;
  let baseline = field.against?.baseline ?? field.baselines[0];
  const body = make("div");
  const choice = select(
    "Difference to",
    field.baselines.map((index) => [index, field.groups[index].short]),
    baseline,
    (value) => {
      baseline = Number(value);
      update();
    },
  );
  node.append(make("h3", {}, "Better or worse than a baseline"), controls(choice), body);
  const update = () => {
    sheet.plots.clear(body);
    compare(sheet, body, baseline);
  };
  sheet.follow(update);
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} body
 * @param {number} baseline
 */
function compare(sheet, body, baseline) {
  const { data, field, column } = sheet;
  const tested = field.against?.baseline === baseline ? field.against : null;
  const rows = field.groups.flatMap((group, index) => {
    const contrast = field.contrasts[baseline][index];
    return contrast ? [{ group, index, contrast, differences: differences(data, tested, index, contrast) }] : [];
  });
  const few = rows.filter(({ index }) => sheet.shows(index)).reverse();
  const grid = body.appendChild(make("div", { class: "grid fit" }));
  /** @type {Set<string>} */
  const missing = new Set();
  for (const [at, key] of data.compared.entries()) {
    const points = few.map((one) => ({ group: one.group, difference: one.differences[at] }));
    const drawn = points.filter(({ difference: [mean] }) => known(mean));
    for (const { group, difference } of points)
      if (!known(difference[0])) missing.add(`${group.short} (${difference[3]})`);
    if (drawn.length) forest(sheet, grid, column[key].title, drawn);
  }
  if (missing.size) body.append(soft(`Not drawn: ${[...missing].join(", ")}.`));
  const titles = data.compared.map((key) => column[key].title);
  const head = ["Method", ...titles, "Gains most on", "Loses most on", "Time", "Memory"];
  const lines = rows.map(({ group, contrast, differences }) =>
    row(
      [swatch(group), group.short],
      [
        ...differences.map(differenceCell),
        ...extremes(group, contrast, field).map((text) => make("td", {}, text)),
        ...contrast[3].map((ratio) => make("td", {}, known(ratio) ? `× ${ratio.toFixed(2)}` : "–")),
      ],
    ),
  );
  body.append(
    table(
      "Differences to the baseline",
      head.map((text) => heading(text)),
      lines,
    ),
  );
  const explained = tested
    ? `Percentage points, in pairs of runs with the same seed. The intervals of one column hold together with ${100 * data.together} % ` +
      `confidence (each with ${(100 * tested.level).toFixed(tested.level > 0.999 ? 3 : 1)} %); where one holds 0, no difference is shown. `
    : "Percentage points between means, without intervals: those are computed for one baseline only, chosen by baseline=NAME when the page is made. ";
  body.append(soft(explained, "Gains and losses are of single tasks, after the last one."));
}

/**
 * The differences of a group to the baseline: with intervals where it is the one that was tested against.
 *
 * @param {PageData} data
 * @param {Field["against"]} tested
 * @param {number} index
 * @param {Contrast} contrast
 * @returns {Difference[]}
 */
function differences(data, tested, index, contrast) {
  return data.compared.map((key, at) => {
    if (tested) return tested.rows[index][key];
    const mean = contrast[0][at];
    return [mean, null, null, known(mean) ? "difference of the means" : "not defined here"];
  });
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {string} title
 * @param {{ group: Group, difference: Difference }[]} points  From the bottom up.
 */
function forest(sheet, parent, title, points) {
  sheet.plots.add(parent, `${title}: differences`, 70 + 26 * points.length, (look) => ({
    traces: points.map(({ group, difference: [mean, low, high, over] }, index) => ({
      type: "scatter",
      mode: "markers",
      x: [mean],
      y: [index],
      marker: markerStyle(group, 9),
      error_x:
        known(mean) && known(low) && known(high)
          ? { type: "data", symmetric: false, array: [high - mean], arrayminus: [mean - low], color: group.color }
          : undefined,
      hovertemplate: `${safe(group.short)}: ${written(mean, 2, true)}<br>${safe(interval(low, high, over))}<extra></extra>`,
    })),
    layout: {
      xaxis: axis(look, { title: { text: `${title}, points` } }),
      yaxis: axis(look, {
        tickvals: points.map((_, index) => index),
        ticktext: points.map(({ group }) => safe(group.short)),
        range: [-0.6, points.length - 0.4],
        showgrid: false,
      }),
      shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: look.soft, width: 1 } }],
    },
  }));
}

/**
 * @param {number | null} low
 * @param {number | null} high
 * @param {string} over
 */
function interval(low, high, over) {
  return known(low) ? `[${written(low, 2)}, ${written(high, 2)}] over ${over}` : over;
}

/** @param {Difference} difference */
function differenceCell([mean, low, high, over]) {
  const tested = known(mean) && known(low) && known(high);
  const better = tested && low > 0;
  const worse = tested && high < 0;
  const verdict = better ? "▲ better" : worse ? "▼ worse" : tested ? "no difference shown" : "";
  return make(
    "td",
    { class: better ? "better" : worse ? "worse" : undefined },
    make("b", {}, written(mean, 2, true)),
    ...(tested ? [` [${written(low, 2)}, ${written(high, 2)}]`] : []),
    make("span", { class: "verdict" }, verdict),
    make("span", { class: "interval" }, over),
  );
}

/**
 * On which task a group gains most, and on which it loses most.
 *
 * @param {Group} group
 * @param {Contrast} contrast
 * @param {Field} field
 */
function extremes(group, [, gain, loss, , reach], field) {
  if (!group.mean || !known(reach)) return ["–", "–"];
  return [gain, loss].map((change) => (change ? `${field.tasks[change[0]]} ${written(change[1], 1, true)}` : "none"));
}
