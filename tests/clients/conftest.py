"""A gateway and two agents that clients of all kinds meet, and the clients' own environments."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.support import debian_tool
from tests.helpers import ROOT, Fleet

NODE = Path(__file__).with_name("node")


@pytest.fixture(scope="package")
def fleet() -> Iterator[Fleet]:
    with Fleet("--faults", "--max-body-bytes", "1000000") as running:
        yield running


def all_up(fleet: Fleet) -> bool:
    """Whether every agent serves, those that a test has made crash included."""
    return all(row["up"] for row in fleet.get("/makespan/v1/workers").json()["workers"])


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Node and a folder with its packages, as the lock file names them."""
    command, npm = debian_tool("node", "nodejs"), debian_tool("npm", "npm")
    folder = tmp_path_factory.mktemp("node") / "clients"
    shutil.copytree(NODE, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return command, folder


@pytest.fixture(scope="session")
def clients() -> Path:
    """The commands of clients for Python that have an environment of their own.

    Locust's pytest plug-in would patch ours, and LangChain brings what nothing else here needs.
    """
    folder = ROOT / ".venv" / "clients" / "bin"
    if not (folder / "locust").exists():
        missing = "clients are not installed: make .venv/.clients"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return folder
