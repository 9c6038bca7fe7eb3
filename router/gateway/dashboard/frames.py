"""What the dashboard shows, as plain data: the fleet now, and the latest windows and requests."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from router.gateway.accounting.accounts import Accounts
from router.gateway.dashboard.served import Served
from router.gateway.dashboard.watch import Watch, Watches
from router.gateway.explanations.plan_record import PlanRecord
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.dispatcher import Dispatcher
from router.observe.metrics import GatewayMetrics
from router.wire import SlotReport

MOST_PLANS = 6
MOST_SHOWN = 24  # requests of a plan that are named, and requests in the list
MOST_TENANTS = 12
DIGITS = 4  # of seconds and shares: more than a picture shows

Frame = dict[str, Any]


class Frames:
    """Reads what the gateway knows; remembers nothing but the plans that it has seen.

    `sources` is where workers are to be found, as the settings say it; `batches` tells of those
    that have not ended.
    """

    def __init__(
        self,
        workers: Workers,
        watches: Watches,
        dispatcher: Dispatcher,
        accounts: Accounts,
        metrics: GatewayMetrics,
        sources: Sequence[str],
        batches: Callable[[], list[Frame]] = list,
    ) -> None:
        self._workers, self._watches, self._dispatcher = workers, watches, dispatcher
        self._accounts, self._metrics, self._sources = accounts, metrics, sources
        self._plans: deque[Frame] = deque(maxlen=MOST_PLANS)
        self._batches = batches
        self._served = Served(accounts.log)

    def fleet(self) -> Frame:
        """The workers and the totals, a few times a second; who is expected where nobody is up."""
        now, plan = time.monotonic(), self._dispatcher.latest
        kept, missed = self._metrics.kept_both()
        frame = {
            "at": time.time(),
            "running": self._accounts.running,
            "unsent": self._dispatcher.unsent,
            "outcomes": self._metrics.outcomes(),
            "targets": {"kept": kept, "missed": missed},
            "plan": None if plan is None else _plan(plan),
            "workers": [_worker(one, self._watches.of(one), now) for one in self._workers],
        }
        if all(worker.down for worker in self._workers):
            frame["expected"] = list(self._sources)
        return frame

    def keep_plan(self) -> None:
        """Keep the latest plan for the list: in between there may have been others."""
        plan = self._dispatcher.latest
        if plan is not None and (not self._plans or self._plans[-1]["number"] != plan.seen.number):
            self._plans.append(_plan(plan) | _plan_details(plan))

    def all(self) -> Frame:
        """Both, for another process that is looked at."""
        self.keep_plan()
        return {"fleet": self.fleet(), "lists": self.lists()}

    def lists(self) -> Frame:
        """The latest windows, requests, tenants and bins of what was served, once a second."""
        log = self._accounts.log
        return {
            "plans": list(self._plans)[::-1],
            "requests": [_request(record) for record in log.latest(MOST_SHOWN)],
            "tenants": self._accounts.tenants.rows(log.in_flight(), MOST_TENANTS),
            "batches": self._batches(),
            "bins": self._served.bins(),
        }

    def slots(self) -> dict[str, list[Frame]]:
        """By worker, what has been heard of its slots since the last call."""
        watches = ((worker, self._watches.of(worker)) for worker in self._workers)
        return {
            worker.name: [_slots(worker.name, watch, report) for report in watch.take()]
            for worker, watch in watches
        }


def _slots(name: str, watch: Watch, report: SlotReport) -> Frame:
    return {
        "worker": name,
        "slots": report.slots,
        "since": round(report.since_s + watch.ahead_s, DIGITS),
        "until": round(report.until_s + watch.ahead_s, DIGITS),
        "held": report.held,
        "fills": report.fills,
    }


def _worker(worker: Worker, watch: Watch, now: float) -> Frame:
    state, report = worker.state, watch.latest
    frame: Frame = {
        "name": worker.name,
        "url": worker.url,
        "rank": worker.rank,
        "up": worker.up,
        "health": worker.health.standing.value,
        "reason": worker.health.reason,
        "draining": worker.draining,
        "models": list(worker.models),
        "slots": worker.slots,
        "slots_known": worker.slots_known,
        "in_flight": len(worker.load),
        "backlog_s": round(worker.backlog_s(0, now), DIGITS),
    }
    if worker.cache is not None:
        frame["cache"] = worker.knowledge.value
    if state is not None:
        frame |= {
            "engine": state.engine,
            "policy": state.policy,
            "running": state.running,
            "queued": state.queued,
        }
    if report is not None:
        frame |= {
            "heard": round(report.now_s + watch.ahead_s, DIGITS),
            "seconds": {name: round(spent, DIGITS) for name, spent in report.seconds.items()},
            "single_slots": report.held is not None,
        }
    return frame


def _plan(record: PlanRecord) -> Frame:
    batch = record.batch
    return {
        "number": record.seen.number,
        "at": record.seen.planned_s,
        "requests": len(record.requests),
        "makespan_s": batch.makespan_s,
        "lower_bound_s": batch.lower_bound_s,
        "gap_ratio": batch.gap_ratio,
    }


def _plan_details(record: PlanRecord) -> Frame:
    """Why the window closed, how it was planned, and who goes where."""
    chosen = record.plan.workers
    counts = Counter(chosen).most_common()
    pairs = zip(record.requests[:MOST_SHOWN], chosen, strict=False)
    return {
        "closed_by": record.reason.value,
        "wait_s": record.wait_s,
        "plan_s": record.took_s,
        "method": record.seen.method,
        "cost_s": record.plan.total_s,
        "cost_bound_s": record.plan.bound_s,
        "gained_s": record.gained_s,
        "share": [[record.seen.names[j], count] for j, count in counts],
        "who": [[name, record.seen.names[j]] for name, j in pairs],
    }


def _request(record: RequestRecord) -> Frame:
    choice = record.choice
    runner_up = None if choice is None else choice.runner_up()
    return {
        "id": record.id,
        "tenant": record.tenant,
        "outcome": record.outcome,
        "kept": record.kept.get("both"),
        "worker": record.worker,
        "prompt_tokens": record.prompt_tokens,
        "expected_tokens": record.expected_tokens,
        "output_tokens": record.output_tokens,
        "received_at": record.received_s,
        "ended_at": record.ended_s,
        "rival": None if runner_up is None else runner_up[0],
        "lead_s": None if runner_up is None else runner_up[1],
    }
