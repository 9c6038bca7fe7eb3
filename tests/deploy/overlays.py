"""Ways to look into an overlay as it is rendered."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.deploy.support import Parsed, rendered


def of_kind(overlay: str, *kinds: str) -> list[Parsed]:
    return [found for found in rendered(f"deploy/overlays/{overlay}") if found["kind"] in kinds]


def workloads(overlay: str) -> dict[str, Parsed]:
    found = of_kind(overlay, "Deployment", "StatefulSet")
    return {workload["metadata"]["name"]: workload for workload in found}


def pod(workload: Parsed) -> Parsed:
    spec: Parsed = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Parsed) -> list[Parsed]:
    return [*pod(workload)["containers"], *pod(workload).get("initContainers", [])]


def engine(overlay: str) -> Parsed:
    (found,) = pod(workloads(overlay)["makespan-agent"])["initContainers"]
    assert isinstance(found, dict)
    return found


def config(overlay: str, workload: Parsed) -> dict[str, str]:
    """The data of the map that the workload's own container takes its settings from."""
    (main,) = pod(workload)["containers"]
    (source,) = main["envFrom"]
    (found,) = [
        m
        for m in of_kind(overlay, "ConfigMap")
        if m["metadata"]["name"] == source["configMapRef"]["name"]
    ]
    data: dict[str, str] = found["data"]
    return data


def selected(overlay: str, selector: Mapping[str, Any]) -> set[str]:
    """The workloads whose pods have the labels."""
    wanted = selector.get("matchLabels", selector)
    assert wanted
    return {
        name
        for name, workload in workloads(overlay).items()
        if wanted.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    }


def port_names(overlay: str, names: set[str]) -> set[str]:
    found = [containers(workloads(overlay)[name]) for name in names]
    return {port["name"] for each in found for c in each for port in c["ports"]}


def named(value: object, key: str) -> Iterator[Any]:
    """All that is called `key`, anywhere within."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from named(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from named(inner, key)
