// The table of workers: a lane each, and the figures that /metrics has, too.

import { count, make, percent, seconds, setText } from "./format.js";
import { Lane } from "./lane.js";

const FEW = 2; // so many workers show their single slots without being asked
const MOST_OPEN = 4;
const MANY = 12; // from here on rows are low

export class Fleet {
  #rows = new Map();
  #body = document.querySelector("#fleet tbody");
  #table = document.querySelector("#fleet");
  #axis = document.querySelector("#axis");
  #chosen = false; // somebody has opened or closed a row
  #at = 0;
  #want;

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
    if (!this.#chosen) this.#openFew();
  }

  hearSlots(report) {
    this.#rows.get(report.worker)?.lane.hearSlots(report);
  }

  show() {
    const most = Math.max(1e-9, ...[...this.#rows.values()].map((row) => row.worker.backlog_s));
    this.#table.classList.toggle("many", this.#rows.size > MANY);
    for (const row of this.#rows.values()) {
      words(row, most);
      row.lane.show(this.#at);
    }
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
    this.#body.append(line);
    return row;
  }

  #openFew() {
    const able = [...this.#rows.values()].filter((row) => row.worker.single_slots);
    const before = this.#opened().length;
    for (const row of able) this.#open(row, this.#rows.size <= FEW);
    if (this.#opened().length !== before) this.#tellWanted();
  }

  #open(row, open) {
    if (row.lane.open === open) return;
    if (open && this.#opened().length >= MOST_OPEN) this.#open(this.#opened()[0], false);
    row.lane.open = open && row.worker.single_slots !== false && row.worker.seconds !== undefined;
    row.line.classList.toggle("open", open);
    row.toggle.setAttribute("aria-expanded", String(open));
    row.lane.show(this.#at, true);
  }

  #opened() {
    return [...this.#rows.values()].filter((row) => row.line.classList.contains("open"));
  }

  #tellWanted() {
    this.#want(this.#opened().map((row) => row.worker.name));
  }
}

function words({ line, about, cells, bar, lane, canvas, worker }, most) {
  const agent = worker.running !== undefined;
  line.classList.toggle("down", !worker.up);
  setText(about, standing(worker, agent));
  about.title = worker.url;
  setText(cells.running, `${count(agent ? worker.running : worker.in_flight)} / ${count(worker.slots)}`);
  setText(cells.queued, count(worker.queued));
  setText(cells.backlog, seconds(worker.backlog_s));
  setText(cells.utilization, percent(utilization(worker)));
  bar.style.width = `${(100 * worker.backlog_s) / most}%`;
  const shares = Object.entries(lane.now ?? {}).filter(([, share]) => share > 0.0005);
  const now = shares.map(([state, share]) => `${percent(share)} ${state}`).join(", ");
  canvas.setAttribute("aria-label", `Slots of ${worker.name} now: ${now || "not known"}`);
}

function standing(worker, agent) {
  if (!worker.up) return "down";
  if (worker.draining) return "draining";
  if (!agent) return "no agent";
  return worker.engine === "emulated" ? `emulated, ${worker.policy}` : worker.policy;
}

// Prefill and decode over all but empty slot-time, since the agent's start.
export function utilization(...workers) {
  const told = workers.filter((worker) => worker.seconds);
  if (!told.length) return workers.length === 1 ? (workers[0].utilization ?? NaN) : NaN;
  const sum = (...states) =>
    told.reduce((all, { seconds }) => all + states.reduce((one, state) => one + seconds[state], 0), 0);
  const busy = sum("prefill", "decode");
  const all = busy + sum("stalled", "waiting");
  return all ? busy / all : 0;
}
