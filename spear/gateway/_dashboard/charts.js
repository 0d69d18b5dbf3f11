// The figures of the last minutes: the host's own history, continued by its snapshots.

import { age, byId, element, number, seconds, setText, sum } from "./page.js";

const WINDOW = 300; // seconds
const STEP = 1.9; // seconds between samples; the last one is replaced until then
const NOTHING = { calls: 0, failures: 0, succeeded: 0, seconds: 0, refused: 0, lost: 0 };
let samples = []; // {time, rows: Map of deployment -> counters}, oldest first

export function begin(history) {
  samples = history.times.map((time, index) => ({
    time,
    rows: new Map(Object.entries(history.deployments).filter(([, columns]) => columns.calls[index] !== null)
      .map(([name, columns]) => [name, Object.fromEntries(
        Object.entries(columns).map(([column, values]) => [column, values[index]]),
      )])),
  }));
}

function countersOf({ statistics, function_statistics: functions }) {
  const each = Object.values(functions);
  const calls = sum(each.map((one) => one.calls));
  const failures = sum(each.flatMap((one) => Object.values(one.failures)));
  return {
    calls, failures, succeeded: calls - failures,
    seconds: sum(each.map((one) => (one.latency.mean_seconds || 0) * one.latency.count)),
    refused: statistics.refused, lost: statistics.lost, in_flight: statistics.calls_in_flight,
    waiting: statistics.waiting, ready: statistics.ready, wanted: statistics.wanted,
  };
}

export function add(snapshot) {
  const sample = {
    time: snapshot.time, rows: new Map(snapshot.deployments.map((each) => [each.name, countersOf(each)])),
  };
  if (samples.length > 1 && sample.time - samples.at(-2).time < STEP) samples.pop();
  samples.push(sample);
  while (samples[0].time < sample.time - WINDOW) samples.shift();
}

// What changed from one counter to the next; a deployment that was started anew counts from zero.
function change(now, past = NOTHING) {
  const base = past.calls <= now.calls && past.lost <= now.lost ? past : NOTHING;
  return Object.fromEntries(Object.keys(NOTHING).map((name) => [name, now[name] - base[name]]));
}

// Points of a chart, oldest first, of one deployment or of all.
export function pointsOf(name) {
  return samples.slice(1).map((sample, index) => {
    const past = samples[index];
    const names = [...sample.rows.keys()].filter((each) => name === undefined || each === name);
    const rows = names.map((each) => sample.rows.get(each));
    const changed = names.map((each) => change(sample.rows.get(each), past.rows.get(each)));
    const total = (column) => sum(changed.map((each) => each[column]));
    const span = Math.max(sample.time - past.time, 0.5);
    const succeeded = total("succeeded");
    return {
      time: sample.time, ended: total("calls"), failed: total("failures"),
      refused: total("refused"), lost: total("lost"),
      rate: total("calls") / span, failures: total("failures") / span,
      latency: succeeded > 0 ? Math.max(total("seconds"), 0) / succeeded : null,
      flight: sum(rows.map((each) => each.in_flight)), waiting: sum(rows.map((each) => each.waiting)),
    };
  });
}

// The mean latency since the start, for a host that has no calls now.
function meanLatency() {
  const rows = [...(samples.at(-1)?.rows.values() || [])];
  const succeeded = sum(rows.map((each) => each.succeeded));
  return succeeded ? sum(rows.map((each) => each.seconds)) / succeeded : null;
}

function niceTop(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= value * 0.999);
}

// Draw values over time into an SVG of 240 x 44, and return {top, lowest, highest, span}.
export function draw(svg, points, pick) {
  const found = points.filter((each) => pick(each) !== null);
  const values = found.map(pick);
  const highest = Math.max(...values, 0);
  const top = highest > 0 ? niceTop(highest) : 1;
  const end = points.at(-1)?.time || 0;
  const span = Math.min(Math.max(end - (points[0]?.time || 0), 30), WINDOW);
  const at = found.map((each) => [
    (240 * (1 - (end - each.time) / span)).toFixed(1), (42 - (40 * pick(each)) / top).toFixed(1),
  ]);
  const line = at.map((each) => each.join(" ")).join("L");
  const paths = at.length ? { area: `M${at[0][0]} 42L${line}L${at.at(-1)[0]} 42Z`, stroke: `M${line}` } : {};
  svg.replaceChildren(...Object.entries({ rule: "M0 2H240M0 42H240", ...paths }).map(([className, d]) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", className);
    path.setAttribute("d", d);
    return path;
  }));
  return { top, span, highest, lowest: values.length ? Math.min(...values) : 0 };
}

// -- the tiles -----------------------------------------------------------------------------------

const TILES = {
  rate: { title: "Calls a second", text: number, now: (points) => points.at(-1)?.rate ?? 0 },
  latency: {
    title: "Mean latency", text: seconds,
    now: (points) => points.findLast((each) => each.latency !== null)?.latency ?? meanLatency(),
  },
  flight: { title: "Calls in flight", text: number, now: (points) => points.at(-1)?.flight ?? 0 },
  failures: { title: "Failures a second", text: number, now: (points) => points.at(-1)?.failures ?? 0 },
};

export function makeTiles() {
  byId("tiles").append(...Object.entries(TILES).map(([name, { title }]) => {
    const tile = element("div", undefined, "tile");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    Object.entries({
      id: `${name}-line`, class: `line ${name}`, viewBox: "0 0 240 44", preserveAspectRatio: "none",
      role: "img",
    }).forEach(([key, value]) => svg.setAttribute(key, value));
    const figure = element("p");
    figure.append(element("b", "…"), element("small"));
    figure.firstChild.id = name;
    figure.lastChild.id = `${name}-more`;
    const chart = element("div", undefined, "chart");
    chart.append(element("span", "", "top"), svg, element("span", "0", "zero"));
    const axis = element("div", undefined, "axis");
    axis.append(element("span", "", "since"), element("span", "", "range"), element("span", "now"));
    tile.append(element("h2", title), figure, chart, axis);
    return tile;
  }));
}

export function showTiles(snapshot) {
  const points = pointsOf();
  for (const [name, { title, text, now }] of Object.entries(TILES)) {
    const current = now(points);
    const figure = current === null ? "no calls" : text(current);
    setText(byId(name), figure);
    const tile = byId(name).closest(".tile");
    const { top, span, lowest, highest } = draw(byId(`${name}-line`), points, (each) => each[name]);
    const range = `min ${text(lowest)} · max ${text(highest)}`;
    setText(tile.querySelector(".top"), text(top));
    setText(tile.querySelector(".since"), `${age(span)} ago`);
    setText(tile.querySelector(".range"), range);
    byId(`${name}-line`).setAttribute(
      "aria-label", `${title}: now ${figure}, ${range}, in the last ${age(span)}`,
    );
  }
  const statistics = snapshot.deployments.map((each) => each.statistics);
  const waiting = sum(statistics.map((each) => each.waiting));
  const totals = [...(samples.at(-1)?.rows.values() || [])];
  setText(byId("rate-more"), ` ${sum(totals.map((each) => each.calls)).toLocaleString("en")} in all`);
  setText(byId("flight-more"), waiting ? ` and ${waiting} waiting` : "");
  setText(byId("failures-more"), ` ${sum(totals.map((each) => each.failures)).toLocaleString("en")} in all`);
}
