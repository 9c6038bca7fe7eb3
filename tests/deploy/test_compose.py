import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.support import ROOT, compose, python_tool, run, version

OURS = ["gateway", "agent-1", "agent-2"]
OTHERS = ["prometheus", "grafana"]


def address(service: str) -> str:
    return f"{service}:{compose()[service]['environment']['MAKESPAN_PORT']}"


def mounted(service: str, place: str) -> Path:
    """The folder of the checkout that a service sees at `place`."""
    volumes: list[str] = compose()[service]["volumes"]
    parts = (volume.split(":") for volume in volumes)
    return next(ROOT / source for source, target, *_ in parts if target == place)


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


def test_services() -> None:
    assert list(compose()) == [*OURS, *OTHERS]


def test_prometheus_scrapes_every_process() -> None:
    jobs = scraped()
    assert jobs["makespan-gateway"] == [address("gateway")]
    assert jobs["makespan-agent"] == [address("agent-1"), address("agent-2")]


def test_the_gateway_knows_every_agent() -> None:
    workers = compose()["gateway"]["environment"]["MAKESPAN_WORKER"].split(",")
    assert workers == [f"http://{address('agent-1')}", f"http://{address('agent-2')}"]


@pytest.mark.parametrize("service", [*OURS, *OTHERS])
def test_service_is_hardened(service: str) -> None:
    settings = compose()[service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", [*OURS, *OTHERS])
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


@pytest.mark.parametrize("service", OTHERS)
def test_image_of_others_is_pinned_to_a_release(service: str) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", compose()[service]["image"])


@pytest.mark.parametrize("service", OTHERS)
def test_what_is_mounted_exists_and_stays_as_it_is(service: str) -> None:
    parts = [volume.split(":") for volume in compose()[service]["volumes"]]
    for source, _, mode in [mount for mount in parts if mount[0].startswith(".")]:
        assert (ROOT / source).is_dir()
        assert mode == "ro"


def test_prometheus_finds_its_configuration_and_rules() -> None:
    folder = mounted("prometheus", "/etc/prometheus")
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    (pattern,) = config["rule_files"]
    assert {path.name for path in folder.glob(pattern)} == {"alerts.yml", "recording.yml"}


def test_agents_are_scraped_under_the_names_that_gateways_know() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "makespan-agent")
    (relabel,) = job["relabel_configs"]
    assert (relabel["source_labels"], relabel["target_label"]) == (["__address__"], "worker")
    for service in OURS[1:]:
        matched = re.fullmatch(relabel["regex"], address(service))
        assert matched
        assert matched[1] == compose()[service]["environment"]["MAKESPAN_NAME"]


def test_grafana_asks_that_prometheus() -> None:
    folder = mounted("grafana", "/etc/grafana/provisioning")
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    (own,) = scraped()["prometheus"]
    assert (source["type"], source["url"]) == ("prometheus", f"http://{own}")
    assert source["isDefault"] is True
    interval = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == interval["scrape_interval"]


def test_grafana_has_the_dashboard_and_opens_it() -> None:
    folder = mounted("grafana", "/etc/grafana/provisioning")
    (found,) = yaml.safe_load((folder / "dashboards/makespan.yml").read_text())["providers"]
    home = compose()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    place, _, name = home.rpartition("/")
    assert found["options"]["path"] == place
    assert (mounted("grafana", place) / name).is_file()


def test_nobody_can_do_more_in_grafana_than_look() -> None:
    settings = compose()["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"
    assert settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
