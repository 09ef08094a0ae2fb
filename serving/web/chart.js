// Two charts in plain SVG: hourly series with 5-95 % bands, and a scatter of latent states.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 900;
const HEIGHT = 230;
const MARGIN = { top: 12, right: 14, bottom: 26, left: 58 };

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

/** Round steps (1, 2, 5 × 10ⁿ) that divide [low, high] into about `count` parts. */
export function ticks(low, high, count = 4) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const made = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) made.push(value);
  return made;
}

/** Short text for a value of any size. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function timeTicks(times, zone) {
  const hourOf = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", hourCycle: "h23", timeZone: zone });
  const dayOf = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", timeZone: zone });
  const every = times.length > 100 ? 24 : times.length > 30 ? 12 : 6;
  return times.flatMap((time, index) => {
    const hour = Number(hourOf.format(time));
    if (hour % every) return [];
    return [{ index, label: hour === 0 ? dayOf.format(time) : `${String(hour).padStart(2, "0")}:00` }];
  });
}

/**
 * Draw baseline and scenario of one signal, each as mean and 5-95 % band.
 * rows: {time: Date, baseline: {mean, low, high}, scenario: {mean, low, high}}
 */
export function seriesChart({ title, unit, rows, zone, onRead }) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const name = document.createElement("span");
  name.textContent = `${title} (${unit})`;
  const legend = document.createElement("span");
  legend.className = "legend";
  for (const [mark, words] of [["b", "baseline"], ["s", "your policy"]]) {
    const swatch = document.createElement("i");
    swatch.className = mark;
    legend.append(swatch, words);
  }
  legend.append(" · bands: 5–95 %");
  caption.append(name, legend);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0" });
  svg.setAttribute("aria-label", `${title} in ${unit}, hour by hour. Use the left and right arrow keys to read hours.`);
  figure.append(caption, svg);

  const known = rows.flatMap((row) => [row.baseline, row.scenario])
    .flatMap((point) => [point.low, point.high, point.mean]).filter(Number.isFinite);
  if (!known.length) {
    const middle = { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle", class: "empty" };
    element("text", middle, svg, "This city has no source for this signal.");
    return figure;
  }
  const floor = Math.min(...known);
  const ceiling = Math.max(...known);
  const pad = (ceiling - floor || Math.abs(ceiling) || 1) * 0.06;
  const low = floor >= 0 && floor < (ceiling - floor) * 0.5 ? 0 : floor - pad;
  const high = ceiling + pad;
  const x = (index) => MARGIN.left + (index / Math.max(rows.length - 1, 1)) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (value) => HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);

  const marks = ticks(low, high);
  const digits = Math.max(0, -Math.floor(Math.log10(marks.length > 1 ? marks[1] - marks[0] : 1)));
  for (const value of marks) {
    element("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(value), y2: y(value) }, svg);
    element("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, svg, value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  for (const { index, label } of timeTicks(rows.map((row) => row.time), zone)) {
    element("line", { class: "grid", x1: x(index), x2: x(index), y1: HEIGHT - MARGIN.bottom, y2: HEIGHT - MARGIN.bottom + 5 }, svg);
    element("text", { x: x(index), y: HEIGHT - 6, "text-anchor": "middle" }, svg, label);
  }
  for (const kind of ["baseline", "scenario"]) {
    const upper = rows.map((row, index) => `${x(index)},${y(row[kind].high)}`);
    const lower = rows.map((row, index) => `${x(index)},${y(row[kind].low)}`).reverse();
    element("polygon", { class: `${kind}-band`, points: [...upper, ...lower].join(" ") }, svg);
  }
  // The baseline is dashed and drawn last: where the policy changes nothing, both stay visible.
  for (const kind of ["scenario", "baseline"]) {
    const points = rows.map((row, index) => `${x(index)},${y(row[kind].mean)}`).join(" ");
    element("polyline", { class: `line ${kind}`, points }, svg);
  }
  addCursor({ svg, rows, x, y, onRead });
  return figure;
}

function addCursor({ svg, rows, x, y, onRead }) {
  const group = element("g", { visibility: "hidden" }, svg);
  const rule = element("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }, group);
  const dots = ["baseline", "scenario"].map((kind) => element("circle", { class: `dot-${kind}`, r: 4 }, group));
  let current = 0;
  const show = (index) => {
    current = Math.min(Math.max(index, 0), rows.length - 1);
    const row = rows[current];
    group.setAttribute("visibility", "visible");
    rule.setAttribute("x1", x(current));
    rule.setAttribute("x2", x(current));
    [row.baseline, row.scenario].forEach((point, which) => {
      dots[which].setAttribute("cx", x(current));
      dots[which].setAttribute("cy", y(point.mean));
    });
    onRead(row);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * WIDTH - MARGIN.left;
    show(Math.round((across / (WIDTH - MARGIN.left - MARGIN.right)) * (rows.length - 1)));
  });
  svg.addEventListener("pointerleave", () => group.setAttribute("visibility", "hidden"));
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -24, PageDown: 24, Home: -rows.length, End: rows.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    show(current + steps[event.key]);
  });
}

/** Draw latent states projected to two dimensions; the size of a point is its weight. */
export function scatterChart(points) {
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} 340`, role: "img", "aria-label": "Latent states in two dimensions" });
  const range = (key) => {
    const values = points.map((point) => point[key]);
    return [Math.min(...values), Math.max(...values)];
  };
  const [left, right] = range("x");
  const [bottom, top] = range("y");
  points.forEach((point) => {
    const dot = element("circle", {
      class: "dot-scenario",
      "fill-opacity": 0.25 + 0.65 * point.weight,
      cx: 30 + ((point.x - left) / (right - left || 1)) * (WIDTH - 60),
      cy: 310 - ((point.y - bottom) / (top - bottom || 1)) * 280,
      r: 3 + 4 * point.weight,
    }, svg);
    element("title", {}, dot, `${point.label}: weight ${short(point.weight)}`);
  });
  return svg;
}
