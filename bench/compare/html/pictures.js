// Panels in pictures: trade-off, matrices, learning curves, costs.

function tradeoff() {
  const node = panel("tradeoff", "Trade-off");
  const there = DATA.columns.filter(({ key }) => field.groups.some((group) => group.values[key]));
  const pick = (key, other) => (there.some((column) => column.key === key) ? key : other?.key);
  let x = pick("last", there[0]),
    y = pick("transfer_by_column", there[1] ?? there[0]);
  const options = there.map(({ key, title }) => [key, title]);
  const body = make("div");
  node.append(
    controls(
      select("Across", options, x, (value) => {
        x = value;
        update();
      }),
      select("Up", options, y, (value) => {
        y = value;
        update();
      }),
    ),
    body,
  );

  function update() {
    clear(body);
    const ours = field.groups
      .map((group, place) => ({ ...group, place }))
      .filter(({ values }) => values[x] && values[y]);
    const papers = (field.published?.rows || [])
      .filter(({ values }) => known(values[x]) && known(values[y]))
      .map((row) => ({
        short: row.method,
        source: row.source,
        values: { [x]: [row.values[x], null, 1], [y]: [row.values[y], null, 1] },
      }));
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
        text: item.short,
        bearable: item.source || ours.length > FEW ? 30 : 150,
      }));
      const labels = new Map(beside(points, ...area).map((label, place) => [named[place], label]));
      const errors = (found, key) => ({
        type: "data",
        array: found.map(({ values }) => values[key][1] ?? 0),
        color: found[0].color,
        thickness: 1.2,
      });
      // One trace a colour: hundreds of traces would take half a minute to draw.
      const kinds = [...new Set(items.map(({ color }) => color))];
      const traces = kinds
        .map((kind) => items.filter(({ color }) => color === kind))
        .map((found) => ({
          type: "scatter",
          mode: "markers+text",
          x: found.map(({ values }) => values[x][0]),
          y: found.map(({ values }) => values[y][0]),
          text: found.map((item) => safe(labels.get(item)?.text ?? "")),
          textposition: found.map((item) => labels.get(item)?.side ?? "top center"),
          textfont: { size: 11, color: found[0].source ? look.soft : look.ink },
          cliponaxis: false,
          marker: found[0].source
            ? { symbol: "diamond-open", size: 8, color: look.soft }
            : { symbol: found.map(symbol), size: 10, color: found[0].color },
          error_x: errors(found, x),
          error_y: errors(found, y),
          hovertemplate: found.map(
            (item) =>
              `${safe(item.short)}${item.source ? " (published)" : ""}<br>` +
              [x, y]
                .map(
                  (key) => `${COLUMN[key].title} ${spread(item.values[key], COLUMN[key].digits, item.values[key][2])}`,
                )
                .join("<br>") +
              `${item.source ? `<br>${safe(item.source)}` : ""}<extra></extra>`,
          ),
        }));
      const zero = field.groups.find((group) => !group.trains)?.values;
      const line = (key, along) =>
        zero?.[key] && !COLUMN[key].cost
          ? [{ type: "line", ...along, line: { color: look.soft, width: 1, dash: "dot" } }]
          : [];
      return {
        traces,
        layout: {
          xaxis: axis(look, { range: across, title: { text: unit(x) } }),
          yaxis: axis(look, { range: up, title: { text: unit(y) } }),
          shapes: [
            ...line(x, { x0: zero?.[x]?.[0], x1: zero?.[x]?.[0], yref: "paper", y0: 0, y1: 1 }),
            ...line(y, { y0: zero?.[y]?.[0], y1: zero?.[y]?.[0], xref: "paper", x0: 0, x1: 1 }),
          ],
        },
      };
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
  const boxes = [],
    list = make("div", { class: "choices" });
  const refresh = () =>
    boxes.forEach((box, place) => {
      box.disabled = !box.checked && chosen.size >= DATA.most;
      box.checked = chosen.has(place);
    });
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
  refresh();
  const all = field.groups.length <= DATA.most;
  const told = all
    ? "Methods in the pictures"
    : `Methods in the pictures, ${DATA.most} at most; at first the one with the highest Last of each method`;
  document.getElementById("main").append(make("fieldset", { id: "choices" }, make("legend", {}, told), list));
}

