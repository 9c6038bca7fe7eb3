// One worker's picture: all its slots stacked by state, or slot by slot since they are asked for. Time
// runs to the right.
//
// What has been painted is moved to the left and only what is new is painted; columns of pixels are
// counted from a fixed moment, so that what is painted piece by piece fits together. Of many slots only
// as many get a row as are in use in the time shown; engines fill the lowest first. A slot that was empty
// is left transparent; time that nobody saw is hatched.

import { colours, fit, hatched } from "./look.js";

export const LATE_S = 0.6; // the right edge, behind the latest frame: by then everybody has reported
const KEEP_S = 61;
const MOST_APART_S = 2; // frames further apart say nothing of the time between them
const HOLE_S = 0.1; // the same for reports of single slots, which follow close on each other
const APART = 3; // pixels of a row that can spare one
const SHAPED = 6; // pixels from which on a row shows states by their height, too
const LEAST_SEEN = 2; // pixels in length of a shape that can be seen
const LEAST_ROWS = 8;
const STACK = ["decode", "prefill", "stalled", "paused", "waiting"]; // from the bottom

export class Lane {
  #samples = []; // {from, until, shares} of all slots
  #reports = []; // single slots, as the gateway sends them
  #last = null;
  #right = null; // the column at the right edge
  #fresh = [];
  rows = LEAST_ROWS; // slots that have a row
  span_s = 60;
  open = false;
  hidden = false; // nothing is painted; to be shown anew afterwards

  constructor(canvas) {
    this.canvas = canvas;
    this.paint = canvas.getContext("2d");
  }

  // The worker's line of a frame: what went on since the one before, in shares of its slots.
  hear(worker, at) {
    const sample = worker.seconds ? this.#spent(worker) : this.#counted(worker, at);
    if (!sample || sample.until - sample.from > MOST_APART_S) return;
    this.#add(this.#samples, sample, at);
    if (!this.open && !this.hidden) this.#fresh.push(sample);
  }

  hearSlots(report) {
    if (report.held === null) return;
    const last = this.#reports.at(-1);
    if (!last || report.since - last.until > HOLE_S) this.#right = null; // what all slots did goes before it
    report.used = report.held.reduce((most, [slot]) => Math.max(most, slot + 1), 0);
    this.#add(this.#reports, report, report.until);
    if (this.open) this.#fresh.push(report);
  }

