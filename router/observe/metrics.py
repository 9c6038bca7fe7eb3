"""Every metric of gateway and agent, defined once.

One prefix, base units, bounded labels: a model that no worker serves counts as ``other``, and no
label ever carries a request's id. Each object has a registry of its own, so that several live in
one process, and tests read samples back.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
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


class GatewayMetrics:
    """What a gateway sees of its requests, its plans and its workers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "makespan_requests",
            "Requests by how they ended.",
            ["model", "outcome"],
            registry=registry,
        )
        self.request_duration = Histogram(
            "makespan_request_duration_seconds",
            "From a request's arrival to its last byte, for completed ones.",
            ["model"],
            buckets=LONG,
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "makespan_time_to_first_token_seconds",
            "From a streamed request's arrival to its first byte of content.",
            ["model"],
            buckets=LONG,
            registry=registry,
        )
        self.time_per_output_token = Histogram(
            "makespan_time_per_output_token_seconds",
            "Mean time between the output tokens of a streamed request.",
            ["model"],
            buckets=SHORT,
            registry=registry,
        )
        self.queue = Histogram(
            "makespan_queue_seconds",
            "From a request's arrival until it was sent to a worker, or ended without.",
            ["outcome"],
            buckets=WAITS,
            registry=registry,
        )
        self.window_requests = Histogram(
            "makespan_window_requests",
            "Requests planned together in a window.",
            buckets=COUNTS,
            registry=registry,
        )
        self.window_wait = Histogram(
            "makespan_window_wait_seconds",
            "How long a window was open.",
            buckets=TINY,
            registry=registry,
        )
        self.plan_duration = Histogram(
            "makespan_plan_duration_seconds",
            "Time to plan a window, by what found the plan.",
            ["method"],
            buckets=TINY,
            registry=registry,
        )
        self.plan_makespan = Gauge(
            "makespan_plan_makespan_seconds",
            "Planned time until the requests of the latest plan are done; of what workers run "
            "already, only what keeps these from a slot counts.",
            registry=registry,
        )
        self.plan_lower_bound = Gauge(
            "makespan_plan_lower_bound_seconds",
            "Proven lower bound of the makespan of the latest plan.",
            registry=registry,
        )
        self.plan_gap = Gauge(
            "makespan_plan_gap_ratio",
            "How far the latest plan's makespan is above its bound, as a fraction of the bound.",
            registry=registry,
        )
        self.planner_restarts = Counter(
            "makespan_planner_restarts",
            "Times the MILP's process had to be started again.",
            registry=registry,
        )
        self.unsent = Gauge(
            "makespan_unsent_requests",
            "Requests that wait at the gateway until a worker can start them soon.",
            registry=registry,
        )
        self.recalled = Counter(
            "makespan_recalled",
            "Requests taken back from a worker's queue to be placed again.",
            registry=registry,
        )
        self.cached_prompt_tokens = Counter(
            "makespan_cached_prompt_tokens",
            "Prompt tokens that workers reported to have found in their prefix caches.",
            registry=registry,
        )
        self.overhead = Histogram(
            "makespan_gateway_overhead_seconds",
            "Time that the gateway added before a response began, windows and plans included.",
            buckets=WAITS,
            registry=registry,
        )
        self.worker_up = Gauge(
            "makespan_worker_up",
            "1 if the worker answers. One that leaves the fleet takes its series along.",
            ["worker"],
            registry=registry,
        )
        self.worker_backlog = Gauge(
            "makespan_worker_backlog_seconds",
            "Time that the worker needs for what it has been sent, as predicted.",
            ["worker"],
            registry=registry,
        )
        self.fleet_backlog = Gauge(
            "makespan_fleet_backlog_seconds",
            "Time that the workers that are up need for all that this gateway has sent them or has "
            "not sent yet, as a mean over them; 0 while none is up. To scale by, add up the "
            "gateways'.",
            registry=registry,
        )
        self.predicted_tokens_error = Histogram(
            "makespan_predicted_tokens_error_ratio",
            "Predicted output tokens over actual ones.",
            buckets=RATIOS,
            registry=registry,
        )
        for method in Method:
            self.plan_duration.labels(method.value)

    def outcomes(self) -> dict[str, int]:
        """Requests that have ended, by outcome, over all models."""
        counts: dict[str, int] = {}
        for sample in _samples(self.requests):
            outcome = sample.labels["outcome"]
            counts[outcome] = counts.get(outcome, 0) + int(sample.value)
        return counts

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def _samples(counter: Counter) -> Iterator[Sample]:
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                yield sample


class AgentMetrics:
    """What an agent sees of its engine."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "makespan_requests",
            "Requests by how they ended.",
            ["model", "outcome"],
            registry=registry,
        )
        self.slot_seconds = Counter(
            "makespan_slot_seconds",
            "Slot-time by state; the states of all slots add up to slots times time.",
            ["state"],
            registry=registry,
        )
        self.utilization = Gauge(
            "makespan_utilization_ratio",
            "Prefill and decode slot-time over all but empty, since the start.",
            registry=registry,
        )
        self.efficiency = Gauge(
            "makespan_efficiency_ratio",
            "Proven lower bound of the work of the last busy period over the time it took.",
            registry=registry,
        )
        self.iteration_duration = Histogram(
            "makespan_iteration_duration_seconds",
            "Duration of the engine's iterations.",
            ["kind"],
            buckets=SHORT,
            registry=registry,
        )
        self.prefill_insertions = Counter(
            "makespan_prefill_insertions",
            "Prefill stages, by why the policy inserted them.",
            ["reason"],
            registry=registry,
        )
        self.kv_tokens = Gauge(
            "makespan_kv_tokens", "Cached tokens held by running requests.", registry=registry
        )
        self.queue_requests = Gauge(
            "makespan_queue_requests", "Requests waiting for a slot.", registry=registry
        )
        for state in STATES:
            self.slot_seconds.labels(state)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
