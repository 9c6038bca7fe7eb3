// The table of workers: a lane each, and the figures that /metrics has, too. Of many the first are those
// that are not well and those with most to do; the others are folded until they are asked for.

import { count, make, percent, seconds, setText } from "./format.js";
import { Walk } from "./keys.js";
import { Lane } from "./lane.js";
import { spentSince } from "./use.js";

const FEW = 8; // so many workers show their single slots without being asked
const MOST_OPEN = 8; // the gateway tells no reader of more
const MANY = 12; // from here on rows are low
const SHOWN = 20, SHOWN_SMALL = 8; // rows until all are asked for; on a phone
const MOST_UNWELL = 40; // rows, if those that are not well are more than these
const SORT_EVERY_S = 5; // rows that changed places all the time could not be read
const ALL_OPEN = 440, LEAST_OPEN = 48, MOST_TALL = 224; // CSS pixels: of the open lanes, and of one

export class Fleet {
  #rows = new Map();
  #body = document.querySelector("#fleet tbody");
  #table = document.querySelector("#fleet");
  #axis = document.querySelector("#axis");
  #chosen = false; // somebody has opened or closed a row
  #at = 0;
  #order = []; // names, as the rows are
  #key = ""; // of who is there, and how well
  #sorted_s = -Infinity;
  #all = false; // show all rows
  #small = matchMedia("(max-width: 40rem)");
  #more = document.querySelector("#more");
  #use;
  #want;
  #wanted = "";
  #walk = new Walk(this.#body, "th button");

