// Changing what runs. The host refuses a client that may not; the page then shows no buttons.

import { post } from "./host.js";
import { confirm, count, say } from "./page.js";

const pathOf = (name, what) => `v1/deployments/${encodeURIComponent(name)}/${what}`;

async function perform(name, what, doing, done, body) {
  const sayLater = say(`${name} is being ${doing} …`);
  try {
    await post(pathOf(name, what), body);
    sayLater(`${name} was ${done}`, "good");
  } catch (error) {
    sayLater(`${name} was not ${done}: ${error.message}`, "bad");
  }
}

export const start = (name) => perform(name, "start", "started", "started");

export async function restart({ name, instances }) {
  const sure = await confirm({
    title: `Restart ${name}?`, action: "Restart",
    text: `Its code is read anew, and ${count(instances.length, "instance")} will be replaced, one by one. `
      + "Running calls may finish.",
  });
  if (sure) await perform(name, "restart", "restarted", "restarted");
}

export async function stop({ name, statistics }) {
  const sure = await confirm({
    title: `Stop ${name}?`, action: "Stop",
    text: `New calls are refused until it is started again. ${count(statistics.calls_in_flight, "running call")} `
      + "may finish for a while, and then they are cut.",
  });
  if (sure) await perform(name, "stop", "stopped", "stopped");
}

export async function scale({ name, settings }) {
  const chosen = await confirm({
    title: `Scale ${name}`, action: "Scale",
    text: "Instances beyond the number finish their calls first. Two different numbers: the load decides.",
    fields: [
      { label: "At least", value: settings.replicas.min, least: 0 },
      { label: "At most", value: settings.replicas.max, least: 1 },
    ],
  });
  if (!chosen) return;
  const [min, max] = chosen;
  const range = min === max ? min : `${min} to ${max}`;
  await perform(name, "scale", "scaled", `scaled to ${range}`, { min, max });
}

export async function cancel({ id, function: name }) {
  const sure = await confirm({
    title: `Cancel this call of ${name}?`, action: "Cancel the call",
    text: `Its caller gets no result. Execution ${id}.`,
  });
  if (!sure) return;
  const sayLater = say(`${id} is being cancelled …`);
  try {
    await post(`v1/executions/${encodeURIComponent(id)}/cancel`);
    sayLater(`${id} was cancelled`, "good");
  } catch (error) {
    sayLater(`${id} was not cancelled: ${error.message}`, "bad");
  }
}
