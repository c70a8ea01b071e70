// Plotly's pictures: one look for all, and the list of those that are on the page.

import { make } from "./elements.js";
import { known } from "./text.js";

const CONFIG = {
  responsive: false, // the sheet redraws what gets another width
  displaylogo: false,
  scrollZoom: false,
  displayModeBar: "hover",
  modeBarButtons: [["toImage", "resetScale2d"]],
  toImageButtonOptions: { format: "svg" },
};

/** The plots of one sheet, and how each is drawn in given colours. */
export class Plots {
  /** @type {Map<HTMLElement, Build>} */
  #builds = new Map();
  /** Widths in which they are drawn. @type {Map<HTMLElement, number>} */
  #widths = new Map();
  /** @type {HTMLElement[]} */
  #waiting = [];
  #places = new ResizeObserver((entries) => {
    for (const { target } of entries) this.#fit(/** @type {HTMLElement} */ (target));
  });

  /**
   * Puts a plot into a parent. It is drawn when all that is added now has its place, and with it its width; and again
   * whenever its place gets another width.
   *
   * @param {HTMLElement} parent
   * @param {string} name  What a screen reader says.
   * @param {number} height
   * @param {Build} build
   * @param {(Node | string)[]} caption
   */
  add(parent, name, height, build, ...caption) {
    const node = make("div", { class: "plot", style: `height:${height}px` });
    const figure = make("figure", { "aria-label": name });
    if (caption.length) figure.append(make("figcaption", {}, ...caption));
    figure.append(node);
    parent.append(figure);
    this.#builds.set(node, (look, width) => {
      const { traces, layout } = build(look, width);
      return { traces, layout: { height, ...layout } };
    });
    this.#waiting.push(node);
    this.#places.observe(node);
    if (this.#waiting.length === 1) queueMicrotask(() => this.#drawWaiting());
  }

  #drawWaiting() {
    for (const node of this.#waiting.splice(0)) this.#fit(node);
  }

  /**
   * Draws a plot unless it is drawn in the width of its place.
   *
   * @param {HTMLElement} node
   */
  #fit(node) {
    if (this.#widths.get(node) !== widthOf(node)) this.#render(node);
  }

  /**
   * Removes all that an element holds, and forgets the plots in it.
   *
   * @param {HTMLElement} node
   */
  clear(node) {
    for (const plot of this.#builds.keys()) {
      if (!node.contains(plot)) continue;
      this.#builds.delete(plot);
      this.#widths.delete(plot);
      this.#places.unobserve(plot);
      Plotly.purge(plot);
    }
    node.replaceChildren();
  }

  redraw() {
    for (const node of this.#builds.keys()) this.#render(node);
  }

  /** @param {HTMLElement} node */
  #render(node) {
    const build = this.#builds.get(node);
    const width = widthOf(node);
    if (!build || !width) return; // gone, or nothing of it is to be seen
    this.#widths.set(node, width);
    const look = colours();
    const { traces, layout } = build(look, width);
    const base = {
      width,
      paper_bgcolor: look.paper,
      plot_bgcolor: look.paper,
      showlegend: false,
      font: { family: "system-ui, sans-serif", color: look.ink, size: 12 },
      margin: { l: 10, r: 10, t: 26, b: 10 }, // room for the buttons above
      hoverlabel: { bgcolor: look.raised, bordercolor: look.rule, font: { color: look.ink }, align: "left" },
      // On a touch screen a finger that scrolls must not begin a zoom.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    };
    Plotly.react(node, traces, { ...base, ...layout }, CONFIG);
  }
}

/**
 * Whole pixels that an element is wide.
 *
 * @param {HTMLElement} node
 */
function widthOf(node) {
  return Math.floor(node.getBoundingClientRect().width);
}

/** @returns {Look} */
function colours() {
  const probe = document.body.appendChild(make("i"));
  /** @type {(name: string) => string} */
  const of = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const look = {
    paper: of("--paper"),
    ink: of("--ink"),
    soft: of("--soft"),
    rule: of("--rule"),
    raised: of("--raised"),
  };
  probe.remove();
  return look;
}

/**
 * @param {Look} look
 * @param {{ title?: object } & Record<string, unknown>} more  Plotly's attributes of this axis.
 */
export function axis(look, more = {}) {
  return {
    gridcolor: look.rule,
    zerolinecolor: look.rule,
    linecolor: look.rule,
    automargin: true,
    zeroline: false,
    tickfont: { size: 11 },
    ...more,
    title: { font: { size: 12 }, standoff: 6, ...more.title },
  };
}

/**
 * The range of an axis that holds all given ones, some share of its length wider on either side and not too short.
 *
 * @param {(Span | null | undefined)[]} ranges
 * @param {number} pad
 * @param {number} least
 * @returns {Span}
 */
export function around(ranges, pad = 0.06, least = 1) {
  const all = ranges.filter(known);
  if (!all.length) return [0, 1];
  const low = Math.min(...all.map(([from]) => from));
  const high = Math.max(...all.map(([, to]) => to));
  const more = Math.max((high - low) * pad, (least - (high - low)) / 2, 0);
  return [low - more, high + more];
}

/**
 * A colour, #rrggbb, painted with some opacity on paper, rgb(r, g, b).
 *
 * @param {string} color
 * @param {string} paper
 * @param {number} opacity
 */
export function mixed(color, paper, opacity) {
  const below = channels(paper);
  const parts = [1, 3, 5].map(
    (from, index) => opacity * Number.parseInt(color.slice(from, from + 2), 16) + (1 - opacity) * below[index],
  );
  return `rgb(${parts.map(Math.round).join(",")})`;
}

/**
 * The numbers in rgb(r, g, b).
 *
 * @param {string} color
 */
export function channels(color) {
  return (color.match(/[\d.]+/g) ?? []).map(Number);
}
