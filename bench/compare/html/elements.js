// Elements of the page. Text of records enters it as text nodes only.

/**
 * @param {string} tag
 * @param {Record<string, string | number | undefined>} attributes
 * @param {(Node | string)[]} children
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== undefined) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/**
 * An element that page.html has.
 *
 * @param {string} id
 */
export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`page.html has no element "${id}"`);
  return node;
}

/**
 * A choice with its label.
 *
 * @param {string} label
 * @param {[value: string | number, text: string][]} options
 * @param {string | number} value
 * @param {(value: string) => void} change
 */
export function select(label, options, value, change) {
  const node = document.createElement("select");
  node.append(...options.map(([key, text]) => make("option", { value: key }, text)));
  node.value = String(value);
  node.addEventListener("change", () => change(node.value));
  return make("label", {}, `${label} `, node);
}

/** @param {HTMLElement[]} nodes */
export function controls(...nodes) {
  return make("div", { class: "controls" }, ...nodes);
}

/**
 * A closed part of the page that opens.
 *
 * @param {string} title
 * @param {(Node | string)[]} children
 */
export function details(title, ...children) {
  return make("details", {}, make("summary", {}, title), ...children);
}

/**
 * A list of names and what they mean.
 *
 * @param {[name: string, value: string][]} entries
 */
export function definitions(entries) {
  return make("dl", {}, ...entries.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** @param {(Node | string)[]} children */
export function soft(...children) {
  return make("p", { class: "soft" }, ...children);
}

/**
 * A table that scrolls by itself.
 *
 * @param {string} label
 * @param {HTMLElement[]} head  Cells of its first row.
 * @param {HTMLElement[]} rows
 */
export function table(label, head, rows) {
  const body = make("tbody", {}, ...rows);
  const whole = make("table", {}, make("thead", {}, make("tr", {}, ...head)), body);
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, whole);
}

/**
 * @param {(Node | string)[]} first  Content of the cell that names the row.
 * @param {HTMLElement[]} cells
 */
export function row(first, cells) {
  return make("tr", {}, make("th", { scope: "row" }, ...first), ...cells);
}

/**
 * A heading of a column; `words` where the column holds text.
 *
 * @param {Node | string} content
 * @param {boolean} words
 */
export function heading(content, words = false) {
  return make("th", { scope: "col", class: words ? "text" : undefined }, content);
}
