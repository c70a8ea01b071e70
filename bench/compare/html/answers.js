// Panels in numbers: what is best, how far all lie from one of them, and the table of results.

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
    const there = field.groups.filter((group) => group.values[key]);
    const winners = there.length === 1 ? there : field.best[key].map((place) => field.groups[place]);
    if (!there.length) continue;
    const told = winners.length ? winners.map((group) => group.short).join(", ") : "no difference";
    const number = winners.length ? spread(winners[0].values[key], digits, winners[0].n) : "all have the same mean";
    list.append(make("li", {}, `Highest ${title}`, make("b", {}, told), make("span", { class: "soft" }, number)));
  }
  const cheap = field.groups
    .filter((group) => group.values.seconds && group.trains)
    .sort((a, b) => a.values.seconds[0] - b.values.seconds[0])[0];
  if (cheap) {
    const number = `${spread(cheap.values.seconds, 1, cheap.n)} s`;
    list.append(
      make("li", {}, "Fastest that trains", make("b", {}, cheap.short), make("span", { class: "soft" }, number)),
    );
  }
  node.append(list);
  node.append(
    make(
      "p",
      { class: "soft" },
      "Transfer: accuracy on tasks before they are learned. Average: over all stages and tasks. Last: after the last task. ",
      "A mean with ± is over seeds, ± is its standard error.",
    ),
  );
  if (field.groups.length > 1) against(node);
}

function against(node) {
  node.append(make("h3", {}, "Better or worse than a baseline"));
  const body = make("div");
  let baseline = field.against ? field.against.baseline : 0;
  const options = field.groups.map((group, place) => [place, group.short]);
  node.append(
    controls(
      select("Difference to", options, baseline, (value) => {
        baseline = Number(value);
        update();
      }),
    ),
    body,
  );

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
    const head = [
      "Method",
      ...DATA.compared.map((key) => COLUMN[key].title),
      "Gains most on",
      "Loses most on",
      "Time",
      "Memory",
    ];
    const lines = rows.map((row) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, swatch(row.group), row.group.short),
        ...DATA.compared.map((key) => differenceCell(...found(row, key))),
        ...extremes(row.group, base).map((text) => make("td", {}, text)),
        make("td", {}, ratio(row.group.values.seconds, base.values.seconds)),
        make("td", {}, ratio(row.group.values.peak_memory_mb, base.values.peak_memory_mb)),
      ),
    );
    body.append(
      scroll(
        "Differences to the baseline",
        table(
          head.map((text) => heading(text)),
          lines,
        ),
      ),
    );
    const told = tested
      ? `Percentage points, in pairs of runs with the same seed. The intervals of one column hold together with ${100 * DATA.together} % ` +
        `confidence (each with ${(100 * tested.level).toFixed(tested.level > 0.999 ? 3 : 1)} %); where one holds 0, no difference is shown. `
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
      type: "scatter",
      mode: "markers",
      x: [mean],
      y: [place],
      marker: markerStyle(group, 9),
      error_x: known(low)
        ? { type: "data", symmetric: false, array: [high - mean], arrayminus: [mean - low], color: group.color }
        : undefined,
      hovertemplate: `${safe(group.short)}: ${written(mean, 2, true)}<br>${safe(interval(low, high, over))}<extra></extra>`,
    })),
    layout: {
      xaxis: axis(look, { title: { text: `${COLUMN[key].title}, points` } }),
      yaxis: axis(look, {
        tickvals: points.map((_, place) => place),
        ticktext: points.map(({ group }) => safe(group.short)),
        range: [-0.6, points.length - 0.4],
        showgrid: false,
      }),
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
  return make(
    "td",
    attributes,
    make("b", {}, written(mean, 2, true)),
    ...range,
    make("span", { class: "verdict" }, verdict),
    make("span", { class: "interval" }, over),
  );
}

