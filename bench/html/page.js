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

const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
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
    circle: "M15 2a4 4 0 1 0 .01 0Z", square: "M11 2h8v8h-8Z", diamond: "M15 1l5 5-5 5-5-5Z",
    "triangle-up": "M15 1l5 9h-10Z", "triangle-down": "M15 11l5-9h-10Z", cross: "M13 1h4v3h3v4h-3v3h-4v-3h-3v-4h3Z",
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

// ----------------------------------------------------------------------------------------------------------- plots

function colours() {
  const probe = document.body.appendChild(make("i"));
  const of = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = { paper: of("--paper"), ink: of("--ink"), soft: of("--soft"), rule: of("--rule"), raised: of("--raised") };
  probe.remove();
  return found;
}

function axis(look, more = {}) {
  return {
    gridcolor: look.rule, zerolinecolor: look.rule, linecolor: look.rule, automargin: true, zeroline: false,
    tickfont: { size: 11 }, ...more,
    title: { font: { size: 12 }, standoff: 6, ...more.title },
  };
}

function render(node) {
  const look = colours();
  const { traces, layout } = plots.get(node)(look, node.clientWidth);
  const base = {
    paper_bgcolor: look.paper, plot_bgcolor: look.paper, showlegend: false,
    font: { family: "system-ui, sans-serif", color: look.ink, size: 12 },
    margin: { l: 10, r: 10, t: 26, b: 10 }, // room for the buttons above
    hoverlabel: { bgcolor: look.raised, bordercolor: look.rule, font: { color: look.ink }, align: "left" },
    // On a touch screen a finger that scrolls must not begin a zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
  Plotly.react(node, traces, { ...base, ...layout }, {
    responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: "hover",
    modeBarButtons: [["toImage", "resetScale2d"]], toImageButtonOptions: { format: "svg" },
  });
}

// Puts a plot into a parent; `build(look, width)` returns traces and layout.
function plot(parent, name, height, build, caption) {
  const node = make("div", { class: "plot", style: `height:${height}px` });
  const figure = make("figure", { "aria-label": name });
  if (caption) figure.append(make("figcaption", {}, ...[caption].flat()));
  figure.append(node);
  parent.append(figure);
  plots.set(node, (look, width) => {
    const built = build(look, width);
    return { ...built, layout: { height, ...built.layout } };
  });
  render(node);
  return node;
}

function redraw() {
  for (const node of plots.keys()) render(node);
}

function bounds(values, pad = 0.06, least = 1) {
  const found = values.filter((value) => Number.isFinite(value));
  if (!found.length) return [0, 1];
  const low = Math.min(...found), high = Math.max(...found);
  const more = Math.max((high - low) * pad, (least - (high - low)) / 2, 0);
  return [low - more, high + more];
}

function band(items, key) {
  return items.flatMap(({ values }) => (values[key] ? [values[key][0] - (values[key][1] ?? 0), values[key][0] + (values[key][1] ?? 0)] : []));
}

const lineStyle = (group, width = 2) => ({ color: group.color, dash: dash(group), width });
const markerStyle = (group, size = 7) => ({ color: group.color, symbol: symbol(group), size });

// A colour, #rrggbb, painted with some opacity on paper, rgb(r, g, b).
function mixed(color, paper, share) {
  const below = paper.match(/[\d.]+/g);
  const parts = [1, 3, 5].map((from, place) => share * parseInt(color.slice(from, from + 2), 16) + (1 - share) * below[place]);
  return `rgb(${parts.map(Math.round).join(",")})`;
}

// Chooses for every point on which side its label covers least of other labels and points.
function beside(points, width, height) {
  const sides = { "middle right": [0, 0.5], "middle left": [-1, 0.5], "top center": [-0.5, 0], "bottom center": [-0.5, 1],
    "top right": [0, 0], "bottom right": [0, 1], "top left": [-1, 0], "bottom left": [-1, 1] };
  const taken = points.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]);
  const bars = points.flatMap(({ x, y, wide, high }) => [[x - wide, y - 2, x + wide, y + 2], [x - 2, y - high, x + 2, y + high]]);
  const overlap = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return points.map((point, place) => {
    const size = 6.4 * point.text.length + 4;
    let best = null;
    for (const [side, [across, down]] of Object.entries(sides)) {
      const gap = across === -0.5 ? 0 : across === 0 ? 9 : -9;
      const left = point.x + across * size + gap;
      const top = down === 0.5 ? point.y - 7 : down === 0 ? point.y - 21 : point.y + 7;
      const box = [left, top, left + size, top + 14];
      const inside = overlap(box, [0, 0, width, height]);
      const covered = taken.reduce((sum, other, index) => sum + (index === place ? 0 : overlap(box, other)), 0) +
        bars.reduce((sum, other) => sum + overlap(box, other), 0) + 3 * (size * 14 - inside);
      if (!best || covered < best.covered - 0.5) best = { side, covered, box };
    }
    if (best.covered > point.bearable) return { side: best.side, text: "" };
    taken.push(best.box);
    return { side: best.side, text: point.text };
  });
}

// ---------------------------------------------------------------------------------------------------------- panels

function panel(id, title) {
  const section = make("section", { "aria-labelledby": id }, make("h2", { id }, title));
  document.getElementById("main").append(section);
  document.getElementById("contents").append(make("li", {}, make("a", { href: `#${id}` }, title)));
  return section.appendChild(make("div"));
}

const picked = () => field.groups.filter((_, place) => chosen.has(place));

