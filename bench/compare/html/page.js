// The page as a whole: reads the JSON in it, and draws one field of it at a time.

import { answers } from "./answers.js";
import { costs } from "./costs.js";
import { curves } from "./curves.js";
import { byId, make } from "./elements.js";
import { losses } from "./losses.js";
import { matrices } from "./matrices.js";
import { provenance, settings } from "./provenance.js";
import { results } from "./results.js";
import { Sheet } from "./sheet.js";
import { sweeps } from "./sweeps.js";
import { tasks } from "./tasks.js";
import { many } from "./text.js";
import { tradeoff } from "./tradeoff.js";

/** @type {Field} */
const NOTHING = {
  title: "",
  kind: "learning",
  columns: [],
  headlines: [],
  ranked: "",
  tradeoff: ["", ""],
  compared: [],
  conditions: [],
  notes: [],
  tasks: [],
  sets: [],
  states: [],
  groups: [],
  shown: [],
  ahead: {},
  winners: {},
  fastest: null,
  baselines: [],
  contrasts: {},
  accuracies: null,
  ranges: {},
  tried: [],
  against: null,
  per_task: null,
  published: null,
  settings: { methods: [], rows: [] },
  runs: [],
  environments: [],
};

/** @param {Sheet} sheet */
function choices(sheet) {
  sheet.choices();
}

/** From the top of the page to its end. */
const PANELS = [
  answers,
  results,
  tradeoff,
  choices,
  tasks,
  matrices,
  curves,
  losses,
  costs,
  sweeps,
  settings,
  provenance,
];

/**
 * Draws a field.
 *
 * @param {PageData} data
 * @param {Field | undefined} field
 */
function show(data, field) {
  const main = byId("main");
  main.replaceChildren();
  const sheet = new Sheet(data, field ?? NOTHING, main, byId("contents"));
  if (!field) {
    main.append(make("p", {}, "There is no finished run to compare."));
    provenance(sheet);
    return sheet;
  }
  const methods = new Set(field.groups.map(({ method }) => method)).size;
  const more = field.groups.length > methods ? ` with ${field.groups.length} choices of settings` : "";
  const title = `${field.title}: ${many(field.runs.length, "run")} of ${many(methods, "method")}${more}`;
  main.append(make("p", { class: "title" }, title));
  for (const panel of PANELS) panel(sheet);
  return sheet;
}

function start() {
  /** @type {PageData} */
  const data = JSON.parse(byId("data").textContent ?? "");
  let sheet = show(data, data.fields[0]);
  const theme = /** @type {HTMLSelectElement} */ (byId("theme"));
  const root = document.documentElement;
  const redraw = () => sheet.plots.redraw();
  const paint = () => {
    if (theme.value) root.dataset.theme = theme.value;
    else delete root.dataset.theme;
    redraw();
  };
  theme.addEventListener("change", paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    redraw();
  });
  addEventListener("afterprint", paint);
  if (data.fields.length > 1) {
    const picker = /** @type {HTMLSelectElement} */ (byId("field"));
    picker.append(...data.fields.map(({ title }, index) => make("option", { value: index }, title)));
    picker.addEventListener("change", () => {
      sheet.close();
      sheet = show(data, data.fields[Number(picker.value)]);
    });
    byId("field-choice").hidden = false;
  }
}

start();
