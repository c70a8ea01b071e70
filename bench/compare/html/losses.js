// The training loss, pass by pass, on every task.

import { controls, make, select, soft } from "./elements.js";
import { legend, lineStyle, markerStyle } from "./marks.js";
import { axis } from "./plots.js";
import { known, safe, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */

/** Passes that are written on an axis at most. */
const TICKS = 10;

/** @param {Sheet} sheet */
export function losses(sheet) {
  const { tasks, groups } = sheet.field;
  if (!groups.some((group) => group.losses.length)) return;
  const node = sheet.panel("losses", "Training loss");
  const body = make("div");
  let shown = tasks.length <= sheet.data.most ? "all" : "0";
  /** @type {[string, string][]} */
  const options = [["all", "every task"], ...tasks.map(numbered)];
  const choice = select("Task", options, shown, (value) => {
    shown = value;
    update();
  });
  node.append(controls(choice), body);
  const update = () => {
    sheet.plots.clear(body);
    const drawn = sheet.picked().filter((group) => group.losses.length);
    if (!drawn.length) body.append(make("p", {}, "No method that is chosen has a recorded loss."));
    if (!drawn.length) return;
    body.append(legend(drawn));
    const small = shown === "all";
    const parent = small ? body.appendChild(make("div", { class: "grid narrow" })) : body;
    for (const task of small ? tasks.keys() : [Number(shown)]) curve(sheet, parent, drawn, task, small);
    body.append(
      soft(
        "Mean loss over the training images of a task, after each pass over them; bars are standard errors over seeds. ",
        "Each plot has its own scale. Methods may add terms of their own to the loss, so a lower one is not always better.",
      ),
    );
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

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Group[]} groups
 * @param {number} task
 * @param {boolean} small
 */
function curve(sheet, parent, groups, task, small) {
  const name = sheet.field.tasks[task];
  const most = Math.max(...groups.map((group) => group.losses[task]?.length ?? 0));
  const build = (/** @type {Look} */ look) => ({
    traces: groups.filter((group) => group.losses[task]?.length).map((group) => trace(group, task, small ? 5 : 8)),
    layout: {
      xaxis: axis(look, {
        range: [0.7, most + 0.3],
        tick0: 1,
        dtick: Math.ceil(most / TICKS),
        showgrid: false,
        title: { text: small ? "" : "pass over the images" },
      }),
      yaxis: axis(look, { title: { text: small ? "" : "loss" } }),
    },
  });
  sheet.plots.add(parent, `Training loss: ${name}`, small ? 220 : 400, build, name);
}

/**
 * @param {Group} group
 * @param {number} task
 * @param {number} size  Of its markers.
 */
function trace(group, task, size) {
  const passes = group.losses[task];
  return {
    type: "scatter",
    mode: "lines+markers",
    x: passes.map((_, index) => index + 1),
    y: passes.map(([mean]) => mean),
    line: lineStyle(group),
    marker: markerStyle(group, size),
    error_y: { type: "data", array: passes.map(([, error]) => error ?? 0), thickness: 1, width: 0, color: group.color },
    hovertemplate: passes.map(
      ([mean, error], index) =>
        `${safe(group.short)}, pass ${index + 1}: ${written(mean, 4)}${known(error) ? ` ± ${written(error, 4)}` : ""}<extra></extra>`,
    ),
  };
}