function answers() {
  const node = panel("short", "In short");
  for (const note of field.notes) node.append(make("p", { class: "note" }, `Note: ${note}`));
  const list = make("ul", { class: "answers" });
  for (const key of ["last", "average_mtil", "transfer_by_column"]) {
    const { title, digits } = COLUMN[key];
    const winners = field.best[key].map((place) => field.groups[place]);
    if (!field.groups.some((group) => group.values[key])) continue;
    const told = winners.length ? winners.map((group) => group.short).join(", ") : "no difference";
    const number = winners.length ? spread(winners[0].values[key], digits, winners[0].n) : "all have the same mean";
    list.append(make("li", {}, `Highest ${title}`, make("b", {}, told), make("span", { class: "soft" }, number)));
  }
  const cheap = field.groups.filter((group) => group.values.seconds && group.trains)
    .sort((a, b) => a.values.seconds[0] - b.values.seconds[0])[0];
  if (cheap) {
    const number = `${spread(cheap.values.seconds, 1, cheap.n)} s`;
    list.append(make("li", {}, "Fastest that trains", make("b", {}, cheap.short), make("span", { class: "soft" }, number)));
  }
  node.append(list);
  node.append(make("p", { class: "soft" },
    "Transfer: accuracy on tasks before they are learned. Average: over all stages and tasks. Last: after the last task. ",
    "A mean with ± is over seeds, ± is its standard error."));
  if (field.groups.length > 1) against(node);
}

function against(node) {
  node.append(make("h3", {}, "Better than what?"));
  const body = make("div");
  let baseline = field.against ? field.against.baseline : 0;
  const options = field.groups.map((group, place) => [place, group.short]);
  node.append(controls(select("Difference to", options, baseline, (value) => { baseline = Number(value); update(); })), body);

  function update() {
    clear(body);
    const tested = field.against && field.against.baseline === baseline ? field.against : null;
    const base = field.groups[baseline];
    const rows = field.groups.map((group, place) => ({ group, place })).filter(({ place }) => place !== baseline);
    const found = ({ group, place }, key) => {
      if (tested && tested.rows[place]) return tested.rows[place][key];
      const [a, b] = [group.values[key], base.values[key]];
      return [a && b ? a[0] - b[0] : null, null, null, a && b ? "difference of the means" : "not defined here"];
    };
    const few = rows.filter(({ place }) => chosen.has(place));
    if (few.length) {
      const grid = make("div", { class: "grid fit" });
      body.append(grid);
      for (const key of DATA.compared) forest(grid, key, few, (row) => found(row, key));
    }
    const head = ["Method", ...DATA.compared.map((key) => COLUMN[key].title), "Gains most on", "Loses most on", "Time", "Memory"];
    const lines = rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, swatch(row.group), row.group.short),
      ...DATA.compared.map((key) => differenceCell(...found(row, key))),
      ...extremes(row.group, base).map((text) => make("td", {}, text)),
      make("td", {}, ratio(row.group.values.seconds, base.values.seconds)),
      make("td", {}, ratio(row.group.values.peak_memory_mb, base.values.peak_memory_mb))));
    body.append(scroll("Differences to the baseline", table(head.map((text) => heading(text)), lines)));
    const told = tested
      ? `Percentage points, in pairs of runs with the same seed. The intervals of one column hold together with ${100 * DATA.together} % ` +
        `confidence (each with ${(100 * tested.level).toFixed(1)} %); where one holds 0, no difference is shown. `
      : "Percentage points between means, without intervals: those are computed for one baseline only, chosen by baseline=NAME when the page is made. ";
    body.append(make("p", { class: "soft" }, told, "Gains and losses are of single tasks, after the last one."));
  }
  updates.push(update);
  update();
}

function forest(parent, key, rows, found) {
  const points = rows.map((row) => ({ ...row, difference: found(row) })).reverse();
  plot(parent, `${COLUMN[key].title}: differences`, 70 + 26 * points.length, (look) => ({
    traces: points.map(({ group, difference: [mean, low, high, over] }, place) => ({
      type: "scatter", mode: "markers", x: [mean], y: [place], marker: markerStyle(group, 9),
      error_x: known(low) ? { type: "data", symmetric: false, array: [high - mean], arrayminus: [mean - low], color: group.color } : undefined,
      hovertemplate: `${safe(group.short)}: ${written(mean, 2, true)}<br>${safe(interval(low, high, over))}<extra></extra>`,
    })),
    layout: {
      xaxis: axis(look, { title: { text: `${COLUMN[key].title}, points` } }),
      yaxis: axis(look, { tickvals: points.map((_, place) => place), ticktext: points.map(({ group }) => safe(group.short)), range: [-0.6, points.length - 0.4], showgrid: false }),
      shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: look.soft, width: 1 } }],
    },
  }));
}

function interval(low, high, over) {
  return known(low) ? `[${written(low, 2)}, ${written(high, 2)}] over ${over}` : over;
}

function differenceCell(mean, low, high, over) {
  const shown = known(low) && (low > 0 || high < 0);
  const verdict = shown ? (mean > 0 ? "▲ better" : "▼ worse") : known(low) ? "no difference shown" : "";
  const attributes = shown ? { class: mean > 0 ? "better" : "worse" } : {};
  const range = known(low) ? [` [${written(low, 2)}, ${written(high, 2)}]`] : [];
  const lines = [...(verdict ? [verdict] : []), over];
  return make("td", attributes, make("b", {}, written(mean, 2, true)), ...range, ...lines.map((line) => make("span", { class: "interval" }, line)));
}

function extremes(group, base) {
  if (!group.mean || !base.mean) return ["–", "–"];
  const changes = field.tasks.map((task, column) => {
    const [a, b] = [group.mean.at(-1)[column], base.mean.at(-1)[column]];
    return { task, change: known(a) && known(b) ? a - b : null };
  }).filter(({ change }) => known(change)).sort((a, b) => a.change - b.change);
  const tell = (one, right) => (one && right(one.change) ? `${one.task} ${written(one.change, 1, true)}` : "none");
  return [tell(changes.at(-1), (change) => change > 0), tell(changes[0], (change) => change < 0)];
}

function ratio(one, other) {
  return one && other && other[0] > 0 ? `× ${(one[0] / other[0]).toFixed(2)}` : "–";
}

