"""What the overlays for production add: autoscaling, scraping, policies, budgets."""

import re
from pathlib import Path

import pytest
import yaml

from router.observe.metrics import AgentMetrics, GatewayMetrics
from tests.deploy.overlays import (
    containers,
    named,
    of_kind,
    pod,
    port_names,
    selected,
    workloads,
)
from tests.deploy.support import ROOT, debian_tool, run

ADAPTER = ROOT / "deploy" / "prometheus" / "adapter.yaml"

autoscaled = pytest.mark.parametrize("overlay", ["production", "production-keda"])


@autoscaled
def test_one_autoscaler_for_each_workload(overlay: str) -> None:
    scalers = of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    targets = {scaler["spec"]["scaleTargetRef"]["name"]: scaler for scaler in scalers}
    assert len(targets) == len(scalers) == 2
    for name, workload in workloads(overlay).items():
        target = targets[name]["spec"]["scaleTargetRef"]
        assert target == {"apiVersion": "apps/v1", "kind": workload["kind"], "name": name}
        assert "replicas" not in workload["spec"], "whoever applies it again would reset the fleet"


def exported(metrics: GatewayMetrics | AgentMetrics) -> set[str]:
    found = metrics.registry.collect()
    return {metric.name + ("_total" if metric.type == "counter" else "") for metric in found}


def test_the_adapter_makes_the_metrics_that_the_autoscaler_reads() -> None:
    (scaler,) = [
        s
        for s in of_kind("production", "HorizontalPodAutoscaler")
        if s["metadata"]["name"] == "makespan-agent"
    ]
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]
    made = {kind: {rule["name"]["as"] for rule in rules[kind]} for kind in ("custom", "external")}
    metrics = scaler["spec"]["metrics"]
    read = {kind: {m[kind]["metric"]["name"] for m in metrics if kind in m} for kind in (
        "pods", "external")}  # fmt: skip
    assert read == {"pods": made["custom"], "external": made["external"]}
    series = {re.match(r"\w+", rule["seriesQuery"])[0] for kind in made for rule in rules[kind]}  # type: ignore[index]
    assert series <= exported(GatewayMetrics()) | exported(AgentMetrics())


def queries() -> list[str]:
    """All that autoscalers ask Prometheus: KEDA's and the adapter's, for one namespace."""
    (scaled,) = of_kind("production-keda", "ScaledObject")
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]
    adapted = []
    for rule in (*rules["custom"], *rules["external"]):
        series = re.match(r"\w+", rule["seriesQuery"])[0]  # type: ignore[index]
        query = rule["metricsQuery"].replace("<<.Series>>", series)
        query = query.replace("<<.LabelMatchers>>", 'namespace="makespan"')
        query = query.replace("<<.GroupBy>>", "namespace")
        adapted.append(query)
    return [t["metadata"]["query"] for t in scaled["spec"]["triggers"]] + adapted


def test_queries_are_promql_about_metrics_that_there_are(tmp_path: Path) -> None:
    promtool = debian_tool("promtool", "prometheus")
    rules = [{"record": f"query:{k}", "expr": query} for k, query in enumerate(queries())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", path)
    known = exported(GatewayMetrics()) | exported(AgentMetrics())
    for query in queries():
        assert set(re.findall(r"makespan_\w+", query)) <= known


SERIES = {
    "makespan_fleet_backlog_seconds": [
        ('instance="g", job="makespan-gateway"', "7x20"),
        ('instance="h", job="makespan-gateway"', "5x10 0x10"),
        ('instance="g", job="kubernetes-pods"', "7x20"),
    ],
    "makespan_worker_up": [
        ('instance="g", worker="a", job="makespan-gateway"', "1x10 0x10"),
        ('instance="h", worker="a", job="makespan-gateway"', "1x10 0x10"),
    ],
    "makespan_slot_seconds_total": [
        ('state="decode", job="makespan-agent"', "0+30x20"),
        ('state="empty", job="makespan-agent"', "0+90x20"),
        ('state="decode", job="kubernetes-pods"', "0+30x20"),
    ],
}


def test_autoscalers_count_once_and_know_nothing_while_no_worker_is_up(tmp_path: Path) -> None:
    """Both gateways' backlog, by our job only; an outage is not to look like an empty fleet."""
    series = [
        {"series": f'{name}{{namespace="makespan", {labels}}}', "values": values}
        for name, each in SERIES.items()
        for labels, values in each
    ]
    cases = []
    for query in queries():
        backlog = "makespan_fleet_backlog_seconds" in query
        for minute, value in ((9, 12 if backlog else 0.25), (15, None if backlog else 0.25)):
            labels = '{namespace="makespan"}' if "by (namespace)" in query else "{}"
            found = [] if value is None else [{"labels": labels, "value": value}]
            cases.append({"expr": query, "eval_time": f"{minute}m", "exp_samples": found})
    test = {"interval": "1m", "input_series": series, "promql_expr_test": cases}
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"tests": [test]}))
    run(debian_tool("promtool", "prometheus"), "test", "rules", path)


