"""Parts of a picture: escaped elements, scales, ticks, axes.

A picture stands alone, as a file or in a page: its style is inside it and holds for class ``mk``
only. It paints its own background, since whoever shows it may be dark where the reader is light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from xml.sax.saxutils import escape, quoteattr

from router.look.palette import COLOURS, DASHES, FONT, theme

STYLE = (
    theme(".mk")
    + f".mk text{{font:12px {FONT};fill:var(--ink)}}"
    + ".mk .title{font-size:15px;font-weight:600}.mk .note,.mk .tick{fill:var(--muted)}"
    + ".mk .tick{font-size:11px}.mk .end{text-anchor:end}.mk .middle{text-anchor:middle}"
    + ".mk .surface{fill:var(--surface)}.mk .plot{fill:var(--plot)}"
    + ".mk .grid{stroke:var(--grid);fill:none}.mk .axis{stroke:var(--muted);fill:none}"
    + ".mk .halo{stroke:var(--surface);stroke-width:4;opacity:.8}"
    + ".mk .done{stroke:var(--ink);stroke-width:1.5}.mk .mean{stroke:var(--ink);stroke-width:3}"
    + ".mk .bound{stroke:var(--bound);stroke-width:1.5;stroke-dasharray:5 3;fill:none}"
    + ".mk text.bound{fill:var(--bound);stroke:none}"
    + "".join(
        f".mk .{state}{{fill:var(--{state})}}"
        for state in ("prefill", "decode", "stalled", "waiting")
    )
    + "".join(
        f".mk .c{i}{{stroke:var(--c{i});fill:none;stroke-width:2;stroke-linejoin:round}}"
        f".mk .f{i}{{fill:var(--c{i})}}"
        for i in range(COLOURS)
    )
    + ".mk .off{display:none}"
)


def element(tag: str, *children: str, **attributes: object) -> str:
    """One element; attributes are escaped, children are markup. ``class_`` is class, x_y is x-y."""
    shown = "".join(
        f" {name.strip('_').replace('_', '-')}={quoteattr(number(value))}"
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{shown}>{''.join(children)}</{tag}>" if children else f"<{tag}{shown}/>"


def number(value: object) -> str:
    """A float to a hundredth of a pixel, anything else as it is."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def text(x: float, y: float, words: str, kind: str = "", **attributes: object) -> str:
    """A line of text with its baseline at y."""
    return element("text", escape(words), x=x, y=y, class_=kind or None, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A rectangle."""
    return element("rect", x=x, y=y, width=width, height=height, class_=kind)


def picture(width: float, height: float, title: str, description: str, *parts: str) -> str:
    """A whole SVG file; title and description are for who cannot see it."""
    return element(
        "svg",
        element("title", escape(title)),
        element("desc", escape(description)),
        element("style", STYLE),
        element("rect", width=width, height=height, rx=6, class_="surface"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        class_="mk",
        role="img",
        aria_label=title,
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = log10(max(value, self.low) / self.low) / log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """About `count` round values within the range."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`."""
    step = _step((high - low) / count)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade from `low` to `high`; of many decades only the 1."""
    first, last = floor(log10(low)), ceil(log10(high))
    digits = (1, 2, 5) if last - first <= 3 else (1,)
    values = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def _step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * 0.999)


def rounded_up(high: float, count: int = 6) -> float:
    """The end of an axis from 0 on which `high` has room."""
    step = _step(high / count)
    return ceil(high / step - 1e-9) * step


def width_of(words: str) -> float:
    """About how many pixels words take at 12 px; no font can be measured here."""
    return sum(3.8 if c in NARROW else 10.5 if c in WIDE else 7.0 for c in words)


NARROW, WIDE = frozenset(" .,:;'|!()[]iljtfr1/-"), frozenset("mwMW%@")


def figure(value: float) -> str:
    """A number for people, to about four digits, thousands apart."""
    if not isfinite(value):
        return "\N{EN DASH}"
    size = abs(value)
    digits = 0 if size >= 1000 or value == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:,.1f}\N{NO-BREAK SPACE}%" if isfinite(share) else "\N{EN DASH}"


def tick_label(value: float) -> str:
    """A tick as short as it is exact."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6f}".rstrip("0")


def x_axis(scale: Scale, top: float, bottom: float, label: str, at: Sequence[float] = ()) -> str:
    """Ticks, faint lines and a label under a plot; ticks `at` given places or at round ones."""
    parts = [line(scale.start, bottom, scale.end, bottom, "axis")]
    right = -1e9  # where the last tick's label ends; one that would touch it is left out
    for value in at or scale.ticks():
        x, words = scale(value), tick_label(value)
        parts.append(line(x, top, x, bottom, "grid"))
        half = width_of(words) / 2
        if x - half > right + 4:
            parts.append(text(x, bottom + 15, words, "tick middle"))
            right = x + half
    parts.append(text((scale.start + scale.end) / 2, bottom + 33, label, "note middle"))
    return "".join(parts)


def y_axis(scale: Scale, left: float, right: float, label: str) -> str:
    """Ticks, faint lines and an upright label left of a plot."""
    parts = []
    for value in scale.ticks():
        y = scale(value)
        parts.append(line(left, y, right, y, "grid"))
        parts.append(text(left - 6, y + 4, tick_label(value), "tick end"))
    middle = (scale.start + scale.end) / 2
    turned = f"rotate(-90 14 {number(middle)})"
    parts.append(text(14, middle + 4, label, "note middle", transform=turned))
    return "".join(parts)


def legend(entries: Sequence[tuple[str, str]], x: float, y: float, width: float) -> list[str]:
    """Rows of (16 by 10 mark, words), wrapped to `width`; one group a row, `ROW` pixels each."""
    rows: list[list[str]] = [[]]
    at = x
    for mark, words in entries:
        needs = 22 + width_of(words) + 18
        if rows[-1] and at + needs > x + width:
            rows.append([])
            at = x
        top = y + ROW * (len(rows) - 1)
        place = f"translate({number(at)} {number(top)})"
        rows[-1].append(element("g", mark, text(22, 9, words, "note"), transform=place))
        at += needs
    return [element("g", *row) for row in rows]


ROW = 20


def pen_mark(index: int) -> str:
    """A stretch of the line of a series, for a legend."""
    colour, dash = pen(index)
    return element("path", d="M0 5h16", class_=f"c{colour}", stroke_dasharray=dash or None)


def pen(index: int) -> tuple[int, str]:
    """Colour and dashes of a series; the first few differ by colour alone."""
    return index % COLOURS, DASHES[index // COLOURS % len(DASHES)]
