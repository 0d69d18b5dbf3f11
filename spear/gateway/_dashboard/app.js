// The dashboard: it watches the host, and hands each snapshot to the parts of the page.

import { beginCalls, showChoices } from "./calls.js";
import { add, begin, makeTiles, showTiles } from "./charts.js";
import { findingsOf } from "./findings.js";
import { ask, forgetToken, get, hasToken, linesOf, pause } from "./host.js";
import { beginLogs } from "./logs.js";
import { age, byId, grade, setText } from "./page.js";
import {
  failuresOf, readExecutions, readFailures, showDeployments, showFailures, showFindings, showFunctions,
  showInstances,
} from "./tables.js";

const EXECUTIONS_MS = 2000; // between looks at the submitted calls
let before = null; // the snapshot before the present one, since the last connection

function setState(text, className) {
  setText(byId("state"), text);
  byId("state").className = `pill ${className}`;
}

const spanOf = (snapshot) => Math.max(snapshot.time - before.time, 0.05);

// The percentage of one CPU that an instance uses; null at the first sight of it.
function cpuBetween(snapshot) {
  const instances = before ? before.deployments.flatMap((each) => each.instances) : [];
  const past = new Map(instances.map((each) => [each.id, each.cpu_seconds]));
  return ({ id, cpu_seconds: now, age_seconds: lived }) => {
    if (now === null) return null;
    const isKnown = typeof past.get(id) === "number";
    const [used, span] = isKnown ? [now - past.get(id), spanOf(snapshot)] : [now, lived];
    return Math.round((100 * Math.max(used, 0)) / Math.max(span, 0.05));
  };
}

function rateBetween(snapshot) {
  return ({ deployment, name, statistics }) => {
    if (!before) return statistics.calls / Math.max(snapshot.uptime_seconds, 1);
    const past = before.deployments.find((each) => each.name === deployment);
    const calls = past?.function_statistics[name]?.calls || 0;
    return Math.max(statistics.calls - calls, 0) / spanOf(snapshot);
  };
}

async function show(snapshot) {
  document.title = `${snapshot.name} – Spear`;
  setText(byId("host"), snapshot.name);
  setText(byId("uptime"), `up ${age(snapshot.uptime_seconds)} · pid ${snapshot.pid} · ${snapshot.version}`);
  byId("forget").hidden = !hasToken();
  const bad = snapshot.deployments.find((each) => !["ready", "idle"].includes(each.state));
  const word = snapshot.state === "running" && bad ? bad.state : snapshot.state;
  setState(word, grade(word));
  await readFailures(snapshot);
  add(snapshot);
  const cpuOf = cpuBetween(snapshot);
  const findings = findingsOf(snapshot, failuresOf, cpuOf);
  showFindings(findings, snapshot.may_operate);
  showTiles(snapshot);
  showDeployments(snapshot, findings);
  showInstances(snapshot, cpuOf);
  showFunctions(snapshot, rateBetween(snapshot));
  showFailures(snapshot);
  showChoices(snapshot).catch(() => {}); // it asks an instance, which may take its time
  before = snapshot;
}

async function watch() {
  for (let delay = 500; ; delay = Math.min(delay * 2, 8000)) {
    try {
      const history = await get("v1/history"); // anew after a reconnection: the host may be another one
      const response = await ask("v1/watch?interval=1", { headers: { Accept: "application/x-ndjson" } });
      if (!history || !response.ok) throw new Error(response.status);
      begin(history);
      before = null;
      for await (const line of linesOf(response)) {
        const snapshot = JSON.parse(line);
        if (snapshot.$error) break;
        await show(snapshot);
        delay = 500;
      }
    } catch (error) { /* it is said below */ }
    setState("not connected", "bad");
    await pause(delay);
  }
}

async function watchExecutions() {
  for (;;) {
    try {
      if (!document.hidden) await readExecutions();
    } catch (error) { /* the header says that the host is away */ }
    await pause(EXECUTIONS_MS);
  }
}

byId("ask").addEventListener("cancel", (event) => event.preventDefault());
byId("forget").addEventListener("click", forgetToken);
makeTiles();
beginCalls();
beginLogs();
watch();
watchExecutions();
