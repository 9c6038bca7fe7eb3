// The dashboard: joins the gateway's events and the parts of the page.

import { showBatches } from "./batches.js";
import { Charts } from "./charts.js";
import { Explanation } from "./explain.js";
import { Fleet, serves } from "./fleet.js";
import { clock, count, percent, seconds, setText } from "./format.js";
import { Goodput } from "./goodput.js";
import { Lists, showOutcomes } from "./lists.js";
import { onTheme } from "./look.js";
import { Served } from "./served.js";
import { Stream } from "./stream.js";
import { Use } from "./use.js";

const MOST_NAMED = 4; // sources of workers that are named where none is up

const alarm = document.querySelector("#alarm");
const standing = document.querySelector("#status");
const pause = document.querySelector("#pause");
const first = document.querySelector("#first");
const explanation = new Explanation();
const charts = new Charts();
const goodput = new Goodput();
const served = new Served();
const use = new Use();
const lists = new Lists((id) => explanation.open(id));
const fleet = new Fleet((names) => stream.want(names), use);
let frame = null; // the latest
let latestLists = null;
let live = null; // null: never connected
let ended = 0; // requests, when last looked
let busy = -Infinity; // when there was last something going on

const paused = () => pause.getAttribute("aria-pressed") === "true";

const stream = new Stream(
  {
    fleet(data) {
      frame = data;
      use.hear(data);
      fleet.hear(data);
      charts.hear(data);
      goodput.hear(data);
      show();
    },
    slots(report) {
      fleet.hearSlots(report);
      if (!paused()) fleet.showSlots(report.worker);
    },
    lists(data) {
      latestLists = data;
      if (!paused()) showLists();
    },
  },
  (connected) => {
    if (live === connected) return;
    live = connected;
    warn();
  },
);

function showLists() {
  lists.show(latestLists);
  showBatches(latestLists.batches);
  served.hear(latestLists);
  served.show();
}

function show() {
  warn();
  if (paused()) return;
  fleet.show();
  charts.show();
  showOutcomes(frame.outcomes);
  begin();
  const { completed = 0, ...others } = frame.outcomes;
  const figures = {
    running: count(frame.running),
    unsent: count(frame.unsent),
    makespan: seconds(frame.plan?.makespan_s ?? NaN),
    bound: seconds(frame.plan?.lower_bound_s ?? NaN),
    gap: percent(frame.plan?.gap_ratio ?? NaN),
    utilization: percent(use.of(...frame.workers)),
    goodput: percent(goodput.share()),
    completed: count(completed),
    "not-completed": count(total(others)),
  };
  for (const [name, words] of Object.entries(figures)) {
    setText(document.querySelector(`#tiles [data-figure="${name}"]`), words);
  }
}

const total = (outcomes) => Object.values(outcomes).reduce((sum, number) => sum + number, 0);

// While nothing goes on in the time shown: what to send.
function begin() {
  const model = frame.workers.find((worker) => worker.up && worker.models.length)?.models[0];
  if (frame.running > 0 || total(frame.outcomes) !== ended) busy = frame.at;
  ended = total(frame.outcomes);
  first.hidden = !model || frame.at - busy < fleet.span_s;
  if (first.hidden) return;
  const why = ended ? "Nothing is going on. Send a request" : "No request has come yet. Send one";
  setText(first.querySelector("p"), `${why}, and watch where it goes:`);
  const body = JSON.stringify({ model, prompt: "How many clips in all?", max_tokens: 256 }).replaceAll("'", "'\\''");
  const address = new URL("v1/completions", document.baseURI);
  setText(first.querySelector("pre"), `curl -s ${address} -H 'content-type: application/json' -d '${body}'`);
}

// What is wrong, in words, and how the connection stands.
function warn() {
  const up = frame?.workers.filter((worker) => worker.up).length ?? 0;
  let problem = "";
  if (live === false) {
    const since = frame ? `has not answered since ${clock(frame.at)}; what you see is as of then` : "does not answer";
    problem = `The gateway ${since}. Trying again …`;
  } else if (frame && !frame.workers.some(serves)) {
    const none = frame.workers.length ? "" : " None is known.";
    problem = `No worker is up: requests wait, and are then refused with 503.${none} Expected: ${named(frame.expected)}`;
  }
  setText(alarm, problem);
  alarm.hidden = !problem;
  const all = frame?.workers.length;
  const how = live === false || (frame && !up) ? "lost" : frame && up < all ? "partly" : live ? "live" : "";
  standing.className = how;
  const workers = frame ? `${count(up)} of ${count(all)} workers up` : "";
  const words = live === null ? "connecting …" : live ? `${paused() ? "paused" : "live"}, ${workers}` : "not connected";
  setText(standing, words);
}

function named(sources) {
  const more = sources.length - MOST_NAMED;
  return sources.slice(0, MOST_NAMED).join(", ") + (more > 0 ? ` and ${count(more)} more` : "");
}

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(!paused()));
  setText(pause, paused() ? "Go on" : "Pause");
  if (paused() || !frame) return warn();
  fleet.repaint();
  show();
  if (latestLists) showLists();
});
document.querySelector("#window").addEventListener("change", (event) => fleet.setSpan(Number(event.target.value)));
document.querySelector("#find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = new FormData(event.target).get("id").trim();
  if (id) explanation.open(id);
});
onTheme(() => {
  fleet.repaint();
  charts.show();
  served.show();
});
new ResizeObserver(() => served.show()).observe(document.querySelector(".served"));
fleet.setSpan(Number(document.querySelector("#window input:checked").value));
stream.want([]);
