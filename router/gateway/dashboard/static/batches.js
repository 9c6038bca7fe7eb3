// Batches that have not ended: how far each is, when it is planned to be done, and when at best.

import { clock, count, make, percent } from "./format.js";

const section = document.querySelector(".batches");
const body = document.querySelector("#batches tbody");

export function showBatches(batches) {
  section.hidden = !batches.length;
  body.replaceChildren(...batches.map(row));
}

function row(batch) {
  const ended = batch.done + batch.failed;
  const cell = (words, attributes = {}) => make("td", attributes, words);
  const label = `${count(ended)} of ${count(batch.total)} lines of ${batch.id}`;
  const bar = make("progress", { "aria-label": label, max: batch.total || 1, value: ended });
  const figures = [`${count(ended)} of ${count(batch.total)}`];
  if (batch.failed) figures.push(`${count(batch.failed)} failed`);
  return make(
    "tr",
    {},
    cell(batch.id, { title: batch.id }),
    cell(batch.tenant || "–"),
    batch.paused ? cell("paused", { class: "bad", title: batch.paused }) : cell(batch.status.replaceAll("_", " ")),
    make("td", {}, bar),
    cell(figures.join(", ")),
    cell(count(batch.running), { class: "number" }),
    cell(clock(batch.planned_finish_at ?? NaN)),
    cell(clock(batch.lower_bound_at ?? NaN)),
    cell(percent(batch.gap_ratio ?? NaN), { class: "number" }),
    cell(clock(batch.expires_at)),
  );
}
