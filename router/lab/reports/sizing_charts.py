"""What fleets of more and more workers do and cost, beside the SLOs they have to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from router.lab.pictures.charts import Series, lines_chart
from router.lab.pictures.svg import element
from router.lab.reports.run_charts import choice, curves
from router.lab.simulation.runs import Run
from router.lab.simulation.sizing import Goal


def workers_needed(goal: Goal, runs: Sequence[Run]) -> str:
    """Curves over the number of workers: each SLO's figure, then utilization and cost."""
    counts = sorted({run.workers for run in runs})
    chart = partial(
        lines_chart,
        x_label="workers",
        x_ticks=counts,
        log_x=counts[-1] >= 8 * counts[0],
        with_legend=False,
    )

    def over(of: Callable[[Run], float]) -> list[Series]:
        return curves(runs, lambda run: [(run.workers, of(run))])

    latencies = (
        chart(
            [
                *over(slo.of),
                Series(str(slo), [(n, slo.limit_s) for n in counts], bound=True),
            ],
            log_y=True,
            y_label=f"{slo.words}, s",
            title=f"{slo.words.capitalize()} and, dashed, its limit",
        )
        for slo in goal.slos
    )
    worth = [
        chart(
            over(lambda run: 100 * run.utilization), y_label="utilization, %", title="Utilization"
        ),
        chart(
            over(lambda run: goal.cost(run) or run.worker_hours),
            y_label="worker-hours" if goal.worker_cost is None else "cost",
            title=f"{'Worker-hours' if goal.worker_cost is None else 'Cost'} of the whole replay",
        ),
    ]
    return choice(over(goal.strain)) + element("div", *latencies, *worth, class_="charts")
