"""Metrics of several processes as those of one, in Prometheus's text format.

Counters and histograms add up, also those of processes that have ended, so that none ever falls;
gauges are put together as their rows in `router.observe.metrics` say, of those that live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from router.observe.metrics import GatewayMetrics, gauges_together

_Key = tuple[str, tuple[tuple[str, str], ...]]
_PUT: dict[str, Callable[[float, float], float]] = {
    "sum": lambda one, other: one + other,
    "max": max,
    "min": min,
}


class _Family:
    """One metric over all processes: its samples in the order in which they came first."""

    def __init__(self, like: Metric, put: Callable[[float, float], float]) -> None:
        self._like, self._put = like, put
        self._values: dict[_Key, float] = {}

    def add(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            before = self._values.get(key)
            value = sample.value if before is None else self._put(before, sample.value)
            self._values[key] = value

    def metric(self) -> Metric:
        metric = Metric(self._like.name, self._like.documentation, self._like.type)
        for (name, labels), value in self._values.items():
            metric.add_sample(name, dict(labels), value)
        return metric


class _Merged:
    def __init__(self, families: Sequence[_Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """As a registry's collectors have it."""
        return (family.metric() for family in self._families)


def merge(live: Sequence[str], ended: Sequence[str]) -> bytes:
    """The metrics of the processes whose own are given, `ended`: of those that are no more."""
    rules = gauges_together(GatewayMetrics)
    families: dict[str, _Family] = {}
    for texts, alive in ((live, True), (ended, False)):
        for text in texts:
            for metric in text_string_to_metric_families(text):
                if metric.type == "gauge" and not alive:
                    continue
                if metric.name not in families:
                    put = _PUT[rules[metric.name] if metric.type == "gauge" else "sum"]
                    families[metric.name] = _Family(metric, put)
                families[metric.name].add(metric.samples)
    merged: Any = _Merged(list(families.values()))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(merged)
    return generate_latest(registry)