function extremes(group, base) {
  if (!group.mean || !base.mean) return ["–", "–"];
  const changes = field.tasks
    .map((task, column) => {
      const [a, b] = [group.mean.at(-1)[column], base.mean.at(-1)[column]];
      return { task, change: known(a) && known(b) ? a - b : null };
    })
    .filter(({ change }) => known(change))
    .sort((a, b) => a.change - b.change);
  const tell = (one, right) =>
    one && right(one.change) && Math.abs(one.change) >= 0.05 ? `${one.task} ${written(one.change, 1, true)}` : "none";
  return [tell(changes.at(-1), (change) => change > 0), tell(changes[0], (change) => change < 0)];
}

function ratio(one, other) {
  return one && other && other[0] > 0 ? `× ${(one[0] / other[0]).toFixed(2)}` : "–";
}

function results() {
  const node = panel("results", "Results");
  const columns = DATA.columns.filter(({ key }) => field.groups.some((group) => group.values[key]));
  const button = (title) => make("button", { type: "button" }, title);
  const head = [
    make("th", { scope: "col" }, button("Method")),
    make("th", { scope: "col" }, button("n")),
    ...columns.map(({ title }) => make("th", { scope: "col" }, button(title))),
  ];
  const rows = field.groups.map((group, place) => {
    const cells = columns.map(({ key, digits }) => {
      const best = (field.best[key] || []).includes(place);
      return make("td", best ? { class: "best" } : {}, spread(group.values[key], digits, group.n));
    });
    const more = group.short.endsWith(group.told) ? [] : [make("span", { class: "interval" }, group.told)];
    const line = make(
      "tr",
      {},
      make("th", { scope: "row" }, swatch(group), group.short, ...more),
      make("td", {}, String(group.n)),
      ...cells,
    );
    return { line, keys: [group.label, group.n, ...columns.map(({ key }) => group.values[key]?.[0] ?? null)] };
  });
  const quoted = (field.published?.rows || []).map((row) =>
    make(
      "tr",
      { class: "published" },
      make("th", { scope: "row" }, `${row.method} (published)`),
      make("td", {}, "–"),
      ...columns.map(({ key }) => make("td", {}, written(row.values[key] ?? null, 1))),
    ),
  );
  const whole = table(head, [...rows.map(({ line }) => line), ...quoted]);
  head.forEach((cell, column) => {
    const rising = column === 0 || (column > 1 && columns[column - 2].cost); // what one wants to see first
    cell.firstChild.addEventListener("click", () => {
      const now = cell.getAttribute("aria-sort");
      const up = now ? now === "descending" : rising;
      head.forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b) * (up ? 1 : -1);
      rows.sort((a, b) =>
        known(a.keys[column]) && known(b.keys[column])
          ? order(a.keys[column], b.keys[column])
          : known(b.keys[column]) - known(a.keys[column]),
      );
      whole.tBodies[0].prepend(...rows.map(({ line }) => line));
    });
  });
  node.append(scroll("Results of all methods", whole));
  node.append(
    make(
      "p",
      { class: "soft" },
      "Mean ± standard error over n seeds; the highest mean of an accuracy is bold. Headings sort.",
    ),
  );
  const formulas = DATA.columns.filter(({ formula }) => formula);
  const list = make(
    "dl",
    {},
    ...formulas.flatMap(({ title, formula }) => [make("dt", {}, title), make("dd", {}, formula)]),
  );
  node.append(
    make(
      "details",
      {},
      make("summary", {}, "What the columns are"),
      make(
        "p",
        { class: "soft" },
        "a[i,j] is the percentage of test images of task j that are answered rightly after task i of T; row 0 is the untrained model.",
      ),
      list,
    ),
  );
  if (field.published) published(node);
}

function published(node) {
  const rows = field.published.rows.map((row) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, row.method),
      make("td", { class: "text" }, row.source),
      make("td", { class: "text" }, row.remarks),
    ),
  );
  node.append(
    make(
      "details",
      {},
      make("summary", {}, `${PUBLISHED}: ${many(rows.length, "row")} and their sources`),
      ...field.published.notes.map((note) => make("p", { class: "soft" }, note)),
      scroll(
        "Sources of published numbers",
        table(
          ["Method", "Source", "Remarks"].map((text) => heading(text, true)),
          rows,
        ),
      ),
    ),
  );
}