  // want(names): called with the workers whose single slots are shown; use: their utilization.
  constructor(want, use) {
    this.#want = want;
    this.#use = use;
    this.#small.addEventListener("change", () => this.#fold());
    this.#more.querySelector("button").addEventListener("click", () => {
      this.#all = !this.#all;
      this.#fold();
      this.show();
    });
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
    this.#fold();
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
    this.#table.classList.toggle("all", this.#all && this.#rows.size > SHOWN);
    for (const row of this.#rows.values()) {
      if (row.line.hidden) continue;
      words(row, most, this.#use);
      row.lane.show(this.#at);
    }
    const rows = [...this.#rows.values()];
    legend(rows);
    setText(this.#more.querySelector("span"), this.#folded(rows.filter((row) => row.line.hidden)));
  }

  setSpan(span_s) {
    const ticks = [3, 2, 1, 0].map((part) => (part ? `−${(part * span_s) / 3} s` : "now"));
    this.#axis.replaceChildren(...ticks.map((words) => make("span", {}, words)));
    for (const row of this.#rows.values()) row.lane.span_s = span_s;
    this.span_s = span_s;
    this.repaint();
  }

  repaint() {
    for (const row of this.#rows.values()) if (!row.line.hidden) row.lane.show(this.#at, true);
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
    const reason = make("p", { class: "reason", hidden: "" });
    const number = (label, ...inner) => make("td", { class: "number", "data-label": label }, ...inner);
    const line = make(
      "tr",
      { "data-worker": name },
      make("th", { scope: "row" }, toggle, about),
      make("td", { class: "lane" }, canvas, reason),
      number("running", cells.running),
      number("queued", cells.queued),
      number("backlog", cells.backlog, make("span", { class: "bar" }, bar)),
      number("utilization", cells.utilization),
    );
    const lane = new Lane(canvas);
    lane.span_s = this.span_s;
    const row = { line, toggle, about, cells, bar, lane, canvas, reason };
    toggle.addEventListener("click", () => {
      this.#chosen = true;
      this.#open(row, !lane.open);
      this.#tellWanted();
    });
    this.#rows.set(name, row);
    return row;
  }

  // Few as the gateway lists them, many those first that need to be looked at: now and then, at once where
  // one is no longer as well as it was, and never under somebody's pointer or focus.
  #names(workers) {
    if (workers.length <= FEW) {
      this.#key = "";
      return workers.map(({ name }) => name);
    }
    const there = new Set(workers.map(({ name }) => name));
    const key = workers.map((worker) => `${worker.name} ${need(worker)}`).join("\n");
    const held = this.#body.matches(":hover") || this.#body.contains(document.activeElement);
    const soon = this.#key === key && this.#at - this.#sorted_s < SORT_EVERY_S;
    if (this.#order.length && (held || soon)) {
      const known = this.#order.filter((name) => there.has(name));
      const placed = new Set(known);
      return [...known, ...[...there].filter((name) => !placed.has(name))];
    }
    this.#key = key;
    this.#sorted_s = this.#at;
    return [...workers].sort((a, b) => need(b) - need(a) || load(b) - load(a)).map(({ name }) => name);
  }

  // A row that is in its place is not touched, and keeps the focus.
  #sort(workers) {
    this.#order = this.#names(workers);
    let place = this.#body.firstElementChild;
    let moved = this.#body.childElementCount !== workers.length;
    for (const name of this.#order) {
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

  // The first few, whoever is not well, and what is opened; a row of few more than fit is no fold.
  #fold() {
    const most = this.#small.matches ? SHOWN_SMALL : SHOWN;
    const all = this.#all || this.#order.length <= most + 2;
    let hidden = 0, changed = false;
    this.#order.forEach((name, place) => {
      const { line, lane, worker } = this.#rows.get(name);
      const show = all || place < most || lane.open || (need(worker) > 0 && place < MOST_UNWELL);
      if (!show) hidden += 1;
      if (line.hidden === !show) return;
      line.hidden = lane.hidden = !show;
      changed = true;
      if (show) lane.show(this.#at, true);
    });
    if (changed) this.#walk.refresh();
    this.#more.hidden = !hidden && !(this.#all && this.#order.length > most + 2);
    const button = this.#more.querySelector("button");
    setText(button, hidden ? `Show ${count(hidden)} more workers` : "Show fewer");
    button.setAttribute("aria-expanded", String(!hidden));
  }

  // What those that are not shown do, in short.
  #folded(rows) {
    const workers = rows.map((row) => row.worker);
    if (!workers.length) return "";
    const running = workers.reduce((sum, one) => sum + (one.running ?? one.in_flight), 0);
    const queued = workers.reduce((sum, one) => sum + (one.queued ?? 0), 0);
    return `${count(running)} running and ${count(queued)} queued there, ${percent(this.#use.of(...workers))} utilized`;
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

// How much somebody has to look at it: those that are not well first, the worst of them at the top.
function need(worker) {
  if (!serves(worker)) return 3;
  if (!worker.up || (worker.health ?? "up") !== "up") return 2;
  return worker.draining ? 1 : 0;
}

const load = (worker) => (worker.running === undefined ? worker.in_flight : worker.running + worker.queued) / worker.slots;

function words({ line, toggle, about, cells, bar, lane, canvas, reason, worker }, most, use) {
  const agent = worker.running !== undefined;
  const there = serves(worker);
  const told = (figure) => (there ? figure : "–"); // what was last heard of it is no more so
  line.classList.toggle("down", !there);
  toggle.setAttribute("aria-disabled", String(!lane.open && worker.single_slots !== true));
  const what = there && worker.cache ? `${standing(worker, agent)}, cache ${worker.cache}` : standing(worker, agent);
  setText(about, lane.open ? `${what}\n${drawn(lane, worker)}` : what);
  const unwell = worker.up ? "" : `${standing(worker, agent)}: ${worker.reason || "no reason is known"}`;
  setText(reason, unwell);
  reason.hidden = !unwell;
  about.title = worker.reason ? `${worker.url}: ${worker.reason}` : worker.url;
  const running = `${count(agent ? worker.running : worker.in_flight)} / ${count(worker.slots)}`;
  setText(cells.running, there ? running : standing(worker, agent));
  cells.running.title = KNOWN[worker.slots_known] ?? "";
  setText(cells.queued, told(count(worker.queued)));
  setText(cells.backlog, told(seconds(worker.backlog_s)));
  setText(cells.utilization, told(percent(use.of(worker))));
  cells.utilization.title = sinceStart(worker);
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

// Both shares since its agent's start, in words.
function sinceStart(worker) {
  if (!worker.seconds) return "";
  const none = { seconds: Object.fromEntries(Object.keys(worker.seconds).map((state) => [state, 0])) };
  const { utilization, useful } = spentSince(new Map([[worker.name, none]]), [worker]);
  return `since its start: ${percent(utilization)}; of non-empty slot-time, useful: ${percent(useful)}`;
}
