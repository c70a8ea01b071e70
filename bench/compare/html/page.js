// Where the numbers come from, and the page as a whole.

function settings() {
  const node = panel("settings", "Settings");
  const { methods, rows } = field.settings;
  if (rows.length) {
    const lines = rows.map(([key, values]) =>
      make("tr", {}, make("th", { scope: "row" }, key), ...values.map((value) => make("td", { class: "text" }, value))),
    );
    node.append(
      make(
        "details",
        {},
        make("summary", {}, `What differs: ${many(rows.length, "setting")}`),
        scroll(
          "Settings that differ",
          table(
            ["Setting", ...methods].map((text) => heading(text, true)),
            lines,
          ),
        ),
      ),
    );
  } else node.append(make("p", {}, "All runs have the same settings, up to the seed."));
  const list = make(
    "dl",
    {},
    ...field.conditions.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
  );
  node.append(
    make(
      "details",
      {},
      make("summary", {}, `What all have in common: ${many(field.conditions.length, "condition")}`),
      list,
    ),
  );
}

function provenance() {
  const node = panel("provenance", "Where the numbers come from");
  const head = ["Method", "Seed", "Started", "Environment", "Code", "Command", "Folder"];
  const lines = field.runs.map(([first, ...cells]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, first),
      ...cells.map((value, place) => make("td", { class: place > 2 ? "text" : "left" }, String(value))),
    ),
  );
  const environments = field.environments.flatMap((lines, place) => [
    make("h3", {}, `Environment ${place + 1}`),
    make("dl", {}, ...lines.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
  ]);
  node.append(
    make(
      "details",
      {},
      make("summary", {}, `${many(lines.length, "run")}, ${many(field.environments.length, "environment")}`),
      scroll(
        "Runs",
        table(
          head.map((text) => heading(text, true)),
          lines,
        ),
      ),
      ...environments,
    ),
  );
  if (DATA.left_out.length) {
    const rows = DATA.left_out.map(([path, reason]) =>
      make("tr", {}, make("th", { scope: "row" }, path), make("td", { class: "text" }, reason)),
    );
    node.append(
      make(
        "details",
        { id: "left-out" },
        make("summary", {}, `Left out: ${many(rows.length, "folder")}`),
        scroll(
          "Left out",
          table(
            ["Folder", "Reason"].map((text) => heading(text, true)),
            rows,
          ),
        ),
      ),
    );
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
  const methods = new Set(field.groups.map(({ method }) => method)).size;
  const more = field.groups.length > methods ? ` with ${field.groups.length} choices of settings` : "";
  main.append(
    make(
      "p",
      { class: "title" },
      `${field.title}: ${many(field.runs.length, "run")} of ${many(methods, "method")}${more}`,
    ),
  );
  for (const part of [answers, results, tradeoff, choices, matrices, curves, costs, sweeps, settings, provenance])
    part();
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
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.theme = "light";
    redraw();
  });
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
