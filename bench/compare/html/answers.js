// Panel in numbers: what is best, and how far all others lie from a baseline.

import { controls, heading, make, select, soft, table } from "./elements.js";
import { forest } from "./forests.js";
import { groupRow } from "./marks.js";
import { busy, known, spread, WORDS, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */

/** @param {Sheet} sheet */
export function answers(sheet) {
  const { field, column } = sheet;
  const node = sheet.panel("short", "In short");
  for (const note of field.notes) node.append(make("p", { class: "note" }, `Note: ${note}`));
  const list = node.appendChild(make("ul", { class: "answers" }));
  for (const key of field.headlines) {
    if (!field.winners[key]) continue;
    const winners = field.winners[key].map((index) => field.groups[index]);
    const names = winners.length ? winners.map((group) => group.short).join(", ") : "no difference";
    const [first] = winners;
    const number = first ? spread(first.values[key], column[key].digits, first.n) : "all have the same mean";
    list.append(answer(`${column[key].less ? "Lowest" : "Highest"} ${column[key].title}`, names, number));
  }
  if (known(field.fastest)) {
    const group = field.groups[field.fastest];
    list.append(answer("Fastest that trains", group.short, `${spread(group.values.seconds, 1, group.n)} s`));
  }
  node.append(soft(WORDS[field.kind].headlines, "A mean with ± is over seeds, ± is its standard error."));
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
  const base = field.groups[baseline];
  const tested = field.against?.baseline === baseline ? field.against : null;
  const rows = field.groups.flatMap((group, index) => {
    const contrast = field.contrasts[baseline][index];
    return contrast
      ? [{ group, index, contrast, differences: differences(field.compared, tested, index, contrast) }]
      : [];
  });
  const few = rows.filter(({ index }) => sheet.shows(index));
  const grid = body.appendChild(make("div", { class: "grid fit" }));
  /** @type {Set<string>} */
  const missing = new Set();
  for (const [at, key] of field.compared.entries()) {
    const { title } = column[key];
    const points = few.map(({ group, differences }) => ({ label: group.short, group, difference: differences[at] }));
    const entries = points.filter(({ difference: [mean] }) => known(mean));
    for (const { label, difference } of points) if (!known(difference[0])) missing.add(`${label} (${difference[3]})`);
    if (entries.length) forest(sheet, grid, `${title}: differences`, { entries, title: `${title}, points`, each: 26 });
  }
  if (missing.size) body.append(soft(`Not drawn: ${[...missing].join(", ")}.`));
  const titles = field.compared.map((key) => column[key].title);
  const head = ["Method", ...titles, "Gains most on", "Loses most on", "Time", "Memory"];
  const lines = rows.map(({ group, contrast, differences }) =>
    groupRow(group, [
      ...differences.map((one, at) => differenceCell(one, column[field.compared[at]].less)),
      ...extremes(group, contrast, field).map((text) => make("td", {}, text)),
      ...contrast[3].map((ratio, at) =>
        ratioCell(ratio, at === 0 && [group, base].some((one) => busy("seconds", one))),
      ),
    ]),
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
  body.append(soft(explained, WORDS[field.kind].extremes));
}

/**
 * The differences of a group to the baseline: with intervals where it is the one that was tested against.
 *
 * @param {string[]} compared
 * @param {Field["against"]} tested
 * @param {number} index
 * @param {Contrast} contrast
 * @returns {Difference[]}
 */
function differences(compared, tested, index, contrast) {
  return compared.map((key, at) => {
    if (tested) return tested.rows[index][key];
    const mean = contrast[0][at];
    return [mean, null, null, known(mean) ? "difference of the means" : "not defined here"];
  });
}

/**
 * @param {number | null} ratio
 * @param {boolean} shared  Whether there is none because runs shared a machine.
 */
function ratioCell(ratio, shared) {
  if (known(ratio)) return make("td", {}, `× ${ratio.toFixed(2)}`);
  return make("td", {}, "–", ...(shared ? [make("span", { class: "interval" }, "shared machine")] : []));
}

/**
 * @param {Difference} difference
 * @param {boolean} less  Whether less is better.
 */
function differenceCell([mean, low, high, over], less) {
  const tested = known(mean) && known(low) && known(high);
  const [above, below] = [tested && low > 0, tested && high < 0];
  const [better, worse] = less ? [below, above] : [above, below];
  const verdict = better
    ? `${less ? "▼" : "▲"} better`
    : worse
      ? `${less ? "▲" : "▼"} worse`
      : tested
        ? "no difference shown"
        : "";
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
 * On which test set a group gains most, and on which it loses most.
 *
 * @param {Group} group
 * @param {Contrast} contrast
 * @param {Field} field
 */
function extremes(group, [, gain, loss, , reach], field) {
  if (!group.mean || !known(reach)) return ["–", "–"];
  return [gain, loss].map((change) => (change ? `${field.sets[change[0]]} ${written(change[1], 1, true)}` : "none"));
}
