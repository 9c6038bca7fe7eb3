import re
from typing import Any

import pytest
import yaml

from .support import ROOT, compose, debian_tool, python_tool, run, version

OURS = ["gateway", "agent-1", "agent-2"]


def address(service: str) -> str:
    return f"{service}:{compose()[service]['environment']['MAKESPAN_PORT']}"


def seconds(text: str) -> int:
    matched = re.fullmatch(r"(\d+)s", text)
    assert matched
    return int(matched[1])


def scraped() -> dict[str, list[str]]:
    """The targets of each job."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs: list[dict[str, Any]] = config["scrape_configs"]
    return {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}


def test_compose_file_is_valid() -> None:
    schema = "vendor.compose-spec"
    run(python_tool("check-jsonschema"), "--builtin-schema", schema, "docker-compose.yml")


def test_prometheus_accepts_its_configuration() -> None:
    promtool = debian_tool("promtool", "prometheus")
    assert "SUCCESS" in run(promtool, "check", "config", "deploy/prometheus/prometheus.yml")


def test_services() -> None:
    assert list(compose()) == [*OURS, "prometheus"]


def test_prometheus_scrapes_every_process() -> None:
    jobs = scraped()
    assert jobs["makespan-gateway"] == [address("gateway")]
    assert jobs["makespan-agent"] == [address("agent-1"), address("agent-2")]


def test_the_gateway_knows_every_agent() -> None:
    workers = compose()["gateway"]["environment"]["MAKESPAN_WORKER"].split(",")
    assert workers == [f"http://{address('agent-1')}", f"http://{address('agent-2')}"]


@pytest.mark.parametrize("service", [*OURS, "prometheus"])
def test_service_is_hardened(service: str) -> None:
    settings = compose()[service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", [*OURS, "prometheus"])
def test_ports_are_published_to_this_machine_only(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in compose()[service].get("ports", []))


@pytest.mark.parametrize("service", OURS)
def test_service_may_finish_draining(service: str) -> None:
    settings = compose()[service]
    drain_s = int(settings["environment"]["MAKESPAN_DRAIN_S"])
    assert seconds(settings["stop_grace_period"]) > drain_s


@pytest.mark.parametrize("service", OURS)
def test_image_is_built_from_this_version(service: str) -> None:
    settings = compose()[service]
    assert (settings["image"], settings["build"]) == (f"makespan:{version()}", ".")


def test_prometheus_is_pinned_to_a_release() -> None:
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", compose()["prometheus"]["image"])