function matrices() {
  if (!field.groups.some((group) => group.mean)) return;
  const node = panel("matrices", "Accuracy matrices");
  const body = make("div");
  const options = [["", "accuracy"], ...field.groups.map((group, place) => [place, `difference to ${group.short}`])];
  let mode = "";
  node.append(
    controls(
      select("Show", options, mode, (value) => {
        mode = value;
        update();
      }),
    ),
    body,
  );

  function update() {
    clear(body);
    const base = mode === "" ? null : field.groups[mode];
    const shown = picked().filter((group) => group.mean && group !== base);
    const minus = (row, column, value) => {
      if (!base) return value;
      const other = base.mean?.[row][column];
      return known(value) && known(other) ? value - other : null;
    };
    const cells = shown.map((group) =>
      group.mean.map((line, row) => line.map((value, column) => minus(row, column, value))),
    );
    const flat = (base ? cells : field.groups.map((group) => group.mean ?? [])).flat(2).filter(known);
    const most = Math.max(...flat.map(Math.abs), 0.1);
    const [low, high] = base ? [-most, most] : [Math.min(...flat), Math.max(...flat)];
    const scale = base ? DATA.scales.diverging : DATA.scales.sequential;
    const gradient = scale.map(([place, color]) => `${color} ${100 * place}%`).join(",");
    body.append(
      make(
        "div",
        { class: "scale" },
        written(low, 1, base),
        make("i", { style: `background:linear-gradient(90deg,${gradient})` }),
        written(high, 1, base),
        base ? " points: red is worse, blue is better" : " %",
      ),
    );
    const grid = make("div", { class: "grid wide" });
    body.append(grid);
    shown.forEach((group, index) => heatmap(grid, group, cells[index], { low, high, scale, sign: Boolean(base) }));
    if (!shown.length) body.append(make("p", {}, "Nothing is chosen but the baseline."));
    body.append(
      make(
        "p",
        { class: "soft" },
        "Rows: the untrained model, then the model after each task. Columns: test sets. Framed: a task just learned; left of it: kept; right of it: not learned yet.",
      ),
    );
  }
  updates.push(update);
  update();
}

