// Why a request went where it went: a dialog over /makespan/v1/requests/{id}.

import { clock, count, figure, make, percent, seconds } from "./format.js";

const MOST = 8; // candidates that are listed
const AGAIN_MS = 1000; // while it runs
const ABOUT = "What each worker would have cost all together, in request-seconds: seconds by which one request ends later, this "
  + "one or another. The parts add up to the cost, and the least decides. Done in: when this request itself was to end.";
// The parts of a cost, in the order in which they are stacked, and what they are.
const PARTS = {
  wait: "until a slot is free",
  prefill: "prefills before it, and its own",
  decode: "its own tokens",
  tail: "more for what is slow",
  others: "taken from who runs there",
  slot: "its slot, from who comes next",
  late: "beyond its targets, eight times",
  makespan: "outlasting the fleet",
};

export class Explanation {
  #dialog = document.querySelector("#explanation");
  #content = this.#dialog.querySelector("[data-content]");
  #timer = 0;

  constructor() {
    this.#dialog.querySelector("[data-close]").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => clearTimeout(this.#timer));
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close(); // beside it
    });
  }

  // Escape closes it, and the focus goes back to where it was.
  open(id) {
    this.#dialog.querySelector("h2").textContent = `Request ${id}`;
    this.#content.replaceChildren(make("p", { class: "note" }, "asking the gateway …"));
    this.#dialog.showModal();
    this.#load(id);
  }

  async #load(id) {
    clearTimeout(this.#timer);
    let told;
    try {
      const answer = await fetch(`makespan/v1/requests/${encodeURIComponent(id)}`);
      told = await answer.json();
      if (!answer.ok) throw new Error(told.error?.message ?? answer.statusText);
    } catch (error) {
      this.#content.replaceChildren(make("p", {}, error instanceof TypeError ? "The gateway does not answer." : error.message));
      return;
    }
    this.#content.replaceChildren(...explanation(told));
    if (told.outcome === "in_flight" && this.#dialog.open) {
      this.#timer = setTimeout(() => this.#load(id), AGAIN_MS);
    }
  }
}

function explanation(request) {
  const { times, choice } = request;
  const since = (at) => (at === null ? "–" : seconds(at - times.received_at));
  const facts = {
    outcome: request.outcome.replaceAll("_", " "),
    worker: request.worker ?? "–",
    came: clock(times.received_at),
    "sent after": since(times.sent_at),
    "first token after": against(request.slo.ttft, since(times.first_token_at)),
    "per token": against(request.slo.tpot, seconds(request.slo.tpot.actual_s ?? NaN)),
    "kept its targets": { true: "yes", false: "no", null: "–" }[request.slo.both.met],
    "ended after": since(times.ended_at),
    "prompt tokens": count(request.prompt_tokens) + (request.cached_tokens ? ` (${count(request.cached_tokens)} cached)` : ""),
    "output tokens": `${count(request.output_tokens ?? NaN)} (expected ${figure(request.expected_tokens)})`,
    model: request.model,
    tenant: request.tenant || "–",
    "tenant's share": share(request.over_share_slot_s),
    priority: request.priority,
    planned: `${count(request.planned)} ×`,
    "taken back": `${count(request.recalled)} ×`,
  };
  if (request.failed_workers.length) facts["failed before"] = request.failed_workers.join(", ");
  const list = make("dl", { class: "facts" });
  for (const [name, value] of Object.entries(facts)) list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  const parts = [list];
  if (request.error) parts.push(make("p", { class: "bad" }, request.error));
  if (choice === null) parts.push(make("p", {}, "It has not been sent to a worker."));
  else parts.push(...reasons(choice), candidates(choice));
  return parts;
}

// Slot-seconds over or under what was its tenant's, of what those had that waited when it was sent.
function share(over) {
  if (over === null || over === undefined) return "no turns were taken";
  return `${figure(Math.abs(over))} slot-s ${over > 0 ? "over" : "under"} it`;
}

