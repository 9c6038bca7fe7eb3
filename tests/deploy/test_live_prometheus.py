"""Every query of the dashboard and every rule gives data, once a real fleet has had real load."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from tests import http
from tests.deploy.prometheus import Prometheus, prometheus
from tests.deploy.test_grafana import CHARTS, DASHBOARD
from tests.deploy.test_prometheus import rules
from tests.helpers import Fleet
from tests.waiting import eventually

QUERIES = [(panel["title"], target["expr"]) for panel in CHARTS for target in panel["targets"]]
# A metric or a recorded series, with its labels.
SELECTOR = re.compile(r"(?:\bmakespan[_:][a-z0-9_:]+|\bup\b)(?:\{[^}]*\})?")
# Nothing of this is wrong with a fleet that runs.
QUIET = {
    "MakespanNoGateway",
    "MakespanGatewayDown",
    "MakespanAgentDown",
    "MakespanNoWorker",
    "MakespanWorkerDown",
    "MakespanEngineStalled",
    "MakespanBacklogGrowing",
}


def load(url: str, first: int, stop: threading.Event) -> None:
    """Streams and whole answers, some of which fail or are wanted too soon, until told."""
    with http.Client(base_url=url) as client:
        for k in count(first):
            if stop.wait(0.05):
                return
            body = {"model": "llama-65b", "prompt": f"Question {k}?", "stream": k % 2 == 0}
            headers = {"x-makespan-fault": "status=500"} if k % 10 == 0 else {}
            headers |= {"x-makespan-deadline-ms": "1"} if k % 7 == 0 else {}
            client.post("/v1/completions", json={**body, "max_tokens": 40}, headers=headers)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    stop = threading.Event()
    with (
        Fleet("--slots", "4", "--speed", "200", "--faults") as fleet,
        prometheus(fleet, tmp_path_factory.mktemp("prometheus")) as running,
    ):
        clients = [threading.Thread(target=load, args=(fleet.url, k, stop)) for k in range(12)]
        for client in clients:
            client.start()
        try:
            yield running
        finally:
            stop.set()
            for client in clients:
                client.join()


@pytest.fixture(scope="module")
def chosen(live: Prometheus) -> dict[str, str]:
    """What Grafana puts in for the dashboard's variables where "all" is chosen."""
    values = {"__rate_interval": "30s"}
    for variable in DASHBOARD["templating"]["list"][1:]:
        query = variable["query"]
        matched = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert matched
        metric, label = filled_in(matched[1], values), matched[2]
        if label == "namespace":  # only Kubernetes gives one; all there is, is what has none
            eventually(lambda m=metric: bool(live.values(m)), query)  # type: ignore[misc]
        else:
            eventually(lambda m=metric, x=label: bool(live.labels(m, x)), query)  # type: ignore[misc]
        options = live.labels(metric, label)
        values[variable["name"]] = variable.get("allValue") or f"({'|'.join(options)})"
    return values


def filled_in(expression: str, values: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda name: values[name[1]], expression)


def test_variables_tell_gateways_from_agents(live: Prometheus, chosen: dict[str, str]) -> None:
    assert (chosen["job"], chosen["agents"]) == ("(makespan-gateway)", "(makespan-agent)")
    metric = 'makespan_requests_total{job="makespan-gateway"}'
    assert live.labels(metric, "model") == ["llama-65b"]
    both = ["agent-0", "agent-1"]
    eventually(lambda: live.labels("makespan_worker_up", "worker") == both, "its workers")
    eventually(
        lambda: live.labels("makespan_kv_tokens", "worker") == both, "what agents are called"
    )


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_query_of_the_dashboard(
    title: str, query: str, live: Prometheus, chosen: dict[str, str]
) -> None:
    expression = filled_in(query, chosen)
    eventually(lambda: bool(live.values(expression)), f"data for {title}: {expression}")


@pytest.mark.parametrize("rule", rules("record"), ids=lambda rule: rule["record"])
def test_recording_rule(rule: dict[str, str], live: Prometheus) -> None:
    eventually(lambda: bool(live.values(rule["expr"])), f"data for {rule['expr']}")
    eventually(lambda: bool(live.values(rule["record"])), f"data for {rule['record']}")


@pytest.mark.parametrize("alert", rules("alert"), ids=lambda alert: alert["alert"])
def test_alert_sees_what_it_needs(alert: dict[str, str], live: Prometheus) -> None:
    """Its expression is understood, and there is data for each part of it."""
    live.values(alert["expr"])
    selectors = SELECTOR.findall(alert["expr"])
    assert selectors
    for selector in selectors:
        eventually(lambda s=selector: bool(live.values(s)), f"data for {selector}")  # type: ignore[misc]


def test_rules_are_evaluated_and_only_failures_raise_an_alert(live: Prometheus) -> None:
    def evaluated() -> dict[str, dict[str, str]]:
        groups = live.ask("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def all_well() -> bool:
        return all(rule["health"] == "ok" for rule in evaluated().values())

    eventually(all_well, "every rule is evaluated")
    names = {rule.get("record") or rule["alert"] for rule in rules("expr")}
    assert evaluated().keys() == names
    burning = "MakespanErrorBudgetBurnsFast"
    eventually(lambda: evaluated()[burning]["state"] != "inactive", "an alert")
    for name in sorted(QUIET):  # once each target has been scraped; a worker may fail in a row
        eventually(lambda name=name: evaluated()[name]["state"] == "inactive", f"{name} is well")  # type: ignore[misc]
