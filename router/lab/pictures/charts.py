"""Charts of a report as SVG: curves with a legend, and bars against a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from router.lab.pictures.svg import (
    ROW,
    Scale,
    box,
    element,
    figure,
    legend,
    line,
    number,
    pen,
    pen_mark,
    picture,
    rounded_up,
    text,
    width_of,
    x_axis,
    y_axis,
)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A curve.

    Attributes:
        name: its words in the legend and in tooltips.
        points: x and y, x rising.
        pen: which colour and dashes; by its place among the series if not said.
        key: what a page may switch it on and off by (``data-series``).
        shown: whether it shows before anyone switched it.
        marked: with a dot at each point that tells its values.
        bound: drawn dashed in the colour of bounds.
        ring: a point to be seen at once, drawn with a line down to its x.
    """

    name: str
    points: Sequence[Point]
    pen: int | None = None
    key: str | None = None
    shown: bool = True
    marked: bool = False
    bound: bool = False
    ring: Point | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its own bound, if it has one."""

    name: str
    value: float
    bound: float | None = None


def lines_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[float] = (),
    with_legend: bool = True,
    level: float | None = None,
    width: float = 620.0,
) -> str:
    """Curves over a common pair of axes; y begins at 0, unless it is logarithmic.

    A logarithmic axis begins at the least positive value, and shows points at 0 or less there.
    `level` is a y that a line is drawn at.

    Raises:
        ValueError: no series, or one without points.
    """
    points = [point for one in series for point in one.points]
    if not points or not all(one.points for one in series):
        raise ValueError(f"chart {title!r}: there are no series, or one has no points")
    inks = [index if one.pen is None else one.pen for index, one in enumerate(series)]
    entries = [(_mark(one, ink), one.name) for one, ink in zip(series, inks, strict=True)]
    keys = legend(entries, LEFT, 42, width - LEFT - RIGHT) if with_legend else []
    top, bottom = 50.0 + ROW * len(keys), HEIGHT - 46
    x = _x_scale(x_ticks or [at for at, _ in points], width, log=log_x, exact=bool(x_ticks))
    y = _y_scale([value for _, value in points], bottom, top, log=log_y)
    curves = [_curve(one, ink, x, y) for one, ink in zip(series, inks, strict=True)]
    return picture(
        width,
        HEIGHT,
        title,
        f"{y_label} over {x_label}: " + ", ".join(one.name for one in series) + ".",
        text(LEFT, 26, title, "title"),
        *keys,
        x_axis(x, top, bottom, x_label, x_ticks),
        y_axis(y, LEFT, width - RIGHT, y_label),
        line(LEFT, y(level), width - RIGHT, y(level), "axis") if level is not None else "",
        *curves,
    )


LEFT, RIGHT, HEIGHT = 66.0, 22.0, 380.0


def _x_scale(values: Sequence[float], width: float, *, log: bool, exact: bool) -> Scale:
    """From the least to the greatest, or from 0 to a round number."""
    low, high = min(values), max(values)
    if log:
        low = min((value for value in values if value > 0), default=1.0)
        return Scale(low, max(high, low * 1.01), LEFT, width - RIGHT, log=True)
    if exact:
        return Scale(low, max(high, low + 1.0), LEFT, width - RIGHT)
    return Scale(min(low, 0.0), rounded_up(high or 1.0, 10), LEFT, width - RIGHT)


def _y_scale(values: Sequence[float], bottom: float, top: float, *, log: bool) -> Scale:
    high = max(values)
    if log:
        low = min((value for value in values if value > 0), default=1.0)
        return Scale(low / 1.1, max(high, low) * 1.1, bottom, top, log=True)
    return Scale(0.0, rounded_up(high or 1.0, 5), bottom, top)


def _mark(one: Series, ink: int) -> str:
    return element("path", d="M0 5h16", class_="bound") if one.bound else pen_mark(ink)


def _curve(one: Series, ink: int, x: Scale, y: Scale) -> str:
    """The line of a series and, where marked, a dot with its values at each point."""
    colour, dash = pen(ink)
    places = [(x(at), y(value)) for at, value in one.points]
    path = "M" + "L".join(f"{number(across)} {number(down)}" for across, down in places)
    kind = "bound" if one.bound else f"c{colour}"
    parts = [element("path", d=path, class_=kind, stroke_dasharray=dash or None)]
    if one.marked:
        for (at, value), (across, down) in zip(one.points, places, strict=True):
            tooltip = element("title", escape(f"{one.name}: {figure(value)} at {figure(at)}"))
            parts.append(element("circle", tooltip, cx=across, cy=down, r=3.5, class_=f"f{colour}"))
    if one.ring is not None:
        parts.append(_ring(one.ring, kind, x, y))
    hidden = None if one.shown else "off"
    return element("g", *parts, data_series=one.key, class_=hidden)


def _ring(at: Point, kind: str, x: Scale, y: Scale) -> str:
    across, down = x(at[0]), y(at[1])
    path = f"M{number(across)} {number(down)}V{number(y.start)}"
    drop = element("path", d=path, class_=kind, stroke_dasharray="1 3")
    return drop + element("circle", cx=across, cy=down, r=7.0, class_=kind)


def bars(
    rows: Sequence[Bar],
    *,
    x_label: str,
    title: str,
    width: float = 620.0,
) -> str:
    """Horizontal bars from 0 with their values, each with a mark at its bound.

    Raises:
        ValueError: no bars.
    """
    if not rows:
        raise ValueError(f"chart {title!r}: there are no bars")
    top, pitch = 62.0, 28.0
    left = min(max(width_of(row.name) for row in rows) + 20, width / 2)
    bottom = top + pitch * len(rows)
    high = max(max(row.value, row.bound or 0.0) for row in rows)
    x = Scale(0.0, rounded_up(high or 1.0), left, width - RIGHT - 40)
    key = legend([(element("path", d="M8 -1v12", class_="bound"), "lower bound")], left, 38, width)
    return picture(
        width,
        bottom + 46,
        title,
        f"{x_label}: " + "; ".join(f"{row.name} {figure(row.value)}" for row in rows) + ".",
        text(left, 26, title, "title"),
        *(key if any(row.bound for row in rows) else ()),
        x_axis(x, top, bottom, x_label),
        *(_bar(row, x, top + pitch * index, pitch) for index, row in enumerate(rows)),
    )


def _bar(row: Bar, x: Scale, top: float, pitch: float) -> str:
    middle = top + pitch / 2
    end = x(max(row.value, row.bound or 0.0))
    parts = [
        text(x.start - 8, middle + 4, row.name, "end"),
        box(x.start, top + 5, x(row.value) - x.start, pitch - 10, "f0"),
        text(end + 6, middle + 4, figure(row.value), "note"),
    ]
    if row.bound:
        at = x(row.bound)
        parts += [line(at, top + 2, at, top + pitch - 2, kind) for kind in ("halo", "bound")]
    return "".join(parts)
