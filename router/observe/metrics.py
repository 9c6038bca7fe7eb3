"""Every metric of gateway and agent, defined once.

One prefix, base units, bounded labels: a model that no worker serves counts as ``other``, and no
label ever carries a request's id. Each object has a registry of its own, so that several live in
one process, and tests read samples back.

`GatewayMetrics` and `AgentMetrics` are the tables: a row a metric, in the order of ``/metrics``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import Generic, Literal, TypeGuard, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from solver.batching.ledger import STATES
from solver.packing.plan import Method

disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds, from an emulated engine's milliseconds to a batch job's hours.
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000)
# Seconds, from a single token's to a stalled round's.
SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
# Seconds, from a request that goes at once to one that waits for room behind a backlog.
WAITS = (0.0001, 0.00025, *SHORT, 5, 10, 25, 50, 100, 250)
# Seconds, around a window's wait and a planner's deadline.
TINY = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.33, 2, 4, 10)

# Observations that a histogram keeps before it counts them.
MOST_UNCOUNTED = 1024


def _nothing() -> None:
    """Nobody has anything to tell."""


class _Settled(MetricWrapperBase):
    """What is not up to date before somebody looks.

    Attributes:
        settle: called then.
    """

    settle: Callable[[], None] = staticmethod(_nothing)

    def collect(self) -> Iterable[Metric]:
        """Somebody looks."""
        self.settle()
        return super().collect()


class Observed(_Settled, Histogram):
    """A histogram that only keeps what it is told, and counts it when somebody looks."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._uncounted: list[float] = []

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """One more."""
        assert exemplar is None, "what is counted later has no exemplars"
        self._uncounted.append(amount)
        if len(self._uncounted) >= MOST_UNCOUNTED:
            self._count()

    def observe_all(self, amounts: Iterable[float]) -> None:
        """Some more."""
        self._uncounted.extend(amounts)
        if len(self._uncounted) >= MOST_UNCOUNTED:
            self._count()

    def _count(self) -> None:
        amounts, self._uncounted = self._uncounted, []
        self._sum.inc(sum(amounts))
        amounts.sort()
        before = 0
        for bucket, bound in zip(self._buckets, self._upper_bounds, strict=True):
            within = bisect_right(amounts, bound)
            bucket.inc(within - before)
            before = within

    def _child_samples(self) -> Iterable[Sample]:
        self._count()
        return super()._child_samples()


class Counting(_Settled, Counter):
    """A counter that adds up what it is told without a lock: one thread tells it, and looks."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._uncounted = 0.0

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """So many more."""
        assert exemplar is None, "what is counted later has no exemplars"
        assert amount >= 0, "a counter only goes up"
        self._uncounted += amount

    def _child_samples(self) -> Iterable[Sample]:
        amount, self._uncounted = self._uncounted, 0.0
        self._value.inc(amount)
        return super()._child_samples()


# Of one gateway's processes: each has a part, or each sees the same, more or less well.
Together = Literal["sum", "max", "min"]
Made = TypeVar("Made", bound=Counter | Gauge | Histogram)


class _Row(Generic[Made]):
    """A row of a table: what makes the metric that an object has under the row's name."""

    def __init__(self, make: partial[Made], together: Together = "sum") -> None:
        self.make, self.together = make, together

    def __get__(self, metrics: object, owner: type[object]) -> Made:
        """Its type, for whoever reads it; an object's own metric is found before this is called."""
        raise AttributeError(f"only objects of {owner.__name__} have metrics")


def counter(name: str, text: str, *, labels: Sequence[str] = ()) -> _Row[Counting]:
    """A row; Prometheus adds ``_total`` to its name."""
    return _Row(partial(Counting, name, text, labels))


def gauge(
    name: str, text: str, *, together: Together = "sum", labels: Sequence[str] = ()
) -> _Row[Gauge]:
    """A row; `together`: what the processes of one gateway make of theirs."""
    return _Row(partial(Gauge, name, text, labels), together)


def histogram(
    name: str, text: str, *, buckets: Sequence[float], labels: Sequence[str] = ()
) -> _Row[Observed]:
    """A row."""
    return _Row(partial(Observed, name, text, labels, buckets=buckets))


