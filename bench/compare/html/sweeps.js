// What a method does with other settings: shown where groups of one method differ in them.

import { scaleOf } from "./axes.js";
import { crossed } from "./crossed.js";
import { controls, make, select, soft } from "./elements.js";
import { lineStyle, markerStyle } from "./marks.js";
import { parallel } from "./parallel.js";
import { axis } from "./plots.js";
import { many, safe, settingLines, spread, titled } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */
/**
 * @typedef {object} Sweep  What is drawn: groups of one method, one column over one or two settings.
 * @property {Tried} tried
 * @property {Group[]} groups  Those that have a value in the column.
 * @property {Column} column
 * @property {string} first
 * @property {string} second  Empty where the method has one setting.
 * @property {(group: Group) => boolean} marked  Whether a group is emphasised.
 * @property {boolean} marking  Whether any group may be.
 */

/** Lines that are told apart. More say nothing, and take long to draw. */
const FEW = 24;

/** The choice that emphasises the best tenth; no group is labelled so. */
const TENTH = "tenth";

/** @param {Sheet} sheet */
export function sweeps(sheet) {
  const { field, columns } = sheet;
  if (!field.tried.length || !columns.length) return;
  const node = sheet.panel("sweeps", "Settings tried");
  const bar = node.appendChild(make("div"));
  const body = node.appendChild(make("div"));
  const metric = columns.some(({ key }) => key === field.ranked) ? field.ranked : columns[0].key;
  const state = { tried: field.tried[0], metric, first: "", second: "", marked: "" };

  const update = () => draw(sheet, body, state);
  /** @type {(key: "metric" | "first" | "second" | "marked") => (value: string) => void} */
  const change = (key) => (value) => {
    state[key] = value;
    update();
  };
  /** @type {(values: string[]) => [string, string][]} */
  const same = (values) => values.map((value) => [value, value]);
  const choose = (/** @type {Tried} */ tried) => {
    const settings = same(Object.keys(tried.rulers));
    [state.first, state.second = ""] = tried.widest;
    Object.assign(state, { tried, marked: "" });
    /** @type {[string, string][]} */
    const marks = tried.groups.map((index) => [field.groups[index].label, field.groups[index].short]);
    const method = select("Method", same(field.tried.map((one) => one.method)), tried.method, (value) =>
      choose(field.tried.find((one) => one.method === value) ?? tried),
    );
    const choices = [
      select(
        "Metric",
        columns.map(({ key, title }) => [key, title]),
        state.metric,
        change("metric"),
      ),
      select("over", settings, state.first, change("first")),
      ...(settings.length > 1 ? [select("and", settings, state.second, change("second"))] : []),
      select("Emphasise", [["", "nothing"], [TENTH, "the best tenth"], ...marks], state.marked, change("marked")),
    ];
    bar.replaceChildren(controls(...(field.tried.length > 1 ? [method] : []), ...choices));
    update();
  };
  choose(state.tried);
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} body
 * @param {{ tried: Tried, metric: string, first: string, second: string, marked: string }} state
 */
function draw(sheet, body, { tried, metric, first, second, marked }) {
  sheet.plots.clear(body);
  const all = sheet.field.groups;
  const tops = tried.tops[metric];
  if (!tops) return;
  const column = sheet.column[metric];
  const groups = tried.groups.map((index) => all[index]).filter((group) => group.values[metric]);
  const tenth = new Set(tops.tenth.map((index) => all[index]));
  const emphasised = (/** @type {Group} */ group) => (marked === TENTH ? tenth.has(group) : group.label === marked);
  const sweep = { tried, groups, column, first, second, marked: emphasised, marking: Boolean(marked) };
  const best = all[tops.best];
  const number = spread(best.values[metric], column.digits, best.n);
  body.append(
    soft(
      `${many(groups.length, "setting")} of ${tried.method}. The ${column.less ? "lowest" : "highest"} ${column.title}: ${best.short}, ${number}. It is chosen after the fact: a fair number for it needs other seeds or images.`,
    ),
  );
  over(sheet, body, sweep);
  if (second && second !== first) crossed(sheet, body, sweep);
  if (Object.keys(tried.rulers).length > 1) parallel(sheet, body, sweep);
}

/**
 * Draws a column over one setting; lines join groups that are otherwise set alike.
 *
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Sweep} sweep
 */
function over(sheet, parent, sweep) {
  const { tried, groups, column, first } = sweep;
  const scale = scaleOf(tried.rulers[first], first, groups);
  /** @type {Map<string, Group[]>} */
  const lines = new Map();
  for (const group of groups) {
    const others = Object.entries(group.apart).filter(([key]) => key !== first);
    const name = others.map(([key, value]) => `${tried.names[key]}=${value}`).join(" ");
    lines.set(name, [...(lines.get(name) ?? []), group]);
  }
  const joined = lines.size <= FEW;
  const named = joined && lines.size > 1;
  /** @type {[string, Group[]][]} */
  const drawn = joined ? [...lines] : [["", groups]];
  const build = (/** @type {Look} */ look) => ({
    traces: drawn.map(([name, members], index) => ({
      ...trace(sweep, members, scale.at, { color: members[0].color, variant: index }, look),
      mode: joined ? "lines+markers" : "markers",
      name: safe(name),
      showlegend: named,
    })),
    layout: {
      xaxis: axis(look, { title: { text: safe(first) }, ...scale.ticks }),
      yaxis: axis(look, { title: { text: titled(column) } }),
      showlegend: named,
      legend: { orientation: "h", y: -0.22, font: { size: 11 } },
    },
  });
  sheet.plots.add(parent, `${column.title} over ${first}`, 380, build);
}

/**
 * @param {Sweep} sweep
 * @param {Group[]} members
 * @param {(value: string) => number | null} at
 * @param {Style} style
 * @param {Look} look
 */
function trace({ column, first, marked }, members, at, style, look) {
  const { key, title, digits } = column;
  const position = (/** @type {Group} */ group) => at(group.apart[first]);
  const sorted = members.slice().sort((a, b) => Number(position(a)) - Number(position(b)));
  return {
    type: "scatter",
    x: sorted.map(position),
    y: sorted.map((group) => group.values[key][0]),
    error_y: {
      type: "data",
      array: sorted.map((group) => group.values[key][1] ?? 0),
      thickness: 1,
      width: 0,
      color: style.color,
    },
    line: lineStyle(style, 1.5),
    marker: {
      ...markerStyle(style),
      size: sorted.map((group) => (marked(group) ? 14 : 7)),
      line: { color: look.ink, width: sorted.map((group) => (marked(group) ? 2 : 0)) },
    },
    hovertemplate: sorted.map(
      (group) => `${settingLines(group)}<br>${title} ${spread(group.values[key], digits, group.n)}<extra></extra>`,
    ),
  };
}
