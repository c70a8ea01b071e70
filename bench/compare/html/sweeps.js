// What a method does with other settings: shown where groups of one method differ in them.

// How the values of a setting lie on an axis: numbers as they are or by their logarithm, words one after another.
function ruler(values) {
  let distinct = [...new Set(values)];
  const there = distinct.filter((value) => value !== DATA.absent);
  const numeric = there.every((value) => value.trim() !== "" && Number.isFinite(Number(value)));
  if (numeric) distinct = there.sort((a, b) => a - b); // where a setting is absent there is no point
  const log = numeric && distinct.length > 2 && distinct[0] > 0 && distinct.at(-1) / distinct[0] >= 8;
  const number = (value) => (value === DATA.absent ? null : log ? Math.log10(value) : Number(value));
  const at = numeric ? number : (value) => distinct.indexOf(value);
  // Of many numbers only some are written: powers of ten, or what Plotly finds round.
  const [low, high] = [at(distinct[0]), at(distinct.at(-1))];
  const tens = Array.from(
    { length: Math.max(0, Math.floor(high) - Math.ceil(low) + 1) },
    (_, place) => `1e${Math.ceil(low) + place}`,
  );
  const marks = !numeric || distinct.length <= SEVERAL ? distinct : log && tens.length > 1 ? tens : null;
  const round = (mark) => safe(numeric && distinct.length > SEVERAL ? Number(mark) : mark);
  return {
    at,
    distinct,
    ticks: marks
      ? { tickvals: marks.map(at), ticktext: marks.map(round) }
      : log
        ? { tickvals: [low, high], ticktext: [distinct[0], distinct.at(-1)].map(round) }
        : {},
  };
}

function sweeps() {
  const methods = [...new Set(field.groups.map(({ method }) => method))].filter((method) =>
    field.groups.some((group) => group.method === method && Object.keys(group.apart).length),
  );
  if (!methods.length) return;
  const node = panel("sweeps", "Settings tried");
  const bar = make("div"),
    body = make("div");
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
    const change =
      (name, then = update) =>
      (value) => {
        state[name] = value;
        then();
      };
    const names = keys().map((key) => [key, key]);
    const all = groups();
    const choices = [
      ...(methods.length > 1
        ? [
            select(
              "Method",
              methods.map((name) => [name, name]),
              state.method,
              change("method", setting),
            ),
          ]
        : []),
      select(
        "Metric",
        metrics.map(({ key, title }) => [key, title]),
        state.metric,
        change("metric"),
      ),
      select("over", names, state.first, change("first")),
      ...(names.length > 1 ? [select("and", names, state.second, change("second"))] : []),
      select(
        "Emphasise",
        [["", "nothing"], ["tenth", "the best tenth"], ...all.map((group) => [group.label, group.short])],
        state.marked,
        change("marked"),
      ),
    ];
    bar.replaceChildren(controls(...choices));
    update();
  }
  const groups = () => field.groups.filter(({ method, apart }) => method === state.method && Object.keys(apart).length);

  function update() {
    clear(body);
    const all = groups().filter(({ values }) => values[state.metric]);
    if (!all.length) return;
    const ordered = all
      .slice()
      .sort((a, b) => (b.values[state.metric][0] - a.values[state.metric][0]) * (COLUMN[state.metric].cost ? -1 : 1));
    const tenth = new Set(ordered.slice(0, Math.ceil(ordered.length / 10)));
    const marked = (group) => (state.marked === "tenth" ? tenth.has(group) : group.label === state.marked);
    body.append(
      make(
        "p",
        { class: "soft" },
        `${many(all.length, "setting")} of ${state.method}. The ${COLUMN[state.metric].cost ? "lowest" : "highest"} ${COLUMN[state.metric].title}: ${ordered[0].short}, ${spread(ordered[0].values[state.metric], COLUMN[state.metric].digits, ordered[0].n)}. It is chosen after the fact: a fair number for it needs other seeds or images.`,
      ),
    );
    over(body, all, state, marked);
    if (state.second && state.second !== state.first) crossed(body, all, state);
    if (keys().length > 1) parallel(body, all, state, keys(), marked);
  }
  setting();
}

const settingText = (group) =>
  Object.entries(group.apart)
    .map(([key, value]) => `${safe(key)} = ${safe(value)}`)
    .join("<br>");

