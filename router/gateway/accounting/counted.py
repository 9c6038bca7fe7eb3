"""Metrics of requests that have ended, told of many at once: a list for each, and not a call."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from router.gateway.accounting.slo import Felt, Timing
from router.gateway.explanations.request_record import RequestRecord
from router.http.errors import Outcome
from router.observe.metrics import GatewayMetrics

# One that has ended, how, when what came of it, and what its user felt.
Ended = tuple[RequestRecord, Outcome, Timing, Felt]


def count(metrics: GatewayMetrics, ends: Iterable[Ended]) -> None:
    """All of them, each as it would be alone."""
    felt_by = defaultdict[tuple[str, Outcome], list[Felt]](list)
    waits, overheads = defaultdict[Outcome, list[float]](list), list[float]()
    kept = Counter[tuple[str, bool]]()
    for record, outcome, timing, felt in ends:
        felt_by[record.label, outcome].append(felt)
        received, sent = timing.received, timing.sent
        waits[outcome].append((timing.ended if sent is None else sent) - received)
        if sent is not None and timing.first_byte is not None:
            overheads.append(sent - received)
        for target in record.kept.items():
            kept[target] += 1
    metrics.overhead.observe_all(overheads)
    for outcome, each in waits.items():
        metrics.queue.labels(outcome).observe_all(each)
    for (name, met), times in kept.items():
        metrics.slo_requests.labels(name, "true" if met else "false").inc(times)
    for (model, outcome), alike in felt_by.items():
        metrics.requests.labels(model, outcome).inc(len(alike))
        if outcome is Outcome.COMPLETED:
            _count_times(metrics, model, alike)


def _count_times(metrics: GatewayMetrics, model: str, completed: Sequence[Felt]) -> None:
    """What users felt, as far as it can be told."""
    metrics.request_duration.labels(model).observe_all([felt.all_s for felt in completed])
    for each, histogram in (
        ([one.ttft_s for one in completed if one.ttft_s is not None], metrics.time_to_first_token),
        ([one.tpot_s for one in completed if one.tpot_s], metrics.time_per_output_token),
    ):
        if each:
            histogram.labels(model).observe_all(each)
