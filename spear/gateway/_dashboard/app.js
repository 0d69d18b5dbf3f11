// The dashboard. Whatever comes from the host becomes text (textContent), never markup.
"use strict";

const byId = (id) => document.getElementById(id);
const KEPT = 120; // snapshots in the charts
const MAX_LINES = 500;
const series = { rate: [], latency: [], flight: [], failures: [] };
let before = null; // the last snapshot
let functions = new Map(); // by "deployment.name"
let following = null; // the AbortController of the logs
let calling = null; // of a call

// -- talking to the host ------------------------------------------------------------------------

function token() { return sessionStorage.getItem("spear-token"); }

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.status === 401 && !options.isCall) {
    await login(token() ? "The token was wrong." : null);
    return ask(path, options);
  }
  return response;
}

let asking = null;

function login(why) {
  if (asking) return asking;
  sessionStorage.removeItem("spear-token");
  if (why) byId("why").textContent = why;
  asking = new Promise((resolve) => {
    byId("login").addEventListener("submit", () => {
      sessionStorage.setItem("spear-token", byId("token").value.trim());
      byId("token").value = "";
      asking = null;
      resolve();
    }, { once: true });
    byId("ask").showModal();
  });
  return asking;
}

async function* lines(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = parts.pop();
    yield* parts.filter((part) => part);
  }
}

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

async function watch() {
  for (let delay = 500; ; delay = Math.min(delay * 2, 8000)) {
    try {
      const response = await ask("v1/watch?interval=1", { headers: { Accept: "application/x-ndjson" } });
      if (!response.ok) throw new Error(response.status);
      for await (const line of lines(response)) {
        const snapshot = JSON.parse(line);
        if (snapshot.$error) break;
        show(snapshot);
        delay = 500;
      }
    } catch (error) { /* it is said below */ }
    state("not connected", "bad");
    before = null;
    await pause(delay);
  }
}

// -- showing ------------------------------------------------------------------------------------

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function state(text, className) {
  byId("state").textContent = text;
  byId("state").className = `pill ${className}`;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return `${value.toFixed(1)} s`;
}

function age(value) {
  if (value < 90) return `${Math.floor(value)} s`;
  if (value < 5400) return `${Math.floor(value / 60)} min`;
  return value < 172800 ? `${Math.floor(value / 3600)} h` : `${Math.floor(value / 86400)} d`;
}

const number = (value) => (value < 10 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value).toLocaleString("en"));
const mebibytes = (value) => (value === null ? "–" : `${(value / 1048576).toFixed(0)} MiB`);
const sum = (values) => values.reduce((a, b) => a + b, 0);

const GRADES = { ready: "good", running: "good", idle: "good", degraded: "warn", draining: "warn", starting: "warn", created: "warn", stopping: "warn" };
const grade = (name) => GRADES[name] || "bad";

function totals(snapshot) {
  const found = new Map();
  for (const deployment of snapshot.deployments) {
    for (const [name, each] of Object.entries(deployment.function_statistics)) {
      const { count, mean_seconds: mean } = each.latency;
      found.set(`${deployment.name}.${name}`, {
        calls: each.calls, failures: sum(Object.values(each.failures)),
        count, seconds: (mean || 0) * count, buckets: each.latency.buckets || [],
      });
    }
  }
  return found;
}

const NOTHING = { calls: 0, failures: 0, count: 0, seconds: 0, buckets: [] };

// What happened between two snapshots, by function; a deployment that was replaced counts from zero.
function changes(now, past) {
  const changed = new Map();
  for (const [name, each] of now) {
    const old = past.get(name);
    const base = old && old.calls <= each.calls ? old : NOTHING;
    changed.set(name, {
      calls: each.calls - base.calls, failures: each.failures - base.failures,
      count: each.count - base.count, seconds: each.seconds - base.seconds,
    });
  }
  return changed;
}

function show(snapshot) {
  document.title = `${snapshot.name} – Spear`;
  byId("host").textContent = snapshot.name;
  byId("uptime").textContent = `up ${age(snapshot.uptime_seconds)}`;
  byId("forget").hidden = !token();
  const bad = snapshot.deployments.filter((each) => !["ready", "idle"].includes(each.state));
  const word = snapshot.state !== "running" ? snapshot.state : bad.length ? bad[0].state : "running";
  state(word, grade(word));
  const now = totals(snapshot);
  const span = before ? Math.max(snapshot.time - before.time, 0.05) : 1;
  const changed = before ? changes(now, before.totals) : new Map();
  showTiles(snapshot, [...changed.values()], span);
  showFunctions(snapshot, changed, span);
  showInstances(snapshot, span);
  showChoices(snapshot);
  before = { time: snapshot.time, totals: now, cpu: cpuOf(snapshot) };
}