function results() {
  const node = panel("results", "Results");
  const columns = DATA.columns.filter(({ key }) => field.groups.some((group) => group.values[key]));
  const button = (title) => make("button", { type: "button" }, title);
  const head = [make("th", { scope: "col" }, button("Method")), make("th", { scope: "col" }, button("n")),
    ...columns.map(({ title }) => make("th", { scope: "col" }, button(title)))];
  const rows = field.groups.map((group, place) => {
    const cells = columns.map(({ key, digits }) => {
      const best = (field.best[key] || []).includes(place);
      return make("td", best ? { class: "best" } : {}, spread(group.values[key], digits, group.n));
    });
    const told = Object.entries(group.apart).map(([key, value]) => `${bare(key)}=${value}`).join(", ");
    const more = group.short.includes("=") || !told ? [] : [make("span", { class: "interval" }, told)];
    const line = make("tr", {}, make("th", { scope: "row" }, swatch(group), group.short, ...more), make("td", {}, String(group.n)), ...cells);
    return { line, keys: [group.label, group.n, ...columns.map(({ key }) => group.values[key]?.[0] ?? null)] };
  });
  const quoted = (field.published?.rows || []).map((row) => make("tr", { class: "published" },
    make("th", { scope: "row" }, `${row.method} (published)`), make("td", {}, "–"),
    ...columns.map(({ key }) => make("td", {}, written(row.values[key] ?? null, 1)))));
  const whole = table(head, [...rows.map(({ line }) => line), ...quoted]);
  head.forEach((cell, column) => {
    const rising = column === 0 || (column > 1 && columns[column - 2].cost); // what one wants to see first
    cell.firstChild.addEventListener("click", () => {
      const now = cell.getAttribute("aria-sort");
      const up = now ? now === "descending" : rising;
      head.forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b) * (up ? 1 : -1);
      rows.sort((a, b) => (known(a.keys[column]) && known(b.keys[column]) ? order(a.keys[column], b.keys[column]) : known(b.keys[column]) - known(a.keys[column])));
      whole.tBodies[0].prepend(...rows.map(({ line }) => line));
    });
  });
  node.append(scroll("Results of all methods", whole));
  node.append(make("p", { class: "soft" }, "Mean ± standard error over n seeds; the highest mean of an accuracy is bold. Headings sort."));
  const formulas = DATA.columns.filter(({ formula }) => formula);
  const list = make("dl", {}, ...formulas.flatMap(({ title, formula }) => [make("dt", {}, title), make("dd", {}, formula)]));
  node.append(make("details", {}, make("summary", {}, "What the columns are"),
    make("p", { class: "soft" }, "a[i,j] is the percentage of test images of task j that are answered rightly after task i of T; row 0 is the untrained model."), list));
  if (field.published) published(node);
}

function published(node) {
  const rows = field.published.rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.method),
    make("td", { class: "text" }, row.source), make("td", { class: "text" }, row.remarks)));
  node.append(make("details", {}, make("summary", {}, `${PUBLISHED}: ${many(rows.length, "row")} and their sources`),
    ...field.published.notes.map((note) => make("p", { class: "soft" }, note)),
    scroll("Sources of published numbers", table(["Method", "Source", "Remarks"].map((text) => heading(text, true)), rows))));
}

function tradeoff() {
  const node = panel("tradeoff", "Trade-off");
  const there = DATA.columns.filter(({ key }) => field.groups.some((group) => group.values[key]));
  const pick = (key, other) => (there.some((column) => column.key === key) ? key : other?.key);
  let x = pick("last", there[0]), y = pick("transfer_by_column", there[1] ?? there[0]);
  const options = there.map(({ key, title }) => [key, title]);
  const body = make("div");
  node.append(controls(select("Across", options, x, (value) => { x = value; update(); }),
    select("Up", options, y, (value) => { y = value; update(); })), body);

  function update() {
    clear(body);
    const ours = field.groups.map((group, place) => ({ ...group, place })).filter(({ values }) => values[x] && values[y]);
    const papers = (field.published?.rows || []).filter(({ values }) => known(values[x]) && known(values[y]))
      .map((row) => ({ short: row.method, source: row.source, values: { [x]: [row.values[x], null, 1], [y]: [row.values[y], null, 1] } }));
    const height = 440;
    plot(body, `${COLUMN[y].title} against ${COLUMN[x].title}`, height, (look, width) => {
      const items = [...ours, ...papers];
      const [across, up] = [bounds(band(items, x), 0.12), bounds(band(items, y), 0.12)];
      const area = [Math.max(width - 80, 100), height - 70];
      const named = items.filter((item) => item.source || chosen.has(item.place));
      const points = named.map((item) => ({
        x: ((item.values[x][0] - across[0]) / (across[1] - across[0])) * area[0],
        y: (1 - (item.values[y][0] - up[0]) / (up[1] - up[0])) * area[1],
        wide: ((item.values[x][1] ?? 0) / (across[1] - across[0])) * area[0],
        high: ((item.values[y][1] ?? 0) / (up[1] - up[0])) * area[1],
        text: item.short, bearable: item.source || ours.length > FEW ? 30 : 150,
      }));
      const labels = new Map(beside(points, ...area).map((label, place) => [named[place], label]));
      const errors = (found, key) => ({ type: "data", array: found.map(({ values }) => values[key][1] ?? 0), color: found[0].color, thickness: 1.2 });
      // One trace a colour: hundreds of traces would take half a minute to draw.
      const kinds = [...new Set(items.map(({ color }) => color))];
      const traces = kinds.map((kind) => items.filter(({ color }) => color === kind)).map((found) => ({
        type: "scatter", mode: "markers+text", x: found.map(({ values }) => values[x][0]), y: found.map(({ values }) => values[y][0]),
        text: found.map((item) => safe(labels.get(item)?.text ?? "")), textposition: found.map((item) => labels.get(item)?.side ?? "top center"),
        textfont: { size: 11, color: found[0].source ? look.soft : look.ink }, cliponaxis: false,
        marker: found[0].source ? { symbol: "diamond-open", size: 8, color: look.soft } : { symbol: found.map(symbol), size: 10, color: found[0].color },
        error_x: errors(found, x), error_y: errors(found, y),
        hovertemplate: found.map((item) => `${safe(item.short)}${item.source ? " (published)" : ""}<br>` +
          [x, y].map((key) => `${COLUMN[key].title} ${spread(item.values[key], COLUMN[key].digits, item.values[key][2])}`).join("<br>") +
          `${item.source ? `<br>${safe(item.source)}` : ""}<extra></extra>`),
      }));
      const zero = field.groups.find((group) => !group.trains)?.values;
      const line = (key, along) => (zero?.[key] && !COLUMN[key].cost ? [{ type: "line", ...along, line: { color: look.soft, width: 1, dash: "dot" } }] : []);
      return { traces, layout: {
        xaxis: axis(look, { range: across, title: { text: unit(x) } }),
        yaxis: axis(look, { range: up, title: { text: unit(y) } }),
        shapes: [...line(x, { x0: zero?.[x]?.[0], x1: zero?.[x]?.[0], yref: "paper", y0: 0, y1: 1 }),
          ...line(y, { y0: zero?.[y]?.[0], y1: zero?.[y]?.[0], xref: "paper", x0: 0, x1: 1 })],
      } };
    });
    const told = [`Mean over seeds; bars are standard errors.`];
    if (field.groups.some((group) => !group.trains)) told.push("Dotted: a method that trains nothing.");
    if (papers.length) told.push(`Hollow diamonds: ${PUBLISHED.toLowerCase()}.`);
    body.append(make("p", { class: "soft" }, told.join(" ")));
  }
  updates.push(update);
  update();
}

