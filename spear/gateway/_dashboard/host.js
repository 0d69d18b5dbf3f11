// Talking to the host. All paths are relative, so that the page works below a prefix.

import { byId } from "./page.js";

const TOKEN = "spear-token"; // in sessionStorage: for this tab, until it is closed

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
  location.reload();
}

export const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

export async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers };
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.status !== 401) return response;
  // Several requests are refused at a time; a late one may have had an earlier token than the present one.
  if (sessionStorage.getItem(TOKEN) === token) await login(token === null ? null : "The token was wrong.");
  return ask(path, options);
}

// The document at a path, or null if the host refuses it, such as one of a deployment that has gone.
export async function get(path) {
  const response = await ask(path);
  return response.ok ? response.json() : null;
}

// Post a body; throws an Error with the message of the host if it refuses.
export async function post(path, body) {
  const response = await ask(path, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: body === undefined ? "" : JSON.stringify(body),
  });
  const told = await response.json();
  if (!response.ok) throw new Error(told.error.message);
  return told;
}

// The values of a response with a line of JSON for each.
export async function* linesOf(response) {
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

let asking = null;

function login(why) {
  if (asking) return asking;
  sessionStorage.removeItem(TOKEN);
  if (why) byId("why").textContent = why;
  asking = new Promise((resolve) => {
    byId("login").addEventListener("submit", () => {
      sessionStorage.setItem(TOKEN, byId("token").value.trim());
      byId("token").value = "";
      asking = null;
      resolve();
    }, { once: true });
    byId("ask").showModal();
  });
  return asking;
}
