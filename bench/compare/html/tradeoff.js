// Two columns against each other: at first Transfer against Last, or what a model kept against what it did not forget.

import { controls, make, select, soft } from "./elements.js";
import { beside } from "./labels.js";
import { legend, lineStyle, symbol } from "./marks.js";
import { around, axis } from "./plots.js";
import { PUBLISHED } from "./results.js";
import { BUSY, busy, known, safe, spread, titled } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */
/** @typedef {{ x: string, y: string }} Axes  Keys of two columns. */
/**
 * @typedef {object} Item  A point: a group or a published row.
 * @property {string} short
 * @property {Record<string, Statistic>} values
 * @property {Group} [group]
 * @property {string} [source]
 * @property {boolean} named  Whether it gets a label, if there is room.
 */

/** Points that get labels generously; among more a label must cover almost nothing. */
const FEW = 24;

const HEIGHT = 440;

/** @param {Sheet} sheet */
export function tradeoff(sheet) {
  const { columns, field } = sheet;
  const node = sheet.panel("tradeoff", "Trade-off");
  if (!columns.length) return;
  /** @type {(key: string, other: Column) => string} */
  const pick = (key, other) => (columns.some((column) => column.key === key) ? key : other.key);
  const axes = { x: pick(field.tradeoff[0], columns[0]), y: pick(field.tradeoff[1], columns[1] ?? columns[0]) };
  const body = make("div");
  const choices = /** @type {const} */ ([
    ["Across", "x"],
    ["Up", "y"],
  ]).map(([label, name]) =>
    select(
      label,
      columns.map(({ key, title }) => [key, title]),
      axes[name],
      (value) => {
        axes[name] = value;
        update();
      },
    ),
  );
  node.append(controls(...choices), body);
  const update = () => draw(sheet, body, axes);
  sheet.follow(update);
}

/**
 * @param {Sheet} sheet
 * @param {HTMLElement} body
 * @param {Axes} axes
 */
function draw(sheet, body, axes) {
  sheet.plots.clear(body);
  const papers = scatter(sheet, body, axes, HEIGHT);
  const sentences = ["Mean over seeds; bars are standard errors."];
  const bounds = sheet.picked().filter((group) => group.bound);
  if (bounds.length) {
    sentences.push("Dashed: reference lines, on each axis where they have a value.");
    body.append(legend(bounds));
  }
  if (papers) sentences.push(`Hollow diamonds: ${PUBLISHED.toLowerCase()}.`);
  if (Object.values(axes).some((key) => sheet.field.groups.some((group) => busy(key, group)))) sentences.push(BUSY);
  body.append(soft(sentences.join(" ")));
}

/**
 * Draws one column against another.
 *
 * @param {Sheet} sheet
 * @param {HTMLElement} parent
 * @param {Axes} axes
 * @param {number} height
 * @returns {number}  How many published numbers are in it.
 */
export function scatter(sheet, parent, { x, y }, height) {
  const { field, column, plots } = sheet;
  const ours = field.groups.flatMap((group, index) =>
    group.values[x] && group.values[y] && !group.bound
      ? [{ short: group.short, values: group.values, group, named: sheet.shows(index) }]
      : [],
  );
  const papers = (field.published?.rows ?? [])
    .filter(({ values }) => known(values[x]) && known(values[y]))
    .map(({ method, source, values }) => ({
      short: method,
      source,
      values: { [x]: one(values[x]), [y]: one(values[y]) },
      named: true,
    }));
  /** @type {Item[]} */
  const items = [...ours, ...papers];
  const bearable = (/** @type {Item} */ item) => (item.source || ours.length > FEW ? 30 : 150);
  plots.add(parent, `${column[y].title} against ${column[x].title}`, height, (look, width) => {
    const [across, up] = [field.ranges[x]?.[y], field.ranges[y]?.[x]].map((range) => around([range], 0.12));
    const labels = labelled(items, { x, y }, { across, up, width, height, bearable });
    // One trace a colour: hundreds of traces would take half a minute to draw.
    const colors = [...new Set(items.map(({ group }) => group?.color))];
    return {
      traces: [
        ...references(sheet, { x, y }, { across, up }),
        ...colors.map((color) =>
          points(
            sheet,
            { x, y },
            items.filter(({ group }) => group?.color === color),
            look,
            labels,
          ),
        ),
      ],
      layout: {
        xaxis: axis(look, { range: across, title: { text: titled(column[x]) } }),
        yaxis: axis(look, { range: up, title: { text: titled(column[y]) } }),
      },
    };
  });
  return papers.length;
}

