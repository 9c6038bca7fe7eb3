"""The rules for Prometheus: valid, tested both ways, each alert with its place in a page."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.support import ROOT, Parsed, debian_tool, run

RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
PAGE = "deploy/README.md"
TEXT = (ROOT / PAGE).read_text()
UNIT_TESTS = sorted((ROOT / "tests/deploy/rules").glob("*.yml"))


def rules(kind: str) -> list[Parsed]:
    """All rules that `record` or `alert`."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def unit_tests() -> list[dict[str, Any]]:
    """What is expected of alerts, wherever it is."""
    files = [yaml.safe_load(path.read_text()) for path in UNIT_TESTS]
    cases = [case for file in files for case in file["tests"]]
    return [expected for case in cases for expected in case["alert_rule_test"]]


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


alerts = pytest.mark.parametrize("alert", rules("alert"), ids=lambda alert: alert["alert"])


@pytest.mark.parametrize("name", ["prometheus.yml", "up.yml"])
def test_prometheus_accepts_its_configuration(name: str) -> None:
    promtool = debian_tool("promtool", "prometheus")
    said = run(promtool, "check", "config", f"deploy/prometheus/{name}")
    assert f"{len(RULES)} rule files found" in said


def test_promtool_has_nothing_to_say_about_the_rules() -> None:
    promtool = debian_tool("promtool", "prometheus")
    said = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert re.findall(r"SUCCESS: (\d+) rules", said)
    assert sum(map(int, re.findall(r"(\d+) rules", said))) == len(rules("expr"))


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_rules_say_what_they_should(path: Path) -> None:
    run(debian_tool("promtool", "prometheus"), "test", "rules", path)


@alerts
def test_alert_is_tested_both_ways(alert: Parsed) -> None:
    cases = [case for case in unit_tests() if case["alertname"] == alert["alert"]]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@alerts
def test_alert_tells_what_to_do(alert: Parsed) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    _, _, troubleshooting = TEXT.partition("\n## Troubleshooting\n")
    headings = re.findall(r"^### (.+)$", troubleshooting.partition("\n## ")[0], re.MULTILINE)
    file, _, part = alert["annotations"]["runbook_url"].partition("#")
    assert file == PAGE
    assert part in map(anchor, headings)


def test_a_rule_file_is_the_spec_of_a_prometheus_rule(tmp_path: Path) -> None:
    """As the page makes one for the Prometheus operator."""
    command = re.search(
        r"^ +(for file in deploy/prometheus/rules.*? done)", TEXT, re.DOTALL | re.MULTILINE
    )
    assert command
    run("sh", "-c", f"{{ {command[1]}; }} > {tmp_path / 'rules.yml'}")
    objects = list(yaml.safe_load_all((tmp_path / "rules.yml").read_text()))
    assert [each["kind"] for each in objects] == ["PrometheusRule"] * len(RULES)
    assert [each["spec"] for each in objects] == [yaml.safe_load(p.read_text()) for p in RULES]