// A metric over one setting; lines join what is otherwise set alike.
function over(parent, all, { metric, first }, marked) {
  const lines = new Map();
  for (const group of all) {
    const rest = Object.entries(group.apart)
      .filter(([key]) => key !== first)
      .map(([key, value]) => `${bare(key)}=${value}`)
      .join(" ");
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
        type: "scatter",
        mode: joined ? "lines+markers" : "markers",
        name: safe(rest),
        showlegend: named,
        x: sorted.map((group) => at(group.apart[first])),
        y: sorted.map((group) => group.values[metric][0]),
        error_y: {
          type: "data",
          array: sorted.map((group) => group.values[metric][1] ?? 0),
          thickness: 1,
          width: 0,
          color: found[0].color,
        },
        line: lineStyle(style, 1.5),
        marker: {
          ...markerStyle(style),
          size: sorted.map((group) => (marked(group) ? 14 : 7)),
          line: { color: look.ink, width: sorted.map((group) => (marked(group) ? 2 : 0)) },
        },
        hovertemplate: sorted.map(
          (group) =>
            `${settingText(group)}<br>${COLUMN[metric].title} ${spread(group.values[metric], COLUMN[metric].digits, group.n)}<extra></extra>`,
        ),
      };
    }),
    layout: {
      xaxis: axis(look, { title: { text: safe(first) }, ...ticks }),
      yaxis: axis(look, { title: { text: unit(metric) } }),
      showlegend: named,
      legend: { orientation: "h", y: -0.22, font: { size: 11 } },
    },
  }));
}

// A metric over two settings.
function crossed(parent, all, { metric, first, second }) {
  const rulers = [first, second].map((key) => ruler(all.map((group) => group.apart[key])));
  const [across, up] = rulers.map(({ distinct }) => distinct);
  if (across.length > FEW || up.length > FEW) return strewn(parent, all, rulers, { metric, first, second });
  const cells = up.map((row) =>
    across.map((column) => all.filter((group) => group.apart[first] === column && group.apart[second] === row)),
  );
  const mean = (groups) =>
    groups.length ? groups.reduce((sum, group) => sum + group.values[metric][0], 0) / groups.length : null;
  const z = cells.map((line) => line.map(mean));
  const several = cells.flat().some((groups) => groups.length > 1);
  const { digits, title, cost } = COLUMN[metric];
  const shown = (value) => (known(value) ? written(value, Math.min(digits, 1)) : "");
  plot(
    parent,
    `${title} over ${first} and ${second}`,
    130 + 34 * up.length,
    (look, width) => ({
      traces: [
        {
          type: "heatmap",
          z,
          x: across.map((_, place) => place),
          y: up.map((_, place) => place),
          colorscale: DATA.scales.sequential,
          reversescale: cost,
          text: z.map((line) => line.map(shown)),
          texttemplate: width / across.length > 45 ? "%{text}" : undefined,
          xgap: 1,
          ygap: 1,
          hoverongaps: false,
          colorbar: { thickness: 10, title: { text: title, font: { size: 11 } }, outlinewidth: 0 },
          customdata: cells.map((line) => line.map((groups) => many(groups.length, "setting"))),
          hovertemplate: "%{x}, %{y}: %{text} (%{customdata})<extra></extra>",
        },
      ],
      layout: {
        xaxis: axis(look, {
          title: { text: safe(first) },
          tickvals: across.map((_, place) => place),
          ticktext: across.map(safe),
          showgrid: false,
        }),
        yaxis: axis(look, {
          title: { text: safe(second) },
          tickvals: up.map((_, place) => place),
          ticktext: up.map(safe),
          showgrid: false,
        }),
      },
    }),
    several ? "A cell is the mean over the other settings tried with these two." : undefined,
  );
}

