// Figures over the last minutes, as lines. The axis of time grows with what there is to show.

import { make, percent, seconds } from "./format.js";
import { colours, fit } from "./look.js";
import { spentSince } from "./use.js";

const SPANS = [[30, "30 s"], [60, "1 min"], [120, "2 min"], [300, "5 min"]];
const LONGEST_S = SPANS.at(-1)[0];
const DASHES = [[], [5, 3]]; // so that lines are told apart without colours
const MOST_APART_S = 3; // points further apart are not joined: nobody saw what was between them
const LEFT = 42, BOTTOM = 14, TOP = 4; // CSS pixels for the axes' words, at least
const FONT = "11px system-ui, sans-serif";

export class Chart {
  #points = [];

  // series: [{name, colour, words}]; top: the axis's least upper end; tick: its words; apart: seconds
  // beyond which points are not joined.
  constructor(id, series, { top, tick, most = Infinity, apart = MOST_APART_S }) {
    this.canvas = document.getElementById(id);
    this.paint = this.canvas.getContext("2d");
    this.series = series;
    this.top = top;
    this.tick = tick;
    this.most = most;
    this.apart = apart;
    this.legend = this.canvas.parentElement.querySelector(".legend");
    this.values = series.map(() => document.createTextNode("–"));
    this.legend.append(...series.map(({ name, colour }, index) => {
      const mark = make("i", { class: index ? "line dashed" : "line" });
      mark.style.setProperty("--line", `var(--${colour})`);
      return make("li", {}, mark, `${name} `, make("b", {}, this.values[index]));
    }));
  }

  add(at, values) {
    this.#points.push({ at, values });
    while (this.#points[0].at < at - LONGEST_S) this.#points.shift();
  }

  // All that there is, in the place of what there was.
  set(points) {
    this.#points = points;
  }

  show() {
    const last = this.#points.at(-1);
    if (!last) return;
    this.values.forEach((node, index) => { node.data = this.series[index].words(last.values[index]); });
    this.canvas.setAttribute(
      "aria-label",
      this.series.map(({ name, words }, index) => `${name} ${words(last.values[index])}`).join(", "),
    );
    fit(this.canvas);
    const ratio = devicePixelRatio;
    const width = this.canvas.width / ratio, height = this.canvas.height / ratio;
    const high = this.#high();
    const age = last.at - this.#points[0].at;
    const [span, long] = SPANS.find(([seconds]) => age <= seconds) ?? SPANS.at(-1);
    const left = this.#left(high);
    const x = (at) => width - ((last.at - at) / span) * (width - left);
    const y = (value) => height - BOTTOM - (Math.min(value, high) / high) * (height - BOTTOM - TOP);
    this.paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.paint.clearRect(0, 0, width, height);
    this.#axes(left, width, height, high, y, long);
    this.series.forEach((one, index) => this.#line(one, index, x, y));
  }

  #high() {
    const values = this.#points.flatMap((point) => point.values).filter(Number.isFinite);
    const needed = Math.min(this.most, Math.max(this.top, ...values));
    const power = 10 ** Math.floor(Math.log10(needed));
    return [1, 2, 5, 10].map((digit) => digit * power).find((end) => end >= needed * 0.999);
  }

  #left(high) {
    this.paint.font = FONT;
    const words = [0, high / 2, high].map((value) => this.paint.measureText(this.tick(value)).width);
    return Math.max(LEFT, Math.ceil(Math.max(...words)) + 5);
  }

  #axes(left, width, height, high, y, long) {
    const { paint } = this;
    paint.fillStyle = colours.muted;
    paint.strokeStyle = colours.grid;
    paint.lineWidth = 1;
    paint.textAlign = "right";
    for (const value of [0, high / 2, high]) {
      const level = Math.round(y(value)) + 0.5;
      paint.beginPath();
      paint.moveTo(left, level);
      paint.lineTo(width, level);
      paint.stroke();
      paint.fillText(this.tick(value), left - 5, level + (value ? 7 : 3));
    }
    paint.textAlign = "left";
    paint.fillText(`−${long}`, left, height - 1);
    paint.textAlign = "right";
    paint.fillText("now", width, height - 1);
  }

  #line({ colour }, index, x, y) {
    const { paint } = this;
    paint.strokeStyle = colours[colour];
    paint.lineWidth = 1.5;
    paint.lineJoin = "round";
    paint.setLineDash(DASHES[index]);
    paint.beginPath();
    let before = -Infinity;
    for (const { at, values } of this.#points) {
      const value = values[index];
      if (!Number.isFinite(value)) {
        before = -Infinity;
        continue;
      }
      if (at - before <= this.apart) paint.lineTo(x(at), y(value));
      else paint.moveTo(x(at), y(value));
      before = at;
    }
    paint.stroke();
    paint.setLineDash([]);
  }
}

export class Charts {
  #before = new Map(); // by worker, its line of a second ago
  #since = 0;

  constructor() {
    const share = (value) => `${Math.round(100 * value)} %`;
    this.use = new Chart(
      "use",
      [{ name: "of all slots", colour: "c0", words: percent }, { name: "useful of non-empty", colour: "c6", words: percent }],
      { top: 1, tick: share, most: 1 },
    );
    this.gap = new Chart("gap", [{ name: "latest plan", colour: "bound", words: percent }], {
      top: 0.01, tick: (value) => `${Number((100 * value).toPrecision(2))} %`,
    });
    this.backlog = new Chart(
      "backlog",
      [{ name: "longest", colour: "c1", words: seconds }, { name: "shortest", colour: "c2", words: seconds }],
      { top: 0.1, tick: (value) => `${Number(value.toPrecision(2))} s` },
    );
    this.all = [this.use, this.gap, this.backlog];
  }

  hear(frame) {
    if (frame.at - this.#since < 1) return;
    this.#since = frame.at;
    this.use.add(frame.at, this.#use(frame.workers));
    this.gap.add(frame.at, [frame.plan?.gap_ratio ?? NaN]);
    const backlogs = frame.workers.filter((worker) => worker.up).map((worker) => worker.backlog_s);
    this.backlog.add(frame.at, backlogs.length ? [Math.max(...backlogs), Math.min(...backlogs)] : [NaN, NaN]);
  }

  // Utilization since the last call, and the useful share; NaN where there was nothing to share.
  #use(workers) {
    const { all, utilization, useful } = spentSince(this.#before, workers);
    this.#before = new Map(workers.map((worker) => [worker.name, worker])); // of nobody who has gone
    return all ? [utilization, useful] : [NaN, NaN];
  }

  show() {
    for (const chart of this.all) chart.show();
  }
}
