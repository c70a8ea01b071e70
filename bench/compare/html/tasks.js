// Every task by itself: the table of papers, and how far each method lies from the baseline.

import { controls, heading, make, row, select, soft, table } from "./elements.js";
import { forest } from "./forests.js";
import { groupRow, swatch } from "./marks.js";
import { around } from "./plots.js";
import { paper } from "./results.js";
import { known, spread, WORDS, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */

/** Decimals, as papers have them. */
const DIGITS = 1;

/** @param {Sheet} sheet */
export function tasks(sheet) {
  const { field, column } = sheet;
  const found = field.per_task;
  if (!found) return;
  const node = sheet.panel("tasks", "Task by task");
  const body = make("div");
  const ranked = found.tables.findIndex(({ key }) => key === field.ranked);
  let shown = ranked < 0 ? found.tables.length - 1 : ranked;
  const choice = select(
    "Metric",
    found.tables.map(({ key }, index) => [index, column[key].title]),
    shown,
    (value) => {
      shown = Number(value);
      update();
    },
  );
  node.append(controls(choice), body);
  const update = () => {
    sheet.plots.clear(body);
    body.append(results(sheet, found.names, found.tables[shown]));
    body.append(
      soft(
        "Percent, means over seeds. Bold: the seeds show that it is ahead of the next one. ",
        WORDS[field.kind].byTask,
      ),
      ...found.notes.map((note) => soft(`${note}.`)),
    );
    differences(sheet, body, found.names, found.tables[shown]);
  };
  sheet.follow(update);
}

/**
 * @param {Sheet} sheet
 * @param {string[]} names
 * @param {TaskTable} found
 */
function results({ field, column }, names, found) {
  const ours = found.rows.map((values, index) => {
    const group = field.groups[index];
    const cells = values.map((value, at) => {
      const mean = at === names.length;
      const text = mean ? spread(value ?? undefined, DIGITS, group.n) : written(value?.[0], DIGITS);
      const best = found.ahead[at] === index ? "best" : undefined;
      return make("td", { class: best, title: value ? spread(value, 2, group.n) : undefined }, text);
    });
    return groupRow(group, cells);
  });
  const papers = found.published.map((one) => {
    const cells = one.values.map((value) => make("td", {}, written(value, DIGITS)));
    const line = row([paper(one)], cells);
    line.className = "published";
    return line;
  });
  return table(
    `${column[found.key].title} of every task`,
    ["Method", ...names, "Mean"].map((text) => heading(text)),
    [...ours, ...papers],
  );
}

/**
 * Draws the differences to the baseline, a plot for each method, with a line for each task.
 *
 * @param {Sheet} sheet
 * @param {HTMLElement} body
 * @param {string[]} names
 * @param {TaskTable} found
 */
function differences(sheet, body, names, found) {
  const { field, column } = sheet;
  const { against } = field;
  if (!against) return;
  const base = field.groups[against.baseline].short;
  body.append(make("h3", {}, `${column[found.key].title} of every task: difference to ${base}`));
  const grid = body.appendChild(make("div", { class: "grid wide" }));
  const missing = [];
  for (const [index, group] of field.groups.entries()) {
    if (index === against.baseline || !sheet.shows(index)) continue;
    const row = found.differences[index];
    if (row?.some(([mean]) => known(mean))) {
      const entries = row.map((difference, task) => ({ label: names[task], group, difference }));
      const what = { entries, title: "", range: around([found.reach]), each: 22 };
      forest(sheet, grid, `${group.short}: differences on every task`, what, swatch(group), group.short);
    } else missing.push(`${group.short} (${row ? row[0][3] : "not among the rows that the page shows at first"})`);
  }
  if (missing.length) body.append(soft(`Not drawn: ${missing.join(", ")}.`));
  if (!grid.children.length) return;
  const level = (100 * against.level).toFixed(against.level > 0.999 ? 3 : 1);
  body.append(
    soft(`Percentage points. Each interval holds with ${level} % confidence by itself; of many, some miss by chance.`),
  );
}
