// Accuracy over the stages: on every task, on those learned so far, and on those to come.

import { controls, make, select, soft } from "./elements.js";
import { legend, lineStyle, markerStyle } from "./marks.js";
import { plusMinus } from "./matrices.js";
import { around, axis } from "./plots.js";
import { safe, WORDS } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */

/** Stands for the mean of the tasks that are not yet learned, as `null` does for that of the tasks so far. */
const WAITING = -1;

/** @param {Sheet} sheet */
export function curves(sheet) {
  if (!sheet.measured) return;
  const { sets, kind } = sheet.field;
  const node = sheet.panel("curves", "Learning curves");
  const body = make("div");
  let shown = sets.length <= sheet.data.most ? "all" : "mean";
  /** @type {[string, string][]} */
  const options = [["all", "every test set"], ["mean", WORDS[kind].soFar], ...sets.map(numbered)];
  if (waits(sheet)) options.splice(2, 0, [String(WAITING), WORDS[kind].waiting]);
  const choice = select("Test set", options, shown, (value) => {
    shown = value;
    update();
  });
  node.append(controls(choice), body);
  const update = () => {
    sheet.plots.clear(body);
    body.append(legend(measured(sheet)));
    if (shown === "all") grid(sheet, body);
    else curve(sheet, body, shown === "mean" ? null : Number(shown));
  };
  sheet.follow(update);
}

/**
 * @param {string} name
 * @param {number} index
 * @returns {[string, string]}
 */
function numbered(name, index) {
  return [String(index), name];
}

/** @param {Sheet} sheet */
function waits(sheet) {
  return sheet.field.groups.some(({ waiting }) => waiting.some((value) => value !== null));
}

/** @param {Sheet} sheet */
function measured(sheet) {
  return sheet.picked().filter((group) => group.mean);
}

/**
 * All curves, with axes of the same length.
 *
 * @param {Sheet} sheet
 * @param {HTMLElement} body
 */
function grid(sheet, body) {
  const columns = [null, ...(waits(sheet) ? [WAITING] : []), ...sheet.field.sets.keys()];
  const reaches = columns.map((column) => reach(sheet, column));
  const longest = Math.max(...reaches.map(([low, high]) => high - low));
  const node = body.appendChild(make("div", { class: "grid narrow" }));
  for (const [index, column] of columns.entries()) {
    const [low, high] = reaches[index];
    // In the middle, but with nothing above 100 % where it can be.
    const bottom = Math.max(Math.min((low + high - longest) / 2, Math.max(high, 100) - longest), Math.min(low, 0));
    curve(sheet, node, column, [bottom, bottom + longest]);
  }
  body.append(soft(WORDS[sheet.field.kind].curves, "All have axes of the same length, each at its own height."));
}

/**
 * The range in which the curves of one test set lie; `null` stands for the mean of the tasks so far.
 *
 * @param {Sheet} sheet
 * @param {number | null} column
 */
function reach(sheet, column) {
  return around(
    measured(sheet).map((group) => group.spans.at(column === null ? 0 : column === WAITING ? -1 : column + 1) ?? null),
  );
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {number | null} column  A test set; `null` stands for the mean of the tasks so far.
 * @param {Span} [range]  That of the vertical axis of a small plot; without it the plot is large.
 */
function curve(sheet, parent, column, range) {
  const { field } = sheet;
  const mean = column === null ? WORDS[field.kind].soFar : WORDS[field.kind].waiting;
  const name = isMean(column) ? mean : field.sets[column];
  const rows = [...field.states.keys()].slice(isMean(column) ? 1 : 0, column === WAITING ? -1 : undefined);
  const build = (/** @type {Look} */ look) => ({
    traces: measured(sheet).map((group) => trace(field, group, column, rows, range ? 5 : 8)),
    layout: {
      xaxis: axis(look, {
        tickvals: rows,
        ticktext: range ? rows.map(String) : rows.map((row) => safe(field.states[row])),
        showgrid: false,
        range: [rows[0] - 0.3, field.states.length - 0.7],
        title: { text: range ? "" : "after" },
      }),
      yaxis: axis(look, { range, title: { text: range ? "" : "accuracy (%)" } }),
      shapes: isMean(column) || column >= field.tasks.length ? [] : [learnedHere(column, look)],
    },
  });
  sheet.plots.add(parent, `Accuracy over the stages: ${name}`, range ? 240 : 420, build, name);
}

/**
 * Whether a curve is the mean of several tasks.
 *
 * @param {number | null} column
 * @returns {column is null | -1}
 */
function isMean(column) {
  return column === null || column === WAITING;
}

/**
 * @param {Field} field
 * @param {Group} group
 * @param {number | null} column
 * @param {number[]} rows
 * @param {number} size  Of its markers.
 */
function trace(field, group, column, rows, size) {
  const { mean, error } = group;
  const errors = isMean(column) || !error ? null : rows.map((row) => error[row][column] ?? 0);
  return {
    type: "scatter",
    mode: group.bound ? "lines" : "lines+markers",
    x: rows,
    y: rows.map((row) =>
      isMean(column) ? (column === null ? group.learned : group.waiting)[row - 1] : mean?.[row][column],
    ),
    connectgaps: false,
    line: lineStyle(group),
    marker: markerStyle(group, size),
    error_y: errors ? { type: "data", array: errors, thickness: 1, width: 0, color: group.color } : undefined,
    hovertemplate: rows.map(
      (row) =>
        `${safe(group.short)} after ${safe(field.states[row])}: %{y:.1f}${isMean(column) ? "" : plusMinus(group, row, column)}<extra></extra>`,
    ),
  };
}

/**
 * A dotted line where a task is learned.
 *
 * @param {number} column
 * @param {Look} look
 */
function learnedHere(column, look) {
  const line = { color: look.soft, width: 1, dash: "dot" };
  return { type: "line", x0: column + 1, x1: column + 1, yref: "paper", y0: 0, y1: 1, line };
}
