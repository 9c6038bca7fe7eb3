"""A real Prometheus that scrapes a real fleet, asked over its HTTP interface."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import http
from tests.deploy.support import ROOT, debian_tool
from tests.helpers import Fleet
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, eventually


@dataclass(frozen=True)
class Prometheus:
    """Where it answers."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401
        """The answer's data, whatever it is.

        Raises:
            AssertionError: if it refuses.
        """
        answer = http.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """The numbers that it gives now."""
        data = self.ask("query", query=expression)
        rows = [data["result"]] if data["resultType"] == "scalar" else data["result"]
        found = [row if data["resultType"] == "scalar" else row["value"] for row in rows]
        return [float(text) for _, text in found if not math.isnan(float(text))]

    def labels(self, metric: str, label: str) -> list[str]:
        """The values that a label of a metric has."""
        values: list[str] = self.ask(f"label/{label}/values", **{"match[]": metric})
        return values


@contextmanager
def prometheus(fleet: Fleet, folder: Path) -> Iterator[Prometheus]:
    """One that scrapes the fleet as `deploy/prometheus/up.yml` says, but often."""
    command = debian_tool("prometheus", "prometheus")
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(_config(fleet)))
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                command,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        ready = url + "/-/ready"
        eventually(lambda: process.poll() is not None or http.is_well(ready), "Prometheus is ready")
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _config(fleet: Fleet) -> dict[str, Any]:
    """The file with this fleet's addresses instead of the usual ports."""
    path = ROOT / "deploy/prometheus/up.yml"
    usual = ["127.0.0.1:8000", *(f"127.0.0.1:{8100 + k}" for k in range(len(fleet.agents)))]
    text = path.read_text()
    for address, url in zip(usual, (fleet.url, *fleet.agents), strict=True):
        assert address in text
        text = text.replace(address, url.removeprefix("http://"))
    config: dict[str, Any] = yaml.safe_load(text)
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [str(path.parent / name) for name in config["rule_files"]]
    return config