/**
 * A published number as a statistic.
 *
 * @param {number} value
 * @returns {Statistic}
 */
function one(value) {
  return [value, null, 1];
}

/**
 * Labels of those items that get one.
 *
 * @param {Item[]} items
 * @param {Axes} axes
 * @param {{ across: Span, up: Span, width: number, height: number, bearable: (item: Item) => number }} area
 */
function labelled(items, { x, y }, { across, up, width, height, bearable }) {
  const [wide, high] = [Math.max(width - 80, 100), height - 70];
  const scale = { x: wide / (across[1] - across[0]), y: high / (up[1] - up[0]) };
  const named = items.filter((item) => item.named);
  const points = named.map((item) => ({
    x: (item.values[x][0] - across[0]) * scale.x,
    y: high - (item.values[y][0] - up[0]) * scale.y,
    wide: (item.values[x][1] ?? 0) * scale.x,
    high: (item.values[y][1] ?? 0) * scale.y,
    text: item.short,
    bearable: bearable(item),
  }));
  return new Map(beside(points, wide, high).map((label, index) => [named[index], label]));
}

/**
 * One trace of items that have the same colour; published ones have none.
 *
 * @param {Sheet} sheet
 * @param {Axes} axes
 * @param {Item[]} items
 * @param {Look} look
 * @param {Map<Item, { side: string, text: string }>} labels
 */
function points({ column }, { x, y }, items, look, labels) {
  const color = items[0].group?.color;
  const hollow = (/** @type {Group} */ group) => busy(x, group) || busy(y, group);
  /** @type {(key: string) => object} */
  const errors = (key) => ({
    type: "data",
    array: items.map(({ values }) => values[key][1] ?? 0),
    color,
    thickness: 1.2,
  });
  /** @type {(item: Item) => string} */
  const hover = (item) =>
    [
      `${safe(item.short)}${item.source ? " (published)" : ""}`,
      ...(item.group && hollow(item.group) ? ["runs shared a machine"] : []),
      ...[x, y].map(
        (key) => `${column[key].title} ${spread(item.values[key], column[key].digits, item.values[key][2])}`,
      ),
      ...(item.source ? [safe(item.source)] : []),
    ].join("<br>");
  return {
    type: "scatter",
    mode: "markers+text",
    x: items.map(({ values }) => values[x][0]),
    y: items.map(({ values }) => values[y][0]),
    text: items.map((item) => safe(labels.get(item)?.text ?? "")),
    textposition: items.map((item) => labels.get(item)?.side ?? "top center"),
    textfont: { size: 11, color: color ? look.ink : look.soft },
    cliponaxis: false,
    marker: color
      ? {
          symbol: items.flatMap(({ group }) => (group ? [symbol(group) + (hollow(group) ? "-open" : "")] : [])),
          size: 10,
          color,
        }
      : { symbol: "diamond-open", size: 8, color: look.soft },
    error_x: errors(x),
    error_y: errors(y),
    hovertemplate: items.map((item) => `${hover(item)}<extra></extra>`),
  };
}

/** Points of a reference line, at each of which it says what it is. */
const ALONG = 41;

/**
 * Lines at the values of the bounds that are chosen, on every axis but one of a cost.
 *
 * @param {Sheet} sheet
 * @param {Axes} axes
 * @param {{ across: Span, up: Span }} ranges
 */
function references(sheet, { x, y }, { across, up }) {
  const { column } = sheet;
  /** @type {(group: Group, key: string, level: boolean) => object[]} */
  const line = (group, key, level) => {
    if (column[key].cost || !group.values[key]) return [];
    const [low, high] = level ? across : up;
    const along = Array.from({ length: ALONG }, (_, at) => low + ((high - low) * at) / (ALONG - 1));
    const value = along.map(() => group.values[key][0]);
    const said = `${column[key].title} ${spread(group.values[key], column[key].digits, group.n)}`;
    return [
      {
        type: "scatter",
        mode: "lines",
        x: level ? along : value,
        y: level ? value : along,
        line: lineStyle(group, 1),
        hovertemplate: `${safe(group.short)}<br>${said}<extra></extra>`,
      },
    ];
  };
  const bounds = sheet.picked().filter((group) => group.bound);
  return bounds.flatMap((group) => [...line(group, x, false), ...line(group, y, true)]);
}
