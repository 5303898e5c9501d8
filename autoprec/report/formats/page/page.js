"use strict";
// A number is what a cell begins with; what has none comes last, whichever way it is sorted.
const value = (row, column) => {
  const text = row.cells[column].textContent;
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) =>
  typeof a === typeof b
    ? typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true })
    : 0;
const missing = (it) => it === "-" || it === "";
document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (!button) return;
  const head = button.parentElement;
  const body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const keyed = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
  const numeric = keyed.some(([key]) => typeof key === "number");
  const last = (key) => missing(key) || (numeric && typeof key !== "number");
  keyed.sort(([a], [b]) => last(a) - last(b) || (up ? compare(a, b) : compare(b, a)));
  body.append(...keyed.map(([, row]) => row));
});
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const it of opened) it.open = true;
});
addEventListener("afterprint", () => {
  for (const it of opened) it.open = false;
});
