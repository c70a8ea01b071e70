// Numbers and names as text.

/**
 * @template T
 * @param {T | null | undefined} value
 * @returns {value is T}
 */
export function known(value) {
  return value !== null && value !== undefined;
}

/**
 * Escapes text for Plotly, whose labels are a kind of HTML. It decodes entities again, also where it replaces %{...}.
 *
 * @param {unknown} text
 */
export function safe(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "%&#123;");
}

/** Says what open markers and stars mean. */
export const BUSY =
  "Open markers and *: runs shared a machine while they ran, so that their seconds are not those of a run alone.";

/**
 * Whether a column of a group holds seconds of runs that shared a machine.
 *
 * @param {string} key
 * @param {Group} group
 */
export function busy(key, group) {
  return key === "seconds" && group.shared > 0;
}

/**
 * @param {number} count
 * @param {string} word
 */
export function many(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

/**
 * A number with some decimals; a dash where there is none.
 *
 * @param {number | null | undefined} value
 * @param {number} digits
 * @param {boolean} sign  Whether a positive number has a plus.
 */
export function written(value, digits = 2, sign = false) {
  if (!known(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  const zero = Number(text) === 0;
  return (value < 0 && !zero ? "−" : sign && !zero ? "+" : "") + text;
}

/**
 * A mean with its standard error, and the number of seeds where it is not n.
 *
 * @param {Statistic | undefined} values
 * @param {number} digits
 * @param {number} n
 */
export function spread(values, digits, n) {
  if (!values) return "–";
  const [mean, error, count] = values;
  const text = written(mean, digits) + (known(error) ? ` ± ${written(error, digits)}` : "");
  return count === n ? text : `${text} (${count})`;
}

/**
 * The settings of a group, for Plotly.
 *
 * @param {Group} group
 */
export function settingLines(group) {
  return Object.entries(group.apart)
    .map(([key, value]) => `${safe(key)} = ${safe(value)}`)
    .join("<br>");
}

/**
 * The title of a column with its unit.
 *
 * @param {Column} column
 */
export function titled({ title, unit }) {
  return unit ? `${title} (${unit})` : title;
}
