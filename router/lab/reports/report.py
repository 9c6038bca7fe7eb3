"""A replay's report: one HTML page that needs nothing else, from figures of finished runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import nan

from router.lab.pictures.svg import element, figure, percent
from router.lab.reports.goodput_charts import over_load
from router.lab.reports.goodput_words import in_short
from router.lab.reports.page import header, listed, made_by, page, section, terms
from router.lab.reports.run_charts import first_tokens, makespans, served
from router.lab.reports.sizing_charts import workers_needed
from router.lab.reports.sizing_words import sized
from router.lab.reports.table import Better, Column, table
from router.lab.reports.words import TERMS, summary
from router.lab.simulation.goodput import Found, load_of
from router.lab.simulation.runs import Run, Traffic, by_workers, ordered, run_name
from router.lab.simulation.sizing import Goal
from router.settings.slo import Slo

__all__ = ["Run", "Traffic", "report"]


def report(
    title: str,
    runs: Sequence[Run],
    *,
    traffic: Traffic,
    settings: Mapping[str, str],
    command: str,
    goal: Goal | None = None,
    goodput: Found | None = None,
) -> str:
    """The page.

    Args:
        title: its heading.
        runs: at least one; the first is the baseline that others are compared with.
        traffic: what was replayed.
        settings: anything else to know, in words, by name.
        command: what makes this page again.
        goal: what the runs were to show, if it was how many workers it takes.
        goodput: the runs and their bounds, if it was how much load the workers take.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    told = _compared(runs)
    if goal is not None:
        told = _sized(goal, runs)
    if goodput is not None:
        told = _loaded(goodput)
    return page(
        title,
        header("Makespan replay", title, _facts(traffic) | {**_constants(runs), **settings}),
        element(
            "main",
            *told,
            _pictures(runs),
            terms(TERMS),
            made_by(command),
        ),
    )


def _compared(runs: Sequence[Run]) -> list[str]:
    """Policies and dispatchers beside each other."""
    bound = "No schedule of these requests on as many workers can beat the lower bound."
    timed, bursts = [run for run in runs if run.timed], [run for run in runs if not run.timed]
    return [
        section("In short", listed(summary(runs)), element("p", bound, class_="note")),
        section(
            "All runs",
            _main_table(runs),
            _latency_table(runs),
            _length_table(runs),
            _tenant_table(runs),
        ),
        section("Goodput and latency", served(timed)) if timed else "",
        section("Makespan", makespans(bursts)) if bursts else "",
        section("Time to first token", first_tokens(runs)),
    ]


def _sized(goal: Goal, runs: Sequence[Run]) -> list[str]:
    """How many workers it takes."""
    return [
        section("In short", listed(sized(goal, runs))),
        section("Workers", workers_needed(goal, runs)),
        section("All runs", _sizing_table(goal, runs), _latency_table(runs), _length_table(runs)),
    ]


def _loaded(found: Found) -> list[str]:
    """How much load the workers take."""
    runs = found.runs
    return [
        section("In short", listed(in_short(found))),
        section("Goodput over load", over_load(found)),
        section("All runs", _load_table(found), _latency_table(runs), _length_table(runs)),
    ]


def _facts(traffic: Traffic) -> dict[str, str]:
    return {
        "Trace": traffic.name,
        "Requests": f"{traffic.requests:,}",
        "Prompt tokens": f"{traffic.prompt_tokens:,}",
        "Output tokens": f"{traffic.output_tokens:,}",
    }


NAMES: Mapping[str, Callable[[Run], str | float]] = {
    "policy": lambda run: run.policy,
    "dispatch": lambda run: run.dispatch,
    "workers": lambda run: run.workers,
}


def _constants(runs: Sequence[Run]) -> dict[str, str]:
    """What is the same of every run, to be said once."""
    return {
        name.capitalize(): str(of(runs[0]))
        for name, of in NAMES.items()
        if len({of(run) for run in runs}) == 1
    }


def _name_columns(runs: Sequence[Run]) -> list[Column[Run]]:
    """What tells the runs apart; of a single run, its policy."""
    differ = [name for name, of in NAMES.items() if len({of(run) for run in runs}) > 1]
    loads = [Column("load, %", load_of, words=str)] if runs[0].load is not None else []
    return [*loads, *(Column(name, NAMES[name], words=str) for name in differ or ["policy"])]


def _latencies(*names: str) -> list[Column[Run]]:
    def column(
        name: str, group: str, of: Callable[[Run], Mapping[str, float]], unit: float = 1.0
    ) -> Column[Run]:
        return Column(name, lambda run: of(run).get(name, nan) * unit, group, best="low")

    return [
        *(column(name, "time to first token, s", lambda run: run.ttft_s) for name in names),
        *(column(name, "end to end, s", lambda run: run.e2e_s) for name in names),
        *(column(name, "per output token, ms", lambda run: run.tpot_s, 1000.0) for name in names),
        *(column(name, "longest stall, ms", lambda run: run.stall_s, 1000.0) for name in names),
    ]