const unit = (key) => COLUMN[key].title + (COLUMN[key].cost ? "" : key === "backward_transfer" ? " (points)" : " (%)");

function choices() {
  if (field.groups.length < 2) return;
  const boxes = [], list = make("div", { class: "choices" });
  const refresh = () => boxes.forEach((box, place) => { box.disabled = !box.checked && chosen.size >= DATA.most; box.checked = chosen.has(place); });
  field.groups.forEach((group, place) => {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(place);
      else chosen.delete(place);
      refresh();
      updates.forEach((update) => update());
    });
    boxes.push(box);
    list.append(make("label", {}, box, swatch(group), group.short));
  });
  chosen = new Set(field.shown);
  refresh();
  const all = field.groups.length <= DATA.most;
  const told = all ? "Methods in the pictures" : `Methods in the pictures, ${DATA.most} at most; at first the one with the highest Last of each method`;
  document.getElementById("main").append(make("fieldset", { id: "choices" }, make("legend", {}, told), list));
}

function matrices() {
  if (!field.groups.some((group) => group.mean)) return;
  const node = panel("matrices", "Accuracy matrices");
  const body = make("div");
  const options = [["", "accuracy"], ...field.groups.map((group, place) => [place, `difference to ${group.short}`])];
  let mode = "";
  node.append(controls(select("Show", options, mode, (value) => { mode = value; update(); })), body);

  function update() {
    clear(body);
    const base = mode === "" ? null : field.groups[mode];
    const shown = picked().filter((group) => group.mean && group !== base);
    const minus = (row, column, value) => {
      if (!base) return value;
      const other = base.mean?.[row][column];
      return known(value) && known(other) ? value - other : null;
    };
    const cells = shown.map((group) => group.mean.map((line, row) => line.map((value, column) => minus(row, column, value))));
    const flat = (base ? cells : field.groups.map((group) => group.mean ?? [])).flat(2).filter(known);
    const most = Math.max(...flat.map(Math.abs), 0.1);
    const [low, high] = base ? [-most, most] : [Math.min(...flat), Math.max(...flat)];
    const scale = base ? DATA.scales.diverging : DATA.scales.sequential;
    const gradient = scale.map(([place, color]) => `${color} ${100 * place}%`).join(",");
    body.append(make("div", { class: "scale" }, written(low, 1, base), make("i", { style: `background:linear-gradient(90deg,${gradient})` }),
      written(high, 1, base), base ? " points: red is worse, blue is better" : " %"));
    const grid = make("div", { class: "grid wide" });
    body.append(grid);
    shown.forEach((group, index) => heatmap(grid, group, cells[index], { low, high, scale, sign: Boolean(base) }));
    if (!shown.length) body.append(make("p", {}, "Nothing is chosen but the baseline."));
    body.append(make("p", { class: "soft" }, "Rows: the untrained model, then the model after each task. Columns: test sets. Framed: a task just learned; left of it: kept; right of it: not learned yet."));
  }
  updates.push(update);
  update();
}

function heatmap(parent, group, cells, { low, high, scale, sign }) {
  const columns = field.tasks.length;
  plot(parent, `Accuracy matrix of ${group.short}`, 26 * (columns + 1) + 85, (look, width) => {
    const size = Math.min(12, (width - 90) / columns / 2.9); // the numbers must fit their cells
    return {
      traces: [{
        type: "heatmap", z: cells, zmin: low, zmax: high, colorscale: scale, showscale: false, xgap: 1, ygap: 1, hoverongaps: false,
        text: cells.map((line) => line.map((value) => (known(value) ? written(value, 1, sign) : ""))),
        texttemplate: size >= 6 ? "%{text}" : undefined, textfont: { size },
        customdata: cells.map((line, row) => line.map((_, column) => error(group, row, column))),
        hovertemplate: "%{x} after %{y}: %{text}%{customdata}<extra></extra>",
        x: field.tasks.map((_, place) => place), y: field.states.map((_, place) => place),
      }],
      layout: {
        margin: { l: 10, r: 4, t: 26, b: 10 },
        xaxis: axis(look, { tickvals: field.tasks.map((_, place) => place), ticktext: field.tasks.map(safe), showgrid: false, autotickangles: [0, -45, -90] }),
        yaxis: axis(look, { tickvals: field.states.map((_, place) => place), ticktext: field.states.map(safe), showgrid: false, autorange: "reversed" }),
        shapes: field.tasks.map((_, place) => ({ type: "rect", x0: place - 0.5, x1: place + 0.5, y0: place + 0.5, y1: place + 1.5, line: { color: look.ink, width: 1.5 } })),
      },
    };
  }, [swatch(group), group.short]);
}