class _Metrics:
    """Makes a table's metrics, in a registry of its own.

    Attributes:
        settle: tells counters and histograms what they have not been told yet, before somebody
            looks at them.
    """

    def __init__(self) -> None:
        self.settle: Callable[[], None] = _nothing
        self.registry = CollectorRegistry()
        for attribute, row in vars(type(self)).items():
            if isinstance(row, _Row):
                made = vars(self)[attribute] = row.make(registry=self.registry)
                if isinstance(made, _Settled):  # whose labels stay once they are there
                    vars(made)["labels"] = cache(made.labels)
                    vars(made)["settle"] = self._settle

    def _settle(self) -> None:
        self.settle()

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def gauges_together(table: type[_Metrics]) -> dict[str, Together]:
    """By the names of a table's gauges, how several processes' are put together."""
    rows = ((row.make.args[0], row) for row in vars(table).values() if _is_gauge(row))
    return {name: row.together for name, row in rows}


def _is_gauge(row: object) -> TypeGuard[_Row[Gauge]]:
    return isinstance(row, _Row) and row.make.func is Gauge


class GatewayMetrics(_Metrics):
    """What a gateway sees of its requests, its plans and its workers."""

    requests = counter(
        "makespan_requests", "Requests by how they ended.", labels=("model", "outcome")
    )
    request_duration = histogram(
        "makespan_request_duration_seconds",
        "From a request's arrival to its last byte, for completed ones.",
        buckets=LONG,
        labels=("model",),
    )
    time_to_first_token = histogram(
        "makespan_time_to_first_token_seconds",
        "From a streamed request's arrival to its first byte of content.",
        buckets=LONG,
        labels=("model",),
    )
    time_per_output_token = histogram(
        "makespan_time_per_output_token_seconds",
        "Mean time between the output tokens of a streamed request.",
        buckets=SHORT,
        labels=("model",),
    )
    slo_requests = counter(
        "makespan_slo_requests",
        "Requests with targets by whether they kept them: that for the first token (ttft), for the "
        "time between tokens (tpot), and both. Failed, expired and refused ones have missed them; "
        "of answers that are not streamed only both can be told.",
        labels=("target", "met"),
    )
    queue = histogram(
        "makespan_queue_seconds",
        "From a request's arrival until it was sent to a worker, or ended without.",
        buckets=WAITS,
        labels=("outcome",),
    )
    window_requests = histogram(
        "makespan_window_requests", "Requests planned together in a window.", buckets=COUNTS
    )
    window_wait = histogram(
        "makespan_window_wait_seconds", "How long a window was open.", buckets=TINY
    )
    plan_duration = histogram(
        "makespan_plan_duration_seconds",
        "Time to plan a window, by what found the plan.",
        buckets=TINY,
        labels=("method",),
    )
    plan_cost = gauge(
        "makespan_plan_cost_request_seconds",
        "What the latest plan costs all together: its objective.",
        together="max",
    )
    plan_cost_bound = gauge(
        "makespan_plan_cost_bound_request_seconds",
        "Proven lower bound of what any plan of the same requests costs.",
        together="max",
    )
    plan_gained = counter(
        "makespan_plan_gained_request_seconds",
        "By how much the solver's process has bettered the plans that were made at once.",
    )
    plan_makespan = gauge(
        "makespan_plan_makespan_seconds",
        "Planned time until the requests of the latest plan are done; of what workers run "
        "already, only what keeps these from a slot counts.",
        together="max",
    )
    plan_lower_bound = gauge(
        "makespan_plan_lower_bound_seconds",
        "Proven lower bound of the makespan of the latest plan.",
        together="max",
    )
    plan_gap = gauge(
        "makespan_plan_gap_ratio",
        "How far the latest plan's makespan is above its bound, as a fraction of the bound.",
        together="max",
    )
    planner_restarts = counter(
        "makespan_planner_restarts", "Times the MILP's process had to be started again."
    )
    unsent = gauge(
        "makespan_unsent_requests",
        "Requests that wait at the gateway until a worker can start them soon.",
    )
    recalled = counter(
        "makespan_recalled", "Requests taken back from a worker's queue to be placed again."
    )
    cached_prompt_tokens = counter(
        "makespan_cached_prompt_tokens",
        "Prompt tokens that workers reported to have found in their prefix caches.",
    )
    predicted_cached_tokens = counter(
        "makespan_predicted_cached_prompt_tokens",
        "Prompt tokens taken to be in the caches of workers, of requests whose usage they "
        "have reported.",
    )
    cache_events = counter(
        "makespan_cache_events",
        "What engines tell of their prefix caches: blocks told of (told), those that are of "
        "nobody's prompt known here (unknown), messages that were missing (gaps), engines that "
        "began anew (restarts), and what could not be read (garbage).",
        labels=("what",),
    )
    peers = gauge(
        "makespan_peers",
        "Other gateways that this one is to listen to (--peers), by whether they tell what they "
        "send.",
        labels=("state",),
        together="max",
    )
    peer_lines = counter(
        "makespan_peer_lines",
        "What other gateways, and processes of this one, tell of their sends, in lines: heard, "
        "lost, as the reader was too slow (what holds is told again then), and garbage.",
        labels=("what",),
    )
    tenant_slot_seconds = counter(
        "makespan_tenant_slot_seconds",
        "Engine time that requests of a tenant have taken, in slot-seconds by the cost models of "
        "their workers: what shares are of, and what to bill. Beyond 100 tenants, others together.",
        labels=("tenant",),
    )
    overhead = histogram(
        "makespan_gateway_overhead_seconds",
        "Time that the gateway added before a response began, windows and plans included.",
        buckets=WAITS,
    )
    worker_up = gauge(
        "makespan_worker_up",
        "1 if the worker is well. One that leaves the fleet takes its series along.",
        labels=("worker",),
        together="min",
    )
    worker_health = gauge(
        "makespan_worker_health",
        "1 for the standing that the worker has: up, suspect, ejected or down.",
        labels=("worker", "standing"),
        together="max",
    )
    worker_changes = counter(
        "makespan_worker_health_changes",
        "Times that a worker has come to a standing.",
        labels=("standing",),
    )
    retries = counter(
        "makespan_retries",
        "Requests that a worker has not begun to answer, by why: they went on to another one, or "
        "to the same over a fresh connection.",
        labels=("why",),
    )
    traffic_log_dropped = counter(
        "makespan_traffic_log_dropped",
        "Lines that the traffic log has lost, as they could not be written or too many waited.",
    )
    relayed = counter(
        "makespan_relayed_requests",
        "Requests that are not planned but go to workers as they are, by what they are for and how "
        "they ended.",
        labels=("path", "outcome"),
    )
    relayed_tokens = counter(
        "makespan_relayed_tokens",
        "Tokens of requests that are not planned, as far as their answers tell, by what they are "
        "for: those read (prompt), and those made (output).",
        labels=("path", "kind"),
    )
    worker_backlog = gauge(
        "makespan_worker_backlog_seconds",
        "Time that the worker needs for what it has been sent, as predicted.",
        labels=("worker",),
        together="max",
    )
    worker_cache_knowledge = gauge(
        "makespan_worker_cache_knowledge",
        "1 for how well it is known what the worker's prefix cache holds: its engine tells all "
        "(exact), has told some (degraded), or it is guessed from what was sent (estimated).",
        labels=("worker", "knowledge"),
        together="max",
    )
    worker_cache_blocks = gauge(
        "makespan_worker_cache_blocks",
        "Blocks of its prefix cache that the worker's engine has told of, and that are known to be "
        "there.",
        labels=("worker",),
        together="max",
    )
    worker_slots = gauge(
        "makespan_worker_slots",
        "Sequences that the worker runs at once, by how that is known: from its agent (agent), an "
        "operator (set), its engine's metrics (engine) or first tokens (learnt), or not (assumed).",
        labels=("worker", "known"),
        together="max",
    )
    fleet_backlog = gauge(
        "makespan_fleet_backlog_seconds",
        "Time that the workers that are up need for all that this gateway has sent them or has "
        "not sent yet, as a mean over them; 0 while none is up. To scale by, add up the "
        "gateways'.",
    )
    batches = gauge(
        "makespan_batches",
        "Batches that have not ended, by what is done with them.",
        labels=("status",),
        together="max",
    )
    batch_lines = counter(
        "makespan_batch_lines",
        "Lines of batches by what they have come to: to wait, to run (again, if whoever ran them "
        "died), or to their end.",
        labels=("state",),
    )
    batch_waiting = gauge(
        "makespan_batch_unfinished_lines",
        "Lines of batches that wait or run, of all gateways with the same database.",
        together="max",
    )
    batch_backlog = gauge(
        "makespan_batch_backlog_seconds",
        "Time that the workers that are up need for all that is left of batches, with nothing else "
        "to do, as predicted. Gateways with the same database tell the same.",
        together="max",
    )
    batches_late = gauge(
        "makespan_batches_planned_late",
        "Batches that are planned to end after their completion window.",
        together="max",
    )
    batch_plan_gain = gauge(
        "makespan_batch_plan_gain_seconds",
        "How much sooner the last plan of batches has them all done than the heuristic, as "
        "relaxation, search and MILP found it in the background.",
        together="max",
    )
    batch_paused = gauge(
        "makespan_batch_paused",
        "1 while batches pause, as their database is lost or takes nothing.",
        together="max",
    )
    predicted_tokens_error = histogram(
        "makespan_predicted_tokens_error_ratio",
        "Predicted output tokens over actual ones.",
        buckets=RATIOS,
    )

    def __init__(self) -> None:
        super().__init__()
        for method in Method:
            self.plan_duration.labels(method.value)
        for target, met in product(("ttft", "tpot", "both"), ("true", "false")):
            self.slo_requests.labels(target, met)
        for state in ("waiting", "running", "completed", "failed", "expired"):
            self.batch_lines.labels(state)
        for status in ("validating", "in_progress", "finalizing", "cancelling"):
            self.batches.labels(status)

    def outcomes(self) -> dict[str, int]:
        """Requests that have ended, by outcome, over all models."""
        counts: dict[str, int] = {}
        for sample in _samples(self.requests):
            outcome = sample.labels["outcome"]
            counts[outcome] = counts.get(outcome, 0) + int(sample.value)
        return counts

    def kept_both(self) -> tuple[int, int]:
        """Requests that have kept both of their targets, and those that have not."""
        found = {
            sample.labels["met"]: int(sample.value)
            for sample in _samples(self.slo_requests)
            if sample.labels["target"] == "both"
        }
        return found["true"], found["false"]


