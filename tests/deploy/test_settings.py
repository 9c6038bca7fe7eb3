"""What the files set is what the processes read."""

import os
import re
from collections.abc import Callable
from itertools import chain

import pytest

from router.settings.agent import AgentSettings
from router.settings.commands import known_environment, load
from router.settings.gateway import GatewaySettings
from tests.deploy.support import (
    compose,
    dockerfile,
    manifest,
    manifests,
    only_container,
)


def in_image() -> dict[str, str]:
    values = " ".join(text for name, text in dockerfile() if name == "ENV")
    return dict(re.findall(r"(MAKESPAN_\w+)=(\S+)", values))


def in_compose(service: str) -> dict[str, str]:
    return {**in_image(), **compose()[service]["environment"]}


def in_kubernetes(kind: str, name: str) -> dict[str, str]:
    """As the first pod sees it."""
    container = only_container(manifest(kind, name))
    own = {variable["name"]: f"{name}-0" for variable in container.get("env", [])}
    return {**in_image(), **manifest("ConfigMap", name)["data"], **own}


def compose_gateway() -> dict[str, str]:
    return in_compose("gateway")


def compose_agent() -> dict[str, str]:
    return in_compose("agent-1")


def kubernetes_gateway() -> dict[str, str]:
    return in_kubernetes("Deployment", "makespan-gateway")


def kubernetes_agent() -> dict[str, str]:
    return in_kubernetes("StatefulSet", "makespan-agent")


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing is set for us yet."""
    for name in [name for name in os.environ if name.startswith("MAKESPAN_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "workers"), [(compose_gateway, 2), (kubernetes_gateway, 1)]
)
def test_a_gateway_starts_with_it(
    environment: Callable[[], dict[str, str]], workers: int, process: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        process.setenv(name, value)
    settings = load(GatewaySettings, [])
    assert (settings.host, settings.port, len(settings.worker)) == ("0.0.0.0", 8000, workers)


@pytest.mark.parametrize(
    ("environment", "name"),
    [(compose_agent, "agent-1"), (kubernetes_agent, "makespan-agent-0")],
)
def test_an_agent_starts_with_it(
    environment: Callable[[], dict[str, str]], name: str, process: pytest.MonkeyPatch
) -> None:
    for variable, value in environment().items():
        process.setenv(variable, value)
    settings = load(AgentSettings, [])
    assert (settings.host, settings.port, settings.name) == ("0.0.0.0", 8100, name)


def test_every_variable_is_a_setting() -> None:
    (check,) = (text for name, text in dockerfile() if name == "HEALTHCHECK")
    ours = (service for service in compose().values() if "build" in service)
    services = (service["environment"] for service in ours)
    maps = (found["data"] for found in manifests() if found["kind"] == "ConfigMap")
    used = {*re.findall(r"MAKESPAN_\w+", check), *chain(*services), *chain(*maps), *in_image()}
    assert used
    assert used <= known_environment()
