// The tables: deployments, instances, functions, executions, and what needs attention.

import { draw, pointsOf } from "./charts.js";
import { get } from "./host.js";
import { fillChoice, showLogsOf } from "./logs.js";
import { cancel, restart, scale, start, stop } from "./operate.js";
import {
  age, button, byId, clock, count, element, fillRow, grade, keep, number, seconds, setText, sum,
} from "./page.js";

const UNFINISHED = ["pending", "running"];
const known = new Map(); // of each deployment: {seen: its counters, failures: those of its instances}
let present = new Map(); // the deployments of the last snapshot, by name

export const failuresOf = (name) => known.get(name)?.failures || [];

// The failures of instances are read again when a counter says that there are more.
export async function readFailures(snapshot) {
  for (const { name, statistics, reason } of snapshot.deployments) {
    const seen = JSON.stringify([statistics.lost, statistics.restarts, statistics.started, reason]);
    if (known.get(name)?.seen === seen) continue;
    known.set(name, { seen, failures: failuresOf(name) });
    if (!statistics.lost && !statistics.restarts && !reason) continue;
    const told = await get(`v1/deployments/${encodeURIComponent(name)}/failures`);
    if (told) known.set(name, { seen, failures: told.failures });
  }
}

// -- deployments ---------------------------------------------------------------------------------

function actions(name, label, act) {
  return button(label, `${label.replace(" …", "")} ${name}`, () => act(present.get(name) || { name }));
}

function makeDeployment({ name, isStopped }) {
  const made = element("tr");
  const title = made.insertCell();
  title.append(button(name, `Show the logs of ${name}`, () => showLogsOf(name), "link"));
  if (isStopped) {
    made.insertCell();
    const rest = made.insertCell();
    rest.colSpan = 7;
  } else {
    for (let index = 0; index < 7; index += 1) made.insertCell();
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    Object.entries({ class: "line spark", viewBox: "0 0 240 44", preserveAspectRatio: "none", role: "img" })
      .forEach(([key, value]) => svg.setAttribute(key, value));
    made.insertCell().append(svg, element("small"));
  }
  const buttons = made.insertCell();
  buttons.className = "operate";
  if (isStopped) buttons.append(button("Start", `Start ${name}`, () => start(name)));
  else {
    const offered = [["Scale …", scale], ["Restart …", restart], ["Stop …", stop]];
    buttons.append(...offered.map(([label, act]) => actions(name, label, act)));
  }
  return made;
}

function updateDeployment(row, deployment, trouble, mayOperate) {
  row.querySelector(".operate").hidden = !mayOperate;
  if (deployment.isStopped) {
    fillRow(row, [[null, "name"], ["stopped", "dot none"]]);
    return;
  }
  const { name, state, statistics, settings: { replicas } } = deployment;
  const points = pointsOf(name);
  const last = points.at(-1);
  const range = replicas.min === replicas.max ? "" : ` (${replicas.min} to ${replicas.max})`;
  fillRow(row, [
    [null, "name"],
    trouble && trouble !== state ? [`${state}, ${trouble}`, "dot warn"] : [state, `dot ${grade(state)}`],
    [`${statistics.ready} of ${statistics.wanted}${range}`, "n"], [statistics.calls_in_flight, "n"],
    [statistics.waiting, statistics.waiting ? "n warn" : "n few"],
    [statistics.restarts, statistics.restarts ? "n warn" : "n few"],
    [number(last?.rate ?? 0), "n"],
    [number(last?.failures ?? 0), last?.failures ? "n bad" : "n few"], [null, "chart"],
  ]);
  const cell = row.cells[8];
  const { highest, lowest, span } = draw(cell.firstChild, points, (each) => each.rate);
  setText(cell.lastChild, `max ${number(highest)}`);
  cell.firstChild.setAttribute(
    "aria-label",
    `Calls a second of ${name}: min ${number(lowest)}, max ${number(highest)}, in the last ${age(span)}`,
  );
}

