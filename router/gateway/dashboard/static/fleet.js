// The table of workers: a lane each, and the figures that /metrics has, too.

import { count, make, percent, seconds, setText } from "./format.js";
import { Walk } from "./keys.js";
import { Lane } from "./lane.js";

const FEW = 8; // so many workers show their single slots without being asked
const MOST_OPEN = 8; // the gateway tells no reader of more
const MANY = 12; // from here on rows are low
const ALL_OPEN = 440, LEAST_OPEN = 48, MOST_TALL = 224; // CSS pixels: of the open lanes, and of one

export class Fleet {
  #rows = new Map();
  #body = document.querySelector("#fleet tbody");
  #table = document.querySelector("#fleet");
  #axis = document.querySelector("#axis");
  #chosen = false; // somebody has opened or closed a row
  #at = 0;
  #want;
  #wanted = "";
  #walk = new Walk(this.#body, "th button");

  // want(names): called with the workers whose single slots are shown.
  constructor(want) {
    this.#want = want;
    new ResizeObserver(() => this.repaint()).observe(this.#table);
  }

  hear(frame) {
    this.#at = frame.at;
    for (const worker of frame.workers) {
      const row = this.#rows.get(worker.name) ?? this.#add(worker.name);
      row.worker = worker;
      row.lane.hear(worker, frame.at);
    }
    const names = new Set(frame.workers.map((worker) => worker.name));
    for (const [name, row] of this.#rows) {
      if (names.has(name)) continue;
      row.line.remove();
      this.#rows.delete(name);
    }
    this.#sort(frame.workers);
    if (!this.#chosen) this.#openFew();
    this.#tellWanted();
  }

  hearSlots(report) {
    this.#rows.get(report.worker)?.lane.hearSlots(report);
  }

  // They come after their frame, and are not to wait for the next.
  showSlots(name) {
    this.#rows.get(name)?.lane.show(this.#at);
  }

  show() {
    const up = [...this.#rows.values()].filter((row) => row.worker.up);
    const most = Math.max(1e-9, ...up.map((row) => row.worker.backlog_s));
    const tall = Math.max(LEAST_OPEN, ALL_OPEN / Math.max(1, this.#opened().length));
    this.#table.style.setProperty("--tall", `${Math.min(MOST_TALL, Math.round(tall))}px`);
    this.#table.classList.toggle("many", this.#rows.size > MANY);
    for (const row of this.#rows.values()) {
      words(row, most);
      row.lane.show(this.#at);
    }
    legend([...this.#rows.values()]);
  }

  setSpan(span_s) {
    const ticks = [3, 2, 1, 0].map((part) => (part ? `−${(part * span_s) / 3} s` : "now"));
    this.#axis.replaceChildren(...ticks.map((words) => make("span", {}, words)));
    for (const row of this.#rows.values()) row.lane.span_s = span_s;
    this.span_s = span_s;
    this.repaint();
  }

  repaint() {
    for (const row of this.#rows.values()) row.lane.show(this.#at, true);
  }

  #add(name) {
    const canvas = make("canvas", { role: "img" });
    const toggle = make("button", { type: "button", class: "plain", "aria-expanded": "false", title: name }, name);
    const about = make("span", { class: "about" });
    const cells = {};
    for (const kind of ["running", "queued", "backlog", "utilization"]) {
      cells[kind] = make("span", { "data-figure": kind });
    }
    const bar = make("span");
    const line = make(
      "tr",
      { "data-worker": name },
      make("th", { scope: "row" }, toggle, about),
      make("td", { class: "lane" }, canvas),
      make("td", { class: "number" }, cells.running),
      make("td", { class: "number" }, cells.queued),
      make("td", { class: "number" }, cells.backlog, make("span", { class: "bar" }, bar)),
      make("td", { class: "number" }, cells.utilization),
    );
    const lane = new Lane(canvas);
    lane.span_s = this.span_s;
    const row = { line, toggle, about, cells, bar, lane, canvas };
    toggle.addEventListener("click", () => {
      this.#chosen = true;
      this.#open(row, !lane.open);
      this.#tellWanted();
    });
    this.#rows.set(name, row);
    return row;
  }

  // As the gateway lists them; a row that is in its place is not touched, and keeps the focus.
  #sort(workers) {
    let place = this.#body.firstElementChild;
    let moved = this.#body.childElementCount !== workers.length;
    for (const { name } of workers) {
      const { line } = this.#rows.get(name);
      if (line === place) {
        place = place.nextElementSibling;
        continue;
      }
      this.#body.insertBefore(line, place);
      moved = true;
    }
    if (moved) this.#walk.refresh();
  }

  #openFew() {
    const few = this.#rows.size <= FEW;
    for (const row of this.#rows.values()) this.#open(row, few);
  }

  #open(row, open) {
    if (row.lane.open === open || (open && row.worker.single_slots !== true)) return;
    if (open && this.#opened().length >= MOST_OPEN) this.#open(this.#opened()[0], false);
    row.lane.open = open;
    row.line.classList.toggle("open", open);
    row.toggle.setAttribute("aria-expanded", String(open));
    row.lane.show(this.#at, true);
  }

  #opened() {
    return [...this.#rows.values()].filter((row) => row.lane.open);
  }

  #tellWanted() {
    const names = this.#opened().map((row) => row.worker.name);
    if (names.join("\n") === this.#wanted) return;
    this.#wanted = names.join("\n");
    this.#want(names);
  }
}

// How it is known how many slots a worker has; its agent knows.
const KNOWN = {
  set: "its slots: as set",
  engine: "its slots: by its engine's metrics",
  learnt: "its slots: learnt from first tokens",
  assumed: "its slots: assumed",
};

// Whether it gets requests, be it as the last resort: suspect and ejected workers have work, too.
export const serves = (worker) => worker.up || !["down", undefined].includes(worker.health);

function words({ line, toggle, about, cells, bar, lane, canvas, worker }, most) {
  const agent = worker.running !== undefined;
  const there = serves(worker);
  const told = (figure) => (there ? figure : "–"); // what was last heard of it is no more so
  line.classList.toggle("down", !there);
  toggle.setAttribute("aria-disabled", String(!lane.open && worker.single_slots !== true));
  setText(about, lane.open ? `${standing(worker, agent)}\n${drawn(lane, worker)}` : standing(worker, agent));
  about.title = worker.reason ? `${worker.url}: ${worker.reason}` : worker.url;
  const running = `${count(agent ? worker.running : worker.in_flight)} / ${count(worker.slots)}`;
  setText(cells.running, there ? running : "down");
  cells.running.title = KNOWN[worker.slots_known] ?? "";
  setText(cells.queued, told(count(worker.queued)));
  setText(cells.backlog, told(seconds(worker.backlog_s)));
  setText(cells.utilization, told(percent(utilization(worker))));
  bar.style.width = there ? `${(100 * worker.backlog_s) / most}%` : 0;
  const shares = Object.entries((worker.up && lane.now) || {}).filter(([, share]) => share > 0.0005);
  const now = shares.map(([state, share]) => `${percent(share)} ${state}`).join(", ");
  canvas.setAttribute("aria-label", `Slots of ${worker.name} now: ${now || "not known"}`);
  canvas.title = now;
}

const drawn = (lane, worker) =>
  lane.rows < worker.slots ? `${lane.rows} of ${count(worker.slots)} slots` : `${count(worker.slots)} slots`;

// What all slots together did last, beside the colours' names.
function legend(rows) {
  const told = rows.filter((row) => row.worker.up && row.lane.now && row.worker.seconds);
  const slots = told.reduce((sum, row) => sum + row.worker.slots, 0);
  for (const place of document.querySelectorAll("#shares [data-share]")) {
    const share = told.reduce((sum, { lane, worker }) => sum + (lane.now[place.dataset.share] ?? 0) * worker.slots, 0);
    setText(place, slots ? percent(share / slots) : "");
  }
  document.querySelector("#shares [data-agentless]").hidden = rows.every((row) => row.lane.now?.unknown === undefined);
}

function standing(worker, agent) {
  if (!worker.up) return worker.health ?? "down";
  if (worker.draining) return "draining";
  if (!agent) return "no agent";
  return worker.engine === "emulated" ? `emulated, ${worker.policy}` : worker.policy;
}

// Prefill and decode over all but empty slot-time, since the agent's start.
export function utilization(...workers) {
  const told = workers.filter((worker) => worker.seconds);
  if (!told.length) return workers.length === 1 ? (workers[0].utilization ?? NaN) : NaN;
  const sum = (...states) =>
    told.reduce((all, { seconds }) => all + states.reduce((one, state) => one + (seconds[state] ?? 0), 0), 0);
  const busy = sum("prefill", "decode");
  const all = busy + sum("stalled", "paused", "waiting");
  return all ? busy / all : 0;
}