// A metric over two settings of which one has too many values for cells.
function strewn(parent, all, [across, up], { metric, first, second }) {
  const { title, digits, cost } = COLUMN[metric];
  plot(parent, `${title} over ${first} and ${second}`, 420, (look) => ({
    traces: [
      {
        type: "scatter",
        mode: "markers",
        x: all.map(({ apart }) => across.at(apart[first])),
        y: all.map(({ apart }) => up.at(apart[second])),
        marker: {
          size: 10,
          color: all.map(({ values }) => values[metric][0]),
          colorscale: DATA.scales.sequential,
          reversescale: cost,
          showscale: true,
          line: { width: 0.5, color: look.soft },
          colorbar: { thickness: 10, title: { text: title, font: { size: 11 } }, outlinewidth: 0 },
        },
        hovertemplate: all.map(
          (group) =>
            `${settingText(group)}<br>${title} ${spread(group.values[metric], digits, group.n)}<extra></extra>`,
        ),
      },
    ],
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
  return Array.from(
    { length: SHADES },
    (_, place) => scale[Math.round((from + ((to - from) * place) / (SHADES - 1)) * (scale.length - 1))][1],
  );
}

// Every group as a line across all settings and the metric, as plain lines that need no WebGL.
function parallel(parent, all, { metric, marked: name }, keys, marked) {
  const title = COLUMN[metric].title;
  const [low, high] = bounds(
    all.map((group) => group.values[metric][0]),
    0,
    1e-9,
  );
  const axes = keys.map((key) => {
    const { at, distinct } = ruler(all.map((group) => group.apart[key]));
    const [from, to] = bounds(distinct.map(at), 0, 1e-9);
    const place = (value) =>
      at(value) === null ? null : distinct.length === 1 ? 0.5 : (at(value) - from) / (to - from);
    const written = distinct.length <= SEVERAL ? distinct : [distinct[0], distinct.at(-1)];
    return {
      of: (group) => place(group.apart[key]),
      marks: written.map((value) => [
        place(value),
        value.length > 9 && Number.isFinite(Number(value)) ? Number(value).toPrecision(3) : value,
      ]),
    };
  });
  const share = (group) => (group.values[metric][0] - low) / (high - low);
  axes.push({
    of: share,
    marks: [0, 0.25, 0.5, 0.75, 1].map((place) => [place, written(low + place * (high - low), COLUMN[metric].digits)]),
  });
  const labels = [...keys, title];
  const scale = DATA.scales.sequential;
  const shade = (group) => Math.min(SHADES - 1, Math.floor(share(group) * SHADES));
  const trace = (found, style) => ({
    type: "scatter",
    mode: "lines+markers",
    connectgaps: false,
    ...style,
    x: found.flatMap(() => [...axes.map((_, place) => place), null]),
    y: found.flatMap((group) => [...axes.map(({ of }) => of(group)), null]),
    text: found.flatMap((group) =>
      Array(axes.length + 1).fill(
        `${settingText(group)}<br>${title} ${spread(group.values[metric], COLUMN[metric].digits, group.n)}`,
      ),
    ),
    hovertemplate: "%{text}<extra></extra>",
  });
  plot(
    parent,
    `All settings and ${title}`,
    420,
    (look) => ({
      traces: [
        ...shades(scale, look).map((color, place) =>
          trace(
            all.filter((group) => shade(group) === place),
            {
              line: { color, width: all.length > 60 ? 0.7 : 1.5 },
              marker: { color, size: 4 },
              opacity: name ? 0.25 : 0.8,
            },
          ),
        ),
        trace(all.filter(marked), { line: { color: look.ink, width: 3 }, marker: { color: look.ink, size: 7 } }),
      ].filter(({ x }) => x.length),
      layout: {
        margin: { l: 20, r: 20, t: 30, b: 10 },
        xaxis: axis(look, {
          tickvals: labels.map((_, place) => place),
          ticktext: labels.map((label) => safe(bare(label))),
          range: [-0.25, labels.length - 0.65],
          showgrid: false,
          showline: false,
        }),
        yaxis: axis(look, { range: [-0.06, 1.06], visible: false }),
        shapes: labels.map((_, place) => ({
          type: "line",
          x0: place,
          x1: place,
          y0: 0,
          y1: 1,
          line: { color: look.soft, width: 1 },
          layer: "below",
        })),
        annotations: axes.flatMap(({ marks }, place) =>
          marks.map(([y, tick]) => ({
            x: place,
            y,
            text: safe(tick),
            showarrow: false,
            xanchor: "left",
            xshift: 6,
            font: { size: 10, color: look.soft },
            bgcolor: look.paper,
            opacity: 0.85,
          })),
        ),
      },
    }),
    `All settings and ${title}: every line is one setting, yellow where ${title} is high, dark or grey where it is low`,
  );
}
