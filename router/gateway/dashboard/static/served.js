// The first row: what was served over the last minutes, as the gateway counts it; and tenants' shares.

import { figure, make, percent, rough, seconds, setText } from "./format.js";
import { Chart } from "./charts.js";
import { colours, fit } from "./look.js";

const APART_S = 12; // points are five seconds apart
const PENS = ["c0", "c1", "c2", "c3", "c4", "c5", "c6"];

export class Served {
  constructor() {
    const rate = (value) => (value >= 100 ? rough(Math.round(value)) : value > 0 && value < 1 ? value.toFixed(2) : figure(value));
    const quantiles = (colour) => [{ name: "p50", colour, words: seconds }, { name: "p99", colour, words: seconds }];
    const short = (value) => `${Number(value.toPrecision(2))} s`;
    const counts = { top: 1, tick: (value) => rough(Number(value.toPrecision(2))), apart: APART_S };
    const times = { top: 0.1, tick: short, apart: APART_S };
    this.charts = [
      new Chart("rate", [{ name: "completed", colour: "c2", words: rate }, { name: "not", colour: "bound", words: rate }], counts),
      new Chart("tokens", [{ name: "tokens/s", colour: "c0", words: rate }], counts),
      new Chart("ttft", quantiles("c1"), times),
      new Chart("e2e", quantiles("c3"), times),
    ];
    this.shares = new Shares();
  }

  hear({ served = [], shares = null }) {
    const of = (...columns) => served.map((row) => ({ at: row[0], values: columns.map((one) => row[one] ?? NaN) }));
    [of(1, 2), of(3), of(4, 5), of(6, 7)].forEach((points, index) => this.charts[index].set(points));
    this.shares.hear(shares);
  }

  show() {
    for (const one of [...this.charts, this.shares]) one.show();
  }
}

// Whose the engine time was, one upon the other, while there are several tenants.
class Shares {
  #told = null;
  #place = document.querySelector("#tenant-shares");
  #canvas = document.querySelector("#shared");
  #legend = document.querySelector("#tenant-shares .legend");

  hear(told) {
    this.#told = told;
    this.#place.hidden = told === null;
    if (told === null) return;
    const key = told.tenants.join("\n");
    if (this.#legend.dataset.key === key) return;
    this.#legend.dataset.key = key;
    this.#legend.replaceChildren(...told.tenants.map((tenant, index) => {
      const mark = make("i");
      mark.style.setProperty("background", `var(--${PENS[index]})`);
      return make("li", { title: tenant }, mark, make("span", {}, tenant || "(none named)"), make("b", { "data-tenant": tenant }, "–"));
    }));
  }

  show() {
    if (this.#told === null) return;
    const { tenants, rows } = this.#told;
    const last = rows.at(-1) ?? [0];
    const words = tenants.map((_, index) => percent(last[index + 1] ?? NaN));
    [...this.#legend.querySelectorAll("b")].forEach((place, index) => setText(place, words[index]));
    this.#canvas.setAttribute("aria-label", tenants.map((tenant, index) => `${tenant || "(none named)"} ${words[index]}`).join(", "));
    fit(this.#canvas);
    const paint = this.#canvas.getContext("2d");
    const { width, height } = this.#canvas;
    paint.clearRect(0, 0, width, height);
    if (rows.length < 2) return;
    const x = (at) => ((at - rows[0][0]) / (last[0] - rows[0][0])) * width;
    const edge = (row, many) => height * (1 - row.slice(1, many + 1).reduce((sum, part) => sum + part, 0));
    for (let at = 1; at < rows.length; at++) {
      const [one, other] = [rows[at - 1], rows[at]];
      if (edge(one, tenants.length) > 0.5 * height || edge(other, tenants.length) > 0.5 * height) continue; // nobody's
      tenants.forEach((_, index) => {
        paint.fillStyle = colours[PENS[index]];
        paint.beginPath();
        paint.moveTo(x(one[0]), edge(one, index));
        paint.lineTo(x(other[0]) + 1, edge(other, index)); // no seam
        paint.lineTo(x(other[0]) + 1, edge(other, index + 1));
        paint.lineTo(x(one[0]), edge(one, index + 1));
        paint.fill();
      });
    }
  }
}
