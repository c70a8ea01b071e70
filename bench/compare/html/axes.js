// How the values of a setting lie on an axis: see `Ruler` in bench/compare/extremes.py.

import { safe } from "./text.js";

/** Values that are all written on an axis. */
export const SEVERAL = 12;

/**
 * @typedef {object} Scale
 * @property {(value: string) => number | null} at  Where a value lies; `null` where the setting is absent.
 * @property {string[]} values  Those that some group has, in the order of the axis.
 * @property {object} ticks  Plotly's.
 */

/**
 * Lays out a setting for some groups.
 *
 * @param {Ruler} ruler
 * @param {string} key
 * @param {Group[]} groups
 * @returns {Scale}
 */
export function scaleOf(ruler, key, groups) {
  const positions = new Map(ruler.values.map((value, index) => [value, ruler.positions[index]]));
  const there = new Set(groups.map((group) => group.apart[key]));
  const values = ruler.values.filter((value) => there.has(value));
  const at = (/** @type {string} */ value) => positions.get(value) ?? null;
  return { at, values, ticks: ticks(ruler, values, values.map(at)) };
}

/**
 * The marks of an axis. Where there are many, only some are written: powers of ten, both ends, or Plotly's choice.
 *
 * @param {Ruler} ruler
 * @param {string[]} values
 * @param {(number | null)[]} positions
 */
function ticks({ numeric, log }, values, positions) {
  if (!numeric || values.length <= SEVERAL) return { tickvals: positions, ticktext: values.map(safe) };
  if (!log) return {};
  const [low, high] = [positions[0] ?? 0, positions.at(-1) ?? 0];
  const tens = Array.from({ length: Math.max(0, Math.floor(high) - Math.ceil(low) + 1) }, (_, index) => index);
  if (tens.length > 1) {
    const powers = tens.map((index) => Math.ceil(low) + index);
    return { tickvals: powers, ticktext: powers.map((power) => String(Number(`1e${power}`))) };
  }
  return { tickvals: [low, high], ticktext: [values[0], values.at(-1)].map((value) => String(Number(value))) };
}
