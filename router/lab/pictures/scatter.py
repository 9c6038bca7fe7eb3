"""Predicted over measured iteration times, as SVG: on the diagonal they agree."""

from __future__ import annotations

from collections.abc import Sequence

from router.lab.pictures.svg import (
    Scale,
    element,
    legend,
    line,
    picture,
    text,
    x_axis,
    y_axis,
)
from solver.cost.calibration import Sample
from solver.cost.model import Action, CostModel

KINDS = (Action.PREFILL, Action.DECODE, Action.MIXED)
SIDE, LEFT, TOP, BOTTOM = 480.0, 66.0, 74.0, 46.0


def scatter(samples: Sequence[Sample], cost: CostModel, name: str) -> str:
    """One dot a sample, both axes logarithmic, in milliseconds.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("there are no samples to draw")
    places = [(s.action, s.seconds * 1e3, s.predicted_s(cost) * 1e3) for s in samples]
    values = [value for _, *pair in places for value in pair if value > 0]
    low, high = min(values) / 1.1, max(values) * 1.1
    right, bottom = LEFT + SIDE, TOP + SIDE
    x = Scale(low, high, LEFT, right, log=True)
    y = Scale(low, high, bottom, TOP, log=True)
    dots = [
        element(
            "circle",
            cx=x(at),
            cy=y(predicted_s),
            r=2.5,
            class_=f"f{KINDS.index(kind)}",
            opacity=0.6,
        )
        for kind, at, predicted_s in places
    ]
    seen = [kind for kind in KINDS if any(kind is one for one, *_ in places)]
    marks = [
        (element("circle", cx=8, cy=5, r=4, class_=f"f{KINDS.index(kind)}"), kind.value)
        for kind in seen
    ]
    title = f"{name}: predicted over measured iterations"
    return picture(
        right + 22,
        bottom + BOTTOM,
        title,
        f"{len(samples)} iterations of the kinds {', '.join(seen)}.",
        text(LEFT, 26, title, "title"),
        *legend(marks, LEFT, 42, SIDE),
        x_axis(x, TOP, bottom, "measured, ms"),
        y_axis(y, LEFT, right, "predicted, ms"),
        line(LEFT, bottom, right, TOP, "bound"),
        *dots,
    )
