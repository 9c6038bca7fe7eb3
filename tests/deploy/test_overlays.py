"""Every overlay, as it is rendered: valid, complete, and its parts fit each other."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from router.settings.agent import AgentSettings
from router.settings.base import Settings
from router.settings.commands import known_environment, load
from router.settings.gateway import GatewaySettings
from tests.deploy.overlays import (
    config,
    containers,
    engine,
    named,
    of_kind,
    pod,
    port_names,
    selected,
    workloads,
)
from tests.deploy.support import (
    ROOT,
    dockerfile,
    python_tool,
    rendered,
    run,
    version,
)
from tests.deploy.test_settings import in_image

BASE = {
    "Namespace": 1,
    "ServiceAccount": 2,
    "Role": 1,
    "RoleBinding": 1,
    "ConfigMap": 2,
    "Service": 2,
    "Deployment": 1,
    "StatefulSet": 1,
}
PRODUCTION = BASE | {
    "HorizontalPodAutoscaler": 2,
    "NetworkPolicy": 4,
    "PodDisruptionBudget": 2,
    "PodMonitor": 2,
    "PriorityClass": 2,
}
KINDS = {
    "dev": BASE,
    "vllm": BASE,
    "production": PRODUCTION,
    "production-keda": PRODUCTION | {"HorizontalPodAutoscaler": 1, "ScaledObject": 1},
}
# Their schemas are their projects'; what we rely on is checked below.
CUSTOM = frozenset({"PodMonitor", "ScaledObject"})

overlays = pytest.mark.parametrize("overlay", KINDS)
with_engines = pytest.mark.parametrize("overlay", ["vllm", "production", "production-keda"])


def test_every_overlay_is_looked_at() -> None:
    assert {folder.name for folder in (ROOT / "deploy" / "overlays").iterdir()} == set(KINDS)


@overlays
def test_kinds(overlay: str) -> None:
    found = Counter(each["kind"] for each in rendered(f"deploy/overlays/{overlay}"))
    assert found == KINDS[overlay]


@overlays
def test_manifests_are_valid(overlay: str, tmp_path: Path) -> None:
    known = [m for m in rendered(f"deploy/overlays/{overlay}") if m["kind"] not in CUSTOM]
    path = tmp_path / "rendered.yaml"
    path.write_text(yaml.safe_dump_all(known))
    said = run(python_tool("kubernetes-validate"), "--strict", "-k", "1.35", path)
    assert said.count(" passed ") == len(known) >= 9


@overlays
def test_all_is_in_one_namespace(overlay: str) -> None:
    cluster_wide = ("Namespace", "PriorityClass")
    for found in rendered(f"deploy/overlays/{overlay}"):
        expected = None if found["kind"] in cluster_wide else "makespan"
        assert found["metadata"].get("namespace") == expected, found["metadata"]["name"]


@overlays
def test_selectors_find_the_pods_of_their_name(overlay: str) -> None:
    for found in of_kind(overlay, "Service", "PodDisruptionBudget", "PodMonitor"):
        spec = found["spec"]
        assert selected(overlay, spec["selector"]) == {found["metadata"]["name"]}
    for name, workload in workloads(overlay).items():
        assert selected(overlay, workload["spec"]["selector"]) == {name}
        for term in named(pod(workload), "labelSelector"):
            assert selected(overlay, term) == {name}


@overlays
def test_ports_have_names_that_the_pods_know(overlay: str) -> None:
    for service in of_kind(overlay, "Service"):
        known = port_names(overlay, {service["metadata"]["name"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= known
    for workload in workloads(overlay).values():
        for container in containers(workload):
            known = {port["name"] for port in container["ports"]}
            assert {probe["port"] for probe in named(container, "httpGet")} <= known


@overlays
def test_pods_may_finish_draining(overlay: str) -> None:
    for workload in workloads(overlay).values():
        (main,) = pod(workload)["containers"]
        before_s = sum(named(main.get("lifecycle", {}), "seconds"))
        drain_s = int(config(overlay, workload)["MAKESPAN_DRAIN_S"])
        assert pod(workload)["terminationGracePeriodSeconds"] > before_s + drain_s


@overlays
def test_the_gateway_finds_however_many_agents_there_are(overlay: str) -> None:
    gateway = workloads(overlay)["makespan-gateway"]
    (service,) = [
        s for s in of_kind(overlay, "Service") if s["metadata"]["name"] == "makespan-agent"
    ]
    (port,) = service["spec"]["ports"]
    assert config(overlay, gateway)["MAKESPAN_WORKER"] == (
        f"kubernetes:///makespan-agent:{port['name']}"
    )
    (binding,), (role,) = of_kind(overlay, "RoleBinding"), of_kind(overlay, "Role")
    account = {"kind": "ServiceAccount", "name": pod(gateway)["serviceAccountName"]}
    assert binding["subjects"] == [{**account, "namespace": "makespan"}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


@overlays
def test_only_the_gateway_holds_a_token(overlay: str) -> None:
    tokens = {
        name: pod(workload)["automountServiceAccountToken"]
        for name, workload in workloads(overlay).items()
    }
    assert tokens == {"makespan-gateway": True, "makespan-agent": False}
    for account in of_kind(overlay, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@overlays
def test_processes_start_with_their_settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: dict[str, type[Settings]] = {
        "makespan-gateway": GatewaySettings,
        "makespan-agent": AgentSettings,
    }
    for name, workload in workloads(overlay).items():
        for variable in [v for v in os.environ if v.startswith("MAKESPAN_")]:
            monkeypatch.delenv(variable)
        given = in_image() | config(overlay, workload)
        assert set(given) <= known_environment()
        for variable, value in given.items():
            monkeypatch.setenv(variable, value)
        load(commands[name], [])
        (main,) = pod(workload)["containers"]
        assert main["image"] == f"makespan:{version()}"
        assert [str(port["containerPort"]) for port in main["ports"]] == [given["MAKESPAN_PORT"]]


@overlays
def test_pods_keep_to_restricted_pod_security(overlay: str) -> None:
    for workload in workloads(overlay).values():
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True
        user = f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
        assert ("USER", user) in dockerfile()
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all({"name", "emptyDir"} == set(volume) for volume in spec.get("volumes", []))
        for container in containers(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@overlays
def test_every_container_is_probed_and_bounded(overlay: str) -> None:
    for workload in workloads(overlay).values():
        for container in containers(workload):
            assert {"startupProbe", "livenessProbe"} <= container.keys()
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        (main,) = pod(workload)["containers"]
        assert main["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}


@overlays
def test_what_is_referred_to_is_there(overlay: str) -> None:
    names = {kind: {m["metadata"]["name"] for m in of_kind(overlay, kind)} for kind in (
        "ConfigMap", "PriorityClass", "ServiceAccount")}  # fmt: skip
    for workload in workloads(overlay).values():
        spec = pod(workload)
        maps = [*named(spec, "configMapRef"), *named(spec, "configMapKeyRef")]
        assert {each["name"] for each in maps} <= names["ConfigMap"]
        assert set(named(spec, "priorityClassName")) <= names["PriorityClass"]
        assert spec["serviceAccountName"] in names["ServiceAccount"]
        claims = workload["spec"].get("volumeClaimTemplates", [])
        volumes = {each["name"] for each in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        mounted = {mount["name"] for mounts in named(spec, "volumeMounts") for mount in mounts}
        assert mounted == volumes
        assert all(each.get("optional") for each in named(spec, "secretKeyRef"))


@with_engines
def test_the_engine_outlives_its_agent(overlay: str) -> None:
    """A container that starts before the others and ends after them: the agent drains into it."""
    vllm = engine(overlay)
    assert vllm["restartPolicy"] == "Always"
    probe = vllm["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 900, "models take long to load"


@with_engines
def test_agent_and_engine_mean_the_same(overlay: str) -> None:
    vllm, agent = engine(overlay), config(overlay, workloads(overlay)["makespan-agent"])
    (port,) = vllm["ports"]
    assert agent["MAKESPAN_ENGINE"] == "openai"
    assert agent["MAKESPAN_UPSTREAM"] == f"http://127.0.0.1:{port['containerPort']}"
    assert f"--port={port['containerPort']}" in vllm["args"]
    used = set(re.findall(r"\$\((\w+)\)", " ".join(vllm["args"])))
    shared = {v["name"]: v["valueFrom"]["configMapKeyRef"]["key"] for v in vllm["env"] if
              "configMapKeyRef" in v.get("valueFrom", {})}  # fmt: skip
    assert used == {"MAKESPAN_MODEL", "MAKESPAN_MAX_MODEL_LEN", "MAKESPAN_SLOTS"}
    assert shared == {name: name for name in used}
    assert used <= agent.keys()


@with_engines
def test_a_gpu_for_each_engine(overlay: str) -> None:
    resources = engine(overlay)["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"]
    (toleration,) = pod(workloads(overlay)["makespan-agent"])["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"


@with_engines
def test_the_engine_writes_to_volumes_only(overlay: str) -> None:
    mounts = {mount["mountPath"] for mount in engine(overlay)["volumeMounts"]}
    homes = [v["value"] for v in engine(overlay)["env"] if v.get("value", "").startswith("/")]
    assert len(homes) >= 4
    assert all(any(f"{home}/".startswith(f"{path}/") for path in mounts) for home in homes)
    assert mounts >= {"/tmp", "/dev/shm"}


def test_dev_needs_no_gpu() -> None:
    for workload in workloads("dev").values():
        assert len(containers(workload)) == 1
        assert "nvidia.com/gpu" not in containers(workload)[0]["resources"]["limits"]
    assert workloads("dev")["makespan-gateway"]["spec"]["replicas"] == 1
