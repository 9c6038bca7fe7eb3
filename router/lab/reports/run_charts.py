"""Charts of a report's runs, and the choice of what they show.

A policy and dispatcher keeps its colour and dashes through all of them, and is shown or hidden in
all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from math import isfinite, nan

from router.lab.pictures.charts import Bar, Point, Series, bars, lines_chart
from router.lab.pictures.svg import element, pen_mark
from router.lab.simulation.runs import (
    Run,
    by_kind,
    by_workers,
    count,
    first_look,
    kind_name,
    ordered,
)

FEW = 6  # curves that one chart shows at once without being asked to
WIDE = 1000.0  # pixels of a chart across the page


def makespans(runs: Sequence[Run]) -> str:
    """Makespans against their bound: over the number of workers, or in bars if that is one."""
    return _over_workers(runs) if len(by_workers(runs)) > 1 else _bars(runs)


def served(runs: Sequence[Run]) -> str:
    """What timed runs rank by: over the number of workers, or in bars if that is one."""
    figures: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
        ("Goodput", "requests that keep both targets, %", lambda run: 100 * run.goodput),
        ("End to end, p50", "seconds", lambda run: run.e2e_s.get("p50", nan)),
        ("End to end, p99", "seconds", lambda run: run.e2e_s.get("p99", nan)),
        ("Time to first token, p99", "seconds", lambda run: run.ttft_p99_s),
    )
    counts = list(by_workers(runs))

    def chart(title: str, label: str, of: Callable[[Run], float]) -> str:
        known = [run for run in runs if isfinite(of(run))]
        if not known:
            return element("p", f"{title}: no run recorded it.")
        if len(counts) == 1:
            rows = [Bar(kind_name(run, runs), of(run)) for run in ordered(known)]
            return bars(rows, x_label=label, title=title)
        return lines_chart(
            curves(known, lambda run: [(run.workers, of(run))]),
            x_label="workers",
            y_label=label,
            title=title,
            x_ticks=counts,
            log_x=counts[-1] >= 8 * counts[0],
            with_legend=False,
        )

    drawn = element("div", *(chart(*each) for each in figures), class_="charts")
    chosen = "" if len(counts) == 1 else choice(curves(runs, lambda run: [(run.workers, 0.0)]))
    return chosen + drawn


def _over_workers(runs: Sequence[Run]) -> str:
    """Curves over the number of workers: makespan with its bound, and the distance between."""
    groups = by_workers(runs)
    # One bound for all runs on as many workers: the least among theirs holds for each of them.
    bound = [(n, min(run.lower_bound_s for run in peers)) for n, peers in groups.items()]
    times = curves(runs, lambda run: [(run.workers, run.makespan_s)])
    gaps = curves(runs, lambda run: [(run.workers, 100 * run.gap_ratio)])
    counts = list(groups)
    chart = partial(
        lines_chart,
        x_label="workers",
        x_ticks=counts,
        log_x=counts[-1] >= 8 * counts[0],
        with_legend=False,
    )
    return choice(times) + element(
        "div",
        chart(
            [*times, Series("lower bound", bound, bound=True)],
            y_label="makespan, s",
            title="Makespan and, dashed, its lower bound",
        ),
        chart(gaps, y_label="over the lower bound, %", title="Distance from the lower bound"),
        class_="charts",
    )


def _bars(runs: Sequence[Run]) -> str:
    rows = [Bar(kind_name(r, runs), r.makespan_s, r.lower_bound_s) for r in ordered(runs)]
    title = "Makespan and its lower bound"
    return element(
        "div", bars(rows, x_label="makespan, s", title=title, width=WIDE), class_="charts"
    )


def first_tokens(runs: Sequence[Run]) -> str:
    """Which share of the requests had its first token by when; one chart a number of workers."""
    known = [run for run in runs if run.ttft_curve]
    if not known:
        return element("p", "No run recorded it.")
    groups = by_workers(known)
    charts = (
        element(
            "div",
            lines_chart(
                curves(runs, lambda run: _cumulative(run.ttft_curve), peers),
                x_label="time to first token, s",
                y_label="share of requests",
                title=f"Time to first token on {count(workers)}",
                log_x=all(_long_tailed(run.ttft_curve) for run in peers),
                with_legend=False,
                width=WIDE,
            ),
            class_="charts",
            data_workers=workers,
        )
        for workers, peers in groups.items()
    )
    chosen = choice(curves(runs, lambda run: _cumulative(run.ttft_curve), known))
    return chosen + (_workers_choice(list(groups)) if len(groups) > 1 else "") + "".join(charts)


def _workers_choice(counts: Sequence[int]) -> str:
    """Buttons that leave one chart of several; without JavaScript all show."""
    buttons = (
        element("button", str(n), type="button", data_show=n, aria_pressed="false") for n in counts
    )
    return element(
        "div",
        element("span", "Workers"),
        *buttons,
        class_="choice",
        role="group",
        aria_label="Workers",
    )


def _cumulative(sample: Sequence[float]) -> list[Point]:
    shares = ((value, (index + 1) / len(sample)) for index, value in enumerate(sample))
    return [(sample[0], 0.0), *shares] if sample else []


def _long_tailed(sample: Sequence[float]) -> bool:
    """Whether a linear axis would squeeze most of the sample into its beginning."""
    return 0 < 20 * sample[len(sample) // 2] < sample[-1]


def curves(
    runs: Sequence[Run], points: Callable[[Run], Sequence[Point]], of: Sequence[Run] | None = None
) -> list[Series]:
    """A curve for each policy and dispatcher, drawn alike in every chart of the page."""
    kinds = by_kind(runs)
    first = first_look(runs) if len(kinds) > FEW else kinds
    drawn = by_kind(runs if of is None else of)
    return [
        Series(
            kind_name(members[0], runs),
            sorted(point for run in drawn[kind] for point in points(run)),
            pen=index,
            key=f"kind{index}",
            shown=kind in first,
            marked=of is None,
        )
        for index, (kind, members) in enumerate(kinds.items())
        if kind in drawn
    ]


def choice(series: Sequence[Series]) -> str:
    """A legend with which to choose curves."""
    labels = (
        element(
            "label",
            element("input", type="checkbox", value=one.key, checked="" if one.shown else None),
            element(
                "svg", pen_mark(one.pen or 0), class_="mk", width=16, height=10, aria_hidden="true"
            ),
            escape(one.name),
        )
        for one in series
    )
    buttons = (("all", "All"), ("first", "As at first"), ("none", "None"))
    return element(
        "fieldset",
        element("legend", "Policy and dispatch"),
        *labels,
        *(
            element("button", words, type="button", value=value)
            for value, words in buttons
            if len(series) > 2
        ),
        class_="choice",
    )
