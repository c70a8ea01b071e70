"use strict";
// Draws the page from the JSON in it. Text of records enters the page as text nodes only, and Plotly, which reads a kind
// of HTML in labels, through `safe`.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const COLUMN = Object.fromEntries(DATA.columns.map((column) => [column.key, column]));
const PUBLISHED = "Published in papers, not measured here";
const SHADES = 9; // colours of lines: few traces draw fast, however many lines there are
const SEVERAL = 12; // values of a setting that are written on an axis
const FEW = 24; // points that get labels, lines that get a legend

const plots = new Map(); // element of a plot -> function that returns what it shows in given colours
let field = DATA.fields[0];
let chosen = new Set(); // groups in pictures that have no room for all
let updates = []; // what is to be drawn again when they change

// ------------------------------------------------------------------------------------------------- elements, text

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function clear(node) {
  for (const plot of node.querySelectorAll(".plot")) if (plots.delete(plot)) Plotly.purge(plot);
  node.replaceChildren();
}

// Plotly decodes entities again, also where it replaces %{...}.
const safe = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "%&#123;");
const bare = (key) => key.slice(key.lastIndexOf(".") + 1);
const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const known = (value) => value !== null && value !== undefined;

function written(value, digits = 2, sign = false) {
  if (!known(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  const zero = Number(text) === 0;
  return (value < 0 && !zero ? "−" : sign && !zero ? "+" : "") + text;
}

function spread(values, digits, n) {
  if (!values) return "–";
  const [mean, error, count] = values;
  const text = written(mean, digits) + (known(error) ? ` ± ${written(error, digits)}` : "");
  return count === n ? text : `${text} (${count})`;
}

function select(label, options, value, change) {
  const node = make("select", {}, ...options.map(([key, text]) => make("option", { value: key }, text)));
  node.value = value;
  node.addEventListener("change", () => change(node.value));
  return make("label", {}, `${label} `, node);
}

function controls(...nodes) {
  return make("div", { class: "controls" }, ...nodes);
}

function scroll(label, table) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}

function table(head, rows) {
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

const heading = (text, words = false) => make("th", { scope: "col", class: words ? "text" : undefined }, text);

function swatch(group) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = (name, attributes) => {
    const node = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    svg.append(node);
  };
  const dashes = { solid: "none", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "9 3" };
  const shapes = {
    circle: "M15 2a4 4 0 1 0 .01 0Z",
    square: "M11 2h8v8h-8Z",
    diamond: "M15 1l5 5-5 5-5-5Z",
    "triangle-up": "M15 1l5 9h-10Z",
    "triangle-down": "M15 11l5-9h-10Z",
    cross: "M13 1h4v3h3v4h-3v3h-4v-3h-3v-4h3Z",
  };
  svg.setAttribute("viewBox", "0 0 30 12");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  part("path", { d: "M0 6h30", stroke: group.color, "stroke-width": 2, "stroke-dasharray": dashes[dash(group)] });
  part("path", { d: shapes[symbol(group)], fill: group.color });
  return svg;
}

const symbol = (group) => SYMBOLS[group.variant % SYMBOLS.length];
const dash = (group) => DASHES[group.variant % DASHES.length];

function legend(groups) {
  return make("ul", { class: "legend" }, ...groups.map((group) => make("li", {}, swatch(group), group.short)));
}
