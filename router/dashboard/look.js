// The palette for canvases, and canvases as sharp as the screen.

const NAMES = ["prefill", "decode", "stalled", "waiting", "plot", "grid", "muted", "bound", "c0", "c1", "c2", "c6"];

export const colours = {};

function read() {
  const style = getComputedStyle(document.documentElement);
  for (const name of NAMES) colours[name] = style.getPropertyValue(`--${name}`).trim();
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
