// The dashboard: one form, one request to /api/simulate, and everything its answer says.

import { scatterChart, seriesChart, short } from "./chart.js";

const SIGNALS = [
  { name: "pm25", prefix: "pm25", title: "Fine particles PM2.5" },
  { name: "energy_mwh", prefix: "energy", title: "Electricity" },
  { name: "traffic_index", prefix: "traffic", title: "Traffic", unit: "1 = usual" },
];
const LEVERS = { car_free_ratio: "cars kept off the road", renewable_mix: "renewable share", dynamic_pricing: "dynamic pricing",
  gdp_activity_index: "economic activity", commercial_load_factor: "commercial load" };
const MOVE_DELAY_MS = 250;

const by = (id) => document.getElementById(id);
let cities = [];
let pending = null;
let timer = 0;

function node(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const percent = (share, digits = 0) => `${(share * 100).toLocaleString("en", { maximumFractionDigits: digits })} %`;
const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : "±"}${short(Math.abs(value))}`;
const signedPercent = (share) => `${share > 0 ? "+" : share < 0 ? "−" : "±"}${(Math.abs(share) * 100).toFixed(1)} %`;
const chosenCity = () => cities.find((city) => city.name === by("city").value);

function localTime(text, zone) {
  if (!text) return "–";
  const options = { weekday: "short", day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone };
  return `${new Intl.DateTimeFormat("en-GB", options).format(new Date(text))} (${zone})`;
}

async function ask(path, body) {
  pending?.abort();
  pending = new AbortController();
  const request = body
    ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: pending.signal }
    : { signal: pending.signal };
  const response = await fetch(path, request);
  const document = await response.json();
  if (!response.ok) throw new Error(document.error ? document.error.message : `status ${response.status}`);
  return document;
}

function question() {
  const policy = { car_free_ratio: Number(by("car-free").value) / 100 };
  if (!by("renewable-keep").checked) policy.renewable_mix = Number(by("renewable").value) / 100;
  return {
    city: by("city").value,
    horizon_hours: Number(by("horizon").value),
    policy,
    uncertainty_samples: 50,
    assumptions: by("assumptions").value,
  };
}

function showLevers() {
  const keep = by("renewable-keep").checked;
  const city = chosenCity();
  const usual = city ? city.status_quo.renewable_mix : 0;
  by("car-free-value").textContent = `${by("car-free").value} %`;
  by("renewable").disabled = keep;
  by("renewable-value").textContent = keep ? percent(usual, 1) : `${by("renewable").value} %`;
  by("renewable-hint").textContent = `keep the status quo (${percent(usual, 1)})`;
}

function showCity() {
  const city = chosenCity();
  if (!city) return;
  const kind = city.simulated ? "Simulated city: its data are generated, not observed." : city.replay ? "Recorded city: “now” is the end of its data." : "Live city.";
  by("city-note").textContent = `${kind} Data up to ${city.data_as_of ? localTime(city.data_as_of, city.timezone) : "–: none yet"}.`;
  showLevers();
}

function showBanner(meta) {
  const banner = by("banner");
  const model = meta.served_by === "world_model";
  banner.className = `banner ${meta.degraded ? "warn" : "good"}`;
  const who = model ? `World model, version ${meta.model_version}` : "Deterministic baseline (not the world model)";
  banner.replaceChildren(node("strong", `Answered by: ${who}${meta.degraded ? " — degraded" : ""}`));
  if (meta.reasons.length) {
    const list = node("ul");
    meta.reasons.forEach((reason) => list.append(node("li", reason)));
    banner.append(list);
  }
}

function showFailure(message) {
  by("banner").className = "banner bad";
  by("banner").replaceChildren(node("strong", "No answer: "), message);
  for (const id of ["effects", "charts", "facts", "assumption-table"]) by(id).replaceChildren();
}

function showEffects(effect, horizon) {
  by("effects").replaceChildren(...SIGNALS.map(({ name, title }) => {
    const card = node("div", undefined, "card");
    card.append(node("h3", title));
    const change = effect[name];
    if (!change) {
      card.append(node("div", "–", "big"), node("p", "not answered for this city"));
      return card;
    }
    const unit = change.unit === "1" ? "" : ` ${change.unit}`;
    const relative = change.relative === null ? "" : signedPercent(change.relative);
    card.append(
      node("div", relative || signed(change.mean), "big"),
      node("p", `${signed(change.mean)}${unit} on average over ${horizon} h`),
      node("p", `90 % range of the assumptions: ${signed(change.q05)} to ${signed(change.q95)}${unit}`),
    );
    return card;
  }));
}

function showCharts(answer, zone) {
  const units = answer.meta.units;
  const point = (row, signal) => ({ mean: row[signal.name], low: row[`${signal.prefix}_q05`], high: row[`${signal.prefix}_q95`] });
  by("charts").replaceChildren(...SIGNALS.map((signal) => {
    const rows = answer.baseline.map((row, index) => ({
      time: new Date(row.timestamp),
      baseline: point(row, signal),
      scenario: point(answer.simulated[index], signal),
    }));
    const unit = signal.unit ?? units[signal.name];
    const onRead = (row) => {
      const words = (kind, one) => `${kind} ${short(one.mean)} (${short(one.low)} to ${short(one.high)})`;
      by("readout").textContent = `${localTime(row.time, zone)} · ${signal.title}: ${words("baseline", row.baseline)}, ${words("policy", row.scenario)} ${unit}`;
    };
    return seriesChart({ title: signal.title, unit, rows, zone, onRead });
  }));
}

function showProvenance(meta, zone) {
  const facts = [
    ["Model", meta.model_version ? `version ${meta.model_version}, run ${meta.run_id}` : "none"],
    ["Newest observed hour", localTime(meta.data_as_of, zone)],
    ["Data version", meta.dataset_version ?? "–"],
    ["Rung of the ladder", `${meta.rung} (0 = all well, 4 = no recent data)`],
    ["Status quo", `renewable share ${percent(meta.policy_effective.status_quo.renewable_mix, 1)}: ${meta.policy_effective.status_quo.origin}`],
    ["Members, seed", `${meta.samples}, ${meta.seed}`],
    ["Note", meta.note],
  ];
  by("facts").replaceChildren(...facts.flatMap(([name, value]) => [node("dt", name), node("dd", value)]));
}

function showAssumptions(assumptions) {
  const table = node("table");
  const head = node("tr");
  ["Lever", "acts on", "change per +100 points (low … central … high)", "Source"].forEach((name) => head.append(node("th", name)));
  table.append(head);
  assumptions.coefficients.forEach((one) => {
    const row = node("tr");
    const range = [one.low, one.central, one.high].map(signedPercent).join(" … ");
    row.append(node("td", LEVERS[one.lever] ?? one.lever), node("td", one.signal), node("td", range, "number"), node("td", one.source));
    table.append(row);
  });
  const title = `${assumptions.title || assumptions.name}${assumptions.illustrative ? " (illustrative, not from studies)" : ""}`;
  by("assumption-table").replaceChildren(node("p", title, "hint"), table);
}

async function run() {
  const body = question();
  const city = chosenCity();
  if (!city) return;
  by("results").setAttribute("aria-busy", "true");
  const started = performance.now();
  try {
    const answer = await ask("/api/simulate", body);
    showBanner(answer.meta);
    showEffects(answer.effect, answer.horizon);
    showCharts(answer, city.timezone);
    showProvenance(answer.meta, city.timezone);
    showAssumptions(answer.meta.assumptions);
    by("timing").textContent = `Answered in ${Math.round(performance.now() - started)} ms.`;
  } catch (failure) {
    if (failure.name === "AbortError") return;
    showFailure(failure.message);
  }
  by("results").setAttribute("aria-busy", "false");
  if (by("latents").open) showLatents();
}

async function showLatents() {
  const note = by("latent-note");
  try {
    const response = await fetch(`/api/explain/latent_sample?city=${encodeURIComponent(by("city").value)}`);
    const sample = await response.json();
    if (!response.ok) throw new Error(sample.error.message);
    by("latent-chart").replaceChildren(scatterChart(sample.points));
    note.textContent = "Each dot is one hour of the next week as the model imagines it, in two dimensions (principal components); larger and darker: more PM2.5. Point at a dot for its time of day.";
  } catch (failure) {
    by("latent-chart").replaceChildren();
    note.textContent = failure.message;
  }
}

function soon() {
  showLevers();
  clearTimeout(timer);
  timer = setTimeout(run, MOVE_DELAY_MS);
}

async function start() {
  try {
    ({ cities } = await ask("/api/cities"));
  } catch (failure) {
    showFailure(failure.message);
    return;
  }
  by("city").replaceChildren(...cities.map((city) => {
    const option = node("option", `${city.title}${city.simulated && !/simulated/i.test(city.title) ? " (simulated)" : ""}${city.data_as_of ? "" : " — no data yet"}`);
    option.value = city.name;
    return option;
  }));
  const first = cities.find((city) => city.data_as_of) ?? cities[0];
  by("city").value = first.name;
  showCity();
  await run();
}

by("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
by("city").addEventListener("change", () => { showCity(); run(); });
for (const id of ["car-free", "renewable"]) by(id).addEventListener("input", soon);
for (const id of ["horizon", "assumptions", "renewable-keep"]) by(id).addEventListener("change", soon);
by("reset").addEventListener("click", () => {
  by("car-free").value = 0;
  by("renewable-keep").checked = true;
  soon();
});
by("latents").addEventListener("toggle", () => { if (by("latents").open) showLatents(); });
start();
