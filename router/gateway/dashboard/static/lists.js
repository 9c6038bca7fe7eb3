// The latest requests and windows, tenants, outcomes. A list stands still while somebody is in it:
// nobody can click what moves away.

import { clock, count, make, milliseconds, percent, rough, seconds, setText } from "./format.js";
import { Walk } from "./keys.js";

const MOST_NAMED = 6; // workers of a window that are named
const CLOSED = { worker_free: "free worker", size: "full", wait: "time up" };

export class Lists {
  #explain;
  #open = new Set(); // windows whose requests are shown
  #walks = {
    requests: new Walk(document.querySelector("#requests tbody"), "button"),
    plans: new Walk(document.querySelector("#plans"), "summary"),
  };

  constructor(explain) {
    this.#explain = explain;
  }

  show({ requests, plans, tenants }) {
    update(".requests", () => {
      const rows = requests.map((request) => this.#request(request));
      fill("#requests tbody", rows, 8, "no request has come yet");
      this.#walks.requests.refresh();
    });
    update(".plans", () => {
      const items = plans.map((plan) => this.#plan(plan));
      document.querySelector("#plans").replaceChildren(
        ...(items.length ? items : [make("li", { class: "note" }, "nothing has been planned yet")]),
      );
      this.#walks.plans.refresh();
    });
    const spent = tenants.reduce((sum, row) => sum + (row.slot_s ?? 0), 0);
    fill("#tenants tbody", tenants.map((row) => tenantRow(row, spent)), 6, "no request has ended yet");
  }

  #request(request) {
    const running = request.outcome === "in_flight";
    const expected = request.output_tokens ?? `~${count(Math.round(request.expected_tokens))}`;
    const tokens = request.prompt_tokens ? `${count(request.prompt_tokens)}, ${expected.toLocaleString("en")}` : "–";
    const failed = !running && request.outcome !== "completed";
    const cell = (words, attributes = {}) => make("td", { title: words, ...attributes }, words);
    return make(
      "tr",
      {},
      make("td", {}, clock(request.received_at)),
      make("td", {}, this.#button(request.id)),
      cell(request.tenant || "–"),
      cell(request.worker ?? "–"),
      cell(why(request)),
      make("td", { class: "number" }, tokens),
      make("td", { class: "number" }, running ? "–" : seconds(request.ended_at - request.received_at)),
      make("td", failed ? { class: "bad" } : {}, outcome(request)),
    );
  }

  #button(id) {
    const explain = () => this.#explain(id);
    return make("button", { type: "button", class: "plain", title: id, "data-request": id, onclick: explain }, id);
  }

  #plan(plan) {
    const named = plan.share.slice(0, MOST_NAMED).map(([worker, requests]) => `${worker} ×\u00a0${requests}`);
    const more = plan.share.length - MOST_NAMED;
    if (more > 0) named.push(`${more} more workers`);
    const details = make("details", this.#open.has(plan.number) ? { open: "" } : {});
    details.addEventListener("toggle", () => {
      if (details.open) this.#open.add(plan.number);
      else this.#open.delete(plan.number);
    });
    const requests = plan.requests === 1 ? "1 request" : `${count(plan.requests)} requests`;
    details.append(
      make("summary", {}, `${count(plan.number)}: ${requests} → ${named.join(", ")}`),
      make("ul", { class: "who" }, ...plan.who.map(([id, worker]) => make("li", {}, this.#button(id), ` → ${worker}`))),
    );
    if (plan.requests > plan.who.length) {
      details.append(make("p", { class: "note" }, `and ${count(plan.requests - plan.who.length)} more`));
    }
    const what = `makespan ${seconds(plan.makespan_s)}, bound ${seconds(plan.lower_bound_s)}, gap ${percent(plan.gap_ratio ?? NaN)}`;
    const how = `${clock(plan.at)}: ${CLOSED[plan.closed_by] ?? plan.closed_by} after ${milliseconds(plan.wait_s)}, `
      + `planned ${plan.method === "joint" ? "jointly " : ""}in ${milliseconds(plan.plan_s)}`;
    return make("li", {}, details, make("p", {}, what), make("p", { class: "note" }, how));
  }
}

// Before when on the next best worker: "it would be done ..."
function why({ worker, rival, lead_s }) {
  if (!worker) return "–";
  if (rival === null) return "only there";
  if (Math.abs(lead_s) < 0.0005) return `as good as ${rival}`;
  return lead_s > 0 ? `${seconds(lead_s)} cheaper than ${rival}` : `${rival} had no place`;
}

function outcome({ outcome, worker, kept }) {
  if (outcome === "in_flight" && !worker) return "waiting";
  return outcome === "completed" && kept === false ? "completed, late" : outcome.replaceAll("_", " ");
}

function tenantRow(row, spent) {
  const number = (...values) => make("td", { class: "number", title: values.map(count).join(", ") }, values.map(rough).join(", "));
  return make(
    "tr",
    {},
    make("th", { scope: "row", title: row.tenant }, row.tenant || "(none named)"),
    ...[row.in_flight, row.completed, row.not_completed].map((value) => number(value)),
    number(row.prompt_tokens, row.output_tokens),
    make("td", { class: "number" }, row.slot_s ? `${((100 * row.slot_s) / spent).toFixed(0)} %` : "–"),
  );
}

export function showOutcomes(outcomes) {
  const rows = Object.entries(outcomes).sort(([, a], [, b]) => b - a);
  const body = document.querySelector("#outcomes tbody");
  const key = rows.map(([outcome]) => outcome).join();
  if (body.dataset.key !== key) {
    body.dataset.key = key;
    fill("#outcomes tbody", rows.map(([outcome]) => make(
      "tr", {}, make("th", { scope: "row" }, outcome), make("td", { class: "number", "data-outcome": outcome }),
    )), 2, "no request has ended yet");
  }
  for (const [outcome, number] of rows) setText(body.querySelector(`[data-outcome="${outcome}"]`), count(number));
}

function fill(selector, rows, columns, otherwise) {
  const none = () => make("tr", {}, make("td", { colspan: columns, class: "note" }, otherwise));
  document.querySelector(selector).replaceChildren(...(rows.length ? rows : [none()]));
}

function update(selector, change) {
  const section = document.querySelector(selector);
  const held = section.querySelector("tbody, ol").matches(":hover")
    || section.contains(document.activeElement)
    || document.querySelector("dialog[open]") !== null;
  section.classList.toggle("held", held);
  if (!held || section.dataset.filled === undefined) change();
  section.dataset.filled = "";
}
