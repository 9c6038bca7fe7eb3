"""``makespan replay``: a trace through policies, dispatchers and fleets, as one HTML page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial

import numpy as np
import orjson

from router.files import writable
from router.lab.pictures.gantt import fleet_gantt, gantt
from router.lab.replay_goodput import answers_json, find, for_people
from router.lab.reports.report import Run, Traffic, report
from router.lab.reports.sizing_words import rows, sized
from router.lab.reports.words import NBSP, summary
from router.lab.simulate import by_tenant
from router.lab.simulation.goodput import Found
from router.lab.simulation.pool import over
from router.lab.simulation.run import Choice, fleet, load, load_at, setting
from router.lab.simulation.runs import by_workers, ordered
from router.lab.simulation.sizing import Goal, answers, search
from router.settings.replay import ReplaySettings
from solver.sim.report import Report, time_to_first_token
from solver.sim.report import report as figures
from solver.sim.request import Request
from solver.sim.schedule import ScheduleLine

# Points of a curve of times to first token.
POINTS = 200
# The most workers that a picture shows.
DRAWN = 64


def replay(settings: ReplaySettings) -> None:
    """Run all combinations, or those that show how many workers it takes; write the report.

    Exits with 1 if no fleet keeps the SLOs.

    Raises:
        BadSettings: if the trace is wrong, or the report cannot be written.
        ProblemError: if a request fits into no worker.
    """
    requests = load(settings, tell=True)
    goal = found = None
    if settings.slo:
        goal = Goal(settings.slo, sorted(settings.workers), settings.worker_cost)
    with writable(settings.report) as file:  # complains before the work, not after
        if settings.goodput:
            found = find(settings, partial(_run_all, settings))
        runs = _runs(settings, goal) if found is None else found.runs
        file.write(_page(settings, requests, goal, found, runs).encode())
    if found is not None:
        print(_goodput_json(found) if settings.json else for_people(settings, found))
        return
    if goal is None:
        print(_json(runs) if settings.json else _table(settings, runs))
        return
    print(_sized_json(goal, runs) if settings.json else _sized_table(settings, goal, runs))
    if all(answer.run is None for answer in answers(goal, runs)):
        sys.exit(1)


def _runs(settings: ReplaySettings, goal: Goal | None) -> list[Run]:
    """All that is told, with a picture of what is to be looked at."""
    kinds = settings.kinds()
    if goal is not None:
        runs = search(goal, kinds, partial(_run_all, settings))
        shown = [answer.run or answer.best for answer in answers(goal, runs)]
    else:
        runs = _run_all(settings, [Choice(*kind, n) for n in settings.workers for kind in kinds])
        shown = _to_draw(runs)
    return _with_pictures(settings, runs, [run for run in shown if run.workers <= DRAWN])


def _page(
    settings: ReplaySettings,
    requests: Sequence[Request],
    goal: Goal | None,
    found: Found | None,
    runs: Sequence[Run],
) -> str:
    traffic = Traffic(
        name=settings.requests.name,
        requests=len(requests),
        prompt_tokens=sum(request.prompt_tokens for request in requests),
        output_tokens=sum(request.output_tokens for request in requests),
    )
    return report(
        f"Replay of {settings.requests.name}",
        runs,
        traffic=traffic,
        settings=_shared_settings(settings),
        command=" ".join(["makespan", *sys.argv[1:]]),
        goal=goal,
        goodput=found,
    )


def _run_all(settings: ReplaySettings, choices: Sequence[Choice]) -> list[Run]:
    return over(partial(_run, settings), choices, "runs")


def _with_pictures(
    settings: ReplaySettings, runs: Sequence[Run], shown: Sequence[Run]
) -> list[Run]:
    """The runs, those to be shown with a picture of their schedule."""
    choices = [Choice(run.policy, run.dispatch, run.workers) for run in shown]
    pictures = over(partial(_picture, settings), choices, "pictures")
    of = {id(run): picture for run, picture in zip(shown, pictures, strict=True)}
    return [replace(run, gantt_svg=of.get(id(run), "")) for run in runs]


def _run(settings: ReplaySettings, choice: Choice) -> Run:
    run = fleet(settings, load_at(settings, choice), choice)
    run.run()
    found = figures(run, settings.weight)
    return _run_of(choice, found, np.sort(time_to_first_token(run)).tolist())


def _run_of(choice: Choice, found: Report, first_s: Sequence[float]) -> Run:
    picked = np.linspace(0, len(first_s) - 1, min(POINTS, len(first_s))).round().astype(int)
    return Run(
        **{one.name: getattr(found, one.name) for one in fields(found)},
        policy=choice.policy,
        dispatch=choice.dispatch,
        workers=choice.workers,
        ttft_curve=[first_s[k] for k in picked],
        load=choice.load,
    )


def _to_draw(runs: Sequence[Run]) -> list[Run]:
    """For each number of workers: the first run, as the baseline, and the best."""
    chosen: list[Run] = []
    for group in by_workers(runs).values():
        best = min(group, key=lambda run: run.rank)
        chosen += [group[0]] if best is group[0] else [group[0], best]
    return chosen


def _picture(settings: ReplaySettings, choice: Choice) -> str:
    lines: list[ScheduleLine] = []
    requests = load(settings)
    run = fleet(settings, requests, choice, lines.append)
    run.run()
    found = figures(run)
    slots = setting(settings, requests).slots
    if choice.workers == 1:
        arrivals = {request.id: request.arrival_s for request in requests}
        title = f"{choice.policy}, one worker"
        return gantt(
            lines, slots=slots, title=title, bound_s=found.lower_bound_s, arrivals=arrivals
        )
    title = f"{choice.policy}, {choice.dispatch}, {choice.workers} workers"
    names = {f"w{j}": slots for j in range(choice.workers)}
    return fleet_gantt(lines, names, title=title, bound_s=found.lower_bound_s)


def _shared_settings(settings: ReplaySettings) -> dict[str, str]:
    """What all runs share."""
    shared = {
        "cost model": settings.cost,
        "slots": str(setting(settings, []).slots),
        "queue order": settings.order,
        "output lengths": settings.lengths,
        "arrivals": settings.arrivals,
        "seed": str(settings.seed),
    }
    asked = (("ttft", settings.ttft_ms), ("tpot", settings.tpot_ms))
    if targets := ", ".join(f"{name} {limit} ms" for name, limit in asked if limit is not None):
        shared["targets"] = targets
    if settings.stale is not None:
        shared["seconds between looks"] = f"{settings.stale:g}"
    if settings.speed != (1.0,):
        shared["speeds"] = ", ".join(f"{speed:g}" for speed in settings.speed)
    return shared


def _table(settings: ReplaySettings, runs: Sequence[Run]) -> str:
    rows = [
        f"{'workers':>7}  {'dispatch':<15}{'policy':<15}{'makespan':>11}{'over bound':>12}"
        f"{'utilization':>13}{'goodput':>10}{'p50 E2E':>10}{'p99 E2E':>10}"
        f"{'p50 TTFT':>10}{'p99 TTFT':>10}{'p99 TPOT':>10}{'p99 stall':>11}"
    ]
    rows.extend(
        f"{run.workers:>7}  {run.dispatch:<15}{run.policy:<15}{run.makespan_s:>9.2f} s"
        f"{run.gap_ratio:>12.2%}{run.utilization:>13.2%}{run.goodput:>10.2%}"
        f"{run.e2e_s['p50']:>8.2f} s{run.e2e_s['p99']:>8.2f} s{run.ttft_s['p50']:>8.3f} s"
        f"{run.ttft_s['p99']:>8.3f} s{run.tpot_s['p99']:>8.3f} s{run.stall_s['p99']:>9.3f} s"
        for run in ordered(runs)
    )
    for run in runs:
        if lines := by_tenant(run):
            rows += ["", f"{run.workers} workers, {run.dispatch}, {run.policy}:", *lines[1:]]
    said = [f"{lead}: {words}" for lead, words in summary(runs)]
    text = "\n".join([*rows, "", *said, "", f"report: {settings.report.resolve()}"])
    return text.replace(NBSP, " ")


def _json(runs: Sequence[Run]) -> str:
    return orjson.dumps({"runs": [_plain(run) for run in ordered(runs)]}).decode()


def _goodput_json(found: Found) -> str:
    runs = [_plain(run) | {"load": run.load} for run in ordered(found.runs)]
    return orjson.dumps(answers_json(found) | {"runs": runs}).decode()


def _plain(run: Run) -> dict[str, object]:
    names = ("policy", "dispatch", "workers", "ranked_by")
    times = ("makespan_s", "arrivals_s", "lower_bound_s", "gap_ratio")
    more = ("utilization", "generation_tokens_per_s", "ttft_s", "tpot_s", "e2e_s", "stall_s")
    shares = ("tenants", "largest_difference_slot_s", "jain_index")
    last = ("goodput", "service_by_length", "requests", *shares)
    return {name: getattr(run, name) for name in (*names, *times, *more, *last)}


def _sized_table(settings: ReplaySettings, goal: Goal, runs: Sequence[Run]) -> str:
    lines = [f"{lead}: {words}" for lead, words in sized(goal, runs)]
    text = "\n".join([*rows(goal, runs), "", *lines, "", f"report: {settings.report.resolve()}"])
    return text.replace(NBSP, " ")


def _sized_json(goal: Goal, runs: Sequence[Run]) -> str:
    def plain(run: Run) -> dict[str, object]:
        cost = {} if goal.worker_cost is None else {"cost": goal.cost(run)}
        worth = {"worker_hours": run.worker_hours, **cost, "keeps_slo": goal.keeps(run)}
        return {**_plain(run), **worth}

    found = [
        {
            "policy": answer.best.policy,
            "dispatch": answer.best.dispatch,
            "workers": None if answer.run is None else answer.run.workers,
            "best": answer.best.workers,
        }
        for answer in answers(goal, runs)
    ]
    shared = {
        "slo": {slo.name: slo.limit_s for slo in goal.slos},
        "workers": found[0]["workers"],
        "answers": found,
        "runs": [plain(run) for run in ordered(runs)],
    }
    return orjson.dumps(shared).decode()