function showTiles(snapshot, changed, span) {
  const answered = sum(changed.map((each) => each.count));
  const rate = sum(changed.map((each) => each.calls)) / span;
  const failures = sum(changed.map((each) => each.failures)) / span;
  const latency = answered ? sum(changed.map((each) => each.seconds)) / answered : null;
  const flight = sum(snapshot.deployments.map((each) => each.statistics.calls_in_flight));
  const waiting = sum(snapshot.deployments.map((each) => each.statistics.waiting));
  byId("rate").textContent = before ? number(rate) : "–";
  byId("latency").textContent = seconds(latency);
  byId("flight").textContent = flight;
  byId("waiting").textContent = waiting ? ` ${waiting} waiting` : "";
  byId("failures").textContent = before ? number(failures) : "–";
  if (!before) return;
  for (const [name, value] of Object.entries({ rate, latency: latency || 0, flight, failures })) {
    series[name].push(value);
    if (series[name].length > KEPT) series[name].shift();
    draw(byId(`${name}-line`), series[name]);
  }
}

function draw(svg, values) {
  const top = Math.max(...values, 1e-9) * 1.1;
  const room = Math.max(values.length, 30); // a short history is shown large
  const x = (index) => (240 * (room - values.length + index)) / (room - 1);
  const points = values.map((value, index) => `${x(index).toFixed(1)} ${(43 - (41 * value) / top).toFixed(1)}`);
  const paths = { area: `M${x(0).toFixed(1)} 44L${points.join("L")}L240 44Z`, stroke: `M${points.join("L")}` };
  svg.replaceChildren(...Object.entries(paths).map(([className, d]) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", className);
    path.setAttribute("d", d);
    return path;
  }));
}

function row(cells) {
  const made = element("tr");
  made.append(...cells);
  return made;
}

function showFunctions(snapshot, changed, span) {
  const rows = [];
  for (const deployment of snapshot.deployments) {
    for (const name of deployment.functions) {
      const statistics = deployment.function_statistics[name];
      const change = changed.get(`${deployment.name}.${name}`) || NOTHING;
      const failures = statistics ? sum(Object.values(statistics.failures)) : 0;
      const latency = statistics ? statistics.latency : {};
      const title = element("td", name, "name");
      if (deployment.streams.includes(name)) title.append(element("small", "stream"));
      const failed = element("td", failures, failures ? "n bad" : "n few");
      if (statistics) failed.title = Object.entries(statistics.failures).map((each) => each.join(": ")).join("\n");
      rows.push(row([
        title, element("td", deployment.name), element("td", number(change.calls / span), "n"),
        element("td", (statistics ? statistics.calls : 0).toLocaleString("en"), "n"),
        element("td", seconds(latency.p50_seconds), "n"), element("td", seconds(latency.p99_seconds), "n"), failed,
      ]));
    }
  }
  byId("functions").replaceChildren(...rows);
}

function instancesOf(snapshot) { return snapshot.deployments.flatMap((each) => each.instances); }

function cpuOf(snapshot) { return new Map(instancesOf(snapshot).map((each) => [each.id, each.cpu_seconds])); }

function showInstances(snapshot, span) {
  byId("instances").replaceChildren(...instancesOf(snapshot).map((each) => {
    const past = before && before.cpu.get(each.id);
    const known = each.cpu_seconds !== null && past !== null && past !== undefined;
    const cpu = known ? `${Math.round((100 * Math.max(each.cpu_seconds - past, 0)) / span)} %` : "–";
    const standing = element("td", each.state, `dot ${grade(each.state)}`);
    standing.title = each.reason;
    return row([
      element("td", each.name + (each.incarnation > 1 ? ` #${each.incarnation}` : ""), "name"), standing,
      element("td", each.pid === null ? "–" : each.pid, "n few"), element("td", age(each.age_seconds), "n"),
      element("td", each.calls_in_flight, "n"), element("td", cpu, "n"), element("td", mebibytes(each.memory_bytes), "n"),
    ]);
  }));
  byId("troubles").replaceChildren(...snapshot.deployments.filter((each) => each.reason)
    .map((each) => element("li", `${each.name} is ${each.state}: ${each.reason}`)));
}

// -- choosing -----------------------------------------------------------------------------------

function fill(select, values) {
  const chosen = select.value;
  if (JSON.stringify(values) === select.dataset.values) return false;
  select.dataset.values = JSON.stringify(values);
  select.replaceChildren(...values.map((value) => element("option", value)));
  if (values.includes(chosen)) select.value = chosen;
  return select.value !== chosen;
}

async function showChoices(snapshot) {
  const names = snapshot.deployments.flatMap((each) => each.functions.map((name) => `${each.name}.${name}`));
  const isNew = fill(byId("deployment"), snapshot.deployments.map((each) => each.name));
  if (isNew) follow();
  if (JSON.stringify(names) === byId("function").dataset.values) return;
  fill(byId("function"), names);
  const response = await ask("v1/functions");
  if (!response.ok) return;
  functions = new Map((await response.json()).functions.map((each) => [`${each.deployment}.${each.name}`, each]));
  describe();
}

function describe() {
  const chosen = functions.get(byId("function").value);
  byId("signature").textContent = (chosen && chosen.signature) || "";
  byId("summary").textContent = (chosen && chosen.summary) || "";
  if (chosen && chosen.signature && !byId("arguments").dataset.touched) {
    byId("arguments").value = template(chosen.signature);
  }
  byId("go").textContent = chosen && chosen.kind === "stream" ? "Stream" : "Call";
}

