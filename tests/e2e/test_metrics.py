"""Metrics of both sides: the promised names, clean for Prometheus, bounded labels."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import http
from tests.deploy.support import debian_tool
from tests.e2e.test_gateway import TEXT, post
from tests.helpers import Fleet, scrape

GATEWAY = """
requests_total request_duration_seconds time_to_first_token_seconds time_per_output_token_seconds
queue_seconds window_requests window_wait_seconds plan_duration_seconds plan_makespan_seconds
plan_lower_bound_seconds plan_gap_ratio plan_cost_request_seconds
plan_cost_bound_request_seconds plan_gained_request_seconds gateway_overhead_seconds
worker_up worker_slots worker_backlog_seconds
fleet_backlog_seconds predicted_tokens_error_ratio
""".split()  # noqa: SIM905
AGENT = """
slot_seconds_total utilization_ratio useful_ratio efficiency_ratio iteration_duration_seconds
prefill_insertions_total kv_tokens queue_requests
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet("--slots", "4") as running:
        with ThreadPoolExecutor(16) as pool:
            bodies = [{**TEXT, "stream": k % 2 == 0} for k in range(32)]
            list(pool.map(lambda body: post(running, body), bodies))
        post(running, {**TEXT, "model": "unknown-1"})
        post(running, b"{")
        yield running


def texts(fleet: Fleet) -> list[str]:
    return [http.get(url + "/metrics").text for url in (fleet.url, *fleet.agents)]


def test_promtool_has_nothing_to_say(fleet: Fleet) -> None:
    promtool = debian_tool("promtool", "prometheus")
    for text in texts(fleet):
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_promised_names_are_there(fleet: Fleet) -> None:
    gateway, *agents = texts(fleet)
    for name in GATEWAY:
        assert f"# HELP makespan_{name.removesuffix('_total')}" in gateway
    for name in AGENT:
        assert all(f"# HELP makespan_{name.removesuffix('_total')}" in text for text in agents)


def test_what_the_gateway_counted(fleet: Fleet) -> None:
    values = scrape(fleet.url).values
    assert values['makespan_requests_total{model="llama-65b",outcome="completed"}'] == 32
    assert values['makespan_requests_total{model="other",outcome="rejected_invalid"}'] == 2
    assert values['makespan_time_to_first_token_seconds_count{model="llama-65b"}'] == 16
    assert values['makespan_request_duration_seconds_count{model="llama-65b"}'] == 32
    assert values['makespan_queue_seconds_count{outcome="completed"}'] == 32
    assert values["makespan_window_requests_sum{}"] >= 32  # who is left over is planned again
    assert values['makespan_worker_up{worker="agent-0"}'] == 1
    assert values['makespan_worker_backlog_seconds{worker="agent-1"}'] == 0
    assert values["makespan_fleet_backlog_seconds{}"] == 0
    assert values["makespan_predicted_tokens_error_ratio_count{}"] == 32


def test_what_the_agents_counted(fleet: Fleet) -> None:
    samples = [scrape(url) for url in fleet.agents]
    assert sum(sample.total("makespan_requests_total") for sample in samples) == 32
    for sample in samples:
        spent = {
            state: sample.values[f'makespan_slot_seconds_total{{state="{state}"}}']
            for state in ("prefill", "decode", "stalled", "waiting", "empty")
        }
        worked, total = spent["prefill"] + spent["decode"], sum(spent.values())
        ratios = [sample.values[f"makespan_{name}_ratio{{}}"] for name in ("utilization", "useful")]
        assert ratios == pytest.approx([worked / total, worked / (total - spent["empty"])])
        assert 0 < sample.values["makespan_efficiency_ratio{}"] <= 1
        assert sample.values["makespan_kv_tokens{}"] == 0
        assert sample.values["makespan_queue_requests{}"] == 0
        assert sample.total("makespan_prefill_insertions_total") > 0


def test_no_request_id_is_a_label(fleet: Fleet) -> None:
    for text in texts(fleet):
        assert "req-" not in text
        assert "unknown-1" not in text
