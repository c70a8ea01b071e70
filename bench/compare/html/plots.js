// Plotly's pictures: one look for all, and what places their labels.

function colours() {
  const probe = document.body.appendChild(make("i"));
  const of = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = {
    paper: of("--paper"),
    ink: of("--ink"),
    soft: of("--soft"),
    rule: of("--rule"),
    raised: of("--raised"),
  };
  probe.remove();
  return found;
}

function axis(look, more = {}) {
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

function render(node) {
  const look = colours();
  const { traces, layout } = plots.get(node)(look, node.clientWidth);
  const base = {
    paper_bgcolor: look.paper,
    plot_bgcolor: look.paper,
    showlegend: false,
    font: { family: "system-ui, sans-serif", color: look.ink, size: 12 },
    margin: { l: 10, r: 10, t: 26, b: 10 }, // room for the buttons above
    hoverlabel: { bgcolor: look.raised, bordercolor: look.rule, font: { color: look.ink }, align: "left" },
    // On a touch screen a finger that scrolls must not begin a zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
  Plotly.react(
    node,
    traces,
    { ...base, ...layout },
    {
      responsive: true,
      displaylogo: false,
      scrollZoom: false,
      displayModeBar: "hover",
      modeBarButtons: [["toImage", "resetScale2d"]],
      toImageButtonOptions: { format: "svg" },
    },
  );
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
  const low = Math.min(...found),
    high = Math.max(...found);
  const more = Math.max((high - low) * pad, (least - (high - low)) / 2, 0);
  return [low - more, high + more];
}

function band(items, key) {
  return items.flatMap(({ values }) =>
    values[key] ? [values[key][0] - (values[key][1] ?? 0), values[key][0] + (values[key][1] ?? 0)] : [],
  );
}

const lineStyle = (group, width = 2) => ({ color: group.color, dash: dash(group), width });
const markerStyle = (group, size = 7) => ({ color: group.color, symbol: symbol(group), size });

// A colour, #rrggbb, painted with some opacity on paper, rgb(r, g, b).
function mixed(color, paper, share) {
  const below = paper.match(/[\d.]+/g);
  const parts = [1, 3, 5].map(
    (from, place) => share * parseInt(color.slice(from, from + 2), 16) + (1 - share) * below[place],
  );
  return `rgb(${parts.map(Math.round).join(",")})`;
}

// Chooses for every point on which side its label covers least of other labels and points.
function beside(points, width, height) {
  const sides = {
    "middle right": [0, 0.5],
    "middle left": [-1, 0.5],
    "top center": [-0.5, 0],
    "bottom center": [-0.5, 1],
    "top right": [0, 0],
    "bottom right": [0, 1],
    "top left": [-1, 0],
    "bottom left": [-1, 1],
  };
  const taken = points.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]);
  const bars = points.flatMap(({ x, y, wide, high }) => [
    [x - wide, y - 2, x + wide, y + 2],
    [x - 2, y - high, x + 2, y + high],
  ]);
  const overlap = (a, b) =>
    Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return points.map((point, place) => {
    const size = 6.4 * point.text.length + 4;
    let best = null;
    for (const [side, [across, down]] of Object.entries(sides)) {
      const gap = across === -0.5 ? 0 : across === 0 ? 9 : -9;
      const left = point.x + across * size + gap;
      const top = down === 0.5 ? point.y - 7 : down === 0 ? point.y - 21 : point.y + 7;
      const box = [left, top, left + size, top + 14];
      const inside = overlap(box, [0, 0, width, height]);
      const covered =
        taken.reduce((sum, other, index) => sum + (index === place ? 0 : overlap(box, other)), 0) +
        bars.reduce((sum, other) => sum + overlap(box, other), 0) +
        3 * (size * 14 - inside);
      if (!best || covered < best.covered - 0.5) best = { side, covered, box };
    }
    if (best.covered > point.bearable) return { side: best.side, text: "" };
    taken.push(best.box);
    return { side: best.side, text: point.text };
  });
}
