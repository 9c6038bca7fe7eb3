"""Small multiples of verdicts as SVG: a chart a figure, a row a rival, a dot a situation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from router.lab.judging.situations import LOADS, load_name
from router.lab.judging.verdict import GOODPUT, Case, Verdict, words
from router.lab.pictures.svg import Scale, element, line, picture, text, x_axis

WIDTH, LEFT, RIGHT, TOP, PITCH, BOTTOM = 600.0, 222.0, 22.0, 62.0, 22.0, 46.0
# Dots beyond lie on the edge: one hopeless rival must not squeeze the others together.
RATIOS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
POINTS = (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0)
# Dots of each load lie a little lower than those of the one before, or they would hide each other.
LOWER = 2.6
COLOURS = (5, 0, 2, 1, 3)  # of the loads, from cold to hot


def strip(figure: str, verdicts: Mapping[str, Verdict]) -> str:
    """How ours compares in one figure with each rival: every situation, and the mean."""
    points = figure == GOODPUT
    at = POINTS if points else RATIOS
    bottom = TOP + PITCH * len(verdicts)
    x = Scale(at[0], at[-1], LEFT, WIDTH - RIGHT, log=not points)
    level = x(0.0 if points else 1.0)
    sides = ("worse", "better") if points else ("better", "worse")
    told = "; ".join(f"{name} {words(figure, one.mean)}" for name, one in verdicts.items())
    return picture(
        WIDTH,
        bottom + BOTTOM,
        f"{figure}: ours beside each rival",
        f"Means: {told}.",
        text(LEFT, 26, figure, "title"),
        text(x.start, TOP - 8, f"\N{LEFTWARDS ARROW} ours is {sides[0]}", "note"),
        text(x.end, TOP - 8, f"{sides[1]} \N{RIGHTWARDS ARROW}", "note end"),
        x_axis(x, TOP, bottom, "points more than theirs" if points else "ours over theirs", at),
        line(level, TOP - 4, level, bottom, "done"),
        *(
            _row(name, verdict, x, TOP + PITCH * (k + 0.5))
            for k, (name, verdict) in enumerate(verdicts.items())
        ),
    )


def load_key(k: int) -> str:
    """What a page switches the dots of a load on and off by."""
    return f"load{k}"


def load_class(k: int) -> str:
    """The colour of a load's dots."""
    return f"f{COLOURS[k]}"


def _row(name: str, verdict: Verdict, x: Scale, y: float) -> str:
    mean = _within(x, verdict.mean)
    dots = (
        element("g", *_dots(verdict, load, k, x, y), data_series=load_key(k))
        for k, load in enumerate(LOADS)
    )
    value = words(verdict.figure, verdict.mean)
    return "".join(
        (
            text(x.start - 52, y + 4, name, "end"),
            text(x.start - 8, y + 4, value, "note end"),
            *dots,
            line(mean, y - 9, mean, y + 9, "mean"),
        )
    )


def _dots(verdict: Verdict, load: float, k: int, x: Scale, y: float) -> Iterator[str]:
    for case in verdict.cases:
        if case.situation.load == load:
            title = element("title", escape(told(verdict.figure, case)))
            place = {"cx": _within(x, case.value), "cy": y + (k - len(LOADS) // 2) * LOWER}
            yield element("circle", title, **place, r=2.6, class_=load_class(k), opacity=0.75)


def _within(x: Scale, value: float) -> float:
    return x(min(max(value, x.low), x.high))


def told(figure: str, case: Case) -> str:
    """A case in words."""
    return f"{case.situation.name}, {case.rival}: {words(figure, case.value)}"


def load_names() -> list[str]:
    """Of the loads that dots are coloured by."""
    return [load_name(load) for load in LOADS]