@autoscaled
def test_only_pod_monitors_tell_whom_to_scrape(overlay: str) -> None:
    for workload in workloads(overlay).values():
        assert "annotations" not in workload["spec"]["template"]["metadata"]


def test_the_scaled_object_is_complete() -> None:
    (scaled,) = of_kind("production-keda", "ScaledObject")
    spec = scaled["spec"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    assert 0 < spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    for trigger in spec["triggers"]:
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "Value")
        assert trigger["metadata"].keys() == {
            "serverAddress", "query", "threshold", "ignoreNullValues"}  # fmt: skip
        assert trigger["metadata"]["ignoreNullValues"] == "false", "nothing known is not 0"
        assert float(trigger["metadata"]["threshold"]) > 0


@autoscaled
def test_pod_monitors_are_complete(overlay: str) -> None:
    for monitor in of_kind(overlay, "PodMonitor"):
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        ports = {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]}
        assert ports == port_names(overlay, {monitor["metadata"]["name"]})
        by_port = {
            end["port"]: end["relabelings"] for end in monitor["spec"]["podMetricsEndpoints"]
        }
        # What gateways call an agent: MAKESPAN_NAME, its pod's name.
        source = {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "worker"}
        assert (source in by_port["http"]) == (monitor["metadata"]["name"] == "makespan-agent")
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"] for job in scraped["scrape_configs"]} - {"prometheus"}
    assert jobs <= set(named(of_kind(overlay, "PodMonitor"), "replacement"))


@autoscaled
def test_nobody_speaks_but_who_has_to(overlay: str) -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind(overlay, "NetworkPolicy")}
    deny = policies["default-deny"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    agent, gateway = policies["makespan-agent"], policies["makespan-gateway"]
    for name in ("makespan-agent", "makespan-gateway"):
        assert selected(overlay, policies[name]["podSelector"]) == {name}
    callers, scrapers = agent["ingress"]
    (peer,) = callers["from"]
    assert selected(overlay, peer["podSelector"]) == {"makespan-gateway"}
    assert [port["port"] for port in callers["ports"]] == ["http"]
    assert [set(peer) for peer in scrapers["from"]] == [{"namespaceSelector"}]
    to = [selected(overlay, peer["podSelector"]) for peer in gateway["egress"][0]["to"]]
    assert to == [{"makespan-agent"}, {"makespan-gateway"}]
    let_in = [
        peer["podSelector"] for peer in gateway["ingress"][0]["from"] if "podSelector" in peer
    ]
    assert [selected(overlay, one) for one in let_in] == [{"makespan-gateway"}], "its peers"
    # The API server, where the gateway watches who the agents are: behind its Service or itself.
    assert {"ports": [{"protocol": "TCP", "port": port} for port in (443, 6443)]} in gateway[
        "egress"
    ]
    (dns,) = policies["dns"]["egress"]
    assert {(p["protocol"], p["port"]) for p in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    ports = {p["containerPort"] for w in workloads(overlay).values() for c in containers(w) for p in
             c["ports"]}  # fmt: skip
    for policy in (agent, gateway):
        for rule in policy["ingress"]:
            assert all(port["port"] in {"http", *ports} for port in rule["ports"])
        assert 4318 in {port["port"] for rule in policy["egress"] for port in rule["ports"]}  # OTLP


@autoscaled
def test_gateways_never_share_a_node(overlay: str) -> None:
    affinity = pod(workloads(overlay)["makespan-gateway"])["affinity"]["podAntiAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert selected(overlay, term["labelSelector"]) == {"makespan-gateway"}
    assert term["matchLabelKeys"] == ["pod-template-hash"], "an update may surge on a full cluster"


@autoscaled
def test_nodes_can_be_emptied(overlay: str) -> None:
    scalers = of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    least = {
        s["spec"]["scaleTargetRef"]["name"]: s["spec"].get("minReplicas")
        or s["spec"]["minReplicaCount"]
        for s in scalers
    }
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert 0 < budget["spec"]["maxUnavailable"] < least[budget["metadata"]["name"]]