// What has to be given, by name, out of a signature: price(item: str, *, currency: str = 'EUR').
const EXAMPLES = { str: "", int: 0, float: 0, bool: false, list: [], dict: {} };

function template(signature) {
  const given = {};
  let depth = 0;
  let part = "";
  for (const character of `${signature.slice(signature.indexOf("(") + 1)},`) {
    if (character === ")" && depth === 0) { part += ","; }
    if ("([{".includes(character)) depth += 1;
    if (")]}".includes(character)) depth -= 1;
    if ((character === "," && depth === 0) || depth < 0) {
      const found = /^\s*(\w+)\s*(?::\s*(\w+)([^=]*))?,?$/.exec(part);
      if (found && !/\bItems\b/.test(part)) given[found[1]] = found[2] in EXAMPLES ? EXAMPLES[found[2]] : null;
      part = "";
      if (depth < 0) break;
    } else part += character;
  }
  return JSON.stringify(given);
}

// -- calling ------------------------------------------------------------------------------------

async function call(event) {
  event.preventDefault();
  const chosen = functions.get(byId("function").value);
  if (!chosen || calling) return;
  const isStream = chosen.kind === "stream";
  calling = new AbortController();
  byId("go").disabled = true;
  byId("cancel").hidden = false;
  byId("outcome").textContent = "…";
  byId("result").hidden = true;
  const begun = performance.now();
  try {
    const path = `v1/functions/${encodeURIComponent(byId("function").value)}/${isStream ? "stream" : "call"}`;
    const response = await ask(path, {
      method: "POST", signal: calling.signal, body: byId("arguments").value,
      headers: { "Content-Type": "application/json", Accept: isStream ? "application/x-ndjson" : "application/json, text/plain" },
    });
    if (isStream && response.ok) await showItems(response);
    else showResult(await response.text(), response.ok);
    const own = response.headers.get("Spear-Duration-Ms");
    const place = response.headers.get("Spear-Instance") || "";
    const took = `${(performance.now() - begun).toFixed(1)} ms`;
    byId("outcome").textContent = `${response.ok ? "" : `${response.status} · `}${took}${own ? `, ${Number(own).toFixed(1)} ms in the function` : ""}${place ? ` · ${place}` : ""}`;
  } catch (error) {
    byId("outcome").textContent = calling.signal.aborted ? "cancelled" : String(error);
  }
  calling = null;
  byId("go").disabled = false;
  byId("cancel").hidden = true;
}

function showResult(text, isGood) {
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch (error) { /* it is no JSON */ }
  byId("result").hidden = false;
  byId("result").className = isGood ? "" : "bad";
  byId("result").textContent = shown;
}

async function showItems(response) {
  const kept = [];
  for await (const line of lines(response)) {
    kept.push(line);
    if (kept.length > MAX_LINES) kept.shift();
    byId("result").hidden = false;
    byId("result").className = line.startsWith('{"$error"') ? "bad" : "";
    byId("result").textContent = kept.join("\n");
  }
}

// -- logs ---------------------------------------------------------------------------------------

async function follow() {
  if (following) following.abort();
  const mine = new AbortController();
  following = mine;
  byId("logs").replaceChildren();
  while (!mine.signal.aborted) {
    try {
      const name = encodeURIComponent(byId("deployment").value);
      const path = `v1/deployments/${name}/logs?tail=${byId("logs").childElementCount ? 0 : 200}&follow=true`;
      const response = await ask(path, { signal: mine.signal });
      if (response.ok) for await (const line of lines(response)) addLine(JSON.parse(line));
    } catch (error) { /* again */ }
    await pause(2000);
  }
}

function addLine(line) {
  const logs = byId("logs");
  const atEnd = logs.scrollHeight - logs.scrollTop - logs.clientHeight < 40;
  const made = element("div", undefined, line.stream === "stderr" ? "stderr" : "");
  if (line.lost) made.append(element("span", `${line.lost} lines were lost`));
  else if (line.text !== undefined) {
    const name = line.instance.replace(/^\w+:/, "").replace(/#1$/, "");
    made.append(element("span", name), document.createTextNode(line.text));
  }
  logs.append(made);
  while (logs.childElementCount > MAX_LINES) logs.firstChild.remove();
  if (atEnd) logs.scrollTop = logs.scrollHeight;
}

// -- beginning ----------------------------------------------------------------------------------

byId("call").addEventListener("submit", call);
byId("cancel").addEventListener("click", () => calling && calling.abort());
byId("function").addEventListener("change", () => {
  delete byId("arguments").dataset.touched;
  describe();
});
byId("deployment").addEventListener("change", follow);
byId("ask").addEventListener("cancel", (event) => event.preventDefault());
byId("arguments").addEventListener("input", (event) => { event.target.dataset.touched = "yes"; });
byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem("spear-token");
  location.reload();
});
byId("arguments").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("call").requestSubmit();
});
watch();
