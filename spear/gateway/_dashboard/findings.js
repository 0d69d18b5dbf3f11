// What needs attention, and why: from health, counters of the last minutes, and failed instances.

import { pointsOf } from "./charts.js";
import { age, count, sum } from "./page.js";

const STUCK = 10; // seconds without the end of any call
const RECENT = 60; // seconds within which refusals and failures count

// Each of these returns {kind, grade, text} if it has found something. The first one names the trouble.

function crashing({ state, reason, settings }, { points, failures }) {
  const lost = sum(points.map((each) => each.lost));
  if (!reason && !lost) return null;
  const told = [`${(reason || failures.at(-1)?.reason || "an instance has ended").replace(/\.$/, "")}.`];
  if (lost) {
    const span = age(points.at(-1).time - points[0].time);
    told.push(`${count(lost, "instance")} ended without being asked to in the last ${span}.`);
  }
  if (state === "unhealthy") told.push(`The next attempt comes within ${age(settings.restart.retry_seconds)}.`);
  return {
    kind: reason ? state : "restarted", grade: reason ? "bad" : "warn", text: told.join(" "),
    failure: failures.at(-1),
  };
}

// Seconds for which calls have been in flight and none has ended; 0 if one has, or if a stream may last.
function stuckFor({ streams }, points) {
  const last = points.at(-1);
  if (!last?.flight || (streams.length && !last.waiting)) return 0;
  const index = points.findLastIndex((each) => each.ended || !each.flight);
  return last.time - (points[index]?.time ?? points[0].time);
}

function hanging({ instances, statistics, streams }, { points, cpuOf }) {
  const silent = instances.filter((each) => each.heartbeats_missed > 1);
  const stuck = stuckFor({ streams }, points);
  if (!silent.length && stuck < STUCK) return null;
  const told = silent.map(({ name, heartbeats_missed: missed }) => (
    `${name} has missed ${missed} heartbeats: its event loop is blocked.`
  ));
  if (stuck >= STUCK) {
    const waiting = statistics.waiting ? `, ${statistics.waiting} waiting` : "";
    const flight = count(statistics.calls_in_flight, "call");
    told.push(`${flight} in flight${waiting}, and none has ended for ${age(stuck)}.`);
  }
  const busy = instances.map(cpuOf).filter((each) => each !== null);
  if (busy.length) {
    const does = Math.max(...busy) > 50 ? "computes" : "waits for something";
    told.push(`It ${does}: CPU ${busy.join(" %, ")} %.`);
  }
  return { kind: "hanging", grade: "warn", text: told.join(" ") };
}

function overloaded({ statistics, settings }, { recent }) {
  const refused = sum(recent.map((each) => each.refused));
  const last = recent.slice(-3);
  const isWaiting = last.length > 1 && last.every((each) => each.waiting);
  const { ready, waiting, calls_in_flight: flight } = statistics;
  if ((!isWaiting && !refused) || !ready) return null; // without an instance, the crash is the trouble
  const told = [];
  if (isWaiting) {
    const busy = `${count(ready, "instance")} ${ready === 1 ? "is" : "are"} busy`;
    told.push(`${count(waiting, "call")} waiting: ${busy} with ${count(flight, "call")}.`);
  }
  if (refused) {
    told.push(`${count(refused, "call")} refused in the last minute: the queue of ${settings.queue} was full.`);
  }
  return { kind: "overloaded", grade: "warn", text: told.join(" ") };
}

function failing({ function_statistics: functions }, { recent }) {
  const failed = sum(recent.map((each) => each.failed));
  const ended = sum(recent.map((each) => each.ended));
  if (failed < 5 || failed < ended / 10) return null;
  const kinds = Object.entries(functions).flatMap(
    ([name, { failures }]) => Object.entries(failures).map(([kind, times]) => [times, `${name}: ${kind}`]),
  ).sort((a, b) => b[0] - a[0]).slice(0, 3).map(([times, what]) => `${what} (${times})`);
  const share = `${Math.round((100 * failed) / ended)} % of ${count(ended, "call")} in the last minute failed`;
  return { kind: "failing", grade: "warn", text: `${share}; most since its start: ${kinds.join(", ")}.` };
}

// One finding for each deployment that needs attention, the worst first.
export function findingsOf(snapshot, failuresOf, cpuOf) {
  const all = snapshot.deployments.flatMap((deployment) => {
    const points = pointsOf(deployment.name);
    const recent = points.filter((point) => point.time > snapshot.time - RECENT);
    const seen = { points, recent, failures: failuresOf(deployment.name), cpuOf };
    const found = [crashing, hanging, overloaded, failing]
      .map((look) => look(deployment, seen)).filter((each) => each);
    if (!found.length) return [];
    const action = found[0].kind === "overloaded" ? "scale" : "restart";
    return [{ ...found[0], name: deployment.name, text: found.map((each) => each.text).join(" "), action }];
  });
  return all.sort((a, b) => (a.grade === "bad" ? 0 : 1) - (b.grade === "bad" ? 0 : 1));
}
