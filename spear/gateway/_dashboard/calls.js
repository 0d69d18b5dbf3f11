// The form that calls a function.

import { ask, get, linesOf } from "./host.js";
import { byId } from "./page.js";

const MAX_ITEMS = 500;
let functions = new Map(); // by "deployment.name"
let calling = null; // the AbortController of a call

export async function showChoices(snapshot) {
  const select = byId("function");
  const names = snapshot.deployments.flatMap((each) => each.functions.map((name) => `${each.name}.${name}`));
  if (JSON.stringify(names) === select.dataset.values) return;
  select.dataset.values = JSON.stringify(names);
  const chosen = select.value;
  select.replaceChildren(...names.map((each) => new Option(each, each)));
  if (names.includes(chosen)) select.value = chosen;
  const told = await get("v1/functions");
  if (!told) return;
  functions = new Map(told.functions.map((each) => [`${each.deployment}.${each.name}`, each]));
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
      if (found && !/\bItems\b/.test(part)) given[found[1]] = EXAMPLES[found[2]] ?? null;
      part = "";
      if (depth < 0) break;
    } else part += character;
  }
  return JSON.stringify(given);
}

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
      headers: {
        "Content-Type": "application/json",
        Accept: isStream ? "application/x-ndjson" : "application/json, text/plain",
      },
    });
    if (isStream && response.ok) await showItems(response);
    else showResult(await response.text(), response.ok);
    const own = response.headers.get("Spear-Duration-Ms");
    const place = response.headers.get("Spear-Instance") || "";
    const took = `${(performance.now() - begun).toFixed(1)} ms`;
    const inside = own ? `, ${Number(own).toFixed(1)} ms in the function` : "";
    const told = [response.ok ? "" : response.status, took + inside, place].filter((each) => each);
    byId("outcome").textContent = told.join(" · ");
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
  for await (const line of linesOf(response)) {
    kept.push(line);
    if (kept.length > MAX_ITEMS) kept.shift();
    byId("result").hidden = false;
    byId("result").className = line.startsWith('{"$error"') ? "bad" : "";
    byId("result").textContent = kept.join("\n");
  }
}

export function beginCalls() {
  byId("call").addEventListener("submit", call);
  byId("cancel").addEventListener("click", () => calling && calling.abort());
  byId("function").addEventListener("change", () => {
    delete byId("arguments").dataset.touched;
    describe();
  });
  byId("arguments").addEventListener("input", (event) => { event.target.dataset.touched = "yes"; });
  byId("arguments").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("call").requestSubmit();
  });
}
