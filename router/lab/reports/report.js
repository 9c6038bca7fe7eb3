"use strict";

function sortBy(head) {
  const row = head.parentElement;
  const body = head.closest("table").tBodies[0];
  const column = [...row.children].indexOf(head);
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of row.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (line) => line.children[column].dataset.value;
  const compare = (a, b) => {
    const difference = Number(a) - Number(b);
    if (!Number.isNaN(difference)) return up ? difference : -difference;
    if (a === "nan" || b === "nan") return a === b ? 0 : a === "nan" ? 1 : -1; // unknown: last
    return up ? a.localeCompare(b) : b.localeCompare(a);
  };
  const lines = [...body.rows].sort((a, b) => compare(key(a), key(b)));
  body.append(...lines);
}

// A policy is shown or hidden in every chart at once.
function show(box) {
  for (const other of document.querySelectorAll(`input[value="${box.value}"]`)) {
    other.checked = box.checked;
  }
  for (const curve of document.querySelectorAll(`g[data-series="${box.value}"]`)) {
    curve.classList.toggle("off", !box.checked);
  }
}

function showWorkers(workers) {
  for (const chart of document.querySelectorAll("[data-workers]")) {
    chart.hidden = chart.dataset.workers !== workers;
  }
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === workers));
  }
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}
for (const fieldset of document.querySelectorAll("fieldset")) {
  const boxes = [...fieldset.querySelectorAll("input")];
  for (const box of boxes) {
    box.addEventListener("change", () => show(box));
    show(box); // a browser may have kept what was ticked before a reload
  }
  for (const button of fieldset.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      for (const box of boxes) {
        box.checked = button.value === "all" || (button.value === "first" && box.defaultChecked);
        show(box);
      }
    });
  }
}
const choices = [...document.querySelectorAll("[data-show]")];
for (const button of choices) {
  button.addEventListener("click", () => showWorkers(button.dataset.show));
}
if (choices.length) showWorkers(choices[0].dataset.show);
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const part of opened) part.open = true;
});
window.addEventListener("afterprint", () => {
  for (const part of opened) part.open = false;
});