function error(group, row, column) {
  const value = group.error?.[row][column];
  return known(value) ? ` ± ${written(value, 2)}` : "";
}

function curves() {
  if (!field.groups.some((group) => group.mean)) return;
  const node = panel("curves", "Learning curves");
  const body = make("div");
  const learned = (group, row) => {
    const cells = group.mean[row].slice(0, row).filter(known);
    return cells.length ? cells.reduce((sum, value) => sum + value, 0) / cells.length : null;
  };
  let task = field.tasks.length <= DATA.most ? "all" : "mean";
  const options = [["all", "every task"], ["mean", "mean of the tasks learned so far"], ...field.tasks.map((name, place) => [place, name])];
  node.append(controls(select("Task", options, task, (value) => { task = value; update(); })), body);

  function curve(parent, name, column, span) {
    const shown = picked().filter((group) => group.mean);
    const rows = field.states.map((_, place) => place).slice(column === null ? 1 : 0);
    const value = (group, row) => (column === null ? learned(group, row) : group.mean[row][column]);
    plot(parent, `Accuracy over the stages: ${name}`, span ? 240 : 420, (look) => ({
      traces: shown.map((group) => ({
        type: "scatter", mode: "lines+markers", x: rows, y: rows.map((row) => value(group, row)), connectgaps: false,
        line: lineStyle(group), marker: markerStyle(group, span ? 5 : 8),
        error_y: column !== null && group.error ? { type: "data", array: rows.map((row) => group.error[row][column] ?? 0), thickness: 1, width: 2, color: group.color } : undefined,
        hovertemplate: rows.map((row) => `${safe(group.short)} after ${safe(field.states[row])}: %{y:.1f}${column === null ? "" : error(group, row, column)}<extra></extra>`),
      })),
      layout: {
        xaxis: axis(look, { tickvals: rows, ticktext: span ? rows.map(String) : rows.map((row) => safe(field.states[row])), showgrid: false, range: [rows[0] - 0.3, rows.at(-1) + 0.3], title: { text: span ? "" : "after" } }),
        yaxis: axis(look, { range: span ? range(column, span) : undefined, title: { text: span ? "" : "accuracy (%)" } }),
        shapes: column === null ? [] : [{ type: "line", x0: column + 1, x1: column + 1, yref: "paper", y0: 0, y1: 1, line: { color: look.soft, width: 1, dash: "dot" } }],
      },
    }), name);
  }
  const reach = (column) => bounds(picked().flatMap((group) => (group.mean || []).flatMap((line, row) => {
    const value = column === null ? (row ? learned(group, row) : null) : line[column];
    const more = column === null ? 0 : group.error?.[row][column] ?? 0;
    return known(value) ? [value - more, value + more] : [];
  })));
  const range = (column, span) => {
    const [low, high] = reach(column);
    return [(low + high - span) / 2, (low + high + span) / 2];
  };

  function update() {
    clear(body);
    body.append(legend(picked().filter((group) => group.mean)));
    if (task === "all") {
      const columns = [null, ...field.tasks.map((_, place) => place)];
      const span = Math.max(...columns.map((column) => reach(column)[1] - reach(column)[0]));
      const grid = make("div", { class: "grid narrow" });
      body.append(grid);
      for (const column of columns) curve(grid, column === null ? "mean of the tasks learned so far" : field.tasks[column], column, span);
      body.append(make("p", { class: "soft" }, "Accuracy in percent after each task, 0 being the untrained model; dotted: where the task is learned. All have axes of the same length, each at its own height."));
    } else {
      curve(body, task === "mean" ? "mean of the tasks learned so far" : field.tasks[task], task === "mean" ? null : Number(task), 0);
    }
  }
  updates.push(update);
  update();
}

function costs() {
  const node = panel("costs", "Costs");
  const body = node.appendChild(make("div"));
  function update() {
    clear(body);
    const shown = picked().slice().reverse();
    if (!shown.length) return;
    const phases = [...new Set(shown.flatMap((group) => Object.keys(group.phases)))];
    const depth = (place) => 1 - (0.75 * place) / Math.max(phases.length - 1, 1);
    const y = shown.map((_, place) => place);
    const names = (look) => axis(look, { tickvals: y, ticktext: shown.map((group) => safe(group.short)), showgrid: false, range: [-0.6, shown.length - 0.4] });
    const height = 60 + 30 * shown.length;
    if (phases.length) {
      const seen = (place) => [make("i", { style: `display:inline-block;width:.9rem;height:.9rem;margin-right:.4rem;background:currentColor;opacity:${depth(place)}` })];
      plot(body, "Seconds by phase", height + 10, (look) => ({
        traces: phases.map((phase, place) => ({
          type: "bar", orientation: "h", y, x: shown.map((group) => group.phases[phase] ?? 0),
          marker: { color: shown.map((group) => mixed(group.color, look.paper, depth(place))), line: { color: look.paper, width: 1 } },
          hovertemplate: shown.map((group) => `${safe(group.short)}, ${safe(phase)}: %{x:.1f} s<extra></extra>`),
        })),
        layout: { barmode: "stack", xaxis: axis(look, { title: { text: "seconds" } }), yaxis: names(look) },
      }), ["Seconds by phase", make("ul", { class: "legend" }, ...phases.map((phase, place) => make("li", {}, ...seen(place), phase)))]);
    }
    const grid = make("div", { class: "grid fit" });
    body.append(grid);
    const rest = DATA.columns.filter(({ key, cost }) => cost && (key !== "seconds" || !phases.length) && shown.some((group) => group.values[key]));
    for (const { key, title, digits } of rest) {
      plot(grid, title, height, (look) => ({
        traces: [{
          type: "bar", orientation: "h", y, x: shown.map((group) => group.values[key]?.[0] ?? null), marker: { color: shown.map((group) => group.color) },
          error_x: { type: "data", array: shown.map((group) => group.values[key]?.[1] ?? 0), color: look.soft, thickness: 1 },
          text: shown.map((group) => written(group.values[key]?.[0] ?? null, digits)), textposition: "auto",
          hovertemplate: shown.map((group) => `${safe(group.short)}: ${spread(group.values[key], digits, group.n)}<extra></extra>`),
        }],
        layout: { xaxis: axis(look, { rangemode: "tozero" }), yaxis: names(look) },
      }), title);
    }
  }
  updates.push(update);
  update();
}

