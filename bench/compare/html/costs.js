// Accuracy over cost, seconds by phase, memory, and what is stored.

import { controls, make, select, soft } from "./elements.js";
import { legend } from "./marks.js";
import { axis, mixed } from "./plots.js";
import { BUSY, busy, safe, spread, written } from "./text.js";
import { scatter } from "./tradeoff.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */

/** Pixels of an accuracy over a cost. */
const HEIGHT = 340;

/** @param {Sheet} sheet */
export function costs(sheet) {
  const node = sheet.panel("costs", "Costs");
  over(sheet, node);
  const body = node.appendChild(make("div"));
  sheet.follow(() => {
    sheet.plots.clear(body);
    const groups = sheet.picked().reverse();
    if (groups.length) draw(sheet, body, groups);
  });
}

/**
 * Puts an accuracy over the costs that methods are weighed by.
 *
 * @param {Sheet} sheet
 * @param {HTMLElement} node
 */
function over(sheet, node) {
  const { columns, column, data, field } = sheet;
  const [accuracies, costs] = [field.headlines, data.costs].map((keys) =>
    keys.filter((key) => columns.some((one) => one.key === key)),
  );
  if (!accuracies.length || !costs.length) return;
  let shown = accuracies[0];
  const body = make("div");
  const options = accuracies.map((key) => /** @type {[string, string]} */ ([key, column[key].title]));
  const choice = select("Accuracy", options, shown, (value) => {
    shown = value;
    update();
  });
  node.append(make("h3", {}, "Accuracy over cost"), controls(choice), body);
  const update = () => {
    sheet.plots.clear(body);
    const grid = body.appendChild(make("div", { class: "grid fit" }));
    for (const key of costs) scatter(sheet, grid, { x: key, y: shown }, HEIGHT);
    body.append(legend(sheet.picked()));
    if (field.groups.some((group) => busy("seconds", group))) body.append(soft(BUSY));
  };
  sheet.follow(update);
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} body
 * @param {Group[]} groups  From the bottom up.
 */
function draw(sheet, body, groups) {
  const phases = [...new Set(groups.flatMap((group) => Object.keys(group.phases)))];
  const height = 60 + 30 * groups.length;
  body.append(make("h3", {}, "Each cost"));
  if (phases.length) stacked(sheet, body, groups, phases, height + 10);
  const grid = body.appendChild(make("div", { class: "grid fit" }));
  for (const column of sheet.columns) {
    const split = column.key === "seconds" && phases.length;
    if (column.cost && !split && groups.some((group) => group.values[column.key]))
      bars(sheet, grid, groups, column, height);
  }
}

/**
 * An axis with a name for each group.
 *
 * @param {Look} look
 * @param {Group[]} groups
 * @param {boolean} stars  Whether those are marked whose runs shared a machine.
 */
function names(look, groups, stars = false) {
  return axis(look, {
    tickvals: [...groups.keys()],
    ticktext: groups.map((group) => safe(group.short) + (stars && busy("seconds", group) ? " *" : "")),
    showgrid: false,
    range: [-0.6, groups.length - 0.4],
  });
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Group[]} groups
 * @param {string[]} phases
 * @param {number} height
 */
function stacked(sheet, parent, groups, phases, height) {
  const opacity = (/** @type {number} */ index) => 1 - (0.75 * index) / Math.max(phases.length - 1, 1);
  const square = (/** @type {number} */ index) =>
    make("i", {
      style: `display:inline-block;width:.9rem;height:.9rem;margin-right:.4rem;background:currentColor;opacity:${opacity(index)}`,
    });
  const entries = phases.map((phase, index) => make("li", {}, square(index), phase));
  const build = (/** @type {Look} */ look) => ({
    traces: phases.map((phase, index) => ({
      type: "bar",
      orientation: "h",
      y: [...groups.keys()],
      x: groups.map((group) => group.phases[phase] ?? 0),
      marker: {
        color: groups.map((group) => mixed(group.color, look.paper, opacity(index))),
        line: { color: look.paper, width: 1 },
      },
      hovertemplate: groups.map((group) => `${safe(group.short)}, ${safe(phase)}: %{x:.1f} s<extra></extra>`),
    })),
    layout: { barmode: "stack", xaxis: axis(look, { title: { text: "seconds" } }), yaxis: names(look, groups, true) },
  });
  const title = "Seconds by phase";
  sheet.plots.add(parent, title, height, build, title, make("ul", { class: "legend" }, ...entries));
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Group[]} groups
 * @param {Column} column
 * @param {number} height
 */
function bars(sheet, parent, groups, { key, title, digits }, height) {
  const build = (/** @type {Look} */ look) => ({
    traces: [
      {
        type: "bar",
        orientation: "h",
        y: [...groups.keys()],
        x: groups.map((group) => group.values[key]?.[0] ?? null),
        marker: { color: groups.map((group) => group.color) },
        error_x: {
          type: "data",
          array: groups.map((group) => group.values[key]?.[1] ?? 0),
          color: look.soft,
          thickness: 1,
          width: 0,
        },
        text: groups.map((group) => written(group.values[key]?.[0], digits)),
        textposition: "auto",
        hovertemplate: groups.map(
          (group) => `${safe(group.short)}: ${spread(group.values[key], digits, group.n)}<extra></extra>`,
        ),
      },
    ],
    layout: { xaxis: axis(look, { rangemode: "tozero" }), yaxis: names(look, groups, key === "seconds") },
  });
  sheet.plots.add(parent, title, height, build, title);
}
