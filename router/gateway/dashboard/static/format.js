// Numbers for people, as the reports write them, and elements in one line.

const NONE = "–";

export function figure(value) {
  if (!Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  const digits = size >= 1000 || size < 0.0005 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export const count = (value) => (Number.isFinite(value) ? value.toLocaleString("en") : NONE);
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
export const rough = (value) => (value < 1e4 ? count(value) : COMPACT.format(value));
export const seconds = (value) => (Number.isFinite(value) ? `${figure(value)} s` : NONE);
export const milliseconds = (value_s) => (value_s < 0.001 ? "< 1 ms" : `${count(Math.round(1000 * value_s))} ms`);
export const percent = (share) =>
  Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : NONE;

const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
export const clock = (at) => (Number.isFinite(at) ? CLOCK.format(new Date(1000 * at)) : NONE);

// make("td", { class: "number" }, "text", child ...): text is never taken for markup.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