export function showDeployments(snapshot, findings) {
  present = new Map(snapshot.deployments.map((each) => [each.name, each]));
  const troubles = new Map(findings.map(({ name, kind }) => [name, kind]));
  const stopped = snapshot.stopped.map((name) => ({ name, isStopped: true }));
  const keyOf = ({ name, isStopped }) => `${isStopped ? "stopped" : "runs"} ${name}`;
  keep(byId("deployments"), [...snapshot.deployments, ...stopped], keyOf, makeDeployment,
    (row, each) => updateDeployment(row, each, troubles.get(each.name), snapshot.may_operate));
  byId("read-only").hidden = snapshot.may_operate;
  fillChoice(byId("deployment"), [...present.keys()], "All deployments");
  const chosen = byId("deployment").value;
  const ids = snapshot.deployments.filter((each) => !chosen || each.name === chosen)
    .flatMap(({ name, instances }) => [
      ...instances.map((each) => each.id), ...failuresOf(name).map((each) => each.instance),
    ]);
  fillChoice(byId("instance"), ids, "All instances");
}

// -- attention -----------------------------------------------------------------------------------

function makeFinding({ name, action }) {
  const made = element("li");
  const head = element("p");
  head.append(element("span", "", "pill"), element("b", name), element("span", "", "what"));
  const more = element("details");
  more.open = true;
  more.append(element("summary"), element("pre"));
  const row = element("div", undefined, "row");
  row.append(button("Logs", `Show the logs of ${name}`, () => showLogsOf(name)));
  const [label, act] = action === "scale" ? ["Scale …", scale] : ["Restart …", restart];
  const remedy = actions(name, label, act);
  remedy.classList.add("operate");
  row.append(remedy);
  made.append(head, more, row);
  return made;
}

function updateFinding(made, finding, mayOperate) {
  const { failure } = finding;
  const pill = made.querySelector(".pill");
  pill.className = `pill ${finding.grade}`;
  setText(pill, finding.kind);
  setText(made.querySelector(".what"), finding.text);
  const more = made.querySelector("details");
  more.hidden = !failure?.stderr_tail;
  if (failure) {
    const place = failure.instance || finding.name;
    setText(more.querySelector("summary"), `Last lines on stderr of ${place}, ${clock(failure.time)}`);
    setText(more.querySelector("pre"), failure.stderr_tail);
  }
  made.querySelector(".operate").hidden = !mayOperate;
}

export function showFindings(findings, mayOperate) {
  byId("attention").hidden = !findings.length;
  keep(byId("findings"), findings, ({ name, action }) => `${action} ${name}`, makeFinding,
    (made, each) => updateFinding(made, each, mayOperate));
  // Read out when something comes or goes, and not when a figure changes.
  setText(byId("announced"), findings.map(({ name, kind }) => `${name} is ${kind}.`).join(" "));
}

// -- failures ------------------------------------------------------------------------------------

