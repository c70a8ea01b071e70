// The table of results, and where published numbers beside it come from.

import { definitions, details, heading, make, row, soft, table } from "./elements.js";
import { groupRow } from "./marks.js";
import { BUSY, busy, known, many, spread, WORDS, written } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */
/**
 * One row and what it is sorted by; bounds stay below all others.
 *
 * @typedef {{ line: HTMLElement, bound: boolean, keys: (string | number | null)[] }} Row
 */

const BOUNDS =
  "Below the rule: reference lines, which show what could be reached. They are not ranked, and never the best.";

export const PUBLISHED = "Published in papers, not measured here";

const APART = "Set apart: the method extends the model, knows the task of a test image, or may do so.";

/**
 * What a published row is called.
 *
 * @param {{ method: string, apart: boolean }} row
 */
export function paper({ method, apart }) {
  return `${method} (published${apart ? ", set apart" : ""})`;
}

/** @param {Sheet} sheet */
export function results(sheet) {
  const { field, columns } = sheet;
  const node = sheet.panel("results", "Results");
  const head = ["Method", "n", ...columns.map(({ title }) => title)].map((title) =>
    heading(make("button", { type: "button" }, title)),
  );
  const rows = field.groups.map((group, index) => resultRow(sheet, group, index));
  const quoted = (field.published?.rows ?? []).map((one) => {
    const cells = columns.map(({ key }) => make("td", {}, written(one.values[key], 1)));
    const line = row([paper(one)], [make("td", {}, "–"), ...cells]);
    line.className = "published";
    return line;
  });
  const lines = rows.map(({ line }) => line);
  const whole = table("Results of all methods", head, [...lines, ...quoted]);
  // First what one wants to see first: names from A, the best of all else.
  const rising = [true, false, ...columns.map(({ less }) => less)];
  sortable(head, rising, rows);
  node.append(whole);
  if (field.groups.some((group) => group.bound)) node.append(soft(BOUNDS));
  node.append(
    soft(
      "Mean ± standard error over n seeds. Bold: the best mean, where the seeds show that it is ahead of the next one. Headings sort.",
    ),
  );
  if (field.groups.some((group) => busy("seconds", group))) node.append(soft(BUSY));
  const formulas = field.columns.filter(({ formula }) => formula);
  node.append(
    details(
      "What the columns are",
      soft(WORDS[field.kind].formulas),
      definitions(formulas.map(({ title, formula }) => [title, formula])),
    ),
  );
  if (field.published) node.append(sources(field.published));
}

/**
 * @param {Sheet} sheet
 * @param {Group} group
 * @param {number} index
 * @returns {Row}
 */
function resultRow({ field, columns }, group, index) {
  const cells = columns.map(({ key, digits }) => {
    const best = field.ahead[key] === index;
    const text = spread(group.values[key], digits, group.n) + (busy(key, group) ? " *" : "");
    return make("td", { class: best ? "best" : undefined }, text);
  });
  const more = group.short.endsWith(group.settings) ? [] : [make("span", { class: "interval" }, group.settings)];
  const line = groupRow(group, [make("td", {}, String(group.n)), ...cells], ...more);
  return {
    line,
    bound: group.bound,
    keys: [group.label, group.n, ...columns.map(({ key }) => group.values[key]?.[0] ?? null)],
  };
}

/**
 * Sorts rows by a column when its heading is pressed; rows without a value come last.
 *
 * @param {HTMLElement[]} head
 * @param {boolean[]} rising  Whether a column is first sorted from its lowest value.
 * @param {Row[]} rows
 */
function sortable(head, rising, rows) {
  for (const [column, cell] of head.entries()) {
    cell.firstElementChild?.addEventListener("click", () => {
      const now = cell.getAttribute("aria-sort");
      const up = now ? now === "descending" : rising[column];
      for (const other of head) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows.sort((a, b) => Number(a.bound) - Number(b.bound) || order(a.keys[column], b.keys[column], up));
      rows[0]?.line.parentElement?.prepend(...rows.map(({ line }) => line));
    });
  }
}

/**
 * @param {string | number | null} a
 * @param {string | number | null} b
 * @param {boolean} up
 */
function order(a, b, up) {
  if (!known(a) || !known(b)) return Number(known(b)) - Number(known(a));
  const found = typeof a === "string" ? a.localeCompare(String(b)) : a - Number(b);
  return up ? found : -found;
}

/** @param {NonNullable<Field["published"]>} published */
function sources({ rows, notes }) {
  const lines = rows.map(({ method, source, remarks }) =>
    row([method], [make("td", { class: "text" }, source), make("td", { class: "text" }, remarks)]),
  );
  return details(
    `${PUBLISHED}: ${many(rows.length, "row")} and their sources`,
    ...[...notes, APART].map((note) => soft(note)),
    table(
      "Sources of published numbers",
      ["Method", "Source", "Remarks"].map((text) => heading(text, true)),
      lines,
    ),
  );
}
