"""``makespan replay --goodput``: who keeps how many targets at which load, beside a bound."""

from __future__ import annotations

from functools import partial

from router.lab.reports.goodput_words import in_short, rows
from router.lab.reports.words import NBSP
from router.lab.simulation.goodput import ENOUGH, Found, answers, load_of, search
from router.lab.simulation.pool import over
from router.lab.simulation.run import Choice, capacity, fleet, load, load_at
from router.lab.simulation.sizing import Measure
from router.settings.replay import ReplaySettings
from solver.sim.goodput_bound import goodput_bound


def find(settings: ReplaySettings, measure: Measure) -> Found:
    """Runs of all kinds at all loads that it takes, and the bound at each of these."""
    (workers,) = settings.workers
    rate = capacity(settings, load(settings), workers)
    runs = search(settings.loads, settings.kinds(), workers, measure)
    loads = sorted({load_of(run) for run in runs})
    bounds = over(partial(_bound, settings, workers), loads, "bounds")
    return Found(runs, dict(zip(loads, bounds, strict=True)), rate)


def _bound(settings: ReplaySettings, workers: int, at: int) -> float:
    """The same whatever the policy and dispatcher."""
    policy, dispatch = settings.kinds()[0]
    choice = Choice(policy, dispatch, workers, at)
    requests = load_at(settings, choice)
    return goodput_bound(requests, fleet(settings, requests, choice).workers)


def for_people(settings: ReplaySettings, found: Found) -> str:
    """A table and the answers."""
    lines = [f"{lead}: {words}" for lead, words in in_short(found)]
    text = "\n".join([*rows(found), "", *lines, "", f"report: {settings.report.resolve()}"])
    return text.replace(NBSP, " ")


def answers_json(found: Found) -> dict[str, object]:
    """The answers and bounds, for programs."""
    return {
        "enough": ENOUGH,
        "requests_per_s": found.requests_per_s,
        "answers": [
            {
                "policy": answer.kind[0],
                "dispatch": answer.kind[1],
                "load": None if answer.kept is None else load_of(answer.kept),
                "missed": None if answer.missed is None else load_of(answer.missed),
            }
            for answer in answers(found.runs)
        ],
        "bounds": [{"load": at, "goodput": bound} for at, bound in found.bounds.items()],
    }