class AgentMetrics(_Metrics):
    """What an agent sees of its engine."""

    requests = counter(
        "makespan_requests", "Requests by how they ended.", labels=("model", "outcome")
    )
    slot_seconds = counter(
        "makespan_slot_seconds",
        "Slot-time by state; the states of all slots add up to slots times time.",
        labels=("state",),
    )
    utilization = gauge(
        "makespan_utilization_ratio",
        "Prefill and decode slot-time over all slot-time, since the start.",
    )
    useful = gauge(
        "makespan_useful_ratio",
        "Prefill and decode slot-time over all but empty, since the start: what was made of slots "
        "while there was work.",
    )
    efficiency = gauge(
        "makespan_efficiency_ratio",
        "Proven lower bound of the work of the last busy period over the time it took.",
    )
    iteration_duration = histogram(
        "makespan_iteration_duration_seconds",
        "Duration of the engine's iterations.",
        buckets=SHORT,
        labels=("kind",),
    )
    prefill_insertions = counter(
        "makespan_prefill_insertions",
        "Prefill stages, by why the policy inserted them.",
        labels=("reason",),
    )
    kv_tokens = gauge("makespan_kv_tokens", "Cached tokens held by running requests.")
    queue_requests = gauge("makespan_queue_requests", "Requests waiting for a slot.")

    def __init__(self) -> None:
        super().__init__()
        for state in STATES:
            self.slot_seconds.labels(state)


def _samples(counter: Counter) -> Iterator[Sample]:
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                yield sample