// What a user felt of a stream, and what was to be kept.
function against({ target_s, met }, felt) {
  if (target_s === null) return felt;
  const verdict = { true: ", kept", false: ", missed", null: "" }[met];
  return `${felt} (target ${seconds(target_s)}${verdict})`;
}

function reasons(choice) {
  const together = choice.window_requests === 1 ? "alone" : `together with ${count(choice.window_requests - 1)} more`;
  const said = [make("p", {}, `Window ${count(choice.plan)} planned it ${together} (${choice.method.replaceAll("_", " ")}): on `
    + `${choice.chosen} it was to cost ${seconds(choice.cost_s)} all together and be done in ${seconds(choice.predicted_s)}. ${rival(choice)}`)];
  if (choice.actual_s !== null) {
    const off = choice.error_s;
    said.push(make("p", {}, `It took ${seconds(choice.actual_s)}, ${seconds(Math.abs(off))} ${off > 0 ? "longer" : "less"} than predicted.`));
  }
  return said;
}

// A plan is made for all who are in it, and for those who run: not each goes where it would end first.
function rival({ runner_up, runner_up_cost_s, cost_s, runner_up_predicted_s, predicted_s }) {
  if (runner_up === null) return "No other worker could take it.";
  const more = runner_up_cost_s - cost_s;
  const ends = runner_up_predicted_s - predicted_s;
  const when = Math.abs(ends) < 0.0005 ? "as soon" : `${seconds(Math.abs(ends))} ${ends > 0 ? "later" : "sooner"}`;
  if (more >= 0) return `The next best, ${runner_up}, would have cost ${seconds(more)} more; it would have been done ${when} there.`;
  return `${runner_up} would have cost ${seconds(-more)} less, but could not start it at once.`;
}

function candidates(choice) {
  const able = choice.candidates.filter((one) => one.eligible).sort((a, b) => a.cost_s - b.cost_s);
  const shown = able.slice(0, MOST);
  const chosen = able.find((one) => one.chosen);
  if (chosen && !shown.includes(chosen)) shown.push(chosen);
  const longest = Math.max(1e-9, ...shown.map((one) => one.cost_s));
  const mark = (part) => make("i", { class: part });
  const parts = Object.entries(PARTS).map(([part, about]) => [make("i", { class: `part-${part}`, title: about }), part]);
  const heads = [["worker"], ...parts, ["cost"], ["done in"], ["cached tokens"], ["cost, by parts"]];
  const left = choice.candidates.length - shown.length;
  const table = make(
    "div",
    { class: "wide", role: "region", tabindex: "0", "aria-label": "What each worker would have meant" },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...heads.map((head, index) => make("th", { scope: "col", class: index && index < heads.length - 1 ? "number" : null }, ...head)))),
      make("tbody", {}, ...shown.map((one) => candidate(one, longest))),
    ),
  );
  return make(
    "div",
    {},
    make("p", { class: "note" }, ABOUT),
    table,
    left > 0 ? make("p", { class: "note" }, `${count(left)} more workers would have cost more, or could not take it.`) : "",
  );
}

function candidate(one, longest) {
  const number = (words) => make("td", { class: "number" }, words);
  const stack = make("div", { class: "stack", role: "img", "aria-label": `cost ${percent(one.cost_s / longest)} of the dearest` });
  for (const part of Object.keys(PARTS)) {
    const bar = make("span", { class: `part-${part}`, title: `${part}: ${seconds(one.terms_s[part])}` });
    bar.style.width = `${(100 * one.terms_s[part]) / longest}%`;
    stack.append(bar);
  }
  return make(
    "tr",
    one.chosen ? { class: "chosen" } : {},
    make("th", { scope: "row" }, one.worker + (one.chosen ? " (chosen)" : "")),
    ...Object.keys(PARTS).map((part) => number(seconds(one.terms_s[part]))),
    make("td", { class: "number counts" }, seconds(one.cost_s)),
    number(seconds(one.finish_s)),
    number(count(Math.round(one.cached_tokens))),
    make("td", {}, stack),
  );
}