// ---------------------------------------------------------------------------------------------------------- sweeps

// How the values of a setting lie on an axis: numbers as they are or by their logarithm, words one after another.
function ruler(values) {
  const distinct = [...new Set(values)];
  const numeric = distinct.every((value) => value.trim() !== "" && Number.isFinite(Number(value)));
  if (numeric) distinct.sort((a, b) => a - b);
  const log = numeric && distinct.length > 2 && distinct[0] > 0 && distinct.at(-1) / distinct[0] >= 8;
  const at = numeric ? (value) => (log ? Math.log10(value) : Number(value)) : (value) => distinct.indexOf(value);
  // Of many numbers only some are written: powers of ten, or what Plotly finds round.
  const [low, high] = [at(distinct[0]), at(distinct.at(-1))];
  const tens = Array.from({ length: Math.max(0, Math.floor(high) - Math.ceil(low) + 1) }, (_, place) => `1e${Math.ceil(low) + place}`);
  const marks = !numeric || distinct.length <= SEVERAL ? distinct : log && tens.length > 1 ? tens : null;
  const round = (mark) => safe(numeric && distinct.length > SEVERAL ? Number(mark) : mark);
  return { at, distinct, ticks: marks ? { tickvals: marks.map(at), ticktext: marks.map(round) } : log ? { tickvals: [low, high], ticktext: [distinct[0], distinct.at(-1)].map(round) } : {} };
}

function sweeps() {
  const methods = [...new Set(field.groups.map(({ method }) => method))]
    .filter((method) => field.groups.some((group) => group.method === method && Object.keys(group.apart).length));
  if (!methods.length) return;
  const node = panel("sweeps", "Settings tried");
  const bar = make("div"), body = make("div");
  node.append(bar, body);
  const metrics = DATA.columns.filter(({ key }) => field.groups.some((group) => group.values[key]));
  const state = { method: methods[0], metric: metrics.some(({ key }) => key === "last") ? "last" : metrics[0]?.key };
  const keys = () => Object.keys(field.groups.find(({ method }) => method === state.method).apart);

  function setting() {
    const distinct = (key) => new Set(groups().map(({ apart }) => apart[key])).size;
    [state.first, state.second = ""] = keys().sort((a, b) => distinct(b) - distinct(a));
    state.marked = "";
    arrange();
  }
  function arrange() {
    const change = (name, then = update) => (value) => { state[name] = value; then(); };
    const names = keys().map((key) => [key, key]);
    const all = groups();
    const choices = [
      ...(methods.length > 1 ? [select("Method", methods.map((name) => [name, name]), state.method, change("method", setting))] : []),
      select("Metric", metrics.map(({ key, title }) => [key, title]), state.metric, change("metric")),
      select("over", names, state.first, change("first")),
      ...(names.length > 1 ? [select("and", names, state.second, change("second"))] : []),
      select("Emphasise", [["", "nothing"], ["tenth", "the best tenth"], ...all.map((group) => [group.label, group.short])], state.marked, change("marked")),
    ];
    bar.replaceChildren(controls(...choices));
    update();
  }
  const groups = () => field.groups.filter(({ method, apart }) => method === state.method && Object.keys(apart).length);

  function update() {
    clear(body);
    const all = groups().filter(({ values }) => values[state.metric]);
    if (!all.length) return;
    const ordered = all.slice().sort((a, b) => (b.values[state.metric][0] - a.values[state.metric][0]) * (COLUMN[state.metric].cost ? -1 : 1));
    const tenth = new Set(ordered.slice(0, Math.ceil(ordered.length / 10)));
    const marked = (group) => (state.marked === "tenth" ? tenth.has(group) : group.label === state.marked);
    body.append(make("p", { class: "soft" }, `${many(all.length, "setting")} of ${state.method}. The ${COLUMN[state.metric].cost ? "lowest" : "highest"} ${COLUMN[state.metric].title}: ${ordered[0].short}, ${spread(ordered[0].values[state.metric], COLUMN[state.metric].digits, ordered[0].n)}. It is chosen after the fact: a fair number for it needs other seeds or images.`));
    over(body, all, state, marked);
    if (state.second && state.second !== state.first) crossed(body, all, state);
    if (keys().length > 1) parallel(body, all, state, keys(), marked);
  }
  setting();
}

const settingText = (group) => Object.entries(group.apart).map(([key, value]) => `${safe(key)} = ${safe(value)}`).join("<br>");

