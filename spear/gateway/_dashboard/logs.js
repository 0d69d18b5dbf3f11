// The lines of all instances, as they are written.

import { ask, linesOf, pause } from "./host.js";
import { byId, clock, element } from "./page.js";

const MAX_LINES = 1000;
let following = null; // the AbortController of the stream
let held = null; // lines that arrived while the list is paused

const shortName = (instance) => instance.replace(/^\w+:/, "").replace(/#1$/, "");

export async function follow() {
  if (following) following.abort();
  const mine = new AbortController();
  following = mine;
  const query = new URLSearchParams({ tail: 500, follow: true });
  for (const name of ["deployment", "instance"]) if (byId(name).value) query.set(name, byId(name).value);
  while (!mine.signal.aborted) {
    try {
      const response = await ask(`v1/logs?${query}`, { signal: mine.signal });
      if (response.ok) {
        byId("logs").replaceChildren(); // also after a reconnection: the tail has them again
        if (held) held = [];
        for await (const line of linesOf(response)) take(JSON.parse(line));
      }
    } catch (error) { /* the header says that the host is away */ }
    if (!mine.signal.aborted) await pause(1000);
  }
}

function take(line) {
  if (line.$error) return;
  if (held && byId("logs").childElementCount) {
    held.push(line);
    if (held.length > MAX_LINES) held.shift();
    byId("pause").textContent = `Resume (${held.length} new)`;
  } else add(line);
}

function add(line) {
  const logs = byId("logs");
  const isAtEnd = logs.scrollHeight - logs.scrollTop - logs.clientHeight < 40;
  const made = element("div", undefined, line.stream || "");
  if (line.lost) made.append(element("span", `${line.lost} lines were lost: they came too fast`));
  else {
    made.append(element("time", clock(line.time)), element("span", shortName(line.instance), "from"));
    if (line.stream === "stderr") made.append(element("span", "stderr", "which"));
    made.append(document.createTextNode(line.text));
  }
  made.hidden = !isShown(made);
  logs.append(made);
  while (logs.childElementCount > MAX_LINES) logs.firstChild.remove();
  if (isAtEnd) logs.scrollTop = logs.scrollHeight;
}

function isShown(made) {
  const text = byId("text").value.toLowerCase();
  if (byId("only-stderr").checked && made.className !== "stderr") return false;
  return !text || made.textContent.toLowerCase().includes(text);
}

function filter() {
  const logs = byId("logs");
  for (const each of logs.children) each.hidden = !isShown(each);
  logs.scrollTop = logs.scrollHeight;
}

function togglePause() {
  const lines = held;
  held = lines ? null : [];
  byId("pause").textContent = held ? "Resume" : "Pause";
  byId("pause").setAttribute("aria-pressed", String(Boolean(held)));
  if (lines) {
    lines.forEach(add);
    byId("logs").scrollTop = byId("logs").scrollHeight;
  }
}

// Show the lines of one deployment or instance, and go there.
export function showLogsOf(deployment, instance = "") {
  fillChoice(byId("deployment"), [deployment], "All deployments", true);
  byId("deployment").value = deployment;
  if (instance) fillChoice(byId("instance"), [instance], "All instances", true);
  byId("instance").value = instance;
  follow();
  byId("logs").scrollIntoView({ block: "nearest" });
  byId("logs").focus({ preventScroll: true });
}

// The options of a choice: all, and some values. The chosen one stays, also after it has gone.
export function fillChoice(select, values, all, keepsOthers = false) {
  const chosen = select.value;
  const others = keepsOthers ? [...select.options].map((each) => each.value) : [chosen];
  const wanted = [...new Set([...values, ...others])].filter((each) => each).sort();
  if (select.options.length && JSON.stringify(wanted) === select.dataset.values) return;
  select.dataset.values = JSON.stringify(wanted);
  select.replaceChildren(new Option(all, ""), ...wanted.map((each) => new Option(each, each)));
  select.value = chosen;
}

export function beginLogs() {
  byId("deployment").addEventListener("change", () => {
    byId("instance").value = "";
    follow();
  });
  byId("instance").addEventListener("change", follow);
  byId("text").addEventListener("input", filter);
  byId("only-stderr").addEventListener("change", filter);
  byId("pause").addEventListener("click", togglePause);
  fillChoice(byId("deployment"), [], "All deployments");
  fillChoice(byId("instance"), [], "All instances");
  follow();
}
