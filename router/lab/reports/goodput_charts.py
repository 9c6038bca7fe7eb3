"""Curves over the load: goodput beneath its bound, and the latencies that targets are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from router.lab.pictures.charts import Series, lines_chart
from router.lab.pictures.svg import element
from router.lab.reports.run_charts import WIDE, choice, curves
from router.lab.simulation.goodput import ENOUGH, Found, answers, load_of
from router.lab.simulation.runs import Run, kind_name

LOAD = "load, % of what the workers could serve at most"


def over_load(found: Found) -> str:
    """Goodput with its bound and the highest loads that keep enough; then p99 latencies."""
    runs, loads = found.runs, sorted(found.bounds)
    shares = curves(runs, lambda run: [(load_of(run), 100 * run.goodput)])
    chart = partial(lines_chart, x_label=LOAD, x_ticks=loads, with_legend=False)
    bound = [(load, 100 * found.bounds[load]) for load in loads]
    goodput = chart(
        [*_ringed(found, shares), Series("upper bound", bound, bound=True)],
        y_label="requests that keep both targets, %",
        title=f"Goodput and, dashed, its upper bound; a ring where {ENOUGH:.0%} is kept last",
        level=100 * ENOUGH,
        width=WIDE,
    )

    def latency(words: str, of: Callable[[Run], Mapping[str, float]], unit: str) -> str:
        factor = 1000.0 if unit == "ms" else 1.0
        return chart(
            curves(runs, lambda run: [(load_of(run), factor * of(run)["p99"])]),
            y_label=f"{words}, {unit}",
            title=words[0].upper() + words[1:],
            log_y=True,
        )

    latencies = (
        latency("p99 time to first token", lambda run: run.ttft_s, "s"),
        latency("p99 per output token", lambda run: run.tpot_s, "ms"),
    )
    charts = (element("div", *some, class_="charts") for some in ((goodput,), latencies))
    return choice(shares) + "".join(charts)


def _ringed(found: Found, shares: Sequence[Series]) -> list[Series]:
    """With a ring at the highest load at which enough is kept."""
    kept = {
        kind_name(answer.kept, found.runs): (load_of(answer.kept), 100 * answer.kept.goodput)
        for answer in answers(found.runs)
        if answer.kept is not None
    }
    return [replace(one, ring=kept.get(one.name)) for one in shares]