// A metric over one setting; lines join what is otherwise set alike.
function over(parent, all, { metric, first }, marked) {
  const lines = new Map();
  for (const group of all) {
    const rest = Object.entries(group.apart).filter(([key]) => key !== first).map(([key, value]) => `${bare(key)}=${value}`).join(" ");
    lines.set(rest, [...(lines.get(rest) ?? []), group]);
  }
  const { at, ticks } = ruler(all.map((group) => group.apart[first]));
  const joined = lines.size <= FEW; // more lines say nothing, and take long to draw
  const named = joined && lines.size > 1;
  plot(parent, `${COLUMN[metric].title} over ${first}`, 380, (look) => ({
    traces: (joined ? [...lines] : [["", all]]).map(([rest, found], place) => {
      const sorted = found.slice().sort((a, b) => at(a.apart[first]) - at(b.apart[first]));
      const style = { color: found[0].color, variant: place };
      return {
        type: "scatter", mode: joined ? "lines+markers" : "markers", name: safe(rest), showlegend: named,
        x: sorted.map((group) => at(group.apart[first])), y: sorted.map((group) => group.values[metric][0]),
        error_y: { type: "data", array: sorted.map((group) => group.values[metric][1] ?? 0), thickness: 1, color: found[0].color },
        line: lineStyle(style, 1.5), marker: { ...markerStyle(style), size: sorted.map((group) => (marked(group) ? 14 : 7)), line: { color: look.ink, width: sorted.map((group) => (marked(group) ? 2 : 0)) } },
        hovertemplate: sorted.map((group) => `${settingText(group)}<br>${COLUMN[metric].title} ${spread(group.values[metric], COLUMN[metric].digits, group.n)}<extra></extra>`),
      };
    }),
    layout: {
      xaxis: axis(look, { title: { text: safe(first) }, ...ticks }),
      yaxis: axis(look, { title: { text: unit(metric) } }),
      showlegend: named, legend: { orientation: "h", y: -0.22, font: { size: 11 } },
    },
  }));
}

// A metric over two settings.
function crossed(parent, all, { metric, first, second }) {
  const rulers = [first, second].map((key) => ruler(all.map((group) => group.apart[key])));
  const [across, up] = rulers.map(({ distinct }) => distinct);
  if (across.length > FEW || up.length > FEW) return strewn(parent, all, rulers, { metric, first, second });
  const cells = up.map((row) => across.map((column) => all.filter((group) => group.apart[first] === column && group.apart[second] === row)));
  const mean = (groups) => (groups.length ? groups.reduce((sum, group) => sum + group.values[metric][0], 0) / groups.length : null);
  const z = cells.map((line) => line.map(mean));
  const several = cells.flat().some((groups) => groups.length > 1);
  const { digits, title, cost } = COLUMN[metric];
  const shown = (value) => (known(value) ? written(value, Math.min(digits, 1)) : "");
  plot(parent, `${title} over ${first} and ${second}`, 130 + 34 * up.length, (look, width) => ({
    traces: [{
      type: "heatmap", z, x: across.map((_, place) => place), y: up.map((_, place) => place), colorscale: DATA.scales.sequential, reversescale: cost,
      text: z.map((line) => line.map(shown)), texttemplate: width / across.length > 45 ? "%{text}" : undefined, xgap: 1, ygap: 1, hoverongaps: false,
      colorbar: { thickness: 10, title: { text: title, font: { size: 11 } }, outlinewidth: 0 },
      customdata: cells.map((line) => line.map((groups) => many(groups.length, "setting"))),
      hovertemplate: "%{x}, %{y}: %{text} (%{customdata})<extra></extra>",
    }],
    layout: {
      xaxis: axis(look, { title: { text: safe(first) }, tickvals: across.map((_, place) => place), ticktext: across.map(safe), showgrid: false }),
      yaxis: axis(look, { title: { text: safe(second) }, tickvals: up.map((_, place) => place), ticktext: up.map(safe), showgrid: false }),
    },
  }), several ? "A cell is the mean over the other settings tried with these two." : undefined);
}

// A metric over two settings of which one has too many values for cells.
function strewn(parent, all, [across, up], { metric, first, second }) {
  const { title, digits, cost } = COLUMN[metric];
  plot(parent, `${title} over ${first} and ${second}`, 420, (look) => ({
    traces: [{
      type: "scatter", mode: "markers", x: all.map(({ apart }) => across.at(apart[first])), y: all.map(({ apart }) => up.at(apart[second])),
      marker: { size: 10, color: all.map(({ values }) => values[metric][0]), colorscale: DATA.scales.sequential, reversescale: cost, showscale: true,
        line: { width: 0.5, color: look.soft }, colorbar: { thickness: 10, title: { text: title, font: { size: 11 } }, outlinewidth: 0 } },
      hovertemplate: all.map((group) => `${settingText(group)}<br>${title} ${spread(group.values[metric], digits, group.n)}<extra></extra>`),
    }],
    layout: {
      xaxis: axis(look, { title: { text: safe(first) }, ...across.ticks }),
      yaxis: axis(look, { title: { text: safe(second) }, ...up.ticks }),
    },
  }));
}

// Colours of lines: those of the scale that are seen on the paper.
function shades(scale, look) {
  const dark = look.paper.match(/[\d.]+/g)[0] < 128;
  const [from, to] = dark ? [0.3, 1] : [0, 0.8];
  return Array.from({ length: SHADES }, (_, place) => scale[Math.round((from + (to - from) * place / (SHADES - 1)) * (scale.length - 1))][1]);
}

