"use strict";
const STATES = ["runqueue", "runnable", "preempted", "netpoll", "syscall", "waiting"];

// Names come from processes: they reach the page only as text.
function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (className) made.className = className;
  return made;
}
function rows(table, found) {
  table.tBodies[0].replaceChildren(...found.map((cells) => {
    const row = element("tr");
    for (const cell of cells) row.append(cell instanceof Node ? cell : element("td", cell.text, cell.number ? "n" : cell.className || ""));
    return row;
  }));
}
const cell = (text, className) => ({ text, className });
const number = (text) => ({ text, number: true });

const duration = (ns) => (ns === null || ns === undefined ? "" : words.duration(ns));
const share = (part) => (part === null ? "" : `${(100 * part).toPrecision(2)} %`);
const count = (value) => (value === null || value === undefined ? "" : value.toLocaleString("en"));
const clock = (unix) => new Date(unix * 1000).toTimeString().slice(0, 8);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

async function ask(path, method = "GET") {
  const answer = await fetch(path, { method, cache: "no-store", signal: AbortSignal.timeout(method === "GET" ? 15000 : 60000) });
  if (!answer.ok) throw new Error((await answer.text()).trim() || `${answer.status}`);
  return answer.json();
}