function heatmap(parent, group, cells, { low, high, scale, sign }) {
  const columns = field.tasks.length;
  plot(
    parent,
    `Accuracy matrix of ${group.short}`,
    26 * (columns + 1) + 85,
    (look, width) => {
      const size = Math.min(12, (width - 90) / columns / 2.9); // the numbers must fit their cells
      return {
        traces: [
          {
            type: "heatmap",
            z: cells,
            zmin: low,
            zmax: high,
            colorscale: scale,
            showscale: false,
            xgap: 1,
            ygap: 1,
            hoverongaps: false,
            text: cells.map((line) => line.map((value) => (known(value) ? written(value, 1, sign) : ""))),
            texttemplate: size >= 6 ? "%{text}" : undefined,
            textfont: { size },
            customdata: cells.map((line, row) => line.map((_, column) => error(group, row, column))),
            hovertemplate: "%{x} after %{y}: %{text}%{customdata}<extra></extra>",
            x: field.tasks.map((_, place) => place),
            y: field.states.map((_, place) => place),
          },
        ],
        layout: {
          margin: { l: 10, r: 4, t: 26, b: 10 },
          xaxis: axis(look, {
            tickvals: field.tasks.map((_, place) => place),
            ticktext: field.tasks.map(safe),
            showgrid: false,
            autotickangles: [0, -45, -90],
          }),
          yaxis: axis(look, {
            tickvals: field.states.map((_, place) => place),
            ticktext: field.states.map(safe),
            showgrid: false,
            autorange: "reversed",
          }),
          shapes: field.tasks.map((_, place) => ({
            type: "rect",
            x0: place - 0.5,
            x1: place + 0.5,
            y0: place + 0.5,
            y1: place + 1.5,
            line: { color: look.ink, width: 1.5 },
          })),
        },
      };
    },
    [swatch(group), group.short],
  );
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
  const options = [
    ["all", "every task"],
    ["mean", "mean of the tasks learned so far"],
    ...field.tasks.map((name, place) => [place, name]),
  ];
  node.append(
    controls(
      select("Task", options, task, (value) => {
        task = value;
        update();
      }),
    ),
    body,
  );

  function curve(parent, name, column, span) {
    const shown = picked().filter((group) => group.mean);
    const rows = field.states.map((_, place) => place).slice(column === null ? 1 : 0);
    const value = (group, row) => (column === null ? learned(group, row) : group.mean[row][column]);
    plot(
      parent,
      `Accuracy over the stages: ${name}`,
      span ? 240 : 420,
      (look) => ({
        traces: shown.map((group) => ({
          type: "scatter",
          mode: "lines+markers",
          x: rows,
          y: rows.map((row) => value(group, row)),
          connectgaps: false,
          line: lineStyle(group),
          marker: markerStyle(group, span ? 5 : 8),
          error_y:
            column !== null && group.error
              ? {
                  type: "data",
                  array: rows.map((row) => group.error[row][column] ?? 0),
                  thickness: 1,
                  width: 0,
                  color: group.color,
                }
              : undefined,
          hovertemplate: rows.map(
            (row) =>
              `${safe(group.short)} after ${safe(field.states[row])}: %{y:.1f}${column === null ? "" : error(group, row, column)}<extra></extra>`,
          ),
        })),
        layout: {
          xaxis: axis(look, {
            tickvals: rows,
            ticktext: span ? rows.map(String) : rows.map((row) => safe(field.states[row])),
            showgrid: false,
            range: [rows[0] - 0.3, rows.at(-1) + 0.3],
            title: { text: span ? "" : "after" },
          }),
          yaxis: axis(look, {
            range: span ? range(column, span) : undefined,
            title: { text: span ? "" : "accuracy (%)" },
          }),
          shapes:
            column === null
              ? []
              : [
                  {
                    type: "line",
                    x0: column + 1,
                    x1: column + 1,
                    yref: "paper",
                    y0: 0,
                    y1: 1,
                    line: { color: look.soft, width: 1, dash: "dot" },
                  },
                ],
        },
      }),
      name,
    );
  }
  const reach = (column) =>
    bounds(
      picked().flatMap((group) =>
        (group.mean || []).flatMap((line, row) => {
          const value = column === null ? (row ? learned(group, row) : null) : line[column];
          const more = column === null ? 0 : (group.error?.[row][column] ?? 0);
          return known(value) ? [value - more, value + more] : [];
        }),
      ),
    );
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
      for (const column of columns)
        curve(grid, column === null ? "mean of the tasks learned so far" : field.tasks[column], column, span);
      body.append(
        make(
          "p",
          { class: "soft" },
          "Accuracy in percent after each task, 0 being the untrained model; dotted: where the task is learned. All have axes of the same length, each at its own height.",
        ),
      );
    } else {
      curve(
        body,
        task === "mean" ? "mean of the tasks learned so far" : field.tasks[task],
        task === "mean" ? null : Number(task),
        0,
      );
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
    const names = (look) =>
      axis(look, {
        tickvals: y,
        ticktext: shown.map((group) => safe(group.short)),
        showgrid: false,
        range: [-0.6, shown.length - 0.4],
      });
    const height = 60 + 30 * shown.length;
    if (phases.length) {
      const seen = (place) => [
        make("i", {
          style: `display:inline-block;width:.9rem;height:.9rem;margin-right:.4rem;background:currentColor;opacity:${depth(place)}`,
        }),
      ];
      plot(
        body,
        "Seconds by phase",
        height + 10,
        (look) => ({
          traces: phases.map((phase, place) => ({
            type: "bar",
            orientation: "h",
            y,
            x: shown.map((group) => group.phases[phase] ?? 0),
            marker: {
              color: shown.map((group) => mixed(group.color, look.paper, depth(place))),
              line: { color: look.paper, width: 1 },
            },
            hovertemplate: shown.map((group) => `${safe(group.short)}, ${safe(phase)}: %{x:.1f} s<extra></extra>`),
          })),
          layout: { barmode: "stack", xaxis: axis(look, { title: { text: "seconds" } }), yaxis: names(look) },
        }),
        [
          "Seconds by phase",
          make("ul", { class: "legend" }, ...phases.map((phase, place) => make("li", {}, ...seen(place), phase))),
        ],
      );
    }
    const grid = make("div", { class: "grid fit" });
    body.append(grid);
    const rest = DATA.columns.filter(
      ({ key, cost }) => cost && (key !== "seconds" || !phases.length) && shown.some((group) => group.values[key]),
    );
    for (const { key, title, digits } of rest) {
      plot(
        grid,
        title,
        height,
        (look) => ({
          traces: [
            {
              type: "bar",
              orientation: "h",
              y,
              x: shown.map((group) => group.values[key]?.[0] ?? null),
              marker: { color: shown.map((group) => group.color) },
              error_x: {
                type: "data",
                array: shown.map((group) => group.values[key]?.[1] ?? 0),
                color: look.soft,
                thickness: 1,
                width: 0,
              },
              text: shown.map((group) => written(group.values[key]?.[0] ?? null, digits)),
              textposition: "auto",
              hovertemplate: shown.map(
                (group) => `${safe(group.short)}: ${spread(group.values[key], digits, group.n)}<extra></extra>`,
              ),
            },
          ],
          layout: { xaxis: axis(look, { rangemode: "tozero" }), yaxis: names(look) },
        }),
        title,
      );
    }
  }
  updates.push(update);
  update();
}
