from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.deploy.support import (
    Parsed,
    dockerfile,
    manifest,
    manifests,
    only_container,
    python_tool,
    run,
    version,
)

GATEWAY = ("Deployment", "makespan-gateway")
AGENT = ("StatefulSet", "makespan-agent")

workloads = pytest.mark.parametrize(("kind", "name"), [GATEWAY, AGENT], ids=["gateway", "agent"])


def pod(kind: str, name: str) -> Parsed:
    spec: Parsed = manifest(kind, name)["spec"]["template"]["spec"]
    return spec


def environment(name: str) -> dict[str, str]:
    data: dict[str, str] = manifest("ConfigMap", name)["data"]
    return data


def test_kinds() -> None:
    kinds = Counter(found["kind"] for found in manifests())
    assert kinds == {
        "Namespace": 1,
        "ServiceAccount": 2,
        "Role": 1,
        "RoleBinding": 1,
        "ConfigMap": 2,
        "Service": 2,
        "Deployment": 1,
        "StatefulSet": 1,
    }


def test_manifests_are_valid(tmp_path: Path) -> None:
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(yaml.safe_dump_all(manifests()))
    said = run(python_tool("kubernetes-validate"), "--strict", "-k", "1.35", rendered)
    assert said.count(" passed ") == len(manifests())


@workloads
def test_image_is_this_version(kind: str, name: str) -> None:
    assert only_container(manifest(kind, name))["image"] == f"makespan:{version()}"


@workloads
@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")],
)
def test_probe_asks_the_port_that_is_served(kind: str, name: str, probe: str, path: str) -> None:
    container = only_container(manifest(kind, name))
    assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    assert container["ports"] == [
        {"name": "http", "containerPort": int(environment(name)["MAKESPAN_PORT"])}
    ]


@workloads
def test_service_leads_to_the_pods(kind: str, name: str) -> None:
    service = manifest("Service", name)["spec"]
    labels = manifest(kind, name)["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    (port,) = service["ports"]
    assert (str(port["port"]), port["targetPort"]) == (environment(name)["MAKESPAN_PORT"], "http")


@workloads
def test_annotations_lead_prometheus_to_the_metrics(kind: str, name: str) -> None:
    annotations = manifest(kind, name)["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": environment(name)["MAKESPAN_PORT"],
        "prometheus.io/path": "/metrics",
    }


@workloads
def test_settings_come_from_the_config_map(kind: str, name: str) -> None:
    sources = only_container(manifest(kind, name))["envFrom"]
    assert sources == [{"configMapRef": {"name": manifest("ConfigMap", name)["metadata"]["name"]}}]


def test_an_agent_is_named_after_its_pod() -> None:
    assert only_container(manifest(*AGENT))["env"] == [
        {"name": "MAKESPAN_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]


def test_the_gateway_follows_the_agents_service() -> None:
    service = manifest("Service", manifest(*AGENT)["spec"]["serviceName"])
    (port,) = service["spec"]["ports"]
    name = service["metadata"]["name"]
    assert environment("makespan-gateway")["MAKESPAN_WORKER"] == (
        f"kubernetes:///{name}:{port['name']}"
    )
    assert service["spec"]["clusterIP"] == "None"


def test_the_gateway_may_follow_endpoint_slices_and_nothing_else() -> None:
    role, binding = (
        manifest("Role", "makespan-gateway"),
        manifest("RoleBinding", "makespan-gateway"),
    )
    assert role["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }
    ]
    account = manifest("ServiceAccount", pod(*GATEWAY)["serviceAccountName"])["metadata"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]


@workloads
def test_pod_may_finish_draining(kind: str, name: str) -> None:
    hook = only_container(manifest(kind, name)).get("lifecycle", {}).get("preStop", {})
    before_s = hook.get("sleep", {}).get("seconds", 0)
    drain_s = int(environment(name)["MAKESPAN_DRAIN_S"])
    assert pod(kind, name)["terminationGracePeriodSeconds"] > before_s + drain_s


def test_an_agent_serves_on_until_the_gateways_have_heard_that_it_goes() -> None:
    assert only_container(manifest(*AGENT))["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5


@workloads
def test_pod_keeps_to_restricted_pod_security(kind: str, name: str) -> None:
    ((_, user),) = [found for found in dockerfile() if found[0] == "USER"]
    uid, gid = map(int, user.split(":"))
    assert pod(kind, name)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": gid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert only_container(manifest(kind, name))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@workloads
def test_only_the_gateway_holds_a_token_and_nobody_service_links(kind: str, name: str) -> None:
    spec = pod(kind, name)
    account = manifest("ServiceAccount", spec["serviceAccountName"])
    assert spec["automountServiceAccountToken"] is ((kind, name) == GATEWAY)
    assert account["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False


@workloads
def test_resources_are_requested_and_limited(kind: str, name: str) -> None:
    resources = only_container(manifest(kind, name))["resources"]
    assert resources.keys() == {"requests", "limits"}
    assert all(amounts.keys() == {"cpu", "memory"} for amounts in resources.values())


@workloads
def test_replicas_spread_over_nodes(kind: str, name: str) -> None:
    (spread,) = pod(kind, name)["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"] == manifest(kind, name)["spec"]["selector"]
