// Settings, conditions, and where the numbers come from.

import { definitions, details, heading, make, row, table } from "./elements.js";
import { many } from "./text.js";

/** @typedef {import("./sheet.js").Sheet} Sheet */

/** @param {Sheet} sheet */
export function settings(sheet) {
  const { conditions } = sheet.field;
  const { methods, rows } = sheet.field.settings;
  const node = sheet.panel("settings", "Settings");
  if (rows.length) {
    const lines = rows.map(([key, values]) => row([key], values.map(textCell)));
    const head = ["Setting", ...methods].map((text) => heading(text, true));
    node.append(details(`What differs: ${many(rows.length, "setting")}`, table("Settings that differ", head, lines)));
  } else node.append(make("p", {}, "All runs have the same settings, up to the seed."));
  node.append(details(`What all have in common: ${many(conditions.length, "condition")}`, definitions(conditions)));
}

/** @param {Sheet} sheet */
export function provenance(sheet) {
  const { runs, environments } = sheet.field;
  const node = sheet.panel("provenance", "Where the numbers come from");
  const head = ["Method", "Seed", "Started", "Environment", "Code", "Command", "Folder"];
  const lines = runs.map(([label, ...cells]) =>
    row(
      [label],
      cells.map((value, index) => make("td", { class: index > 2 ? "text" : "left" }, String(value))),
    ),
  );
  const machines = environments.flatMap((entries, index) => [
    make("h3", {}, `Environment ${index + 1}`),
    definitions(entries),
  ]);
  node.append(
    details(
      `${many(runs.length, "run")}, ${many(environments.length, "environment")}`,
      table(
        "Runs",
        head.map((text) => heading(text, true)),
        lines,
      ),
      ...machines,
    ),
  );
  if (sheet.data.left_out.length) node.append(leftOut(sheet.data.left_out));
}

/** @param {PageData["left_out"]} entries */
function leftOut(entries) {
  const lines = entries.map(([path, reason]) => row([path], [textCell(reason)]));
  const head = ["Folder", "Reason"].map((text) => heading(text, true));
  const node = details(`Left out: ${many(entries.length, "folder")}`, table("Left out", head, lines));
  node.id = "left-out";
  return node;
}

/** @param {string} text */
function textCell(text) {
  return make("td", { class: "text" }, text);
}