// Every group as a line across all settings and the metric, as plain lines that need no WebGL.
function parallel(parent, all, { metric, marked: name }, keys, marked) {
  const title = COLUMN[metric].title;
  const [low, high] = bounds(all.map((group) => group.values[metric][0]), 0, 1e-9);
  const axes = keys.map((key) => {
    const { at, distinct } = ruler(all.map((group) => group.apart[key]));
    const [from, to] = bounds(distinct.map(at), 0, 1e-9);
    const place = (value) => (distinct.length === 1 ? 0.5 : (at(value) - from) / (to - from));
    const written = distinct.length <= SEVERAL ? distinct : [distinct[0], distinct.at(-1)];
    return { of: (group) => place(group.apart[key]), marks: written.map((value) => [place(value), value.length > 9 && Number.isFinite(Number(value)) ? Number(value).toPrecision(3) : value]) };
  });
  const share = (group) => (group.values[metric][0] - low) / (high - low);
  axes.push({ of: share, marks: [0, 0.25, 0.5, 0.75, 1].map((place) => [place, written(low + place * (high - low), COLUMN[metric].digits)]) });
  const labels = [...keys, title];
  const scale = DATA.scales.sequential;
  const shade = (group) => Math.min(SHADES - 1, Math.floor(share(group) * SHADES));
  const trace = (found, style) => ({
    type: "scatter", mode: "lines+markers", connectgaps: false, ...style,
    x: found.flatMap(() => [...axes.map((_, place) => place), null]),
    y: found.flatMap((group) => [...axes.map(({ of }) => of(group)), null]),
    text: found.flatMap((group) => Array(axes.length + 1).fill(`${settingText(group)}<br>${title} ${spread(group.values[metric], COLUMN[metric].digits, group.n)}`)),
    hovertemplate: "%{text}<extra></extra>",
  });
  plot(parent, `All settings and ${title}`, 420, (look) => ({
    traces: [
      ...shades(scale, look).map((color, place) => trace(all.filter((group) => shade(group) === place), { line: { color, width: 1.5 }, marker: { color, size: 4 }, opacity: name ? 0.25 : 0.8 })),
      trace(all.filter(marked), { line: { color: look.ink, width: 3 }, marker: { color: look.ink, size: 7 } }),
    ].filter(({ x }) => x.length),
    layout: {
      margin: { l: 20, r: 20, t: 30, b: 10 },
      xaxis: axis(look, { tickvals: labels.map((_, place) => place), ticktext: labels.map((label) => safe(bare(label))), range: [-0.25, labels.length - 0.65], showgrid: false, showline: false }),
      yaxis: axis(look, { range: [-0.06, 1.06], visible: false }),
      shapes: labels.map((_, place) => ({ type: "line", x0: place, x1: place, y0: 0, y1: 1, line: { color: look.soft, width: 1 }, layer: "below" })),
      annotations: axes.flatMap(({ marks }, place) => marks.map(([y, tick]) => ({ x: place, y, text: safe(tick), showarrow: false, xanchor: "left", xshift: 6, font: { size: 10, color: look.soft }, bgcolor: look.paper, opacity: 0.85 }))),
    },
  }), `All settings and ${title}: every line is one setting, yellow where ${title} is high, dark or grey where it is low`);
}

// -------------------------------------------------------------------------------------------------------- the rest

function settings() {
  const node = panel("settings", "Settings");
  const { methods, rows } = field.settings;
  if (rows.length) {
    const lines = rows.map(([key, values]) => make("tr", {}, make("th", { scope: "row" }, key), ...values.map((value) => make("td", { class: "text" }, value))));
    node.append(make("details", {}, make("summary", {}, `What differs: ${many(rows.length, "setting")}`),
      scroll("Settings that differ", table(["Setting", ...methods].map((text) => heading(text, true)), lines))));
  } else node.append(make("p", {}, "All runs have the same settings, up to the seed."));
  const list = make("dl", {}, ...field.conditions.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  node.append(make("details", {}, make("summary", {}, `What all have in common: ${many(field.conditions.length, "condition")}`), list));
}

function provenance() {
  const node = panel("provenance", "Where the numbers come from");
  const head = ["Method", "Seed", "Started", "Environment", "Code", "Command", "Folder"];
  const lines = field.runs.map(([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first),
    ...cells.map((value, place) => make("td", { class: place > 2 ? "text" : "left" }, String(value)))));
  const environments = field.environments.flatMap((lines, place) => [make("h3", {}, `Environment ${place + 1}`),
    make("dl", {}, ...lines.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]))]);
  node.append(make("details", {}, make("summary", {}, `${many(lines.length, "run")}, ${many(field.environments.length, "environment")}`),
    scroll("Runs", table(head.map((text) => heading(text, true)), lines)), ...environments));
  if (DATA.left_out.length) {
    const rows = DATA.left_out.map(([path, reason]) => make("tr", {}, make("th", { scope: "row" }, path), make("td", { class: "text" }, reason)));
    node.append(make("details", { id: "left-out" }, make("summary", {}, `Left out: ${many(rows.length, "folder")}`),
      scroll("Left out", table(["Folder", "Reason"].map((text) => heading(text, true)), rows))));
  }
}

function show(place) {
  const main = document.getElementById("main");
  clear(main);
  document.getElementById("contents").replaceChildren();
  field = DATA.fields[place];
  updates = [];
  if (!field) {
    main.append(make("p", {}, "No finished run is here to be compared."));
    field = { runs: [], environments: [], groups: [] };
    provenance();
    return;
  }
  chosen = new Set(field.shown);
  main.append(make("p", { class: "title" }, `${field.title}: ${many(field.runs.length, "run")} of ${many(new Set(field.groups.map(({ method }) => method)).size, "method")} in ${many(field.groups.length, "setting")}`));
  for (const part of [answers, results, tradeoff, choices, matrices, curves, costs, sweeps, settings, provenance]) part();
}

function start() {
  const theme = document.getElementById("theme");
  const paint = () => {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
    redraw();
  };
  theme.addEventListener("change", paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; redraw(); });
  addEventListener("afterprint", paint);
  if (DATA.fields.length > 1) {
    const picker = document.getElementById("field");
    picker.append(...DATA.fields.map(({ title }, place) => make("option", { value: place }, title)));
    picker.addEventListener("change", () => show(Number(picker.value)));
    document.getElementById("field-choice").hidden = false;
  }
  show(0);
}

start();
