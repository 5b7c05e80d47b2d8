// Lists the sessions page by page, and searches them. They are blocks of JSON in the page, read when they are needed.
"use strict";

const PAGE = 50;
const KINDS = { intent: 3, transfer_reason: 4, drop_off_location: 5 };
const NAMES = ["intent", "transfer reason", "drop-off location"];
const byId = (id) => document.getElementById(id);
const blocks = [...document.querySelectorAll("script.sessions")];
const read = [];
const counts = blocks.map((block) => Number(block.dataset.count));
const whole = counts.reduce((sum, count) => sum + count, 0);
// `found`: the rows of a search; null: all sessions, of which only the blocks that are shown are read.
const state = { kind: "", label: "", first: 0, found: null };

// The rows of a block; its text is not needed afterwards.
function rows(number) {
  if (!read[number]) {
    read[number] = JSON.parse(blocks[number].textContent);
    blocks[number].textContent = "";
  }
  return read[number];
}

// The rows from one place to another, of all sessions. Each block but the last has as many as the first.
function all(first, end) {
  const some = [];
  for (let place = first; place < Math.min(end, whole); place += 1) {
    some.push(rows(Math.floor(place / counts[0]))[place % counts[0]]);
  }
  return some;
}

function search() {
  const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const containment = byId("containment").value;
  const column = KINDS[state.kind];
  const fits = (row) =>
    (!containment || row[2] === containment) &&
    (!column || row[column] === state.label) &&
    (!words.length || matches(row.join("\n").toLowerCase(), words));
  state.found = words.length || containment || column ? blocks.flatMap((_, number) => rows(number).filter(fits)) : null;
  state.first = 0;
  show();
}

const matches = (text, words) => words.every((word) => text.includes(word));

function show() {
  const { first, found } = state;
  const page = found ? found.slice(first, first + PAGE) : all(first, first + PAGE);
  const total = found ? found.length : whole;
  const list = byId("list");
  list.replaceChildren(...page.map(item));
  const shown = page.length ? `${(first + 1).toLocaleString("en")} to ${(first + page.length).toLocaleString("en")} of ` : "";
  byId("count").textContent = `${shown}${total.toLocaleString("en")} sessions`;
  byId("earlier").disabled = first === 0;
  byId("later").disabled = first + PAGE >= total;
  const chosen = byId("chosen");
  chosen.hidden = !state.kind;
  chosen.textContent = `${state.label} ✕`;
  chosen.setAttribute("aria-label", `Show the sessions of all labels, not only “${state.label}”`);
}

// Texts are set as text: none of them becomes markup.
function item(row) {
  const one = byId("one").content.cloneNode(true);
  one.querySelector("b").textContent = row[0];
  one.querySelector(".state").textContent = row[2];
  one.querySelector(".line .quiet").textContent = [row[1] === row[0] ? "" : row[1], row[8]].filter(Boolean).join(" · ");
  const chips = one.querySelector(".chips");
  NAMES.forEach((name, place) => {
    if (!row[3 + place]) return;
    const chip = document.createElement("li");
    const kind = document.createElement("span");
    kind.textContent = `${name}: `;
    chip.append(kind, row[3 + place]);
    chips.append(chip);
  });
  one.querySelector(".summary").textContent = row[6];
  // The quotes of the intent, and of the transfer reason or the drop-off location.
  const quotes = one.querySelectorAll("blockquote");
  [row[7], row[9]].forEach((text, place) => {
    quotes[place].textContent = text;
    quotes[place].hidden = !text || (place > 0 && text === row[7]);
  });
  return one;
}

function turn(step) {
  state.first += step;
  show();
  byId("sessions").scrollIntoView();
}

let waiting = 0;
byId("words").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(search, 150);
});
byId("containment").addEventListener("change", search);
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
byId("earlier").addEventListener("click", () => turn(-PAGE));
byId("later").addEventListener("click", () => turn(PAGE));
byId("chosen").addEventListener("click", () => {
  state.kind = state.label = "";
  search();
  byId("words").focus();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-label]");
  if (!link) return;
  state.kind = link.dataset.kind;
  state.label = link.dataset.label;
  search();
});

search();
