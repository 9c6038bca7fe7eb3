// The palette for canvases, and canvases as sharp as the screen.

import { make } from "./format.js";

const NAMES = [
  "prefill", "decode", "stalled", "paused", "waiting", "surface", "plot", "grid", "muted", "bound", "c0", "c1", "c2",
  "c3", "c4", "c5", "c6",
];
const APART = 6; // CSS pixels from one line to the next where nobody saw what went on

export const colours = {};
let hatch = null;

function read() {
  const style = getComputedStyle(document.documentElement);
  for (const name of NAMES) colours[name] = style.getPropertyValue(`--${name}`).trim();
  hatch = null;
}

// What stands for time that nobody saw: a pattern that repeats after `apart` pixels.
export function hatched() {
  const apart = Math.round(APART * devicePixelRatio);
  if (hatch?.apart === apart) return hatch;
  const tile = make("canvas", { width: apart, height: apart });
  const paint = tile.getContext("2d");
  paint.fillStyle = colours.surface;
  paint.fillRect(0, 0, apart, apart);
  paint.strokeStyle = colours.waiting;
  paint.lineWidth = devicePixelRatio;
  paint.beginPath();
  for (const start of [-apart, 0, apart]) {
    paint.moveTo(start, apart);
    paint.lineTo(start + apart, 0);
  }
  paint.stroke();
  hatch = { apart, style: paint.createPattern(tile, "repeat") };
  return hatch;
}

// Whatever is painted must be painted anew when light turns to dark.
export function onTheme(repaint) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    read();
    repaint();
  });
}

read();

// Give a canvas as many pixels as it covers; whether that changed, and so cleared it.
export function fit(canvas) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  const height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (canvas.width === width && canvas.height === height) return false;
  canvas.width = width;
  canvas.height = height;
  return true;
}
