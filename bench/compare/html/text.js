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

/** What panels say about streams of tasks to learn, and about streams of requests to forget. */
export const WORDS = {
  learning: {
    headlines:
      "Transfer: accuracy on tasks before they are learned. Average: over all stages and tasks. Last: after the last task. ",
    extremes: "Gains and losses are of single tasks, after the last one.",
    formulas:
      "a[i,j] is the percentage of test images of task j that are answered correctly after task i of T; row 0 is the untrained model.",
    byTask:
      "Transfer of a task: mean over the stages before it is learned; Average: over all stages; Last: after the last task.",
    matrix:
      "Rows: the untrained model, then the model after each task. Columns: test sets. Framed: a task just learned; left of it: kept; right of it: not learned yet.",
    curves: "Accuracy in percent after each task, 0 being the untrained model; dotted: where the task is learned. ",
    soFar: "mean of the tasks learned so far",
    waiting: "mean of the tasks not yet learned",
  },
  forgetting: {
    headlines:
      "Forgotten: accuracy on the classes of a request right after it. Relapse: on all that earlier requests named. Retained: on all that is to stay. H-mean: of what a request took from its classes and Retained. Elsewhere: on test sets that no request is about. ",
    extremes: "Gains and losses are of single test sets that are to stay, after the last request.",
    formulas:
      "a[i,j] is the percentage of test images of test set j that are answered correctly after request i of T; row 0 is the model before. Test sets 1 to T are of the classes of the requests, K of classes that no request names, M of those without training images, P of other data. D_i and R_i are Drop and Retained of request i.",
    byTask:
      "Of a request: accuracy on its classes right after it; on all that earlier ones named; on all that is to stay then; and H-mean of its drop and Retained.",
    matrix:
      "Rows: the model before, then after each request. Columns: the classes of each request, then what is to stay. Framed: just forgotten; left of it: forgotten earlier.",
    curves: "Accuracy in percent after each request, 0 being the model before; dotted: where it is to be forgotten. ",
    soFar: "mean of the requests so far",
    waiting: "",
  },
};