def _main_table(runs: Sequence[Run]) -> str:
    # What is the trace's own length, and follows from it, marks nobody as the best.
    timed = any(run.timed for run in runs)
    low: Better = None if timed else "low"
    high: Better = None if timed else "high"
    kept: Column[Run] = Column("goodput", lambda run: run.goodput, words=percent, best="high")
    of_makespan: list[Column[Run]] = [
        Column("makespan, s", lambda run: run.makespan_s, best=low),
        Column("over the bound", lambda run: run.gap_ratio, words=percent, best=low, bar=not timed),
        Column("utilization", lambda run: run.utilization, words=percent, best=high),
        Column("tokens/s", lambda run: run.generation_tokens_per_s, best=high),
    ]
    latencies = _latencies("p50", "p99")
    told = [kept, *latencies, *of_makespan] if timed else [*of_makespan, kept, *latencies]
    columns = [*_name_columns(runs), *told]
    among = "runs" if len(by_workers(runs)) == 1 else "runs on as many workers"
    by = " and ".join(sorted({run.ranked_by for run in runs}))
    caption = f"Ranked by {by}; bold is the best among {among}. A column's head sorts by it."
    return table(caption, columns, ordered(runs), lambda run: run.workers)


def _figure_of(slo: Slo) -> Callable[[Run], float]:
    return slo.of


def _sizing_table(goal: Goal, runs: Sequence[Run]) -> str:
    columns: list[Column[Run]] = [
        *_name_columns(runs),
        Column("keeps the SLO", lambda run: "yes" if goal.keeps(run) else "no"),
        *(
            Column(f"{slo.words}, s", _figure_of(slo), "at most " + f"{slo.limit_s:g} s")
            for slo in goal.slos
        ),
        Column("goodput", lambda run: run.goodput, words=percent),
        Column("utilization", lambda run: run.utilization, words=percent),
        Column("worker-hours", lambda run: run.worker_hours),
    ]
    if goal.worker_cost is not None:
        columns.append(Column("cost", lambda run: goal.cost(run) or nan))
    caption = "A column's head sorts by it."
    return table(caption, columns, ordered(runs), lambda run: run.workers)


def _peers(run: Run) -> tuple[int, int | None]:
    """Runs of which this is the same may be compared."""
    return run.workers, run.load


def _load_table(found: Found) -> str:
    columns: list[Column[Run]] = [
        *_name_columns(found.runs),
        Column("requests/s", lambda run: found.rate(load_of(run))),
        Column("goodput", lambda run: run.goodput, words=percent, best="high", bar=True),
        Column("at most", lambda run: found.bounds[load_of(run)], words=percent),
        Column("utilization", lambda run: run.utilization, words=percent),
        *_latencies("p50", "p99"),
    ]
    caption = "Bold is the best at a load. A column's head sorts by it."
    return table(caption, columns, ordered(found.runs), _peers)


def _latency_table(runs: Sequence[Run]) -> str:
    words = "Every latency figure"
    columns = [*_name_columns(runs), *_latencies("mean", "p50", "p95", "p99")]
    inner = table(f"{words}.", columns, ordered(runs), _peers)
    return element("details", element("summary", words), inner)


def _length_table(runs: Sequence[Run]) -> str:
    def column(quarter: str, name: str, group: str, words: Callable[[float], str]) -> Column[Run]:
        return Column(
            QUARTERS[quarter], lambda run: run.service_by_length[quarter][name], group, words
        )

    words = "Short and long answers"
    columns = [
        *_name_columns(runs),
        *(column(quarter, "e2e_s", "mean end to end, s", figure) for quarter in QUARTERS),
        *(column(quarter, "service_ratio", "since its prefill", percent) for quarter in QUARTERS),
    ]
    inner = table(f"{words}: quarters of the requests.", columns, ordered(runs), _peers)
    return element("details", element("summary", words), inner)


def _tenant_table(runs: Sequence[Run]) -> str:
    """Nothing where there is but one."""
    tenants = runs[0].tenants
    if not tenants:
        return ""

    def column(tenant: str, name: str, group: str) -> Column[Run]:
        return Column(tenant or "(none named)", lambda run: run.tenants[tenant][name], group)

    words = "Tenants"
    columns = [
        *_name_columns(runs),
        Column("largest difference", lambda run: run.largest_difference_slot_s, best="low"),
        Column("Jain's index", lambda run: run.jain_index, best="high"),
        *(column(tenant, "slot_s", "slot-seconds") for tenant in tenants),
        *(column(tenant, "ttft_p99_s", "p99 of the first token, s") for tenant in tenants),
    ]
    caption = (
        f"{words}: engine time, and how far apart those who waited came by weight, in slot-seconds."
    )
    inner = table(caption, columns, ordered(runs), _peers)
    return element("details", element("summary", words), inner)


QUARTERS: Mapping[str, str] = {"q1": "shortest", "q2": "second", "q3": "third", "q4": "longest"}


def _pictures(runs: Sequence[Run]) -> str:
    drawn = [run for run in runs if run.gantt_svg]
    if not drawn:
        return ""
    pictures = (
        element(
            "details",
            element("summary", escape(run_name(run, runs))),
            element("figure", run.gantt_svg, class_="picture"),
            open="" if index == 0 else None,
        )
        for index, run in enumerate(drawn)
    )
    return section("Schedules", *pictures)
