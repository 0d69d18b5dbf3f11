// Elements and texts. Whatever comes from the host becomes text (textContent), never markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function button(text, label, onClick, className = "plain") {
  const made = element("button", text, className);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", onClick);
  return made;
}

// An unchanged text is left alone, so that a selection in it stays.
export function setText(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

// Show one child for each item. Children are found again by key: the focus stays where it is.
export function keep(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((each) => [each.dataset.key, each]));
  items.forEach((item, index) => {
    const key = keyOf(item);
    const node = old.get(key) || make(item);
    node.dataset.key = key;
    old.delete(key);
    update(node, item);
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] || null);
  });
  old.forEach((node) => node.remove());
}

// Fill a row of a table. A cell is a text, or [text, class]; on a phone each cell shows its label.
export function fillRow(row, cells) {
  const heads = row.closest("table")?.tHead?.rows[0].cells;
  cells.forEach((cell, index) => {
    const [text, className = ""] = Array.isArray(cell) ? cell : [cell];
    const node = row.cells[index] || row.insertCell();
    if (node.className !== className) node.className = className;
    if (heads?.[index] && !node.dataset.label) node.dataset.label = heads[index].textContent;
    if (text !== null) setText(node, text);
  });
}

// -- texts ---------------------------------------------------------------------------------------

export function seconds(value) {
  if (value === null || value === undefined) return "none";
  if (value === 0) return "0";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return `${value.toFixed(1).replace(/\.0$/, "")} s`;
}

export function age(value) {
  if (value < 90) return `${Math.max(Math.floor(value), 0)} s`;
  if (value < 5400) return `${Math.floor(value / 60)} min`;
  return value < 172800 ? `${Math.floor(value / 3600)} h` : `${Math.floor(value / 86400)} d`;
}

export const number = (value) => (
  value < 10 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value).toLocaleString("en")
);
export const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");
export const sum = (values) => values.reduce((a, b) => a + b, 0);
export const count = (amount, noun) => `${amount.toLocaleString("en")} ${noun}${amount === 1 ? "" : "s"}`;

const GRADES = {
  ready: "good", running: "good", idle: "good", completed: "good",
  degraded: "warn", draining: "warn", starting: "warn", created: "warn", stopping: "warn", pending: "warn",
  stopped: "none", cancelled: "none",
};
export const grade = (state) => GRADES[state] || "bad";

// -- notices and questions -----------------------------------------------------------------------

// Say something at the foot of the page; returns a function that replaces the words.
export function say(text, kind = "") {
  const made = element("div", undefined, `notice ${kind}`);
  const words = element("span", text);
  made.append(words, button("×", "Dismiss", () => made.remove()));
  byId("notices").append(made);
  return (later, laterKind) => {
    words.textContent = later;
    made.className = `notice ${laterKind}`;
    if (laterKind !== "bad") setTimeout(() => made.remove(), 8000);
  };
}

// Ask before something is changed. Resolves to the values of the fields, or to null.
export function confirm({ title, text, action, fields = [] }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-go").textContent = action;
  const inputs = fields.map(({ label, value, least }) => {
    const input = element("input");
    Object.assign(input, { type: "number", min: least, max: 10000, step: 1, value, required: true });
    const made = element("label", label);
    made.append(input);
    return [made, input];
  });
  byId("confirm-fields").replaceChildren(...inputs.map(([made]) => made));
  dialog.showModal();
  (inputs[0]?.[1] || byId("confirm-keep")).focus();
  return new Promise((resolve) => {
    byId("confirm-form").onsubmit = () => resolve(inputs.map(([, input]) => input.valueAsNumber));
    byId("confirm-keep").onclick = () => { dialog.close(); };
    // The event comes a little after the end: then it may be about an earlier question.
    dialog.onclose = () => { if (!dialog.open) resolve(null); };
  });
}