function makeFailure({ instance, reason, time, stderr_tail: tail, exit_status: status }) {
  const made = element("li");
  const head = element("summary");
  const exit = status === null || reason.includes(String(status)) ? "" : ` (exit status ${status})`;
  head.append(element("time", clock(time)), element("span", `${reason}${exit}`));
  const more = element("details");
  const name = instance?.replace(/^\w+:/, "").replace(/-\d+#\d+$/, "");
  more.append(head, element("pre", tail || "It wrote nothing to stderr."));
  if (instance) {
    more.append(button("Its logs", `Show the logs of ${instance}`, () => showLogsOf(name, instance)));
  }
  made.append(more);
  return made;
}

export function showFailures(snapshot) {
  const all = snapshot.deployments.flatMap((each) => failuresOf(each.name));
  all.sort((a, b) => b.time - a.time);
  byId("failed").hidden = !all.length;
  const keyOf = ({ instance, time }) => `${instance} ${time.toFixed(1)}`;
  keep(byId("failed-instances"), all.slice(0, 20), keyOf, makeFailure, () => {});
}

// -- instances and functions ---------------------------------------------------------------------

export function showInstances(snapshot, cpuOf) {
  const instances = snapshot.deployments.flatMap((each) => each.instances);
  keep(byId("instances"), instances, ({ id }) => id, ({ id, name, incarnation, deployment }) => {
    const made = element("tr");
    const shown = name + (incarnation > 1 ? ` #${incarnation}` : "");
    made.insertCell().append(button(shown, `Show the logs of ${shown}`, () => showLogsOf(deployment, id), "link"));
    return made;
  }, (row, each) => {
    const cpu = cpuOf(each);
    const isSilent = each.heartbeats_missed > 1;
    const told = isSilent ? `${each.heartbeats_missed} heartbeats missed` : each.reason;
    fillRow(row, [
      [null, "name"],
      [told ? `${each.state}: ${told}` : each.state, `dot ${isSilent ? "bad" : grade(each.state)}`],
      [each.pid ?? "none", "n few"], [age(each.age_seconds), "n"], [each.calls_in_flight, "n"],
      [cpu === null ? "…" : `${cpu} %`, cpu > 90 ? "n warn" : "n"],
      [each.memory_bytes === null ? "unknown" : `${(each.memory_bytes / 1048576).toFixed(0)} MiB`, "n"],
    ]);
  });
  byId("no-instances").hidden = instances.length > 0;
}

export function showFunctions(snapshot, rateOf) {
  const functions = snapshot.deployments.flatMap((each) => each.functions.map((name) => ({
    name, deployment: each.name, isStream: each.streams.includes(name),
    statistics: each.function_statistics[name] || { calls: 0, failures: {}, latency: {} },
  })));
  const keyOf = ({ deployment, name }) => `${deployment}.${name}`;
  keep(byId("functions"), functions, keyOf, () => element("tr"), (row, each) => {
    const { calls, failures, latency } = each.statistics;
    const kinds = Object.entries(failures).sort((a, b) => b[1] - a[1]);
    const failed = sum(Object.values(failures));
    fillRow(row, [
      [`${each.name}${each.isStream ? " (stream)" : ""}`, "name"], each.deployment,
      [number(rateOf(each)), "n"], [calls.toLocaleString("en"), "n"],
      [seconds(latency.p50_seconds), latency.count ? "n" : "n few"],
      [seconds(latency.p99_seconds), latency.count ? "n" : "n few"],
      failed ? [kinds.map(([kind, times]) => `${times} ${kind}`).join(", "), "n bad wrap"] : ["0", "n few"],
    ]);
  });
}

// -- executions ----------------------------------------------------------------------------------

export async function readExecutions() {
  const told = await get("v1/executions?most=50");
  if (!told) return;
  const now = Date.now() / 1000;
  keep(byId("executions"), told.executions, ({ id }) => id, (each) => {
    const made = element("tr");
    for (let index = 0; index < 6; index += 1) made.insertCell();
    made.insertCell().append(button("Cancel …", `Cancel ${each.id}`, () => cancel(each)));
    return made;
  }, (row, each) => {
    const isUnfinished = UNFINISHED.includes(each.status);
    fillRow(row, [
      [`${each.deployment}.${each.function}`, "name"], [each.status, `dot ${grade(each.status)}`],
      [`${age(now - each.submitted)} ago`, "n"], [seconds(each.duration_seconds), "n"],
      each.instance ? each.instance.replace(/^\w+:/, "").replace(/#1$/, "") : "none yet",
      each.error ? [`${each.error.kind}: ${each.error.message}`, "bad wrap"] : ["", "wrap"], [null, "end"],
    ]);
    row.title = each.id;
    row.cells[6].firstChild.hidden = !isUnfinished;
  });
  const unfinished = told.executions.filter((each) => UNFINISHED.includes(each.status)).length;
  byId("executions-table").hidden = !told.executions.length;
  setText(byId("executions-note"), told.executions.length
    ? `${count(unfinished, "call")} unfinished, of the last ${told.executions.length}`
    : "No call was submitted in the last hour.");
}
