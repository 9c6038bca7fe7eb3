"""Several processes' metrics are those of one that had seen it all."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from router.observe.merged import merge
from router.observe.metrics import GatewayMetrics, gauges_together

# What happens to a gateway: which row hears of it, and how much.
observed = st.tuples(st.sampled_from(["queue", "window_requests", "overhead"]), st.integers(0, 300))
counted = st.tuples(st.sampled_from(["requests", "retries", "recalled"]), st.integers(1, 5))
events = st.lists(st.tuples(observed | counted, st.integers(0, 2)), max_size=30)


def tell(metrics: GatewayMetrics, event: tuple[str, int]) -> None:
    row, amount = event
    match row:
        case "queue":
            metrics.queue.labels("completed").observe(amount)
        case "window_requests":
            metrics.window_requests.observe(amount)
        case "overhead":
            metrics.overhead.observe(amount)
        case "requests":
            metrics.requests.labels(f"model-{amount}", "completed").inc(amount)
        case "retries":
            metrics.retries.labels("busy").inc(amount)
        case "recalled":
            metrics.recalled.inc(amount)


def samples(text: bytes, *, gauges: bool = False) -> dict[tuple[str, str], float]:
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if gauges or family.type != "gauge"
    }


@settings(max_examples=25)
@given(events, st.sets(st.integers(0, 2)))
def test_counters_and_histograms_are_those_of_one_process(
    happened: Sequence[tuple[tuple[str, int], int]], gone: set[int]
) -> None:
    one, several = GatewayMetrics(), [GatewayMetrics() for _ in range(3)]
    for event, process in happened:
        tell(one, event)
        tell(several[process], event)
    texts = [metrics.render().decode() for metrics in several]
    ended = [text for k, text in enumerate(texts) if k in gone]
    live = [text for k, text in enumerate(texts) if k not in gone]
    assert samples(merge(live, ended)) == samples(one.render())
    # In steps, too, as processes end one after the other.
    assert samples(merge(live, [merge([], ended).decode()])) == samples(one.render())


@settings(max_examples=25)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(10, 20))
def test_gauges_are_put_together_as_their_rows_say_and_the_dead_have_none(
    values: list[int], of_the_dead: int
) -> None:
    several = [GatewayMetrics() for _ in [*values, of_the_dead]]
    for metrics, value in zip(several, [*values, of_the_dead], strict=True):
        metrics.unsent.set(value)
        metrics.worker_up.labels("a").set(value)
        metrics.worker_backlog.labels("a").set(value)
    *live, dead = [metrics.render().decode() for metrics in several]
    found = samples(merge(live, [dead]), gauges=True)
    worker = "[('worker', 'a')]"
    assert found["makespan_unsent_requests", "[]"] == sum(values)
    assert found["makespan_worker_up", worker] == min(values)
    assert found["makespan_worker_backlog_seconds", worker] == max(values)


def test_every_gauge_says_how() -> None:
    families = {family.name: family for family in GatewayMetrics().registry.collect()}
    gauges = {name for name, family in families.items() if family.type == "gauge"}
    assert gauges_together(GatewayMetrics).keys() == gauges
