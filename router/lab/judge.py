"""``makespan bench judge``: ours beside every rival, in situations that nobody chose for us."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import orjson

from router.files import writable
from router.lab.judging.page import judgement
from router.lab.judging.situations import Situation, chosen, traffic
from router.lab.judging.verdict import Judged, Verdict, against, against_best, lines, rivals
from router.lab.simulation.pool import over
from router.lab.simulation.run import Choice, assembled
from router.settings.base import BadSettings
from router.settings.bench import BenchSettings
from solver.routing.dispatchers import DISPATCHERS, FOR_TENANTS
from solver.sim.report import Report, report
from solver.sim.worker import WorkerSetting

Task = tuple[Situation, Choice, int, str]


def judge(settings: BenchSettings) -> None:
    """Run all of them in all situations; print the verdicts.

    Raises:
        BadSettings: if no situation is left, or nobody to compare with.
    """
    with ExitStack() as files:  # which complain before the work, not after
        file = settings.report and files.enter_context(writable(settings.report))
        judged = _judged(settings)
        if file:
            file.write(_page(settings, judged).encode())
    if settings.json:
        print(orjson.dumps(_plain(settings, judged)).decode())
    else:
        print("\n".join(lines(judged, settings.ours)))


def _judged(settings: BenchSettings) -> list[Judged]:
    everybody = [name for name in DISPATCHERS if name not in FOR_TENANTS]
    names = tuple(dict.fromkeys((*(settings.dispatch or everybody), settings.ours)))
    if len(names) == 1:
        raise BadSettings(f"dispatch: name a rival for {settings.ours} to be compared with")
    try:
        situations = chosen(settings.situations)
    except ValueError as error:
        raise BadSettings(str(error)) from error
    tasks: list[Task] = [
        (one, Choice(settings.policy, name, one.workers), settings.per_worker, settings.order)
        for one in situations
        for name in names
    ]
    found = iter(over(_run, tasks, "runs"))
    return [Judged(one, {name: next(found) for name in names}) for one in situations]


def _run(task: Task) -> Report:
    situation, choice, per_worker, order = task
    requests, profile = traffic(situation, per_worker), situation.profile
    hashed = any(request.hash_ids for request in requests)
    alike = WorkerSetting(profile.slots, profile.kv_tokens, order=order, prefix_cache=hashed)
    run = assembled(requests, situation.costs, alike, choice)
    run.run()
    return report(run)


def _page(settings: BenchSettings, judged: Sequence[Judged]) -> str:
    facts = {
        "Requests a worker": str(settings.per_worker),
        "Iteration policy": settings.policy,
        "Queue order": settings.order,
        "Output lengths": "predicted",
    }
    command = " ".join(["makespan", *sys.argv[1:]])
    return judgement(judged, settings.ours, facts=facts, command=command)


def _plain(settings: BenchSettings, judged: Sequence[Judged]) -> dict[str, Any]:
    ours = settings.ours
    return {
        "ours": ours,
        "policy": settings.policy,
        "order": settings.order,
        "per_worker": settings.per_worker,
        "against": {
            rival: _plain_verdicts(against(judged, ours, rival)) for rival in rivals(judged, ours)
        },
        "against_best": _plain_verdicts(against_best(judged, ours)),
        "situations": [
            {
                "name": one.situation.name,
                **asdict(one.situation),
                "runs": {name: found.to_json() for name, found in one.reports.items()},
            }
            for one in judged
        ],
    }


def _plain_verdicts(verdicts: dict[str, Verdict]) -> dict[str, Any]:
    return {
        figure: {
            "mean": verdict.mean,
            "worst": verdict.worst,
            "cases": [
                {"situation": case.situation.name, "rival": case.rival, "value": case.value}
                for case in verdict.cases
            ],
        }
        for figure, verdict in verdicts.items()
    }