  #spent(worker) {
    const before = this.#last;
    this.#last = worker;
    if (!before?.seconds || worker.heard <= before.heard) return null;
    const spent = {};
    let all = 0;
    for (const [state, value] of Object.entries(worker.seconds)) {
      spent[state] = value - before.seconds[state];
      if (spent[state] < 0) return null; // the agent has begun anew
      all += spent[state];
    }
    if (all <= 0) return null;
    for (const state of Object.keys(spent)) spent[state] /= all;
    return { from: before.heard, until: worker.heard, shares: spent };
  }

  // Without an agent only the requests sent there are known; with one that says nothing, nothing is.
  #counted(worker, at) {
    const before = this.#last;
    this.#last = worker.up && worker.running === undefined ? { at } : null;
    if (!this.#last || before?.at === undefined) return null;
    const share = Math.min(1, worker.in_flight / worker.slots);
    return { from: before.at, until: at, shares: { unknown: share } };
  }

  #add(list, item, at) {
    list.push(item);
    while (list.length && list[0].until < at - KEEP_S) list.shift();
  }

  // The latest shares, for words.
  get now() {
    return this.#samples.at(-1)?.shares ?? null;
  }

  // Paint up to `at`; all of it where the canvas, the span or the way to show it has changed.
  show(at, anew = false) {
    const resized = fit(this.canvas) || this.#grown(at);
    const column = (time) => Math.round((time % 1e6) * (this.canvas.width / this.span_s));
    const right = column(at - LATE_S);
    const shift = this.#right === null ? Infinity : right - this.#right;
    this.#right = right;
    const left = right - this.canvas.width;
    if (anew || resized || shift < 0 || shift >= this.canvas.width) {
      this.#hatch(0, this.canvas.width, left);
      this.#fresh = this.open ? [...this.#samples, ...this.#reports] : [...this.#samples];
    } else if (shift > 0) {
      this.paint.globalCompositeOperation = "copy";
      this.paint.drawImage(this.canvas, -shift, 0);
      this.paint.globalCompositeOperation = "source-over";
      this.#hatch(this.canvas.width - shift, shift, left);
    }
    const scale = { left, whole: column, exact: (time) => (time % 1e6) * (this.canvas.width / this.span_s) };
    for (const item of this.#fresh) {
      if (item.shares) this.#stack(item, scale);
      else this.#slots(item, scale);
    }
    // What lies beyond the right edge is painted when it has come into sight; of what all slots did not
    // where single slots are to be.
    this.#fresh = this.#fresh.filter((item) => column(item.until) > right && !(this.open && item.shares));
  }

  // Until something is painted over it; moved so that what is painted piece by piece fits together.
  #hatch(x, width, left) {
    const { apart, style } = hatched();
    const off = left % apart;
    this.paint.translate(-off, 0);
    this.paint.fillStyle = style;
    this.paint.fillRect(x + off, 0, width, this.canvas.height);
    this.paint.translate(off, 0);
  }

  // Whether there are more or fewer slots to show than there were: a power of two.
  #grown(at) {
    const seen = this.#reports.filter((report) => report.until > at - LATE_S - this.span_s);
    const used = seen.reduce((most, report) => Math.max(most, report.used), LEAST_ROWS);
    const rows = Math.min(2 ** Math.ceil(Math.log2(used)), seen.at(-1)?.slots ?? LEAST_ROWS);
    const changed = rows !== this.rows;
    this.rows = rows;
    return changed && this.open;
  }

  #stack({ from, until, shares }, { left, whole }) {
    const x = whole(from) - left;
    const width = whole(until) - left - x;
    const height = this.canvas.height;
    let top = height;
    this.paint.clearRect(x, 0, width, height);
    for (const state of [...STACK, "unknown"]) {
      const tall = (shares[state] ?? 0) * height;
      if (!tall) continue;
      top -= tall;
      this.paint.fillStyle = colours[state === "unknown" ? "c6" : state];
      this.paint.fillRect(x, top, width, tall);
    }
  }

  #slots({ since, until, held, fills }, { left, whole, exact }) {
    const height = this.canvas.height;
    const tall = height / this.rows;
    const apart = tall >= APART * devicePixelRatio ? 1 : 0; // a fine line between rows
    const shaped = tall >= SHAPED * devicePixelRatio;
    const at = (milliseconds) => since + milliseconds / 1000;
    const paint = (slot, x, width, share) => {
      const top = Math.round(slot * tall);
      const room = Math.round((slot + 1) * tall) - top - apart;
      const high = shaped ? Math.max(1, Math.round(share * room)) : room;
      this.paint.fillRect(x, top + Math.floor((room - high) / 2), width, high);
    };
    this.paint.clearRect(whole(since) - left, 0, whole(until) - whole(since), height);
    this.paint.fillStyle = colours.decode;
    for (const [slot, from, to] of held) {
      const x = whole(at(from)) - left;
      paint(slot, x, Math.max(1, whole(at(to)) - left - x), 0.75);
    }
    for (const [from, to, alone] of fills) {
      if (!alone) continue;
      for (const [slot, since, until] of held) {
        const start = Math.max(from, since), end = Math.min(to, until);
        if (start >= end) continue;
        let x = exact(at(start)) - left, width = exact(at(end)) - left - x;
        const seen = shaped && width >= LEAST_SEEN;
        if (seen) {
          [x, width] = [Math.round(x), Math.round(width)];
          this.paint.clearRect(x, Math.round(slot * tall), width, Math.ceil(tall));
        }
        this.paint.fillStyle = colours.stalled;
        paint(slot, x, width, seen ? 0.4 : 0.75);
      }
    }
    this.paint.fillStyle = colours.prefill; // where requests begin: at least a pixel
    for (const [from, to, , slots] of fills) {
      const x = exact(at(from)) - left;
      const width = Math.max(1, exact(at(to)) - left - x);
      for (const slot of slots) paint(slot, Math.round(x), Math.max(1, Math.round(width)), 1);
    }
  }
}
