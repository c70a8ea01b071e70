// Where the labels of points lie.

/**
 * @typedef {object} Point  A point in pixels from the top left of a plot.
 * @property {number} x
 * @property {number} y
 * @property {number} wide  Half the length of its horizontal error bar.
 * @property {number} high  Half the length of its vertical error bar.
 * @property {string} text
 * @property {number} bearable  Square pixels that its label may cover; it is left out where it would cover more.
 */

/** @typedef {[left: number, top: number, right: number, bottom: number]} Box */

/** Sides as Plotly calls them, and where a label lies then: its left and its top, in parts of its size. */
const SIDES = /** @type {[side: string, across: number, down: number][]} */ ([
  ["middle right", 0, 0.5],
  ["middle left", -1, 0.5],
  ["top center", -0.5, 0],
  ["bottom center", -0.5, 1],
  ["top right", 0, 0],
  ["bottom right", 0, 1],
  ["top left", -1, 0],
  ["bottom left", -1, 1],
]);

/**
 * @param {Box} a
 * @param {Box} b
 */
function overlap(a, b) {
  const across = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const down = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  return Math.max(0, across) * Math.max(0, down);
}

/**
 * @param {Point} point
 * @param {number} size  Width of its label.
 * @param {number} across
 * @param {number} down
 * @returns {Box}
 */
function boxOf(point, size, across, down) {
  const gap = across === -0.5 ? 0 : across === 0 ? 9 : -9;
  const left = point.x + across * size + gap;
  const top = down === 0.5 ? point.y - 7 : down === 0 ? point.y - 21 : point.y + 7;
  return [left, top, left + size, top + 14];
}

/**
 * Chooses for every point on which side its label covers least of other labels and points.
 *
 * @param {Point[]} points
 * @param {number} width
 * @param {number} height
 */
export function beside(points, width, height) {
  /** @type {Box[]} */
  const taken = points.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]);
  /** @type {Box[]} */
  const bars = points.flatMap(({ x, y, wide, high }) => [
    [x - wide, y - 2, x + wide, y + 2],
    [x - 2, y - high, x + 2, y + high],
  ]);
  return points.map((point, index) => {
    const size = 6.4 * point.text.length + 4;
    let side = "";
    let least = Number.POSITIVE_INFINITY;
    /** @type {Box} */
    let chosen = [0, 0, 0, 0];
    for (const [name, across, down] of SIDES) {
      const box = boxOf(point, size, across, down);
      const inside = overlap(box, [0, 0, width, height]);
      const covered =
        taken.reduce((sum, other, at) => sum + (at === index ? 0 : overlap(box, other)), 0) +
        bars.reduce((sum, other) => sum + overlap(box, other), 0) +
        3 * (size * 14 - inside);
      if (covered < least - 0.5) [side, least, chosen] = [name, covered, box];
    }
    if (least > point.bearable) return { side, text: "" };
    taken.push(chosen);
    return { side, text: point.text };
  });
}
