// The dashboard: joins the gateway's events and the parts of the page.

import { Charts } from "./charts.js";
import { Explanation } from "./explain.js";
import { Fleet, utilization } from "./fleet.js";
import { clock, count, percent, seconds, setText } from "./format.js";
import { Lists, showOutcomes } from "./lists.js";
import { onTheme } from "./look.js";
import { Stream } from "./stream.js";

const alarm = document.querySelector("#alarm");
const standing = document.querySelector("#status");
const pause = document.querySelector("#pause");
const first = document.querySelector("#first");
const explanation = new Explanation();
const charts = new Charts();
const lists = new Lists((id) => explanation.open(id));
const fleet = new Fleet((names) => stream.want(names));
let frame = null; // the latest
let latestLists = null;
let live = null; // null: never connected

const paused = () => pause.getAttribute("aria-pressed") === "true";

const stream = new Stream(
  {
    fleet(data) {
      frame = data;
      fleet.hear(data);
      charts.hear(data);
      show();
    },
    slots(report) {
      fleet.hearSlots(report);
      if (!paused()) fleet.showSlots(report.worker);
    },
    lists(data) {
      latestLists = data;
      if (!paused()) lists.show(data);
    },
  },
  (connected) => {
    if (live === connected) return;
    live = connected;
    warn();
  },
);

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
    utilization: percent(utilization(...frame.workers)),
    completed: count(completed),
    "not-completed": count(Object.values(others).reduce((sum, number) => sum + number, 0)),
  };
  for (const [name, words] of Object.entries(figures)) {
    setText(document.querySelector(`#tiles [data-figure="${name}"]`), words);
  }
}

// While nothing has come yet: what to send.
function begin() {
  const model = frame.workers.find((worker) => worker.up && worker.models.length)?.models[0];
  first.hidden = !model || frame.running > 0 || Object.keys(frame.outcomes).length > 0;
  if (first.hidden) return;
  const body = JSON.stringify({ model, prompt: "How many clips in all?", max_tokens: 256 }).replaceAll("'", "'\\''");
  const address = new URL("v1/completions", document.baseURI);
  setText(first.querySelector("pre"), `curl -s ${address} -H 'content-type: application/json' -d '${body}'`);
}

// What is wrong, in words, and how the connection stands.
function warn() {
  const up = frame?.workers.filter((worker) => worker.up).length ?? 0;
  let problem = "";
  if (live === false) {
    const since = frame ? ` since ${clock(frame.at)}; what you see is as of then` : "";
    problem = `The gateway does not answer${since}. Trying again …`;
  } else if (frame && !up) {
    const named = frame.workers.map((worker) => worker.url).slice(0, 4).join(", ");
    problem = `No worker is up: requests are refused with 503. ${frame.workers.length ? `Expected: ${named}` : "None is known."}`;
  }
  setText(alarm, problem);
  alarm.hidden = !problem;
  standing.classList.toggle("live", live === true);
  standing.classList.toggle("lost", live === false);
  const workers = frame ? `${count(up)} of ${count(frame.workers.length)} workers up` : "";
  const words = live === null ? "connecting …" : live ? `${paused() ? "paused" : "live"}, ${workers}` : "not connected";
  setText(standing, words);
}

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(!paused()));
  setText(pause, paused() ? "Go on" : "Pause");
  if (paused() || !frame) return warn();
  fleet.repaint();
  show();
  if (latestLists) lists.show(latestLists);
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
});
fleet.setSpan(Number(document.querySelector("#window input:checked").value));
stream.want([]);
